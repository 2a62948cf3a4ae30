//! From the moment at which an event is to be sent until the snapshot that queries read has it, at a fixed rate, while a
//! batch run computes, audits and publishes. A sender that falls behind does not wait: lateness is latency.

use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use tokio::task::JoinSet;
use watershed_serving_layer::Backend;
use watershed_shared::format::EventFormat;
use watershed_shared::position::Position;

use crate::flights::{self, Body, Running, SOURCE, VIEWS};

const DURATION: Duration = Duration::from_secs(12);
const BATCH_RUN_AFTER: Duration = Duration::from_secs(4);
/// Events a second, and events in each request.
const LOADS: [(usize, usize); 4] = [(1_000, 10), (20_000, 100), (100_000, 100), (100_000, 1_000)];
/// Times that the year is in the history before.
const YEARS_BEFORE: usize = 3;

pub(crate) async fn run() -> Result<()> {
    println!("\nvisible: from sending to visible in ms, 3 views, aim p99 < 50");
    let events = flights::events(&flights::source()?)?;
    for (rate, rows) in LOADS {
        let bodies = flights::bodies(&events, rows)?;
        let running = Running::open(flights::definitions(&VIEWS, "")?).await?;
        for _ in 0..YEARS_BEFORE {
            running.accept(&Arc::new(flights::bodies(&events, 10_000)?), 4).await?;
        }
        running.archive().await?;
        running.settle().await;
        offer(&running, &bodies, rate, rows).await?;
        running.platform.stop().await;
    }
    Ok(())
}

/// Offers `rate` events a second and prints how long they took.
async fn offer(running: &Running, bodies: &[Body], rate: usize, rows: usize) -> Result<()> {
    let (stop, stopped) = tokio::sync::oneshot::channel();
    let watcher = tokio::spawn(watch(running.platform.clone(), stopped));
    let batch_run = tokio::spawn(batch_run(running.platform.clone()));
    let interval = Duration::from_secs_f64(rows as f64 / rate as f64);
    let started = Instant::now();
    let mut requests = JoinSet::new();
    for (index, body) in (0..).zip(bodies.iter().cycle()) {
        let due = started + interval * index;
        if due >= started + DURATION {
            break;
        }
        tokio::time::sleep_until(due.into()).await;
        let (platform, body) = (running.platform.clone(), body.clone());
        requests.spawn(async move {
            let report = platform.accept(SOURCE, EventFormat::NdJson, body.json).await?;
            flights::check(&report, body.rows)?;
            Ok::<_, anyhow::Error>((due, Instant::now(), flights::position(&report)?))
        });
    }
    let mut acknowledged = Vec::new();
    while let Some(request) = requests.join_next().await {
        acknowledged.push(request??);
    }
    let (run_started, run_ended) = batch_run.await??;
    running.archive().await?;
    ensure!(stop.send(()).is_ok(), "the watcher has ended");
    let seen = watcher.await??;

    let mut phases = [Vec::new(), Vec::new(), Vec::new()];
    for (due, durable, position) in acknowledged {
        let index = seen.partition_point(|(_, applied)| !applied.covers(&position));
        let (visible, _) = seen.get(index).context("acknowledged events never became visible")?;
        let latency = [*visible, durable].map(|then| then.saturating_duration_since(due));
        phases[usize::from(due >= run_started) + usize::from(due >= run_ended)].push(latency);
    }
    println!(" {rate} events a second, {rows} a request, for {} s", DURATION.as_secs());
    print("all", phases.concat());
    let run = format!("sent during the batch run of {:.1} s", (run_ended - run_started).as_secs_f64());
    let [before, during, after] = phases;
    print("sent before the batch run", before);
    print(&run, during);
    print("sent after the batch run", after);
    Ok(())
}

fn print(what: &str, latencies: Vec<[Duration; 2]>) {
    let [visible, durable] = [0, 1].map(|which| {
        let mut latencies: Vec<f64> = latencies.iter().map(|both| 1e3 * both[which].as_secs_f64()).collect();
        latencies.sort_by(f64::total_cmp);
        move |part: f64| latencies.get((part * (latencies.len() as f64 - 1.0)) as usize).copied().unwrap_or(f64::NAN)
    });
    println!(
        "  {what:<44} p50 {:>7.1}   p99 {:>7.1}   max {:>7.1}   (durable: p50 {:.1}, p99 {:.1})",
        visible(0.5),
        visible(0.99),
        visible(1.0),
        durable(0.5),
        durable(0.99)
    );
}

/// When which position became visible.
async fn watch(
    platform: watershed::platform::Platform,
    mut stopped: tokio::sync::oneshot::Receiver<()>,
) -> Result<Vec<(Instant, Position)>> {
    let (_, mut snapshots) = platform.snapshots().pop().context("no source")?;
    let mut seen = Vec::new();
    loop {
        let applied = snapshots.borrow_and_update().applied.clone();
        seen.push((Instant::now(), applied));
        tokio::select! {
            changed = snapshots.changed() => changed?,
            _ = &mut stopped => return Ok(seen),
        }
    }
}

/// Runs a batch run in the middle; answers when it began and ended.
async fn batch_run(platform: watershed::platform::Platform) -> Result<(Instant, Instant)> {
    tokio::time::sleep(BATCH_RUN_AFTER).await;
    let started = Instant::now();
    platform.prepare_run(VIEWS[0]).await?.compute().await?.publish().await?;
    Ok((started, Instant::now()))
}
