//! The speed layer: events become runs of states, so that views are current before any batch run has seen the events.
//!
//! Data passes through as follows: [`RealtimeView::states_of`] and [`RealtimeView::load`] turn a micro-batch into a [`Run`]
//! of the open [`Segment`]; [`RealtimeView::cut`] closes the segment where the history's commit ends; [`Compaction`] merges
//! runs behind the readers' backs; [`RealtimeView::release`] drops the segments that a batch view has superseded. Nothing
//! here is durable: the log and the history hold the events from which a realtime view is rebuilt.

mod checkpoint;
mod compact;
mod segment;
mod view;

pub use checkpoint::{Checkpoint, CheckpointError, CheckpointReport, CheckpointStore};
pub use compact::{Compacted, Compaction};
pub use segment::{RealtimeStates, Run, Segment};
pub use view::RealtimeView;
