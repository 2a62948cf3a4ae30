//! The HTTP API as the harness uses it: a lost connection is an expected end, any other trouble is a failure.

use std::collections::BTreeMap;
use std::io::Cursor;

use anyhow::{Context, Result, bail, ensure};
use arrow::array::RecordBatch;
use arrow::ipc::reader::StreamReader;
use reqwest::header::ACCEPT;
use reqwest::{RequestBuilder, StatusCode};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use watershed_shared::position::{Position, PositionToken};

use super::process::PATIENCE;

/// A client of one process.
#[derive(Debug, Clone)]
pub(super) struct Client {
    http: reqwest::Client,
    url: String,
}

/// What a request came to.
pub(super) enum Outcome<T> {
    Answered(T),
    /// The process died, or takes no more: whether the request was carried out is unknown.
    Gone,
}

impl<T> Outcome<T> {
    /// The answer of a process that nobody has killed.
    pub(super) fn expected(self) -> Result<T> {
        match self {
            Outcome::Answered(answer) => Ok(answer),
            Outcome::Gone => bail!("the platform has gone away unasked"),
        }
    }
}

/// An answer to a query: its rows, and the offsets that it says it covers.
pub(super) struct Answer {
    pub(super) batches: Vec<RecordBatch>,
    pub(super) offsets: Vec<u64>,
}

#[derive(Deserialize)]
struct Accepted {
    accepted: u64,
    position: String,
}

/// An element of `GET /v1/views`.
#[derive(Deserialize)]
pub(super) struct View {
    pub(super) name: String,
    pub(super) state: String,
    pub(super) building: Option<String>,
    pub(super) last_audit: Option<Audit>,
}

#[derive(Deserialize)]
pub(super) struct Audit {
    pub(super) outcome: String,
    pub(super) detail: Option<String>,
}

#[derive(Deserialize)]
struct AsOf {
    sources: BTreeMap<String, AsOfSource>,
}

#[derive(Deserialize)]
struct AsOfSource {
    offsets: Vec<u64>,
}

impl Client {
    pub(super) fn new(url: String) -> Result<Client> {
        Ok(Client { http: reqwest::Client::builder().timeout(PATIENCE).build()?, url })
    }

    /// Sends events; gives the position that covers them.
    pub(super) async fn ingest(&self, body: String, rows: u64) -> Result<Outcome<Position>> {
        let request = self.http.post(format!("{}/v1/sources/events/events", self.url)).body(body);
        let Outcome::Answered(body) = send(request).await? else { return Ok(Outcome::Gone) };
        let Accepted { accepted, position } = serde_json::from_slice(&body.bytes)?;
        ensure!(accepted == rows, "{accepted} of {rows} good rows were accepted");
        Ok(Outcome::Answered(position.parse::<PositionToken>()?.position))
    }

    /// Asks a query at a position.
    pub(super) async fn ask(&self, sql: &str, position: &Position) -> Result<Outcome<Answer>> {
        let token = PositionToken { source: "events".to_owned(), position: position.clone() };
        let question = match position.offsets() {
            [] => json!({"sql": sql}),
            _ => json!({"sql": sql, "position": token.to_string()}),
        };
        let request = self.http.post(format!("{}/v1/sql", self.url)).json(&question);
        let Outcome::Answered(body) = send(request.header(ACCEPT, "application/vnd.apache.arrow.stream")).await? else {
            return Ok(Outcome::Gone);
        };
        ensure!(body.complete == Some(true), "the answer to {sql} says that it is not complete");
        let as_of: AsOf = serde_json::from_str(body.as_of.as_deref().context("an answer without as_of")?)?;
        let offsets = as_of.sources.into_values().next().context("an answer of no source")?.offsets;
        let batches = StreamReader::try_new(Cursor::new(body.bytes), None)?.collect::<Result<_, _>>()?;
        Ok(Outcome::Answered(Answer { batches, offsets }))
    }

    /// Runs a batch run of a view to its end; one that fails is an error.
    pub(super) async fn batch_run(&self, view: &str) -> Result<Outcome<()>> {
        let request = self.http.post(format!("{}/v1/views/{view}/batch-runs?wait=true", self.url));
        match send(request.json(&json!({"kind": "full"}))).await.with_context(|| format!("batch run of {view}"))? {
            Outcome::Answered(_) => Ok(Outcome::Answered(())),
            Outcome::Gone => Ok(Outcome::Gone),
        }
    }

    pub(super) async fn views(&self) -> Result<Outcome<Vec<View>>> {
        self.list("views", "views").await
    }

    pub(super) async fn batch_runs(&self) -> Result<Outcome<Vec<Value>>> {
        self.list("batch-runs", "batch_runs").await
    }

    /// The end of the source's log.
    pub(super) async fn end(&self) -> Result<Outcome<Position>> {
        Ok(match self.list::<Value>("sources", "sources").await? {
            Outcome::Answered(sources) => {
                let token = sources.first().and_then(|source| source["position"].as_str());
                Outcome::Answered(token.context("no source")?.parse::<PositionToken>()?.position)
            }
            Outcome::Gone => Outcome::Gone,
        })
    }

    async fn list<T: DeserializeOwned>(&self, path: &str, field: &str) -> Result<Outcome<Vec<T>>> {
        let Outcome::Answered(body) = send(self.http.get(format!("{}/v1/{path}", self.url))).await? else {
            return Ok(Outcome::Gone);
        };
        let mut answer: Value = serde_json::from_slice(&body.bytes)?;
        Ok(Outcome::Answered(serde_json::from_value(answer[field].take())?))
    }
}

struct Body {
    bytes: Vec<u8>,
    as_of: Option<String>,
    complete: Option<bool>,
}

async fn send(request: RequestBuilder) -> Result<Outcome<Body>> {
    let response = match request.send().await {
        Ok(response) => response,
        Err(error) if error.is_timeout() => return Err(error.into()),
        Err(_) => return Ok(Outcome::Gone),
    };
    let header = |name: &str| Some(response.headers().get(name)?.to_str().ok()?.to_owned());
    let (as_of, complete) = (header("watershed-as-of"), header("watershed-complete").map(|text| text == "true"));
    let (status, url) = (response.status(), response.url().clone());
    let Ok(bytes) = response.bytes().await else { return Ok(Outcome::Gone) };
    ensure!(status == StatusCode::OK, "{url} answered {status}: {}", String::from_utf8_lossy(&bytes));
    Ok(Outcome::Answered(Body { bytes: bytes.to_vec(), as_of, complete }))
}
