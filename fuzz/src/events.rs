//! Event bodies: what is accepted is exact, and no row is lost for its neighbours.

use std::collections::HashMap;
use std::sync::{Arc, LazyLock};

use arrow::array::{Array, ArrayRef, AsArray, RecordBatch};
use arrow::compute::concat_batches;
use arrow::datatypes::{DataType, Float32Type, Float64Type, SchemaRef};
use arrow::ipc::writer::StreamWriter;
use arrow::json::WriterBuilder;
use arrow::json::writer::LineDelimited;
use arrow::util::display::{ArrayFormatter, FormatOptions};
use serde_json::value::RawValue;
use watershed_shared::definition::{Statement, parse_definitions};
use watershed_shared::error::Error;
use watershed_shared::format::{DecodedEvents, EventDecoder, EventFormat, RejectedRow};
use watershed_shared::source::SourceDefinition;

use crate::records::assert_survives_avro;

/// Columns of every type.
const SOURCE: &str = "CREATE SOURCE events (
    id BIGINT NOT NULL, flag BOOLEAN, small INT, single FLOAT, \"real\" DOUBLE, price DECIMAL(10, 2),
    wide DECIMAL(38, 10), name TEXT, day DATE, at TIMESTAMP, tags TEXT[], place STRUCT<x DOUBLE, y BIGINT[]>)";

static DEFINITION: LazyLock<SourceDefinition> = LazyLock::new(|| match parse_definitions(SOURCE).unwrap().pop() {
    Some(Statement::Source(source)) => source,
    other => panic!("no source: {other:?}"),
});
static DECODER: LazyLock<EventDecoder> = LazyLock::new(|| EventDecoder::new(&DEFINITION).unwrap());
/// The columns of the source.
pub(crate) static COLUMNS: LazyLock<SchemaRef> = LazyLock::new(|| Arc::clone(&DEFINITION.columns));

/// Decodes a body. The only error that bytes may cause is that the body as a whole cannot be read.
fn decode(format: EventFormat, body: &[u8]) -> Option<DecodedEvents> {
    match DECODER.decode(format, body) {
        Ok(decoded) => {
            check_numbers(&decoded);
            Some(decoded)
        }
        Err(Error::UnreadableEvents { .. }) => None,
        Err(other) => panic!("{format:?}: {other}"),
    }
}

/// Refused rows are numbered in order, and leave room for the accepted ones.
fn check_numbers(decoded: &DecodedEvents) {
    let rows = decoded.events.num_rows() + decoded.rejected.len();
    let numbers: Vec<usize> = decoded.rejected.iter().map(|rejected| rejected.row).collect();
    assert!(numbers.is_sorted_by(|a, b| a < b) && numbers.last().is_none_or(|last| *last < rows), "{numbers:?}");
}

/// NDJSON: every line stands alone.
pub(crate) fn ndjson(body: &[u8]) {
    let Some(decoded) = decode(EventFormat::NdJson, body) else { panic!("lines always have ends") };
    let body = body.strip_prefix(b"\xEF\xBB\xBF").unwrap_or(body);
    // The line end in front keeps a byte order mark from being taken for the body's.
    let alone = body.split(|byte| *byte == b'\n').map(|line| [b"\n", line].concat());
    assert_is_union(EventFormat::NdJson, &decoded, alone);
    assert_survives(&decoded.events);
}

/// A JSON array: every element stands alone, and is what it would be as a line.
pub(crate) fn json_array(body: &[u8]) {
    let decoded = decode(EventFormat::JsonArray, body);
    if let Some(decoded) = &decoded {
        assert_survives(&decoded.events);
    }
    let Ok(elements) = serde_json::from_slice::<Vec<&RawValue>>(body) else { return };
    let decoded = decoded.expect("a JSON array of JSON values");
    assert_is_union(EventFormat::JsonArray, &decoded, elements.iter().map(|e| format!("[{e}]").into_bytes()));
    let lines: Vec<String> = elements.iter().map(|element| element.get().replace(['\n', '\r'], " ")).collect();
    let as_lines = decode(EventFormat::NdJson, lines.join("\n").as_bytes()).expect("lines always have ends");
    assert_eq!(as_lines.events, decoded.events, "as lines");
    assert_eq!(as_lines.rejected.len(), decoded.rejected.len(), "as lines");
}

/// CSV: every record stands alone below the header line.
pub(crate) fn csv(body: &[u8]) {
    let Some(decoded) = decode(EventFormat::Csv, body) else { return };
    let body = body.strip_prefix(b"\xEF\xBB\xBF").unwrap_or(body);
    let records = csv_records(body);
    // The line end before keeps a byte order mark that is not the body's first bytes a part of the first name.
    let alone = records.iter().skip(1).map(|record| [b"\n", records[0], b"\n", record].concat());
    assert_is_union(EventFormat::Csv, &decoded, alone);
    assert_survives(&decoded.events);
}

/// The records of a CSV body whose quotes are all closed, as RFC 4180 and Python's csv module see them.
fn csv_records(body: &[u8]) -> Vec<&[u8]> {
    #[derive(PartialEq)]
    enum At {
        FieldStart,
        Plain,
        Quoted,
        Quote,
    }
    let (mut records, mut at, mut start) = (Vec::new(), At::FieldStart, None);
    for (index, byte) in body.iter().enumerate() {
        if start.is_none() {
            if matches!(byte, b'\r' | b'\n') {
                continue;
            }
            (start, at) = (Some(index), At::FieldStart);
        }
        at = match (at, byte) {
            (At::Quoted, b'"') => At::Quote,
            (At::Quoted, _) | (At::FieldStart | At::Quote, b'"') => At::Quoted,
            (_, b',') => At::FieldStart,
            (_, b'\n') => {
                records.extend(start.take().map(|start| &body[start..index]));
                At::FieldStart
            }
            _ => At::Plain,
        };
    }
    records.extend(start.map(|start| &body[start..]));
    records
}

/// Checks that a body is what its rows are alone.
fn assert_is_union(format: EventFormat, together: &DecodedEvents, alone: impl Iterator<Item = Vec<u8>>) {
    let (mut accepted, mut rejected, mut row) = (Vec::new(), Vec::new(), 0);
    for body in alone {
        let text = String::from_utf8_lossy(&body).into_owned();
        let alone = decode(format, &body).unwrap_or_else(|| panic!("unreadable alone: {text:?}"));
        rejected.extend(alone.rejected.iter().map(|r| RejectedRow { row: row + r.row, ..r.clone() }));
        row += alone.events.num_rows() + alone.rejected.len();
        accepted.push(alone.events);
    }
    assert_eq!(together.rejected, rejected);
    assert_eq!(together.events, concat_batches(&together.events.schema(), &accepted).unwrap());
}

/// Checks that accepted events are the same after they were written in each format and read again.
pub(crate) fn assert_survives(events: &RecordBatch) {
    assert_survives_avro(events);
    assert_reads_as(EventFormat::ArrowStream, &arrow_stream(events), events);
    // JSON and CSV have no notation for these.
    if events.columns().iter().any(has_non_finite) {
        return;
    }
    let lines = ndjson_of(events);
    assert_reads_as(EventFormat::NdJson, lines.as_bytes(), events);
    let array = format!("[{}]", lines.trim_end().replace('\n', ","));
    assert_reads_as(EventFormat::JsonArray, array.as_bytes(), events);
    assert_reads_as(EventFormat::Csv, csv_of(events).as_bytes(), events);
}

fn assert_reads_as(format: EventFormat, body: &[u8], events: &RecordBatch) {
    let again = decode(format, body).unwrap_or_else(|| panic!("unreadable: {}", String::from_utf8_lossy(body)));
    assert_eq!(again.rejected, [], "{format:?}: {}", String::from_utf8_lossy(body));
    assert_eq!(again.events, *events, "{format:?}: {}", String::from_utf8_lossy(body));
}

fn arrow_stream(events: &RecordBatch) -> Vec<u8> {
    let mut writer = StreamWriter::try_new(Vec::new(), &events.schema()).unwrap();
    writer.write(events).unwrap();
    writer.finish().unwrap();
    writer.into_inner().unwrap()
}

fn ndjson_of(events: &RecordBatch) -> String {
    let mut writer = WriterBuilder::new().with_explicit_nulls(true).build::<_, LineDelimited>(Vec::new());
    writer.write(events).unwrap();
    writer.finish().unwrap();
    String::from_utf8(writer.into_inner()).unwrap()
}

/// Every value in quotes but NULL; lists and structs as JSON.
fn csv_of(events: &RecordBatch) -> String {
    let names: Vec<&str> = events.schema_ref().fields().iter().map(|field| field.name().as_str()).collect();
    let mut csv = names.join(",");
    let options = FormatOptions::new();
    let as_json = ndjson_of(events);
    // Raw, because serde_json's own numbers are not always the nearest.
    let objects: Vec<HashMap<String, &RawValue>> =
        as_json.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let columns: Vec<_> = events.columns().iter().map(|c| ArrayFormatter::try_new(c, &options).unwrap()).collect();
    for (row, object) in objects.iter().enumerate() {
        csv.push('\n');
        let fields = names.iter().zip(events.columns()).zip(&columns).map(|((name, column), formatter)| {
            if column.is_null(row) {
                return String::new();
            }
            let text = match column.data_type() {
                DataType::List(_) | DataType::Struct(_) => object[*name].get().to_owned(),
                _ => formatter.value(row).to_string(),
            };
            format!("\"{}\"", text.replace('"', "\"\""))
        });
        csv.push_str(&fields.collect::<Vec<_>>().join(","));
    }
    csv
}

fn has_non_finite(array: &ArrayRef) -> bool {
    match array.data_type() {
        DataType::Float32 => array.as_primitive::<Float32Type>().iter().flatten().any(|value| !value.is_finite()),
        DataType::Float64 => array.as_primitive::<Float64Type>().iter().flatten().any(|value| !value.is_finite()),
        DataType::Struct(_) => array.as_struct().columns().iter().any(has_non_finite),
        DataType::List(_) => has_non_finite(array.as_list::<i32>().values()),
        _ => false,
    }
}

/// Arrow streams: any bytes, or columns made of the bytes. Whatever is accepted is what its rows are alone.
pub(crate) fn arrow(data: &[u8]) {
    match data.split_first() {
        Some((0xFF, _)) | None => {
            if let Some(decoded) = decode(EventFormat::ArrowStream, data) {
                assert_survives(&decoded.events);
            }
        }
        Some(_) => made_columns(data),
    }
}

fn made_columns(data: &[u8]) {
    let Some(made) = crate::arrays::batch(data) else { return };
    let Some(decoded) = decode(EventFormat::ArrowStream, &arrow_stream(&made)) else { return };
    let rows = (0..made.num_rows()).map(|row| arrow_stream(&made.slice(row, 1)));
    assert_is_union(EventFormat::ArrowStream, &decoded, rows);
    assert_survives(&decoded.events);
}
