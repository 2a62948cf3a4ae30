//! A broker of a test's own, and a producer to it.

use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use rdkafka::ClientConfig;
use rdkafka::consumer::{BaseConsumer, Consumer as _};
use rdkafka::message::ToBytes;
use rdkafka::producer::{BaseProducer, BaseRecord, Producer as _};
use tempfile::TempDir;
use watershed_shared::position::{Offset, PartitionId, Position};

/// How long the broker may take for anything.
pub(crate) const TIMEOUT: Duration = Duration::from_secs(60);

/// A real broker in a folder of its own, which ends with the test.
pub(crate) struct Broker {
    folder: TempDir,
    pub(crate) address: String,
}

impl Broker {
    /// Starts a broker. The first start on a machine downloads it.
    pub(crate) fn start() -> Result<Broker> {
        Broker::start_with(&[])
    }

    /// Starts a broker with further options.
    pub(crate) fn start_with(options: &[&str]) -> Result<Broker> {
        let folder = tempfile::tempdir()?;
        let address = start_in(folder.path(), options)?;
        Ok(Broker { folder, address })
    }

    /// Path of one of the broker's files.
    pub(crate) fn file(&self, name: &str) -> String {
        self.folder.path().join(name).display().to_string()
    }

    /// Runs a subcommand of `deploy/kafka/kafka` on this broker.
    pub(crate) fn command(&self, subcommand: &str, arguments: &[&str]) -> Result<String> {
        run("kafka", subcommand, self.folder.path(), arguments)
    }

    pub(crate) fn create_topic(&self, topic: &str, partitions: u32) -> Result<()> {
        let partitions = partitions.to_string();
        self.command("topics", &["--create", "--topic", topic, "--partitions", &partitions]).map(drop)
    }

    /// Deletes a partition's records below an offset, as retention does.
    pub(crate) fn delete_records(&self, topic: &str, partition: u32, before: u64) -> Result<()> {
        let file = self.folder.path().join("delete.json");
        let offsets = serde_json::json!([{"topic": topic, "partition": partition, "offset": before}]);
        std::fs::write(&file, serde_json::json!({"version": 1, "partitions": offsets}).to_string())?;
        self.command("delete-records", &["--offset-json-file", &file.to_string_lossy()]).map(drop)
    }

    /// Ends the broker as a crash does.
    pub(crate) fn kill(&self) -> Result<()> {
        self.command("kill", &[]).map(drop)
    }

    /// Starts the broker again, on the same data and at the same address.
    pub(crate) fn restart(&self) -> Result<()> {
        let address = start_in(self.folder.path(), &[])?;
        ensure!(address == self.address, "the broker is at {address} now, not at {}", self.address);
        Ok(())
    }

    /// A producer that writes each record once; transactional with a name.
    pub(crate) fn producer(&self, transactional_id: Option<&str>) -> Result<BaseProducer> {
        let mut config = ClientConfig::new();
        config.set("bootstrap.servers", &self.address).set("enable.idempotence", "true").set("linger.ms", "2");
        if let Some(id) = transactional_id {
            config.set("transactional.id", id);
        }
        let producer: BaseProducer = config.create()?;
        if transactional_id.is_some() {
            producer.init_transactions(TIMEOUT)?;
        }
        Ok(producer)
    }

    /// Where the partitions of a topic end.
    pub(crate) fn end(&self, topic: &str, partitions: u32) -> Result<Position> {
        let mut config = ClientConfig::new();
        config.set("bootstrap.servers", &self.address).set("isolation.level", "read_committed");
        let consumer: BaseConsumer = config.create()?;
        let end = |partition: u32| {
            let (_, end) = consumer.fetch_watermarks(topic, partition as i32, TIMEOUT)?;
            Ok(Offset(end.try_into()?))
        };
        Ok(Position::new((0..partitions).map(end).collect::<Result<_>>()?))
    }
}

impl Drop for Broker {
    fn drop(&mut self) {
        if let Err(error) = self.kill() {
            println!("the broker may still run: {error:#}");
        }
    }
}

/// Writes records to partitions in turn, and returns when the broker has them.
pub(crate) fn produce<V: ToBytes>(
    producer: &BaseProducer,
    topic: &str,
    partitions: u32,
    values: impl IntoIterator<Item = V>,
) -> Result<()> {
    for (index, value) in values.into_iter().enumerate() {
        let partition = PartitionId(index as u32 % partitions);
        send(producer, BaseRecord::<[u8], V>::to(topic).partition(partition.0 as i32).payload(&value))?;
    }
    Ok(producer.flush(TIMEOUT)?)
}

/// Queues a record, waiting while the queue is full.
pub(crate) fn send<K: ToBytes + ?Sized, V: ToBytes + ?Sized>(
    producer: &BaseProducer,
    mut record: BaseRecord<'_, K, V>,
) -> Result<()> {
    while let Err((error, refused)) = producer.send(record) {
        let is_full = error.rdkafka_error_code() == Some(rdkafka::types::RDKafkaErrorCode::QueueFull);
        ensure!(is_full, "cannot send a record: {error}");
        producer.poll(Duration::from_millis(10));
        record = refused;
    }
    Ok(())
}

fn start_in(folder: &Path, options: &[&str]) -> Result<String> {
    // A broker that was killed comes back at once, not after a session of nine seconds.
    let session = ["--property", "broker.session.timeout.ms=500", "--property", "broker.heartbeat.interval.ms=100"];
    let printed = run("kafka", "start", folder, &[&["--port", "free"], session.as_slice(), options].concat())?;
    Ok(printed.trim().to_owned())
}

/// Runs a subcommand of a script in `deploy/kafka` and gives what it printed.
pub(crate) fn run(script: &str, subcommand: &str, folder: &Path, arguments: &[&str]) -> Result<String> {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("deploy/kafka").join(script);
    let mut command = Command::new(&script);
    command.arg(subcommand).arg("--data").arg(folder).args(arguments).stdin(Stdio::null());
    let output = command.output().with_context(|| format!("cannot run {}", script.display()))?;
    let [stdout, stderr] = [&output.stdout, &output.stderr].map(|bytes| String::from_utf8_lossy(bytes).into_owned());
    ensure!(output.status.success(), "{} {subcommand} {}: {stdout}\n{stderr}", script.display(), arguments.join(" "));
    Ok(stdout)
}
