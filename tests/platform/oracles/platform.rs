//! The real binary as a process of its own, and what a test does to it.

use std::fs;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use reqwest::StatusCode;
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use tempfile::TempDir;
use watershed_shared::position::{Offset, Position, PositionToken};

use super::answer::{Answer, Oracle};
use super::data_set::{DataSet, definitions};
use crate::running::spawn;

/// How long a start, a stop or one request may take; generous, because other tests share the machine.
const PATIENCE: Duration = Duration::from_secs(300);

/// The platform as a process of its own, on one data set's definitions, with what the test did to it so far.
pub(crate) struct Platform {
    source: &'static str,
    /// Holds everything of this platform; the test may put files there.
    pub(crate) folder: TempDir,
    process: Child,
    /// What the process prints; closed when it ends.
    output: Receiver<String>,
    pub(crate) url: String,
    client: reqwest::Client,
    /// After everything ingested so far.
    position: Position,
    /// What the latest batch run of every view must cover.
    boundary: Position,
}

impl Platform {
    /// Starts the platform with a data set's definitions on an empty data folder.
    pub(crate) fn start(data_set: &DataSet) -> Result<Platform> {
        let sql = fs::read_to_string(definitions().join(format!("{}.sql", data_set.name)))?;
        Platform::start_with(data_set.name, &sql, "")
    }

    /// Starts the platform with definitions, of which `source` is the one that the test is about, and settings.
    pub(crate) fn start_with(source: &'static str, sql: &str, settings: &str) -> Result<Platform> {
        let folder = tempfile::tempdir()?;
        let project = folder.path().join("project");
        fs::create_dir(&project)?;
        fs::write(project.join("watershed.toml"), settings)?;
        fs::write(project.join("definitions.sql"), sql)?;
        let (process, output, url) = spawn(&folder.path().join("project"), &folder.path().join("data"))?;
        // The runtime sleeps while a command runs, so a pooled connection may be dead when it is used again.
        let client = reqwest::Client::builder().pool_max_idle_per_host(0).timeout(PATIENCE).build()?;
        let [position, boundary] = [Position::default(), Position::default()];
        Ok(Platform { source, folder, process, output, url, client, position, boundary })
    }

    /// Sends a file through `watershed ingest`; afterwards the log must hold `rows_after` events.
    pub(crate) fn ingest(&mut self, file: &Path, rows_after: usize) -> Result<()> {
        let printed = self.command(&["ingest", self.source, &file.to_string_lossy()])?;
        for token in printed.split(|c: char| c.is_whitespace() || "\"'`();".contains(c)) {
            if let Ok(token) = token.trim_end_matches(['.', ',']).parse::<PositionToken>()
                && token.source == self.source
            {
                self.expect(&token.position);
            }
        }
        let rows = self.position.events_since(&Position::default());
        ensure!(rows == rows_after as u64, "{rows} events after ingest, expected {rows_after}; it printed:\n{printed}");
        Ok(())
    }

    /// Events up to here are there for answers to show.
    pub(crate) fn expect(&mut self, position: &Position) {
        self.position.join(position);
    }

    /// Runs a full batch run of every view and checks what it published and what its audit says.
    pub(crate) async fn batch_run_of_every_view(&mut self) -> Result<()> {
        let Views { views } = self.get("/v1/views").await?;
        ensure!(!views.is_empty(), "the platform has no views");
        self.boundary = self.position.clone();
        for View { name, batch_version: version_before, .. } in views {
            self.command(&["batch", "run", &name])?;
            let view: View = self.get(&format!("/v1/views/{name}")).await?;
            ensure!(view.batch_version > version_before, "{name}: batch version is still {version_before:?}");
            let boundary = position(&view.boundary);
            ensure!(same_place(&boundary, &self.boundary), "{name}: boundary {boundary}, expected {}", self.boundary);
            let audit = view.last_audit.with_context(|| format!("{name}: no audit after a batch run"))?;
            let equal = audit.outcome == "equal" && Some(audit.batch_version) == view.batch_version;
            ensure!(equal, "{name}: batch version {:?} was audited as {audit:?}", view.batch_version);
        }
        Ok(())
    }

    /// Asks every oracle's query; the error lists everything that differs.
    pub(crate) async fn check(&self, situation: &str, oracles: Vec<&Oracle>) -> Result<()> {
        let mut differing = Vec::new();
        for oracle in oracles {
            let answer = self.ask(&oracle.sql).await.with_context(|| format!("{situation}: {}", oracle.name))?;
            let mut lines = self.place_differences(&answer);
            lines.extend(oracle.differences(&answer));
            if !lines.is_empty() {
                differing.push(format!("{}:\n    {}", oracle.name, lines.join("\n    ")));
            }
        }
        ensure!(differing.is_empty(), "{} ({situation}): wrong answers\n  {}", self.source, differing.join("\n  "));
        Ok(())
    }

    /// Where an answer was made from other events, or with another boundary, than the situation has.
    fn place_differences(&self, answer: &Answer) -> Vec<String> {
        let mut lines = Vec::new();
        if !answer.complete {
            lines.push("the answer is incomplete".to_owned());
        }
        match answer.as_of.sources.get(self.source).map(|source| position(&source.offsets)) {
            Some(offsets) if same_place(&offsets, &self.position) => {}
            offsets => lines.push(format!("as of offsets {offsets:?}, ingested {}", self.position)),
        }
        if answer.as_of.views.is_empty() {
            lines.push("as_of names no view".to_owned());
        }
        for (view, as_of) in &answer.as_of.views {
            let boundary = position(&as_of.boundary);
            if !same_place(&boundary, &self.boundary) {
                lines.push(format!("boundary of {view} is {boundary}, expected {}", self.boundary));
            }
        }
        lines
    }

    /// Asks at the position of everything ingested. A request may time out while the realtime views catch up.
    pub(crate) async fn ask(&self, sql: &str) -> Result<Answer> {
        let token = PositionToken { source: self.source.to_owned(), position: self.position.clone() };
        let question = json!({ "sql": sql, "position": token.to_string() });
        let asked = Instant::now();
        loop {
            let response = self.client.post(format!("{}/v1/sql", self.url)).json(&question).send().await?;
            if response.status() != StatusCode::REQUEST_TIMEOUT || asked.elapsed() > PATIENCE {
                return json_body(response).await;
            }
        }
    }

    pub(crate) async fn get<T: DeserializeOwned>(&self, path: &str) -> Result<T> {
        json_body(self.client.get(format!("{}{path}", self.url)).send().await?).await
    }

    /// Runs a client command against this platform and returns all that it printed.
    pub(crate) fn command(&self, arguments: &[&str]) -> Result<String> {
        let mut command = Command::new(env!("CARGO_BIN_EXE_watershed"));
        let output = command
            .args(arguments)
            .env("WATERSHED_URL", &self.url)
            .env("XDG_STATE_HOME", self.folder.path().join("state"))
            .stdin(Stdio::null())
            .output()?;
        let [stdout, stderr] = [&output.stdout, &output.stderr].map(|bytes| String::from_utf8_lossy(bytes));
        let printed = format!("{stdout}\n{stderr}");
        ensure!(output.status.success(), "watershed {} ended with {}:\n{printed}", arguments.join(" "), output.status);
        Ok(printed)
    }

    /// Stops the platform with SIGTERM and starts it again on the same data.
    pub(crate) fn restart(&mut self) -> Result<()> {
        self.stop()?;
        self.start_again()
    }

    /// Starts the platform again after it has stopped.
    pub(crate) fn start_again(&mut self) -> Result<()> {
        (self.process, self.output, self.url) =
            spawn(&self.folder.path().join("project"), &self.folder.path().join("data"))?;
        Ok(())
    }

    /// Ends the platform with SIGKILL and starts it again on the same data.
    pub(crate) fn kill_and_restart(&mut self) -> Result<()> {
        self.process.kill()?;
        self.process.wait()?;
        self.start_again()
    }

    /// Stops the platform with SIGTERM; it must end by itself and without an error.
    pub(crate) fn stop(&mut self) -> Result<()> {
        let signal = Command::new("kill").args(["-TERM", &self.process.id().to_string()]).status()?;
        ensure!(signal.success(), "cannot signal process {}: it is gone", self.process.id());
        let stopped = Instant::now();
        loop {
            match self.output.recv_timeout(PATIENCE.saturating_sub(stopped.elapsed())) {
                Ok(line) => println!("{line}"),
                Err(RecvTimeoutError::Disconnected) => break,
                Err(RecvTimeoutError::Timeout) => bail!("the platform still runs {PATIENCE:?} after SIGTERM"),
            }
        }
        let status = self.process.wait()?;
        ensure!(status.success(), "the platform ended with {status} after SIGTERM");
        Ok(())
    }
}

impl Drop for Platform {
    /// Ends the process and prints its output, which the test runner shows when the test failed.
    fn drop(&mut self) {
        // Both fail only when the process is gone already.
        let _ = self.process.kill();
        let _ = self.process.wait();
        self.output.iter().for_each(|line| println!("{line}"));
    }
}

/// An element of `GET /v1/views`.
#[derive(Deserialize)]
struct View {
    name: String,
    batch_version: Option<u64>,
    boundary: Vec<u64>,
    last_audit: Option<Audit>,
}

#[derive(Deserialize, Debug)]
#[expect(dead_code, reason = "a failure prints all of it")]
struct Audit {
    batch_version: u64,
    outcome: String,
    groups_compared: u64,
    groups_different: u64,
    detail: Value,
}

#[derive(Deserialize)]
struct Views {
    views: Vec<View>,
}

async fn json_body<T: DeserializeOwned>(response: reqwest::Response) -> Result<T> {
    let (status, url) = (response.status(), response.url().clone());
    let body = response.text().await?;
    let shown: String = body.chars().take(2_000).collect();
    ensure!(status.is_success(), "{url} answered {status}: {shown}");
    serde_json::from_str(&body).with_context(|| format!("{url} answered something else than expected: {shown}"))
}

fn position(offsets: &[u64]) -> Position {
    Position::new(offsets.iter().copied().map(Offset).collect())
}

/// Whether two positions name the same place; partitions that one of them leaves out are at 0.
fn same_place(a: &Position, b: &Position) -> bool {
    a.covers(b) && b.covers(a)
}
