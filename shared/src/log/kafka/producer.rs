//! Writes records to a source's own topic: events that clients send over HTTP.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use rdkafka::ClientContext;
use rdkafka::config::FromClientConfigAndContext as _;
use rdkafka::error::RDKafkaErrorCode;
use rdkafka::message::{DeliveryResult, Message as _};
use rdkafka::producer::{BaseRecord, ProducerContext, ThreadedProducer};
use tokio::sync::oneshot;

use super::client::{client_config, log_error, set_properties};
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
    producer: Arc<ThreadedProducer<Deliveries>>,
    record_bytes_max: usize,
}

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
        let producer = ThreadedProducer::from_config_and_context(&config, Deliveries);
        let producer = Arc::new(producer.map_err(|error| log_error(source, "open", &error))?);
        let record_bytes_max = options.properties.get("message.max.bytes").and_then(|value| value.parse().ok());
        Ok(TopicProducer {
            source: source.to_owned(),
            topic: options.topic.clone(),
            producer,
            record_bytes_max: record_bytes_max.unwrap_or(RECORD_BYTES_MAX),
        })
    }

    /// Writes records and returns when the brokers have all of them: the next offset of each partition written to; others
    /// are at 0. Equal keys go to equal partitions.
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
            position: Position::default(),
            left: records.len(),
            failure: None,
            done: Some(done),
        })));
        let (producer, topic) = (Arc::clone(&self.producer), self.topic.clone());
        let sent = blocking(move || send_all(&producer, &topic, &records, &request)).await;
        let failed = |reason: String| Error::Log { action: "append to", name: self.source.clone(), reason };
        sent.map_err(|error| failed(error.to_string()))?.map_err(failed)?;
        let undecided = |_| failed("the client has ended; some of the events may be in the topic".to_owned());
        delivered.await.map_err(undecided)?.map_err(failed)
    }
}

/// Hands records to the client, waiting while its queue is full.
fn send_all(
    producer: &ThreadedProducer<Deliveries>,
    topic: &str,
    records: &Records,
    request: &Arc<Request>,
) -> std::result::Result<(), String> {
    for (key, value) in records.iter() {
        let mut record = BaseRecord::<[u8], [u8], Arc<Request>>::with_opaque_to(topic, Arc::clone(request));
        (record.key, record.payload) = (key, value);
        let mut pauses = 0;
        while let Err((error, refused)) = producer.send(record) {
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
    position: Position,
    left: usize,
    failure: Option<String>,
    done: Option<oneshot::Sender<std::result::Result<Position, String>>>,
}

impl Request {
    fn progress(&self) -> MutexGuard<'_, Progress> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Hears of each record's delivery.
struct Deliveries;

impl ClientContext for Deliveries {}

impl ProducerContext for Deliveries {
    type DeliveryOpaque = Arc<Request>;

    fn delivery(&self, result: &DeliveryResult<'_>, request: Arc<Request>) {
        let mut progress = request.progress();
        progress.left -= 1;
        match result {
            Ok(record) => {
                let partition = PartitionId(record.partition().unsigned_abs());
                progress.position.raise(partition, Offset(record.offset().unsigned_abs()).advance(1));
            }
            Err((error, _)) => progress.failure = Some(in_part(&error.to_string())),
        }
        if progress.left == 0
            && let Some(done) = progress.done.take()
        {
            let outcome = match progress.failure.take() {
                Some(failure) => Err(failure),
                None => Ok(std::mem::take(&mut progress.position)),
            };
            // Whoever asked may be gone.
            let _ = done.send(outcome);
        }
    }
}
