//! Runs a schedule: process after process on the same disk and store, and one in calm weather that must find everything.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use tokio::runtime::{Builder, Runtime};
use url::Url;
use watershed::platform::{Logs, Ports};
use watershed_batch_layer::Store;
use watershed_serving_layer::{AuditOutcome, Backend, BatchRunState, ViewState};
use watershed_shared::config::Config;
use watershed_shared::cpu::CpuPool;
use watershed_shared::definition::{Statement, parse_definitions};
use watershed_shared::format::EventDecoder;
use watershed_shared::position::Position;
use watershed_shared::time::simulated::SimulatedTime;
use watershed_shared::time::{sleep, timeout};

use super::log::SimulatedLogs;
use super::process::{COMPILED, KnownView, Process, Project, VIEW_NAMES};
use super::schedule::{End, Life, Schedule};
use super::store::SimulatedStore;
use super::truth::Truth;
use super::world::{Weather, World, lock};
use crate::model::events::COLUMNS;

/// When the simulated world begins; microseconds since the epoch.
const BEGINNING_US: i64 = 1_700_000_000_000_000;
/// A calm platform must have done everything in this time.
const CALM_MAX: Duration = Duration::from_secs(3600);
/// A run may fail once in calm weather: when a batch view that a dead process published arrives late, it comes as a
/// surprise.
const RUN_ATTEMPTS: usize = 2;

/// What a schedule came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Outcome {
    pub(super) answers: u64,
    pub(super) calls: u64,
    pub(super) failures: u64,
    /// Stands for every call to log and store and every answer.
    pub(super) trace: u64,
}

/// Runs a schedule; fails with how the law was broken.
pub(super) fn run(schedule: &Schedule) -> Result<Outcome> {
    let _time = SimulatedTime::enter(BEGINNING_US);
    let world = World::new(schedule.world_seed, schedule.weather);
    let project = Project::new(schedule, &world)?;
    for (number, life) in schedule.lives.iter().enumerate() {
        world.begin_life(schedule.weather, life.end);
        let outcome = process(&world, project.live(life));
        outcome.unwrap_or(Ok(())).with_context(|| format!("in life {number}"))?;
    }
    world.begin_life(Weather::CALM, End::Stops);
    process(&world, project.find_everything()).unwrap_or(Ok(())).context("after the faults")?;
    let answers = *lock(&project.answers);
    Ok(Outcome { answers, calls: world.calls(), failures: world.failures(), trace: world.trace() })
}

/// Runs a process to its end, on a runtime of its own; `None` when it dies before.
fn process<T>(world: &Arc<World>, work: impl Future<Output = T>) -> Option<T> {
    let runtime = runtime(world);
    let ended = runtime.block_on(async {
        tokio::select! {
            biased;
            () = world.death() => None,
            ended = work => Some(ended),
        }
    });
    // All its tasks end at the await where they are. The Delta library waits for the store on threads of its own, which
    // nobody answers any more after a death: they are left to wait.
    runtime.shutdown_background();
    world.bury();
    ended
}

fn runtime(world: &Arc<World>) -> Runtime {
    let world = Arc::clone(world);
    // Without drivers for I/O and time: whoever waits for the real world fails loudly.
    let runtime = Builder::new_current_thread().on_thread_park(move || world.advance()).build();
    runtime.unwrap_or_else(|error| panic!("no runtime: {error}"))
}

impl Project {
    fn new(schedule: &Schedule, world: &Arc<World>) -> Result<Project> {
        let by = schedule.partition_by.map(|column| format!(", partition_by = '{column}'")).unwrap_or_default();
        let source_sql = format!(
            "CREATE SOURCE events ({COLUMNS}, WATERMARK FOR t AS t - INTERVAL '5 minutes') \
             WITH (connector = 'http', partitions = {}{by});",
            schedule.partitions
        );
        let Some(Statement::Source(source)) = parse_definitions(&source_sql)?.pop() else {
            bail!("not a source: {source_sql}")
        };
        let source = Arc::new(source);
        let logs = SimulatedLogs::new(world, schedule.partitions);
        let store = Store::new(Arc::new(SimulatedStore::new(world)), &Url::parse("memory:///")?)?;
        let disk = Arc::clone(&logs.disk);
        let ports = Ports {
            pool: Some(CpuPool::on_calling_runtime()),
            compiled: Some(COMPILED.clone()),
            ..Ports::new(Logs::Given(Arc::new(logs)), store)
        };
        let mut config = Config::default();
        config.history.commit_interval = schedule.commit_interval;
        config.query.parallelism = 1;
        config.batch.parallelism = 1;
        let known = schedule.views.iter().map(|definition| KnownView::new(*definition));
        let views: BTreeMap<_, _> = VIEW_NAMES.into_iter().zip(known).collect();
        Ok(Project {
            world: Arc::clone(world),
            truth: Truth::new(&source, &disk),
            disk,
            ports,
            config,
            decoder: EventDecoder::new(&source)?,
            source,
            source_sql,
            is_scheduled: schedule.is_scheduled,
            views: Mutex::new(views),
            positions: Mutex::default(),
            answers: Mutex::default(),
        })
    }

    async fn live(&self, life: &Life) -> Result<()> {
        let Some(process) = self.start().await? else { return Ok(()) };
        process.serve(life).await?;
        if life.end == End::Recovers {
            self.world.calm_down();
            process.recover().await.context("when the faults ended")?;
        }
        if matches!(life.end, End::Stops | End::Recovers) {
            process.stop().await?;
        }
        Ok(())
    }

    /// In calm weather a process must bring everything to where it belongs, and a next one must find it there.
    async fn find_everything(&self) -> Result<()> {
        let process = self.start().await?.context("the platform does not start")?;
        process.recover().await?;
        process.stop().await?;
        drop(process);
        let process = self.start().await?.context("the platform does not start again")?;
        process.check_everything().await.context("after a last restart")?;
        process.stop().await
    }
}

impl Process<'_> {
    /// Everything that is durable, as far as the process can know of it before it is started again.
    fn end(&self) -> Result<Position> {
        let disk = lock(&self.project().disk);
        let (is_ahead, end) = (disk.is_ahead(), disk.end().clone());
        drop(disk);
        let shown = self.shown()?;
        ensure!(is_ahead || shown == end, "the log shows {shown}, but {end} is durable");
        Ok(shown)
    }

    async fn stop(&self) -> Result<()> {
        let stopped = timeout(CALM_MAX, self.platform.stop()).await;
        stopped.context("the platform does not stop")
    }

    /// Nothing fails any more.
    async fn recover(&self) -> Result<()> {
        self.check_health()?;
        let settled = timeout(CALM_MAX, self.settle()).await;
        settled.unwrap_or_else(|| bail!("the platform does not come to rest"))?;
        // What this and dead processes had sent has arrived by then.
        sleep(Duration::from_secs(120)).await;
        let settled = timeout(CALM_MAX, self.settle()).await;
        settled.unwrap_or_else(|| bail!("the platform does not come to rest again"))
    }

    async fn settle(&self) -> Result<()> {
        let history = self.platform.archive("events").await?;
        let end = self.end()?;
        ensure!(*history.end() == end, "the history ends at {}, the log at {end}", history.end());
        let views: Vec<_> = lock(&self.project().views).iter().map(|(name, view)| (*name, view.wanted)).collect();
        for (name, wanted) in views {
            // An earlier try may have failed.
            self.apply(name, wanted).await?;
            self.rebuild(name).await?;
            let status = self.platform.views().into_iter().find(|view| view.name == name);
            let status = status.with_context(|| format!("view {name} is gone"))?;
            ensure!(status.state == ViewState::Active && status.building.is_none(), "{status:?}");
            ensure!(status.boundary.iter().sum::<u64>() == end.events_since(&Default::default()), "{status:?}");
            if let Some(view) = lock(&self.project().views).get_mut(name) {
                *view = KnownView::new(view.wanted);
            }
        }
        self.check_everything().await
    }

    /// A batch run succeeds, with nothing to complain of.
    async fn rebuild(&self, name: &'static str) -> Result<()> {
        let mut last = None;
        for _ in 0..RUN_ATTEMPTS {
            let run = self.run(name).await?.with_context(|| format!("no batch run of {name} begins"))?;
            if run.state == BatchRunState::Succeeded {
                let audit = run.audit.with_context(|| format!("a batch run of {name} has no audit"))?;
                let first = audit.detail.as_ref().is_some_and(|detail| detail.contains("had no answers before"));
                ensure!(audit.outcome == AuditOutcome::Equal || first, "the audit of {name} says {audit:?}");
                return Ok(());
            }
            last = run.error;
        }
        bail!("batch runs of {name} keep failing: {last:?}")
    }

    async fn check_everything(&self) -> Result<()> {
        self.check_health()?;
        let end = self.end()?;
        let names: Vec<&'static str> = lock(&self.project().views).keys().copied().collect();
        for name in names {
            let as_of = self.ask_all(name, &end).await?;
            ensure!(as_of == end, "{name} answers as of {as_of}, but events up to {end} are durable");
        }
        Ok(())
    }
}
