//! The records of a topic that are no events of its source, as a source and a view of their own.

use std::sync::Arc;

use arrow::datatypes::{DataType, Field, Schema};

use super::{Connector, RecordMetadata, SourceDefinition};
use crate::definition::{Statement, metadata_type, parse_definitions};
use crate::error::{Error, Result};

/// What a source's name and this make the name of its dead letters.
pub const DEAD_LETTERS_SUFFIX: &str = "__dead_letters";

/// The source of a Kafka source's dead letters, and the view by which they are asked for; both have one name.
///
/// # Errors
/// `InvalidDefinition` when the name is too long to have the suffix.
pub fn dead_letters_of(source: &SourceDefinition) -> Result<(SourceDefinition, Statement)> {
    let name = format!("{}{DEAD_LETTERS_SUFFIX}", source.name);
    // An event has one place, so the rows need no grouping.
    let sql = format!(
        "CREATE MATERIALIZED VIEW \"{name}\" AS SELECT _partition AS partition, _offset AS \"offset\", \
         _ingested_at AS \"timestamp\", reason, \"column\", \"key\", \"value\", key_base64, value_base64, headers FROM \"{name}\""
    );
    let view = parse_definitions(&sql).ok().and_then(|mut statements| statements.pop());
    let view = view.ok_or_else(|| Error::InvalidDefinition {
        line: 1,
        column: 1,
        reason: format!("the source's name \"{}\" leaves no room for \"{DEAD_LETTERS_SUFFIX}\"", source.name),
        hint: Some("choose a shorter name".to_owned()),
    })?;
    let text = |name: &str, nullable: bool| Field::new(name, DataType::Utf8, nullable);
    // In the order of `log::kafka`'s batches.
    let columns = Schema::new(vec![
        text("reason", false),
        text("column", true),
        text("key", true),
        text("value", true),
        text("key_base64", true),
        text("value_base64", true),
        Field::new("headers", metadata_type(&RecordMetadata::Headers), true),
    ]);
    let definition = SourceDefinition {
        partitions: source.partitions,
        connector: Connector::DeadLetters { of: source.name.clone() },
        ..SourceDefinition::new(name, format!("-- dead letters of source {}", source.name), Arc::new(columns))
    };
    Ok((definition, view))
}
