//! `watershed source resume`: lets partitions of a Kafka source that have stopped go on.

use std::process::ExitCode;

use anyhow::Result;
use clap::{Args, Subcommand};

use super::{ServerArgs, output};

/// Arguments of `watershed source`.
#[derive(Debug, Args)]
pub(crate) struct SourceArgs {
    #[command(subcommand)]
    command: SourceCommand,
}

#[derive(Debug, Subcommand)]
enum SourceCommand {
    /// Read partitions again that have stopped
    Resume(ResumeArgs),
}

/// Arguments of `watershed source resume`.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  watershed sources edits                 why has it stopped?
  watershed source resume edits           after too many bad records: go on with the next one
  watershed source resume edits --from-history    go on behind offsets that the history has already
  watershed source resume edits --skip    go on without offsets that the topic has lost

A partition stops when the topic does not have the offset that comes next any more, or when too many records are no \
events. With --from-history it goes on if the source's history has the events at the lost offsets; only which of the \
records there were dead letters is lost. With --skip the lost offsets are recorded in the source's history, and every answer over the source says so.")]
pub(crate) struct ResumeArgs {
    /// The source
    source: String,
    /// Go on with what the topic has, and record the offsets before as lost
    #[arg(long)]
    skip: bool,
    /// Go on without offsets whose events are in the history already
    #[arg(long, conflicts_with = "skip")]
    from_history: bool,
    #[command(flatten)]
    server: ServerArgs,
}

/// Runs `watershed source`.
pub(crate) async fn execute(args: SourceArgs) -> Result<ExitCode> {
    let SourceCommand::Resume(ResumeArgs { source, skip, from_history, server }) = args.command;
    let resumed = server.client()?.resume_source(&source, skip, from_history).await?;
    if resumed.is_empty() {
        output::notice(&format!("no partition of source \"{source}\" has stopped"));
    }
    for partition in resumed {
        let line = match partition.lost {
            Some(gap) => {
                format!("partition {}: resumed without offsets {} to {}\n", gap.partition, gap.start, gap.end - 1)
            }
            None => format!("partition {}: resumed\n", partition.partition),
        };
        output::print(line.as_bytes())?;
    }
    Ok(ExitCode::SUCCESS)
}
