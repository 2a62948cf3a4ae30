//! The platform's metrics, in the Prometheus text format. Names and units are part of the interface to operators.

use std::sync::Arc;

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::encoding::text::encode;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use prometheus_client::registry::{Registry, Unit};

/// Label of metrics that a source has.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct SourceLabel {
    /// Name of the source.
    pub source: String,
}

/// Label of metrics that each partition of a source has.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct PartitionLabel {
    /// Name of the source.
    pub source: String,
    /// Number of the partition.
    pub partition: u32,
}

/// Label of metrics that a view has.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct ViewLabel {
    /// Name of the view.
    pub view: String,
}

/// Label of metrics that a sink has.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct SinkLabel {
    /// Name of the sink.
    pub sink: String,
}

/// Label of metrics that count refusals.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct ReasonLabel {
    /// What the problem document's `type` ends in.
    pub reason: &'static str,
}

/// Label of metrics that count what is done to the log and the store.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct OperationLabel {
    /// What was tried, such as `log_append`.
    pub operation: &'static str,
}

/// Label of metrics that a disk has.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct DiskLabel {
    /// What is stored there: `log` or `store`.
    pub holds: &'static str,
}

/// Label of metrics that count outcomes.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct OutcomeLabel {
    /// `ok` or `error`.
    pub outcome: String,
}

/// All metrics of one platform.
#[derive(Debug, Clone)]
pub struct Metrics {
    registry: Arc<Registry>,
    /// Events acknowledged.
    pub events_accepted: Family<SourceLabel, Counter>,
    /// Rows refused.
    pub events_rejected: Family<SourceLabel, Counter>,
    /// Records of a topic that are events.
    pub records_read: Family<SourceLabel, Counter>,
    /// Records of a topic that are no events of its source.
    pub dead_letters: Family<SourceLabel, Counter>,
    /// Partitions of a topic that have stopped until an operator resumes them.
    pub partitions_halted: Family<SourceLabel, Gauge>,
    /// Requests that were recognized and got their old answer.
    pub requests_replayed: Family<SourceLabel, Counter>,
    /// Memory of requests that bring events, as reserved in their budget.
    pub ingest_bytes_in_flight: Gauge,
    /// Open connections of the HTTP API.
    pub connections: Gauge,
    /// Requests and connections refused or cut off.
    pub requests_refused: Family<ReasonLabel, Counter>,
    /// Operations on log and store that failed.
    pub store_failures: Family<OperationLabel, Counter>,
    /// Room on the disks.
    pub disk_free_bytes: Family<DiskLabel, Gauge>,
    /// Events in the log that the views do not show yet.
    pub lag_events: Family<PartitionLabel, Gauge>,
    /// Age of the oldest event that the views do not show yet.
    pub lag_seconds: Family<PartitionLabel, Gauge<f64, std::sync::atomic::AtomicU64>>,
    /// Time from an event's arrival until queries see it.
    pub event_to_visible: Family<SourceLabel, Histogram>,
    /// Events that the history does not hold yet.
    pub unarchived_events: Family<SourceLabel, Gauge>,
    /// History commits that failed and are tried again.
    pub history_commit_failures: Family<SourceLabel, Counter>,
    /// State rows in memory.
    pub realtime_rows: Family<ViewLabel, Gauge>,
    /// Bytes of states in memory.
    pub realtime_bytes: Family<ViewLabel, Gauge>,
    /// Bytes of realtime views that are on disk only.
    pub realtime_stored_bytes: Family<ViewLabel, Gauge>,
    /// Number of the published batch view.
    pub batch_version: Family<ViewLabel, Gauge>,
    /// Duration of batch runs that succeeded.
    pub batch_run_duration: Family<ViewLabel, Histogram>,
    /// Batch runs that failed.
    pub batch_run_failures: Family<ViewLabel, Counter>,
    /// Groups that differed between the layers, over all handoffs since the start.
    pub audit_drift_groups: Family<ViewLabel, Counter>,
    /// Records sent to topics, in transactions that were committed.
    pub sink_records: Family<SinkLabel, Counter>,
    /// Times that a sink could not send and has begun anew from what its topic has.
    pub sink_failures: Family<SinkLabel, Counter>,
    /// Duration of queries, refused ones included.
    pub query_duration: Family<OutcomeLabel, Histogram>,
}

impl Default for Metrics {
    fn default() -> Metrics {
        Metrics::new()
    }
}

impl Metrics {
    /// Fresh metrics, all at zero.
    pub fn new() -> Metrics {
        let mut registry = Registry::with_prefix("watershed");
        let r = &mut registry;
        // 1 ms to about 65 s in steps of two.
        let seconds = || Histogram::new(exponential_buckets(0.001, 2.0, 17));
        // 100 ms to about 55 min.
        let long_seconds = || Histogram::new(exponential_buckets(0.1, 2.0, 16));
        Metrics {
            events_accepted: counter(r, "events_accepted", "Events acknowledged to producers"),
            events_rejected: counter(r, "events_rejected", "Rows refused because they do not fit the source"),
            records_read: counter(r, "records_read", "Records of a topic that are events"),
            dead_letters: counter(r, "dead_letters", "Records of a topic that are no events of its source"),
            partitions_halted: gauge(r, "partitions_halted", "Partitions of a topic that are not read until resumed"),
            requests_replayed: counter(r, "requests_replayed", "Repeated requests that got their old answer"),
            ingest_bytes_in_flight: single_gauge(r, "ingest_bytes_in_flight", "Memory of requests that bring events"),
            connections: single_gauge(r, "connections", "Open connections of the HTTP API"),
            requests_refused: counter(r, "requests_refused", "Requests and connections refused or cut off"),
            store_failures: counter(r, "store_failures", "Operations on log and store that failed"),
            disk_free_bytes: gauge(r, "disk_free_bytes", "Free bytes of the disks of log and store"),
            lag_events: gauge(r, "lag_events", "Events in the log that the views do not show yet"),
            lag_seconds: gauge_seconds(r, "lag", "Age of the oldest event that the views do not show yet"),
            event_to_visible: histogram(r, "event_to_visible", "Time from arrival until queries see an event", seconds),
            unarchived_events: gauge(r, "unarchived_events", "Events that the history does not hold yet"),
            history_commit_failures: counter(r, "history_commit_failures", "History commits that failed"),
            realtime_rows: gauge(r, "realtime_rows", "State rows of the realtime view"),
            realtime_bytes: gauge(r, "realtime_bytes", "Bytes of the realtime view in memory"),
            realtime_stored_bytes: gauge(
                r,
                "realtime_stored_bytes",
                "Bytes of the realtime view that are on disk only",
            ),
            batch_version: gauge(r, "batch_version", "Number of the published batch view"),
            batch_run_duration: histogram(r, "batch_run_duration", "Duration of succeeded batch runs", long_seconds),
            batch_run_failures: counter(r, "batch_run_failures", "Batch runs that failed"),
            audit_drift_groups: counter(r, "audit_drift_groups", "Groups that differed between the layers"),
            sink_records: counter(r, "sink_records", "Records that sinks have sent"),
            sink_failures: counter(r, "sink_failures", "Times that a sink could not send"),
            query_duration: histogram(r, "query_duration", "Duration of queries", seconds),
            registry: Arc::new(registry),
        }
    }

    /// The metrics in the OpenMetrics text format.
    pub fn encode(&self) -> Result<String, std::fmt::Error> {
        let mut text = String::new();
        encode(&mut text, &self.registry)?;
        Ok(text)
    }
}

/// What a label set must be for a family of metrics.
trait Labels: EncodeLabelSet + Clone + std::hash::Hash + Eq + std::fmt::Debug + Send + Sync + 'static {}

impl<L: EncodeLabelSet + Clone + std::hash::Hash + Eq + std::fmt::Debug + Send + Sync + 'static> Labels for L {}

fn counter<L: Labels>(registry: &mut Registry, name: &str, help: &str) -> Family<L, Counter> {
    let family = Family::default();
    registry.register(name, help, Family::clone(&family));
    family
}

fn gauge<L: Labels>(registry: &mut Registry, name: &str, help: &str) -> Family<L, Gauge> {
    let family = Family::default();
    registry.register(name, help, Family::clone(&family));
    family
}

fn single_gauge(registry: &mut Registry, name: &str, help: &str) -> Gauge {
    let gauge = Gauge::default();
    registry.register(name, help, gauge.clone());
    gauge
}

fn gauge_seconds<L: Labels>(
    registry: &mut Registry,
    name: &str,
    help: &str,
) -> Family<L, Gauge<f64, std::sync::atomic::AtomicU64>> {
    let family = Family::default();
    registry.register_with_unit(name, help, Unit::Seconds, Family::clone(&family));
    family
}

fn histogram<L: Labels>(
    registry: &mut Registry,
    name: &str,
    help: &str,
    constructor: fn() -> Histogram,
) -> Family<L, Histogram> {
    let family = Family::new_with_constructor(constructor);
    registry.register_with_unit(name, help, Unit::Seconds, Family::clone(&family));
    family
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn metrics_appear_under_their_names_with_labels_and_units() -> Result<(), std::fmt::Error> {
        let metrics = Metrics::new();
        metrics.events_accepted.get_or_create(&SourceLabel { source: "edits".into() }).inc_by(3);
        metrics.query_duration.get_or_create(&OutcomeLabel { outcome: "ok".into() }).observe(0.01);
        let text = metrics.encode()?;
        assert!(text.contains("watershed_events_accepted_total{source=\"edits\"} 3"), "{text}");
        assert!(text.contains("watershed_query_duration_seconds_count{outcome=\"ok\"} 1"), "{text}");
        Ok(())
    }
}
