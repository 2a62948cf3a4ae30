//! Brokers that want to know who reads, over encrypted connections.

use std::time::Instant;

use anyhow::{Result, ensure};
use serde_json::Value;

use crate::broker::{Broker, TIMEOUT, produce};
use crate::harness::platform::Platform;

/// A source of numbers over topic `t`, read through a listener with some properties of the client.
fn numbers(address: &str, properties: &[(&str, &str)]) -> String {
    let properties: String = properties.iter().map(|(name, value)| format!(", kafka.{name} = '{value}'")).collect();
    format!(
        "CREATE SOURCE numbers (n BIGINT NOT NULL) WITH (connector = 'kafka', brokers = '{address}', topic = 't'{properties});
         CREATE MATERIALIZED VIEW totals AS SELECT count(*) AS events, sum(n) AS n FROM numbers;"
    )
}

#[tokio::test(flavor = "multi_thread")]
async fn topics_are_read_over_sasl_and_tls() -> Result<()> {
    let broker = Broker::start_with(&["--sasl", "--tls"])?;
    broker.create_topic("t", 2)?;
    produce(&broker.producer(None)?, "t", 2, (0..10).map(|n| format!("{{\"n\": {n}}}")))?;
    let authority = broker.file("tls/ca.pem");
    let user = [("sasl.username", "test"), ("sasl.password", "test-secret")];
    let plain = [&[("security.protocol", "SASL_PLAINTEXT"), ("sasl.mechanisms", "PLAIN")][..], &user].concat();
    let scram = [&[("security.protocol", "SASL_PLAINTEXT"), ("sasl.mechanisms", "SCRAM-SHA-256")][..], &user].concat();
    let tls = vec![("security.protocol", "SSL"), ("ssl.ca.location", authority.as_str())];
    let both = [
        &[("security.protocol", "SASL_SSL"), ("sasl.mechanisms", "SCRAM-SHA-256")][..],
        &user,
        &[("ssl.ca.location", authority.as_str())],
    ];
    for (listener, properties) in [("sasl", plain), ("sasl", scram), ("tls", tls), ("sasl_tls", both.concat())] {
        let address = broker.command("address", &[listener])?;
        let mut platform = Platform::start_with("numbers", &numbers(address.trim(), &properties), "")?;
        platform.expect(&broker.end("t", 2)?);
        let answer = platform.ask("SELECT events, n FROM totals").await?;
        ensure!(answer.rows[0] == [Value::from(10), Value::from(45)], "{listener}: {:?}", answer.rows);
        let sources: Value = platform.get("/v1/sources").await?;
        ensure!(!sources.to_string().contains("test-secret"), "{sources}");
        platform.stop()?;
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refused_password_is_told_and_no_secret_with_it() -> Result<()> {
    let broker = Broker::start_with(&["--sasl"])?;
    broker.create_topic("t", 1)?;
    produce(&broker.producer(None)?, "t", 1, ["{\"n\": 1}".to_owned()])?;
    let address = broker.command("address", &["sasl"])?;
    let properties = |password| {
        let known = [("security.protocol", "SASL_PLAINTEXT"), ("sasl.mechanisms", "PLAIN"), ("sasl.username", "test")];
        [&known[..], &[("sasl.password", password)]].concat()
    };
    let mut platform = Platform::start_with("numbers", &numbers(address.trim(), &properties("test-secret")), "")?;
    platform.expect(&broker.end("t", 1)?);
    platform.batch_run_of_every_view().await?;
    platform.stop()?;
    let definitions = platform.folder.path().join("project/definitions.sql");
    std::fs::write(definitions, numbers(address.trim(), &properties("wrong-guess")))?;
    platform.start_again()?;
    // That nobody answers is known before why.
    let started = Instant::now();
    let trouble = loop {
        let sources: Value = platform.get("/v1/sources").await?;
        let trouble = sources["sources"][0]["troubles"][0].as_str().unwrap_or_default().to_owned();
        if trouble.to_lowercase().contains("authentication") {
            break trouble;
        }
        ensure!(started.elapsed() < TIMEOUT, "{trouble}");
    };
    ensure!(!trouble.contains("wrong-guess"), "{trouble}");
    let answer = platform.ask("SELECT events FROM totals").await?;
    ensure!(answer.rows[0] == [Value::from(1)], "what is here is answered: {:?}", answer.rows);
    platform.stop()
}
