//! Records of CSV bodies.

use super::EventFormat::Csv;
use super::random::Random;
use super::*;

#[test]
fn the_header_line_names_the_columns_in_any_order_and_unknown_ones_are_ignored() {
    let decoder = decoder(&["a BIGINT", "b TEXT", "c BIGINT"]);
    let body = "unknown,b, a ,unknown\nx,text,1,\n,,,\ny,\"more, text\",2,z";
    let (rows, refused) = decode(&decoder, Csv, body);
    assert_eq!(
        (rows, refused),
        (vec!["1|text|NULL".into(), "NULL|NULL|NULL".into(), "2|more, text|NULL".into()], vec![])
    );
}

#[test]
fn a_header_line_that_cannot_be_right_makes_the_body_unreadable() {
    let decoder = decoder(&["a BIGINT", "b TEXT"]);
    for (body, expected) in [
        ("", "there is no header line"),
        ("\n\r\n", "there is no header line"),
        ("a,b,a\n1,2,3", "the header line names the column \"a\" twice"),
        ("1,text\n2,text", "the header line \"1,text\" names none of the source's columns; they are: a, b"),
        ("\"a", "the quote at byte 0 is never closed"),
        ("a,b\n1,x\n2,\"x\n3,y\n", "the quote at byte 10 is never closed"),
    ] {
        let reason = unreadable(&decoder, Csv, body);
        assert!(reason.contains(expected), "{body}: {reason}");
    }
}

#[test]
fn quotes_hold_commas_line_ends_and_doubled_quotes() {
    let decoder = decoder(&["a TEXT", "b TEXT"]);
    let body = "a,b\r\n\"x, y\",\"two\r\nlines\"\r\n\"a \"\"word\"\"\",\"\"\"\"\r\n\"\",\r\nit\"s, \" \r\n";
    let (rows, refused) = decode(&decoder, Csv, body);
    assert_eq!(refused, [""; 0]);
    assert_eq!(rows, ["x, y|two\r\nlines", "a \"word\"|\"", "|NULL", "it\"s| \" "]);
}

#[test]
fn an_empty_field_is_null_and_two_quotes_are_an_empty_text() {
    let decoder = decoder(&["a TEXT", "b BIGINT", "c TEXT!"]);
    let (rows, refused) = decode(&decoder, Csv, "a,b,c\n,,x\n\"\",\"\",\"\"\nx,1,\n");
    assert_eq!(rows, ["NULL|NULL|x", "|NULL|"]);
    assert_eq!(refused, ["2/c: the field is empty, but it is NOT NULL"]);
}

#[test]
fn a_wrong_record_is_refused_alone() {
    let decoder = decoder(&["a BIGINT", "b TEXT"]);
    let body = b"a,b\n1,x\n2\n\n3,x,y\nz,x\n\"4\" ,x\n5,\"a\"b\n6,\xff\n7,\"\"\r\n8,last";
    let (rows, refused) = decode(&decoder, Csv, body);
    assert_eq!(rows, ["1|x", "7|", "8|last"]);
    let text_after_quote = "there is text after a closing quote; a quote inside of quotes is doubled";
    assert_eq!(
        refused,
        [
            "1/-: the record has 1 fields, but the header line has 2".to_owned(),
            "2/-: the record has 3 fields, but the header line has 2".to_owned(),
            "3/a: expected an integer, found the string \"z\"".to_owned(),
            format!("4/-: {text_after_quote}"),
            format!("5/-: {text_after_quote}"),
            "6/-: not UTF-8 at byte 2".to_owned(),
        ]
    );
}

#[test]
fn a_not_null_column_that_the_file_does_not_have_refuses_every_record() {
    let decoder = decoder(&["a BIGINT", "b BIGINT!"]);
    let (rows, refused) = decode(&decoder, Csv, "a\n1\n2\n");
    assert_eq!((rows.len(), refused.len()), (0, 2));
    assert_eq!(refused[0], "0/b: there is no value, but it is NOT NULL");
}

#[test]
fn a_line_end_may_be_missing_after_the_last_comma() {
    let decoder = decoder(&["a BIGINT", "b BIGINT"]);
    for body in ["a,b\n1,", "a,b\n1,\n", "a,b\r\n1,\r\n"] {
        assert_eq!(decode(&decoder, Csv, body), (vec!["1|NULL".to_owned()], vec![]), "{body:?}");
    }
}

#[test]
fn what_was_written_with_the_quotes_it_needs_is_read_back() {
    let decoder = decoder(&["a TEXT", "b TEXT"]);
    let mut random = Random::new(7);
    for _ in 0..2000 {
        let records: Vec<[String; 2]> =
            (0..random.below(5)).map(|_| [random_text(&mut random), random_text(&mut random)]).collect();
        let line_end = random.choose(&["\n", "\r\n"]);
        let mut body = format!("b,a{line_end}");
        for [a, b] in &records {
            body += &format!("{},{}{line_end}", written(b), written(a));
        }
        let (rows, refused) = decode(&decoder, Csv, &body);
        assert_eq!(refused, [""; 0], "{body:?}");
        assert_eq!(rows, records.iter().map(|record| record.join("|")).collect::<Vec<_>>(), "{body:?}");
    }
}

fn random_text(random: &mut Random) -> String {
    (0..random.below(6)).map(|_| *random.choose(&["a", "\"", "\"", ",", "\n", "\r\n", "\r", " ", "é"])).collect()
}

fn written(field: &str) -> String {
    let needs_quotes = field.is_empty() || field.contains(['"', ',', '\n', '\r']);
    if needs_quotes { format!("\"{}\"", field.replace('"', "\"\"")) } else { field.to_owned() }
}
