//! The log port: where accepted events wait, in order and durably, until the history has them.
//!
//! Each partition holds events at rising offsets; those of our own logs are consecutive from 0. `append` returns after the
//! events are durable, so an acknowledgement may follow. Dispatch watches `end` and reads from the offsets it knows;
//! the log keeps no reader state. `trim` forgets what the history has committed and never anything else. `append_once`
//! recognizes requests that are repeated, by receipts that the log stores together with their events.
//!
//! A `Partitioner` splits decoded events before they are appended. `EmbeddedLog` keeps them in RocksDB, `MemoryLog` in
//! memory for tests and simulations, `KafkaTopic` reads them from a topic that others write; `conformance` is the suite that
//! every implementation runs.

use std::sync::Arc;

use arrow::array::RecordBatch;
use arrow::datatypes::SchemaRef;
use arrow::error::ArrowError;
use async_trait::async_trait;
use tokio::sync::watch;

use crate::error::{Error, Result};
use crate::event::LogBatch;
use crate::position::{Offset, PartitionId, Position};

mod block;
pub mod conformance;
mod embedded;
pub(crate) mod kafka;
mod key;
mod memory;
mod partition;
mod receipt;
mod tail;

pub use embedded::{EmbeddedLog, LogDamage, LogPartition, LogReport, LogStore, LogStoreOptions};
pub use kafka::{KafkaLog, KafkaTopic, KnownRecord, TopicProducer, Without, send_again};
pub use memory::MemoryLog;
pub use partition::{Partitioner, can_partition_by};
pub use receipt::{Appended, RECEIPT_WINDOW, Receipt, ReceiptKey};

/// A source's log, as dispatch reads it. Implementations are shared between tasks and run the suite of `conformance`.
#[async_trait]
pub trait Log: std::fmt::Debug + Send + Sync {
    /// Number of partitions; a log may get more.
    fn partitions(&self) -> u32;

    /// The end of what can be read of each partition now; all of it is durable. Changes in no smaller steps than appends.
    fn end(&self) -> watch::Receiver<Position>;

    /// First offset of each partition that can still be read.
    fn start(&self) -> Position;

    /// Events of one partition from `from` on, in order, without gaps: whole stored batches (the first cut to start at
    /// `from`) until at least `rows_max` rows (at least one) are there, or so many bytes that more should not be in memory
    /// at once, or the end is reached. Empty at the end.
    ///
    /// # Errors
    /// `Corrupt` when a block does not decode or is missing; `Retryable` when `from` was trimmed or lies beyond the end
    /// (a reader that is ahead of its log must not wait in silence for offsets that would then be given twice), or the
    /// store refuses; `Internal` when the partition is not there.
    async fn read(&self, partition: PartitionId, from: Offset, rows_max: usize) -> Result<Vec<LogBatch>>;

    /// Forgets events below `before`; a `before` beyond the end counts as the end, one below the start changes nothing.
    ///
    /// Keeping more than asked is legal; losing more is not. Offsets are never given again, also when nothing is left.
    async fn trim(&self, before: &Position) -> Result<()>;

    /// Where a source begins that has no history yet.
    ///
    /// # Errors
    /// `Retryable` when the log is elsewhere and cannot be reached.
    async fn beginning(&self) -> Result<Position> {
        Ok(self.start())
    }

    /// Says where the history ends, before anything is read: a log that is elsewhere is fetched from there on.
    ///
    /// # Errors
    /// `Retryable` when the system refuses what that needs.
    async fn begin_at(&self, _end: &Position) -> Result<()> {
        Ok(())
    }

    /// A position that covers everything accepted before the call. `end` reaches it, but perhaps not yet.
    ///
    /// # Errors
    /// `Retryable` when the log is elsewhere and cannot be reached.
    async fn accepted(&self) -> Result<Position> {
        Ok(self.end().borrow().clone())
    }

    /// As `accepted`, as far as this process knows without asking anybody.
    fn known_end(&self) -> Position {
        self.end().borrow().clone()
    }

    /// What keeps events from being read, a sentence each, with what to do.
    fn troubles(&self) -> Vec<String> {
        Vec::new()
    }
}

/// A log that takes events.
#[async_trait]
pub trait AppendLog: Log {
    /// Appends batches of the source's declared columns and returns when they are durable.
    ///
    /// All batches of one call become durable together or not at all, also when the caller drops the future: then the
    /// events may be there or not, but never half of them. The answer is the next offset of each partition written to;
    /// other partitions are at 0 in it. Batches of one partition keep their order. Empty batches are legal.
    ///
    /// Consecutive batches of a partition that carry the same `ingested_at_us` may be stored as one, so callers that
    /// stamp in whole milliseconds make the blocks of many small concurrent appends larger.
    ///
    /// # Errors
    /// `Retryable` when the store refuses or the log is closed; nothing of the call can be read then, but if the store
    /// failed, events that were not acknowledged may be there after a restart. `Internal` when a batch does not have
    /// the source's columns or names a partition that is not there; nothing of the call was appended then.
    async fn append(&self, ingested_at_us: i64, batches: Vec<(PartitionId, RecordBatch)>) -> Result<Position>;

    /// Appends like `append`, unless the log remembers a request with the receipt's key; then it appends nothing and
    /// says what it remembers. What "appended before" and "in order" mean, [`Appended`] and [`ReceiptKey`] say.
    ///
    /// The receipt becomes durable together with the events or not at all, also when there are no events. It is
    /// remembered for the log's window and then forgotten, by the times that calls name as `ingested_at_us`: no log
    /// reads the clock. Of calls with the same key that run at the same time, one is appended; the others are answered
    /// when that one is durable.
    ///
    /// # Errors
    /// As `append`; `Corrupt` when a receipt of this key does not decode, and nothing of the call was appended then.
    async fn append_once(
        &self,
        ingested_at_us: i64,
        batches: Vec<(PartitionId, RecordBatch)>,
        receipt: Receipt,
    ) -> Result<Appended>;
}

/// About as many bytes of one partition are read at once, at most; one stored batch is never divided. So a reader's
/// memory is bounded whatever the size of rows.
const READ_BYTES_TARGET: usize = 16 << 20;

/// Decodes a stored block and its schema message, outside of any log: for checks of what damaged bytes lead to.
///
/// # Errors
/// `Corrupt`, unless every byte is as it was written.
#[doc(hidden)]
pub fn decode_block(block: &[u8], schema: &[u8]) -> Result<RecordBatch> {
    let key = key::BlockKey { source: "", partition: PartitionId(0), base: Offset::BEGINNING };
    let block = block::Block::open(key, block)?;
    block.decode(block::BlockSchema::load(block.schema(), Some(schema), key)?)
}

/// What every `append` checks before it writes: partitions exist and batches have the source's columns. Answers the
/// batches that are not empty, in order, under the schema `columns` itself.
fn checked_batches(
    columns: &SchemaRef,
    partitions: u32,
    batches: Vec<(PartitionId, RecordBatch)>,
) -> Result<Vec<(PartitionId, RecordBatch)>> {
    let mut checked = Vec::with_capacity(batches.len());
    for (partition, batch) in batches {
        check_partition(partitions, partition)?;
        let batch = if batch.schema_ref() == columns { batch } else { batch.with_schema(Arc::clone(columns))? };
        if batch.num_rows() > 0 {
            checked.push((partition, batch));
        }
    }
    Ok(checked)
}

/// Refuses a partition that the log does not have; a bug of the caller.
fn check_partition(partitions: u32, partition: PartitionId) -> Result<()> {
    if partition.0 < partitions {
        return Ok(());
    }
    let reason = format!("partition {partition} is not there: the log has {partitions} partitions, from 0");
    Err(ArrowError::InvalidArgumentError(reason).into())
}

/// Refuses to read what was trimmed and what was never written.
fn check_readable(source: &str, partition: PartitionId, from: Offset, start: &Position, end: &Position) -> Result<()> {
    let (start, end) = (start.get(partition), end.get(partition));
    let reason = if from < start {
        format!("offset {from} of partition {partition} was trimmed; the first one left is {start}")
    } else if from > end {
        format!(
            "offset {from} of partition {partition} is beyond the log's end {end}; the log has lost events or is another one"
        )
    } else {
        return Ok(());
    };
    Err(Error::Log { action: "read", name: source.to_owned(), reason })
}

/// Raises the published end; wakes its watchers only when it moves.
fn move_end(published: &watch::Sender<Position>, end: &Position) {
    published.send_if_modified(|published| {
        let moves = !published.covers(end);
        published.join(end);
        moves
    });
}
