//! Random records, from fixed seeds: damaged ones never panic and change nothing about their neighbours.

use prost_reflect::prost::Message;
use prost_reflect::{DynamicMessage, Value};

use super::avro::{long, record, text};
use super::protobuf::descriptor;
use super::registry::{framed, registry_decoder};
use super::*;
use crate::format::tests::random::Random;
use crate::registry::SchemaType;
use crate::registry::test_server::TestServer;

const COLUMNS: [&str; 6] = ["a BIGINT!", "b TEXT", "c DOUBLE", "d TEXT[]", "e STRUCT(x INT, y TEXT)", "f DECIMAL"];

const PROTO: &str = r#"syntax = "proto3";
    message E { int32 x = 1; optional string y = 2; }
    message M { int64 a = 1; optional string b = 2; double c = 3; repeated string d = 4; E e = 5; uint64 f = 6; bytes g = 7; }"#;

fn avro_schema() -> String {
    record(&[
        ("a", "\"long\""),
        ("b", "[\"null\",{\"type\":\"enum\",\"name\":\"k\",\"symbols\":[\"A\",\"B\",\"C\"]}]"),
        ("c", "\"double\""),
        ("d", "{\"type\":\"array\",\"items\":\"string\"}"),
        ("e", &format!("[\"null\",{}]", record(&[("x", "\"int\""), ("y", "\"bytes\"")]).replace("\"r\"", "\"s\""))),
        ("f", "{\"type\":\"bytes\",\"logicalType\":\"decimal\",\"precision\":12,\"scale\":2}"),
        ("g", "{\"type\":\"map\",\"values\":[\"int\",\"string\",\"null\"]}"),
    ])
}

fn random_avro(random: &mut Random) -> Vec<u8> {
    let mut body = long(random.next() as i64 >> random.below(64));
    body.extend(match random.below(4) {
        0 => vec![0],
        symbol => [long(1), long(symbol as i64 - 1)].concat(),
    });
    body.extend((random.below(100) as f64 / 4.0).to_le_bytes());
    for tag in 0..random.below(3) {
        body.extend([long(1), text(format!("tag {tag}"))].concat());
    }
    body.push(0);
    body.extend(if random.one_in(3) { vec![0] } else { [long(1), long(random.below(9) as i64), text("é")].concat() });
    body.extend(text(&random.next().to_be_bytes()[..random.below(6)]));
    body.extend(if random.one_in(2) { vec![0] } else { [vec![1, 8], text("k"), vec![0, 4, 0]].concat() });
    body
}

fn random_protobuf(random: &mut Random) -> Vec<u8> {
    let mut message = DynamicMessage::new(descriptor(PROTO, "M"));
    let mut set = |name: &str, value: Value| message.try_set_field_by_name(name, value).unwrap();
    set("a", Value::I64(random.next() as i64 >> random.below(64)));
    set("f", Value::U64(random.next() >> random.below(64)));
    set("c", Value::F64(random.below(100) as f64 / 4.0));
    set("d", Value::List((0..random.below(3)).map(|tag| Value::String(format!("tag {tag}"))).collect()));
    if random.one_in(2) {
        set("b", Value::String("é".repeat(random.below(5))));
    }
    message.encode_to_vec()
}

fn damaged(random: &mut Random, mut body: Vec<u8>) -> Vec<u8> {
    for _ in 0..*random.choose(&[0, 0, 0, 1, 3]) {
        let place = random.below(body.len() + 1);
        match random.below(4) {
            0 if place < body.len() => body[place] = random.next() as u8,
            1 if place < body.len() => drop(body.remove(place)),
            2 => body.truncate(place),
            _ => body.insert(place, *random.choose(&[0, 1, 2, 0x7f, 0x80, 0xff])),
        }
    }
    body
}

/// Decodes the records together and one by one, and compares.
fn check_independence(decoder: &RecordDecoder, values: &[Vec<u8>], seed: u64) {
    let (together, refused) = decode_records(decoder, values);
    let (mut alone, mut refused_alone) = (Vec::new(), Vec::new());
    for (row, value) in values.iter().enumerate() {
        let (rows, refused) = decode_records(decoder, std::slice::from_ref(value));
        alone.extend(rows);
        refused_alone.extend(refused.iter().map(|refusal| format!("{row}{}", refusal.trim_start_matches('0'))));
    }
    assert_eq!(together, alone, "seed {seed}: {values:?}");
    assert_eq!(refused, refused_alone, "seed {seed}: {values:?}");
}

#[test]
fn damaged_records_change_nothing_about_the_others() {
    let server = TestServer::start();
    server.add_schema(1, SchemaType::Avro, &avro_schema());
    server.add_schema(2, SchemaType::Avro, &record(&[("b", "\"string\""), ("a", "\"int\"")]));
    server.add_schema(3, SchemaType::Protobuf, PROTO);
    server.add_schema(4, SchemaType::Json, "true");
    let avro = registry_decoder(&server, RecordFormat::Avro, &COLUMNS);
    let protobuf = registry_decoder(&server, RecordFormat::Protobuf, &COLUMNS);
    let json = registry_decoder(&server, RecordFormat::Json, &COLUMNS);
    let csv = plain(RecordFormat::Csv, &COLUMNS[..3]);
    for seed in 0..150 {
        let mut random = Random::new(seed);
        let mut records = |sound: &dyn Fn(&mut Random) -> Vec<u8>| -> Vec<Vec<u8>> {
            (0..1 + random.below(12))
                .map(|_| {
                    let value = sound(&mut random);
                    damaged(&mut random, value)
                })
                .collect()
        };
        let values = records(&|random| match random.below(3) {
            0 => framed(2, [text("é"), long(random.below(100) as i64)].concat()),
            _ => framed(1, random_avro(random)),
        });
        check_independence(&avro, &values, seed);
        let values = records(&|random| framed(3, [vec![0], random_protobuf(random)].concat()));
        check_independence(&protobuf, &values, seed);
        let values = records(&|random| framed(4, format!("{{\"a\":{},\"b\":\"é\"}}", random.next() as i64)));
        check_independence(&json, &values, seed);
        let values = records(&|random| format!("{},\"a\",{}", random.next() as i64, random.below(9)).into_bytes());
        check_independence(&csv, &values, seed);
    }
}

#[test]
fn sound_random_records_are_accepted() {
    let (avro, protobuf) = (avro_schema(), RecordSchemas { message: Some("M".to_owned()), ..from_file(PROTO) });
    let decoder = with_schema(RecordFormat::Avro, &COLUMNS[..5], &avro);
    let mut random = Random::new(5);
    let values: Vec<_> = (0..500).map(|_| random_avro(&mut random)).collect();
    assert_eq!(decode_records(&decoder, &values).1, [""; 0]);
    let decoder = record_decoder(RecordFormat::Protobuf, &COLUMNS[..5], protobuf);
    let values: Vec<_> = (0..500).map(|_| random_protobuf(&mut random)).collect();
    assert_eq!(decode_records(&decoder, &values).1, [""; 0]);
}

#[test]
fn no_bytes_make_it_panic() {
    let avro = with_schema(RecordFormat::Avro, &COLUMNS, &avro_schema());
    let protobuf = RecordSchemas { message: Some("M".to_owned()), ..from_file(PROTO) };
    let protobuf = record_decoder(RecordFormat::Protobuf, &COLUMNS, protobuf);
    let mut random = Random::new(3);
    for _ in 0..200 {
        let small = |random: &mut Random| *random.choose(&[0, 0, 1, 2, 4, 8, 0x0a, 0x12, 0x22, 0x2a, 0xff]);
        let values: Vec<Vec<u8>> = (0..20)
            .map(|_| {
                let length = random.below(40);
                let is_small = random.one_in(2);
                (0..length).map(|_| if is_small { small(&mut random) } else { random.next() as u8 }).collect()
            })
            .collect();
        for decoder in [&avro, &protobuf, &plain(RecordFormat::Json, &COLUMNS), &plain(RecordFormat::Csv, &COLUMNS)] {
            decode_records(decoder, &values);
        }
    }
}
