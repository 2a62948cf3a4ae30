//! Answers queries: merges the batch and the realtime part of each view, and speaks HTTP.
//!
//! Serving reads published snapshots and never writes a view; what changes anything goes through [`Backend`].

mod answer;
pub mod api;
mod backend;
mod encode;
mod error;
mod query;

pub use answer::{Answer, AsOf, OffsetGap, SourceAsOf, ViewAsOf};
pub use backend::*;
pub use encode::{AvroForm, RecordWriter, objects_of};
pub use error::{Error, Result};
pub use query::{QueryEngine, query_runtime};
