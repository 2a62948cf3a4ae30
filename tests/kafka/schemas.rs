//! Records behind the ids of a real schema registry.

use anyhow::{Result, ensure};
use serde_json::{Value, json};

use crate::broker::{Broker, produce};
use crate::harness::platform::Platform;
use crate::registry::Registry;

/// Avro's variable-length integers.
fn long(value: i64) -> Vec<u8> {
    let mut rest = ((value << 1) ^ (value >> 63)) as u64;
    let mut bytes = Vec::new();
    while rest >= 0x80 {
        bytes.push(rest as u8 | 0x80);
        rest >>= 7;
    }
    bytes.push(rest as u8);
    bytes
}

fn text(text: &str) -> Vec<u8> {
    [long(text.len() as i64), text.as_bytes().to_vec()].concat()
}

/// A record behind its schema's id, as Confluent's serializers write it.
fn framed(id: u32, fields: &[Vec<u8>]) -> Vec<u8> {
    [vec![0], id.to_be_bytes().to_vec(), fields.concat()].concat()
}

fn schema(fields: Value) -> Value {
    json!({"type": "record", "name": "Edit", "namespace": "tests", "fields": fields})
}

/// A producer changes its schema in mid-stream; then somebody writes records of no schema at all, and the registry is away
/// when a third schema's records come.
#[tokio::test(flavor = "multi_thread")]
async fn schemas_may_change_in_mid_stream_and_the_registry_may_be_away() -> Result<()> {
    let (broker, registry) = (Broker::start()?, Registry::start()?);
    broker.create_topic("t", 1)?;
    let first = registry
        .register("t-value", &schema(json!([{"name": "n", "type": "int"}, {"name": "page", "type": "string"}])))
        .await?;
    let second = registry
        .register(
            "t-value",
            &schema(json!([
                {"name": "page", "type": "string"},
                {"name": "n", "type": "long"},
                {"name": "channel", "type": ["null", "string"], "default": null}
            ])),
        )
        .await?;
    ensure!(first != second);
    let sql = format!(
        "CREATE SOURCE edits (page TEXT NOT NULL, n BIGINT NOT NULL, channel TEXT)
         WITH (connector = 'kafka', brokers = '{}', topic = 't', format = 'avro', schema_registry = '{}');
         CREATE MATERIALIZED VIEW totals AS
         SELECT channel, count(*) AS events, sum(n) AS n, max(page) AS page FROM edits GROUP BY channel;",
        broker.address, registry.url
    );
    let mut platform = Platform::start_with("edits", &sql, "[history]\ncommit_interval = \"200ms\"\n")?;
    let producer = broker.producer(None)?;
    produce(&producer, "t", 1, (0..10).map(|n| framed(first, &[long(n), text("old")])))?;
    produce(
        &producer,
        "t",
        1,
        (0..10).map(|n| framed(second, &[text("new"), long(n + (1 << 40)), long(1), text("#en")])),
    )?;
    produce(&producer, "t", 1, [framed(first, &[long(5)]), b"no header".to_vec(), framed(987_654, &[long(1)])])?;
    produce(&producer, "t", 1, [framed(first, &[long(100), text("last")])])?;
    platform.expect(&broker.end("t", 1)?);
    let expected = "channel,events,n,page\n,11,145,old\n#en,10,10995116277805,new\n";
    let query = "SELECT channel, events, n, page FROM totals ORDER BY channel NULLS FIRST";
    let position = format!("edits={}", broker.end("t", 1)?);
    let ask = |platform: &Platform| platform.command(&["sql", "--format", "csv", "--position", &position, query]);
    ensure!(ask(&platform)?.starts_with(expected), "{}", ask(&platform)?);
    let letters = platform.command(&[
        "sql",
        "--format",
        "csv",
        "SELECT \"offset\", reason FROM edits__dead_letters ORDER BY 1",
    ])?;
    let reasons: Vec<&str> = letters.lines().skip(1).filter(|line| !line.is_empty()).collect();
    ensure!(reasons.len() == 3 && reasons[2].contains("987654"), "{letters}");

    let third = registry
        .register("u-value", &schema(json!([{"name": "n", "type": "long"}, {"name": "page", "type": "string"}])))
        .await?;
    registry.kill()?;
    produce(&producer, "t", 1, [framed(third, &[long(1000), text("zzz")])])?;
    let troubled = loop {
        let sources: Value = platform.get("/v1/sources").await?;
        if let Some(trouble) = sources["sources"][0]["troubles"][0].as_str() {
            break trouble.to_owned();
        }
    };
    ensure!(troubled.contains("cannot decode its records"), "{troubled}");
    ensure!(ask(&platform)?.starts_with(expected), "questions are answered meanwhile");
    registry.restart()?;
    platform.expect(&broker.end("t", 1)?);
    let answer = platform.ask("SELECT events, n FROM totals WHERE channel IS NULL").await?;
    ensure!(answer.rows[0] == [json!(12), json!(1145)], "{:?}", answer.rows);
    platform.stop()
}
