//! Copies of realtime views on disk: saved after history commits, loaded at the start, and never trusted blindly. A view
//! whose copy is missing, damaged or does not fit its boundary is computed from the history, as if there were none.

use std::sync::Arc;

use watershed_shared::plan::ViewPlan;
use watershed_shared::position::{Boundary, Position};
use watershed_speed_layer::{Checkpoint, Segment};

use super::live_view::LiveView;
use super::source_task::Means;
use super::states_folder;
use crate::error::with_causes;

impl Means {
    /// The checkpoint of a definition.
    pub(super) fn checkpoint_of(&self, plan: &ViewPlan) -> Checkpoint {
        self.checkpoints.of(&plan.name, &states_folder(plan), plan.state_schema())
    }
}

/// What one view's checkpoint is to hold.
pub(super) struct Save {
    view: String,
    checkpoint: Arc<Checkpoint>,
    segments: Vec<Segment>,
}

impl Save {
    /// The closed segments of `view` that the history, which ends at `archived`, holds the events of; `None` for a view
    /// that has stopped.
    pub(super) fn of(view: &LiveView, archived: &Position) -> Option<Save> {
        let segments = || view.realtime.closed_segments(&view.boundary, archived);
        let save =
            || Save { view: view.plan.name.clone(), checkpoint: Arc::clone(&view.checkpoint), segments: segments() };
        view.failure.is_none().then(save)
    }
}

/// Saves what it can; what fails costs the next start time and nothing else.
pub(super) async fn save_all(saves: Vec<Save>) {
    for Save { view, checkpoint, segments } in saves {
        if let Err(error) = checkpoint.save(&segments).await {
            let error = with_causes(&error);
            tracing::warn!(view, error, "cannot save the realtime checkpoint; trying again after the next commit");
        }
    }
}

/// The segments from `boundary` on that the checkpoint of a view holds, as far as the history, which ends at `archived`,
/// has their events. They take at most about `memory_bytes`.
pub(super) async fn load(
    view: &str,
    checkpoint: &Checkpoint,
    boundary: &Boundary,
    archived: &Position,
    memory_bytes: usize,
) -> Vec<Segment> {
    match checkpoint.load(boundary, memory_bytes).await {
        Ok(segments) => segments.into_iter().take_while(|segment| archived.covers(&segment.end)).collect(),
        Err(error) => {
            let error = with_causes(&error);
            tracing::warn!(view, error, "not using the realtime checkpoint; the view is rebuilt from the history");
            Vec::new()
        }
    }
}
