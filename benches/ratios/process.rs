//! The command `watershed run` as users run it, in a process of its own.

use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;

use anyhow::{Context, Result};
use serde_json::{Value, json};

use crate::flights;

/// The command `watershed run` in a process of its own.
pub(crate) struct Process {
    child: Child,
    url: String,
    client: reqwest::Client,
}

impl Process {
    /// Returns when it listens.
    pub(crate) fn start(project: &Path) -> Result<Process> {
        let mut command = Command::new(env!("CARGO_BIN_EXE_watershed"));
        let mut child = command.arg("run").arg(project).stdout(Stdio::piped()).stderr(Stdio::null()).spawn()?;
        let mut line = String::new();
        BufReader::new(child.stdout.take().context("no output")?).read_line(&mut line)?;
        let url = line.trim().strip_prefix("listening on ").context("it did not start")?.to_owned();
        Ok(Process { child, url, client: reqwest::Client::new() })
    }

    /// Ends it with SIGKILL.
    pub(crate) fn kill(&mut self) -> Result<()> {
        self.child.kill()?;
        self.child.wait()?;
        Ok(())
    }

    /// Sends all bodies from several concurrent clients.
    pub(crate) async fn send(&self, bodies: &Arc<Vec<flights::Body>>) -> Result<()> {
        let (url, client) = (format!("{}/v1/sources/{}/events", self.url, flights::SOURCE), self.client.clone());
        let send = move |body: flights::Body| {
            let request = client.post(&url).header("content-type", "application/x-ndjson").body(body.json);
            async move {
                request.send().await?.error_for_status()?;
                Ok(())
            }
        };
        flights::in_turn(bodies, 4, send).await
    }

    /// The first value of a query's answer.
    pub(crate) async fn ask(&self, sql: &str) -> Result<Value> {
        let answer = self.client.post(format!("{}/v1/sql", self.url)).json(&json!({ "sql": sql })).send().await?;
        Ok(answer.error_for_status()?.json::<Value>().await?["rows"][0][0].clone())
    }

    /// The JSON at a path.
    pub(crate) async fn get(&self, path: &str) -> Result<Value> {
        Ok(self.client.get(format!("{}{path}", self.url)).send().await?.error_for_status()?.json().await?)
    }

    /// Its number.
    pub(crate) fn id(&self) -> u32 {
        self.child.id()
    }

    /// How many events of the only source there are in what `ends` names: `offsets`, `applied` or `history_offsets`.
    pub(crate) async fn events_in(&self, ends: &str) -> Result<u64> {
        let sources = self.get("/v1/sources").await?;
        let source =
            sources["sources"].as_array().into_iter().flatten().find(|source| source["name"] == flights::SOURCE);
        let ends = source.and_then(|source| source[ends].as_array()).context("no such offsets")?;
        Ok(ends.iter().filter_map(Value::as_u64).sum())
    }
}
