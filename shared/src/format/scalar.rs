//! Columns of numbers and times: which spellings each type takes, and the reasons why it refuses others.

use std::sync::Arc;

use arrow::array::{
    ArrayRef, Date32Array, Decimal128Array, Float32Array, Float64Array, Int32Array, Int64Array,
    TimestampMicrosecondArray,
};
use arrow::buffer::{NullBuffer, ScalarBuffer};
use arrow::datatypes::ArrowNativeType;

use super::json_cursor::NumberToken;
use super::number::{Decimal, Inexact, nearest_f32, nearest_f64, special_float};
use super::plan::ValueType;
use super::row::{Refusal, quoted, shortened};
use super::time::{TIMESTAMP_RANGE, TimeError, parse_date, parse_timestamp};
use crate::error::Result;

/// Values of one type of numbers or times under construction.
#[derive(Debug)]
pub(super) enum ScalarValues {
    Int(Vec<i32>),
    BigInt(Vec<i64>),
    Float(Vec<f32>),
    Double(Vec<f64>),
    Decimal { values: Vec<i128>, precision: u8, scale: i8 },
    Date(Vec<i32>),
    Timestamp(Vec<i64>),
}

/// How a value is spelled: a number in JSON, or text that may hold anything.
#[derive(Debug, Clone, Copy)]
pub(super) enum Scalar<'a> {
    Number(NumberToken<'a>),
    Text(&'a str),
}

/// Why a type does not take a value.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Problem {
    /// It spells nothing of this type.
    Unexpected,
    /// It has digits below what the type holds.
    TooFine,
    OutOfRange,
    /// A date or time that does not exist, such as February 30.
    NoSuchTime,
}

impl ScalarValues {
    /// Room for `capacity` values of `value_type`, if it is one of numbers or times.
    pub(super) fn new(value_type: &ValueType, capacity: usize) -> Option<ScalarValues> {
        Some(match value_type {
            ValueType::Int => ScalarValues::Int(Vec::with_capacity(capacity)),
            ValueType::BigInt => ScalarValues::BigInt(Vec::with_capacity(capacity)),
            ValueType::Float => ScalarValues::Float(Vec::with_capacity(capacity)),
            ValueType::Double => ScalarValues::Double(Vec::with_capacity(capacity)),
            ValueType::Decimal { precision, scale } => {
                ScalarValues::Decimal { values: Vec::with_capacity(capacity), precision: *precision, scale: *scale }
            }
            ValueType::Date => ScalarValues::Date(Vec::with_capacity(capacity)),
            ValueType::Timestamp => ScalarValues::Timestamp(Vec::with_capacity(capacity)),
            ValueType::Boolean | ValueType::Text | ValueType::List(_) | ValueType::Struct(_) => return None,
        })
    }

    /// Appends the value that `scalar` spells, or nothing and the reason.
    pub(super) fn push(&mut self, scalar: Scalar<'_>, value_type: &ValueType) -> Result<(), Refusal> {
        let pushed = match self {
            ScalarValues::Int(values) => scalar.int().map(|value| values.push(value)),
            ScalarValues::BigInt(values) => scalar.big_int().map(|value| values.push(value)),
            ScalarValues::Float(values) => scalar.float().map(|value| values.push(value)),
            ScalarValues::Double(values) => scalar.double().map(|value| values.push(value)),
            ScalarValues::Decimal { values, precision, scale } => {
                scalar.decimal(*precision, *scale).map(|value| values.push(value))
            }
            ScalarValues::Date(values) => scalar.date().map(|value| values.push(value)),
            ScalarValues::Timestamp(values) => scalar.timestamp().map(|value| values.push(value)),
        };
        pushed.map_err(|problem| problem.refusal(scalar, value_type))
    }

    /// Appends a number that is binary already: exact as DOUBLE, the nearest as FLOAT; elsewhere what counts is the
    /// shortest decimal that stands for it, as it would in JSON. `is_single` says that it has come as 32 bits.
    pub(super) fn push_float(&mut self, value: f64, is_single: bool, value_type: &ValueType) -> Result<(), Refusal> {
        match self {
            ScalarValues::Double(values) => values.push(value),
            ScalarValues::Float(values) if (value as f32).is_finite() || !value.is_finite() => {
                values.push(value as f32)
            }
            _ => {
                let text = if is_single { format!("{:e}", value as f32) } else { format!("{value:e}") };
                return self.push(Scalar::Number(NumberToken { text: &text, integer: None }), value_type);
            }
        }
        Ok(())
    }

    /// Appends a value that is never seen, because the row is NULL here.
    pub(super) fn push_placeholder(&mut self) {
        match self {
            ScalarValues::Int(values) | ScalarValues::Date(values) => values.push(0),
            ScalarValues::BigInt(values) | ScalarValues::Timestamp(values) => values.push(0),
            ScalarValues::Float(values) => values.push(0.0),
            ScalarValues::Double(values) => values.push(0.0),
            ScalarValues::Decimal { values, .. } => values.push(0),
        }
    }

    pub(super) fn truncate(&mut self, rows: usize) {
        match self {
            ScalarValues::Int(values) | ScalarValues::Date(values) => values.truncate(rows),
            ScalarValues::BigInt(values) | ScalarValues::Timestamp(values) => values.truncate(rows),
            ScalarValues::Float(values) => values.truncate(rows),
            ScalarValues::Double(values) => values.truncate(rows),
            ScalarValues::Decimal { values, .. } => values.truncate(rows),
        }
    }

    pub(super) fn finish(self, nulls: Option<NullBuffer>) -> Result<ArrayRef> {
        Ok(match self {
            ScalarValues::Int(values) => Arc::new(Int32Array::try_new(frozen(values), nulls)?),
            ScalarValues::BigInt(values) => Arc::new(Int64Array::try_new(frozen(values), nulls)?),
            ScalarValues::Float(values) => Arc::new(Float32Array::try_new(frozen(values), nulls)?),
            ScalarValues::Double(values) => Arc::new(Float64Array::try_new(frozen(values), nulls)?),
            ScalarValues::Decimal { values, precision, scale } => {
                let decimals = Decimal128Array::try_new(frozen(values), nulls)?;
                Arc::new(decimals.with_precision_and_scale(precision, scale)?)
            }
            ScalarValues::Date(values) => Arc::new(Date32Array::try_new(frozen(values), nulls)?),
            ScalarValues::Timestamp(values) => {
                let timestamps = TimestampMicrosecondArray::try_new(frozen(values), nulls)?;
                Arc::new(timestamps.with_timezone("UTC"))
            }
        })
    }
}

/// The values as an Arrow buffer, without the room that no value came for: what is held onto is what is counted.
pub(super) fn frozen<T: ArrowNativeType>(mut values: Vec<T>) -> ScalarBuffer<T> {
    values.shrink_to_fit();
    ScalarBuffer::from(values)
}

/// What a value of this type looks like, for the message about one that does not.
pub(super) fn expected(value_type: &ValueType) -> &'static str {
    match value_type {
        ValueType::Boolean => "true or false",
        ValueType::Int | ValueType::BigInt => "an integer",
        ValueType::Float | ValueType::Double => "a number, or \"NaN\", \"Infinity\" or \"-Infinity\" in quotes",
        ValueType::Decimal { .. } => "a number",
        ValueType::Text => "a string",
        ValueType::Date => "a date such as \"2015-09-12\"",
        ValueType::Timestamp => {
            "a timestamp such as \"2015-09-12T00:46:58.771Z\" or a number of milliseconds since 1970"
        }
        ValueType::List(_) => "an array",
        ValueType::Struct(_) => "an object",
    }
}

impl Scalar<'_> {
    fn int(self) -> Result<i32, Problem> {
        i32::try_from(self.big_int()?).map_err(|_| Problem::OutOfRange)
    }

    fn big_int(self) -> Result<i64, Problem> {
        match self.small_integer() {
            Some(integer) => Ok(integer),
            None => i64::try_from(self.exact()?.scaled(0)?).map_err(|_| Problem::OutOfRange),
        }
    }

    fn float(self) -> Result<f32, Problem> {
        if let Some(special) = self.special_float() {
            return Ok(special as f32);
        }
        self.check_text()?;
        nearest_f32(self.spelling()).ok_or(Problem::OutOfRange)
    }

    fn double(self) -> Result<f64, Problem> {
        if let Some(integer) = self.small_integer() {
            // Rounds to the nearest value, as reading the digits would.
            return Ok(integer as f64);
        }
        if let Some(special) = self.special_float() {
            return Ok(special);
        }
        self.check_text()?;
        nearest_f64(self.spelling()).ok_or(Problem::OutOfRange)
    }

    fn decimal(self, precision: u8, scale: i8) -> Result<i128, Problem> {
        let value = self.exact()?.scaled(scale)?;
        let limit = 10_u128.checked_pow(u32::from(precision)).unwrap_or(u128::MAX);
        if value.unsigned_abs() < limit { Ok(value) } else { Err(Problem::OutOfRange) }
    }

    fn date(self) -> Result<i32, Problem> {
        match self {
            Scalar::Number(_) => Err(Problem::Unexpected),
            Scalar::Text(text) => Ok(parse_date(text)?),
        }
    }

    fn timestamp(self) -> Result<i64, Problem> {
        let milliseconds = match self {
            Scalar::Number(_) => self.exact()?,
            Scalar::Text(text) => match (parse_timestamp(text), Decimal::parse(text)) {
                (Err(TimeError::Malformed), Some(milliseconds)) => milliseconds,
                (timestamp, _) => return Ok(timestamp?),
            },
        };
        let microseconds = i64::try_from(milliseconds.scaled_down(3)?).map_err(|_| Problem::OutOfRange)?;
        if TIMESTAMP_RANGE.contains(&microseconds) { Ok(microseconds) } else { Err(Problem::OutOfRange) }
    }

    fn small_integer(self) -> Option<i64> {
        match self {
            Scalar::Number(number) => number.integer,
            Scalar::Text(_) => None,
        }
    }

    fn special_float(self) -> Option<f64> {
        match self {
            Scalar::Number(_) => None,
            Scalar::Text(text) => special_float(text),
        }
    }

    fn exact(self) -> Result<Decimal, Problem> {
        Decimal::parse(self.spelling()).ok_or(Problem::Unexpected)
    }

    /// Refuses text that is no number but that Rust would read as one, such as "inf".
    fn check_text(self) -> Result<(), Problem> {
        match self {
            Scalar::Number(_) => Ok(()),
            Scalar::Text(_) => self.exact().map(drop),
        }
    }

    fn spelling(&self) -> &str {
        match self {
            Scalar::Number(number) => number.text,
            Scalar::Text(text) => text,
        }
    }

    pub(super) fn describe(self) -> String {
        match self {
            Scalar::Number(number) => format!("the number {}", shortened(number.text)),
            Scalar::Text(text) => format!("the string {}", quoted(text)),
        }
    }
}

impl Problem {
    fn refusal(self, scalar: Scalar<'_>, value_type: &ValueType) -> Refusal {
        let found = scalar.describe();
        Refusal::new(match (self, value_type) {
            (Problem::TooFine, ValueType::Decimal { scale, .. }) => {
                let sql = value_type.sql();
                format!("{found} has more fractional digits than the {scale} that a {sql} column keeps")
            }
            (Problem::OutOfRange, ValueType::Date | ValueType::Timestamp) => {
                format!("{found} is outside of the years 0001 to 9999")
            }
            (Problem::OutOfRange, _) => format!("{found} is out of range for {}", value_type.sql()),
            (Problem::NoSuchTime, _) => format!("{found} is a time that does not exist"),
            (Problem::Unexpected | Problem::TooFine, _) => format!("expected {}, found {found}", expected(value_type)),
        })
    }
}

impl From<Inexact> for Problem {
    fn from(inexact: Inexact) -> Problem {
        match inexact {
            Inexact::TooFine => Problem::TooFine,
            Inexact::OutOfRange => Problem::OutOfRange,
        }
    }
}

impl From<TimeError> for Problem {
    fn from(error: TimeError) -> Problem {
        match error {
            TimeError::Malformed => Problem::Unexpected,
            TimeError::NoSuchTime => Problem::NoSuchTime,
            TimeError::OutOfRange => Problem::OutOfRange,
        }
    }
}
