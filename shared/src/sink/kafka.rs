//! A topic that records go to in transactions, each with the progress that they stand for.
//!
//! The progress is the metadata of an offset of a consumer group that nobody reads with: the one thing besides records that a
//! Kafka transaction can write, and it needs no topic of ours. So records and progress are there together or not at all, and
//! whoever opens the topic next sees which. See `docs/decisions/0013-sinks-commit-their-progress-with-their-records.md`.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use rdkafka::config::FromClientConfigAndContext as _;
use rdkafka::consumer::{BaseConsumer, Consumer as _};
use rdkafka::error::{KafkaError, KafkaResult, RDKafkaErrorCode};
use rdkafka::message::OwnedHeaders;
use rdkafka::metadata::Metadata;
use rdkafka::producer::{BaseProducer, BaseRecord, Producer as _};
use rdkafka::{ClientConfig, Offset, TopicPartitionList};

use super::Records;
use crate::error::{Error, Result};
use crate::log::kafka::client::{Named, client_config, reason_of, set_properties};

/// How long brokers may take for a step.
const TIMEOUT: Duration = Duration::from_secs(30);
/// How long a full queue is waited for before it is looked at again.
const POLL: Duration = Duration::from_millis(50);
/// How long the brokers let a transaction take, unless they are told otherwise; librdkafka's default.
const TRANSACTION_TIMEOUT: Duration = Duration::from_secs(60);
const ABORT_TIMEOUT: Duration = Duration::from_secs(5);
/// Longest metadata of one offset; brokers take 4 KiB by default (`offset.metadata.max.bytes`).
const METADATA_BYTES_MAX: usize = 3_500;

/// Who writes where in transactions.
#[derive(Debug, Clone)]
pub struct TransactionalTarget {
    /// For errors, as `sink "changes"`.
    pub what: String,
    /// Tells writers to one topic apart; with the topic's name it identifies them to the brokers.
    pub name: String,
    /// The topic.
    pub topic: String,
    /// `host:port` of some of the cluster's brokers, separated by commas.
    pub brokers: String,
    /// Properties of librdkafka, by name, as they are.
    pub properties: Arc<BTreeMap<String, String>>,
}

/// A topic that one process writes in transactions. All calls block.
pub struct TransactionalTopic {
    what: String,
    topic: String,
    producer: BaseProducer<Named>,
    /// Names the group whose offsets carry the progress; reads it at the start.
    group: BaseConsumer<Named>,
    partitions: i32,
    timeout: Duration,
    /// When the transaction began that is not committed.
    begun: Mutex<Option<Instant>>,
}

impl std::fmt::Debug for TransactionalTopic {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("TransactionalTopic")
            .field("what", &self.what)
            .field("topic", &self.topic)
            .finish_non_exhaustive()
    }
}

impl TransactionalTopic {
    /// Opens a topic and gives the progress of the last transaction that was committed. Whoever has opened it before
    /// can commit nothing any more; what was under way is decided when this returns.
    ///
    /// # Errors
    /// `Transaction` when brokers do not answer or refuse; `MissingVariable`.
    pub fn open(target: &TransactionalTarget) -> Result<(TransactionalTopic, Option<String>)> {
        let wrong = |error: KafkaError| failed(&target.what, "open", &error);
        let (group, mut config) = group(target)?;
        // As the field's other clients choose partitions, so that equal keys meet.
        for (name, value) in
            [("linger.ms", "5"), ("partitioner", "murmur2_random"), ("queue.buffering.max.kbytes", "65536")]
        {
            if !target.properties.contains_key(name) {
                config.set(name, value);
            }
        }
        config.set("transactional.id", identity(target));
        let producer = BaseProducer::from_config_and_context(&config, context(target)).map_err(wrong)?;
        let partitions = partitions(target, producer.client().fetch_metadata(Some(&target.topic), TIMEOUT))?;
        producer.init_transactions(TIMEOUT).map_err(wrong)?;
        let timeout = target.properties.get("transaction.timeout.ms").and_then(|value| value.parse().ok());
        let topic = TransactionalTopic {
            what: target.what.clone(),
            topic: target.topic.clone(),
            producer,
            group,
            partitions,
            timeout: timeout.map_or(TRANSACTION_TIMEOUT, Duration::from_millis),
            begun: Mutex::default(),
        };
        let progress = progress(target, &topic.group, partitions)?;
        Ok((topic, progress))
    }

    /// The progress of the last transaction that was committed, without opening the topic: whoever has it open goes on.
    ///
    /// # Errors
    /// As [`TransactionalTopic::open`].
    pub fn progress_of(target: &TransactionalTarget) -> Result<Option<String>> {
        let (group, _) = group(target)?;
        let partitions = partitions(target, group.fetch_metadata(Some(&target.topic), TIMEOUT))?;
        progress(target, &group, partitions)
    }

    /// Begins a transaction.
    ///
    /// # Errors
    /// `Transaction`; the topic must be opened anew then, as after an error of any other call.
    pub fn begin(&self) -> Result<()> {
        self.producer.begin_transaction().map_err(|error| self.failed("write to", &error))?;
        *self.begun() = Some(Instant::now());
        Ok(())
    }

    /// Adds records to the transaction; waits while brokers take less than is sent.
    ///
    /// # Errors
    /// `Transaction`, also when no room comes for a while.
    pub fn send(&self, records: &Records) -> Result<()> {
        for (key, value) in records.iter() {
            self.send_one(key, value, None)?;
        }
        self.producer.poll(Duration::ZERO);
        Ok(())
    }

    /// Adds one record, as [`TransactionalTopic::send`] adds many.
    ///
    /// # Errors
    /// As `send`.
    pub fn send_one(&self, key: Option<&[u8]>, value: Option<&[u8]>, headers: Option<OwnedHeaders>) -> Result<()> {
        let mut next = BaseRecord::<[u8], [u8]>::to(&self.topic);
        (next.key, next.payload, next.headers) = (key, value, headers);
        let mut waited = Duration::ZERO;
        while let Err((error, refused)) = self.producer.send(next) {
            if error.rdkafka_error_code() != Some(RDKafkaErrorCode::QueueFull) || waited > TIMEOUT {
                return Err(self.failed("write to", &error));
            }
            self.producer.poll(POLL);
            waited += POLL;
            next = refused;
        }
        Ok(())
    }

    /// Commits the transaction with its progress: both are there, or neither is.
    ///
    /// # Errors
    /// `Transaction`; whether it was committed shows when the topic is opened anew. `Fenced` when another process has opened it.
    pub fn commit(&self, progress: &str) -> Result<()> {
        let wrong = |error: KafkaError| self.failed("commit to", &error);
        let group = self.group.group_metadata().ok_or_else(|| Error::Transaction {
            action: "commit to",
            what: self.what.clone(),
            reason: "librdkafka gives no group".to_owned(),
        })?;
        self.producer.flush(TIMEOUT).map_err(wrong)?;
        let offsets = self.pieces(progress)?;
        self.producer.send_offsets_to_transaction(&offsets, &group, TIMEOUT).map_err(wrong)?;
        self.producer.commit_transaction(TIMEOUT).map_err(wrong)?;
        *self.begun() = None;
        Ok(())
    }

    /// The progress as metadata of offsets: in partition `i` the `i`th piece, after the number of pieces.
    fn pieces(&self, progress: &str) -> Result<TopicPartitionList> {
        let pieces: Vec<&str> = split(progress, METADATA_BYTES_MAX);
        let mut offsets = TopicPartitionList::new();
        for (index, piece) in pieces.iter().enumerate() {
            if index as i32 >= self.partitions {
                let reason = format!(
                    "its progress takes {} pieces, one for each of the topic's partitions, but topic \"{}\" has {}; give it \
                     more partitions",
                    pieces.len(),
                    self.topic,
                    self.partitions
                );
                return Err(Error::Transaction { action: "commit to", what: self.what.clone(), reason });
            }
            let mut place = offsets.add_partition(&self.topic, index as i32);
            place.set_offset(Offset::Offset(0)).map_err(|error| self.failed("commit to", &error))?;
            place.set_metadata(format!("{}:{piece}", pieces.len()));
        }
        Ok(offsets)
    }

    fn begun(&self) -> MutexGuard<'_, Option<Instant>> {
        self.begun.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Why a call fails: after a fatal error every call says only that there was one.
    fn failed(&self, action: &'static str, error: &KafkaError) -> Error {
        let failed = match self.producer.client().fatal_error() {
            Some((code, reason)) => named(&self.what, action, Some(code), reason),
            None => failed(&self.what, action, error),
        };
        let is_late = self.begun().is_some_and(|begun| begun.elapsed() >= self.timeout);
        match failed {
            // Brokers end a transaction that takes too long as they do when another process has come.
            Error::Fenced { what } if is_late => Error::Transaction {
                action,
                what,
                reason: format!(
                    "the transaction took longer than {:?}; give it more time with kafka.transaction.timeout.ms",
                    self.timeout
                ),
            },
            other => other,
        }
    }
}

impl Drop for TransactionalTopic {
    fn drop(&mut self) {
        if self.begun().take().is_some()
            && let Err(error) = self.producer.abort_transaction(ABORT_TIMEOUT)
        {
            // Consumers of committed records wait until the brokers end it.
            tracing::debug!(topic = self.topic, %error, "cannot abort a transaction");
        }
    }
}

/// Among all that write to the cluster: another writer of this name to another topic is another one.
fn identity(target: &TransactionalTarget) -> String {
    format!("watershed-{}-{}", target.name, target.topic)
}

/// A client of the group whose offsets carry the progress, and what all clients are configured with.
fn group(target: &TransactionalTarget) -> Result<(BaseConsumer<Named>, ClientConfig)> {
    let mut config = client_config(&target.name, &target.brokers)?;
    set_properties(&mut config, &target.properties)?;
    let mut consumer = config.clone();
    consumer.set("group.id", identity(target)).set("enable.auto.commit", "false");
    consumer.set("isolation.level", "read_committed").set("statistics.interval.ms", "0");
    let group = BaseConsumer::from_config_and_context(&consumer, context(target));
    Ok((group.map_err(|error| failed(&target.what, "open", &error))?, config))
}

fn context(target: &TransactionalTarget) -> Named {
    Named { name: target.name.clone() }
}

fn partitions(target: &TransactionalTarget, metadata: KafkaResult<Metadata>) -> Result<i32> {
    let metadata = metadata.map_err(|error| failed(&target.what, "open", &error))?;
    let found = metadata.topics().first().filter(|topic| topic.error().is_none() && !topic.partitions().is_empty());
    found.map(|found| found.partitions().len() as i32).ok_or_else(|| {
        let reason = format!("the brokers have no topic \"{}\"; create it, it is tried again by itself", target.topic);
        Error::Transaction { action: "open", what: target.what.clone(), reason }
    })
}

fn progress(target: &TransactionalTarget, group: &BaseConsumer<Named>, partitions: i32) -> Result<Option<String>> {
    let wrong = |error: KafkaError| failed(&target.what, "open", &error);
    let mut places = TopicPartitionList::new();
    places.add_partition_range(&target.topic, 0, partitions - 1);
    let committed = group.committed_offsets(places, TIMEOUT).map_err(wrong)?;
    let mut elements = committed.elements();
    elements.sort_by_key(rdkafka::topic_partition_list::TopicPartitionListElem::partition);
    for element in &elements {
        element.error().map_err(wrong)?;
    }
    let mut pieces = elements.iter().map(|element| element.metadata().split_once(':'));
    let Some(Some((count, first))) = pieces.next() else { return Ok(None) };
    let count: usize = count.parse().unwrap_or_default();
    let mut progress = first.to_owned();
    progress.extend(pieces.take(count.saturating_sub(1)).flatten().map(|(_, piece)| piece));
    Ok(Some(progress))
}

fn failed(what: &str, action: &'static str, error: &KafkaError) -> Error {
    let code = match error {
        KafkaError::Transaction(error) => Some(error.code()),
        error => error.rdkafka_error_code(),
    };
    named(what, action, code, reason_of(error))
}

fn named(what: &str, action: &'static str, code: Option<RDKafkaErrorCode>, reason: String) -> Error {
    let fenced = [RDKafkaErrorCode::Fenced, RDKafkaErrorCode::ProducerFenced, RDKafkaErrorCode::InvalidProducerEpoch];
    let what = what.to_owned();
    match code {
        Some(code) if fenced.contains(&code) => Error::Fenced { what },
        _ => Error::Transaction { action, what, reason },
    }
}

/// The parts of `text`, each of at most `bytes_max` bytes; one, if it is empty.
fn split(mut text: &str, bytes_max: usize) -> Vec<&str> {
    let mut parts = Vec::new();
    while text.len() > bytes_max {
        let (part, rest) = text.split_at(text.floor_char_boundary(bytes_max));
        parts.push(part);
        text = rest;
    }
    parts.push(text);
    parts
}

#[cfg(test)]
mod tests {
    use rdkafka::mocking::MockCluster;

    use super::*;

    fn target(brokers: String) -> TransactionalTarget {
        let (what, name, topic) = ("sink \"changes\"".into(), "changes".into(), "pages".into());
        TransactionalTarget { what, name, topic, brokers, properties: Arc::default() }
    }

    /// What becomes of the progress needs a real broker: see `tests/kafka/sinks.rs`.
    #[test]
    fn transactions_are_committed_with_progress_of_any_length() -> Result<(), Box<dyn std::error::Error>> {
        let cluster = MockCluster::new(1)?;
        cluster.create_topic("pages", 3, 1)?;
        let (topic, progress) = TransactionalTopic::open(&target(cluster.bootstrap_servers()))?;
        assert_eq!(progress, None);
        let mut records = Records::default();
        records.push(Some(|out: &mut Vec<u8>| out.extend(b"key")), Some(|out: &mut Vec<u8>| out.extend(b"value")));
        for length in [0, 10, METADATA_BYTES_MAX, 2 * METADATA_BYTES_MAX + 1] {
            topic.begin()?;
            topic.send(&records)?;
            topic.commit(&"x".repeat(length))?;
        }
        let refused = topic.pieces(&"x".repeat(3 * METADATA_BYTES_MAX + 1)).err().map(|error| error.to_string());
        assert!(refused.as_ref().is_some_and(|refused| refused.contains("takes 4 pieces")), "{refused:?}");
        Ok(())
    }

    #[test]
    fn a_topic_that_is_not_there_is_an_error_with_what_to_do() -> Result<(), Box<dyn std::error::Error>> {
        let cluster = MockCluster::new(1)?;
        cluster.topic_error("pages", rdkafka::types::RDKafkaRespErr::RD_KAFKA_RESP_ERR_UNKNOWN_TOPIC_OR_PART)?;
        let refused =
            TransactionalTopic::open(&target(cluster.bootstrap_servers())).err().map(|error| error.to_string());
        assert!(
            refused.as_ref().is_some_and(|refused| refused.contains("have no topic \"pages\"; create it")),
            "{refused:?}"
        );
        Ok(())
    }

    #[test]
    fn a_text_is_split_between_characters() {
        assert_eq!(split("", 3), [""]);
        assert_eq!(split("abcdef", 3), ["abc", "def"]);
        assert_eq!(split("aéß", 2), ["a", "é", "ß"]);
    }
}
