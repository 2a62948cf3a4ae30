//! From definitions and stored state to running tasks. No step needs the last stop to have been clean:
//!
//! 1. the history's newest version says where each partition continues;
//! 2. a view's newest batch view says up to where batch answers (its boundary);
//! 3. the realtime view from the boundary up to the history's end comes from its checkpoint, and what that lacks is
//!    computed from the history's files;
//! 4. the rest comes from the log, through dispatch, like new events.

use std::collections::BTreeMap;
use std::panic::AssertUnwindSafe;
use std::sync::{Arc, Mutex};

use datafusion::execution::memory_pool::FairSpillPool;
use datafusion::execution::runtime_env::{RuntimeEnv, RuntimeEnvBuilder};
use futures::FutureExt;
use tokio::sync::watch;
use tokio::task::JoinSet;
use watershed_batch_layer::run::states_since;
use watershed_batch_layer::schedule::Schedule;
use watershed_batch_layer::{ActiveDefinition, BatchView, Catalog, History, ViewStore};
use watershed_serving_layer::{AuditReport, BatchRunTrigger, query_runtime};
use watershed_shared::budget::MemoryBudget;
use watershed_shared::config::{Config, parallelism};
use watershed_shared::definition::{Statement, ViewStatement, parse_definitions};
use watershed_shared::error::{Error as SharedError, ErrorKind};
use watershed_shared::fault;
use watershed_shared::format::EventDecoder;
use watershed_shared::log::{Log, Partitioner};
use watershed_shared::plan::{ViewPlan, compile, plan_session};
use watershed_shared::position::{Boundary, Position};
use watershed_shared::sink::SinkDefinition;
use watershed_shared::snapshot::BatchPart;
use watershed_shared::source::{Connector, SourceDefinition};
use watershed_shared::telemetry::Metrics;
use watershed_speed_layer::RealtimeView;

use super::batch_runs::BatchRuns;
use super::failure::Failure;
use super::gateway::Gateway;
use super::live_view::LiveView;
use super::sinks::{self, Changes, Sink, SinkPlan};
use super::source_task::{Command, Means, NamedView, SourceStart, start};
use super::topics::{Topics, with_dead_letters};
use super::watermark::Watermark;
use super::{
    Appends, Definition, Inner, Platform, Ports, Schedules, Source, ViewEntry, ask, checkpoints, states_folder,
};
use crate::error::{Error, Result, with_causes};

impl Platform {
    /// Opens the definitions on what the ports hold, and starts to keep their views current. Every view that can be asked
    /// shows all that the logs hold when this returns.
    ///
    /// # Errors
    /// `Invalid` when a definition cannot work or contradicts what is stored; `Corrupt` when stored data is damaged;
    /// `Retryable` when the log or the store refuses. Nothing runs then.
    pub async fn open(statements: Vec<Statement>, config: Config, ports: Ports) -> Result<Platform> {
        Platform::open_with(statements, config, ports, Metrics::new(), &watch::Sender::default()).await
    }

    /// As [`Platform::open`]; counts in `metrics`, and `progress` says what is being done, as part of a sentence.
    ///
    /// # Errors
    /// Those of [`Platform::open`].
    pub async fn open_with(
        statements: Vec<Statement>,
        config: Config,
        ports: Ports,
        metrics: Metrics,
        progress: &watch::Sender<String>,
    ) -> Result<Platform> {
        let config = Arc::new(config);
        let pool = ports.cpu_pool()?;
        let means = Means {
            config: Arc::clone(&config),
            metrics,
            pool,
            // Realtime plans are small and must not fail for the memory that batch runs or queries take.
            runtime: Arc::new(RuntimeEnv::default()),
            checkpoints: ports.checkpoints.clone(),
        };
        let Definitions { sources, views, sinks } = divide(with_dead_letters(statements)?)?;
        let mut opening = Opening {
            batch_session: plan_session(parallelism(config.batch.parallelism), batch_runtime(&config)?),
            catalog: Catalog::load(&ports.store).await?,
            entries: BTreeMap::new(),
            sinks: Vec::new(),
            tasks: JoinSet::new(),
            topics: Topics::default(),
            ports,
            means,
            progress: progress.clone(),
            view_memory_bytes: config.realtime.memory_bytes / views.len().max(1),
        };
        let mut opened = BTreeMap::new();
        for (name, source) in sources {
            let views: Vec<&ViewStatement> = views.iter().filter(|view| view.source == name).collect();
            let is_of_these = |sink: &&SinkDefinition| views.iter().any(|view| view.name == sink.view);
            let sinks = sinks.iter().filter(is_of_these).collect();
            opened.insert(name, opening.source(source, views, sinks).await?);
        }
        fault::point("start.after_sources");
        let names: Vec<String> = opening.entries.keys().cloned().collect();
        let dropped = opening.catalog.retain(|view| names.iter().any(|name| name == view)).await?;
        for view in dropped {
            tracing::info!(view, "view is no longer defined; its batch views stay in the store");
        }
        opening.delete_other_checkpoints().await;
        let platform = opening.finish(opened)?;
        platform.start_builds();
        {
            let mut tasks = super::lock(&platform.inner.tasks);
            tasks.spawn(platform.clone().run_schedules());
            tasks.spawn(platform.clone().sweep_regularly());
            sinks::start(&platform, &mut tasks);
        }
        platform.catch_up(progress).await;
        Ok(platform)
    }

    /// Waits until the views show all that the logs hold now: what was acknowledged before a crash is in the first answer
    /// after it.
    async fn catch_up(&self, progress: &watch::Sender<String>) {
        for (name, source) in &self.inner.sources {
            let end = source.accepted().await;
            let mut snapshots = source.handle.snapshots.clone();
            let behind = end.events_since(&snapshots.borrow().applied);
            if behind > 0 {
                tracing::info!(source = name, events = behind, "reading the log's events");
                progress.send_replace(format!("reading {behind} events of source \"{name}\" from the log"));
            }
            // A task that has ended says so itself; its source is not ready.
            let _ = snapshots.wait_for(|snapshot| snapshot.applied.covers(&end)).await;
        }
    }

    /// Adds a view, or changes one, while the platform runs, and starts the batch run that builds it. It answers when that
    /// run is published; until then a changed view answers as before. Returns the run's number, or `None` when the
    /// definition is there already.
    pub async fn create_view(&self, statement: &ViewStatement) -> Result<Option<u64>> {
        match self.define_view(statement).await? {
            true => Ok(Some(self.spawn_run(&statement.name, BatchRunTrigger::Create)?.0)),
            false => Ok(None),
        }
    }

    /// Starts to keep a new or changed view from here on, for the view's next batch run to make it answer. Returns
    /// whether the definition is new.
    pub async fn define_view(&self, statement: &ViewStatement) -> Result<bool> {
        let source = self.inner.source(&statement.source)?;
        let plan = self.inner.ports.compile(statement, &source.handle.source).await?;
        let schedules = schedules(statement)?;
        let name = &statement.name;
        let entry = |entry: &ViewEntry| (entry.source.clone(), Arc::clone(&entry.turn));
        let known = self.inner.views().get(name).map(entry);
        let (known_source, turn) = known.unwrap_or_else(|| (statement.source.clone(), Arc::default()));
        if known_source != statement.source {
            return Err(Error::Project {
                reason: format!(
                    "view \"{name}\" reads \"{known_source}\"; a view cannot move to another source while the platform \
                     runs; use another name"
                ),
            });
        }
        // A batch run under way is for the definition before.
        let _turn = turn.clone().lock_owned().await;
        let is_it = |definition: &Definition| definition.plan.id == plan.id;
        let (active, building) = self.inner.views().get(name).map_or((false, None), |entry| {
            (entry.active.as_ref().is_some_and(is_it), entry.building.as_ref().map(is_it))
        });
        if building == Some(true) || (active && building.is_none()) {
            return Ok(false);
        }
        if active {
            // Back to the definition that answers: the one being built is not wanted any more.
            ask(&source.handle, |reply| Command::CancelBuild { name: name.clone(), reply }).await?;
            self.inner.with_view(name, |entry| (entry.building, entry.schedules) = (None, schedules))?;
            return Ok(false);
        }
        let (store, _) = open_view_store(&self.inner.ports, &plan).await?;
        let runtime = Arc::new(RuntimeEnv::default());
        let realtime = RealtimeView::new(Arc::clone(&plan), Position::default(), runtime).await?;
        ask(&source.handle, |reply| Command::Build { realtime: Box::new(realtime), reply }).await?;
        let mut views = self.inner.views();
        let entry = views
            .entry(name.clone())
            .or_insert_with(|| ViewEntry { turn, ..ViewEntry::new(&statement.source, Schedules::default()) });
        entry.schedules = schedules;
        entry.building = Some(Definition { plan, store });
        Ok(true)
    }

    fn start_builds(&self) {
        let building: Vec<String> = {
            let views = self.inner.views();
            views.iter().filter(|(_, entry)| entry.building.is_some()).map(|(name, _)| name.clone()).collect()
        };
        for view in building {
            tracing::info!(view, "building the view from the history");
            // The entry exists, so this cannot fail.
            let _ = self.spawn_run(&view, BatchRunTrigger::Create);
        }
    }
}

impl ViewEntry {
    fn new(source: &str, schedules: Schedules) -> ViewEntry {
        ViewEntry {
            source: source.to_owned(),
            schedules,
            active: None,
            building: None,
            last_audit: None,
            turn: Arc::default(),
        }
    }
}

/// A platform that is being opened.
struct Opening {
    ports: Ports,
    means: Means,
    batch_session: datafusion::execution::session_state::SessionState,
    catalog: Catalog,
    entries: BTreeMap<String, ViewEntry>,
    sinks: Vec<Arc<Sink>>,
    tasks: JoinSet<()>,
    topics: Topics,
    progress: watch::Sender<String>,
    /// Memory that one realtime view may take at the start.
    view_memory_bytes: usize,
}

impl Opening {
    async fn source(
        &mut self,
        mut source: SourceDefinition,
        views: Vec<&ViewStatement>,
        sinks: Vec<&SinkDefinition>,
    ) -> Result<Source> {
        let bytes_ahead_max = self.means.config.ingest.tail_bytes;
        let log = self.topics.log(&mut source, &self.ports.store, bytes_ahead_max, &self.progress).await?;
        let source = Arc::new(source);
        let history = History::open(&self.ports.store, &source).await?;
        let mut decoder = EventDecoder::new(&source)?;
        let (log, appends): (Arc<dyn Log>, _) = match log {
            Some(log) => match &source.connector {
                Connector::Kafka(options) if options.http_ingest => {
                    let (gateway, sent) = Gateway::open(&source, options)?;
                    decoder = sent;
                    (log, Some(Appends::Topic(gateway)))
                }
                _ => (log, None),
            },
            None => {
                let log = self.ports.logs.log(&source)?;
                (Arc::clone(&log) as Arc<dyn Log>, Some(Appends::Log(log)))
            }
        };
        let history_end = history.known().end().clone();
        log.begin_at(&history_end).await?;
        let log_end = log.end().borrow().clone();
        if !(history_end.covers(&log.start()) && log_end.covers(&history_end)) {
            return Err(Error::LogBehindHistory {
                name: source.name.clone(),
                log_start: log.start().to_string(),
                log_end: log_end.to_string(),
                history_end: history_end.to_string(),
            });
        }
        // Not before log and history are known to fit: files that a lost commit named are no orphans.
        history.delete_orphans().await?;
        fault::point("start.after_history");
        let watermark = Watermark::new(&source, history.known().max_event_times_us());
        let mut named = BTreeMap::new();
        for view in views {
            named.insert(view.name.clone(), self.view(view, &source, &history).await?);
            fault::point("start.after_view");
        }
        let mut changes: BTreeMap<String, Vec<Arc<Changes>>> = BTreeMap::new();
        for sink in sinks {
            let entry = self.entries.get(&sink.view).and_then(|view| view.building.as_ref().or(view.active.as_ref()));
            SinkPlan::new(sink, &entry.ok_or(Error::Stopping)?.plan)?;
            let opened = Arc::new(Sink::new(sink.clone(), &source.name, history_end.clone()));
            changes.entry(sink.view.clone()).or_default().push(Arc::clone(opened.changes()));
            self.sinks.push(opened);
        }
        let topic = self.topics.get(&source.name).cloned();
        let decoder = Arc::new(decoder);
        let partitioner = Partitioner::new(&source)?;
        let views = SourceStart { source, log, history, views: named, watermark, changes };
        let handle = start(views, self.means.clone(), &mut self.tasks);
        Ok(Source { handle, appends, topic, decoder, partitioner, log_failure: Failure::default() })
    }

    async fn view(
        &mut self,
        statement: &ViewStatement,
        source: &Arc<SourceDefinition>,
        history: &History,
    ) -> Result<NamedView> {
        let mut entry = ViewEntry::new(&source.name, schedules(statement)?);
        let mut named = NamedView::default();
        let (wanted, damage) = self.definition(statement, source).await?;
        if let Some(damage) = &damage {
            tracing::error!(
                view = statement.name,
                damage,
                "dropped the view's batch views; building them from the history"
            );
        }
        // A topic's first offsets may be gone already when a source begins.
        let from_the_beginning = history.known().files().is_empty();
        let active = match self.catalog.active(&statement.name).cloned() {
            // Until it is built again, the view has no answer: its realtime part could need all the memory there is.
            Some(active) if active.definition_id == wanted.plan.id.as_str() => damage.is_none().then(|| wanted.clone()),
            // The new definition was published before the last stop, but the catalog did not hear of it.
            _ if wanted.store.current().is_some() || from_the_beginning => {
                self.catalog.activate(&statement.name, active_definition(&wanted)).await?;
                Some(wanted.clone())
            }
            Some(old) => self.old_definition(&old, source).await,
            None => None,
        };
        if let Some(active) = &active {
            named.active = Some(self.live_view(active, history).await?);
        }
        if active.as_ref().is_none_or(|active| active.plan.id != wanted.plan.id) {
            let start = history.known().end().clone();
            let realtime = self.realtime_view(&wanted, start.clone()).await?;
            let checkpoint = self.means.checkpoint_of(&wanted.plan);
            named.building = Some(LiveView::new(realtime, None, Boundary(start), checkpoint));
            entry.building = Some(wanted);
        }
        entry.last_audit =
            active.as_ref().and_then(|active| active.store.current()).and_then(|batch| last_audit(&batch));
        entry.active = active;
        self.entries.insert(statement.name.clone(), entry);
        Ok(named)
    }

    /// Deletes the checkpoints of definitions that are gone.
    async fn delete_other_checkpoints(&self) {
        let definitions = self.entries.values().flat_map(|entry| entry.active.iter().chain(&entry.building));
        let folder = |plan: &ViewPlan| (plan.name.clone(), states_folder(plan));
        let kept: Vec<(String, String)> = definitions.map(|definition| folder(&definition.plan)).collect();
        if let Err(error) = self.ports.checkpoints.retain(&kept).await {
            tracing::warn!(
                error = with_causes(&error),
                "cannot delete old realtime checkpoints; the next start tries again"
            );
        }
    }

    /// The definition that answered before the project's was changed; `None` if it cannot answer any more, because its
    /// source is another one now.
    async fn old_definition(&self, old: &ActiveDefinition, source: &Arc<SourceDefinition>) -> Option<Definition> {
        let opened = async { self.definition(&stored_view(old)?, source).await };
        match opened.await {
            Ok((definition, None)) => Some(definition),
            Ok((_, Some(damage))) => {
                tracing::warn!(damage, "the view's old definition cannot answer while the new one is being built");
                None
            }
            Err(error) => {
                let error = with_causes(&error);
                tracing::warn!(error, "the view's old definition cannot answer while the new one is being built");
                None
            }
        }
    }

    /// The definition with its batch views, and the damage for which these had to be dropped, if they had.
    async fn definition(
        &self,
        statement: &ViewStatement,
        source: &Arc<SourceDefinition>,
    ) -> Result<(Definition, Option<String>)> {
        let plan = self.ports.compile(statement, source).await?;
        let (store, damage) = open_view_store(&self.ports, &plan).await?;
        store.delete_orphans().await?;
        Ok((Definition { plan, store }, damage))
    }

    async fn realtime_view(&self, definition: &Definition, start: Position) -> Result<RealtimeView> {
        let runtime = Arc::clone(&self.means.runtime);
        Ok(RealtimeView::new(Arc::clone(&definition.plan), start, runtime).await?)
    }

    /// A definition that answers: its batch view, and realtime states of the history beyond its boundary.
    async fn live_view(&self, definition: &Definition, history: &History) -> Result<LiveView> {
        let history = history.known();
        let batch = definition.store.current();
        let beginning = Boundary::beginning(definition.plan.source.partitions);
        let boundary = batch.as_ref().map_or(beginning, |batch| batch.boundary.clone());
        if !history.end().covers(&boundary.0) {
            return Err(watershed_batch_layer::Error::Corrupt {
                what: format!("the store of view \"{}\"", definition.plan.name),
                reason: format!(
                    "its batch view covers offsets below {boundary}, but the history ends at {}",
                    history.end()
                ),
            }
            .into());
        }
        let mut realtime = self.realtime_view(definition, boundary.0.clone()).await?;
        let checkpoint = self.means.checkpoint_of(&definition.plan);
        let name = &definition.plan.name;
        let segments = checkpoints::load(name, &checkpoint, &boundary, history.end(), self.view_memory_bytes).await;
        realtime.restore(segments);
        let start = realtime.end().clone();
        if history.end().events_since(&start) > 0 {
            let (plan, session) = (Arc::clone(&definition.plan), self.batch_session.clone());
            let history = history.clone();
            let end = history.end().clone();
            let events = end.events_since(&start);
            tracing::info!(view = plan.name, events, "computing the realtime view from the history");
            self.progress.send_replace(format!("computing view \"{}\" from {events} events of the history", plan.name));
            let states = self.means.pool.run(async move { states_since(&plan, &history, &start, &session).await });
            let states = AssertUnwindSafe(states).catch_unwind().await;
            let states = states.map_or(Err(Error::Panicked { what: "its plan" }), |states| states.map_err(Error::from));
            match states.and_then(|states| Ok(realtime.load(&states, &end)?)) {
                Ok(()) => {}
                // The store may answer again at the next try; nothing would start a stopped view again in this process.
                Err(error) if error.kind() == ErrorKind::Retryable => return Err(error),
                // Its SQL fails on an event, as it did before the stop, or the history cannot be read.
                Err(error) => {
                    let mut view = LiveView::new(realtime, batch.as_ref().map(batch_part), boundary, checkpoint);
                    view.failure = Some(with_causes(&error));
                    return Ok(view);
                }
            }
            realtime.cut();
        }
        Ok(LiveView::new(realtime, batch.as_ref().map(batch_part), boundary, checkpoint))
    }

    fn finish(self, sources: BTreeMap<String, Source>) -> Result<Platform> {
        let inner = Inner {
            ingest_budget: Arc::new(MemoryBudget::new(self.means.config.ingest.memory_bytes)),
            query_runtime: query_runtime(&self.means.config.query)?,
            config: self.means.config,
            metrics: self.means.metrics,
            pool: self.means.pool,
            ports: self.ports,
            batch_session: self.batch_session,
            sources,
            views: Mutex::new(self.entries),
            catalog: tokio::sync::Mutex::new(self.catalog),
            runs: BatchRuns::default(),
            sinks: self.sinks,
            replays: tokio::sync::Mutex::default(),
            retired: Mutex::default(),
            tasks: Mutex::new(self.tasks),
        };
        Ok(Platform { inner: Arc::new(inner) })
    }
}

/// The definitions of a project.
struct Definitions {
    /// By name.
    sources: BTreeMap<String, SourceDefinition>,
    views: Vec<ViewStatement>,
    sinks: Vec<SinkDefinition>,
}

/// The definitions by kind; each view's source is among them, each sink's view, and no name is there twice.
fn divide(statements: Vec<Statement>) -> Result<Definitions> {
    let mut sources = BTreeMap::new();
    let mut views: Vec<ViewStatement> = Vec::new();
    let mut sinks: Vec<SinkDefinition> = Vec::new();
    let twice =
        |name: &str| Error::Project { reason: format!("the name \"{name}\" is defined twice; rename one of them") };
    for statement in statements {
        match statement {
            Statement::Source(source) => {
                let name = source.name.clone();
                if sources.insert(name.clone(), source).is_some() {
                    return Err(twice(&name));
                }
            }
            Statement::View(view) => {
                if views.iter().any(|other| other.name == view.name) {
                    return Err(twice(&view.name));
                }
                views.push(view);
            }
            Statement::Sink(sink) => {
                if sinks.iter().any(|other| other.name == sink.name) {
                    return Err(twice(&sink.name));
                }
                sinks.push(sink);
            }
        }
    }
    let known: Vec<String> = sources.keys().cloned().collect();
    for view in &views {
        let is_its_own = |source: &SourceDefinition| matches!(source.connector, Connector::DeadLetters { .. });
        if sources.get(&view.name).is_some_and(|source| !is_its_own(source)) {
            return Err(twice(&view.name));
        }
        if !sources.contains_key(&view.source) {
            return Err(view.unknown_source(&known).into());
        }
    }
    for sink in &sinks {
        if !views.iter().any(|view| view.name == sink.view) {
            let known: Vec<&str> = views.iter().map(|view| view.name.as_str()).collect();
            let reason = format!(
                "line {}: sink \"{}\" sends view \"{}\", which is not defined; the views are {}",
                sink.line,
                sink.name,
                sink.view,
                known.join(", ")
            );
            return Err(Error::Project { reason });
        }
    }
    Ok(Definitions { sources, views, sinks })
}

fn schedules(statement: &ViewStatement) -> Result<Schedules> {
    let parse = |text: &Option<String>| {
        let parsed = text.as_deref().map(Schedule::parse).transpose();
        parsed.map_err(|reason| SharedError::InvalidDefinition {
            line: statement.line,
            column: 1,
            reason: format!("view \"{}\": {reason}", statement.name),
            hint: None,
        })
    };
    let (batch, full_recompute) = (&statement.options.batch, &statement.options.full_recompute);
    Ok(Schedules { batch: parse(batch)?, full_recompute: parse(full_recompute)? })
}

/// Compiles definitions as opening them would, without stored state; gives the plans in the order of the views.
///
/// # Errors
/// `Invalid` when a definition cannot work.
pub async fn check_definitions(statements: Vec<Statement>) -> Result<Vec<ViewPlan>> {
    let Definitions { sources, views, sinks } = divide(with_dead_letters(statements)?)?;
    let mut plans: Vec<ViewPlan> = Vec::with_capacity(views.len());
    for view in &views {
        schedules(view)?;
        if let Some(source) = sources.get(&view.source) {
            plans.push(compile(view, Arc::new(source.clone())).await?);
        }
    }
    for sink in &sinks {
        if let Some(view) = plans.iter().find(|view| view.name == sink.view) {
            SinkPlan::new(sink, view)?;
        }
    }
    Ok(plans)
}

fn stored_view(stored: &ActiveDefinition) -> Result<ViewStatement> {
    match parse_definitions(&stored.sql)?.pop() {
        Some(Statement::View(view)) => Ok(view),
        _ => Err(Error::Project { reason: "the catalog holds a view that is none; restore it from a copy".to_owned() }),
    }
}

pub(super) fn active_definition(definition: &Definition) -> ActiveDefinition {
    ActiveDefinition { definition_id: definition.plan.id.as_str().to_owned(), sql: definition.plan.sql.clone() }
}

async fn open_view_store(ports: &Ports, plan: &ViewPlan) -> Result<(ViewStore, Option<String>)> {
    let schema = Arc::clone(plan.stored_schema());
    Ok(ViewStore::open_or_reset(&ports.store, &plan.name, &states_folder(plan), schema).await?)
}

fn last_audit(batch: &BatchView) -> Option<AuditReport> {
    serde_json::from_value(batch.record.get("audit")?.clone()).ok()
}

pub(super) fn batch_part(view: &BatchView) -> BatchPart {
    BatchPart {
        version: view.version,
        states: Arc::new(view.states()),
        rows: view.rows as usize,
        files: view.files.len(),
        bytes: view.bytes,
    }
}

fn batch_runtime(config: &Config) -> Result<Arc<RuntimeEnv>> {
    let pool = FairSpillPool::new(config.batch.memory_bytes);
    let runtime = RuntimeEnvBuilder::new().with_memory_pool(Arc::new(pool)).build_arc();
    Ok(runtime.map_err(SharedError::from)?)
}
