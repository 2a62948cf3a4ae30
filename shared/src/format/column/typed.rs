//! Appends values that have a type, unlike those that are spelled as text: they only have to fit their column.
//!
//! What fits is what would fit if the value came as JSON, so that an event is the same event in every format.

use std::fmt::{self, Write};

use super::{Column, Columns, Values, last_end};
use crate::format::json_cursor::NumberToken;
use crate::format::plan::ValueType;
use crate::format::row::Refusal;
use crate::format::scalar::{Scalar, ScalarValues, expected};
use crate::format::time::TIMESTAMP_RANGE;

impl Columns {
    /// Appends a row: `append` is called with each column and its number.
    pub(in crate::format) fn append_each(
        &mut self,
        mut append: impl FnMut(usize, &mut Column) -> Result<(), Refusal>,
    ) -> Result<(), Refusal> {
        for (index, column) in self.columns.iter_mut().enumerate() {
            append(index, column).map_err(|refusal| refusal.within(column.plan.name()))?;
        }
        Ok(())
    }
}

impl Column {
    pub(in crate::format) fn value_type(&self) -> &ValueType {
        &self.plan.value_type
    }

    pub(in crate::format) fn append_boolean(&mut self, value: bool) -> Result<(), Refusal> {
        let Values::Boolean(values) = &mut self.values else { return Err(self.mismatch(value)) };
        values.push(value);
        self.nulls.append_non_null();
        Ok(())
    }

    pub(in crate::format) fn append_integer(&mut self, value: i64) -> Result<(), Refusal> {
        let number = Digits::of(value);
        self.append_scalar(Scalar::Number(NumberToken { text: number.text(), integer: Some(value) }))
    }

    pub(in crate::format) fn append_unsigned(&mut self, value: u64) -> Result<(), Refusal> {
        let number = Digits::of(value);
        let integer = i64::try_from(value).ok();
        self.append_scalar(Scalar::Number(NumberToken { text: number.text(), integer }))
    }

    /// Appends a float; `is_single` says that it has come as 32 bits.
    pub(in crate::format) fn append_float(&mut self, value: f64, is_single: bool) -> Result<(), Refusal> {
        let Values::Scalar(values) = &mut self.values else {
            return Err(self.mismatch(format_args!("the number {value:e}")));
        };
        values.push_float(value, is_single, &self.plan.value_type)?;
        self.nulls.append_non_null();
        Ok(())
    }

    /// Appends text. In a column of numbers or times it is read as a JSON string is.
    pub(in crate::format) fn append_text(&mut self, value: &str) -> Result<(), Refusal> {
        let Values::Text { ends, text } = &mut self.values else { return self.append_scalar(Scalar::Text(value)) };
        // Names of enums can be longer than what they are sent as.
        let end = i32::try_from(text.len() + value.len());
        let end = end.map_err(|_| Refusal::new("the texts of this column, taken together, are longer than 2 GiB"))?;
        text.push_str(value);
        ends.push(end);
        self.nulls.append_non_null();
        Ok(())
    }

    /// Appends bytes, which are text if they are UTF-8 and the column holds text.
    pub(in crate::format) fn append_bytes(&mut self, value: &[u8]) -> Result<(), Refusal> {
        if !matches!(self.values, Values::Text { .. }) {
            return Err(self.mismatch(format_args!("{} bytes", value.len())));
        }
        let text = std::str::from_utf8(value);
        self.append_text(text.map_err(|error| Refusal::new(format!("not UTF-8 at byte {}", error.valid_up_to())))?)
    }

    /// Appends a time in microseconds since the epoch; `None` is one that does not fit 64 bits.
    pub(in crate::format) fn append_timestamp(&mut self, us: Option<i64>) -> Result<(), Refusal> {
        let Values::Scalar(ScalarValues::Timestamp(values)) = &mut self.values else {
            return Err(self.mismatch("a timestamp"));
        };
        let us = us.filter(|us| TIMESTAMP_RANGE.contains(us));
        values.push(us.ok_or_else(|| Refusal::new("the timestamp is outside of the years 0001 to 9999"))?);
        self.nulls.append_non_null();
        Ok(())
    }

    /// Appends a list: `append` is called for each of `values`, with the column of the items.
    pub(in crate::format) fn append_list<T>(
        &mut self,
        values: &[T],
        mut append: impl FnMut(&mut Column, &T) -> Result<(), Refusal>,
    ) -> Result<(), Refusal> {
        let Values::List { ends, items } = &mut self.values else { return Err(self.mismatch("an array")) };
        for (index, value) in values.iter().enumerate() {
            append(items, value).map_err(|refusal| refusal.within_item(index))?;
        }
        debug_assert_eq!(items.len(), last_end(ends) + values.len(), "each value is one item");
        ends.push(items.len() as i32);
        self.nulls.append_non_null();
        Ok(())
    }

    /// Appends a struct, whose fields `append` appends.
    pub(in crate::format) fn append_struct(
        &mut self,
        append: impl FnOnce(&mut Columns) -> Result<(), Refusal>,
    ) -> Result<(), Refusal> {
        let Values::Struct(fields) = &mut self.values else { return Err(self.mismatch("an object")) };
        append(fields)?;
        self.nulls.append_non_null();
        Ok(())
    }

    pub(in crate::format) fn mismatch(&self, found: impl fmt::Display) -> Refusal {
        Refusal::new(format!("expected {}, found {found}", expected(&self.plan.value_type)))
    }
}

/// An integer's digits, without an allocation.
struct Digits {
    /// The longest are those of `i64::MIN` and `u64::MAX`.
    bytes: [u8; 20],
    length: usize,
}

impl Digits {
    fn of(value: impl fmt::Display) -> Digits {
        let mut digits = Digits { bytes: [0; 20], length: 0 };
        // No integer of 64 bits has more digits than there is room for.
        let written = write!(digits, "{value}");
        debug_assert_eq!(written, Ok(()));
        digits
    }

    fn text(&self) -> &str {
        std::str::from_utf8(&self.bytes[..self.length]).unwrap_or_default()
    }
}

impl Write for Digits {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        let end = self.length + text.len();
        self.bytes.get_mut(self.length..end).ok_or(fmt::Error)?.copy_from_slice(text.as_bytes());
        self.length = end;
        Ok(())
    }
}
