//! Events from a topic until they are in every view and committed to the history; against a bare loop that consumes the same
//! records with librdkafka and decodes them with arrow-json. Then a burst of ten times the usual rate: how far the platform
//! falls behind, for how long, and what memory that takes. Needs a real broker, which it starts.

use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use arrow::json::ReaderBuilder;
use rdkafka::consumer::{BaseConsumer, Consumer as _};
use rdkafka::message::Message as _;
use rdkafka::producer::{BaseProducer, BaseRecord, Producer as _};
use rdkafka::{ClientConfig, Offset, TopicPartitionList};
use watershed_shared::definition::Statement;
use watershed_shared::source::SourceDefinition;

use self::broker::{Broker, TIMEOUT};
use crate::flights::{self, Body, Running, SOURCE, VIEWS};
use crate::memory::Memory;
use crate::{Measurement, Sides};

#[expect(dead_code, reason = "tests do more to a broker")]
#[path = "../../tests/kafka/broker.rs"]
mod broker;

const PARTITIONS: u32 = 8;
const EVENTS: usize = 1_000_000;
const TURNS: usize = 5;
/// Events a second, usually and in the burst.
const RATE: usize = 20_000;
const BURST_FACTOR: usize = 10;
const BURST_SECONDS: u64 = 5;

pub(crate) async fn run() -> Result<()> {
    let source = flights::source()?;
    let events = flights::events(&source)?;
    let bodies = flights::bodies(&events, 1)?;
    let bodies: Vec<Body> = bodies.iter().cycle().take(EVENTS).cloned().collect();
    let broker = Broker::start()?;
    fill(&broker, "flights", &bodies)?;
    println!("\nkafka: events a second from a topic, visible and in the history; ratio to the bare loop");
    let mut sides = Sides::default();
    for _ in 0..TURNS {
        sides.note("bare loop: librdkafka, arrow-json", bare(&source, &broker).await?);
        sides.note("3 views", platform(&broker, &VIEWS[..]).await?);
        sides.note("1 view", platform(&broker, &VIEWS[..1]).await?);
        sides.note("no view", platform(&broker, &[]).await?);
    }
    sides.print_rates();
    burst(&broker, &bodies).await
}

async fn bare(source: &SourceDefinition, broker: &Broker) -> Result<Measurement> {
    let (columns, address) = (Arc::clone(&source.columns), broker.address.clone());
    Measurement::of(EVENTS, async {
        let consume = move || -> Result<()> {
            let mut config = ClientConfig::new();
            config.set("bootstrap.servers", address).set("group.id", "bare").set("enable.auto.commit", "false");
            let consumer: BaseConsumer = config.create()?;
            let mut partitions = TopicPartitionList::new();
            partitions.add_partition_range("flights", 0, PARTITIONS as i32 - 1);
            partitions.set_all_offsets(Offset::Beginning)?;
            consumer.assign(&partitions)?;
            let mut decoder = ReaderBuilder::new(columns).with_batch_size(8192).build_decoder()?;
            let (mut records, mut rows) = (0, 0);
            while records < EVENTS {
                let record = consumer.poll(TIMEOUT).context("no record comes")??;
                decoder.decode(record.payload().unwrap_or_default())?;
                records += 1;
                if records % 8192 == 0 || records == EVENTS {
                    rows += decoder.flush()?.map_or(0, |batch| batch.num_rows());
                }
            }
            ensure!(rows == EVENTS, "decoded {rows} of {EVENTS} events");
            Ok(())
        };
        tokio::task::spawn_blocking(consume).await?
    })
    .await
}

async fn platform(broker: &Broker, views: &[&str]) -> Result<Measurement> {
    let statements = over_topic(flights::definitions(views, "")?, broker, "flights")?;
    let mut running = None;
    let measured = Measurement::of(EVENTS, async {
        let running = running.insert(Running::open(statements).await?);
        running.archive().await?;
        let read = running.platform.archive(SOURCE).await?.events();
        ensure!(read == EVENTS as u64, "the history has {read} of {EVENTS} events");
        Ok(())
    });
    let measured = measured.await?;
    if let Some(running) = running {
        running.platform.stop().await;
    }
    Ok(measured)
}

/// The example's statements with its source over a topic.
fn over_topic(mut statements: Vec<Statement>, broker: &Broker, topic: &str) -> Result<Vec<Statement>> {
    for statement in &mut statements {
        if let Statement::Source(source) = statement {
            let sql = sql_over_topic(&source.sql, broker, topic)?;
            *statement = watershed_shared::definition::parse_definitions(&sql)?.pop().context("no source")?;
        }
    }
    Ok(statements)
}

fn sql_over_topic(sql: &str, broker: &Broker, topic: &str) -> Result<String> {
    let (columns, _) = sql.split_once(") WITH (").context("the example's source has no options")?;
    Ok(format!("{columns}) WITH (connector = 'kafka', brokers = '{}', topic = '{topic}');", broker.address))
}

/// The platform as a process of its own, at the usual rate, in a burst, and afterwards.
async fn burst(broker: &Broker, bodies: &[Body]) -> Result<()> {
    let folder = crate::folder()?;
    let example = std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("examples/flights/flights.sql"))?;
    let (source, views) = example.split_once(';').context("the example has no views")?;
    std::fs::write(folder.path().join("watershed.toml"), "")?;
    std::fs::write(folder.path().join("flights.sql"), sql_over_topic(source, broker, "burst")? + views)?;
    broker.create_topic("burst", PARTITIONS)?;
    let mut process = Process::start(folder.path())?;
    let burst_rate = RATE * BURST_FACTOR;
    println!("  a burst of {burst_rate} events/s for {BURST_SECONDS} s after {RATE} events/s; the platform's process:");
    let producer = broker.producer(None)?;
    let mut next = bodies.iter().cycle();
    let mut peak_lag = 0;
    for (rate, seconds) in [(RATE, 5), (burst_rate, BURST_SECONDS)] {
        for _ in 0..seconds * 10 {
            let started = Instant::now();
            for body in next.by_ref().take(rate / 10) {
                send(&producer, "burst", body)?;
            }
            peak_lag = peak_lag.max(process.lag().await?);
            tokio::time::sleep(Duration::from_millis(100).saturating_sub(started.elapsed())).await;
        }
    }
    producer.flush(TIMEOUT)?;
    let ended = Instant::now();
    let mut lag = process.lag().await?;
    while lag > 0 {
        peak_lag = peak_lag.max(lag);
        tokio::time::sleep(Duration::from_millis(20)).await;
        lag = process.lag().await?;
    }
    let memory = Memory::of(&process.child.id().to_string())?;
    println!(
        "  at most {peak_lag} events behind, none {:.2} s after the last record; resident at most {:.0} MiB",
        ended.elapsed().as_secs_f64(),
        memory.peak
    );
    process.child.kill()?;
    process.child.wait()?;
    Ok(())
}

/// Queues an event's record for any partition.
fn send(producer: &BaseProducer, topic: &str, body: &Body) -> Result<()> {
    broker::send(producer, BaseRecord::<[u8], [u8]>::to(topic).payload(body.json.trim_ascii_end()))
}

fn fill(broker: &Broker, topic: &str, bodies: &[Body]) -> Result<()> {
    broker.create_topic(topic, PARTITIONS)?;
    let producer = broker.producer(None)?;
    for body in bodies {
        send(&producer, topic, body)?;
    }
    Ok(producer.flush(TIMEOUT)?)
}

/// `watershed run`.
struct Process {
    child: Child,
    url: String,
}

impl Process {
    fn start(folder: &Path) -> Result<Process> {
        let mut command = Command::new(env!("CARGO_BIN_EXE_watershed"));
        command.arg("run").arg(folder).args(["--http", "127.0.0.1:0"]);
        let mut child = command.stdout(Stdio::piped()).stderr(Stdio::null()).spawn()?;
        let mut lines = BufReader::new(child.stdout.take().context("no output")?).lines();
        let line = lines.next().context("the process says nothing")??;
        let url = line.strip_prefix("listening on ").context("the process does not listen")?.to_owned();
        Ok(Process { child, url })
    }

    /// Events in the topic that the views do not show.
    async fn lag(&self) -> Result<u64> {
        let metrics = reqwest::get(format!("{}/metrics", self.url)).await?.text().await?;
        let lines = metrics.lines().filter(|line| line.starts_with("watershed_lag_events{source=\"flights\""));
        Ok(lines.filter_map(|line| line.rsplit(' ').next()?.parse::<u64>().ok()).sum())
    }
}
