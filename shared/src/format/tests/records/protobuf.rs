//! Protobuf: which fields fill which columns, schemas that change, and which message of a schema a record is.

use prost_reflect::prost::Message;
use prost_reflect::{DynamicMessage, MessageDescriptor, Value};
use protox::file::{ChainFileResolver, File, FileResolver, GoogleFileResolver};

use super::registry::{framed, registry_decoder};
use super::*;
use crate::registry::SchemaType;
use crate::registry::test_server::TestServer;

struct OneFile(String);

impl FileResolver for OneFile {
    fn open_file(&self, name: &str) -> Result<File, protox::Error> {
        if name != "m.proto" {
            return Err(protox::Error::file_not_found(name));
        }
        File::from_source(name, &self.0)
    }
}

/// The descriptor of a message of a `.proto` text.
pub(super) fn descriptor(proto: &str, message: &str) -> MessageDescriptor {
    let mut files = ChainFileResolver::new();
    files.add(OneFile(proto.to_owned()));
    files.add(GoogleFileResolver::new());
    let mut compiler = protox::Compiler::with_file_resolver(files);
    compiler.open_file("m.proto").unwrap();
    compiler.descriptor_pool().get_message_by_name(message).unwrap()
}

/// A message of a `.proto` text with the values of some of its fields.
fn encoded(proto: &str, message: &str, values: &[(&str, Value)]) -> Vec<u8> {
    built(&descriptor(proto, message), values).encode_to_vec()
}

fn built(descriptor: &MessageDescriptor, values: &[(&str, Value)]) -> DynamicMessage {
    let mut message = DynamicMessage::new(descriptor.clone());
    for (name, value) in values {
        message.try_set_field_by_name(name, value.clone()).unwrap();
    }
    message
}

const ALL: &str = r#"
    syntax = "proto3";
    package shop;
    import "google/protobuf/timestamp.proto";
    import "google/protobuf/wrappers.proto";
    enum Kind { UNKNOWN = 0; BOOK = 1; }
    message Place { double x = 1; optional string name = 2; }
    message Order {
        bool flag = 1; sint32 small = 2; int64 big = 3; uint32 count = 4; uint64 huge = 5; fixed64 wide = 6;
        float single = 7; double real = 8; string text = 9; bytes raw = 10; Kind kind = 11;
        google.protobuf.Timestamp at = 12; google.protobuf.Int64Value maybe = 13; Place place = 14;
        repeated string tags = 15; repeated Place places = 16; map<string, int32> map = 17; optional int32 chosen = 18;
        oneof one { int32 left = 19; string right = 20; } repeated Kind kinds = 21;
    }"#;

/// What a field with a value, or without one, becomes in a column: its text, or why it is refused.
fn field(name: &str, value: Option<Value>, column: &str) -> String {
    let values: Vec<_> = value.into_iter().map(|value| (name, value)).collect();
    let schemas = RecordSchemas { message: Some("shop.Order".to_owned()), ..from_file(ALL) };
    let decoder = record_decoder(RecordFormat::Protobuf, &[&format!("{name} {column}")], schemas);
    let (rows, refused) = decode_records(&decoder, &[encoded(ALL, "shop.Order", &values)]);
    rows.into_iter().chain(refused).collect::<String>()
}

fn timestamp(seconds: i64, nanoseconds: i32) -> Value {
    let timestamp = descriptor(ALL, "google.protobuf.Timestamp");
    Value::Message(built(&timestamp, &[("seconds", Value::I64(seconds)), ("nanos", Value::I32(nanoseconds))]))
}

fn place(x: f64) -> Value {
    Value::Message(built(&descriptor(ALL, "shop.Place"), &[("x", Value::F64(x))]))
}

#[test]
fn fields_become_columns() {
    let wrapped = || Value::Message(built(&descriptor(ALL, "google.protobuf.Int64Value"), &[("value", Value::I64(0))]));
    let text = |text: &str| Value::String(text.to_owned());
    for (name, value, column, expected) in [
        ("flag", Value::Bool(true), "BOOLEAN", "true"),
        ("small", Value::I32(-7), "INT", "-7"),
        ("small", Value::I32(-7), "DECIMAL", "-7.00"),
        ("big", Value::I64(i64::MIN), "BIGINT", "-9223372036854775808"),
        ("big", Value::I64(1), "TIMESTAMP", "1970-01-01T00:00:00.001Z"),
        ("count", Value::U32(u32::MAX), "BIGINT", "4294967295"),
        ("huge", Value::U64(1 << 63), "WIDE_DECIMAL", "9223372036854775808"),
        ("huge", Value::U64(12), "BIGINT", "12"),
        ("wide", Value::U64(13), "DOUBLE", "13.0"),
        ("single", Value::F32(0.1), "FLOAT", "0.1"),
        ("single", Value::F32(0.5), "DOUBLE", "0.5"),
        ("single", Value::F32(0.25), "DECIMAL", "0.25"),
        ("real", Value::F64(1e300), "DOUBLE", "1e300"),
        ("real", Value::F64(f64::INFINITY), "FLOAT", "inf"),
        ("real", Value::F64(4.0), "BIGINT", "4"),
        ("text", text("é"), "TEXT", "é"),
        ("text", text("2015-09-12"), "DATE", "2015-09-12"),
        ("raw", Value::Bytes("é".into()), "TEXT", "é"),
        ("kind", Value::EnumNumber(1), "TEXT", "BOOK"),
        ("kind", Value::EnumNumber(9), "TEXT", "9"),
        ("kind", Value::EnumNumber(1), "INT", "1"),
        ("at", timestamp(-1, 999_999_999), "TIMESTAMP", "1969-12-31T23:59:59.999999Z"),
        ("at", timestamp(3, 5), "STRUCT(seconds BIGINT, nanos INT)", "{seconds: 3, nanos: 5}"),
        ("maybe", wrapped(), "BIGINT", "0"),
        ("place", place(1.5), "STRUCT(x DOUBLE, name TEXT, new TEXT)", "{x: 1.5, name: NULL, new: NULL}"),
        ("tags", Value::List(vec![text("a"), text("b")]), "TEXT[]", "[a, b]"),
        ("places", Value::List(vec![place(1.0), place(0.0)]), "STRUCT(x DOUBLE)[]", "[{x: 1.0}, {x: 0.0}]"),
        ("kinds", Value::List(vec![Value::EnumNumber(1), Value::EnumNumber(0)]), "TEXT[]", "[BOOK, UNKNOWN]"),
        ("chosen", Value::I32(0), "INT", "0"),
        ("left", Value::I32(0), "INT", "0"),
    ] {
        assert_eq!(field(name, Some(value.clone()), column), expected, "{name} {value} as {column}");
    }
}

#[test]
fn what_was_not_sent_is_the_default_or_null_where_that_can_be_told() {
    for (name, column, expected) in [
        ("flag", "BOOLEAN!", "false"),
        ("big", "BIGINT!", "0"),
        ("real", "DOUBLE!", "0.0"),
        ("text", "TEXT!", ""),
        ("kind", "TEXT!", "UNKNOWN"),
        ("tags", "TEXT[]!", "[]"),
        ("chosen", "INT", "NULL"),
        ("left", "INT", "NULL"),
        ("at", "TIMESTAMP", "NULL"),
        ("maybe", "BIGINT", "NULL"),
        ("place", "STRUCT(x DOUBLE)", "NULL"),
        ("chosen", "INT!", "0/chosen: there is no value, but it is NOT NULL"),
    ] {
        assert_eq!(field(name, None, column), expected, "{name} as {column}");
    }
}

#[test]
fn values_that_a_column_does_not_hold_are_refused_with_it() {
    for (name, value, column, expected) in [
        ("huge", Value::U64(1 << 63), "BIGINT", "0/huge: the number 9223372036854775808 is out of range for BIGINT"),
        ("big", Value::I64(1 << 31), "INT", "0/big: the number 2147483648 is out of range for INT"),
        ("big", Value::I64(1), "TEXT", "0/big: expected a string, found the number 1"),
        ("big", Value::I64(1), "BIGINT[]", "0/big: expected an array, found the number 1"),
        ("flag", Value::Bool(true), "INT", "0/flag: expected an integer, found true"),
        ("real", Value::F64(0.5), "INT", "0/real: expected an integer, found the number 5e-1"),
        ("real", Value::F64(f64::NAN), "INT", "0/real: expected an integer, found the number NaN"),
        ("real", Value::F64(1e300), "FLOAT", "0/real: the number 1e300 is out of range for FLOAT"),
        ("real", Value::F64(1.0), "TEXT", "0/real: expected a string, found the number 1e0"),
        ("raw", Value::Bytes(vec![b'a', 0xff].into()), "TEXT", "0/raw: not UTF-8 at byte 1"),
        ("raw", Value::Bytes(vec![1, 2].into()), "INT", "0/raw: expected an integer, found 2 bytes"),
        ("text", Value::String("x".to_owned()), "INT", "0/text: expected an integer, found the string \"x\""),
        ("tags", Value::List(vec![Value::String("x".to_owned())]), "TEXT", "0/tags: expected a string, found an array"),
        (
            "tags",
            Value::List(vec![Value::String("x".to_owned())]),
            "INT[]",
            "0/tags: item 0: expected an integer, found the string \"x\"",
        ),
        ("place", place(1.0), "TEXT", "0/place: expected a string, found a message shop.Place"),
        ("place", place(0.5), "STRUCT(x BIGINT)", "0/place: field \"x\": expected an integer, found the number 5e-1"),
        (
            "map",
            Value::Map([].into()),
            "STRUCT(a INT)",
            "0/map: expected an object, found a map, which no column can hold",
        ),
        ("at", timestamp(i64::MAX, 0), "TIMESTAMP", "0/at: the timestamp is outside of the years 0001 to 9999"),
        ("at", timestamp(0, -1), "TIMESTAMP", "0/at: a timestamp has -1 nanoseconds, not 0 to 999999999"),
        (
            "at",
            timestamp(0, 0),
            "DATE",
            "0/at: expected a date such as \"2015-09-12\", found a message google.protobuf.Timestamp",
        ),
    ] {
        assert_eq!(field(name, Some(value.clone()), column), expected, "{name} {value} as {column}");
    }
}

#[test]
fn each_record_is_read_with_the_schema_it_was_written_with() {
    let server = TestServer::start();
    let first = "syntax = \"proto3\"; message A { int32 a = 1; string b = 2; }";
    let second = "syntax = \"proto3\"; message A { int64 a = 1; reserved 2; double c = 3; map<string, A> extra = 4; }";
    server.add_schema(1, SchemaType::Protobuf, first);
    server.add_schema(2, SchemaType::Protobuf, second);
    let decoder = registry_decoder(&server, RecordFormat::Protobuf, &["a BIGINT!", "b TEXT", "c DOUBLE"]);
    let old = |a: i32, b: &str| {
        let body = encoded(first, "A", &[("a", Value::I32(a)), ("b", Value::String(b.to_owned()))]);
        framed(1, [&[0], &body[..]].concat())
    };
    let new = |a: i64, c: f64| {
        let body = encoded(second, "A", &[("a", Value::I64(a)), ("c", Value::F64(c))]);
        // A field that neither schema knows, of number 9.
        framed(2, [&[2, 0], &body[..], &[0x48, 1]].concat())
    };
    let values = [old(1, "x"), new(1 << 40, 0.5), vec![0], old(0, "y"), new(-3, 0.0)];
    let (rows, refused) = decode_records(&decoder, &values);
    assert_eq!(rows, ["1|x|NULL", "1099511627776|NULL|0.5", "0|y|NULL", "-3|NULL|0.0"]);
    assert_eq!(refused.len(), 1);
}

#[test]
fn a_record_says_which_message_of_its_schema_it_is() {
    let server = TestServer::start();
    let proto = r#"syntax = "proto3";
        message A { message B { int32 x = 1; } message C { int32 a = 1; message D { int32 a = 1; } } int32 a = 2; map<string, int32> m = 1; }
        message E { int32 a = 1; }"#;
    server.add_schema(1, SchemaType::Protobuf, proto);
    let decoder = registry_decoder(&server, RecordFormat::Protobuf, &["a INT!"]);
    let cases: [(&[u8], &str); 12] = [
        (&[0, 0x10, 1], "1"),
        (&[2, 0, 0x10, 2], "2"),
        (&[2, 2, 0x08, 3], "3"),
        (&[4, 0, 2, 0x08, 4], "4"),
        (&[6, 0, 2, 0, 0x08, 5], "5"),
        (&[4, 0, 0, 0x08, 6], "-: the message A.B has none of the source's columns; they are: a"),
        (&[2, 4, 0x08, 7], "-: its schema has no message at the place [2] that the record names"),
        (&[4, 0, 4, 0x08, 7], "-: its schema has no message at the place [0, 2] that the record names"),
        (&[2], "-: there is no place of a message behind the schema id; is the record Protobuf?"),
        (&[1, 0], "-: there is no place of a message behind the schema id; is the record Protobuf?"),
        (&[], "-: there is no place of a message behind the schema id; is the record Protobuf?"),
        (
            &[0xfe, 0xff, 0xff, 0xff, 0x0f, 0],
            "-: there is no place of a message behind the schema id; is the record Protobuf?",
        ),
    ];
    for (rest, expected) in cases {
        let (rows, refused) = decode_records(&decoder, &[framed(1, rest)]);
        let found = rows.into_iter().chain(refused).collect::<String>();
        assert_eq!(found.trim_start_matches("0/"), expected, "{rest:?}");
    }
}

#[test]
fn a_schema_is_compiled_with_what_it_imports() {
    let server = TestServer::start();
    let main = "syntax = \"proto3\"; import \"b/b.proto\"; import \"c.proto\"; message A { b.B b = 1; C c = 2; }";
    let b = "syntax = \"proto3\"; package b; import \"c.proto\"; message B { C c = 1; int32 x = 2; }";
    let c = "syntax = \"proto3\"; import \"google/protobuf/timestamp.proto\"; message C { google.protobuf.Timestamp t = 1; }";
    server.add_schema_with(1, SchemaType::Protobuf, main, &[("b/b.proto", "b", 1), ("c.proto", "c", 2)]);
    server.add_version("b", 1, SchemaType::Protobuf, b, &[("c.proto", "c", 2)]);
    server.add_version("c", 2, SchemaType::Protobuf, c, &[]);
    server.add_schema(2, SchemaType::Protobuf, main);
    let columns = ["b STRUCT(x INT)", "c STRUCT(t TIMESTAMP)"];
    let decoder = registry_decoder(&server, RecordFormat::Protobuf, &columns);
    let body: &[u8] = &[0, 0x0a, 2, 0x10, 7, 0x12, 4, 0x0a, 2, 0x08, 1];
    let (rows, refused) = decode_records(&decoder, &[framed(1, body), framed(2, body)]);
    assert_eq!(rows, ["{x: 7}|{t: 1970-01-01T00:00:01Z}"]);
    assert!(refused[0].contains("the Protobuf schema with id 2 cannot be used"), "{refused:?}");
    assert!(refused[0].contains("b/b.proto"), "{refused:?}");
    assert_eq!(server.requests().len(), 4, "each schema is asked for once");
}

#[test]
fn bytes_that_are_no_message_are_refused_alone() {
    let proto = "message M { optional int64 a = 1; optional string b = 2; repeated fixed32 c = 3; }";
    let decoder = with_schema(RecordFormat::Protobuf, &["a BIGINT!", "b TEXT"], proto);
    let values: [&[u8]; 7] = [
        &[0x08, 1],
        &[0x08],
        &[0x12, 0x7f, b'x'],
        &[0x12, 1, 0xff],
        &[0x1a, 0xff, 0xff, 0xff, 0xff, 0x07],
        &[],
        &[0x08, 2, 0x12, 1, b'y'],
    ];
    let (rows, refused) = decode_records(&decoder, &values);
    assert_eq!(rows, ["1|NULL", "2|y"]);
    assert_eq!(refused.len(), 5);
    assert!(refused[0].starts_with("1/-: the record is no message M: "), "{refused:?}");
    assert_eq!(refused[4], "5/a: there is no value, but it is NOT NULL");
}

#[test]
fn a_message_that_is_named_need_not_be_the_first() {
    let schemas = |name: &str| RecordSchemas { message: Some(name.to_owned()), ..from_file(ALL) };
    let decoder = record_decoder(RecordFormat::Protobuf, &["x DOUBLE"], schemas("shop.Place"));
    assert_eq!(decode_records(&decoder, &[encoded(ALL, "shop.Place", &[])]), (vec!["0.0".to_owned()], vec![]));
    let reason = unusable(RecordFormat::Protobuf, &["x DOUBLE"], schemas("Place"));
    assert!(reason.contains("it has no message \"Place\"; it has: shop.Place, shop.Order"), "{reason}");
}
