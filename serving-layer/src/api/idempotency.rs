//! The headers by which clients name requests that they may repeat: `Idempotency-Key` as in the IETF's draft
//! (draft-ietf-httpapi-idempotency-key-header), or `Producer-Id` and `Producer-Sequence` for streams of requests.

use axum::http::{HeaderMap, HeaderName};
use watershed_shared::log::ReceiptKey;

use super::problem::{INVALID_REQUEST, Problem};

const KEY: HeaderName = HeaderName::from_static("idempotency-key");
const PRODUCER: HeaderName = HeaderName::from_static("producer-id");
const SEQUENCE: HeaderName = HeaderName::from_static("producer-sequence");
/// Set in an answer that was made before.
pub(super) const REPLAYED: &str = "idempotent-replayed";
/// Longest key, and longest name of a producer.
const BYTES_MAX: usize = 255;

/// The name of the request; `None` when it has none.
///
/// # Errors
/// 400 when the headers contradict each other or are no names.
pub(super) fn receipt_key(headers: &HeaderMap) -> Result<Option<ReceiptKey>, Problem> {
    let name = |name: &HeaderName| single(headers, name)?.map(|value| visible_text(name, value)).transpose();
    match (name(&KEY)?, name(&PRODUCER)?, single(headers, &SEQUENCE)?) {
        (None, None, None) => Ok(None),
        (Some(key), None, None) => Ok(Some(ReceiptKey::Request(key.to_owned()))),
        (None, Some(producer), Some(sequence)) => {
            let sequence = parse_sequence(sequence)?;
            Ok(Some(ReceiptKey::Sequence { producer: producer.to_owned(), sequence }))
        }
        (None, _, _) => Err(refuse("producer-id and producer-sequence belong together, but one is missing".to_owned())),
        (Some(_), _, _) => Err(refuse(
            "idempotency-key and producer-id with producer-sequence are two ways to name a request; use one of them"
                .to_owned(),
        )),
    }
}

fn single<'a>(headers: &'a HeaderMap, name: &HeaderName) -> Result<Option<&'a [u8]>, Problem> {
    let mut values = headers.get_all(name).iter();
    let value = values.next();
    match values.next() {
        None => Ok(value.map(|value| value.as_bytes())),
        Some(_) => Err(refuse(format!("the header {name} is there more than once"))),
    }
}

fn visible_text<'a>(name: &HeaderName, value: &'a [u8]) -> Result<&'a str, Problem> {
    let is_visible = value.iter().all(u8::is_ascii_graphic) && (1..=BYTES_MAX).contains(&value.len());
    str::from_utf8(value).ok().filter(|_| is_visible).ok_or_else(|| {
        let found = String::from_utf8_lossy(value);
        refuse(format!("the header {name} is not 1 to {BYTES_MAX} visible ASCII characters: \"{found}\""))
    })
}

fn parse_sequence(value: &[u8]) -> Result<u64, Problem> {
    let digits = str::from_utf8(value).ok().filter(|text| text.bytes().all(|byte| byte.is_ascii_digit()));
    digits.and_then(|digits| digits.parse().ok()).ok_or_else(|| {
        let found = String::from_utf8_lossy(value);
        refuse(format!("the header {SEQUENCE} is not a number from 0 to {}: \"{found}\"", u64::MAX))
    })
}

fn refuse(reason: String) -> Problem {
    Problem::new(INVALID_REQUEST, format!("{reason}; nothing was accepted"))
}

#[cfg(test)]
mod tests {
    use axum::http::HeaderValue;

    use super::*;

    fn key_of(headers: &[(HeaderName, &[u8])]) -> Option<Option<ReceiptKey>> {
        let mut map = HeaderMap::new();
        for (name, value) in headers {
            map.append(name, HeaderValue::from_bytes(value).ok()?);
        }
        receipt_key(&map).ok()
    }

    fn sequence(producer: &str, sequence: u64) -> Option<ReceiptKey> {
        Some(ReceiptKey::Sequence { producer: producer.to_owned(), sequence })
    }

    #[test]
    fn requests_are_named_by_a_key_or_by_a_producers_number() {
        let longest = "k".repeat(255);
        assert_eq!(key_of(&[]), Some(None));
        for key in ["k", "\"8e03978e-40d5\"", "!~", &longest] {
            assert_eq!(key_of(&[(KEY, key.as_bytes())]), Some(Some(ReceiptKey::Request(key.to_owned()))));
        }
        for (text, number) in [("0", 0), ("007", 7), ("18446744073709551615", u64::MAX)] {
            assert_eq!(key_of(&[(PRODUCER, b"mill"), (SEQUENCE, text.as_bytes())]), Some(sequence("mill", number)));
        }
    }

    #[test]
    fn names_that_are_none_are_refused() {
        let too_long = [b'k'; 256];
        for wrong in [&b""[..], b"a b", b"a\tb", "ü".as_bytes(), &too_long] {
            assert_eq!(key_of(&[(KEY, wrong)]), None, "{wrong:?}");
            assert_eq!(key_of(&[(PRODUCER, wrong), (SEQUENCE, b"0")]), None, "{wrong:?}");
        }
        for wrong in [&b""[..], b"-1", b"+1", b"1.0", b"1e3", b"18446744073709551616", b"x"] {
            assert_eq!(key_of(&[(PRODUCER, b"mill"), (SEQUENCE, wrong)]), None, "{wrong:?}");
        }
        for contradiction in [
            &[(KEY, &b"k"[..]), (PRODUCER, b"mill"), (SEQUENCE, b"0")][..],
            &[(KEY, b"k"), (PRODUCER, b"mill")],
            &[(KEY, b"k"), (SEQUENCE, b"0")],
            &[(PRODUCER, b"mill")],
            &[(SEQUENCE, b"0")],
            &[(KEY, b"k"), (KEY, b"k")],
            &[(PRODUCER, b"mill"), (SEQUENCE, b"0"), (SEQUENCE, b"1")],
        ] {
            assert_eq!(key_of(contradiction), None, "{contradiction:?}");
        }
    }
}
