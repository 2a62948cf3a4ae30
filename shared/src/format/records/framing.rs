//! What stands in front of a record that was written with a schema registry, and what is made of the schema it names.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::error::Result;
use crate::format::row::Refusal;
use crate::registry::{RegisteredSchema, SchemaReference, SchemaRegistry, SchemaType};

/// The byte in front of a schema's id.
const MAGIC: u8 = 0;
/// Length of that byte and the id.
const HEADER_BYTES: usize = 5;
/// Most schemas that one schema may build on.
const REFERENCES_MAX: usize = 1000;

/// The schema's id and what comes after it.
pub(super) fn split_header(value: &[u8]) -> Result<(u32, &[u8]), Refusal> {
    let Some(([magic, id @ ..], body)) = value.split_first_chunk::<HEADER_BYTES>() else {
        let found = value.len();
        let reason =
            format!("the record has {found} bytes, fewer than the 0 and the schema id of 4 bytes in front of it");
        return Err(Refusal::new(reason));
    };
    if *magic != MAGIC {
        return Err(Refusal::new(format!(
            "the record begins with the byte {magic:#04x}, not with 0 and a schema id; was it written without the registry?"
        )));
    }
    let id = i32::from_be_bytes(*id);
    let wrong = || {
        Refusal::new(format!("its schema id is {id}, which no registry gives; was it written without the registry?"))
    };
    Ok((id.try_into().map_err(|_| wrong())?, body))
}

/// What a record or a schema gives, or why it is refused. The error outside is that the registry gives no answer.
pub(super) type Judged<T> = Result<Result<T, Refusal>>;

/// What has been made of the registry's schemas, each made once.
#[derive(Debug)]
pub(super) struct BySchemaId<T> {
    registry: Arc<SchemaRegistry>,
    schema_type: SchemaType,
    built: Mutex<HashMap<u32, Built<T>>>,
}

/// What a schema has become, or why records of it are refused.
type Built<T> = Result<Arc<T>, Refusal>;

impl<T> BySchemaId<T> {
    pub(super) fn new(registry: Arc<SchemaRegistry>, schema_type: SchemaType) -> BySchemaId<T> {
        BySchemaId { registry, schema_type, built: Mutex::default() }
    }

    /// What `build` makes of the schema with this id.
    ///
    /// # Errors
    /// The registry gives no answer, also when `build` asks it.
    pub(super) fn get(
        &self,
        id: u32,
        build: impl FnOnce(&SchemaRegistry, &RegisteredSchema) -> Judged<T>,
    ) -> Judged<Arc<T>> {
        if let Some(built) = self.built().get(&id) {
            return Ok(built.clone());
        }
        let Some(schema) = self.registry.schema(id)? else {
            return Ok(Err(Refusal::new(format!("the registry has no schema with id {id}"))));
        };
        let built = if schema.schema_type == self.schema_type {
            build(&self.registry, &schema)?.map(Arc::new)
        } else {
            let (found, expected) = (schema.schema_type.name(), self.schema_type.name());
            Err(Refusal::new(format!("the schema with id {id} is {found}, not {expected}")))
        };
        self.built().insert(id, built.clone());
        Ok(built)
    }

    fn built(&self) -> MutexGuard<'_, HashMap<u32, Built<T>>> {
        // It is held over single calls of the map only.
        self.built.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A schema that another builds on: what that calls it, and its text.
#[derive(Debug)]
pub(super) struct Referenced {
    pub(super) name: String,
    pub(super) text: String,
}

/// All schemas that `schema` builds on, each after those that it builds on itself.
///
/// # Errors
/// The registry gives no answer. Inside: a schema is not there, or there are too many.
pub(super) fn references(registry: &SchemaRegistry, schema: &RegisteredSchema) -> Judged<Vec<Referenced>> {
    // A stack of our own: the depth is the registry's to choose.
    enum Step {
        Visit(SchemaReference),
        Leave(Referenced),
    }
    let visits =
        |schema: &RegisteredSchema| schema.references.iter().rev().cloned().map(Step::Visit).collect::<Vec<_>>();
    let mut steps = visits(schema);
    let mut seen: Vec<SchemaReference> = Vec::new();
    let mut found = Vec::new();
    while let Some(step) = steps.pop() {
        match step {
            Step::Leave(referenced) => found.push(referenced),
            Step::Visit(reference) if seen.contains(&reference) => {}
            Step::Visit(reference) => {
                if seen.len() == REFERENCES_MAX {
                    return Ok(Err(Refusal::new(format!("its schema builds on more than {REFERENCES_MAX} others"))));
                }
                let SchemaReference { name, subject, version } = reference.clone();
                let Some(schema) = registry.version(&subject, version)? else {
                    let reason = format!(
                        "its schema builds on version {version} of \"{subject}\", which the registry does not have"
                    );
                    return Ok(Err(Refusal::new(reason)));
                };
                seen.push(reference);
                steps.push(Step::Leave(Referenced { name, text: schema.text.clone() }));
                steps.extend(visits(&schema));
            }
        }
    }
    Ok(Ok(found))
}
