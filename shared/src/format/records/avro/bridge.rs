//! Spells a schema for the decoder of whole batches, so that what comes out fits the source's columns.
//!
//! How bytes are read stays the writer's; what they become is asked for by the columns: text that no column holds is
//! passed as bytes, a UUID is the text that was written and not that text in lower case, and so on. Names of types are
//! made up, because each use of a type is spelled by itself.

use std::sync::Arc;

use serde_json::{Map, Value, json};

use super::schema::{AvroType, Kind, Logical};
use crate::format::plan::{ObjectPlan, ValueType};
use crate::format::row::Refusal;

/// The schema of `record` for the columns of `plan`, as JSON.
///
/// # Errors
/// A column needs what none can hold.
pub(super) fn spell(record: &AvroType, plan: &ObjectPlan) -> Result<String, Refusal> {
    let Kind::Record(_) = &record.kind else {
        return Err(Refusal::new("its schema is no record, which has the fields that columns are found by"));
    };
    let mut speller = Speller { named: 0 };
    Ok(speller.record(record, Some(plan))?.to_string())
}

struct Speller {
    /// How many types have got a name.
    named: usize,
}

impl Speller {
    /// A type as JSON; `needed` is what holds its values, if anything does.
    fn any(&mut self, avro: &AvroType, needed: Option<&ValueType>) -> Result<Value, Refusal> {
        Ok(match (&avro.kind, needed) {
            (Kind::Null | Kind::Fixed(0), _) => json!("null"),
            (Kind::Boolean, _) => json!("boolean"),
            (Kind::Int, _) => with_logical("int", avro, needed),
            (Kind::Long, _) => with_logical("long", avro, needed),
            (Kind::Float, _) => json!("float"),
            (Kind::Double, _) => json!("double"),
            (Kind::String | Kind::Bytes, None) => json!("bytes"),
            (Kind::String, Some(_)) => json!("string"),
            // These are the same bytes, and text if they are UTF-8.
            (Kind::Bytes, Some(ValueType::Text)) if avro.logical.is_none() => json!("string"),
            (Kind::Bytes, Some(_)) => with_logical("bytes", avro, needed),
            (Kind::Fixed(size), _) => {
                let mut fixed = self.new_named("fixed");
                fixed.insert("size".to_owned(), json!(size));
                if needed.is_some() {
                    add_decimal(&mut fixed, avro.logical.as_ref());
                }
                Value::Object(fixed)
            }
            (Kind::Enum(_), None) => json!("int"),
            (Kind::Enum(symbols), Some(_)) => {
                let mut symbols_of = self.new_named("enum");
                symbols_of.insert("symbols".to_owned(), json!(symbols));
                Value::Object(symbols_of)
            }
            (Kind::Array(items), _) => {
                let item = match needed {
                    Some(ValueType::List(item)) => Some(&item.value_type),
                    _ => None,
                };
                json!({ "type": "array", "items": self.any(items, item)? })
            }
            (Kind::Map(values), None) => json!({ "type": "map", "values": self.any(values, None)? }),
            (Kind::Map(_), Some(_)) => return Err(Refusal::new("the field is a map, which no column can hold")),
            (Kind::Union(branches), _) => self.union(branches, needed)?,
            // Arrow has no structs without fields. Nothing can be in them.
            (Kind::Record(fields), _) if fields.is_empty() => json!("null"),
            (Kind::Record(_), Some(ValueType::Struct(fields))) => self.record(avro, Some(fields))?,
            (Kind::Record(_), _) => self.record(avro, None)?,
        })
    }

    /// A union. Only that of one type and null has a column.
    fn union(&mut self, branches: &[Arc<AvroType>], needed: Option<&ValueType>) -> Result<Value, Refusal> {
        let nulls = branches.iter().filter(|branch| branch.kind == Kind::Null).count();
        if needed.is_some() && (branches.len(), nulls) != (2, 1) {
            let reason =
                format!("the field is a union of {} types; a column can hold one type and null", branches.len());
            return Err(Refusal::new(reason));
        }
        let spelled = branches.iter().map(|branch| self.any(branch, needed));
        Ok(Value::Array(spelled.collect::<Result<_, _>>()?))
    }

    fn record(&mut self, record: &AvroType, plan: Option<&ObjectPlan>) -> Result<Value, Refusal> {
        let Kind::Record(fields) = &record.kind else { return self.any(record, None) };
        let mut spelled = Vec::with_capacity(fields.len());
        for field in fields {
            let column = plan.and_then(|plan| plan.columns.get(plan.index_of(&field.name)?));
            let field_type = self.any(&field.field_type, column.map(|column| &column.value_type));
            let field_type = field_type.map_err(|refusal| refusal.within(&field.name))?;
            spelled.push(json!({ "name": field.name, "type": field_type }));
        }
        let mut record = self.new_named("record");
        record.insert("fields".to_owned(), Value::Array(spelled));
        Ok(Value::Object(record))
    }

    fn new_named(&mut self, type_name: &str) -> Map<String, Value> {
        self.named += 1;
        let name = format!("t{}", self.named);
        Map::from_iter([("type".to_owned(), json!(type_name)), ("name".to_owned(), json!(name))])
    }
}

/// A type with its logical type, where a column of another kind would not rather have the bare number. There is no type
/// for the time of a day, which is why a column of integers gets its milliseconds or microseconds.
fn with_logical(name: &str, avro: &AvroType, needed: Option<&ValueType>) -> Value {
    let mut spelled = Map::from_iter([("type".to_owned(), json!(name))]);
    match (&avro.logical, needed) {
        (None, _) | (_, None) => {}
        (Some(Logical::Named(logical)), Some(ValueType::Int | ValueType::BigInt)) if logical.starts_with("time-") => {}
        (Some(Logical::Named(logical)), Some(_)) => drop(spelled.insert("logicalType".to_owned(), json!(logical))),
        (logical @ Some(Logical::Decimal { .. }), Some(_)) if name == "bytes" => {
            add_decimal(&mut spelled, logical.as_ref());
        }
        (Some(Logical::Decimal { .. }), Some(_)) => {}
    }
    if spelled.len() == 1 { json!(name) } else { Value::Object(spelled) }
}

fn add_decimal(spelled: &mut Map<String, Value>, logical: Option<&Logical>) {
    if let Some(Logical::Decimal { precision, scale }) = logical {
        spelled.insert("logicalType".to_owned(), json!("decimal"));
        spelled.insert("precision".to_owned(), json!(precision));
        spelled.insert("scale".to_owned(), json!(scale));
    }
}
