//! A view definition that is being kept current: its realtime view and its place in the batch views.

use std::panic::AssertUnwindSafe;
use std::sync::Arc;

use arrow::array::RecordBatch;
use futures::FutureExt;
use watershed_shared::plan::{StateParts, ViewPlan};
use watershed_shared::position::{Boundary, Position};
use watershed_shared::snapshot::{BatchPart, ViewSnapshot};
use watershed_speed_layer::RealtimeView;

/// One definition of a view with both its halves.
#[derive(Debug)]
pub(super) struct LiveView {
    pub(super) plan: Arc<ViewPlan>,
    pub(super) realtime: RealtimeView,
    pub(super) batch: Option<BatchPart>,
    pub(super) boundary: Boundary,
    /// Boundaries of batch runs that have not ended; segments must keep their ends there.
    pub(super) pins: Vec<Position>,
    /// Why the realtime view has stopped, if it has.
    pub(super) failure: Option<String>,
    /// Whether a compaction of the realtime view is under way.
    pub(super) compacting: bool,
    /// Whether the last compaction failed; the next one waits for a cut.
    pub(super) compaction_failed: bool,
}

impl LiveView {
    pub(super) fn new(realtime: RealtimeView, batch: Option<BatchPart>, boundary: Boundary) -> LiveView {
        let plan = Arc::clone(realtime.plan());
        LiveView {
            plan,
            realtime,
            batch,
            boundary,
            pins: Vec::new(),
            failure: None,
            compacting: false,
            compaction_failed: false,
        }
    }

    /// Adds events to the realtime view. An event on which the view's SQL fails stops this view and no other: one pass
    /// over all events would fail on it too.
    pub(super) async fn apply(&mut self, events: Vec<RecordBatch>, end: &Position) {
        if self.failure.is_some() {
            return;
        }
        let applied = AssertUnwindSafe(self.realtime.apply(events, end)).catch_unwind().await;
        let failure = match applied {
            Ok(Ok(())) => return,
            Ok(Err(error)) => error.to_string(),
            Err(_) => "its plan panicked; this is a bug, please report it with the view's definition".to_owned(),
        };
        tracing::error!(view = self.plan.name, failure, "view stopped");
        self.failure = Some(failure);
    }

    pub(super) fn unpin(&mut self, boundary: &Position) {
        if let Some(index) = self.pins.iter().position(|pin| pin == boundary) {
            self.pins.swap_remove(index);
        }
    }

    pub(super) fn snapshot(&self) -> ViewSnapshot {
        ViewSnapshot {
            plan: Arc::clone(&self.plan),
            batch: self.batch.clone(),
            boundary: self.boundary.clone(),
            runs: self.realtime.states_from(&self.boundary),
            realtime: self.realtime.size(),
        }
    }

    /// What the view says of the events below `boundary`, in the states that a batch view up to there supersedes.
    pub(super) fn parts_below(&self, boundary: &Boundary) -> StateParts {
        let batch = self.batch.as_ref().map(|batch| (Arc::clone(&batch.states), batch.rows));
        StateParts { batch, runs: self.realtime.states_below(boundary) }
    }

    /// Hands over from the old batch view to `batch`; gives the old one.
    pub(super) fn supersede(&mut self, batch: BatchPart, boundary: Boundary) -> Option<BatchPart> {
        self.unpin(&boundary.0);
        self.realtime.release(&boundary);
        self.boundary = boundary;
        self.batch.replace(batch)
    }
}
