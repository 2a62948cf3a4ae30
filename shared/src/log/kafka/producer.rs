//! Writes records to a source's own topic: events that clients send over HTTP.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use rdkafka::ClientContext;
use rdkafka::config::{ClientConfig, FromClientConfigAndContext as _, RDKafkaLogLevel};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::message::{DeliveryResult, Message as _};
use rdkafka::producer::{BaseRecord, Producer as _, ProducerContext, ThreadedProducer};
use tokio::sync::oneshot;

use super::client::{Named, client_config, log_error, set_properties};
use super::topic::REQUEST_TIMEOUT;
use crate::cpu::blocking;
use crate::error::{Error, Result};
use crate::position::{Offset, PartitionId, Position};
use crate::sink::Records;
use crate::source::KafkaOptions;

/// How long brokers may take for a record before the request that brought it fails.
const DELIVERY_TIMEOUT_MS: &str = "30000";
/// Largest record that a client sends unless `message.max.bytes` says otherwise; brokers take about as much by default.
const RECORD_BYTES_MAX: usize = 1_000_000;
/// What a record takes besides key and value, at most.
const RECORD_OVERHEAD_BYTES: usize = 128;
/// Pause while the client's queue is full.
const FULL_PAUSE: Duration = Duration::from_millis(5);
const FULL_PAUSES_MAX: usize = 2_000;

/// Writes to one topic, for many requests at a time.
#[derive(Clone)]
pub struct TopicProducer {
    source: String,
    topic: String,
    config: ClientConfig,
    /// One at a time; a client that has failed for good is replaced by a new one.
    client: Arc<Mutex<Arc<Client>>>,
    record_bytes_max: usize,
}

type Client = ThreadedProducer<Deliveries>;

impl std::fmt::Debug for TopicProducer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("TopicProducer")
            .field("source", &self.source)
            .field("topic", &self.topic)
            .finish_non_exhaustive()
    }
}

impl TopicProducer {
    /// A producer that writes each record once and is answered when all replicas in sync have it (`acks=all`).
    ///
    /// # Errors
    /// `Log` when the client refuses its properties; `MissingVariable`.
    pub fn open(source: &str, options: &KafkaOptions) -> Result<TopicProducer> {
        let mut config = client_config(source, &options.brokers)?;
        config.set("linger.ms", "2").set("message.timeout.ms", DELIVERY_TIMEOUT_MS);
        config.set("partitioner", "murmur2_random").set("queue.buffering.max.kbytes", "65536");
        set_properties(&mut config, &options.properties)?;
        config.set("enable.idempotence", "true").set("acks", "all");
        let client = Mutex::new(open_client(source, &config)?);
        let record_bytes_max = options.properties.get("message.max.bytes").and_then(|value| value.parse().ok());
        Ok(TopicProducer {
            source: source.to_owned(),
            topic: options.topic.clone(),
            config,
            client: Arc::new(client),
            record_bytes_max: record_bytes_max.unwrap_or(RECORD_BYTES_MAX),
        })
    }

    /// Writes records and returns when the brokers have all of them: an offset of each partition written to that is behind
    /// them, as a rule the next; others are at 0. Equal keys go to equal partitions.
    ///
    /// # Errors
    /// `RecordTooLarge`, and nothing is written; `Log` when the brokers do not take all of them in time: some may be in the topic
    /// then.
    pub async fn write(&self, records: Records) -> Result<Position> {
        if records.is_empty() {
            return Ok(Position::default());
        }
        let bytes = |(key, value): (Option<&[u8]>, Option<&[u8]>)| {
            key.map_or(0, <[u8]>::len) + value.map_or(0, <[u8]>::len) + RECORD_OVERHEAD_BYTES
        };
        if let Some((row, bytes)) =
            records.iter().map(bytes).enumerate().find(|(_, bytes)| *bytes > self.record_bytes_max)
        {
            let (name, bytes_max) = (self.source.clone(), self.record_bytes_max);
            return Err(Error::RecordTooLarge { name, row, bytes, bytes_max });
        }
        let (done, delivered) = oneshot::channel();
        let request = Arc::new(Request(Mutex::new(Progress {
            delivered: Delivered::default(),
            left: records.len(),
            failure: None,
            done: Some(done),
        })));
        let (client, topic) = (self.working_client().await?, self.topic.clone());
        let sent = blocking(move || send_all(&client, &topic, &records, &request)).await;
        let failed = |reason: String| {
            let reason = match self.failure() {
                Some(failure) => format!("{failure}; {reason}; the next request has a new client"),
                None => reason,
            };
            Error::Log { action: "append to", name: self.source.clone(), reason }
        };
        sent.map_err(|error| failed(error.to_string()))?.map_err(failed)?;
        let undecided = |_| failed("the client has ended; some of the events may be in the topic".to_owned());
        let Delivered { mut position, unplaced } = delivered.await.map_err(undecided)?.map_err(failed)?;
        if !unplaced.is_empty() {
            let (client, topic) = (self.working_client().await?, self.topic.clone());
            let ends = move || unplaced.into_iter().map(|partition| end_of(&client, &topic, partition)).collect();
            let ends: std::result::Result<Vec<_>, String> =
                blocking(ends).await.map_err(|error| failed(error.to_string()))?;
            ends.map_err(failed)?.into_iter().for_each(|(partition, end)| position.raise(partition, end));
        }
        Ok(position)
    }

    /// Why the client will never send anything again.
    fn failure(&self) -> Option<String> {
        self.client().client().fatal_error().map(|(_, reason)| reason)
    }

    /// The client, or a new one if it has failed for good: what it was not allowed to do may be allowed now. To be let go
    /// where waiting is allowed: the last one who has a client waits for its end.
    async fn working_client(&self) -> Result<Arc<Client>> {
        if self.failure().is_none() {
            return Ok(Arc::clone(&self.client()));
        }
        let producer = self.clone();
        let opened = blocking(move || {
            let mut client = producer.client();
            let mut failed = None;
            if let Some((_, reason)) = client.client().fatal_error() {
                tracing::warn!(source = producer.source, reason, "opens a new client in place of one that has failed");
                failed = Some(std::mem::replace(&mut *client, open_client(&producer.source, &producer.config)?));
            }
            let working = Arc::clone(&client);
            drop(client);
            // Nobody shall wait for its end who only wants the new one.
            drop(failed);
            Ok(working)
        });
        opened.await.map_err(|error| {
            let reason = error.to_string();
            Error::Log { action: "append to", name: self.source.clone(), reason }
        })?
    }

    fn client(&self) -> MutexGuard<'_, Arc<Client>> {
        self.client.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn open_client(source: &str, config: &ClientConfig) -> Result<Arc<Client>> {
    let client = ThreadedProducer::from_config_and_context(config, Deliveries(Named { name: source.to_owned() }));
    client.map(Arc::new).map_err(|error| log_error(source, "open", &error))
}

/// The end of a partition in which records are somewhere.
fn end_of(client: &Client, topic: &str, partition: PartitionId) -> std::result::Result<(PartitionId, Offset), String> {
    let watermarks = client.client().fetch_watermarks(topic, partition.0 as i32, REQUEST_TIMEOUT);
    let (_, end) = watermarks.map_err(|error| {
        format!("the events are in the topic, but it is not known where: partition {partition}: {error}")
    })?;
    Ok((partition, Offset(end.try_into().unwrap_or_default())))
}

/// Hands records to the client, waiting while its queue is full.
fn send_all(
    client: &Client,
    topic: &str,
    records: &Records,
    request: &Arc<Request>,
) -> std::result::Result<(), String> {
    for (key, value) in records.iter() {
        let mut record = BaseRecord::<[u8], [u8], Arc<Request>>::with_opaque_to(topic, Arc::clone(request));
        (record.key, record.payload) = (key, value);
        let mut pauses = 0;
        while let Err((error, refused)) = client.send(record) {
            if error.rdkafka_error_code() != Some(RDKafkaErrorCode::QueueFull) || pauses == FULL_PAUSES_MAX {
                return Err(in_part(&error.to_string()));
            }
            pauses += 1;
            std::thread::sleep(FULL_PAUSE);
            record = refused;
        }
    }
    Ok(())
}

fn in_part(reason: &str) -> String {
    format!(
        "{reason}; some of the request's events may be in the topic, and would be there twice after another attempt"
    )
}

/// The records of one request that the brokers have not answered.
struct Request(Mutex<Progress>);

struct Progress {
    delivered: Delivered,
    left: usize,
    failure: Option<String>,
    done: Option<oneshot::Sender<std::result::Result<Delivered, String>>>,
}

/// Where records have come to.
#[derive(Default)]
struct Delivered {
    position: Position,
    /// Partitions that have records whose offsets were not told: a broker that recognizes a repeated batch as one that it has
    /// taken long ago does not say where.
    unplaced: BTreeSet<PartitionId>,
}

impl Request {
    fn progress(&self) -> MutexGuard<'_, Progress> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Hears of each record's delivery.
struct Deliveries(Named);

impl ClientContext for Deliveries {
    fn log(&self, level: RDKafkaLogLevel, facility: &str, message: &str) {
        self.0.log(level, facility, message);
    }

    fn error(&self, error: KafkaError, reason: &str) {
        self.0.error(error, reason);
    }
}

impl ProducerContext for Deliveries {
    type DeliveryOpaque = Arc<Request>;

    fn delivery(&self, result: &DeliveryResult<'_>, request: Arc<Request>) {
        let mut progress = request.progress();
        progress.left -= 1;
        match result {
            Ok(record) => {
                let partition = PartitionId(record.partition().unsigned_abs());
                let delivered = &mut progress.delivered;
                match u64::try_from(record.offset()) {
                    Ok(offset) => delivered.position.raise(partition, Offset(offset).advance(1)),
                    Err(_) => drop(delivered.unplaced.insert(partition)),
                }
            }
            Err((error, _)) => progress.failure = Some(in_part(&error.to_string())),
        }
        if progress.left == 0
            && let Some(done) = progress.done.take()
        {
            let outcome = match progress.failure.take() {
                Some(failure) => Err(failure),
                None => Ok(std::mem::take(&mut progress.delivered)),
            };
            // Whoever asked may be gone.
            let _ = done.send(outcome);
        }
    }
}
