//! Benchmarks that print ratios: what the platform costs against the bare limit of the same work, measured side by side.
//!
//! `make bench` runs all of them; `make bench ONLY="query visible"` the named ones. docs/benchmarks.md explains the
//! figures. Sides take turns (A B C A B C ...) and a ratio is the median of the turns' ratios, so a machine that is
//! slow for a while slows all sides alike; the CPU time of the whole process stands beside the wall time, because other
//! processes do not change it much.

mod flights;
mod ingest;
mod kafka;
mod memory;
mod overload;
mod process;
mod query;
mod recompute;
mod recovery;
mod visible;

use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use tempfile::TempDir;

fn main() -> Result<()> {
    // Cargo passes options such as `--bench`.
    let names: Vec<String> = std::env::args().skip(1).filter(|argument| !argument.starts_with('-')).collect();
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    if let [child, folder] = names.as_slice()
        && child == memory::CHILD
    {
        return runtime.block_on(memory::child(folder.as_ref()));
    }
    if let [child, folder] = names.as_slice()
        && child == overload::CHILD
    {
        return runtime.block_on(overload::child(folder.as_ref()));
    }
    const ALL: [&str; 8] = ["ingest", "recompute", "query", "memory", "overload", "visible", "recovery", "kafka"];
    if let Some(unknown) = names.iter().find(|name| !ALL.contains(&name.as_str())) {
        bail!("there is no benchmark \"{unknown}\"; there are: {}", ALL.join(", "));
    }
    println!("{} cores, {}", watershed_shared::config::parallelism(0), build());
    for name in ALL.into_iter().filter(|name| names.is_empty() || names.iter().any(|wanted| wanted == name)) {
        let run = async {
            match name {
                "ingest" => ingest::run().await,
                "kafka" => kafka::run().await,
                "recompute" => recompute::run().await,
                "query" => query::run().await,
                "memory" => memory::run(),
                "overload" => overload::run().await,
                "visible" => visible::run().await,
                _ => recovery::run().await,
            }
        };
        runtime.block_on(run).with_context(|| format!("benchmark {name}"))?;
    }
    Ok(())
}

fn build() -> &'static str {
    if cfg!(debug_assertions) { "dev profile (lightly optimized, assertions on)" } else { "optimized" }
}

/// An empty folder on the disk that holds the build, where fsync costs what it costs.
fn folder() -> Result<TempDir> {
    Ok(tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR"))?)
}

/// What it took to do some work once.
#[derive(Debug, Clone, Copy)]
struct Measurement {
    /// How much was done: events, or 1 for a query.
    amount: usize,
    wall: Duration,
    /// Of all threads of this process.
    cpu: Duration,
}

impl Measurement {
    async fn of(amount: usize, work: impl Future<Output = Result<()>>) -> Result<Measurement> {
        let (started, cpu) = (Instant::now(), cpu_time()?);
        work.await?;
        Ok(Measurement { amount, wall: started.elapsed(), cpu: cpu_time()?.saturating_sub(cpu) })
    }

    fn seconds_each(&self) -> f64 {
        self.wall.as_secs_f64() / self.amount as f64
    }

    fn cpu_seconds_each(&self) -> f64 {
        self.cpu.as_secs_f64() / self.amount as f64
    }
}

/// The sides of a comparison; the first is what the others are held against. Each side has a measurement for each turn.
#[derive(Default)]
struct Sides(Vec<(String, Vec<Measurement>)>);

impl Sides {
    fn note(&mut self, side: &str, measurement: Measurement) {
        match self.0.iter_mut().find(|(name, _)| name == side) {
            Some((_, turns)) => turns.push(measurement),
            None => self.0.push((side.to_owned(), vec![measurement])),
        }
    }

    /// Rates, and their ratios to the first side's: larger is faster.
    fn print_rates(&self) {
        self.print(|seconds_each| format!("{:>9.0}/s", 1.0 / seconds_each), |ratio| 1.0 / ratio);
    }

    /// Times, and their ratios to the first side's: smaller is faster.
    fn print_times(&self) {
        self.print(|seconds_each| format!("{:>8.2} ms", 1e3 * seconds_each), |ratio| ratio);
    }

    fn print(&self, absolute: impl Fn(f64) -> String, ratio: impl Fn(f64) -> f64) {
        let Some((_, reference)) = self.0.first() else { return };
        for (name, turns) in &self.0 {
            // Everything is cold in the first turn.
            let turns = || turns.iter().zip(reference).skip(1);
            let middle = Spread::of(turns().map(|(turn, _)| turn.seconds_each()));
            let wall = Spread::of(turns().map(|(turn, other)| ratio(turn.seconds_each() / other.seconds_each())));
            let cpu =
                Spread::of(turns().map(|(turn, other)| ratio(turn.cpu_seconds_each() / other.cpu_seconds_each())));
            println!(
                "  {name:<44} {}   ratio {:.2} ({:.2}-{:.2})   by CPU time {:.2} ({:.2}-{:.2})",
                absolute(middle.median),
                wall.median,
                wall.min,
                wall.max,
                cpu.median,
                cpu.min,
                cpu.max,
            );
        }
    }
}

/// Median and extremes of some values.
struct Spread {
    median: f64,
    min: f64,
    max: f64,
}

impl Spread {
    fn of(values: impl Iterator<Item = f64>) -> Spread {
        let mut values: Vec<f64> = values.collect();
        values.sort_by(f64::total_cmp);
        let at = |index: usize| values.get(index).copied().unwrap_or(f64::NAN);
        Spread { median: at(values.len() / 2), min: at(0), max: at(values.len().saturating_sub(1)) }
    }
}

/// CPU time of this process so far, in steps of 10 ms.
fn cpu_time() -> Result<Duration> {
    let stat = std::fs::read_to_string("/proc/self/stat")?;
    // User and system time are fields 14 and 15; the name in field 2 may hold anything but ends with a parenthesis.
    let fields = stat.rsplit_once(')').map(|(_, fields)| fields).unwrap_or_default();
    let ticks: u64 = fields.split_whitespace().skip(11).take(2).map(|ticks| ticks.parse().unwrap_or(0)).sum();
    Ok(Duration::from_millis(10 * ticks))
}
