//! Queries with expected answers, and how an answer is compared with them.

use std::collections::BTreeMap;

use chrono::DateTime;
use serde::Deserialize;
use serde_json::{Value, json};

/// How many differing rows of one answer a failure shows.
const DIFFERENCES_SHOWN: usize = 5;

/// A query and the answer that an independent engine gave.
pub(crate) struct Oracle {
    pub(crate) name: String,
    pub(crate) sql: String,
    /// Largest absolute difference of a float.
    pub(crate) tolerance: f64,
    /// Whether it holds after `first_rows` events instead of at the end.
    pub(crate) midway: bool,
    pub(crate) columns: Vec<String>,
    pub(crate) rows: Vec<Row>,
}

pub(crate) struct Oracles(pub(crate) Vec<Oracle>);

impl Oracles {
    pub(crate) fn at_the_end(&self) -> Vec<&Oracle> {
        self.0.iter().filter(|oracle| !oracle.midway).collect()
    }

    pub(crate) fn midway(&self) -> Vec<&Oracle> {
        self.0.iter().filter(|oracle| oracle.midway).collect()
    }
}

impl Oracle {
    /// One line for each thing that is not as expected; at most a few rows are shown.
    pub(crate) fn differences(&self, answer: &Answer) -> Vec<String> {
        let names: Vec<&str> = answer.columns.iter().map(|column| column.name.as_str()).collect();
        if names != self.columns {
            return vec![format!("columns are {names:?} instead of {:?}", self.columns)];
        }
        let mut lines = Vec::new();
        if answer.rows.len() != self.rows.len() {
            lines.push(format!("{} rows instead of {}", answer.rows.len(), self.rows.len()));
        }
        let pairs = self.rows.iter().zip(&answer.rows).enumerate();
        let differing: Vec<_> = pairs.filter(|(_, (expected, row))| !self.same_row(answer, expected, row)).collect();
        for (number, (expected, row)) in differing.iter().take(DIFFERENCES_SHOWN) {
            lines.push(format!("row {number} is {} instead of {}", json!(row), json!(expected)));
        }
        if differing.len() > DIFFERENCES_SHOWN {
            lines.push(format!("... {} rows differ", differing.len()));
        }
        lines
    }

    fn same_row(&self, answer: &Answer, expected: &Row, row: &[Value]) -> bool {
        let cells = expected.iter().zip(row).zip(&answer.columns);
        expected.len() == row.len() && { cells }.all(|((expected, cell), column)| match (expected, cell) {
            (None, cell) => cell.is_null(),
            (Some(expected), cell) => same_value(&column.kind, expected, cell, self.tolerance),
        })
    }
}

/// Whether a cell of SQL type `kind` holds the expected value: floats within `tolerance`, everything else exactly.
fn same_value(kind: &str, expected: &str, cell: &Value, tolerance: f64) -> bool {
    match (kind, cell) {
        ("DOUBLE" | "FLOAT", Value::Number(number)) => {
            let pair = number.as_f64().zip(expected.parse::<f64>().ok());
            pair.is_some_and(|(actual, expected)| (actual - expected).abs() <= tolerance)
        }
        (_, Value::Number(number)) => number.to_string() == expected,
        ("TIMESTAMP", Value::String(text)) => {
            let pair = DateTime::parse_from_rfc3339(text).ok().zip(DateTime::parse_from_rfc3339(expected).ok());
            pair.is_some_and(|(actual, expected)| actual == expected)
        }
        (_, Value::String(text)) => text == expected,
        _ => false,
    }
}

/// An answer of `POST /v1/sql`.
#[derive(Deserialize)]
pub(crate) struct Answer {
    columns: Vec<Column>,
    pub(crate) rows: Vec<Vec<Value>>,
    pub(crate) as_of: AsOf,
    pub(crate) complete: bool,
}

#[derive(Deserialize)]
pub(crate) struct Column {
    name: String,
    #[serde(rename = "type")]
    kind: String,
}

#[derive(Deserialize, Default)]
pub(crate) struct AsOf {
    pub(crate) sources: BTreeMap<String, AsOfSource>,
    pub(crate) views: BTreeMap<String, AsOfView>,
}

#[derive(Deserialize)]
pub(crate) struct AsOfSource {
    pub(crate) offsets: Vec<u64>,
}

#[derive(Deserialize)]
pub(crate) struct AsOfView {
    pub(crate) boundary: Vec<u64>,
}

/// A row of an expected answer; NULL is `None`.
pub(crate) type Row = Vec<Option<String>>;

#[test]
fn an_answer_that_differs_anywhere_is_found() {
    let oracle = |tolerance, row: [&str; 4]| Oracle {
        name: "o".into(),
        sql: String::new(),
        tolerance,
        midway: false,
        columns: ["t", "n", "x", "s"].map(String::from).to_vec(),
        rows: vec![row.map(|cell| (!cell.is_empty()).then(|| cell.to_owned())).to_vec()],
    };
    let types = ["TIMESTAMP", "BIGINT", "DOUBLE", "TEXT"];
    let column = |(name, kind): (&str, &str)| Column { name: name.into(), kind: kind.into() };
    let answer = |row: Value| Answer {
        columns: ["t", "n", "x", "s"].into_iter().zip(types).map(column).collect(),
        rows: serde_json::from_value(json!([row])).unwrap_or_default(),
        as_of: AsOf::default(),
        complete: true,
    };
    let row = json!(["2015-09-12T00:46:58.771000Z", 9_007_199_254_740_993_u64, 0.333_333_4, null]);
    let differences = |tolerance, expected| oracle(tolerance, expected).differences(&answer(row.clone())).len();
    let expected = ["2015-09-12T00:46:58.771Z", "9007199254740993", "0.333333", ""];
    assert_eq!(differences(1e-5, expected), 0);
    assert_eq!(differences(0.0, expected), 1, "beyond the tolerance");
    assert_eq!(differences(1e-5, ["2015-09-12T00:46:58.772Z", expected[1], expected[2], ""]), 1, "another time");
    assert_eq!(differences(1e-5, [expected[0], "9007199254740992", expected[2], ""]), 1, "equal only as doubles");
    assert_eq!(differences(1e-5, [expected[0], expected[1], expected[2], "x"]), 1, "NULL instead of a value");
    assert_eq!(differences(1e-5, [expected[0], expected[1], "", ""]), 1, "a value instead of NULL");
    let nothing = Answer { rows: Vec::new(), ..answer(row.clone()) };
    assert_eq!(oracle(1e-5, expected).differences(&nothing).len(), 1, "a missing row");
}
