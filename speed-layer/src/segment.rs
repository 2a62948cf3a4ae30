//! Segments and their runs.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use arrow::array::{Array, ArrayData, RecordBatch};
use arrow::compute::concat_batches;
use arrow::datatypes::SchemaRef;
use watershed_shared::error::Result;
use watershed_shared::plan::RowSource;
use watershed_shared::position::Position;

use crate::checkpoint::RunFile;

/// A batch of a run has at most about as many bytes: Arrow's offsets of strings and lists end at two GiB.
const BATCH_BYTES_MAX: usize = 1 << 30;

/// Numbers of runs are never used again: not in a process, so that a compaction cannot mistake another run for its input,
/// and not for runs that came from a checkpoint, whose files they name.
static NEXT_RUN_ID: AtomicU64 = AtomicU64::new(0);

/// Immutable state rows of some events. A multiset: keys may repeat.
#[derive(Debug, Clone)]
pub struct Run {
    pub(crate) id: u64,
    states: RunStates,
    rows: usize,
    bytes: usize,
}

/// Where a run's states are.
#[derive(Debug, Clone)]
enum RunStates {
    Memory(Arc<[RecordBatch]>),
    Disk(RunFile),
}

/// The states of some runs.
#[derive(Debug, Default)]
pub struct RealtimeStates {
    /// Those in memory.
    pub batches: Vec<RecordBatch>,
    /// Those on disk, with their numbers of rows.
    pub files: Vec<(Arc<dyn RowSource>, usize)>,
}

impl Run {
    /// Packs state rows into a new run; `None` when there are no rows.
    pub(crate) fn pack(schema: &SchemaRef, states: &[RecordBatch]) -> Result<Option<Run>> {
        // Aggregation emits slices that share one large buffer; packing keeps only what the rows need.
        let mut packed = Vec::new();
        let mut group = Vec::new();
        let mut group_bytes = 0;
        for batch in states.iter().filter(|batch| batch.num_rows() > 0) {
            let bytes = used_bytes(batch);
            if !group.is_empty() && group_bytes + bytes > BATCH_BYTES_MAX {
                packed.push(concat_batches(schema, &group)?);
                group.clear();
                group_bytes = 0;
            }
            group.push(batch.clone());
            group_bytes += bytes;
        }
        if !group.is_empty() {
            packed.push(concat_batches(schema, &group)?);
        }
        let id = NEXT_RUN_ID.fetch_add(1, Ordering::Relaxed);
        Ok((!packed.is_empty()).then(|| Run::of(id, packed)))
    }

    /// A run that has its number already.
    pub(crate) fn of(id: u64, states: Vec<RecordBatch>) -> Run {
        NEXT_RUN_ID.fetch_max(id + 1, Ordering::Relaxed);
        let rows = states.iter().map(RecordBatch::num_rows).sum();
        let bytes = states.iter().map(used_bytes).sum();
        Run { id, states: RunStates::Memory(states.into()), rows, bytes }
    }

    /// A run whose states stay on disk.
    pub(crate) fn stored(file: RunFile) -> Run {
        NEXT_RUN_ID.fetch_max(file.id() + 1, Ordering::Relaxed);
        Run { id: file.id(), rows: file.rows(), bytes: file.bytes(), states: RunStates::Disk(file) }
    }

    /// The state rows, if they are in memory.
    pub fn states(&self) -> Option<&[RecordBatch]> {
        match &self.states {
            RunStates::Memory(states) => Some(states),
            RunStates::Disk(_) => None,
        }
    }

    /// Whether the state rows are in memory.
    pub fn is_in_memory(&self) -> bool {
        self.states().is_some()
    }

    /// Number of state rows.
    pub fn rows(&self) -> usize {
        self.rows
    }

    /// Bytes of the Arrow buffers, or of the file.
    pub fn bytes(&self) -> usize {
        self.bytes
    }
}

/// Bytes that the rows of `batch` need, whatever the buffers that they are slices of hold besides.
fn used_bytes(batch: &RecordBatch) -> usize {
    let of_column = |data: ArrayData| data.get_slice_memory_size().unwrap_or_else(|_| data.get_buffer_memory_size());
    batch.columns().iter().map(|column| of_column(column.to_data())).sum()
}

/// The states of the events between two cuts, `[start, end)` in every partition.
#[derive(Debug, Clone)]
pub struct Segment {
    /// Position of the first event.
    pub start: Position,
    /// Position after the last event; grows while the segment is open.
    pub end: Position,
    /// States of the segment's events, oldest first.
    pub runs: Vec<Run>,
}

impl Segment {
    pub(crate) fn open_at(start: Position) -> Segment {
        Segment { end: start.clone(), start, runs: Vec::new() }
    }

    /// Adds the states of all runs to `states`.
    pub(crate) fn add_states(&self, states: &mut RealtimeStates) {
        for run in &self.runs {
            match &run.states {
                RunStates::Memory(batches) => states.batches.extend(batches.iter().cloned()),
                RunStates::Disk(file) => states.files.push((Arc::new(file.clone()), file.rows())),
            }
        }
    }

    /// Whether no event has reached the segment.
    pub fn is_empty(&self) -> bool {
        self.start == self.end
    }
}
