//! The law under faults, in a simulated world: one thread, one clock that moves only when everything waits, a log and an
//! object store that fail as a seed decides, processes that die at any call, clients that do not know of it.
//!
//! Every answer must equal one pass over the durable events below the offsets that it reports; nothing acknowledged may be
//! missing; and when the faults stop, the platform must bring everything to where it belongs. A seed decides everything, so
//! a failure replays: `WATERSHED_SIMULATION_SEED=7 cargo test simulation`; see `seeds` for running more of them.
//!
//! | file | what it does |
//! |---|---|
//! | `schedule` | what clients ask, in which weather, and when processes die |
//! | `world` | faults, time, death; effects that outlive their callers |
//! | `store`, `log` | the platform's ports, behind the world |
//! | `process` | one process, and what clients do and check |
//! | `life` | process after process, and a calm end that must find everything |
//! | `truth` | what an answer must say |
//! | `found` | what it has found, as schedules of their own |
//! | `defects` | proof that it finds what it looks for |
//!
//! Not simulated: RocksDB, which has threads of its own, and Delta checkpoints, which the library writes on threads and
//! which are due after more commits than a schedule makes.

mod defects;
mod found;
mod life;
mod log;
mod process;
mod schedule;
mod store;
mod truth;
mod world;

use proptest::strategy::Strategy;

use self::life::{Outcome, run};
use self::schedule::{Schedule, schedules};
use crate::seeds::Property;

const SIMULATION: Property<Schedule> = Property {
    name: "SIMULATION",
    count: 600,
    cases: |_| schedules().boxed(),
    check: |schedule| run(schedule).map(|outcome| outcome.answers).map_err(|error| format!("{error:#}")),
};

#[test]
fn simulated_faults_and_crashes_keep_the_law() {
    SIMULATION.check_seeds();
}

#[test]
fn a_seed_gives_the_same_calls_and_answers_twice() -> anyhow::Result<()> {
    for seed in 0..20 {
        let [first, second]: [anyhow::Result<Outcome>; 2] = [(), ()].map(|()| run(&SIMULATION.case(seed)));
        assert_eq!(first?, second?, "seed {seed}");
    }
    Ok(())
}
