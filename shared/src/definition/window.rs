//! Tumbling windows: which window an event time falls into, as plain arithmetic and as the SQL function `tumble`.
//!
//! Windows are half-open, `[start, end)`, and follow each other without gap from the epoch, 1970-01-01T00:00:00Z, plus
//! the window's offset, in both directions. Windows of whole days so start at midnight UTC; windows of a week start on
//! Thursdays, because the epoch was one: `tumble(time, INTERVAL '1 week', INTERVAL '4 days')` gives weeks from Monday.
//! Windows of months and years start at the first of a month plus the offset.
//!
//! DataFusion's `date_bin` does not serve: it counts in nanoseconds, so it makes NULL of every time before 1677 or
//! after 2262, and it chooses its nanosecond variant for timestamps with a zone, which changes the key's type.

use std::sync::Arc;

use arrow::array::{AsArray, TimestampMicrosecondArray};
use arrow::datatypes::{DataType, IntervalMonthDayNano, IntervalUnit, TimestampMicrosecondType};
use chrono::{DateTime, Datelike, Months, NaiveDate};
use datafusion::common::{DataFusionError, ScalarValue, exec_err, plan_err};
use datafusion::logical_expr::{
    ColumnarValue, ScalarFunctionArgs, ScalarUDF, ScalarUDFImpl, Signature, TypeSignature, Volatility,
};

use super::interval::day_time_micros;
use crate::event::timestamp_type;

/// Name of the function in SQL.
pub(crate) const TUMBLE: &str = "tumble";

/// Days that every month has: an offset up to here moves the start of each month's window by the same time.
const MONTH_DAYS_MIN: i64 = 28;
const MICROS_PER_DAY: i64 = 24 * 60 * 60 * 1_000_000;

/// The function `tumble(time, size [, offset])`: the start of the window that `time` falls into, a TIMESTAMP.
///
/// Views that group by `tumble` keep it as their key, so it must be registered with every session that plans their
/// queries. NULL for NULL and for the times whose window would start before the earliest timestamp.
pub fn tumble_function() -> ScalarUDF {
    ScalarUDF::new_from_impl(Tumble { signature: Signature::new(TypeSignature::UserDefined, Volatility::Immutable) })
}

/// Size and offset of tumbling windows; checked.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct TumblingWindow {
    size: WindowSize,
    /// Microseconds from the epoch, or from the first of the month, to a window's start; not negative.
    offset_us: i64,
    /// Months from the epoch to a window's start; zero for windows that are not of months.
    offset_months: i64,
}

/// How long windows are.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum WindowSize {
    /// Microseconds; positive.
    Micros(i64),
    /// Calendar months; positive.
    Months(u32),
}

impl TumblingWindow {
    /// The windows of `size` that start at the epoch plus `offset`.
    ///
    /// # Errors
    /// A text that says why no such windows exist: the size is not positive, mixes months with days, or is no multiple
    /// of a microsecond; the offset does not fit the size.
    pub fn new(size: IntervalMonthDayNano, offset: IntervalMonthDayNano) -> Result<TumblingWindow, String> {
        let size_us = day_time_micros(size).ok_or("the window's size is not a number of microseconds")?;
        let offset_us = day_time_micros(offset).ok_or("the window's offset is not a number of microseconds")?;
        match size.months {
            0 if size_us <= 0 => Err("the window's size is not positive".to_owned()),
            0 if offset.months != 0 => Err("only windows of months can have an offset of months".to_owned()),
            0 => Ok(TumblingWindow {
                size: WindowSize::Micros(size_us),
                offset_us: offset_us.rem_euclid(size_us),
                offset_months: 0,
            }),
            _ if size_us != 0 => Err("the window's size mixes months with days or time".to_owned()),
            months => {
                let size = u32::try_from(months).map_err(|_| "the window's size is not positive")?;
                if !(0..MONTH_DAYS_MIN * MICROS_PER_DAY).contains(&offset_us) {
                    return Err("the days of the offset of windows of months are not between 0 and 27".to_owned());
                }
                let offset_months = i64::from(offset.months).rem_euclid(i64::from(size));
                Ok(TumblingWindow { size: WindowSize::Months(size), offset_us, offset_months })
            }
        }
    }

    /// How long the windows are.
    pub fn size(&self) -> WindowSize {
        self.size
    }

    /// Start of the window that `time_us` falls into; microseconds since the epoch.
    ///
    /// `None` where the start or the time is beyond what the calendar (for months) or 64 bits can hold: more than
    /// 262,000 years from now.
    pub fn start(&self, time_us: i64) -> Option<i64> {
        let shifted = time_us.checked_sub(self.offset_us)?;
        let start = match self.size {
            WindowSize::Micros(size) => shifted.checked_sub(shifted.rem_euclid(size))?,
            WindowSize::Months(size) => {
                let month = month_of(shifted)? - self.offset_months;
                first_of_month(month - month.rem_euclid(i64::from(size)) + self.offset_months)?
            }
        };
        start.checked_add(self.offset_us)
    }

    /// End of the window that starts at `start_us`, which is not part of it; microseconds since the epoch.
    ///
    /// `None` where the end is beyond what the calendar or 64 bits can hold.
    pub fn end(&self, start_us: i64) -> Option<i64> {
        match self.size {
            WindowSize::Micros(size) => start_us.checked_add(size),
            WindowSize::Months(size) => {
                let start = DateTime::from_timestamp_micros(start_us)?;
                Some(start.checked_add_months(Months::new(size))?.timestamp_micros())
            }
        }
    }
}

/// Months from 1970-01 to the month that a time falls into.
fn month_of(time_us: i64) -> Option<i64> {
    let date = DateTime::from_timestamp_micros(time_us)?;
    Some((i64::from(date.year()) - 1970) * 12 + i64::from(date.month0()))
}

/// Midnight of the first day of a month that is `month` months after 1970-01; microseconds since the epoch.
fn first_of_month(month: i64) -> Option<i64> {
    let year = i32::try_from(1970 + month.div_euclid(12)).ok()?;
    let month = u32::try_from(month.rem_euclid(12)).ok()? + 1;
    Some(NaiveDate::from_ymd_opt(year, month, 1)?.and_hms_opt(0, 0, 0)?.and_utc().timestamp_micros())
}

#[derive(Debug, PartialEq, Eq, Hash)]
struct Tumble {
    signature: Signature,
}

impl ScalarUDFImpl for Tumble {
    fn name(&self) -> &str {
        TUMBLE
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn return_type(&self, _arg_types: &[DataType]) -> Result<DataType, DataFusionError> {
        Ok(timestamp_type())
    }

    fn coerce_types(&self, arg_types: &[DataType]) -> Result<Vec<DataType>, DataFusionError> {
        let [time, intervals @ ..] = arg_types else {
            return plan_err!("tumble takes a time and a size, as tumble(time, INTERVAL '1 hour')");
        };
        if !matches!(time, DataType::Timestamp(_, _) | DataType::Date32 | DataType::Null) {
            return plan_err!(
                "the first argument of tumble is a TIMESTAMP or a DATE, not {}",
                super::sql_type_name(time)
            );
        }
        if intervals.is_empty() || intervals.len() > 2 {
            return plan_err!(
                "tumble takes two or three arguments, as tumble(time, INTERVAL '1 hour'); there are {}",
                arg_types.len()
            );
        }
        let interval = DataType::Interval(IntervalUnit::MonthDayNano);
        Ok(std::iter::once(timestamp_type()).chain(intervals.iter().map(|_| interval.clone())).collect())
    }

    fn invoke_with_args(&self, args: ScalarFunctionArgs) -> Result<ColumnarValue, DataFusionError> {
        let (time, size, offset) = match args.args.as_slice() {
            [time, size] => (time, interval(size)?, IntervalMonthDayNano::ZERO),
            [time, size, offset] => (time, interval(size)?, interval(offset)?),
            other => return exec_err!("tumble takes two or three arguments; there are {}", other.len()),
        };
        let window = TumblingWindow::new(size, offset).map_err(DataFusionError::Execution)?;
        match time {
            ColumnarValue::Scalar(ScalarValue::TimestampMicrosecond(time, zone)) => {
                let start = time.and_then(|time| window.start(time));
                Ok(ColumnarValue::Scalar(ScalarValue::TimestampMicrosecond(start, zone.clone())))
            }
            ColumnarValue::Array(times) if *times.data_type() == timestamp_type() => {
                let times = times.as_primitive::<TimestampMicrosecondType>();
                let starts: TimestampMicrosecondArray = times.unary_opt(|time| window.start(time));
                Ok(ColumnarValue::Array(Arc::new(starts.with_timezone("UTC"))))
            }
            other => exec_err!(
                "the first argument of tumble is a TIMESTAMP, not {}",
                super::sql_type_name(&other.data_type())
            ),
        }
    }
}

fn interval(argument: &ColumnarValue) -> Result<IntervalMonthDayNano, DataFusionError> {
    match argument {
        ColumnarValue::Scalar(ScalarValue::IntervalMonthDayNano(Some(interval))) => Ok(*interval),
        _ => exec_err!("the size and the offset of tumble are INTERVAL literals, as INTERVAL '1 hour'"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn window(size: (i32, i32, i64), offset: (i32, i32, i64)) -> Result<TumblingWindow, String> {
        let interval =
            |(months, days, seconds): (i32, i32, i64)| IntervalMonthDayNano::new(months, days, seconds * 1_000_000_000);
        TumblingWindow::new(interval(size), interval(offset))
    }

    fn micros(time: &str) -> i64 {
        time.parse::<DateTime<chrono::Utc>>().map(|time| time.timestamp_micros()).unwrap_or(i64::MIN)
    }

    #[test]
    fn every_time_falls_into_the_half_open_window_that_starts_at_epoch_plus_offset() {
        let hour = (0, 0, 3600);
        for (size, offset, time, start, end) in [
            (hour, (0, 0, 0), "2015-09-12T10:00:00Z", "2015-09-12T10:00:00Z", "2015-09-12T11:00:00Z"),
            (hour, (0, 0, 0), "2015-09-12T10:59:59.999999Z", "2015-09-12T10:00:00Z", "2015-09-12T11:00:00Z"),
            (hour, (0, 0, 900), "2015-09-12T10:14:59Z", "2015-09-12T09:15:00Z", "2015-09-12T10:15:00Z"),
            (hour, (0, 0, -900), "2015-09-12T10:45:00Z", "2015-09-12T10:45:00Z", "2015-09-12T11:45:00Z"),
            (hour, (0, 0, 0), "1969-12-31T23:59:59.999999Z", "1969-12-31T23:00:00Z", "1970-01-01T00:00:00Z"),
            (hour, (0, 0, 0), "2999-12-31T23:30:00Z", "2999-12-31T23:00:00Z", "3000-01-01T00:00:00Z"),
            ((0, 7, 0), (0, 0, 0), "2015-09-12T10:00:00Z", "2015-09-10T00:00:00Z", "2015-09-17T00:00:00Z"),
            ((0, 7, 0), (0, 4, 0), "2015-09-12T10:00:00Z", "2015-09-07T00:00:00Z", "2015-09-14T00:00:00Z"),
            ((1, 0, 0), (0, 0, 0), "2016-02-29T23:59:59Z", "2016-02-01T00:00:00Z", "2016-03-01T00:00:00Z"),
            ((1, 0, 0), (0, 14, 0), "2016-03-14T23:59:59Z", "2016-02-15T00:00:00Z", "2016-03-15T00:00:00Z"),
            ((3, 0, 0), (0, 0, 0), "1969-11-05T00:00:00Z", "1969-10-01T00:00:00Z", "1970-01-01T00:00:00Z"),
            ((12, 0, 0), (3, 5, 0), "2016-04-05T23:00:00Z", "2015-04-06T00:00:00Z", "2016-04-06T00:00:00Z"),
            ((1, 0, 0), (0, 0, 0), "2999-12-31T23:30:00Z", "2999-12-01T00:00:00Z", "3000-01-01T00:00:00Z"),
        ] {
            let window = window(size, offset);
            let got = window.as_ref().ok().and_then(|window| window.start(micros(time)));
            assert_eq!(got, Some(micros(start)), "start of {time} in {size:?} + {offset:?}");
            let got = window.as_ref().ok().and_then(|window| window.end(micros(start)));
            assert_eq!(got, Some(micros(end)), "end of {start} in {size:?} + {offset:?}");
        }
    }

    #[test]
    fn sizes_and_offsets_that_leave_gaps_or_overlaps_are_refused() {
        for (size, offset, reason) in [
            ((0, 0, 0), (0, 0, 0), "the window's size is not positive"),
            ((0, 0, -60), (0, 0, 0), "the window's size is not positive"),
            ((-1, 0, 0), (0, 0, 0), "the window's size is not positive"),
            ((1, 1, 0), (0, 0, 0), "the window's size mixes months with days or time"),
            ((0, 1, 0), (1, 0, 0), "only windows of months can have an offset of months"),
            ((1, 0, 0), (0, 28, 0), "the days of the offset of windows of months are not between 0 and 27"),
            ((1, 0, 0), (0, -1, 0), "the days of the offset of windows of months are not between 0 and 27"),
        ] {
            assert_eq!(window(size, offset), Err(reason.to_owned()), "{size:?} + {offset:?}");
        }
        let nanosecond = IntervalMonthDayNano::new(0, 0, 1);
        assert!(TumblingWindow::new(nanosecond, IntervalMonthDayNano::ZERO).is_err(), "times are microseconds");
    }

    #[test]
    fn times_at_the_ends_of_the_range_have_a_window_or_none_but_never_overflow() {
        for size in [(0, 0, 3600), (0, 7, 0), (1, 0, 0), (i32::MAX, 0, 0), (0, i32::MAX, 0)] {
            for offset in [(0, 0, 0), (0, 0, 1)] {
                for time in [i64::MIN, i64::MIN + 1, -1, 0, 1, i64::MAX - 1, i64::MAX] {
                    let Ok(window) = window(size, offset) else { continue };
                    let Some(start) = window.start(time) else { continue };
                    assert!(start <= time, "{size:?}: {start} > {time}");
                    assert!(window.end(start).is_none_or(|end| time < end), "{size:?}: {time} after the end");
                }
            }
        }
    }
}
