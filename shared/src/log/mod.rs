//! The log port: where accepted events wait, in order and durably, until the history has them.
//!
//! A log has a fixed number of partitions; each holds events at consecutive offsets from 0. `append` returns after the
//! events are durable, so an acknowledgement may follow. Dispatch watches `end` and reads from the offsets it knows;
//! the log keeps no reader state. `trim` forgets what the history has committed and never anything else.

use arrow::array::RecordBatch;
use async_trait::async_trait;
use tokio::sync::watch;

use crate::error::Result;
use crate::event::LogBatch;
use crate::position::{Offset, PartitionId, Position};

/// A source's log. Implementations are shared between tasks and run the suite of `conformance`.
#[async_trait]
pub trait Log: std::fmt::Debug + Send + Sync {
    /// Number of partitions.
    fn partitions(&self) -> u32;

    /// Appends batches of the source's declared columns and returns when they are durable.
    ///
    /// All batches of one call become durable together or not at all. The answer is the next offset of each partition
    /// written to; other partitions are at 0 in it. Batches of one partition keep their order. Empty batches are legal.
    ///
    /// # Errors
    /// `Retryable` when the store refuses or the log is closed; nothing of the call was appended then.
    async fn append(&self, ingested_at_us: i64, batches: Vec<(PartitionId, RecordBatch)>) -> Result<Position>;

    /// The durable end of each partition; changes after every append, in no smaller steps than appends.
    fn end(&self) -> watch::Receiver<Position>;

    /// First offset of each partition that can still be read.
    fn start(&self) -> Position;

    /// Events of one partition from `from` on, in order, without gaps: whole stored batches (the first cut to start at
    /// `from`) until at least `rows_max` rows are there or the end is reached. Empty at the end.
    ///
    /// # Errors
    /// `Corrupt` when a block does not decode; `Retryable` when `from` was trimmed or the store refuses.
    async fn read(&self, partition: PartitionId, from: Offset, rows_max: usize) -> Result<Vec<LogBatch>>;

    /// Forgets events below `before`. Keeping more than asked is legal; losing more is not.
    async fn trim(&self, before: &Position) -> Result<()>;
}
