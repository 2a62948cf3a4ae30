//! `watershed batch`: starts and lists batch runs.

use std::process::ExitCode;

use anyhow::Result;
use chrono::DateTime;
use clap::{Args, Subcommand, ValueEnum};
use indicatif::{HumanCount, ProgressBar};
use serde_json::value::RawValue;

use super::table::{Align, Table, printable};
use super::views::{bracketed, count, counted};
use super::{ListFormat, ServerArgs, output};
use crate::client::answer::{Audit, BatchRun};

/// Arguments of `watershed batch`.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  watershed batch run edits_by_channel
  watershed batch run edits_by_channel --no-wait
  watershed batch list --view edits_by_channel")]
pub(crate) struct BatchArgs {
    #[command(subcommand)]
    command: BatchCommand,
}

#[derive(Debug, Subcommand)]
enum BatchCommand {
    /// Recompute a view's batch part from history; answers stay the same before, during and after
    #[command(after_help = "\
The run covers every event accepted before it starts. When it ends, the view's realtime part below the run's boundary \
is dropped, after a check that both say the same: the audit. Ends with exit code 1 when the run failed or the audit \
found drift. Ctrl-C stops waiting, not the run.")]
    Run(RunArgs),
    /// List batch runs, newest first
    List(ListArgs),
}

#[derive(Debug, Args)]
struct RunArgs {
    /// Name of the view
    view: String,
    /// What to read: full is all of history
    #[arg(long, value_enum, default_value_t)]
    kind: RunKind,
    /// Return as soon as the run has started
    #[arg(long)]
    no_wait: bool,
    #[command(flatten)]
    server: ServerArgs,
}

#[derive(Debug, Clone, Copy, Default, ValueEnum)]
enum RunKind {
    #[default]
    Full,
}

#[derive(Debug, Args)]
struct ListArgs {
    /// Only runs of this view
    #[arg(long, value_name = "VIEW")]
    view: Option<String>,
    /// How the list is printed
    #[arg(long, short, value_enum, default_value_t)]
    format: ListFormat,
    #[command(flatten)]
    server: ServerArgs,
}

/// Runs `watershed batch`.
pub(crate) async fn execute(args: BatchArgs) -> Result<ExitCode> {
    match args.command {
        BatchCommand::Run(args) => start(args).await,
        BatchCommand::List(args) => list(args).await,
    }
}

async fn start(args: RunArgs) -> Result<ExitCode> {
    let RunKind::Full = args.kind;
    let client = args.server.client()?;
    let waiting = spinner(!args.no_wait, &args.view);
    let run = client.start_batch_run(&args.view, "full", !args.no_wait).await;
    waiting.finish_and_clear();
    let run = run?;
    output::print(format!("{}\n", summary(&run)).as_bytes())?;
    let failed = run.state == "failed" || run.audit.as_ref().is_some_and(|audit| audit.outcome == "drift");
    Ok(if failed { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}

async fn list(args: ListArgs) -> Result<ExitCode> {
    let client = args.server.client()?;
    let view = args.view.as_deref();
    let text = match args.format {
        ListFormat::Json => {
            let runs: Vec<Box<RawValue>> = client.batch_runs(view).await?;
            output::json_array(runs.iter().map(|run| run.get()))
        }
        ListFormat::Table => table(&client.batch_runs(view).await?),
    };
    output::print(text.as_bytes())?;
    Ok(ExitCode::SUCCESS)
}

/// A sign of life on a terminal while a run is awaited; invisible elsewhere.
fn spinner(waiting: bool, view: &str) -> ProgressBar {
    if !waiting {
        return ProgressBar::hidden();
    }
    let spinner = ProgressBar::new_spinner().with_message(format!("recomputing \"{}\" from history", printable(view)));
    spinner.enable_steady_tick(std::time::Duration::from_millis(100));
    spinner
}

fn table(runs: &[BatchRun]) -> String {
    let left = ["run", "view", "kind", "state", "trigger", "started"].map(|title| (title, Align::Left));
    let right = ["took", "version", "events"].map(|title| (title, Align::Right));
    let mut table = Table::new(left.into_iter().chain(right).chain([("outcome", Align::Left)]));
    for run in runs {
        table.push([
            run.id(),
            run.view.clone(),
            run.kind.clone(),
            run.state.clone(),
            run.trigger.clone(),
            run.started_at.clone().unwrap_or_default(),
            seconds(run).map(|seconds| format!("{seconds:.1} s")).unwrap_or_default(),
            count(run.batch_version),
            count(run.events),
            outcome(run),
        ]);
    }
    table.to_string()
}

fn summary(run: &BatchRun) -> String {
    let name = format!("{} run {} of \"{}\"", run.kind, run.id(), run.view);
    let took = seconds(run).map(|seconds| format!(" in {seconds:.1} s")).unwrap_or_default();
    match run.state.as_str() {
        "succeeded" => {
            let version = run.batch_version.map(|version| format!("batch version {version}, ")).unwrap_or_default();
            let counts = [(run.events, "event"), (run.groups, "group"), (run.files, "file")];
            let counts: String =
                counts.iter().filter_map(|(count, noun)| Some(format!("{}, ", counted((*count)?, noun)))).collect();
            let boundary = format!("boundary {}", bracketed(&run.boundary));
            format!("{name} succeeded{took}: {version}{counts}{boundary}; {}", outcome(run))
        }
        "failed" => format!("{name} failed{took}: {}", outcome(run)),
        state => format!("{name} is {state}; `watershed batch list --view {}` shows its end", run.view),
    }
}

fn outcome(run: &BatchRun) -> String {
    match (&run.error, &run.audit) {
        (Some(error), _) => error.clone(),
        (None, Some(audit)) => format!("audit: {}", describe_audit(audit)),
        (None, None) if run.state == "succeeded" => "no audit".to_owned(),
        (None, None) => String::new(),
    }
}

/// An audit in words: `equal (512 groups compared)`.
pub(super) fn describe_audit(audit: &Audit) -> String {
    let compared = counted(audit.groups_compared, "group");
    let found = match audit.outcome.as_str() {
        "equal" => format!("equal ({compared} compared)"),
        "drift" => format!("drift ({} of {compared} differ)", HumanCount(audit.groups_different)),
        other => other.to_owned(),
    };
    match &audit.detail {
        Some(detail) if !detail.is_empty() => format!("{found}: {detail}"),
        _ => found,
    }
}

fn seconds(run: &BatchRun) -> Option<f64> {
    let parse = |time: &Option<String>| DateTime::parse_from_rfc3339(time.as_deref()?).ok();
    let took = parse(&run.ended_at)? - parse(&run.started_at)?;
    Some(took.num_milliseconds() as f64 / 1000.0)
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test may panic")]
mod tests {
    use super::*;

    fn run(state: &str, more: &str) -> BatchRun {
        let text = format!(
            r#"{{"id":7,"view":"edits_by_channel","kind":"full","state":"{state}","trigger":"manual",
            "started_at":"2026-01-02T03:04:05.000000Z","ended_at":"2026-01-02T03:04:06.250000Z"{more}}}"#
        );
        serde_json::from_str(&text).unwrap()
    }

    #[test]
    fn summary_of_a_run_says_what_it_covers_and_what_the_audit_found() {
        let more = r#","batch_version":3,"boundary":[12,40],"events":39244,"groups":51,"files":1,
            "audit":{"batch_version":3,"outcome":"equal","groups_compared":51,"groups_different":0,"detail":null}"#;
        assert_eq!(
            summary(&run("succeeded", more)),
            "full run 7 of \"edits_by_channel\" succeeded in 1.2 s: batch version 3, 39,244 events, 51 groups, \
             1 file, boundary [12,40]; audit: equal (51 groups compared)"
        );
        let failed = summary(&run("failed", r#","error":"the store refuses""#));
        assert_eq!(failed, "full run 7 of \"edits_by_channel\" failed in 1.2 s: the store refuses");
        assert!(summary(&run("running", "")).contains("watershed batch list"));
    }

    #[test]
    fn list_shows_runs_that_have_not_ended() {
        let running = BatchRun { ended_at: None, ..run("running", "") };
        let text = table(&[running]);
        assert!(text.contains("running") && text.lines().count() == 5, "{text}");
    }
}
