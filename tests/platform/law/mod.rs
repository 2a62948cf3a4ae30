//! The law as a property: for any events, any views and any schedule of what the platform does, at every step every view
//! answers as its SQL run once over all accepted events.
//!
//! A schedule is generated from a seed, so a failure replays: `WATERSHED_LAW_SEED=7 cargo test law`; see `seeds`.

#![expect(clippy::expect_used, reason = "a test that cannot be set up must stop")]

mod drive;
mod schedule;

use proptest::strategy::Strategy;

use self::schedule::{Schedule, schedules};
use crate::seeds::Property;

/// One in so many schedules runs on RocksDB and a local store; the others in memory.
const ON_DISK_EVERY: u64 = 25;

const LAW: Property<Schedule> = Property {
    name: "LAW",
    count: 1_000,
    cases: |seed| schedules(seed.is_multiple_of(ON_DISK_EVERY)).boxed(),
    check: run,
};

#[test]
fn every_answer_equals_one_pass_over_the_accepted_events() {
    LAW.check_seeds();
}

fn run(schedule: &Schedule) -> Result<u64, String> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    runtime.block_on(drive::drive(schedule)).map_err(|error| format!("{error:#}"))
}
