//! Finds the next byte that matters in text, looking at eight bytes at once.

const ONES: u64 = 0x0101_0101_0101_0101;
const HIGH_BITS: u64 = 0x8080_8080_8080_8080;

/// The place at or after `from` of the first byte that does not stand for itself in a JSON string: a quote, a
/// backslash or a control character. The text's end if there is none.
pub(super) fn plain_end(text: &[u8], from: usize) -> usize {
    let in_word = |word: u64| below(word, 0x20) | equal(word, b'"') | equal(word, b'\\');
    find(text, from, in_word, |byte| matches!(byte, b'"' | b'\\' | 0..0x20))
}

/// The place at or after `from` of the first byte that is one of two. The text's end if there is none.
pub(super) fn find_either(text: &[u8], from: usize, one: u8, other: u8) -> usize {
    let in_word = |word: u64| equal(word, one) | equal(word, other);
    find(text, from, in_word, |byte| byte == one || byte == other)
}

/// `in_word` sets the high bit of the bytes looked for. It may also set it wrongly above one of them, where a
/// subtraction has borrowed, so only the lowest counts.
fn find(text: &[u8], from: usize, in_word: impl Fn(u64) -> u64, is_it: impl Fn(u8) -> bool) -> usize {
    let mut at = from.min(text.len());
    while let Some(bytes) = text[at..].first_chunk::<8>() {
        let found = in_word(u64::from_le_bytes(*bytes)) & HIGH_BITS;
        if found != 0 {
            return at + found.trailing_zeros() as usize / 8;
        }
        at += 8;
    }
    text[at..].iter().position(|byte| is_it(*byte)).map_or(text.len(), |index| at + index)
}

fn equal(word: u64, byte: u8) -> u64 {
    below(word ^ (ONES * u64::from(byte)), 1)
}

fn below(word: u64, limit: u64) -> u64 {
    word.wrapping_sub(ONES * limit) & !word
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_next_byte_is_found_wherever_it_is() {
        for special in ['"', '\\', '\0', '\n', '\u{1f}'] {
            for place in 0..40 {
                let text = format!("{}{special}{}", "é".repeat(place), "\u{ff}\"\\ !#[]".repeat(3));
                assert_eq!(plain_end(text.as_bytes(), 0), 2 * place, "{text:?}");
                assert_eq!(find_either(text.as_bytes(), 0, special as u8, b'\x7f'), 2 * place, "{text:?}");
            }
        }
        assert_eq!(plain_end(b"no special byte at all", 3), 22);
        assert_eq!(plain_end(b"", 0), 0);
    }

    #[test]
    fn neighbours_of_the_bytes_looked_for_are_not_taken_for_them() {
        for byte in 0..=255_u8 {
            let text = [byte; 16];
            let is_special = matches!(byte, b'"' | b'\\' | 0..0x20);
            assert_eq!(plain_end(&text, 0), if is_special { 0 } else { 16 }, "{byte}");
            assert_eq!(find_either(&text, 0, b',', b'\n'), if matches!(byte, b',' | b'\n') { 0 } else { 16 }, "{byte}");
        }
    }
}
