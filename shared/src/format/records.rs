//! Decodes records of a topic, one event each, into one Arrow batch in a source's columns.
//!
//! The rules for values are those of bodies (see the module above). What is new is where a record's types come from:
//! JSON and CSV carry them or need none; Avro and Protobuf are read with the schema that the record was written with,
//! which a schema registry gives by the id in front of each record, or a file for all of them. Columns are found by
//! name in that schema, so that producers may add and drop fields without anybody changing the source.
//!
//! A record whose id nobody knows, or whose schema cannot be used, is refused like one with a wrong value. Only a
//! registry that gives no answer is an error: the records may be right, and nothing of them is judged.

mod avro;
mod framing;
mod protobuf;

use std::sync::Arc;

use arrow::datatypes::SchemaRef;

use self::avro::AvroRecords;
use self::framing::{BySchemaId, Judged, split_header};
use self::protobuf::ProtobufRecords;
use super::csv::CsvRecords;
use super::json::append_record;
use super::json_cursor::JsonCursor;
use super::plan::ObjectPlan;
use super::row::{Rows, too_many_events};
use super::{DecodedEvents, EVENTS_MAX};
use crate::error::{Error, Result};
use crate::registry::{SchemaRegistry, SchemaType};

/// How the records of a topic spell their events.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum RecordFormat {
    /// One JSON object a record. With a schema registry, behind the id of a JSON Schema.
    Json,
    /// One CSV record without a header, its fields in the order of the source's columns.
    Csv,
    /// An Avro record in binary. With a schema registry, behind its schema's id; without, also in single-object
    /// encoding.
    Avro,
    /// A Protobuf message. With a schema registry, behind its schema's id and the message's place in it.
    Protobuf,
}

/// Where the schemas of records come from.
#[derive(Debug, Clone, Default)]
pub struct RecordSchemas {
    /// The registry that knows the ids in front of the records.
    pub registry: Option<Arc<SchemaRegistry>>,
    /// Without a registry: the text of the schema of all records, an Avro schema or a `.proto` file.
    pub schema_text: Option<String>,
    /// The full name of the message in that `.proto` file; needed if it has several.
    pub message: Option<String>,
}

/// Decodes the records of one source; built once, used for every batch of them.
#[derive(Debug)]
pub struct RecordDecoder {
    columns: SchemaRef,
    plan: Arc<ObjectPlan>,
    format: RecordFormat,
    reader: Reader,
}

#[derive(Debug)]
enum Reader {
    /// The registry's JSON Schemas only say that an id is right; a record is read without them.
    Json(Option<BySchemaId<()>>),
    Csv,
    Avro(AvroRecords),
    Protobuf(ProtobufRecords),
}

impl RecordFormat {
    /// The format's name in messages.
    pub fn name(self) -> &'static str {
        match self {
            RecordFormat::Json => "JSON",
            RecordFormat::Csv => "CSV",
            RecordFormat::Avro => "Avro",
            RecordFormat::Protobuf => "Protobuf",
        }
    }

    fn schema_error(self, reason: impl Into<String>) -> Error {
        Error::RecordSchema { format: self.name(), reason: reason.into() }
    }
}

impl RecordDecoder {
    /// A decoder for the declared columns of a source. Nothing is asked of the registry yet.
    ///
    /// # Errors
    /// [`Error::RecordSchema`] when the format needs a schema and there is none, or the one in the file cannot be used;
    /// [`Error::Arrow`] when a column's Arrow type is none of those that `CREATE SOURCE` makes.
    pub fn new(columns: &SchemaRef, format: RecordFormat, schemas: RecordSchemas) -> Result<RecordDecoder> {
        let plan = Arc::new(ObjectPlan::new(columns.fields())?);
        let RecordSchemas { registry, schema_text, message } = schemas;
        if registry.is_some() && schema_text.is_some() {
            return Err(
                format.schema_error("both a schema registry and a schema file are given; leave one of them out")
            );
        }
        if format != RecordFormat::Protobuf && message.is_some() {
            return Err(format.schema_error("the name of a message is given, which only Protobuf has"));
        }
        let no_schema = || format.schema_error("there is no schema; give a schema registry or a schema file");
        let reader = match (format, registry, schema_text) {
            (RecordFormat::Json | RecordFormat::Csv, _, Some(_)) => {
                return Err(format.schema_error("a schema file is given, which only Avro and Protobuf use"));
            }
            (RecordFormat::Csv, Some(_), None) => {
                return Err(format.schema_error("a schema registry is given, but registries know no CSV"));
            }
            (RecordFormat::Json, registry, None) => {
                Reader::Json(registry.map(|registry| BySchemaId::new(registry, SchemaType::Json)))
            }
            (RecordFormat::Csv, None, None) => Reader::Csv,
            (RecordFormat::Avro, Some(registry), None) => Reader::Avro(AvroRecords::with_registry(registry)),
            (RecordFormat::Avro, None, Some(text)) => {
                Reader::Avro(AvroRecords::with_schema(&text, &plan).map_err(|reason| format.schema_error(reason))?)
            }
            (RecordFormat::Protobuf, Some(_), None) if message.is_some() => {
                let reason = "the name of a message is given, but with a schema registry each record says which it is";
                return Err(format.schema_error(reason));
            }
            (RecordFormat::Protobuf, Some(registry), None) => {
                Reader::Protobuf(ProtobufRecords::with_registry(registry))
            }
            (RecordFormat::Protobuf, None, Some(text)) => {
                let reader = ProtobufRecords::with_schema(&text, message.as_deref(), &plan);
                Reader::Protobuf(reader.map_err(|reason| format.schema_error(reason))?)
            }
            (_, _, _) => return Err(no_schema()),
        };
        Ok(RecordDecoder { columns: Arc::clone(columns), plan, format, reader })
    }

    /// Decodes records, one event each; `RejectedRow::row` of a refused one is its index in `values`. Accepted ones keep
    /// their order.
    ///
    /// With a registry this may ask it and blocks meanwhile, so it must not be called on a thread of an async runtime.
    ///
    /// # Errors
    /// [`Error::Registry`] when the registry gives no answer, which may pass; [`Error::UnreadableEvents`] when there are
    /// more than [`EVENTS_MAX`] records or more than 2 GiB of them. Then nothing is accepted.
    pub fn decode(&self, values: &[&[u8]]) -> Result<DecodedEvents> {
        self.check_size(values)?;
        match &self.reader {
            Reader::Json(by_id) => self.decode_json(by_id.as_ref(), values),
            Reader::Csv => self.decode_csv(values),
            Reader::Avro(records) => records.decode(values, &self.plan, &self.columns),
            Reader::Protobuf(records) => records.decode(values, &self.plan, self.rows(values))?.finish(&self.columns),
        }
    }

    /// Arrow's text columns have 32-bit offsets.
    fn check_size(&self, values: &[&[u8]]) -> Result<()> {
        let unreadable = |reason: String| Error::UnreadableEvents { format: self.format.name(), reason };
        if values.len() > EVENTS_MAX {
            return Err(unreadable(too_many_events()));
        }
        let bytes: usize = values.iter().map(|value| value.len()).sum();
        if bytes > i32::MAX as usize {
            return Err(unreadable(format!("they have {bytes} bytes; at most 2 GiB are decoded at once")));
        }
        Ok(())
    }

    fn rows(&self, values: &[&[u8]]) -> Rows {
        Rows::new(self.format.name(), &self.plan, values.len())
    }

    fn decode_json(&self, by_id: Option<&BySchemaId<()>>, values: &[&[u8]]) -> Result<DecodedEvents> {
        let mut rows = self.rows(values);
        let mut cursor = JsonCursor::default();
        for value in values {
            let body = match by_id {
                Some(by_id) => known_body(by_id, value)?,
                None => Ok(*value),
            };
            rows.add(|columns| append_record(body?, &mut cursor, columns))?;
        }
        rows.finish(&self.columns)
    }

    fn decode_csv(&self, values: &[&[u8]]) -> Result<DecodedEvents> {
        let mut rows = self.rows(values);
        let mut records = CsvRecords::default();
        for value in values {
            rows.add(|columns| records.append(value, &self.plan, columns))?;
        }
        rows.finish(&self.columns)
    }
}

/// What comes after the header of a record, if its id is that of a schema that the registry has.
fn known_body<'a>(by_id: &BySchemaId<()>, value: &'a [u8]) -> Judged<&'a [u8]> {
    match split_header(value) {
        Ok((id, body)) => Ok(by_id.get(id, |_, _| Ok(Ok(())))?.map(|_| body)),
        Err(refusal) => Ok(Err(refusal)),
    }
}
