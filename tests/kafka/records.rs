//! Records that are no events.

use anyhow::{Result, ensure};
use serde_json::Value;

use crate::broker::{Broker, produce};
use crate::harness::platform::Platform;

#[tokio::test(flavor = "multi_thread")]
async fn dead_letters_can_be_asked_for_and_are_counted_once_through_crashes() -> Result<()> {
    let broker = Broker::start()?;
    broker.create_topic("t", 2)?;
    let sql = format!(
        "CREATE SOURCE numbers (n BIGINT NOT NULL) WITH (connector = 'kafka', brokers = '{}', topic = 't');
         CREATE MATERIALIZED VIEW totals AS SELECT count(*) AS events, sum(n) AS n FROM numbers;",
        broker.address
    );
    let mut platform = Platform::start_with("numbers", &sql, "[history]\ncommit_interval = \"200ms\"\n")?;
    let producer = broker.producer(None)?;
    for round in 0..5 {
        let values = (0..20).map(|n| if n == 7 { format!("not json {round}") } else { format!("{{\"n\": {n}}}") });
        produce(&producer, "t", 2, values)?;
        platform.expect(&broker.end("t", 2)?);
        platform.kill_and_restart()?;
    }
    let totals = platform.ask("SELECT events, n FROM totals").await?;
    ensure!(totals.rows[0].iter().map(Value::to_string).collect::<Vec<_>>() == ["95", "915"], "{:?}", totals.rows);
    for situation in ["realtime", "batch"] {
        let query = "SELECT partition, \"offset\", \"value\", reason FROM numbers__dead_letters ORDER BY \"offset\"";
        let letters = platform.command(&["sql", "--format", "csv", query])?;
        let lines: Vec<&str> = letters.lines().filter(|line| line.starts_with("1,")).collect();
        ensure!(lines.len() == 5, "{situation}: {letters}");
        ensure!(lines[2].starts_with("1,23,not json 2,"), "{situation}: {letters}");
        platform.command(&["batch", "run", "numbers__dead_letters"])?;
    }
    platform.stop()
}
