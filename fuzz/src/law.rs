//! The law in small: a view over events in one piece, and over the same events divided between the layers.

use std::sync::{Arc, LazyLock};

use arrow::array::RecordBatch;
use arrow::util::display::{ArrayFormatter, FormatOptions};
use datafusion::error::Result;
use datafusion::execution::runtime_env::RuntimeEnv;
use datafusion::execution::session_state::SessionState;
use datafusion::prelude::SessionContext;
use watershed_shared::event::LogBatch;
use watershed_shared::plan::{MemoryRows, PartialProgram, RowSource, StateParts, ViewPlan, plan_session};
use watershed_shared::position::{Offset, PartitionId};
use watershed_shared::source::SourceDefinition;

static RUNTIME: LazyLock<Arc<RuntimeEnv>> = LazyLock::new(Arc::default);
static SESSION: LazyLock<SessionState> = LazyLock::new(|| plan_session(1, Arc::clone(&RUNTIME)));

/// Events of a source as the log's only partition holds them.
pub(crate) fn logged(source: &SourceDefinition, events: RecordBatch) -> RecordBatch {
    let batch = LogBatch::consecutive(PartitionId(0), Offset::BEGINNING, 1_700_000_000_000_000, events);
    batch.with_system_columns(&source.event_schema).unwrap()
}

/// Checks that a view over `events` is the same when the first `split` of them are in a batch view and the others in two
/// realtime runs, merged or not.
///
/// An event on which the view's SQL fails stops the view in both worlds, so nothing is compared then.
pub(crate) async fn check(plan: &Arc<ViewPlan>, events: &RecordBatch, split: usize) {
    let program = PartialProgram::new(plan, Arc::clone(&RUNTIME)).await.expect("a compiled view has a program");
    let states = async |start: usize, end: usize| program.run(vec![events.slice(start, end - start)]).await;
    let rows = events.num_rows();
    let middle = split + (rows - split) / 2;
    let (Ok(all), Ok(batch), Ok(mut runs), Ok(more)) =
        (states(0, rows).await, states(0, split).await, states(split, middle).await, states(middle, rows).await)
    else {
        return;
    };
    runs.extend(more);
    let Ok(one_pass) = answer(plan, StateParts { runs: all, ..StateParts::default() }).await else { return };
    let batch = stored(plan, batch).await.expect("states can be stored");
    let merged = merged(plan, runs.clone()).await.expect("states can be merged");
    for runs in [runs, merged] {
        let layers =
            answer(plan, StateParts { batch: Some((Arc::clone(&batch), split)), runs, ..StateParts::default() }).await;
        let layers = layers.unwrap_or_else(|error| panic!("{}: one pass answers, the layers: {error}", plan.sql));
        assert_same(plan, &one_pass, &layers);
    }
}

async fn merged(plan: &ViewPlan, runs: Vec<RecordBatch>) -> Result<Vec<RecordBatch>> {
    let states = MemoryRows::new(Arc::clone(plan.state_schema()), runs).plan(None)?;
    let merged = datafusion::physical_plan::collect(plan.merge(states)?, SESSION.task_ctx()).await?;
    let schema = plan.state_schema();
    Ok(merged.into_iter().map(|batch| batch.with_schema(Arc::clone(schema))).collect::<Result<_, _>>()?)
}

/// The states as a batch view holds them.
async fn stored(plan: &ViewPlan, states: Vec<RecordBatch>) -> Result<Arc<dyn RowSource>> {
    let states = MemoryRows::new(Arc::clone(plan.state_schema()), states).plan(None)?;
    let stored = plan.to_stored(plan.merge(states)?)?;
    let stored = datafusion::physical_plan::collect(stored, SESSION.task_ctx()).await?;
    Ok(Arc::new(MemoryRows::new(Arc::clone(plan.stored_schema()), stored)))
}

/// The rows that a query of the whole view gets, as texts.
async fn answer(plan: &Arc<ViewPlan>, parts: StateParts) -> Result<Vec<Vec<String>>> {
    let context = SessionContext::new_with_state(SESSION.clone());
    let batches = context.execute_logical_plan(plan.query(parts)?).await?.collect().await?;
    let options = FormatOptions::new().with_null("NULL");
    let mut rows = Vec::new();
    for batch in batches {
        let columns = batch.columns().iter().map(|column| ArrayFormatter::try_new(column, &options));
        let columns = columns.collect::<Result<Vec<_>, _>>()?;
        rows.extend((0..batch.num_rows()).map(|row| columns.iter().map(|c| c.value(row).to_string()).collect()));
    }
    Ok(rows)
}

/// Checks that there are the same rows, in any order, floats within rounding.
fn assert_same(plan: &ViewPlan, one_pass: &[Vec<String>], layers: &[Vec<String>]) {
    let mut left: Vec<&Vec<String>> = layers.iter().collect();
    for row in one_pass {
        let place = left.iter().position(|other| is_same_row(row, other));
        let place = place.unwrap_or_else(|| panic!("{}\none pass: {one_pass:?}\nlayers:   {layers:?}", plan.sql));
        left.swap_remove(place);
    }
    assert!(left.is_empty(), "{}\none pass: {one_pass:?}\nlayers:   {layers:?}", plan.sql);
}

fn is_same_row(a: &[String], b: &[String]) -> bool {
    let is_same = |(a, b): (&String, &String)| a == b || is_close(a, b).unwrap_or(false);
    a.len() == b.len() && a.iter().zip(b).all(is_same)
}

fn is_close(a: &str, b: &str) -> Option<bool> {
    let (a, b): (f64, f64) = (a.parse().ok()?, b.parse().ok()?);
    Some((a - b).abs() <= 1e-6 * (1.0 + a.abs().max(b.abs())))
}
