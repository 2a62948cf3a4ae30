//! Turns an answer into text. Numbers keep the platform's digits.

use std::collections::BTreeSet;
use std::time::Duration;

use anyhow::{Context, Result};
use indicatif::HumanCount;
use serde_json::value::RawValue;

use crate::cli::output;
use crate::cli::table::{Align, Table};
use crate::client::answer::SqlAnswer;

/// The answer as a table; NULL is written as such.
///
/// # Errors
/// When a text of the answer is not one, which a platform never sends.
pub(super) fn table(answer: &SqlAnswer) -> Result<String> {
    let columns = answer.columns.iter().map(|column| (column.name.as_str(), Align::of_sql_type(&column.sql_type)));
    let mut table = Table::new(columns);
    for row in &answer.rows {
        let values: Vec<String> = row.iter().map(|value| plain(value)).collect::<Result<_>>()?;
        table.push(values);
    }
    Ok(table.to_string())
}

/// The answer as one array with an object in each line.
pub(super) fn json_array(answer: &SqlAnswer) -> String {
    output::json_array(objects(answer))
}

/// The answer as an object in each line.
pub(super) fn json_lines(answer: &SqlAnswer) -> String {
    objects(answer).flat_map(|object| [object, "\n".to_owned()]).collect()
}

/// What stands below a table: `39 rows in 0.012 s`.
pub(super) fn footer(rows: usize, took: Duration) -> String {
    let noun = if rows == 1 { "row" } else { "rows" };
    format!("{} {noun} in {:.3} s", HumanCount(rows as u64), took.as_secs_f64())
}

fn objects(answer: &SqlAnswer) -> impl Iterator<Item = String> {
    let keys: Vec<String> = distinct(answer.columns.iter().map(|column| column.name.as_str()))
        .into_iter()
        .map(|name| serde_json::Value::String(name).to_string())
        .collect();
    answer.rows.iter().map(move |row| {
        let members: Vec<String> = keys.iter().zip(row).map(|(key, value)| format!("{key}:{}", value.get())).collect();
        format!("{{{}}}", members.join(","))
    })
}

/// The names, with `_1`, `_2` and so on behind those that would repeat an earlier one.
fn distinct<'a>(names: impl Iterator<Item = &'a str>) -> Vec<String> {
    let mut distinct = Vec::new();
    let mut taken = BTreeSet::new();
    for name in names {
        let numbered = (1..).map(|number| format!("{name}_{number}"));
        let free = std::iter::once(name.to_owned()).chain(numbered).find(|candidate| !taken.contains(candidate));
        let free = free.unwrap_or_default();
        taken.insert(free.clone());
        distinct.push(free);
    }
    distinct
}

/// A value as people read it: texts without quotes, everything else as in JSON.
fn plain(value: &RawValue) -> Result<String> {
    match value.get() {
        "null" => Ok("NULL".to_owned()),
        text if text.starts_with('"') => {
            serde_json::from_str(text).context("the answer holds a text that is no JSON string")
        }
        other => Ok(other.to_owned()),
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test may panic")]
mod tests {
    use super::*;

    fn answer() -> SqlAnswer {
        let text = r#"{"columns":[{"name":"page","type":"TEXT"},{"name":"n","type":"BIGINT"},{"name":"n","type":"DOUBLE"}],
            "rows":[["a\tb",9223372036854775807,0.1],[null,-1,"NaN"],["[1]",18446744073709551615,1.0000000000000002]],
            "as_of":{},"complete":true}"#;
        serde_json::from_str(text).unwrap()
    }

    #[test]
    fn table_aligns_numbers_and_keeps_every_digit() {
        let expected = "\
+------+----------------------+--------------------+
| page |                    n |                  n |
+------+----------------------+--------------------+
| a\\tb |  9223372036854775807 |                0.1 |
| NULL |                   -1 |                NaN |
| [1]  | 18446744073709551615 | 1.0000000000000002 |
+------+----------------------+--------------------+
";
        assert_eq!(table(&answer()).unwrap(), expected);
    }

    #[test]
    fn json_keeps_the_digits_and_renames_repeated_columns() {
        let expected = "\
[{\"page\":\"a\\tb\",\"n\":9223372036854775807,\"n_1\":0.1},
{\"page\":null,\"n\":-1,\"n_1\":\"NaN\"},
{\"page\":\"[1]\",\"n\":18446744073709551615,\"n_1\":1.0000000000000002}]
";
        assert_eq!(json_array(&answer()), expected);
        assert_eq!(json_lines(&answer()).lines().count(), 3);
        assert_eq!(json_array(&SqlAnswer { rows: Vec::new(), ..answer() }), "[]\n");
    }

    #[test]
    fn renamed_columns_never_meet_an_existing_name() {
        assert_eq!(distinct(["n", "n", "n_1", "n"].into_iter()), ["n", "n_1", "n_1_1", "n_2"]);
    }

    #[test]
    fn footer_counts_one_row_in_the_singular() {
        assert_eq!(footer(1, Duration::from_millis(12)), "1 row in 0.012 s");
        assert_eq!(footer(39244, Duration::from_secs(1)), "39,244 rows in 1.000 s");
    }
}
