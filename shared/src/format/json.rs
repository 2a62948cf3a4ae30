//! Finds the rows of JSON bodies: lines of NDJSON, elements of an array, or the one object that is a body.

use std::io::BufRead;

use super::column::Columns;
use super::json_cursor::JsonCursor;
use super::row::{Added, Refusal, Rows, quoted};
use super::without_byte_order_mark;
use crate::error::Result;

/// Adds each line that is not blank as a row. A line end is a row's end whatever surrounds it, so that every row stands
/// alone.
pub(super) fn decode_lines(body: &[u8], mut rows: Rows) -> Result<Rows> {
    let mut cursor = JsonCursor::default();
    let mut rest = without_byte_order_mark(body);
    while !rest.is_empty() {
        let (line, after) = split_line(rest);
        rest = after;
        if !line.trim_ascii().is_empty() {
            rows.add(|columns| append_object(line, "line", &mut cursor, columns))?;
        }
    }
    Ok(rows)
}

/// Appends a record that is one object, on however many lines.
pub(super) fn append_record<'a>(
    record: &'a [u8],
    cursor: &mut JsonCursor<'a>,
    columns: &mut Columns,
) -> Result<(), Refusal> {
    if record.trim_ascii().is_empty() {
        return Err(Refusal::new("the record is empty"));
    }
    append_object(without_byte_order_mark(record), "record", cursor, columns)
}

/// Adds each element of the array that `body` is, or the object that it is, as a row.
///
/// A row whose values are wrong is refused by itself; so is one whose numbers, literals, escapes, nesting or UTF-8
/// are, because its end is still beyond doubt. When strings, brackets or separators are out of order, nobody knows
/// what the producer meant, and the body is unreadable.
pub(super) fn decode_array(body: &[u8], mut rows: Rows) -> Result<Rows> {
    let body = without_byte_order_mark(body);
    // Structure is ASCII, so that text with other bytes replaced has the same structure at the same places.
    let masked: String;
    let (text, is_utf8) = match std::str::from_utf8(body) {
        Ok(text) => (text, true),
        Err(_) => {
            masked = body.iter().map(|byte| if byte.is_ascii() { *byte as char } else { '?' }).collect();
            (masked.as_str(), false)
        }
    };
    let mut cursor = JsonCursor::default();
    cursor.start(text);
    let is_array = cursor.take(b'[');
    let mut more = if is_array { !cursor.take(b']') } else { cursor.peek() == b'{' };
    if !is_array && !more {
        return Err(rows.unreadable(format!("expected an array of objects or an object, found {}", quoted(text))));
    }
    while more {
        add_element(&mut cursor, body, is_utf8, &mut rows)?;
        more = is_array && cursor.take_separator(b']').map_err(|refusal| rows.unreadable(refusal.reason()))?;
    }
    if !cursor.at_end() {
        let hint = "one object a line is sent as application/x-ndjson";
        return Err(rows.unreadable(format!("{}; {hint}", cursor.unexpected("the end of the body").reason())));
    }
    Ok(rows)
}

/// Appends the one object that a text is; `whole` is what the text is called.
fn append_object<'a>(
    text: &'a [u8],
    whole: &str,
    cursor: &mut JsonCursor<'a>,
    columns: &mut Columns,
) -> Result<(), Refusal> {
    cursor.start(utf8(text)?);
    columns.append_object(cursor)?;
    if cursor.at_end() { Ok(()) } else { Err(cursor.unexpected(&format!("the end of the {whole}"))) }
}

fn add_element<'a>(cursor: &mut JsonCursor<'a>, body: &'a [u8], is_utf8: bool, rows: &mut Rows) -> Result<()> {
    cursor.peek();
    let start = cursor.position();
    cursor.seek(start);
    if is_utf8 && rows.add(|columns| columns.append_object(cursor))? == Added::Accepted {
        return Ok(());
    }
    cursor.seek(start);
    let skipped = cursor.skip_structure();
    skipped.map_err(|refusal| rows.unreadable(format!("{} of the element at byte {start}", refusal.reason())))?;
    if !is_utf8 {
        let mut element = JsonCursor::default();
        rows.add(|columns| {
            element.start(utf8(&body[start..cursor.position()])?);
            columns.append_object(&mut element)
        })?;
    }
    Ok(())
}

/// The first line, without its line end, and what comes after.
fn split_line(text: &[u8]) -> (&[u8], &[u8]) {
    let mut rest = text;
    // Reading from memory cannot fail.
    let length = rest.skip_until(b'\n').unwrap_or(text.len());
    (&text[..length - usize::from(text[..length].ends_with(b"\n"))], &text[length..])
}

fn utf8(row: &[u8]) -> Result<&str, Refusal> {
    std::str::from_utf8(row).map_err(|error| Refusal::new(format!("not UTF-8 at byte {}", error.valid_up_to())))
}
