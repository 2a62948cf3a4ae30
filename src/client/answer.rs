//! What the platform's HTTP API answers, as far as the command line reads it.
//!
//! Fields that an older or newer platform may lack have defaults, so that a listing never fails for one of them.
//! Values of rows stay in their JSON text ([`RawValue`]): parsing a number would round it.

use serde::Deserialize;
use serde_json::Value;
use serde_json::value::RawValue;

/// The answer to a query.
#[derive(Debug, Deserialize)]
pub(crate) struct SqlAnswer {
    pub(crate) columns: Vec<Column>,
    pub(crate) rows: Vec<Vec<Box<RawValue>>>,
    /// Whether the platform vouches for the whole answer.
    pub(crate) complete: bool,
}

/// A column of an answer, a source or a view.
#[derive(Debug, Deserialize)]
pub(crate) struct Column {
    pub(crate) name: String,
    #[serde(rename = "type")]
    pub(crate) sql_type: String,
    pub(crate) nullable: Option<bool>,
}

/// The answer to one body of events.
#[derive(Debug, Deserialize)]
pub(crate) struct Ingested {
    pub(crate) accepted: u64,
    pub(crate) rejected: u64,
    #[serde(default)]
    pub(crate) errors: Vec<RowError>,
    pub(crate) position: Option<String>,
}

impl Ingested {
    /// Of a body whose rows were all accepted, as far as is known.
    pub(crate) fn of_rows(accepted: u64) -> Ingested {
        Ingested { accepted, rejected: 0, errors: Vec::new(), position: None }
    }
}

/// Why one row was refused.
#[derive(Debug, Deserialize)]
pub(crate) struct RowError {
    /// Row in the body, from 0.
    pub(crate) row: u64,
    pub(crate) column: Option<String>,
    pub(crate) reason: String,
}

/// All sources, each as a `T`: a [`Source`], or the platform's own text.
#[derive(Debug, Deserialize)]
pub(super) struct Sources<T> {
    pub(super) sources: Vec<T>,
}

/// All sinks, each as a `T`.
#[derive(Debug, Deserialize)]
pub(super) struct Sinks<T> {
    pub(super) sinks: Vec<T>,
}

/// A source.
#[derive(Debug, Deserialize)]
pub(crate) struct Source {
    pub(crate) name: String,
    #[serde(default)]
    pub(crate) sql: String,
    #[serde(default)]
    pub(crate) columns: Vec<Column>,
    /// End of the log, as a token that `--position` takes.
    pub(crate) position: String,
    /// End of the log of each partition.
    #[serde(default)]
    pub(crate) offsets: Vec<u64>,
    /// What the realtime views have applied of each partition.
    #[serde(default)]
    pub(crate) applied: Vec<u64>,
    /// What the history holds of each partition.
    #[serde(default)]
    pub(crate) history_offsets: Vec<u64>,
    pub(crate) watermark: Option<String>,
    /// What keeps events from being read.
    #[serde(default)]
    pub(crate) troubles: Vec<String>,
    /// Offsets that a topic lost before they were read.
    #[serde(default)]
    pub(crate) gaps: Vec<OffsetGap>,
}

/// Lost offsets of a partition: from `start` up to and without `end`.
#[derive(Debug, Deserialize)]
pub(crate) struct OffsetGap {
    pub(crate) partition: u32,
    pub(crate) start: u64,
    pub(crate) end: u64,
}

/// Partitions that are read again.
#[derive(Debug, Deserialize)]
pub(super) struct ResumedPartitions {
    pub(super) resumed: Vec<ResumedPartition>,
}

/// A partition that is read again.
#[derive(Debug, Deserialize)]
pub(crate) struct ResumedPartition {
    pub(crate) partition: u32,
    /// What is lost by this.
    pub(crate) lost: Option<OffsetGap>,
}

/// All views, each as a `T`: a [`View`], or the platform's own text.
#[derive(Debug, Deserialize)]
pub(super) struct Views<T> {
    pub(super) views: Vec<T>,
}

/// A view.
#[derive(Debug, Deserialize)]
pub(crate) struct View {
    pub(crate) name: String,
    pub(crate) source: String,
    #[serde(default)]
    pub(crate) sql: String,
    #[serde(default)]
    pub(crate) state: String,
    /// A changed definition that is being built behind this one.
    pub(crate) building: Option<String>,
    #[serde(default)]
    pub(crate) columns: Vec<Column>,
    pub(crate) batch_version: Option<u64>,
    #[serde(default)]
    pub(crate) boundary: Vec<u64>,
    #[serde(default)]
    pub(crate) batch: BatchSize,
    #[serde(default)]
    pub(crate) realtime: RealtimeSize,
    pub(crate) batch_schedule: Option<String>,
    pub(crate) full_recompute_schedule: Option<String>,
    pub(crate) next_run: Option<String>,
    pub(crate) last_audit: Option<Audit>,
}

/// How much of a view its batch version holds.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(crate) struct BatchSize {
    pub(crate) files: u64,
    pub(crate) rows: u64,
    pub(crate) bytes: u64,
}

/// How much of a view is realtime.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(crate) struct RealtimeSize {
    pub(crate) segments: u64,
    pub(crate) runs: u64,
    pub(crate) rows: u64,
    pub(crate) bytes: u64,
}

/// What the check of a handoff from realtime to batch found.
#[derive(Debug, Deserialize)]
pub(crate) struct Audit {
    /// `equal`, `drift` or `skipped`.
    pub(crate) outcome: String,
    #[serde(default)]
    pub(crate) groups_compared: u64,
    #[serde(default)]
    pub(crate) groups_different: u64,
    pub(crate) detail: Option<String>,
}

/// All batch runs, each as a `T`: a [`BatchRun`], or the platform's own text.
#[derive(Debug, Deserialize)]
pub(super) struct BatchRuns<T> {
    pub(super) batch_runs: Vec<T>,
}

/// A batch run.
#[derive(Debug, Deserialize)]
pub(crate) struct BatchRun {
    /// A number or a string, as the platform likes.
    pub(crate) id: Value,
    pub(crate) view: String,
    pub(crate) kind: String,
    /// `running`, `succeeded` or `failed`.
    pub(crate) state: String,
    #[serde(default)]
    pub(crate) trigger: String,
    pub(crate) started_at: Option<String>,
    pub(crate) ended_at: Option<String>,
    pub(crate) batch_version: Option<u64>,
    #[serde(default)]
    pub(crate) boundary: Vec<u64>,
    pub(crate) events: Option<u64>,
    pub(crate) groups: Option<u64>,
    pub(crate) files: Option<u64>,
    pub(crate) error: Option<String>,
    pub(crate) audit: Option<Audit>,
}

impl BatchRun {
    /// The run's id as text.
    pub(crate) fn id(&self) -> String {
        match &self.id {
            Value::String(id) => id.clone(),
            id => id.to_string(),
        }
    }
}
