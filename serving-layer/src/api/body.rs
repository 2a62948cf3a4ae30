//! Reads request bodies: whole, decompressed, and no larger or slower than the options allow.
//!
//! Decompression is ours and not a layer of the framework, because that one reads only the first member of a gzip file:
//! the events of the others (`cat a.gz b.gz`, or what bgzip writes) would be lost without a word.

use std::io::{self, Read};

use axum::body::Body;
use axum::extract::Request;
use axum::http::header::{CONTENT_ENCODING, CONTENT_LENGTH, CONTENT_TYPE};
use axum::http::{HeaderMap, HeaderName};
use bytes::{Bytes, BytesMut};
use flate2::read::MultiGzDecoder;
use futures::StreamExt;
use serde::de::DeserializeOwned;

use super::ApiOptions;
use super::problem::{BODY_TIMEOUT, BODY_TOO_LARGE, INTERNAL_ERROR, INVALID_REQUEST, Problem, UNSUPPORTED_TYPE};

/// The request's body, decompressed.
///
/// # Errors
/// 413 when it is too large before or after decompression, 408 when it is too slow, 415 for an encoding that is not
/// read, 400 when it breaks off or does not decompress.
pub(super) async fn read(request: Request, options: &ApiOptions) -> Result<Bytes, Problem> {
    let (parts, body) = request.into_parts();
    let encoding = Encoding::of(&parts.headers)?;
    let declared = header(&parts.headers, &CONTENT_LENGTH).and_then(|length| length.parse::<usize>().ok());
    if declared.is_some_and(|length| length > options.body_bytes_max) {
        return Err(too_large(options));
    }
    let body = tokio::time::timeout(options.body_timeout, receive(body, options)).await.map_err(|_| {
        let detail =
            format!("the body did not arrive within {:?}; nothing was done; send less at once", options.body_timeout);
        Problem::new(BODY_TIMEOUT, detail)
    })??;
    if encoding == Encoding::Identity || body.is_empty() {
        return Ok(body);
    }
    let bytes_max = options.body_bytes_max;
    // A small body can become a large one, so no size is safe for a thread that serves requests.
    let decompressed = tokio::task::spawn_blocking(move || encoding.decompress(&body, bytes_max)).await;
    match decompressed.map_err(|error| Problem::new(INTERNAL_ERROR, error.to_string()))? {
        Ok(Some(bytes)) => Ok(bytes.into()),
        Ok(None) => Err(too_large(options)),
        Err(error) => {
            let detail = format!("the body cannot be decompressed: {error}; nothing was done");
            Err(Problem::new(INVALID_REQUEST, detail))
        }
    }
}

/// The request's body as the JSON object that `T` describes; `example` shows one in messages.
///
/// # Errors
/// As [`read`]; 415 when it claims to be something else than JSON, 400 when it is no such object.
pub(super) async fn read_json<T: DeserializeOwned>(
    request: Request,
    options: &ApiOptions,
    example: &str,
) -> Result<T, Problem> {
    let media_type =
        header(request.headers(), &CONTENT_TYPE).map(|value| value.split(';').next().unwrap_or_default().trim());
    if let Some(other) = media_type.filter(|media_type| !media_type.eq_ignore_ascii_case("application/json")) {
        let detail = format!("the body has the content type \"{other}\"; send application/json, such as {example}");
        return Err(Problem::new(UNSUPPORTED_TYPE, detail).with("supported", vec!["application/json"]));
    }
    let body = read(request, options).await?;
    serde_json::from_slice(&body).map_err(|error| {
        Problem::new(INVALID_REQUEST, format!("the body cannot be read: {error}; send an object such as {example}"))
    })
}

/// A header's value, if it is there and text.
pub(super) fn header<'a>(headers: &'a HeaderMap, name: &HeaderName) -> Option<&'a str> {
    headers.get(name).and_then(|value| value.to_str().ok())
}

async fn receive(body: Body, options: &ApiOptions) -> Result<Bytes, Problem> {
    let mut stream = body.into_data_stream();
    let mut bytes = BytesMut::new();
    while let Some(chunk) = stream.next().await {
        let chunk = chunk
            .map_err(|error| Problem::new(INVALID_REQUEST, format!("the body broke off: {error}; nothing was done")))?;
        if bytes.len() + chunk.len() > options.body_bytes_max {
            return Err(too_large(options));
        }
        bytes.extend_from_slice(&chunk);
    }
    Ok(bytes.freeze())
}

fn too_large(options: &ApiOptions) -> Problem {
    let detail = format!(
        "the body is larger than {} bytes, before or after decompression; nothing was done; send it in parts or raise \
         ingest.body_bytes_max",
        options.body_bytes_max
    );
    Problem::new(BODY_TOO_LARGE, detail).with("bytes_max", options.body_bytes_max)
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Encoding {
    Identity,
    Gzip,
    Zstd,
}

impl Encoding {
    fn of(headers: &HeaderMap) -> Result<Encoding, Problem> {
        let Some(value) = headers.get(CONTENT_ENCODING) else {
            return Ok(Encoding::Identity);
        };
        match value.to_str().unwrap_or_default().trim().to_ascii_lowercase().as_str() {
            "" | "identity" => Ok(Encoding::Identity),
            "gzip" | "x-gzip" => Ok(Encoding::Gzip),
            "zstd" => Ok(Encoding::Zstd),
            other => {
                let detail =
                    format!("the body has the content encoding \"{other}\"; send it as gzip, zstd or identity");
                let problem =
                    Problem::new(UNSUPPORTED_TYPE, detail).with("supported", vec!["gzip", "zstd", "identity"]);
                Err(problem.with_header("accept-encoding", "gzip, zstd, identity"))
            }
        }
    }

    /// The bytes that `body` stands for; `None` if there are more than `bytes_max`.
    fn decompress(self, body: &[u8], bytes_max: usize) -> io::Result<Option<Vec<u8>>> {
        match self {
            Encoding::Identity => Ok(Some(body.to_vec())),
            Encoding::Gzip => read_at_most(MultiGzDecoder::new(body), bytes_max),
            Encoding::Zstd => read_at_most(zstd::Decoder::with_buffer(body)?, bytes_max),
        }
    }
}

fn read_at_most(reader: impl Read, bytes_max: usize) -> io::Result<Option<Vec<u8>>> {
    let mut bytes = Vec::new();
    reader.take(bytes_max as u64 + 1).read_to_end(&mut bytes)?;
    Ok((bytes.len() <= bytes_max).then_some(bytes))
}
