//! `POST /v1/sources/{source}/events`: accepts events.

use std::sync::Arc;

use axum::Json;
use axum::extract::{Path, Request, State};
use axum::http::header::CONTENT_TYPE;
use axum::http::{HeaderMap, HeaderValue};
use axum::response::{IntoResponse, Response};
use watershed_shared::format::EventFormat;

use super::idempotency::{REPLAYED, receipt_key};
use super::problem::{EVENTS_REFUSED, Problem, UNSUPPORTED_TYPE};
use super::{Api, body};
use crate::backend::Ingested;

/// The content types that events come in.
const SUPPORTED: [&str; 4] =
    ["application/x-ndjson", "application/json", "text/csv", "application/vnd.apache.arrow.stream"];

/// Answers once the accepted events are durable: 200 if any row was accepted or there was none, 422 if all were
/// refused. A request that was answered so before gets that answer again.
pub(super) async fn ingest(
    State(api): State<Arc<Api>>,
    Path(source): Path<String>,
    request: Request,
) -> Result<Response, Problem> {
    let format = event_format(request.headers())?;
    let key = receipt_key(request.headers())?;
    let body = body::read_admitted(request, &api.options, api.backend.ingest_budget()).await?;
    let Ingested { report, replayed } = api.backend.ingest(&source, format, body.bytes, key).await?;
    drop(body.reservation);
    let mut response = if report.accepted > 0 || report.rejected == 0 {
        Json(report).into_response()
    } else {
        let first = report.errors.first().map(|error| format!("; the first, row {}: {}", error.row, error.reason));
        let detail = format!("all {} rows were refused{}", report.rejected, first.unwrap_or_default());
        Problem::new(EVENTS_REFUSED, detail).with_fields_of(&report).into_response()
    };
    if replayed {
        response.headers_mut().insert(REPLAYED, HeaderValue::from_static("true"));
    }
    Ok(response)
}

fn event_format(headers: &HeaderMap) -> Result<EventFormat, Problem> {
    let Some(value) = headers.get(CONTENT_TYPE) else {
        return Ok(EventFormat::NdJson);
    };
    let content_type = String::from_utf8_lossy(value.as_bytes());
    EventFormat::from_content_type(&content_type).ok_or_else(|| {
        let detail =
            format!("events are not read as \"{content_type}\"; send one of {}, in UTF-8", SUPPORTED.join(", "));
        Problem::new(UNSUPPORTED_TYPE, detail).with("supported", SUPPORTED.to_vec())
    })
}
