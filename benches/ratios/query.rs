//! The same query over the same events, all of them in the batch view; nine tenths there and the rest in the realtime
//! view; all in the realtime view.

use std::sync::Arc;

use anyhow::{Context, Result, ensure};
use arrow::array::RecordBatch;
use watershed_serving_layer::QueryEngine;

use crate::flights::{self, Body, Running};
use crate::{Measurement, Sides};

const TURNS: usize = 12;
const YEARS: i64 = 3;

const LARGE_VIEW: &str = "CREATE MATERIALIZED VIEW hourly AS
    SELECT window_start, origin, dest, count(*) AS flights, avg(dep_delay) AS delay, max(dep_delay) AS worst
    FROM flights GROUP BY tumble(scheduled_departure, INTERVAL '1 hour'), origin, dest;";

/// What is asked, how often in one measurement, and the SQL.
const QUERIES: [(&str, usize, &str); 4] = [
    ("scan of many groups", 1, "SELECT origin, sum(flights), max(worst) FROM hourly GROUP BY origin"),
    (
        "lookup among many groups",
        20,
        "SELECT * FROM hourly WHERE window_start = '2014-06-02T15:00:00Z' AND origin = 'JFK' AND dest = 'LAX'",
    ),
    ("scan of few groups with sketches", 20, "SELECT * FROM carrier_stats"),
    ("lookup among few groups", 20, "SELECT * FROM carrier_stats WHERE carrier = 'UA'"),
];

pub(crate) async fn run() -> Result<()> {
    let events = flights::events(&flights::source()?)?;
    let mut bodies = Vec::new();
    for year in 0..YEARS {
        bodies.extend(flights::bodies(&flights::years_later(&events, year)?, 10_000)?);
    }
    let mut platforms = Vec::new();
    for (name, tenths) in [("all batch", 10), ("90% batch, 10% realtime", 9), ("all realtime", 0)] {
        let running = prepare(&bodies, tenths).await?;
        platforms.push((name, running.platform.query_engine(), running));
    }
    println!("\nquery: time of one query; ratio to the same when all is in the batch view, aim <= 1.3 for 90% batch");
    for (what, repetitions, sql) in QUERIES {
        let mut sides = Sides::default();
        let mut rows = Vec::new();
        for _ in 0..TURNS {
            for (name, engine, _) in &platforms {
                let measured = Measurement::of(repetitions, async {
                    for _ in 0..repetitions {
                        rows.push(ask(engine, sql).await?);
                    }
                    Ok(())
                });
                sides.note(name, measured.await?);
            }
        }
        let first = *rows.first().context("no answer")?;
        ensure!(first > 0 && rows.iter().all(|rows| *rows == first), "{what}: answers of different sizes");
        println!(" {what}");
        sides.print_times();
    }
    for (name, _, running) in &platforms {
        for view in watershed_serving_layer::Backend::views(&running.platform) {
            let (batch, realtime) = (view.batch, view.realtime);
            println!(
                " {name}: {} has {} batch rows in {} files, {} realtime rows in {} runs of {} segments",
                view.name, batch.rows, batch.files, realtime.rows, realtime.runs, realtime.segments
            );
        }
        running.platform.stop().await;
    }
    Ok(())
}

/// A platform with all events, so many tenths of them in the batch views.
async fn prepare(bodies: &[Body], tenths: usize) -> Result<Running> {
    let running = Running::open(flights::definitions(&["carrier_stats"], LARGE_VIEW)?).await?;
    let (batch, realtime) = bodies.split_at(bodies.len() * tenths / 10);
    if !batch.is_empty() {
        running.accept(&Arc::new(batch.to_vec()), 4).await?;
        for view in ["carrier_stats", "hourly"] {
            running.platform.prepare_run(view).await?.compute().await?.publish().await?;
        }
    }
    running.accept(&Arc::new(realtime.to_vec()), 4).await?;
    running.archive().await?;
    running.settle().await;
    Ok(running)
}

async fn ask(engine: &QueryEngine, sql: &str) -> Result<usize> {
    let answer = engine.query(sql, &[]).await?;
    Ok(answer.batches.iter().map(RecordBatch::num_rows).sum())
}
