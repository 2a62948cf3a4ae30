//! What the HTTP API sees of the platform.

use std::collections::BTreeMap;
use std::sync::Arc;

use arrow::array::RecordBatch;
use arrow::datatypes::Schema;
use async_trait::async_trait;
use bytes::Bytes;
use watershed_serving_layer as serving;
use watershed_serving_layer::{
    Backend, BatchFailures, BatchRun, BatchRunKind, BatchRunTrigger, BatchSize, ColumnStatus, IngestReport, Ingested,
    OffsetGap, Readiness, RealtimeStatus, Replayed, ResumedPartition, RowError, SinkStatus, SourceStatus, ViewState,
    ViewStatus,
};
use watershed_shared::budget::{MemoryBudget, Reservation};
use watershed_shared::definition::sql_type_name;
use watershed_shared::disk::free_bytes;
use watershed_shared::error::{Error as SharedError, ErrorKind};
use watershed_shared::fault::has_defect;
use watershed_shared::format::EventFormat;
use watershed_shared::log::{Appended, Receipt, ReceiptKey, Without};
use watershed_shared::position::{Gap, Position, PositionToken};
use watershed_shared::snapshot::{SnapshotReceiver, SourceSnapshot};
use watershed_shared::source::Connector;
use watershed_shared::telemetry::{DiskLabel, Metrics, OperationLabel, PartitionLabel, SourceLabel, ViewLabel};
use watershed_shared::time::{iso_timestamp, now, now_us};

use super::{Appends, Inner, Platform, Source, ViewEntry};
use crate::error::{Error, Result, with_causes};

/// Refused rows that an answer lists.
const ERRORS_MAX: usize = 100;
/// Bodies from this size on are decoded on the CPU pool; smaller ones take less time than the way there.
const POOL_BYTES_MIN: usize = 64 << 10;

#[async_trait]
impl Backend for Platform {
    fn snapshots(&self) -> Vec<(String, SnapshotReceiver)> {
        let sources = self.inner.sources.iter();
        sources.map(|(name, source)| (name.clone(), source.handle.snapshots.clone())).collect()
    }

    fn sources(&self) -> Vec<SourceStatus> {
        self.inner.sources.values().map(source_status).collect()
    }

    fn views(&self) -> Vec<ViewStatus> {
        let snapshots: BTreeMap<&str, Arc<SourceSnapshot>> = self.inner.latest_snapshots();
        let views = self.inner.views();
        views
            .iter()
            .filter_map(|(name, entry)| view_status(name, entry, snapshots.get(entry.source.as_str())))
            .map(|view| ViewStatus { batch_failures: self.inner.runs.failures(&view.name), ..view })
            .collect()
    }

    fn sinks(&self) -> Vec<SinkStatus> {
        let mut sinks: Vec<SinkStatus> = self.inner.sinks.iter().map(|sink| sink.status()).collect();
        sinks.sort_by(|one, other| one.name.cmp(&other.name));
        sinks
    }

    fn ingest_budget(&self) -> &Arc<MemoryBudget> {
        &self.inner.ingest_budget
    }

    async fn ingest(
        &self,
        source: &str,
        format: EventFormat,
        body: Bytes,
        key: Option<ReceiptKey>,
    ) -> serving::Result<Ingested> {
        Ok(self.accept_once(source, format, body, key).await?)
    }

    async fn resume_source(&self, source: &str, without: Without) -> serving::Result<Vec<ResumedPartition>> {
        let source = self.inner.source(source).map_err(serving::Error::from)?;
        let name = &source.handle.source.name;
        let topic = source.topic.as_ref().ok_or_else(|| SharedError::NoTopic { name: name.clone() })?;
        let resumed = topic.resume(without).await?;
        tracing::info!(source = name, ?without, ?resumed, "resumed by an operator");
        let resumed = resumed.into_iter().map(|(partition, lost)| ResumedPartition {
            partition: partition.0,
            lost: lost.map(|range| OffsetGap::from(&Gap { partition, range })),
        });
        Ok(resumed.collect())
    }

    async fn replay_dead_letters(&self, source: &str, dry_run: bool) -> serving::Result<Replayed> {
        // A task of its own: a client that goes away must not leave the topic with an open transaction.
        let (platform, source) = (self.clone(), source.to_owned());
        let replayed = tokio::spawn(async move { platform.replay(&source, dry_run).await }).await;
        Ok(replayed.map_err(|_| Error::Panicked { what: "replaying dead letters" })??)
    }

    async fn start_batch_run(&self, view: &str, kind: BatchRunKind, wait: bool) -> serving::Result<BatchRun> {
        let BatchRunKind::Full = kind;
        let (id, end) = self.spawn_run(view, BatchRunTrigger::Manual)?;
        if wait && end.await.is_err() {
            return Err(Error::Stopping.into());
        }
        let gone = || serving::Error::Unavailable { reason: format!("batch run {id} is no longer listed") };
        self.inner.runs.get(id).ok_or_else(gone)
    }

    fn batch_runs(&self) -> Vec<BatchRun> {
        self.inner.runs.list()
    }

    fn readiness(&self) -> Readiness {
        let ended = self.inner.sources.iter().filter(|(_, source)| source.handle.commands.is_closed());
        let mut detail: Vec<String> =
            ended.map(|(name, _)| format!("the task of source \"{name}\" has ended; restart the process")).collect();
        let ready = detail.is_empty();
        for (name, entry) in self.inner.views().iter() {
            if entry.active.is_none() {
                detail.push(format!("view \"{name}\" is being built from the history"));
            }
            if let Some(BatchFailures { count, error }) = self.inner.runs.failures(name) {
                detail.push(format!(
                    "the last {count} batch runs of view \"{name}\" failed, the newest because: {error}; its answers are \
                     right, but its realtime view grows until a run succeeds"
                ));
            }
        }
        detail.extend(self.inner.troubles());
        let sinks = self.inner.sinks.iter().map(|sink| sink.status());
        detail.extend(sinks.filter_map(|sink| Some(format!("sink \"{}\": {}", sink.name, sink.trouble?))));
        for snapshot in self.inner.latest_snapshots().values() {
            let stopped = snapshot.failures.iter();
            detail.extend(stopped.map(|(view, reason)| format!("view \"{view}\" is stopped: {reason}")));
            for (view, live) in snapshot.views.iter().filter(|(_, live)| live.realtime.stored_bytes > 0) {
                detail.push(format!(
                    "the realtime view of \"{view}\" has outgrown realtime.memory_bytes: queries read {} of its bytes from \
                     disk; a batch run of the view makes room",
                    live.realtime.stored_bytes
                ));
            }
            for (view, damage) in snapshot.views.iter().filter_map(|(name, view)| Some((name, view.damage()?))) {
                detail.push(format!(
                    "the batch view of \"{view}\" is being computed again, queries that need what is damaged fail: {damage}"
                ));
            }
        }
        Readiness { ready, detail }
    }

    fn metrics(&self) -> &Metrics {
        &self.inner.metrics
    }

    async fn refresh_metrics(&self) {
        self.inner.metrics.ingest_bytes_in_flight.set(self.inner.ingest_budget.reserved() as i64);
        for (holds, folder) in self.inner.ports.folders() {
            if let Ok(free) = free_bytes(&folder) {
                self.inner.metrics.disk_free_bytes.get_or_create(&DiskLabel { holds }).set(free as i64);
            }
        }
        self.inner.refresh_sizes();
        for (name, source) in &self.inner.sources {
            if let Some(topic) = &source.topic {
                let label = SourceLabel { source: name.clone() };
                self.inner.metrics.partitions_halted.get_or_create(&label).set(topic.halted() as i64);
            }
            self.inner.refresh_lags(source).await;
        }
    }
}

impl Platform {
    /// Decodes events and appends them to a source's log.
    pub async fn accept(&self, source: &str, format: EventFormat, body: Bytes) -> Result<IngestReport> {
        Ok(self.accept_once(source, format, body, None).await?.report)
    }

    /// `accept`; with a key, only if the request was not accepted before under this key.
    pub async fn accept_once(
        &self,
        source: &str,
        format: EventFormat,
        body: Bytes,
        key: Option<ReceiptKey>,
    ) -> Result<Ingested> {
        let source = self.inner.source(source)?;
        if source.handle.commands.is_closed() {
            return Err(Error::Stopping);
        }
        let name = &source.handle.source.name;
        match &source.appends {
            None => return Err(SharedError::NotIngestible { name: name.clone() }.into()),
            Some(Appends::Topic(_)) if key.is_some() => {
                return Err(SharedError::NotRemembering { name: name.clone() }.into());
            }
            Some(_) => {}
        }
        let key = key.map(|key| (Receipt::content_of(name, format, &body), key));
        let decoder = Arc::clone(&source.decoder);
        let body_bytes = body.len();
        let decoded = match body_bytes {
            0..POOL_BYTES_MIN => decoder.decode(format, &body),
            _ => self.inner.pool.run(async move { decoder.decode(format, &body) }).await,
        }?;
        let (accepted, rejected) = (decoded.events.num_rows(), decoded.rejected.len());
        let errors = decoded.rejected.into_iter().take(ERRORS_MAX);
        let report = IngestReport {
            accepted,
            rejected,
            errors: errors.map(|row| RowError { row: row.row, column: row.column, reason: row.reason }).collect(),
            errors_truncated: rejected > ERRORS_MAX,
            position: String::new(),
        };
        let _reserved = match accepted {
            0 => None,
            _ => Some(self.inner.reserve(decoded.events.get_array_memory_size(), body_bytes)?),
        };
        let ingested = source.append(&decoded.events, report, key).await;
        if accepted > 0 {
            source.log_failure.set(self.inner.append_failure(ingested.as_ref().err()));
        }
        let ingested = ingested?;
        let label = SourceLabel { source: name.clone() };
        if ingested.replayed {
            self.inner.metrics.requests_replayed.get_or_create(&label).inc();
        } else {
            self.inner.metrics.events_accepted.get_or_create(&label).inc_by(accepted as u64);
            self.inner.metrics.events_rejected.get_or_create(&label).inc_by(rejected as u64);
        }
        Ok(ingested)
    }
}

impl Source {
    /// Appends what a request's report speaks of, and completes the report. With a key and the hash of its content, the
    /// request is remembered, also when none of its rows was accepted, so that a producer can go on behind it.
    async fn append(
        &self,
        events: &RecordBatch,
        report: IngestReport,
        key: Option<(u64, ReceiptKey)>,
    ) -> Result<Ingested> {
        let name = &self.handle.source.name;
        let at = |report: IngestReport, position: Position| {
            let token = PositionToken { source: name.clone(), position };
            IngestReport { position: token.to_string(), ..report }
        };
        let log = match &self.appends {
            None => return Err(SharedError::NotIngestible { name: name.clone() }.into()),
            Some(Appends::Topic(gateway)) => {
                let position = match events.num_rows() {
                    0 => Position::beginning(self.handle.source.partitions),
                    _ => gateway.write(events).await?,
                };
                return Ok(Ingested { report: at(report, position), replayed: false });
            }
            Some(Appends::Log(log)) => log,
        };
        let batches = self.partitioner.split(events)?;
        let Some((content, key)) = key else {
            let position = match batches.is_empty() {
                true => Position::beginning(self.handle.source.partitions),
                false => match log.append(arrival_us(), batches).await {
                    Err(_) if has_defect("acknowledge.before_fsync") => log.end().borrow().clone(),
                    appended => appended?,
                },
            };
            return Ok(Ingested { report: at(report, position), replayed: false });
        };
        let answer = serde_json::to_vec(&report).map_err(|error| unreadable_receipt(&key, name, &error))?;
        let receipt = Receipt { key: key.clone(), content, answer: answer.into() };
        match log.append_once(arrival_us(), batches, receipt).await? {
            Appended::Now(position) => Ok(Ingested { report: at(report, position), replayed: false }),
            Appended::Before { answer, position } => {
                let first = serde_json::from_slice(&answer).map_err(|error| unreadable_receipt(&key, name, &error))?;
                Ok(Ingested { report: at(first, position), replayed: true })
            }
            Appended::OtherContent => Err(serving::Error::RequestReused { request: key.to_string() }.into()),
            Appended::OutOfOrder { expected } => match key {
                ReceiptKey::Sequence { producer, sequence } => {
                    Err(serving::Error::OutOfSequence { producer, sequence, expected }.into())
                }
                ReceiptKey::Request(_) => Err(serving::Error::RequestReused { request: key.to_string() }.into()),
            },
        }
    }
}

fn unreadable_receipt(key: &ReceiptKey, source: &str, error: &serde_json::Error) -> SharedError {
    SharedError::Corrupt { what: format!("the receipt of {key} of source \"{source}\""), reason: error.to_string() }
}

impl Inner {
    /// Memory for what a body of `body_bytes` has been decoded to.
    fn reserve(&self, bytes: usize, body_bytes: usize) -> Result<Reservation> {
        let budget = &self.ingest_budget;
        let overloaded = || {
            let (bytes_in_flight, bytes_max) = (budget.reserved(), budget.bytes_max());
            SharedError::Overloaded { bytes, bytes_in_flight, bytes_max }.into()
        };
        budget.reserve(bytes, body_bytes).ok_or_else(overloaded)
    }

    /// What keeps events from the log or the history, a sentence each.
    fn troubles(&self) -> Vec<String> {
        let mut troubles = Vec::new();
        let free_min = self.config.ingest.disk_free_bytes_min;
        for (holds, folder) in self.ports.folders() {
            if let Some(free) = free_bytes(&folder).ok().filter(|free| holds == "log" && *free < free_min) {
                troubles.push(format!(
                    "the disk of the log has {free} bytes free, fewer than ingest.disk_free_bytes_min = {free_min}: events \
                     are refused; free space on it"
                ));
            }
        }
        for (name, source) in &self.sources {
            if let Some(error) = source.log_failure.current() {
                troubles.push(format!("the last events for source \"{name}\" were refused: {error}"));
            }
            troubles.extend(source.handle.log.troubles());
            let Some(error) = source.handle.commit_failure.current() else { continue };
            let end = source.handle.log.end().borrow().clone();
            let waiting = end.events_since(source.handle.history.known().end());
            troubles.push(format!(
                "commits to the history of source \"{name}\" fail: {error}; {waiting} events wait in the log; they are \
                 tried again until the store takes them"
            ));
        }
        troubles
    }

    /// Counts a failure of the log and gives its words; a request that contradicts an earlier one is none.
    fn append_failure(&self, error: Option<&Error>) -> Option<String> {
        let error = error.filter(|error| error.kind() != ErrorKind::Conflict)?;
        self.metrics.store_failures.get_or_create(&OperationLabel { operation: "log_append" }).inc();
        Some(with_causes(error))
    }

    pub(super) fn latest_snapshots(&self) -> BTreeMap<&str, Arc<SourceSnapshot>> {
        let sources = self.sources.iter();
        sources.map(|(name, source)| (name.as_str(), Arc::clone(&source.handle.snapshots.borrow()))).collect()
    }

    /// How far the views are behind the log, in events and in the age of the oldest event that they do not show.
    async fn refresh_lags(&self, source: &Source) {
        let end = source.handle.log.known_end();
        let applied = source.handle.snapshots.borrow().applied.clone();
        for (partition, end) in end.iter() {
            let next = applied.get(partition);
            let label = PartitionLabel { source: source.handle.source.name.clone(), partition: partition.0 };
            let behind = end.0.saturating_sub(next.0);
            self.metrics.lag_events.get_or_create(&label).set(behind as i64);
            let oldest = match behind {
                0 => None,
                // It may have been applied and trimmed meanwhile; then there is no such event.
                _ => {
                    source.handle.log.read(partition, next, 1).await.ok().and_then(|batches| batches.into_iter().next())
                }
            };
            let age_us =
                oldest.and_then(|batch| batch.ingested_at_us()).map_or(0, |came_us| (now_us() - came_us).max(0));
            self.metrics.lag_seconds.get_or_create(&label).set(age_us as f64 / 1e6);
        }
    }

    fn refresh_sizes(&self) {
        for (name, source) in &self.sources {
            let end = source.handle.log.end().borrow().clone();
            let unarchived = end.events_since(source.handle.history.known().end());
            let label = SourceLabel { source: name.clone() };
            self.metrics.unarchived_events.get_or_create(&label).set(unarchived as i64);
            for (name, view) in &source.handle.snapshots.borrow().views {
                let label = ViewLabel { view: name.clone() };
                self.metrics.realtime_rows.get_or_create(&label).set(view.realtime.rows as i64);
                self.metrics.realtime_bytes.get_or_create(&label).set(view.realtime.bytes as i64);
                self.metrics.realtime_stored_bytes.get_or_create(&label).set(view.realtime.stored_bytes as i64);
                let version = view.batch.as_ref().map_or(0, |batch| batch.version.0);
                self.metrics.batch_version.get_or_create(&label).set(version as i64);
            }
        }
    }
}

fn source_status(source: &Source) -> SourceStatus {
    let definition = &source.handle.source;
    let snapshot = Arc::clone(&source.handle.snapshots.borrow());
    let end = source.handle.log.end().borrow().clone();
    let history = source.handle.history.known();
    SourceStatus {
        name: definition.name.clone(),
        sql: match &definition.connector {
            Connector::Kafka(options) => options.without_secrets(&definition.sql),
            _ => definition.sql.clone(),
        },
        columns: columns(&definition.columns),
        partitions: definition.partitions.max(end.offsets().len() as u32),
        offsets: offsets(&end),
        position: PositionToken { source: definition.name.clone(), position: end }.to_string(),
        applied: offsets(&snapshot.applied),
        history_offsets: offsets(history.end()),
        history_version: Some(history.version().0),
        watermark: snapshot.watermark_us.and_then(iso_timestamp),
        troubles: source.handle.log.troubles(),
        gaps: snapshot.gaps.iter().map(OffsetGap::from).collect(),
    }
}

fn view_status(name: &str, entry: &ViewEntry, snapshot: Option<&Arc<SourceSnapshot>>) -> Option<ViewStatus> {
    let definition = entry.active.as_ref().or(entry.building.as_ref())?;
    let plan = &definition.plan;
    let building = entry.active.as_ref().and(entry.building.as_ref());
    let live = snapshot.and_then(|snapshot| snapshot.views.get(name));
    let batch = live.and_then(|live| live.batch.as_ref());
    let realtime = live.map(|live| live.realtime).unwrap_or_default();
    let schedules = &entry.schedules;
    let next = schedules.next_after(now()).and_then(|next| iso_timestamp(next.timestamp_micros()));
    Some(ViewStatus {
        name: name.to_owned(),
        source: entry.source.clone(),
        sql: plan.sql.clone(),
        definition_id: plan.id.as_str().to_owned(),
        state: match &entry.active {
            _ if snapshot.is_some_and(|snapshot| snapshot.failures.contains_key(name)) => ViewState::Stopped,
            Some(_) => ViewState::Active,
            None => ViewState::Building,
        },
        building: building.map(|building| building.plan.id.as_str().to_owned()),
        columns: columns(plan.output_schema()),
        batch_version: batch.map(|batch| batch.version.0),
        boundary: live.map(|live| offsets(&live.boundary.0)).unwrap_or_default(),
        batch: batch.map_or_else(BatchSize::default, |batch| BatchSize {
            files: batch.files,
            rows: batch.rows,
            bytes: batch.bytes,
        }),
        realtime: RealtimeStatus {
            segments: realtime.segments,
            runs: realtime.runs,
            rows: realtime.rows,
            bytes: realtime.bytes,
            stored_bytes: realtime.stored_bytes,
        },
        batch_schedule: schedules.batch.as_ref().map(|schedule| schedule.text().to_owned()),
        full_recompute_schedule: schedules.full_recompute.as_ref().map(|schedule| schedule.text().to_owned()),
        next_run: next,
        last_audit: entry.last_audit.clone(),
        batch_failures: None,
    })
}

fn columns(schema: &Schema) -> Vec<ColumnStatus> {
    let column = |field: &arrow::datatypes::FieldRef| ColumnStatus {
        name: field.name().clone(),
        sql_type: sql_type_name(field.data_type()),
        nullable: field.is_nullable(),
    };
    schema.fields().iter().map(column).collect()
}

fn offsets(position: &Position) -> Vec<u64> {
    position.offsets().iter().map(|offset| offset.0).collect()
}

impl From<Error> for serving::Error {
    fn from(error: Error) -> serving::Error {
        match error {
            Error::Serving(error) => error,
            Error::Shared(error) => serving::Error::Shared(error),
            error if error.kind() == ErrorKind::Conflict => serving::Error::Conflict { reason: with_causes(&error) },
            error => serving::Error::Unavailable { reason: with_causes(&error) },
        }
    }
}

/// Now in whole milliseconds: the log packs events that arrived at the same time together, which microseconds would
/// almost never let it do.
fn arrival_us() -> i64 {
    now_us() / 1000 * 1000
}
