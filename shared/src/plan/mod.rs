//! One view definition, compiled into three plans over the same physical aggregate expressions.
//!
//! | plan | reads | gives | who runs it |
//! |---|---|---|---|
//! | partial | events | states | batch run over files; speed layer over each micro-batch |
//! | merge | states | states, each key once | compaction of runs; batch runs |
//! | finish | states | rows | serving, at query time |
//!
//! A *state row* is the group key followed by what DataFusion's accumulators themselves emit. Because both layers use
//! the same accumulators, the merge of batch and realtime states is the aggregate of all events, for every mergeable
//! aggregate and with no second implementation. A view without an aggregate is the trivial case: a state row is an
//! output row, keyed by the event's place.
//!
//! Data passes through as follows: [`compile()`] analyses the SQL and fixes schemas; [`ViewPlan::partial`] binds the plan
//! below the aggregate to some rows of events; [`ViewPlan::merge`] and [`ViewPlan::finish_all`] build on any plan that gives
//! state rows; [`ViewPlan::query`] is the logical plan that user queries read in place of the view's name.
//! Nothing here executes plans on its own account except [`PartialProgram`], which is planned once and run for each
//! micro-batch.

mod bounded;
mod changes;
mod compile;
mod date_trunc;
mod explain;
mod finished;
mod float_extreme;
mod key_columns;
mod program;
mod rows;
mod session;
mod stages;
mod stored;

pub use bounded::{LengthBound, bounded_length};
pub use changes::WindowKey;
pub use compile::compile;
pub use explain::ExplainedPlans;
pub use finished::StateParts;
pub use program::PartialProgram;
pub use rows::{MemoryRows, RowScan, RowSource};
pub use session::{plan_session, session_config};
pub use stages::{ViewPlan, union};
pub use stored::STATE_FORMAT_VERSION;
