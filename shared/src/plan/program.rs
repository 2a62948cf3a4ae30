//! The partial plan of the hot path: planned once, run for each micro-batch.

use std::sync::Arc;

use arrow::array::RecordBatch;
use arrow::datatypes::{Schema, SchemaRef};
use async_trait::async_trait;
use datafusion::catalog::{Session, TableProvider};
use datafusion::common::tree_node::TreeNodeRecursion;
use datafusion::datasource::TableType;
use datafusion::error::{DataFusionError, Result};
use datafusion::execution::runtime_env::RuntimeEnv;
use datafusion::execution::{SendableRecordBatchStream, TaskContext};
use datafusion::logical_expr::Expr;
use datafusion::physical_expr::{EquivalenceProperties, PhysicalExpr};
use datafusion::physical_plan::execution_plan::{Boundedness, EmissionType, ReplaceChildrenOptions, reset_plan_states};
use datafusion::physical_plan::memory::MemoryStream;
use datafusion::physical_plan::{DisplayAs, DisplayFormatType, ExecutionPlan, Partitioning, PlanProperties};
use datafusion::prelude::SessionConfig;

use super::session::{plan_session, session_config};
use super::stages::ViewPlan;

/// A view's partial plan over batches that are handed in at each run.
#[derive(Debug)]
pub struct PartialProgram {
    plan: Arc<dyn ExecutionPlan>,
    state_schema: SchemaRef,
    config: SessionConfig,
    runtime: Arc<RuntimeEnv>,
}

impl PartialProgram {
    /// Plans the partial stage of `view`.
    pub async fn new(view: &ViewPlan, runtime: Arc<RuntimeEnv>) -> Result<PartialProgram> {
        let session = plan_session(1, Arc::clone(&runtime));
        let table = SlotTable { schema: Arc::clone(&view.source.event_schema) };
        let plan = view.partial_over_table(Arc::new(table), &session).await?;
        Ok(PartialProgram { plan, state_schema: Arc::clone(view.state_schema()), config: session_config(1), runtime })
    }

    /// State rows of `events`, which are batches of the source's `event_schema`. Keys may repeat.
    pub async fn run(&self, events: Vec<RecordBatch>) -> Result<Vec<RecordBatch>> {
        let config = self.config.clone().with_extension(Arc::new(Slot(events)));
        let context = TaskContext::default().with_session_config(config).with_runtime(Arc::clone(&self.runtime));
        // Plan nodes keep the metrics and some the state of every run; a long-lived plan must not.
        let plan = reset_plan_states(Arc::clone(&self.plan))?;
        let states = datafusion::physical_plan::collect(plan, Arc::new(context)).await?;
        let with_schema =
            |batch: RecordBatch| Ok(RecordBatch::try_new(Arc::clone(&self.state_schema), batch.columns().to_vec())?);
        states.into_iter().filter(|batch| batch.num_rows() > 0).map(with_schema).collect()
    }
}

/// The events of one run, found by the plan's leaf in the session of its task.
struct Slot(Vec<RecordBatch>);

/// A table whose rows are the running task's [`Slot`].
#[derive(Debug)]
struct SlotTable {
    schema: SchemaRef,
}

#[async_trait]
impl TableProvider for SlotTable {
    fn schema(&self) -> SchemaRef {
        Arc::clone(&self.schema)
    }

    fn table_type(&self) -> TableType {
        TableType::Temporary
    }

    async fn scan(
        &self,
        _session: &dyn Session,
        projection: Option<&Vec<usize>>,
        _filters: &[Expr],
        _limit: Option<usize>,
    ) -> Result<Arc<dyn ExecutionPlan>> {
        let schema = match projection {
            Some(columns) => Arc::new(Schema::project(&self.schema, columns)?),
            None => Arc::clone(&self.schema),
        };
        let properties = PlanProperties::new(
            EquivalenceProperties::new(schema),
            Partitioning::UnknownPartitioning(1),
            EmissionType::Incremental,
            Boundedness::Bounded,
        );
        Ok(Arc::new(SlotExec { projection: projection.cloned(), properties: Arc::new(properties) }))
    }
}

/// Leaf that reads the running task's [`Slot`].
#[derive(Debug)]
struct SlotExec {
    projection: Option<Vec<usize>>,
    properties: Arc<PlanProperties>,
}

impl DisplayAs for SlotExec {
    fn fmt_as(&self, _format: DisplayFormatType, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "SlotExec: micro-batch")
    }
}

impl ExecutionPlan for SlotExec {
    fn name(&self) -> &str {
        "SlotExec"
    }

    fn properties(&self) -> &Arc<PlanProperties> {
        &self.properties
    }

    fn children(&self) -> Vec<&Arc<dyn ExecutionPlan>> {
        Vec::new()
    }

    fn replace_children(
        self: Arc<Self>,
        _children: Vec<Arc<dyn ExecutionPlan>>,
        _options: ReplaceChildrenOptions,
    ) -> Result<Arc<dyn ExecutionPlan>> {
        Ok(self)
    }

    fn with_new_children(self: Arc<Self>, _children: Vec<Arc<dyn ExecutionPlan>>) -> Result<Arc<dyn ExecutionPlan>> {
        Ok(self)
    }

    fn apply_expressions(
        &self,
        _visit: &mut dyn FnMut(&Arc<dyn PhysicalExpr>) -> Result<TreeNodeRecursion>,
    ) -> Result<TreeNodeRecursion> {
        Ok(TreeNodeRecursion::Continue)
    }

    fn execute(&self, _partition: usize, context: Arc<TaskContext>) -> Result<SendableRecordBatchStream> {
        let slot = context
            .session_config()
            .get_extension::<Slot>()
            .ok_or_else(|| DataFusionError::Internal("a micro-batch plan ran without a micro-batch".to_owned()))?;
        let schema = Arc::clone(self.properties.equivalence_properties().schema());
        Ok(Box::pin(MemoryStream::try_new(slot.0.clone(), schema, self.projection.clone())?))
    }
}
