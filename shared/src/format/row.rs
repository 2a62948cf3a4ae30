//! Rows on their way into columns: a row that is refused is taken back, with its number and the reason.

use std::sync::Arc;

use arrow::array::{RecordBatch, RecordBatchOptions};
use arrow::datatypes::SchemaRef;

use super::column::Columns;
use super::plan::ObjectPlan;
use super::{DecodedEvents, EVENTS_MAX, RejectedRow};
use crate::error::{Error, Result};

/// Longest value that a reason repeats, in characters.
const SHOWN_CHARS_MAX: usize = 60;

/// The rows of one body so far.
#[derive(Debug)]
pub(super) struct Rows {
    /// The format's name in messages.
    format: &'static str,
    columns: Columns,
    accepted: usize,
    rejected: Vec<RejectedRow>,
}

impl Rows {
    pub(super) fn new(format: &'static str, plan: &Arc<ObjectPlan>, rows_estimate: usize) -> Rows {
        Rows { format, columns: Columns::new(plan, rows_estimate), accepted: 0, rejected: Vec::new() }
    }

    /// Appends the next row with `append`; if that refuses it, what it has appended is taken back.
    pub(super) fn add(&mut self, append: impl FnOnce(&mut Columns) -> Result<(), Refusal>) -> Result<Added> {
        let row = self.accepted + self.rejected.len();
        if row == EVENTS_MAX {
            return Err(self.unreadable(too_many_events()));
        }
        match append(&mut self.columns) {
            Ok(()) => {
                self.accepted += 1;
                Ok(Added::Accepted)
            }
            Err(refusal) => {
                self.columns.truncate(self.accepted);
                self.rejected.push(refusal.of_row(row));
                Ok(Added::Refused)
            }
        }
    }

    pub(super) fn unreadable(&self, reason: impl Into<String>) -> Error {
        Error::UnreadableEvents { format: self.format, reason: reason.into() }
    }

    pub(super) fn finish(self, schema: &SchemaRef) -> Result<DecodedEvents> {
        let options = RecordBatchOptions::new().with_row_count(Some(self.accepted));
        let events = RecordBatch::try_new_with_options(Arc::clone(schema), self.columns.finish()?, &options)?;
        Ok(DecodedEvents { events, rejected: self.rejected })
    }
}

/// What became of a row.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Added {
    Accepted,
    Refused,
}

/// Why a row is refused.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Refusal {
    /// The column, or the field of a struct, as seen from where the refusal has got to on its way up.
    column: Option<String>,
    reason: String,
}

impl Refusal {
    pub(super) fn new(reason: impl Into<String>) -> Refusal {
        Refusal { column: None, reason: reason.into() }
    }

    pub(super) fn reason(self) -> String {
        self.reason
    }

    /// The refusal of a row, told to its sender.
    pub(super) fn of_row(self, row: usize) -> RejectedRow {
        RejectedRow { row, column: self.column, reason: self.reason }
    }

    /// The refusal as seen by the row or struct whose column or field `name` it comes from.
    pub(super) fn within(self, name: &str) -> Refusal {
        let reason = match self.column {
            Some(field) => format!("field \"{field}\": {}", self.reason),
            None => self.reason,
        };
        Refusal { column: Some(name.to_owned()), reason }
    }

    /// The refusal as seen by the list whose item it comes from.
    pub(super) fn within_item(self, index: usize) -> Refusal {
        let field = self.column.map(|field| format!("field \"{field}\": ")).unwrap_or_default();
        Refusal::new(format!("item {index}: {field}{}", self.reason))
    }
}

pub(super) fn too_many_events() -> String {
    format!("it holds more than {EVENTS_MAX} events; send them in several requests")
}

/// A text for a message: quoted, escaped, and cut where it is long.
pub(super) fn quoted(text: &str) -> String {
    match text.char_indices().nth(SHOWN_CHARS_MAX) {
        Some((end, _)) => format!("{:?}...", &text[..end]),
        None => format!("{text:?}"),
    }
}

/// A number for a message, cut where it is long.
pub(super) fn shortened(number: &str) -> String {
    match number.char_indices().nth(SHOWN_CHARS_MAX) {
        Some((end, _)) => format!("{}...", &number[..end]),
        None => number.to_owned(),
    }
}
