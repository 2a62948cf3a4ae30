//! Sinks: where the changes of views go.

mod kafka;
mod records;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};

pub use kafka::{TransactionalTarget, TransactionalTopic};
pub use records::Records;

use crate::registry::RegistryOptions;
use crate::source::{secret_properties, without_values};

/// A `CREATE SINK`; whether the view can be sent so is for the caller, who knows the view.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SinkDefinition {
    /// Name, as in SQL.
    pub name: String,
    /// The statement's text, without the semicolon; `parse_definitions` of it gives the same sink.
    pub sql: String,
    /// The view whose rows are sent.
    pub view: String,
    /// The topic that they are sent to.
    pub topic: String,
    /// `host:port` of some of the cluster's brokers, separated by commas.
    pub brokers: String,
    /// What is sent; by the view if `None`.
    pub mode: Option<SinkMode>,
    /// How often, at most.
    pub trigger: Duration,
    /// How records are spelled.
    pub format: SinkFormat,
    /// The view's columns that make the records' key; by the view if `None`.
    pub key: Option<Vec<String>>,
    /// Properties of librdkafka, by name, as they are.
    pub properties: Arc<BTreeMap<String, String>>,
    /// Line in the definitions text where the statement starts, from 1.
    pub line: u64,
}

/// How a sink spells its records.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SinkFormat {
    /// JSON objects, their values as in answers.
    Json,
    /// Avro records behind the ids of their schemas, which are registered here.
    Avro(RegistryOptions),
}

/// What a sink sends at each trigger.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum SinkMode {
    /// The rows of the groups that have got events since the last trigger.
    Update,
    /// The rows that will not change any more: of windows that the watermark has closed, or, without GROUP BY, of new events.
    Append,
    /// All rows.
    Complete,
}

impl SinkDefinition {
    /// Where it writes.
    pub fn target(&self) -> TransactionalTarget {
        TransactionalTarget {
            what: format!("sink \"{}\"", self.name),
            name: self.name.clone(),
            topic: self.topic.clone(),
            brokers: self.brokers.clone(),
            properties: Arc::clone(&self.properties),
        }
    }

    /// The definition's text without the secrets that stand in it, for whoever may ask what is defined.
    pub fn without_secrets(&self) -> String {
        let registry = match &self.format {
            SinkFormat::Json => None,
            SinkFormat::Avro(registry) => Some(registry),
        };
        let secrets =
            secret_properties(&self.properties).chain(registry.into_iter().flat_map(RegistryOptions::secrets));
        without_values(&self.sql, secrets)
    }
}
