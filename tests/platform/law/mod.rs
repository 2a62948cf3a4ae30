//! The law as a property: for any events, any views and any schedule of what the platform does, at every step every view
//! answers as its SQL run once over all accepted events.
//!
//! A schedule is generated from a seed, so a failure replays: it prints its seed, and the shortest schedule that still
//! fails. `WATERSHED_LAW_SEED=7 cargo test law` runs one seed, `WATERSHED_LAW_SCHEDULES=10000` more of them, starting at
//! `WATERSHED_LAW_FIRST_SEED`.

#![expect(clippy::expect_used, reason = "a test that cannot be set up must stop")]

mod drive;
mod events;
mod one_pass;
mod schedule;
mod views;

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use proptest::strategy::{Strategy, ValueTree};
use proptest::test_runner::{Config, RngAlgorithm, TestRng, TestRunner};

use self::schedule::Schedule;

const SCHEDULES: u64 = 1_000;
/// One in so many schedules runs on RocksDB and a local store; the others in memory.
const ON_DISK_EVERY: u64 = 25;
const SHRINKING_MAX: Duration = Duration::from_secs(120);

#[test]
fn every_answer_equals_one_pass_over_the_accepted_events() {
    let number = |name: &str| std::env::var(name).ok().map(|text| text.parse::<u64>().expect("a number"));
    let (first, count) = match number("WATERSHED_LAW_SEED") {
        Some(seed) => (seed, 1),
        None => {
            (number("WATERSHED_LAW_FIRST_SEED").unwrap_or(0), number("WATERSHED_LAW_SCHEDULES").unwrap_or(SCHEDULES))
        }
    };
    let next = AtomicU64::new(first);
    let checks = AtomicU64::new(0);
    let threads = std::thread::available_parallelism().map_or(1, |cores| cores.get());
    std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                loop {
                    let seed = next.fetch_add(1, Ordering::Relaxed);
                    if seed >= first + count {
                        break;
                    }
                    checks.fetch_add(keep_the_law(seed), Ordering::Relaxed);
                }
            });
        }
    });
    println!("{count} schedules from seed {first} kept the law in {} answers", checks.into_inner());
}

/// Runs the schedule of a seed; returns how many answers were compared.
fn keep_the_law(seed: u64) -> u64 {
    let mut runner = runner(seed);
    let mut tree = schedule::schedules(seed.is_multiple_of(ON_DISK_EVERY)).new_tree(&mut runner).expect("a schedule");
    match run(&tree.current()) {
        Ok(checks) => checks,
        Err(failure) => {
            let (schedule, failure) = shrink(&mut tree, failure);
            panic!(
                "the law is broken: {failure}\n\nreplay with WATERSHED_LAW_SEED={seed}\n\nshortest schedule found:\n{schedule:#?}"
            );
        }
    }
}

fn runner(seed: u64) -> TestRunner {
    let mut bytes = [0; 32];
    bytes[..8].copy_from_slice(&seed.to_le_bytes());
    TestRunner::new_with_rng(Config::default(), TestRng::from_seed(RngAlgorithm::ChaCha, &bytes))
}

fn shrink(tree: &mut impl ValueTree<Value = Schedule>, mut failure: String) -> (Schedule, String) {
    let mut shortest = tree.current();
    let started = Instant::now();
    let mut more = tree.simplify();
    while more && started.elapsed() < SHRINKING_MAX {
        let schedule = tree.current();
        more = match run(&schedule) {
            Err(other) => {
                (shortest, failure) = (schedule, other);
                tree.simplify()
            }
            Ok(_) => tree.complicate(),
        };
    }
    (shortest, failure)
}

fn run(schedule: &Schedule) -> Result<u64, String> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    runtime.block_on(drive::drive(schedule)).map_err(|error| format!("{error:#}"))
}
