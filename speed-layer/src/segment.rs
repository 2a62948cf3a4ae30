//! Segments and their runs.

use arrow::array::RecordBatch;
use arrow::compute::concat_batches;
use arrow::datatypes::SchemaRef;
use watershed_shared::error::Result;
use watershed_shared::position::Position;

/// Immutable state rows of some events. A multiset: keys may repeat.
#[derive(Debug, Clone)]
pub struct Run {
    /// Distinguishes the runs of one realtime view; grows with age of the youngest event in the run.
    pub(crate) id: u64,
    states: RecordBatch,
    bytes: usize,
}

impl Run {
    /// Packs state rows into one run; `None` when there are no rows.
    pub(crate) fn pack(id: u64, schema: &SchemaRef, states: &[RecordBatch]) -> Result<Option<Run>> {
        // Aggregation emits slices that share one large buffer; packing keeps only what the rows need.
        let states = concat_batches(schema, states)?;
        if states.num_rows() == 0 {
            return Ok(None);
        }
        Ok(Some(Run { id, bytes: states.get_array_memory_size(), states }))
    }

    /// The state rows.
    pub fn states(&self) -> &RecordBatch {
        &self.states
    }

    /// Number of state rows.
    pub fn rows(&self) -> usize {
        self.states.num_rows()
    }

    /// Bytes of the Arrow buffers.
    pub fn bytes(&self) -> usize {
        self.bytes
    }
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

    /// Whether no event has reached the segment.
    pub fn is_empty(&self) -> bool {
        self.start == self.end
    }
}
