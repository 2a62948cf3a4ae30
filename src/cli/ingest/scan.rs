//! Finds the end of the next row in a piece of text, for each text format.
//!
//! A scanner sees the text from the start of a row on. When the row does not end there it remembers how far it has
//! looked, and the next call must show the same start with more text behind it: no byte is looked at twice.

use anyhow::{Result, bail};
use memchr::{memchr, memchr2};

use super::text::TextFormat;

/// What a scanner found at the start of the text.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Row {
    /// A row up to `end`; the text after it starts at `next`.
    Found { end: usize, next: usize },
    /// No row yet, only separators up to `next`.
    Nothing { next: usize },
    /// The text ends before the row does, or before one starts.
    Unfinished,
}

/// Where the next row ends.
#[derive(Debug)]
pub(super) enum Scanner {
    Lines(LineScanner),
    Csv(CsvScanner),
    Json(JsonScanner),
}

impl Scanner {
    /// A scanner for text from its beginning.
    pub(super) fn new(format: TextFormat) -> Scanner {
        Scanner::between_rows(format, 0)
    }

    /// A scanner for text from behind its first `rows` rows on.
    pub(super) fn between_rows(format: TextFormat, rows: u64) -> Scanner {
        match format {
            TextFormat::Lines => Scanner::Lines(LineScanner::default()),
            TextFormat::Csv => Scanner::Csv(CsvScanner::default()),
            TextFormat::Json { in_array } => {
                let place = match (in_array, rows) {
                    (true, 0) => JsonPlace::BeforeArray,
                    (true, _) => JsonPlace::InArray,
                    (false, _) => JsonPlace::Values,
                };
                Scanner::Json(JsonScanner { place, value: JsonValue::default() })
            }
        }
    }

    /// Looks for the end of the row that starts with `text`.
    pub(super) fn next(&mut self, text: &[u8]) -> Result<Row> {
        match self {
            Scanner::Lines(lines) => Ok(lines.next(text)),
            Scanner::Csv(csv) => Ok(csv.next(text)),
            Scanner::Json(json) => json.next(text),
        }
    }

    /// Whether the text may end behind what was looked at, so that it is a whole row.
    pub(super) fn may_end_here(&self) -> bool {
        match self {
            Scanner::Lines(_) => true,
            Scanner::Csv(csv) => csv.place != CsvPlace::Quoted,
            Scanner::Json(json) => json.place == JsonPlace::Values && json.value.kind == ValueKind::Scalar,
        }
    }

    /// Whether the text may end after `rows` rows.
    pub(super) fn check_end(&self, rows: u64) -> Result<()> {
        match self {
            Scanner::Json(JsonScanner { place: JsonPlace::BeforeArray | JsonPlace::InArray, .. }) => {
                bail!("the JSON array is not closed after its element {rows}; the input may be truncated")
            }
            _ => Ok(()),
        }
    }
}

/// Rows end at line feeds: JSON escapes those within texts.
#[derive(Debug, Default)]
pub(super) struct LineScanner {
    looked_at: usize,
}

impl LineScanner {
    fn next(&mut self, text: &[u8]) -> Row {
        match memchr(b'\n', &text[self.looked_at..]) {
            Some(at) => {
                let end = self.looked_at + at;
                self.looked_at = 0;
                Row::Found { end, next: end + 1 }
            }
            None => {
                self.looked_at = text.len();
                Row::Unfinished
            }
        }
    }
}

/// Rows end at line feeds outside quoted values, as the platform reads CSV: a quote opens only at the start of a value,
/// and `""` within quotes is a quote.
#[derive(Debug, Default)]
pub(super) struct CsvScanner {
    looked_at: usize,
    place: CsvPlace,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
enum CsvPlace {
    #[default]
    RecordStart,
    ValueStart,
    Unquoted,
    Quoted,
    QuoteInQuoted,
}

impl CsvScanner {
    fn next(&mut self, text: &[u8]) -> Row {
        while let Some(&byte) = text.get(self.looked_at) {
            let rest = &text[self.looked_at..];
            match (self.place, byte) {
                (CsvPlace::Quoted, _) => match memchr(b'"', rest) {
                    Some(at) => {
                        self.looked_at += at + 1;
                        self.place = CsvPlace::QuoteInQuoted;
                    }
                    None => self.looked_at = text.len(),
                },
                (_, b'\n') => {
                    let end = self.looked_at;
                    *self = CsvScanner::default();
                    return Row::Found { end, next: end + 1 };
                }
                // Carriage returns before a record are blank lines of another convention.
                (CsvPlace::RecordStart, b'\r') => self.looked_at += 1,
                (CsvPlace::RecordStart | CsvPlace::ValueStart | CsvPlace::QuoteInQuoted, b'"') => {
                    self.looked_at += 1;
                    self.place = CsvPlace::Quoted;
                }
                (_, b',') => {
                    self.looked_at += 1;
                    self.place = CsvPlace::ValueStart;
                }
                _ => {
                    self.looked_at += memchr2(b',', b'\n', rest).unwrap_or(rest.len());
                    self.place = CsvPlace::Unquoted;
                }
            }
        }
        Row::Unfinished
    }
}

/// Rows are values in an array, or one after the other.
#[derive(Debug)]
pub(super) struct JsonScanner {
    place: JsonPlace,
    value: JsonValue,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum JsonPlace {
    BeforeArray,
    InArray,
    AfterArray,
    Values,
}

/// How far into a value the scanner has looked.
#[derive(Debug, Default)]
struct JsonValue {
    looked_at: usize,
    kind: ValueKind,
    in_text: bool,
    /// The next byte is escaped by a backslash before it.
    escaped: bool,
    depth: usize,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
enum ValueKind {
    #[default]
    NotStarted,
    /// An object or array.
    Nested,
    Text,
    Scalar,
}

impl JsonScanner {
    fn next(&mut self, text: &[u8]) -> Result<Row> {
        if self.value.kind != ValueKind::NotStarted {
            return Ok(self.value.next(text).unwrap_or(Row::Unfinished));
        }
        let is_separator =
            |byte: &u8| byte.is_ascii_whitespace() || (*byte == b',' && self.place == JsonPlace::InArray);
        let separators = text.iter().take_while(|byte| is_separator(byte)).count();
        let row = match (self.place, text.get(separators)) {
            (_, None) if separators == 0 => Row::Unfinished,
            (_, None) => Row::Nothing { next: separators },
            (JsonPlace::BeforeArray, Some(b'[')) => {
                self.place = JsonPlace::InArray;
                Row::Nothing { next: separators + 1 }
            }
            (JsonPlace::BeforeArray, Some(_)) => bail!("the input is no JSON array"),
            (JsonPlace::InArray, Some(b']')) => {
                self.place = JsonPlace::AfterArray;
                Row::Nothing { next: separators + 1 }
            }
            (JsonPlace::AfterArray, Some(_)) => bail!("there is more text after the end of the JSON array"),
            // The row starts at its first byte, so that what was before is left behind.
            (JsonPlace::InArray | JsonPlace::Values, Some(_)) if separators > 0 => Row::Nothing { next: separators },
            (JsonPlace::InArray | JsonPlace::Values, Some(first)) => {
                self.value = JsonValue::start(*first);
                self.value.next(text).unwrap_or(Row::Unfinished)
            }
        };
        Ok(row)
    }
}

impl JsonValue {
    /// The state before the first byte of a value.
    fn start(first: u8) -> JsonValue {
        let kind = match first {
            b'{' | b'[' => ValueKind::Nested,
            b'"' => ValueKind::Text,
            _ => ValueKind::Scalar,
        };
        JsonValue { kind, ..JsonValue::default() }
    }

    fn next(&mut self, text: &[u8]) -> Option<Row> {
        let end = match self.kind {
            ValueKind::Scalar => self.scalar_end(text)?,
            _ => self.nested_end(text)?,
        };
        *self = JsonValue::default();
        Some(Row::Found { end, next: end })
    }

    fn scalar_end(&mut self, text: &[u8]) -> Option<usize> {
        // The first byte belongs to the value, whatever it is: the scanner must get on.
        let start = self.looked_at.max(1);
        let is_end = |byte: &u8| matches!(byte, b',' | b']' | b'{' | b'[' | b'"') || byte.is_ascii_whitespace();
        let end = text.get(start..)?.iter().position(is_end);
        self.looked_at = text.len();
        end.map(|at| start + at)
    }

    fn nested_end(&mut self, text: &[u8]) -> Option<usize> {
        while let Some(&byte) = text.get(self.looked_at) {
            self.looked_at += 1;
            if self.escaped {
                self.escaped = false;
                continue;
            }
            match byte {
                b'\\' if self.in_text => self.escaped = true,
                b'"' => self.in_text = !self.in_text,
                _ if self.in_text => {
                    let rest = &text[self.looked_at..];
                    self.looked_at += memchr2(b'"', b'\\', rest).unwrap_or(rest.len());
                    continue;
                }
                b'{' | b'[' => self.depth += 1,
                b'}' | b']' => self.depth = self.depth.saturating_sub(1),
                _ => continue,
            }
            if self.depth == 0 && !self.in_text {
                return Some(self.looked_at);
            }
        }
        None
    }
}
