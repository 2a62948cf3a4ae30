//! The three plans of a view as text, for people.

use std::sync::Arc;

use datafusion::error::Result;
use datafusion::execution::runtime_env::RuntimeEnv;
use datafusion::physical_plan::displayable;

use super::rows::MemoryRows;
use super::session::plan_session;
use super::stages::ViewPlan;

/// The plans of a view, drawn as trees, a node a line; the last node reads.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ExplainedPlans {
    /// Events to states.
    pub partial: String,
    /// States to states.
    pub merge: String,
    /// States to rows, down to the merged states.
    pub finish: String,
}

impl ViewPlan {
    /// The view's plans over nothing.
    pub async fn explain(&self) -> Result<ExplainedPlans> {
        let session = plan_session(1, Arc::new(RuntimeEnv::default()));
        let events = MemoryRows::new(Arc::clone(&self.source.event_schema), Vec::new());
        let states = MemoryRows::new(Arc::clone(&self.state_schema), Vec::new());
        let partial = self.partial(Arc::new(events), &session).await?;
        let merge = self.merge(states.plan(None)?)?;
        let finish = self.finish_all(states.plan(None)?, 1)?;
        let draw = |plan: &dyn datafusion::physical_plan::ExecutionPlan| displayable(plan).indent(false).to_string();
        let above = self.finish.display_indent().to_string();
        let outer: Vec<&str> = above.lines().take_while(|line| !line.trim_start().starts_with("TableScan")).collect();
        let depth = outer.len();
        let inner = draw(finish.as_ref());
        let inner = inner.lines().map(|line| format!("{}{line}\n", "  ".repeat(depth)));
        let outer = outer.iter().map(|line| format!("{line}\n"));
        Ok(ExplainedPlans {
            partial: draw(partial.as_ref()),
            merge: draw(merge.as_ref()),
            finish: outer.chain(inner).collect(),
        })
    }
}
