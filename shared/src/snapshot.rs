//! What an answer is made of: one immutable snapshot of all views of a source.
//!
//! The platform publishes a snapshot by swapping one pointer, so a query sees either everything of a step (a micro-batch,
//! a new batch version) or nothing of it, and all views of a source at the same position. A query holds its snapshot from
//! start to end; what the snapshot refers to stays readable as long.

use std::collections::BTreeMap;
use std::sync::Arc;

use arrow::array::RecordBatch;
use tokio::sync::watch;

use crate::plan::{RowSource, StateParts, ViewPlan};
use crate::position::{BatchVersion, Boundary, Gap, PartitionId, Position};
use crate::source::SourceDefinition;

/// The latest snapshot of a source, and a way to wait for a later one.
pub type SnapshotReceiver = watch::Receiver<Arc<SourceSnapshot>>;

/// All views of one source at one position.
#[derive(Debug)]
pub struct SourceSnapshot {
    /// The source.
    pub source: Arc<SourceDefinition>,
    /// Every event below is in every view; no event at or above is in any.
    pub applied: Position,
    /// Event time before which no more events are expected; microseconds since the epoch.
    pub watermark_us: Option<i64>,
    /// Partitions that have had no event with a time: the watermark says nothing of them.
    pub timeless: Vec<PartitionId>,
    /// Offsets below `applied` whose events, if there were any, the log lost.
    pub gaps: Vec<Gap>,
    /// The views that can be asked, by name.
    pub views: BTreeMap<String, ViewSnapshot>,
    /// Views that have stopped because their SQL fails on an event, with the reason.
    pub failures: BTreeMap<String, String>,
}

/// One view at its source's position.
#[derive(Debug, Clone)]
pub struct ViewSnapshot {
    /// The view's plans.
    pub plan: Arc<ViewPlan>,
    /// The batch view, if one has been published.
    pub batch: Option<BatchPart>,
    /// What the batch view covers; the runs hold everything from here to the source's position.
    pub boundary: Boundary,
    /// Realtime states from the boundary on, in memory.
    pub runs: Vec<RecordBatch>,
    /// Realtime states from the boundary on, on disk; with their numbers of rows.
    pub stored_runs: Vec<(Arc<dyn RowSource>, usize)>,
    /// Size of the realtime view, superseded segments included.
    pub realtime: RealtimeSize,
}

/// A published batch view.
#[derive(Debug, Clone)]
pub struct BatchPart {
    /// Its number.
    pub version: BatchVersion,
    /// Its state rows, in the view's stored schema.
    pub states: Arc<dyn RowSource>,
    /// Number of state rows.
    pub rows: usize,
    /// Number of state files.
    pub files: usize,
    /// Size of the state files in bytes.
    pub bytes: u64,
}

/// How much a realtime view holds.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct RealtimeSize {
    /// Segments, the open one included.
    pub segments: usize,
    /// Runs in all segments.
    pub runs: usize,
    /// State rows in all runs; a key may occur in several.
    pub rows: usize,
    /// Bytes of Arrow buffers in memory.
    pub bytes: usize,
    /// Bytes of runs that are on disk only.
    pub stored_bytes: usize,
}

impl ViewSnapshot {
    /// The damage that a query has met in the batch view, if any.
    pub fn damage(&self) -> Option<&str> {
        self.batch.as_ref().and_then(|batch| batch.states.damage())
    }

    /// The state rows of an answer: the batch view below the boundary and the runs from it on.
    pub fn parts(&self) -> StateParts {
        let batch = self.batch.as_ref().map(|batch| (Arc::clone(&batch.states), batch.rows));
        StateParts { batch, runs: self.runs.clone(), stored_runs: self.stored_runs.clone() }
    }
}
