//! Brokers that want to know who reads, over encrypted connections.

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::time::Instant;

use anyhow::{Result, ensure};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::Value;

use crate::broker::{Broker, TIMEOUT, produce};
use crate::harness::platform::Platform;
use crate::kcat::consume;

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

/// Tokens that are unsecured, and tokens from an endpoint, for the source and for a sink.
#[tokio::test(flavor = "multi_thread")]
async fn topics_are_read_and_written_with_oauth_tokens() -> Result<()> {
    let broker = Broker::start_with(&["--sasl"])?;
    broker.create_topic("t", 1)?;
    broker.create_topic("total", 1)?;
    produce(&broker.producer(None)?, "t", 1, (0..10).map(|n| format!("{{\"n\": {n}}}")))?;
    let endpoint = std::net::TcpListener::bind("127.0.0.1:0")?;
    let url = format!("http://{}/token", endpoint.local_addr()?);
    std::thread::spawn(move || endpoint.incoming().flatten().try_for_each(give_token));
    let known = [("security.protocol", "SASL_PLAINTEXT"), ("sasl.mechanisms", "OAUTHBEARER")];
    let unsecured = [("enable.sasl.oauthbearer.unsecure.jwt", "true"), ("sasl.oauthbearer.config", "principal=ada")];
    let fetched = [
        ("sasl.oauthbearer.method", "oidc"),
        ("sasl.oauthbearer.client.id", "ada"),
        ("sasl.oauthbearer.client.secret", "love&lace"),
        ("sasl.oauthbearer.scope", "topics all"),
        ("sasl.oauthbearer.token.endpoint.url", url.as_str()),
    ];
    let address = broker.command("address", &["sasl"])?;
    for (records, properties) in [(1, [&known[..], &unsecured].concat()), (2, [&known[..], &fetched].concat())] {
        let options: String = properties.iter().map(|(name, value)| format!(", kafka.{name} = '{value}'")).collect();
        let sink = format!(
            " CREATE SINK sums{records} FROM totals INTO 'total' WITH (brokers = '{}'{options});",
            address.trim()
        );
        let mut platform = Platform::start_with("numbers", &(numbers(address.trim(), &properties) + &sink), "")?;
        platform.expect(&broker.end("t", 1)?);
        let answer = platform.ask("SELECT events, n FROM totals").await?;
        ensure!(answer.rows[0] == [Value::from(10), Value::from(45)], "{:?}", answer.rows);
        let started = Instant::now();
        while consume(&broker, "total")?.len() < records {
            let sinks: Value = platform.get("/v1/sinks").await?;
            ensure!(started.elapsed() < TIMEOUT, "{sinks}");
            ensure!(!sinks.to_string().contains("love&lace"), "{sinks}");
            tokio::time::sleep(std::time::Duration::from_millis(100)).await;
        }
        platform.stop()?;
    }
    Ok(())
}

/// Answers one request as an endpoint of tokens does; only the right client gets one.
fn give_token(mut stream: std::net::TcpStream) -> std::io::Result<()> {
    let mut reader = BufReader::new(stream.try_clone()?);
    let (mut head, mut line) = (String::new(), String::new());
    while reader.read_line(&mut line)? > 2 {
        head += &line.to_lowercase();
        line.clear();
    }
    let length = head.lines().find_map(|line| line.strip_prefix("content-length:")?.trim().parse().ok()).unwrap_or(0);
    let mut body = vec![0; length];
    reader.read_exact(&mut body)?;
    let request = head + &String::from_utf8_lossy(&body);
    // ada:love&lace in base64.
    let is_right =
        request.contains("authorization: basic ywrhomxvdmumbgfjzq==") && request.contains("client_credentials");
    let part = |text: &str| URL_SAFE_NO_PAD.encode(text);
    let claims = "{\"sub\": \"ada\", \"iat\": 1700000000, \"exp\": 4000000000}";
    let token = format!("{}.{}.", part("{\"alg\": \"none\"}"), part(claims));
    let (status, body) = match is_right {
        true => ("200 OK", format!("{{\"access_token\": \"{token}\", \"token_type\": \"Bearer\"}}")),
        false => ("401 Unauthorized", String::new()),
    };
    write!(
        stream,
        "HTTP/1.1 {status}\r\ncontent-type: application/json\r\ncontent-length: {}\r\nconnection: close\r\n\r\n{body}",
        body.len()
    )
}
