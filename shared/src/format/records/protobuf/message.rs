//! Appends Protobuf messages to columns: which field fills which column, and what its values become.
//!
//! - A field that has no presence (those of proto3 without `optional`) always has a value: 0, false, "" or an empty list
//!   when it was not sent. Any other field that was not sent is NULL.
//! - An enum is its value's name in a TEXT column, or its number when the schema has no name for it, and its number in a
//!   column of integers. Bytes are text if they are UTF-8.
//! - `google.protobuf.Timestamp` is a TIMESTAMP; its digits below the microsecond are dropped towards the past, as those
//!   of text are. The wrappers of scalars are those scalars or NULL.
//! - Maps fill no column. Fields without a column, and those that the schema does not know, are ignored.

use prost_reflect::{DynamicMessage, EnumDescriptor, FieldDescriptor, Kind, MessageDescriptor, ReflectMessage, Value};

use crate::format::column::{Column, Columns};
use crate::format::plan::{ColumnPlan, ObjectPlan, ValueType};
use crate::format::row::Refusal;
use crate::panics::catch_panic;

/// Reads messages of one type into a source's columns.
#[derive(Debug)]
pub(in crate::format::records) struct MessageReader {
    message: MessageDescriptor,
    fields: MessageFields,
}

/// For each of the source's columns, or a struct's fields, the field of the message that fills it.
#[derive(Debug)]
struct MessageFields {
    fields: Vec<Option<MessageField>>,
}

#[derive(Debug)]
struct MessageField {
    field: FieldDescriptor,
    is_map: bool,
    /// Whether it makes a difference that it was not sent.
    has_presence: bool,
    value: FieldValue,
}

/// What a field's values, or the items of its lists, become.
#[derive(Debug)]
enum FieldValue {
    /// A scalar, or a message that no column takes.
    Plain,
    Enum(EnumDescriptor),
    Timestamp,
    /// The value inside of a wrapper.
    Wrapper(FieldDescriptor),
    Struct(MessageFields),
}

impl MessageReader {
    /// # Errors
    /// The message has none of the source's columns.
    pub(super) fn new(message: MessageDescriptor, plan: &ObjectPlan) -> Result<MessageReader, Refusal> {
        let fields = MessageFields::new(&message, plan);
        if fields.fields.iter().all(Option::is_none) {
            let (name, columns) = (message.full_name(), plan.names());
            let reason = format!("the message {name} has none of the source's columns; they are: {columns}");
            return Err(Refusal::new(reason));
        }
        Ok(MessageReader { message, fields })
    }

    /// Appends the message that `body` is.
    pub(super) fn append(&self, body: &[u8], columns: &mut Columns) -> Result<(), Refusal> {
        let undecodable = |reason: String| {
            let name = self.message.full_name();
            Refusal::new(format!("the record is no message {name}: {reason}"))
        };
        let message = catch_panic(|| DynamicMessage::decode(self.message.clone(), body)).map_err(undecodable)?;
        let message = message.map_err(|error| undecodable(error.to_string()))?;
        self.fields.append(&message, columns)
    }
}

impl MessageFields {
    fn new(message: &MessageDescriptor, plan: &ObjectPlan) -> MessageFields {
        let field = |column: &ColumnPlan| {
            let field = message.get_field_by_name(column.name())?;
            Some(MessageField::new(field, &column.value_type))
        };
        MessageFields { fields: plan.columns.iter().map(|column| field(column)).collect() }
    }

    fn append(&self, message: &DynamicMessage, columns: &mut Columns) -> Result<(), Refusal> {
        columns.append_each(|index, column| match &self.fields[index] {
            Some(field) => field.append(message, column),
            None => column.append_missing(),
        })
    }
}

impl MessageField {
    fn new(field: FieldDescriptor, column_type: &ValueType) -> MessageField {
        let value_type = match column_type {
            ValueType::List(item) if field.is_list() => &item.value_type,
            column_type => column_type,
        };
        let value = match (field.kind(), value_type) {
            (Kind::Enum(symbols), _) => FieldValue::Enum(symbols),
            (Kind::Message(message), ValueType::Struct(fields)) if !field.is_map() => {
                FieldValue::Struct(MessageFields::new(&message, fields))
            }
            (Kind::Message(message), ValueType::Timestamp) if message.full_name() == "google.protobuf.Timestamp" => {
                FieldValue::Timestamp
            }
            (Kind::Message(message), _) if is_wrapper(message.full_name()) => {
                message.get_field(1).map_or(FieldValue::Plain, FieldValue::Wrapper)
            }
            _ => FieldValue::Plain,
        };
        MessageField { is_map: field.is_map(), has_presence: field.supports_presence(), field, value }
    }

    fn append(&self, message: &DynamicMessage, column: &mut Column) -> Result<(), Refusal> {
        if self.is_map {
            return Err(column.mismatch("a map, which no column can hold"));
        }
        if self.has_presence && !message.has_field(&self.field) {
            return column.append_missing();
        }
        self.value.append(&message.get_field(&self.field), column)
    }
}

impl FieldValue {
    /// Appends a value. Recurses at most as deep as the columns' types are nested.
    fn append(&self, value: &Value, column: &mut Column) -> Result<(), Refusal> {
        match value {
            Value::Bool(value) => column.append_boolean(*value),
            Value::I32(value) => column.append_integer(i64::from(*value)),
            Value::I64(value) => column.append_integer(*value),
            Value::U32(value) => column.append_integer(i64::from(*value)),
            Value::U64(value) => column.append_unsigned(*value),
            Value::F32(value) => column.append_float(f64::from(*value), true),
            Value::F64(value) => column.append_float(*value, false),
            Value::String(value) => column.append_text(value),
            Value::Bytes(value) => column.append_bytes(value),
            Value::EnumNumber(number) => self.append_enum(*number, column),
            Value::Message(message) => self.append_message(message, column),
            Value::List(values) => column.append_list(values, |items, value| self.append(value, items)),
            Value::Map(_) => Err(column.mismatch("a map, which no column can hold")),
        }
    }

    fn append_enum(&self, number: i32, column: &mut Column) -> Result<(), Refusal> {
        if !matches!(column.value_type(), ValueType::Text) {
            return column.append_integer(i64::from(number));
        }
        let known = match self {
            FieldValue::Enum(symbols) => symbols.get_value(number),
            _ => None,
        };
        match known {
            Some(symbol) => column.append_text(symbol.name()),
            None => column.append_text(&number.to_string()),
        }
    }

    fn append_message(&self, message: &DynamicMessage, column: &mut Column) -> Result<(), Refusal> {
        match self {
            FieldValue::Struct(fields) => column.append_struct(|columns| fields.append(message, columns)),
            FieldValue::Timestamp => column.append_timestamp(microseconds(message)?),
            FieldValue::Wrapper(field) => FieldValue::Plain.append(&message.get_field(field), column),
            FieldValue::Plain | FieldValue::Enum(_) => {
                let message = message.descriptor();
                Err(column.mismatch(format_args!("a message {}", message.full_name())))
            }
        }
    }
}

/// The microseconds since the epoch of a `google.protobuf.Timestamp`; `None` if they do not fit.
fn microseconds(timestamp: &DynamicMessage) -> Result<Option<i64>, Refusal> {
    let number = |field| timestamp.get_field_by_number(field);
    let seconds = number(1).and_then(|seconds| seconds.as_i64()).unwrap_or_default();
    let nanoseconds = number(2).and_then(|nanoseconds| nanoseconds.as_i32()).unwrap_or_default();
    if !(0..1_000_000_000).contains(&nanoseconds) {
        return Err(Refusal::new(format!("a timestamp has {nanoseconds} nanoseconds, not 0 to 999999999")));
    }
    let microseconds = seconds.checked_mul(1_000_000);
    Ok(microseconds.and_then(|microseconds| microseconds.checked_add(i64::from(nanoseconds / 1000))))
}

fn is_wrapper(name: &str) -> bool {
    let wrapped = name.strip_prefix("google.protobuf.").and_then(|name| name.strip_suffix("Value"));
    wrapped.is_some_and(|wrapped| {
        matches!(wrapped, "Double" | "Float" | "Int64" | "UInt64" | "Int32" | "UInt32" | "Bool" | "String" | "Bytes")
    })
}
