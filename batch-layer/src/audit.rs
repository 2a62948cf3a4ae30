//! The check at every handoff: did the realtime view say what the batch view now says?
//!
//! The old batch view merged with the segments that the new one supersedes must give the rows of the new batch view. Both
//! sides are finished and sorted by key, then walked together; memory stays at a batch a side.

use std::cmp::Ordering;
use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, DynComparator, RecordBatch, make_comparator};
use arrow::buffer::NullBuffer;
use arrow::compute::SortOptions;
use arrow::datatypes::{DataType, Float32Type, Float64Type};
use arrow::util::display::array_value_to_string;
use datafusion::execution::SendableRecordBatchStream;
use datafusion::execution::session_state::SessionState;
use futures::StreamExt;
use watershed_shared::plan::{StateParts, ViewPlan};

use crate::error::Result;

/// Floats agree within this part of the larger one: the layers add in another order.
const FLOAT_TOLERANCE: f64 = 1e-6;
/// Differences below this are rounding, whatever the values: variances of equal values are near zero, not zero.
const FLOAT_NOISE: f64 = 1e-6;

/// What a comparison found.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Comparison {
    /// Keys seen on either side.
    pub groups_compared: u64,
    /// Keys whose rows differ, or that one side lacks.
    pub groups_different: u64,
    /// The first difference in words.
    pub first_difference: Option<String>,
}

/// Compares what a view says over `before` with what it says over `after`.
///
/// Exact for integers, decimals, times and strings; floats and quantile estimates within tolerance.
pub async fn compare(
    view: &Arc<ViewPlan>,
    before: StateParts,
    after: StateParts,
    session: &SessionState,
) -> Result<Comparison> {
    let partitions = session.config().target_partitions();
    let rows = |parts| {
        let plan = view.finished_by_key(parts, session.runtime_env(), partitions)?;
        datafusion::physical_plan::execute_stream(plan, session.task_ctx())
    };
    let mut before = Side::new(rows(before)?);
    let mut after = Side::new(rows(after)?);
    let mut comparison = Comparison::default();
    loop {
        let (before_has, after_has) = (before.fill().await?, after.fill().await?);
        match (before_has, after_has) {
            (false, false) => return Ok(comparison),
            (true, false) => before.report_rest(&mut comparison, view, "is missing in the new batch view")?,
            (false, true) => after.report_rest(&mut comparison, view, "is only in the new batch view")?,
            (true, true) => walk(view, &mut before, &mut after, &mut comparison)?,
        }
    }
}

/// One side's rows: a batch and a place in it.
struct Side {
    rows: SendableRecordBatchStream,
    batch: RecordBatch,
    row: usize,
}

impl Side {
    fn new(rows: SendableRecordBatchStream) -> Side {
        Side { batch: RecordBatch::new_empty(rows.schema()), rows, row: 0 }
    }

    /// Makes sure that the current row exists; false at the end.
    async fn fill(&mut self) -> Result<bool> {
        while self.row == self.batch.num_rows() {
            match self.rows.next().await {
                Some(batch) => self.batch = batch?,
                None => return Ok(false),
            }
            self.row = 0;
        }
        Ok(true)
    }

    fn report_rest(&mut self, comparison: &mut Comparison, view: &ViewPlan, what: &str) -> Result<()> {
        comparison.different(|| describe_key(view, &self.batch, self.row), what)?;
        let rest = (self.batch.num_rows() - self.row) as u64;
        comparison.groups_compared += rest;
        comparison.groups_different += rest - 1;
        self.row = self.batch.num_rows();
        Ok(())
    }
}

impl Comparison {
    fn different(&mut self, key: impl FnOnce() -> Result<String>, what: &str) -> Result<()> {
        self.groups_different += 1;
        if self.first_difference.is_none() {
            self.first_difference = Some(format!("group {} {what}", key()?));
        }
        Ok(())
    }
}

/// Walks both batches until one is at its end.
fn walk(view: &ViewPlan, before: &mut Side, after: &mut Side, comparison: &mut Comparison) -> Result<()> {
    let (left, right) = (before.batch.clone(), after.batch.clone());
    let keys = key_comparators(view, &left, &right)?;
    let values = value_matchers(view, &left, &right)?;
    while before.row < left.num_rows() && after.row < right.num_rows() {
        let (i, j) = (before.row, after.row);
        comparison.groups_compared += 1;
        match compare_keys(&keys, i, j) {
            Ordering::Less => {
                comparison.different(|| describe_key(view, &left, i), "is missing in the new batch view")?;
                before.row += 1;
            }
            Ordering::Greater => {
                comparison.different(|| describe_key(view, &right, j), "is only in the new batch view")?;
                after.row += 1;
            }
            Ordering::Equal => {
                let differing = values.iter().position(|matches| !matches(i, j));
                if let Some(column) = differing.map(|value| view.key_count() + value) {
                    let (old, new) = (left.column(column), right.column(column));
                    let what = format!(
                        "was {} and is {} in aggregate {}",
                        array_value_to_string(old, i)?,
                        array_value_to_string(new, j)?,
                        column - view.key_count() + 1,
                    );
                    comparison.different(|| describe_key(view, &left, i), &what)?;
                }
                before.row += 1;
                after.row += 1;
            }
        }
    }
    Ok(())
}

fn key_comparators(view: &ViewPlan, left: &RecordBatch, right: &RecordBatch) -> Result<Vec<DynComparator>> {
    // As the rows are sorted.
    let options = SortOptions { descending: false, nulls_first: false };
    let keys = 0..view.key_count();
    Ok(keys.map(|key| make_comparator(left.column(key), right.column(key), options)).collect::<Result<_, _>>()?)
}

fn compare_keys(keys: &[DynComparator], i: usize, j: usize) -> Ordering {
    keys.iter().map(|compare| compare(i, j)).find(|order| order.is_ne()).unwrap_or(Ordering::Equal)
}

type Matcher = Box<dyn Fn(usize, usize) -> bool + Send + Sync>;

fn value_matchers(view: &ViewPlan, left: &RecordBatch, right: &RecordBatch) -> Result<Vec<Matcher>> {
    let values = view.key_count()..left.num_columns();
    let matcher = |column: usize| match view.is_estimate(column - view.key_count()) {
        true => Ok(presence_matcher(left.column(column), right.column(column))),
        false => value_matcher(left.column(column), right.column(column)),
    };
    values.map(matcher).collect()
}

/// Quantile estimates: digests merged in another order differ within an error of rank, which says nothing of values. So
/// only whether there is one is compared.
fn presence_matcher(left: &ArrayRef, right: &ArrayRef) -> Matcher {
    let (left, right) = (left.logical_nulls(), right.logical_nulls());
    let is_null = |nulls: &Option<NullBuffer>, row| nulls.as_ref().is_some_and(|nulls| nulls.is_null(row));
    Box::new(move |i, j| is_null(&left, i) == is_null(&right, j))
}

fn value_matcher(left: &ArrayRef, right: &ArrayRef) -> Result<Matcher> {
    let nulls = |left: &dyn Array, right: &dyn Array, i, j| match (left.is_null(i), right.is_null(j)) {
        (false, false) => None,
        (left, right) => Some(left == right),
    };
    Ok(match left.data_type() {
        DataType::Float64 => {
            let (left, right) =
                (left.as_primitive::<Float64Type>().clone(), right.as_primitive::<Float64Type>().clone());
            Box::new(move |i, j| {
                nulls(&left, &right, i, j).unwrap_or_else(|| close(left.value(i), right.value(j), FLOAT_TOLERANCE))
            })
        }
        DataType::Float32 => {
            let (left, right) =
                (left.as_primitive::<Float32Type>().clone(), right.as_primitive::<Float32Type>().clone());
            Box::new(move |i, j| {
                let close = || close(left.value(i).into(), right.value(j).into(), FLOAT_TOLERANCE);
                nulls(&left, &right, i, j).unwrap_or_else(close)
            })
        }
        _ => {
            let compare = make_comparator(left, right, SortOptions::default())?;
            Box::new(move |i, j| compare(i, j).is_eq())
        }
    })
}

fn close(left: f64, right: f64, tolerance: f64) -> bool {
    // Infinities and NaN are equal to themselves only.
    if left == right || (left.is_nan() && right.is_nan()) {
        return true;
    }
    (left - right).is_finite() && (left - right).abs() <= FLOAT_NOISE.max(tolerance * left.abs().max(right.abs()))
}

fn describe_key(view: &ViewPlan, batch: &RecordBatch, row: usize) -> Result<String> {
    let values = (0..view.key_count()).map(|key| array_value_to_string(batch.column(key), row));
    Ok(format!("({})", values.collect::<Result<Vec<_>, _>>()?.join(", ")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn floats_agree_within_rounding_and_only_then() {
        assert!(close(1e12, 1e12 + 1.0, FLOAT_TOLERANCE));
        assert!(!close(1.0, 1.001, FLOAT_TOLERANCE));
        assert!(close(0.0, 1e-9, FLOAT_TOLERANCE));
        assert!(close(f64::NAN, f64::NAN, FLOAT_TOLERANCE));
        assert!(!close(f64::NAN, 1.0, FLOAT_TOLERANCE));
        assert!(close(f64::INFINITY, f64::INFINITY, FLOAT_TOLERANCE));
        assert!(!close(f64::INFINITY, 1e300, FLOAT_TOLERANCE));
    }
}
