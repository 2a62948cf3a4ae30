//! Events that go to a topic over HTTP and come back from it.

use anyhow::{Context, Result, ensure};
use reqwest::{Client, StatusCode};
use serde_json::{Value, json};
use watershed_shared::position::PositionToken;

use crate::broker::Broker;
use crate::harness::platform::Platform;

const COLUMNS: &str = "id BIGINT NOT NULL, number INT, single FLOAT, double DOUBLE, price DECIMAL(20, 4),
    flag BOOLEAN, name TEXT, day DATE, at TIMESTAMP, tags TEXT[], place STRUCT<country TEXT, altitude DOUBLE>";

/// Two sources of the same columns, one over a topic; the topic's has more that only a record has.
fn definitions(address: &str) -> String {
    format!(
        "CREATE SOURCE direct ({COLUMNS}, \"user\" TEXT) WITH (connector = 'http');
         CREATE SOURCE topic ({COLUMNS}, \"user\" TEXT METADATA FROM 'key', partition INT METADATA, position BIGINT METADATA
           FROM 'offset') WITH (connector = 'kafka', brokers = '{address}', topic = 'events', http_ingest = true);
         CREATE SOURCE closed (id BIGINT) WITH (connector = 'kafka', brokers = '{address}', topic = 'events');
         CREATE MATERIALIZED VIEW of_direct AS SELECT * FROM direct;
         CREATE MATERIALIZED VIEW of_topic AS SELECT * FROM topic;"
    )
}

/// Every type with its extremes, NULLs, and a row that is refused.
fn events() -> Vec<Value> {
    vec![
        json!({"id": 0, "number": i32::MIN, "single": 0.1, "double": 1e-308, "price": "-1234567890123456.7891",
               "flag": true, "name": "a \"b\"\n\u{1F600}", "day": "0001-01-01",
               "at": "1677-01-01T00:00:00.000001Z", "tags": ["x", null, ""], "place": {"country": "NL", "altitude": -3.5},
               "user": "one"}),
        json!({"id": i64::MAX, "number": i32::MAX, "single": "NaN", "double": "-Infinity", "price": 0.0001,
               "flag": false, "name": "", "day": "9999-12-31", "at": "2262-12-31T23:59:59.999999Z", "tags": [],
               "place": {"country": null, "altitude": "NaN"}, "user": "two"}),
        json!({"id": "nine"}),
        json!({"id": 2}),
        json!({"id": 3, "user": "one", "double": 0.30000000000000004, "single": 3.4028235e38, "at": "2026-11-21T12:00:00Z"}),
    ]
}

async fn send(platform: &Platform, source: &str, request: impl Into<Option<&str>>) -> Result<(StatusCode, Value)> {
    let body: String = events().iter().map(|event| format!("{event}\n")).collect();
    let post = Client::new().post(format!("{}/v1/sources/{source}/events", platform.url)).body(body);
    let post = post.header("content-type", "application/x-ndjson");
    let post = match request.into() {
        Some(name) => post.header("idempotency-key", name),
        None => post,
    };
    let answer = post.send().await?;
    Ok((answer.status(), answer.json().await?))
}

#[tokio::test(flavor = "multi_thread")]
async fn events_over_http_come_back_from_the_topic_as_they_were_sent() -> Result<()> {
    let broker = Broker::start()?;
    broker.create_topic("events", 3)?;
    let mut platform = Platform::start_with("topic", &definitions(&broker.address), "")?;
    let (direct_status, direct) = send(&platform, "direct", None).await?;
    let (status, report) = send(&platform, "topic", None).await?;
    ensure!((status, &report["errors"]) == (direct_status, &direct["errors"]), "{report} instead of {direct}");
    ensure!((&report["accepted"], &report["rejected"]) == (&json!(4), &json!(1)), "{report}");
    // The answer's position is that of the records: read your own writes.
    let token: PositionToken = report["position"].as_str().context("no position")?.parse()?;
    ensure!(token.position == broker.end("events", 3)?, "{report}");
    platform.expect(&token.position);
    let columns = "id, number, single, double, price, flag, name, day, at, tags, place, \"user\"";
    let sent = platform.ask(&format!("SELECT {columns} FROM of_topic ORDER BY id")).await?;
    let kept = platform.ask(&format!("SELECT {columns} FROM of_direct ORDER BY id")).await?;
    ensure!(sent.rows == kept.rows, "{:?}\ninstead of\n{:?}", sent.rows, kept.rows);
    let keys = platform.ask("SELECT count(DISTINCT partition) FROM of_topic WHERE \"user\" = 'one'").await?;
    ensure!(keys.rows == [[json!(1)]], "one key in one partition: {:?}", keys.rows);
    let records = consume_keys(&broker)?;
    ensure!(records == ["", "one", "one", "two"], "{records:?}");

    let (status, refused) = send(&platform, "closed", None).await?;
    ensure!(
        status == StatusCode::BAD_REQUEST && refused["detail"].to_string().contains("http_ingest = true"),
        "{refused}"
    );
    let (status, refused) = send(&platform, "topic", "again").await?;
    ensure!(
        status == StatusCode::BAD_REQUEST && refused["detail"].to_string().contains("cannot remember"),
        "{refused}"
    );
    broker.kill()?;
    let (status, refused) = send(&platform, "topic", None).await?;
    ensure!(status == StatusCode::SERVICE_UNAVAILABLE, "{status}: {refused}");
    broker.restart()?;
    let (status, report) = send(&platform, "topic", None).await?;
    ensure!(status == StatusCode::OK, "{status}: {report}");
    platform.stop()
}

/// The keys that another client finds, sorted.
fn consume_keys(broker: &Broker) -> Result<Vec<String>> {
    let mut command = std::process::Command::new("kcat");
    command.args(["-C", "-b", &broker.address, "-t", "events", "-o", "beginning", "-e", "-q", "-f", "%k\\n"]);
    let mut keys: Vec<String> = String::from_utf8(command.output()?.stdout)?.lines().map(str::to_owned).collect();
    keys.sort();
    Ok(keys)
}
