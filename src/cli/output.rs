//! Where the command writes: results to standard output, everything else to standard error.
//!
//! A closed standard output is not a failure but the reader's way to say "enough": it becomes [`OutputClosed`], which
//! ends the command quietly. A closed standard error is ignored: there is nobody left to tell.

use std::fmt;
use std::io::{self, IsTerminal, Write};

use anyhow::{Context, Result};

/// Standard output was closed by the program that reads it.
#[derive(Debug)]
pub(crate) struct OutputClosed;

impl fmt::Display for OutputClosed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("standard output was closed")
    }
}

impl std::error::Error for OutputClosed {}

/// Whether the command failed only because nobody reads its output any more.
pub(crate) fn is_closed(error: &anyhow::Error) -> bool {
    error.is::<OutputClosed>()
}

/// Writes part of the result to standard output, at once.
///
/// # Errors
/// [`OutputClosed`] when the reader has gone; any other failure to write as it is.
pub(crate) fn print(bytes: &[u8]) -> Result<()> {
    let mut output = io::stdout().lock();
    match output.write_all(bytes).and_then(|()| output.flush()) {
        Ok(()) => Ok(()),
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Err(OutputClosed.into()),
        Err(error) => Err(error).context("cannot write to standard output"),
    }
}

/// A JSON array of texts that are JSON already, each in its own line.
pub(crate) fn json_array<T: AsRef<str>>(values: impl IntoIterator<Item = T>) -> String {
    let mut array = String::from("[");
    for (index, value) in values.into_iter().enumerate() {
        array.push_str(if index == 0 { "" } else { ",\n" });
        array.push_str(value.as_ref());
    }
    array.push_str("]\n");
    array
}

/// Writes a line to standard error.
pub(crate) fn notice(line: &str) {
    let _ = writeln!(io::stderr().lock(), "{line}");
}

/// Whether a person reads standard output directly.
pub(crate) fn is_terminal() -> bool {
    io::stdout().is_terminal()
}

/// Whether a person reads standard error directly.
pub(crate) fn notices_are_seen() -> bool {
    io::stderr().is_terminal()
}
