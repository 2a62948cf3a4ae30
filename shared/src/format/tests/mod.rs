//! The rules of each format, in the words of their names; then random events and a real day of them.

#![expect(clippy::unwrap_used, reason = "a test may panic")]

mod arrow_stream;
mod csv;
mod json;
mod random;
mod records;
mod values;
mod wikiticker;

use std::sync::Arc;

use arrow::array::RecordBatch;
use arrow::datatypes::{DataType, Field, Fields, Schema};
use arrow::util::display::{ArrayFormatter, FormatOptions};

use super::*;
use crate::event::timestamp_type;

/// A decoder for columns written as `name type`, with `!` after the type for NOT NULL.
fn decoder(columns: &[&str]) -> EventDecoder {
    EventDecoder::new(&definition(columns)).unwrap()
}

fn definition(columns: &[&str]) -> SourceDefinition {
    let fields: Vec<Field> = columns.iter().map(|column| field(column)).collect();
    SourceDefinition::new("events", "", Arc::new(Schema::new(fields)))
}

fn field(column: &str) -> Field {
    let (name, sql) = column.split_once(' ').unwrap();
    Field::new(name, data_type(sql.trim_end_matches('!')), !sql.ends_with('!'))
}

fn data_type(sql: &str) -> DataType {
    if let Some(item) = sql.strip_suffix("[]") {
        return DataType::List(Arc::new(Field::new("item", data_type(item), true)));
    }
    if let Some(fields) = sql.strip_prefix("STRUCT(") {
        let fields: Fields = fields.trim_end_matches(')').split(", ").map(field).collect();
        return DataType::Struct(fields);
    }
    match sql {
        "BOOLEAN" => DataType::Boolean,
        "INT" => DataType::Int32,
        "BIGINT" => DataType::Int64,
        "FLOAT" => DataType::Float32,
        "DOUBLE" => DataType::Float64,
        "DECIMAL" => DataType::Decimal128(10, 2),
        "WIDE_DECIMAL" => DataType::Decimal128(38, 0),
        "TEXT" => DataType::Utf8,
        "DATE" => DataType::Date32,
        "TIMESTAMP" => timestamp_type(),
        other => panic!("no such type: {other}"),
    }
}

/// The accepted rows and the refused ones as texts: values between `|`, and `row/column: reason`.
fn decode(decoder: &EventDecoder, format: EventFormat, body: impl AsRef<[u8]>) -> (Vec<String>, Vec<String>) {
    let decoded = decoder.decode(format, body.as_ref()).unwrap();
    (rows(&decoded.events), refusals(&decoded))
}

fn refusals(decoded: &DecodedEvents) -> Vec<String> {
    let text = |r: &RejectedRow| format!("{}/{}: {}", r.row, r.column.as_deref().unwrap_or("-"), r.reason);
    decoded.rejected.iter().map(text).collect()
}

fn rows(events: &RecordBatch) -> Vec<String> {
    let options = FormatOptions::new().with_null("NULL");
    let columns: Vec<_> = events.columns().iter().map(|c| ArrayFormatter::try_new(c, &options).unwrap()).collect();
    (0..events.num_rows())
        .map(|row| columns.iter().map(|column| column.value(row).to_string()).collect::<Vec<_>>().join("|"))
        .collect()
}

/// Why a body is unreadable.
fn unreadable(decoder: &EventDecoder, format: EventFormat, body: impl AsRef<[u8]>) -> String {
    match decoder.decode(format, body.as_ref()) {
        Err(Error::UnreadableEvents { reason, .. }) => reason,
        other => panic!("expected an unreadable body, got {other:?}"),
    }
}

#[test]
fn the_content_type_names_the_format() {
    let cases = [
        ("application/x-ndjson", Some(EventFormat::NdJson)),
        ("Application/X-NDJSON; charset=UTF-8", Some(EventFormat::NdJson)),
        ("application/json", Some(EventFormat::JsonArray)),
        ("application/json ;charset=\"utf-8\"", Some(EventFormat::JsonArray)),
        ("text/csv; header=present", Some(EventFormat::Csv)),
        ("application/vnd.apache.arrow.stream", Some(EventFormat::ArrowStream)),
        ("text/csv; header=absent", None),
        ("text/csv; charset=iso-8859-1", None),
        ("application/x-www-form-urlencoded", None),
        ("", None),
    ];
    for (content_type, expected) in cases {
        assert_eq!(EventFormat::from_content_type(content_type), expected, "{content_type}");
    }
}

#[test]
fn a_column_of_a_type_that_no_source_has_is_refused_when_the_decoder_is_built() {
    let columns = Schema::new(vec![Field::new("a", DataType::LargeUtf8, true)]);
    let error = EventDecoder::new(&SourceDefinition::new("events", "", Arc::new(columns))).unwrap_err();
    assert!(error.to_string().contains("column \"a\" has the Arrow type LargeUtf8"), "{error}");
}

#[test]
fn a_body_without_rows_gives_an_empty_batch() {
    let decoder = decoder(&["a BIGINT!"]);
    for (format, body) in [
        (EventFormat::NdJson, ""),
        (EventFormat::NdJson, "\n \n"),
        (EventFormat::JsonArray, "[ ]"),
        (EventFormat::Csv, "a\n"),
    ] {
        assert_eq!(decode(&decoder, format, body), (vec![], vec![]), "{format:?}");
    }
}

#[test]
fn more_rows_than_a_body_may_hold_make_it_unreadable() {
    let decoder = decoder(&["a BIGINT"]);
    let body = "{}\n".repeat(EVENTS_MAX);
    assert_eq!(decoder.decode(EventFormat::NdJson, body.as_bytes()).unwrap().events.num_rows(), EVENTS_MAX);
    let reason = unreadable(&decoder, EventFormat::NdJson, body + "x");
    assert!(reason.contains("more than 1048576 events"), "{reason}");
}
