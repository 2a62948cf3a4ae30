//! Computes states from the history: all of it for a batch view, or its newest part for a realtime view that is rebuilt.

use std::sync::Arc;

use arrow::array::RecordBatch;
use arrow::datatypes::SchemaRef;
use datafusion::common::ScalarValue;
use datafusion::error::DataFusionError;
use datafusion::execution::session_state::SessionState;
use datafusion::logical_expr::Operator;
use datafusion::physical_expr::PhysicalExpr;
use datafusion::physical_expr::expressions::{BinaryExpr, Column, lit};
use datafusion::physical_plan::coalesce_partitions::CoalescePartitionsExec;
use datafusion::physical_plan::filter::FilterExec;
use datafusion::physical_plan::projection::ProjectionExec;
use datafusion::physical_plan::{ExecutionPlan, SendableRecordBatchStream, execute_stream, execute_stream_partitioned};
use tokio::task::JoinSet;
use watershed_shared::event::{OFFSET_COLUMN, PARTITION_COLUMN};
use watershed_shared::plan::{RowScan, RowSource, ViewPlan};
use watershed_shared::position::{PartitionId, Position};

use crate::data_file::{DataFile, EncodeOptions};
use crate::error::{Error, Result};
use crate::history::HistorySnapshot;
use crate::scan::FileRows;
use crate::view_store::ViewStore;

/// Computes the states of all events of a history version and writes them, sorted by key, as state files that nobody
/// reads before they are published.
///
/// Each key is in one file and once. Runs on the calling runtime, in `session`'s memory and parallelism.
pub async fn full_recompute(
    view: &ViewPlan,
    history: &HistorySnapshot,
    views: &ViewStore,
    session: &SessionState,
) -> Result<Vec<DataFile>> {
    tidy(view, views, false).await;
    let written = write_states(view, history, views, session).await;
    if written.is_err() {
        tidy(view, views, true).await;
    }
    written
}

/// Deletes what runs that failed have written. A disk that is full has room again then.
async fn tidy(view: &ViewPlan, views: &ViewStore, may_still_be_written: bool) {
    if let Err(error) = views.delete_unpublished(may_still_be_written).await {
        tracing::warn!(view = view.name, %error, "cannot delete state files of a run that failed; the next run tries again");
    }
}

async fn write_states(
    view: &ViewPlan,
    history: &HistorySnapshot,
    views: &ViewStore,
    session: &SessionState,
) -> Result<Vec<DataFile>> {
    let events = history.rows(history.files().to_vec()).with_string_views(view.key_only_columns());
    let events = Arc::new(events);
    let states = merged_states(view, events, session).await?;
    let stored = view.to_stored(view.sort_by_key(states)?)?;
    let options = EncodeOptions::states();
    // A task for each partition, so that encoding uses all cores; they end with this future.
    let mut writers = JoinSet::new();
    for states in execute_stream_partitioned(stored, session.task_ctx())? {
        let (views, options) = (views.clone(), options.clone());
        writers.spawn(async move { views.write_state_files(states, &options).await });
    }
    let mut files = Ok(Vec::new());
    while let Some(written) = writers.join_next().await {
        let written = written.map_err(|source| Error::Interrupted { what: "writing state files", source }).flatten();
        match (&mut files, written) {
            (Ok(files), Ok(written)) => files.extend(written),
            (Ok(_), Err(error)) => {
                files = Err(error);
                writers.abort_all();
            }
            // The first error is the one that aborted the others.
            (Err(_), _) => {}
        }
    }
    files
}

/// The states of a history version's events at or after `start`, in memory.
pub async fn states_since(
    view: &ViewPlan,
    history: &HistorySnapshot,
    start: &Position,
    session: &SessionState,
) -> Result<Vec<RecordBatch>> {
    let states = merged_states(view, events_since(history, start), session).await?;
    Ok(datafusion::physical_plan::collect(states, session.task_ctx()).await?)
}

/// As [`states_since`], as they come; of an aggregate a key may occur in several.
pub async fn stream_states_since(
    view: &ViewPlan,
    history: &HistorySnapshot,
    start: &Position,
    session: &SessionState,
) -> Result<SendableRecordBatchStream> {
    let states = view.partial(events_since(history, start), session).await?;
    Ok(execute_stream(states, session.task_ctx())?)
}

fn events_since(history: &HistorySnapshot, start: &Position) -> Arc<dyn RowSource> {
    let files = history.rows(history.files_from(start));
    Arc::new(EventsSince { files, start: start.clone() })
}

/// A plan in which each key of the events occurs once, with all its states merged.
async fn merged_states(
    view: &ViewPlan,
    events: Arc<dyn RowSource>,
    session: &SessionState,
) -> Result<Arc<dyn ExecutionPlan>> {
    let partial = view.partial(events, session).await?;
    if !view.has_aggregate() {
        return Ok(partial);
    }
    let partitions = session.config().target_partitions();
    let together = match partitions {
        1 => Arc::new(CoalescePartitionsExec::new(partial)),
        _ => view.by_key(partial, partitions)?,
    };
    Ok(view.merge(together)?)
}

/// The events of some files that are at or after a position.
#[derive(Debug)]
struct EventsSince {
    files: FileRows,
    start: Position,
}

impl RowSource for EventsSince {
    fn schema(&self) -> SchemaRef {
        self.files.schema()
    }

    fn scan(&self, scan: RowScan) -> Result<Arc<dyn ExecutionPlan>, DataFusionError> {
        let schema = self.schema();
        let place = [schema.index_of(PARTITION_COLUMN)?, schema.index_of(OFFSET_COLUMN)?];
        let wanted = scan.projection.unwrap_or_else(|| (0..schema.fields().len()).collect());
        let mut columns = wanted.clone();
        columns.extend(place.iter().filter(|column| !wanted.contains(column)));
        let rows = self.files.scan(RowScan { projection: Some(columns), ..scan })?;
        let since = self.is_since(&rows.schema())?;
        let rows: Arc<dyn ExecutionPlan> = Arc::new(FilterExec::try_new(since, rows)?);
        let schema = rows.schema();
        let kept = schema.fields()[..wanted.len()].iter().enumerate().map(|(index, field)| {
            let column: Arc<dyn PhysicalExpr> = Arc::new(Column::new(field.name(), index));
            (column, field.name().clone())
        });
        Ok(Arc::new(ProjectionExec::try_new(kept.collect::<Vec<_>>(), rows)?))
    }
}

impl EventsSince {
    /// `(_partition = 0 AND _offset >= start of 0) OR (_partition = 1 AND ...) ...`
    fn is_since(&self, schema: &SchemaRef) -> Result<Arc<dyn PhysicalExpr>, DataFusionError> {
        let column = |name: &str| -> Result<Arc<dyn PhysicalExpr>, DataFusionError> {
            Ok(Arc::new(Column::new_with_schema(name, schema)?))
        };
        let (partition, offset) = (column(PARTITION_COLUMN)?, column(OFFSET_COLUMN)?);
        let compare = |left: &Arc<dyn PhysicalExpr>, operator, right| -> Arc<dyn PhysicalExpr> {
            Arc::new(BinaryExpr::new(Arc::clone(left), operator, right))
        };
        let mut since: Vec<Arc<dyn PhysicalExpr>> = Vec::new();
        for (PartitionId(number), start) in self.start.iter() {
            let in_partition = compare(&partition, Operator::Eq, lit(ScalarValue::Int32(Some(number as i32))));
            let after = compare(&offset, Operator::GtEq, lit(ScalarValue::Int64(Some(start.0 as i64))));
            since.push(compare(&in_partition, Operator::And, after));
        }
        // Partitions that came after the position was taken start at their first event.
        let known = self.start.offsets().len() as i32;
        since.push(compare(&partition, Operator::GtEq, lit(ScalarValue::Int32(Some(known)))));
        Ok(balanced_or(since))
    }
}

/// The disjunction of `conditions` as a tree of logarithmic depth: a source may have many partitions.
fn balanced_or(mut conditions: Vec<Arc<dyn PhysicalExpr>>) -> Arc<dyn PhysicalExpr> {
    match conditions.len() {
        0 => lit(false),
        1 => conditions.remove(0),
        several => {
            let right = conditions.split_off(several / 2);
            Arc::new(BinaryExpr::new(balanced_or(conditions), Operator::Or, balanced_or(right)))
        }
    }
}
