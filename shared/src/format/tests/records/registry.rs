//! Records behind the ids of a registry, in every format that has them.

use super::*;
use crate::registry::SchemaType;
use crate::registry::test_server::TestServer;

pub(super) fn registry_decoder(server: &TestServer, format: RecordFormat, columns: &[&str]) -> RecordDecoder {
    let schemas = RecordSchemas { registry: Some(server.registry()), ..RecordSchemas::default() };
    record_decoder(format, columns, schemas)
}

/// A record behind the id of its schema.
pub(super) fn framed(id: u32, body: impl AsRef<[u8]>) -> Vec<u8> {
    [&[0], &id.to_be_bytes()[..], body.as_ref()].concat()
}

const AVRO: &str = r#"{"type":"record","name":"r","fields":[{"name":"a","type":"long"}]}"#;

#[test]
fn a_record_without_a_known_id_is_refused_alone() {
    let server = TestServer::start();
    server.add_schema(1, SchemaType::Avro, AVRO);
    server.add_schema(2, SchemaType::Json, "true");
    server.add_schema(3, SchemaType::Protobuf, "message M { optional int64 a = 1; }");
    let cases: [(RecordFormat, u32, &[u8], &str); 3] = [
        (RecordFormat::Avro, 1, b"\x0a", "AVRO"),
        (RecordFormat::Json, 2, b"{\"a\":5}", "JSON"),
        (RecordFormat::Protobuf, 3, b"\x00\x08\x05", "PROTOBUF"),
    ];
    for (format, id, body, name) in cases {
        let decoder = registry_decoder(&server, format, &["a BIGINT"]);
        let other = id % 3 + 1;
        let values = [
            framed(id, body),
            vec![],
            vec![0, 0, 0, 0],
            [&[1], &framed(id, body)[1..]].concat(),
            framed(99, body),
            framed(other, body),
            framed(id, body),
        ];
        let (rows, refused) = decode_records(&decoder, &values);
        assert_eq!(rows, ["5", "5"], "{format:?}");
        let found = ["AVRO", "JSON", "PROTOBUF"][other as usize - 1];
        let without = "not with 0 and a schema id; was it written without the registry?";
        let expected = [
            "1/-: the record has 0 bytes, fewer than the 0 and the schema id of 4 bytes in front of it".to_owned(),
            "2/-: the record has 4 bytes, fewer than the 0 and the schema id of 4 bytes in front of it".to_owned(),
            format!("3/-: the record begins with the byte 0x01, {without}"),
            "4/-: the registry has no schema with id 99".to_owned(),
            format!("5/-: the schema with id {other} is {found}, not {name}"),
        ];
        assert_eq!(refused, expected, "{format:?}");
    }
}

#[test]
fn a_registry_that_gives_no_answer_judges_no_record_and_is_asked_again() {
    let server = TestServer::start();
    server.add_schema(1, SchemaType::Avro, AVRO);
    server.answer("GET /schemas/ids/2", 500, "broken");
    let decoder = registry_decoder(&server, RecordFormat::Avro, &["a BIGINT"]);
    let (known, unknown) = (framed(1, b"\x0a"), framed(2, b"\x0c"));
    let error = decoder.decode(&[&known, &unknown]).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Retryable, "{error}");
    server.add_schema(2, SchemaType::Avro, AVRO);
    assert_eq!(decode_records(&decoder, &[known, unknown]), (vec!["5".to_owned(), "6".to_owned()], vec![]));
}

#[test]
fn a_schema_is_asked_for_and_read_once() {
    let server = TestServer::start();
    server.add_schema(1, SchemaType::Protobuf, "message M { optional int64 a = 1; }");
    let decoder = registry_decoder(&server, RecordFormat::Protobuf, &["a BIGINT"]);
    for _ in 0..3 {
        decode_records(&decoder, &vec![framed(1, b"\x00\x08\x05"); 100]);
    }
    assert_eq!(server.requests(), ["GET /schemas/ids/1"]);
}

#[test]
fn a_schema_that_cannot_be_used_refuses_its_records_only() {
    let server = TestServer::start();
    server.add_schema(1, SchemaType::Avro, AVRO);
    server.add_schema(2, SchemaType::Avro, "{\"type\":\"record\"}");
    server.add_schema(3, SchemaType::Avro, &AVRO.replace("\"a\"", "\"b\""));
    server.add_schema_with(4, SchemaType::Avro, AVRO, &[("x", "x-value", 2)]);
    let decoder = registry_decoder(&server, RecordFormat::Avro, &["a BIGINT"]);
    let values: Vec<_> = [2, 1, 3, 4].map(|id| framed(id, b"\x0a")).into();
    let (rows, refused) = decode_records(&decoder, &values);
    assert_eq!(rows, ["5"]);
    let expected = [
        "0/-: the Avro schema with id 2 cannot be used: the name of a type is no text",
        "2/-: its Avro schema cannot be used: it has none of the source's columns; they are: a",
        "3/-: its schema builds on version 2 of \"x-value\", which the registry does not have",
    ];
    assert_eq!(refused, expected);
}
