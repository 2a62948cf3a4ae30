//! Schedules: what happens to the platform, in which order.

use proptest::prelude::*;

use crate::model::events::{Event, events};
use crate::model::views::{ViewSpec, views};

/// A platform's life.
#[derive(Debug, Clone)]
pub(super) struct Schedule {
    pub(super) on_disk: bool,
    pub(super) partitions: u32,
    pub(super) partition_by: Option<&'static str>,
    /// Definitions of the views that exist from the start.
    pub(super) views: Vec<ViewSpec>,
    pub(super) steps: Vec<Step>,
}

/// Views are named by their place in the list of names, modulo its length.
#[derive(Debug, Clone)]
pub(super) enum Step {
    /// Events arrive in one request.
    Ingest(Vec<Event>),
    /// Cut, and commit to the history.
    Archive,
    /// Merge the realtime runs.
    Compact,
    /// A view's batch run takes its next step: it prepares, computes or publishes.
    AdvanceRun(usize),
    /// A view's batch run fails.
    DropRun(usize),
    /// A new view, or another definition of one.
    Define(usize, ViewSpec),
    /// The process ends and another one starts on what is stored.
    Restart,
}

pub(super) fn schedules(on_disk: bool) -> impl Strategy<Value = Schedule> {
    let partition_by = prop::option::of(prop::sample::select(&["k", "g", "s"][..]));
    let views = prop::collection::vec(views(), 1..3);
    let steps = prop::collection::vec(step(), 1..16);
    (1..4_u32, partition_by, views, steps).prop_map(move |(partitions, partition_by, views, steps)| Schedule {
        on_disk,
        partitions,
        partition_by,
        views,
        steps,
    })
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        6 => events().prop_map(Step::Ingest),
        1 => Just(Step::Archive),
        1 => Just(Step::Compact),
        6 => (0..3_usize).prop_map(Step::AdvanceRun),
        1 => (0..3_usize).prop_map(Step::DropRun),
        1 => (0..3_usize, views()).prop_map(|(view, spec)| Step::Define(view, spec)),
        1 => Just(Step::Restart),
    ]
}
