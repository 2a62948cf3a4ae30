//! The real binary on folders of the test's choice.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Child;
use std::sync::mpsc::Receiver;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use reqwest::header::{CONTENT_TYPE, RETRY_AFTER};
use reqwest::{Response, StatusCode};
use serde_json::{Value, json};

use crate::running::spawn;

/// How long anything may take; generous, because other tests share the machine.
const PATIENCE: Duration = Duration::from_secs(120);

const DEFINITIONS: &str = "
    CREATE SOURCE events (n BIGINT, padding TEXT) WITH (connector = 'http', partitions = 2, partition_by = 'n');
    CREATE MATERIALIZED VIEW by_n AS SELECT n, count(*) AS times, max(padding) AS padding FROM events GROUP BY n;";

/// A running platform with one source, and a view that counts every event by its number.
pub(super) struct Process {
    command: Vec<PathBuf>,
    process: Child,
    output: Receiver<String>,
    url: String,
    client: reqwest::Client,
}

/// The answer to events.
#[derive(Debug)]
pub(super) struct Outcome {
    pub(super) status: StatusCode,
    pub(super) retry_after: Option<u64>,
    pub(super) body: Value,
}

impl Process {
    /// Starts on a project in `folder` with the log in `data` and the store in `store`.
    pub(super) fn start(folder: &Path, data: &Path, store: &Path, settings: &str) -> Result<Process> {
        let project = folder.join("project");
        fs::create_dir(&project)?;
        fs::write(project.join("watershed.toml"), format!("store = {:?}\n{settings}", store.display().to_string()))?;
        fs::write(project.join("definitions.sql"), DEFINITIONS)?;
        let command = vec![project, data.to_owned()];
        let (process, output, url) = spawn(&command[0], &command[1])?;
        let client = reqwest::Client::builder().pool_max_idle_per_host(0).timeout(PATIENCE).build()?;
        Ok(Process { command, process, output, url, client })
    }

    /// Ends the process as a crash would, and starts it again.
    pub(super) fn kill_and_restart(&mut self) -> Result<()> {
        self.process.kill()?;
        self.process.wait()?;
        (self.process, self.output, self.url) = spawn(&self.command[0], &self.command[1])?;
        Ok(())
    }

    pub(super) async fn post_events(&self, body: String) -> Result<Outcome> {
        let request = self.client.post(format!("{}/v1/sources/events/events", self.url));
        let response = request.header(CONTENT_TYPE, "application/x-ndjson").body(body).send().await?;
        let retry_after = response.headers().get(RETRY_AFTER).and_then(|value| value.to_str().ok()?.parse().ok());
        Ok(Outcome { status: response.status(), retry_after, body: response.json().await? })
    }

    /// Each event's number and how often it is counted, at the log's end.
    pub(super) async fn counted(&self) -> Result<Vec<(u64, u64)>> {
        let sources = self.get("/v1/sources").await?;
        let position = sources["sources"][0]["position"].clone();
        let question = json!({"sql": "SELECT n, times FROM by_n", "position": position});
        let answer = json_of(self.client.post(format!("{}/v1/sql", self.url)).json(&question).send().await?).await?;
        ensure!(answer["complete"] == Value::Bool(true), "the answer is incomplete");
        let rows = answer["rows"].as_array().context("an answer without rows")?;
        rows.iter().map(|row| Ok((number(&row[0])?, number(&row[1])?))).collect()
    }

    /// Runs a full batch run; an error when it fails.
    pub(super) async fn batch_run(&self) -> Result<()> {
        let url = format!("{}/v1/views/by_n/batch-runs?wait=true", self.url);
        let run = json_of(self.client.post(url).json(&json!({"kind": "full"})).send().await?).await?;
        ensure!(run["state"] == "succeeded" && run["audit"]["outcome"] != "drift", "{run}");
        Ok(())
    }

    pub(super) async fn get(&self, path: &str) -> Result<Value> {
        json_of(self.client.get(format!("{}{path}", self.url)).send().await?).await
    }

    /// Waits until the history holds everything that is accepted.
    pub(super) async fn until_archived(&self) -> Result<()> {
        self.until("the history holds everything", async || {
            let sources = self.get("/v1/sources").await?;
            let source = &sources["sources"][0];
            Ok((source["offsets"] == source["history_offsets"]).then_some(()))
        })
        .await
    }

    /// Waits until `/readyz` tells what is wanted; answers all of it.
    pub(super) async fn until_readiness_says(&self, words: &str) -> Result<Value> {
        self.until(words, async || {
            let readiness = self.get("/readyz").await?;
            Ok(readiness["detail"].to_string().replace("\\\"", "\"").contains(words).then_some(readiness))
        })
        .await
    }

    /// The sum of a metric over its labels.
    pub(super) async fn metric(&self, name: &str) -> Result<f64> {
        let text = self.client.get(format!("{}/metrics", self.url)).send().await?.text().await?;
        let samples = text.lines().filter(|line| line.starts_with(name)).filter_map(|line| line.rsplit(' ').next());
        Ok(samples.filter_map(|value| value.parse::<f64>().ok()).sum())
    }

    async fn until<T>(&self, what: &str, look: impl AsyncFn() -> Result<Option<T>>) -> Result<T> {
        for _ in 0..PATIENCE.as_millis() / 50 {
            if let Some(found) = look().await? {
                return Ok(found);
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        bail!("after {PATIENCE:?} it is still not so: {what}; {}", self.get("/readyz").await?)
    }
}

impl Drop for Process {
    /// Ends the process and prints its output, which the test runner shows when the test failed.
    fn drop(&mut self) {
        // Both fail only when the process is gone already.
        let _ = self.process.kill();
        let _ = self.process.wait();
        self.output.iter().for_each(|line| println!("{line}"));
    }
}

async fn json_of(response: Response) -> Result<Value> {
    let (status, url) = (response.status(), response.url().clone());
    let body = response.text().await?;
    let shown: String = body.chars().take(2_000).collect();
    ensure!(status.is_success(), "{url} answered {status}: {shown}");
    serde_json::from_str(&body).with_context(|| format!("{url} answered something else than expected: {shown}"))
}

fn number(value: &Value) -> Result<u64> {
    value.as_u64().with_context(|| format!("{value} is no number"))
}
