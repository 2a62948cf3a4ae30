//! `watershed sql`: asks a question, or opens a prompt.
//!
//! The statements come from the argument, from standard input when that is no terminal, or from the prompt. Each is
//! sent by itself and its answer printed before the next is sent; the first failure ends the command, except at the prompt.

mod print;
mod prompt;
mod statements;

use std::io::{IsTerminal, Read};
use std::process::ExitCode;
use std::time::Instant;

use anyhow::{Context, Result, bail};
use clap::{Args, ValueEnum};

use self::statements::split_statements;
use super::{ServerArgs, output};
use crate::client::Client;

/// Arguments of `watershed sql`.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  watershed sql 'SELECT * FROM my_view ORDER BY edits DESC LIMIT 10'
  watershed sql --format csv 'SELECT * FROM my_view' > edits.csv
  watershed sql --format jsonl < questions.sql | jq .edits
  watershed sql                  a prompt with history; \\help there says more

Read your own writes: `ingest` ends with a position, and an answer for that position covers everything sent:
  watershed sql --position edits=39244 'SELECT count(*) FROM my_view'

Formats:
  table   for people; what a terminal gets unless you say otherwise
  csv     a header line, then rows as they arrive; what pipes and files get
  json    one array of objects, a row in each line
  jsonl   an object in each line, without the array

Numbers in json and jsonl are written exactly as the platform computed them; decimals and times are strings. When two \
columns have one name, the later ones get _1, _2 and so on, because an object cannot hold both.")]
pub(crate) struct SqlArgs {
    /// One or more statements separated by `;`; without it, they are read from standard input or typed at a prompt
    pub(crate) sql: Option<String>,
    /// How rows are printed [default: table on a terminal, csv otherwise]
    #[arg(long, short, value_enum)]
    pub(crate) format: Option<SqlFormat>,
    /// Wait until the answer covers this position, as an acknowledgement of events gave it; several joined by `;`
    #[arg(long, value_name = "POSITION")]
    pub(crate) position: Option<String>,
    #[command(flatten)]
    pub(crate) server: ServerArgs,
}

/// How the rows of an answer are printed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum SqlFormat {
    Table,
    Csv,
    Json,
    Jsonl,
}

/// Runs `watershed sql`.
pub(crate) async fn execute(args: SqlArgs) -> Result<ExitCode> {
    let default_format = if output::is_terminal() { SqlFormat::Table } else { SqlFormat::Csv };
    let session = Session {
        client: args.server.client()?,
        format: args.format.unwrap_or(default_format),
        position: args.position,
    };
    let text = match args.sql {
        Some(text) => text,
        None if std::io::stdin().is_terminal() => {
            prompt::run(session).await?;
            return Ok(ExitCode::SUCCESS);
        }
        None => read_standard_input()?,
    };
    let statements = split_statements(&text);
    if statements.is_empty() {
        bail!("there is no SQL to run; pass it as an argument or on standard input");
    }
    for statement in statements {
        session.run(statement).await?;
    }
    Ok(ExitCode::SUCCESS)
}

/// How statements are asked and answers printed.
#[derive(Debug)]
struct Session {
    client: Client,
    format: SqlFormat,
    position: Option<String>,
}

impl Session {
    /// Asks one statement and prints its answer.
    async fn run(&self, sql: &str) -> Result<()> {
        let started = Instant::now();
        let position = self.position.as_deref();
        if self.format == SqlFormat::Csv {
            let mut answer = self.client.sql_as_csv(sql, position).await?;
            while let Some(piece) = answer.next().await? {
                output::print(&piece)?;
            }
            warn_if_incomplete(answer.complete);
            return Ok(());
        }
        let answer = self.client.sql(sql, position).await?;
        let text = match self.format {
            SqlFormat::Table => print::table(&answer)?,
            SqlFormat::Json => print::json_array(&answer),
            SqlFormat::Jsonl | SqlFormat::Csv => print::json_lines(&answer),
        };
        output::print(text.as_bytes())?;
        warn_if_incomplete(answer.complete);
        if self.format == SqlFormat::Table && output::notices_are_seen() {
            output::notice(&print::footer(answer.rows.len(), started.elapsed()));
        }
        Ok(())
    }
}

fn warn_if_incomplete(complete: bool) {
    if !complete {
        output::notice("warning: this answer is incomplete: the platform could not reach everything it covers");
    }
}

fn read_standard_input() -> Result<String> {
    let mut text = String::new();
    std::io::stdin().read_to_string(&mut text).context("cannot read SQL from standard input")?;
    Ok(text)
}
