//! `date_trunc` for events of any year.
//!
//! DataFusion's counts in nanoseconds and fails on times before 1677 or after 2262. In a view such a failure is final: one
//! event of the year 2999 would stop it. For the platform's own timestamps, which are UTC, truncating is a tumbling window.

use std::sync::Arc;

use arrow::array::{AsArray, PrimitiveArray};
use arrow::datatypes::{DataType, FieldRef, IntervalMonthDayNano, TimestampMicrosecondType};
use datafusion::common::{ScalarValue, exec_datafusion_err};
use datafusion::error::Result;
use datafusion::logical_expr::sort_properties::{ExprProperties, SortProperties};
use datafusion::logical_expr::{
    ColumnarValue, ReturnFieldArgs, ScalarFunctionArgs, ScalarUDF, ScalarUDFImpl, Signature,
};

use crate::definition::TumblingWindow;
use crate::event::timestamp_type;

/// `function`, which is DataFusion's `date_trunc`, with an exact way of its own for the platform's timestamps.
pub(super) fn date_trunc_of_any_year(function: Arc<ScalarUDF>) -> ScalarUDF {
    ScalarUDF::new_from_impl(DateTrunc { function })
}

#[derive(Debug, PartialEq, Eq, Hash)]
struct DateTrunc {
    function: Arc<ScalarUDF>,
}

impl ScalarUDFImpl for DateTrunc {
    fn name(&self) -> &str {
        self.function.name()
    }

    fn aliases(&self) -> &[String] {
        self.function.aliases()
    }

    fn signature(&self) -> &Signature {
        self.function.signature()
    }

    fn return_type(&self, arg_types: &[DataType]) -> Result<DataType> {
        self.function.return_type(arg_types)
    }

    fn return_field_from_args(&self, args: ReturnFieldArgs) -> Result<FieldRef> {
        self.function.return_field_from_args(args)
    }

    fn output_ordering(&self, inputs: &[ExprProperties]) -> Result<SortProperties> {
        self.function.output_ordering(inputs)
    }

    fn invoke_with_args(&self, args: ScalarFunctionArgs) -> Result<ColumnarValue> {
        let window = match args.args.as_slice() {
            [ColumnarValue::Scalar(unit), time] if time.data_type() == timestamp_type() => {
                unit.try_as_str().flatten().and_then(window)
            }
            _ => None,
        };
        let Some(window) = window else { return self.function.invoke_with_args(args) };
        let start = |time| {
            let start = window.start(time);
            start.ok_or_else(|| exec_datafusion_err!("{time} us since 1970 are beyond the calendar of date_trunc"))
        };
        Ok(match &args.args[1] {
            ColumnarValue::Scalar(ScalarValue::TimestampMicrosecond(time, zone)) => {
                ColumnarValue::Scalar(ScalarValue::TimestampMicrosecond(time.map(start).transpose()?, zone.clone()))
            }
            times => {
                let times = times.to_array(args.number_rows)?;
                let starts: PrimitiveArray<TimestampMicrosecondType> =
                    times.as_primitive::<TimestampMicrosecondType>().try_unary(start)?;
                ColumnarValue::Array(Arc::new(starts.with_data_type(timestamp_type())))
            }
        })
    }
}

/// The windows whose starts truncate to `unit`, if it is one of `date_trunc`'s.
fn window(unit: &str) -> Option<TumblingWindow> {
    const SECOND: i64 = 1_000_000_000;
    // The epoch was a Thursday, and weeks start on Monday.
    let (months, days, nanoseconds, offset_days) = match unit.to_ascii_lowercase().as_str() {
        "microsecond" => (0, 0, 1_000, 0),
        "millisecond" => (0, 0, 1_000_000, 0),
        "second" => (0, 0, SECOND, 0),
        "minute" => (0, 0, 60 * SECOND, 0),
        "hour" => (0, 0, 3600 * SECOND, 0),
        "day" => (0, 1, 0, 0),
        "week" => (0, 7, 0, 4),
        "month" => (1, 0, 0, 0),
        "quarter" => (3, 0, 0, 0),
        "year" => (12, 0, 0, 0),
        _ => return None,
    };
    let size = IntervalMonthDayNano::new(months, days, nanoseconds);
    TumblingWindow::new(size, IntervalMonthDayNano::new(0, offset_days, 0)).ok()
}

#[cfg(test)]
mod tests {
    use std::error::Error;

    use arrow::util::display::array_value_to_string;
    use datafusion::execution::runtime_env::RuntimeEnv;
    use datafusion::prelude::SessionContext;

    use super::super::plan_session;

    const UNITS: [&str; 10] =
        ["microsecond", "millisecond", "second", "minute", "hour", "day", "week", "month", "quarter", "year"];

    /// The one value of a query over our session, or DataFusion's own.
    async fn value(sql: &str, ours: bool) -> Result<String, Box<dyn Error>> {
        let context = match ours {
            true => SessionContext::new_with_state(plan_session(1, RuntimeEnv::default().into())),
            false => SessionContext::new(),
        };
        let batches = context.sql(sql).await?.collect().await?;
        Ok(array_value_to_string(batches.first().ok_or("no rows")?.column(0), 0)?)
    }

    fn truncated(unit: &str, time: &str) -> String {
        let time = format!("arrow_cast('{time}', 'Timestamp(Microsecond, Some(\"UTC\"))')");
        format!("SELECT date_trunc('{unit}', t) FROM (VALUES ({time})) AS v (t)")
    }

    #[tokio::test]
    async fn dates_are_truncated_as_by_datafusion_where_that_can() -> Result<(), Box<dyn Error>> {
        for unit in UNITS.into_iter().chain(["QUARTER"]) {
            for time in
                ["2024-12-31T23:59:59.123456", "1969-12-31T23:59:59.999999", "1970-01-01T00:00:00", "2021-01-03"]
            {
                let sql = truncated(unit, time);
                assert_eq!(value(&sql, true).await?, value(&sql, false).await?, "{sql}");
            }
        }
        Ok(())
    }

    #[tokio::test]
    async fn dates_of_any_year_are_truncated() -> Result<(), Box<dyn Error>> {
        for (unit, time, expected) in [
            ("month", "2999-12-31T23:59:59.999999", "2999-12-01T00:00:00Z"),
            ("week", "2999-12-31T12:00:00", "2999-12-30T00:00:00Z"),
            ("year", "0001-02-03T04:05:06", "0001-01-01T00:00:00Z"),
            ("day", "9999-12-31T23:59:59.999999", "9999-12-31T00:00:00Z"),
            ("hour", "1066-10-14T09:30:00", "1066-10-14T09:00:00Z"),
        ] {
            assert_eq!(value(&truncated(unit, time), true).await?, expected);
        }
        let unknown = value(&truncated("fortnight", "2024-01-01"), true).await;
        assert!(unknown.is_err_and(|error| error.to_string().contains("fortnight")));
        Ok(())
    }
}
