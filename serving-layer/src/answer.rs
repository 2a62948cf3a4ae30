//! What a query answers: rows, and which events they stand for.

use std::collections::BTreeMap;

use arrow::array::RecordBatch;
use arrow::datatypes::SchemaRef;
use serde::{Deserialize, Serialize};
use watershed_shared::position::Gap;

/// The answer to one query.
#[derive(Debug, Clone)]
pub struct Answer {
    /// The answer's columns; every batch has them.
    pub schema: SchemaRef,
    /// The rows, in answer order.
    pub batches: Vec<RecordBatch>,
    /// Which events the rows stand for.
    pub as_of: AsOf,
    /// Whether the rows stand for all of these events. An answer over less is still exact over what it had.
    pub complete: bool,
}

/// The events that an answer stands for: those of each source below its offsets, and no others.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct AsOf {
    /// Position of each source that the query read, by name.
    pub sources: BTreeMap<String, SourceAsOf>,
    /// How each view that the query read was put together, by name.
    pub views: BTreeMap<String, ViewAsOf>,
}

/// Where an answer stands in a source.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct SourceAsOf {
    /// First offset of each partition that is not in the answer.
    pub offsets: Vec<u64>,
    /// Event time before which no more events are expected, ISO 8601; `None` before the first event and for a source
    /// without a watermark.
    pub watermark: Option<String>,
    /// Offsets below these whose events, if there were any, a topic lost before they were read. The answer lacks them, and
    /// is not complete.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub gaps: Vec<OffsetGap>,
}

/// Offsets of a partition that were lost: from `start` up to and without `end`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct OffsetGap {
    /// Partition.
    pub partition: u32,
    /// First lost offset.
    pub start: u64,
    /// First offset after them.
    pub end: u64,
}

impl From<&Gap> for OffsetGap {
    fn from(gap: &Gap) -> OffsetGap {
        OffsetGap { partition: gap.partition.0, start: gap.range.start().0, end: gap.range.end().0 }
    }
}

/// What an answer took of a view from each layer.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ViewAsOf {
    /// Number of the batch view that was read; `None` when no batch run has ended yet.
    pub batch_version: Option<u64>,
    /// First offset of each partition that came from the realtime view and not from the batch view.
    pub boundary: Vec<u64>,
}
