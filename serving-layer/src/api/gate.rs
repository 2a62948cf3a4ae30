//! The API before the platform is open: it says so, and how far the platform has come.

use std::sync::{Arc, OnceLock};

use axum::Router;
use axum::extract::{Request, State};
use axum::response::{IntoResponse, Response};
use tokio::sync::watch;
use tower::ServiceExt;

use super::problem::{NOT_READY, Problem};
use super::status;

/// Turns the API of a platform that is being opened into that of one that is open.
#[derive(Debug, Clone)]
pub struct Gate {
    open: Arc<OnceLock<Router>>,
    progress: watch::Receiver<String>,
}

impl Gate {
    /// A closed gate; `progress` says what the platform is doing.
    pub fn closed(progress: watch::Receiver<String>) -> Gate {
        Gate { open: Arc::default(), progress }
    }

    /// Lets requests through to `router` from now on. A second call changes nothing.
    pub fn open(&self, router: Router) {
        // An error says that it is open already.
        let _ = self.open.set(router);
    }

    /// The routes: until the gate is open, `/healthz` says that the process lives, and everything else is 503 with
    /// `Retry-After`.
    pub fn router(&self) -> Router {
        Router::new().fallback(pass).with_state(self.clone())
    }
}

async fn pass(State(gate): State<Gate>, request: Request) -> Response {
    if let Some(router) = gate.open.get() {
        let Ok(response) = router.clone().oneshot(request).await;
        return response;
    }
    if request.uri().path() == "/healthz" {
        return status::healthz().await.into_response();
    }
    let progress = gate.progress.borrow().clone();
    Problem::new(NOT_READY, format!("the platform is starting: {progress}; nothing was done")).into_response()
}
