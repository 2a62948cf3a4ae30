//! Sinks: each a task that sends what has changed in its view to a topic, and with it, in the same transaction, up to where.
//!
//! At each trigger a sink takes the source's newest snapshot and sends what is different since the snapshot before. What
//! that is comes from the micro-batches, whose keys `changes` collects; after a start, and whenever sending has failed, the
//! sink asks the topic how far it has come and the history for what has changed since. Rows are always those of one
//! snapshot, so that a topic shows a view as it was at some moment, like every answer.

mod changes;
mod plan;

use std::convert::Infallible;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use arrow::array::RecordBatch;
use datafusion::execution::runtime_env::RuntimeEnv;
use datafusion::execution::session_state::SessionState;
use datafusion::logical_expr::LogicalPlan;
use datafusion::physical_plan::execute_stream;
use futures::{StreamExt, TryStreamExt};
use serde::{Deserialize, Serialize};
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use watershed_batch_layer::HistorySnapshot;
use watershed_batch_layer::run::stream_states_since;
use watershed_serving_layer::{AvroForm, RecordWriter, SinkStatus};
use watershed_shared::config::parallelism;
use watershed_shared::cpu::{CpuPool, blocking};
use watershed_shared::definition::DefinitionId;
use watershed_shared::error::Error as SharedError;
use watershed_shared::panics::catch_panic_of;
use watershed_shared::plan::{StateParts, ViewPlan, plan_session};
use watershed_shared::position::{Offset, Position};
use watershed_shared::registry::SchemaType;
use watershed_shared::sink::{Records, SinkDefinition, SinkFormat, SinkMode, TransactionalTopic};
use watershed_shared::snapshot::{SnapshotReceiver, SourceSnapshot, ViewSnapshot};
use watershed_shared::telemetry::{Metrics, SinkLabel};
use watershed_shared::time::{instant, iso_timestamp, sleep};

pub(super) use self::changes::Changes;
pub(super) use self::plan::SinkPlan;
use super::registry::schema_registry;
use super::source_task::Command;
use super::{Platform, lock};
use crate::error::{Error, Result, with_causes};

/// Pause before a topic is opened again after a failure.
const RETRY_PAUSE: Duration = Duration::from_secs(1);
/// How often the progress is written although nothing has changed: brokers forget offsets that are not (by default after a week).
const REFRESH_INTERVAL: Duration = Duration::from_secs(3600);
/// Batches of records between whoever encodes and whoever sends.
const QUEUED_MAX: usize = 2;
const PROGRESS_FORMAT: u32 = 1;

/// A sink as the platform knows it; its task has the rest.
#[derive(Debug)]
pub(super) struct Sink {
    pub(super) definition: SinkDefinition,
    /// Name of the source that the sink's view reads.
    source: String,
    changes: Arc<Changes>,
    state: Mutex<SinkState>,
}

/// What there is to tell of a sink.
#[derive(Debug, Default)]
struct SinkState {
    mode: Option<SinkMode>,
    sent: Option<Progress>,
    records: u64,
    trouble: Option<String>,
}

/// Up to where a sink has sent, as its topic's group has it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Progress {
    format: u32,
    /// Name of the source that the offsets are of.
    source: String,
    /// Identity of the view's definition.
    definition: String,
    mode: SinkMode,
    /// Names of the columns that made the records' key.
    key: Vec<String>,
    /// How the records were spelled.
    #[serde(default)]
    spelling: Spelling,
    /// Position of the snapshot that was sent.
    offsets: Vec<u64>,
    /// In mode append with windows: those that start before this were closed; microseconds since the epoch.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    closed_before: Option<i64>,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Spelling {
    #[default]
    Json,
    Avro,
}

impl Progress {
    fn position(&self) -> Position {
        Position::new(self.offsets.iter().copied().map(Offset).collect())
    }

    fn at(view: &ViewPlan, plan: &SinkPlan, position: &Position, closed_before: Option<i64>) -> Progress {
        let columns = view.output_schema();
        Progress {
            format: PROGRESS_FORMAT,
            source: view.source.name.clone(),
            definition: view.id.as_str().to_owned(),
            mode: plan.mode,
            key: plan.key.iter().map(|column| columns.field(*column).name().clone()).collect(),
            spelling: if plan.avro.is_some() { Spelling::Avro } else { Spelling::Json },
            offsets: position.offsets().iter().map(|offset| offset.0).collect(),
            closed_before,
        }
    }

    /// Whether it was written by the same sink over the same definition, so that only changes are to be sent.
    fn is_of(&self, view: &ViewPlan, plan: &SinkPlan) -> bool {
        let now = Progress::at(view, plan, &Position::default(), None);
        let same = Progress { offsets: self.offsets.clone(), closed_before: self.closed_before, ..now };
        *self == Progress { format: self.format, ..same }
    }

    fn parse(text: &str) -> Result<Progress, String> {
        let progress: Progress = serde_json::from_str(text).map_err(|error| error.to_string())?;
        match progress.format {
            PROGRESS_FORMAT => Ok(progress),
            other => Err(format!("its format is {other}, which a newer version has written")),
        }
    }
}

impl Sink {
    /// A sink that has sent nothing; `begin` is up to where the views have been loaded when their source starts.
    pub(super) fn new(definition: SinkDefinition, source: &str, begin: Position) -> Sink {
        let changes = Arc::new(Changes::since(begin));
        Sink { definition, source: source.to_owned(), changes, state: Mutex::default() }
    }

    /// Where the source's task puts what has changed.
    pub(super) fn changes(&self) -> &Arc<Changes> {
        &self.changes
    }

    /// What there is to tell.
    pub(super) fn status(&self) -> SinkStatus {
        let state = lock(&self.state);
        SinkStatus {
            name: self.definition.name.clone(),
            view: self.definition.view.clone(),
            topic: self.definition.topic.clone(),
            sql: self.definition.without_secrets(),
            mode: state.mode,
            sent: state.sent.as_ref().map(|sent| sent.offsets.clone()),
            closed_before: state.sent.as_ref().and_then(|sent| iso_timestamp(sent.closed_before?)),
            records: state.records,
            trouble: state.trouble.clone(),
        }
    }

    fn set_trouble(&self, trouble: Option<String>) {
        lock(&self.state).trouble = trouble;
    }
}

/// What one transaction sends, in order.
enum Part {
    Records(Records),
    /// Commit, if there are records or `even_empty`.
    End {
        progress: String,
        even_empty: bool,
    },
}

/// What a sink finds to do at a trigger.
enum Step {
    /// Everything is sent, or the view cannot be asked now.
    Nothing,
    /// What has changed is not known here any more.
    Unknown,
    Send {
        plans: Vec<Rows>,
        next: Progress,
        even_empty: bool,
    },
}

/// Rows to send.
enum Rows {
    Present(LogicalPlan),
    Vanished(LogicalPlan),
}

/// How a sink sends one definition of its view.
struct Prepared {
    definition: DefinitionId,
    plan: SinkPlan,
    writer: Arc<RecordWriter>,
}

/// Starts the tasks of all sinks.
pub(super) fn start(platform: &Platform, tasks: &mut JoinSet<()>) {
    for sink in &platform.inner.sinks {
        let runtime = Arc::clone(&platform.inner.query_runtime);
        let task = SinkTask {
            platform: platform.clone(),
            sink: Arc::clone(sink),
            session: plan_session(
                parallelism(platform.inner.config.query.parallelism),
                Arc::<RuntimeEnv>::clone(&runtime),
            ),
            // A stream of the history in the order of its files.
            one_by_one: plan_session(1, runtime),
            pool: platform.inner.pool.clone(),
            metrics: platform.inner.metrics.clone(),
            committed: Mutex::new(instant()),
        };
        tasks.spawn(task.run());
    }
}

struct SinkTask {
    platform: Platform,
    sink: Arc<Sink>,
    session: SessionState,
    one_by_one: SessionState,
    pool: CpuPool,
    metrics: Metrics,
    /// When the topic's progress was last written.
    committed: Mutex<Instant>,
}

impl SinkTask {
    async fn run(self) {
        let name = &self.sink.definition.name;
        let label = SinkLabel { sink: name.clone() };
        loop {
            let panicked =
                |words| Error::Sink { name: name.clone(), reason: format!("it panicked: {words}; this is a bug") };
            let Err(error) = catch_panic_of(self.send_from_here()).await.map_err(panicked).flatten();
            let reason = with_causes(&error);
            self.sink.set_trouble(Some(reason.clone()));
            self.metrics.sink_failures.get_or_create(&label).inc();
            match error {
                Error::Stopping => return,
                Error::Shared(SharedError::Fenced { .. }) => {
                    tracing::error!(sink = name, "{reason}");
                    return;
                }
                _ => tracing::warn!(sink = name, error = reason, "cannot send; trying again from what the topic has"),
            }
            sleep(RETRY_PAUSE).await;
        }
    }

    /// Opens the topic, and sends from where it is until something fails.
    async fn send_from_here(&self) -> Result<Infallible> {
        let target = self.sink.definition.target();
        let opened = blocking(move || TransactionalTopic::open(&target)).await;
        let (mut topic, progress) = opened.map_err(|_| Error::Panicked { what: "opening a sink's topic" })??;
        let mut sent = progress.as_deref().map(Progress::parse).transpose().map_err(|reason| self.unusable(reason))?;
        let name = &self.sink.definition.name;
        tracing::info!(sink = name, topic = self.sink.definition.topic, ?sent, "sends a view's changes");
        lock(&self.sink.state).sent = sent.clone();
        self.sink.set_trouble(None);
        let mut snapshots = self.platform.inner.source(&self.sink.source)?.handle.snapshots.clone();
        let mut is_in_step = false;
        let mut prepared: Option<Prepared> = None;
        *lock(&self.committed) = instant();
        loop {
            let snapshot = Arc::clone(&snapshots.borrow_and_update());
            let mut found = Step::Nothing;
            if let Some(view) = self.view_of(&snapshot) {
                let prepared = match prepared.take().filter(|prepared| prepared.definition == view.plan.id) {
                    Some(same) => prepared.insert(same),
                    None => prepared.insert(self.prepare(&view.plan).await?),
                };
                if !is_in_step && prepared.plan.mode != SinkMode::Complete {
                    let caught_up = self.catch_up(topic, &mut snapshots, view, prepared, sent.clone()).await?;
                    (topic, sent) = (caught_up.topic, caught_up.sent);
                    is_in_step = true;
                    continue;
                }
                found = match self.step(&snapshot, view, &prepared.plan, sent.as_ref())? {
                    Step::Send { next, .. } if next.closed_before.is_some() && !self.may_close(&snapshot).await? => {
                        Step::Nothing
                    }
                    found => found,
                };
            }
            match (found, &prepared) {
                (Step::Unknown, _) => {
                    is_in_step = false;
                    continue;
                }
                (Step::Send { plans, next, even_empty }, Some(prepared)) => {
                    topic = self.transact(topic, plans, &prepared.writer, &next, even_empty).await?;
                    sent = Some(next);
                }
                (Step::Send { .. } | Step::Nothing, _) => {}
            }
            if let Some(same) = sent.as_ref().filter(|_| instant() - *lock(&self.committed) >= REFRESH_INTERVAL) {
                topic = self.write(topic, |parts| async { Ok(parts) }, same, true).await?;
            }
            sleep(self.sink.definition.trigger).await;
            tokio::select! {
                changed = snapshots.changed() => changed.map_err(|_| Error::Stopping)?,
                () = sleep(REFRESH_INTERVAL) => {}
            }
        }
    }

    /// Whether windows are closed where the watermark of a snapshot says so. It says nothing of a partition whose first event
    /// with a time is still to come; if there are any in the log already, they may be as old as the others' first.
    async fn may_close(&self, snapshot: &SourceSnapshot) -> Result<bool> {
        if snapshot.timeless.is_empty() {
            return Ok(true);
        }
        let source = self.platform.inner.source(&self.sink.source)?;
        let accepted = source.handle.log.accepted().await;
        let Some(accepted) = accepted.ok().filter(|_| source.handle.log.troubles().is_empty()) else {
            self.sink.set_trouble(Some(format!(
                "no window is closed before it is known whether partition {} of source \"{}\" has events; the log cannot be asked now",
                snapshot.timeless[0], self.sink.source
            )));
            return Ok(false);
        };
        // What was there then is in this one, and tells the partition's time if it has any.
        let mut snapshots = source.handle.snapshots.clone();
        let later = snapshots.wait_for(|later| later.applied.covers(&accepted)).await.map_err(|_| Error::Stopping)?;
        Ok(snapshot.timeless.iter().all(|partition| later.timeless.contains(partition)))
    }

    /// How a definition of the view is sent. A registry is told the schemas.
    async fn prepare(&self, view: &ViewPlan) -> Result<Prepared> {
        let definition = &self.sink.definition;
        let plan = SinkPlan::new(definition, view)?;
        lock(&self.sink.state).mode = Some(plan.mode);
        let key = plan.key.clone();
        let writer = match (&definition.format, plan.avro.clone()) {
            (SinkFormat::Avro(options), Some(forms)) => {
                let (registry, topic) = (schema_registry(options)?, definition.topic.clone());
                let register = move || {
                    let id = |part: &str, form: &AvroForm| {
                        registry.register(&format!("{topic}-{part}"), SchemaType::Avro, form.text())
                    };
                    let value = id("value", &forms.value)?;
                    let key_form = forms.key.map(|form| Ok::<_, SharedError>((id("key", &form)?, form))).transpose()?;
                    let key_form = key_form.map(|(id, form)| (form, id));
                    Ok::<_, SharedError>(RecordWriter::avro(key, key_form, (forms.value, value)))
                };
                blocking(register).await.map_err(|_| Error::Panicked { what: "registering a sink's schemas" })??
            }
            _ => RecordWriter::json(key),
        };
        Ok(Prepared { definition: view.id.clone(), plan, writer: Arc::new(writer) })
    }

    /// The view, if it can be asked.
    fn view_of<'a>(&self, snapshot: &'a SourceSnapshot) -> Option<&'a ViewSnapshot> {
        let name = &self.sink.definition.view;
        let view = snapshot.views.get(name);
        if view.is_none() {
            let reason = match snapshot.failures.get(name) {
                Some(failure) => format!("view \"{name}\" has stopped: {failure}"),
                None => format!("view \"{name}\" is being built from the history"),
            };
            self.sink.set_trouble(Some(reason));
        }
        view
    }

    /// What a snapshot has that was not sent.
    fn step(
        &self,
        snapshot: &SourceSnapshot,
        view: &ViewSnapshot,
        plan: &SinkPlan,
        sent: Option<&Progress>,
    ) -> Result<Step> {
        let applied = &snapshot.applied;
        // What another source's log has says nothing of this one.
        let sent = sent.filter(|sent| sent.source == view.plan.source.name);
        let before = sent.map(Progress::position).unwrap_or_default();
        if !applied.covers(&before) {
            self.sink.set_trouble(Some(format!(
                "what was sent covers the events of source \"{}\" up to {before}, but its views are only at {applied}; it goes \
                 on when they have come there",
                self.sink.source
            )));
            return Ok(Step::Nothing);
        }
        self.sink.set_trouble(None);
        let is_same = sent.is_some_and(|sent| sent.is_of(&view.plan, plan));
        let next = |closed_before| Progress::at(&view.plan, plan, applied, closed_before);
        let send = |plans, next| Ok(Step::Send { plans, next, even_empty: false });
        if plan.mode == SinkMode::Append && view.plan.has_aggregate() {
            let Some(window) = view.plan.window() else { return Ok(Step::Nothing) };
            // The window that the watermark lies in is open; every one before it is closed.
            let until = snapshot.watermark_us.and_then(|watermark_us| window.window.start(watermark_us));
            let from = sent.filter(|sent| sent.mode == plan.mode).and_then(|sent| sent.closed_before);
            let Some(until) = until.filter(|until| from.is_none_or(|from| from < *until)) else {
                return Ok(Step::Nothing);
            };
            let rows = view.plan.rows_of_windows(view.parts(), from, until).map_err(SharedError::from)?;
            return Ok(Step::Send { plans: vec![Rows::Present(rows)], next: next(Some(until)), even_empty: true });
        }
        if is_same && before == *applied {
            return Ok(Step::Nothing);
        }
        let all = || Ok::<_, Error>(vec![Rows::Present(view.plan.query(view.parts()).map_err(SharedError::from)?)]);
        if plan.mode == SinkMode::Complete {
            return send(all()?, next(None));
        }
        let changes = self.sink.changes.take(&view.plan, &before, applied);
        match changes {
            // The rows of another definition, or of none, say nothing about this one.
            _ if !is_same && plan.mode == SinkMode::Update => send(all()?, next(None)),
            _ if !is_same => Ok(Step::Unknown),
            None => Ok(Step::Unknown),
            // The next changes begin here.
            Some(changes) if changes.is_empty() => send(Vec::new(), next(None)),
            Some(changes) => send(self.rows_of(view, plan, changes)?, next(None)),
        }
    }

    /// The rows that changes stand for in a snapshot.
    fn rows_of(&self, view: &ViewSnapshot, plan: &SinkPlan, changes: Vec<RecordBatch>) -> Result<Vec<Rows>> {
        let wrong = SharedError::from;
        let vanished = match plan.mode {
            SinkMode::Update => view.plan.vanished_keys(view.parts(), changes.clone(), &plan.key).map_err(wrong)?,
            _ => None,
        };
        let present = view.plan.changed_rows(view.parts(), changes).map_err(wrong)?;
        Ok(std::iter::once(Rows::Present(present)).chain(vanished.map(Rows::Vanished)).collect())
    }

    /// Sends what has changed between what the topic has and what is collected here, from the history.
    async fn catch_up(
        &self,
        topic: TransactionalTopic,
        snapshots: &mut SnapshotReceiver,
        view: &ViewSnapshot,
        prepared: &Prepared,
        sent: Option<Progress>,
    ) -> Result<CaughtUp> {
        let (plan, writer) = (&prepared.plan, &prepared.writer);
        let same = sent.as_ref().filter(|sent| sent.is_of(&view.plan, plan));
        let is_by_rows = plan.mode == SinkMode::Append && !view.plan.has_aggregate();
        let needs_history = match plan.mode {
            SinkMode::Update => same.is_some(),
            SinkMode::Append => is_by_rows,
            SinkMode::Complete => false,
        };
        if !needs_history {
            return Ok(CaughtUp { topic, sent });
        }
        // A new definition of a view without GROUP BY sends its rows from the beginning too.
        let before = same.map(Progress::position).unwrap_or_default();
        let mut target = self.sink.changes.begin();
        target.join(&before);
        self.sink
            .set_trouble(Some(format!("waiting until the history of source \"{}\" has {target}", self.sink.source)));
        let source = self.platform.inner.source(&self.sink.source)?;
        let history = super::ask(&source.handle, |reply| Command::Archive { target, pin: None, reply }).await?;
        self.sink.set_trouble(None);
        let end = history.end().clone();
        let snapshot = match snapshots.wait_for(|snapshot| snapshot.applied.covers(&end)).await {
            Ok(snapshot) => Arc::clone(&snapshot),
            Err(_) => return Err(Error::Stopping),
        };
        let unchanged = snapshot.views.get(&self.sink.definition.view).filter(|now| now.plan.id == view.plan.id);
        let Some(view) = unchanged else { return Err(Error::Overtaken { view: view.plan.name.clone() }) };
        if before == end && same.is_some() {
            return Ok(CaughtUp { topic, sent });
        }
        if is_by_rows {
            let next = Progress::at(&view.plan, plan, &end, None);
            let topic = self.transact_history(topic, &view.plan, history, before, writer, &next).await?;
            return Ok(CaughtUp { topic, sent: Some(next) });
        }
        let position = &snapshot.applied;
        // What came after the history's end is sent as well: a row is the snapshot's. At once, before more comes than is kept.
        let Some(mut changes) = self.sink.changes.take(&view.plan, &end, position) else {
            return Err(Error::Overtaken { view: view.plan.name.clone() });
        };
        changes.extend(self.keys_since(&view.plan, history, before).await?);
        let next = Progress::at(&view.plan, plan, position, None);
        let topic = self.transact(topic, self.rows_of(view, plan, changes)?, writer, &next, true).await?;
        Ok(CaughtUp { topic, sent: Some(next) })
    }

    /// The keys of the groups that have got events in a history version since a position; some may come several times.
    async fn keys_since(
        &self,
        view: &Arc<ViewPlan>,
        history: HistorySnapshot,
        before: Position,
    ) -> Result<Vec<RecordBatch>> {
        let (view, session) = (Arc::clone(view), self.session.clone());
        let collect = async move {
            let keys: Vec<usize> = (0..view.key_count()).collect();
            let states = stream_states_since(&view, &history, &before, &session).await?;
            let keys = states.map(|states| states.and_then(|states| Ok(states.project(&keys)?)));
            Ok::<_, Error>(keys.try_collect().await.map_err(SharedError::from)?)
        };
        self.pool.run(collect).await
    }

    /// Sends rows and commits them with the progress that they stand for.
    async fn transact(
        &self,
        topic: TransactionalTopic,
        plans: Vec<Rows>,
        writer: &Arc<RecordWriter>,
        next: &Progress,
        even_empty: bool,
    ) -> Result<TransactionalTopic> {
        let (session, writer) = (self.session.clone(), Arc::clone(writer));
        let encode = move |parts: mpsc::Sender<Part>| async move {
            for rows in plans {
                let (plan, is_present) = match rows {
                    Rows::Present(plan) => (plan, true),
                    Rows::Vanished(plan) => (plan, false),
                };
                let plan = session.create_physical_plan(&plan).await.map_err(SharedError::from)?;
                let mut rows = execute_stream(plan, session.task_ctx()).map_err(SharedError::from)?;
                while let Some(rows) = rows.next().await {
                    let rows = rows.map_err(SharedError::from)?;
                    let records = if is_present { writer.records(&rows) } else { writer.tombstones(&rows) };
                    hand_on(&parts, records.map_err(SharedError::from)?).await?;
                }
            }
            Ok(parts)
        };
        self.write(topic, encode, next, even_empty).await
    }

    /// Sends the rows of a view without GROUP BY of all events of a history version since a position.
    async fn transact_history(
        &self,
        topic: TransactionalTopic,
        view: &Arc<ViewPlan>,
        history: HistorySnapshot,
        before: Position,
        writer: &Arc<RecordWriter>,
        next: &Progress,
    ) -> Result<TransactionalTopic> {
        let (view, session, writer) = (Arc::clone(view), self.one_by_one.clone(), Arc::clone(writer));
        let encode = move |parts: mpsc::Sender<Part>| async move {
            let mut states = stream_states_since(&view, &history, &before, &session).await?;
            while let Some(states) = states.next().await {
                let states = vec![states.map_err(SharedError::from)?];
                let rows = view.changed_rows(StateParts::default(), states).map_err(SharedError::from)?;
                let rows = session.create_physical_plan(&rows).await.map_err(SharedError::from)?;
                let mut rows = execute_stream(rows, session.task_ctx()).map_err(SharedError::from)?;
                while let Some(rows) = rows.next().await {
                    let records = writer.records(&rows.map_err(SharedError::from)?);
                    hand_on(&parts, records.map_err(SharedError::from)?).await?;
                }
            }
            Ok(parts)
        };
        self.write(topic, encode, next, true).await
    }

    /// Encodes on the CPU pool and sends on a thread that may wait for brokers; commits when all is encoded.
    async fn write<F>(
        &self,
        topic: TransactionalTopic,
        encode: impl FnOnce(mpsc::Sender<Part>) -> F,
        next: &Progress,
        even_empty: bool,
    ) -> Result<TransactionalTopic>
    where
        F: Future<Output = Result<mpsc::Sender<Part>>> + Send + 'static,
    {
        let progress = serde_json::to_string(next).map_err(|error| self.unusable(error.to_string()))?;
        let (parts, received) = mpsc::channel(QUEUED_MAX);
        let encoded = self.pool.run(encode(parts));
        let encoded = async move {
            let parts = encoded.await?;
            // Whoever sends is gone only with an error, which is the one to tell.
            let _ = parts.send(Part::End { progress, even_empty }).await;
            Ok::<_, Error>(())
        };
        let (encoded, sent) = tokio::join!(encoded, blocking(move || send_all(topic, received)));
        let Sent { topic, records, is_committed } =
            match sent.map_err(|_| Error::Panicked { what: "sending to a sink's topic" })? {
                Ok(Some(sent)) => sent,
                // Nobody has said that this is all.
                Ok(None) => return Err(encoded.err().unwrap_or(Error::Stopping)),
                Err(error) => return Err(error.into()),
            };
        if is_committed {
            *lock(&self.committed) = instant();
        }
        let label = SinkLabel { sink: self.sink.definition.name.clone() };
        self.metrics.sink_records.get_or_create(&label).inc_by(records);
        let mut state = lock(&self.sink.state);
        state.records += records;
        state.sent = Some(next.clone());
        Ok(topic)
    }

    fn unusable(&self, reason: String) -> Error {
        let name = &self.sink.definition.name;
        Error::Sink { name: name.clone(), reason: format!("its progress cannot be used: {reason}") }
    }
}

/// A sink that has everything up to where its changes are collected.
struct CaughtUp {
    topic: TransactionalTopic,
    sent: Option<Progress>,
}

async fn hand_on(parts: &mpsc::Sender<Part>, records: Records) -> Result<()> {
    match records.is_empty() {
        true => Ok(()),
        // The other side has failed, and says why.
        false => parts.send(Part::Records(records)).await.map_err(|_| Error::Stopping),
    }
}

/// What became of a transaction.
struct Sent {
    topic: TransactionalTopic,
    records: u64,
    is_committed: bool,
}

/// Sends the parts of one transaction; gives the number of records, or `None` if the parts end before their end.
fn send_all(
    topic: TransactionalTopic,
    mut parts: mpsc::Receiver<Part>,
) -> watershed_shared::error::Result<Option<Sent>> {
    let (mut records, mut has_begun) = (0, false);
    while let Some(part) = parts.blocking_recv() {
        let is_empty_end = matches!(&part, Part::End { even_empty: false, .. }) && !has_begun;
        if is_empty_end {
            return Ok(Some(Sent { topic, records: 0, is_committed: false }));
        }
        if !std::mem::replace(&mut has_begun, true) {
            topic.begin()?;
        }
        match part {
            Part::Records(more) => {
                topic.send(&more)?;
                records += more.len() as u64;
            }
            Part::End { progress, .. } => {
                topic.commit(&progress)?;
                return Ok(Some(Sent { topic, records, is_committed: true }));
            }
        }
    }
    Ok(None)
}
