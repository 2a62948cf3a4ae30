//! The `watershed` command: one file in `cli` for each subcommand.
//!
//! Results go to standard output and everything else to standard error, so that every subcommand can stand in a pipe.
//! The exit code is 0 on success, 1 on failure, 2 for a command line that makes no sense, 130 after Ctrl-C.

mod cli;
mod client;

use std::process::ExitCode;

use anyhow::{Context, Result};
use clap::Parser;

use crate::cli::{Cli, Command, output};

fn main() -> ExitCode {
    let command = Cli::parse().command;
    match start(command) {
        Ok(code) => code,
        // Whoever read our output has seen enough (`watershed sql ... | head`): that is how such a pipe ends.
        Err(error) if output::is_closed(&error) => ExitCode::SUCCESS,
        Err(error) => {
            output::notice(&format!("error: {error:#}"));
            ExitCode::FAILURE
        }
    }
}

fn start(command: Command) -> Result<ExitCode> {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .context("cannot start the threads that do input and output")?;
    let result = runtime.block_on(dispatch(command));
    // A thread that still waits for standard input must not keep the command alive.
    runtime.shutdown_background();
    result
}

async fn dispatch(command: Command) -> Result<ExitCode> {
    match command {
        Command::Sql(args) => cli::sql::execute(args).await,
        Command::Ingest(args) => cli::ingest::execute(args).await,
        Command::Batch(args) => cli::batch::execute(args).await,
        Command::Views(args) => cli::views::execute_views(args).await,
        Command::DeadLetters(args) => cli::dead_letters::execute(args).await,
        Command::Sinks(args) => cli::sinks::execute(args).await,
        Command::Sources(args) => cli::views::execute_sources(args).await,
        Command::Source(args) => cli::source::execute(args).await,
        Command::Run(args) => cli::run::execute(args).await,
        Command::Check(args) => cli::check::execute(args).await,
        Command::Doctor(args) => cli::doctor::execute(args).await,
        Command::Demo(args) => cli::demo::execute(args).await,
    }
}
