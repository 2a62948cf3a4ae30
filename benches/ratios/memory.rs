//! Resident memory after some events and after ten times as many with the same keys, without a batch run. A process of
//! its own reads the bodies from a file, so that its memory is the platform's.

use std::fs::File;
use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::Command;
use std::sync::Arc;

use anyhow::{Context, Result, ensure};

use crate::flights::{self, Body, Running};

/// Argument that makes this program the measured process.
pub(crate) const CHILD: &str = "memory-child";

/// Times that the year of 336,776 events is played before the first look.
const PASSES: usize = 3;
const BODY_ROWS: usize = 10_000;
/// Without `long_delays`, whose every row is a key of its own.
const KEYED_VIEWS: [&str; 2] = ["flights_by_day_origin", "carrier_stats"];

pub(crate) fn run() -> Result<()> {
    let folder = crate::folder()?;
    let path = folder.path().join("events.ndjson");
    let mut file = File::create(&path)?;
    for body in flights::bodies(&flights::events(&flights::source()?)?, BODY_ROWS)? {
        file.write_all(&body.json)?;
    }
    println!("\nmemory: resident memory of the process; ratio to ten times fewer events, aim <= 1.2");
    let status = Command::new(std::env::current_exe()?).arg(CHILD).arg(&path).status()?;
    ensure!(status.success(), "the measured process ended with {status}");
    Ok(())
}

/// The measured process: plays the file of events.
pub(crate) async fn child(events: &Path) -> Result<()> {
    let running = Running::open(flights::definitions(&KEYED_VIEWS, "")?).await?;
    let empty = Memory::now()?;
    println!("  {:>10} events: resident {:>6.1} MiB, at most {:>6.1} MiB", 0, empty.resident, empty.peak);
    let mut first = None;
    let mut count = 0;
    for pass in 1..=10 * PASSES {
        count += play(&running, events).await?;
        running.archive().await?;
        if pass == PASSES || pass % (5 * PASSES) == 0 {
            let now = Memory::now()?;
            let first = first.get_or_insert(now);
            println!(
                "  {count:>10} events: resident {:>6.1} MiB, at most {:>6.1} MiB   ratio {:.2}, of the peaks {:.2}",
                now.resident,
                now.peak,
                now.resident / first.resident,
                now.peak / first.peak
            );
        }
    }
    running.platform.stop().await;
    Ok(())
}

async fn play(running: &Running, events: &Path) -> Result<usize> {
    let mut lines = BufReader::new(File::open(events)?);
    let mut count = 0;
    loop {
        let mut bodies = Vec::new();
        for _ in 0..4 {
            let mut json = Vec::new();
            let mut rows = 0;
            while rows < BODY_ROWS && lines.read_until(b'\n', &mut json)? > 0 {
                rows += 1;
            }
            if rows > 0 {
                bodies.push(Body { json: json.into(), rows });
            }
        }
        if bodies.is_empty() {
            return Ok(count);
        }
        count += bodies.iter().map(|body| body.rows).sum::<usize>();
        running.accept(&Arc::new(bodies), 4).await?;
    }
}

/// Resident memory in MiB.
#[derive(Clone, Copy)]
pub(crate) struct Memory {
    pub(crate) resident: f64,
    pub(crate) peak: f64,
}

impl Memory {
    fn now() -> Result<Memory> {
        Memory::of("self")
    }

    /// Of the process with this id.
    pub(crate) fn of(process: &str) -> Result<Memory> {
        let status = std::fs::read_to_string(format!("/proc/{process}/status"))?;
        let kib = |name: &str| -> Result<f64> {
            let line = status.lines().find_map(|line| line.strip_prefix(name)).with_context(|| format!("no {name}"))?;
            Ok(line.trim_start_matches(':').trim().trim_end_matches("kB").trim().parse()?)
        };
        Ok(Memory { resident: kib("VmRSS")? / 1024.0, peak: kib("VmHWM")? / 1024.0 })
    }
}
