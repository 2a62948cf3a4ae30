//! Which spellings each type takes: in JSON, and as text in CSV.

use super::*;

/// Checks a value in JSON: the value that it becomes, or the reason why it is refused.
fn check(sql: &str, json: &str, expected: Result<&str, &str>) {
    let body = format!("{{\"a\":{json}}}");
    let (rows, refused) = decode(&decoder(&[&format!("a {sql}")]), EventFormat::NdJson, body);
    match expected {
        Ok(value) => assert_eq!((rows, refused), (vec![value.to_owned()], vec![]), "{sql} {json}"),
        Err(reason) => {
            assert_eq!(refused, [format!("0/a: {reason}")], "{sql} {json}");
            assert!(rows.is_empty());
        }
    }
}

#[test]
fn boolean_takes_only_true_and_false() {
    check("BOOLEAN", "true", Ok("true"));
    check("BOOLEAN", "false", Ok("false"));
    check("BOOLEAN", "1", Err("expected true or false, found the number 1"));
    check("BOOLEAN", "\"true\"", Err("expected true or false, found the string \"true\""));
}

#[test]
fn text_takes_only_strings() {
    check("TEXT", r#""a\"\u00e9😀\n""#, Ok("a\"é😀\n"));
    check("TEXT", "\"\"", Ok(""));
    check("TEXT", "5", Err("expected a string, found the number 5"));
    check("TEXT", "-1.50e3", Err("expected a string, found the number -1.50e3"));
    check("TEXT", "true", Err("expected a string, found true"));
    check("TEXT", "{\"x\":1}", Err("expected a string, found an object"));
    check("TEXT", "[\"x\"]", Err("expected a string, found an array"));
}

#[test]
fn integers_are_exact_or_refused() {
    for json in ["1200", "1200.0", "1.2e3", "12E+2", "\"1200\"", "\"+1200\"", "\"1200.00\"", "120000e-2"] {
        check("INT", json, Ok("1200"));
        check("BIGINT", json, Ok("1200"));
    }
    check("BIGINT", "-0", Ok("0"));
    check("BIGINT", "9007199254740993", Ok("9007199254740993"));
    check("BIGINT", "9007199254740993.000", Ok("9007199254740993"));
    check("BIGINT", "9223372036854775807", Ok("9223372036854775807"));
    check("BIGINT", "-9223372036854775808", Ok("-9223372036854775808"));
    check("BIGINT", "9223372036854775808", Err("the number 9223372036854775808 is out of range for BIGINT"));
    check("BIGINT", "1e400", Err("the number 1e400 is out of range for BIGINT"));
    check("INT", "2147483647", Ok("2147483647"));
    check("INT", "2147483648", Err("the number 2147483648 is out of range for INT"));
    check("INT", "-2147483649", Err("the number -2147483649 is out of range for INT"));
    check("BIGINT", "1.5", Err("expected an integer, found the number 1.5"));
    check("INT", "1e-1", Err("expected an integer, found the number 1e-1"));
    check("BIGINT", "\"1.5\"", Err("expected an integer, found the string \"1.5\""));
    check("BIGINT", "\"\"", Err("expected an integer, found the string \"\""));
    check("BIGINT", "\"12x\"", Err("expected an integer, found the string \"12x\""));
    check("BIGINT", "true", Err("expected an integer, found true"));
    check("INT", "[1]", Err("expected an integer, found an array"));
    let digits = "9".repeat(1000);
    check("BIGINT", &digits, Err(&format!("the number {}... is out of range for BIGINT", &digits[..60])));
}

#[test]
fn decimals_are_exact_or_refused() {
    for json in ["12.5", "12.50", "12.500000", "\"12.5\"", "1.25e1", "1250e-2"] {
        check("DECIMAL", json, Ok("12.50"));
    }
    check("DECIMAL", "-0.01", Ok("-0.01"));
    check("DECIMAL", "99999999.99", Ok("99999999.99"));
    check("DECIMAL", "100000000", Err("the number 100000000 is out of range for DECIMAL(10, 2)"));
    let too_fine = "has more fractional digits than the 2 that a DECIMAL(10, 2) column keeps";
    check("DECIMAL", "1.234", Err(&format!("the number 1.234 {too_fine}")));
    check("DECIMAL", "0.001", Err(&format!("the number 0.001 {too_fine}")));
    check("DECIMAL", "\"abc\"", Err("expected a number, found the string \"abc\""));
    check("DECIMAL", "\"NaN\"", Err("expected a number, found the string \"NaN\""));
    let nines = "9".repeat(38);
    check("WIDE_DECIMAL", &nines, Ok(&nines));
    let reason = "the number 1e38 is out of range for DECIMAL(38, 0)";
    check("WIDE_DECIMAL", "1e38", Err(reason));
}

#[test]
fn floats_take_the_nearest_value_and_name_the_infinite_ones_in_quotes() {
    check("DOUBLE", "0.1", Ok("0.1"));
    check("DOUBLE", "-0", Ok("-0.0"));
    check("DOUBLE", "5", Ok("5.0"));
    check("DOUBLE", "\"2.5\"", Ok("2.5"));
    check("DOUBLE", "9007199254740993", Ok("9007199254740992.0"));
    check("DOUBLE", "123456789012345678901234567890", Ok("1.2345678901234568e29"));
    check("DOUBLE", "1e-400", Ok("0.0"));
    check("DOUBLE", "\"NaN\"", Ok("NaN"));
    check("DOUBLE", "\"Infinity\"", Ok("inf"));
    check("DOUBLE", "\"-Infinity\"", Ok("-inf"));
    check("FLOAT", "\"-Infinity\"", Ok("-inf"));
    check("FLOAT", "0.1", Ok("0.1"));
    check("FLOAT", "16777217", Ok("16777216.0"));
    check("DOUBLE", "1e309", Err("the number 1e309 is out of range for DOUBLE"));
    check("FLOAT", "1e39", Err("the number 1e39 is out of range for FLOAT"));
    let expected = "expected a number, or \"NaN\", \"Infinity\" or \"-Infinity\" in quotes";
    check("DOUBLE", "\"inf\"", Err(&format!("{expected}, found the string \"inf\"")));
    check("FLOAT", "\"nan\"", Err(&format!("{expected}, found the string \"nan\"")));
    check("DOUBLE", "false", Err(&format!("{expected}, found false")));
}

#[test]
fn dates_are_text() {
    check("DATE", "\"2015-09-12\"", Ok("2015-09-12"));
    check("DATE", "\"2015-09-12T00:00:00Z\"", Ok("2015-09-12"));
    check("DATE", "\"0001-01-01\"", Ok("0001-01-01"));
    check("DATE", "\"2015-02-29\"", Err("the string \"2015-02-29\" is a time that does not exist"));
    check("DATE", "\"0000-01-01\"", Err("the string \"0000-01-01\" is outside of the years 0001 to 9999"));
    let expected = "expected a date such as \"2015-09-12\"";
    check("DATE", "16690", Err(&format!("{expected}, found the number 16690")));
    check("DATE", "\"12.09.2015\"", Err(&format!("{expected}, found the string \"12.09.2015\"")));
    check("DATE", "\"2015-09-12T10:00\"", Err(&format!("{expected}, found the string \"2015-09-12T10:00\"")));
}

#[test]
fn timestamps_are_iso_8601_text_or_epoch_milliseconds() {
    let instant = "2015-09-12T00:46:58.771Z";
    for json in [
        "\"2015-09-12T00:46:58.771Z\"",
        "\"2015-09-12T00:46:58.771\"",
        "\"2015-09-12 00:46:58.771\"",
        "\"2015-09-12T02:46:58.771+02:00\"",
        "1442018818771",
        "1442018818771.0",
        "1.442018818771e12",
        "\"1442018818771\"",
    ] {
        check("TIMESTAMP", json, Ok(instant));
    }
    check("TIMESTAMP", "1442018818771.25", Ok("2015-09-12T00:46:58.771250Z"));
    check("TIMESTAMP", "\"2015-09-12\"", Ok("2015-09-12T00:00:00Z"));
    check("TIMESTAMP", "0", Ok("1970-01-01T00:00:00Z"));
    check("TIMESTAMP", "-1", Ok("1969-12-31T23:59:59.999Z"));
    check("TIMESTAMP", "253402300799999", Ok("9999-12-31T23:59:59.999Z"));
    check("TIMESTAMP", "253402300800000", Err("the number 253402300800000 is outside of the years 0001 to 9999"));
    check("TIMESTAMP", "-62135596800000", Ok("0001-01-01T00:00:00Z"));
    check("TIMESTAMP", "-62135596800001", Err("the number -62135596800001 is outside of the years 0001 to 9999"));
    check("TIMESTAMP", "1e300", Err("the number 1e300 is outside of the years 0001 to 9999"));
    check("TIMESTAMP", "\"2015-09-31\"", Err("the string \"2015-09-31\" is a time that does not exist"));
    let expected = "expected a timestamp such as \"2015-09-12T00:46:58.771Z\" or a number of milliseconds since 1970";
    check("TIMESTAMP", "\"yesterday\"", Err(&format!("{expected}, found the string \"yesterday\"")));
    check("TIMESTAMP", "true", Err(&format!("{expected}, found true")));
}

#[test]
fn digits_of_text_and_numbers_beyond_the_microsecond_are_dropped_towards_the_past() {
    check("TIMESTAMP", "\"2015-09-12T00:46:58.771123999Z\"", Ok("2015-09-12T00:46:58.771123Z"));
    check("TIMESTAMP", "1442018818771.123999", Ok("2015-09-12T00:46:58.771123Z"));
    check("TIMESTAMP", "-0.0001", Ok("1969-12-31T23:59:59.999999Z"));
}

#[test]
fn lists_and_structs_hold_values_by_the_same_rules() {
    check("BIGINT[]", "[1, 2.0, null, \"3\"]", Ok("[1, 2, NULL, 3]"));
    check("BIGINT[]", "[]", Ok("[]"));
    check("BIGINT[]", "null", Ok("NULL"));
    check("BIGINT[]", "5", Err("expected an array, found the number 5"));
    check("BIGINT[]", "[1, 2.5]", Err("item 1: expected an integer, found the number 2.5"));
    check("TEXT[][]", "[[\"a\"], [], null, [null]]", Ok("[[a], [], NULL, [NULL]]"));
    check("TEXT[][]", "[[\"a\", 1]]", Err("item 0: item 1: expected a string, found the number 1"));
    let address = "STRUCT(street TEXT, number INT!)";
    check(address, "{\"number\":5,\"more\":[{}],\"street\":\"x\"}", Ok("{street: x, number: 5}"));
    check(address, "{\"number\":5}", Ok("{street: NULL, number: 5}"));
    check(address, "null", Ok("NULL"));
    check(address, "{}", Err("field \"number\": there is no value, but it is NOT NULL"));
    check(address, "{\"number\":\"x\"}", Err("field \"number\": expected an integer, found the string \"x\""));
    check(address, "{\"number\":1,\"number\":1}", Err("field \"number\": the object has this key twice"));
    check(address, "[]", Err("expected an object, found an array"));
    check(&format!("{address}[]"), "[{\"number\":1}, null]", Ok("[{street: NULL, number: 1}, NULL]"));
    check(&format!("{address}[]"), "[{}]", Err("item 0: field \"number\": there is no value, but it is NOT NULL"));
}

#[test]
fn what_a_refused_list_or_struct_had_read_so_far_leaves_no_trace() {
    let decoder = decoder(&["a TEXT[]", "b STRUCT(x TEXT, y BIGINT[])", "c BIGINT!"]);
    let good = |n: u32| format!(r#"{{"a":["{n}"],"b":{{"x":"{n}","y":[{n}]}},"c":{n}}}"#);
    let bad = [
        r#"{"a":["lost","lost",1],"c":1}"#,
        r#"{"a":["lost"],"b":{"x":"lost","y":[7,8,"z"]},"c":1}"#,
        r#"{"a":["lost"],"b":{"x":"lost","y":[7]}}"#,
        r#"{"a":["lost"],"b":{"x":"lost \x"#,
        r#"{"a":["lost"],"b":null,"c":1}garbage"#,
    ];
    let body = format!("{}\n{}\n{}\n{}\n", good(1), bad.join("\n"), good(2), good(3));
    let (rows, refused) = decode(&decoder, EventFormat::NdJson, body);
    let expected = [1, 2, 3].map(|n| format!("[{n}]|{{x: {n}, y: [{n}]}}|{n}"));
    assert_eq!(rows, expected);
    assert_eq!(refused.len(), bad.len());
}

#[test]
fn csv_fields_follow_the_rules_of_strings() {
    let check = |sql: &str, field: &str, expected: Result<&str, &str>| {
        let (rows, refused) = decode(&decoder(&[&format!("a {sql}")]), EventFormat::Csv, format!("a,z\n{field},"));
        match expected {
            Ok(value) => assert_eq!((rows, refused), (vec![value.to_owned()], vec![]), "{sql} {field}"),
            Err(reason) => assert_eq!(refused, [format!("0/a: {reason}")], "{sql} {field}"),
        }
    };
    for field in ["true", "TRUE", "t", "1", " true "] {
        check("BOOLEAN", field, Ok("true"));
    }
    check("BOOLEAN", "F", Ok("false"));
    check("BOOLEAN", "yes", Err("expected true or false, found the string \"yes\""));
    check("INT", " 007 ", Ok("7"));
    check("BIGINT", "9223372036854775807", Ok("9223372036854775807"));
    check("BIGINT", "1.5", Err("expected an integer, found the string \"1.5\""));
    check("DECIMAL", "-1.5", Ok("-1.50"));
    check("DOUBLE", "NaN", Ok("NaN"));
    check("DATE", "2015-09-12", Ok("2015-09-12"));
    check("TIMESTAMP", "1442018818771", Ok("2015-09-12T00:46:58.771Z"));
    check("TIMESTAMP", "2015-09-12 00:46:58+00", Ok("2015-09-12T00:46:58Z"));
    check("BIGINT[]", "\"[1, 2]\"", Ok("[1, 2]"));
    check("TEXT[]", r#""[""a"",""b,c""]""#, Ok("[a, b,c]"));
    check("STRUCT(x TEXT)", r#""{""x"":""y""}""#, Ok("{x: y}"));
    check("BIGINT[]", "\"[1] 2\"", Err("not valid JSON at byte 4: expected the end of the field, found \"2\""));
    check("BIGINT[]", "7", Err("expected an array, found the number 7"));
}
