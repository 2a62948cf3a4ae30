//! What the serving layer asks of the platform that it runs in.
//!
//! Serving reads published snapshots and never writes a view. What it cannot do itself (accept events, start batch runs)
//! it hands over through this trait, which the assembled platform implements. The status types are the wire format of the
//! HTTP API's read side, hence their `Serialize`.

use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use serde::{Deserialize, Serialize};
use watershed_shared::budget::MemoryBudget;
use watershed_shared::format::EventFormat;
use watershed_shared::log::{ReceiptKey, Without};
use watershed_shared::sink::SinkMode;
use watershed_shared::snapshot::SnapshotReceiver;
use watershed_shared::telemetry::Metrics;

use crate::answer::OffsetGap;
use crate::error::Result;

/// The platform behind the API.
#[async_trait]
pub trait Backend: std::fmt::Debug + Send + Sync + 'static {
    /// The latest snapshot of each source, by source name in order.
    fn snapshots(&self) -> Vec<(String, SnapshotReceiver)>;

    /// The sources, in order of their names.
    fn sources(&self) -> Vec<SourceStatus>;

    /// The views, in order of their names; those being built for the first time included.
    fn views(&self) -> Vec<ViewStatus>;

    /// The memory of all requests that bring events. A caller reserves the bytes of a body before it reads it, and holds
    /// them until `ingest` returns, which reserves what it makes of them.
    fn ingest_budget(&self) -> &Arc<MemoryBudget>;

    /// Decodes events and appends them to a source's log; returns when the accepted ones are durable. With a key, a
    /// request that was processed before is not appended again and gets the report that it got then.
    ///
    /// # Errors
    /// `NotFound` for an unknown source, `Invalid` for a body that cannot be read at all, `Retryable` when the log
    /// refuses, `DiskFull` when it has no room, `Overloaded` when the decoded events exceed the budget, `Conflict` when
    /// the key stands for another request or its number is not the producer's next one; nothing was accepted then.
    async fn ingest(&self, source: &str, format: EventFormat, body: Bytes, key: Option<ReceiptKey>)
    -> Result<Ingested>;

    /// Starts a batch run of a view over all events accepted so far, and with `wait` returns after its end.
    ///
    /// # Errors
    /// `NotFound` for an unknown view. A run that fails is no error: its state says so.
    async fn start_batch_run(&self, view: &str, kind: BatchRunKind, wait: bool) -> Result<BatchRun>;

    /// The sinks, by name.
    fn sinks(&self) -> Vec<SinkStatus>;

    /// Lets partitions that have stopped be read again; with `skip` also those whose next offsets the topic has lost.
    ///
    /// # Errors
    /// `NotFound` for an unknown source, `Invalid` for one that reads no topic, `Conflict` when a partition cannot go on
    /// like this, `Retryable` when the brokers cannot be reached; nothing is resumed then.
    async fn resume_source(&self, source: &str, without: Without) -> Result<Vec<ResumedPartition>>;

    /// Writes a source's dead letters to its topic again that were not before; with `dry_run` only counts them.
    async fn replay_dead_letters(&self, source: &str, dry_run: bool) -> Result<Replayed>;

    /// Batch runs since the start of the process, newest first; bounded.
    fn batch_runs(&self) -> Vec<BatchRun>;

    /// Whether queries can be answered, and if not, what is missing.
    fn readiness(&self) -> Readiness;

    /// The platform's metrics, to count in.
    fn metrics(&self) -> &Metrics;

    /// Sets the metrics that are not counted where things happen, such as lags and sizes.
    async fn refresh_metrics(&self);
}

/// What a request to ingest is answered with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ingested {
    /// The report, as it was made when the request was processed.
    pub report: IngestReport,
    /// Whether that was before, and nothing was appended now.
    pub replayed: bool,
}

/// Outcome of one ingest request.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct IngestReport {
    /// Rows that are durable.
    pub accepted: usize,
    /// Rows that were refused.
    pub rejected: usize,
    /// The first refused rows with their reasons.
    pub errors: Vec<RowError>,
    /// Whether there are more refused rows than `errors` lists.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub errors_truncated: bool,
    /// Position token that covers the accepted rows.
    pub position: String,
}

/// Why one row was refused.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RowError {
    /// Number of the row in the request, from 0.
    pub row: usize,
    /// Column at fault, if one is.
    pub column: Option<String>,
    /// What is wrong.
    pub reason: String,
}

/// A column of a source or an answer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ColumnStatus {
    /// Name.
    pub name: String,
    /// SQL type.
    #[serde(rename = "type")]
    pub sql_type: String,
    /// Whether it can be NULL.
    pub nullable: bool,
}

/// A source.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct SourceStatus {
    /// Name.
    pub name: String,
    /// Definition.
    pub sql: String,
    /// Declared columns.
    pub columns: Vec<ColumnStatus>,
    /// Number of partitions.
    pub partitions: u32,
    /// Position token of the log's end.
    pub position: String,
    /// Durable end of each partition.
    pub offsets: Vec<u64>,
    /// Up to where the views show the log.
    pub applied: Vec<u64>,
    /// Up to where the history holds the log.
    pub history_offsets: Vec<u64>,
    /// The history's table version.
    pub history_version: Option<u64>,
    /// Watermark, ISO 8601.
    pub watermark: Option<String>,
    /// What keeps events from being read, a sentence each, with what to do.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub troubles: Vec<String>,
    /// Offsets whose events, if there were any, a topic lost before they were read.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub gaps: Vec<OffsetGap>,
}

/// A sink.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct SinkStatus {
    /// Name.
    pub name: String,
    /// View whose rows it sends.
    pub view: String,
    /// Topic that it sends them to.
    pub topic: String,
    /// Definition, without secrets.
    pub sql: String,
    /// What it sends; `None` before the view was there.
    pub mode: Option<SinkMode>,
    /// First offset of each of the source's partitions that no record of the topic stands for; `None` before the first.
    pub sent: Option<Vec<u64>>,
    /// In mode append over windows: those that start before this have been sent, ISO 8601.
    pub closed_before: Option<String>,
    /// Records sent since the process has started.
    pub records: u64,
    /// What keeps it from sending, with what to do.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub trouble: Option<String>,
}

/// Dead letters that were written to their topic again.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Replayed {
    /// How many; or how many would be.
    pub replayed: u64,
    /// Whether nothing was written.
    pub dry_run: bool,
}

/// A partition that is read again.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ResumedPartition {
    /// Its number.
    pub partition: u32,
    /// The offsets that are lost by this, if any.
    pub lost: Option<OffsetGap>,
}

/// A view.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct ViewStatus {
    /// Name.
    pub name: String,
    /// Source that it reads.
    pub source: String,
    /// Definition.
    pub sql: String,
    /// Identity of the definition.
    pub definition_id: String,
    /// Whether it can be asked.
    pub state: ViewState,
    /// A changed definition that is being built behind this one.
    pub building: Option<String>,
    /// Output columns.
    pub columns: Vec<ColumnStatus>,
    /// Number of the published batch view.
    pub batch_version: Option<u64>,
    /// First offset of each partition that the batch view does not cover.
    pub boundary: Vec<u64>,
    /// Size of the batch view.
    pub batch: BatchSize,
    /// Size of the realtime view.
    pub realtime: RealtimeStatus,
    /// Cron expression of its batch runs.
    pub batch_schedule: Option<String>,
    /// Cron expression of its full recomputes.
    pub full_recompute_schedule: Option<String>,
    /// When the next scheduled run starts, ISO 8601.
    pub next_run: Option<String>,
    /// Outcome of the last handoff's audit.
    pub last_audit: Option<AuditReport>,
    /// Batch runs that have failed since the last one that succeeded, as far as this process has seen.
    #[serde(default)]
    pub batch_failures: Option<BatchFailures>,
}

/// Batch runs of a view that failed in a row.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct BatchFailures {
    /// How many.
    pub count: usize,
    /// Why the newest failed.
    pub error: String,
}

/// Whether a view can be asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ViewState {
    /// It can.
    Active,
    /// It cannot: its SQL fails on an event.
    Stopped,
    /// Its first batch view is still being made from existing history.
    Building,
}

/// Size of a batch view.
#[derive(Debug, Clone, Copy, Default, Serialize, Deserialize)]
pub struct BatchSize {
    /// State files.
    pub files: usize,
    /// State rows.
    pub rows: usize,
    /// Bytes of state files.
    pub bytes: u64,
}

/// Size of a realtime view.
#[derive(Debug, Clone, Copy, Default, Serialize, Deserialize)]
pub struct RealtimeStatus {
    /// Segments, the open one included.
    pub segments: usize,
    /// Runs in all segments.
    pub runs: usize,
    /// State rows in all runs.
    pub rows: usize,
    /// Bytes in memory.
    pub bytes: usize,
    /// Bytes that are on disk only, because memory is short.
    pub stored_bytes: usize,
}

/// How a batch run computes its view.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum BatchRunKind {
    /// From all events of the history.
    Full,
}

/// What started a batch run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum BatchRunTrigger {
    /// A request.
    Manual,
    /// The view's cron expression.
    Schedule,
    /// A new or changed definition.
    Create,
    /// Damage in the batch view that answered.
    Repair,
}

/// Where a batch run is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum BatchRunState {
    /// Not ended.
    Running,
    /// Its batch version is published.
    Succeeded,
    /// It ended without effect.
    Failed,
}

/// A batch run.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct BatchRun {
    /// Number of the run in this process.
    pub id: u64,
    /// View.
    pub view: String,
    /// Kind.
    pub kind: BatchRunKind,
    /// State.
    pub state: BatchRunState,
    /// Trigger.
    pub trigger: BatchRunTrigger,
    /// ISO 8601.
    pub started_at: String,
    /// ISO 8601.
    pub ended_at: Option<String>,
    /// The published batch version.
    pub batch_version: Option<u64>,
    /// The history's table version that it read.
    pub history_version: Option<u64>,
    /// First offset of each partition that it does not cover.
    pub boundary: Vec<u64>,
    /// Events that it read.
    pub events: u64,
    /// State rows that it wrote.
    pub groups: u64,
    /// State files that it wrote.
    pub files: usize,
    /// Why it failed.
    pub error: Option<String>,
    /// The handoff's audit.
    pub audit: Option<AuditReport>,
}

/// Outcome of the check that batch and realtime agree at a handoff.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AuditReport {
    /// The batch version that took over.
    pub batch_version: u64,
    /// Whether the layers agreed.
    pub outcome: AuditOutcome,
    /// Groups compared.
    pub groups_compared: u64,
    /// Groups that differ or that one side lacks.
    pub groups_different: u64,
    /// The first difference, or why the audit was skipped.
    pub detail: Option<String>,
}

/// Whether batch and realtime agreed at a handoff.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum AuditOutcome {
    /// All groups were equal.
    Equal,
    /// Some groups differed; the new batch version is the truth.
    Drift,
    /// There was nothing to compare; the detail says why.
    Skipped,
}

/// Whether the platform answers.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Readiness {
    /// Whether events are taken and queries answered; a view that is stopped or being built does not change that.
    pub ready: bool,
    /// What is not ready or needs attention, a sentence each.
    pub detail: Vec<String>,
}
