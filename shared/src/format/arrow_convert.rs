//! Converts Arrow arrays to the types of a source's columns, exactly.
//!
//! - Text is any of Arrow's string types. In a column of numbers or times it is read as a JSON string is.
//! - Integers and decimals take numbers of any type that are the same number in them. FLOAT takes the nearest value
//!   of a wider float, and FLOAT and DOUBLE that of a decimal; integers must be the same number there too.
//! - TIMESTAMP takes any unit and time zone (a timestamp without one is UTC), dates as their midnights, and integers as
//!   milliseconds since the epoch. Unlike text, an Arrow type declares its unit: nanoseconds between two microseconds
//!   are refused.
//! - Lists and structs are converted item by item and field by field.

use std::sync::Arc;

use arrow::array::{
    Array, ArrayRef, AsArray, Date32Array, ListArray, NullArray, StructArray, TimestampMicrosecondArray, UInt32Array,
    make_array, new_null_array,
};
use arrow::buffer::{NullBuffer, OffsetBuffer, ScalarBuffer};
use arrow::compute::kernels::cmp::not_distinct;
use arrow::compute::{CastOptions, can_cast_types, cast_with_options, take};
use arrow::datatypes::{
    ArrowPrimitiveType, DECIMAL256_MAX_PRECISION, DataType, Decimal32Type, Decimal64Type, Decimal128Type,
    Decimal256Type, DecimalType, Float32Type, Float64Type, Int64Type, TimeUnit,
};
use arrow::error::ArrowError;
use arrow::util::display::array_value_to_string;

use super::column::Column;
use super::json_cursor::NumberToken;
use super::plan::{ColumnPlan, ObjectPlan, ValueType};
use super::row::{Refusal, shortened};
use super::scalar::Scalar;
use super::time::{DATE_RANGE, DAY_US, TIMESTAMP_RANGE};

/// The converted array, or the values that cannot be converted, by index and ascending.
pub(super) type Converted = Result<ArrayRef, Vec<(usize, Refusal)>>;

/// Null instead of an error for a single value; the callers look for those.
const PER_VALUE: CastOptions<'static> =
    CastOptions { safe: true, format_options: arrow::util::display::FormatOptions::new() };

/// Converts `source` for the column of `plan`. `hidden` are the nulls of the struct around it, below which a NOT NULL
/// field may be null.
///
/// # Errors
/// No value of the source's type can ever become one of the column's; the reason.
pub(super) fn convert(
    source: &ArrayRef,
    plan: &Arc<ColumnPlan>,
    hidden: Option<&NullBuffer>,
) -> Result<Converted, String> {
    let source = &unpacked(source)?;
    let mut refused = refused_nulls(source, plan, hidden);
    let converted = match (&plan.value_type, source.data_type()) {
        (_, DataType::Null) => Ok(new_null_array(plan.field.data_type(), source.len())),
        (ValueType::Boolean, DataType::Boolean) | (ValueType::Text, DataType::Utf8) => Ok(Arc::clone(source)),
        (ValueType::Text, source_type) if is_text(source_type) => Ok(cast(source, &DataType::Utf8)?),
        (ValueType::List(item), _) => convert_lists(source, plan, item)?,
        (ValueType::Struct(fields), DataType::Struct(_)) => convert_structs(source.as_struct(), fields)?,
        (ValueType::Boolean | ValueType::Text | ValueType::Struct(_), _) => return Err(mismatch(source, plan)),
        (_, source_type) if is_text(source_type) => read_text(source, plan)?,
        (ValueType::Date | ValueType::Timestamp, _) => convert_times(source, plan)?,
        _ => convert_numbers(source, plan)?,
    };
    match converted {
        Ok(array) if refused.is_empty() => return Ok(Ok(array)),
        Ok(_) => {}
        Err(values) => refused.extend(values),
    }
    refused.sort_by_key(|(index, _)| *index);
    refused.dedup_by_key(|(index, _)| *index);
    Ok(Err(refused))
}

/// The values themselves of an array that holds references to them.
fn unpacked(source: &ArrayRef) -> Result<ArrayRef, String> {
    match source.data_type() {
        DataType::Dictionary(_, values) => cast(source, values),
        DataType::RunEndEncoded(_, values) => cast(source, values.data_type()),
        _ => Ok(Arc::clone(source)),
    }
}

fn refused_nulls(source: &ArrayRef, plan: &ColumnPlan, hidden: Option<&NullBuffer>) -> Vec<(usize, Refusal)> {
    let Some(nulls) = source.logical_nulls().filter(|_| !plan.field.is_nullable()) else { return Vec::new() };
    let refused = (0..nulls.len()).filter(|index| nulls.is_null(*index) && hidden.is_none_or(|h| h.is_valid(*index)));
    refused.map(|index| (index, Refusal::new("the value is null, but it is NOT NULL"))).collect()
}

fn convert_lists(source: &ArrayRef, plan: &ColumnPlan, item: &Arc<ColumnPlan>) -> Result<Converted, String> {
    use DataType::{FixedSizeList, LargeList, LargeListView, List, ListView};
    let (List(source_item)
    | LargeList(source_item)
    | ListView(source_item)
    | LargeListView(source_item)
    | FixedSizeList(source_item, _)) = source.data_type()
    else {
        return Err(mismatch(source, plan));
    };
    let mut lists = cast(source, &List(Arc::clone(source_item)))?;
    if lists.null_count() > 0 {
        // A list that is NULL may cover items, which nobody must see; taking lists leaves those out.
        let all = UInt32Array::from_iter_values(0..lists.len() as u32);
        lists = take(&lists, &all, None).map_err(|error| error.to_string())?;
    }
    let lists = lists.as_list::<i32>();
    let start = lists.offsets()[0];
    let ends: Vec<i32> = lists.offsets().iter().map(|end| end - start).collect();
    let items = lists.values().slice(start as usize, ends[ends.len() - 1] as usize);
    Ok(match convert(&items, item, None)? {
        Ok(items) => {
            let offsets = OffsetBuffer::new(ScalarBuffer::from(ends));
            let field = Arc::clone(&item.field);
            let lists = ListArray::try_new(field, offsets, items, lists.nulls().cloned());
            Ok(Arc::new(lists.map_err(|error| error.to_string())?))
        }
        Err(refused) => Err(refused.into_iter().map(|(index, refusal)| in_list(&ends, index, refusal)).collect()),
    })
}

/// The refusal of an item as one of its list.
fn in_list(ends: &[i32], item: usize, refusal: Refusal) -> (usize, Refusal) {
    let list = ends.partition_point(|end| *end as usize <= item) - 1;
    (list, refusal.within_item(item - ends[list] as usize))
}

fn convert_structs(source: &StructArray, plan: &ObjectPlan) -> Result<Converted, String> {
    let mut arrays = Vec::with_capacity(plan.columns.len());
    let mut refused = Vec::new();
    for field in &plan.columns {
        let mut named = source.fields().iter().zip(source.columns()).filter(|(named, _)| named.name() == field.name());
        let values = match (named.next(), named.next()) {
            (None, _) => Arc::new(NullArray::new(source.len())) as ArrayRef,
            (Some((_, values)), None) => hide_nulls(values, source.nulls())?,
            (Some(_), Some(_)) => return Err(format!("it has the field \"{}\" twice", field.name())),
        };
        match convert(&values, field, source.nulls())? {
            Ok(array) => arrays.push(array),
            Err(values) => {
                refused.extend(values.into_iter().map(|(index, refusal)| (index, refusal.within(field.name()))));
            }
        }
    }
    if !refused.is_empty() {
        return Ok(Err(refused));
    }
    let (nulls, rows) = (source.nulls().cloned(), source.len());
    let structs = StructArray::try_new_with_length(plan.fields.clone(), arrays, nulls, rows);
    Ok(Ok(Arc::new(structs.map_err(|error| error.to_string())?)))
}

/// A struct's field, null wherever the struct is, so that what is hidden there is not converted.
fn hide_nulls(values: &ArrayRef, parent: Option<&NullBuffer>) -> Result<ArrayRef, String> {
    let values = unpacked(values)?;
    if parent.is_none() || *values.data_type() == DataType::Null {
        return Ok(values);
    }
    let nulls = NullBuffer::union(values.nulls(), parent);
    let hidden = values.to_data().into_builder().nulls(nulls).build().map_err(|error| error.to_string())?;
    Ok(make_array(hidden))
}

/// Reads text as numbers or times.
fn read_text(source: &ArrayRef, plan: &Arc<ColumnPlan>) -> Result<Converted, String> {
    let source = cast(source, &DataType::Utf8)?;
    let texts = source.as_string::<i32>();
    append_each(&source, plan, |index, column| column.append_scalar(Scalar::Text(texts.value(index))))
}

fn convert_numbers(source: &ArrayRef, plan: &Arc<ColumnPlan>) -> Result<Converted, String> {
    use DataType::{Decimal32, Decimal64, Decimal128, Decimal256};
    // Arrow has decimals of any scale, and casts that overflow on those that no number needs.
    if let Decimal32(_, scale) | Decimal64(_, scale) | Decimal128(_, scale) | Decimal256(_, scale) = source.data_type()
        && scale.unsigned_abs() > DECIMAL256_MAX_PRECISION
    {
        let (found, digits) = (source.data_type(), DECIMAL256_MAX_PRECISION);
        return Err(format!("its Arrow type is {found}; a decimal's scale is at most {digits} either way"));
    }
    let Some(checked) = within_precision(source) else { return convert_sound_numbers(source, plan) };
    let beyond = (0..source.len()).filter(|index| checked.is_null(*index) && source.is_valid(*index));
    // The digits of such a value cannot be shown: Arrow leaves some out.
    let reason = format!("the value has more digits than its Arrow type {}", source.data_type());
    let mut refused: Vec<_> = beyond.map(|index| (index, Refusal::new(reason.as_str()))).collect();
    match convert_sound_numbers(&checked, plan)? {
        Ok(array) if refused.is_empty() => return Ok(Ok(array)),
        Ok(_) => {}
        Err(values) => refused.extend(values),
    }
    Ok(Err(refused))
}

fn convert_sound_numbers(source: &ArrayRef, plan: &Arc<ColumnPlan>) -> Result<Converted, String> {
    let target = plan.field.data_type();
    let to_float = matches!(plan.value_type, ValueType::Float | ValueType::Double);
    match source.data_type() {
        DataType::Float64 if !to_float => read_floats::<Float64Type>(source, plan),
        DataType::Float16 | DataType::Float32 if !to_float => {
            read_floats::<Float32Type>(&cast(source, &DataType::Float32)?, plan)
        }
        source_type if source_type.is_floating() || (is_decimal(source_type) && to_float) => {
            let converted = cast(source, target)?;
            let became_infinite = became_infinite(source, &converted)?;
            Ok(check_each(source, plan, converted, |index| !became_infinite[index]))
        }
        source_type if source_type.is_integer() || is_decimal(source_type) => {
            let converted = cast(source, target)?;
            let back = cast(&converted, source_type)?;
            let same = not_distinct(&back, source).map_err(|error| error.to_string())?;
            Ok(check_each(source, plan, converted, |index| same.value(index)))
        }
        _ => Err(mismatch(source, plan)),
    }
}

/// Decimals with NULL for those that have more digits than their own type allows, on which Arrow's casts panic; `None` for
/// other numbers.
fn within_precision(source: &ArrayRef) -> Option<ArrayRef> {
    fn checked<T: DecimalType>(source: &ArrayRef, digits: u8) -> Option<ArrayRef> {
        let checked = source.as_primitive::<T>().null_if_overflow_precision(digits);
        Some(Arc::new(checked.with_data_type(source.data_type().clone())))
    }
    match source.data_type() {
        DataType::Decimal32(digits, _) => checked::<Decimal32Type>(source, *digits),
        DataType::Decimal64(digits, _) => checked::<Decimal64Type>(source, *digits),
        DataType::Decimal128(digits, _) => checked::<Decimal128Type>(source, *digits),
        DataType::Decimal256(digits, _) => checked::<Decimal256Type>(source, *digits),
        _ => None,
    }
}

/// Floats as exact numbers: the shortest decimal that stands for each is what counts, as it would in JSON.
fn read_floats<T: ArrowPrimitiveType>(source: &ArrayRef, plan: &Arc<ColumnPlan>) -> Result<Converted, String>
where
    T::Native: std::fmt::Display,
{
    let floats = source.as_primitive::<T>();
    append_each(source, plan, |index, column| {
        let text = floats.value(index).to_string();
        column.append_scalar(Scalar::Number(NumberToken { text: &text, integer: None }))
    })
}

/// For each value, whether it is infinite in `converted` without having been so, or nothing is left of it.
fn became_infinite(source: &ArrayRef, converted: &ArrayRef) -> Result<Vec<bool>, String> {
    let (source, converted) = (cast(source, &DataType::Float64)?, cast(converted, &DataType::Float64)?);
    let pairs = source.as_primitive::<Float64Type>().iter().zip(converted.as_primitive::<Float64Type>());
    Ok(pairs
        .map(|(source, converted)| match (source, converted) {
            (Some(source), Some(converted)) => converted.is_infinite() && !source.is_infinite(),
            (source, converted) => source.is_some() != converted.is_some(),
        })
        .collect())
}

fn convert_times(source: &ArrayRef, plan: &Arc<ColumnPlan>) -> Result<Converted, String> {
    let to_date = matches!(plan.value_type, ValueType::Date);
    let Some(unit) = time_unit(source.data_type(), to_date) else { return Err(mismatch(source, plan)) };
    let (quantum_us, range) = if to_date { (i128::from(DAY_US), DATE_RANGE) } else { (1, TIMESTAMP_RANGE) };
    let counts = cast(source, &DataType::Int64)?;
    let counts = counts.as_primitive::<Int64Type>();
    let mut times = Vec::with_capacity(source.len());
    let mut refused = Vec::new();
    for index in 0..source.len() {
        if source.is_null(index) {
            times.push(0);
            continue;
        }
        let nanoseconds = i128::from(counts.value(index)) * unit;
        let quantum = quantum_us * 1000;
        let time = i64::try_from(nanoseconds.div_euclid(quantum)).ok().filter(|time| range.contains(time));
        match time.filter(|_| counts.is_valid(index)) {
            Some(time) if nanoseconds.rem_euclid(quantum) == 0 => times.push(time),
            outcome => {
                let reason = match outcome {
                    Some(_) if to_date => "is not a midnight in UTC",
                    Some(_) => "has digits below the microsecond, which a TIMESTAMP does not keep",
                    None => "is outside of the years 0001 to 9999",
                };
                refused.push((index, Refusal::new(format!("{} {reason}", describe(source, index)))));
            }
        }
    }
    if !refused.is_empty() {
        return Ok(Err(refused));
    }
    if source.data_type() == plan.field.data_type() {
        return Ok(Ok(Arc::clone(source)));
    }
    let nulls = source.nulls().cloned();
    Ok(Ok(if to_date {
        let days = times.into_iter().map(|days| days as i32).collect::<Vec<_>>();
        Arc::new(Date32Array::new(ScalarBuffer::from(days), nulls))
    } else {
        Arc::new(TimestampMicrosecondArray::new(ScalarBuffer::from(times), nulls).with_timezone("UTC"))
    }))
}

/// How many nanoseconds one count of a type that stands for a time is. Integers are milliseconds, but no dates.
fn time_unit(source_type: &DataType, to_date: bool) -> Option<i128> {
    match source_type {
        DataType::Timestamp(TimeUnit::Second, _) => Some(1_000_000_000),
        DataType::Timestamp(TimeUnit::Millisecond, _) | DataType::Date64 => Some(1_000_000),
        DataType::Timestamp(TimeUnit::Microsecond, _) => Some(1_000),
        DataType::Timestamp(TimeUnit::Nanosecond, _) => Some(1),
        DataType::Date32 => Some(i128::from(DAY_US) * 1_000),
        integer if integer.is_integer() && !to_date => Some(1_000_000),
        _ => None,
    }
}

/// Builds the column from a value at a time.
fn append_each(
    source: &ArrayRef,
    plan: &Arc<ColumnPlan>,
    mut append: impl FnMut(usize, &mut Column) -> Result<(), Refusal>,
) -> Result<Converted, String> {
    let mut column = Column::new(plan, source.len());
    let mut refused = Vec::new();
    for index in 0..source.len() {
        if source.is_null(index) {
            column.append_placeholder();
        } else if let Err(refusal) = append(index, &mut column) {
            refused.push((index, refusal));
        }
    }
    if refused.is_empty() { Ok(Ok(column.finish().map_err(|error| error.to_string())?)) } else { Ok(Err(refused)) }
}

/// Refuses the values for which `is_exact` says no.
fn check_each(
    source: &ArrayRef,
    plan: &ColumnPlan,
    converted: ArrayRef,
    is_exact: impl Fn(usize) -> bool,
) -> Converted {
    let refused: Vec<_> = (0..source.len())
        .filter(|index| !is_exact(*index))
        .map(|index| {
            let (value, sql) = (describe(source, index), plan.value_type.sql());
            (index, Refusal::new(format!("{value} cannot be held exactly by a {sql} column")))
        })
        .collect();
    if refused.is_empty() { Ok(converted) } else { Err(refused) }
}

fn cast(source: &ArrayRef, target: &DataType) -> Result<ArrayRef, String> {
    if !can_cast_types(source.data_type(), target) {
        return Err(format!("Arrow cannot make {target} of {}", source.data_type()));
    }
    cast_with_options(source, target, &PER_VALUE).map_err(|error: ArrowError| error.to_string())
}

/// A value for a message. Times that chrono cannot show are shown as their count.
fn describe(source: &ArrayRef, index: usize) -> String {
    let value = array_value_to_string(source, index).ok().filter(|text| !text.starts_with("ERROR"));
    let count = || cast(source, &DataType::Int64).map(|counts| counts.as_primitive::<Int64Type>().value(index));
    let value = value.or_else(|| count().ok().map(|count| count.to_string()));
    format!("the value {}", shortened(&value.unwrap_or_default()))
}

fn mismatch(source: &ArrayRef, plan: &ColumnPlan) -> String {
    format!("its Arrow type is {}, which a {} column does not take", source.data_type(), plan.value_type.sql())
}

fn is_text(data_type: &DataType) -> bool {
    matches!(data_type, DataType::Utf8 | DataType::LargeUtf8 | DataType::Utf8View)
}

fn is_decimal(data_type: &DataType) -> bool {
    use DataType::{Decimal32, Decimal64, Decimal128, Decimal256};
    matches!(data_type, Decimal32(..) | Decimal64(..) | Decimal128(..) | Decimal256(..))
}
