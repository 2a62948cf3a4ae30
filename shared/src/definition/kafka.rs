//! The options of `connector = 'kafka'` and the columns `name TYPE METADATA FROM '...'`.

use std::path::PathBuf;
use std::sync::Arc;

use arrow::datatypes::{DataType, Field, Fields, Schema};
use datafusion::sql::sqlparser::parser::Parser;
use datafusion::sql::sqlparser::tokenizer::{Location, Token};

use super::options::{WithOption, WithOptions};
use super::text::{StatementText, refuse, shorten, take_word};
use super::types::sql_type_name;
use crate::error::Result;
use crate::event::timestamp_type;
use crate::format::{RecordFormat, parse_timestamp};
use crate::source::{KafkaOptions, KafkaStart, MetadataColumn, RecordMetadata};

/// The options of sources, whatever their connector.
pub(super) const SOURCE_OPTIONS: [&str; 18] = [
    "connector",
    "partitions",
    "partition_by",
    "brokers",
    "topic",
    "format",
    "start",
    "group_id",
    "schema_registry",
    "schema_registry.user",
    "schema_registry.password",
    "schema_registry.token",
    "schema_registry.ca_file",
    "schema_file",
    "message",
    "max_bad_ratio",
    "http_ingest",
    "kafka.*",
];

/// What of the topic makes a source's rows, which the platform must decide itself.
const OWN_PROPERTIES: [&str; 13] = [
    "delivery.report.only.error",
    "produce.offset.report",
    "check.crcs",
    "client.rack",
    "isolation.level",
    "statistics.interval.ms",
    "bootstrap.servers",
    "group.id",
    "enable.auto.commit",
    "enable.auto.offset.store",
    "auto.offset.reset",
    "enable.partition.eof",
    "metadata.broker.list",
];

const METADATA_HINT: &str =
    "write METADATA FROM 'key', 'headers', 'header.name', 'partition', 'offset', 'timestamp' or 'topic'";

/// The options of source `name`, whose `metadata` columns have been read.
pub(super) fn kafka_options(
    name: &str,
    connector: &WithOption,
    options: &WithOptions,
    metadata: Vec<MetadataColumn>,
) -> Result<Arc<KafkaOptions>> {
    for option in ["partitions", "partition_by"] {
        if let Some(option) = options.get(option) {
            let reason = format!("a Kafka source has no option \"{}\"", option.name);
            return Err(refuse(option.at, reason, "its partitions are the topic's; leave the option out"));
        }
    }
    let needed = |option: &str, example: &str| {
        options.text(option)?.ok_or_else(|| {
            let reason = format!("a Kafka source needs the option \"{option}\"");
            refuse(connector.at, reason, format!("write {option} = '{example}'").as_str())
        })
    };
    let (format, registry) = (format(options)?, options.registry()?);
    let schema_file = options.text("schema_file")?.map(PathBuf::from);
    if matches!(format, RecordFormat::Avro | RecordFormat::Protobuf) && registry.is_some() == schema_file.is_some() {
        let reason = "the format needs a schema, from a registry or from a file, and not from both";
        let hint = "write schema_registry = 'http://localhost:8081' or schema_file = 'schemas/edits.avsc'";
        return Err(refuse(options.get("format").map_or(connector.at, |option| option.at), reason, hint));
    }
    let http_ingest = options.flag("http_ingest")?;
    if let Some(option) = options.get("format").filter(|_| http_ingest && format != RecordFormat::Json) {
        let reason = format!("events over HTTP cannot be written to the topic as '{}'", shorten(&option.value));
        return Err(refuse(option.at, reason, "http_ingest = true needs format = 'json'"));
    }
    if let Some(option) = options.get("schema_registry").filter(|_| http_ingest) {
        let reason =
            "events over HTTP are written to the topic without a schema's id, which the registry's readers expect";
        return Err(refuse(option.at, reason, "leave schema_registry or http_ingest out"));
    }
    Ok(Arc::new(KafkaOptions {
        brokers: needed("brokers", "localhost:9092")?,
        topic: match options.get("topic") {
            Some(option) => option.topic()?,
            None => needed("topic", name)?,
        },
        format,
        start: start(options)?,
        group: options.text("group_id")?.unwrap_or_else(|| format!("watershed-{name}")),
        properties: options.properties(
            &OWN_PROPERTIES,
            "decides which records are read",
            "use the options brokers, group_id and start; the offsets are in the source's history",
        )?,
        registry,
        schema_file,
        message: options.text("message")?,
        max_bad_ratio: max_bad_ratio(options)?,
        http_ingest,
        metadata,
    }))
}

/// `METADATA [FROM 'name']` after a column's type, if it is next; without FROM the column's own name says what it holds.
pub(super) fn parse_metadata(
    statement: &StatementText,
    parser: &mut Parser<'_>,
    column: &Field,
) -> Result<Option<MetadataColumn>> {
    let at = statement.place(parser.peek_token_ref().span);
    if !take_word(parser, "metadata") {
        return Ok(None);
    }
    let name = if take_word(parser, "from") {
        let Token::SingleQuotedString(name) = parser.peek_token_ref().token.clone() else {
            return Err(statement.expected(parser, "what the column holds, in single quotes", Some(METADATA_HINT)));
        };
        parser.advance_token();
        name
    } else {
        column.name().clone()
    };
    let holds = RecordMetadata::from_name(&name)
        .ok_or_else(|| refuse(at, format!("a record has no '{}'", shorten(&name)), METADATA_HINT))?;
    check_type(at, column, &holds)?;
    Ok(Some(MetadataColumn { name: column.name().clone(), holds }))
}

fn check_type(at: Location, column: &Field, holds: &RecordMetadata) -> Result<()> {
    let expected = metadata_type(holds);
    if sql_type_name(column.data_type()) == sql_type_name(&expected) {
        return Ok(());
    }
    let (found, expected) = (sql_type_name(column.data_type()), sql_type_name(&expected));
    let reason = format!("column \"{}\" is {}, but what it holds is {expected}", column.name(), shorten(&found));
    Err(refuse(at, reason, format!("write \"{}\" {expected} METADATA", column.name()).as_str()))
}

/// The type of a column with this.
pub(crate) fn metadata_type(holds: &RecordMetadata) -> DataType {
    match holds {
        RecordMetadata::Key | RecordMetadata::Header(_) | RecordMetadata::Topic => DataType::Utf8,
        RecordMetadata::Partition => DataType::Int32,
        RecordMetadata::Offset => DataType::Int64,
        RecordMetadata::Timestamp => timestamp_type(),
        RecordMetadata::Headers => {
            let text = |name: &str| Field::new(name, DataType::Utf8, true);
            DataType::new_list(DataType::Struct(Fields::from(vec![text("key"), text("value")])), true)
        }
    }
}

/// The columns that are in the records' values.
pub(crate) fn value_columns(columns: &Schema, metadata: &[MetadataColumn]) -> Schema {
    let is_value = |field: &&Arc<Field>| metadata.iter().all(|column| column.name != *field.name());
    Schema::new(columns.fields().iter().filter(is_value).cloned().collect::<Vec<_>>())
}

fn format(options: &WithOptions) -> Result<RecordFormat> {
    let Some(option) = options.get("format") else { return Ok(RecordFormat::Json) };
    let text = option.text()?;
    Ok(match text.as_str() {
        "json" => RecordFormat::Json,
        "csv" => RecordFormat::Csv,
        "avro" => RecordFormat::Avro,
        "protobuf" => RecordFormat::Protobuf,
        other => {
            let reason = format!("there is no format '{}'", shorten(other));
            return Err(refuse(option.at, reason, "the formats are 'json', 'csv', 'avro' and 'protobuf'"));
        }
    })
}

fn start(options: &WithOptions) -> Result<KafkaStart> {
    let Some(option) = options.get("start") else { return Ok(KafkaStart::Earliest) };
    let text = option.text()?;
    match text.as_str() {
        "earliest" => Ok(KafkaStart::Earliest),
        "latest" => Ok(KafkaStart::Latest),
        other => match parse_timestamp(other) {
            // A record's timestamp is in whole milliseconds; the first at or after this one.
            Some(micros) => Ok(KafkaStart::Timestamp(micros.div_euclid(1000) + i64::from(micros.rem_euclid(1000) > 0))),
            None => {
                let reason = format!("start = '{}' is no place in a topic", shorten(other));
                Err(refuse(option.at, reason, "write 'earliest', 'latest' or a time such as '2026-11-21T12:00:00Z'"))
            }
        },
    }
}

fn max_bad_ratio(options: &WithOptions) -> Result<f64> {
    let Some(option) = options.get("max_bad_ratio") else { return Ok(1.0) };
    option.value.parse().ok().filter(|ratio| (0.0..=1.0).contains(ratio)).ok_or_else(|| {
        let reason = format!("max_bad_ratio = {} is not a number from 0 to 1", shorten(&option.value));
        refuse(option.at, reason, "0.01 stops a partition when more than one of a hundred records is a dead letter")
    })
}
