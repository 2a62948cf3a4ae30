//! Cuts text into chunks of whole rows without parsing values: newline-delimited JSON, CSV and JSON arrays.
//!
//! Bytes come from a reader into a buffer; a [`Scanner`] finds where the next row ends; whole rows are copied into the
//! chunk's body. Blank rows are left out, so that row `i` of a body is row `i` for the platform too. Every chunk knows
//! the place behind its last row and the checksum of everything before that place: what resuming needs.

use std::io::{self, ErrorKind, Read};
use std::mem;

use anyhow::{Context, Result, bail};
use flate2::Crc;

use super::chunk::{Chunk, Limits, Mark};
use super::scan::{Row, Scanner};

/// How much is asked of the reader at once.
const READ_BYTES: usize = 256 * 1024;
/// No event is this long; a file without row ends must not fill the memory.
const ROW_BYTES_MAX: usize = 64 * 1024 * 1024;
const BYTE_ORDER_MARK: &[u8] = "\u{feff}".as_bytes();

/// Text formats as they are cut.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum TextFormat {
    /// A JSON value in each line.
    Lines,
    /// One JSON array, or JSON values one after the other, over any number of lines.
    Json {
        /// Whether the values are in an array.
        in_array: bool,
    },
    /// A header line, then records; quoted values may hold line ends.
    Csv,
}

impl TextFormat {
    /// Whether the end of the text ends its last row too.
    pub(super) fn rows_may_end_with_the_text(self) -> bool {
        matches!(self, TextFormat::Lines | TextFormat::Csv)
    }

    fn content_type(self) -> &'static str {
        match self {
            TextFormat::Lines => "application/x-ndjson",
            TextFormat::Json { .. } => "application/json",
            TextFormat::Csv => "text/csv",
        }
    }
}

/// Text on its way into chunks.
pub(super) struct TextChunks<R> {
    reader: R,
    format: TextFormat,
    limits: Limits,
    scanner: Scanner,
    /// What each body starts with: the header of CSV, the bracket of an array.
    prefix: Vec<u8>,
    buffer: Vec<u8>,
    /// Where in the buffer the next row starts; everything before is done with.
    start: usize,
    /// Rows and bytes before `start`.
    rows: u64,
    bytes: u64,
    checksum: Crc,
    /// A failure that came behind rows that are fine; the call after them reports it.
    failure: Option<anyhow::Error>,
}

enum Filled {
    More,
    End,
    /// The reader has nothing now, but may later.
    Idle,
}

impl<R: Read> TextChunks<R> {
    /// Prepares `reader` and reads up to the first row.
    ///
    /// # Errors
    /// When the reader fails.
    pub(super) fn new(reader: R, format: TextFormat, limits: Limits) -> Result<TextChunks<R>> {
        let mut chunks = TextChunks {
            reader,
            format,
            limits,
            scanner: Scanner::new(format),
            prefix: Vec::new(),
            buffer: Vec::new(),
            start: 0,
            rows: 0,
            bytes: 0,
            checksum: Crc::new(),
            failure: None,
        };
        chunks.skip_byte_order_mark()?;
        match format {
            TextFormat::Lines => {}
            TextFormat::Json { .. } => chunks.prefix.push(b'['),
            TextFormat::Csv => chunks.read_header()?,
        }
        Ok(chunks)
    }

    /// Goes to a place where an earlier reading of the same text stopped, and checks that what is before it is the same.
    ///
    /// Returns whether it is; if not, these chunks are of no use any more.
    pub(super) fn skip_to(&mut self, mark: Mark) -> Result<bool> {
        while self.bytes < mark.bytes {
            let available = (self.buffer.len() - self.start) as u64;
            let step = available.min(mark.bytes - self.bytes);
            self.consume(self.start + step as usize);
            if step == 0 {
                match self.fill()? {
                    Filled::End => return Ok(false),
                    Filled::More | Filled::Idle => {}
                }
            }
        }
        self.rows = mark.rows;
        self.scanner = Scanner::between_rows(self.format, mark.rows);
        Ok(self.mark() == mark)
    }

    /// The next rows; `None` when there are no more.
    ///
    /// # Errors
    /// When the reader fails, or the text cannot be cut; rows before that place have been in earlier chunks.
    pub(super) fn next_chunk(&mut self) -> Result<Option<Chunk>> {
        if let Some(failure) = self.failure.take() {
            return Err(failure);
        }
        let (first_row, mut end_of_rows) = (self.rows, self.mark());
        let mut body = Vec::with_capacity(self.limits.bytes.min(1 << 20));
        body.extend_from_slice(&self.prefix);
        while self.rows == first_row || !self.limits.reached(self.rows - first_row, body.len()) {
            match self.next_row() {
                Ok(Next::Row { end, next }) => {
                    self.append(&mut body, end, first_row);
                    self.rows += 1;
                    self.consume(next);
                    // Not what follows the row: that could be the end of an array, which must be seen again.
                    end_of_rows = self.mark();
                }
                Ok(Next::Idle) if self.rows == first_row => {}
                Ok(Next::Idle | Next::End) => break,
                Err(error) if self.rows > first_row => {
                    self.failure = Some(error);
                    break;
                }
                Err(error) => return Err(error),
            }
        }
        if self.rows == first_row {
            return Ok(None);
        }
        if let TextFormat::Json { .. } = self.format {
            body.push(b']');
        }
        let content_type = self.format.content_type();
        Ok(Some(Chunk { body, content_type, first_row, end: end_of_rows }))
    }

    fn mark(&self) -> Mark {
        Mark { rows: self.rows, bytes: self.bytes, checksum: self.checksum.sum() }
    }

    fn append(&self, body: &mut Vec<u8>, end: usize, first_row: u64) {
        let row = self.buffer[self.start..end].trim_ascii();
        match self.format {
            TextFormat::Json { .. } => {
                if self.rows > first_row {
                    body.push(b',');
                }
                body.extend_from_slice(row);
            }
            TextFormat::Lines => {
                body.extend_from_slice(row);
                body.push(b'\n');
            }
            // Space at the ends of a record belongs to its values.
            TextFormat::Csv => {
                body.extend_from_slice(&self.buffer[self.start..end]);
                body.push(b'\n');
            }
        }
    }

    /// Finds the next row that is not blank, reading more if need be. The row begins at `start`.
    fn next_row(&mut self) -> Result<Next> {
        loop {
            match self.scanner.next(&self.buffer[self.start..])? {
                Row::Found { end, next } if self.is_blank(end) => self.consume(self.start + next),
                Row::Found { end, next } => return Ok(Next::Row { end: self.start + end, next: self.start + next }),
                Row::Nothing { next } => self.consume(self.start + next),
                Row::Unfinished => match self.fill()? {
                    Filled::More => {}
                    Filled::Idle => return Ok(Next::Idle),
                    Filled::End => return self.last_row(),
                },
            }
        }
    }

    fn last_row(&mut self) -> Result<Next> {
        let rest = self.buffer.len() - self.start;
        if rest == 0 || self.is_blank(rest) {
            self.scanner.check_end(self.rows)?;
            return Ok(Next::End);
        }
        if !self.scanner.may_end_here() {
            bail!("the input ends in the middle of row {}; it may be truncated", self.rows + 1);
        }
        self.scanner = Scanner::between_rows(self.format, self.rows + 1);
        Ok(Next::Row { end: self.buffer.len(), next: self.buffer.len() })
    }

    fn is_blank(&self, end: usize) -> bool {
        let row = &self.buffer[self.start..self.start + end];
        match self.format {
            // One space may be a value.
            TextFormat::Csv => row.iter().all(|byte| *byte == b'\r'),
            TextFormat::Lines | TextFormat::Json { .. } => row.trim_ascii().is_empty(),
        }
    }

    /// Leaves everything before `next` behind.
    fn consume(&mut self, next: usize) {
        self.checksum.update(&self.buffer[self.start..next]);
        self.bytes += (next - self.start) as u64;
        self.start = next;
    }

    fn fill(&mut self) -> Result<Filled> {
        self.buffer.drain(..mem::take(&mut self.start));
        let filled = self.buffer.len();
        if filled > ROW_BYTES_MAX {
            bail!(
                "row {} is longer than {} MiB; is this the right --format?",
                self.rows + 1,
                ROW_BYTES_MAX / 1024 / 1024
            );
        }
        self.buffer.resize(filled + READ_BYTES, 0);
        let read = read_some(&mut self.reader, &mut self.buffer[filled..]);
        self.buffer.truncate(filled + read.as_ref().copied().unwrap_or(0));
        match read {
            Ok(0) => Ok(Filled::End),
            Ok(_) => Ok(Filled::More),
            Err(error) if error.kind() == ErrorKind::TimedOut => Ok(Filled::Idle),
            Err(error) => Err(error).with_context(|| format!("cannot read on after row {}", self.rows)),
        }
    }

    fn skip_byte_order_mark(&mut self) -> Result<()> {
        while self.buffer.len() < BYTE_ORDER_MARK.len() {
            if let Filled::End = self.fill()? {
                break;
            }
        }
        if self.buffer.starts_with(BYTE_ORDER_MARK) {
            self.consume(BYTE_ORDER_MARK.len());
        }
        Ok(())
    }

    /// Takes the header as the prefix of every body; text without one has no rows either.
    fn read_header(&mut self) -> Result<()> {
        loop {
            match self.next_row()? {
                Next::Row { end, next } => {
                    self.prefix.extend_from_slice(&self.buffer[self.start..end]);
                    self.prefix.push(b'\n');
                    self.consume(next);
                    return Ok(());
                }
                Next::Idle => {}
                Next::End => return Ok(()),
            }
        }
    }
}

enum Next {
    /// A row from `start` to `end` in the buffer; the one after it begins at `next`.
    Row {
        end: usize,
        next: usize,
    },
    /// The reader has nothing now.
    Idle,
    End,
}

fn read_some(reader: &mut impl Read, buffer: &mut [u8]) -> io::Result<usize> {
    loop {
        match reader.read(buffer) {
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            result => return result,
        }
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test may panic")]
mod tests {
    use std::sync::Arc;

    use arrow::datatypes::{DataType, Field, Schema};
    use proptest::prelude::*;
    use watershed_shared::format::{EventDecoder, EventFormat};
    use watershed_shared::source::SourceDefinition;

    use super::*;

    /// A reader that gives at most `step` bytes at once, as sockets and decoders do.
    struct Dripping<'a>(&'a [u8], usize);

    impl Read for Dripping<'_> {
        fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
            let step = self.1.min(buffer.len());
            self.0.read(&mut buffer[..step])
        }
    }

    fn chunks(text: &str, format: TextFormat, rows: u64, step: usize) -> Result<Vec<Chunk>> {
        let limits = Limits { rows, bytes: 1 << 20 };
        let mut chunks = TextChunks::new(Dripping(text.as_bytes(), step), format, limits)?;
        std::iter::from_fn(|| chunks.next_chunk().transpose()).collect()
    }

    /// Cuts `text` with readers of several speeds and compares the bodies.
    fn check(format: TextFormat, text: &str, rows: u64, expected: &[&str]) {
        for step in [1, 3, 1 << 20] {
            let chunks = chunks(text, format, rows, step).unwrap();
            let bodies: Vec<&str> = chunks.iter().map(|chunk| str::from_utf8(&chunk.body).unwrap()).collect();
            assert_eq!(bodies, expected, "{text:?}, {step} bytes at once");
        }
    }

    const ARRAY: TextFormat = TextFormat::Json { in_array: true };
    const VALUES: TextFormat = TextFormat::Json { in_array: false };

    #[test]
    fn lines_are_cut_at_line_ends_and_blank_ones_left_out() {
        check(
            TextFormat::Lines,
            "{\"a\":1}\r\n\n{\"a\":2}\n  \n{\"a\":3}",
            2,
            &["{\"a\":1}\n{\"a\":2}\n", "{\"a\":3}\n"],
        );
        check(TextFormat::Lines, "\u{feff}{}\n", 9, &["{}\n"]);
        check(TextFormat::Lines, "\n \n", 9, &[]);
    }

    #[test]
    fn csv_repeats_its_header_and_respects_quoted_line_ends() {
        check(
            TextFormat::Csv,
            "a,\"b\nc\"\r\n1,\"x\ny\"\r\n\r\n2,\"say \"\"hi\"\"\n\"\n3,4\" inches\n ,",
            2,
            &["a,\"b\nc\"\r\n1,\"x\ny\"\r\n2,\"say \"\"hi\"\"\n\"\n", "a,\"b\nc\"\r\n3,4\" inches\n ,\n"],
        );
        check(TextFormat::Csv, "a,b\n", 2, &[]);
        check(TextFormat::Csv, "", 2, &[]);
    }

    #[test]
    fn json_arrays_are_cut_between_elements() {
        check(
            ARRAY,
            " [ {\"a\":\"]},{\\\"\", \"b\":[1,2]} ,\n {\"a\":\n2} , 3 ,\"x\" ] \n",
            2,
            &["[{\"a\":\"]},{\\\"\", \"b\":[1,2]},{\"a\":\n2}]", "[3,\"x\"]"],
        );
        check(ARRAY, "[]", 2, &[]);
    }

    #[test]
    fn json_values_one_after_the_other_are_cut_between_them() {
        check(VALUES, "{\"a\":\n1}\n{\"a\":2}{\"a\":3} 4", 3, &["[{\"a\":\n1},{\"a\":2},{\"a\":3}]", "[4]"]);
    }

    #[test]
    fn truncated_json_is_an_error_after_the_rows_before_it() {
        for text in ["[{\"a\":1},{\"a\":", "[{\"a\":1},", "[{\"a\":1}", "[{\"a\":1}] {", "[{\"a\":1}]]"] {
            let limits = Limits { rows: 10, bytes: 1 << 20 };
            let mut chunks = TextChunks::new(text.as_bytes(), ARRAY, limits).unwrap();
            assert_eq!(chunks.next_chunk().unwrap().unwrap().body, b"[{\"a\":1}]", "{text}");
            assert!(chunks.next_chunk().is_err(), "{text}");
        }
    }

    #[test]
    fn bodies_end_soon_after_the_size_limit() {
        let text = "{\"a\":1234567890}\n".repeat(100);
        let limits = Limits { rows: 1000, bytes: 64 };
        let mut chunks = TextChunks::new(text.as_bytes(), TextFormat::Lines, limits).unwrap();
        let chunk = chunks.next_chunk().unwrap().unwrap();
        assert_eq!((chunk.first_row, chunk.end.rows, chunk.body.len()), (0, 4, 68));
        assert_eq!(chunks.next_chunk().unwrap().unwrap().first_row, 4);
    }

    #[test]
    fn pause_of_the_reader_sends_the_rows_that_are_whole() {
        struct Pausing(Vec<Option<&'static [u8]>>);
        impl Read for Pausing {
            fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
                match self.0.pop() {
                    Some(Some(mut bytes)) => bytes.read(buffer),
                    Some(None) => Err(ErrorKind::TimedOut.into()),
                    None => Ok(0),
                }
            }
        }
        let reader = Pausing(vec![Some(b"2\n3\n"), None, None, Some(b"1\n"), Some(b"0\n"), None]);
        let mut chunks = TextChunks::new(reader, TextFormat::Lines, Limits { rows: 10, bytes: 100 }).unwrap();
        assert_eq!(chunks.next_chunk().unwrap().unwrap().body, b"0\n1\n");
        assert_eq!(chunks.next_chunk().unwrap().unwrap().body, b"2\n3\n");
        assert!(chunks.next_chunk().unwrap().is_none());
    }

    #[test]
    fn changed_or_shorter_text_is_noticed_when_resuming() {
        let limits = Limits { rows: 1, bytes: 100 };
        let open = |text: &'static str| TextChunks::new(text.as_bytes(), TextFormat::Lines, limits).unwrap();
        let mark = open("{\"a\":1}\n{\"a\":2}\n").next_chunk().unwrap().unwrap().end;
        assert!(open("{\"a\":1}\n{\"a\":9}\n{}\n").skip_to(mark).unwrap(), "what follows may change");
        assert!(!open("{\"a\":9}\n{\"a\":2}\n").skip_to(mark).unwrap());
        assert!(!open("{\"a\"").skip_to(mark).unwrap());
    }

    fn any_csv() -> impl Strategy<Value = String> {
        let quoted = "[a-zü,\\n\\r \"]{0,6}".prop_map(|value| format!("\"{}\"", value.replace('"', "\"\"")));
        let value = prop_oneof![4 => quoted, 4 => "[a-z ]{0,3}".boxed(), 1 => "[a-z\"\r]{0,3}".boxed()];
        let line_end = prop_oneof![Just("\n"), Just("\r\n"), Just("\n\r\n\n")];
        let record = (proptest::collection::vec(value, 1..4), line_end);
        proptest::collection::vec(record, 0..20).prop_map(|records| {
            let lines = records.iter().map(|(values, line_end)| values.join(",") + line_end);
            std::iter::once("k,\"l\"\r\n".to_owned()).chain(lines).collect()
        })
    }

    fn any_text() -> impl Strategy<Value = (TextFormat, String)> {
        let object = "[a-z{}\\[\\],:\\\\\"\\n]{0,8}".prop_map(|text| serde_json::json!({ "k": text }).to_string());
        let objects = proptest::collection::vec(object, 0..20);
        prop_oneof![
            any_csv().prop_map(|text| (TextFormat::Csv, text)),
            objects.clone().prop_map(|objects| (TextFormat::Lines, objects.join("\n"))),
            objects.clone().prop_map(|objects| (VALUES, objects.join("\n "))),
            objects.prop_map(|objects| (ARRAY, format!("[{}]", objects.join(" ,\n")))),
        ]
    }

    proptest! {
        #[test]
        fn resuming_at_any_chunk_gives_exactly_the_rest((format, text) in any_text(), rows in 1..5_u64, step in 1..9_usize) {
            let Ok(whole) = chunks(&text, format, rows, step) else { return Ok(()) };
            let limits = Limits { rows, bytes: 1 << 20 };
            for (index, chunk) in whole.iter().enumerate() {
                let mut rest = TextChunks::new(Dripping(text.as_bytes(), step), format, limits).unwrap();
                prop_assert!(rest.skip_to(chunk.end).unwrap());
                let rest: Result<Vec<Chunk>> = std::iter::from_fn(|| rest.next_chunk().transpose()).collect();
                prop_assert_eq!(&rest.unwrap()[..], &whole[index + 1..]);
            }
        }

        #[test]
        fn platform_reads_the_same_rows_from_the_chunks_as_from_the_whole((format, text) in any_text(), rows in 1..5_u64) {
            let whole_format = match format {
                TextFormat::Lines => EventFormat::NdJson,
                TextFormat::Csv => EventFormat::Csv,
                TextFormat::Json { in_array: true } => EventFormat::JsonArray,
                TextFormat::Json { in_array: false } => return Ok(()),
            };
            let decoder = decoder();
            let Ok(whole) = decoder.decode(whole_format, text.as_bytes()) else { return Ok(()) };
            let (mut events, mut rejected) = (Vec::new(), Vec::new());
            for chunk in chunks(&text, format, rows, 1 << 20).unwrap() {
                let part = decoder.decode(whole_format, &chunk.body).unwrap();
                let sent = (chunk.end.rows - chunk.first_row) as usize;
                prop_assert_eq!(part.events.num_rows() + part.rejected.len(), sent);
                rejected.extend(part.rejected.iter().map(|rejected| chunk.first_row as usize + rejected.row));
                events.push(part.events);
            }
            let events = arrow::compute::concat_batches(&whole.events.schema(), &events).unwrap();
            prop_assert_eq!(events, whole.events);
            prop_assert_eq!(rejected, whole.rejected.iter().map(|rejected| rejected.row).collect::<Vec<_>>());
        }
    }

    fn decoder() -> EventDecoder {
        let columns = ["k", "l"].map(|name| Field::new(name, DataType::Utf8, true));
        EventDecoder::new(&SourceDefinition::new("events", "", Arc::new(Schema::new(columns.to_vec())))).unwrap()
    }
}
