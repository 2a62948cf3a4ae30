//! Decodes events into one Arrow batch in a source's columns: those of request bodies (NDJSON, JSON, CSV, Arrow streams)
//! and the records of topics (JSON, CSV, Avro, Protobuf).
//!
//! What it promises, for every format:
//! - A row is accepted exactly or refused with the column and the reason. A refused row never loses its neighbours.
//! - No value is changed silently: integers and decimals are exact or refused; FLOAT and DOUBLE take the nearest value
//!   of a number written in decimal and refuse what would become infinite; text must be UTF-8.
//! - A TIMESTAMP is ISO 8601 text with or without offset (without is UTC, a date alone is its midnight), or a number
//!   of milliseconds since the epoch, in the years 0001 to 9999. Digits of text and of numbers beyond the microsecond
//!   are dropped towards the past: a client's clock may be finer than the column, and that is no reason to lose events.
//! - Text in the place of a number is read as that number, so that JSON made from CSV works. Nothing else changes its
//!   type: no number is text or a boolean, and a DATE is text.
//! - A column that is not there is NULL; NULL for a NOT NULL column refuses the row. Columns that the source does not
//!   have are ignored, but must be well-formed.
//! - Work is linear in the size of the body, whatever it holds, and no input makes it panic.
//!
//! JSON, CSV and Protobuf go through one path: each row is appended straight to the columns' buffers (`column`), and
//! taken back when it turns out wrong. There is no second, tolerant path whose answers could differ. Arrow streams and
//! Avro are converted column by column (`arrow_convert`), by the same rules.
//!
//! Records of topics (`records`) hold one event each. Avro and Protobuf are read with the schema that each record was
//! written with, from a schema registry or a file: fields that it lacks are NULL, and fields without a column are
//! ignored, so that a topic's schema may evolve.

mod arrow_convert;
mod arrow_stream;
mod column;
mod csv;
mod json;
mod json_cursor;
mod number;
mod plan;
mod records;
mod row;
mod scalar;
mod scan;
#[cfg(test)]
mod tests;
mod time;

use std::sync::Arc;

use arrow::array::RecordBatch;
use arrow::datatypes::SchemaRef;

pub(crate) use self::time::TIMESTAMP_RANGE;

use self::plan::ObjectPlan;
pub use self::records::{RecordDecoder, RecordFormat, RecordSchemas};
use self::row::Rows;
use crate::error::{Error, Result};
use crate::source::SourceDefinition;

/// Most events that one body may hold. It bounds the memory that a body of tiny rows can ask for: three bytes of input
/// (`{}` and a line end) make a row of every column.
pub const EVENTS_MAX: usize = 1 << 20;

/// How a body spells its events.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum EventFormat {
    /// One JSON object a line; blank lines are skipped.
    NdJson,
    /// One JSON array of objects, or a single object.
    JsonArray,
    /// Comma-separated values (RFC 4180) with a header line that names the columns.
    Csv,
    /// An Arrow IPC stream, uncompressed; columns are matched by name.
    ArrowStream,
}

impl EventFormat {
    /// The format that a `Content-Type` header names, whatever its case; parameters other than `charset=utf-8` and
    /// `header=present` name something we do not read, as does an unknown type: `None`.
    pub fn from_content_type(content_type: &str) -> Option<EventFormat> {
        let mut parts = content_type.split(';').map(|part| part.trim().to_ascii_lowercase());
        let format = match parts.next()?.as_str() {
            "application/x-ndjson" | "application/ndjson" | "application/jsonl" | "application/x-jsonlines" => {
                EventFormat::NdJson
            }
            "application/json" => EventFormat::JsonArray,
            "text/csv" => EventFormat::Csv,
            "application/vnd.apache.arrow.stream" => EventFormat::ArrowStream,
            _ => return None,
        };
        parts
            .all(|parameter| match parameter.split_once('=') {
                Some(("charset", charset)) => matches!(charset.trim_matches('"'), "utf-8" | "utf8" | "us-ascii"),
                Some(("header", header)) => header.trim_matches('"') == "present",
                _ => true,
            })
            .then_some(format)
    }

    /// The format's name in messages.
    fn name(self) -> &'static str {
        match self {
            EventFormat::NdJson => "newline-delimited JSON",
            EventFormat::JsonArray => "JSON",
            EventFormat::Csv => "CSV",
            EventFormat::ArrowStream => "an Arrow stream",
        }
    }

    /// The error of a body that cannot be read at all.
    fn unreadable(self, reason: impl Into<String>) -> Error {
        Error::UnreadableEvents { format: self.name(), reason: reason.into() }
    }
}

/// What a body held.
#[derive(Debug, Clone)]
pub struct DecodedEvents {
    /// The accepted rows in request order, in the source's declared columns.
    pub events: RecordBatch,
    /// The refused rows in request order.
    pub rejected: Vec<RejectedRow>,
}

/// A row that was not accepted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RejectedRow {
    /// The row's number in the request, from 0. Of NDJSON, non-blank lines count; of CSV, records below the header.
    pub row: usize,
    /// The declared column that is wrong; `None` when the row as a whole is.
    pub column: Option<String>,
    /// What is wrong with it, with the value, shortened.
    pub reason: String,
}

/// Decodes the events of one source; built once, used for every body.
#[derive(Debug, Clone)]
pub struct EventDecoder {
    columns: SchemaRef,
    plan: Arc<ObjectPlan>,
}

impl EventDecoder {
    /// A decoder for the declared columns of a source.
    ///
    /// # Errors
    /// A column's Arrow type is none of those that `CREATE SOURCE` makes.
    pub fn new(definition: &SourceDefinition) -> Result<EventDecoder> {
        let plan = Arc::new(ObjectPlan::new(definition.columns.fields())?);
        Ok(EventDecoder { columns: Arc::clone(&definition.columns), plan })
    }

    /// Decodes a whole body (already decompressed). A body without rows gives an empty batch.
    ///
    /// # Errors
    /// [`Error::UnreadableEvents`] when it is not known where the body's rows begin and end, or when it holds more than
    /// [`EVENTS_MAX`]. Then nothing of it is accepted.
    pub fn decode(&self, format: EventFormat, body: &[u8]) -> Result<DecodedEvents> {
        // Arrow's text columns have 32-bit offsets, and no format makes text longer than it was in the body.
        if body.len() > i32::MAX as usize {
            return Err(format.unreadable(format!("it has {} bytes; send at most 2 GiB at once", body.len())));
        }
        let rows = |rows_estimate: usize| Rows::new(format.name(), &self.plan, rows_estimate);
        match format {
            EventFormat::NdJson => json::decode_lines(body, rows(estimate_rows(body)))?.finish(&self.columns),
            EventFormat::JsonArray => json::decode_array(body, rows(0))?.finish(&self.columns),
            EventFormat::Csv => csv::decode(body, &self.plan, rows(estimate_rows(body)))?.finish(&self.columns),
            EventFormat::ArrowStream => arrow_stream::decode(body, &self.plan, &self.columns),
        }
    }
}

/// A TIMESTAMP's text in microseconds since the epoch; `None` when it is none.
pub(crate) fn parse_timestamp(text: &str) -> Option<i64> {
    time::parse_timestamp(text).ok()
}

/// How many rows a body has if its lines are as long as those at its start; buffers grow when it has more.
fn estimate_rows(body: &[u8]) -> usize {
    let sample = &body[..body.len().min(4096)];
    let lines = sample.iter().filter(|byte| **byte == b'\n').count();
    (body.len() / sample.len().max(1) * (lines + 1)).min(EVENTS_MAX)
}

/// A byte order mark, which some tools write in front of UTF-8 text; it is no part of the text.
fn without_byte_order_mark(body: &[u8]) -> &[u8] {
    body.strip_prefix(b"\xEF\xBB\xBF").unwrap_or(body)
}
