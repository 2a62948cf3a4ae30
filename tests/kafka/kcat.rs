//! kcat, a client that is not ours, as a `read_committed` consumer.

use std::process::Command;

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use crate::broker::Broker;

/// A record as kcat shows it; key and value parsed as JSON.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Shown {
    pub(crate) key: Option<Value>,
    pub(crate) value: Option<Value>,
}

/// All committed records of a topic, those of each partition in its order.
pub(crate) fn consume(broker: &Broker, topic: &str) -> Result<Vec<Shown>> {
    consume_at(&broker.address, topic)
}

/// As [`consume`], of the broker at an address.
pub(crate) fn consume_at(address: &str, topic: &str) -> Result<Vec<Shown>> {
    let mut command = Command::new("kcat");
    command.args(["-C", "-b", address, "-t", topic, "-o", "beginning", "-e", "-q"]);
    // Length and contents of key and value; a length of -1 is NULL.
    command.args(["-X", "isolation.level=read_committed", "-f", "%K\\t%k\\t%S\\t%s\\n"]);
    let output = command.output().context("kcat cannot be run; \"make test-kafka\" installs it")?;
    let shown = String::from_utf8(output.stdout)?;
    ensure!(output.status.success(), "kcat: {}", String::from_utf8_lossy(&output.stderr));
    shown.lines().map(parse).collect()
}

fn parse(line: &str) -> Result<Shown> {
    let parts: Vec<&str> = line.splitn(4, '\t').collect();
    let [key_length, key, value_length, value] = parts[..] else { anyhow::bail!("kcat shows {line:?}") };
    let part = |length: &str, text: &str| -> Result<Option<Value>> {
        if length == "-1" { Ok(None) } else { Ok(Some(serde_json::from_str(text)?)) }
    };
    Ok(Shown { key: part(key_length, key)?, value: part(value_length, value)? })
}
