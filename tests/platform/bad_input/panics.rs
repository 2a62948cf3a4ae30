//! Code of others that panics on some value: it costs the view or the query that uses it, and nothing else.
//!
//! `array_slice(a, 2, 3, n)` of DataFusion 55 counts past the end of 32 bits for the stride 2147483647.

use anyhow::{Result, ensure};
use reqwest::StatusCode;
use watershed::platform::check_definitions;
use watershed_shared::definition::parse_definitions;

use super::site::Site;

const SOURCE: &str = "CREATE SOURCE events (id BIGINT, a BIGINT[], v BIGINT);";
const GOOD: &str = r#"{"id":1,"a":[1,2,3],"v":1}"#;
const BAD: &str = r#"{"id":2,"a":[1,2,3],"v":2147483647}"#;

#[tokio::test]
async fn a_view_that_panics_on_an_event_is_stopped_with_its_reason_and_everything_else_goes_on() -> Result<()> {
    let mut site = Site::open(&format!(
        "{SOURCE}
         CREATE MATERIALIZED VIEW panics AS
             SELECT array_slice(a, 2, 3, v) AS s, count(*) AS n FROM events GROUP BY array_slice(a, 2, 3, v);
         CREATE MATERIALIZED VIEW fine AS SELECT count(*) AS n FROM events"
    ))
    .await?;
    site.accept(GOOD).await?;
    ensure!(site.rows("SELECT n FROM panics").await? == ["1"] && site.rows("SELECT n FROM fine").await? == ["1"]);
    site.batch_run("panics").await?;

    site.accept(BAD).await?;
    for situation in ["at the event", "after a failed batch run", "after a restart", "after a second restart"] {
        ensure_stopped(&site).await?;
        site.accept(GOOD).await?;
        let rows = site.rows("SELECT n FROM fine").await?;
        let expected = match situation {
            "at the event" => "3",
            "after a failed batch run" => "4",
            "after a restart" => "5",
            _ => "6",
        };
        ensure!(rows == [expected], "{situation}: {rows:?}");
        let (status, run) = site.run_batch("panics").await?;
        ensure!(status == 500 && run["batch_run"]["state"] == "failed", "{situation}: {status}: {run}");
        site.batch_run("fine").await?;
        if situation != "at the event" {
            site = site.restart().await?;
        }
    }
    Ok(())
}

/// Checks that the view says that it is stopped, and why, wherever it is asked for.
async fn ensure_stopped(site: &Site) -> Result<()> {
    let (status, problem) = site.ask("SELECT n FROM panics").await?;
    ensure!(status == StatusCode::SERVICE_UNAVAILABLE && problem.contains("panicked"), "{status}: {problem}");
    let view = site.get("/v1/views/panics").await?;
    ensure!(view["state"] == "stopped", "{view}");
    let ready = site.get("/readyz").await?;
    let detail = ready["detail"].to_string();
    ensure!(ready["ready"] == true && detail.contains("panics") && detail.contains("panicked"), "{ready}");
    Ok(())
}

#[tokio::test]
async fn a_query_that_panics_is_an_error_and_the_next_one_is_answered() -> Result<()> {
    let mut site = Site::open(&format!(
        "{SOURCE}
         CREATE MATERIALIZED VIEW all_rows AS SELECT id, a, v FROM events;
         CREATE MATERIALIZED VIEW panics AS
             SELECT array_slice(first_value(a ORDER BY id), 2, 3, max(v)) AS s, count(*) AS n FROM events"
    ))
    .await?;
    site.accept(&format!("{GOOD}\n{BAD}")).await?;
    for sql in [
        "SELECT array_slice(a, 2, 3, v) FROM all_rows",
        "SELECT array_slice([1, 2, 3], 2, 3, 2147483647)",
        "SELECT s FROM panics",
    ] {
        let (status, problem) = site.ask(sql).await?;
        ensure!(
            status == StatusCode::INTERNAL_SERVER_ERROR && problem.contains("panicked"),
            "{sql}: {status}: {problem}"
        );
        ensure!(site.rows("SELECT count(*) FROM all_rows").await? == ["2"]);
    }
    // Its states are sound, so that only what reads the column is an error.
    ensure!(site.rows("SELECT n FROM panics").await? == ["2"]);
    site.batch_run("panics").await?;
    ensure!(site.rows("SELECT n FROM panics").await? == ["2"]);
    Ok(())
}

#[tokio::test]
async fn a_definition_that_panics_while_it_is_planned_is_refused() -> Result<()> {
    for query in [
        "SELECT array_slice([1, 2, 3], 2, 3, 2147483647) AS s, count(*) AS n FROM events GROUP BY 1",
        "SELECT array_slice([1, 2, 3], 2, 3, v + 2147483647) AS s FROM events",
    ] {
        let statements = parse_definitions(&format!("{SOURCE} CREATE MATERIALIZED VIEW v AS {query}"));
        let Ok(statements) = statements else { continue };
        let refused = check_definitions(statements).await.err().map(|error| format!("{error:#}")).unwrap_or_default();
        ensure!(refused.contains("panicked"), "{query}: {refused:?}");
    }
    Ok(())
}
