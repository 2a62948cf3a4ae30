//! What a source's columns expect, worked out once per source: the types as a closed set, and how to find a name.

use std::collections::HashMap;
use std::sync::Arc;

use arrow::datatypes::{DataType, FieldRef, Fields};
use arrow::error::ArrowError;

use crate::error::Result;
use crate::event::timestamp_type;

/// The columns of a row, or the fields of a struct.
#[derive(Debug)]
pub(super) struct ObjectPlan {
    pub(super) fields: Fields,
    pub(super) columns: Vec<Arc<ColumnPlan>>,
    by_name: HashMap<String, usize>,
}

/// One column, struct field or list item.
#[derive(Debug)]
pub(super) struct ColumnPlan {
    pub(super) field: FieldRef,
    pub(super) value_type: ValueType,
    /// The name as a key in JSON; see [`plain_key`].
    pub(super) plain_key: Option<String>,
}

/// The types that `CREATE SOURCE` makes.
#[derive(Debug)]
pub(super) enum ValueType {
    Boolean,
    Int,
    BigInt,
    Float,
    Double,
    Decimal { precision: u8, scale: i8 },
    Text,
    Date,
    Timestamp,
    List(Arc<ColumnPlan>),
    Struct(Arc<ObjectPlan>),
}

impl ObjectPlan {
    pub(super) fn new(fields: &Fields) -> Result<ObjectPlan> {
        let columns = fields.iter().map(|field| Ok(Arc::new(ColumnPlan::new(field)?))).collect::<Result<Vec<_>>>()?;
        let by_name = fields.iter().enumerate().map(|(index, field)| (field.name().clone(), index)).collect();
        Ok(ObjectPlan { fields: fields.clone(), columns, by_name })
    }

    pub(super) fn index_of(&self, name: &str) -> Option<usize> {
        self.by_name.get(name).copied()
    }

    /// The columns' names for a message.
    pub(super) fn names(&self) -> String {
        self.fields.iter().map(|field| field.name().as_str()).collect::<Vec<_>>().join(", ")
    }
}

impl ColumnPlan {
    fn new(field: &FieldRef) -> Result<ColumnPlan> {
        let plain_key = plain_key(field.name());
        Ok(ColumnPlan { field: Arc::clone(field), value_type: ValueType::new(field)?, plain_key })
    }

    pub(super) fn name(&self) -> &str {
        self.field.name()
    }
}

impl ValueType {
    fn new(field: &FieldRef) -> Result<ValueType> {
        Ok(match field.data_type() {
            DataType::Boolean => ValueType::Boolean,
            DataType::Int32 => ValueType::Int,
            DataType::Int64 => ValueType::BigInt,
            DataType::Float32 => ValueType::Float,
            DataType::Float64 => ValueType::Double,
            DataType::Decimal128(precision, scale) => ValueType::Decimal { precision: *precision, scale: *scale },
            DataType::Utf8 => ValueType::Text,
            DataType::Date32 => ValueType::Date,
            data_type if *data_type == timestamp_type() => ValueType::Timestamp,
            DataType::List(item) => ValueType::List(Arc::new(ColumnPlan::new(item)?)),
            DataType::Struct(fields) => ValueType::Struct(Arc::new(ObjectPlan::new(fields)?)),
            other => {
                let name = field.name();
                let reason = format!("column \"{name}\" has the Arrow type {other}, which no source's column has");
                return Err(ArrowError::SchemaError(reason).into());
            }
        })
    }

    /// The type as SQL writes it, for messages.
    pub(super) fn sql(&self) -> String {
        match self {
            ValueType::Boolean => "BOOLEAN".to_owned(),
            ValueType::Int => "INT".to_owned(),
            ValueType::BigInt => "BIGINT".to_owned(),
            ValueType::Float => "FLOAT".to_owned(),
            ValueType::Double => "DOUBLE".to_owned(),
            ValueType::Decimal { precision, scale } => format!("DECIMAL({precision}, {scale})"),
            ValueType::Text => "TEXT".to_owned(),
            ValueType::Date => "DATE".to_owned(),
            ValueType::Timestamp => "TIMESTAMP".to_owned(),
            ValueType::List(item) => format!("{}[]", item.value_type.sql()),
            ValueType::Struct(_) => "STRUCT".to_owned(),
        }
    }
}

/// A name as a key in JSON, with its quotes, spelled without any escape; `None` if something in it must be escaped.
pub(super) fn plain_key(name: &str) -> Option<String> {
    let needs_escape = name.bytes().any(|byte| byte < 0x20 || byte == b'"' || byte == b'\\');
    (!needs_escape).then(|| format!("\"{name}\""))
}
