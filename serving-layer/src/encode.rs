//! Writes answers for clients: JSON, CSV or an Arrow stream.
//!
//! No value is changed on the way:
//! - Integers are written digit by digit, decimals as strings of all their digits, FLOAT and DOUBLE with the fewest
//!   digits that give the same number back; `NaN`, `Infinity` and `-Infinity` are strings.
//! - Timestamps are `2015-09-12T00:46:58.771000Z`: UTC, six decimals, or nine where nanoseconds would be lost. Dates
//!   are `2015-09-12`, times of day `00:46:58.771000`.
//! - Binary values are lower case hexadecimal; intervals and durations are text: `1 days 2 hours 3 mins 4.500000 secs`.
//! - In JSON, lists are arrays and structs and maps objects; in CSV the same as JSON text.
//!
//! A body is made in pieces while it is sent, so that a large answer is in memory once and not twice, and no piece
//! keeps a thread that serves requests for long. A type that a format cannot write is refused before the first piece.

mod avro;
mod csv;
mod iso;
mod json;
mod records;
#[cfg(test)]
mod tests;

use std::collections::VecDeque;

use arrow::array::RecordBatch;
use arrow::datatypes::Schema;
use arrow::error::ArrowError;
use arrow::ipc::writer::StreamWriter;
use bytes::Bytes;

pub use self::avro::AvroForm;
pub use self::records::{RecordWriter, objects_of};

use self::csv::CsvEncoder;
use self::json::{JsonEncoder, value_encoders, value_options};
use crate::answer::Answer;

/// A piece is sent once it is this large.
const PIECE_BYTES: usize = 64 << 10;
/// Most rows that are written between two looks at the piece's size; about a millisecond's work.
const ROWS_AT_ONCE: usize = 2048;

/// How an answer is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum AnswerFormat {
    /// One JSON object.
    Json,
    /// Comma-separated values with a header line.
    Csv,
    /// An Arrow IPC stream.
    ArrowStream,
}

impl AnswerFormat {
    /// All formats, the preferred first.
    pub(crate) const ALL: [AnswerFormat; 3] = [AnswerFormat::Json, AnswerFormat::Csv, AnswerFormat::ArrowStream];

    /// The media type that names the format in `Accept`.
    pub(crate) fn media_type(self) -> &'static str {
        match self {
            AnswerFormat::Json => "application/json",
            AnswerFormat::Csv => "text/csv",
            AnswerFormat::ArrowStream => "application/vnd.apache.arrow.stream",
        }
    }

    /// The `Content-Type` of a body in the format.
    pub(crate) fn content_type(self) -> &'static str {
        match self {
            AnswerFormat::Csv => "text/csv; charset=utf-8; header=present",
            other => other.media_type(),
        }
    }
}

/// The body of an answer, in pieces that end with the whole body. Nothing follows an error.
pub(crate) struct Pieces {
    encoder: Box<dyn AnswerEncoder>,
    batches: VecDeque<RecordBatch>,
    piece: Vec<u8>,
    ended: bool,
}

impl Pieces {
    /// The pieces of `answer` in `format`.
    ///
    /// # Errors
    /// A column's type cannot be written in this format.
    pub(crate) fn new(answer: Answer, format: AnswerFormat) -> Result<Pieces, ArrowError> {
        let schema = answer.schema;
        let mut encoder: Box<dyn AnswerEncoder> = match format {
            AnswerFormat::Json => Box::new(JsonEncoder::new(answer.as_of, answer.complete)),
            AnswerFormat::Csv => Box::new(CsvEncoder::new()),
            AnswerFormat::ArrowStream => Box::new(ArrowEncoder(StreamWriter::try_new(Vec::new(), &schema)?)),
        };
        if format != AnswerFormat::ArrowStream {
            // Whether a type can be written shows without a value.
            value_encoders(&RecordBatch::new_empty(schema.clone()), &value_options())?;
        }
        let mut piece = Vec::new();
        encoder.begin(&schema, &mut piece)?;
        Ok(Pieces { encoder, batches: answer.batches.into(), piece, ended: false })
    }

    /// Whether the last piece has been taken.
    pub(crate) fn ended(&self) -> bool {
        self.ended
    }

    fn fill_piece(&mut self) -> Result<(), ArrowError> {
        while self.piece.len() < PIECE_BYTES {
            let Some(batch) = self.batches.pop_front() else {
                self.ended = true;
                return self.encoder.end(&mut self.piece);
            };
            let rows = batch.num_rows().min(ROWS_AT_ONCE);
            if rows < batch.num_rows() {
                self.batches.push_front(batch.slice(rows, batch.num_rows() - rows));
            }
            self.encoder.rows(&batch.slice(0, rows), &mut self.piece)?;
        }
        Ok(())
    }
}

impl Iterator for Pieces {
    type Item = Result<Bytes, ArrowError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.ended {
            return None;
        }
        let filled = self.fill_piece();
        self.ended |= filled.is_err();
        Some(filled.map(|()| Bytes::from(std::mem::take(&mut self.piece))))
    }
}

/// Writes an answer in one format: `begin` once, `rows` for each batch, `end` once. All append to `out`.
trait AnswerEncoder: Send {
    fn begin(&mut self, schema: &Schema, out: &mut Vec<u8>) -> Result<(), ArrowError>;
    fn rows(&mut self, batch: &RecordBatch, out: &mut Vec<u8>) -> Result<(), ArrowError>;
    fn end(&mut self, out: &mut Vec<u8>) -> Result<(), ArrowError>;
}

/// Arrow's own stream writer, over a buffer that is emptied after each call.
struct ArrowEncoder(StreamWriter<Vec<u8>>);

impl AnswerEncoder for ArrowEncoder {
    fn begin(&mut self, _schema: &Schema, out: &mut Vec<u8>) -> Result<(), ArrowError> {
        // The writer wrote the schema when it was made.
        out.append(self.0.get_mut());
        Ok(())
    }

    fn rows(&mut self, batch: &RecordBatch, out: &mut Vec<u8>) -> Result<(), ArrowError> {
        self.0.write(batch)?;
        out.append(self.0.get_mut());
        Ok(())
    }

    fn end(&mut self, out: &mut Vec<u8>) -> Result<(), ArrowError> {
        self.0.finish()?;
        out.append(self.0.get_mut());
        Ok(())
    }
}
