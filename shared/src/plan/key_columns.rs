//! Which columns of the events do nothing but name a view's groups.

use std::collections::BTreeSet;

use datafusion::common::Column;
use datafusion::error::Result;
use datafusion::logical_expr::{Expr, LogicalPlan};

/// Indices, in the table below `input`, of the columns that reach the aggregate over `input` only as bare keys:
/// no filter, no expression and no aggregate reads them. Ascending.
///
/// Such a column may come in any type whose values group alike, because nothing computes with it.
pub(super) fn key_only_columns(input: &LogicalPlan, keys: &[Expr], calls: &[Expr]) -> Result<Vec<usize>> {
    let mut read = BTreeSet::new();
    let origins = origins(input, &mut read, &bare_column)?;
    let mut named = BTreeSet::new();
    for key in keys {
        match bare_column(key) {
            Some(column) => named.extend(origins[input.schema().index_of_column(column)?]),
            None => read_by(key, input, &origins, &mut read)?,
        }
    }
    for call in calls {
        read_by(call, input, &origins, &mut read)?;
    }
    Ok(named.difference(&read).copied().collect())
}

/// For each column of `plan` the table's column that it is, if `named` says so of its expressions; `read` gets the columns
/// that something computes with.
pub(super) fn origins(
    plan: &LogicalPlan,
    read: &mut BTreeSet<usize>,
    named: &dyn Fn(&Expr) -> Option<&Column>,
) -> Result<Vec<Option<usize>>> {
    if let LogicalPlan::TableScan(scan) = plan {
        let every = || (0..scan.source.schema().fields().len()).collect();
        return Ok(scan.projection.clone().unwrap_or_else(every).into_iter().map(Some).collect());
    }
    let input = plan.inputs()[0];
    let below = origins(input, read, named)?;
    let LogicalPlan::Projection(projection) = plan else {
        for expr in plan.expressions() {
            read_by(&expr, input, &below, read)?;
        }
        return Ok(below);
    };
    let mut origins = Vec::with_capacity(projection.expr.len());
    for expr in &projection.expr {
        let column = named(expr);
        if column.is_none() {
            read_by(expr, input, &below, read)?;
        }
        origins.push(match column {
            Some(column) => below[input.schema().index_of_column(column)?],
            None => None,
        });
    }
    Ok(origins)
}

fn read_by(expr: &Expr, input: &LogicalPlan, origins: &[Option<usize>], read: &mut BTreeSet<usize>) -> Result<()> {
    for column in expr.column_refs() {
        read.extend(origins[input.schema().index_of_column(column)?]);
    }
    Ok(())
}

/// A column as it stands.
pub(super) fn bare_column(expr: &Expr) -> Option<&Column> {
    match expr {
        Expr::Alias(alias) => bare_column(&alias.expr),
        Expr::Column(column) => Some(column),
        _ => None,
    }
}
