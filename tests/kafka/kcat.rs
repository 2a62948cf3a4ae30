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
    let json = |part: Option<Vec<u8>>| part.map(|bytes| serde_json::from_slice(&bytes)).transpose();
    let records = consume_bytes(address, topic)?.into_iter();
    records.map(|(key, value)| Ok(Shown { key: json(key)?, value: json(value)? })).collect()
}

/// Key and value of a record, as they are.
pub(crate) type Bytes = (Option<Vec<u8>>, Option<Vec<u8>>);

/// As [`consume_at`], without a look at what the records hold.
pub(crate) fn consume_bytes(address: &str, topic: &str) -> Result<Vec<Bytes>> {
    let mut command = Command::new("kcat");
    command.args(["-C", "-b", address, "-t", topic, "-o", "beginning", "-e", "-q"]);
    // Lengths of key and value, then both; a length of -1 is NULL.
    command.args(["-X", "isolation.level=read_committed", "-f", "%K %S %k%s"]);
    let output = command.output().context("kcat cannot be run; \"make test-kafka\" installs it")?;
    ensure!(output.status.success(), "kcat: {}", String::from_utf8_lossy(&output.stderr));
    let mut rest = output.stdout.as_slice();
    let mut records = Vec::new();
    while !rest.is_empty() {
        let lengths = [take_length(&mut rest)?, take_length(&mut rest)?];
        let mut part = |length: Option<usize>| {
            length
                .map(|length| rest.split_off(..length).map(<[u8]>::to_vec).context("kcat shows too little"))
                .transpose()
        };
        records.push((part(lengths[0])?, part(lengths[1])?));
    }
    Ok(records)
}

/// The number at the beginning, with the space behind it; `None` for -1.
fn take_length(rest: &mut &[u8]) -> Result<Option<usize>> {
    let end = rest.iter().position(|byte| *byte == b' ').context("kcat shows no length")?;
    let number: i64 = std::str::from_utf8(&rest[..end])?.parse()?;
    *rest = &rest[end + 1..];
    Ok(usize::try_from(number).ok())
}
