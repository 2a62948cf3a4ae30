//! Rows that plans read: files of the history or of a batch view, or batches in memory.

use std::any::Any;
use std::fmt::Debug;
use std::sync::Arc;

use arrow::array::RecordBatch;
use arrow::datatypes::SchemaRef;
use async_trait::async_trait;
use datafusion::catalog::{Session, TableProvider};
use datafusion::common::DFSchema;
use datafusion::datasource::memory::MemorySourceConfig;
use datafusion::error::Result;
use datafusion::execution::runtime_env::RuntimeEnv;
use datafusion::logical_expr::utils::conjunction;
use datafusion::logical_expr::{Expr, TableProviderFilterPushDown, TableType};
use datafusion::physical_expr::PhysicalExpr;
use datafusion::physical_plan::ExecutionPlan;

/// Rows of one schema that do not change while a plan reads them.
pub trait RowSource: Debug + Send + Sync + Any {
    /// The rows' schema.
    fn schema(&self) -> SchemaRef;

    /// A plan that gives the rows.
    fn scan(&self, scan: RowScan) -> Result<Arc<dyn ExecutionPlan>>;

    /// The damage that a scan has met in the rows' files, if any; such a scan has failed.
    fn damage(&self) -> Option<&str> {
        None
    }
}

/// How rows are to be read.
#[derive(Debug, Clone)]
pub struct RowScan {
    /// Indices of the columns to give, in order; all when `None`.
    pub projection: Option<Vec<usize>>,
    /// Over the unprojected schema; it only prunes: rows that fail it may still come.
    pub predicate: Option<Arc<dyn PhysicalExpr>>,
    /// About how many partitions the plan should have.
    pub target_partitions: usize,
    /// The runtime in which the plan will be executed.
    pub runtime: Arc<RuntimeEnv>,
}

/// Batches in memory, in one partition.
#[derive(Debug, Clone)]
pub struct MemoryRows {
    schema: SchemaRef,
    batches: Vec<RecordBatch>,
}

impl MemoryRows {
    /// The rows of `batches`, all of `schema`.
    pub fn new(schema: SchemaRef, batches: Vec<RecordBatch>) -> MemoryRows {
        MemoryRows { schema, batches }
    }

    /// A plan that gives the columns `projection` of the rows (all when `None`), in one partition.
    pub fn plan(&self, projection: Option<Vec<usize>>) -> Result<Arc<dyn ExecutionPlan>> {
        Ok(MemorySourceConfig::try_new_exec(std::slice::from_ref(&self.batches), Arc::clone(&self.schema), projection)?)
    }
}

impl RowSource for MemoryRows {
    fn schema(&self) -> SchemaRef {
        Arc::clone(&self.schema)
    }

    fn scan(&self, scan: RowScan) -> Result<Arc<dyn ExecutionPlan>> {
        self.plan(scan.projection)
    }
}

/// A table over a [`RowSource`], for logical plans.
#[derive(Debug)]
pub(super) struct RowTable(pub(super) Arc<dyn RowSource>);

#[async_trait]
impl TableProvider for RowTable {
    fn schema(&self) -> SchemaRef {
        self.0.schema()
    }

    fn table_type(&self) -> TableType {
        TableType::Base
    }

    fn supports_filters_pushdown(&self, filters: &[&Expr]) -> Result<Vec<TableProviderFilterPushDown>> {
        Ok(vec![TableProviderFilterPushDown::Inexact; filters.len()])
    }

    async fn scan(
        &self,
        session: &dyn Session,
        projection: Option<&Vec<usize>>,
        filters: &[Expr],
        _limit: Option<usize>,
    ) -> Result<Arc<dyn ExecutionPlan>> {
        let predicate = physical_conjunction(session, filters, &self.0.schema())?;
        self.0.scan(RowScan {
            projection: projection.cloned(),
            predicate,
            target_partitions: session.config().target_partitions(),
            runtime: Arc::clone(session.runtime_env()),
        })
    }
}

/// All of `filters` as one physical predicate over `schema`; `None` when there are none.
pub(super) fn physical_conjunction(
    session: &dyn Session,
    filters: &[Expr],
    schema: &SchemaRef,
) -> Result<Option<Arc<dyn PhysicalExpr>>> {
    let schema = DFSchema::try_from(Arc::clone(schema))?;
    conjunction(filters.iter().cloned()).map(|filter| session.create_physical_expr(filter, &schema)).transpose()
}
