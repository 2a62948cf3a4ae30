//! An answer as JSON, and the JSON text of single values, from which CSV cells are made too.

use std::fmt::Display;
use std::io::Write;
use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, RecordBatch};
use arrow::datatypes::{
    DataType, Date32Type, Date64Type, Decimal32Type, Decimal64Type, Decimal128Type, Decimal256Type, DecimalType,
    FieldRef, Float16Type, Float32Type, Float64Type, Schema, Time32MillisecondType, Time32SecondType,
    Time64MicrosecondType, Time64NanosecondType, TimeUnit, TimestampMicrosecondType, TimestampMillisecondType,
    TimestampNanosecondType, TimestampSecondType,
};
use arrow::error::ArrowError;
use arrow::json::writer::{NullableEncoder, make_encoder};
use arrow::json::{Encoder, EncoderFactory, EncoderOptions};
use arrow::util::display::{ArrayFormatter, DurationFormat, FormatOptions};
use serde::Serialize;
use watershed_shared::definition::sql_type_name;

use super::{AnswerEncoder, iso};
use crate::answer::AsOf;

const MILLISECONDS_A_DAY: i64 = 86_400_000;

/// Writes `{"columns":[..],"rows":[[..],..],"as_of":{..},"complete":true}`.
pub(super) struct JsonEncoder {
    options: EncoderOptions,
    as_of: AsOf,
    complete: bool,
    has_rows: bool,
}

impl JsonEncoder {
    pub(super) fn new(as_of: AsOf, complete: bool) -> JsonEncoder {
        JsonEncoder { options: value_options(), as_of, complete, has_rows: false }
    }
}

impl AnswerEncoder for JsonEncoder {
    fn begin(&mut self, schema: &Schema, out: &mut Vec<u8>) -> Result<(), ArrowError> {
        #[derive(Serialize)]
        struct Column<'a> {
            name: &'a str,
            r#type: String,
        }
        let columns = schema.fields().iter();
        let columns = columns.map(|field| Column { name: field.name(), r#type: sql_type_name(field.data_type()) });
        out.extend_from_slice(b"{\"columns\":");
        push_json(out, &columns.collect::<Vec<_>>())?;
        out.extend_from_slice(b",\"rows\":[");
        Ok(())
    }

    fn rows(&mut self, batch: &RecordBatch, out: &mut Vec<u8>) -> Result<(), ArrowError> {
        let mut columns = value_encoders(batch, &self.options)?;
        for row in 0..batch.num_rows() {
            out.extend_from_slice(if self.has_rows { b",[" } else { b"[" });
            self.has_rows = true;
            for (index, column) in columns.iter_mut().enumerate() {
                if index > 0 {
                    out.push(b',');
                }
                if column.is_null(row) {
                    out.extend_from_slice(b"null");
                } else {
                    column.encode(row, out);
                }
            }
            out.push(b']');
        }
        Ok(())
    }

    fn end(&mut self, out: &mut Vec<u8>) -> Result<(), ArrowError> {
        out.extend_from_slice(b"],\"as_of\":");
        push_json(out, &self.as_of)?;
        out.extend_from_slice(b",\"complete\":");
        push_json(out, &self.complete)?;
        out.push(b'}');
        Ok(())
    }
}

/// How values are written; to be passed to [`value_encoders`].
pub(super) fn value_options() -> EncoderOptions {
    EncoderOptions::default().with_explicit_nulls(true).with_encoder_factory(Arc::new(ExactValues))
}

/// One encoder a column, which append a row's value as JSON. NULL is the caller's to write.
///
/// # Errors
/// A column's type has no JSON form.
pub(super) fn value_encoders<'a>(
    batch: &'a RecordBatch,
    options: &'a EncoderOptions,
) -> Result<Vec<NullableEncoder<'a>>, ArrowError> {
    let columns = batch.schema_ref().fields().iter().zip(batch.columns());
    columns.map(|(field, array): (_, &ArrayRef)| make_encoder(field, array, options)).collect()
}

fn push_json(out: &mut Vec<u8>, value: &impl Serialize) -> Result<(), ArrowError> {
    serde_json::to_writer(out, value).map_err(|error| ArrowError::JsonError(error.to_string()))
}

/// The types that arrow-json writes with loss or in another spelling, at any depth of a value.
#[derive(Debug)]
struct ExactValues;

impl EncoderFactory for ExactValues {
    fn make_default_encoder<'a>(
        &self,
        field: &'a FieldRef,
        array: &'a dyn Array,
        options: &'a EncoderOptions,
    ) -> Result<Option<NullableEncoder<'a>>, ArrowError> {
        let encoder: Box<dyn Encoder + 'a> = match array.data_type() {
            DataType::Float16 => {
                let values = array.as_primitive::<Float16Type>().values();
                written(move |row, out| push_float(out, f32::from(values[row])))
            }
            DataType::Float32 => {
                let values = array.as_primitive::<Float32Type>().values();
                written(move |row, out| push_float(out, values[row]))
            }
            DataType::Float64 => {
                let values = array.as_primitive::<Float64Type>().values();
                written(move |row, out| push_float(out, values[row]))
            }
            DataType::Decimal32(_, scale) => decimals::<Decimal32Type>(array, *scale),
            DataType::Decimal64(_, scale) => decimals::<Decimal64Type>(array, *scale),
            DataType::Decimal128(_, scale) => decimals::<Decimal128Type>(array, *scale),
            DataType::Decimal256(_, scale) => decimals::<Decimal256Type>(array, *scale),
            DataType::Date32 => {
                let values = array.as_primitive::<Date32Type>().values();
                quoted(move |row, out| iso::push_date(out, i64::from(values[row])))
            }
            DataType::Date64 => {
                let values = array.as_primitive::<Date64Type>().values();
                quoted(move |row, out| iso::push_date(out, values[row].div_euclid(MILLISECONDS_A_DAY)))
            }
            DataType::Time32(unit) => {
                let values = match unit {
                    TimeUnit::Second => array.as_primitive::<Time32SecondType>().values(),
                    _ => array.as_primitive::<Time32MillisecondType>().values(),
                };
                quoted(move |row, out| iso::push_time(out, i64::from(values[row]), unit))
            }
            DataType::Time64(unit) => {
                let values = match unit {
                    TimeUnit::Microsecond => array.as_primitive::<Time64MicrosecondType>().values(),
                    _ => array.as_primitive::<Time64NanosecondType>().values(),
                };
                quoted(move |row, out| iso::push_time(out, values[row], unit))
            }
            // A time zone says how to show the instant that the value is; the API shows all instants in UTC.
            DataType::Timestamp(unit, _) => {
                let values = match unit {
                    TimeUnit::Second => array.as_primitive::<TimestampSecondType>().values(),
                    TimeUnit::Millisecond => array.as_primitive::<TimestampMillisecondType>().values(),
                    TimeUnit::Microsecond => array.as_primitive::<TimestampMicrosecondType>().values(),
                    TimeUnit::Nanosecond => array.as_primitive::<TimestampNanosecondType>().values(),
                };
                quoted(move |row, out| iso::push_timestamp(out, values[row], unit))
            }
            DataType::Duration(_) | DataType::Interval(_) => {
                let options = FormatOptions::new().with_duration_format(DurationFormat::Pretty);
                let formatter = ArrayFormatter::try_new(array, &options)?;
                quoted(move |row, out| push_display(out, formatter.value(row)))
            }
            DataType::Dictionary(_, _) => dictionary(field, array, options)?,
            _ => return Ok(None),
        };
        Ok(Some(NullableEncoder::new(encoder, array.logical_nulls())))
    }
}

/// Appends the value of a row with a function.
struct Written<F>(F);

impl<F: FnMut(usize, &mut Vec<u8>)> Encoder for Written<F> {
    fn encode(&mut self, row: usize, out: &mut Vec<u8>) {
        (self.0)(row, out);
    }
}

/// An encoder that appends JSON text.
fn written<'a>(write: impl FnMut(usize, &mut Vec<u8>) + 'a) -> Box<dyn Encoder + 'a> {
    Box::new(Written(write))
}

/// An encoder that appends a JSON string with the text that `write` appends, which must need no escapes.
fn quoted<'a>(mut write: impl FnMut(usize, &mut Vec<u8>) + 'a) -> Box<dyn Encoder + 'a> {
    written(move |row, out| {
        out.push(b'"');
        write(row, out);
        out.push(b'"');
    })
}

/// Encodes a dictionary's values; unlike arrow-json's own, used with nulls that also know those among the values.
fn dictionary<'a>(
    field: &'a FieldRef,
    array: &'a dyn Array,
    options: &'a EncoderOptions,
) -> Result<Box<dyn Encoder + 'a>, ArrowError> {
    let dictionary = array.as_any_dictionary();
    let mut values = make_encoder(field, dictionary.values(), options)?;
    // An empty dictionary has no valid key, so that nothing is asked of it.
    let keys = if dictionary.values().is_empty() { Vec::new() } else { dictionary.normalized_keys() };
    Ok(written(move |row, out| values.encode(keys[row], out)))
}

fn decimals<'a, T>(array: &'a dyn Array, scale: i8) -> Box<dyn Encoder + 'a>
where
    T: DecimalType,
    T::Native: Display,
{
    let values = array.as_primitive::<T>().values();
    quoted(move |row, out| push_decimal(out, values[row], scale))
}

/// Appends `unscaled` times ten to the power of `-scale`, digit by digit.
fn push_decimal(out: &mut Vec<u8>, unscaled: impl Display, scale: i8) {
    let start = out.len();
    push_display(out, unscaled);
    let first_digit = start + usize::from(out[start] == b'-');
    let places = usize::from(scale.unsigned_abs());
    if scale < 0 && out[first_digit] != b'0' {
        out.resize(out.len() + places, b'0');
    }
    if scale > 0 {
        let missing = (places + 1).saturating_sub(out.len() - first_digit);
        out.splice(first_digit..first_digit, std::iter::repeat_n(b'0', missing));
        out.insert(out.len() - places, b'.');
    }
}

/// Appends the shortest text that gives the same number back; JSON has no numbers for NaN and the infinities.
fn push_float(out: &mut Vec<u8>, value: impl Into<f64> + Serialize + Copy) {
    let wide: f64 = value.into();
    if wide.is_nan() {
        out.extend_from_slice(b"\"NaN\"");
    } else if wide.is_infinite() {
        out.extend_from_slice(if wide > 0.0 { b"\"Infinity\"" } else { b"\"-Infinity\"" });
    } else {
        // A finite number always has a JSON form, and writing to memory cannot fail.
        let _ = serde_json::to_writer(out, &value);
    }
}

fn push_display(out: &mut Vec<u8>, value: impl Display) {
    // Writing to memory cannot fail; a value outside its type's range would end the text early.
    let _ = write!(out, "{value}");
}
