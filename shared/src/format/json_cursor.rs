//! Reads JSON text (RFC 8259) strictly, one token after the other, without building a tree.
//!
//! Nothing here recurses: values that nobody wants are skipped with an explicit stack of at most [`NESTING_MAX`]
//! levels. Where a value is wrong, `skip_structure` still finds its end as long as its strings, brackets and
//! separators are in order, so that an array's other elements survive.

use std::borrow::Cow;

use super::row::{Refusal, quoted, shortened};
use super::scan::plain_end;

/// Deepest nesting of a value in a column that the source does not have.
const NESTING_MAX: usize = 64;

/// A place in JSON text.
#[derive(Debug, Default)]
pub(super) struct JsonCursor<'a> {
    text: &'a str,
    at: usize,
    /// Where the current row starts; messages count bytes from there.
    row_start: usize,
    /// For each bracket that is open in a value being skipped, whether it is an object's. Kept to be used again.
    open: Vec<bool>,
}

/// A number as written, and its value when that is a whole number of at most 18 digits.
#[derive(Debug, Clone, Copy)]
pub(super) struct NumberToken<'a> {
    pub(super) text: &'a str,
    pub(super) integer: Option<i64>,
}

impl<'a> JsonCursor<'a> {
    /// Goes to the start of `text`.
    pub(super) fn start(&mut self, text: &'a str) {
        self.text = text;
        self.seek(0);
    }

    /// Goes to a place that `position` gave; a row starts there.
    pub(super) fn seek(&mut self, position: usize) {
        self.at = position;
        self.row_start = position;
    }

    pub(super) fn position(&self) -> usize {
        self.at
    }

    /// The first byte of the next token, or 0, which starts none, at the end of the text.
    pub(super) fn peek(&mut self) -> u8 {
        loop {
            match self.byte() {
                b' ' | b'\t' | b'\n' | b'\r' => self.at += 1,
                0 => return 0,
                byte => return byte,
            }
        }
    }

    pub(super) fn at_end(&mut self) -> bool {
        self.peek() == 0 && self.at >= self.text.len()
    }

    /// Goes past `byte` if the next token starts with it.
    pub(super) fn take(&mut self, byte: u8) -> bool {
        let found = self.peek() == byte;
        self.at += usize::from(found);
        found
    }

    pub(super) fn expect(&mut self, byte: u8) -> Result<(), Refusal> {
        if self.take(byte) { Ok(()) } else { Err(self.unexpected(&format!("\"{}\"", byte as char))) }
    }

    /// After a value in an object or array that `close` ends: whether another follows.
    pub(super) fn take_separator(&mut self, close: u8) -> Result<bool, Refusal> {
        if self.take(b',') {
            return Ok(true);
        }
        if self.take(close) { Ok(false) } else { Err(self.unexpected(&format!("\",\" or \"{}\"", close as char))) }
    }

    /// Goes past `key`, given with its quotes and without escapes, and the colon after it, if that comes next.
    pub(super) fn take_key(&mut self, key: &str) -> Result<bool, Refusal> {
        self.peek();
        if !self.rest().starts_with(key.as_bytes()) {
            return Ok(false);
        }
        self.at += key.len();
        self.expect(b':')?;
        Ok(true)
    }

    /// The next key; goes past the colon after it.
    pub(super) fn key(&mut self) -> Result<Cow<'a, str>, Refusal> {
        if self.peek() != b'"' {
            return Err(self.unexpected("a key in quotes"));
        }
        let key = self.string()?;
        self.expect(b':')?;
        Ok(key)
    }

    pub(super) fn boolean(&mut self) -> Result<bool, Refusal> {
        self.take_boolean().ok_or_else(|| self.unexpected("a value"))
    }

    pub(super) fn null(&mut self) -> Result<(), Refusal> {
        if self.take_literal("null") { Ok(()) } else { Err(self.unexpected("a value")) }
    }

    /// The string that comes next.
    pub(super) fn string(&mut self) -> Result<Cow<'a, str>, Refusal> {
        let start = self.at + 1;
        let end = plain_end(self.text.as_bytes(), start);
        if self.text.as_bytes().get(end) == Some(&b'"') {
            self.at = end + 1;
            return Ok(Cow::Borrowed(&self.text[start..end]));
        }
        let mut string = String::new();
        self.append_string(&mut string)?;
        Ok(Cow::Owned(string))
    }

    /// Appends the string that comes next to `out`; leaves a part of it there when it is malformed.
    pub(super) fn append_string(&mut self, out: &mut String) -> Result<(), Refusal> {
        self.at += 1;
        loop {
            let start = self.at;
            self.at = plain_end(self.text.as_bytes(), start);
            out.push_str(&self.text[start..self.at]);
            match self.text.as_bytes().get(self.at) {
                Some(b'"') => {
                    self.at += 1;
                    return Ok(());
                }
                Some(b'\\') => out.push(self.escape()?),
                Some(_) => return Err(self.malformed("a control character in a string must be escaped")),
                None => return Err(self.malformed("a string does not end")),
            }
        }
    }

    /// The number that comes next.
    pub(super) fn number(&mut self) -> Result<NumberToken<'a>, Refusal> {
        let bytes = self.text.as_bytes();
        let start = self.at;
        let negative = self.byte() == b'-';
        self.at += usize::from(negative);
        let digits_start = self.at;
        let mut magnitude: i64 = 0;
        while let Some(digit) = bytes.get(self.at).map(|byte| byte.wrapping_sub(b'0')).filter(|digit| *digit < 10) {
            magnitude = magnitude.wrapping_mul(10).wrapping_add(i64::from(digit));
            self.at += 1;
        }
        let digits = self.at - digits_start;
        if digits == 0 {
            return Err(self.unexpected("a digit"));
        }
        if digits > 1 && bytes[digits_start] == b'0' {
            return Err(self.malformed("a number must not start with 0 and another digit"));
        }
        let whole = !matches!(self.byte(), b'.' | b'e' | b'E');
        if !whole {
            self.fraction_and_exponent()?;
        }
        // -0 is left to the columns: it differs from 0 in a DOUBLE.
        let small = whole && digits <= 18 && !(negative && magnitude == 0);
        let integer = small.then(|| if negative { -magnitude } else { magnitude });
        Ok(NumberToken { text: &self.text[start..self.at], integer })
    }

    /// Goes past the next value, whatever it is, if it is well-formed.
    pub(super) fn skip_value(&mut self) -> Result<(), Refusal> {
        self.skip(true)
    }

    /// Goes past the next value if its strings end and its brackets, commas and colons are in order. Its numbers,
    /// literals, escapes and depth may be wrong: the text is not JSON then, but where the value ends is beyond doubt.
    pub(super) fn skip_structure(&mut self) -> Result<(), Refusal> {
        self.skip(false)
    }

    /// What comes next, for a message that says what was expected instead.
    pub(super) fn describe(&mut self) -> Result<String, Refusal> {
        let before = self.at;
        let description = match self.peek() {
            b'"' => format!("the string {}", quoted(&self.string()?)),
            b'{' => "an object".to_owned(),
            b'[' => "an array".to_owned(),
            b'-' | b'0'..=b'9' => format!("the number {}", shortened(self.number()?.text)),
            b't' | b'f' => self.boolean()?.to_string(),
            _ => self.null().map(|()| "null".to_owned())?,
        };
        self.at = before;
        Ok(description)
    }

    /// The refusal of text that does not go on with `expected`.
    pub(super) fn unexpected(&mut self, expected: &str) -> Refusal {
        self.peek();
        let found = match self.text[self.at..].chars().next() {
            Some(character) => format!("found {:?}", character.to_string()),
            None => "the text ends".to_owned(),
        };
        self.malformed(&format!("expected {expected}, {found}"))
    }

    fn malformed(&self, reason: &str) -> Refusal {
        Refusal::new(format!("not valid JSON at byte {}: {reason}", self.at - self.row_start))
    }

    /// The byte here, or 0 at the end of the text.
    fn byte(&self) -> u8 {
        self.text.as_bytes().get(self.at).copied().unwrap_or(0)
    }

    fn rest(&self) -> &'a [u8] {
        self.text.as_bytes().get(self.at..).unwrap_or_default()
    }

    fn take_boolean(&mut self) -> Option<bool> {
        if self.take_literal("true") {
            Some(true)
        } else if self.take_literal("false") {
            Some(false)
        } else {
            None
        }
    }

    fn take_literal(&mut self, literal: &str) -> bool {
        self.peek();
        let found = self.rest().starts_with(literal.as_bytes());
        self.at += if found { literal.len() } else { 0 };
        found
    }

    fn fraction_and_exponent(&mut self) -> Result<(), Refusal> {
        if self.byte() == b'.' {
            self.at += 1;
            self.digits()?;
        }
        if matches!(self.byte(), b'e' | b'E') {
            self.at += 1;
            self.at += usize::from(matches!(self.byte(), b'+' | b'-'));
            self.digits()?;
        }
        Ok(())
    }

    fn digits(&mut self) -> Result<(), Refusal> {
        if !self.byte().is_ascii_digit() {
            return Err(self.unexpected("a digit"));
        }
        while self.byte().is_ascii_digit() {
            self.at += 1;
        }
        Ok(())
    }

    /// The character that the escape here stands for.
    fn escape(&mut self) -> Result<char, Refusal> {
        self.at += 1;
        let escaped = self.byte();
        self.at += 1;
        Ok(match escaped {
            b'"' => '"',
            b'\\' => '\\',
            b'/' => '/',
            b'b' => '\u{8}',
            b'f' => '\u{c}',
            b'n' => '\n',
            b'r' => '\r',
            b't' => '\t',
            b'u' => return self.unicode_escape(),
            _ => {
                self.at -= 1;
                return Err(self.malformed("an escape that JSON does not have"));
            }
        })
    }

    fn unicode_escape(&mut self) -> Result<char, Refusal> {
        let first = self.four_hex_digits()?;
        let mut code = first;
        if (0xD800..0xDC00).contains(&first) && self.rest().starts_with(b"\\u") {
            self.at += 2;
            let second = self.four_hex_digits()?;
            if (0xDC00..0xE000).contains(&second) {
                code = 0x10000 + ((first - 0xD800) << 10) + (second - 0xDC00);
            }
        }
        char::from_u32(code).ok_or_else(|| self.malformed("half of a surrogate pair is no character"))
    }

    fn four_hex_digits(&mut self) -> Result<u32, Refusal> {
        let digits = self.rest().get(..4).filter(|digits| digits.iter().all(u8::is_ascii_hexdigit));
        let digits = digits.ok_or_else(|| self.malformed("expected four hexadecimal digits"))?;
        self.at += 4;
        let value = |digit: &u8| (*digit as char).to_digit(16).unwrap_or_default();
        Ok(digits.iter().fold(0, |code, digit| code * 16 + value(digit)))
    }

    fn skip(&mut self, strict: bool) -> Result<(), Refusal> {
        self.open.clear();
        loop {
            match self.peek() {
                opening @ (b'{' | b'[') => {
                    if strict && self.open.len() == NESTING_MAX {
                        return Err(self.malformed(&format!("it is nested deeper than {NESTING_MAX} levels")));
                    }
                    self.at += 1;
                    let is_object = opening == b'{';
                    if !self.take(closing(is_object)) {
                        self.enter(is_object, strict)?;
                        continue;
                    }
                }
                b'"' => self.skip_string(strict)?,
                _ if !strict => self.skip_scalar()?,
                b'-' | b'0'..=b'9' => self.number().map(drop)?,
                b't' | b'f' => self.boolean().map(drop)?,
                _ => self.null()?,
            }
            if !self.leave_closed(strict)? {
                return Ok(());
            }
        }
    }

    fn enter(&mut self, is_object: bool, strict: bool) -> Result<(), Refusal> {
        self.open.push(is_object);
        if is_object { self.skip_key(strict) } else { Ok(()) }
    }

    /// After a value: closes what ends here. Whether another value follows.
    fn leave_closed(&mut self, strict: bool) -> Result<bool, Refusal> {
        while let Some(is_object) = self.open.last().copied() {
            if self.take_separator(closing(is_object))? {
                if is_object {
                    self.skip_key(strict)?;
                }
                return Ok(true);
            }
            self.open.pop();
        }
        Ok(false)
    }

    fn skip_key(&mut self, strict: bool) -> Result<(), Refusal> {
        if self.peek() != b'"' {
            return Err(self.unexpected("a key in quotes"));
        }
        self.skip_string(strict)?;
        self.expect(b':')
    }

    fn skip_string(&mut self, strict: bool) -> Result<(), Refusal> {
        self.at += 1;
        loop {
            self.at = plain_end(self.text.as_bytes(), self.at);
            match self.text.as_bytes().get(self.at) {
                Some(b'"') => break,
                Some(b'\\') if strict => drop(self.escape()?),
                Some(b'\\') => self.at = (self.at + 2).min(self.text.len()),
                Some(_) if strict => return Err(self.malformed("a control character in a string must be escaped")),
                Some(_) => self.at += 1,
                None => return Err(self.malformed("a string does not end")),
            }
        }
        self.at += 1;
        Ok(())
    }

    /// Goes past a run of what is no structure: a number or a literal, or what stands in the place of one.
    fn skip_scalar(&mut self) -> Result<(), Refusal> {
        let is_structure = |byte: &u8| byte.is_ascii_whitespace() || b"{}[]:,\"".contains(byte);
        let length = self.rest().iter().position(is_structure).unwrap_or(self.rest().len());
        if length == 0 {
            return Err(self.unexpected("a value"));
        }
        self.at += length;
        Ok(())
    }
}

fn closing(is_object: bool) -> u8 {
    if is_object { b'}' } else { b']' }
}

#[cfg(test)]
mod tests {
    use serde::de::IgnoredAny;

    use super::*;

    fn cursor(text: &str) -> JsonCursor<'_> {
        let mut cursor = JsonCursor::default();
        cursor.start(text);
        cursor
    }

    /// Whether the whole text is one value.
    fn is_json(text: &str) -> bool {
        let mut cursor = cursor(text);
        cursor.skip_value().is_ok() && cursor.at_end()
    }

    fn has_structure(text: &str) -> bool {
        let mut cursor = cursor(text);
        cursor.skip_structure().is_ok() && cursor.at_end()
    }

    #[test]
    fn what_is_json_is_what_serde_json_reads() {
        let samples = [
            r#"{"a":[1,-2.5e+3,{"b":null}],"c":"x\n\u00e9\"y","d":{},"e":[],"f":true,"g":false} "#,
            "[0, -0, 0.5, 1E9, 12345678901234567890, \"\", [[[]]], \"zürich ☃ 東京 and some more plain text\"]",
            "\t\r\n {\"key\" : \"value that is longer than eight bytes\" , \"k\" : [ 1 , 2 ] }",
        ];
        let replacements: Vec<char> = "\"\\{}[]:,.-+0eEtnu \n\u{1}é".chars().collect();
        for sample in samples {
            assert!(is_json(sample), "{sample}");
            let characters: Vec<char> = sample.chars().collect();
            for place in 0..characters.len() {
                for replacement in replacements.iter().map(Some).chain([None]) {
                    let (before, after) = (&characters[..place], &characters[place + 1..]);
                    let text: String = before.iter().chain(replacement).chain(after).collect();
                    let expected = serde_json::from_str::<IgnoredAny>(&text).is_ok();
                    assert_eq!(is_json(&text), expected, "{text}");
                    assert!(!expected || has_structure(&text), "{text}");
                }
            }
        }
    }

    #[test]
    fn the_end_of_a_value_is_found_when_only_its_scalars_are_wrong() {
        for text in
            [r#"{"a":NaN}"#, r#"{"a":01,"b":[+1,.5,1.]}"#, r#"["\x", "\ud800"]"#, "[\"tab\there\"]", "[\"\\é\"]"]
        {
            assert!(!is_json(text) && has_structure(text), "{text}");
        }
        for text in [r#"{"a":"x"y"}"#, "[1 2]", "[1,]", r#"{"a"}"#, r#"{"a":1"#, "[}", r#"{"a":"x}"#, "", ",", r#"["\"#]
        {
            assert!(!has_structure(text), "{text}");
        }
    }

    #[test]
    fn deep_nesting_is_refused_without_using_the_stack() {
        let nested = |levels: usize| format!("{}{}", "[".repeat(levels), "]".repeat(levels));
        assert!(is_json(&nested(NESTING_MAX)));
        assert!(!is_json(&nested(NESTING_MAX + 1)));
        assert!(has_structure(&nested(1_000_000)));
        assert!(!has_structure(&"[".repeat(1_000_000)));
    }

    #[test]
    fn strings_are_unescaped() {
        let unescaped = |text: &str| cursor(text).string().map(Cow::into_owned).ok();
        assert_eq!(unescaped(r#""plain""#).as_deref(), Some("plain"));
        let escapes = r#""\"\\\/\b\f\n\r\t\u0041\u00e9\ud83d\ude00\u0000 and plain text after it""#;
        let expected = "\"\\/\u{8}\u{c}\n\r\tAé😀\0 and plain text after it";
        assert_eq!(unescaped(escapes).as_deref(), Some(expected));
        for text in [
            r#""\ud83d""#,
            r#""\ud83dx""#,
            r#""\ude00\ud83d""#,
            r#""\ud83d\u0041""#,
            r#""\u12"#,
            r#""\u12g4""#,
            r#""\"#,
        ] {
            assert_eq!(unescaped(text), None, "{text}");
        }
    }

    #[test]
    fn whole_numbers_come_with_their_value_and_others_only_with_their_text() {
        let integer = |text: &str| cursor(text).number().map(|number| (number.text.len(), number.integer)).ok();
        assert_eq!(integer("0"), Some((1, Some(0))));
        assert_eq!(integer("-999999999999999999,"), Some((19, Some(-999_999_999_999_999_999))));
        assert_eq!(integer("1000000000000000000"), Some((19, None)));
        assert_eq!(integer("-0"), Some((2, None)));
        assert_eq!(integer("1.0"), Some((3, None)));
        assert_eq!(integer("1e2]"), Some((3, None)));
        for text in ["01", "-", "1.", "1e", "1e+", ".5", "+1"] {
            assert_eq!(integer(text), None, "{text}");
        }
    }
}
