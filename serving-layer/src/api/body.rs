//! Reads request bodies: whole, decompressed, and no larger or slower than the options allow.
//!
//! Bodies of events are admitted by their bytes: what a request says of its length, or has sent so far, is reserved in a
//! budget that all requests share, before it is read. A request for which there is no room is refused at once. All other
//! bodies are small.
//!
//! Decompression is ours and not a layer of the framework, because that one reads only the first member of a gzip file:
//! the events of the others (`cat a.gz b.gz`, or what bgzip writes) would be lost without a word.

use std::io::{self, Read};
use std::sync::Arc;

use axum::body::Body;
use axum::extract::Request;
use axum::http::header::{CONTENT_ENCODING, CONTENT_LENGTH, CONTENT_TYPE};
use axum::http::{HeaderMap, HeaderName};
use bytes::{Bytes, BytesMut};
use flate2::read::MultiGzDecoder;
use futures::StreamExt;
use serde::de::DeserializeOwned;
use tokio::time::Instant;
use watershed_shared::budget::{MemoryBudget, Reservation};
use watershed_shared::error::Error as SharedError;

use super::ApiOptions;
use super::pace::Pace;
use super::problem::{BODY_TIMEOUT, BODY_TOO_LARGE, INTERNAL_ERROR, INVALID_REQUEST, Problem, UNSUPPORTED_TYPE};

/// Largest body of a request that brings no events.
const JSON_BYTES_MAX: usize = 1 << 20;
/// What is reserved at a time for a body whose size is not known.
const RESERVED_STEP: usize = 256 << 10;

/// A body of events, with its place in the budget.
#[derive(Debug)]
pub(super) struct Admitted {
    pub(super) bytes: Bytes,
    /// To be held until the events are acknowledged.
    pub(super) reservation: Reservation,
}

/// The request's body, decompressed, if there is room for it.
///
/// # Errors
/// 429 when there is no room, 413 when it is too large before or after decompression, 408 when it is too slow, 415 for
/// an encoding that is not read, 400 when it breaks off or does not decompress.
pub(super) async fn read_admitted(
    request: Request,
    options: &ApiOptions,
    budget: &Arc<MemoryBudget>,
) -> Result<Admitted, Problem> {
    let declared = declared_length(request.headers());
    let first = declared.unwrap_or(RESERVED_STEP).min(options.body_bytes_max);
    let room = Room {
        bytes_max: options.body_bytes_max,
        advice: "send it in parts or raise ingest.body_bytes_max",
        budget: Some(budget),
    };
    if declared.is_some_and(|length| length > room.bytes_max) {
        return Err(room.too_large());
    }
    let reservation = budget.reserve(first, 0).ok_or_else(|| overloaded(budget, first))?;
    let (bytes, reservation) = read(request, options, room, Some(reservation)).await?;
    let reservation = reservation.ok_or_else(|| overloaded(budget, bytes.len()))?;
    Ok(Admitted { bytes, reservation })
}

/// How large a body may become.
#[derive(Clone, Copy)]
struct Room<'a> {
    bytes_max: usize,
    /// What to do with a larger one.
    advice: &'static str,
    budget: Option<&'a Arc<MemoryBudget>>,
}

impl Room<'_> {
    /// Makes room for `bytes` of one body.
    fn make(&self, bytes: usize, reservation: &mut Option<Reservation>) -> Result<(), Problem> {
        if bytes > self.bytes_max {
            return Err(self.too_large());
        }
        match (reservation, self.budget) {
            (Some(reservation), Some(budget)) if bytes > reservation.bytes() => {
                let wanted = bytes.next_multiple_of(RESERVED_STEP).min(self.bytes_max);
                if reservation.raise(wanted) { Ok(()) } else { Err(overloaded(budget, wanted)) }
            }
            _ => Ok(()),
        }
    }

    fn too_large(&self) -> Problem {
        let detail = format!(
            "the body is larger than {} bytes, before or after decompression; nothing was done; {}",
            self.bytes_max, self.advice
        );
        Problem::new(BODY_TOO_LARGE, detail).with("bytes_max", self.bytes_max).closing()
    }
}

async fn read(
    request: Request,
    options: &ApiOptions,
    room: Room<'_>,
    mut reservation: Option<Reservation>,
) -> Result<(Bytes, Option<Reservation>), Problem> {
    let (parts, body) = request.into_parts();
    let encoding = Encoding::of(&parts.headers)?;
    let body = receive(body, options, room, &mut reservation).await?;
    if encoding == Encoding::Identity || body.is_empty() {
        return Ok((body, reservation));
    }
    let (bytes_max, advice) = (room.bytes_max, room.advice);
    let budget = room.budget.cloned();
    // A small body can become a large one, so no size is safe for a thread that serves requests.
    let decompressed = tokio::task::spawn_blocking(move || {
        let room = Room { bytes_max, advice, budget: budget.as_ref() };
        Ok((encoding.decompress(&body, room, &mut reservation)?, reservation))
    });
    let (bytes, reservation) =
        decompressed.await.map_err(|error| Problem::new(INTERNAL_ERROR, error.to_string())).flatten()?;
    Ok((bytes.into(), reservation))
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
    let room =
        Room { bytes_max: JSON_BYTES_MAX, advice: "only events may be sent in bodies of that size", budget: None };
    if declared_length(request.headers()).is_some_and(|length| length > room.bytes_max) {
        return Err(room.too_large());
    }
    let (body, _) = read(request, options, room, None).await?;
    serde_json::from_slice(&body).map_err(|error| {
        Problem::new(INVALID_REQUEST, format!("the body cannot be read: {error}; send an object such as {example}"))
    })
}

/// A header's value, if it is there and text.
pub(super) fn header<'a>(headers: &'a HeaderMap, name: &HeaderName) -> Option<&'a str> {
    headers.get(name).and_then(|value| value.to_str().ok())
}

/// The length that a request announces for its body as it is sent.
fn declared_length(headers: &HeaderMap) -> Option<usize> {
    header(headers, &CONTENT_LENGTH).and_then(|length| length.parse().ok())
}

async fn receive(
    body: Body,
    options: &ApiOptions,
    room: Room<'_>,
    reservation: &mut Option<Reservation>,
) -> Result<Bytes, Problem> {
    let mut stream = body.into_data_stream();
    let mut bytes = BytesMut::new();
    let mut pace = Pace::new(&options.connections);
    loop {
        let asked = Instant::now();
        let chunk = tokio::time::timeout(pace.left(), stream.next()).await;
        let Some(chunk) = chunk.map_err(|_| too_slow(options, bytes.len()))? else { break };
        let chunk = chunk
            .map_err(|error| Problem::new(INVALID_REQUEST, format!("the body broke off: {error}; nothing was done")))?;
        pace.waited(asked.elapsed(), chunk.len());
        room.make(bytes.len() + chunk.len(), reservation)?;
        bytes.extend_from_slice(&chunk);
    }
    Ok(bytes.freeze())
}

fn too_slow(options: &ApiOptions, received: usize) -> Problem {
    let limits = &options.connections;
    let detail = format!(
        "the body came too slowly: after {received} bytes the client paused for connections.stall_timeout = {:?}, or sent \
         less than connections.bytes_per_second_min = {} for long; nothing was done; send it faster or in parts, or \
         change these settings",
        limits.stall_timeout, limits.bytes_per_second_min
    );
    Problem::new(BODY_TIMEOUT, detail).closing()
}

fn overloaded(budget: &MemoryBudget, bytes: usize) -> Problem {
    let (bytes_in_flight, bytes_max) = (budget.reserved(), budget.bytes_max());
    let problem = Problem::from(SharedError::Overloaded { bytes, bytes_in_flight, bytes_max });
    problem.with("bytes_max", bytes_max).closing()
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

    /// The bytes that `body` stands for.
    fn decompress(
        self,
        body: &[u8],
        room: Room<'_>,
        reservation: &mut Option<Reservation>,
    ) -> Result<Vec<u8>, Problem> {
        match self {
            Encoding::Identity => Ok(body.to_vec()),
            Encoding::Gzip => read_all(MultiGzDecoder::new(body), room, reservation),
            Encoding::Zstd => read_all(zstd::Decoder::with_buffer(body).map_err(undecodable)?, room, reservation),
        }
    }
}

fn read_all(mut reader: impl Read, room: Room<'_>, reservation: &mut Option<Reservation>) -> Result<Vec<u8>, Problem> {
    let mut bytes = Vec::new();
    loop {
        let read = reader.by_ref().take(RESERVED_STEP as u64).read_to_end(&mut bytes).map_err(undecodable)?;
        room.make(bytes.len(), reservation)?;
        if read == 0 {
            return Ok(bytes);
        }
    }
}

fn undecodable(error: io::Error) -> Problem {
    Problem::new(INVALID_REQUEST, format!("the body cannot be decompressed: {error}; nothing was done"))
}
