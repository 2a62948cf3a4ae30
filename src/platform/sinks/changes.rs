//! What events have done to a view since its sink last looked.

use std::collections::VecDeque;
use std::sync::Mutex;

use arrow::array::RecordBatch;
use watershed_shared::definition::DefinitionId;
use watershed_shared::plan::ViewPlan;
use watershed_shared::position::Position;

use super::super::lock;

/// More than that is not kept for a sink that does not come to send it: the history has it too.
const BYTES_MAX: usize = 64 << 20;
/// About what an entry takes besides its states.
const ENTRY_BYTES: usize = 128;

/// The changes of one view for one sink. The source's task adds to them, the sink takes them.
#[derive(Debug, Default)]
pub(in crate::platform) struct Changes(Mutex<Kept>);

#[derive(Debug, Default)]
struct Kept {
    /// Everything after this is here, or was taken.
    begin: Position,
    batches: VecDeque<Change>,
    bytes: usize,
}

/// What the events of one micro-batch have changed.
#[derive(Debug)]
struct Change {
    definition: DefinitionId,
    end: Position,
    states: Vec<RecordBatch>,
    bytes: usize,
}

impl Changes {
    /// What comes after `begin` will be added.
    pub(in crate::platform) fn since(begin: Position) -> Changes {
        Changes(Mutex::new(Kept { begin, ..Kept::default() }))
    }

    /// Adds what the events up to `end` have changed, as state rows; of groups their keys.
    pub(in crate::platform) fn push(&self, plan: &ViewPlan, states: &[RecordBatch], end: &Position) {
        let keys: Vec<usize> = (0..plan.key_count()).collect();
        let kept = |states: &RecordBatch| match plan.has_aggregate() {
            true => states.project(&keys).unwrap_or_else(|_| states.clone()),
            false => states.clone(),
        };
        let states: Vec<RecordBatch> = states.iter().map(kept).collect();
        let held = size_of::<Change>() + ENTRY_BYTES + size_of_val(end.offsets());
        let bytes = held + states.iter().map(RecordBatch::get_array_memory_size).sum::<usize>();
        let mut changes = lock(&self.0);
        changes.bytes += bytes;
        changes.batches.push_back(Change { definition: plan.id.clone(), end: end.clone(), states, bytes });
        if changes.bytes > BYTES_MAX {
            *changes = Kept { begin: end.clone(), ..Kept::default() };
        }
    }

    /// Everything after this is here, or was taken.
    pub(super) fn begin(&self) -> Position {
        lock(&self.0).begin.clone()
    }

    /// Takes what has changed between `from` and `until`, which must be ends of micro-batches; `None` if it is not all here.
    /// What is older is forgotten.
    pub(super) fn take(&self, plan: &ViewPlan, from: &Position, until: &Position) -> Option<Vec<RecordBatch>> {
        let mut changes = lock(&self.0);
        let is_complete = from.covers(&changes.begin);
        let mut taken = Vec::new();
        while let Some(change) = changes.batches.pop_front_if(|change| until.covers(&change.end)) {
            changes.bytes -= change.bytes;
            if change.definition == plan.id && !from.covers(&change.end) {
                taken.extend(change.states);
            }
            changes.begin = change.end;
        }
        is_complete.then_some(taken)
    }
}
