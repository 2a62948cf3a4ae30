//! Logs over a Kafka topic: its records as a source's events, and those that are none as dead letters.
//!
//! One fetch decodes into two logs over the same offsets ([`KafkaLog`]), each read by a source of its own. Offsets come
//! from the two histories and from nowhere else; a topic is never asked where a consumer group is. Some offsets hold
//! nothing: control records of transactions, records that were compacted away, and, for each of the logs, what is in the
//! other.
//!
//! | file | what it does |
//! |---|---|
//! | `client` | configures librdkafka and hears what it reports |
//! | `topic` | one consumer for the topic, threads, partitions that come later, halts |
//! | `lane` | drains and decodes one partition |
//! | `decode` | records into events and dead letters |
//! | `identity` | whether the topic was made anew |
//! | `side` | decoded batches on their way to a reader |
//! | `reread` | records that have left memory |
//! | `bad_ratio` | how many records are no events |

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use arrow::array::RecordBatch;
use arrow::datatypes::{Schema, SchemaRef};
use async_trait::async_trait;
use tokio::sync::watch;

use self::decode::TopicDecoder;
pub use self::identity::KnownRecord;
pub use self::producer::TopicProducer;
pub use self::replay::send_again;
use self::reread::Rereader;
use self::side::Side;
use self::topic::{Halt, Topic};
use super::{Log, check_partition, check_readable};
use crate::cpu::blocking;
use crate::definition::value_columns;
use crate::error::{Error, Result};
use crate::event::LogBatch;
use crate::format::{RecordDecoder, RecordSchemas};
use crate::position::{Offset, OffsetRange, PartitionId, Position};
use crate::source::{KafkaOptions, SourceDefinition, dead_letters_of};
use crate::time::sleep;

mod bad_ratio;
pub(crate) mod client;
mod decode;
mod identity;
mod lane;
mod producer;
mod replay;
mod reread;
mod side;
#[cfg(test)]
mod tests;
mod topic;

/// A topic that a source reads. Nothing is read before both of its logs have been told where they begin; reading ends
/// with the last of them.
#[derive(Debug, Clone)]
pub struct KafkaTopic {
    running: Arc<Running>,
}

/// Stops the threads when nobody needs them.
struct Running {
    topic: Arc<Topic>,
    rereader: Rereader,
}

impl fmt::Debug for Running {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.topic.fmt(f)
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.topic.stop();
    }
}

impl KafkaTopic {
    /// The topic of a Kafka source; `bytes_ahead_max` bytes of decoded events may wait to be read. No broker is asked.
    ///
    /// # Errors
    /// `Log` when librdkafka refuses the configuration or an option names what is not there; those of
    /// [`RecordDecoder::new`].
    pub fn open(
        source: &SourceDefinition,
        options: &Arc<KafkaOptions>,
        schemas: RecordSchemas,
        bytes_ahead_max: usize,
    ) -> Result<KafkaTopic> {
        let (dead_letters, _) = dead_letters_of(source)?;
        let value_columns: Schema = value_columns(&source.columns, &options.metadata);
        let decoder = TopicDecoder {
            columns: Arc::clone(&source.columns),
            dead_letter_columns: dead_letters.columns,
            metadata: options.metadata.clone(),
            values: RecordDecoder::new(&Arc::new(value_columns), options.format, schemas)?,
        };
        let topic = Topic::new(&source.name, options, decoder, source.partitions, bytes_ahead_max)?;
        Ok(KafkaTopic { running: Arc::new(Running { topic: Arc::new(topic), rereader: Rereader::default() }) })
    }

    /// The log of the records that are events of the source.
    pub fn events(&self) -> KafkaLog {
        KafkaLog { running: Arc::clone(&self.running), holds: Holds::Events }
    }

    /// The log of the records that are none.
    pub fn dead_letters(&self) -> KafkaLog {
        KafkaLog { running: Arc::clone(&self.running), holds: Holds::DeadLetters }
    }

    /// The last records that the histories have, by which the topic is known again. To be told before either log begins.
    pub fn expect(&self, known: Vec<KnownRecord>) {
        self.running.topic.expect(known);
    }

    /// Where a source without history begins.
    ///
    /// # Errors
    /// `Log` when the brokers cannot be reached or do not have the topic: ask again later.
    pub async fn beginning(&self) -> Result<Position> {
        self.ask("asking for a topic's offsets", |topic| topic.beginning()).await
    }

    /// Lets halted partitions go on. A partition that lacks the offset that comes next goes on with the oldest record that the
    /// topic has, as far as `without` allows that. Answers what was resumed, by partition, with the offsets that are lost.
    ///
    /// # Errors
    /// `Log` when the brokers cannot be reached; `OffsetsLost` when a partition would need more than `without` allows, or has
    /// no later offset to go on with. Nothing is resumed then.
    pub async fn resume(&self, without: Without) -> Result<Vec<(PartitionId, Option<OffsetRange>)>> {
        let running = Arc::clone(&self.running);
        let plan = move |topic: &Topic| plan_resumption(topic, &running.rereader, without);
        let resumed = self.ask("asking for a topic's offsets", plan).await?;
        for (partition, next, _) in &resumed {
            self.running.topic.resume(*partition, *next);
        }
        Ok(resumed.into_iter().map(|(partition, _, lost)| (partition, lost)).collect())
    }

    /// Number of partitions that have stopped until they are resumed.
    pub fn halted(&self) -> usize {
        self.running.topic.halts().len()
    }

    async fn ask<T: Send + 'static>(
        &self,
        what: &'static str,
        question: impl FnOnce(&Topic) -> Result<T> + Send + 'static,
    ) -> Result<T> {
        ask(&self.running.topic, what, question).await
    }
}

/// Offsets that a partition may go on without when its topic has lost them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Without {
    /// None.
    #[default]
    Nothing,
    /// Those whose events are in the history: only which of them were dead letters is lost.
    Archived,
    /// All that lie before the topic's oldest record.
    Lost,
}

/// Where halted partitions can go on, and what is lost then.
fn plan_resumption(
    topic: &Topic,
    rereader: &Rereader,
    without: Without,
) -> Result<Vec<(PartitionId, Offset, Option<OffsetRange>)>> {
    let in_history = topic.events_begin();
    let mut plan = Vec::new();
    for (partition, halt) in topic.halts() {
        let next = match halt {
            Halt::BadRatio { .. } => {
                plan.push((partition, Offset::BEGINNING, None));
                continue;
            }
            Halt::OffsetsLost { next } | Halt::Unreadable { next, .. } | Halt::Replaced { next, .. } => next,
        };
        if let Some(replaced) = identity::check(topic, rereader, topic.known(partition), partition, next)? {
            let reason = topic.describe(partition, &replaced);
            return Err(Error::OffsetsLost { name: topic.source().to_owned(), reason });
        }
        let available = topic.watermarks(partition.0)?;
        let lost = |reason: String| Error::OffsetsLost { name: topic.source().to_owned(), reason };
        if next >= available.start() && next <= available.end() {
            // It has come back, as after a broker's recovery.
            plan.push((partition, next, None));
        } else if available.start() < next {
            return Err(lost(format!(
                "partition {partition} of topic \"{}\" has offsets {available}, but {next} comes next: it was made anew, and \
                 the source's history has other events at these offsets; define a source with another name over it",
                topic.name()
            )));
        } else if without == Without::Archived && in_history.get(partition) < available.start() {
            return Err(lost(format!(
                "the source's history ends at offset {} of partition {partition}, but topic \"{}\" has offsets {available}; repeat \
                 with --skip to go on without the offsets {}",
                in_history.get(partition),
                topic.name(),
                OffsetRange::new(in_history.get(partition).max(next), available.start())
            )));
        } else if without == Without::Nothing {
            return Err(lost(format!(
                "partition {partition} of topic \"{}\" has offsets {available}, but {next} comes next; repeat with --skip to \
                 go on without the offsets {}",
                topic.name(),
                OffsetRange::new(next, available.start())
            )));
        } else {
            plan.push((partition, available.start(), Some(OffsetRange::new(next, available.start()))));
        }
    }
    Ok(plan)
}

/// Asks the client something that may block.
async fn ask<T: Send + 'static>(
    topic: &Arc<Topic>,
    what: &'static str,
    question: impl FnOnce(&Topic) -> Result<T> + Send + 'static,
) -> Result<T> {
    let asked = Arc::clone(topic);
    let answered = blocking(move || question(&asked)).await;
    answered.map_err(|error| Error::Log {
        action: "read",
        name: topic.source().to_owned(),
        reason: format!("{what} was interrupted: {error}"),
    })?
}

/// How often who waits for records looks whether something keeps them.
const TROUBLE_INTERVAL: Duration = Duration::from_millis(100);

/// One of the two logs of a topic.
#[derive(Debug)]
pub struct KafkaLog {
    running: Arc<Running>,
    holds: Holds,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Holds {
    Events,
    DeadLetters,
}

impl KafkaLog {
    fn columns(&self) -> SchemaRef {
        match self.holds {
            Holds::Events => Arc::clone(&self.running.topic.decoder().columns),
            Holds::DeadLetters => Arc::clone(&self.running.topic.decoder().dead_letter_columns),
        }
    }

    fn side(&self) -> &Side {
        match self.holds {
            Holds::Events => &self.running.topic.events,
            Holds::DeadLetters => &self.running.topic.dead_letters,
        }
    }
}

#[async_trait]
impl Log for KafkaLog {
    fn partitions(&self) -> u32 {
        self.running.topic.partitions()
    }

    fn end(&self) -> watch::Receiver<Position> {
        self.side().end().subscribe()
    }

    fn start(&self) -> Position {
        self.side().start()
    }

    async fn read(&self, partition: PartitionId, from: Offset, rows_max: usize) -> Result<Vec<LogBatch>> {
        let topic = &self.running.topic;
        check_partition(topic.partitions(), partition)?;
        let end = self.side().end().borrow().clone();
        // What was trimmed can still be in the topic, but nobody has business there.
        check_readable(topic.source(), partition, from, &self.side().start(), &end)?;
        if let Some(range) = topic.lost_at(partition, from) {
            let range = OffsetRange::new(from, range.end());
            self.side().given(partition, range.end());
            topic.wake();
            return Ok(vec![LogBatch::lost(partition, range, RecordBatch::new_empty(self.columns()))]);
        }
        if let Some(batches) = self.side().read(partition, from, rows_max) {
            // The reader has made room.
            topic.wake();
            return Ok(batches);
        }
        let range = OffsetRange::new(from, topic.next_loss(partition, from).min(end.get(partition)));
        if range.is_empty() {
            return Ok(Vec::new());
        }
        let running = Arc::clone(&self.running);
        let read = move |topic: &Topic| running.rereader.read(topic, partition, range, rows_max);
        let decoded = ask(topic, "reading records again", read).await?;
        self.side().given(partition, decoded.events.range.end());
        topic.wake();
        Ok(vec![match self.holds {
            Holds::Events => decoded.events,
            Holds::DeadLetters => decoded.dead_letters,
        }])
    }

    async fn trim(&self, before: &Position) -> Result<()> {
        self.side().trim(before);
        if self.holds == Holds::Events {
            self.running.topic.commit_to_group(before);
        }
        Ok(())
    }

    async fn begin_at(&self, end: &Position) -> Result<()> {
        self.side().begin_at(end);
        self.running.topic.start_if_ready()
    }

    async fn accepted(&self) -> Result<Position> {
        let topic = &self.running.topic;
        if topic.is_troubled() {
            // It would only be waited for.
            return Ok(self.end().borrow().clone());
        }
        let ends = ask(topic, "asking for a topic's end", |topic| topic.ends()).await?;
        topic.want(&ends);
        let mut end = self.end();
        loop {
            let reached = end.borrow_and_update().clone();
            let is_reached = |(partition, end)| reached.get(partition) >= end || topic.is_halted(partition);
            // What cannot be read now would be waited for without end.
            if ends.iter().all(is_reached) || topic.is_troubled() {
                return Ok(reached);
            }
            tokio::select! {
                changed = end.changed() => if changed.is_err() { return Ok(reached) },
                () = sleep(TROUBLE_INTERVAL) => {}
            }
        }
    }

    fn known_end(&self) -> Position {
        let mut end = self.side().end().borrow().clone();
        for (partition, offset) in self.running.topic.reports().ends() {
            end.raise(partition, offset);
        }
        end
    }

    fn troubles(&self) -> Vec<String> {
        match self.holds {
            Holds::Events => self.running.topic.troubles(),
            Holds::DeadLetters => Vec::new(),
        }
    }
}
