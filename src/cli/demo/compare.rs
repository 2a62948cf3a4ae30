//! Are two results the same rows, in whatever order?

use anyhow::Result;
use arrow::array::{Array, ArrayRef, AsArray, RecordBatch, UInt32Array};
use arrow::compute::{cast, take_record_batch};
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
    let (exact, floats): (Vec<usize>, Vec<usize>) =
        (0..truth.num_columns()).partition(|column| !truth.column(*column).data_type().is_floating());
    let fields = exact.iter().map(|column| SortField::new(truth.column(*column).data_type().clone()));
    let converter = RowConverter::new(fields.collect())?;
    let (answer, answer_keys) = sort(answer, &exact, &converter)?;
    let (truth, truth_keys) = sort(truth, &exact, &converter)?;
    let mut differing = (0..truth.num_rows()).find(|row| answer_keys.row(*row) != truth_keys.row(*row));
    for column in floats {
        let row = first_different_float(answer.column(column), truth.column(column))?;
        differing = differing.into_iter().chain(row).min();
    }
    let Some(row) = differing else { return Ok(None) };
    Ok(Some(format!("it says {}, in truth {}", row_text(&answer, row)?, row_text(&truth, row)?)))
}

fn columns(batch: &RecordBatch) -> Vec<(&str, &DataType)> {
    batch.schema_ref().fields().iter().map(|field| (field.name().as_str(), field.data_type())).collect()
}

/// The rows ordered by the columns `exact`, and these columns in comparable form in the same order.
fn sort(batch: &RecordBatch, exact: &[usize], converter: &RowConverter) -> Result<(RecordBatch, Rows)> {
    let keys = batch.project(exact)?;
    let rows = converter.convert_columns(keys.columns())?;
    let mut order: Vec<u32> = (0..batch.num_rows() as u32).collect();
    order.sort_by_key(|row| rows.row(*row as usize));
    let order = UInt32Array::from(order);
    let sorted = take_record_batch(&keys, &order)?;
    Ok((take_record_batch(batch, &order)?, converter.convert_columns(sorted.columns())?))
}

fn first_different_float(answer: &ArrayRef, truth: &ArrayRef) -> Result<Option<usize>> {
    let (answer, truth) = (cast(answer, &DataType::Float64)?, cast(truth, &DataType::Float64)?);
    let (answer, truth) = (answer.as_primitive::<Float64Type>(), truth.as_primitive::<Float64Type>());
    let differs = |row: &usize| match (answer.is_null(*row), truth.is_null(*row)) {
        (false, false) => !close(answer.value(*row), truth.value(*row)),
        (answer, truth) => answer != truth,
    };
    Ok((0..truth.len()).find(differs))
}

fn close(left: f64, right: f64) -> bool {
    let same = left == right || (left.is_nan() && right.is_nan());
    same || (left - right).abs() <= TOLERANCE * left.abs().max(right.abs())
}

fn row_text(batch: &RecordBatch, row: usize) -> Result<String> {
    let mut values = Vec::with_capacity(batch.num_columns());
    for (field, column) in batch.schema_ref().fields().iter().zip(batch.columns()) {
        let value = if column.is_null(row) { "NULL".to_owned() } else { array_value_to_string(column, row)? };
        values.push(format!("{}={value}", field.name()));
    }
    Ok(format!("({})", values.join(" ")))
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test may panic")]
mod tests {
    use std::sync::Arc;

    use arrow::array::{Float64Array, Int64Array, StringArray};

    use super::*;

    fn rows(carriers: &[&str], flights: &[i64], means: &[Option<f64>]) -> RecordBatch {
        let carriers: ArrayRef = Arc::new(StringArray::from(carriers.to_vec()));
        let flights: ArrayRef = Arc::new(Int64Array::from(flights.to_vec()));
        let means: ArrayRef = Arc::new(Float64Array::from(means.to_vec()));
        RecordBatch::try_from_iter_with_nullable([
            ("carrier", carriers, false),
            ("flights", flights, false),
            ("mean", means, true),
        ])
        .unwrap()
    }

    #[test]
    fn the_same_rows_in_another_order_are_equal_and_floats_nearly() {
        let truth = rows(&["UA", "AA", "DL"], &[5, 7, 7], &[Some(0.3), None, Some(f64::NAN)]);
        let answer = rows(&["DL", "UA", "AA"], &[7, 5, 7], &[Some(f64::NAN), Some(0.1 + 0.2), None]);
        assert_eq!(first_difference(&answer, &truth).unwrap(), None);
        let none = truth.slice(0, 0);
        assert_eq!(first_difference(&none, &none).unwrap(), None);
    }

    #[test]
    fn any_other_value_or_row_or_column_is_a_difference_in_words() {
        let truth = rows(&["AA", "UA"], &[7, 5], &[None, Some(0.5)]);
        let check = |answer: &RecordBatch, expected: &str| {
            let difference = first_difference(answer, &truth).unwrap();
            assert_eq!(difference.as_deref(), Some(expected));
        };
        let in_truth = "in truth (carrier=UA flights=5 mean=0.5)";
        check(
            &rows(&["UA", "AA"], &[6, 7], &[Some(0.5), None]),
            &format!("it says (carrier=UA flights=6 mean=0.5), {in_truth}"),
        );
        check(
            &rows(&["UA", "AA"], &[5, 7], &[Some(0.500001), None]),
            &format!("it says (carrier=UA flights=5 mean=0.500001), {in_truth}"),
        );
        check(
            &rows(&["UA", "AA"], &[5, 7], &[None, None]),
            &format!("it says (carrier=UA flights=5 mean=NULL), {in_truth}"),
        );
        check(&truth.slice(0, 1), "it has 1 rows, in truth 2");
        let fewer = truth.project(&[0, 1]).unwrap();
        assert!(first_difference(&fewer, &truth).unwrap().unwrap().starts_with("its columns are"));
    }
}
