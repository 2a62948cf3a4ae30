//! An answer as CSV (RFC 4180, with `\n` between records): a header line, then the rows.
//!
//! A cell is the value's JSON text, strings without JSON's quotes and escapes, so that both formats spell every value
//! alike; lists and structs stay JSON. NULL is an empty cell and the empty string is `""`. One exception: in an answer
//! of a single column NULL is `""` too, because readers skip an empty line and would lose the row.

use std::borrow::Cow;

use arrow::array::RecordBatch;
use arrow::datatypes::Schema;
use arrow::error::ArrowError;
use arrow::json::EncoderOptions;

use super::AnswerEncoder;
use super::json::{value_encoders, value_options};

/// Writes the header and one line a row.
pub(super) struct CsvEncoder {
    options: EncoderOptions,
    /// The JSON text of the value at hand; kept for its memory.
    value: Vec<u8>,
}

impl CsvEncoder {
    pub(super) fn new() -> CsvEncoder {
        CsvEncoder { options: value_options(), value: Vec::new() }
    }
}

impl AnswerEncoder for CsvEncoder {
    fn begin(&mut self, schema: &Schema, out: &mut Vec<u8>) -> Result<(), ArrowError> {
        for (index, field) in schema.fields().iter().enumerate() {
            if index > 0 {
                out.push(b',');
            }
            push_cell(out, field.name().as_bytes());
        }
        out.push(b'\n');
        Ok(())
    }

    fn rows(&mut self, batch: &RecordBatch, out: &mut Vec<u8>) -> Result<(), ArrowError> {
        let null: &[u8] = if batch.num_columns() == 1 { b"\"\"" } else { b"" };
        let mut columns = value_encoders(batch, &self.options)?;
        for row in 0..batch.num_rows() {
            for (index, column) in columns.iter_mut().enumerate() {
                if index > 0 {
                    out.push(b',');
                }
                if column.is_null(row) {
                    out.extend_from_slice(null);
                } else {
                    self.value.clear();
                    column.encode(row, &mut self.value);
                    push_cell(out, &without_quotes(&self.value)?);
                }
            }
            out.push(b'\n');
        }
        Ok(())
    }

    fn end(&mut self, _out: &mut Vec<u8>) -> Result<(), ArrowError> {
        Ok(())
    }
}

/// The content of a JSON string, or any other JSON text as it is.
fn without_quotes(json: &[u8]) -> Result<Cow<'_, [u8]>, ArrowError> {
    match json {
        [b'"', content @ .., b'"'] if !content.contains(&b'\\') => Ok(Cow::Borrowed(content)),
        [b'"', ..] => match serde_json::from_slice::<String>(json) {
            Ok(content) => Ok(Cow::Owned(content.into_bytes())),
            Err(error) => Err(ArrowError::CsvError(error.to_string())),
        },
        other => Ok(Cow::Borrowed(other)),
    }
}

/// Appends a cell, in quotes if it is empty or would otherwise be read as something else.
fn push_cell(out: &mut Vec<u8>, content: &[u8]) {
    let is_plain = |byte: &u8| !matches!(byte, b',' | b'"' | b'\n' | b'\r');
    if !content.is_empty() && content.iter().all(is_plain) {
        return out.extend_from_slice(content);
    }
    out.push(b'"');
    for &byte in content {
        if byte == b'"' {
            out.push(b'"');
        }
        out.push(byte);
    }
    out.push(b'"');
}
