//! Sinks: each a task that sends what has changed in its view to a topic, and with it, in the same transaction, up to where.
//!
//! At each trigger a sink takes the source's newest snapshot and sends what is different since the snapshot before. What
//! that is comes from the micro-batches, whose keys `changes` collects; after a start, and whenever sending has failed, the
//! sink asks the topic how far it has come and the history for what has changed since. Rows are always those of one
//! snapshot, so that a topic shows a view as it was at some moment, like every answer.

mod changes;
mod plan;
mod progress;

use std::convert::Infallible;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use arrow::array::RecordBatch;
use datafusion::execution::runtime_env::RuntimeEnv;
use datafusion::execution::session_state::SessionState;
use datafusion::logical_expr::LogicalPlan;
use datafusion::physical_plan::execute_stream;
use futures::{StreamExt, TryStreamExt};
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
use watershed_shared::position::Position;
use watershed_shared::registry::{RegistryOptions, SchemaType};
use watershed_shared::sink::{Records, SinkDefinition, SinkFormat, SinkMode, TransactionalTopic};
use watershed_shared::snapshot::{SnapshotReceiver, SourceSnapshot, ViewSnapshot};
use watershed_shared::telemetry::{Metrics, SinkLabel};
use watershed_shared::time::{instant, iso_timestamp, sleep};

pub(super) use self::changes::Changes;
use self::plan::AvroForms;
pub(super) use self::plan::SinkPlan;
use self::progress::Progress;
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
#[derive(Debug)]
struct Prepared {
    definition: DefinitionId,
    plan: SinkPlan,
    writer: RecordWriter,
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
            prepared: Mutex::default(),
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
    /// How the view's newest definition is sent.
    prepared: Mutex<Option<Arc<Prepared>>>,
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
        // A registry that is away is waited for here, so that the topic is not opened again and again meanwhile.
        let snapshot = Arc::clone(&self.platform.inner.source(&self.sink.source)?.handle.snapshots.borrow());
        if let Some(view) = self.view_of(&snapshot) {
            self.prepare(&view.plan).await?;
        }
        let target = self.sink.definition.target();
        let opened = blocking(move || TransactionalTopic::open(&target)).await;
        let (topic, progress) = opened.map_err(|_| Error::Panicked { what: "opening a sink's topic" })??;
        let topic = Arc::new(topic);
        let ended = self.send_to(&topic, progress).await;
        // It waits for brokers at its end, too.
        let _ = blocking(move || drop(topic)).await;
        ended
    }

    async fn send_to(&self, topic: &Arc<TransactionalTopic>, progress: Option<String>) -> Result<Infallible> {
        let mut sent = progress.as_deref().map(Progress::parse).transpose().map_err(|reason| self.unusable(reason))?;
        let name = &self.sink.definition.name;
        tracing::info!(sink = name, topic = self.sink.definition.topic, ?sent, "sends a view's changes");
        lock(&self.sink.state).sent = sent.clone();
        self.sink.set_trouble(None);
        let mut snapshots = self.platform.inner.source(&self.sink.source)?.handle.snapshots.clone();
        let mut is_in_step = false;
        *lock(&self.committed) = instant();
        loop {
            let snapshot = Arc::clone(&snapshots.borrow_and_update());
            if let Some(view) = self.view_of(&snapshot) {
                let prepared = self.prepare(&view.plan).await?;
                if !is_in_step && prepared.plan.mode != SinkMode::Complete {
                    sent = self.catch_up(topic, &mut snapshots, view, &prepared, sent).await?;
                    is_in_step = true;
                    continue;
                }
                match self.step(&snapshot, view, &prepared, sent.as_ref())? {
                    Step::Nothing => {}
                    Step::Unknown => {
                        is_in_step = false;
                        continue;
                    }
                    Step::Send { plans, next, even_empty } => {
                        if next.closed_before.is_none() || self.may_close(&snapshot).await? {
                            self.transact(topic, plans, &prepared, &next, even_empty).await?;
                            sent = Some(next);
                        }
                    }
                }
            }
            if let Some(same) = sent.as_ref().filter(|_| instant() - *lock(&self.committed) >= REFRESH_INTERVAL) {
                self.write(topic, |parts| async { Ok(parts) }, same, true).await?;
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

    /// How a definition of the view is sent. A registry is told the schemas of one that is new.
    async fn prepare(&self, view: &ViewPlan) -> Result<Arc<Prepared>> {
        if let Some(known) = lock(&self.prepared).as_ref().filter(|known| known.definition == view.id) {
            return Ok(Arc::clone(known));
        }
        let definition = &self.sink.definition;
        let plan = SinkPlan::new(definition, view)?;
        lock(&self.sink.state).mode = Some(plan.mode);
        let key = plan.key.clone();
        let writer = match (&definition.format, plan.avro.clone()) {
            (SinkFormat::Avro(options), Some(forms)) => {
                let (options, topic) = (options.clone(), definition.topic.clone());
                self.sink.set_trouble(Some(format!("waiting for the schema registry at {}", options.url)));
                let registered = blocking(move || register(&options, &topic, key, forms)).await;
                let writer = registered.map_err(|_| Error::Panicked { what: "registering a sink's schemas" })??;
                self.sink.set_trouble(None);
                writer
            }
            _ => RecordWriter::json(key),
        };
        let prepared = Arc::new(Prepared { definition: view.id.clone(), plan, writer });
        *lock(&self.prepared) = Some(Arc::clone(&prepared));
        Ok(prepared)
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
        prepared: &Prepared,
        sent: Option<&Progress>,
    ) -> Result<Step> {
        let plan = &prepared.plan;
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
        let is_same = sent.is_some_and(|sent| sent.is_of(&view.plan, prepared));
        let next = |closed_before| Progress::at(&view.plan, prepared, applied, closed_before);
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

    /// Sends what has changed between what the topic has and what is collected here, from the history; gives up to where the
    /// topic has it then.
    async fn catch_up(
        &self,
        topic: &Arc<TransactionalTopic>,
        snapshots: &mut SnapshotReceiver,
        view: &ViewSnapshot,
        prepared: &Arc<Prepared>,
        sent: Option<Progress>,
    ) -> Result<Option<Progress>> {
        let plan = &prepared.plan;
        let same = sent.as_ref().filter(|sent| sent.is_of(&view.plan, prepared));
        let is_by_rows = plan.mode == SinkMode::Append && !view.plan.has_aggregate();
        let needs_history = match plan.mode {
            SinkMode::Update => same.is_some(),
            SinkMode::Append => is_by_rows,
            SinkMode::Complete => false,
        };
        if !needs_history {
            return Ok(sent);
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
            return Ok(sent);
        }
        if is_by_rows {
            let next = Progress::at(&view.plan, prepared, &end, None);
            self.transact_history(topic, &view.plan, history, before, prepared, &next).await?;
            return Ok(Some(next));
        }
        let position = &snapshot.applied;
        // What came after the history's end is sent as well: a row is the snapshot's. At once, before more comes than is kept.
        let Some(mut changes) = self.sink.changes.take(&view.plan, &end, position) else {
            return Err(Error::Overtaken { view: view.plan.name.clone() });
        };
        changes.extend(self.keys_since(&view.plan, history, before).await?);
        let next = Progress::at(&view.plan, prepared, position, None);
        self.transact(topic, self.rows_of(view, plan, changes)?, prepared, &next, true).await?;
        Ok(Some(next))
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
        topic: &Arc<TransactionalTopic>,
        plans: Vec<Rows>,
        prepared: &Arc<Prepared>,
        next: &Progress,
        even_empty: bool,
    ) -> Result<()> {
        let (session, prepared) = (self.session.clone(), Arc::clone(prepared));
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
                    let writer = &prepared.writer;
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
        topic: &Arc<TransactionalTopic>,
        view: &Arc<ViewPlan>,
        history: HistorySnapshot,
        before: Position,
        prepared: &Arc<Prepared>,
        next: &Progress,
    ) -> Result<()> {
        let (view, session, prepared) = (Arc::clone(view), self.one_by_one.clone(), Arc::clone(prepared));
        let encode = move |parts: mpsc::Sender<Part>| async move {
            let mut states = stream_states_since(&view, &history, &before, &session).await?;
            while let Some(states) = states.next().await {
                let states = vec![states.map_err(SharedError::from)?];
                let rows = view.changed_rows(StateParts::default(), states).map_err(SharedError::from)?;
                let rows = session.create_physical_plan(&rows).await.map_err(SharedError::from)?;
                let mut rows = execute_stream(rows, session.task_ctx()).map_err(SharedError::from)?;
                while let Some(rows) = rows.next().await {
                    let records = prepared.writer.records(&rows.map_err(SharedError::from)?);
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
        topic: &Arc<TransactionalTopic>,
        encode: impl FnOnce(mpsc::Sender<Part>) -> F,
        next: &Progress,
        even_empty: bool,
    ) -> Result<()>
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
        let topic = Arc::clone(topic);
        let (encoded, sent) = tokio::join!(encoded, blocking(move || send_all(&topic, received)));
        let Sent { records, is_committed } =
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
        Ok(())
    }

    fn unusable(&self, reason: String) -> Error {
        let name = &self.sink.definition.name;
        Error::Sink { name: name.clone(), reason: format!("its progress cannot be used: {reason}") }
    }
}

/// Tells a registry the schemas of a topic's records; gives what writes them.
fn register(options: &RegistryOptions, topic: &str, key: Vec<usize>, forms: AvroForms) -> Result<RecordWriter> {
    let registry = schema_registry(options)?;
    let register = |part: &str, form: AvroForm| {
        let id = registry.register(&format!("{topic}-{part}"), SchemaType::Avro, form.text())?;
        Ok::<_, Error>((form, id))
    };
    let value = register("value", forms.value)?;
    let key_form = forms.key.map(|form| register("key", form)).transpose()?;
    Ok(RecordWriter::avro(key, key_form, value))
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
    records: u64,
    is_committed: bool,
}

/// Sends the parts of one transaction; gives the number of records, or `None` if the parts end before their end.
fn send_all(
    topic: &TransactionalTopic,
    mut parts: mpsc::Receiver<Part>,
) -> watershed_shared::error::Result<Option<Sent>> {
    let (mut records, mut has_begun) = (0, false);
    while let Some(part) = parts.blocking_recv() {
        let is_empty_end = matches!(&part, Part::End { even_empty: false, .. }) && !has_begun;
        if is_empty_end {
            return Ok(Some(Sent { records: 0, is_committed: false }));
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
                return Ok(Some(Sent { records, is_committed: true }));
            }
        }
    }
    Ok(None)
}
