//! Time from the start of a process that was killed with SIGKILL to its first answer, which must have every acknowledged
//! event, by the number of realtime events: no batch run covers any. The process is killed right after the last
//! acknowledgement, so what the history does not have yet is as much as it can be.

use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

use anyhow::{Context, Result, ensure};

use crate::flights;
use crate::process::Process;

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
            let unarchived = platform.events_in("offsets").await? - platform.events_in("history_offsets").await?;
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
