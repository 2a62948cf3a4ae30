//! Disks that are really full: small file systems in memory, under the real binary.
//!
//! They can only be mounted by root; elsewhere these tests say so and do nothing.

mod process;
mod small_disk;

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use reqwest::StatusCode;
use serde_json::Value;

use self::process::{Outcome, Process};
use self::small_disk::SmallDisk;

/// Events of one request; of about a kilobyte each.
const ROWS: u64 = 100;
/// More requests than the small disks hold.
const REQUESTS_MAX: u64 = 2_000;

/// What the test has sent, and what became of it.
#[derive(Default)]
struct Ledger {
    next: u64,
    acknowledged: BTreeMap<u64, bool>,
}

impl Ledger {
    /// Sends the next events, and never the same twice.
    async fn send(&mut self, process: &Process) -> Result<Outcome> {
        let numbers = self.next..self.next + ROWS;
        self.next += ROWS;
        let padding = "x".repeat(1000);
        let body = numbers.clone().map(|n| format!("{{\"n\":{n},\"padding\":\"{padding}{n}\"}}\n")).collect::<String>();
        let outcome = process.post_events(body).await?;
        let accepted = outcome.status == StatusCode::OK;
        self.acknowledged.extend(numbers.map(|n| (n, accepted)));
        Ok(outcome)
    }

    /// Sends events until they are refused; answers the refusal.
    async fn send_until_refused(&mut self, process: &Process) -> Result<Outcome> {
        for _ in 0..REQUESTS_MAX {
            let outcome = self.send(process).await?;
            if outcome.status != StatusCode::OK {
                return Ok(outcome);
            }
        }
        anyhow::bail!("{REQUESTS_MAX} requests were accepted on a disk that is full")
    }

    /// Every acknowledged event is counted once, and every other one at most once.
    async fn check(&self, process: &Process, situation: &str) -> Result<()> {
        let counted: BTreeMap<u64, u64> = process.counted().await.context(situation.to_owned())?.into_iter().collect();
        for (n, acknowledged) in &self.acknowledged {
            let times = counted.get(n).copied().unwrap_or_default();
            ensure!(times == 1 || (times == 0 && !acknowledged), "{situation}: event {n} is counted {times} times");
        }
        let unknown = counted.keys().find(|n| !self.acknowledged.contains_key(n));
        ensure!(unknown.is_none(), "{situation}: event {unknown:?} was never sent");
        Ok(())
    }

    fn count_acknowledged(&self) -> usize {
        self.acknowledged.values().filter(|acknowledged| **acknowledged).count()
    }
}

#[tokio::test]
async fn a_full_log_refuses_events_until_there_is_room_and_loses_none() -> Result<()> {
    // Without a reserve, RocksDB itself runs into the end of the disk; with one, the platform stops before.
    for disk_free_bytes_min in [0, 16 << 20] {
        let folder = tempfile::tempdir()?;
        let Some(disk) = SmallDisk::mount(&folder.path().join("log disk"), 160)? else { return Ok(()) };
        let settings =
            format!("[ingest]\ndisk_free_bytes_min = {disk_free_bytes_min}\n[history]\ncommit_interval = \"1h\"");
        let mut process = Process::start(folder.path(), disk.path(), &folder.path().join("store"), &settings)?;
        let mut ledger = Ledger::default();
        for _ in 0..20 {
            ensure!(ledger.send(&process).await?.status == StatusCode::OK, "the disk is not full yet");
        }
        disk.fill()?;
        let refused = ledger.send_until_refused(&process).await?;
        ensure!(refused.status == StatusCode::INSUFFICIENT_STORAGE, "{refused:?}");
        ensure!(
            refused.retry_after.is_some()
                && refused.body["type"].as_str().is_some_and(|kind| kind.ends_with("/disk-full")),
            "{refused:?}"
        );
        ensure!(ledger.send(&process).await?.status == StatusCode::INSUFFICIENT_STORAGE, "it is still full");
        ledger.check(&process, "on a full disk").await?;

        disk.make_room()?;
        let mut waited = 0;
        while ledger.send(&process).await?.status != StatusCode::OK {
            waited += 1;
            ensure!(waited < 1200, "events are still refused two minutes after there is room");
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        println!("reserve {disk_free_bytes_min}: accepted again after {:.1} s", waited as f64 / 10.0);
        for _ in 0..20 {
            ensure!(ledger.send(&process).await?.status == StatusCode::OK, "there is room");
        }
        ledger.check(&process, "with room again").await?;
        process.kill_and_restart()?;
        ledger.check(&process, "after a crash").await?;
        process.batch_run().await?;
        ledger.check(&process, "in the batch view").await?;
        println!("{} of {} events acknowledged", ledger.count_acknowledged(), ledger.next);
    }
    Ok(())
}

#[tokio::test]
async fn a_full_store_keeps_events_in_the_log_and_views_current_until_there_is_room() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let Some(disk) = SmallDisk::mount(&folder.path().join("store disk"), 32)? else { return Ok(()) };
    // Almost nothing fits in memory, so commits have to read the log again.
    let settings = "[history]\ncommit_interval = \"100ms\"\ncommit_rows = 300\nunarchived_bytes_max = 400_000";
    let mut process = Process::start(folder.path(), &folder.path().join("log"), disk.path(), settings)?;
    let mut ledger = Ledger::default();
    for _ in 0..10 {
        ensure!(ledger.send(&process).await?.status == StatusCode::OK, "nothing is full yet");
    }
    process.until_archived().await?;
    disk.fill()?;
    for _ in 0..30 {
        ensure!(ledger.send(&process).await?.status == StatusCode::OK, "the log's disk has room");
    }
    ledger.check(&process, "with a full store").await?;
    let readiness = process.until_readiness_says("commits to the history of source").await?;
    ensure!(readiness["ready"] == Value::Bool(true), "{readiness}");
    ensure!(process.metric("watershed_history_commit_failures_total").await? > 0.0, "failures are counted");
    ledger.check(&process, "while commits fail").await?;

    process.kill_and_restart()?;
    ledger.check(&process, "after a crash with a full store").await?;
    for _ in 0..30 {
        ensure!(ledger.send(&process).await?.status == StatusCode::OK, "the log's disk has room");
    }
    ledger.check(&process, "with still more events").await?;

    disk.make_room()?;
    process.until_archived().await?;
    ledger.check(&process, "with everything in the history").await?;
    let readiness = process.get("/readyz").await?;
    ensure!(readiness["detail"].as_array().is_some_and(Vec::is_empty), "{readiness}");
    process.batch_run().await?;
    ledger.check(&process, "in the batch view").await?;
    process.kill_and_restart()?;
    ledger.check(&process, "after a crash").await
}

#[tokio::test]
async fn batch_runs_that_fail_leave_answers_and_ingestion_alone_and_no_files() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let Some(disk) = SmallDisk::mount(&folder.path().join("store disk"), 48)? else { return Ok(()) };
    let settings = "[history]\ncommit_interval = \"1h\"";
    let process = Process::start(folder.path(), &folder.path().join("log"), disk.path(), settings)?;
    let mut ledger = Ledger::default();
    for _ in 0..30 {
        ensure!(ledger.send(&process).await?.status == StatusCode::OK, "nothing is full yet");
    }
    process.batch_run().await?;
    // The history has everything, so a run only has to write its states.
    disk.fill()?;
    let used = disk.used()?;
    for count in 1..=3 {
        ensure!(process.batch_run().await.is_err(), "there is no room for state files");
        let view = process.get("/v1/views/by_n").await?;
        ensure!(view["batch_failures"]["count"] == count, "{view}");
    }
    ensure!(disk.used()? <= used + (64 << 10), "failed runs have left files: {} bytes, {used} before", disk.used()?);
    let readiness = process.until_readiness_says("the last 3 batch runs of view \"by_n\" failed").await?;
    ensure!(readiness["ready"] == Value::Bool(true), "{readiness}");
    ensure!(process.metric("watershed_batch_run_failures_total").await? == 3.0, "failures are counted");
    ensure!(ledger.send(&process).await?.status == StatusCode::OK, "the log's disk has room");
    ledger.check(&process, "while batch runs fail").await?;

    disk.make_room()?;
    process.batch_run().await?;
    ensure!(process.get("/v1/views/by_n").await?["batch_failures"].is_null(), "a run has succeeded");
    ledger.check(&process, "in the batch view").await
}
