//! A source's definition: what its events look like and how its log is divided.

use std::sync::Arc;

use arrow::datatypes::SchemaRef;

use crate::event::event_schema;

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
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Connector {
    /// Clients send them to the HTTP API; the embedded log keeps them until the history has them.
    Http,
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
