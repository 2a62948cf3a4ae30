//! Are two results the same rows, in whatever order?

use anyhow::Result;
use arrow::array::{Array, ArrayRef, AsArray, RecordBatch, UInt32Array};
use arrow::compute::take;
use arrow::datatypes::{DataType, Float64Type};
use arrow::row::{RowConverter, Rows, SortField};
use arrow::util::display::array_value_to_string;

/// Largest difference of two equal floats, relative to the larger.
const TOLERANCE: f64 = 1e-9;

/// In words, the first way in which `answer` is not `truth`; `None` when they are equal.
///
/// Rows are matched by their columns that are no floats, so these must tell rows apart, as a view's keys do.
///
/// # Errors
/// When a column's type cannot be compared.
pub(super) fn first_difference(answer: &RecordBatch, truth: &RecordBatch) -> Result<Option<String>> {
    if columns(answer) != columns(truth) {
        return Ok(Some(format!("its columns are {:?}, in truth {:?}", columns(answer), columns(truth))));
    }
    if answer.num_rows() != truth.num_rows() {
        return Ok(Some(format!("it has {} rows, in truth {}", answer.num_rows(), truth.num_rows())));
    }
    let (answer, truth) = (Sorted::new(answer)?, Sorted::new(truth)?);
    for row in 0..truth.order.len() {
        for column in 0..truth.batch.num_columns() {
            if !same(&answer, &truth, row, column)? {
                let (answer, truth) = (answer.row_text(row)?, truth.row_text(row)?);
                return Ok(Some(format!("it says {answer}, in truth {truth}")));
            }
        }
    }
    Ok(None)
}
