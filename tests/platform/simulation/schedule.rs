//! Schedules: what clients ask of the platform, in which weather, and when its process dies.

use std::sync::LazyLock;
use std::time::Duration;

use proptest::prelude::*;
use proptest::strategy::ValueTree;

use super::world::Weather;
use crate::model::events::{Event, events};
use crate::model::views::{ViewSpec, views};
use crate::seeds::runner;

/// A platform's life, over several processes.
#[derive(Debug, Clone)]
pub(super) struct Schedule {
    /// Decides what fails, when, and how long everything takes.
    pub(super) world_seed: u64,
    pub(super) weather: Weather,
    pub(super) partitions: u32,
    pub(super) partition_by: Option<&'static str>,
    pub(super) commit_interval: Duration,
    /// Views have batch runs twice a minute.
    pub(super) is_scheduled: bool,
    /// Definitions of the views that exist from the start, as places in [`DEFINITIONS`].
    pub(super) views: Vec<usize>,
    /// The processes, one after the other; a last one in calm weather follows.
    pub(super) lives: Vec<Life>,
}

/// What happens to one process.
#[derive(Debug, Clone)]
pub(super) struct Life {
    /// What each client does, one thing after the other.
    pub(super) clients: Vec<Vec<Action>>,
    pub(super) end: End,
}

/// How a process ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum End {
    /// It dies at its so manieth call to log or store. If it makes fewer, it dies when the clients are done.
    Dies(u64),
    /// It dies at its so manieth write to the store: those are the ones that may arrive after its death.
    DiesWriting(u64),
    /// It stops when the clients are done.
    Stops,
    /// The faults end when the clients are done, and it must bring everything to where it belongs before it stops.
    Recovers,
}

/// Views are named by their place in the list of names, modulo its length.
#[derive(Debug, Clone)]
pub(super) enum Action {
    /// Sends events, and sends them again if that fails.
    Ingest(Vec<Event>),
    /// Asks a view.
    Query(usize, Question),
    /// Has a view's batch run done.
    Run(usize),
    /// Cuts, and has everything committed to the history.
    Archive,
    /// Merges the realtime runs.
    Compact,
    /// Creates or changes a view.
    Define(usize, usize),
    /// Waits so many milliseconds.
    Wait(u64),
}

/// What is asked of a view.
#[derive(Debug, Clone, Copy)]
pub(super) enum Question {
    /// All rows.
    All,
    /// Every other column.
    SomeColumns,
    /// The number of rows.
    Count,
    /// Rows whose first column is NULL, or is not.
    FirstIsNull(bool),
    /// Two views in one question, at one position.
    Together(usize),
}

/// Views are chosen from a fixed set, so that each is compiled once for many seeds.
pub(super) static DEFINITIONS: LazyLock<Vec<ViewSpec>> = LazyLock::new(|| {
    let random = (0..DEFINITIONS_MAX as u64 - 1).map(|seed| match views().new_tree(&mut runner(seed)) {
        Ok(tree) => tree.current(),
        Err(reason) => unreachable!("no view: {reason}"),
    });
    std::iter::once(ViewSpec::every_event()).chain(random).collect()
});
const DEFINITIONS_MAX: usize = 24;

pub(super) fn schedules() -> impl Strategy<Value = Schedule> {
    let partition_by = prop::option::of(prop::sample::select(&["k", "g"][..]));
    let views = prop::collection::vec(definition(), 1..3);
    let lives = prop::collection::vec(life(), 1..4);
    let commit_interval = prop::sample::select(&[50, 1_000, 3_600_000][..]).prop_map(Duration::from_millis);
    let is_scheduled = prop::bool::weighted(0.15);
    (any::<u64>(), weather(), 1..4_u32, partition_by, commit_interval, is_scheduled, views, lives).prop_map(
        |(world_seed, weather, partitions, partition_by, commit_interval, is_scheduled, views, lives)| Schedule {
            world_seed,
            weather,
            partitions,
            partition_by,
            commit_interval,
            is_scheduled,
            views,
            lives,
        },
    )
}

fn weather() -> impl Strategy<Value = Weather> {
    let failures = prop::sample::select(&[0, 10, 50, 150][..]);
    let slow = prop::sample::select(&[0, 20, 200][..]);
    let listing_lag = prop::sample::select(&[0, 0, 0, 2_000][..]).prop_map(Duration::from_millis);
    (failures, slow, listing_lag).prop_map(|(failures, slow, listing_lag)| Weather { failures, slow, listing_lag })
}

fn definition() -> impl Strategy<Value = usize> {
    prop_oneof![1 => Just(0_usize), 4 => 0..DEFINITIONS_MAX]
}

fn life() -> impl Strategy<Value = Life> {
    let clients = prop::collection::vec(prop::collection::vec(action(), 1..6), 1..4);
    let end = prop_oneof![
        3 => (1..150_u64).prop_map(End::Dies),
        2 => (1..20_u64).prop_map(End::DiesWriting),
        1 => Just(End::Stops),
        1 => Just(End::Recovers),
    ];
    (clients, end).prop_map(|(clients, end)| Life { clients, end })
}

fn action() -> impl Strategy<Value = Action> {
    prop_oneof![
        6 => events().prop_map(Action::Ingest),
        4 => (0..3_usize, question()).prop_map(|(view, question)| Action::Query(view, question)),
        3 => (0..3_usize).prop_map(Action::Run),
        1 => Just(Action::Archive),
        1 => Just(Action::Compact),
        1 => (0..3_usize, definition()).prop_map(|(view, definition)| Action::Define(view, definition)),
        2 => (1..3_000_u64).prop_map(Action::Wait),
    ]
}

fn question() -> impl Strategy<Value = Question> {
    prop_oneof![
        4 => Just(Question::All),
        1 => Just(Question::SomeColumns),
        1 => Just(Question::Count),
        1 => any::<bool>().prop_map(Question::FirstIsNull),
        1 => (0..3_usize).prop_map(Question::Together),
    ]
}
