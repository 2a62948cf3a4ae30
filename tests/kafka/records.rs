//! Records that are no events.

use anyhow::{Result, ensure};
use rdkafka::message::{Header, OwnedHeaders};
use rdkafka::producer::{BaseRecord, Producer as _};
use serde_json::{Value, json};

use crate::broker::{Broker, TIMEOUT, produce, send};
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

/// Records that were read by the wrong format become events when they are replayed under the right one: each once, with their
/// keys and headers, also when replaying is repeated and when the platform is killed in between.
#[tokio::test(flavor = "multi_thread")]
async fn dead_letters_are_replayed_once_after_a_fix() -> Result<()> {
    let broker = Broker::start()?;
    broker.create_topic("t", 2)?;
    let sql = |format: &str| {
        format!(
            "CREATE SOURCE numbers (n BIGINT NOT NULL, owner TEXT METADATA FROM 'key', origin TEXT METADATA FROM 'header.origin')
             WITH (connector = 'kafka', brokers = '{}', topic = 't', format = '{format}');
             CREATE MATERIALIZED VIEW totals AS SELECT owner, origin, count(*) AS events, sum(n) AS n FROM numbers
             GROUP BY owner, origin;",
            broker.address
        )
    };
    let settings = "[history]\ncommit_interval = \"200ms\"\n";
    let mut platform = Platform::start_with("numbers", &sql("csv"), settings)?;
    let producer = broker.producer(None)?;
    let owners = ["ada", "b\u{e9}la"];
    for n in 0..100 {
        let value = if n % 10 == 9 { "no number".to_owned() } else { format!("{{\"n\": {n}}}") };
        let headers = OwnedHeaders::new().insert(Header { key: "origin", value: Some("here") });
        let record = BaseRecord::to("t").key(owners[n % 2]).payload(&value).headers(headers);
        send(&producer, record)?;
    }
    producer.flush(TIMEOUT)?;
    platform.expect(&broker.end("t", 2)?);
    let letters = async |platform: &Platform| -> Result<Value> {
        Ok(platform.ask("SELECT count(*) FROM numbers__dead_letters").await?.rows[0][0].clone())
    };
    // The view of dead letters is at its own position; the answer of another view of the topic says that all were judged.
    let rows = platform.ask("SELECT * FROM totals").await?.rows;
    ensure!(rows.is_empty(), "{rows:?}");
    platform.stop()?;
    std::fs::write(platform.folder.path().join("project/definitions.sql"), sql("json"))?;
    platform.start_again()?;
    let dry = platform.command(&["dead-letters", "replay", "numbers", "--dry-run"])?;
    ensure!(dry.starts_with("100 dead letters would be replayed"), "{dry}");
    let replayed = platform.command(&["dead-letters", "replay", "numbers"])?;
    ensure!(replayed.starts_with("100 dead letters replayed"), "{replayed}");
    platform.kill_and_restart()?;
    platform.expect(&broker.end("t", 2)?);
    // It covers the transaction's last marker, which nobody is told of.
    platform.command(&["batch", "run", "totals"])?;
    let rows = platform.ask("SELECT owner, origin, events, n FROM totals ORDER BY owner").await?.rows;
    let expected = json!([["ada", "here", 50, 2450], ["b\u{e9}la", "here", 40, 1960]]);
    ensure!(json!(rows) == expected, "{rows:?}");
    // Ten are still no events: they are letters at their new offsets too, and can be replayed there once.
    let again = platform.command(&["dead-letters", "replay", "numbers"])?;
    ensure!(again.starts_with("10 dead letters replayed"), "{again}");
    platform.expect(&broker.end("t", 2)?);
    platform.command(&["batch", "run", "totals"])?;
    let rows = platform.ask("SELECT owner, origin, events, n FROM totals ORDER BY owner").await?.rows;
    ensure!(json!(rows) == expected, "{rows:?}");
    let dry = platform.command(&["dead-letters", "replay", "numbers", "--dry-run"])?;
    ensure!(dry.starts_with("10 dead letters would be replayed"), "{dry}");
    ensure!(letters(&platform).await? == json!(120), "{}", letters(&platform).await?);
    platform.stop()
}
