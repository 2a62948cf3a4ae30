//! Events that the views have and the history has not: those of each cut that waits for its commit, and those since.
//!
//! All of them are in the log. As many as fit `history.unarchived_bytes_max` are also kept in memory, from where their
//! commit takes them; the others are read from the log again when their turn comes. So a store that fails for hours
//! costs disk and no memory, and never keeps the views from going on.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use arrow::array::RecordBatch;
use watershed_batch_layer::{Append, HistoryWriter};
use watershed_shared::error::Error as LogError;
use watershed_shared::fault;
use watershed_shared::log::Log;
use watershed_shared::position::{Gap, Offset, Position};
use watershed_shared::source::SourceDefinition;
use watershed_shared::telemetry::{Metrics, OperationLabel, SourceLabel};
use watershed_shared::time::sleep;

use super::failure::Failure;
use crate::error::{Result, with_causes};

/// Cuts for which there is memory: one that is being committed, one that comes next, and the one that is filling.
const CUTS_IN_MEMORY: usize = 4;
/// Rows that are read from the log at once.
const READ_ROWS_MAX: usize = 65_536;

/// Events of one source that the history has not.
#[derive(Debug)]
pub(super) struct Unarchived {
    bytes_max: usize,
    rows_target: usize,
    /// What was cut and is not committed, oldest first.
    cuts: VecDeque<Arc<Cut>>,
    /// What came since the last cut.
    open: Kept,
    /// Of all batches in memory.
    bytes: usize,
}

/// Events that are in memory, or were too many for it.
#[derive(Debug, Default)]
struct Kept {
    batches: Vec<RecordBatch>,
    rows: usize,
    bytes: usize,
    /// Whether the batches are not all of the events, or none.
    in_log_only: bool,
}

/// The events between two cuts.
#[derive(Debug)]
pub(super) struct Cut {
    /// Without batches when they are in the log only.
    append: Append,
    rows: usize,
    bytes: usize,
    in_log_only: bool,
}

impl Unarchived {
    /// Nothing yet. A cut is large from `rows_target` events on, and all of them keep at most `bytes_max` bytes.
    pub(super) fn new(rows_target: usize, bytes_max: usize) -> Unarchived {
        Unarchived { bytes_max, rows_target, cuts: VecDeque::new(), open: Kept::default(), bytes: 0 }
    }

    /// Takes events that the views have now.
    pub(super) fn push(&mut self, batches: Vec<RecordBatch>) {
        self.open.rows += batches.iter().map(RecordBatch::num_rows).sum::<usize>();
        let bytes = batches.iter().map(RecordBatch::get_array_memory_size).sum::<usize>();
        // It counts also when the batches are not kept, so that what is read again at once stays as small.
        self.open.bytes += bytes;
        if self.open.in_log_only {
            return;
        }
        self.bytes += bytes;
        self.open.batches.extend(batches);
        if self.bytes > self.bytes_max {
            self.bytes -= self.open.bytes;
            self.open.batches = Vec::new();
            self.open.in_log_only = true;
        }
    }

    /// Whether events came since the last cut.
    pub(super) fn has_open(&self) -> bool {
        self.open.rows > 0
    }

    /// Whether there are enough events since the last cut for a commit of their own.
    pub(super) fn is_large(&self) -> bool {
        let bytes_target = self.bytes_max / CUTS_IN_MEMORY;
        self.has_open() && (self.open.rows >= self.rows_target || self.open.bytes >= bytes_target)
    }

    /// Closes what came since the last cut, which lacks the events of `gaps`.
    pub(super) fn cut(&mut self, start: Position, end: Position, max_event_times_us: Vec<Option<i64>>, gaps: Vec<Gap>) {
        let Kept { batches, rows, bytes, in_log_only } = std::mem::take(&mut self.open);
        let bytes = if in_log_only { 0 } else { bytes };
        let append = Append { batches, start, end, max_event_times_us, gaps };
        self.cuts.push_back(Arc::new(Cut { append, rows, bytes, in_log_only }));
    }

    /// The cut whose commit comes next, or is under way.
    pub(super) fn oldest(&self) -> Option<&Arc<Cut>> {
        self.cuts.front()
    }

    /// The history has the oldest cut; where that ends.
    pub(super) fn committed(&mut self) -> Option<Position> {
        let cut = self.cuts.pop_front()?;
        self.bytes -= cut.bytes;
        Some(cut.append.end.clone())
    }
}

/// What commits of one source work with.
#[derive(Debug, Clone)]
pub(super) struct Committer {
    pub(super) source: Arc<SourceDefinition>,
    pub(super) log: Arc<dyn Log>,
    pub(super) writer: Arc<HistoryWriter>,
    pub(super) metrics: Metrics,
    pub(super) failure: Failure,
}

impl Committer {
    /// Commits until it succeeds: the events are durable in the log, so time is all that a failing store costs.
    pub(super) async fn commit_until_done(&self, cut: &Cut) {
        let label = SourceLabel { source: self.source.name.clone() };
        let operation = OperationLabel { operation: "history_commit" };
        let mut pause = Duration::from_millis(100);
        if fault::has_defect("history.trim_before_commit") {
            let _ = self.log.trim(&cut.append.end).await;
        }
        while let Err(error) = self.commit(cut).await {
            self.metrics.history_commit_failures.get_or_create(&label).inc();
            self.metrics.store_failures.get_or_create(&operation).inc();
            let error = with_causes(&error);
            tracing::error!(
                source = label.source,
                error,
                events = cut.append.end.events_since(&cut.append.start),
                retry_in_ms = pause.as_millis() as u64,
                "cannot commit events to the history; they stay in the log"
            );
            self.failure.set(Some(error));
            sleep(pause).await;
            pause = (pause * 2).min(Duration::from_secs(30));
        }
        self.failure.set(None);
    }

    async fn commit(&self, cut: &Cut) -> Result<()> {
        match cut.in_log_only {
            false => self.writer.append(&cut.append).await?,
            true => self.writer.append(&self.read_again(&cut.append, cut.rows).await?).await?,
        };
        Ok(())
    }

    /// The append with its events, from the log, which must still have as many as the views have.
    async fn read_again(&self, append: &Append, rows: usize) -> Result<Append> {
        let mut batches = Vec::new();
        for (partition, end) in append.end.iter() {
            let mut from = append.start.get(partition);
            while from < end {
                let read = self.log.read(partition, from, READ_ROWS_MAX).await?;
                if read.is_empty() {
                    let reason = format!("it ends at offset {from} of partition {partition}, before {end}");
                    return Err(LogError::Log { action: "read", name: self.source.name.clone(), reason }.into());
                }
                for batch in read {
                    from = batch.range.end();
                    if batch.is_lost() {
                        continue;
                    }
                    batches.push(batch.between(Offset::BEGINNING, end).with_system_columns(&self.source.event_schema)?);
                }
            }
        }
        let found: usize = batches.iter().map(RecordBatch::num_rows).sum();
        if found != rows {
            let reason = format!(
                "it has {found} events from {} to {} now, but {rows} when the views read them; was the topic compacted?",
                append.start, append.end
            );
            return Err(LogError::Log { action: "read", name: self.source.name.clone(), reason }.into());
        }
        Ok(Append { batches, ..append.clone() })
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test may panic")]

    use arrow::array::{ArrayRef, Int64Array};

    use super::*;

    fn batch() -> RecordBatch {
        let numbers: ArrayRef = Arc::new(Int64Array::from_iter_values(0..100));
        RecordBatch::try_from_iter([("n", numbers)]).unwrap()
    }

    fn cut(unarchived: &mut Unarchived) {
        unarchived.cut(Position::default(), Position::default(), Vec::new(), Vec::new());
    }

    #[test]
    fn events_beyond_the_memory_are_left_to_the_log() {
        let bytes = batch().get_array_memory_size();
        let mut unarchived = Unarchived::new(1_000_000, 3 * bytes);
        assert!(!unarchived.has_open() && !unarchived.is_large());
        unarchived.push(vec![batch(), batch()]);
        assert!(unarchived.is_large(), "it has more than its share of the memory");
        cut(&mut unarchived);
        unarchived.push(vec![batch()]);
        unarchived.push(vec![batch()]);
        unarchived.push(vec![batch()]);
        assert_eq!(unarchived.bytes, 2 * bytes, "the first cut stays, the second has become too large");
        assert!(unarchived.has_open() && unarchived.is_large());
        cut(&mut unarchived);
        unarchived.push(vec![batch()]);
        cut(&mut unarchived);
        assert_eq!(unarchived.bytes, 3 * bytes, "the third fits again");

        let mut committed = Vec::new();
        while let Some(oldest) = unarchived.oldest() {
            committed.push((oldest.append.batches.len(), oldest.in_log_only));
            unarchived.committed();
        }
        assert_eq!(committed, [(2, false), (0, true), (1, false)]);
        assert_eq!(unarchived.bytes, 0);
    }

    #[test]
    fn enough_events_make_a_cut_large() {
        let mut unarchived = Unarchived::new(250, usize::MAX);
        unarchived.push(vec![batch(), batch()]);
        assert!(!unarchived.is_large());
        unarchived.push(vec![batch()]);
        assert!(unarchived.is_large());
    }
}
