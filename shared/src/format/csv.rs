//! Reads CSV (RFC 4180): a header line that names the columns, then records.
//!
//! A record ends where Python's csv module and the Rust csv crate see its end, so that what they read as one record is
//! one row here; only a carriage return by itself ends no line. What they tolerate but RFC 4180 forbids, text after a
//! closing quote, refuses the record.

use std::sync::Arc;

use super::column::{Columns, CsvField};
use super::plan::ObjectPlan;
use super::row::{Refusal, Rows, quoted};
use super::scan::find_either;
use super::without_byte_order_mark;
use crate::error::Result;

/// Adds each record below the header as a row. Blank lines are no records.
pub(super) fn decode(body: &[u8], plan: &Arc<ObjectPlan>, mut rows: Rows) -> Result<Rows> {
    let mut reader = CsvReader { body: without_byte_order_mark(body), at: 0, fields: Vec::new() };
    let header = match reader.next_record() {
        Ok(Some(record)) => Header::read(&reader, record, plan),
        Ok(None) => Err("there is no header line that names the columns".to_owned()),
        Err(reason) => Err(reason),
    };
    let header = header.map_err(|reason| rows.unreadable(reason))?;
    while let Some(record) = reader.next_record().map_err(|reason| rows.unreadable(reason))? {
        rows.add(|columns| header.append(&reader, record, columns))?;
    }
    Ok(rows)
}

/// What the header line says.
struct Header {
    /// For each of the source's columns, the field that holds it.
    field_of_column: Vec<Option<usize>>,
    fields: usize,
}

impl Header {
    fn read(reader: &CsvReader<'_>, record: Record, plan: &ObjectPlan) -> Result<Header, String> {
        let text = reader.text(record).map_err(Refusal::reason)?;
        let mut field_of_column = vec![None; plan.columns.len()];
        for (index, span) in reader.fields.iter().enumerate() {
            let name = span.field(text).unquoted();
            let Some(column) = plan.index_of(name.trim()) else { continue };
            if field_of_column[column].replace(index).is_some() {
                return Err(format!("the header line names the column {} twice", quoted(name.trim())));
            }
        }
        if field_of_column.iter().all(Option::is_none) {
            let (found, columns) = (quoted(text.trim_end()), plan.names());
            return Err(format!("the header line {found} names none of the source's columns; they are: {columns}"));
        }
        Ok(Header { field_of_column, fields: reader.fields.len() })
    }

    fn append(&self, reader: &CsvReader<'_>, record: Record, columns: &mut Columns) -> Result<(), Refusal> {
        let text = reader.sound_text(record)?;
        let (expected, found) = (self.fields, reader.fields.len());
        if found != expected {
            return Err(Refusal::new(format!("the record has {found} fields, but the header line has {expected}")));
        }
        let spans = self.field_of_column.iter().map(|field| field.and_then(|index| reader.fields.get(index)));
        columns.append_fields(spans.map(|span| span.map(|span| span.field(text))))
    }
}

/// Reads bodies that are one record each, without a header line: its fields are the source's columns in their order.
#[derive(Debug, Default)]
pub(super) struct CsvRecords<'a> {
    reader: CsvReader<'a>,
}

impl<'a> CsvRecords<'a> {
    /// Appends the record that `body` is; a line end may follow it.
    pub(super) fn append(&mut self, body: &'a [u8], plan: &ObjectPlan, columns: &mut Columns) -> Result<(), Refusal> {
        let reader = &mut self.reader;
        (reader.body, reader.at) = (without_byte_order_mark(body), 0);
        let record = reader.next_record().map_err(Refusal::new)?;
        let record = record.ok_or_else(|| Refusal::new("the record is empty"))?;
        if !reader.body[reader.at..].iter().all(|byte| matches!(byte, b'\r' | b'\n')) {
            return Err(Refusal::new(format!(
                "there is more than one line, from byte {} on; send one in a record",
                reader.at
            )));
        }
        let text = reader.sound_text(record)?;
        let (expected, found) = (plan.columns.len(), reader.fields.len());
        if found != expected {
            return Err(Refusal::new(format!(
                "the record has {found} fields, but the source has {expected} columns: {}",
                plan.names()
            )));
        }
        columns.append_fields(reader.fields.iter().map(|span| Some(span.field(text))))
    }
}

/// Splits a body into records.
#[derive(Debug, Default)]
struct CsvReader<'a> {
    body: &'a [u8],
    at: usize,
    /// The fields of the record read last.
    fields: Vec<FieldSpan>,
}

/// A record's place in the body.
#[derive(Debug, Clone, Copy)]
struct Record {
    start: usize,
    end: usize,
    text_after_quote: bool,
}

/// A field's place in its record, without the quotes around it.
#[derive(Debug, Clone, Copy)]
struct FieldSpan {
    start: usize,
    end: usize,
    quoted: bool,
}

impl<'a> CsvReader<'a> {
    /// The next record, unless there is none; its fields are in `fields`.
    fn next_record(&mut self) -> Result<Option<Record>, String> {
        while matches!(self.body.get(self.at), Some(b'\r' | b'\n')) {
            self.at += 1;
        }
        if self.at == self.body.len() {
            return Ok(None);
        }
        self.fields.clear();
        let mut record = Record { start: self.at, end: self.at, text_after_quote: false };
        loop {
            if self.body.get(self.at) == Some(&b'"') {
                record.text_after_quote |= self.quoted_field(record.start)?;
            } else {
                self.plain_field(record.start);
            }
            record.end = self.at;
            self.at = (self.at + 1).min(self.body.len());
            if self.body.get(record.end) != Some(&b',') {
                return Ok(Some(record));
            }
        }
    }

    /// The record's text, unless its quotes are out of order.
    fn sound_text(&self, record: Record) -> Result<&'a str, Refusal> {
        if record.text_after_quote {
            return Err(Refusal::new("there is text after a closing quote; a quote inside of quotes is doubled"));
        }
        self.text(record)
    }

    /// The record's text.
    fn text(&self, record: Record) -> Result<&'a str, Refusal> {
        let text = &self.body[record.start..record.end];
        std::str::from_utf8(text).map_err(|error| Refusal::new(format!("not UTF-8 at byte {}", error.valid_up_to())))
    }

    /// Reads up to the comma or line end after a field without quotes.
    fn plain_field(&mut self, record_start: usize) {
        let start = self.at;
        self.at = self.field_end(start);
        let carriage_return = self.body.get(self.at) != Some(&b',') && self.body[start..self.at].ends_with(b"\r");
        let end = self.at - usize::from(carriage_return);
        self.fields.push(FieldSpan { start: start - record_start, end: end - record_start, quoted: false });
    }

    /// Reads up to the comma or line end after a field in quotes; whether there is text between the quote and that.
    fn quoted_field(&mut self, record_start: usize) -> Result<bool, String> {
        let start = self.at + 1;
        let mut end = start;
        loop {
            end = find_either(self.body, end, b'"', b'"');
            if end == self.body.len() {
                return Err(format!("the quote at byte {} is never closed", self.at));
            }
            if self.body.get(end + 1) != Some(&b'"') {
                break;
            }
            end += 2;
        }
        self.fields.push(FieldSpan { start: start - record_start, end: end - record_start, quoted: true });
        self.at = self.field_end(end + 1);
        Ok(!matches!(&self.body[end + 1..self.at], b"" | b"\r"))
    }

    /// The place of the comma or line end at or after `from`, or the end of the body.
    fn field_end(&self, from: usize) -> usize {
        find_either(self.body, from, b',', b'\n')
    }
}

impl FieldSpan {
    fn field<'a>(&self, record: &'a str) -> CsvField<'a> {
        CsvField { text: record.get(self.start..self.end).unwrap_or_default(), quoted: self.quoted }
    }
}
