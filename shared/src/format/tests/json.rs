//! Rows of JSON bodies: which are accepted, how the others are told, and which bodies cannot be read.

use super::EventFormat::{JsonArray, NdJson};
use super::*;

#[test]
fn a_refused_row_never_loses_its_neighbours_and_rows_count_from_0_without_blank_lines() {
    let decoder = decoder(&["a BIGINT!", "b TEXT"]);
    let body =
        "{\"a\":1,\"b\":\"x\"}\r\n\n  \t\n{\"a\":\"no\"}\n{\"a\":2}\nnot json\n{\"b\":\"y\",\"a\":3} \n{\"b\":\"z\"}";
    let (rows, refused) = decode(&decoder, NdJson, body);
    assert_eq!(rows, ["1|x", "2|NULL", "3|y"]);
    let expected = [
        "1/a: expected an integer, found the string \"no\"",
        "3/-: not valid JSON at byte 0: expected a value, found \"n\"",
        "5/a: there is no value, but it is NOT NULL",
    ];
    assert_eq!(refused, expected);
}

#[test]
fn an_array_has_the_same_rows_as_lines() {
    let decoder = decoder(&["a BIGINT!", "b TEXT"]);
    let elements = [
        r#"{"a":1,"b":"x"}"#,
        r#"{"a":1.5,"b":"]}"}"#,
        r#"{"a":2}"#,
        "[]",
        "7",
        "null",
        r#"{"a":3,"c":[{"d":"]"}]}"#,
        r#"{"a":01}"#,
    ];
    let lines = decoder.decode(NdJson, elements.join("\n").as_bytes()).unwrap();
    for body in [format!("[{}]", elements.join(",")), format!(" [\n{} \n]\r\n", elements.join(" ,\n\t"))] {
        let array = decoder.decode(JsonArray, body.as_bytes()).unwrap();
        assert_eq!(array.events, lines.events);
        assert_eq!(array.rejected, lines.rejected);
    }
    assert_eq!(rows(&lines.events), ["1|x", "2|NULL", "3|NULL"]);
    assert_eq!(
        refusals(&lines)[1..4],
        [
            "3/-: expected an object, found an array",
            "4/-: expected an object, found the number 7",
            "5/-: expected an object, found null"
        ]
    );
}

#[test]
fn a_single_object_is_one_row() {
    let decoder = decoder(&["a BIGINT"]);
    assert_eq!(decode(&decoder, JsonArray, " {\"a\":\n5}\n"), (vec!["5".to_owned()], vec![]));
    let (rows, refused) = decode(&decoder, JsonArray, "{\"a\":\"x\"}");
    assert_eq!((rows.len(), refused.len()), (0, 1));
}

#[test]
fn a_body_whose_rows_have_no_certain_ends_is_unreadable() {
    let decoder = decoder(&["a BIGINT", "b TEXT"]);
    for (body, expected) in [
        ("", "expected an array of objects or an object, found \"\""),
        ("7", "expected an array of objects or an object, found \"7\""),
        ("[{\"a\":1}", "expected \",\" or \"]\", the text ends"),
        ("[{\"a\":1},]", "expected a value, found \"]\""),
        ("[{\"a\":1} {\"a\":2}]", "expected \",\" or \"]\", found \"{\""),
        ("[{\"a\":1},{\"b\":\"x},{\"a\":2}]", "expected \",\" or \"}\", found \"a\""),
        ("[{\"b\":\"x\"y\"},{\"a\":2}]", "expected \",\" or \"}\", found \"y\""),
        ("[{\"a\":1}]]", "expected the end of the body, found \"]\""),
        ("{\"a\":1}\n{\"a\":2}", "one object a line is sent as application/x-ndjson"),
        ("{\"a\":", "expected a value, the text ends"),
    ] {
        let reason = unreadable(&decoder, JsonArray, body);
        assert!(reason.contains(expected), "{body}: {reason}");
    }
}

#[test]
fn missing_and_unknown_columns_are_null_and_ignored() {
    let decoder = decoder(&["a BIGINT", "b BIGINT!"]);
    let body = r#"{"b":1}
        {"zzz":{"a":[1,{"b":"}"}]},"b":2,"A":9,"a":5,"y":"\u00e9"}
        {"a":null,"b":3}
        {"a":1,"b":null}
        {"a":1}
        {}"#;
    let (rows, refused) = decode(&decoder, NdJson, body);
    assert_eq!(rows, ["NULL|1", "5|2", "NULL|3"]);
    let missing = "there is no value, but it is NOT NULL";
    let expected =
        ["3/b: the value is null, but it is NOT NULL".to_owned(), format!("4/b: {missing}"), format!("5/b: {missing}")];
    assert_eq!(refused, expected);
}

#[test]
fn what_is_ignored_must_still_be_json() {
    let decoder = decoder(&["a BIGINT"]);
    for (value, expected) in [
        ("NaN", "expected a value, found \"N\""),
        ("01", "a number must not start with 0 and another digit"),
        ("\"\\x\"", "an escape that JSON does not have"),
        ("[1,]", "expected a value, found \"]\""),
        ("{\"x\" 1}", "expected \":\", found \"1\""),
        ("{1:2}", "expected a key in quotes, found \"1\""),
        ("\"a\tb\"", "a control character in a string must be escaped"),
        ("tru", "expected a value, found \"t\""),
        ("\"open", "a string does not end"),
    ] {
        let (rows, refused) = decode(&decoder, NdJson, format!("{{\"z\":{value}}}\n{{\"a\":1}}"));
        assert_eq!(rows, ["1"], "{value}");
        assert!(
            refused[0].starts_with("0/-: not valid JSON") && refused[0].ends_with(expected),
            "{value}: {refused:?}"
        );
    }
}

#[test]
fn keys_are_recognized_in_every_order_and_spelling() {
    let decoder = decoder(&["a BIGINT", "b BIGINT", "zürich BIGINT"]);
    let body = r#"{"a":1,"b":2,"zürich":3}
        {"zürich":3,"b":2,"a":1}
        {"b":2,"a":1,"z\u00fcrich":3}
        { "\u0061" : 1 , "\u0062":2,"zürich":3 }
        {"b":2,"a":1,"zürich":3}"#;
    let (rows, refused) = decode(&decoder, NdJson, body);
    assert_eq!((rows, refused), (vec!["1|2|3".to_owned(); 5], vec![]));
}

#[test]
fn any_number_of_unknown_keys_is_ignored() {
    let decoder = decoder(&["a BIGINT", "b BIGINT!"]);
    let unknown = |n: usize| format!(r#""u{n}":{{"a":{n}}},"\u0061{n}":0,"{}":1"#, "long".repeat(n));
    let unknown: Vec<String> = (0..200).map(unknown).collect();
    let row = |n: usize| format!("{{{},\"a\":{n},{},\"b\":{n}}}", unknown[..n].join(","), unknown[n..].join(","));
    let body: Vec<String> = [3, 150, 4, 100, 3, 199].map(row).to_vec();
    let (rows, refused) = decode(&decoder, NdJson, body.join("\n"));
    assert_eq!((rows, refused), ([3, 150, 4, 100, 3, 199].map(|n| format!("{n}|{n}")).to_vec(), vec![]));
}

#[test]
fn a_column_whose_name_needs_escapes_is_found_by_its_name_only() {
    let definition = SourceDefinition::new(
        "events",
        "",
        Arc::new(Schema::new(vec![
            Field::new("back\\nslash", DataType::Int64, true),
            Field::new("b", DataType::Int64, true),
        ])),
    );
    let decoder = EventDecoder::new(&definition).unwrap();
    let body = "{\"back\\\\nslash\":1}\n{\"back\\nslash\":2}";
    assert_eq!(decode(&decoder, NdJson, body).0, ["1|NULL", "NULL|NULL"]);
}

#[test]
fn a_key_that_appears_twice_refuses_the_row() {
    let decoder = decoder(&["a BIGINT", "b BIGINT"]);
    let body = "{\"a\":1,\"a\":1}\n{\"a\":1,\"b\":2,\"\\u0061\":3}\n{\"a\":4}\n{\"z\":1,\"z\":2,\"a\":5}";
    let (rows, refused) = decode(&decoder, NdJson, body);
    assert_eq!(rows, ["4|NULL", "5|NULL"]);
    assert_eq!(refused, ["0/a: the object has this key twice", "1/a: the object has this key twice"]);
}

#[test]
fn text_that_is_not_utf8_refuses_its_row_only() {
    let decoder = decoder(&["a TEXT"]);
    let rows_of = |separator: &[u8], start: &[u8], end: &[u8]| {
        let elements: [&[u8]; 4] =
            ["{\"a\":\"é\"}".as_bytes(), b"{\"a\":\"\xff\"}", b"{\"\xc3\":1}", b"{\"a\":\"ok\"}"];
        [start, &elements.join(separator), end].concat()
    };
    for (format, body) in [(NdJson, rows_of(b"\n", b"", b"")), (JsonArray, rows_of(b",", b"[", b"]"))] {
        let (rows, refused) = decode(&decoder, format, body);
        assert_eq!(rows, ["é", "ok"], "{format:?}");
        assert_eq!(refused, ["1/-: not UTF-8 at byte 6", "2/-: not UTF-8 at byte 2"], "{format:?}");
    }
    let body = b"\xff\xfe\x00\x01".as_slice();
    assert!(unreadable(&decoder, JsonArray, body).starts_with("expected an array of objects"));
}

#[test]
fn deep_nesting_refuses_its_row_only() {
    let decoder = decoder(&["a BIGINT[]", "b BIGINT"]);
    let deep = "[".repeat(200_000) + &"]".repeat(200_000);
    for name in ["z", "a"] {
        let bad = format!("{{\"{name}\":{deep}}}");
        for (format, body) in [
            (NdJson, format!("{{\"b\":1}}\n{bad}\n{{\"b\":2}}")),
            (JsonArray, format!("[{{\"b\":1}},{bad},{{\"b\":2}}]")),
        ] {
            let (rows, refused) = decode(&decoder, format, body);
            assert_eq!(rows, ["NULL|1", "NULL|2"]);
            assert_eq!(refused.len(), 1);
        }
    }
    let (_, refused) = decode(&decoder, NdJson, format!("{{\"z\":{deep}}}"));
    assert_eq!(refused, ["0/-: not valid JSON at byte 69: it is nested deeper than 64 levels"]);
}

#[test]
fn a_byte_order_mark_is_no_part_of_the_text() {
    let decoder = decoder(&["a BIGINT"]);
    for (format, body) in
        [(NdJson, "\u{feff}{\"a\":1}"), (JsonArray, "\u{feff}[{\"a\":1}]"), (EventFormat::Csv, "\u{feff}a\n1\n")]
    {
        assert_eq!(decode(&decoder, format, body), (vec!["1".to_owned()], vec![]));
    }
}

#[test]
fn long_values_are_shortened_in_reasons() {
    let decoder = decoder(&["a BIGINT"]);
    let (_, refused) = decode(&decoder, NdJson, format!("{{\"a\":\"{}\"}}", "é\\n".repeat(100_000)));
    assert!(refused[0].len() < 300, "{refused:?}");
}
