//! Which Avro types fill which columns, and that the writer of another author agrees.

use std::collections::HashMap;

use arrow::array::{Int32Array, Int64Array, StringArray};
use arrow_avro::schema::{FingerprintStrategy, SCHEMA_METADATA_KEY};
use arrow_avro::writer::WriterBuilder;
use arrow_avro::writer::format::AvroSoeFormat;

use super::avro::{long, record, text};
use super::registry::{framed, registry_decoder};
use super::*;
use crate::registry::SchemaType;
use crate::registry::test_server::TestServer;

/// What a value of an Avro type becomes in a column: its text, or why it is refused.
fn value(avro: &str, column: &str, bytes: impl AsRef<[u8]>) -> String {
    let schema = record(&[("a", avro)]);
    let columns = definition(&[&format!("a {column}")]).columns;
    let decoder = match RecordDecoder::new(&columns, RecordFormat::Avro, from_file(&schema)) {
        Ok(decoder) => decoder,
        Err(error) => return error.to_string(),
    };
    let (rows, refused) = decode_records(&decoder, &[bytes]);
    rows.into_iter().chain(refused).collect::<String>()
}

#[test]
fn types_and_logical_types_become_their_columns() {
    let day = r#"{"type":"int","logicalType":"date"}"#;
    let long_of = |logical: &str| format!("{{\"type\":\"long\",\"logicalType\":\"{logical}\"}}");
    let decimal = r#"{"type":"bytes","logicalType":"decimal","precision":10,"scale":2}"#;
    let fixed = r#"{"type":"fixed","name":"f","size":3,"logicalType":"decimal","precision":6,"scale":1}"#;
    let uuid = r#"{"type":"string","logicalType":"uuid"}"#;
    let symbols = r#"{"type":"enum","name":"e","symbols":["A","B"]}"#;
    let (millis, micros) = (long_of("timestamp-millis"), long_of("timestamp-micros"));
    let (local, nanos) = (long_of("local-timestamp-millis"), long_of("timestamp-nanos"));
    let id = "123E4567-e89b-12d3-a456-426614174000";
    let cases: [(&str, &str, Vec<u8>, &str); 31] = [
        ("\"boolean\"", "BOOLEAN", vec![1], "true"),
        ("\"int\"", "INT", long(-3), "-3"),
        ("\"int\"", "BIGINT", long(-3), "-3"),
        ("\"int\"", "DECIMAL", long(3), "3.00"),
        ("\"int\"", "DOUBLE", long(3), "3.0"),
        ("\"long\"", "BIGINT", long(i64::MIN), "-9223372036854775808"),
        ("\"long\"", "INT", long(5), "5"),
        ("\"long\"", "TIMESTAMP", long(1), "1970-01-01T00:00:00.001Z"),
        ("\"float\"", "DOUBLE", 0.5_f32.to_le_bytes().into(), "0.5"),
        ("\"double\"", "BIGINT", 4_f64.to_le_bytes().into(), "4"),
        ("\"double\"", "FLOAT", f64::NAN.to_le_bytes().into(), "NaN"),
        ("\"string\"", "TEXT", text("é"), "é"),
        ("\"string\"", "BIGINT", text("12"), "12"),
        ("\"bytes\"", "TEXT", text("é"), "é"),
        (symbols, "TEXT", long(1), "B"),
        (uuid, "TEXT", text(id), id),
        (uuid, "TEXT", text("no uuid"), "no uuid"),
        (day, "DATE", long(365), "1971-01-01"),
        (day, "TIMESTAMP", long(365), "1971-01-01T00:00:00Z"),
        (&millis, "TIMESTAMP", long(-1), "1969-12-31T23:59:59.999Z"),
        (&micros, "TIMESTAMP", long(1), "1970-01-01T00:00:00.000001Z"),
        (&local, "TIMESTAMP", long(1000), "1970-01-01T00:00:01Z"),
        (&nanos, "TIMESTAMP", long(2000), "1970-01-01T00:00:00.000002Z"),
        (&long_of("time-micros"), "BIGINT", long(5), "5"),
        (decimal, "DECIMAL", text([0xff, 0x38]), "-2.00"),
        (decimal, "DECIMAL", text([]), "0.00"),
        (fixed, "DECIMAL", vec![0, 0, 15], "1.50"),
        ("[\"null\",\"long\"]", "BIGINT", vec![0], "NULL"),
        ("[\"long\",\"null\"]", "BIGINT", vec![0, 6], "3"),
        (
            "{\"type\":\"array\",\"items\":[\"null\",\"string\"]}",
            "TEXT[]",
            [&[4, 0, 2], &text("x")[..], &[0]].concat(),
            "[NULL, x]",
        ),
        (
            &record(&[("x", "\"int\""), ("y", "\"string\"")]).replace("\"r\"", "\"s\""),
            "STRUCT(x BIGINT, z DATE)",
            [long(1), text("")].concat(),
            "{x: 1, z: NULL}",
        ),
    ];
    for (avro, column, bytes, expected) in cases {
        let found = value(avro, column, bytes);
        assert_eq!(found, expected, "{avro} as {column}");
    }
}

#[test]
fn values_that_a_column_does_not_hold_are_refused_with_it() {
    let decimal = r#"{"type":"bytes","logicalType":"decimal","precision":4,"scale":3}"#;
    let nanos = r#"{"type":"long","logicalType":"timestamp-nanos"}"#;
    for (avro, column, bytes, expected) in [
        ("\"long\"", "INT", long(1 << 31), "0/a: the value 2147483648 cannot be held exactly by a INT column"),
        ("\"double\"", "BIGINT", 0.5_f64.to_le_bytes().into(), "0/a: expected an integer, found the number 0.5"),
        ("\"bytes\"", "TEXT", text([b'a', 0xff]), "0/-: "),
        ("\"string\"", "BIGINT", text("x"), "0/a: expected an integer, found the string \"x\""),
        (decimal, "DECIMAL", text([1]), "0/a: the value 0.001 cannot be held exactly by a DECIMAL(10, 2) column"),
        (decimal, "DECIMAL", text([0x7f, 0xff]), "0/a: the value has more digits than its Arrow type Decimal128(4, 3)"),
        (decimal, "DECIMAL", text([0x7f; 17]), "0/-: "),
        (nanos, "TIMESTAMP", long(1), "has digits below the microsecond, which a TIMESTAMP does not keep"),
    ] {
        let found = value(avro, column, bytes);
        assert!(found.contains(expected), "{avro} as {column}: {found}");
    }
}

#[test]
fn types_that_no_value_of_fits_are_told_when_the_schema_is_read() {
    let union = "[\"null\",\"int\",\"string\"]";
    let map = "{\"type\":\"map\",\"values\":\"int\"}";
    for (avro, column, expected) in [
        (map, "TEXT", "column \"a\": the field is a map, which no column can hold"),
        (union, "TEXT", "column \"a\": the field is a union of 3 types; a column can hold one type and null"),
        ("\"int\"", "TEXT", "column \"a\": its Arrow type is Int32, which a TEXT column does not take"),
        ("\"string\"", "TEXT[]", "column \"a\": its Arrow type is Utf8, which a TEXT[] column does not take"),
        ("{\"type\":\"array\",\"items\":\"boolean\"}", "BIGINT[]", "its Arrow type is Boolean"),
    ] {
        let found = value(avro, column, []);
        assert!(found.contains(expected), "{avro} as {column}: {found}");
    }
    let schema = record(&[("a", "\"int\""), ("b", map), ("c", union), ("d", "\"bytes\"")]);
    let decoder = with_schema(RecordFormat::Avro, &["a BIGINT"], &schema);
    let body = [&long(1)[..], &[2], &text("k")[..], &[8, 0], &[4], &text("t")[..], &text([0xff])[..]].concat();
    assert_eq!(decode_records(&decoder, &[body]), (vec!["1".to_owned()], vec![]), "what no column needs is ignored");
}

#[test]
fn what_arrow_avro_writes_is_read_back() {
    let schema = record(&[("id", "\"long\""), ("name", "[\"null\",\"string\"]"), ("count", "\"int\"")]);
    let server = TestServer::start();
    server.add_schema(77, SchemaType::Avro, &schema);
    let fields = vec![
        Field::new("id", DataType::Int64, false),
        Field::new("name", DataType::Utf8, true),
        Field::new("count", DataType::Int32, false),
    ];
    let arrow = Schema::new_with_metadata(fields, HashMap::from([(SCHEMA_METADATA_KEY.to_owned(), schema)]));
    let arrow = Arc::new(arrow);
    let written = |id: i64| {
        let name = (id % 3 != 0).then(|| format!("name {id}"));
        let columns: Vec<arrow::array::ArrayRef> = vec![
            Arc::new(Int64Array::from(vec![id << 20])),
            Arc::new(StringArray::from(vec![name])),
            Arc::new(Int32Array::from(vec![-(id as i32)])),
        ];
        let batch = RecordBatch::try_new(Arc::clone(&arrow), columns).unwrap();
        let builder = WriterBuilder::new(arrow.as_ref().clone()).with_fingerprint_strategy(FingerprintStrategy::Id(77));
        let mut writer = builder.build::<_, AvroSoeFormat>(Vec::new()).unwrap();
        writer.write(&batch).unwrap();
        writer.finish().unwrap();
        writer.into_inner()
    };
    let decoder = registry_decoder(&server, RecordFormat::Avro, &["name TEXT", "id BIGINT!", "count DOUBLE"]);
    let values: Vec<_> = (0..200).map(written).collect();
    assert_eq!(values[1], framed(77, [long(1 << 20), vec![2], text("name 1"), long(-1)].concat()));
    let (rows, refused) = decode_records(&decoder, &values);
    assert_eq!(refused, [""; 0]);
    for (id, row) in rows.iter().enumerate() {
        let name = if id % 3 != 0 { format!("name {id}") } else { "NULL".to_owned() };
        assert_eq!(*row, format!("{name}|{}|{:?}", id << 20, -(id as f64) + 0.0));
    }
}
