//! The truth: a view's SQL run once, by plain DataFusion, over all accepted events.

use std::sync::Arc;

use anyhow::{Context, Result, bail, ensure};
use arrow::array::{Array, AsArray, RecordBatch};
use arrow::datatypes::{DataType, Float64Type};
use arrow::util::display::{ArrayFormatter, FormatOptions};
use datafusion::datasource::MemTable;
use datafusion::execution::context::SessionContext;
use datafusion::execution::runtime_env::RuntimeEnv;
use datafusion::sql::parser::Statement as ParsedStatement;
use datafusion::sql::sqlparser::ast;
use watershed_shared::definition::{Statement, ViewStatement, parse_definitions};
use watershed_shared::plan::plan_session;
use watershed_shared::source::SourceDefinition;

use super::views::ViewSpec;

/// Rows of `spec` over `events`, which have the source's event schema.
pub(crate) async fn rows(spec: &ViewSpec, source: &SourceDefinition, events: &[RecordBatch]) -> Result<Vec<Row>> {
    let context = SessionContext::new_with_state(plan_session(1, Arc::new(RuntimeEnv::default())));
    let table = MemTable::try_new(Arc::clone(&source.event_schema), vec![events.to_vec()])?;
    context.register_table(source.name.as_str(), Arc::new(table))?;
    let query = statement(&spec.definition_for_one_pass())?.bind(source)?;
    let query = ParsedStatement::Statement(Box::new(ast::Statement::Query(Box::new(query))));
    let plan = context.state().statement_to_plan(query).await?;
    let batches = context.execute_logical_plan(plan).await?.collect().await?;
    to_rows(&batches)
}

/// The one view statement in `sql`.
pub(crate) fn statement(sql: &str) -> Result<ViewStatement> {
    match parse_definitions(sql).with_context(|| sql.to_owned())?.pop() {
        Some(Statement::View(view)) => Ok(view),
        _ => bail!("not a view: {sql}"),
    }
}

/// A row as texts, and as numbers where it has floats.
#[derive(Debug, Clone)]
pub(crate) struct Row {
    pub(crate) texts: Vec<String>,
    floats: Vec<Option<f64>>,
}

impl Row {
    /// Some of the row's columns.
    pub(crate) fn project(&self, columns: &[usize]) -> Row {
        Row {
            texts: columns.iter().map(|&column| self.texts[column].clone()).collect(),
            floats: columns.iter().map(|&column| self.floats[column]).collect(),
        }
    }
}

pub(crate) fn to_rows(batches: &[RecordBatch]) -> Result<Vec<Row>> {
    let options = FormatOptions::default().with_null("NULL");
    let mut rows = Vec::new();
    for batch in batches {
        let columns = batch.columns().iter().map(|column| ArrayFormatter::try_new(column, &options));
        let columns = columns.collect::<Result<Vec<_>, _>>()?;
        for row in 0..batch.num_rows() {
            let float = |column: &Arc<dyn Array>| match column.data_type() {
                DataType::Float64 if column.is_valid(row) => Some(column.as_primitive::<Float64Type>().value(row)),
                _ => None,
            };
            rows.push(Row {
                texts: columns.iter().map(|column| column.value(row).to_string()).collect(),
                floats: batch.columns().iter().map(float).collect(),
            });
        }
    }
    Ok(rows)
}

/// Compares two answers as multisets of rows; `tolerance` is how far each column may be off, as a part of its value.
pub(crate) fn ensure_equal(tolerance: &dyn Fn(usize) -> f64, mut answer: Vec<Row>, mut truth: Vec<Row>) -> Result<()> {
    ensure!(answer.len() == truth.len(), "{} rows instead of {}: {answer:#?} {truth:#?}", answer.len(), truth.len());
    // By what is exact first, so that floats decide nothing unless rows differ in floats only.
    let by_exact = |row: &Row| {
        let exact = row.texts.iter().zip(&row.floats).filter(|(_, float)| float.is_none());
        exact.map(|(text, _)| text.clone()).collect::<Vec<_>>()
    };
    let order = |left: &Row, right: &Row| {
        let floats = |row: &Row| row.floats.iter().flatten().copied().collect::<Vec<f64>>();
        let exact = by_exact(left).cmp(&by_exact(right));
        exact.then_with(|| floats(left).partial_cmp(&floats(right)).unwrap_or(std::cmp::Ordering::Equal))
    };
    answer.sort_by(order);
    truth.sort_by(order);
    for (answer, truth) in answer.iter().zip(&truth) {
        for column in 0..truth.texts.len() {
            let same = match (answer.floats[column], truth.floats[column]) {
                (Some(answer), Some(truth)) => close(answer, truth, tolerance(column)),
                _ => {
                    answer.texts[column] == truth.texts[column]
                        || close_estimates(tolerance(column), column, answer, truth)
                }
            };
            ensure!(same, "column {column}: {answer:?} instead of {truth:?}");
        }
    }
    Ok(())
}

/// Quantiles of integers are integers, and estimates all the same.
fn close_estimates(tolerance: f64, column: usize, answer: &Row, truth: &Row) -> bool {
    let numbers = (answer.texts[column].parse::<f64>(), truth.texts[column].parse::<f64>());
    tolerance > 0.1 && matches!(numbers, (Ok(answer), Ok(truth)) if close(answer, truth, tolerance))
}

fn close(answer: f64, truth: f64, tolerance: f64) -> bool {
    answer == truth
        || (answer.is_nan() && truth.is_nan())
        || (answer - truth).abs() <= tolerance * answer.abs().max(truth.abs()).max(1.0)
}
