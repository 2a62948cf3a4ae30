//! Avro: schemas that change, records that are wrong, and what a schema builds on.

use super::registry::{framed, registry_decoder};
use super::*;
use crate::registry::SchemaType;
use crate::registry::test_server::TestServer;

/// An integer as Avro writes it.
pub(super) fn long(value: i64) -> Vec<u8> {
    let mut zigzag = ((value << 1) ^ (value >> 63)) as u64;
    let mut bytes = Vec::new();
    while zigzag >= 0x80 {
        bytes.push(zigzag as u8 | 0x80);
        zigzag >>= 7;
    }
    bytes.push(zigzag as u8);
    bytes
}

/// Text or bytes as Avro writes them.
pub(super) fn text(value: impl AsRef<[u8]>) -> Vec<u8> {
    [&long(value.as_ref().len() as i64), value.as_ref()].concat()
}

/// A schema with fields written as `name` and a type in JSON.
pub(super) fn record(fields: &[(&str, &str)]) -> String {
    let field = |(name, avro): &(&str, &str)| format!("{{\"name\":\"{name}\",\"type\":{avro}}}");
    let fields = fields.iter().map(field).collect::<Vec<_>>().join(",");
    format!("{{\"type\":\"record\",\"name\":\"r\",\"fields\":[{fields}]}}")
}

#[test]
fn each_record_is_read_with_the_schema_it_was_written_with_and_keeps_its_place() {
    let server = TestServer::start();
    let first = record(&[("a", "\"int\""), ("b", "\"string\"")]);
    let second =
        record(&[("b", "[\"null\",\"string\"]"), ("extra", "\"bytes\""), ("c", "\"float\""), ("a", "\"long\"")]);
    server.add_schema(1, SchemaType::Avro, &first);
    server.add_schema(2, SchemaType::Avro, &second);
    let decoder = registry_decoder(&server, RecordFormat::Avro, &["a BIGINT!", "b TEXT", "c DOUBLE"]);
    let old = |a, b: &str| framed(1, [long(a), text(b)].concat());
    let new = |a, c: f32| framed(2, [vec![0], text([0xff]), c.to_le_bytes().to_vec(), long(a)].concat());
    let values = [old(1, "x"), new(2, 0.5), old(3, "y"), old(4, ""), new(-5, -2.0), vec![], old(6, "z")];
    let (rows, refused) = decode_records(&decoder, &values);
    assert_eq!(rows, ["1|x|NULL", "2|NULL|0.5", "3|y|NULL", "4||NULL", "-5|NULL|-2.0", "6|z|NULL"]);
    assert_eq!(refused.len(), 1);
}

#[test]
fn a_field_that_a_schema_lacks_refuses_records_where_the_column_must_have_a_value() {
    let schema = record(&[("a", "\"long\"")]);
    let decoder = with_schema(RecordFormat::Avro, &["a BIGINT", "b TEXT!"], &schema);
    let expected = "0/b: the value is null, but it is NOT NULL".to_owned();
    assert_eq!(decode_records(&decoder, &[long(1)]), (vec![], vec![expected]));
}

#[test]
fn a_record_that_its_schema_does_not_describe_is_refused_alone_and_says_where() {
    let schema = record(&[
        ("a", "[\"null\",\"long\"]"),
        ("b", "\"string\""),
        ("c", "\"boolean\""),
        ("d", "{\"type\":\"enum\",\"name\":\"e\",\"symbols\":[\"X\",\"Y\"]}"),
        ("e", "{\"type\":\"array\",\"items\":\"int\"}"),
    ]);
    let decoder = with_schema(RecordFormat::Avro, &["a BIGINT!", "b TEXT", "d TEXT"], &schema);
    let value = |a: &[u8], b: &[u8], rest: &[u8]| [a, b, rest].concat();
    let b = &text("x")[..];
    let cases: [(Vec<u8>, &str); 14] = [
        (value(&[2, 8], b, &[1, 2, 0]), ""),
        (vec![], "-: field \"a\": the record ends where 1 bytes are expected; 0 are left"),
        (value(&[2, 8], &[6, b'x'], &[]), "-: field \"b\": the record ends where 3 bytes are expected; 1 are left"),
        (value(&[2, 8], &[1], &[]), "-: field \"b\": a length is -1"),
        (value(&[4, 8], b, &[1, 2, 0]), "-: field \"a\": there is no branch 2, there are 2 from 0 on"),
        (value(&[2, 8], &text([0xff]), &[1, 2, 0]), "-: field \"b\": not UTF-8 at byte 0"),
        (value(&[2, 8], b, &[2, 2, 0]), "-: field \"c\": a boolean is 0 or 1, not 2"),
        (value(&[2, 8], b, &[1, 4, 0]), "-: field \"d\": there is no symbol 2, there are 2 from 0 on"),
        (value(&[2, 8], b, &[1, 1, 0]), "-: field \"d\": there is no symbol -1, there are 2 from 0 on"),
        (
            value(&[2, 8], b, &[1, 2, 0, 9]),
            "-: 1 bytes are left behind the record; was it written with another schema?",
        ),
        (value(&[2], &[0xff; 10], b), "-: field \"a\": an integer has more than 64 bits"),
        (value(&[2, 8], b, &[1, 2, 1, 4, 6, 0]), "-: field \"e\": a block of 1 bytes says that it has 2"),
        (value(&[0], b, &[1, 2, 0]), "a: the value is null, but it is NOT NULL"),
        (value(&[2, 9], b, &[0, 0, 4, 2, 4, 1, 2, 6, 0]), ""),
    ];
    let values: Vec<_> = cases.iter().map(|(value, _)| value).collect();
    let (rows, refused) = decode_records(&decoder, &values);
    assert_eq!(rows, ["4|x|Y", "-5|x|X"]);
    let wrong = cases.iter().enumerate().filter(|(_, (_, reason))| !reason.is_empty());
    let expected: Vec<_> = wrong.map(|(row, (_, reason))| format!("{row}/{reason}")).collect();
    assert_eq!(refused, expected);
}

#[test]
fn a_length_that_asks_for_absurd_memory_is_refused() {
    let schema = record(&[
        ("a", "{\"type\":\"array\",\"items\":\"null\"}"),
        ("b", "{\"type\":\"array\",\"items\":{\"type\":\"record\",\"name\":\"e\",\"fields\":[]}}"),
        ("c", "{\"type\":\"map\",\"values\":\"long\"}"),
        ("d", "\"bytes\""),
    ]);
    let decoder = with_schema(RecordFormat::Avro, &["a INT[]", "d TEXT"], &schema);
    let most = long(i64::MAX);
    let values = [
        [vec![0, 0, 0], text("x")].concat(),
        most.clone(),
        long(i64::MIN + 1),
        [&[0], &most[..]].concat(),
        [&[0, 0], &most[..], b"\0\0"].concat(),
        [&[0, 0, 0], &most[..], b"x"].concat(),
    ];
    let (rows, refused) = decode_records(&decoder, &values);
    assert_eq!((rows, refused.len()), (vec!["[]|x".to_owned()], 5));
    assert_eq!(refused[0], "1/-: field \"a\": a list has 9223372036854775807 items that take no bytes");
}

#[test]
fn a_record_that_takes_no_bytes_is_a_record() {
    let schema = record(&[("a", "\"null\"")]);
    let decoder = with_schema(RecordFormat::Avro, &["a BIGINT"], &schema);
    let (rows, refused) = decode_records(&decoder, &[&b""[..], b"x", b""]);
    assert_eq!((rows, refused.len()), (vec!["NULL".to_owned(); 2], 1));
}

#[test]
fn types_have_the_names_that_the_specification_gives_them() {
    let server = TestServer::start();
    let place = r#"{"type":"record","name":"geo.Place","doc":"d","fields":[{"name":"x","type":"double","default":0}]}"#;
    let trip = r#"{"type":"record","name":"Trip","namespace":"geo","aliases":["Way"],"connect.name":"t","fields":[
        {"name":"start","type":"Place"},
        {"name":"end","type":["null","geo.Place"],"default":null},
        {"name":"kind","type":{"type":"enum","name":"other.Kind","symbols":["A","B"],"default":"A"}},
        {"name":"again","type":{"type":"other.Kind"}},
        {"name":"text","type":{"type":"string","avro.java.string":"String"}}]}"#;
    server.add_version("place", 3, SchemaType::Avro, place, &[]);
    server.add_schema_with(1, SchemaType::Avro, trip, &[("geo.Place", "place", 3)]);
    let columns = ["start STRUCT(x DOUBLE)", "end STRUCT(x DOUBLE)", "kind TEXT", "again TEXT", "text TEXT"];
    let decoder = registry_decoder(&server, RecordFormat::Avro, &columns);
    let body = [&1.5_f64.to_le_bytes()[..], &[0, 0, 2], &text("hi")].concat();
    let (rows, refused) = decode_records(&decoder, &[framed(1, body)]);
    assert_eq!(refused, [""; 0]);
    assert_eq!(rows, ["{x: 1.5}|NULL|A|B|hi"]);
}

#[test]
fn a_schema_too_large_to_be_meant_is_refused() {
    let nested =
        |levels: usize| format!("{}\"int\"{}", "{\"type\":\"array\",\"items\":".repeat(levels), "}".repeat(levels));
    let mut wide = record(&[("a", "\"int\"")]);
    for level in 0..20 {
        let inner = wide.replacen("\"name\":\"r\"", &format!("\"name\":\"r{level}\""), 1);
        wide = record(&[("a", &inner), ("b", &format!("\"r{level}\""))]);
    }
    let itself = record(&[("a", "[\"null\",\"r\"]")]);
    for (schema, expected) in [
        (record(&[("a", &nested(63))]), "its types are nested more than 64 levels deep"),
        (wide, "it has more than 20000 types"),
        (itself, "the type \"r\" contains itself, which is not supported"),
        (record(&[("a", "\"nothing\"")]), "the type \"nothing\" is not defined"),
    ] {
        let reason = unusable(RecordFormat::Avro, &["a INT"], from_file(&schema));
        assert!(reason.contains(expected), "{reason}");
    }
}

#[test]
fn a_schema_file_also_reads_single_object_encoding() {
    let schema = record(&[("a", "\"long\"")]);
    let decoder = with_schema(RecordFormat::Avro, &["a BIGINT"], &schema);
    let fingerprint = arrow_avro::schema::AvroSchema::new(schema);
    let fingerprint = fingerprint.fingerprint(arrow_avro::schema::FingerprintAlgorithm::Rabin).unwrap();
    let arrow_avro::schema::Fingerprint::Rabin(fingerprint) = fingerprint else { panic!("{fingerprint:?}") };
    let single_object = |fingerprint: u64| [&[0xC3, 0x01], &fingerprint.to_le_bytes()[..], &long(7)].concat();
    let values = [single_object(fingerprint), long(8), single_object(fingerprint + 1)];
    let (rows, refused) = decode_records(&decoder, &values);
    assert_eq!((rows, refused.len()), (vec!["7".to_owned(), "8".to_owned()], 1));
}
