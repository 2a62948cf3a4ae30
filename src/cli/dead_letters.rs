//! `watershed dead-letters replay`: gives records that were no events another chance.

use std::process::ExitCode;

use anyhow::Result;
use clap::{Args, Subcommand};

use super::views::counted;
use super::{ServerArgs, output};

/// Arguments of `watershed dead-letters`.
#[derive(Debug, Args)]
pub(crate) struct DeadLettersArgs {
    #[command(subcommand)]
    command: DeadLettersCommand,
}

#[derive(Debug, Subcommand)]
enum DeadLettersCommand {
    /// Write dead letters to their topic again, after what made them unreadable has been mended
    Replay(ReplayArgs),
}

/// Arguments of `watershed dead-letters replay`.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  watershed sql 'SELECT reason, count(*) FROM edits__dead_letters GROUP BY reason'    what was wrong?
  watershed dead-letters replay edits --dry-run    how many would be written?
  watershed dead-letters replay edits

The records are written as they were: key, value and headers. Those that are events now count as such; those that still are \
none become dead letters again, at their new offsets. Each dead letter is replayed once, also when this is repeated.")]
pub(crate) struct ReplayArgs {
    /// The source
    source: String,
    /// Only count
    #[arg(long)]
    dry_run: bool,
    #[command(flatten)]
    server: ServerArgs,
}

/// Runs `watershed dead-letters`.
pub(crate) async fn execute(args: DeadLettersArgs) -> Result<ExitCode> {
    let DeadLettersCommand::Replay(ReplayArgs { source, dry_run, server }) = args.command;
    let replayed = server.client()?.replay_dead_letters(&source, dry_run).await?.replayed;
    let letters = counted(replayed, "dead letter");
    let line = if dry_run { format!("{letters} would be replayed\n") } else { format!("{letters} replayed\n") };
    output::print(line.as_bytes())?;
    Ok(ExitCode::SUCCESS)
}
