//! Lanes: the partitions of a topic as threads drain and decode them.

use std::sync::Arc;
use std::time::{Duration, Instant};

use rdkafka::TopicPartitionList;
use rdkafka::consumer::Consumer as _;
use rdkafka::consumer::base_consumer::PartitionQueue;
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::message::{BorrowedMessage, Message as _};

use super::client::{Context, log_error};
use super::topic::{Halt, Topic};
use crate::error::{ErrorKind, Result, with_causes};
use crate::event::LogBatch;
use crate::position::{Offset, OffsetRange, PartitionId};

/// Records that are decoded together, at most; by bytes too.
const BATCH_RECORDS_MAX: usize = 16_384;
const BATCH_BYTES_TARGET: usize = 4 << 20;
/// How long a partition must have been silent before the broker is asked whether anything comes before a wanted offset.
const SILENCE: Duration = Duration::from_millis(20);
/// Pause before a schema is asked for again.
const RETRY_PAUSE: Duration = Duration::from_secs(1);
const SEEK_TIMEOUT: Duration = Duration::from_secs(5);

/// One partition, owned by the thread that drains it.
pub(super) struct Lane {
    partition: PartitionId,
    queue: PartitionQueue<Context>,
    /// The offset after the last that was judged.
    next: Offset,
    last_record: Instant,
    /// The wanted offset for which the broker was asked to start again at `next`: then the end of the partition is news.
    probing: Option<Offset>,
}

impl Lane {
    pub(super) fn new(partition: PartitionId, queue: PartitionQueue<Context>, next: Offset) -> Lane {
        Lane { partition, queue, next, last_record: Instant::now(), probing: None }
    }

    /// Drains what is there, at most a batch; returns whether there was anything.
    pub(super) fn step(&mut self, topic: &Arc<Topic>) -> bool {
        if let Some(next) = topic.take_resumption(self.partition) {
            self.resume(topic, next);
        }
        if topic.is_held(self.partition) || !topic.has_room() {
            return false;
        }
        // The records borrow the queue, so that the lane itself can be changed only when they are gone.
        let (next, outcome) = {
            let mut drained = drain(&self.queue, self.next);
            let outcome = self.judge(topic, &mut drained);
            (outcome.as_ref().map_or(self.next, |reached| *reached), drained.ended)
        };
        let moved = next > self.next;
        if moved {
            (self.next, self.last_record, self.probing) = (next, Instant::now(), None);
        }
        match outcome {
            Some(Ended::Partition) => self.end_reached(topic),
            Some(Ended::OutOfRange) => self.halt(topic),
            Some(Ended::Unreadable(reason)) => {
                topic.halt(self.partition, Halt::Unreadable { next: self.next, reason });
            }
            Some(Ended::Error) => topic.suspect(),
            None => {}
        }
        if !moved && !topic.is_held(self.partition) {
            self.probe(topic);
        }
        moved
    }

    /// Decodes what was drained and hands it on; `None` if there is nothing.
    fn judge(&self, topic: &Topic, drained: &mut Drained<'_>) -> Option<Offset> {
        let end = Offset(u64::try_from(drained.records.last()?.offset()).ok()?.saturating_add(1));
        let range = OffsetRange::new(self.next, end);
        loop {
            match topic.decoder().decode(self.partition, range, &drained.records) {
                Ok(decoded) => {
                    topic.hand_on(&decoded);
                    return Some(end);
                }
                Err(error) if error.kind() != ErrorKind::Retryable => {
                    let reason = with_causes(&error);
                    topic.halt(self.partition, Halt::Unreadable { next: self.next, reason });
                    return None;
                }
                Err(error) => {
                    topic.set_decode_trouble(Some(with_causes(&error)));
                    tracing::warn!(
                        source = topic.source(),
                        partition = self.partition.0,
                        error = with_causes(&error),
                        "cannot decode records; trying again"
                    );
                    topic.pause(RETRY_PAUSE);
                    if topic.is_stopped() {
                        return None;
                    }
                }
            }
        }
    }

    /// The broker says that nothing more comes now. If it was asked to start at `next` again, that holds for everything
    /// below the offset that was wanted when it was asked; else the news may be older than the wish.
    fn end_reached(&mut self, topic: &Topic) {
        let Some(wanted) = self.probing.take().filter(|wanted| *wanted > self.next) else { return };
        self.last_record = Instant::now();
        // Who answers a fetch may know less than who was asked for the end.
        if topic.reports().ends().get(&self.partition).is_none_or(|end| *end < wanted) {
            return;
        }
        if let Err(error) = self.skip_to(topic, wanted, false) {
            tracing::warn!(
                source = topic.source(),
                error = with_causes(&error),
                "cannot move over empty offsets; trying again"
            );
        }
    }

    /// Asks the broker to start at `next` again, if somebody waits for a later offset and nothing comes: control records
    /// of transactions have offsets, but nobody is told of them.
    fn probe(&mut self, topic: &Topic) {
        let wanted = topic.wanted(self.partition).filter(|wanted| *wanted > self.next);
        if self.probing.is_some() || wanted.is_none() || self.last_record.elapsed() < SILENCE {
            return;
        }
        match self.seek(topic) {
            Ok(()) => self.probing = wanted,
            Err(error) => {
                self.last_record = Instant::now();
                tracing::debug!(
                    source = topic.source(),
                    error = with_causes(&error),
                    "cannot ask for a partition's end"
                );
            }
        }
    }

    /// The topic does not have `next`: nothing is read until an operator decides.
    fn halt(&mut self, topic: &Topic) {
        topic.halt(self.partition, Halt::OffsetsLost { next: self.next });
    }

    fn resume(&mut self, topic: &Topic, next: Offset) {
        let resumed = match next > self.next {
            true => self.skip_to(topic, next, true),
            false => Ok(()),
        };
        match resumed.and_then(|()| self.fetch_again(topic)) {
            Ok(()) => topic.resumed(self.partition),
            Err(error) => {
                let error = with_causes(&error);
                tracing::error!(source = topic.source(), error, "cannot resume a partition; trying again");
                topic.resume(self.partition, next);
                topic.pause(RETRY_PAUSE);
            }
        }
    }

    /// Moves over offsets that hold no events; `lost` if they may have held some.
    fn skip_to(&mut self, topic: &Topic, next: Offset, lost: bool) -> Result<()> {
        let range = OffsetRange::new(self.next, next);
        let mut decoded = topic.decoder().decode(self.partition, range, &[])?;
        if lost {
            topic.lose(self.partition, range);
            decoded.events = LogBatch::lost(self.partition, range, decoded.events.events);
            decoded.dead_letters = LogBatch::lost(self.partition, range, decoded.dead_letters.events);
        }
        topic.hand_on(&decoded);
        self.next = next;
        Ok(())
    }

    /// Fetches from `next` on. A partition that has failed cannot be sought in.
    fn fetch_again(&self, topic: &Topic) -> Result<()> {
        let wrong = |error| log_error(topic.source(), "read", &error);
        let mut place = TopicPartitionList::new();
        let offset = rdkafka::Offset::Offset(self.next.0 as i64);
        place.add_partition_offset(topic.name(), self.partition.0 as i32, offset).map_err(wrong)?;
        topic.consumer().incremental_unassign(&place).map_err(wrong)?;
        topic.consumer().incremental_assign(&place).map_err(wrong)
    }

    fn seek(&self, topic: &Topic) -> Result<()> {
        let offset = rdkafka::Offset::Offset(self.next.0 as i64);
        let sought = topic.consumer().seek(topic.name(), self.partition.0 as i32, offset, SEEK_TIMEOUT);
        sought.map_err(|error| log_error(topic.source(), "read", &error))
    }
}

/// What a queue had.
struct Drained<'a> {
    records: Vec<BorrowedMessage<'a>>,
    ended: Option<Ended>,
}

/// Why draining ended before the queue was empty.
enum Ended {
    Partition,
    OutOfRange,
    /// What comes next cannot be read, now or ever; why.
    Unreadable(String),
    /// Another error, which may mean that the topic is gone.
    Error,
}

/// Takes records from `next` on until there are enough, or something else comes.
fn drain(queue: &PartitionQueue<Context>, next: Offset) -> Drained<'_> {
    let mut drained = Drained { records: Vec::new(), ended: None };
    let mut bytes = 0;
    while drained.records.len() < BATCH_RECORDS_MAX && bytes < BATCH_BYTES_TARGET {
        match queue.poll(Duration::ZERO) {
            // A record below comes twice when the client has started again.
            Some(Ok(record)) if record.offset() >= next.0 as i64 => {
                bytes += record.payload_len() + record.key_len();
                drained.records.push(record);
            }
            Some(Ok(_)) => {}
            Some(Err(KafkaError::PartitionEOF(_))) => drained.ended = Some(Ended::Partition),
            Some(Err(KafkaError::MessageConsumption(
                RDKafkaErrorCode::AutoOffsetReset | RDKafkaErrorCode::OffsetOutOfRange,
            ))) => {
                drained.ended = Some(Ended::OutOfRange);
            }
            // What is behind an unreadable batch would come next, and what is in it would be passed over.
            Some(Err(KafkaError::MessageConsumption(error))) if is_unreadable(error) => {
                drained.ended = Some(Ended::Unreadable(error.to_string()));
            }
            // The client tries again by itself; but it may be that the topic is gone.
            Some(Err(_)) => drained.ended = Some(Ended::Error),
            None => break,
        }
        if drained.ended.is_some() {
            break;
        }
    }
    drained
}

/// Whether an error is about the records that come next, or about who may read them.
fn is_unreadable(error: RDKafkaErrorCode) -> bool {
    use RDKafkaErrorCode::{
        BadCompression, BadMessage, GroupAuthorizationFailed, InvalidMessage, MessageSizeTooLarge, NotImplemented,
        TopicAuthorizationFailed,
    };
    matches!(
        error,
        BadCompression
            | BadMessage
            | GroupAuthorizationFailed
            | InvalidMessage
            | MessageSizeTooLarge
            | NotImplemented
            | TopicAuthorizationFailed
    )
}
