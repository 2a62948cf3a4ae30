//! What `CREATE SOURCE ... WITH (connector = 'kafka', ...)` says of the topic and its records.

use std::collections::BTreeMap;
use std::path::PathBuf;

use crate::format::RecordFormat;
use crate::registry::RegistryOptions;

/// How a topic is read.
#[derive(Debug, Clone, PartialEq)]
pub struct KafkaOptions {
    /// `host:port` of some of the cluster's brokers, separated by commas.
    pub brokers: String,
    /// The topic; one, by its name.
    pub topic: String,
    /// How the records' values spell events.
    pub format: RecordFormat,
    /// Where the source begins when it has no history yet. Partitions that the topic gets later are read from their start.
    pub start: KafkaStart,
    /// Consumer group whose offsets are committed for tools that show lag. Nothing is ever read from it.
    pub group: String,
    /// Properties of librdkafka, by name, as they are.
    pub properties: BTreeMap<String, String>,
    /// The schema registry that the records' schema ids belong to.
    pub registry: Option<RegistryOptions>,
    /// File with the records' schema, where no registry has it.
    pub schema_file: Option<PathBuf>,
    /// Full name of the records' message in a Protobuf schema file; not needed if there is one message.
    pub message: Option<String>,
    /// Largest share of records that may be dead letters, from 0 to 1; a partition in which there are more stops. 1 never
    /// stops.
    pub max_bad_ratio: f64,
    /// Whether events can be sent over HTTP too, which writes them to the topic.
    pub http_ingest: bool,
    /// Columns that are not in the records' values.
    pub metadata: Vec<MetadataColumn>,
}

/// Where a source without history begins in its topic.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum KafkaStart {
    /// At the oldest record that the topic has.
    Earliest,
    /// After the newest record.
    Latest,
    /// At the first record with this timestamp or a later one, in milliseconds since the epoch; at the end if there is none.
    Timestamp(i64),
}

/// A column with something of the record besides its value.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MetadataColumn {
    /// The column's name.
    pub name: String,
    /// What it holds.
    pub holds: RecordMetadata,
}

/// What a record has besides its value.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RecordMetadata {
    /// The key, as TEXT; it must be UTF-8. NULL without a key.
    Key,
    /// All headers, as `STRUCT<key TEXT, value TEXT>[]`.
    Headers,
    /// The last header of this name, as TEXT; NULL without one.
    Header(String),
    /// The partition, as INT.
    Partition,
    /// The offset, as BIGINT.
    Offset,
    /// The timestamp, as TIMESTAMP: the producer's, or the broker's if the topic is so configured.
    Timestamp,
    /// The topic's name, as TEXT.
    Topic,
}

impl KafkaOptions {
    /// The definition's text without the secrets that stand in it, for whoever may ask what is defined.
    pub fn without_secrets(&self, sql: &str) -> String {
        without_values(
            sql,
            secret_properties(&self.properties).chain(self.registry.iter().flat_map(RegistryOptions::secrets)),
        )
    }
}

/// Whether the property of this name is a secret.
pub(crate) fn is_secret(name: &str) -> bool {
    ["password", "passphrase", "secret", "token", "jaas", "key.pem"].iter().any(|word| name.contains(word))
}

/// The values of the properties that are secrets.
pub(crate) fn secret_properties(properties: &BTreeMap<String, String>) -> impl Iterator<Item = &String> {
    properties.iter().filter(|(name, _)| is_secret(name)).map(|(_, value)| value)
}

/// A statement's text with stars in place of some of its quoted values.
pub(crate) fn without_values<'a>(sql: &str, values: impl Iterator<Item = &'a String>) -> String {
    values
        .filter(|secret| !secret.is_empty())
        .fold(sql.to_owned(), |sql, secret| sql.replace(&format!("'{}'", secret.replace('\'', "''")), "'***'"))
}

impl RecordMetadata {
    /// What a column with `METADATA FROM 'name'` holds; `None` for a name that says nothing.
    pub fn from_name(name: &str) -> Option<RecordMetadata> {
        Some(match name {
            "key" => RecordMetadata::Key,
            "headers" => RecordMetadata::Headers,
            "partition" => RecordMetadata::Partition,
            "offset" => RecordMetadata::Offset,
            "timestamp" => RecordMetadata::Timestamp,
            "topic" => RecordMetadata::Topic,
            other => RecordMetadata::Header(other.strip_prefix("header.").filter(|name| !name.is_empty())?.to_owned()),
        })
    }
}
