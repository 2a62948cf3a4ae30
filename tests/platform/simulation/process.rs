//! One process of the simulated platform, and what its clients do.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use anyhow::{Context, Result, anyhow, ensure};
use bytes::Bytes;
use futures::future::try_join_all;
use watershed::platform::{CompiledViews, Platform, Ports};
use watershed_serving_layer::{Answer, AuditOutcome, Backend, BatchRun, BatchRunKind, BatchRunState, QueryEngine};
use watershed_shared::config::Config;
use watershed_shared::definition::{Statement, parse_definitions};
use watershed_shared::error::ErrorKind;
use watershed_shared::format::{EventDecoder, EventFormat};
use watershed_shared::log::Partitioner;
use watershed_shared::position::{Offset, Position, PositionToken};
use watershed_shared::source::SourceDefinition;
use watershed_shared::time::{sleep, timeout};

use super::log::Disk;
use super::schedule::{Action, DEFINITIONS, Life, Question};
use super::truth::Truth;
use super::world::{World, lock};
use crate::model::events::{Event, to_ndjson};
use crate::model::one_pass;

pub(super) const VIEW_NAMES: [&str; 3] = ["v0", "v1", "v2"];

/// Longer than anything may take while faults go on: their own timeouts and pauses are half a minute.
const PATIENCE: Duration = Duration::from_secs(1800);
/// What the store says of objects that are not there. No fault deletes an object, so the platform has.
const MISSING: &str = "is damaged: it is missing";
/// How often a client sends the same events, and a supervisor starts the process.
const ATTEMPTS: usize = 3;

/// What outlives the processes: the project's files, what clients know, and the outside.
pub(super) struct Project {
    pub(super) world: Arc<World>,
    pub(super) disk: Arc<Mutex<Disk>>,
    pub(super) ports: Ports,
    pub(super) config: Config,
    pub(super) source: Arc<SourceDefinition>,
    pub(super) source_sql: String,
    pub(super) is_scheduled: bool,
    pub(super) decoder: EventDecoder,
    pub(super) truth: Truth,
    pub(super) views: Mutex<BTreeMap<&'static str, KnownView>>,
    /// What each client has seen or written.
    pub(super) positions: Mutex<Vec<Position>>,
    pub(super) answers: Mutex<u64>,
}

/// A view of the project.
#[derive(Debug, Clone)]
pub(super) struct KnownView {
    /// The definition in the project's files.
    pub(super) wanted: usize,
    /// The definitions by which it may answer: a new one takes over at a moment that clients do not see.
    pub(super) possible: Vec<usize>,
    /// Whether it has been created or changed, and not been seen to have got there.
    pub(super) is_changing: bool,
}

impl KnownView {
    /// A view that has had one definition only.
    pub(super) fn new(definition: usize) -> KnownView {
        KnownView { wanted: definition, possible: vec![definition], is_changing: false }
    }
}

/// A running process.
pub(super) struct Process<'a> {
    project: &'a Project,
    pub(super) platform: Platform,
    engine: QueryEngine,
    /// Held by a question that waits for a position. Who waits together is woken in random order, which no seed decides.
    waiting: tokio::sync::Mutex<()>,
    /// Held while a definition is changed.
    defining: tokio::sync::Mutex<()>,
}

impl Project {
    /// Starts a process, as a supervisor does: again when it fails, and not for ever.
    pub(super) async fn start(&self) -> Result<Option<Process<'_>>> {
        for _ in 0..ATTEMPTS {
            let opened = timeout(PATIENCE, Platform::open(self.statements()?, self.config.clone(), self.ports.clone()));
            match opened.await.context("opening the platform does not end")? {
                Ok(platform) => {
                    let engine = platform.query_engine();
                    let (waiting, defining) = Default::default();
                    return Ok(Some(Process { project: self, platform, engine, waiting, defining }));
                }
                Err(error) if self.world.is_calm() => return Err(error).context("cannot open the platform"),
                Err(error) => {
                    ensure!(error.kind() == ErrorKind::Retryable, "{:?}: {:#}", error.kind(), anyhow!(error));
                    sleep(Duration::from_secs(1)).await;
                }
            }
        }
        Ok(None)
    }

    /// The project's files.
    fn statements(&self) -> Result<Vec<Statement>> {
        let mut sql = self.source_sql.clone();
        for (name, view) in lock(&self.views).iter() {
            sql.push_str(&format!("\n{};", self.statement(name, view.wanted)));
        }
        parse_definitions(&sql).context(sql)
    }

    fn statement(&self, name: &str, definition: usize) -> String {
        let statement = DEFINITIONS[definition].definition(name);
        match self.is_scheduled {
            true => statement.replacen(" AS SELECT", " WITH (batch = '*/30 * * * * *') AS SELECT", 1),
            false => statement,
        }
    }

    fn definitions(&self, name: &str) -> Vec<usize> {
        lock(&self.views).get(name).map(|view| view.possible.clone()).unwrap_or_default()
    }

    fn is_changing(&self, name: &str) -> bool {
        lock(&self.views).get(name).is_none_or(|view| view.is_changing)
    }

    fn position(&self, client: usize) -> Position {
        lock(&self.positions).get(client).cloned().unwrap_or_default()
    }

    fn has_seen(&self, client: usize, position: &Position) {
        let mut positions = lock(&self.positions);
        if positions.len() <= client {
            positions.resize(client + 1, Position::default());
        }
        positions[client].join(position);
    }
}

impl Process<'_> {
    /// Lets the clients do what they do, at the same time.
    pub(super) async fn serve(&self, life: &Life) -> Result<()> {
        let clients = life.clients.iter().enumerate().map(async |(client, actions)| {
            for (index, action) in actions.iter().enumerate() {
                let done = timeout(PATIENCE, self.act(client, action))
                    .await
                    .unwrap_or_else(|| Err(anyhow!("it does not end")));
                done.with_context(|| format!("client {client}, action {index}: {}", name_of(action)))?;
            }
            Ok::<_, anyhow::Error>(())
        });
        try_join_all(clients).await?;
        self.check_health()
    }

    /// Whether all tasks live, no view has stopped, and no handoff has shown a difference.
    pub(super) fn check_health(&self) -> Result<()> {
        let readiness = self.platform.readiness();
        ensure!(readiness.ready, "not ready: {:?}", readiness.detail);
        let stopped = readiness.detail.iter().find(|detail| detail.contains("is stopped"));
        ensure!(stopped.is_none(), "{stopped:?}");
        self.platform.batch_runs().iter().try_for_each(check_run)
    }

    /// What the process's log has shown.
    pub(super) fn shown(&self) -> Result<Position> {
        let offsets = self.platform.sources().into_iter().next().context("no source")?.offsets;
        Ok(Position::new(offsets.into_iter().map(Offset).collect()))
    }

    async fn act(&self, client: usize, action: &Action) -> Result<()> {
        let name = |view: usize| VIEW_NAMES[view % VIEW_NAMES.len()];
        match action {
            Action::Ingest(events) => self.ingest(client, events).await,
            Action::Query(view, question) => self.ask(client, name(*view), *question).await,
            Action::Run(view) => self.run(name(*view)).await.map(drop),
            Action::Archive => {
                // What the log has shown: a write that is durable but not answered yet may come after.
                let end = self.shown()?;
                // It fails only when the process ends; `check_health` sees that.
                let Ok(history) = self.platform.archive("events").await else { return Ok(()) };
                ensure!(history.end().covers(&end), "{} is less than {end}", history.end());
                Ok(())
            }
            Action::Compact => {
                let _ = self.platform.compact("events").await;
                Ok(())
            }
            Action::Define(view, definition) => self.define(name(*view), *definition).await,
            Action::Wait(millis) => {
                sleep(Duration::from_millis(*millis)).await;
                Ok(())
            }
        }
    }

    /// Sends events until they are acknowledged; then they must be on the disk, where the answer says.
    pub(super) async fn ingest(&self, client: usize, events: &[Event]) -> Result<()> {
        let body = to_ndjson(events);
        for _ in 0..ATTEMPTS {
            let sent = self.platform.accept("events", EventFormat::NdJson, Bytes::from(body.clone()));
            match timeout(Duration::from_secs(20), sent).await {
                Some(Ok(report)) => {
                    ensure!(report.accepted == events.len() && report.rejected == 0, "not all accepted: {report:?}");
                    let token: PositionToken = report.position.parse()?;
                    self.check_durable(&body, &token.position)?;
                    self.project.has_seen(client, &token.position);
                    return Ok(());
                }
                failed => ensure!(!self.project.world.is_calm(), "events were refused: {failed:?}"),
            }
        }
        Ok(())
    }

    fn check_durable(&self, body: &str, written: &Position) -> Result<()> {
        let decoded = self.project.decoder.decode(EventFormat::NdJson, body.as_bytes())?.events;
        let batches = match self.project.source.partition_by {
            Some(_) => Partitioner::new(&self.project.source)?.split(&decoded)?,
            // The platform chooses one partition for all.
            None => written.iter().filter(|(_, end)| end.0 > 0).map(|(id, _)| (id, decoded.clone())).take(1).collect(),
        };
        ensure!(decoded.num_rows() == 0 || !batches.is_empty(), "acknowledged at {written}, where nothing is");
        let disk = lock(&self.project.disk);
        for (partition, events) in batches.iter().filter(|(_, events)| events.num_rows() > 0) {
            let end = written.get(*partition);
            let found = disk.ending_at(*partition, end);
            ensure!(found == Some(events), "events acknowledged up to {end} of partition {partition} are not durable");
        }
        Ok(())
    }

    /// Asks, and checks the answer. While faults go on, no answer is fine too.
    pub(super) async fn ask(&self, client: usize, name: &'static str, question: Question) -> Result<()> {
        let project = self.project;
        let other = match question {
            Question::Together(other) => Some(VIEW_NAMES[other % VIEW_NAMES.len()]),
            _ => None,
        };
        let Some(definition) = project.definitions(name).last().copied() else { return Ok(()) };
        let sql = question.sql(name, definition, other.unwrap_or(name));
        let waits = project.world.up_to(2) == 0;
        let seen = if waits { project.position(client) } else { Position::default() };
        let answer = self.answer(&sql, &seen).await;
        // Only now: a definition may have changed meanwhile.
        let asked = [Some(name), other].into_iter().flatten();
        let definitions: Vec<Vec<usize>> = asked.map(|name| project.definitions(name)).collect();
        let answer = match answer {
            Ok(answer) => answer,
            Err(error) => {
                let reason = format!("{:#}", anyhow!(error));
                ensure!(!reason.contains(MISSING), "{sql} needs what is gone: {reason}");
                let mut asked = [Some(name), other].into_iter().flatten();
                let excused = !project.world.is_calm()
                    || asked.any(|name| project.is_changing(name))
                    || reason.contains("is being built from the history");
                ensure!(excused, "no answer to {sql}: {reason}");
                return Ok(());
            }
        };
        let asked = (question, definition);
        let as_of = project.truth.check(asked, &definitions, &answer).await.with_context(|| sql.clone())?;
        ensure!(as_of.covers(&seen), "{sql} answered as of {as_of}, after {seen} was seen");
        project.has_seen(client, &as_of);
        self.note(&sql, &as_of, &answer)
    }

    /// Asks for everything that a view has once all events below `position` are in it; gives what the answer stands for.
    pub(super) async fn ask_all(&self, name: &'static str, position: &Position) -> Result<Position> {
        let sql = format!("SELECT * FROM {name}");
        let answer = self.answer(&sql, position).await.with_context(|| sql.clone())?;
        let definitions = self.project.definitions(name);
        let asked = (Question::All, definitions.last().copied().with_context(|| format!("no view {name}"))?);
        let as_of = self.project.truth.check(asked, &[definitions], &answer).await.with_context(|| sql.clone())?;
        self.note(&sql, &as_of, &answer)?;
        Ok(as_of)
    }

    async fn answer(&self, sql: &str, position: &Position) -> watershed_serving_layer::Result<Answer> {
        if position.offsets().is_empty() {
            return self.engine.query(sql, &[]).await;
        }
        let _turn = self.waiting.lock().await;
        let token = PositionToken { source: "events".to_owned(), position: position.clone() };
        self.engine.query(sql, &[token]).await
    }

    fn note(&self, sql: &str, as_of: &Position, answer: &Answer) -> Result<()> {
        let mut rows: Vec<_> = one_pass::to_rows(&answer.batches)?.into_iter().map(|row| row.texts).collect();
        rows.sort();
        self.project.world.note((sql, as_of, rows));
        *lock(&self.project.answers) += 1;
        Ok(())
    }

    pub(super) fn project(&self) -> &Project {
        self.project
    }

    /// Has a batch run done; gives what became of it, if it began.
    pub(super) async fn run(&self, name: &'static str) -> Result<Option<BatchRun>> {
        let ended = timeout(PATIENCE, self.platform.start_batch_run(name, BatchRunKind::Full, true)).await;
        let Ok(run) = ended.with_context(|| format!("the batch run of {name} does not end"))? else { return Ok(None) };
        check_run(&run)?;
        Ok(Some(run))
    }

    async fn define(&self, name: &'static str, definition: usize) -> Result<()> {
        // One after the other: otherwise nobody knows which was the last.
        let _turn = self.defining.lock().await;
        {
            let mut views = lock(&self.project.views);
            let view = views.entry(name).or_insert_with(|| KnownView::new(definition));
            (view.wanted, view.is_changing) = (definition, true);
            view.possible.push(definition);
        }
        self.apply(name, definition).await
    }

    /// Makes a definition the wanted one; nothing happens if it is.
    pub(super) async fn apply(&self, name: &'static str, definition: usize) -> Result<()> {
        let statement = one_pass::statement(&self.project.statement(name, definition))?;
        let created = self.platform.create_view(&statement).await;
        ensure!(created.is_ok() || !self.project.world.is_calm(), "{created:?}");
        Ok(())
    }
}

fn check_run(run: &BatchRun) -> Result<()> {
    if let Some(audit) = &run.audit {
        ensure!(audit.outcome != AuditOutcome::Drift, "the audit of {} says {audit:?}", run.view);
    }
    let broken = |error: &String| error.contains("panicked") || error.contains(MISSING);
    ensure!(!run.error.as_ref().is_some_and(broken), "{run:?}");
    ensure!((run.state == BatchRunState::Failed) == run.error.is_some(), "{run:?}");
    Ok(())
}

fn name_of(action: &Action) -> String {
    let text = format!("{action:?}");
    text.split(['[', '{']).next().unwrap_or_default().to_owned()
}

/// Compiled views of all seeds.
pub(super) static COMPILED: std::sync::LazyLock<CompiledViews> = std::sync::LazyLock::new(CompiledViews::default);
