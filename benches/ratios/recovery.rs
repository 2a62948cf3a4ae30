//! Time from the start of a process that was killed with SIGKILL to its first answer, which must have every acknowledged
//! event, by the number of realtime events: no batch run covers any. The process is killed right after the last
//! acknowledgement, so what the history does not have yet is as much as it can be.

use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::Instant;

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};

use crate::flights;

/// Events after which the process is killed.
const AMOUNTS: [usize; 3] = [1_000_000, 5_000_000, 10_000_000];
const KILLS: usize = 3;
const BODY_ROWS: usize = 10_000;
/// A view of many groups beside those of the example.
const HOURLY: &str = "CREATE MATERIALIZED VIEW hourly AS
SELECT window_start, origin, carrier, count(*) AS flights, avg(dep_delay) AS mean_delay
FROM flights GROUP BY tumble(scheduled_departure, INTERVAL '1 hour'), origin, carrier;";

pub(crate) async fn run() -> Result<()> {
    let folder = crate::folder()?;
    let example = std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("examples/flights/flights.sql"))?;
    std::fs::write(folder.path().join("watershed.toml"), "http = \"127.0.0.1:0\"\n")?;
    std::fs::write(folder.path().join("views.sql"), format!("{}\n{HOURLY}\n", without_schedules(&example)))?;
    println!(
        "\nrecovery: from the start of the process, killed before, to the first answer with every event, aim <= 2 s"
    );
    let source = flights::source()?;
    let year = flights::events(&source)?;
    let mut platform = Process::start(folder.path())?;
    let (mut count, mut years) = (0, 0);
    for amount in AMOUNTS {
        while count < amount {
            let bodies = Arc::new(flights::bodies(&flights::years_later(&year, years)?, BODY_ROWS)?);
            count += bodies.iter().map(|body| body.rows).sum::<usize>();
            years += 1;
            platform.send(&bodies).await?;
        }
        for _ in 0..KILLS {
            platform.kill()?;
            let started = Instant::now();
            platform = Process::start(folder.path())?;
            let listening = started.elapsed();
            let answer = platform.ask("SELECT sum(flights) FROM flights_by_day_origin").await?;
            let answered = started.elapsed();
            ensure!(answer == count, "{answer} of {count} events");
            let unarchived = platform.unarchived().await?;
            println!(
                "  {count:>9} events, {unarchived:>7} of them not in the history: listening after {:>5.2} s, answer after {:>5.2} s",
                listening.as_secs_f64(),
                answered.as_secs_f64()
            );
        }
    }
    let views = platform.get("/v1/views").await?;
    for view in views["views"].as_array().context("no views")? {
        println!("  {}: {} realtime rows, {} bytes", view["name"], view["realtime"]["rows"], view["realtime"]["bytes"]);
    }
    platform.kill()
}

/// The example's definitions without their cron expressions: a batch run would take events away from realtime.
fn without_schedules(sql: &str) -> String {
    let mut text = String::new();
    for statement in sql.split_inclusive(';') {
        let start = statement.find("WITH (").filter(|_| statement.contains("MATERIALIZED VIEW"));
        let end = start.and_then(|start| statement[start..].find(')').map(|length| start + length + 1));
        match (start, end) {
            (Some(start), Some(end)) => text.extend([&statement[..start], &statement[end..]]),
            _ => text.push_str(statement),
        }
    }
    text
}

/// The command `watershed run` in a process of its own.
struct Process {
    child: Child,
    url: String,
    client: reqwest::Client,
}

impl Process {
    /// Returns when it listens.
    fn start(project: &Path) -> Result<Process> {
        let mut command = Command::new(env!("CARGO_BIN_EXE_watershed"));
        let mut child = command.arg("run").arg(project).stdout(Stdio::piped()).stderr(Stdio::null()).spawn()?;
        let mut line = String::new();
        BufReader::new(child.stdout.take().context("no output")?).read_line(&mut line)?;
        let url = line.trim().strip_prefix("listening on ").context("it did not start")?.to_owned();
        Ok(Process { child, url, client: reqwest::Client::new() })
    }

    fn kill(&mut self) -> Result<()> {
        self.child.kill()?;
        self.child.wait()?;
        Ok(())
    }

    async fn send(&self, bodies: &Arc<Vec<flights::Body>>) -> Result<()> {
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

    async fn ask(&self, sql: &str) -> Result<Value> {
        let answer = self.client.post(format!("{}/v1/sql", self.url)).json(&json!({ "sql": sql })).send().await?;
        Ok(answer.error_for_status()?.json::<Value>().await?["rows"][0][0].clone())
    }

    async fn get(&self, path: &str) -> Result<Value> {
        Ok(self.client.get(format!("{}{path}", self.url)).send().await?.error_for_status()?.json().await?)
    }

    async fn unarchived(&self) -> Result<u64> {
        let sources = self.get("/v1/sources").await?;
        let sum = |name: &str| -> u64 {
            sources["sources"][0][name].as_array().into_iter().flatten().filter_map(Value::as_u64).sum()
        };
        Ok(sum("offsets") - sum("history_offsets"))
    }
}
