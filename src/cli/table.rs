//! Tables for people: one line a row, numbers to the right, nothing in a value can disturb the terminal.

use std::fmt;

use comfy_table::{Cell, CellAlignment, ColumnConstraint, ContentArrangement};

/// The look that users of Arrow and DataFusion know.
const PRESET: &str = "||--+-++|    ++++++";

/// Which side of a column its values stand on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Align {
    Left,
    Right,
}

impl Align {
    /// Numbers stand to the right, so that digits of one weight stand below each other.
    pub(crate) fn of_sql_type(sql_type: &str) -> Align {
        const NUMERIC: [&str; 9] =
            ["TINYINT", "SMALLINT", "INT", "BIGINT", "FLOAT", "REAL", "DOUBLE", "DECIMAL", "NUMERIC"];
        let name = sql_type.to_ascii_uppercase();
        let name = name.trim_start_matches("UNSIGNED ");
        // `INTERVAL` begins like `INT` but is no number, and an array of numbers is a text.
        let is_number = NUMERIC.iter().any(|number| {
            name.strip_prefix(number).is_some_and(|rest| rest.is_empty() || rest.starts_with([' ', '(']))
        });
        if (is_number || name == "INTEGER") && !name.contains("[]") { Align::Right } else { Align::Left }
    }
}

/// A table that is filled row by row and then displayed.
#[derive(Debug)]
pub(crate) struct Table {
    inner: comfy_table::Table,
    columns: Vec<Align>,
}

impl Table {
    /// An empty table with these column titles.
    pub(crate) fn new<'a>(columns: impl IntoIterator<Item = (&'a str, Align)>) -> Table {
        let (titles, columns): (Vec<&str>, Vec<Align>) = columns.into_iter().unzip();
        let mut inner = comfy_table::Table::new();
        inner.load_preset(PRESET).set_content_arrangement(ContentArrangement::Disabled);
        inner.set_header(titles.iter().zip(&columns).map(|(title, align)| cell(title, *align)));
        for column in inner.column_iter_mut() {
            column.set_constraint(ColumnConstraint::ContentWidth);
        }
        Table { inner, columns }
    }

    /// Adds a row; as many values as there are columns.
    pub(crate) fn push<T: AsRef<str>>(&mut self, values: impl IntoIterator<Item = T>) {
        let cells = values.into_iter().zip(&self.columns).map(|(value, align)| cell(value.as_ref(), *align));
        self.inner.add_row(cells);
    }
}

impl fmt::Display for Table {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{}", self.inner)
    }
}

fn cell(text: &str, align: Align) -> Cell {
    let alignment = match align {
        Align::Left => CellAlignment::Left,
        Align::Right => CellAlignment::Right,
    };
    Cell::new(printable(text)).set_alignment(alignment)
}

/// The text with control characters written as escapes: a line feed would break the row, an escape sequence in
/// somebody's event could do anything to the terminal.
pub(crate) fn printable(text: &str) -> String {
    let mut printable = String::with_capacity(text.len());
    for character in text.chars() {
        if character.is_control() {
            printable.extend(character.escape_default());
        } else {
            printable.push(character);
        }
    }
    printable
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_stand_to_the_right_and_control_characters_are_escaped() {
        let mut table = Table::new([("page", Align::Left), ("edits", Align::Right)]);
        table.push(["Zürich", "7"]);
        table.push(["a\nb\u{1b}[2J", "1234"]);
        let expected = "\
+---------------+-------+
| page          | edits |
+---------------+-------+
| Zürich        |     7 |
| a\\nb\\u{1b}[2J |  1234 |
+---------------+-------+
";
        assert_eq!(table.to_string(), expected);
    }

    #[test]
    fn only_numeric_types_are_numbers() {
        for number in ["BIGINT", "INT", "INTEGER", "DOUBLE", "DECIMAL(38, 9)", "BIGINT UNSIGNED", "double", "FLOAT"] {
            assert_eq!(Align::of_sql_type(number), Align::Right, "{number}");
        }
        for other in ["TEXT", "TIMESTAMP", "INTERVAL", "BIGINT[]", "STRUCT(a INT)", "BOOLEAN", "DATE"] {
            assert_eq!(Align::of_sql_type(other), Align::Left, "{other}");
        }
    }
}
