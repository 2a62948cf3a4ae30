//! A small HTTP server for tests: answers requests with a list of replies, in order, and remembers the requests.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError};

use axum::Router;
use axum::body::{Body, Bytes};
use axum::extract::State;
use axum::http::{HeaderMap, Response, StatusCode, Uri};
use tokio::net::TcpListener;
use tokio::task::JoinHandle;

/// A server whose replies are written down beforehand. When they run out, every request gets a 500.
pub(crate) struct Fake {
    /// Where it listens.
    pub(crate) url: String,
    shared: Arc<Mutex<Shared>>,
    server: JoinHandle<()>,
}

/// A request that arrived.
#[derive(Debug, Clone)]
pub(crate) struct Request {
    /// Path and query.
    pub(crate) target: String,
    pub(crate) headers: HeaderMap,
    pub(crate) body: Vec<u8>,
}

/// What to answer to one request.
#[derive(Debug, Clone)]
pub(crate) struct Reply {
    status: u16,
    headers: Vec<(&'static str, String)>,
    body: String,
    cut_off: bool,
}

#[derive(Default)]
struct Shared {
    replies: VecDeque<Reply>,
    requests: Vec<Request>,
}

/// A JSON answer.
pub(crate) fn reply(status: u16, body: &str) -> Reply {
    let headers = vec![("content-type", "application/json".to_owned())];
    Reply { status, headers, body: body.to_owned(), cut_off: false }
}

/// A problem document.
pub(crate) fn problem(status: u16, title: &str, detail: &str) -> Reply {
    let body = serde_json::json!({"type": "about:blank", "title": title, "status": status, "detail": detail});
    reply(status, &body.to_string()).with_header("content-type", "application/problem+json")
}

/// A problem document of the platform, of a kind that its `type` ends in.
pub(crate) fn problem_of_kind(status: u16, kind: &str) -> Reply {
    let body = serde_json::json!({"type": format!("https://watershed.dev/problems/{kind}"), "title": kind,
        "status": status, "detail": format!("the detail of {kind}")});
    reply(status, &body.to_string()).with_header("content-type", "application/problem+json")
}

impl Reply {
    /// The same reply with one header set.
    pub(crate) fn with_header(mut self, name: &'static str, value: &str) -> Reply {
        self.headers.retain(|(known, _)| *known != name);
        self.headers.push((name, value.to_owned()));
        self
    }

    /// The same reply, but the connection breaks before its body arrives.
    pub(crate) fn cut_off(mut self) -> Reply {
        self.cut_off = true;
        self
    }

    fn into_response(self) -> Result<Response<Body>, axum::http::Error> {
        let mut response = Response::builder().status(self.status);
        for (name, value) in self.headers {
            response = response.header(name, value);
        }
        if self.cut_off {
            let broken = futures::stream::once(async { Err::<Bytes, _>(std::io::Error::other("cut off")) });
            return response.body(Body::from_stream(broken));
        }
        response.body(Body::from(self.body))
    }
}

impl Fake {
    /// Listens on a free port of this machine.
    pub(crate) async fn start(replies: impl IntoIterator<Item = Reply>) -> Fake {
        let shared = Arc::new(Mutex::new(Shared { replies: replies.into_iter().collect(), requests: Vec::new() }));
        #[expect(clippy::expect_used, reason = "a test may panic")]
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        #[expect(clippy::expect_used, reason = "a test may panic")]
        let url = format!("http://{}/", listener.local_addr().expect("a bound socket"));
        let router = Router::new().fallback(answer).with_state(Arc::clone(&shared));
        let server = tokio::spawn(async move {
            let _ = axum::serve(listener, router).await;
        });
        Fake { url, shared, server }
    }

    /// The requests so far, in the order of their arrival.
    pub(crate) fn requests(&self) -> Vec<Request> {
        self.shared.lock().unwrap_or_else(PoisonError::into_inner).requests.clone()
    }

    /// Adds replies after those that are left.
    pub(crate) fn reply_with(&self, replies: impl IntoIterator<Item = Reply>) {
        self.shared.lock().unwrap_or_else(PoisonError::into_inner).replies.extend(replies);
    }

    /// Stops listening.
    pub(crate) async fn stop(self) {
        self.server.abort();
        let _ = self.server.await;
    }
}

async fn answer(
    State(shared): State<Arc<Mutex<Shared>>>,
    target: Uri,
    headers: HeaderMap,
    body: Bytes,
) -> Response<Body> {
    let reply = {
        let mut shared = shared.lock().unwrap_or_else(PoisonError::into_inner);
        shared.requests.push(Request { target: target.to_string(), headers, body: body.to_vec() });
        shared.replies.pop_front()
    };
    let response = reply.unwrap_or_else(|| problem(500, "no reply left", "the test expects fewer requests"));
    response.into_response().unwrap_or_else(|error| {
        let mut response = Response::new(Body::from(error.to_string()));
        *response.status_mut() = StatusCode::INTERNAL_SERVER_ERROR;
        response
    })
}
