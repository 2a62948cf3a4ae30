//! Chooses the format of an answer by the request's `Accept` header (RFC 9110, section 12.5.1).

use axum::http::HeaderMap;
use axum::http::header::ACCEPT;

use super::problem::{NOT_ACCEPTABLE, Problem};
use crate::encode::AnswerFormat;

/// The format that the client likes best; of several liked alike, the first of [`AnswerFormat::ALL`].
///
/// # Errors
/// 406 when the client accepts none of them.
pub(super) fn negotiate(headers: &HeaderMap) -> Result<AnswerFormat, Problem> {
    let accept: Vec<&str> = headers.get_all(ACCEPT).iter().filter_map(|value| value.to_str().ok()).collect();
    let accept = accept.join(",");
    if accept.trim().is_empty() {
        return Ok(AnswerFormat::Json);
    }
    let ranges: Vec<Range> = accept.split(',').map(Range::parse).collect();
    let mut best = None;
    for format in AnswerFormat::ALL {
        let quality = quality(&ranges, format.media_type());
        if quality > best.map_or(0.0, |(_, quality)| quality) {
            best = Some((format, quality));
        }
    }
    best.map(|(format, _)| format).ok_or_else(|| {
        let available = AnswerFormat::ALL.map(AnswerFormat::media_type);
        let detail = format!("answers cannot be written as \"{accept}\"; accept one of {}", available.join(", "));
        Problem::new(NOT_ACCEPTABLE, detail).with("available", available.to_vec())
    })
}

/// One media range of an `Accept` header, such as `text/*;q=0.5`.
struct Range<'a> {
    media_range: &'a str,
    quality: f32,
}

impl Range<'_> {
    fn parse(text: &str) -> Range<'_> {
        let mut parts = text.split(';').map(str::trim);
        let media_range = parts.next().unwrap_or_default();
        let weight = parts.find_map(|parameter| parameter.strip_prefix("q=").or_else(|| parameter.strip_prefix("Q=")));
        // A weight that is no number says nothing, so that the range stays as it would be without one.
        let quality = weight.and_then(|weight| weight.trim().parse().ok()).unwrap_or(1.0_f32);
        Range { media_range, quality: quality.clamp(0.0, 1.0) }
    }

    /// How closely the range names a media type: exactly, by its first half, or as one of all.
    fn closeness(&self, media_type: &str) -> Option<u8> {
        if self.media_range.eq_ignore_ascii_case(media_type) {
            return Some(2);
        }
        if self.media_range == "*/*" {
            return Some(0);
        }
        let kind = self.media_range.strip_suffix("/*")?;
        let same_kind = media_type.split_once('/').is_some_and(|(media_kind, _)| kind.eq_ignore_ascii_case(media_kind));
        same_kind.then_some(1)
    }
}

/// The weight of the range that names `media_type` most closely; 0 when none does.
fn quality(ranges: &[Range], media_type: &str) -> f32 {
    let matching = ranges.iter().filter_map(|range| Some((range.closeness(media_type)?, range.quality)));
    matching.max_by_key(|(closeness, _)| *closeness).map_or(0.0, |(_, quality)| quality)
}

#[cfg(test)]
mod tests {
    use axum::http::HeaderValue;

    use super::*;

    fn chosen(accept: &[&'static str]) -> Option<AnswerFormat> {
        let mut headers = HeaderMap::new();
        for value in accept {
            headers.append(ACCEPT, HeaderValue::from_static(value));
        }
        negotiate(&headers).ok()
    }

    #[test]
    fn the_format_is_the_one_that_the_client_likes_best() {
        use AnswerFormat::{ArrowStream, Csv, Json};
        let cases = [
            ("", Some(Json)),
            ("*/*", Some(Json)),
            ("application/*", Some(Json)),
            ("application/json", Some(Json)),
            ("text/csv", Some(Csv)),
            ("Text/CSV; header=present", Some(Csv)),
            ("text/*", Some(Csv)),
            ("application/vnd.apache.arrow.stream", Some(ArrowStream)),
            ("text/html, */*;q=0.8", Some(Json)),
            ("text/csv;q=0.5, application/vnd.apache.arrow.stream;q=0.9", Some(ArrowStream)),
            ("*/*, application/json;q=0", Some(Csv)),
            ("application/json;q=0.1, application/*;q=0.9", Some(ArrowStream)),
            ("text/csv, application/json", Some(Json)),
            ("text/csv;q=high", Some(Csv)),
            ("text/html", None),
            ("application/json;q=0", None),
            ("json", None),
        ];
        for (accept, expected) in cases {
            assert_eq!(chosen(&[accept]), expected, "{accept}");
        }
        assert_eq!(chosen(&[]), Some(Json));
        assert_eq!(chosen(&["text/html", "text/csv"]), Some(Csv));
    }
}
