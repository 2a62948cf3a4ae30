//! Values at the ends of their types.

use anyhow::{Result, ensure};
use arrow::array::{ArrayRef, Float64Array, RecordBatch};
use arrow::ipc::writer::StreamWriter;
use std::sync::Arc;

use super::site::{Site, check};

#[tokio::test]
async fn events_of_any_year_are_counted_in_their_window() -> Result<()> {
    let definitions = "
        CREATE SOURCE events (t TIMESTAMP NOT NULL, WATERMARK FOR t AS t - INTERVAL '1 minute');
        CREATE MATERIALIZED VIEW hourly AS
            SELECT window_start, window_end, count(*) AS n FROM events GROUP BY tumble(t, INTERVAL '1 hour')";
    let lines = r#"{"t":"0001-01-01T00:00:00Z"}
        {"t":"1969-12-31T23:59:59.999999Z"}
        {"t":"1970-01-01T00:00:00Z"}
        {"t":"2999-06-01T12:30:00Z"}
        {"t":"9999-12-31T23:59:59.999999Z"}
        {"t":"2024-01-01T00:00:00Z"}"#;
    let windows = [
        "0001-01-01T00:00:00.000000Z,0001-01-01T01:00:00.000000Z",
        "1969-12-31T23:00:00.000000Z,1970-01-01T00:00:00.000000Z",
        "1970-01-01T00:00:00.000000Z,1970-01-01T01:00:00.000000Z",
        "2024-01-01T00:00:00.000000Z,2024-01-01T01:00:00.000000Z",
        "2999-06-01T12:00:00.000000Z,2999-06-01T13:00:00.000000Z",
        "9999-12-31T23:00:00.000000Z,+10000-01-01T00:00:00.000000Z",
    ];
    let times = |n: usize| windows.map(|window| format!("{window},{n}"));
    let (once, twice) = (times(1), times(2));
    let query = "SELECT * FROM hourly ORDER BY window_start";
    check(
        definitions,
        "hourly",
        lines,
        query,
        &once.each_ref().map(|s| s.as_str()),
        &twice.each_ref().map(|s| s.as_str()),
    )
    .await?;
    let narrow = "SELECT n FROM hourly WHERE window_start = arrow_cast('2999-06-01T12:00:00Z', 'Timestamp(Microsecond, Some(\"UTC\"))')";
    check(definitions, "hourly", lines, narrow, &["1"], &["2"]).await
}

#[tokio::test]
async fn an_event_of_the_far_future_does_not_hide_later_ones() -> Result<()> {
    let definitions = "
        CREATE SOURCE events (t TIMESTAMP NOT NULL, WATERMARK FOR t AS t - INTERVAL '1 minute');
        CREATE MATERIALIZED VIEW daily AS
            SELECT window_start, count(*) AS n FROM events GROUP BY tumble(t, INTERVAL '1 day')";
    let mut site = Site::open(definitions).await?;
    site.accept(r#"{"t":"2999-06-01T12:30:00Z"}"#).await?;
    site.batch_run("daily").await?;
    for _ in 0..3 {
        site.accept(r#"{"t":"2024-06-01T12:30:00Z"}"#).await?;
    }
    site = site.restart().await?;
    let rows = site.rows("SELECT * FROM daily ORDER BY 1").await?;
    ensure!(rows == ["2024-06-01T00:00:00.000000Z,3", "2999-06-01T00:00:00.000000Z,1"], "{rows:?}");
    let sources = site.get("/v1/sources").await?;
    ensure!(sources["sources"][0]["watermark"] == "2999-06-01T12:29:00.000000Z", "{sources}");
    Ok(())
}

#[tokio::test]
async fn events_outside_of_the_calendar_are_refused_alone() -> Result<()> {
    let mut site = Site::open(
        "CREATE SOURCE events (t TIMESTAMP NOT NULL);
        CREATE MATERIALIZED VIEW v AS SELECT count(*) AS n FROM events",
    )
    .await?;
    let lines = "{\"t\":\"0000-12-31\"}\n{\"t\":1e300}\n{\"t\":-1e17}\n{\"t\":\"2024-02-30\"}\n{\"t\":\"10000-01-01\"}\n{\"t\":0}\n\
                 {\"t\":\"now\"}\n{\"t\":9223372036854775807}\n";
    let (status, report) = site.send("application/x-ndjson", lines).await?;
    ensure!(status == 200 && report["accepted"] == 1 && report["rejected"] == 7, "{status}: {report}");
    ensure!(site.rows("SELECT n FROM v").await? == ["1"]);
    Ok(())
}

/// IEEE zeros are equal, and a group by NaN is one group: whichever layer holds the events.
#[tokio::test]
async fn zeros_and_nans_are_each_one_group_in_every_layer() -> Result<()> {
    let definitions = "
        CREATE SOURCE events (x DOUBLE);
        CREATE MATERIALIZED VIEW v AS SELECT x, count(*) AS n FROM events GROUP BY x";
    let nan = f64::from_bits(0x7ff8_0000_0000_0001);
    let values =
        [0.0, -0.0, f64::NAN, nan, -f64::NAN, f64::INFINITY, f64::NEG_INFINITY, 0.0, f64::MAX, f64::MIN_POSITIVE];
    let column: ArrayRef = Arc::new(Float64Array::from(values.to_vec()));
    let batch = RecordBatch::try_from_iter_with_nullable([("x", column, true)])?;
    let mut writer = StreamWriter::try_new(Vec::new(), &batch.schema())?;
    writer.write(&batch)?;
    writer.finish()?;
    let body = writer.into_inner()?;

    let mut site = Site::open(definitions).await?;
    let mut situations = Vec::new();
    let query = "SELECT x, n FROM v ORDER BY n, x";
    for round in 0..2 {
        let (status, report) = site.send("application/vnd.apache.arrow.stream", body.clone()).await?;
        ensure!(status == 200 && report["accepted"] == values.len(), "{status}: {report}");
        situations.push((round, "before a batch run", site.rows(query).await?));
        site.batch_run("v").await?;
        situations.push((round, "after a batch run", site.rows(query).await?));
        site = site.restart().await?;
        situations.push((round, "after a restart", site.rows(query).await?));
    }
    println!("{situations:#?}");
    Ok(())
}

#[tokio::test]
async fn numbers_at_the_ends_of_their_types_are_kept_exactly() -> Result<()> {
    let definitions = "
        CREATE SOURCE events (k TEXT, v BIGINT, x DOUBLE, d DECIMAL(38, 10));
        CREATE MATERIALIZED VIEW v AS SELECT k, min(v) AS a, max(v) AS b, min(x) AS c, max(x) AS e, max(d) AS f, count(*) AS n
            FROM events GROUP BY k";
    let lines = r#"{"k":"a","v":9223372036854775807,"x":1.7976931348623157e308,"d":"9999999999999999999999999999.9999999999"}
        {"k":"a","v":-9223372036854775808,"x":5e-324,"d":-1}"#;
    let row = |n| {
        format!(
            "a,-9223372036854775808,9223372036854775807,5e-324,1.7976931348623157e+308,9999999999999999999999999999.9999999999,{n}"
        )
    };
    check(definitions, "v", lines, "SELECT * FROM v", &[&row(2)], &[&row(4)]).await?;

    let mut site = Site::open(definitions).await?;
    let lines = "{\"v\":9223372036854775808}\n{\"x\":1e309}\n{\"d\":1e28}\n{\"v\":1.5}\n{\"d\":1e-11}\n{\"v\":1e999999999999}\n\
                 {\"x\":NaN}\n{\"x\":Infinity}\n{\"v\":0x10}\n{\"v\":1}\n{\"v\":- 1}\n{\"v\":01}\n";
    let (status, report) = site.send("application/x-ndjson", lines).await?;
    ensure!(status == 200 && report["accepted"] == 1 && report["rejected"] == 11, "{status}: {report}");
    ensure!(site.rows("SELECT a, n FROM v").await? == ["1,1"]);
    Ok(())
}
