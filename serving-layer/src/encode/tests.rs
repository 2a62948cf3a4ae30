//! What values look like in each format. `check` writes one column in JSON and CSV at once.

use std::sync::Arc;

use arrow::array::*;
use arrow::buffer::{NullBuffer, OffsetBuffer};
use arrow::datatypes::*;
use arrow::ipc::reader::StreamReader;
use serde_json::{Value, json};

use super::*;
use crate::answer::{AsOf, SourceAsOf, ViewAsOf};

type TestResult = Result<(), Box<dyn std::error::Error>>;

fn answer(columns: Vec<(&str, ArrayRef)>) -> Result<Answer, ArrowError> {
    let batch = RecordBatch::try_from_iter_with_nullable(columns.into_iter().map(|(name, array)| (name, array, true)))?;
    Ok(Answer { schema: batch.schema(), batches: vec![batch], as_of: AsOf::default(), complete: true })
}

fn write(answer: &Answer, format: AnswerFormat) -> Result<Vec<u8>, ArrowError> {
    let mut body = Vec::new();
    for piece in Pieces::new(answer.clone(), format)? {
        body.extend_from_slice(&piece?);
    }
    Ok(body)
}

/// Checks the JSON text of each value of a column, and its CSV cells beside a second column `1`.
fn check(array: ArrayRef, json: &[&str], csv: &[&str]) -> TestResult {
    let ones: ArrayRef = Arc::new(Int32Array::from(vec![1; array.len()]));
    let answer = answer(vec![("value", array), ("one", ones)])?;

    let body = String::from_utf8(write(&answer, AnswerFormat::Json)?)?;
    let rows: Vec<String> = json.iter().map(|value| format!("[{value},1]")).collect();
    let expected = format!("\"rows\":[{}],", rows.join(","));
    assert!(body.contains(&expected), "{expected} is not in {body}");
    serde_json::from_str::<Value>(&body)?;

    let body = String::from_utf8(write(&answer, AnswerFormat::Csv)?)?;
    let lines: String = csv.iter().map(|cell| format!("{cell},1\n")).collect();
    assert_eq!(body, format!("value,one\n{lines}"));
    Ok(())
}

#[test]
fn integers_are_exact_to_the_last_digit() -> TestResult {
    let numbers = ["9223372036854775807", "-9223372036854775808", "9007199254740993"];
    check(Arc::new(Int64Array::from(vec![i64::MAX, i64::MIN, (1 << 53) + 1])), &numbers, &numbers)?;
    check(Arc::new(UInt64Array::from(vec![u64::MAX])), &["18446744073709551615"], &["18446744073709551615"])?;
    check(Arc::new(Int8Array::from(vec![Some(-128), None])), &["-128", "null"], &["-128", ""])
}

#[test]
fn floats_have_the_fewest_digits_and_words_where_json_has_no_number() -> TestResult {
    let values = vec![0.1, -0.0, 1.0, 1e300, f64::MIN_POSITIVE, f64::NAN, f64::INFINITY, f64::NEG_INFINITY];
    let json = ["0.1", "-0.0", "1.0", "1e+300", "2.2250738585072014e-308", "\"NaN\"", "\"Infinity\"", "\"-Infinity\""];
    let csv = ["0.1", "-0.0", "1.0", "1e+300", "2.2250738585072014e-308", "NaN", "Infinity", "-Infinity"];
    check(Arc::new(Float64Array::from(values)), &json, &csv)?;
    check(Arc::new(Float32Array::from(vec![0.1, f32::NAN])), &["0.1", "\"NaN\""], &["0.1", "NaN"])
}

#[test]
fn decimals_are_strings_of_all_their_digits() -> TestResult {
    let largest = 10_i128.pow(38) - 1;
    let array = Decimal128Array::from(vec![0, 5, -5, 12_345, -100, largest]).with_precision_and_scale(38, 2)?;
    let csv = ["0.00", "0.05", "-0.05", "123.45", "-1.00", "999999999999999999999999999999999999.99"];
    let json = csv.map(|text| format!("\"{text}\""));
    check(Arc::new(array), &json.each_ref().map(String::as_str), &csv)?;

    let whole = Decimal128Array::from(vec![7, -7]).with_precision_and_scale(5, 0)?;
    check(Arc::new(whole), &["\"7\"", "\"-7\""], &["7", "-7"])?;
    let thousands = Decimal128Array::from(vec![7, 0]).with_precision_and_scale(5, -3)?;
    check(Arc::new(thousands), &["\"7000\"", "\"0\""], &["7000", "0"])?;
    let wide = Decimal256Array::from(vec![i256::from(-12_345)]).with_precision_and_scale(76, 10)?;
    check(Arc::new(wide), &["\"-0.0000012345\""], &["-0.0000012345"])?;
    let small = Decimal64Array::from(vec![1]).with_precision_and_scale(18, 18)?;
    check(Arc::new(small), &["\"0.000000000000000001\""], &["0.000000000000000001"])
}

#[test]
fn times_are_iso_8601_in_utc_whatever_their_zone() -> TestResult {
    let written = "2015-09-12T00:46:58.771000Z";
    let quoted = format!("\"{written}\"");
    let us = TimestampMicrosecondArray::from(vec![Some(1_442_018_818_771_000), None]);
    for array in [us.clone(), us.clone().with_timezone("UTC"), us.with_timezone("+02:00")] {
        check(Arc::new(array), &[&quoted, "null"], &[written, ""])?;
    }
    check(Arc::new(TimestampMillisecondArray::from(vec![1_442_018_818_771])), &[&quoted], &[written])?;
    check(
        Arc::new(Date32Array::from(vec![16_690, -1])),
        &["\"2015-09-12\"", "\"1969-12-31\""],
        &["2015-09-12", "1969-12-31"],
    )?;
    check(Arc::new(Date64Array::from(vec![16_690 * 86_400_000])), &["\"2015-09-12\""], &["2015-09-12"])?;
    check(Arc::new(Time64MicrosecondArray::from(vec![1])), &["\"00:00:00.000001\""], &["00:00:00.000001"])
}

#[test]
fn durations_and_intervals_are_text() -> TestResult {
    let pretty = "1 days 2 hours 3 mins 4.500000 secs";
    let micros = 1_000_000 * (24 * 3600 + 2 * 3600 + 3 * 60 + 4) + 500_000;
    check(Arc::new(DurationMicrosecondArray::from(vec![micros])), &[&format!("\"{pretty}\"")], &[pretty])?;
    let interval = IntervalMonthDayNanoArray::from(vec![IntervalMonthDayNano::new(1, 2, 3_000_000_000)]);
    let pretty = "1 mons 2 days 3.000000000 secs";
    check(Arc::new(interval), &[&format!("\"{pretty}\"")], &[pretty])
}

#[test]
fn text_is_escaped_as_each_format_needs_it() -> TestResult {
    let array = StringArray::from(vec![
        Some("plain"),
        Some("a,b"),
        Some("say \"hi\""),
        Some("two\nlines"),
        Some("Zürich 🦀"),
        Some("back\\slash"),
        Some("\u{1}"),
        Some(""),
        None,
    ]);
    let json = [
        "\"plain\"",
        "\"a,b\"",
        r#""say \"hi\"""#,
        r#""two\nlines""#,
        "\"Zürich 🦀\"",
        r#""back\\slash""#,
        r#""\u0001""#,
        "\"\"",
        "null",
    ];
    let csv =
        ["plain", "\"a,b\"", "\"say \"\"hi\"\"\"", "\"two\nlines\"", "Zürich 🦀", "back\\slash", "\u{1}", "\"\"", ""];
    check(Arc::new(array), &json, &csv)
}

#[test]
fn binary_values_are_hexadecimal() -> TestResult {
    let array = BinaryArray::from(vec![Some(&[0_u8, 0xab, 0xff][..]), Some(&[]), None]);
    check(Arc::new(array), &["\"00abff\"", "\"\"", "null"], &["00abff", "\"\"", ""])
}

#[test]
fn null_and_boolean_columns_are_written() -> TestResult {
    check(Arc::new(NullArray::new(2)), &["null", "null"], &["", ""])?;
    check(
        Arc::new(BooleanArray::from(vec![Some(true), Some(false), None])),
        &["true", "false", "null"],
        &["true", "false", ""],
    )
}

#[test]
fn a_null_among_the_values_of_a_dictionary_is_null() -> TestResult {
    let values = StringArray::from(vec![Some("a"), None]);
    let keys = Int32Array::from(vec![Some(0), Some(1), None, Some(0)]);
    let array = DictionaryArray::try_new(keys, Arc::new(values))?;
    check(Arc::new(array), &["\"a\"", "null", "null", "\"a\""], &["a", "", "", "a"])?;
    let empty = DictionaryArray::<Int32Type>::try_new(Int32Array::new_null(1), new_empty_array(&DataType::Utf8))?;
    check(Arc::new(empty), &["null"], &[""])
}

#[test]
fn nested_values_are_json_and_keep_the_spelling_of_their_parts() -> TestResult {
    let times: ArrayRef = Arc::new(TimestampMicrosecondArray::from(vec![Some(0), None]));
    let sums: ArrayRef = Arc::new(Decimal128Array::from(vec![Some(5), Some(6)]).with_precision_and_scale(5, 1)?);
    let structs = StructArray::from(vec![
        (Arc::new(Field::new("time", times.data_type().clone(), true)), times),
        (Arc::new(Field::new("sum", sums.data_type().clone(), true)), sums),
    ]);
    let json = [r#"{"time":"1970-01-01T00:00:00.000000Z","sum":"0.5"}"#, r#"{"time":null,"sum":"0.6"}"#];
    let csv = json.map(|text| format!("\"{}\"", text.replace('"', "\"\"")));
    check(Arc::new(structs.clone()), &json, &csv.each_ref().map(String::as_str))?;

    let item = Arc::new(Field::new_list_field(structs.data_type().clone(), true));
    let nulls = NullBuffer::from(vec![true, true, false]);
    let lists = ListArray::try_new(item, OffsetBuffer::new(vec![0, 2, 2, 2].into()), Arc::new(structs), Some(nulls))?;
    let both = format!("[{},{}]", json[0], json[1]);
    check(Arc::new(lists), &[&both, "[]", "null"], &[&format!("\"{}\"", both.replace('"', "\"\"")), "[]", ""])?;

    let numbers = ListArray::from_iter_primitive::<Float64Type, _, _>([Some(vec![Some(1.5), None, Some(f64::NAN)])]);
    check(Arc::new(numbers), &[r#"[1.5,null,"NaN"]"#], &[r#""[1.5,null,""NaN""]""#])
}

#[test]
fn json_tells_columns_rows_and_what_they_stand_for() -> TestResult {
    let mut answer = answer(vec![
        ("channel \"x\"", Arc::new(StringArray::from(vec!["#en"])) as ArrayRef),
        ("edits", Arc::new(Int64Array::from(vec![42]))),
    ])?;
    answer.complete = false;
    let source =
        SourceAsOf { offsets: vec![12, 40], watermark: Some("2015-09-12T23:49:00.000000Z".into()), gaps: vec![] };
    answer.as_of.sources.insert("edits".into(), source);
    answer.as_of.views.insert("by_channel".into(), ViewAsOf { batch_version: None, boundary: vec![0, 0] });
    let body: Value = serde_json::from_slice(&write(&answer, AnswerFormat::Json)?)?;
    let expected = json!({
        "columns": [{"name": "channel \"x\"", "type": "TEXT"}, {"name": "edits", "type": "BIGINT"}],
        "rows": [["#en", 42]],
        "as_of": {
            "sources": {"edits": {"offsets": [12, 40], "watermark": "2015-09-12T23:49:00.000000Z"}},
            "views": {"by_channel": {"batch_version": null, "boundary": [0, 0]}},
        },
        "complete": false,
    });
    assert_eq!(body, expected);
    Ok(())
}

#[test]
fn an_answer_without_rows_still_has_its_columns() -> TestResult {
    let mut answer = answer(vec![("n", Arc::new(Int64Array::from(vec![1])) as ArrayRef)])?;
    answer.batches.clear();
    assert_eq!(write(&answer, AnswerFormat::Csv)?, b"n\n");
    let json: Value = serde_json::from_slice(&write(&answer, AnswerFormat::Json)?)?;
    assert_eq!(json["rows"], json!([]));
    assert_eq!(json["columns"], json!([{"name": "n", "type": "BIGINT"}]));
    let body = write(&answer, AnswerFormat::ArrowStream)?;
    let stream = StreamReader::try_new(body.as_slice(), None)?;
    assert_eq!(stream.schema(), answer.schema);
    assert_eq!(stream.count(), 0);
    Ok(())
}

#[test]
fn a_null_alone_on_its_csv_line_is_no_blank_line() -> TestResult {
    let answer = answer(vec![("n", Arc::new(Int64Array::from(vec![Some(1), None])) as ArrayRef)])?;
    assert_eq!(String::from_utf8(write(&answer, AnswerFormat::Csv)?)?, "n\n1\n\"\"\n");
    Ok(())
}

#[test]
fn an_arrow_stream_gives_back_schema_metadata_and_rows() -> TestResult {
    let metadata = [("unit".to_owned(), "edits".to_owned())];
    let field = Field::new("n", DataType::Int64, true).with_metadata(metadata.clone().into());
    let schema = Arc::new(Schema::new_with_metadata(vec![field], metadata.into()));
    let batch = RecordBatch::try_new(Arc::clone(&schema), vec![Arc::new(Int64Array::from_iter_values(0..5000))])?;
    let answer =
        Answer { schema: Arc::clone(&schema), batches: vec![batch.clone()], as_of: AsOf::default(), complete: true };
    let body = write(&answer, AnswerFormat::ArrowStream)?;
    let stream = StreamReader::try_new(body.as_slice(), None)?;
    assert_eq!(stream.schema(), schema);
    let batches = stream.collect::<Result<Vec<_>, _>>()?;
    assert_eq!(arrow::compute::concat_batches(&schema, &batches)?, batch);
    Ok(())
}

#[test]
fn a_large_answer_comes_in_pieces_that_lose_no_row() -> TestResult {
    let rows = 50_000;
    let text: ArrayRef = Arc::new(StringArray::from_iter_values((0..rows).map(|row| format!("row {row}"))));
    let mut answer = answer(vec![("text", text), ("n", Arc::new(Int64Array::from_iter_values(0..rows)))])?;
    let whole = answer.batches.remove(0);
    // Batches of uneven sizes, an empty one among them.
    answer.batches = vec![whole.slice(0, 1), whole.slice(1, 0), whole.slice(1, 9_000), whole.slice(9_001, 40_999)];

    for format in AnswerFormat::ALL {
        let mut pieces = Pieces::new(answer.clone(), format)?;
        let lengths = pieces.by_ref().map(|piece| Ok(piece?.len())).collect::<Result<Vec<_>, ArrowError>>()?;
        assert!(pieces.ended() && lengths.len() > 5, "{format:?} came in pieces of {lengths:?} bytes");
        assert!(
            lengths.iter().all(|length| *length < 4 * PIECE_BYTES),
            "{format:?} came in pieces of {lengths:?} bytes"
        );
    }
    let json: Value = serde_json::from_slice(&write(&answer, AnswerFormat::Json)?)?;
    let expected: Vec<Value> = (0..rows).map(|row| json!([format!("row {row}"), row])).collect();
    assert_eq!(json["rows"], Value::Array(expected));
    let lines: String = (0..rows).map(|row| format!("row {row},{row}\n")).collect();
    assert_eq!(String::from_utf8(write(&answer, AnswerFormat::Csv)?)?, format!("text,n\n{lines}"));
    Ok(())
}

#[test]
fn a_type_without_a_json_form_is_refused_before_the_first_piece() -> TestResult {
    let keys: ArrayRef = Arc::new(Int64Array::from(vec![1]));
    let values: ArrayRef = Arc::new(Int64Array::from(vec![2]));
    let entries = StructArray::from(vec![
        (Arc::new(Field::new("key", DataType::Int64, false)), keys),
        (Arc::new(Field::new("value", DataType::Int64, true)), values),
    ]);
    let field = Arc::new(Field::new("entries", entries.data_type().clone(), false));
    let map = MapArray::try_new(field, OffsetBuffer::new(vec![0, 1].into()), entries, None, false)?;
    let answer = answer(vec![("m", Arc::new(map) as ArrayRef)])?;
    assert!(Pieces::new(answer.clone(), AnswerFormat::Json).is_err());
    assert!(Pieces::new(answer.clone(), AnswerFormat::Csv).is_err());
    assert!(Pieces::new(answer, AnswerFormat::ArrowStream).is_ok());
    Ok(())
}
