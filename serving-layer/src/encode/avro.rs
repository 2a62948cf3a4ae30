//! Rows as Avro records, each behind the id that a schema registry has given its schema (Confluent's wire format).

use std::collections::HashMap;
use std::sync::Arc;

use arrow::array::RecordBatch;
use arrow::compute::{CastOptions, cast_with_options};
use arrow::datatypes::{DataType, Field, FieldRef, Fields, Schema, SchemaRef, TimeUnit};
use arrow::error::ArrowError;
use arrow_avro::schema::{
    AVRO_NAME_METADATA_KEY, AVRO_NAMESPACE_METADATA_KEY, AvroSchema, FingerprintStrategy, SCHEMA_METADATA_KEY,
};
use arrow_avro::writer::format::AvroSoeFormat;
use arrow_avro::writer::{EncodedRows, WriterBuilder};
use serde_json::Value;
use watershed_shared::definition::sql_type_name;

/// What the schemas of all records are in.
const NAMESPACE: &str = "watershed";

/// An Avro schema for rows of some columns. All its fields may be null and default to that, so that views may get and lose
/// columns without their readers failing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AvroForm {
    /// What rows are cast to; the schema's text is in its metadata, where the writer looks for it.
    columns: SchemaRef,
    text: String,
}

impl AvroForm {
    /// The schema of a record called `name`, a plain name as views have, in the namespace `watershed`: alone it could be that of
    /// one of Avro's own types.
    ///
    /// # Errors
    /// The column that has no Avro form without loss, and what to do.
    pub fn new(name: &str, columns: &Schema) -> Result<AvroForm, String> {
        let fields = avro_fields(columns.fields(), &format!("{NAMESPACE}.{name}"))?;
        let named = Schema::new_with_metadata(fields.clone(), names(name, NAMESPACE));
        let spelled = AvroSchema::try_from(&named).map_err(|error| error.to_string())?;
        let text = with_defaults(&spelled.json_string).map_err(|error| error.to_string())?;
        let metadata = HashMap::from([(SCHEMA_METADATA_KEY.to_owned(), text.clone())]);
        Ok(AvroForm { columns: Arc::new(Schema::new_with_metadata(fields, metadata)), text })
    }

    /// The schema, to be registered.
    pub fn text(&self) -> &str {
        &self.text
    }

    /// One record a row, behind the schema's `id`.
    ///
    /// # Errors
    /// A value that its field cannot hold: an unsigned number beyond BIGINT, a time beyond its unit.
    pub(super) fn encode(&self, rows: &RecordBatch, id: u32) -> Result<EncodedRows, ArrowError> {
        let strict = CastOptions { safe: false, ..CastOptions::default() };
        let fields = rows.columns().iter().zip(self.columns.fields());
        let columns = fields.map(|(column, field)| {
            cast_with_options(column, field.data_type(), &strict).map_err(|error| {
                let name = field.name();
                let reason = format!(
                    "column \"{name}\" has a value that its Avro type does not hold ({error}); CAST it to TEXT"
                );
                ArrowError::CastError(reason)
            })
        });
        let rows = RecordBatch::try_new(Arc::clone(&self.columns), columns.collect::<Result<_, _>>()?)?;
        let builder = WriterBuilder::new(self.columns.as_ref().clone());
        let mut encoder =
            builder.with_fingerprint_strategy(FingerprintStrategy::Id(id)).build_encoder::<AvroSoeFormat>()?;
        encoder.encode(&rows)?;
        Ok(encoder.flush())
    }
}

/// The fields of the record whose full name is `record`. Records in them are named after their fields, in its namespace, so that
/// no name comes twice.
fn avro_fields(fields: &Fields, record: &str) -> Result<Fields, String> {
    let field = |field: &FieldRef| {
        let name = field.name();
        if !is_avro_name(name) {
            return Err(format!(
                "\"{name}\" is no name of an Avro field, which has letters, digits and _ and begins with no digit; give it another name"
            ));
        }
        avro_field(field, record).map_err(|reason| format!("column \"{name}\": {reason}"))
    };
    fields.iter().map(field).collect()
}

fn avro_field(field: &Field, record: &str) -> Result<Field, String> {
    let data_type = avro_type(field.data_type(), &format!("{record}.{}", field.name()))?;
    let metadata = match data_type {
        DataType::Struct(_) => names(field.name(), record),
        _ => HashMap::new(),
    };
    Ok(Field::new(field.name(), data_type, true).with_metadata(metadata))
}

/// What arrow-avro takes a record's name from.
fn names(name: &str, namespace: &str) -> HashMap<String, String> {
    let names = [(AVRO_NAME_METADATA_KEY, name), (AVRO_NAMESPACE_METADATA_KEY, namespace)];
    names.map(|(key, name)| (key.to_owned(), name.to_owned())).into()
}

/// The type whose Avro form has the same values; records in it are in the namespace `path`.
fn avro_type(data_type: &DataType, path: &str) -> Result<DataType, String> {
    let utc = |unit| DataType::Timestamp(unit, Some("UTC".into()));
    Ok(match data_type {
        DataType::Boolean | DataType::Float32 | DataType::Float64 | DataType::Date32 => data_type.clone(),
        DataType::Int8 | DataType::Int16 | DataType::Int32 | DataType::UInt8 | DataType::UInt16 => DataType::Int32,
        DataType::Int64 | DataType::UInt32 | DataType::UInt64 => DataType::Int64,
        DataType::Float16 => DataType::Float32,
        DataType::Utf8 | DataType::LargeUtf8 | DataType::Utf8View => DataType::Utf8,
        DataType::Binary | DataType::LargeBinary | DataType::BinaryView | DataType::FixedSizeBinary(_) => {
            DataType::Binary
        }
        DataType::Date64 => DataType::Date32,
        DataType::Timestamp(TimeUnit::Second | TimeUnit::Millisecond, _) => utc(TimeUnit::Millisecond),
        DataType::Timestamp(unit, _) => utc(*unit),
        DataType::Decimal32(precision, scale)
        | DataType::Decimal64(precision, scale)
        | DataType::Decimal128(precision, scale)
            if *scale >= 0 && *scale as u8 <= *precision =>
        {
            DataType::Decimal128(*precision, *scale)
        }
        DataType::Decimal256(precision, scale) if *scale >= 0 && *scale as u8 <= *precision => data_type.clone(),
        DataType::List(list) | DataType::LargeList(list) => {
            let item = Field::new_list_field(list.data_type().clone(), true);
            DataType::List(Arc::new(avro_field(&item, path)?))
        }
        DataType::Struct(fields) => DataType::Struct(avro_fields(fields, path)?),
        DataType::Dictionary(_, value) => avro_type(value, path)?,
        other => {
            let name = sql_type_name(other);
            return Err(format!("{name} has no form in Avro; CAST it to TEXT"));
        }
    })
}

/// The schema with NULL as every field's default (Avro takes that of a union from its first type), and without the metadata that
/// arrow-avro has taken for more attributes.
fn with_defaults(text: &str) -> serde_json::Result<String> {
    fn visit(schema: &mut Value) {
        match schema {
            Value::Array(types) => types.iter_mut().for_each(visit),
            Value::Object(members) => {
                members.retain(|name, _| name != AVRO_NAME_METADATA_KEY && name != AVRO_NAMESPACE_METADATA_KEY);
                let is_optional = members.contains_key("name")
                    && members.get("type").and_then(Value::as_array).is_some_and(|types| types[..1] == ["null"]);
                if is_optional {
                    members.insert("default".to_owned(), Value::Null);
                }
                for part in ["type", "items", "fields"] {
                    members.get_mut(part).into_iter().for_each(visit);
                }
            }
            _ => {}
        }
    }
    let mut schema: Value = serde_json::from_str(text)?;
    visit(&mut schema);
    serde_json::to_string(&schema)
}

fn is_avro_name(name: &str) -> bool {
    let is_part = |c: char| c.is_ascii_alphanumeric() || c == '_';
    name.chars().all(is_part) && name.starts_with(|first: char| !first.is_ascii_digit())
}

#[cfg(test)]
mod tests {
    use arrow::array::{
        ArrayRef, Decimal128Array, Float64Array, Int32Array, ListArray, StringViewArray, StructArray,
        TimestampMicrosecondArray, UInt64Array,
    };
    use arrow::datatypes::Int64Type;
    use serde_json::json;

    use super::*;

    /// A number as the Avro specification has it: zigzag, seven bits a byte.
    fn long(value: i64) -> Vec<u8> {
        let mut rest = ((value << 1) ^ (value >> 63)) as u64;
        let mut bytes = Vec::new();
        while rest >= 0x80 {
            bytes.push(rest as u8 | 0x80);
            rest >>= 7;
        }
        bytes.push(rest as u8);
        bytes
    }

    /// The second type of a union with null, and its value.
    fn some(value: Vec<u8>) -> Vec<u8> {
        [long(1), value].concat()
    }

    fn framed(id: u32, fields: &[Vec<u8>]) -> Vec<u8> {
        [vec![0], id.to_be_bytes().to_vec(), fields.concat()].concat()
    }

    fn batch() -> Result<RecordBatch, ArrowError> {
        let inner: ArrayRef = Arc::new(Int32Array::from(vec![Some(-3), None]));
        let columns: [(&str, ArrayRef); 7] = [
            ("page", Arc::new(StringViewArray::from(vec![Some("Wien"), None]))),
            ("edits", Arc::new(UInt64Array::from(vec![Some(1 << 40), None]))),
            ("mean", Arc::new(Float64Array::from(vec![Some(0.5), None]))),
            ("at", Arc::new(TimestampMicrosecondArray::from(vec![Some(-1), None]).with_timezone("UTC"))),
            ("price", Arc::new(Decimal128Array::from(vec![Some(-300), None]).with_precision_and_scale(10, 2)?)),
            (
                "recent",
                Arc::new(ListArray::from_iter_primitive::<Int64Type, _, _>(vec![Some(vec![Some(7), None]), None])),
            ),
            ("nested", Arc::new(StructArray::from(vec![(Arc::new(Field::new("n", DataType::Int32, true)), inner)]))),
        ];
        RecordBatch::try_from_iter_with_nullable(columns.map(|(name, array)| (name, array, true)))
    }

    #[test]
    fn a_row_is_what_the_specification_says() -> Result<(), Box<dyn std::error::Error>> {
        let rows = batch()?;
        let form = AvroForm::new("edits_by_page", &rows.schema())?;
        let optional = |schema: Value| json!(["null", schema]);
        let field = |name: &str, schema: Value| json!({"name": name, "type": optional(schema), "default": null});
        let nested = json!({
            "type": "record", "name": "nested", "namespace": "watershed.edits_by_page", "fields": [field("n", json!("int"))]
        });
        let expected = json!({"type": "record", "name": "edits_by_page", "namespace": "watershed", "fields": [
            field("page", json!("string")),
            field("edits", json!("long")),
            field("mean", json!("double")),
            field("at", json!({"type": "long", "logicalType": "timestamp-micros"})),
            field("price", json!({"type": "bytes", "logicalType": "decimal", "precision": 10, "scale": 2})),
            field("recent", json!({"type": "array", "items": ["null", "long"]})),
            field("nested", nested),
        ]});
        assert_eq!(serde_json::from_str::<Value>(form.text())?, expected);
        let encoded = form.encode(&rows, 258)?;
        let list = [long(2), some(long(7)), long(0), long(0)].concat();
        let first = [
            some([long(4), b"Wien".to_vec()].concat()),
            some(long(1 << 40)),
            some(0.5_f64.to_le_bytes().to_vec()),
            some(long(-1)),
            some([long(2), vec![0xFE, 0xD4]].concat()),
            some(list),
            some(some(long(-3))),
        ];
        assert_eq!(encoded.row(0)?.as_ref(), framed(258, &first));
        let nothing = [vec![0; 6], some(vec![0])].concat();
        assert_eq!(encoded.row(1)?.as_ref(), framed(258, &[nothing]));
        Ok(())
    }

    /// Avro has one definition for each name.
    #[test]
    fn structs_of_one_name_have_names_of_their_own() -> Result<(), Box<dyn std::error::Error>> {
        let column = |name: &str, data_type| Field::new(name, data_type, true);
        let of = |field| DataType::Struct(Fields::from(vec![field]));
        let place = || of(column("x", DataType::Int32));
        let columns = Schema::new(vec![
            column("place", place()),
            column("a", of(column("place", place()))),
            column("b", DataType::new_list(of(column("place", DataType::new_list(place(), true))), true)),
        ]);
        let form = AvroForm::new("place", &columns)?;
        let schema: Value = serde_json::from_str(form.text())?;
        let mut names = Vec::new();
        collect_names(&schema, &mut names);
        let expected = ["", ".place", ".a", ".a.place", ".b.item", ".b.item.place.item"];
        let expected = expected.map(|name| format!("watershed.place{name}"));
        assert_eq!(names, expected);
        let rows = RecordBatch::new_empty(Arc::new(columns));
        assert!(form.encode(&rows, 1)?.is_empty());
        Ok(())
    }

    /// The full names of all records, each before those in it.
    fn collect_names(schema: &Value, names: &mut Vec<String>) {
        match schema {
            Value::Array(parts) => parts.iter().for_each(|part| collect_names(part, names)),
            Value::Object(members) => {
                if members.get("type").is_some_and(|kind| kind == "record") {
                    let namespace = members.get("namespace").and_then(Value::as_str).map(|space| format!("{space}."));
                    names.push(namespace.unwrap_or_default() + members["name"].as_str().unwrap_or_default());
                }
                for part in ["type", "items", "fields"] {
                    members.get(part).into_iter().for_each(|part| collect_names(part, names));
                }
            }
            _ => {}
        }
    }

    #[test]
    fn a_number_that_does_not_fit_is_refused() -> Result<(), Box<dyn std::error::Error>> {
        let large: ArrayRef = Arc::new(UInt64Array::from(vec![u64::MAX]));
        let rows = RecordBatch::try_from_iter([("n", large)])?;
        let refused = AvroForm::new("v", &rows.schema())?.encode(&rows, 1).map(drop);
        let reason = refused.err().map(|error| error.to_string()).unwrap_or_default();
        assert!(reason.contains("column \"n\" has a value that its Avro type does not hold"), "{reason}");
        Ok(())
    }

    #[test]
    fn columns_without_an_avro_form_are_named() {
        let refused = |name: &str, data_type| {
            let columns = Schema::new(vec![Field::new(name, data_type, true)]);
            AvroForm::new("v", &columns).map(drop).err().unwrap_or_default()
        };
        assert!(refused("page views", DataType::Int64).starts_with("\"page views\" is no name of an Avro field"));
        assert!(refused("9", DataType::Int64).contains("no name"));
        assert!(refused("t", DataType::Time64(TimeUnit::Nanosecond)).starts_with("column \"t\": TIME has no form"));
        assert!(refused("d", DataType::Decimal128(5, -2)).contains("DECIMAL(5, -2) has no form"));
        assert!(refused("n", DataType::Null).contains("NULL has no form"));
        let list = DataType::new_list(DataType::Null, true);
        assert!(refused("l", list).starts_with("column \"l\": NULL has no form"));
    }
}
