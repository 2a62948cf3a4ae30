//! The truth: a view's query run once, by plain DataFusion, over the events that the clients know to be accepted.

use std::sync::Arc;

use anyhow::{Context, Result, bail};
use arrow::array::RecordBatch;
use datafusion::datasource::MemTable;
use datafusion::execution::context::SessionContext;
use datafusion::execution::runtime_env::RuntimeEnv;
use datafusion::sql::parser::Statement as ParsedStatement;
use datafusion::sql::sqlparser::ast;
use watershed_shared::definition::{Statement, parse_definitions};
use watershed_shared::plan::plan_session;
use watershed_shared::source::SourceDefinition;

/// The rows of a view's definition over `events`, which have the source's event schema.
pub(super) async fn one_pass(
    definition: &str,
    source: &SourceDefinition,
    events: &RecordBatch,
) -> Result<Vec<RecordBatch>> {
    let Some(Statement::View(view)) = parse_definitions(definition)?.pop() else { bail!("not a view: {definition}") };
    let context = SessionContext::new_with_state(plan_session(1, Arc::new(RuntimeEnv::default())));
    let table = MemTable::try_new(Arc::clone(&source.event_schema), vec![vec![events.clone()]])?;
    context.register_table(source.name.as_str(), Arc::new(table))?;
    let query = ast::Statement::Query(Box::new(view.bind(source)?));
    let plan = context.state().statement_to_plan(ParsedStatement::Statement(Box::new(query))).await?;
    context.execute_logical_plan(plan).await?.collect().await.with_context(|| definition.to_owned())
}
