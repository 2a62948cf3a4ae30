//! INTERVAL literals of definitions, read exactly as DataFusion reads them in queries.

use arrow::compute::kernels::cast_utils::{IntervalParseConfig, IntervalUnit, parse_interval_month_day_nano_config};
use arrow::datatypes::IntervalMonthDayNano;
use datafusion::sql::sqlparser::ast::{Expr, Interval, Value};

use super::text::shorten;

/// A day in UTC, which has no summer time and whose leap seconds timestamps do not count.
const MICROS_PER_DAY: i128 = 24 * 60 * 60 * 1_000_000;

/// The value of an INTERVAL literal; `Err` says why `expr` is none.
pub(super) fn interval_literal(expr: &Expr) -> Result<IntervalMonthDayNano, String> {
    let Expr::Interval(Interval {
        value,
        leading_field,
        leading_precision: None,
        last_field: None,
        fractional_seconds_precision: None,
    }) = expr
    else {
        return Err(format!("{} is not an INTERVAL literal", shorten(&expr.to_string())));
    };
    let amount = match value.as_ref() {
        Expr::Value(value) => match &value.value {
            Value::SingleQuotedString(text) | Value::Number(text, false) => text,
            _ => return Err(format!("{} is not an INTERVAL literal", shorten(&expr.to_string()))),
        },
        _ => return Err(format!("{} is not an INTERVAL literal", shorten(&expr.to_string()))),
    };
    let text = match leading_field {
        Some(unit) => format!("{amount} {unit}"),
        None => amount.clone(),
    };
    parse_interval(&text)
}

/// The interval that a text such as `1 day 6 hours` says; `Err` says why it says none.
pub(super) fn parse_interval(text: &str) -> Result<IntervalMonthDayNano, String> {
    // DataFusion would take a bare number as seconds; nobody who reads `INTERVAL '10'` can know that.
    if !text.contains(|c: char| c.is_alphabetic() || c == ':') {
        return Err(format!("INTERVAL '{}' has no unit", shorten(text)));
    }
    parse_interval_month_day_nano_config(text, IntervalParseConfig::new(IntervalUnit::Second))
        .map_err(|_| format!("INTERVAL '{}' is not an interval", shorten(text)))
}

/// Days and time of an interval in microseconds; `None` if it has a fraction of one or does not fit.
pub(super) fn day_time_micros(interval: IntervalMonthDayNano) -> Option<i64> {
    let micros = interval.nanoseconds / 1_000;
    if micros * 1_000 != interval.nanoseconds {
        return None;
    }
    i64::try_from(i128::from(interval.days) * MICROS_PER_DAY + i128::from(micros)).ok()
}
