//! Schedules that once broke the law, at their shortest.

use std::time::Duration;

use anyhow::{Result, anyhow};
use proptest::strategy::{Strategy, ValueTree};

use super::life::run;
use super::schedule::{Action, End, Life, Schedule};
use super::world::Weather;
use crate::model::events::events;
use crate::seeds::runner;

/// A batch view went to the first view of that definition, whatever its name, and its files went when the other view had
/// its own.
#[test]
fn two_views_may_be_defined_alike() -> Result<()> {
    let some = events().prop_filter("some", |events| !events.is_empty());
    let some = some.new_tree(&mut runner(0)).map_err(|reason| anyhow!("{reason}"))?.current();
    let client = vec![Action::Ingest(some), Action::Run(0), Action::Run(1), Action::Run(0)];
    let schedule = Schedule {
        world_seed: 0,
        weather: Weather::CALM,
        partitions: 1,
        partition_by: None,
        commit_interval: Duration::from_secs(3600),
        is_scheduled: false,
        views: vec![0, 0],
        lives: vec![Life { clients: vec![client], end: End::Recovers }],
    };
    run(&schedule).map(drop)
}
