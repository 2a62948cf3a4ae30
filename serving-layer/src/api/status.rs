//! What the platform tells about itself: sources, views, batch runs, health and metrics. And the one thing that can be
//! asked of a view besides its rows: a batch run.

use std::sync::Arc;

use axum::Json;
use axum::extract::{Path, Query, Request, State};
use axum::http::StatusCode;
use axum::http::header::CONTENT_TYPE;
use axum::response::{IntoResponse, Response};
use serde::{Deserialize, Serialize};
use serde_json::json;
use watershed_shared::error::Error as SharedError;
use watershed_shared::log::Without;

use super::problem::{BATCH_RUN_FAILED, INTERNAL_ERROR, NOT_READY, Problem};
use super::{Api, body};
use crate::backend::{BatchRun, BatchRunKind, BatchRunState, SinkStatus, SourceStatus, ViewStatus};

const METRICS_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

const RESUME_EXAMPLE: &str = "{\"skip\": false}";
const REPLAY_EXAMPLE: &str = "{\"dry_run\": false}";
const BATCH_RUN_EXAMPLE: &str = "{\"kind\": \"full\"}";

/// Method, path and purpose of every endpoint.
pub(super) const ENDPOINTS: [(&str, &str, &str); 13] = [
    ("POST", "/v1/sources/{source}/events", "accepts events as NDJSON, JSON, CSV or an Arrow stream"),
    ("POST", "/v1/sql", "answers a SELECT over the views as JSON, CSV or an Arrow stream"),
    ("GET", "/v1/sources", "sources, with the positions of log, views and history"),
    (
        "POST",
        "/v1/sources/{source}/resume",
        "reads partitions again that have stopped; {\"skip\": true} without lost offsets",
    ),
    (
        "POST",
        "/v1/sources/{source}/dead-letters/replay",
        "writes dead letters to their topic again, each once; {\"dry_run\": true} only counts them",
    ),
    ("GET", "/v1/views", "views, with their definitions, sizes and last audits"),
    ("GET", "/v1/views/{view}", "one view"),
    ("GET", "/v1/sinks", "sinks, with up to where each has sent its view"),
    ("POST", "/v1/views/{view}/batch-runs", "starts a batch run; ?wait=true answers after its end"),
    ("GET", "/v1/batch-runs", "batch runs since the start, newest first; ?view= only of one view"),
    ("GET", "/healthz", "whether the process lives"),
    ("GET", "/readyz", "whether every view can be asked, and what is missing"),
    ("GET", "/metrics", "metrics in the OpenMetrics text format"),
];

/// `GET /`: the endpoints.
pub(super) async fn index() -> Response {
    let endpoints =
        ENDPOINTS.map(|(method, path, purpose)| json!({"method": method, "path": path, "purpose": purpose}));
    Json(json!({"name": "watershed", "version": env!("CARGO_PKG_VERSION"), "endpoints": endpoints})).into_response()
}

#[derive(Debug, Serialize)]
pub(super) struct Sources {
    sources: Vec<SourceStatus>,
}

/// `GET /v1/sources`.
pub(super) async fn sources(State(api): State<Arc<Api>>) -> Json<Sources> {
    Json(Sources { sources: api.backend.sources() })
}

#[derive(Debug, Serialize)]
pub(super) struct Sinks {
    sinks: Vec<SinkStatus>,
}

/// `GET /v1/sinks`.
pub(super) async fn sinks(State(api): State<Arc<Api>>) -> Json<Sinks> {
    Json(Sinks { sinks: api.backend.sinks() })
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct ResumeRequest {
    #[serde(default)]
    skip: bool,
    #[serde(default)]
    from_history: bool,
}

/// `POST /v1/sources/{source}/resume`: 200 with the partitions that are read again.
pub(super) async fn resume_source(
    State(api): State<Arc<Api>>,
    Path(source): Path<String>,
    request: Request,
) -> Result<Response, Problem> {
    let without = match body::read_json(request, &api.options, RESUME_EXAMPLE).await? {
        ResumeRequest { skip: true, .. } => Without::Lost,
        ResumeRequest { from_history: true, .. } => Without::Archived,
        _ => Without::Nothing,
    };
    let resumed = api.backend.resume_source(&source, without).await?;
    Ok(Json(json!({"resumed": resumed})).into_response())
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct ReplayRequest {
    #[serde(default)]
    dry_run: bool,
}

/// `POST /v1/sources/{source}/dead-letters/replay`: 200 with how many were written.
pub(super) async fn replay_dead_letters(
    State(api): State<Arc<Api>>,
    Path(source): Path<String>,
    request: Request,
) -> Result<Response, Problem> {
    let ReplayRequest { dry_run } = body::read_json(request, &api.options, REPLAY_EXAMPLE).await?;
    Ok(Json(api.backend.replay_dead_letters(&source, dry_run).await?).into_response())
}

#[derive(Debug, Serialize)]
pub(super) struct Views {
    views: Vec<ViewStatus>,
}

/// `GET /v1/views`.
pub(super) async fn views(State(api): State<Arc<Api>>) -> Json<Views> {
    Json(Views { views: api.backend.views() })
}

/// `GET /v1/views/{view}`.
pub(super) async fn view(State(api): State<Arc<Api>>, Path(name): Path<String>) -> Result<Json<ViewStatus>, Problem> {
    let mut views = api.backend.views();
    match views.iter().position(|view| view.name == name) {
        Some(index) => Ok(Json(views.swap_remove(index))),
        None => {
            let known = views.into_iter().map(|view| view.name).collect();
            Err(SharedError::NotFound { what: "view", name, known }.into())
        }
    }
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct StartOptions {
    #[serde(default)]
    wait: bool,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct StartRequest {
    kind: BatchRunKind,
}

/// `POST /v1/views/{view}/batch-runs`: 202 while the run goes on, 200 after it succeeded, 500 after it failed.
pub(super) async fn start_batch_run(
    State(api): State<Arc<Api>>,
    Path(view): Path<String>,
    Query(StartOptions { wait }): Query<StartOptions>,
    request: Request,
) -> Result<Response, Problem> {
    let StartRequest { kind } = body::read_json(request, &api.options, BATCH_RUN_EXAMPLE).await?;
    let run = api.backend.start_batch_run(&view, kind, wait).await?;
    match run.state {
        BatchRunState::Running => Ok((StatusCode::ACCEPTED, Json(run)).into_response()),
        BatchRunState::Succeeded => Ok(Json(run).into_response()),
        BatchRunState::Failed => {
            let reason = run.error.as_deref().unwrap_or("no reason was recorded");
            let detail =
                format!("batch run {} of view \"{}\" failed: {reason}; the view is unchanged", run.id, run.view);
            Err(Problem::new(BATCH_RUN_FAILED, detail).with_fields_of(&json!({"batch_run": run})))
        }
    }
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RunFilter {
    view: Option<String>,
}

#[derive(Debug, Serialize)]
pub(super) struct BatchRuns {
    batch_runs: Vec<BatchRun>,
}

/// `GET /v1/batch-runs`.
pub(super) async fn batch_runs(State(api): State<Arc<Api>>, Query(filter): Query<RunFilter>) -> Json<BatchRuns> {
    let mut batch_runs = api.backend.batch_runs();
    if let Some(view) = filter.view {
        batch_runs.retain(|run| run.view == view);
    }
    Json(BatchRuns { batch_runs })
}

/// `GET /healthz`: the process lives and answers requests.
pub(super) async fn healthz() -> Response {
    Json(json!({"status": "ok"})).into_response()
}

/// `GET /readyz`: 503 until every view can be asked. What needs attention is told in both cases.
pub(super) async fn readyz(State(api): State<Arc<Api>>) -> Result<Response, Problem> {
    let readiness = api.backend.readiness();
    if readiness.ready {
        return Ok(Json(readiness).into_response());
    }
    let problem = Problem::new(NOT_READY, readiness.detail.join("; "));
    Err(problem.with("ready", false).with("reasons", readiness.detail))
}

/// `GET /metrics`.
pub(super) async fn metrics(State(api): State<Arc<Api>>) -> Result<Response, Problem> {
    api.backend.refresh_metrics().await;
    let text = api.backend.metrics().encode();
    let text = text.map_err(|error| Problem::new(INTERNAL_ERROR, format!("the metrics cannot be written: {error}")))?;
    Ok(([(CONTENT_TYPE, METRICS_TYPE)], text).into_response())
}
