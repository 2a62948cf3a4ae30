//! Records of topics: what holds in every format, then JSON and CSV.

mod avro;
mod avro_types;
mod protobuf;
mod random;
mod registry;

use super::*;
use crate::error::ErrorKind;

/// A decoder for columns written as `name type`, without any schema.
fn plain(format: RecordFormat, columns: &[&str]) -> RecordDecoder {
    record_decoder(format, columns, RecordSchemas::default())
}

fn record_decoder(format: RecordFormat, columns: &[&str], schemas: RecordSchemas) -> RecordDecoder {
    RecordDecoder::new(&definition(columns).columns, format, schemas).unwrap()
}

/// A decoder whose records are all of one schema.
fn with_schema(format: RecordFormat, columns: &[&str], schema: &str) -> RecordDecoder {
    record_decoder(format, columns, from_file(schema))
}

fn from_file(schema: &str) -> RecordSchemas {
    RecordSchemas { schema_text: Some(schema.to_owned()), ..RecordSchemas::default() }
}

/// The accepted rows and the refused ones, as the tests of bodies have them.
fn decode_records(decoder: &RecordDecoder, values: &[impl AsRef<[u8]>]) -> (Vec<String>, Vec<String>) {
    let values: Vec<&[u8]> = values.iter().map(AsRef::as_ref).collect();
    let decoded = decoder.decode(&values).unwrap();
    assert_eq!(decoded.events.num_rows() + decoded.rejected.len(), values.len(), "each record is one or the other");
    (rows(&decoded.events), refusals(&decoded))
}

/// Why a decoder cannot be made.
fn unusable(format: RecordFormat, columns: &[&str], schemas: RecordSchemas) -> String {
    let error = RecordDecoder::new(&definition(columns).columns, format, schemas).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Invalid);
    error.to_string()
}

#[test]
fn a_json_record_is_one_object_on_any_number_of_lines() {
    let decoder = plain(RecordFormat::Json, &["a BIGINT!", "b TEXT"]);
    let values: [&[u8]; 9] = [
        b"{\"a\":1,\"b\":\"x\"}",
        b" \n{\n  \"b\": \"y\",\n  \"a\": 2\n}\n",
        b"",
        b" \n",
        b"{\"a\":3}{\"a\":4}",
        b"[{\"a\":5}]",
        b"{\"a\":\"six\"}",
        b"\xEF\xBB\xBF{\"a\":7}",
        b"{\"a\":8,\"b\":\"\xff\"}",
    ];
    let (rows, refused) = decode_records(&decoder, &values);
    assert_eq!(rows, ["1|x", "2|y", "7|NULL"]);
    let expected = [
        "2/-: the record is empty",
        "3/-: the record is empty",
        "4/-: not valid JSON at byte 7: expected the end of the record, found \"{\"",
        "5/-: expected an object, found an array",
        "6/a: expected an integer, found the string \"six\"",
        "8/-: not UTF-8 at byte 12",
    ];
    assert_eq!(refused, expected);
}

#[test]
fn a_csv_record_has_the_sources_columns_in_their_order() {
    let decoder = plain(RecordFormat::Csv, &["a BIGINT!", "b TEXT"]);
    let values = [
        "1,x",
        "2,\n",
        "3,\"y\nz\"\r\n",
        "",
        "\n",
        "4",
        "5,x,y",
        "6,x\n7,y",
        "z,x",
        "8,\"x",
        "9,\"x\"y",
        ",x",
        "10,\"\"",
    ];
    let (rows, refused) = decode_records(&decoder, &values);
    assert_eq!(rows, ["1|x", "2|NULL", "3|y\nz", "10|"]);
    let expected = [
        "3/-: the record is empty",
        "4/-: the record is empty",
        "5/-: the record has 1 fields, but the source has 2 columns: a, b",
        "6/-: the record has 3 fields, but the source has 2 columns: a, b",
        "7/-: there is more than one line, from byte 4 on; send one in a record",
        "8/a: expected an integer, found the string \"z\"",
        "9/-: the quote at byte 2 is never closed",
        "10/-: there is text after a closing quote; a quote inside of quotes is doubled",
        "11/a: the field is empty, but it is NOT NULL",
    ];
    assert_eq!(refused, expected);
}

#[test]
fn no_records_are_an_empty_batch() {
    let avro = "{\"type\":\"record\",\"name\":\"r\",\"fields\":[{\"name\":\"a\",\"type\":\"long\"}]}";
    for decoder in [
        plain(RecordFormat::Json, &["a BIGINT!"]),
        plain(RecordFormat::Csv, &["a BIGINT!"]),
        with_schema(RecordFormat::Avro, &["a BIGINT!"], avro),
        with_schema(RecordFormat::Protobuf, &["a BIGINT!"], "message M { optional int64 a = 1; }"),
    ] {
        assert_eq!(decode_records(&decoder, &[""; 0]), (vec![], vec![]));
    }
}

#[test]
fn more_records_than_a_batch_may_have_are_an_error() {
    let decoder = plain(RecordFormat::Json, &["a BIGINT"]);
    let values: Vec<&[u8]> = vec![b"{}"; EVENTS_MAX + 1];
    assert_eq!(decoder.decode(&values[1..]).unwrap().events.num_rows(), EVENTS_MAX);
    assert!(matches!(decoder.decode(&values), Err(Error::UnreadableEvents { format: "JSON", .. })));
}

#[test]
fn threads_can_share_a_decoder() {
    fn shared<T: Send + Sync>() {}
    shared::<RecordDecoder>();
}

#[test]
fn a_format_without_what_it_needs_is_refused_when_the_decoder_is_made() {
    let columns = ["a BIGINT"];
    let none = RecordSchemas::default;
    let message = RecordSchemas { message: Some("M".to_owned()), ..none() };
    for (format, schemas, expected) in [
        (RecordFormat::Avro, none(), "cannot be read as Avro: there is no schema; give a schema registry or"),
        (RecordFormat::Protobuf, none(), "cannot be read as Protobuf: there is no schema"),
        (RecordFormat::Json, from_file("{}"), "a schema file is given, which only Avro and Protobuf use"),
        (RecordFormat::Avro, message, "the name of a message is given, which only Protobuf has"),
        (RecordFormat::Avro, from_file("{"), "it is no JSON"),
        (RecordFormat::Avro, from_file("\"int\""), "its schema is no record"),
        (RecordFormat::Avro, from_file("{\"type\":\"record\",\"name\":\"r\"}"), "a type has no \"fields\""),
        (RecordFormat::Protobuf, from_file("message"), "expected an identifier"),
        (RecordFormat::Protobuf, from_file("enum E { A = 0; }"), "it has no message"),
        (
            RecordFormat::Protobuf,
            from_file("message M {}"),
            "the message M has none of the source's columns; they are: a",
        ),
        (RecordFormat::Protobuf, from_file("message M {} message N {}"), "say which one the records are: M, N"),
    ] {
        let reason = unusable(format, &columns, schemas);
        assert!(reason.contains(expected), "{format:?}: {reason}");
    }
}
