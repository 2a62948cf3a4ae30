//! Problem documents (RFC 9457): what every refused or failed request is answered with.
//!
//! This file is the one place that decides which error has which status. Handlers return [`Problem`]s; what the
//! framework refuses before or after them (no such route, a bad query string) gets its document in [`complete`].

use std::any::Any;

use axum::Json;
use axum::body::{Body, to_bytes};
use axum::extract::{Request, State};
use axum::http::header::{CONTENT_LENGTH, CONTENT_TYPE};
use axum::http::{HeaderValue, StatusCode};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use serde::Serialize;
use serde_json::{Map, Value};
use watershed_shared::error::{Error as SharedError, ErrorKind};
use watershed_shared::telemetry::{Metrics, ReasonLabel};

use crate::error::Error;

const MEDIA_TYPE: &str = "application/problem+json";
const TYPES: &str = "https://watershed.dev/problems/";
/// Longest text of a refusal by the framework that becomes the detail of a document.
const DETAIL_BYTES_MAX: usize = 4096;
/// What `Retry-After` says: most of what is unavailable is so while something starts or a queue drains.
const RETRY_AFTER_SECONDS: &str = "1";
/// And for a full disk: somebody has to make room.
const RETRY_AFTER_SECONDS_DISK: &str = "10";

/// A kind of problem. Its `type` is a URI that clients can compare; `title` never varies within a kind.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct ProblemKind {
    /// `None` for what its status says all about.
    slug: Option<&'static str>,
    title: &'static str,
    status: StatusCode,
}

impl ProblemKind {
    const fn new(status: StatusCode, slug: &'static str, title: &'static str) -> ProblemKind {
        ProblemKind { slug: Some(slug), title, status }
    }

    /// What its `type` ends in.
    pub(super) fn name(self) -> &'static str {
        self.slug.unwrap_or("about:blank")
    }

    fn retry_after(self) -> Option<&'static str> {
        match self {
            DISK_FULL => Some(RETRY_AFTER_SECONDS_DISK),
            OVERLOADED => Some(RETRY_AFTER_SECONDS),
            _ => (self.status == StatusCode::SERVICE_UNAVAILABLE).then_some(RETRY_AFTER_SECONDS),
        }
    }

    fn of_status(status: StatusCode) -> ProblemKind {
        ProblemKind { slug: None, title: status.canonical_reason().unwrap_or("Refused"), status }
    }
}

pub(super) const INVALID_REQUEST: ProblemKind =
    ProblemKind::new(StatusCode::BAD_REQUEST, "invalid-request", "The request is wrong");
pub(super) const NOT_FOUND: ProblemKind =
    ProblemKind::new(StatusCode::NOT_FOUND, "not-found", "There is nothing of that name");
pub(super) const NOT_ACCEPTABLE: ProblemKind =
    ProblemKind::new(StatusCode::NOT_ACCEPTABLE, "not-acceptable", "The answer has none of the formats asked for");
pub(super) const BODY_TIMEOUT: ProblemKind =
    ProblemKind::new(StatusCode::REQUEST_TIMEOUT, "body-timeout", "The request's body did not arrive in time");
pub(super) const HEADER_TIMEOUT: ProblemKind =
    ProblemKind::new(StatusCode::REQUEST_TIMEOUT, "header-timeout", "The request's head did not arrive in time");
pub(super) const OVERLOADED: ProblemKind =
    ProblemKind::new(StatusCode::TOO_MANY_REQUESTS, "overloaded", "More events arrive than can be taken in");
pub(super) const DISK_FULL: ProblemKind =
    ProblemKind::new(StatusCode::INSUFFICIENT_STORAGE, "disk-full", "The platform's disk is full");
pub(super) const TOO_MANY_CONNECTIONS: ProblemKind =
    ProblemKind::new(StatusCode::SERVICE_UNAVAILABLE, "too-many-connections", "There are too many connections");
pub(super) const CONFLICT: ProblemKind =
    ProblemKind::new(StatusCode::CONFLICT, "conflict", "The request contradicts the current state");
pub(super) const BODY_TOO_LARGE: ProblemKind =
    ProblemKind::new(StatusCode::PAYLOAD_TOO_LARGE, "body-too-large", "The request's body is too large");
pub(super) const UNSUPPORTED_TYPE: ProblemKind = ProblemKind::new(
    StatusCode::UNSUPPORTED_MEDIA_TYPE,
    "unsupported-media-type",
    "The request's body has a format or an encoding that is not read here",
);
pub(super) const EVENTS_REFUSED: ProblemKind =
    ProblemKind::new(StatusCode::UNPROCESSABLE_ENTITY, "events-refused", "None of the events was accepted");
pub(super) const REQUEST_REUSED: ProblemKind = ProblemKind::new(
    StatusCode::UNPROCESSABLE_ENTITY,
    "idempotency-key-reused",
    "The request's name stands for another request",
);
pub(super) const OUT_OF_SEQUENCE: ProblemKind =
    ProblemKind::new(StatusCode::CONFLICT, "sequence-out-of-order", "The producer's next request is another one");
pub(super) const INTERNAL_ERROR: ProblemKind =
    ProblemKind::new(StatusCode::INTERNAL_SERVER_ERROR, "internal-error", "The platform failed");
pub(super) const CORRUPT_DATA: ProblemKind =
    ProblemKind::new(StatusCode::INTERNAL_SERVER_ERROR, "corrupt-data", "Stored data is damaged");
pub(super) const BATCH_RUN_FAILED: ProblemKind =
    ProblemKind::new(StatusCode::INTERNAL_SERVER_ERROR, "batch-run-failed", "The batch run failed");
pub(super) const UNAVAILABLE: ProblemKind =
    ProblemKind::new(StatusCode::SERVICE_UNAVAILABLE, "unavailable", "The platform cannot do this now");
pub(super) const NOT_READY: ProblemKind =
    ProblemKind::new(StatusCode::SERVICE_UNAVAILABLE, "not-ready", "Not every view can be asked");
pub(super) const QUERY_DEADLINE: ProblemKind =
    ProblemKind::new(StatusCode::GATEWAY_TIMEOUT, "query-deadline", "The query did not end in time");
pub(super) const POSITION_TIMEOUT: ProblemKind =
    ProblemKind::new(StatusCode::GATEWAY_TIMEOUT, "position-timeout", "The position was not visible in time");
pub(super) const QUERY_MEMORY: ProblemKind =
    ProblemKind::new(StatusCode::INSUFFICIENT_STORAGE, "query-memory", "The query needs too much memory");

/// Which problem an error is; its status follows from that.
fn kind_of(error: &Error) -> ProblemKind {
    match error {
        Error::RequestReused { .. } => return REQUEST_REUSED,
        Error::OutOfSequence { .. } => return OUT_OF_SEQUENCE,
        Error::QueryMemory { .. } => return QUERY_MEMORY,
        Error::QueryDeadline { .. } => return QUERY_DEADLINE,
        Error::PositionTimeout { .. } => return POSITION_TIMEOUT,
        _ => {}
    }
    match error.kind() {
        ErrorKind::Invalid => INVALID_REQUEST,
        ErrorKind::NotFound => NOT_FOUND,
        ErrorKind::Conflict => CONFLICT,
        ErrorKind::Retryable => UNAVAILABLE,
        ErrorKind::Overloaded => OVERLOADED,
        ErrorKind::DiskFull => DISK_FULL,
        ErrorKind::Corrupt => CORRUPT_DATA,
        ErrorKind::Internal => INTERNAL_ERROR,
    }
}

/// Why a request was refused or failed.
#[derive(Debug)]
pub(super) struct Problem {
    kind: ProblemKind,
    detail: String,
    fields: Map<String, Value>,
    /// Names in lower case and values.
    headers: Vec<(&'static str, &'static str)>,
}

impl Problem {
    /// A problem of a kind; `detail` says what happened this time and what to do.
    pub(super) fn new(kind: ProblemKind, detail: impl Into<String>) -> Problem {
        let headers = kind.retry_after().map(|seconds| ("retry-after", seconds)).into_iter().collect();
        Problem { kind, detail: detail.into(), fields: Map::new(), headers }
    }

    /// Adds a field to the document.
    pub(super) fn with(mut self, name: &str, value: impl Into<Value>) -> Problem {
        self.fields.insert(name.to_owned(), value.into());
        self
    }

    /// Adds the fields of an object to the document.
    pub(super) fn with_fields_of(mut self, object: &impl Serialize) -> Problem {
        if let Ok(Value::Object(fields)) = serde_json::to_value(object) {
            self.fields.extend(fields);
        }
        self
    }

    /// Gives the response a header; `name` is in lower case.
    pub(super) fn with_header(mut self, name: &'static str, value: &'static str) -> Problem {
        self.headers.push((name, value));
        self
    }

    /// Ends the connection after this answer: the rest of the request is not read.
    pub(super) fn closing(self) -> Problem {
        self.with_header("connection", "close")
    }

    /// The answer as it is on the wire, for a request that never became one.
    pub(super) fn to_bytes(&self) -> Vec<u8> {
        let document = serde_json::to_vec(&self.document()).unwrap_or_default();
        let mut head = format!("HTTP/1.1 {}\r\ncontent-type: {MEDIA_TYPE}\r\n", self.kind.status);
        for (name, value) in &self.headers {
            head.push_str(&format!("{name}: {value}\r\n"));
        }
        head.push_str(&format!("content-length: {}\r\n\r\n", document.len()));
        [head.into_bytes(), document].concat()
    }

    fn document(&self) -> Document<'_> {
        let ProblemKind { slug, title, status } = self.kind;
        let r#type = slug.map_or_else(|| "about:blank".to_owned(), |slug| format!("{TYPES}{slug}"));
        Document { r#type, title, status: status.as_u16(), detail: &self.detail, fields: &self.fields }
    }
}

/// A problem as it is sent.
#[derive(Serialize)]
struct Document<'a> {
    r#type: String,
    title: &'static str,
    status: u16,
    detail: &'a str,
    #[serde(flatten)]
    fields: &'a Map<String, Value>,
}

/// Which problem a response is, for whoever counts them.
#[derive(Debug, Clone, Copy)]
struct Refused(ProblemKind);

impl From<Error> for Problem {
    fn from(error: Error) -> Problem {
        let kind = kind_of(&error);
        if matches!(kind, INTERNAL_ERROR | CORRUPT_DATA) {
            // The client cannot help here; whoever runs the platform has to see it.
            tracing::error!(error = %error, "a request failed");
        }
        let problem = Problem::new(kind, error.to_string());
        match error {
            Error::OutOfSequence { expected, .. } => problem.with("expected_sequence", expected),
            _ => problem,
        }
    }
}

impl From<SharedError> for Problem {
    fn from(error: SharedError) -> Problem {
        Error::from(error).into()
    }
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        let mut response = (self.kind.status, [(CONTENT_TYPE, MEDIA_TYPE)], Json(self.document())).into_response();
        for (name, value) in &self.headers {
            response.headers_mut().insert(*name, HeaderValue::from_static(value));
        }
        response.extensions_mut().insert(Refused(self.kind));
        response
    }
}

/// Counts what was refused or failed, by kind.
pub(super) async fn count(State(metrics): State<Metrics>, request: Request, next: Next) -> Response {
    let response = next.run(request).await;
    if let Some(Refused(kind)) = response.extensions().get() {
        metrics.requests_refused.get_or_create(&ReasonLabel { reason: kind.name() }).inc();
    }
    response
}

/// Gives a document to what the framework refused; its headers and its words stay.
pub(super) async fn complete(request: Request, next: Next) -> Response {
    let (method, uri) = (request.method().clone(), request.uri().clone());
    let response = next.run(request).await;
    let status = response.status();
    let is_refusal = status.is_client_error() || status.is_server_error();
    let is_document = response.headers().get(CONTENT_TYPE).is_some_and(|media_type| media_type == MEDIA_TYPE);
    if !is_refusal || is_document {
        return response;
    }
    let asked = format!("{method} {}", uri.path());
    let (mut parts, body) = response.into_parts();
    let words = to_bytes(body, DETAIL_BYTES_MAX).await.unwrap_or_default();
    let detail = match String::from_utf8_lossy(&words).trim() {
        "" => match status {
            StatusCode::NOT_FOUND => format!("there is no {asked}; GET / lists what there is"),
            StatusCode::METHOD_NOT_ALLOWED => {
                format!("there is no {asked}; the header allow says which methods there are")
            }
            _ => format!("{asked} was refused"),
        },
        words => words.to_owned(),
    };
    let document = Problem::new(ProblemKind::of_status(status), detail).into_response();
    // They described the body that is gone.
    parts.headers.remove(CONTENT_LENGTH);
    parts.headers.extend(document.headers().clone());
    Response::from_parts(parts, document.into_body())
}

/// The answer to a request whose handler panicked: a bug, which is logged and stays the bug of this request.
pub(super) fn of_panic(panic: Box<dyn Any + Send>) -> Response<Body> {
    let words = panic.downcast_ref::<String>().map(String::as_str);
    let words = words.or_else(|| panic.downcast_ref::<&str>().copied()).unwrap_or("no message");
    tracing::error!(panic = words, "a request ran into a bug");
    Problem::new(INTERNAL_ERROR, "the platform ran into a bug while answering; its log says which").into_response()
}
