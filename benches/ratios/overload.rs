//! Far more clients than the platform keeps up with, each of them sending as fast as it can.
//!
//! The measured process is a child with its own HTTP server and a small `ingest.memory_bytes`; this one sends, from 10
//! times as many clients as cores of bodies at once, and does not wait when it is told to. What is printed is the
//! resident memory of the child second by second: it must level off while events are refused with 429 and accepted at
//! the rate that the disk takes, and no acknowledged event may be missing afterwards.

use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use tokio::net::TcpListener;
use watershed::platform::{Platform, Ports};
use watershed_serving_layer::api::{ApiOptions, router, serve};
use watershed_serving_layer::{Backend, IngestReport};
use watershed_shared::config::{Config, IngestConfig};

use crate::flights::{self, Body, SOURCE};
use crate::memory::Memory;

/// Argument that makes this program the measured process.
pub(crate) const CHILD: &str = "overload-child";

/// What requests under way may hold in the measured process.
const MEMORY_BYTES: usize = 32 << 20;
const BODY_ROWS: usize = 10_000;
const CLIENTS: usize = 64;
const SECONDS: u64 = 40;

pub(crate) async fn run() -> Result<()> {
    let folder = crate::folder()?;
    let bodies = flights::bodies(&flights::events(&flights::source()?)?, BODY_ROWS)?;
    let body_bytes = bodies.iter().map(|body| body.json.len()).max().unwrap_or_default();
    let asked = CLIENTS * body_bytes;
    println!(
        "\noverload: {CLIENTS} clients with bodies of {:.1} MiB ask for {:.0} times ingest.memory_bytes = {} MiB",
        body_bytes as f64 / f64::from(1 << 20),
        asked as f64 / MEMORY_BYTES as f64,
        MEMORY_BYTES >> 20
    );
    let mut child =
        Command::new(std::env::current_exe()?).arg(CHILD).arg(folder.path()).stdout(Stdio::piped()).spawn()?;
    let mut output = BufReader::new(child.stdout.take().context("no output")?).lines();
    let url = output.next().context("the measured process says nothing")??;
    let counts = Arc::new(Counts::default());
    let send_all = send(&url, bodies, Arc::clone(&counts));
    let watched = watch(child.id(), Arc::clone(&counts));
    let (sent, peak) = tokio::join!(send_all, watched);
    sent?;
    let peak = peak?;
    let accepted = counts.accepted.load(Ordering::Relaxed);
    let counted: u64 = reqwest::get(format!("{url}/counted")).await?.text().await?.parse()?;
    child.kill()?;
    child.wait()?;
    ensure!(counted == accepted, "{accepted} events were acknowledged and {counted} are counted");
    println!("  all {accepted} acknowledged events are counted; resident at most {peak:.1} MiB");
    Ok(())
}

/// The measured process: the platform behind its HTTP server, until it is killed.
pub(crate) async fn child(folder: &Path) -> Result<()> {
    let ingest =
        IngestConfig { memory_bytes: MEMORY_BYTES, body_bytes_max: MEMORY_BYTES / 2, ..IngestConfig::default() };
    let config = Config { ingest, ..Config::default() };
    let (options, connections) = (ApiOptions::of(&config), config.connections.clone());
    let ports = Ports::open(&config, folder)?;
    let statements = flights::definitions(&["flights_by_day_origin", "carrier_stats"], "")?;
    let platform = Platform::open(statements, config, ports).await?;
    let counted = platform.clone();
    let counted =
        axum::routing::get(async move || flights_counted(&counted).await.unwrap_or_else(|error| error.to_string()));
    let router =
        router(Arc::new(platform.clone()), Arc::new(platform.query_engine()), options).route("/counted", counted);
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    println!("http://{}", listener.local_addr()?);
    serve(listener, router, connections, platform.metrics().clone(), std::future::pending()).await?;
    Ok(())
}

/// Events that the history holds once everything is archived.
async fn flights_counted(platform: &Platform) -> Result<String> {
    Ok(platform.archive(SOURCE).await?.end().events_since(&Default::default()).to_string())
}

/// What became of the requests.
#[derive(Default)]
struct Counts {
    accepted: AtomicU64,
    refused: AtomicU64,
    over: AtomicBool,
}

async fn send(url: &str, bodies: Vec<Body>, counts: Arc<Counts>) -> Result<()> {
    let bodies = Arc::new(bodies);
    let url = format!("{url}/v1/sources/{SOURCE}/events");
    let clients: Vec<_> = (0..CLIENTS)
        .map(|number| {
            let (bodies, counts, url) = (Arc::clone(&bodies), Arc::clone(&counts), url.clone());
            tokio::spawn(async move {
                let client = reqwest::Client::new();
                for body in bodies.iter().cycle().skip(number) {
                    if counts.over.load(Ordering::Relaxed) {
                        break;
                    }
                    let request = client.post(&url).header("content-type", "application/x-ndjson");
                    // A connection that ends before the answer was refused too.
                    let Ok(response) = request.body(body.json.clone()).send().await else { continue };
                    if response.status().is_success() {
                        let report: IngestReport = response.json().await?;
                        flights::check(&report, body.rows)?;
                        counts.accepted.fetch_add(report.accepted as u64, Ordering::Relaxed);
                    } else {
                        ensure!(response.status() == 429, "{}", response.text().await?);
                        counts.refused.fetch_add(1, Ordering::Relaxed);
                    }
                }
                Ok(())
            })
        })
        .collect();
    for client in clients {
        client.await??;
    }
    Ok(())
}

/// Prints the process's memory over time; answers the largest in MiB.
async fn watch(process: u32, counts: Arc<Counts>) -> Result<f64> {
    let started = Instant::now();
    let mut peak: f64 = 0.0;
    for second in 1..=SECONDS {
        tokio::time::sleep_until((started + Duration::from_secs(second)).into()).await;
        let memory = Memory::of(&process.to_string())?;
        peak = peak.max(memory.peak);
        if second % 5 == 0 {
            let (accepted, refused) = (counts.accepted.load(Ordering::Relaxed), counts.refused.load(Ordering::Relaxed));
            println!(
                "  {second:>3} s: resident {:>6.1} MiB, at most {:>6.1} MiB; {accepted:>9} events accepted, {refused:>7} requests refused",
                memory.resident, memory.peak
            );
        }
    }
    counts.over.store(true, Ordering::Relaxed);
    Ok(peak)
}
