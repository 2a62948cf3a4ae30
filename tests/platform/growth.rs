//! A source that gets more partitions while its views have batch versions.

use anyhow::Result;
use bytes::Bytes;
use tempfile::TempDir;
use watershed::platform::{Platform, Ports};
use watershed_shared::config::Config;
use watershed_shared::definition::parse_definitions;
use watershed_shared::format::EventFormat;
use watershed_shared::position::PositionToken;

#[tokio::test]
async fn events_of_partitions_added_later_are_counted_after_every_restart() -> Result<()> {
    let folder = TempDir::new()?;
    let mut accepted = 0;
    for partitions in [1, 1, 3, 3, 4] {
        let definitions = parse_definitions(&format!(
            "CREATE SOURCE events (n BIGINT) WITH (connector = 'http', partitions = {partitions}, partition_by = 'n');
             CREATE MATERIALIZED VIEW counted AS SELECT count(*) AS events FROM events;"
        ))?;
        let platform =
            Platform::open(definitions, Config::default(), Ports::open(&Config::default(), folder.path())?).await?;
        let engine = platform.query_engine();
        let count = async |positions: &[PositionToken]| -> Result<String> {
            let answer = engine.query("SELECT events FROM counted", positions).await?;
            Ok(arrow::util::display::array_value_to_string(answer.batches[0].column(0), 0)?)
        };
        assert_eq!(count(&[]).await?, accepted.to_string(), "after a restart with {partitions} partitions");

        let body: String = (0..20).map(|n| format!("{{\"n\": {n}}}\n")).collect();
        let report = platform.accept("events", EventFormat::NdJson, Bytes::from(body)).await?;
        accepted += report.accepted;
        assert_eq!(count(&[report.position.parse()?]).await?, accepted.to_string());
        match partitions {
            // The one batch version has a boundary of one partition.
            1 => drop(platform.prepare_run("counted").await?.compute().await?.publish().await?),
            _ => drop(platform.archive("events").await?),
        }
        platform.stop().await;
    }
    Ok(())
}
