//! The API from the outside: requests into the router, responses out, over a platform that only records what is asked.

use std::convert::Infallible;
use std::io;
use std::sync::Mutex;

use arrow::array::AsArray;
use arrow::datatypes::Int64Type;
use arrow::ipc::reader::StreamReader;
use async_trait::async_trait;
use axum::body::{Body, to_bytes};
use axum::http::header::{
    ACCEPT, ACCEPT_ENCODING, ALLOW, CONTENT_ENCODING, CONTENT_LENGTH, CONTENT_TYPE, HeaderName, RETRY_AFTER,
};
use axum::http::{HeaderMap, Method, StatusCode};
use bytes::Bytes;
use futures::stream;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::oneshot;
use tower::ServiceExt;
use watershed_shared::budget::MemoryBudget;
use watershed_shared::config::QueryConfig;
use watershed_shared::cpu::CpuPool;
use watershed_shared::error::Error as SharedError;
use watershed_shared::format::EventFormat;
use watershed_shared::log::{ReceiptKey, Without};
use watershed_shared::sink::SinkMode;
use watershed_shared::snapshot::SnapshotReceiver;
use watershed_shared::telemetry::{Metrics, SourceLabel};

mod limits;
mod resume;

use super::idempotency::REPLAYED;
use super::*;
use crate::answer::OffsetGap;
use crate::backend::*;
use crate::error::{Error, Result};
use crate::query::query_runtime;

type TestResult = std::result::Result<(), Box<dyn std::error::Error>>;

/// Answers with what it was given and remembers what it was asked.
#[derive(Debug, Default)]
struct FakePlatform {
    ingested: Mutex<Vec<(String, EventFormat, Bytes)>>,
    /// Requests that had a key, with their bodies.
    named: Mutex<Vec<(ReceiptKey, Bytes)>>,
    report: Option<IngestReport>,
    views: Vec<ViewStatus>,
    runs: Vec<BatchRun>,
    run_ends_as: Option<BatchRunState>,
    /// Makes `ingest` fail.
    failure: Mutex<Option<Error>>,
    not_ready: Vec<String>,
    metrics: Metrics,
    budget: Budget,
}

/// The budget of a platform without much to do.
#[derive(Debug)]
struct Budget(Arc<MemoryBudget>);

impl Default for Budget {
    fn default() -> Budget {
        Budget(Arc::new(MemoryBudget::new(1 << 20)))
    }
}

#[async_trait]
impl Backend for FakePlatform {
    fn snapshots(&self) -> Vec<(String, SnapshotReceiver)> {
        Vec::new()
    }

    fn sinks(&self) -> Vec<SinkStatus> {
        vec![SinkStatus {
            name: "changes".into(),
            view: "a".into(),
            topic: "pages".into(),
            sql: "CREATE SINK changes FROM a INTO 'pages'".into(),
            mode: Some(SinkMode::Update),
            sent: Some(vec![2, 1]),
            closed_before: None,
            records: 3,
            trouble: None,
        }]
    }

    fn sources(&self) -> Vec<SourceStatus> {
        vec![SourceStatus {
            name: "edits".into(),
            sql: "CREATE SOURCE edits (n BIGINT)".into(),
            columns: vec![ColumnStatus { name: "n".into(), sql_type: "BIGINT".into(), nullable: true }],
            partitions: 2,
            position: "edits=12,40".into(),
            offsets: vec![12, 40],
            applied: vec![12, 39],
            history_offsets: vec![0, 0],
            history_version: None,
            watermark: None,
            troubles: vec![],
            gaps: vec![],
        }]
    }

    fn views(&self) -> Vec<ViewStatus> {
        self.views.clone()
    }

    fn ingest_budget(&self) -> &Arc<MemoryBudget> {
        &self.budget.0
    }

    async fn ingest(
        &self,
        source: &str,
        format: EventFormat,
        body: Bytes,
        key: Option<ReceiptKey>,
    ) -> Result<Ingested> {
        assert_ne!(source, "panics", "a bug in the platform");
        if let Some(failure) = self.failure.lock().ok().and_then(|mut failure| failure.take()) {
            return Err(failure);
        }
        let rows = body.iter().filter(|byte| **byte == b'\n').count();
        let mut replayed = false;
        if let (Some(key), Ok(mut named)) = (key, self.named.lock()) {
            replayed = named.contains(&(key.clone(), body.clone()));
            named.push((key, body.clone()));
        }
        if let Ok(mut ingested) = self.ingested.lock() {
            ingested.push((source.to_owned(), format, body));
        }
        let accepted = IngestReport {
            accepted: rows,
            rejected: 0,
            errors: Vec::new(),
            errors_truncated: false,
            position: format!("{source}={rows}"),
        };
        Ok(Ingested { report: self.report.clone().unwrap_or(accepted), replayed })
    }

    async fn resume_source(&self, source: &str, without: Without) -> Result<Vec<ResumedPartition>> {
        let lost = match without {
            Without::Nothing => None,
            Without::Archived => Some(OffsetGap { partition: 3, start: 5, end: 6 }),
            Without::Lost => Some(OffsetGap { partition: 3, start: 5, end: 9 }),
        };
        match source {
            "topic" => Ok(vec![ResumedPartition { partition: 3, lost }]),
            name => Err(SharedError::NotFound { what: "source", name: name.to_owned(), known: vec![] }.into()),
        }
    }

    async fn replay_dead_letters(&self, source: &str, dry_run: bool) -> Result<Replayed> {
        match source {
            "topic" => Ok(Replayed { replayed: 2, dry_run }),
            other => Err(SharedError::NoTopic { name: other.to_owned() }.into()),
        }
    }

    async fn start_batch_run(&self, view: &str, kind: BatchRunKind, wait: bool) -> Result<BatchRun> {
        let ended = self.run_ends_as.unwrap_or(BatchRunState::Succeeded);
        Ok(run(7, view, kind, if wait { ended } else { BatchRunState::Running }))
    }

    fn batch_runs(&self) -> Vec<BatchRun> {
        self.runs.clone()
    }

    fn readiness(&self) -> Readiness {
        Readiness { ready: self.not_ready.is_empty(), detail: self.not_ready.clone() }
    }

    fn metrics(&self) -> &Metrics {
        &self.metrics
    }

    async fn refresh_metrics(&self) {}
}

fn run(id: u64, view: &str, kind: BatchRunKind, state: BatchRunState) -> BatchRun {
    BatchRun {
        id,
        view: view.to_owned(),
        kind,
        state,
        trigger: BatchRunTrigger::Manual,
        started_at: "2015-09-12T00:00:00.000000Z".into(),
        ended_at: None,
        batch_version: None,
        history_version: None,
        boundary: Vec::new(),
        events: 0,
        groups: 0,
        files: 0,
        error: (state == BatchRunState::Failed).then(|| "the disk is full".into()),
        audit: None,
    }
}

fn view(name: &str) -> ViewStatus {
    ViewStatus {
        name: name.to_owned(),
        source: "edits".into(),
        sql: "CREATE MATERIALIZED VIEW ...".into(),
        definition_id: "d1".into(),
        state: ViewState::Active,
        building: None,
        columns: Vec::new(),
        batch_version: Some(3),
        boundary: vec![10, 40],
        batch: BatchSize::default(),
        realtime: RealtimeStatus::default(),
        batch_schedule: None,
        full_recompute_schedule: None,
        next_run: None,
        last_audit: None,
        batch_failures: None,
    }
}

/// The API over a platform.
struct Fixture {
    platform: Arc<FakePlatform>,
    router: Router,
}

impl Fixture {
    fn new(platform: FakePlatform) -> std::result::Result<Fixture, Box<dyn std::error::Error>> {
        Fixture::with_options(platform, ApiOptions::default())
    }

    fn with_options(
        platform: FakePlatform,
        options: ApiOptions,
    ) -> std::result::Result<Fixture, Box<dyn std::error::Error>> {
        let platform = Arc::new(platform);
        let backend: Arc<dyn Backend> = Arc::<FakePlatform>::clone(&platform);
        let config = QueryConfig { parallelism: 1, ..QueryConfig::default() };
        let runtime = query_runtime(&config)?;
        let engine = QueryEngine::new(Arc::clone(&backend), config, runtime, CpuPool::new(1)?);
        Ok(Fixture { platform, router: router(backend, Arc::new(engine), options) })
    }

    async fn send(
        &self,
        method: Method,
        path: &str,
        headers: &[(HeaderName, &str)],
        body: impl Into<Body>,
    ) -> std::result::Result<Reply, Box<dyn std::error::Error>> {
        let mut request = axum::http::Request::builder().method(method).uri(path);
        for (name, value) in headers {
            request = request.header(name, *value);
        }
        let response = self.router.clone().oneshot(request.body(body.into())?).await?;
        let (parts, body) = response.into_parts();
        Ok(Reply { status: parts.status, headers: parts.headers, body: to_bytes(body, usize::MAX).await? })
    }

    async fn get(&self, path: &str) -> std::result::Result<Reply, Box<dyn std::error::Error>> {
        self.send(Method::GET, path, &[], Body::empty()).await
    }

    async fn post(
        &self,
        path: &str,
        headers: &[(HeaderName, &str)],
        body: impl Into<Body>,
    ) -> std::result::Result<Reply, Box<dyn std::error::Error>> {
        self.send(Method::POST, path, headers, body).await
    }

    async fn sql(&self, sql: &str, accept: &str) -> std::result::Result<Reply, Box<dyn std::error::Error>> {
        self.post("/v1/sql", &[(ACCEPT, accept)], json!({"sql": sql}).to_string()).await
    }

    fn ingested(&self) -> Vec<(String, EventFormat, Bytes)> {
        self.platform.ingested.lock().map(|ingested| ingested.clone()).unwrap_or_default()
    }
}

struct Reply {
    status: StatusCode,
    headers: HeaderMap,
    body: Bytes,
}

impl Reply {
    fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_default()
    }

    fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    fn header(&self, name: impl axum::http::header::AsHeaderName) -> &str {
        self.headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default()
    }

    /// Checks that this is a problem document and gives it back.
    fn problem(&self, status: StatusCode, slug: &str) -> Value {
        let document = self.json();
        assert_eq!(self.status, status, "{document}");
        assert_eq!(self.header(CONTENT_TYPE), "application/problem+json");
        let expected =
            if slug.is_empty() { "about:blank".to_owned() } else { format!("https://watershed.dev/problems/{slug}") };
        assert_eq!(document["type"], expected, "{document}");
        assert_eq!(document["status"], status.as_u16(), "{document}");
        assert!(document["title"].as_str().is_some_and(|title| !title.is_empty()), "{document}");
        assert!(document["detail"].as_str().is_some_and(|detail| !detail.is_empty()), "{document}");
        document
    }
}

const EVENTS: &str = "/v1/sources/edits/events";

#[tokio::test]
async fn events_reach_the_platform_in_the_format_that_the_content_type_names() -> TestResult {
    let fixture = Fixture::new(FakePlatform::default())?;
    let reply = fixture.post(EVENTS, &[], "{\"n\":1}\n{\"n\":2}\n").await?;
    assert_eq!(reply.status, StatusCode::OK);
    assert_eq!(reply.json(), json!({"accepted": 2, "rejected": 0, "errors": [], "position": "edits=2"}));
    for content_type in [
        "application/x-ndjson; charset=utf-8",
        "application/json",
        "text/csv; header=present",
        "application/vnd.apache.arrow.stream",
    ] {
        fixture.post(EVENTS, &[(CONTENT_TYPE, content_type)], "x").await?;
    }
    let formats: Vec<EventFormat> = fixture.ingested().into_iter().map(|(_, format, _)| format).collect();
    use EventFormat::{ArrowStream, Csv, JsonArray, NdJson};
    assert_eq!(formats, [NdJson, NdJson, JsonArray, Csv, ArrowStream]);

    let reply = fixture.post(EVENTS, &[(CONTENT_TYPE, "text/plain")], "x").await?;
    let problem = reply.problem(StatusCode::UNSUPPORTED_MEDIA_TYPE, "unsupported-media-type");
    assert_eq!(problem["supported"][0], "application/x-ndjson");
    assert_eq!(fixture.ingested().len(), 5);
    Ok(())
}

#[tokio::test]
async fn names_in_paths_are_percent_decoded() -> TestResult {
    let fixture = Fixture::new(FakePlatform { views: vec![view("by hour/ä")], ..FakePlatform::default() })?;
    fixture.post("/v1/sources/my%20edits%2F%C3%A4/events", &[], "{}\n").await?;
    assert_eq!(fixture.ingested()[0].0, "my edits/ä");
    assert_eq!(fixture.get("/v1/views/by%20hour%2F%C3%A4").await?.json()["name"], "by hour/ä");
    fixture.get("/v1/views/%FF").await?.problem(StatusCode::BAD_REQUEST, "");
    Ok(())
}

#[tokio::test]
async fn a_partly_refused_body_is_a_success_and_a_wholly_refused_one_a_problem_with_the_report() -> TestResult {
    let error = RowError { row: 1, column: Some("n".into()), reason: "\"x\" is not a BIGINT".into() };
    let report = IngestReport {
        accepted: 1,
        rejected: 1,
        errors: vec![error],
        errors_truncated: false,
        position: "edits=1,0".into(),
    };
    let fixture = Fixture::new(FakePlatform { report: Some(report.clone()), ..FakePlatform::default() })?;
    let reply = fixture.post(EVENTS, &[], "x").await?;
    assert_eq!(reply.status, StatusCode::OK);
    assert_eq!(reply.json()["errors"], json!([{"row": 1, "column": "n", "reason": "\"x\" is not a BIGINT"}]));

    let report = IngestReport { accepted: 0, rejected: 200, errors_truncated: true, ..report };
    let fixture = Fixture::new(FakePlatform { report: Some(report), ..FakePlatform::default() })?;
    let problem = fixture.post(EVENTS, &[], "x").await?.problem(StatusCode::UNPROCESSABLE_ENTITY, "events-refused");
    assert_eq!(problem["accepted"], 0);
    assert_eq!(problem["rejected"], 200);
    assert_eq!(problem["errors"][0]["row"], 1);
    assert_eq!(problem["errors_truncated"], true);
    assert_eq!(problem["position"], "edits=1,0");
    Ok(())
}

fn gzip(bytes: &[u8]) -> io::Result<Vec<u8>> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::default());
    io::Write::write_all(&mut encoder, bytes)?;
    encoder.finish()
}

#[tokio::test]
async fn compressed_bodies_are_read_to_the_end_of_their_last_member() -> TestResult {
    let fixture = Fixture::new(FakePlatform::default())?;
    let [first, second] = [b"{\"n\":1}\n".as_slice(), b"{\"n\":2}\n".as_slice()];
    let gzipped = [gzip(first)?, gzip(second)?].concat();
    let zstd = [zstd::encode_all(first, 0)?, zstd::encode_all(second, 0)?].concat();
    let both = [first, second].concat();
    for (encoding, body) in [("gzip", gzipped), ("X-Gzip", gzip(&both)?), ("zstd", zstd), ("identity", both.clone())] {
        let reply = fixture.post(EVENTS, &[(CONTENT_ENCODING, encoding)], body).await?;
        assert_eq!(reply.json()["accepted"], 2, "{encoding}");
    }
    assert!(fixture.ingested().iter().all(|(_, _, body)| *body == both));

    for (encoding, body) in [("gzip", gzip(&both)?), ("zstd", zstd::encode_all(both.as_slice(), 0)?)] {
        let cut = body[..body.len() - 5].to_vec();
        let reply = fixture.post(EVENTS, &[(CONTENT_ENCODING, encoding)], cut).await?;
        reply.problem(StatusCode::BAD_REQUEST, "invalid-request");
    }
    let reply = fixture.post(EVENTS, &[(CONTENT_ENCODING, "br")], "x").await?;
    reply.problem(StatusCode::UNSUPPORTED_MEDIA_TYPE, "unsupported-media-type");
    assert_eq!(reply.header(ACCEPT_ENCODING), "gzip, zstd, identity");
    assert_eq!(fixture.ingested().len(), 4);
    Ok(())
}

#[tokio::test]
async fn a_body_is_too_large_by_its_declared_its_sent_or_its_decompressed_size() -> TestResult {
    let options = ApiOptions { body_bytes_max: 1000, ..ApiOptions::default() };
    let fixture = Fixture::with_options(FakePlatform::default(), options)?;
    let chunk = || Ok::<_, Infallible>(Bytes::from(vec![b'\n'; 400]));
    let exact = vec![b'\n'; 1000];
    assert_eq!(fixture.post(EVENTS, &[], exact.clone()).await?.json()["accepted"], 1000);
    assert_eq!(fixture.post(EVENTS, &[(CONTENT_ENCODING, "gzip")], gzip(&exact)?).await?.json()["accepted"], 1000);

    let bomb = vec![b'\n'; 1_000_000];
    let endless = Body::from_stream(stream::repeat_with(chunk));
    let replies = [
        fixture.post(EVENTS, &[(CONTENT_LENGTH, "1001")], Body::empty()).await?,
        fixture.post(EVENTS, &[], vec![b'\n'; 1001]).await?,
        fixture.post(EVENTS, &[], endless).await?,
        fixture.post(EVENTS, &[(CONTENT_ENCODING, "zstd")], zstd::encode_all(bomb.as_slice(), 0)?).await?,
        fixture.post(EVENTS, &[(CONTENT_ENCODING, "gzip")], gzip(&vec![b'\n'; 1001])?).await?,
    ];
    for reply in replies {
        let problem = reply.problem(StatusCode::PAYLOAD_TOO_LARGE, "body-too-large");
        assert_eq!(problem["bytes_max"], 1000);
    }
    assert_eq!(fixture.ingested().len(), 2);
    Ok(())
}

#[tokio::test]
async fn a_request_reaches_the_platform_under_its_name_and_an_old_answer_is_marked() -> TestResult {
    let refused = IngestReport {
        accepted: 0,
        rejected: 1,
        errors: vec![RowError { row: 0, column: None, reason: "not an object".into() }],
        errors_truncated: false,
        position: "edits=0,0".into(),
    };
    for (report, status) in [(None, StatusCode::OK), (Some(refused), StatusCode::UNPROCESSABLE_ENTITY)] {
        let fixture = Fixture::new(FakePlatform { report, ..FakePlatform::default() })?;
        let name = |name: &'static str| HeaderName::from_static(name);
        let key = vec![(name("idempotency-key"), "\"a-1\"")];
        let number = vec![(name("producer-id"), "mill"), (name("producer-sequence"), "7")];
        for headers in [key, number] {
            let first = fixture.post(EVENTS, &headers, "1\n").await?;
            let again = fixture.post(EVENTS, &headers, "1\n").await?;
            assert_eq!((first.status, first.header(REPLAYED)), (status, ""));
            assert_eq!((again.status, again.header(REPLAYED)), (status, "true"));
            assert_eq!(first.body, again.body);
        }
        let named = fixture.platform.named.lock().map(|named| named.clone()).unwrap_or_default();
        let names: Vec<String> = named.iter().map(|(key, _)| key.to_string()).collect();
        let (key, number) = ("request \"\"a-1\"\"", "request 7 of producer \"mill\"");
        assert_eq!(names, [key, key, number, number]);

        let both = [(name("idempotency-key"), "a"), (name("producer-id"), "mill"), (name("producer-sequence"), "8")];
        let problem = fixture.post(EVENTS, &both, "1\n").await?.problem(StatusCode::BAD_REQUEST, "invalid-request");
        assert!(problem["detail"].as_str().is_some_and(|detail| detail.contains("use one of them")), "{problem}");
        assert_eq!(fixture.ingested().len(), 4);
    }
    Ok(())
}

#[tokio::test]
async fn a_producers_wrong_number_is_told_the_right_one() -> TestResult {
    let cases = [(3, 5, "too long ago"), (7, 5, "send those before it first"), (7, 0, "begin anew at 0")];
    for (sequence, expected, advice) in cases {
        let failure = Error::OutOfSequence { producer: "mill".into(), sequence, expected };
        let fixture = Fixture::new(FakePlatform { failure: Mutex::new(Some(failure)), ..FakePlatform::default() })?;
        let problem = fixture.post(EVENTS, &[], "{}").await?.problem(StatusCode::CONFLICT, "sequence-out-of-order");
        assert_eq!(problem["expected_sequence"], expected);
        assert!(problem["detail"].as_str().is_some_and(|detail| detail.contains(advice)), "{problem}");
    }
    Ok(())
}

#[tokio::test]
async fn a_body_that_does_not_end_or_breaks_off_is_refused() -> TestResult {
    let connections = ConnectionsConfig { stall_timeout: Duration::from_millis(5), ..ConnectionsConfig::default() };
    let options = ApiOptions { connections, ..ApiOptions::default() };
    let fixture = Fixture::with_options(FakePlatform::default(), options)?;
    let never = Body::from_stream(stream::pending::<std::result::Result<Bytes, Infallible>>());
    fixture.post(EVENTS, &[], never).await?.problem(StatusCode::REQUEST_TIMEOUT, "body-timeout");
    let broken = Body::from_stream(stream::iter([Ok("{}\n"), Err(io::Error::other("reset by peer"))]));
    fixture.post(EVENTS, &[], broken).await?.problem(StatusCode::BAD_REQUEST, "invalid-request");
    assert!(fixture.ingested().is_empty());
    Ok(())
}

#[tokio::test]
async fn errors_of_the_platform_have_the_status_of_their_kind() -> TestResult {
    let reason = || "because".to_owned();
    let cases = [
        (Error::Conflict { reason: reason() }, StatusCode::CONFLICT, "conflict"),
        (
            Error::RequestReused { request: "request \"a\"".into() },
            StatusCode::UNPROCESSABLE_ENTITY,
            "idempotency-key-reused",
        ),
        (Error::Unavailable { reason: reason() }, StatusCode::SERVICE_UNAVAILABLE, "unavailable"),
        (Error::QueryFailed { reason: reason() }, StatusCode::INTERNAL_SERVER_ERROR, "internal-error"),
        (Error::QueryMemory { reason: reason() }, StatusCode::INSUFFICIENT_STORAGE, "query-memory"),
        (Error::QueryDeadline { seconds: 60 }, StatusCode::GATEWAY_TIMEOUT, "query-deadline"),
        (
            Error::PositionTimeout { position: "edits=1".into(), applied: "edits=0".into(), seconds: 30 },
            StatusCode::GATEWAY_TIMEOUT,
            "position-timeout",
        ),
        (
            SharedError::UnreadableEvents { format: "JSON", reason: reason() }.into(),
            StatusCode::BAD_REQUEST,
            "invalid-request",
        ),
        (
            SharedError::NotFound { what: "source", name: "edit".into(), known: vec!["edits".into()] }.into(),
            StatusCode::NOT_FOUND,
            "not-found",
        ),
        (SharedError::LogClosed { name: "edits".into() }.into(), StatusCode::SERVICE_UNAVAILABLE, "unavailable"),
        (
            SharedError::Corrupt { what: "a block".into(), reason: reason() }.into(),
            StatusCode::INTERNAL_SERVER_ERROR,
            "corrupt-data",
        ),
    ];
    for (error, status, slug) in cases {
        let words = error.to_string();
        let fixture = Fixture::new(FakePlatform { failure: Mutex::new(Some(error)), ..FakePlatform::default() })?;
        let reply = fixture.post(EVENTS, &[], "{}").await?;
        assert_eq!(reply.problem(status, slug)["detail"], words);
        assert_eq!(reply.header(RETRY_AFTER), if status == StatusCode::SERVICE_UNAVAILABLE { "1" } else { "" });
    }
    Ok(())
}

#[tokio::test]
async fn what_no_handler_sees_is_answered_with_a_problem_too() -> TestResult {
    let fixture = Fixture::new(FakePlatform::default())?;
    let problem = fixture.get("/v1/nothing").await?.problem(StatusCode::NOT_FOUND, "");
    assert_eq!(problem["detail"], "there is no GET /v1/nothing; GET / lists what there is");
    let reply = fixture.get("/v1/sql").await?;
    reply.problem(StatusCode::METHOD_NOT_ALLOWED, "");
    assert_eq!(reply.header(ALLOW), "POST");
    let problem = fixture.get("/v1/batch-runs?vew=x").await?.problem(StatusCode::BAD_REQUEST, "");
    assert!(problem["detail"].as_str().is_some_and(|detail| detail.contains("vew")), "{problem}");
    let reply = fixture.post("/v1/sources/panics/events", &[], "{}").await?;
    reply.problem(StatusCode::INTERNAL_SERVER_ERROR, "internal-error");
    Ok(())
}

#[tokio::test]
async fn sql_is_answered_in_json_csv_and_arrow() -> TestResult {
    let fixture = Fixture::new(FakePlatform::default())?;
    let sql = "SELECT 9007199254740993 AS n, TIMESTAMP '2015-09-12T00:46:58.771' AS time";
    let reply = fixture.sql(sql, "*/*").await?;
    assert_eq!((reply.status, reply.header(CONTENT_TYPE)), (StatusCode::OK, "application/json"));
    assert_eq!(
        reply.json(),
        json!({
            "columns": [{"name": "n", "type": "BIGINT"}, {"name": "time", "type": "TIMESTAMP"}],
            "rows": [[9_007_199_254_740_993_i64, "2015-09-12T00:46:58.771000Z"]],
            "as_of": {"sources": {}, "views": {}},
            "complete": true,
        })
    );

    let reply = fixture.sql(sql, "text/csv").await?;
    assert_eq!(reply.header(CONTENT_TYPE), "text/csv; charset=utf-8; header=present");
    assert_eq!(reply.text(), "n,time\n9007199254740993,2015-09-12T00:46:58.771000Z\n");
    assert_eq!(reply.header("watershed-as-of"), "{\"sources\":{},\"views\":{}}");
    assert_eq!(reply.header("watershed-complete"), "true");

    let reply = fixture.sql(sql, "application/vnd.apache.arrow.stream").await?;
    let batches = StreamReader::try_new(reply.body.as_ref(), None)?.collect::<std::result::Result<Vec<_>, _>>()?;
    assert_eq!(batches[0].column(0).as_primitive::<Int64Type>().value(0), 9_007_199_254_740_993);
    assert_eq!(reply.header("watershed-complete"), "true");

    let problem = fixture.sql(sql, "text/html").await?.problem(StatusCode::NOT_ACCEPTABLE, "not-acceptable");
    assert_eq!(problem["available"], json!(["application/json", "text/csv", "application/vnd.apache.arrow.stream"]));
    Ok(())
}

#[tokio::test]
async fn what_an_answer_stands_for_is_a_header_in_ascii_whatever_the_names() -> TestResult {
    let mut as_of = crate::answer::AsOf::default();
    as_of.views.insert("größe 🦀\u{7f}\n".into(), crate::answer::ViewAsOf::default());
    let header = sql::as_of_header(&as_of).map_err(|problem| format!("{problem:?}"))?;
    let text = header.to_str()?;
    assert!(text.contains(r"gr\u00f6\u00dfe \ud83e\udd80\u007f\n"), "{text}");
    assert_eq!(serde_json::from_str::<crate::answer::AsOf>(text)?, as_of);
    Ok(())
}

#[tokio::test]
async fn a_wrong_sql_request_is_told_what_is_wrong() -> TestResult {
    let fixture = Fixture::new(FakePlatform::default())?;
    let cases = [
        (r#"{"sql": "SELECT 1", "postion": "edits=1"}"#, "postion"),
        (r#"{"position": "edits=1"}"#, "sql"),
        (r#"{"sql": 1}"#, "expected a string"),
        ("SELECT 1", "send an object such as"),
        ("", "send an object such as"),
        (r#"{"sql": "SELECT 1", "position": "edits"}"#, "is not a position"),
        (r#"{"sql": "SELECT 1", "position": "edits=1; other=x"}"#, "other=x"),
        (r#"{"sql": "SELEC 1"}"#, "SELEC"),
    ];
    for (body, expected) in cases {
        let reply = fixture.post("/v1/sql", &[(CONTENT_TYPE, "application/json")], body).await?;
        let problem = reply.problem(StatusCode::BAD_REQUEST, "invalid-request");
        assert!(problem["detail"].as_str().is_some_and(|detail| detail.contains(expected)), "{expected}: {problem}");
    }
    let unknown = r#"{"sql": "SELECT 1", "position": "edits=1"}"#;
    fixture.post("/v1/sql", &[], unknown).await?.problem(StatusCode::NOT_FOUND, "not-found");
    let reply = fixture.post("/v1/sql", &[(CONTENT_TYPE, "text/plain")], "SELECT 1").await?;
    reply.problem(StatusCode::UNSUPPORTED_MEDIA_TYPE, "unsupported-media-type");
    let accepted = r#"{"sql": "SELECT 1", "position": null}"#;
    let reply = fixture.post("/v1/sql", &[(CONTENT_TYPE, "application/json; charset=utf-8")], accepted).await?;
    assert_eq!(reply.json()["rows"], json!([[1]]));
    Ok(())
}

#[tokio::test]
async fn a_large_answer_is_whole_and_compressed_if_the_client_likes() -> TestResult {
    let fixture = Fixture::new(FakePlatform::default())?;
    let sql = "WITH d(n) AS (VALUES (0), (1), (2), (3), (4), (5), (6), (7), (8), (9)) \
               SELECT a.n * 10000 + b.n * 1000 + c.n * 100 + d.n * 10 + e.n AS n FROM d a, d b, d c, d, d e ORDER BY n";
    let plain = fixture.sql(sql, "text/csv").await?;
    assert_eq!(plain.text().lines().count(), 100_001);
    assert_eq!(plain.text().lines().last(), Some("99999"));
    let body = json!({"sql": sql}).to_string();
    let reply = fixture.post("/v1/sql", &[(ACCEPT, "text/csv"), (ACCEPT_ENCODING, "gzip")], body).await?;
    assert_eq!(reply.header(CONTENT_ENCODING), "gzip");
    let mut text = String::new();
    io::Read::read_to_string(&mut flate2::read::GzDecoder::new(reply.body.as_ref()), &mut text)?;
    assert_eq!(text, plain.text());
    let reply = fixture.send(Method::GET, "/healthz", &[(ACCEPT_ENCODING, "gzip")], Body::empty()).await?;
    assert_eq!(reply.header(CONTENT_ENCODING), "", "small responses are sent as they are");
    Ok(())
}

#[tokio::test]
async fn sources_views_and_runs_are_listed() -> TestResult {
    let runs = [("a", 2), ("b", 1)].map(|(view, id)| run(id, view, BatchRunKind::Full, BatchRunState::Succeeded));
    let platform = FakePlatform { views: vec![view("a"), view("b")], runs: runs.into(), ..FakePlatform::default() };
    let fixture = Fixture::new(platform)?;
    let sinks = fixture.get("/v1/sinks").await?.json();
    assert_eq!((&sinks["sinks"][0]["mode"], &sinks["sinks"][0]["sent"]), (&json!("update"), &json!([2, 1])));
    let sources = fixture.get("/v1/sources").await?.json();
    assert_eq!(sources["sources"][0]["columns"], json!([{"name": "n", "type": "BIGINT", "nullable": true}]));
    let views = fixture.get("/v1/views").await?.json();
    assert_eq!(views["views"].as_array().map(Vec::len), Some(2));
    assert_eq!(fixture.get("/v1/views/b").await?.json(), views["views"][1]);
    let problem = fixture.get("/v1/views/c").await?.problem(StatusCode::NOT_FOUND, "not-found");
    assert_eq!(problem["detail"], "there is no view \"c\"; there are: a, b");
    let ids =
        |runs: Value| runs["batch_runs"].as_array().map(|runs| runs.iter().map(|run| run["id"].clone()).collect());
    assert_eq!(ids(fixture.get("/v1/batch-runs").await?.json()), Some(vec![json!(2), json!(1)]));
    assert_eq!(ids(fixture.get("/v1/batch-runs?view=b").await?.json()), Some(vec![json!(1)]));
    Ok(())
}

#[tokio::test]
async fn a_batch_run_is_accepted_waited_for_or_failed() -> TestResult {
    let fixture = Fixture::new(FakePlatform::default())?;
    let path = "/v1/views/a/batch-runs";
    let full = r#"{"kind":"full"}"#;
    let reply = fixture.post(path, &[], full).await?;
    assert_eq!((reply.status, &reply.json()["state"]), (StatusCode::ACCEPTED, &json!("running")));
    let reply = fixture.post("/v1/views/a/batch-runs?wait=false", &[], full).await?;
    assert_eq!(reply.status, StatusCode::ACCEPTED);
    let reply = fixture.post("/v1/views/a/batch-runs?wait=true", &[], full).await?;
    assert_eq!((reply.status, &reply.json()["state"]), (StatusCode::OK, &json!("succeeded")));
    fixture.post(path, &[], r#"{"kind":"quick"}"#).await?.problem(StatusCode::BAD_REQUEST, "invalid-request");
    fixture.post("/v1/views/a/batch-runs?wait=maybe", &[], full).await?.problem(StatusCode::BAD_REQUEST, "");

    let fixture = Fixture::new(FakePlatform { run_ends_as: Some(BatchRunState::Failed), ..FakePlatform::default() })?;
    let reply = fixture.post("/v1/views/a/batch-runs?wait=true", &[], full).await?;
    let problem = reply.problem(StatusCode::INTERNAL_SERVER_ERROR, "batch-run-failed");
    assert_eq!(problem["batch_run"]["state"], "failed");
    assert_eq!(problem["detail"], "batch run 7 of view \"a\" failed: the disk is full; the view is unchanged");
    Ok(())
}

#[tokio::test]
async fn health_readiness_and_metrics_are_told() -> TestResult {
    let fixture = Fixture::new(FakePlatform::default())?;
    fixture.platform.metrics.events_accepted.get_or_create(&SourceLabel { source: "edits".into() }).inc_by(3);
    assert_eq!(fixture.get("/healthz").await?.json(), json!({"status": "ok"}));
    assert_eq!(fixture.get("/readyz").await?.json(), json!({"ready": true, "detail": []}));
    let reply = fixture.get("/metrics").await?;
    assert_eq!(reply.header(CONTENT_TYPE), "application/openmetrics-text; version=1.0.0; charset=utf-8");
    assert!(reply.text().contains("watershed_events_accepted_total{source=\"edits\"} 3"), "{}", reply.text());
    assert!(reply.text().ends_with("# EOF\n"));

    let missing = vec!["view \"a\" is being built".to_owned(), "the log replays".to_owned()];
    let fixture = Fixture::new(FakePlatform { not_ready: missing.clone(), ..FakePlatform::default() })?;
    assert_eq!(fixture.get("/healthz").await?.status, StatusCode::OK);
    let problem = fixture.get("/readyz").await?.problem(StatusCode::SERVICE_UNAVAILABLE, "not-ready");
    assert_eq!(problem["detail"], missing.join("; "));
    assert_eq!((&problem["ready"], &problem["reasons"]), (&json!(false), &json!(missing)));
    Ok(())
}

#[tokio::test]
async fn every_endpoint_of_the_index_exists() -> TestResult {
    let fixture = Fixture::new(FakePlatform { views: vec![view("x")], ..FakePlatform::default() })?;
    let index = fixture.get("/").await?.json();
    let endpoints = index["endpoints"].as_array().cloned().unwrap_or_default();
    assert_eq!(endpoints.len(), status::ENDPOINTS.len());
    for endpoint in endpoints {
        let path = endpoint["path"].as_str().unwrap_or_default().replace("{source}", "x").replace("{view}", "x");
        let method = endpoint["method"].as_str().unwrap_or_default().parse()?;
        let reply = fixture.send(method, &path, &[], Body::empty()).await?;
        let missing = [StatusCode::NOT_FOUND, StatusCode::METHOD_NOT_ALLOWED].contains(&reply.status);
        assert!(!missing, "{endpoint} is not there: {}", reply.text());
    }
    Ok(())
}

#[tokio::test]
async fn shutdown_lets_the_request_under_way_end() -> TestResult {
    let fixture = Fixture::new(FakePlatform::default())?;
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let mut connection = TcpStream::connect(listener.local_addr()?).await?;
    let (stop, stopped) = oneshot::channel::<()>();
    let (limits, metrics) = (ConnectionsConfig::default(), Metrics::new());
    let server = tokio::spawn(serve(listener, fixture.router.clone(), limits, metrics, async move {
        let _ = stopped.await;
    }));
    // The server asks for the body once the request is under way.
    let head = "POST /v1/sources/edits/events HTTP/1.1\r\nhost: x\r\ncontent-length: 3\r\nexpect: 100-continue\r\n\r\n";
    connection.write_all(head.as_bytes()).await?;
    let mut asked = [0; 25];
    connection.read_exact(&mut asked).await?;
    assert_eq!(&asked, b"HTTP/1.1 100 Continue\r\n\r\n");

    stop.send(()).map_err(|()| "the server has ended")?;
    connection.write_all(b"{}\n").await?;
    let mut response = String::new();
    connection.read_to_string(&mut response).await?;
    assert!(response.starts_with("HTTP/1.1 200 OK\r\n") && response.contains("\"accepted\":1"), "{response}");
    server.await??;
    Ok(())
}
