//! A topic that records go to in transactions, each with the progress that they stand for.
//!
//! The progress is the metadata of an offset of a consumer group that nobody reads with: the one thing besides records that a
//! Kafka transaction can write, and it needs no topic of ours. So records and progress are there together or not at all, and
//! whoever opens the topic next sees which. See `docs/decisions/0013-sinks-commit-their-progress-with-their-records.md`.

use std::collections::BTreeMap;
use std::time::Duration;

use rdkafka::config::RDKafkaLogLevel;
use rdkafka::consumer::{BaseConsumer, Consumer as _};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::producer::{BaseProducer, BaseRecord, Producer as _};
use rdkafka::{ClientConfig, Offset, TopicPartitionList};

use super::{Records, SinkDefinition};
use crate::environment::with_environment;
use crate::error::{Error, Result};

/// How long brokers may take for a step.
const TIMEOUT: Duration = Duration::from_secs(30);
/// How long a full queue is waited for before it is looked at again.
const POLL: Duration = Duration::from_millis(50);
/// Longest metadata of one offset; brokers take 4 KiB by default (`offset.metadata.max.bytes`).
const METADATA_BYTES_MAX: usize = 3_500;

/// A topic that one process writes in transactions. All calls block.
pub struct TransactionalTopic {
    sink: String,
    topic: String,
    producer: BaseProducer,
    /// Names the group whose offsets carry the progress; reads it at the start.
    group: BaseConsumer,
    partitions: i32,
}

impl std::fmt::Debug for TransactionalTopic {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("TransactionalTopic")
            .field("sink", &self.sink)
            .field("topic", &self.topic)
            .finish_non_exhaustive()
    }
}

impl TransactionalTopic {
    /// Opens a sink's topic and gives the progress of the last transaction that was committed. Whoever has opened it before
    /// can commit nothing any more; what was under way is decided when this returns.
    ///
    /// # Errors
    /// `Sink` when brokers do not answer or refuse; `MissingVariable`.
    pub fn open(sink: &SinkDefinition) -> Result<(TransactionalTopic, Option<String>)> {
        let wrong = |error: KafkaError| failed(&sink.name, "open", &error);
        let mut config = ClientConfig::new();
        config.set_log_level(RDKafkaLogLevel::Warning);
        config.set("bootstrap.servers", with_environment(&sink.brokers)?);
        config.set("client.id", format!("watershed-{}", sink.name));
        for (name, value) in sink.properties.iter() {
            config.set(name, with_environment(value)?);
        }
        // Among all that write to the cluster: another sink of this name into another topic is another one.
        let identity = format!("watershed-{}-{}", sink.name, sink.topic);
        let mut consumer = config.clone();
        consumer.set("group.id", &identity).set("enable.auto.commit", "false").set("isolation.level", "read_committed");
        let group: BaseConsumer = consumer.create().map_err(wrong)?;
        let mut defaults: BTreeMap<&str, &str> = BTreeMap::new();
        defaults.insert("linger.ms", "5");
        // As the field's other clients do it, so that equal keys meet in equal partitions.
        defaults.insert("partitioner", "murmur2_random");
        defaults.insert("queue.buffering.max.kbytes", "65536");
        for (name, value) in defaults.into_iter().filter(|(name, _)| !sink.properties.contains_key(*name)) {
            config.set(name, value);
        }
        config.set("transactional.id", &identity);
        let producer: BaseProducer = config.create().map_err(wrong)?;
        let metadata = producer.client().fetch_metadata(Some(&sink.topic), TIMEOUT).map_err(wrong)?;
        let found = metadata.topics().first().filter(|topic| topic.error().is_none() && !topic.partitions().is_empty());
        let Some(found) = found else {
            let reason =
                format!("the brokers have no topic \"{}\"; create it, it is tried again by itself", sink.topic);
            return Err(Error::Sink { action: "open", name: sink.name.clone(), reason });
        };
        let partitions = found.partitions().len() as i32;
        producer.init_transactions(TIMEOUT).map_err(wrong)?;
        let topic =
            TransactionalTopic { sink: sink.name.clone(), topic: sink.topic.clone(), producer, group, partitions };
        let progress = topic.progress()?;
        Ok((topic, progress))
    }

    /// Begins a transaction.
    ///
    /// # Errors
    /// `Sink`; the topic must be opened anew then, as after an error of any other call.
    pub fn begin(&self) -> Result<()> {
        let wrong = |error: KafkaError| failed_with(&self.producer, &self.sink, "write to", &error);
        self.producer.begin_transaction().map_err(wrong)
    }

    /// Adds records to the transaction; waits while brokers take less than is sent.
    ///
    /// # Errors
    /// `Sink`, also when no room comes for a while.
    pub fn send(&self, records: &Records) -> Result<()> {
        let wrong = |error: &KafkaError| failed_with(&self.producer, &self.sink, "write to", error);
        for (key, value) in records.iter() {
            let mut next = BaseRecord::<[u8], [u8]>::to(&self.topic);
            (next.key, next.payload) = (key, value);
            let mut waited = Duration::ZERO;
            while let Err((error, refused)) = self.producer.send(next) {
                if error.rdkafka_error_code() != Some(RDKafkaErrorCode::QueueFull) || waited > TIMEOUT {
                    return Err(wrong(&error));
                }
                self.producer.poll(POLL);
                waited += POLL;
                next = refused;
            }
        }
        self.producer.poll(Duration::ZERO);
        Ok(())
    }

    /// Commits the transaction with its progress: both are there, or neither is.
    ///
    /// # Errors
    /// `Sink`; whether it was committed shows when the topic is opened anew. `SinkFenced` when another process has opened it.
    pub fn commit(&self, progress: &str) -> Result<()> {
        let wrong = |error: KafkaError| failed_with(&self.producer, &self.sink, "commit to", &error);
        let group = self.group.group_metadata().ok_or_else(|| Error::Sink {
            action: "commit to",
            name: self.sink.clone(),
            reason: "librdkafka gives no group".to_owned(),
        })?;
        self.producer.flush(TIMEOUT).map_err(wrong)?;
        let offsets = self.pieces(progress)?;
        self.producer.send_offsets_to_transaction(&offsets, &group, TIMEOUT).map_err(wrong)?;
        self.producer.commit_transaction(TIMEOUT).map_err(wrong)
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
                return Err(Error::Sink { action: "commit to", name: self.sink.clone(), reason });
            }
            let mut place = offsets.add_partition(&self.topic, index as i32);
            place.set_offset(Offset::Offset(0)).map_err(|error| failed(&self.sink, "commit to", &error))?;
            place.set_metadata(format!("{}:{piece}", pieces.len()));
        }
        Ok(offsets)
    }

    fn progress(&self) -> Result<Option<String>> {
        let mut places = TopicPartitionList::new();
        places.add_partition_range(&self.topic, 0, self.partitions - 1);
        let committed =
            self.group.committed_offsets(places, TIMEOUT).map_err(|error| failed(&self.sink, "open", &error))?;
        let mut elements = committed.elements();
        elements.sort_by_key(rdkafka::topic_partition_list::TopicPartitionListElem::partition);
        for element in &elements {
            element.error().map_err(|error| failed(&self.sink, "open", &error))?;
        }
        let mut pieces = elements.iter().map(|element| element.metadata().split_once(':'));
        let Some(Some((count, first))) = pieces.next() else { return Ok(None) };
        let count: usize = count.parse().unwrap_or_default();
        let mut progress = first.to_owned();
        progress.extend(pieces.take(count.saturating_sub(1)).flatten().map(|(_, piece)| piece));
        Ok(Some(progress))
    }
}

/// Why an open topic fails: after a fatal error every call says only that there was one.
fn failed_with(producer: &BaseProducer, sink: &str, action: &'static str, error: &KafkaError) -> Error {
    match producer.client().fatal_error() {
        Some((code, reason)) => named(sink, action, Some(code), reason),
        None => failed(sink, action, error),
    }
}

fn failed(sink: &str, action: &'static str, error: &KafkaError) -> Error {
    let code = match error {
        KafkaError::Transaction(error) => Some(error.code()),
        error => error.rdkafka_error_code(),
    };
    named(sink, action, code, error.to_string())
}

fn named(sink: &str, action: &'static str, code: Option<RDKafkaErrorCode>, reason: String) -> Error {
    let fenced = [RDKafkaErrorCode::Fenced, RDKafkaErrorCode::ProducerFenced, RDKafkaErrorCode::InvalidProducerEpoch];
    let name = sink.to_owned();
    match code {
        Some(code) if fenced.contains(&code) => Error::SinkFenced { name },
        _ => Error::Sink { action, name, reason },
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
    use std::sync::Arc;

    use rdkafka::mocking::MockCluster;

    use super::*;

    fn sink(brokers: String) -> SinkDefinition {
        SinkDefinition {
            name: "changes".into(),
            sql: String::new(),
            view: "pages".into(),
            topic: "pages".into(),
            brokers,
            mode: None,
            trigger: Duration::from_secs(1),
            key: None,
            properties: Arc::default(),
            line: 1,
        }
    }

    /// What becomes of the progress needs a real broker: see `tests/kafka/sinks.rs`.
    #[test]
    fn transactions_are_committed_with_progress_of_any_length() -> Result<(), Box<dyn std::error::Error>> {
        let cluster = MockCluster::new(1)?;
        cluster.create_topic("pages", 3, 1)?;
        let (topic, progress) = TransactionalTopic::open(&sink(cluster.bootstrap_servers()))?;
        assert_eq!(progress, None);
        let mut records = Records::new(true, true);
        records.push(|out| out.extend(b"key"), |out| out.extend(b"value"));
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
        let refused = TransactionalTopic::open(&sink(cluster.bootstrap_servers())).err().map(|error| error.to_string());
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
