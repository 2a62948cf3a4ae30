//! Reads Protobuf records with the schema that each was written with.
//!
//! A message is decoded by its descriptor and its fields are appended to the columns of their names, by the same path as
//! the values of JSON. With a registry a record says which message of its schema it is.

mod compile;
mod indexes;
mod message;

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use prost_reflect::FileDescriptor;

use self::compile::{compile, only_message};
use self::indexes::MessageIndexes;
use self::message::MessageReader;
use super::framing::{BySchemaId, Judged, references, split_header};
use crate::error::Result;
use crate::format::plan::ObjectPlan;
use crate::format::row::{Refusal, Rows};
use crate::registry::{RegisteredSchema, SchemaRegistry, SchemaType};

/// Where the schemas of records come from.
#[derive(Debug)]
pub(super) enum ProtobufRecords {
    Registry(BySchemaId<RegisteredFile>),
    File(Arc<MessageReader>),
}

/// A `.proto` file of the registry and its messages that have been met.
#[derive(Debug)]
pub(super) struct RegisteredFile {
    file: FileDescriptor,
    readers: Mutex<HashMap<MessageIndexes, Result<Arc<MessageReader>, Refusal>>>,
}

impl ProtobufRecords {
    pub(super) fn with_registry(registry: Arc<SchemaRegistry>) -> ProtobufRecords {
        ProtobufRecords::Registry(BySchemaId::new(registry, SchemaType::Protobuf))
    }

    /// # Errors
    /// The text cannot be compiled, has no such message, or none of its fields is a column.
    pub(super) fn with_schema(text: &str, message: Option<&str>, plan: &ObjectPlan) -> Result<ProtobufRecords, String> {
        let file = compile(text, Vec::new())?;
        let message = only_message(&file, message)?;
        let reader = MessageReader::new(message, plan).map_err(Refusal::reason)?;
        Ok(ProtobufRecords::File(Arc::new(reader)))
    }

    /// Adds each record as a row.
    pub(super) fn decode(&self, values: &[&[u8]], plan: &ObjectPlan, mut rows: Rows) -> Result<Rows> {
        for value in values {
            let message = self.message(value, plan)?;
            rows.add(|columns| {
                let (reader, body) = message?;
                reader.append(body, columns)
            })?;
        }
        Ok(rows)
    }

    /// What reads a record, and its message.
    fn message<'a>(&self, value: &'a [u8], plan: &ObjectPlan) -> Judged<(Arc<MessageReader>, &'a [u8])> {
        let by_id = match self {
            ProtobufRecords::File(reader) => return Ok(Ok((Arc::clone(reader), value))),
            ProtobufRecords::Registry(by_id) => by_id,
        };
        let (id, rest) = match split_header(value) {
            Ok(split) => split,
            Err(refusal) => return Ok(Err(refusal)),
        };
        let file = by_id.get(id, |registry, schema| registered(registry, id, schema))?;
        Ok(file.and_then(|file| {
            let (indexes, body) = MessageIndexes::split(rest)?;
            Ok((file.reader(&indexes, plan)?, body))
        }))
    }
}

fn registered(registry: &SchemaRegistry, id: u32, schema: &RegisteredSchema) -> Judged<RegisteredFile> {
    let references = match references(registry, schema)? {
        Ok(references) => references,
        Err(refusal) => return Ok(Err(refusal)),
    };
    let file = compile(&schema.text, references);
    Ok(match file {
        Ok(file) => Ok(RegisteredFile { file, readers: Mutex::default() }),
        Err(reason) => Err(Refusal::new(format!("the Protobuf schema with id {id} cannot be used: {reason}"))),
    })
}

impl RegisteredFile {
    fn reader(&self, indexes: &MessageIndexes, plan: &ObjectPlan) -> Result<Arc<MessageReader>, Refusal> {
        // It is held over calls that leave it whole.
        let mut readers = self.readers.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(reader) = readers.get(indexes) {
            return reader.clone();
        }
        // Only a file's messages get a place, so that records cannot fill memory with others.
        let message = indexes.message_of(&self.file)?;
        let reader = MessageReader::new(message, plan).map(Arc::new);
        readers.insert(indexes.clone(), reader.clone());
        reader
    }
}
