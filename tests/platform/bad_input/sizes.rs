//! Numbers of things that nobody has planned for.

use std::fmt::Write;

use anyhow::{Result, ensure};

use super::site::Site;

/// Every event has a day of its own, over 2,700 years: the history and the batch view must not fall into a file for each.
#[tokio::test]
async fn a_million_dates_are_a_million_groups_in_a_few_files() -> Result<()> {
    const DAYS: usize = 1_000_000;
    let mut site = Site::open(
        "CREATE SOURCE events (t TIMESTAMP NOT NULL, WATERMARK FOR t AS t - INTERVAL '1 day');
         CREATE MATERIALIZED VIEW daily AS
             SELECT window_start, count(*) AS n FROM events GROUP BY tumble(t, INTERVAL '1 day')",
    )
    .await?;
    let mut body = String::with_capacity(DAYS * 24);
    for day in 0..DAYS as i64 {
        // Midnights from the year 1 on, in milliseconds.
        writeln!(body, "{{\"t\":{}}}", -62_135_596_800_000 + day * 86_400_000)?;
    }
    site.accept(&body).await?;
    let count = "SELECT count(*), sum(n), min(window_start), max(window_start) FROM daily";
    let expected = ["1000000,1000000,0001-01-01T00:00:00.000000Z,2738-11-28T00:00:00.000000Z"];
    ensure!(site.rows(count).await? == expected, "{:?}", site.rows(count).await?);
    site.batch_run("daily").await?;
    ensure!(site.rows(count).await? == expected);
    let view = site.get("/v1/views/daily").await?;
    ensure!(view["batch"]["rows"] == DAYS && view["batch"]["files"].as_u64().is_some_and(|files| files < 20), "{view}");
    let files = site.parquet_files()?;
    ensure!(files < 40, "{files} files");
    site = site.restart().await?;
    let one = "SELECT n FROM daily WHERE window_start = arrow_cast('1066-10-14T00:00:00Z', 'Timestamp(Microsecond, Some(\"UTC\"))')";
    ensure!(site.rows(one).await? == ["1"]);
    Ok(())
}
