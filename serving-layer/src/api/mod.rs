//! The HTTP API.
//!
//! `GET /` lists the endpoints. Handlers only translate: requests into calls of [`Backend`] and [`QueryEngine`],
//! outcomes into responses. Every refusal and failure is a problem document (RFC 9457) whose `type` tells its kind:
//!
//! | status | `type` ends in | when |
//! |---|---|---|
//! | 400 | `invalid-request` | a body, position or SQL that is wrong; it will never succeed |
//! | 404 | `not-found` | no source or view of that name; the detail lists those there are |
//! | 406 | `not-acceptable` | `Accept` asks for no format that the answer has |
//! | 408 | `body-timeout`, `header-timeout` | the request's body or head was too slow |
//! | 409 | `conflict` | the request contradicts the platform's state |
//! | 409 | `sequence-out-of-order` | a producer's request is not its next one; the document has `expected_sequence` |
//! | 413 | `body-too-large` | the request's body is larger than allowed, before or after decompression |
//! | 415 | `unsupported-media-type` | a content type or content encoding that is not read |
//! | 422 | `events-refused` | every row was refused; the document also has the report's fields |
//! | 422 | `idempotency-key-reused` | the key or number stands for a request with another body |
//! | 429 | `overloaded` | more events arrive than `ingest.memory_bytes` can hold; nothing was done |
//! | 500 | `internal-error`, `corrupt-data`, `batch-run-failed` | the platform's fault; also logged as an error |
//! | 503 | `unavailable`, `not-ready`, `too-many-connections` | nothing was done; the same request may succeed after `Retry-After` seconds |
//! | 504 | `query-deadline` | the query ran longer than `query.timeout` |
//! | 504 | `position-timeout` | the position asked for was not visible within `query.position_timeout` |
//! | 507 | `disk-full` | the disk of the log is full; nothing was done |
//! | 507 | `query-memory` | the query needs more memory than `query.memory_bytes` |
//!
//! A wait for a position that ends without it is 504 and not 408: 408 says that the client was slow, and some clients
//! repeat such a request at once. What the framework refuses (no such path or method, a bad query string) has the type
//! `about:blank`.

mod accept;
mod body;
mod events;
mod gate;
mod idempotency;
mod pace;
mod problem;
mod serve;
mod sql;
mod status;
#[cfg(test)]
mod tests;

use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::extract::Request;
use axum::middleware::{from_fn, from_fn_with_state};
use axum::response::Response;
use axum::routing::{get, post};
use tower_http::CompressionLevel;
use tower_http::catch_panic::CatchPanicLayer;
use tower_http::compression::CompressionLayer;
use tower_http::compression::predicate::{NotForContentType, Predicate, SizeAbove};
use tower_http::trace::TraceLayer;
use tracing::Span;
use watershed_shared::config::{Config, ConnectionsConfig};

pub use self::gate::Gate;
pub use self::serve::serve;
use crate::backend::Backend;
use crate::query::QueryEngine;

/// Responses below are sent as they are: they fit a packet or two either way.
const COMPRESSED_BYTES_MIN: u64 = 1024;

/// Limits of requests.
#[derive(Debug, Clone)]
pub struct ApiOptions {
    /// Largest request body in bytes, before and after decompression.
    pub body_bytes_max: usize,
    /// How slowly a request's body may arrive.
    pub connections: ConnectionsConfig,
}

impl ApiOptions {
    /// The limits that are configured.
    pub fn of(config: &Config) -> ApiOptions {
        ApiOptions { body_bytes_max: config.ingest.body_bytes_max, connections: config.connections.clone() }
    }
}

impl Default for ApiOptions {
    fn default() -> ApiOptions {
        ApiOptions::of(&Config::default())
    }
}

/// What handlers work with.
struct Api {
    backend: Arc<dyn Backend>,
    engine: Arc<QueryEngine>,
    options: ApiOptions,
}

/// The API's routes over a platform, to be given to [`serve()`].
pub fn router(backend: Arc<dyn Backend>, engine: Arc<QueryEngine>, options: ApiOptions) -> Router {
    let trace = TraceLayer::new_for_http()
        .make_span_with(|request: &Request| {
            tracing::debug_span!("request", method = %request.method(), path = request.uri().path())
        })
        .on_request(())
        .on_response(|response: &Response<_>, latency: Duration, _: &Span| {
            tracing::debug!(status = response.status().as_u16(), latency_us = latency.as_micros(), "answered");
        })
        // Whoever makes a response of a failure has logged the failure.
        .on_failure(());
    let compression = CompressionLayer::new()
        .quality(CompressionLevel::Fastest)
        .compress_when(SizeAbove::new(COMPRESSED_BYTES_MIN).and(NotForContentType::SSE));
    let metrics = backend.metrics().clone();
    // The last layer is the outermost.
    routes()
        .layer(from_fn(problem::complete))
        .layer(CatchPanicLayer::custom(problem::of_panic))
        .layer(from_fn_with_state(metrics, problem::count))
        .layer(compression)
        .layer(trace)
        .with_state(Arc::new(Api { backend, engine, options }))
}

fn routes() -> Router<Arc<Api>> {
    Router::new()
        .route("/", get(status::index))
        .route("/v1/sources", get(status::sources))
        .route("/v1/sinks", get(status::sinks))
        .route("/v1/sources/{source}/events", post(events::ingest))
        .route("/v1/sources/{source}/resume", post(status::resume_source))
        .route("/v1/sources/{source}/dead-letters/replay", post(status::replay_dead_letters))
        .route("/v1/sql", post(sql::query))
        .route("/v1/views", get(status::views))
        .route("/v1/views/{view}", get(status::view))
        .route("/v1/views/{view}/batch-runs", post(status::start_batch_run))
        .route("/v1/batch-runs", get(status::batch_runs))
        .route("/healthz", get(status::healthz))
        .route("/readyz", get(status::readyz))
        .route("/metrics", get(status::metrics))
}
