//! Column types: from SQL to the canonical Arrow types of a source, and from any Arrow type back to a SQL name.

use std::collections::HashMap;
use std::fmt::Write;

use arrow::datatypes::{DECIMAL128_MAX_PRECISION, DataType, Field, FieldRef, Fields};
use datafusion::sql::sqlparser::ast::{
    ArrayElemTypeDef, DataType as SqlType, ExactNumberInfo, StructField, TimezoneInfo,
};

use super::text::shorten;
use crate::event::timestamp_type;

/// The types that a column can have, for messages.
const SUPPORTED: &str = "the types are BOOLEAN, INT, BIGINT, FLOAT, DOUBLE, DECIMAL(p, s), TEXT, DATE, TIMESTAMP, \
                         arrays (BIGINT[]) and structs (STRUCT<a BIGINT, b TEXT>)";

/// Why a SQL type cannot be a column's type, and what to write instead.
#[derive(Debug)]
pub(super) struct TypeRefusal {
    pub(super) reason: String,
    pub(super) hint: String,
}

/// The Arrow type that events of a column of SQL type `sql_type` have.
pub(super) fn arrow_type(sql_type: &SqlType) -> Result<DataType, TypeRefusal> {
    use ExactNumberInfo::{None as NoSize, Precision, PrecisionAndScale};
    Ok(match sql_type {
        SqlType::Boolean | SqlType::Bool => DataType::Boolean,
        SqlType::Int(None) | SqlType::Integer(None) => DataType::Int32,
        SqlType::BigInt(None) => DataType::Int64,
        SqlType::Float(NoSize) | SqlType::Real => DataType::Float32,
        SqlType::Double(NoSize) | SqlType::DoublePrecision => DataType::Float64,
        SqlType::Decimal(Precision(precision)) | SqlType::Numeric(Precision(precision)) => decimal(*precision, 0)?,
        SqlType::Decimal(PrecisionAndScale(precision, scale))
        | SqlType::Numeric(PrecisionAndScale(precision, scale)) => decimal(*precision, *scale)?,
        SqlType::Text | SqlType::Varchar(None) | SqlType::String(None) => DataType::Utf8,
        SqlType::Date => DataType::Date32,
        SqlType::Timestamp(None | Some(6), zone) if *zone != TimezoneInfo::WithoutTimeZone => timestamp_type(),
        SqlType::Array(ArrayElemTypeDef::AngleBracket(item) | ArrayElemTypeDef::SquareBracket(item, None)) => {
            DataType::List(FieldRef::new(Field::new_list_field(arrow_type(item)?, true)))
        }
        SqlType::Struct(fields, _) if !fields.is_empty() => DataType::Struct(struct_fields(fields)?),
        other => return Err(TypeRefusal::unsupported(other)),
    })
}

/// The SQL name of an Arrow type, for answers and messages: `BIGINT`, `TIMESTAMP`, `DECIMAL(18, 2)`, `TEXT[]`.
///
/// Types that SQL has one name for share it (all text types are TEXT), so the name does not give the Arrow type back;
/// but for the types that columns of a source have it does. Nullability of nested fields is not part of the name.
pub fn sql_type_name(data_type: &DataType) -> String {
    let name = match data_type {
        DataType::Null => "NULL",
        DataType::Boolean => "BOOLEAN",
        DataType::Int8 => "TINYINT",
        DataType::Int16 => "SMALLINT",
        DataType::Int32 => "INT",
        DataType::Int64 => "BIGINT",
        DataType::UInt8 => "TINYINT UNSIGNED",
        DataType::UInt16 => "SMALLINT UNSIGNED",
        DataType::UInt32 => "INT UNSIGNED",
        DataType::UInt64 => "BIGINT UNSIGNED",
        DataType::Float16 | DataType::Float32 => "FLOAT",
        DataType::Float64 => "DOUBLE",
        DataType::Utf8 | DataType::LargeUtf8 | DataType::Utf8View => "TEXT",
        DataType::Binary | DataType::LargeBinary | DataType::BinaryView | DataType::FixedSizeBinary(_) => "BINARY",
        DataType::Date32 | DataType::Date64 => "DATE",
        DataType::Time32(_) | DataType::Time64(_) => "TIME",
        DataType::Timestamp(_, _) => "TIMESTAMP",
        DataType::Duration(_) | DataType::Interval(_) => "INTERVAL",
        DataType::Union(_, _) => "UNION",
        DataType::Decimal32(precision, scale)
        | DataType::Decimal64(precision, scale)
        | DataType::Decimal128(precision, scale)
        | DataType::Decimal256(precision, scale) => return format!("DECIMAL({precision}, {scale})"),
        DataType::List(item)
        | DataType::LargeList(item)
        | DataType::FixedSizeList(item, _)
        | DataType::ListView(item)
        | DataType::LargeListView(item) => return format!("{}[]", sql_type_name(item.data_type())),
        DataType::Dictionary(_, value) => return sql_type_name(value),
        DataType::RunEndEncoded(_, value) => return sql_type_name(value.data_type()),
        DataType::Struct(fields) => return format!("STRUCT<{}>", named_types(fields)),
        DataType::Map(entries, _) => return map_name(entries),
    };
    name.to_owned()
}

/// An identifier as SQL needs it written: quoted unless it is a plain lower case word.
pub(super) fn quote_identifier(name: &str) -> String {
    let starts_plain = name.starts_with(|first: char| first.is_ascii_lowercase() || first == '_');
    let is_plain = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_';
    if starts_plain && name.chars().all(is_plain) {
        name.to_owned()
    } else {
        format!("\"{}\"", name.replace('"', "\"\""))
    }
}

impl TypeRefusal {
    fn new(reason: impl Into<String>, hint: impl Into<String>) -> TypeRefusal {
        TypeRefusal { reason: reason.into(), hint: hint.into() }
    }

    fn unsupported(sql_type: &SqlType) -> TypeRefusal {
        let reason = format!("{} is not a column type", shorten(&sql_type.to_string()));
        let hint = match instead_of(sql_type) {
            Some(instead) => format!("write {instead}; {SUPPORTED}"),
            None => SUPPORTED.to_owned(),
        };
        TypeRefusal::new(reason, hint)
    }
}

/// What to write instead of a type that users of other databases are likely to try.
fn instead_of(sql_type: &SqlType) -> Option<&'static str> {
    Some(match sql_type {
        SqlType::TinyInt(_)
        | SqlType::SmallInt(_)
        | SqlType::Int2(_)
        | SqlType::Int4(_)
        | SqlType::Int16
        | SqlType::Int32 => "INT",
        SqlType::Int8(_) | SqlType::Int64 | SqlType::IntUnsigned(_) | SqlType::IntegerUnsigned(_) | SqlType::UInt32 => {
            "BIGINT"
        }
        SqlType::BigIntUnsigned(_) | SqlType::UInt64 | SqlType::UBigInt => "DECIMAL(20, 0)",
        SqlType::Float4 | SqlType::Float32 => "FLOAT",
        SqlType::Float(_) => "FLOAT (32 bits) or DOUBLE (64 bits)",
        SqlType::Double(_) | SqlType::Float8 | SqlType::Float64 => "DOUBLE",
        SqlType::Decimal(_) | SqlType::Numeric(_) | SqlType::Dec(_) => {
            "DECIMAL with precision and scale, as DECIMAL(18, 2)"
        }
        SqlType::Varchar(_)
        | SqlType::Char(_)
        | SqlType::Character(_)
        | SqlType::CharVarying(_)
        | SqlType::CharacterVarying(_)
        | SqlType::String(_) => "TEXT, which has no length",
        SqlType::Uuid | SqlType::Enum(_, _) => "TEXT",
        SqlType::JSON | SqlType::JSONB => "TEXT, or a STRUCT of the fields that views read",
        SqlType::Bytea | SqlType::Binary(_) | SqlType::Varbinary(_) | SqlType::Blob(_) | SqlType::Bytes(_) => {
            "TEXT, with the bytes in base64 or hexadecimal"
        }
        SqlType::Timestamp(_, _) | SqlType::Datetime(_) | SqlType::TimestampNtz(_) => {
            "TIMESTAMP, which holds microseconds in UTC"
        }
        SqlType::Time(_, _) => "TEXT, or BIGINT with the microseconds of the day",
        SqlType::Interval { .. } => "BIGINT with the microseconds",
        SqlType::Map(_, _) => "an array of structs, as STRUCT<key TEXT, value BIGINT>[]",
        SqlType::Array(ArrayElemTypeDef::SquareBracket(_, Some(_))) => "the array without its length, as BIGINT[]",
        SqlType::Struct(_, _) => "the struct with its fields, as STRUCT<a BIGINT, b TEXT>",
        _ => return None,
    })
}

fn decimal(precision: u64, scale: i64) -> Result<DataType, TypeRefusal> {
    let checked_precision = u8::try_from(precision).ok().filter(|p| (1..=DECIMAL128_MAX_PRECISION).contains(p));
    let checked_scale = i8::try_from(scale).ok().filter(|s| *s >= 0 && i64::from(*s) <= precision as i64);
    let (Some(precision), Some(scale)) = (checked_precision, checked_scale) else {
        return Err(TypeRefusal::new(
            format!("DECIMAL({precision}, {scale}) does not exist"),
            format!("the precision is 1 to {DECIMAL128_MAX_PRECISION} digits, the scale 0 to the precision"),
        ));
    };
    Ok(DataType::Decimal128(precision, scale))
}

fn struct_fields(fields: &[StructField]) -> Result<Fields, TypeRefusal> {
    let mut names = HashMap::new();
    let mut result = Vec::with_capacity(fields.len());
    for field in fields {
        let Some(name) = &field.field_name else {
            let reason =
                format!("a field of the struct has a type, {}, but no name", shorten(&field.field_type.to_string()));
            return Err(TypeRefusal::new(reason, "write a name before each type, as STRUCT<a BIGINT, b TEXT>"));
        };
        if field.options.is_some() {
            return Err(TypeRefusal::new(
                format!("field \"{}\" has options", name.value),
                "fields have a name and a type only",
            ));
        }
        if let Some(earlier) = names.insert(name.value.to_lowercase(), &name.value) {
            let reason = match *earlier == name.value {
                true => format!("the struct has two fields \"{earlier}\""),
                false => format!("the fields \"{earlier}\" and \"{}\" of the struct differ only in case", name.value),
            };
            return Err(TypeRefusal::new(reason, "rename one of them"));
        }
        result.push(Field::new(&name.value, arrow_type(&field.field_type)?, true));
    }
    Ok(result.into())
}

fn named_types(fields: &Fields) -> String {
    let mut result = String::new();
    for (index, field) in fields.iter().enumerate() {
        let comma = if index == 0 { "" } else { ", " };
        // Writing to a string cannot fail.
        let _ = write!(result, "{comma}{} {}", quote_identifier(field.name()), sql_type_name(field.data_type()));
    }
    result
}

fn map_name(entries: &Field) -> String {
    match entries.data_type() {
        DataType::Struct(fields) if fields.len() == 2 => {
            format!("MAP<{}, {}>", sql_type_name(fields[0].data_type()), sql_type_name(fields[1].data_type()))
        }
        _ => "MAP".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use arrow::datatypes::{IntervalUnit, TimeUnit};

    use super::*;

    #[test]
    fn types_that_no_source_has_still_have_a_sql_name() {
        let text = Arc::new(Field::new("item", DataType::Utf8View, true));
        let entries = Field::new(
            "entries",
            DataType::Struct(
                vec![Field::new("k", DataType::Utf8, false), Field::new("v", DataType::Int8, true)].into(),
            ),
            false,
        );
        for (data_type, expected) in [
            (DataType::UInt64, "BIGINT UNSIGNED"),
            (DataType::Timestamp(TimeUnit::Nanosecond, None), "TIMESTAMP"),
            (DataType::Interval(IntervalUnit::MonthDayNano), "INTERVAL"),
            (DataType::Decimal256(76, -3), "DECIMAL(76, -3)"),
            (DataType::FixedSizeList(text, 3), "TEXT[]"),
            (DataType::Dictionary(Box::new(DataType::Int8), Box::new(DataType::Utf8)), "TEXT"),
            (DataType::Map(Arc::new(entries), false), "MAP<TEXT, TINYINT>"),
        ] {
            assert_eq!(sql_type_name(&data_type), expected);
        }
    }
}
