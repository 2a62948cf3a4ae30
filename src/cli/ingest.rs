//! `watershed ingest`: sends the rows of files to a source, in order, and remembers what was acknowledged.
//!
//! A thread reads ahead: it decompresses and cuts the input into chunks of whole rows ([`input`], [`text`],
//! [`parquet`]). One request is in flight at a time, because the order of requests is the order of the log. Each has a
//! name by which the platform recognizes it ([`producer`]), so it can be sent again when its answer is lost. The name is
//! saved before the chunk is sent, and the place behind the chunk after the acknowledgement ([`ledger`]); a call that
//! finds a name without an acknowledgement sends the same rows under that name before it goes on.

mod chunk;
mod display;
mod input;
mod job;
mod ledger;
mod memory;
mod parquet;
mod producer;
mod scan;
mod text;

use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result};
use clap::{Args, ValueEnum};
use indicatif::HumanCount;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use watershed_shared::position::PositionToken;

use self::display::Display;
use self::input::{Format, Input};
use self::job::{Job, Sent, Totals};
use self::ledger::Ledger;
use super::state_dir::state_dir;
use super::views::counted;
use super::{ServerArgs, output};
use crate::client::answer::Source;

/// Exit code after Ctrl-C, as shells know it.
const INTERRUPTED: u8 = 130;

/// Arguments of `watershed ingest`.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  watershed ingest edits 2015-09-12.json.gz
  watershed ingest edits history/*.parquet today.csv
  tail -f events.ndjson | watershed ingest edits -

Files may be compressed with gzip or zstd. CSV needs a header line. Rows are sent in the order of the files and of the \
rows in them; the platform acknowledges them when they are durable. The last line printed says how many were \
accepted, and a position: `watershed sql --position POSITION` answers when the views hold all of them.

Rejected rows are reported with file and row number; rows count from 1, without CSV's header and blank lines. Their \
neighbours are accepted. The exit code is then 1, unless --allow-rejected.

Going on after an interruption: after each acknowledged request the place in the file is saved, and the same command \
goes on there. A file that was sent completely is skipped; one that has grown since is sent from its old end; one \
whose sent part has changed is refused. --again sends a file from its beginning all the same. Standard input cannot \
be gone on with.

Ctrl-C waits for the request in flight; a second one does not. Whenever the platform or this command is stopped, and \
however, each row counts once when you go on: the request in flight is sent again under its old name, by which the \
platform knows whether it has it. It knows for ingest.idempotency_window, a day unless configured otherwise. After \
that, going on is refused until --in-doubt says what to do with the rows of that one request.")]
pub(crate) struct IngestArgs {
    /// Name of the source
    source: String,
    /// Files to send, in this order; `-` is standard input
    #[arg(required = true, value_name = "FILE")]
    files: Vec<PathBuf>,
    /// How the rows are written [default: told from the file's name, or else its first row]
    #[arg(long, short, value_enum)]
    format: Option<Format>,
    /// Rows in one request; fewer when they reach 8 MiB
    #[arg(long, value_name = "N", default_value_t = 10_000, value_parser = clap::value_parser!(u64).range(1..=1_000_000))]
    batch_rows: u64,
    /// Exit with 0 also when rows were rejected
    #[arg(long)]
    allow_rejected: bool,
    /// Go on where an earlier call stopped, and skip files that were sent completely; the default
    #[arg(long, overrides_with = "no_resume")]
    resume: bool,
    /// Send all files from their beginning, and remember nothing
    #[arg(long)]
    no_resume: bool,
    /// Send files from their beginning even if they were sent before, and remember that
    #[arg(long, conflicts_with = "no_resume")]
    again: bool,
    /// What to do with the rows of an interrupted request that the platform does not remember any more
    #[arg(long, value_enum)]
    in_doubt: Option<InDoubt>,
    /// Folder to remember acknowledged rows in [default: ~/.local/state/watershed/ingest]
    #[arg(long, value_name = "DIR")]
    state: Option<PathBuf>,
    /// How long to try again when the platform is busy or restarting
    #[arg(long, value_name = "SECONDS", default_value_t = 300)]
    retry_for: u64,
    #[command(flatten)]
    server: ServerArgs,
}

/// What to do with rows of which nobody knows whether they were accepted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum InDoubt {
    /// Send them: none is lost, but they may count twice
    Send,
    /// Leave them out: none counts twice, but they may be lost
    Skip,
}

/// Runs `watershed ingest`.
pub(crate) async fn execute(args: IngestArgs) -> Result<ExitCode> {
    let interrupts = Interrupts::listen();
    let inputs: Vec<Arc<Input>> =
        args.files.iter().map(|file| Input::find(file).map(Arc::new)).collect::<Result<_>>()?;
    let client = args.server.client()?;
    let source: Source = client.source(&args.source).await?;
    let allow_rejected = args.allow_rejected;
    let mut job = Job {
        ledger: open_ledger(&args)?,
        display: Display::new(inputs.iter().map(|input| input.size()).sum()),
        interrupts: interrupts.count.clone(),
        end_of_log: parse_position(&source.position)?,
        totals: Totals::default(),
        client,
        args,
    };
    for input in inputs {
        if let Sent::Interrupted = job.send_input(&input).await? {
            job.display.close();
            output::notice(&format!("{}; the same command goes on there", summary(&job, job.display.elapsed())));
            return Ok(ExitCode::from(INTERRUPTED));
        }
    }
    job.display.close();
    output::print(format!("{}\n", summary(&job, job.display.elapsed())).as_bytes())?;
    let rejected = job.totals.rejected;
    if rejected > job.totals.rejected_shown {
        output::notice(&format!("rejected: {} more", counted(rejected - job.totals.rejected_shown, "row")));
    }
    Ok(if rejected > 0 && !allow_rejected { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}

/// `ingested 39,244 events (0 rejected) into "wikiticker" in 1.2 s, position wikiticker=39244`.
fn summary(job: &Job, took: Duration) -> String {
    format!(
        "ingested {} ({} rejected) into \"{}\" in {:.1} s, position {}",
        counted(job.totals.accepted, "event"),
        HumanCount(job.totals.rejected),
        job.args.source,
        took.as_secs_f64(),
        job.totals.position.as_ref().unwrap_or(&job.end_of_log)
    )
}

fn open_ledger(args: &IngestArgs) -> Result<Option<Ledger>> {
    if args.no_resume {
        return Ok(None);
    }
    let folder = match &args.state {
        Some(folder) => folder.clone(),
        None => state_dir().context("use --state or --no-resume")?.join("ingest"),
    };
    Ledger::open(folder).map(Some)
}

fn parse_position(text: &str) -> Result<PositionToken> {
    text.parse().context("the platform's answer is not what this version of the command expects")
}

/// Counts how often Ctrl-C was pressed, for as long as it lives.
struct Interrupts {
    count: watch::Receiver<u32>,
    listener: JoinHandle<()>,
}

impl Interrupts {
    fn listen() -> Interrupts {
        let (counter, count) = watch::channel(0);
        let listener = tokio::spawn(async move {
            while tokio::signal::ctrl_c().await.is_ok() {
                counter.send_modify(|count| *count += 1);
            }
        });
        Interrupts { count, listener }
    }
}

impl Drop for Interrupts {
    fn drop(&mut self) {
        self.listener.abort();
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test may panic")]
mod tests;
