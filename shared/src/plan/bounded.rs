//! A bound on functions that make a text of any length from a number.
//!
//! `lpad('a', 2000000000, 'b')` allocates in one call, outside the memory of queries and out of the deadline's reach; in a
//! view, the number may come from an event.

use std::sync::Arc;

use arrow::array::{Array, AsArray, Int64Array};
use arrow::compute::cast;
use arrow::datatypes::{DataType, FieldRef};
use datafusion::common::exec_err;
use datafusion::error::Result;
use datafusion::logical_expr::{
    ColumnarValue, ReturnFieldArgs, ScalarFunctionArgs, ScalarUDF, ScalarUDFImpl, Signature,
};

/// How much a call may make.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum LengthBound {
    /// At most this many characters for all rows of a batch together: for queries, whose batches do not matter.
    EachBatch(i64),
    /// At most this many characters for a row: for views, where the same event must do the same in every batch.
    EachRow(i64),
}

/// `function`, whose second argument is a length or a number of copies, with a bound on what it makes.
pub fn bounded_length(function: Arc<ScalarUDF>, bound: LengthBound) -> ScalarUDF {
    ScalarUDF::new_from_impl(BoundedLength { function, bound })
}

#[derive(Debug, PartialEq, Eq, Hash)]
struct BoundedLength {
    function: Arc<ScalarUDF>,
    bound: LengthBound,
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
        if let [text, count, ..] = args.args.as_slice() {
            // Copies of a text are as long as the text each.
            let text = (self.name() == "repeat").then_some(text);
            let sizes = sizes(text, count, args.number_rows)?;
            let (made, max) = match self.bound {
                LengthBound::EachBatch(max) => (sizes.fold(0, i64::saturating_add), max),
                LengthBound::EachRow(max) => (sizes.max().unwrap_or_default(), max),
            };
            if made > max {
                return exec_err!("{}() would make {made} characters at once; {max} are allowed", self.name());
            }
        }
        self.function.invoke_with_args(args)
    }
}

/// For each row, how many bytes `count` copies of `text`, or of one character, are.
fn sizes(text: Option<&ColumnarValue>, count: &ColumnarValue, rows: usize) -> Result<impl Iterator<Item = i64>> {
    let counts: Int64Array = cast(&count.to_array(1)?, &DataType::Int64)?.as_primitive().clone();
    let texts = text.map(|text| cast(&text.to_array(1)?, &DataType::Utf8)).transpose()?;
    // A single value stands for every row.
    let place = |array: &dyn Array, row| if array.len() == 1 { 0 } else { row };
    Ok((0..rows).map(move |row| {
        let at = place(&counts, row);
        let count = if counts.is_valid(at) { counts.value(at).max(0) } else { 0 };
        let width = texts.as_ref().map_or(1, |texts| texts.as_string::<i32>().value(place(texts, row)).len());
        count.saturating_mul(width as i64)
    }))
}

#[cfg(test)]
mod tests {
    use datafusion::error::Result;
    use datafusion::functions::unicode::lpad;
    use datafusion::logical_expr::registry::FunctionRegistry;
    use datafusion::prelude::SessionContext;

    use super::*;

    async fn rows_of(bound: LengthBound, sql: &str) -> Result<usize> {
        let context = SessionContext::new();
        context.state_ref().write().register_udf(bounded_length(lpad(), bound).into())?;
        Ok(context.sql(sql).await?.collect().await?.iter().map(|batch| batch.num_rows()).sum())
    }

    #[tokio::test]
    async fn long_texts_are_refused_before_they_are_made() -> Result<()> {
        let (batch, row) = (LengthBound::EachBatch(20), LengthBound::EachRow(20));
        let each = "SELECT lpad('a', n, 'b') FROM (VALUES (10), (10), (5)) AS v (n)";
        assert_eq!(rows_of(batch, "SELECT lpad('a', 20, 'b')").await?, 1);
        assert_eq!(rows_of(row, each).await?, 3, "rows do not depend on each other");
        for (bound, sql) in [
            (batch, each),
            (batch, "SELECT lpad('a', 2000000000, 'b')"),
            (row, "SELECT lpad('a', n, 'b') FROM (VALUES (1), (21)) AS v (n)"),
        ] {
            let refused = rows_of(bound, sql).await;
            assert!(refused.is_err_and(|error| error.to_string().contains("20 are allowed")), "{sql}");
        }
        Ok(())
    }
}
