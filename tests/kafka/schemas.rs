//! Records behind the ids of a real schema registry.

use std::time::Instant;

use anyhow::{Result, ensure};
use serde_json::{Value, json};

use crate::broker::{Broker, TIMEOUT, produce};
use crate::harness::platform::Platform;
use crate::kcat::{Bytes, consume_bytes};
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

/// What a value is in a union with null.
fn some(value: Vec<u8>) -> Vec<u8> {
    [long(1), value].concat()
}

/// A sink writes Avro, as the specification has it byte by byte, behind the ids of schemas that it registers; a view that has
/// got a column gets another schema, and the registry may be away meanwhile.
#[tokio::test(flavor = "multi_thread")]
async fn sinks_write_avro_behind_schemas_that_they_register() -> Result<()> {
    let (broker, registry) = (Broker::start()?, Registry::start()?);
    broker.create_topic("edits", 1)?;
    broker.create_topic("pages", 1)?;
    let sql = |columns: &str| {
        format!(
            "CREATE SOURCE edits (page TEXT, n BIGINT NOT NULL)
             WITH (connector = 'kafka', brokers = '{address}', topic = 'edits');
             CREATE MATERIALIZED VIEW pages AS SELECT page, sum(n) AS n{columns} FROM edits GROUP BY page HAVING sum(n) > 0;
             CREATE SINK page_changes FROM pages INTO 'pages' WITH (brokers = '{address}', trigger = '20 milliseconds',
               format = 'avro', schema_registry = '{registry}');",
            address = broker.address,
            registry = registry.url
        )
    };
    let mut platform = Platform::start_with("edits", &sql(""), "[history]\ncommit_interval = \"200ms\"\n")?;
    let producer = broker.producer(None)?;
    let send = |page: &str, n: i64| produce(&producer, "edits", 1, [json!({"page": page, "n": n}).to_string()]);
    send("Wien", 300)?;
    let mut expected: Vec<Bytes> = Vec::new();
    let first = wait_for_records(&platform, &broker, 1).await?;
    let (key_id, key_schema) = registry.latest("pages-key").await?;
    let (value_id, value_schema) = registry.latest("pages-value").await?;
    let optional = |name: &str, kind: &str| json!({"name": name, "type": ["null", kind], "default": null});
    let record =
        |name: &str, fields: Value| json!({"type": "record", "name": name, "namespace": "watershed", "fields": fields});
    ensure!(key_schema == record("pages_key", json!([optional("page", "string")])), "{key_schema}");
    let columns = json!([optional("page", "string"), optional("n", "long")]);
    ensure!(value_schema == record("pages", columns), "{value_schema}");
    let key = framed(key_id, &[some(text("Wien"))]);
    expected.push((Some(key.clone()), Some(framed(value_id, &[some(text("Wien")), some(long(300))]))));
    ensure!(first == expected, "{first:?}");
    // HAVING lets it through no more.
    send("Wien", -300)?;
    expected.push((Some(key.clone()), None));
    let gone = wait_for_records(&platform, &broker, 2).await?;
    ensure!(gone == expected, "{gone:?}");
    platform.stop()?;

    registry.kill()?;
    std::fs::write(platform.folder.path().join("project/definitions.sql"), sql(", count(*) AS edits"))?;
    platform.start_again()?;
    send("Wien", 7)?;
    let started = Instant::now();
    loop {
        let sinks: Value = platform.get("/v1/sinks").await?;
        if sinks["sinks"][0]["trouble"].as_str().is_some_and(|trouble| trouble.contains("registry")) {
            break;
        }
        ensure!(started.elapsed() < TIMEOUT, "{sinks}");
    }
    registry.restart()?;
    let again = wait_for_records(&platform, &broker, 3).await?;
    let (new_id, _) = registry.latest("pages-value").await?;
    ensure!(new_id != value_id);
    expected.push((Some(key), Some(framed(new_id, &[some(text("Wien")), some(long(7)), some(long(3))]))));
    ensure!(again == expected, "{again:?}");
    platform.stop()?;

    // In another registry the schemas have other ids, and with them keys other bytes: everything is sent again.
    let other = Registry::start()?;
    for subject in ["a", "b", "c", "d"] {
        other.register(subject, &schema(json!([{"name": subject, "type": "int"}]))).await?;
    }
    let moved = sql(", count(*) AS edits").replace(&registry.url, &other.url);
    std::fs::write(platform.folder.path().join("project/definitions.sql"), moved)?;
    platform.start_again()?;
    let moved = wait_for_records(&platform, &broker, 4).await?;
    let ((key_id, _), (id, _)) = (other.latest("pages-key").await?, other.latest("pages-value").await?);
    ensure!(id != new_id);
    let key = framed(key_id, &[some(text("Wien"))]);
    expected.push((Some(key), Some(framed(id, &[some(text("Wien")), some(long(7)), some(long(3))]))));
    ensure!(moved == expected, "{moved:?}");
    platform.stop()
}

/// The records of topic `pages` when there are so many.
async fn wait_for_records(platform: &Platform, broker: &Broker, count: usize) -> Result<Vec<Bytes>> {
    let started = Instant::now();
    loop {
        let records = consume_bytes(&broker.address, "pages")?;
        if records.len() >= count {
            return Ok(records);
        }
        let sinks: Value = platform.get("/v1/sinks").await?;
        ensure!(started.elapsed() < TIMEOUT, "{} records: {sinks}", records.len());
    }
}
