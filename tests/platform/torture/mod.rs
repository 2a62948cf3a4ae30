//! Crash safety, proved by crashing: the real binary under load from several clients is killed again and again, and after
//! every start on what it left
//!
//! - each acknowledged event is there exactly once, and each other one at most once, its whole request or nothing of it;
//! - every view equals one pass, by plain DataFusion, over the events that are there;
//! - no audit has drifted, no batch run has failed, no process has logged an error, no half-written file stays.
//!
//! A life ends by SIGKILL at a random moment, under load or while starting, or at a named fault point inside the process
//! (see `points`), so that every step is hit for certain. Between lives the definition of a view changes now and then.
//!
//! A short round runs with all tests. `WATERSHED_TORTURE_KILLS=1000` or `WATERSHED_TORTURE_MINUTES=60` make it longer.
//! A failure names its seed; `WATERSHED_TORTURE_SEED` starts with the same schedule of kills, loads and changes, but the
//! threads of two processes never take turns in the same way twice: run it a few times.

mod check;
mod client;
mod events;
mod lane;
mod ledger;
mod load;
mod points;
mod process;
mod project;
mod random;
mod report;
mod truth;

use std::sync::Mutex;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};

use self::lane::{Kill, Lane};
use self::points::{Needs, POINTS, Point};
use self::random::Random;
use self::report::Report;

/// Platforms that live at the same time, each with its own data folder.
const LANES: usize = 2;
/// Kills of a short round, at least.
const KILLS: usize = 60;

/// How long a round goes on.
#[derive(Debug, Clone, Copy)]
struct Limits {
    kills: usize,
    until: Option<Instant>,
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_crash_loses_an_event_or_counts_one_twice() -> Result<()> {
    let number = |name: &str| std::env::var(name).ok().map(|text| text.parse::<u64>()).transpose().context("a number");
    let seed = number("WATERSHED_TORTURE_SEED")?.unwrap_or(1);
    let kills = number("WATERSHED_TORTURE_KILLS")?;
    let minutes = number("WATERSHED_TORTURE_MINUTES")?;
    let started = Instant::now();
    let until = minutes.map(|minutes| started + Duration::from_secs(60 * minutes));
    let limits =
        Limits { kills: kills.map_or(if until.is_some() { usize::MAX } else { KILLS }, |kills| kills as usize), until };

    let report = Mutex::new(Report::default());
    let lanes = (0..LANES).map(|number| run_lane(number, seed, limits, started, &report));
    let ended = futures::future::try_join_all(lanes).await;
    ended.with_context(|| format!("WATERSHED_TORTURE_SEED={seed} starts with the same schedule"))?;

    let report = report.into_inner().unwrap_or_else(|poisoned| poisoned.into_inner());
    println!("{report}\nseed {seed}: {}", report.summary(started.elapsed()));
    let never = report.never_reached();
    ensure!(never.is_empty(), "these fault points were not reached: {never:?}");
    Ok(())
}

/// Kills one platform after the other: first at the lane's share of all points, then wherever the seed says.
async fn run_lane(number: usize, seed: u64, limits: Limits, started: Instant, report: &Mutex<Report>) -> Result<()> {
    let mut lane = Lane::new(seed.wrapping_mul(LANES as u64).wrapping_add(number as u64), None)?;
    let mut points = points_in_order(Random::new(seed)).into_iter().skip(number).step_by(LANES);
    let mut lived = 0;
    loop {
        let next = points.next();
        let over = lived >= limits.kills.div_ceil(LANES) || limits.until.is_some_and(|until| Instant::now() >= until);
        if next.is_none() && over {
            break;
        }
        for kill in kills(next, lane.random()) {
            lane.live(kill).await?;
            lived += 1;
            if lived % 50 == 0 {
                println!("lane {number}: {lived} kills in {} s, all is well", started.elapsed().as_secs());
            }
        }
    }
    lane.finish().await?;
    report.lock().unwrap_or_else(|poisoned| poisoned.into_inner()).add(lane.seen);
    Ok(())
}

/// Some kills in a row, so that recovery is interrupted too, the first of them at `point`; the last begins with a check.
fn kills(point: Option<&'static Point>, random: &mut Random) -> Vec<Kill> {
    let any_point = |random: &mut Random| &POINTS[random.below(POINTS.len() as u64) as usize];
    let first = point.unwrap_or_else(|| any_point(random));
    let mut kills = vec![Kill::at(first, random)];
    while random.once_in(3) {
        kills.push(match random.once_in(2) {
            true => Kill::while_starting(random),
            false => Kill::at(any_point(random), random),
        });
    }
    kills.push(Kill::anywhere(random));
    kills
}

/// All points, shuffled; those that need an empty folder first, where the folder is empty anyway.
fn points_in_order(mut random: Random) -> Vec<&'static Point> {
    let mut points: Vec<(bool, u64, &Point)> =
        POINTS.iter().map(|point| (!matches!(point.needs, Needs::EmptyFolder(_)), random.next(), point)).collect();
    points.sort_by_key(|(later, order, _)| (*later, *order));
    points.into_iter().map(|(_, _, point)| point).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn events_acknowledged_before_they_are_written_are_reported_as_lost() -> Result<()> {
    expect_failure("log.acknowledge_before_write", Kill::Anywhere { after: Duration::from_millis(300) }, &["LOST"])
        .await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_log_that_is_trimmed_before_the_commit_is_reported_as_not_starting() -> Result<()> {
    let point = POINTS.iter().find(|point| point.name == "history.before_files").context("no such point")?;
    let words = ["NOT START AGAIN", "holds offsets from"];
    expect_failure("history.trim_before_commit", Kill::At { point, pass: 3 }, &words).await
}

/// Lives with a defect until a check complains, in these words.
async fn expect_failure(defect: &'static str, kill: Kill, words: &[&str]) -> Result<()> {
    let mut lane = Lane::new(1, Some(defect))?;
    for _ in 0..20 {
        let lived = async {
            lane.live(kill).await?;
            lane.live(Kill::Anywhere { after: Duration::from_millis(100) }).await
        };
        if let Err(error) = lived.await {
            let error = format!("{error:#}");
            ensure!(words.iter().all(|word| error.contains(word)), "the complaint is another one: {error}");
            return Ok(());
        }
    }
    bail!("20 crashes with the defect {defect} and no complaint")
}
