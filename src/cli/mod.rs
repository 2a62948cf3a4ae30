//! The command line: what can be typed, and one file for each subcommand.

pub(crate) mod batch;
pub(crate) mod check;
pub(crate) mod dead_letters;
pub(crate) mod demo;
pub(crate) mod doctor;
pub(crate) mod ingest;
pub(crate) mod output;
pub(crate) mod run;
pub(crate) mod sinks;
pub(crate) mod source;
pub(crate) mod sql;
mod state_dir;
mod table;
pub(crate) mod views;

use std::path::PathBuf;

use anyhow::Result;
use clap::{Args, Parser, Subcommand, ValueEnum};

use crate::client::Client;

const EXAMPLES: &str = "\
A first hour with Watershed:
  watershed demo                            see it work on a year of real flights
  watershed check my-project                are the definitions right?
  watershed run my-project                  start the platform; leave it running
  watershed ingest edits edits.ndjson.gz    in another terminal: send events
  watershed sql 'SELECT * FROM my_view'     ask: the answer is current and exact
  watershed batch run my_view               recompute it; answers stay the same

A project is a folder with a watershed.toml (it may be empty) and *.sql files with CREATE SOURCE and CREATE \
MATERIALIZED VIEW statements.

The client commands (sql, ingest, batch, views, sources, sinks) talk to the platform at --url or WATERSHED_URL. Results go \
to standard output, everything else to standard error.

Exit codes: 0 success, 1 failure, 2 a command line that makes no sense, 130 stopped by Ctrl-C.";

/// One SQL view over events, always current and exact: batch and realtime in one answer
#[derive(Debug, Parser)]
#[command(name = "watershed", version, after_help = EXAMPLES, max_term_width = 110, propagate_version = true)]
pub(crate) struct Cli {
    #[command(subcommand)]
    pub(crate) command: Command,
}

/// A subcommand with its arguments.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Start the platform on a project folder and keep it running until SIGTERM or Ctrl-C
    Run(RunArgs),
    /// Validate a project's definitions and show the three plans of each view, without starting anything
    Check(CheckArgs),
    /// Check a data folder while its platform is stopped: checksums, offsets, boundaries, leftovers; repair what can be
    Doctor(doctor::DoctorArgs),
    /// Start the platform on bundled real data and watch batch and realtime parts of each view stay equal to the truth
    Demo(demo::DemoArgs),
    /// Ask a question in SQL, or open a prompt
    Sql(sql::SqlArgs),
    /// Send events from files or standard input to a source
    Ingest(ingest::IngestArgs),
    /// Start and list batch runs
    Batch(batch::BatchArgs),
    /// Show the views: what each covers, and how much of it is batch and realtime
    Views(views::ViewsArgs),
    /// Show the sources: how far each log reaches, and how far views and history have followed
    Sources(views::SourcesArgs),
    /// Show the sinks: how far each has sent its view to its topic
    Sinks(sinks::SinksArgs),
    /// Give records of a topic that were no events another chance
    DeadLetters(dead_letters::DeadLettersArgs),
    /// Let a source that has stopped reading its topic go on
    Source(source::SourceArgs),
}

/// Arguments of `watershed run`.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  watershed run my-project
  watershed run my-project --data /var/lib/watershed --http 0.0.0.0:8080

A second start on the same data folder continues where the first one stopped, cleanly or not.")]
pub(crate) struct RunArgs {
    /// Folder with watershed.toml and *.sql files
    pub(crate) project_dir: PathBuf,
    /// Folder for the log, realtime state, history and batch views, instead of the one in watershed.toml
    #[arg(long, value_name = "DIR")]
    pub(crate) data: Option<PathBuf>,
    /// Address to serve HTTP on, instead of the one in watershed.toml
    #[arg(long, value_name = "ADDR")]
    pub(crate) http: Option<String>,
}

/// Arguments of `watershed check`.
#[derive(Debug, Args)]
#[command(after_help = "\
Example:
  watershed check my-project && echo fine

The three plans of a view: partial (events to states; run by the batch layer over files and by the speed layer over \
arriving events), merge (states to states), finish (states to rows; run when you ask).")]
pub(crate) struct CheckArgs {
    /// Folder with watershed.toml and *.sql files
    pub(crate) project_dir: PathBuf,
}

/// Where the platform is.
#[derive(Debug, Args)]
pub(crate) struct ServerArgs {
    /// Address of the platform
    #[arg(long, env = "WATERSHED_URL", value_name = "URL", default_value = "http://127.0.0.1:8080")]
    pub(crate) url: String,
}

impl ServerArgs {
    /// A client of that platform; connects with its first request.
    pub(crate) fn client(&self) -> Result<Client> {
        Client::new(&self.url)
    }
}

/// How a listing is printed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, ValueEnum)]
pub(crate) enum ListFormat {
    /// For people
    #[default]
    Table,
    /// One JSON array with everything the platform says
    Json,
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test may panic")]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn options_of_the_documented_commands_parse() {
        for line in [
            "watershed run project --data /tmp/data --http 127.0.0.1:9000",
            "watershed check project",
            "watershed doctor project --data /tmp/data --repair --dry-run --format json",
            "watershed demo --seconds 15 --keep flights-demo --plain --http 127.0.0.1:8080",
            "watershed sql",
            "watershed sql --format jsonl --position edits=1,2;flights=3 --url http://host:1 select",
            "watershed ingest edits a.ndjson b.csv.gz - --batch-rows 500 --format ndjson --resume",
            "watershed ingest edits a.parquet --no-resume --allow-rejected",
            "watershed batch run view --kind full --no-wait",
            "watershed batch list --view view --format json",
            "watershed views view --format json",
            "watershed sources",
            "watershed sinks --format json",
            "watershed source resume edits --skip",
            "watershed source resume edits --from-history",
            "watershed dead-letters replay edits --dry-run",
        ] {
            Cli::try_parse_from(line.split(' ')).unwrap();
        }
    }

    #[test]
    fn help_of_each_client_command_shows_an_example() {
        let mut command = Cli::command();
        for name in ["sql", "ingest", "batch", "views", "sources", "sinks"] {
            let help = command.find_subcommand_mut(name).unwrap().render_long_help().to_string();
            assert!(help.contains(&format!("watershed {name}")), "{help}");
        }
    }
}
