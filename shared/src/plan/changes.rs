//! The rows of a view that some events have changed: what sinks send.

use std::collections::BTreeSet;
use std::sync::Arc;

use arrow::array::{Array, ArrayRef, RecordBatch};
use arrow::compute::{SortOptions, sort_to_indices};
use arrow::datatypes::{IntervalMonthDayNano, Schema};
use datafusion::common::tree_node::{Transformed, TreeNode};
use datafusion::common::{Column, NullEquality, ScalarValue};
use datafusion::datasource::provider_as_source;
use datafusion::error::{DataFusionError, Result};
use datafusion::logical_expr::{BinaryExpr, Expr, JoinType, LogicalPlan, LogicalPlanBuilder, Operator, lit};

use super::finished::StateParts;
use super::key_columns::{bare_column, origins};
use super::rows::{MemoryRows, RowTable};
use super::stages::{ViewKind, ViewPlan};
use crate::definition::{TumblingWindow, WindowSize};

/// The one key of a view that is a window.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WindowKey {
    /// Its place among the keys.
    pub(super) key: usize,
    /// Size and offset.
    pub window: TumblingWindow,
    /// The source's column that the windows are over; `None` for an expression.
    pub time: Option<String>,
}

/// Up to so many groups are looked for one by one, more in the range between the least and the greatest.
const LISTED_MAX: usize = 64;

impl ViewPlan {
    /// The window that the view groups by.
    pub fn window(&self) -> Option<&WindowKey> {
        self.window.as_ref()
    }

    /// For each key that the definition names, the output column that tells it, if one does.
    ///
    /// # Errors
    /// None that a compiled view has.
    pub fn key_outputs(&self) -> Result<Vec<Option<usize>>> {
        let bare = origins(&self.finish, &mut BTreeSet::new(), &bare_column)?;
        let size = self.window.as_ref().map(|window| window.window.size());
        let ends = origins(&self.finish, &mut BTreeSet::new(), &|expr| bare_or_end(expr, size))?;
        let named = if self.is_without_keys() { 0 } else { self.key_count };
        let output = |key: usize| {
            // A window's end tells it as well as its start.
            let is_window = self.window.as_ref().is_some_and(|window| window.key == key);
            let end = || ends.iter().position(|origin| *origin == Some(key)).filter(|_| is_window);
            bare.iter().position(|origin| *origin == Some(key)).or_else(end)
        };
        Ok((0..named).map(output).collect())
    }

    /// The rows over `parts` of the groups that occur in `changes`, state rows of which only the keys matter. Of a view
    /// without GROUP BY, the rows that `changes` are.
    ///
    /// # Errors
    /// Keys that cannot be compared.
    pub fn changed_rows(self: &Arc<Self>, parts: StateParts, changes: Vec<RecordBatch>) -> Result<LogicalPlan> {
        if matches!(self.kind, ViewKind::Rows) {
            return self.query(StateParts { runs: changes, ..StateParts::default() });
        }
        let rows = self.query(parts)?;
        if self.is_without_keys() {
            return Ok(rows);
        }
        let fields = self.state_schema.fields()[..self.key_count].to_vec();
        let keys: Vec<usize> = (0..self.key_count).collect();
        let changes = changes.iter().map(|batch| batch.project(&keys)).collect::<Result<Vec<_>, _>>()?;
        let near = near(&changes)?;
        let changed = RowTable(Arc::new(MemoryRows::new(Arc::new(Schema::new(fields)), changes)));
        let changed = LogicalPlanBuilder::scan("changed", provider_as_source(Arc::new(changed)), None)?.build()?;
        over_scan(rows, |scan| {
            let columns = |plan: &LogicalPlan| -> Vec<Column> {
                keys.iter().map(|key| Column::from(plan.schema().qualified_field(*key))).collect()
            };
            let (left, right) = (columns(&scan), columns(&changed));
            let mut rows = LogicalPlanBuilder::from(scan);
            if let Some(near) = &near {
                rows = rows.filter(near.predicate(Expr::Column(left[0].clone())))?;
            }
            let nulls = NullEquality::NullEqualsNull;
            rows.join_detailed(changed.clone(), JoinType::LeftSemi, (left, right), None, nulls)?.build()
        })
    }

    /// The output columns `columns` of the groups in `changes` that have no row over `parts`; `None` if each group has one.
    ///
    /// # Errors
    /// As [`ViewPlan::changed_rows`].
    pub fn vanished_keys(
        self: &Arc<Self>,
        parts: StateParts,
        changes: Vec<RecordBatch>,
        columns: &[usize],
    ) -> Result<Option<LogicalPlan>> {
        let drops_groups = self.finish.exists(|plan| Ok(matches!(plan, LogicalPlan::Filter(_))))?;
        if !drops_groups || columns.is_empty() {
            return Ok(None);
        }
        let changed = self.query(StateParts { runs: changes.clone(), ..StateParts::default() })?;
        let changed = changed.transform_up(|node| match node {
            LogicalPlan::Filter(filter) => Ok(Transformed::yes(Arc::unwrap_or_clone(filter.input))),
            other => Ok(Transformed::no(other)),
        })?;
        let keys_of = |plan: LogicalPlan, name: &str| -> Result<LogicalPlan> {
            let keys = columns.iter().map(|&column| {
                let (qualifier, field) = plan.schema().qualified_field(column);
                Expr::Column(Column::from((qualifier, field))).alias(field.name())
            });
            let keys: Vec<Expr> = keys.collect();
            LogicalPlanBuilder::from(plan).project(keys)?.alias(name)?.build()
        };
        let changed = keys_of(changed.data, "changed")?;
        let present = keys_of(self.changed_rows(parts, changes)?, "present")?;
        let names = |plan: &LogicalPlan| plan.schema().columns();
        let on = (names(&changed), names(&present));
        let vanished = LogicalPlanBuilder::from(changed)
            .join_detailed(present, JoinType::LeftAnti, on, None, NullEquality::NullEqualsNull)?
            .distinct()?;
        Ok(Some(vanished.build()?))
    }

    /// The rows over `parts` of the windows that start at or after `from` and before `until`, in microseconds since the epoch.
    ///
    /// # Errors
    /// A view without a window.
    pub fn rows_of_windows(self: &Arc<Self>, parts: StateParts, from: Option<i64>, until: i64) -> Result<LogicalPlan> {
        let no_window = || DataFusionError::Plan(format!("view \"{}\" has no window", self.name));
        let key = self.window.as_ref().ok_or_else(no_window)?.key;
        over_scan(self.query(parts)?, |scan| {
            let (qualifier, field) = scan.schema().qualified_field(key);
            let start = Expr::Column(Column::from((qualifier, field)));
            let time = |us: i64| ScalarValue::TimestampMicrosecond(Some(us), None).cast_to(field.data_type()).map(lit);
            let mut inside = start.clone().lt(time(until)?);
            if let Some(from) = from {
                inside = inside.and(start.gt_eq(time(from)?));
            }
            LogicalPlanBuilder::from(scan).filter(inside)?.build()
        })
    }

    fn is_without_keys(&self) -> bool {
        matches!(&self.kind, ViewKind::Aggregate(aggregation) if aggregation.empty_state.is_some())
    }
}

/// Where the first keys of some groups lie, so that files need not be read for others.
enum Near {
    Listed(Vec<ScalarValue>),
    Between { least: ScalarValue, greatest: ScalarValue, has_null: bool },
}

impl Near {
    fn predicate(&self, key: Expr) -> Expr {
        match self {
            Near::Listed(values) => {
                let null = values.iter().any(ScalarValue::is_null).then(|| key.clone().is_null());
                let values: Vec<Expr> = values.iter().filter(|value| !value.is_null()).cloned().map(lit).collect();
                let listed = key.in_list(values, false);
                null.map_or(listed.clone(), |null| listed.or(null))
            }
            Near::Between { least, greatest, has_null } => {
                let between = key.clone().gt_eq(lit(least.clone())).and(key.clone().lt_eq(lit(greatest.clone())));
                if *has_null { between.or(key.is_null()) } else { between }
            }
        }
    }
}

/// `None` if that says nothing.
fn near(changes: &[RecordBatch]) -> Result<Option<Near>> {
    let first: Vec<&dyn Array> = changes.iter().map(|batch| batch.column(0).as_ref()).collect();
    if first.is_empty() {
        return Ok(None);
    }
    let first: ArrayRef = arrow::compute::concat(&first)?;
    if first.data_type().is_nested() || first.null_count() == first.len() {
        return Ok(None);
    }
    if first.len() <= LISTED_MAX {
        let mut values: Vec<ScalarValue> = Vec::new();
        for row in 0..first.len() {
            let value = ScalarValue::try_from_array(&first, row)?;
            if !values.contains(&value) {
                values.push(value);
            }
        }
        return Ok(Some(Near::Listed(values)));
    }
    let extreme = |descending: bool| -> Result<ScalarValue> {
        let order = SortOptions { descending, nulls_first: false };
        let index = sort_to_indices(&first, Some(order), Some(1))?;
        ScalarValue::try_from_array(&first, index.value(0) as usize)
    };
    let (least, greatest) = (extreme(false)?, extreme(true)?);
    Ok(Some(Near::Between { least, greatest, has_null: first.null_count() > 0 }))
}

/// `plan` with its one table replaced by what `change` makes of it.
fn over_scan(plan: LogicalPlan, change: impl Fn(LogicalPlan) -> Result<LogicalPlan>) -> Result<LogicalPlan> {
    let changed = plan.transform_up(|node| match node {
        scan @ LogicalPlan::TableScan(_) => Ok(Transformed::yes(change(scan)?)),
        other => Ok(Transformed::no(other)),
    })?;
    Ok(changed.data)
}

/// A column as it stands, or plus a window's size: if it is a window's start, that tells the window too.
fn bare_or_end(expr: &Expr, size: Option<WindowSize>) -> Option<&Column> {
    match expr {
        Expr::Alias(alias) => bare_or_end(&alias.expr, size),
        Expr::BinaryExpr(BinaryExpr { left, op: Operator::Plus, right }) => match right.as_ref() {
            Expr::Literal(ScalarValue::IntervalMonthDayNano(Some(interval)), _) if is_size(*interval, size?) => {
                bare_column(left)
            }
            _ => None,
        },
        other => bare_column(other),
    }
}

fn is_size(interval: IntervalMonthDayNano, size: WindowSize) -> bool {
    let day_time_us = i64::from(interval.days) * 86_400_000_000 + interval.nanoseconds / 1_000;
    match size {
        WindowSize::Micros(size_us) => interval.months == 0 && day_time_us == size_us,
        WindowSize::Months(months) => day_time_us == 0 && i64::from(interval.months) == i64::from(months),
    }
}
