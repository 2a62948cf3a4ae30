//! The prompt of `watershed sql`: statements over several lines, ended by `;`, and a few commands that begin with `\`.
//!
//! The line editor blocks, so the prompt has a thread of its own and asks the platform from there. Ctrl-C while a
//! statement is being typed drops it; while an answer is awaited, it stops waiting. A failure is shown and forgotten.

use std::path::PathBuf;

use anyhow::{Context as _, Result, bail};
use clap::ValueEnum;
use rustyline::completion::Completer;
use rustyline::error::ReadlineError;
use rustyline::highlight::Highlighter;
use rustyline::hint::Hinter;
use rustyline::history::FileHistory;
use rustyline::validate::{ValidationContext, ValidationResult, Validator};
use rustyline::{Config, Context, Editor, Helper};
use tokio::runtime::Handle;

use super::statements::{is_complete, split_statements};
use super::{Session, SqlFormat};
use crate::cli::state_dir::state_dir;
use crate::cli::{output, views};

const PROMPT: &str = "watershed> ";
const HISTORY_ENTRIES_MAX: usize = 10_000;
const HELP: &str = "\
End a statement with ; to run it. It may go over several lines.
  \\d               list views and sources
  \\d NAME          show one of them: its definition, columns and state
  \\format FORMAT   print answers as table, csv, json or jsonl
  \\help            this text
  \\q               leave; Ctrl-D does too
Ctrl-C drops what you are typing, or stops waiting for an answer. Ctrl-R searches what you typed before.
";

/// Reads and runs statements until the end of input or `\q`.
pub(super) async fn run(session: Session) -> Result<()> {
    let runtime = Handle::current();
    tokio::task::spawn_blocking(move || Prompt::open(session, runtime)?.run()).await.context("the prompt crashed")?
}

struct Prompt {
    session: Session,
    runtime: Handle,
    editor: Editor<SqlHelper, FileHistory>,
    history: Option<PathBuf>,
}

/// What was typed that is not SQL.
#[derive(Debug, PartialEq, Eq)]
enum Command<'a> {
    Describe(Option<&'a str>),
    Format(SqlFormat),
    Help,
    Quit,
}

/// Whether the prompt goes on.
#[derive(Debug, PartialEq, Eq)]
enum Next {
    Prompt,
    Leave,
}

impl Prompt {
    fn open(session: Session, runtime: Handle) -> Result<Prompt> {
        let config = Config::builder()
            .max_history_size(HISTORY_ENTRIES_MAX)
            .and_then(|config| config.history_ignore_dups(true))
            .context("cannot set up the prompt")?
            .auto_add_history(true)
            .build();
        let mut editor = Editor::with_config(config).context("cannot set up the prompt")?;
        editor.set_helper(Some(SqlHelper));
        let history = history_file();
        if let Some(file) = &history {
            // The first prompt of a user finds no history.
            let _ = editor.load_history(file);
        }
        Ok(Prompt { session, runtime, editor, history })
    }

    fn run(mut self) -> Result<()> {
        if output::is_terminal() {
            output::print(b"Watershed SQL. \\d lists views and sources, \\help says more, \\q leaves.\n")?;
        }
        loop {
            let line = match self.editor.readline(PROMPT) {
                Ok(line) => line,
                Err(ReadlineError::Interrupted) => continue,
                Err(ReadlineError::Eof) => return Ok(()),
                Err(error) => return Err(error).context("cannot read from the terminal"),
            };
            self.remember();
            match self.obey(&line) {
                Ok(Next::Prompt) => {}
                Ok(Next::Leave) => return Ok(()),
                Err(error) if output::is_closed(&error) => return Err(error),
                Err(error) => output::notice(&format!("error: {error:#}")),
            }
        }
    }

    fn obey(&mut self, line: &str) -> Result<Next> {
        if !line.trim_start().starts_with('\\') {
            for statement in split_statements(line) {
                self.wait(self.session.run(statement))?;
            }
            return Ok(Next::Prompt);
        }
        match Command::parse(line)? {
            Command::Describe(name) => self.wait(views::describe(&self.session.client, name))?,
            Command::Format(format) => self.session.format = format,
            Command::Help => output::print(HELP.as_bytes())?,
            Command::Quit => return Ok(Next::Leave),
        }
        Ok(Next::Prompt)
    }

    /// Waits for an answer, unless Ctrl-C comes first: the platform then stops working on it when it notices.
    fn wait(&self, answer: impl Future<Output = Result<()>>) -> Result<()> {
        self.runtime.block_on(async {
            tokio::select! {
                answer = answer => answer,
                signal = tokio::signal::ctrl_c() => match signal {
                    Ok(()) => bail!("stopped waiting for the answer"),
                    Err(error) => Err(error).context("cannot wait for Ctrl-C"),
                },
            }
        })
    }

    /// Saves the history after each statement, so that it survives a closed window; failing to is no reason to stop.
    fn remember(&mut self) {
        if let Some(file) = &self.history {
            let _ = self.editor.append_history(file);
        }
    }
}

impl Command<'_> {
    fn parse(line: &str) -> Result<Command<'_>> {
        let mut words = line.trim().trim_end_matches(';').split_whitespace();
        let name = words.next().unwrap_or_default();
        let argument = words.next();
        match (name, argument) {
            ("\\d", name) => Ok(Command::Describe(name)),
            ("\\q" | "\\quit", None) => Ok(Command::Quit),
            ("\\help" | "\\h" | "\\?", None) => Ok(Command::Help),
            ("\\format", Some(format)) => match SqlFormat::from_str(format, true) {
                Ok(format) => Ok(Command::Format(format)),
                Err(_) => bail!("there is no format \"{format}\"; there are: table, csv, json, jsonl"),
            },
            ("\\format", None) => bail!("\\format needs one of table, csv, json, jsonl"),
            _ => bail!("there is no command \"{}\"; \\help lists the commands", line.trim()),
        }
    }
}

/// The history's file, in a folder that exists; `None` where there is no such place.
fn history_file() -> Option<PathBuf> {
    let folder = state_dir().ok()?;
    std::fs::create_dir_all(&folder).ok()?;
    Some(folder.join("sql_history"))
}

/// Tells the line editor when a statement is finished.
struct SqlHelper;

impl Validator for SqlHelper {
    fn validate(&self, context: &mut ValidationContext<'_>) -> rustyline::Result<ValidationResult> {
        let finished = is_finished(context.input());
        Ok(if finished { ValidationResult::Valid(None) } else { ValidationResult::Incomplete })
    }
}

impl Completer for SqlHelper {
    type Candidate = String;

    fn complete(&self, _: &str, position: usize, _: &Context<'_>) -> rustyline::Result<(usize, Vec<String>)> {
        Ok((position, Vec::new()))
    }
}

impl Hinter for SqlHelper {
    type Hint = String;
}

impl Highlighter for SqlHelper {}

impl Helper for SqlHelper {}

fn is_finished(input: &str) -> bool {
    let input = input.trim();
    input.is_empty() || input.starts_with('\\') || is_complete(input)
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test may panic")]
mod tests {
    use super::*;

    #[test]
    fn enter_runs_commands_and_closed_statements_and_continues_open_ones() {
        for finished in ["", "  ", "\\d", "\\q", "select 1;", "select\n1;"] {
            assert!(is_finished(finished), "{finished:?}");
        }
        for open in ["select 1", "select ';"] {
            assert!(!is_finished(open), "{open:?}");
        }
    }

    #[test]
    fn commands_parse_with_or_without_a_semicolon() {
        assert_eq!(Command::parse("\\d").unwrap(), Command::Describe(None));
        assert_eq!(Command::parse(" \\d edits; ").unwrap(), Command::Describe(Some("edits")));
        assert_eq!(Command::parse("\\q;").unwrap(), Command::Quit);
        assert_eq!(Command::parse("\\?").unwrap(), Command::Help);
        assert_eq!(Command::parse("\\format JSON").unwrap(), Command::Format(SqlFormat::Json));
        for wrong in ["\\format", "\\format xml", "\\x", "\\"] {
            assert!(Command::parse(wrong).is_err(), "{wrong}");
        }
    }
}
