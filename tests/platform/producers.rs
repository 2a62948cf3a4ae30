//! Requests that are repeated: the platform, and `watershed ingest`, killed with SIGKILL at the worst moments.

use std::fs;
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};
use std::sync::mpsc::Receiver;

use anyhow::{Context, Result, ensure};
use futures::stream::{FuturesUnordered, StreamExt};
use reqwest::{Client, StatusCode};
use serde_json::{Value, json};
use tempfile::TempDir;

use super::running::spawn;

const DEFINITIONS: &str = "
    CREATE SOURCE events (n BIGINT) WITH (connector = 'http', partitions = 3, partition_by = 'n');
    CREATE MATERIALIZED VIEW counted AS SELECT n, count(*) AS times FROM events GROUP BY n;";

#[tokio::test]
async fn requests_repeated_after_kills_count_once_and_keep_their_answers() -> Result<()> {
    const REQUESTS: u64 = 60;
    let mut platform = Platform::start()?;
    let mut answers: Vec<Option<String>> = vec![None; REQUESTS as usize];
    // Each round sends everything again, and the platform dies after a few answers more than in the round before.
    for answers_before_the_kill in [1, 9, 30] {
        let mut sent: FuturesUnordered<_> = (0..REQUESTS).map(|number| platform.send(number)).collect();
        for _ in 0..answers_before_the_kill {
            let (number, answer) = sent.next().await.context("no more requests")?;
            keep(&mut answers, number, answer?)?;
        }
        platform.kill()?;
        // Answers that were on their way count as well.
        while let Some((number, answer)) = sent.next().await {
            if let Ok(answer) = answer {
                keep(&mut answers, number, answer)?;
            }
        }
        platform.restart()?;
    }
    for number in 0..REQUESTS {
        keep(&mut answers, number, platform.send(number).await.1?)?;
    }
    let position = platform.check_each_counts_once(2 * REQUESTS).await?;
    for number in 0..REQUESTS {
        let answer = platform.send(number).await.1?;
        ensure!(answer.replayed, "request {number} has no old answer");
        keep(&mut answers, number, answer)?;
    }
    ensure!(platform.position().await? == position, "old answers moved the log's end");
    Ok(())
}

/// The test above, of a log that remembers requests only as long as they wait to be written.
#[test]
fn forgotten_requests_are_found() -> Result<()> {
    let found = Command::new(std::env::current_exe()?)
        .args(["producers::requests_repeated_after_kills_count_once_and_keep_their_answers", "--exact", "--nocapture"])
        .env("WATERSHED_DEFECT", "receipts.forgotten")
        .output()?;
    let printed = String::from_utf8_lossy(&found.stderr);
    ensure!(!found.status.success() && printed.contains("and now"), "the complaint is another one, or none: {printed}");
    Ok(())
}

#[tokio::test]
async fn ingest_killed_at_any_step_of_a_request_counts_each_row_once() -> Result<()> {
    let platform = Platform::start()?;
    let file = platform.folder.path().join("events.ndjson");
    let write = |rows: u64| fs::write(&file, (0..rows).map(|n| format!("{{\"n\":{n}}}\n")).collect::<String>());
    // Three rows go with each request, so the file grows in the middle of the request that is under way.
    for (rows, step) in [
        (10, "ingest.intended:1"),
        (20, "ingest.acknowledged:2"),
        (30, "ingest.intended:2"),
        (40, "ingest.acknowledged:1"),
    ] {
        write(rows)?;
        let killed = platform.ingest(&file, Some(step))?;
        ensure!(!killed.status.success(), "{step} was not reached: {killed:?}");
    }
    write(45)?;
    let whole = platform.ingest(&file, None)?;
    ensure!(whole.status.success(), "{}", String::from_utf8_lossy(&whole.stderr));
    platform.check_each_counts_once(45).await?;
    Ok(())
}

/// Checks that a request was accepted, and that it always gets the same answer.
fn keep(answers: &mut [Option<String>], number: u64, now: Answer) -> Result<()> {
    ensure!(now.status == StatusCode::OK, "request {number}: {} {}", now.status, now.body);
    let first = answers[number as usize].get_or_insert_with(|| now.body.clone());
    ensure!(*first == now.body, "request {number} was answered {first} and now {}", now.body);
    Ok(())
}

struct Answer {
    status: StatusCode,
    replayed: bool,
    body: String,
}

/// The real binary on a project of its own.
struct Platform {
    folder: TempDir,
    process: Child,
    /// What the process prints; it could not print any more if nobody took that.
    output: Receiver<String>,
    url: String,
    client: Client,
}

impl Platform {
    fn start() -> Result<Platform> {
        let folder = TempDir::new()?;
        let project = folder.path().join("project");
        fs::create_dir(&project)?;
        fs::write(project.join("watershed.toml"), "")?;
        fs::write(project.join("events.sql"), DEFINITIONS)?;
        let (process, output, url) = spawn(&folder.path().join("project"), &folder.path().join("data"))?;
        let client = Client::builder().pool_max_idle_per_host(0).build()?;
        Ok(Platform { folder, process, output, url, client })
    }

    /// Sends two events under a key of their own; answers the number and what was answered.
    fn send(&self, number: u64) -> impl Future<Output = (u64, reqwest::Result<Answer>)> + use<> {
        let body = format!("{{\"n\":{}}}\n{{\"n\":{}}}\n", 2 * number, 2 * number + 1);
        let request = self.client.post(format!("{}/v1/sources/events/events", self.url));
        let request = request.header("idempotency-key", format!("request-{number}")).body(body);
        let answer = async move {
            let response = request.send().await?;
            let (status, replayed) = (response.status(), response.headers().contains_key("idempotent-replayed"));
            Ok(Answer { status, replayed, body: response.text().await? })
        };
        async move { (number, answer.await) }
    }

    /// Runs `watershed ingest`, three rows a request, which kills itself at `step`.
    fn ingest(&self, file: &Path, step: Option<&str>) -> Result<Output> {
        let mut command = Command::new(env!("CARGO_BIN_EXE_watershed"));
        command.args(["ingest", "events", "--batch-rows", "3", "--url", &self.url]).arg(file);
        command.arg("--state").arg(self.folder.path().join("ingest")).stdin(Stdio::null());
        if let Some(step) = step {
            command.env("WATERSHED_FAULT_POINT", step);
        }
        Ok(command.output()?)
    }

    fn kill(&mut self) -> Result<()> {
        self.process.kill()?;
        self.process.wait()?;
        Ok(())
    }

    fn restart(&mut self) -> Result<()> {
        (self.process, self.output, self.url) =
            spawn(&self.folder.path().join("project"), &self.folder.path().join("data"))?;
        Ok(())
    }

    /// The end of the log, as a position.
    async fn position(&self) -> Result<String> {
        let sources: Value = self.client.get(format!("{}/v1/sources", self.url)).send().await?.json().await?;
        Ok(sources["sources"][0]["position"].as_str().context("no position")?.to_owned())
    }

    /// Checks that the view has 0 to `rows`, each once, and answers the end of the log.
    async fn check_each_counts_once(&self, rows: u64) -> Result<String> {
        let position = self.position().await?;
        let sql = "SELECT count(*), min(n), max(n), min(times), max(times) FROM counted";
        let question = json!({ "sql": sql, "position": position });
        let answer = self.client.post(format!("{}/v1/sql", self.url)).json(&question).send().await?;
        let answer: Value = answer.json().await?;
        ensure!(answer["rows"] == json!([[rows, 0, rows - 1, 1, 1]]), "{rows} rows, each once: {answer}");
        Ok(position)
    }
}

impl Drop for Platform {
    fn drop(&mut self) {
        // Both fail only when the process is gone already.
        let _ = self.process.kill();
        let _ = self.process.wait();
        self.output.iter().for_each(|line| println!("{line}"));
    }
}
