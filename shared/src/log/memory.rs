//! A log in memory, for tests and simulations. It keeps everything until it is trimmed and loses it when dropped.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use arrow::array::RecordBatch;
use arrow::datatypes::SchemaRef;
use async_trait::async_trait;
use tokio::sync::watch;

use super::tail::Tail;
use super::{Log, check_partition, check_readable, checked_batches, move_end};
use crate::error::{Error, Result};
use crate::event::LogBatch;
use crate::position::{Offset, OffsetRange, PartitionId, Position};
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
}

#[async_trait]
impl Log for MemoryLog {
    fn partitions(&self) -> u32 {
        self.partitions
    }

    async fn append(&self, ingested_at_us: i64, batches: Vec<(PartitionId, RecordBatch)>) -> Result<Position> {
        let batches = checked_batches(&self.columns, self.partitions, batches)?;
        let mut written = Position::beginning(self.partitions);
        let end = {
            let mut state = self.state();
            if state.is_closed {
                return Err(Error::LogClosed { name: self.source.clone() });
            }
            for (partition, events) in batches {
                let start = state.end.get(partition);
                let range = OffsetRange::new(start, start.advance(events.num_rows()));
                state.batches.push(LogBatch { partition, range, ingested_at_us, events });
                state.end.raise(partition, range.end());
                written.raise(partition, range.end());
            }
            state.end.clone()
        };
        move_end(&self.end, &end);
        Ok(written)
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

#[cfg(test)]
mod tests {
    use super::super::conformance::{self, LogFactory};
    use super::*;

    struct MemoryLogs;

    #[async_trait]
    impl LogFactory for MemoryLogs {
        async fn create(&self, source: &SourceDefinition) -> Result<Arc<dyn Log>> {
            Ok(Arc::new(MemoryLog::new(source)))
        }

        async fn reopen(&self, _source: &SourceDefinition, _log: Arc<dyn Log>) -> Result<Option<Arc<dyn Log>>> {
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
