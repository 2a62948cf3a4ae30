//! Reads records of a topic a second time, when they are not in memory any more.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use rdkafka::TopicPartitionList;
use rdkafka::config::FromClientConfigAndContext as _;
use rdkafka::consumer::{BaseConsumer, Consumer as _};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::message::Message as _;

use super::client::{Context, Reports, consumer_config, log_error};
use super::decode::Decoded;
use super::topic::Topic;
use crate::error::{Error, Result};
use crate::position::{Offset, OffsetRange, PartitionId};

/// How long the brokers may take to give the records.
const TIMEOUT: Duration = Duration::from_secs(30);
/// Its share of what may be fetched ahead is that of one partition among so many.
const FETCH_SHARE: u32 = 8;
/// Longest wait for one record.
const POLL: Duration = Duration::from_millis(100);

/// A consumer of its own, made when it is first needed; the one that reads ahead keeps its place.
#[derive(Default)]
pub(super) struct Rereader {
    consumer: Mutex<Option<BaseConsumer<Context>>>,
}

impl Rereader {
    /// What is in `range` of a partition, or in its first part if that has `rows_max` records. Blocks.
    ///
    /// # Errors
    /// `Log` when the brokers do not give the records in time, or do not have them any more.
    pub(super) fn read(
        &self,
        topic: &Topic,
        partition: PartitionId,
        range: OffsetRange,
        rows_max: usize,
    ) -> Result<Decoded> {
        let mut kept = self.consumer.lock().unwrap_or_else(PoisonError::into_inner);
        let consumer = match kept.take() {
            Some(consumer) => consumer,
            None => new_consumer(topic)?,
        };
        let read = read_with(&consumer, topic, partition, range, rows_max);
        // Else it would go on fetching what nobody has asked for.
        let _ = consumer.unassign();
        // After a failure the next attempt has a new one.
        *kept = read.is_ok().then_some(consumer);
        read
    }
}

fn new_consumer(topic: &Topic) -> Result<BaseConsumer<Context>> {
    let mut config = consumer_config(topic.source(), topic.options(), FETCH_SHARE)?;
    config.set("statistics.interval.ms", "0");
    let reports = Arc::new(Reports::default());
    let context = Context { source: topic.source().to_owned(), topic: topic.name().to_owned(), reports };
    let consumer = BaseConsumer::from_config_and_context(&config, context);
    consumer.map_err(|error| log_error(topic.source(), "read", &error))
}

fn read_with(
    consumer: &BaseConsumer<Context>,
    topic: &Topic,
    partition: PartitionId,
    range: OffsetRange,
    rows_max: usize,
) -> Result<Decoded> {
    let wrong = |error: &KafkaError| log_error(topic.source(), "read", error);
    let failed = |reason: String| Error::Log { action: "read", name: topic.source().to_owned(), reason };
    let mut from = TopicPartitionList::new();
    let offset = rdkafka::Offset::Offset(range.start().0 as i64);
    from.add_partition_offset(topic.name(), partition.0 as i32, offset).map_err(|error| wrong(&error))?;
    consumer.assign(&from).map_err(|error| wrong(&error))?;
    let mut records = Vec::new();
    let mut end = range.end();
    let started = Instant::now();
    loop {
        if started.elapsed() > TIMEOUT {
            let (next, trouble) = (range.start(), topic.reports().broker_trouble().unwrap_or_default());
            return Err(failed(format!("no answer to a request for offset {next} of partition {partition} {trouble}")));
        }
        match consumer.poll(POLL) {
            None => {}
            Some(Ok(record)) => {
                let offset = Offset(record.offset().try_into().unwrap_or_default());
                if offset >= range.end() {
                    break;
                }
                records.push(record);
                if records.len() >= rows_max.max(1) {
                    end = offset.advance(1);
                    break;
                }
                if offset.advance(1) == range.end() {
                    break;
                }
            }
            Some(Err(KafkaError::PartitionEOF(_))) => break,
            Some(Err(KafkaError::MessageConsumption(RDKafkaErrorCode::AutoOffsetReset))) => {
                let next = range.start();
                return Err(failed(format!("the topic does not have offset {next} of partition {partition} any more")));
            }
            // The client tries again by itself.
            Some(Err(_)) => {}
        }
    }
    topic.decoder().decode(partition, OffsetRange::new(range.start(), end), &records)
}
