//! A view as queries see it: batch states and realtime states, merged and finished while the query runs.

use std::sync::Arc;

use arrow::array::RecordBatch;
use arrow::datatypes::{Schema, SchemaRef};
use async_trait::async_trait;
use datafusion::catalog::{Session, TableProvider};
use datafusion::error::Result;
use datafusion::execution::runtime_env::RuntimeEnv;
use datafusion::logical_expr::{Expr, LogicalPlan, TableProviderFilterPushDown, TableType};
use datafusion::physical_expr::PhysicalExpr;
use datafusion::physical_expr::expressions::Column;
use datafusion::physical_plan::ExecutionPlan;
use datafusion::physical_plan::coalesce_partitions::CoalescePartitionsExec;
use datafusion::physical_plan::filter::FilterExec;
use datafusion::physical_plan::projection::ProjectionExec;

use super::rows::{MemoryRows, RowScan, RowSource, physical_conjunction};
use super::stages::{ViewKind, ViewPlan, cast, replace_scan, union};

/// The state rows that one answer is made of: each event is in exactly one part.
#[derive(Debug, Clone, Default)]
pub struct StateParts {
    /// Batch view, in the view's stored schema; with its number of rows.
    pub batch: Option<(Arc<dyn RowSource>, usize)>,
    /// Realtime runs in memory, in the view's state schema.
    pub runs: Vec<RecordBatch>,
    /// Realtime runs on disk, in the view's state schema; each with its number of rows.
    pub stored_runs: Vec<(Arc<dyn RowSource>, usize)>,
}

impl StateParts {
    fn rows(&self) -> usize {
        let batch = self.batch.as_ref().map_or(0, |(_, rows)| *rows);
        let stored: usize = self.stored_runs.iter().map(|(_, rows)| rows).sum();
        batch + stored + self.runs.iter().map(RecordBatch::num_rows).sum::<usize>()
    }
}

impl ViewPlan {
    /// The logical plan of the view's rows over `parts`, for use in place of the view's name.
    pub fn query(self: &Arc<Self>, parts: StateParts) -> Result<LogicalPlan> {
        replace_scan(&self.finish, Arc::new(FinishedTable { view: Arc::clone(self), parts }))
    }

    /// A plan that gives the rows of `finished_schema` over `parts`, sorted by key, in one partition.
    pub fn finished_by_key(
        self: &Arc<Self>,
        parts: StateParts,
        runtime: &Arc<RuntimeEnv>,
        partitions: usize,
    ) -> Result<Arc<dyn ExecutionPlan>> {
        let table = FinishedTable { view: Arc::clone(self), parts };
        let states = table.states(RowScan {
            projection: Some((0..self.state_schema.fields().len()).collect()),
            predicate: None,
            target_partitions: partitions,
            runtime: Arc::clone(runtime),
        })?;
        self.sorted(self.finish_all(states, partitions)?)
    }
}

/// Below this many state rows one partition is faster than bringing keys together in several.
const PARALLEL_ROWS_MIN: usize = 32_768;

/// Finished rows over [`StateParts`]. Predicates on keys reach the files and the runs.
#[derive(Debug)]
struct FinishedTable {
    view: Arc<ViewPlan>,
    parts: StateParts,
}

#[async_trait]
impl TableProvider for FinishedTable {
    fn schema(&self) -> SchemaRef {
        Arc::clone(&self.view.finished_schema)
    }

    fn table_type(&self) -> TableType {
        TableType::View
    }

    fn supports_filters_pushdown(&self, filters: &[&Expr]) -> Result<Vec<TableProviderFilterPushDown>> {
        // A predicate on keys holds for all states of a group or for none, so it may be applied before the merge.
        let pushdown = filters.iter().map(|filter| match self.reads_only_keys(filter) {
            true => TableProviderFilterPushDown::Exact,
            false => TableProviderFilterPushDown::Unsupported,
        });
        Ok(pushdown.collect())
    }

    async fn scan(
        &self,
        session: &dyn Session,
        projection: Option<&Vec<usize>>,
        filters: &[Expr],
        _limit: Option<usize>,
    ) -> Result<Arc<dyn ExecutionPlan>> {
        let view = &self.view;
        let keys = view.key_count;
        let every: Vec<usize> = (0..view.finished_schema.fields().len()).collect();
        let wanted = projection.unwrap_or(&every);
        let mut aggregates: Vec<usize> = wanted.iter().filter(|&&column| column >= keys).map(|c| c - keys).collect();
        aggregates.sort_unstable();
        aggregates.dedup();

        let predicate = physical_conjunction(session, filters, &view.finished_schema)?;
        let mut partitions = session.config().target_partitions();
        if self.parts.rows() < PARALLEL_ROWS_MIN {
            partitions = 1;
        }
        let scan = RowScan {
            projection: Some(view.state_columns_of(&aggregates)),
            predicate,
            target_partitions: partitions,
            runtime: Arc::clone(session.runtime_env()),
        };
        let states = self.states(scan)?;
        let states = match (&view.kind, partitions) {
            (ViewKind::Rows, _) => states,
            (_, 1) => Arc::new(CoalescePartitionsExec::new(states)),
            _ => view.by_key(states, partitions)?,
        };
        let finished = view.finish(states, &aggregates)?;
        let columns = wanted.iter().map(|&column| {
            let place = match column.checked_sub(keys) {
                None => column,
                Some(aggregate) => keys + aggregates.iter().take_while(|&&other| other < aggregate).count(),
            };
            let name = view.finished_schema.field(column).name().clone();
            let source = finished.schema().field(place).name().clone();
            (Arc::new(Column::new(&source, place)) as Arc<dyn PhysicalExpr>, name)
        });
        Ok(Arc::new(ProjectionExec::try_new(columns.collect::<Vec<_>>(), Arc::clone(&finished))?))
    }
}

impl FinishedTable {
    fn reads_only_keys(&self, filter: &Expr) -> bool {
        let keys = &self.view.finished_schema.fields()[..self.view.key_count];
        let columns = filter.column_refs();
        !filter.is_volatile()
            && !columns.is_empty()
            && columns.iter().all(|column| keys.iter().any(|key| key.name() == &column.name))
    }

    /// State columns of the rows that pass the scan's predicate, which is over leading key columns.
    fn states(&self, scan: RowScan) -> Result<Arc<dyn ExecutionPlan>> {
        let view = &self.view;
        let (columns, predicate) = (scan.projection.clone().unwrap_or_default(), scan.predicate.clone());
        let schema = Arc::new(Schema::project(&view.state_schema, &columns)?);
        let mut inputs = Vec::new();
        if let Some((batch, _)) = &self.parts.batch {
            let predicate = self.stored_predicate(predicate.as_ref());
            inputs.push(cast(batch.scan(RowScan { predicate, ..scan.clone() })?, &schema)?);
        }
        for (run, _) in &self.parts.stored_runs {
            inputs.push(run.scan(RowScan { predicate: None, ..scan.clone() })?);
        }
        let mut runs = self.parts.runs.clone();
        if let ViewKind::Aggregate(aggregation) = &view.kind {
            runs.extend(aggregation.empty_state.clone());
        }
        if !runs.is_empty() || inputs.is_empty() {
            inputs.push(MemoryRows::new(Arc::clone(&view.state_schema), runs).plan(Some(columns))?);
        }
        if let Some(predicate) = predicate {
            for input in &mut inputs {
                *input = Arc::new(FilterExec::try_new(Arc::clone(&predicate), Arc::clone(input))?);
            }
        }
        union(inputs)
    }

    /// `predicate` for files, whose key columns must have the types that it was made for.
    fn stored_predicate(&self, predicate: Option<&Arc<dyn PhysicalExpr>>) -> Option<Arc<dyn PhysicalExpr>> {
        let types = |schema: &Schema| {
            schema.fields()[..self.view.key_count].iter().map(|key| key.data_type().clone()).collect::<Vec<_>>()
        };
        predicate.filter(|_| types(&self.view.stored_schema) == types(&self.view.state_schema)).cloned()
    }
}
