//! A view definition that is being kept current: its realtime view and its place in the batch views.

use std::sync::Arc;

use arrow::array::RecordBatch;
use watershed_shared::definition::DefinitionId;
use watershed_shared::fault::has_defect;
use watershed_shared::panics::catch_panic_of;
use watershed_shared::plan::{StateParts, ViewPlan};
use watershed_shared::position::{Boundary, Position};
use watershed_shared::snapshot::{BatchPart, ViewSnapshot};
use watershed_speed_layer::{Checkpoint, RealtimeView};

/// Which definition of which view. A definition's own id would not do: two views may be defined alike.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct LiveId {
    view: String,
    definition: DefinitionId,
}

impl LiveId {
    pub(super) fn of(plan: &ViewPlan) -> LiveId {
        LiveId { view: plan.name.clone(), definition: plan.id.clone() }
    }

    pub(super) fn is(&self, plan: &ViewPlan) -> bool {
        self.definition == plan.id && self.view == plan.name
    }
}

/// One definition of a view with both its halves.
#[derive(Debug)]
pub(super) struct LiveView {
    pub(super) plan: Arc<ViewPlan>,
    pub(super) realtime: RealtimeView,
    pub(super) batch: Option<BatchPart>,
    pub(super) boundary: Boundary,
    /// Boundaries of batch runs that have not ended; segments must keep their ends there.
    pub(super) pins: Vec<Position>,
    /// The copy of the realtime view that a restart reads.
    pub(super) checkpoint: Arc<Checkpoint>,
    /// Why the realtime view has stopped, if it has.
    pub(super) failure: Option<String>,
    /// Whether a compaction of the realtime view is under way.
    pub(super) compacting: bool,
    /// Whether the last compaction failed; the next one waits for a cut.
    pub(super) compaction_failed: bool,
}

/// State rows of some events, or why the view's SQL fails on one of them.
pub(super) type States = Result<Vec<RecordBatch>, String>;

impl LiveView {
    pub(super) fn new(
        realtime: RealtimeView,
        batch: Option<BatchPart>,
        boundary: Boundary,
        checkpoint: Checkpoint,
    ) -> LiveView {
        let plan = Arc::clone(realtime.plan());
        LiveView {
            plan,
            realtime,
            batch,
            boundary,
            pins: Vec::new(),
            checkpoint: Arc::new(checkpoint),
            failure: None,
            compacting: false,
            compaction_failed: false,
        }
    }

    /// Computes what events add to the realtime view, for [`LiveView::apply`].
    pub(super) fn states_of(&self, events: Vec<RecordBatch>) -> impl Future<Output = States> + Send + 'static {
        let states = self.realtime.states_of(events);
        async move {
            let panicked = |words| {
                format!("its plan panicked: {words}; this is a bug, please report it with the view's definition")
            };
            catch_panic_of(states).await.map_err(panicked)?.map_err(|error| error.to_string())
        }
    }

    /// Adds the states of the events up to `end` to the realtime view, and gives them back. An event on which the view's SQL
    /// fails stops this view and no other: one pass over all events would fail on it too.
    pub(super) fn apply(&mut self, states: States, end: &Position) -> Option<Vec<RecordBatch>> {
        let load = |states: Vec<RecordBatch>| match self.realtime.load(&states, end) {
            Ok(()) => Ok(states),
            Err(error) => Err(error.to_string()),
        };
        match states.and_then(load) {
            Ok(states) => Some(states),
            Err(failure) => {
                tracing::error!(view = self.plan.name, failure, "view stopped");
                self.failure = Some(failure);
                None
            }
        }
    }

    /// Stops the view rather than let it answer with an event missing or counted twice.
    pub(super) fn check(&mut self, applied: &Position) {
        if self.failure.is_none() && !self.realtime.spans(&self.boundary, applied) {
            let failure = format!(
                "its realtime view does not span the events from its batch view's boundary {} to {applied}; this is a bug, \
                 please report it; a restart computes the view anew",
                self.boundary
            );
            tracing::error!(view = self.plan.name, failure, "view stopped");
            self.failure = Some(failure);
        }
    }

    pub(super) fn unpin(&mut self, boundary: &Position) {
        if let Some(index) = self.pins.iter().position(|pin| pin == boundary) {
            self.pins.swap_remove(index);
        }
    }

    pub(super) fn snapshot(&self) -> ViewSnapshot {
        let states = self.realtime.states_from(&self.boundary);
        ViewSnapshot {
            plan: Arc::clone(&self.plan),
            batch: self.batch.clone(),
            boundary: self.boundary.clone(),
            runs: states.batches,
            stored_runs: states.files,
            realtime: self.realtime.size(),
        }
    }

    /// What the view says of the events below `boundary`, in the states that a batch view up to there supersedes.
    pub(super) fn parts_below(&self, boundary: &Boundary) -> StateParts {
        let batch = self.batch.as_ref().map(|batch| (Arc::clone(&batch.states), batch.rows));
        let states = self.realtime.states_below(boundary);
        StateParts { batch, runs: states.batches, stored_runs: states.files }
    }

    /// Hands over from the old batch view to `batch`; gives the old one.
    pub(super) fn supersede(&mut self, batch: BatchPart, boundary: Boundary) -> Option<BatchPart> {
        self.unpin(&boundary.0);
        if !has_defect("supersede.keeps_old") {
            self.realtime.release(&boundary);
            self.boundary = boundary;
        }
        self.batch.replace(batch)
    }
}
