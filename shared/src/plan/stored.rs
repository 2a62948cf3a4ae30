//! The types in which state columns are stored.
//!
//! Delta Lake has no unsigned integers, no 256-bit decimals, and no times or durations, and a time stamp is always
//! microseconds in UTC. States come in whatever types the accumulators use, so each is mapped to a type that Delta has
//! and that holds every value, or every value that can occur, in which case a cast that does not fit is an error.

use std::sync::Arc;

use arrow::datatypes::{DataType, Field, FieldRef, TimeUnit};

use crate::event::timestamp_type;

/// Version of the meaning of stored states; part of the name of the folder that holds them. DataFusion may change its accumulators' states from one version to the next:
/// state files of another version are rebuilt from the history, never merged.
pub const STATE_FORMAT_VERSION: &str = "1_datafusion_55";

/// The stored type of a native state type, or `None` when there is none.
pub(super) fn stored_type(native: &DataType) -> Option<DataType> {
    use DataType::*;
    let stored = match native {
        Boolean | Int8 | Int16 | Int32 | Int64 | Float32 | Float64 | Utf8 | Binary | Date32 => native.clone(),
        Decimal128(_, scale) if *scale >= 0 => native.clone(),
        UInt8 => Int16,
        UInt16 => Int32,
        // Counts; a count that does not fit fails the cast.
        UInt32 | UInt64 => Int64,
        LargeUtf8 | Utf8View => Utf8,
        LargeBinary | BinaryView => Binary,
        Timestamp(TimeUnit::Microsecond, Some(_)) => timestamp_type(),
        // Other time stamps would lose their unit or their meaning; the bare number loses nothing.
        Timestamp(_, _) | Time64(_) | Duration(_) => Int64,
        Time32(_) => Int32,
        List(field) | LargeList(field) => List(stored_field(field)?),
        Struct(fields) => Struct(fields.iter().map(stored_field).collect::<Option<_>>()?),
        _ => return None,
    };
    Some(stored)
}

fn stored_field(field: &FieldRef) -> Option<FieldRef> {
    let stored = stored_type(field.data_type())?;
    Some(Arc::new(Field::new(field.name(), stored, true)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn unsigned_counts_are_stored_signed_and_lists_are_mapped_inside() {
        let counts = Arc::new(Field::new("item", DataType::UInt64, false));
        let stored = Arc::new(Field::new("item", DataType::Int64, true));
        assert_eq!(stored_type(&DataType::List(counts)), Some(DataType::List(stored)));
        assert_eq!(stored_type(&timestamp_type()), Some(timestamp_type()));
    }

    #[test]
    fn types_without_a_faithful_form_are_refused() {
        for native in [DataType::Decimal256(60, 2), DataType::Null, DataType::Float16] {
            assert_eq!(stored_type(&native), None, "{native}");
        }
    }
}
