//! A source's definition: what its events look like and how its log is divided.

use std::sync::Arc;

use arrow::datatypes::SchemaRef;

use crate::event::event_schema;

mod dead_letters;
mod kafka;

pub use dead_letters::{DEAD_LETTERS_SUFFIX, dead_letters_of};
pub use kafka::{KafkaOptions, KafkaStart, MetadataColumn, RecordMetadata};
pub(crate) use kafka::{is_secret, secret_properties, without_values};

/// Most partitions that a source's log can have.
pub const PARTITIONS_MAX: u32 = 1024;

/// A checked `CREATE SOURCE`.
#[derive(Debug, Clone)]
pub struct SourceDefinition {
    /// Name, as in SQL; lower case unless it was quoted.
    pub name: String,
    /// The statement's text.
    pub sql: String,
    /// The declared columns in their canonical Arrow types.
    pub columns: SchemaRef,
    /// The declared columns followed by the system columns; what views read and the history stores.
    pub event_schema: SchemaRef,
    /// Until when events are expected, if declared.
    pub watermark: Option<WatermarkDefinition>,
    /// Number of partitions of the log; at least 1.
    pub partitions: u32,
    /// Column whose value decides an event's partition; without it batches go round robin.
    pub partition_by: Option<String>,
    /// Where the events come from.
    pub connector: Connector,
}

/// `WATERMARK FOR column AS column - INTERVAL '...'`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WatermarkDefinition {
    /// The event time column; a TIMESTAMP.
    pub column: String,
    /// How far the watermark lags the largest event time seen; microseconds, not negative.
    pub delay_us: i64,
}

/// Where a source's events come from.
#[derive(Debug, Clone, PartialEq)]
pub enum Connector {
    /// Clients send them to the HTTP API; the embedded log keeps them until the history has them.
    Http,
    /// They are the records of a Kafka topic, which is the source's log.
    Kafka(Arc<KafkaOptions>),
    /// They are the records of another source's topic that are no events of that source.
    DeadLetters {
        /// Name of the source that reads the topic.
        of: String,
    },
}

impl Connector {
    /// Whether some offsets of the source's log hold no event of the source.
    pub fn has_gaps(&self) -> bool {
        *self != Connector::Http
    }
}

impl SourceDefinition {
    /// A source over `columns` with one partition, no watermark and the HTTP connector: the defaults of `CREATE SOURCE`.
    pub fn new(name: impl Into<String>, sql: impl Into<String>, columns: SchemaRef) -> SourceDefinition {
        SourceDefinition {
            name: name.into(),
            sql: sql.into(),
            event_schema: event_schema(&columns),
            columns: Arc::clone(&columns),
            watermark: None,
            partitions: 1,
            partition_by: None,
            connector: Connector::Http,
        }
    }
}
