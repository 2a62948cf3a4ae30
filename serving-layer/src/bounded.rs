//! A bound on functions that make a text of any length from a number.
//!
//! `lpad('a', 2000000000, 'b')` allocates in one call, outside the memory of queries and out of the deadline's reach.

use std::sync::Arc;

use arrow::array::{AsArray, Int64Array};
use arrow::compute::{cast, sum};
use arrow::datatypes::{DataType, FieldRef, Int64Type};
use datafusion::common::exec_err;
use datafusion::error::Result;
use datafusion::logical_expr::{
    ColumnarValue, ReturnFieldArgs, ScalarFunctionArgs, ScalarUDF, ScalarUDFImpl, Signature,
};

/// Most characters that one call may make for a batch of rows.
const LENGTH_MAX: i64 = 16 << 20;

/// `function`, whose second argument is a length or a number of copies, with a bound on what it makes.
pub(crate) fn bounded_length(function: Arc<ScalarUDF>) -> ScalarUDF {
    ScalarUDF::new_from_impl(BoundedLength { function })
}

#[derive(Debug, PartialEq, Eq, Hash)]
struct BoundedLength {
    function: Arc<ScalarUDF>,
}

impl ScalarUDFImpl for BoundedLength {
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

    fn coerce_types(&self, arg_types: &[DataType]) -> Result<Vec<DataType>> {
        self.function.coerce_types(arg_types)
    }

    fn invoke_with_args(&self, args: ScalarFunctionArgs) -> Result<ColumnarValue> {
        if let Some(count) = args.args.get(1) {
            let widths = match args.args.first() {
                // Copies of a text are as long as the text each.
                Some(text) if self.name() == "repeat" => longest_text_bytes(text)?,
                _ => 1,
            };
            let made = total(count, args.number_rows)?.saturating_mul(widths);
            if made > LENGTH_MAX {
                return exec_err!(
                    "{}() would make {made} characters for {} rows; {LENGTH_MAX} are allowed",
                    self.name(),
                    args.number_rows
                );
            }
        }
        self.function.invoke_with_args(args)
    }
}

/// Sum of the positive counts of all rows; a single value counts for every row.
fn total(counts: &ColumnarValue, rows: usize) -> Result<i64> {
    let array = counts.to_array(1)?;
    let array = cast(&array, &DataType::Int64)?;
    let positive: Int64Array = array.as_primitive::<Int64Type>().unary(|count| count.clamp(0, i64::from(u32::MAX)));
    let sum = sum(&positive).unwrap_or_default();
    let each = if matches!(counts, ColumnarValue::Scalar(_)) { rows as i64 } else { 1 };
    Ok(sum.saturating_mul(each))
}

/// Bytes of the longest text.
fn longest_text_bytes(texts: &ColumnarValue) -> Result<i64> {
    let array = cast(&texts.to_array(1)?, &DataType::Utf8)?;
    let longest = array.as_string::<i32>().iter().flatten().map(str::len).max();
    Ok(longest.unwrap_or_default() as i64)
}

#[cfg(test)]
mod tests {
    use datafusion::error::Result;
    use datafusion::functions::unicode::lpad;
    use datafusion::logical_expr::registry::FunctionRegistry;
    use datafusion::prelude::SessionContext;

    use super::bounded_length;

    #[tokio::test]
    async fn long_texts_are_refused_before_they_are_made() -> Result<()> {
        let context = SessionContext::new();
        context.state_ref().write().register_udf(bounded_length(lpad()).into())?;
        let rows = context.sql("SELECT lpad('a', 5, 'b') AS padded").await?.collect().await?;
        assert_eq!(rows.first().map(|batch| batch.num_rows()), Some(1));
        let refused = match context.sql("SELECT lpad('a', 2000000000, 'b')").await {
            Ok(frame) => frame.collect().await.err(),
            Err(error) => Some(error),
        };
        assert!(refused.is_some_and(|error| error.to_string().contains("are allowed")));
        Ok(())
    }
}
