//! Takes connections, and keeps every one of them within bounds of number, memory and time.
//!
//! | client | what happens |
//! |---|---|
//! | one too many | 503 for everything but health and metrics, then the connection is closed |
//! | sends a request's head too slowly | 408, the connection is closed; without a word if no byte of a request came |
//! | sends a head larger than 64 KiB | 431 |
//! | sends a body too slowly | 408, from [`super::body`] |
//! | takes its answer too slowly | the connection is closed, so that the answer does not look whole |
//!
//! What a client still sends after its answer is read and dropped for a moment: closing at once would reset the
//! connection, and the client would see that instead of its answer.

use std::future::poll_fn;
use std::io;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use axum::Router;
use axum::extract::Request;
use axum::middleware::{Next, from_fn};
use axum::response::{IntoResponse, Response};
use axum::serve::Listener;
use hyper::server::conn::http1;
use hyper::service::{Service, service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio::time::{Instant, Sleep};
use tokio_util::sync::CancellationToken;
use watershed_shared::config::ConnectionsConfig;
use watershed_shared::telemetry::{Metrics, ReasonLabel};

use super::pace::Pace;
use super::problem::{HEADER_TIMEOUT, Problem, TOO_MANY_CONNECTIONS};

/// Memory of one connection for what it reads and writes, and so the largest head of a request.
const CONNECTION_BYTES_MAX: usize = 64 << 10;
/// Connections beyond the bound that are told so; with still more of them the next ones are just closed.
const REFUSED_MAX: usize = 64;
/// How long a client that still sends is listened to after its last answer.
const LINGER: Duration = Duration::from_secs(2);
/// What is read of it at once.
const LINGER_BYTES: usize = 32 << 10;
/// What is answered also when there are too many connections: whoever watches the platform must not take it for dead.
const ALWAYS_ANSWERED: [&str; 3] = ["/healthz", "/readyz", "/metrics"];

/// Serves `router` on `listener` until `shutdown` completes; then takes no more connections, lets the requests that are
/// under way end, for at most `limits.stop_timeout`, and returns.
///
/// # Errors
/// None today: a failing socket is logged by axum and tried again.
pub async fn serve(
    mut listener: TcpListener,
    router: Router,
    limits: ConnectionsConfig,
    metrics: Metrics,
    shutdown: impl Future<Output = ()> + Send + 'static,
) -> io::Result<()> {
    let places = Arc::new(Semaphore::new(limits.count_max.clamp(1, Semaphore::MAX_PERMITS)));
    let refused_places = Arc::new(Semaphore::new(REFUSED_MAX));
    let count_max = limits.count_max;
    let refusing = router.clone().layer(from_fn(move |request, next| refuse(count_max, request, next)));
    let server = Server { limits, metrics, stopping: CancellationToken::new() };
    let mut connections = JoinSet::new();
    let mut shutdown = pin!(shutdown);
    loop {
        let stream = tokio::select! {
            () = &mut shutdown => break,
            Some(_) = connections.join_next() => continue,
            (stream, _) = Listener::accept(&mut listener) => stream,
        };
        let (place, router) = match Arc::clone(&places).try_acquire_owned() {
            Ok(place) => (place, router.clone()),
            Err(_) => match Arc::clone(&refused_places).try_acquire_owned() {
                Ok(place) => (place, refusing.clone()),
                Err(_) => {
                    server.count_refusal(TOO_MANY_CONNECTIONS.name());
                    continue;
                }
            },
        };
        let server = server.clone();
        connections.spawn(async move {
            server.metrics.connections.inc();
            server.connection(stream, router).await;
            server.metrics.connections.dec();
            drop(place);
        });
    }
    drop(listener);
    server.stopping.cancel();
    let ended = async { while connections.join_next().await.is_some() {} };
    let stop_timeout = server.limits.stop_timeout;
    if tokio::time::timeout(stop_timeout, ended).await.is_err() {
        tracing::warn!(?stop_timeout, "stopped with requests under way; they get no answer");
        connections.shutdown().await;
    }
    Ok(())
}

async fn refuse(count_max: usize, request: Request, next: Next) -> Response {
    if ALWAYS_ANSWERED.contains(&request.uri().path()) {
        let mut response = next.run(request).await;
        response.headers_mut().insert("connection", axum::http::HeaderValue::from_static("close"));
        return response;
    }
    let detail = format!(
        "there are connections.count_max = {count_max} connections; nothing was done; close unused ones, send several \
         requests on one, or raise connections.count_max"
    );
    Problem::new(TOO_MANY_CONNECTIONS, detail).closing().into_response()
}

/// What all connections share.
#[derive(Clone)]
struct Server {
    limits: ConnectionsConfig,
    metrics: Metrics,
    stopping: CancellationToken,
}

impl Server {
    /// Serves one connection to its end.
    async fn connection(&self, stream: TcpStream, router: Router) {
        // Without it a response of two small writes waits for the client's delayed acknowledgement.
        if let Err(error) = stream.set_nodelay(true) {
            tracing::debug!(%error, "cannot set TCP_NODELAY");
        }
        let io = PacedStream { stream, pace: Pace::new(&self.limits), waiting: None };
        let service = TowerToHyperService::new(router);
        let service = service_fn(move |request| Box::pin(service.call(request)));
        let mut connection = http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(self.limits.header_timeout)
            .max_buf_size(CONNECTION_BYTES_MAX)
            .serve_connection(TokioIo::new(io), service);
        let ended = tokio::select! {
            ended = poll_fn(|cx| connection.poll_without_shutdown(cx)) => ended,
            () = self.stopping.cancelled() => {
                Pin::new(&mut connection).graceful_shutdown();
                poll_fn(|cx| connection.poll_without_shutdown(cx)).await
            }
        };
        let parts = connection.into_parts();
        let mut stream = parts.io.into_inner().stream;
        match ended {
            Ok(()) => linger(&mut stream).await,
            // A connection without a request has come to its end, which is nobody's fault.
            Err(error) if error.is_timeout() && parts.read_buf.is_empty() => {}
            Err(error) if error.is_timeout() => {
                self.count_refusal(HEADER_TIMEOUT.name());
                let detail = format!(
                    "the request's head did not arrive within connections.header_timeout = {:?}; nothing was done",
                    self.limits.header_timeout
                );
                let response = Problem::new(HEADER_TIMEOUT, detail).closing().to_bytes();
                // The client may be gone.
                let _ = tokio::time::timeout(LINGER, stream.write_all(&response)).await;
                linger(&mut stream).await;
            }
            Err(error) if is_slow_answer(&error) => self.count_refusal("answer-timeout"),
            // Perhaps what came was no request, and was told so.
            Err(error) => {
                tracing::debug!(%error, "a connection broke");
                linger(&mut stream).await;
            }
        }
    }

    fn count_refusal(&self, reason: &'static str) {
        self.metrics.requests_refused.get_or_create(&ReasonLabel { reason }).inc();
    }
}

/// Whether a connection ended because [`PacedStream`] found its client too slow.
fn is_slow_answer(error: &hyper::Error) -> bool {
    let source = std::error::Error::source(error).and_then(|source| source.downcast_ref::<io::Error>());
    source.is_some_and(|source| source.kind() == io::ErrorKind::TimedOut)
}

/// Ends a connection in such a way that the client reads what was sent to it.
async fn linger(stream: &mut TcpStream) {
    if stream.shutdown().await.is_err() {
        return;
    }
    let mut dropped = vec![0; LINGER_BYTES];
    let drain = async { while stream.read(&mut dropped).await.is_ok_and(|bytes| bytes > 0) {} };
    // A client that goes on sending is cut off.
    let _ = tokio::time::timeout(LINGER, drain).await;
}

/// A connection on which a write fails when the client takes its answer too slowly.
struct PacedStream {
    stream: TcpStream,
    pace: Pace,
    /// Since when a write waits for the client, and until when it may.
    waiting: Option<(Instant, Pin<Box<Sleep>>)>,
}

impl PacedStream {
    fn paced(&mut self, cx: &mut Context<'_>, written: Poll<io::Result<usize>>) -> Poll<io::Result<usize>> {
        let Poll::Ready(written) = written else {
            let left = self.pace.left();
            let (_, sleep) = self.waiting.get_or_insert_with(|| (Instant::now(), Box::pin(tokio::time::sleep(left))));
            ready!(sleep.as_mut().poll(cx));
            return Poll::Ready(Err(io::ErrorKind::TimedOut.into()));
        };
        let waited = self.waiting.take().map_or(Duration::ZERO, |(since, _)| since.elapsed());
        self.pace.waited(waited, written.as_ref().copied().unwrap_or_default());
        Poll::Ready(written)
    }
}

impl AsyncRead for PacedStream {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(cx, buffer)
    }
}

impl AsyncWrite for PacedStream {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write(cx, bytes);
        self.paced(cx, written)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write_vectored(cx, bytes);
        self.paced(cx, written)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}
