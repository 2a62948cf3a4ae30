//! Users' SQL over HTTP: any text gets an answer or a refusal in time, and reads nothing but views.

use std::sync::{Arc, LazyLock};
use std::time::{Duration, Instant};

use async_trait::async_trait;
use axum::Router;
use axum::body::{Body, to_bytes};
use axum::http::Request;
use axum::http::header::{ACCEPT, CONTENT_TYPE};
use bytes::Bytes;
use datafusion::execution::runtime_env::RuntimeEnv;
use serde_json::{Value, json};
use tokio::sync::watch;
use tower::ServiceExt;
use watershed_serving_layer::api::{ApiOptions, router};
use watershed_serving_layer::{
    Backend, BatchRun, BatchRunKind, Ingested, QueryEngine, Readiness, Replayed, Result, ResumedPartition, SinkStatus,
    SourceStatus, ViewStatus, query_runtime,
};
use watershed_shared::budget::MemoryBudget;
use watershed_shared::config::QueryConfig;
use watershed_shared::cpu::CpuPool;
use watershed_shared::definition::{Statement, parse_definitions};
use watershed_shared::format::{EventDecoder, EventFormat};
use watershed_shared::log::{ReceiptKey, Without};
use watershed_shared::plan::{PartialProgram, compile};
use watershed_shared::position::{Boundary, Offset, Position};
use watershed_shared::snapshot::{RealtimeSize, SnapshotReceiver, SourceSnapshot, ViewSnapshot};
use watershed_shared::telemetry::Metrics;

use crate::{block_on, law};

const DEFINITIONS: &str = "
    CREATE SOURCE events (t TIMESTAMP NOT NULL, k TEXT, v BIGINT, x DOUBLE, d DECIMAL(10, 2), y DATE, b BOOLEAN, a BIGINT[],
                          WATERMARK FOR t AS t - INTERVAL '1 minute');
    CREATE MATERIALIZED VIEW by_key AS
        SELECT k, count(*) AS n, sum(v) AS v, avg(x) AS x, max(d) AS d, min(t) AS t, approx_distinct(v) AS u
        FROM events GROUP BY k;
    CREATE MATERIALIZED VIEW rows AS SELECT t, k, v, x, d, y, b, a FROM events";

const ROWS: &str = r#"
{"t":"2024-02-29T23:59:59Z","k":"a","v":5,"x":0.5,"d":"1.25","y":"2024-02-29","b":true,"a":[1,2]}
{"t":"1970-01-01T00:00:00Z","k":"a","v":-9223372036854775808,"x":-2.25,"d":"-1.25","y":"1970-01-01","b":false,"a":[]}
{"t":"9999-12-31T12:00:00.123456Z","k":"","v":9223372036854775807,"x":1e308,"d":"0.01","y":"9999-12-31","b":true}
{"t":"0001-01-01T00:00:00Z","k":"ü%_\\","v":0,"x":-0.0,"d":"99999999.99","y":"0001-01-01","a":[null]}
{"t":"2024-03-31T01:30:00Z"}
"#;

/// A file that no query may read; its name is in the corpus.
const SECRET_FILE: &str = "/tmp/watershed-fuzz-secret.csv";
const SECRET: &str = "in-the-file-only";

/// Longest time until an answer. Far above the deadline: the machine may be busy, but nothing may run on for ever.
const ANSWER_TIME_MAX: Duration = Duration::from_secs(20);

#[derive(Debug)]
struct FixedViews {
    snapshots: watch::Sender<Arc<SourceSnapshot>>,
    metrics: Metrics,
}

#[async_trait]
impl Backend for FixedViews {
    fn snapshots(&self) -> Vec<(String, SnapshotReceiver)> {
        vec![("events".to_owned(), self.snapshots.subscribe())]
    }

    fn sources(&self) -> Vec<SourceStatus> {
        Vec::new()
    }

    fn views(&self) -> Vec<ViewStatus> {
        Vec::new()
    }

    fn sinks(&self) -> Vec<SinkStatus> {
        Vec::new()
    }

    fn ingest_budget(&self) -> &Arc<MemoryBudget> {
        panic!("a query sends events")
    }

    async fn ingest(&self, _: &str, _: EventFormat, _: Bytes, _: Option<ReceiptKey>) -> Result<Ingested> {
        panic!("a query sends events")
    }

    async fn resume_source(&self, _source: &str, _without: Without) -> Result<Vec<ResumedPartition>> {
        Ok(Vec::new())
    }

    async fn replay_dead_letters(&self, _source: &str, _dry_run: bool) -> Result<Replayed> {
        panic!("a query replays dead letters")
    }

    async fn start_batch_run(&self, _view: &str, _kind: BatchRunKind, _wait: bool) -> Result<BatchRun> {
        panic!("a query starts a batch run")
    }

    fn batch_runs(&self) -> Vec<BatchRun> {
        Vec::new()
    }

    fn readiness(&self) -> Readiness {
        Readiness { ready: true, detail: Vec::new() }
    }

    fn metrics(&self) -> &Metrics {
        &self.metrics
    }

    async fn refresh_metrics(&self) {}
}

static API: LazyLock<Router> = LazyLock::new(|| {
    std::fs::write(SECRET_FILE, format!("k\n{SECRET}\n")).unwrap();
    let backend: Arc<dyn Backend> =
        Arc::new(FixedViews { snapshots: watch::Sender::new(Arc::new(block_on(snapshot()))), metrics: Metrics::new() });
    let options = QueryConfig {
        timeout: Duration::from_secs(2),
        position_timeout: Duration::from_millis(10),
        memory_bytes: 64 << 20,
        answer_bytes_max: 4 << 20,
        parallelism: 1,
    };
    let runtime = query_runtime(&options).unwrap();
    let engine = QueryEngine::new(Arc::clone(&backend), options, runtime, CpuPool::new(1).unwrap());
    router(backend, Arc::new(engine), ApiOptions::default())
});

async fn snapshot() -> SourceSnapshot {
    let mut statements = parse_definitions(DEFINITIONS).unwrap().into_iter();
    let Some(Statement::Source(source)) = statements.next() else { panic!("no source") };
    let source = Arc::new(source);
    let decoded = EventDecoder::new(&source).unwrap().decode(EventFormat::NdJson, ROWS.as_bytes()).unwrap();
    assert_eq!(decoded.rejected, []);
    let events = law::logged(&source, decoded.events);
    let mut snapshot = SourceSnapshot {
        source: Arc::clone(&source),
        applied: Position::new(vec![Offset(events.num_rows() as u64)]),
        watermark_us: Some(0),
        timeless: Vec::new(),
        gaps: Default::default(),
        views: Default::default(),
        failures: Default::default(),
    };
    for statement in statements {
        let Statement::View(view) = statement else { continue };
        let plan = Arc::new(compile(&view, Arc::clone(&source)).await.unwrap());
        let program = PartialProgram::new(&plan, Arc::new(RuntimeEnv::default())).await.unwrap();
        let view = ViewSnapshot {
            plan,
            batch: None,
            boundary: Boundary::beginning(1),
            runs: program.run(vec![events.clone()]).await.unwrap(),
            stored_runs: Vec::new(),
            realtime: RealtimeSize::default(),
        };
        snapshot.views.insert(view.plan.name.clone(), view);
    }
    snapshot
}

/// The last byte chooses the answer's format where it is no character of SQL.
pub(crate) fn query(data: &[u8]) {
    let (accept, data) = match data.split_last() {
        Some((1, data)) => ("text/csv", data),
        Some((2, data)) => ("application/vnd.apache.arrow.stream", data),
        _ => ("application/json", data),
    };
    let Ok(sql) = std::str::from_utf8(data) else { return };
    // Making it takes the runtime, which cannot be taken twice.
    LazyLock::force(&API);
    let started = Instant::now();
    let (status, body) = block_on(ask(sql, accept));
    assert!(started.elapsed() < ANSWER_TIME_MAX, "answered after {:?}", started.elapsed());
    assert!(sql.contains(SECRET) || !contains(&body, SECRET.as_bytes()), "a file was read");
    match status {
        200 if accept == "application/json" => drop(serde_json::from_slice::<Value>(&body).unwrap()),
        200 | 400 | 404 | 406 | 504 | 507 => {}
        status => panic!("{status}: {}", String::from_utf8_lossy(&body)),
    }
}

async fn ask(sql: &str, accept: &str) -> (u16, Bytes) {
    let body = Body::from(json!({ "sql": sql }).to_string());
    let request = Request::post("/v1/sql").header(CONTENT_TYPE, "application/json").header(ACCEPT, accept).body(body);
    let response = API.clone().oneshot(request.unwrap()).await.unwrap();
    let status = response.status().as_u16();
    (status, to_bytes(response.into_body(), usize::MAX).await.unwrap())
}

fn contains(text: &[u8], wanted: &[u8]) -> bool {
    text.windows(wanted.len()).any(|window| window == wanted)
}
