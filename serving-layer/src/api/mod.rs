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
//! | 408 | `body-timeout` | the request's body was too slow |
//! | 409 | `conflict` | the request contradicts the platform's state |
//! | 413 | `body-too-large` | the request's body is larger than allowed, before or after decompression |
//! | 415 | `unsupported-media-type` | a content type or content encoding that is not read |
//! | 422 | `events-refused` | every row was refused; the document also has the report's fields |
//! | 500 | `internal-error`, `corrupt-data`, `batch-run-failed` | the platform's fault; also logged as an error |
//! | 503 | `unavailable`, `not-ready` | nothing was done; the same request may succeed after `Retry-After` seconds |
//! | 504 | `query-deadline` | the query ran longer than `query.timeout` |
//! | 504 | `position-timeout` | the position asked for was not visible within `query.position_timeout` |
//! | 507 | `query-memory` | the query needs more memory than `query.memory_bytes` |
//!
//! A wait for a position that ends without it is 504 and not 408: 408 says that the client was slow, and some clients
//! repeat such a request at once. What the framework refuses (no such path or method, a bad query string) has the type
//! `about:blank`.

mod accept;
mod body;
mod events;
mod problem;
mod sql;
mod status;
#[cfg(test)]
mod tests;

use std::future::Future;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::extract::Request;
use axum::middleware::from_fn;
use axum::response::Response;
use axum::routing::{get, post};
use axum::serve::ListenerExt;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;
use tower_http::CompressionLevel;
use tower_http::catch_panic::CatchPanicLayer;
use tower_http::compression::CompressionLayer;
use tower_http::compression::predicate::{NotForContentType, Predicate, SizeAbove};
use tower_http::trace::TraceLayer;
use tracing::Span;

use crate::backend::Backend;
use crate::query::QueryEngine;

/// How long requests that are under way may go on after the platform was told to stop.
const SHUTDOWN_GRACE: Duration = Duration::from_secs(10);
/// Responses below are sent as they are: they fit a packet or two either way.
const COMPRESSED_BYTES_MIN: u64 = 1024;

/// Limits of requests.
#[derive(Debug, Clone)]
pub struct ApiOptions {
    /// Largest request body in bytes, before and after decompression.
    pub body_bytes_max: usize,
    /// Longest time in which a request's body may arrive.
    pub body_timeout: Duration,
}

impl Default for ApiOptions {
    fn default() -> ApiOptions {
        ApiOptions { body_bytes_max: 64 << 20, body_timeout: Duration::from_secs(60) }
    }
}

/// What handlers work with.
struct Api {
    backend: Arc<dyn Backend>,
    engine: Arc<QueryEngine>,
    options: ApiOptions,
}

/// The API's routes over a platform, to be given to [`serve`].
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
    // The last layer is the outermost.
    routes()
        .layer(from_fn(problem::complete))
        .layer(CatchPanicLayer::custom(problem::of_panic))
        .layer(compression)
        .layer(trace)
        .with_state(Arc::new(Api { backend, engine, options }))
}

fn routes() -> Router<Arc<Api>> {
    Router::new()
        .route("/", get(status::index))
        .route("/v1/sources", get(status::sources))
        .route("/v1/sources/{source}/events", post(events::ingest))
        .route("/v1/sql", post(sql::query))
        .route("/v1/views", get(status::views))
        .route("/v1/views/{view}", get(status::view))
        .route("/v1/views/{view}/batch-runs", post(status::start_batch_run))
        .route("/v1/batch-runs", get(status::batch_runs))
        .route("/healthz", get(status::healthz))
        .route("/readyz", get(status::readyz))
        .route("/metrics", get(status::metrics))
}

/// Serves `router` on `listener` until `shutdown` completes; then takes no more connections, lets the requests that are
/// under way end, for at most ten seconds, and returns.
///
/// # Errors
/// None today: a failing socket is logged by axum and tried again.
pub async fn serve(
    listener: TcpListener,
    router: Router,
    shutdown: impl Future<Output = ()> + Send + 'static,
) -> io::Result<()> {
    // Without it a response of two small writes waits for the client's delayed acknowledgement.
    let listener = listener.tap_io(|connection| {
        if let Err(error) = connection.set_nodelay(true) {
            tracing::debug!(%error, "cannot set TCP_NODELAY");
        }
    });
    let stopping = CancellationToken::new();
    let stop = stopping.clone();
    let server = axum::serve(listener, router).with_graceful_shutdown(async move {
        shutdown.await;
        stop.cancel();
    });
    tokio::select! {
        ended = server.into_future() => ended,
        () = grace_after(stopping) => {
            tracing::warn!(seconds = SHUTDOWN_GRACE.as_secs(), "stopped with requests under way; they get no answer");
            Ok(())
        }
    }
}

async fn grace_after(stopping: CancellationToken) {
    stopping.cancelled().await;
    tokio::time::sleep(SHUTDOWN_GRACE).await;
}
