//! The stages of a compiled view: partial, merge, finish.

use std::sync::Arc;

use arrow::datatypes::{DataType, SchemaRef};
use datafusion::catalog::TableProvider;
use datafusion::common::tree_node::{Transformed, TreeNode};
use datafusion::datasource::provider_as_source;
use datafusion::error::{DataFusionError, Result};
use datafusion::execution::session_state::SessionState;
use datafusion::logical_expr::{LogicalPlan, TableScanBuilder};
use datafusion::physical_expr::aggregate::AggregateFunctionExpr;
use datafusion::physical_expr::expressions::{CastExpr, Column};
use datafusion::physical_expr::{LexOrdering, PhysicalExpr, PhysicalSortExpr};
use datafusion::physical_plan::aggregates::{AggregateExec, AggregateMode, PhysicalGroupBy};
use datafusion::physical_plan::projection::ProjectionExec;
use datafusion::physical_plan::repartition::RepartitionExec;
use datafusion::physical_plan::sorts::sort::SortExec;
use datafusion::physical_plan::sorts::sort_preserving_merge::SortPreservingMergeExec;
use datafusion::physical_plan::union::UnionExec;
use datafusion::physical_plan::{ExecutionPlan, ExecutionPlanProperties, Partitioning};

use super::changes::WindowKey;
use super::rows::{RowSource, RowTable};
use crate::definition::DefinitionId;
use crate::source::SourceDefinition;

/// A view compiled into its plans. Immutable; shared by both layers and serving.
///
/// Schemas, with `n` key and `m` state columns, all nullable:
/// - `state_schema`: `k0..kn` then `s0..sm`, as the accumulators emit them;
/// - `stored_schema`: the same columns in types that a Delta table can hold;
/// - `finished_schema`: `k0..kn` then `a0..`, one column for each aggregate (or output column, without aggregates);
/// - `output_schema`: what a user sees.
#[derive(Debug)]
pub struct ViewPlan {
    /// The view's name.
    pub name: String,
    /// The view's statement as written.
    pub sql: String,
    /// Identity of the definition; another one is another view.
    pub id: DefinitionId,
    /// The source that the view reads.
    pub source: Arc<SourceDefinition>,
    /// Analysed plan below the aggregate, narrowed to the columns that the aggregate reads.
    pub(super) input: LogicalPlan,
    /// What happens to the input's rows.
    pub(super) kind: ViewKind,
    /// Analysed plan above the aggregate, over a table of finished rows that each query replaces.
    pub(super) finish: LogicalPlan,
    /// Number of leading key columns in states and finished rows.
    pub(super) key_count: usize,
    /// Columns of a state row, native.
    pub(super) state_schema: SchemaRef,
    /// Columns of a state row, portable.
    pub(super) stored_schema: SchemaRef,
    /// Columns of a finished row.
    pub(super) finished_schema: SchemaRef,
    /// The key that is a window, if one is.
    pub(super) window: Option<WindowKey>,
    /// Columns of an answer.
    pub(super) output_schema: SchemaRef,
    /// The costs and approximations that a user should know of.
    pub(super) notes: Vec<String>,
}

/// The two kinds of views.
#[derive(Debug)]
pub(super) enum ViewKind {
    /// Groups events and aggregates each group.
    Aggregate(Box<Aggregation>),
    /// Filters and projects; a state row is an output row.
    Rows,
}

/// The physical pieces of a view's one aggregate.
#[derive(Debug)]
pub(super) struct Aggregation {
    /// Group expressions over the input's rows, named `k0..`.
    pub(super) group_by: PhysicalGroupBy,
    pub(super) aggregates: Vec<Arc<AggregateFunctionExpr>>,
    pub(super) filters: Vec<Option<Arc<dyn PhysicalExpr>>>,
    /// Schema of the input's rows.
    pub(super) input_schema: SchemaRef,
    /// First state column of each aggregate, counted from the first state column; one more element than aggregates.
    pub(super) state_starts: Vec<usize>,
    /// Columns of the events that do nothing but name groups, as indices of the source's `event_schema`.
    pub(super) key_only_columns: Vec<usize>,
    /// The states of no event, for views without keys: they have one row even over nothing.
    pub(super) empty_state: Option<arrow::array::RecordBatch>,
}

impl ViewPlan {
    /// Columns of a state row: keys, then what the accumulators emit.
    pub fn state_schema(&self) -> &SchemaRef {
        &self.state_schema
    }

    /// Columns of a state row in types that a Delta table can hold; same order and meaning as `state_schema`.
    pub fn stored_schema(&self) -> &SchemaRef {
        &self.stored_schema
    }

    /// Columns of an answer, as the user named them.
    pub fn output_schema(&self) -> &SchemaRef {
        &self.output_schema
    }

    /// Number of leading key columns of state rows and finished rows.
    pub fn key_count(&self) -> usize {
        self.key_count
    }

    /// Whether the view groups events; otherwise it filters and projects them.
    pub fn has_aggregate(&self) -> bool {
        matches!(self.kind, ViewKind::Aggregate(_))
    }

    /// What a user should know of the view's costs and approximations, a sentence each.
    pub fn notes(&self) -> &[String] {
        &self.notes
    }

    /// Columns of the source's `event_schema` with which the view's partial plan only names groups. It takes them in any
    /// type, and gives, like the merge plan after it, the keys in that type.
    pub fn key_only_columns(&self) -> &[usize] {
        match &self.kind {
            ViewKind::Aggregate(aggregation) => &aggregation.key_only_columns,
            ViewKind::Rows => &[],
        }
    }

    /// The partial plan over `events` (rows of the source's `event_schema`): gives state rows, keys may repeat.
    pub async fn partial(&self, events: Arc<dyn RowSource>, session: &SessionState) -> Result<Arc<dyn ExecutionPlan>> {
        self.partial_over_table(Arc::new(RowTable(events)), session).await
    }

    pub(super) async fn partial_over_table(
        &self,
        events: Arc<dyn TableProvider>,
        session: &SessionState,
    ) -> Result<Arc<dyn ExecutionPlan>> {
        let logical = replace_scan(&self.input, events)?;
        let logical = session.optimize(&logical)?;
        let input = session.query_planner().create_physical_plan(&logical, session).await?;
        let states: Arc<dyn ExecutionPlan> = match &self.kind {
            ViewKind::Rows => input,
            ViewKind::Aggregate(aggregation) => Arc::new(AggregateExec::try_new(
                AggregateMode::Partial,
                aggregation.group_by.clone(),
                aggregation.aggregates.clone(),
                aggregation.filters.clone(),
                input,
                Arc::clone(&aggregation.input_schema),
            )?),
        };
        rename(states, &self.state_schema)
    }

    /// The merge plan over `states`: gives state rows in which each key occurs once in a partition.
    ///
    /// Each partition of `states` is merged by itself; see [`ViewPlan::by_key`] to bring equal keys together first.
    pub fn merge(&self, states: Arc<dyn ExecutionPlan>) -> Result<Arc<dyn ExecutionPlan>> {
        match &self.kind {
            ViewKind::Rows => Ok(states),
            ViewKind::Aggregate(aggregation) => {
                let every = (0..aggregation.aggregates.len()).collect::<Vec<_>>();
                let merged = self.aggregate_states(aggregation, AggregateMode::PartialReduce, states, &every)?;
                rename(merged, &self.state_schema)
            }
        }
    }

    /// The finish plan over `states`: gives rows of `finished_schema`, restricted to `aggregates` (indices of its
    /// columns after the keys, ascending) when given. `states` must then hold only those aggregates' state columns.
    ///
    /// Equal keys must be in one partition.
    pub(super) fn finish(
        &self,
        states: Arc<dyn ExecutionPlan>,
        aggregates: &[usize],
    ) -> Result<Arc<dyn ExecutionPlan>> {
        match &self.kind {
            ViewKind::Rows => Ok(states),
            ViewKind::Aggregate(aggregation) => {
                self.aggregate_states(aggregation, AggregateMode::FinalPartitioned, states, aggregates)
            }
        }
    }

    /// The finish plan over all state columns; `states` is brought together by key first.
    pub fn finish_all(&self, states: Arc<dyn ExecutionPlan>, partitions: usize) -> Result<Arc<dyn ExecutionPlan>> {
        let states = self.by_key(states, partitions)?;
        let columns = (0..self.finished_schema.fields().len() - self.key_count).collect::<Vec<_>>();
        rename(self.finish(states, &columns)?, &self.finished_schema)
    }

    /// Brings equal keys into one of `partitions` partitions.
    pub fn by_key(&self, states: Arc<dyn ExecutionPlan>, partitions: usize) -> Result<Arc<dyn ExecutionPlan>> {
        let count = states.output_partitioning().partition_count();
        if count == 1 && partitions == 1 {
            return Ok(states);
        }
        let partitioning = Partitioning::Hash(self.key_columns(), partitions.max(1));
        Ok(Arc::new(RepartitionExec::try_new(states, partitioning)?))
    }

    /// Sorts each partition of `rows`, whose leading columns are the keys, by key; ascending, nulls last.
    pub fn sort_by_key(&self, rows: Arc<dyn ExecutionPlan>) -> Result<Arc<dyn ExecutionPlan>> {
        let Some(order) = self.key_order() else { return Ok(rows) };
        Ok(Arc::new(SortExec::new(order, rows).with_preserve_partitioning(true)))
    }

    /// Sorts `rows` by key into one partition.
    pub(super) fn sorted(&self, rows: Arc<dyn ExecutionPlan>) -> Result<Arc<dyn ExecutionPlan>> {
        let Some(order) = self.key_order() else { return Ok(rows) };
        Ok(Arc::new(SortPreservingMergeExec::new(order, self.sort_by_key(rows)?)))
    }

    fn key_order(&self) -> Option<LexOrdering> {
        LexOrdering::new(
            self.key_columns().into_iter().map(|column| PhysicalSortExpr::new_default(column).nulls_last()),
        )
    }

    /// Whether column `aggregate` of the finished rows (keys not counted) is an estimate that depends on the order of merges.
    pub fn is_estimate(&self, aggregate: usize) -> bool {
        match &self.kind {
            ViewKind::Rows => false,
            ViewKind::Aggregate(aggregation) => aggregation
                .aggregates
                .get(aggregate)
                .is_some_and(|call| matches!(call.fun().name(), "approx_percentile_cont" | "approx_median")),
        }
    }

    /// State rows in the stored types.
    ///
    /// # Errors
    /// While running, when a value does not fit its stored type; it is never changed silently.
    pub fn to_stored(&self, states: Arc<dyn ExecutionPlan>) -> Result<Arc<dyn ExecutionPlan>> {
        cast(states, &self.stored_schema)
    }

    /// Stored state rows in the native types; the inverse of [`ViewPlan::to_stored`].
    pub fn from_stored(&self, stored: Arc<dyn ExecutionPlan>) -> Result<Arc<dyn ExecutionPlan>> {
        cast(stored, &self.state_schema)
    }

    /// Indices of the state columns (keys included) that finishing `aggregates` needs, ascending.
    pub(super) fn state_columns_of(&self, aggregates: &[usize]) -> Vec<usize> {
        let keys = 0..self.key_count;
        match &self.kind {
            ViewKind::Rows => keys.chain(aggregates.iter().map(|index| self.key_count + index)).collect(),
            ViewKind::Aggregate(aggregation) => keys
                .chain(aggregates.iter().flat_map(|&index| {
                    let states = aggregation.state_starts[index]..aggregation.state_starts[index + 1];
                    states.map(|state| self.key_count + state)
                }))
                .collect(),
        }
    }

    pub(super) fn key_columns(&self) -> Vec<Arc<dyn PhysicalExpr>> {
        (0..self.key_count)
            .map(|index| Arc::new(Column::new(&format!("k{index}"), index)) as Arc<dyn PhysicalExpr>)
            .collect()
    }

    fn aggregate_states(
        &self,
        aggregation: &Aggregation,
        mode: AggregateMode,
        states: Arc<dyn ExecutionPlan>,
        aggregates: &[usize],
    ) -> Result<Arc<dyn ExecutionPlan>> {
        let chosen = aggregates.iter().map(|&index| Arc::clone(&aggregation.aggregates[index])).collect::<Vec<_>>();
        // FILTER applies to events, so it has done its work in the partial plan.
        let filters = vec![None; chosen.len()];
        let input_schema = Arc::clone(&aggregation.input_schema);
        let group_by = aggregation.group_by.as_final();
        Ok(Arc::new(AggregateExec::try_new(mode, group_by, chosen, filters, states, input_schema)?))
    }
}

/// `plan` with its one table replaced by `table`, which has columns of the same names.
pub(super) fn replace_scan(plan: &LogicalPlan, table: Arc<dyn TableProvider>) -> Result<LogicalPlan> {
    let source = provider_as_source(table);
    let replaced = plan.clone().transform_up(|node| match node {
        LogicalPlan::TableScan(scan) => {
            let scan = TableScanBuilder::new(scan.table_name, Arc::clone(&source))
                .with_projection(scan.projection)
                .with_filters(scan.filters)
                .with_fetch(scan.fetch);
            Ok(Transformed::yes(LogicalPlan::TableScan(scan.build()?)))
        }
        other => Ok(Transformed::yes(other.recompute_schema()?)),
    })?;
    Ok(replaced.data)
}

/// All partitions of `inputs`, which have the same columns.
///
/// # Errors
/// When there is no input.
pub fn union(mut inputs: Vec<Arc<dyn ExecutionPlan>>) -> Result<Arc<dyn ExecutionPlan>> {
    match inputs.len() {
        0 => Err(DataFusionError::Internal("a union needs an input".to_owned())),
        1 => Ok(inputs.remove(0)),
        _ => UnionExec::try_new(inputs),
    }
}

/// `plan`'s columns under the names of `schema`, types as they are.
pub(super) fn rename(plan: Arc<dyn ExecutionPlan>, schema: &SchemaRef) -> Result<Arc<dyn ExecutionPlan>> {
    project(plan, schema, |_, column| Ok(column))
}

/// `plan`'s columns in the types of `schema`, same names.
pub(super) fn cast(plan: Arc<dyn ExecutionPlan>, schema: &SchemaRef) -> Result<Arc<dyn ExecutionPlan>> {
    project(plan, schema, |data_type, column| Ok(Arc::new(CastExpr::new(column, data_type.clone(), None))))
}

fn project(
    plan: Arc<dyn ExecutionPlan>,
    schema: &SchemaRef,
    convert: impl Fn(&DataType, Arc<dyn PhysicalExpr>) -> Result<Arc<dyn PhysicalExpr>>,
) -> Result<Arc<dyn ExecutionPlan>> {
    let input = plan.schema();
    let mut columns: Vec<(Arc<dyn PhysicalExpr>, String)> = Vec::with_capacity(schema.fields().len());
    for (index, (from, to)) in input.fields().iter().zip(schema.fields()).enumerate() {
        let column: Arc<dyn PhysicalExpr> = Arc::new(Column::new(from.name(), index));
        let same_type = from.data_type() == to.data_type();
        columns.push((if same_type { column } else { convert(to.data_type(), column)? }, to.name().clone()));
    }
    Ok(Arc::new(ProjectionExec::try_new(columns, plan)?))
}
