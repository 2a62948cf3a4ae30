//! Reads Avro schemas: JSON text into types whose names are resolved.
//!
//! Only what decides how bytes are read is kept. Documentation, defaults, aliases and attributes of other programs say
//! nothing about a record that has been written.

use std::collections::HashMap;
use std::sync::Arc;

use serde_json::{Map, Value};

use crate::format::row::quoted;

/// Deepest nesting of types; what walks them recurses.
const DEPTH_MAX: usize = 64;
/// Most types that a schema may have with its names spelled out: each use of a name is a type of its own to the decoder.
const TYPES_MAX: usize = 20_000;

/// A type of values.
#[derive(Debug, PartialEq)]
pub(super) struct AvroType {
    pub(super) kind: Kind,
    pub(super) logical: Option<Logical>,
    /// Levels of types, this one included.
    depth: usize,
    /// Types in it, this one included.
    types: usize,
}

#[derive(Debug, PartialEq)]
pub(super) enum Kind {
    Null,
    Boolean,
    Int,
    Long,
    Float,
    Double,
    Bytes,
    String,
    Fixed(usize),
    Enum(Vec<String>),
    Array(Arc<AvroType>),
    Map(Arc<AvroType>),
    Union(Vec<Arc<AvroType>>),
    Record(Vec<AvroField>),
}

/// What the values of a type mean, where that is more than what they are.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Logical {
    Decimal {
        precision: u64,
        scale: u64,
    },
    /// One of those that have no parameters, such as `timestamp-millis`.
    Named(String),
}

#[derive(Debug, PartialEq)]
pub(super) struct AvroField {
    pub(super) name: String,
    pub(super) field_type: Arc<AvroType>,
}

/// The schemas of one record: first those that it builds on, then its own.
#[derive(Debug, Default)]
pub(super) struct SchemaReader {
    /// The types that have names, by full name; `None` while one is being read.
    named: HashMap<String, Option<Arc<AvroType>>>,
}

impl SchemaReader {
    /// Reads a schema; its names are known to those that are read after it.
    ///
    /// # Errors
    /// The text is no Avro schema, or one that no column can come from; the reason.
    pub(super) fn read(&mut self, text: &str) -> Result<Arc<AvroType>, String> {
        let schema: Value = serde_json::from_str(text).map_err(|error| format!("it is no JSON: {error}"))?;
        self.any(&schema, "")
    }

    fn any(&mut self, schema: &Value, namespace: &str) -> Result<Arc<AvroType>, String> {
        match schema {
            Value::String(name) => self.primitive_or_named(name, namespace, None),
            Value::Array(branches) => {
                let branches = branches.iter().map(|branch| self.any(branch, namespace)).collect::<Result<_, _>>()?;
                new_type(Kind::Union(branches), None)
            }
            Value::Object(schema) => self.object(schema, namespace),
            other => Err(format!("expected a type, found {}", quoted(&other.to_string()))),
        }
    }

    fn object(&mut self, schema: &Map<String, Value>, namespace: &str) -> Result<Arc<AvroType>, String> {
        let member = |name: &str| schema.get(name).ok_or_else(|| format!("a type has no \"{name}\""));
        let type_name = match member("type")? {
            Value::String(name) => name.as_str(),
            nested => return self.any(nested, namespace),
        };
        match type_name {
            "record" | "error" => self.named(schema, namespace, |reader, namespace| {
                let fields = list(member("fields")?, "fields")?;
                let fields = fields.iter().map(|field| reader.field(field, namespace)).collect::<Result<_, _>>()?;
                new_type(Kind::Record(fields), None)
            }),
            "enum" => self.named(schema, namespace, |_, _| {
                let symbols = list(member("symbols")?, "symbols")?;
                let symbols = symbols.iter().map(|symbol| text(symbol, "symbol").map(str::to_owned));
                new_type(Kind::Enum(symbols.collect::<Result<_, _>>()?), None)
            }),
            "fixed" => self.named(schema, namespace, |_, _| {
                let size = member("size")?.as_u64().and_then(|size| i32::try_from(size).ok());
                let size = size.ok_or_else(|| "the size of a fixed type is no number of bytes".to_owned())?;
                new_type(Kind::Fixed(size as usize), logical(schema))
            }),
            "array" => new_type(Kind::Array(self.any(member("items")?, namespace)?), None),
            "map" => new_type(Kind::Map(self.any(member("values")?, namespace)?), None),
            name => self.primitive_or_named(name, namespace, logical(schema)),
        }
    }

    fn field(&mut self, field: &Value, namespace: &str) -> Result<AvroField, String> {
        let name = text(field.get("name").unwrap_or(&Value::Null), "name of a field")?;
        let field_type = field.get("type").ok_or_else(|| format!("the field {} has no type", quoted(name)))?;
        let field_type = self.any(field_type, namespace)?;
        Ok(AvroField { name: name.to_owned(), field_type })
    }

    /// Reads the definition of a type that has a name; `read` is given the namespace inside of it.
    fn named(
        &mut self,
        schema: &Map<String, Value>,
        namespace: &str,
        read: impl FnOnce(&mut SchemaReader, &str) -> Result<Arc<AvroType>, String>,
    ) -> Result<Arc<AvroType>, String> {
        let name = text(schema.get("name").unwrap_or(&Value::Null), "name of a type")?;
        let namespace = schema.get("namespace").and_then(Value::as_str).unwrap_or(namespace);
        let full_name = full_name(name, namespace);
        let inner_namespace = full_name.rsplit_once('.').map_or("", |(namespace, _)| namespace);
        self.named.insert(full_name.clone(), None);
        let read = read(self, inner_namespace)?;
        self.named.insert(full_name, Some(Arc::clone(&read)));
        Ok(read)
    }

    fn primitive_or_named(
        &self,
        name: &str,
        namespace: &str,
        logical: Option<Logical>,
    ) -> Result<Arc<AvroType>, String> {
        let kind = match name {
            "null" => Kind::Null,
            "boolean" => Kind::Boolean,
            "int" => Kind::Int,
            "long" => Kind::Long,
            "float" => Kind::Float,
            "double" => Kind::Double,
            "bytes" => Kind::Bytes,
            "string" => Kind::String,
            _ => return self.defined(name, namespace),
        };
        new_type(kind, logical)
    }

    fn defined(&self, name: &str, namespace: &str) -> Result<Arc<AvroType>, String> {
        let defined = self.named.get(&full_name(name, namespace)).or_else(|| self.named.get(name));
        match defined {
            Some(Some(defined)) => Ok(Arc::clone(defined)),
            Some(None) => Err(format!("the type {} contains itself, which is not supported", quoted(name))),
            None => Err(format!("the type {} is not defined", quoted(name))),
        }
    }
}

fn new_type(kind: Kind, logical: Option<Logical>) -> Result<Arc<AvroType>, String> {
    let parts: Vec<&AvroType> = match &kind {
        Kind::Array(part) | Kind::Map(part) => vec![part.as_ref()],
        Kind::Union(branches) => branches.iter().map(Arc::as_ref).collect(),
        Kind::Record(fields) => fields.iter().map(|field| field.field_type.as_ref()).collect(),
        _ => Vec::new(),
    };
    let depth = 1 + parts.iter().map(|part| part.depth).max().unwrap_or(0);
    let types = parts.iter().fold(1_usize, |types, part| types.saturating_add(part.types));
    if depth > DEPTH_MAX {
        return Err(format!("its types are nested more than {DEPTH_MAX} levels deep"));
    }
    if types > TYPES_MAX {
        return Err(format!("it has more than {TYPES_MAX} types"));
    }
    Ok(Arc::new(AvroType { kind, logical, depth, types }))
}

/// A logical type whose parameters are missing or wrong is to be ignored, says the specification.
fn logical(schema: &Map<String, Value>) -> Option<Logical> {
    let name = schema.get("logicalType")?.as_str()?;
    if name != "decimal" {
        return Some(Logical::Named(name.to_owned()));
    }
    let precision = schema.get("precision")?.as_u64().filter(|precision| *precision > 0)?;
    let scale = schema.get("scale").map_or(Some(0), Value::as_u64).filter(|scale| *scale <= precision)?;
    Some(Logical::Decimal { precision, scale })
}

fn full_name(name: &str, namespace: &str) -> String {
    if name.contains('.') || namespace.is_empty() { name.to_owned() } else { format!("{namespace}.{name}") }
}

fn list<'a>(value: &'a Value, what: &str) -> Result<&'a Vec<Value>, String> {
    value.as_array().ok_or_else(|| format!("the {what} of a type are no list"))
}

fn text<'a>(value: &'a Value, what: &str) -> Result<&'a str, String> {
    value.as_str().ok_or_else(|| format!("the {what} is no text"))
}
