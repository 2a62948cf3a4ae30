//! A log in memory, for tests and simulations. It keeps everything until it is trimmed and loses it when dropped.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use arrow::array::RecordBatch;
use arrow::datatypes::SchemaRef;
use async_trait::async_trait;
use tokio::sync::watch;

use super::receipt::{MemoryReceipts, Window, recall};
use super::tail::Tail;
use super::{
    AppendLog, Appended, Log, RECEIPT_WINDOW, Receipt, check_partition, check_readable, checked_batches, move_end,
};
use crate::error::{Error, Result};
use crate::event::LogBatch;
use crate::position::{Offset, PartitionId, Position};
use crate::source::SourceDefinition;

/// A log without a disk. Every operation is done when its future is first polled.
#[derive(Debug)]
pub struct MemoryLog {
    source: String,
    columns: SchemaRef,
    partitions: u32,
    end: watch::Sender<Position>,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    start: Position,
    end: Position,
    batches: Tail,
    receipts: MemoryReceipts,
    is_closed: bool,
}

impl MemoryLog {
    /// An empty log of the source.
    pub fn new(source: &SourceDefinition) -> MemoryLog {
        let beginning = Position::beginning(source.partitions);
        MemoryLog {
            source: source.name.clone(),
            columns: Arc::clone(&source.columns),
            partitions: source.partitions,
            end: watch::Sender::new(beginning.clone()),
            state: Mutex::new(State {
                start: beginning.clone(),
                end: beginning,
                batches: Tail::new(source.partitions, usize::MAX),
                receipts: MemoryReceipts::default(),
                is_closed: false,
            }),
        }
    }

    /// Refuses appends from now on; what is there can still be read.
    pub fn close(&self) {
        self.state().is_closed = true;
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The state, unless appends are refused.
    fn open_state(&self) -> Result<MutexGuard<'_, State>> {
        let state = self.state();
        if state.is_closed { Err(Error::LogClosed { name: self.source.clone() }) } else { Ok(state) }
    }

    /// Moves the end; nothing is locked then, because who borrows the end may ask for the start meanwhile.
    fn publish(&self, state: MutexGuard<'_, State>) {
        let end = state.end.clone();
        drop(state);
        move_end(&self.end, &end);
    }
}

impl State {
    fn append(&mut self, partitions: u32, ingested_at_us: i64, batches: Vec<(PartitionId, RecordBatch)>) -> Position {
        let mut written = Position::beginning(partitions);
        for (partition, events) in batches {
            let batch = LogBatch::consecutive(partition, self.end.get(partition), ingested_at_us, events);
            self.end.raise(partition, batch.range.end());
            written.raise(partition, batch.range.end());
            self.batches.push(batch);
        }
        written
    }
}

#[async_trait]
impl Log for MemoryLog {
    fn partitions(&self) -> u32 {
        self.partitions
    }

    fn end(&self) -> watch::Receiver<Position> {
        self.end.subscribe()
    }

    fn start(&self) -> Position {
        self.state().start.clone()
    }

    async fn read(&self, partition: PartitionId, from: Offset, rows_max: usize) -> Result<Vec<LogBatch>> {
        check_partition(self.partitions, partition)?;
        let state = self.state();
        check_readable(&self.source, partition, from, &state.start, &state.end)?;
        Ok(state.batches.read(partition, from, rows_max).unwrap_or_default())
    }

    async fn trim(&self, before: &Position) -> Result<()> {
        let mut state = self.state();
        let end = state.end.clone();
        for (partition, end) in end.iter() {
            let before = before.get(partition).min(end);
            state.start.raise(partition, before);
            state.batches.trim(partition, before);
        }
        Ok(())
    }
}

#[async_trait]
impl AppendLog for MemoryLog {
    async fn append(&self, ingested_at_us: i64, batches: Vec<(PartitionId, RecordBatch)>) -> Result<Position> {
        let batches = checked_batches(&self.columns, self.partitions, batches)?;
        let mut state = self.open_state()?;
        let written = state.append(self.partitions, ingested_at_us, batches);
        self.publish(state);
        Ok(written)
    }

    async fn append_once(
        &self,
        ingested_at_us: i64,
        batches: Vec<(PartitionId, RecordBatch)>,
        receipt: Receipt,
    ) -> Result<Appended> {
        let batches = checked_batches(&self.columns, self.partitions, batches)?;
        let mut state = self.open_state()?;
        let window = Window::from(RECEIPT_WINDOW);
        state.receipts.forget(window, ingested_at_us);
        if let Some(known) = recall(&state.receipts, &receipt, window, ingested_at_us)? {
            return Ok(known);
        }
        let written = state.append(self.partitions, ingested_at_us, batches);
        state.receipts.insert(receipt, ingested_at_us, written.clone());
        self.publish(state);
        Ok(Appended::Now(written))
    }
}

#[cfg(test)]
mod tests {
    use super::super::conformance::{self, LogFactory};
    use super::*;

    struct MemoryLogs;

    #[async_trait]
    impl LogFactory for MemoryLogs {
        async fn create(&self, source: &SourceDefinition) -> Result<Arc<dyn AppendLog>> {
            Ok(Arc::new(MemoryLog::new(source)))
        }

        async fn reopen(
            &self,
            _source: &SourceDefinition,
            _log: Arc<dyn AppendLog>,
        ) -> Result<Option<Arc<dyn AppendLog>>> {
            Ok(None)
        }
    }

    #[tokio::test]
    async fn memory_log_keeps_the_rules_of_the_port() -> Result<()> {
        conformance::check_all(&MemoryLogs).await
    }

    #[tokio::test]
    async fn closed_log_refuses_appends_and_still_answers_reads() -> Result<()> {
        let source = conformance::source("closed", 1);
        let log = MemoryLog::new(&source);
        log.append(1, vec![(PartitionId(0), conformance::events(0..3))]).await?;
        log.close();
        let refused = log.append(2, vec![(PartitionId(0), conformance::events(3..4))]).await;
        assert!(matches!(refused, Err(Error::LogClosed { .. })), "{refused:?}");
        assert_eq!(log.read(PartitionId(0), Offset(0), 10).await?.len(), 1);
        Ok(())
    }
}
