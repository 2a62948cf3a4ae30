//! Merging runs, so that memory and query time follow the number of distinct keys and not the number of events.
//!
//! 1. [`Compaction::choose`] looks at a segment's runs from the youngest to the oldest and takes a suffix whose sizes are
//!    alike: a run joins while it is at most twice as large as all younger ones together. So each state row is merged
//!    about log(rows) times before it rests.
//! 2. [`Compaction::run`] merges them off the hot path; the runs themselves stay as they are for their readers.
//! 3. `RealtimeView::install` swaps the merged run for its inputs, unless they have been released meanwhile.

use std::sync::Arc;

use datafusion::execution::TaskContext;
use watershed_shared::error::Result;
use watershed_shared::plan::{MemoryRows, ViewPlan};

use crate::segment::Run;

/// Fewer runs than this are left alone: merging two small runs costs more than reading both.
const RUNS_MIN: usize = 4;

/// Some consecutive runs of one segment that are worth merging.
#[derive(Debug)]
pub struct Compaction {
    inputs: Vec<Run>,
}

/// A finished compaction.
#[derive(Debug)]
pub struct Compacted {
    pub(crate) input_ids: Vec<u64>,
    pub(crate) merged: Option<Run>,
}

impl Compaction {
    /// The runs of one segment that are worth merging now, if any.
    pub(crate) fn choose(runs: &[Run]) -> Option<Compaction> {
        let mut chosen = 0;
        let mut younger_rows = 0;
        for run in in_memory(runs).iter().rev() {
            if chosen >= RUNS_MIN && run.rows() > 2 * younger_rows {
                break;
            }
            younger_rows += run.rows();
            chosen += 1;
        }
        (chosen >= RUNS_MIN).then(|| Compaction { inputs: runs[runs.len() - chosen..].to_vec() })
    }

    /// All runs of one segment that are in memory, if there are several.
    pub(crate) fn everything(runs: &[Run]) -> Option<Compaction> {
        let runs = in_memory(runs);
        (runs.len() > 1).then(|| Compaction { inputs: runs.to_vec() })
    }

    /// Merges the runs. CPU-bound; reads nothing but the runs.
    pub async fn run(self, view: &ViewPlan, context: Arc<TaskContext>) -> Result<Compacted> {
        let input_ids: Vec<u64> = self.inputs.iter().map(|run| run.id).collect();
        let batches = self.inputs.iter().flat_map(|run| run.states().into_iter().flatten().cloned()).collect();
        let states = MemoryRows::new(Arc::clone(view.state_schema()), batches).plan(None)?;
        let merged = datafusion::physical_plan::collect(view.merge(states)?, context).await?;
        let merged = merged
            .iter()
            .map(|batch| arrow::array::RecordBatch::try_new(Arc::clone(view.state_schema()), batch.columns().to_vec()))
            .collect::<Result<Vec<_>, _>>()?;
        Ok(Compacted { input_ids, merged: Run::pack(view.state_schema(), &merged)? })
    }
}

/// The runs that are younger than all on disk: those are large, and reading them to merge them would need the memory that
/// they were put there to save.
fn in_memory(runs: &[Run]) -> &[Run] {
    let first = runs.iter().rposition(|run| !run.is_in_memory()).map_or(0, |last_stored| last_stored + 1);
    &runs[first..]
}
