//! Arrow streams: which types become which columns, and which values are refused.

use arrow::array::*;
use arrow::datatypes::*;
use arrow::ipc::writer::StreamWriter;

use super::EventFormat::ArrowStream;
use super::random::Random;
use super::*;

fn stream(batches: &[RecordBatch]) -> Vec<u8> {
    let mut body = Vec::new();
    let mut writer = StreamWriter::try_new(&mut body, &batches[0].schema()).unwrap();
    for batch in batches {
        writer.write(batch).unwrap();
    }
    writer.finish().unwrap();
    drop(writer);
    body
}

fn batch(columns: Vec<(&str, ArrayRef)>) -> RecordBatch {
    RecordBatch::try_from_iter_with_nullable(columns.into_iter().map(|(name, array)| (name, array, true))).unwrap()
}

/// Checks a column: the values that it becomes, and the rows that are refused.
fn check(sql: &str, array: impl Array + 'static, rows: &[&str], refused: &[&str]) {
    let what = format!("{} as {sql}", array.data_type());
    let body = stream(&[batch(vec![("a", Arc::new(array))])]);
    assert_eq!(decode(&decoder(&[&format!("a {sql}")]), ArrowStream, body), (texts(rows), texts(refused)), "{what}");
}

fn texts(texts: &[&str]) -> Vec<String> {
    texts.iter().map(|text| text.to_string()).collect()
}

/// Checks that a column of this type makes the body unreadable.
fn check_mismatch(sql: &str, array: impl Array + 'static, expected: &str) {
    let body = stream(&[batch(vec![("a", Arc::new(array))])]);
    let reason = unreadable(&decoder(&[&format!("a {sql}")]), ArrowStream, body);
    assert_eq!(reason, format!("column \"a\": {expected}"));
}

#[test]
fn every_string_type_is_text() {
    let values = [Some("é"), None, Some("")];
    let expected = ["é", "NULL", ""];
    check("TEXT", StringArray::from_iter(values), &expected, &[]);
    check("TEXT", LargeStringArray::from_iter(values), &expected, &[]);
    check("TEXT", StringViewArray::from_iter(values), &expected, &[]);
    check("TEXT", DictionaryArray::<Int8Type>::from_iter(values), &expected, &[]);
    check("TEXT", NullArray::new(2), &["NULL", "NULL"], &[]);
}

#[test]
fn text_is_read_as_numbers_and_times_as_in_json() {
    let values = StringArray::from(vec![Some("5"), None, Some("x"), Some("6.0")]);
    let refused = ["2/a: expected an integer, found the string \"x\""];
    check("BIGINT", values, &["5", "NULL", "6"], &refused);
    let times = LargeStringArray::from(vec!["2015-09-12T02:46:58+02:00", "1442018818771"]);
    check("TIMESTAMP", times, &["2015-09-12T00:46:58Z", "2015-09-12T00:46:58.771Z"], &[]);
}

#[test]
fn integers_take_other_widths_when_the_value_fits() {
    check("BIGINT", Int8Array::from(vec![-128, 127]), &["-128", "127"], &[]);
    check("BIGINT", UInt32Array::from(vec![u32::MAX]), &["4294967295"], &[]);
    let refused = ["1/a: the value 18446744073709551615 cannot be held exactly by a BIGINT column"];
    check("BIGINT", UInt64Array::from(vec![Some(1), Some(u64::MAX), None]), &["1", "NULL"], &refused);
    let refused = ["1/a: the value 2147483648 cannot be held exactly by a INT column"];
    check("INT", Int64Array::from(vec![2_147_483_647, 2_147_483_648]), &["2147483647"], &refused);
}

#[test]
fn floats_become_integers_and_decimals_only_when_they_are_the_same_number() {
    let floats = || Float64Array::from(vec![2.0, -0.0, 1.5, 1e19, f64::NAN, 9_007_199_254_740_992.0]);
    let refused = [
        "2/a: expected an integer, found the number 1.5",
        "3/a: the number 10000000000000000000 is out of range for BIGINT",
        "4/a: expected an integer, found the number NaN",
    ];
    check("BIGINT", floats(), &["2", "0", "9007199254740992"], &refused);
    let too_fine = "has more fractional digits than the 2 that a DECIMAL(10, 2) column keeps";
    check("DECIMAL", Float32Array::from(vec![0.1, 0.125]), &["0.10"], &[&format!("1/a: the number 0.125 {too_fine}")]);
}

#[test]
fn decimals_are_rescaled_only_without_loss() {
    let decimals = |values: Vec<i128>| Decimal128Array::from(values).with_precision_and_scale(20, 4).unwrap();
    let refused = [
        "1/a: the value 1.2345 cannot be held exactly by a DECIMAL(10, 2) column",
        "2/a: the value 100000000.0000 cannot be held exactly by a DECIMAL(10, 2) column",
    ];
    check("DECIMAL", decimals(vec![12_300, 12_345, 1_000_000_000_000]), &["1.23"], &refused);
    let refused = ["1/a: the value 1.5000 cannot be held exactly by a BIGINT column"];
    check("BIGINT", decimals(vec![20_000, 15_000]), &["2"], &refused);
    check("DOUBLE", decimals(vec![11_000]), &["1.1"], &[]);
    check("DECIMAL", Int32Array::from(vec![5]), &["5.00"], &[]);
}

#[test]
fn decimals_beyond_their_own_precision_are_refused() {
    let decimals = vec![i256::from_i128(12_300), i256::MAX];
    let decimals = Decimal256Array::from(decimals).with_precision_and_scale(5, 4).unwrap();
    let refused = ["1/a: the value has more digits than its Arrow type Decimal256(5, 4)"];
    check("DECIMAL", decimals, &["1.23"], &refused);
}

#[test]
fn float_columns_take_the_nearest_float_but_only_integers_that_are_exact() {
    check("DOUBLE", Float32Array::from(vec![0.5, f32::INFINITY]), &["0.5", "inf"], &[]);
    let refused = ["1/a: the value 1e300 cannot be held exactly by a FLOAT column"];
    check(
        "FLOAT",
        Float64Array::from(vec![Some(0.1), Some(1e300), Some(f64::NAN), None]),
        &["0.1", "NaN", "NULL"],
        &refused,
    );
    let refused = ["1/a: the value 9007199254740993 cannot be held exactly by a DOUBLE column"];
    check(
        "DOUBLE",
        Int64Array::from(vec![9_007_199_254_740_992, 9_007_199_254_740_993]),
        &["9007199254740992.0"],
        &refused,
    );
}

#[test]
fn timestamps_of_every_unit_and_zone_are_the_same_instant() {
    let expected = ["2015-09-12T00:46:58Z", "NULL"];
    let seconds = [Some(1_442_018_818), None];
    let scaled = |factor: i64| seconds.iter().map(|s| s.map(|s| s * factor)).collect::<Vec<_>>();
    check("TIMESTAMP", TimestampSecondArray::from(scaled(1)), &expected, &[]);
    check("TIMESTAMP", TimestampMillisecondArray::from(scaled(1000)).with_timezone("+02:00"), &expected, &[]);
    check(
        "TIMESTAMP",
        TimestampMicrosecondArray::from(scaled(1_000_000)).with_timezone("Europe/Berlin"),
        &expected,
        &[],
    );
    check("TIMESTAMP", TimestampMicrosecondArray::from(scaled(1_000_000)).with_timezone("UTC"), &expected, &[]);
    check("TIMESTAMP", TimestampNanosecondArray::from(scaled(1_000_000_000)), &expected, &[]);
    check("TIMESTAMP", Int64Array::from(scaled(1000)), &expected, &[]);
    check("TIMESTAMP", Date32Array::from(vec![16_690]), &["2015-09-12T00:00:00Z"], &[]);
    check("TIMESTAMP", Date64Array::from(vec![-1]), &["1969-12-31T23:59:59.999Z"], &[]);
}

#[test]
fn times_that_a_column_cannot_hold_are_refused() {
    let too_fine = "has digits below the microsecond, which a TIMESTAMP does not keep";
    let refused = [&*format!("0/a: the value 1970-01-01T00:00:00.000000001 {too_fine}")];
    check("TIMESTAMP", TimestampNanosecondArray::from(vec![1, -1000]), &["1969-12-31T23:59:59.999999Z"], &refused);
    let outside = "is outside of the years 0001 to 9999";
    let refused = [&*format!("1/a: the value {} {outside}", i64::MAX)];
    check("TIMESTAMP", TimestampSecondArray::from(vec![0, i64::MAX]), &["1970-01-01T00:00:00Z"], &refused);
    let refused = [&*format!("0/a: the value 18446744073709551615 {outside}")];
    check("TIMESTAMP", UInt64Array::from(vec![u64::MAX, 0]), &["1970-01-01T00:00:00Z"], &refused);
    check(
        "DATE",
        Date64Array::from(vec![86_400_000, 1]),
        &["1970-01-02"],
        &["1/a: the value 1970-01-01T00:00:00.001 is not a midnight in UTC"],
    );
    check("DATE", TimestampSecondArray::from(vec![-86_400]), &["1969-12-31"], &[]);
    let decoded = decode(
        &decoder(&["a DATE"]),
        ArrowStream,
        stream(&[batch(vec![("a", Arc::new(Date32Array::from(vec![i32::MAX, 0])))])]),
    );
    assert_eq!(decoded.0, ["1970-01-01"]);
    assert!(decoded.1[0].ends_with(outside), "{decoded:?}");
}

#[test]
fn a_type_that_can_never_fit_makes_the_body_unreadable() {
    check_mismatch("TEXT", Int64Array::from(vec![1]), "its Arrow type is Int64, which a TEXT column does not take");
    check_mismatch("BOOLEAN", Int8Array::from(vec![1]), "its Arrow type is Int8, which a BOOLEAN column does not take");
    check_mismatch(
        "BIGINT",
        BooleanArray::from(vec![true]),
        "its Arrow type is Boolean, which a BIGINT column does not take",
    );
    check_mismatch("DATE", Int32Array::from(vec![1]), "its Arrow type is Int32, which a DATE column does not take");
    check_mismatch(
        "BIGINT[]",
        Int32Array::from(vec![1]),
        "its Arrow type is Int32, which a BIGINT[] column does not take",
    );
    check_mismatch(
        "STRUCT(x INT)",
        Int32Array::from(vec![1]),
        "its Arrow type is Int32, which a STRUCT column does not take",
    );
    check_mismatch(
        "TEXT",
        BinaryArray::from(vec![&b"x"[..]]),
        "its Arrow type is Binary, which a TEXT column does not take",
    );
}

#[test]
fn columns_are_matched_by_name_and_rows_count_through_all_batches() {
    let rows = |a: Vec<Option<i64>>, name: &str| {
        let names = StringArray::from(vec![name; a.len()]);
        batch(vec![
            ("zzz", Arc::new(BooleanArray::from(vec![true; a.len()]))),
            ("name", Arc::new(names)),
            ("a", Arc::new(Int64Array::from(a))),
        ])
    };
    let body = stream(&[rows(vec![Some(1), None], "x"), rows(vec![], ""), rows(vec![None, Some(2)], "y")]);
    let (accepted, refused) = decode(&decoder(&["a BIGINT!", "other DOUBLE", "name TEXT"]), ArrowStream, &body);
    assert_eq!(accepted, ["1|NULL|x", "2|NULL|y"]);
    let reason = "the value is null, but it is NOT NULL";
    assert_eq!(refused, [format!("1/a: {reason}"), format!("2/a: {reason}")]);
    let (accepted, refused) = decode(&decoder(&["a BIGINT", "other DOUBLE!"]), ArrowStream, &body);
    assert_eq!((accepted.len(), refused.len()), (0, 4));
    let reason = unreadable(&decoder(&["nothing BIGINT", "else TEXT"]), ArrowStream, &body);
    assert_eq!(reason, "it has none of the source's columns; they are: nothing, else");
}

#[test]
fn lists_are_converted_item_by_item() {
    let list = |lists: Vec<Option<Vec<Option<i64>>>>| ListArray::from_iter_primitive::<Int64Type, _, _>(lists);
    let lists =
        vec![Some(vec![Some(1), None]), None, Some(vec![]), Some(vec![Some(2), Some(1 << 40)]), Some(vec![Some(3)])];
    let rows = ["[1, NULL]", "NULL", "[]", "[3]"];
    let refused = ["3/a: item 1: the value 1099511627776 cannot be held exactly by a INT column"];
    check("INT[]", list(lists.clone()), &rows, &refused);
    check("INT[]", LargeListArray::from_iter_primitive::<Int64Type, _, _>(lists.clone()), &rows, &refused);
    check(
        "INT[]",
        list(lists).slice(2, 3),
        &rows[2..],
        &["1/a: item 1: the value 1099511627776 cannot be held exactly by a INT column"],
    );
    let fixed = FixedSizeListArray::from_iter_primitive::<Int64Type, _, _>(vec![Some(vec![Some(1), Some(2)]), None], 2);
    check("BIGINT[]", fixed, &["[1, 2]", "NULL"], &[]);
}

#[test]
fn what_a_null_list_covers_is_never_seen() {
    let field = Arc::new(Field::new("item", DataType::Int64, true));
    let offsets = arrow::buffer::OffsetBuffer::new(vec![0, 1, 3, 4].into());
    let items = Arc::new(Int64Array::from(vec![1, i64::MAX, i64::MIN, 2]));
    let lists = ListArray::new(field, offsets, items, Some(vec![true, false, true].into()));
    check("INT[]", lists, &["[1]", "NULL", "[2]"], &[]);
}

#[test]
fn structs_are_converted_field_by_field_and_hidden_values_are_never_seen() {
    let x = Arc::new(Int64Array::from(vec![Some(1), Some(i64::MAX), None, Some(i64::MAX)])) as ArrayRef;
    let z = Arc::new(StringArray::from(vec!["a"; 4])) as ArrayRef;
    let fields: Fields = vec![Field::new("z", DataType::Utf8, true), Field::new("x", DataType::Int64, true)].into();
    let structs = StructArray::new(fields, vec![z, x], Some(vec![true, false, true, true].into()));
    let sql = "STRUCT(x INT!, y TEXT)";
    let refused = [
        "2/a: field \"x\": the value is null, but it is NOT NULL",
        "3/a: field \"x\": the value 9223372036854775807 cannot be held exactly by a INT column",
    ];
    check(sql, structs, &["{x: 1, y: NULL}", "NULL"], &refused);
}

#[test]
fn a_damaged_stream_is_unreadable_and_never_a_panic() {
    let names = DictionaryArray::<Int8Type>::from_iter([Some("x"), None, Some("y")]);
    let list =
        ListArray::from_iter_primitive::<Int64Type, _, _>(vec![Some(vec![Some(1)]), None, Some(vec![Some(2), None])]);
    let times = TimestampMillisecondArray::from(vec![1, 2, 3]).with_timezone("UTC");
    let columns: Vec<(&str, ArrayRef)> =
        vec![("name", Arc::new(names)), ("list", Arc::new(list)), ("time", Arc::new(times))];
    let body = stream(&[batch(columns)]);
    let decoder = decoder(&["name TEXT", "list BIGINT[]", "time TIMESTAMP"]);
    assert_eq!(
        decode(&decoder, ArrowStream, &body).0,
        [
            "x|[1]|1970-01-01T00:00:00.001Z",
            "NULL|NULL|1970-01-01T00:00:00.002Z",
            "y|[2, NULL]|1970-01-01T00:00:00.003Z"
        ]
    );
    // A stream may end between two messages: the format does not demand an end marker.
    let readable = (0..body.len()).filter(|length| decoder.decode(ArrowStream, &body[..*length]).is_ok()).count();
    assert!(readable < 10, "{readable} of {} cuts are readable", body.len());
    let mut random = Random::new(11);
    for _ in 0..20_000 {
        let mut damaged = body.clone();
        for _ in 0..1 + random.below(4) {
            let place = random.below(damaged.len());
            damaged[place] = random.next() as u8 & *random.choose(&[0, 1, 0x7f, 0xff]);
        }
        if let Err(error) = decoder.decode(ArrowStream, &damaged) {
            assert!(matches!(error, Error::UnreadableEvents { .. }), "{error:?}");
        }
    }
}
