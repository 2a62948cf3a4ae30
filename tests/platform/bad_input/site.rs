//! A platform behind its HTTP API on a free port, in this process.

use std::sync::Arc;

use anyhow::{Context, Result, ensure};
use reqwest::{Client, StatusCode};
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::net::TcpListener;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;
use watershed::platform::{Platform, Ports};
use watershed_serving_layer::AuditOutcome;
use watershed_serving_layer::api::{ApiOptions, router, serve};
use watershed_shared::config::{Config, ConnectionsConfig};
use watershed_shared::definition::parse_definitions;
use watershed_shared::telemetry::Metrics;

pub(super) struct Site {
    definitions: String,
    folder: TempDir,
    pub(super) platform: Platform,
    client: Client,
    url: String,
    server: JoinHandle<std::io::Result<()>>,
    stop: oneshot::Sender<()>,
    /// What the last acknowledgement covers.
    position: Option<String>,
}

impl Site {
    pub(super) async fn open(definitions: &str) -> Result<Site> {
        Site::open_on(definitions, TempDir::new()?).await
    }

    async fn open_on(definitions: &str, folder: TempDir) -> Result<Site> {
        let config = Config::default();
        let ports = Ports::open(&config, folder.path())?;
        let platform = Platform::open(parse_definitions(definitions)?, config, ports).await?;
        let router = router(Arc::new(platform.clone()), Arc::new(platform.query_engine()), ApiOptions::default());
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let url = format!("http://{}", listener.local_addr()?);
        let (stop, stopped) = oneshot::channel::<()>();
        let server = tokio::spawn(serve(listener, router, ConnectionsConfig::default(), Metrics::new(), async move {
            let _ = stopped.await;
        }));
        let definitions = definitions.to_owned();
        Ok(Site { definitions, folder, platform, client: Client::new(), url, server, stop, position: None })
    }

    pub(super) async fn restart(self) -> Result<Site> {
        // The platform's tasks end with it; connections are cut off.
        let _ = self.stop.send(());
        drop(self.client);
        self.server.await??;
        self.platform.stop().await;
        drop(self.platform);
        let mut site = Site::open_on(&self.definitions, self.folder).await?;
        site.position = self.position;
        Ok(site)
    }

    /// Sends a body; the status and the report or problem.
    pub(super) async fn send(&mut self, content_type: &str, body: impl Into<reqwest::Body>) -> Result<(u16, Value)> {
        self.send_with("content-type", content_type, body).await
    }

    /// Sends compressed NDJSON.
    pub(super) async fn send_encoded(&mut self, encoding: &str, body: Vec<u8>) -> Result<(u16, Value)> {
        self.send_with("content-encoding", encoding, body).await
    }

    async fn send_with(&mut self, name: &str, value: &str, body: impl Into<reqwest::Body>) -> Result<(u16, Value)> {
        let request = self.client.post(format!("{}/v1/sources/events/events", self.url));
        let response = request.header(name, value).body(body).send().await?;
        let status = response.status().as_u16();
        let answer: Value = serde_json::from_str(&response.text().await?)?;
        if let Some(position) = answer["position"].as_str() {
            self.position = Some(position.to_owned());
        }
        Ok((status, answer))
    }

    /// Sends lines of NDJSON that must all be accepted.
    pub(super) async fn accept(&mut self, lines: &str) -> Result<()> {
        let (status, report) = self.send("application/x-ndjson", lines.to_owned()).await?;
        ensure!(status == 200 && report["rejected"] == 0, "{status}: {report}");
        Ok(())
    }

    /// Asks after everything that was sent; the status and the body, as CSV if it is an answer.
    pub(super) async fn ask(&self, sql: &str) -> Result<(StatusCode, String)> {
        let question = json!({"sql": sql, "position": self.position});
        let request = self.client.post(format!("{}/v1/sql", self.url)).header("accept", "text/csv");
        let response = request.json(&question).send().await?;
        Ok((response.status(), response.text().await?))
    }

    pub(super) async fn get(&self, path: &str) -> Result<Value> {
        Ok(self.client.get(format!("{}{path}", self.url)).send().await?.json().await?)
    }

    /// Runs a full batch run over HTTP; the status and the run or problem.
    pub(super) async fn run_batch(&self, view: &str) -> Result<(u16, Value)> {
        let request = self.client.post(format!("{}/v1/views/{view}/batch-runs?wait=true", self.url));
        let response = request.json(&json!({"kind": "full"})).send().await?;
        Ok((response.status().as_u16(), response.json().await?))
    }

    /// Number of Parquet files in the store.
    pub(super) fn parquet_files(&self) -> Result<usize> {
        let mut folders = vec![self.folder.path().join("store")];
        let mut files = 0;
        while let Some(folder) = folders.pop() {
            for entry in std::fs::read_dir(folder)? {
                let path = entry?.path();
                files += usize::from(path.extension().is_some_and(|extension| extension == "parquet"));
                folders.extend(path.is_dir().then_some(path));
            }
        }
        Ok(files)
    }

    /// The rows of an answer, without its header line.
    pub(super) async fn rows(&self, sql: &str) -> Result<Vec<String>> {
        let (status, text) = self.ask(sql).await?;
        ensure!(status == StatusCode::OK, "{sql}: {status}: {text}");
        Ok(text.lines().skip(1).map(str::to_owned).collect())
    }

    /// Runs a full batch run of a view; its audit must find both layers equal.
    pub(super) async fn batch_run(&self, view: &str) -> Result<()> {
        let run = self.platform.prepare_run(view).await?.compute().await?.publish().await?;
        ensure!(run.audit.outcome == AuditOutcome::Equal, "{:?}", run.audit);
        Ok(())
    }
}

/// Sends events and checks a view's answer in every situation: before and after a batch run, with twice the events (the
/// second time beside a batch view), and after a restart.
pub(super) async fn check(
    definitions: &str,
    view: &str,
    lines: &str,
    query: &str,
    once: &[&str],
    twice: &[&str],
) -> Result<()> {
    let mut site = Site::open(definitions).await?;
    let ensure_rows = async |site: &Site, expected: &[&str], situation: &str| {
        let rows = site.rows(query).await.context(situation.to_owned())?;
        ensure!(rows == expected, "{situation}: {rows:#?} instead of {expected:#?}");
        Ok(())
    };
    site.accept(lines).await?;
    ensure_rows(&site, once, "realtime").await?;
    site.batch_run(view).await?;
    ensure_rows(&site, once, "batch").await?;
    site.accept(lines).await?;
    ensure_rows(&site, twice, "both layers").await?;
    site = site.restart().await?;
    ensure_rows(&site, twice, "both layers after a restart").await?;
    site.batch_run(view).await?;
    ensure_rows(&site, twice, "batch over all").await?;
    site = site.restart().await?;
    ensure_rows(&site, twice, "batch over all after a restart").await?;
    site.platform.stop().await;
    Ok(())
}
