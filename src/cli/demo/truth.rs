//! The truth about a view: its SQL, run once by plain DataFusion over exactly the events below an answer's offsets.
//!
//! No state, run, batch view or boundary is involved, and of the platform's code only what gives the SQL its meaning:
//! the parser, and the function `tumble`. Integers, text and times must be equal, floats within one part in a
//! thousand million, because sums of floats depend on their order.

use std::collections::BTreeMap;
use std::sync::Arc;

use anyhow::{Context, Result, ensure};
use arrow::array::RecordBatch;
use arrow::compute::concat_batches;
use datafusion::datasource::MemTable;
use datafusion::execution::context::SessionContext;
use datafusion::sql::parser::Statement;
use datafusion::sql::sqlparser::ast;
use watershed_serving_layer::Answer;
use watershed_shared::cpu::CpuPool;
use watershed_shared::log::Partitioner;
use watershed_shared::plan::plan_session;

use super::compare::first_difference;
use super::example::Example;

/// Computes what a view must answer.
#[derive(Debug)]
pub(super) struct Truth {
    source: String,
    queries: BTreeMap<String, ast::Query>,
    /// What each partition's log will hold when all events are sent.
    partitions: Vec<RecordBatch>,
    /// Its own thread: the truth must not take the platform's.
    pool: CpuPool,
}

impl Truth {
    /// The truth about the example's views.
    pub(super) fn new(example: &Example) -> Result<Truth> {
        let source = &example.source;
        let mut partitions = vec![example.events.slice(0, 0); source.partitions as usize];
        for (partition, events) in Partitioner::new(source)?.split(&example.events)? {
            partitions[partition.index()] = events;
        }
        let mut queries = BTreeMap::new();
        for view in &example.views {
            queries.insert(view.name.clone(), view.bind(source)?);
        }
        let pool = CpuPool::new(1).context("cannot start a thread")?;
        Ok(Truth { source: source.name.clone(), queries, partitions, pool })
    }

    /// Compares an answer to `SELECT * FROM view` with the truth; `None` when they are equal.
    ///
    /// # Errors
    /// When the answer covers events that the example does not have, or the truth cannot be computed.
    pub(super) async fn difference(&self, view: &str, answer: Answer) -> Result<Option<String>> {
        if !answer.complete {
            return Ok(Some("it says that it is incomplete".to_owned()));
        }
        let offsets = answer.as_of.sources.get(&self.source).map(|source| source.offsets.clone()).unwrap_or_default();
        let query = self.queries.get(view).with_context(|| format!("the example has no view \"{view}\""))?.clone();
        let (source, events) = (self.source.clone(), self.events_below(&offsets)?);
        let compared = self.pool.run(async move {
            let truth = run(&source, events, query).await?;
            let answer = concat_batches(&answer.schema, &answer.batches)?;
            first_difference(&answer, &truth)
        });
        let difference = compared.await.with_context(|| format!("cannot compute the truth about {view}"))?;
        Ok(difference.map(|difference| format!("at offsets {offsets:?}, {difference}")))
    }

    fn events_below(&self, offsets: &[u64]) -> Result<Vec<RecordBatch>> {
        let mut below = Vec::with_capacity(self.partitions.len());
        for (partition, events) in self.partitions.iter().enumerate() {
            let count = offsets.get(partition).copied().unwrap_or(0) as usize;
            ensure!(
                count <= events.num_rows(),
                "partition {partition} holds {count} events, but the demo has only {} for it; \
                 ask the demo's platform, but send nothing to it",
                events.num_rows()
            );
            below.push(events.slice(0, count));
        }
        Ok(below)
    }
}

/// Runs a query in one pass over `events`.
async fn run(source: &str, events: Vec<RecordBatch>, query: ast::Query) -> Result<RecordBatch> {
    let schema = events.first().context("the source has no partitions")?.schema();
    let session = SessionContext::new_with_state(plan_session(1, Arc::default()));
    session.register_table(source, Arc::new(MemTable::try_new(schema, vec![events])?))?;
    let statement = Statement::Statement(Box::new(ast::Statement::Query(Box::new(query))));
    let plan = session.state().statement_to_plan(statement).await?;
    let frame = session.execute_logical_plan(plan).await?;
    let schema = Arc::clone(frame.schema().inner());
    let rows = frame.collect().await?;
    let schema = rows.first().map_or(schema, RecordBatch::schema);
    Ok(concat_batches(&schema, &rows)?)
}
