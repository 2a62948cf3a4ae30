//! The platform: sources and views of a project, kept current by both layers, behind the serving layer's `Backend`.
//!
//! | file | what it does |
//! |---|---|
//! | `open` | from definitions and stored state to running tasks |
//! | `source_task` | dispatch, cuts, history commits, the switch to a new batch version; one task a source |
//! | `topics`, `gateway` | sources that read Kafka topics, and events over HTTP that go to them |
//! | `sinks` | what has changed in views, to topics; one task a sink |
//! | `unarchived` | what waits for history commits, and the commits |
//! | `checkpoints` | copies of realtime views on disk, for the next start |
//! | `live_view` | one definition of a view: realtime view, batch view, boundary |
//! | `batch_run` | a batch run's steps: prepare, compute, audit, publish |
//! | `batch_runs` | which runs there are and were, and when the next is due |
//! | `backend` | what the HTTP API sees |

mod backend;
mod batch_run;
mod batch_runs;
mod checkpoints;
mod failure;
mod gateway;
mod live_view;
mod open;
mod ports;
mod registry;
mod replay;
mod sinks;
mod source_task;
mod topics;
mod unarchived;
mod watermark;

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use datafusion::execution::TaskContext;
use datafusion::execution::runtime_env::RuntimeEnv;
use datafusion::execution::session_state::SessionState;
use tokio::sync::oneshot;
use tokio::task::JoinSet;
use watershed_batch_layer::schedule::Schedule;
use watershed_batch_layer::{Catalog, HistorySnapshot, ViewStore};
use watershed_serving_layer::{AuditReport, QueryEngine};
use watershed_shared::budget::MemoryBudget;
use watershed_shared::config::Config;
use watershed_shared::cpu::CpuPool;
use watershed_shared::error::Error as SharedError;
use watershed_shared::fault::{self, has_defect};
use watershed_shared::format::EventDecoder;
use watershed_shared::log::{AppendLog, KafkaTopic, Partitioner};
use watershed_shared::plan::{STATE_FORMAT_VERSION, ViewPlan, session_config};
use watershed_shared::position::Position;
use watershed_shared::snapshot::BatchPart;
use watershed_shared::telemetry::Metrics;
use watershed_shared::time::sleep;

pub use batch_run::{ComputedRun, PreparedRun, PublishedRun};
pub use open::check_definitions;
pub use ports::{CompiledViews, Logs, OpenLog, Ports};
pub use topics::with_dead_letters;

use self::batch_runs::BatchRuns;
use self::failure::Failure;
use self::gateway::Gateway;
use self::sinks::Sink;
use self::source_task::{Command, SourceHandle};
use crate::error::{Error, Result, with_causes};

/// How often files are looked for that no query reads any more.
const SWEEP_INTERVAL: Duration = Duration::from_secs(30);

/// A running platform. Clones share it.
#[derive(Debug, Clone)]
pub struct Platform {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    config: Arc<Config>,
    metrics: Metrics,
    pool: CpuPool,
    ports: Ports,
    ingest_budget: Arc<MemoryBudget>,
    query_runtime: Arc<RuntimeEnv>,
    batch_session: SessionState,
    sources: BTreeMap<String, Source>,
    views: Mutex<BTreeMap<String, ViewEntry>>,
    catalog: tokio::sync::Mutex<Catalog>,
    runs: BatchRuns,
    sinks: Vec<Arc<Sink>>,
    /// Held while dead letters are replayed.
    replays: tokio::sync::Mutex<()>,
    /// Batch views that have been superseded; their files go when no query reads them.
    retired: Mutex<Vec<Retired>>,
    tasks: Mutex<JoinSet<()>>,
}

#[derive(Debug)]
struct Source {
    handle: SourceHandle,
    /// Where events go that are sent to the source; `None` if none can be.
    appends: Option<Appends>,
    /// The topic that the source reads.
    topic: Option<KafkaTopic>,
    decoder: Arc<EventDecoder>,
    partitioner: Partitioner,
    /// Why the log refused the last events, if it did.
    log_failure: Failure,
}

/// Where events go that are sent to a source.
#[derive(Debug)]
enum Appends {
    /// To its log.
    Log(Arc<dyn AppendLog>),
    /// To the topic that it reads.
    Topic(Gateway),
}

/// What the platform knows of a view besides its snapshots.
#[derive(Debug)]
struct ViewEntry {
    source: String,
    schedules: Schedules,
    active: Option<Definition>,
    building: Option<Definition>,
    last_audit: Option<AuditReport>,
    /// Held by the view's batch run; they come one after the other.
    turn: Arc<tokio::sync::Mutex<()>>,
}

/// A definition with the place of its batch views.
#[derive(Debug, Clone)]
struct Definition {
    plan: Arc<ViewPlan>,
    store: ViewStore,
}

/// When batch runs are due.
#[derive(Debug, Clone, Default)]
struct Schedules {
    batch: Option<Schedule>,
    full_recompute: Option<Schedule>,
}

#[derive(Debug)]
struct Retired {
    part: BatchPart,
    files: Vec<object_store::path::Path>,
    store: ViewStore,
}

impl Platform {
    /// An engine that answers users' SQL over this platform.
    pub fn query_engine(&self) -> QueryEngine {
        let options = self.inner.config.query.clone();
        let runtime = Arc::clone(&self.inner.query_runtime);
        QueryEngine::new(Arc::new(self.clone()), options, runtime, self.inner.pool.clone())
    }

    /// Brings everything that a source's log holds now into its history, and returns a version that has it.
    pub async fn archive(&self, source: &str) -> Result<HistorySnapshot> {
        let source = self.inner.source(source)?;
        let target = source.accepted().await;
        ask(&source.handle, |reply| Command::Archive { target, pin: None, reply }).await
    }

    /// Merges all realtime runs of a source's views as far as cuts allow.
    pub async fn compact(&self, source: &str) -> Result<()> {
        let source = self.inner.source(source)?;
        ask(&source.handle, |reply| Command::Compact { reply }).await
    }

    /// Ends all tasks. What is acknowledged is durable; a platform opened on the same ports continues from there.
    pub async fn stop(&self) {
        let mut tasks = std::mem::take(&mut *lock(&self.inner.tasks));
        for source in self.inner.sources.values() {
            // A task that is gone already has stopped.
            let _ = ask(&source.handle, |reply| Command::Stop { reply }).await;
        }
        tasks.shutdown().await;
        if let Logs::Embedded(store) = &self.inner.ports.logs {
            store.close().await;
        }
    }

    /// Deletes the files of batch views that no query reads any more.
    async fn sweep(&self) {
        let unread = {
            let mut retired = lock(&self.inner.retired);
            let all = std::mem::take(&mut *retired);
            let (unread, read) = all
                .into_iter()
                .partition(|old: &Retired| Arc::strong_count(&old.part.states) == 1 || has_defect("sweep.while_read"));
            *retired = read;
            unread
        };
        for old in unread {
            fault::point("batch.before_sweep");
            if let Err(error) = old.store.delete_files(old.files).await {
                let error = with_causes(&error);
                tracing::warn!(error, "cannot delete superseded state files; the next start deletes them");
            }
        }
    }

    /// Sweeps now and then, so that a view that is seldom recomputed does not keep files for long.
    async fn sweep_regularly(self) {
        loop {
            sleep(SWEEP_INTERVAL).await;
            self.sweep().await;
        }
    }
}

impl Inner {
    fn source(&self, name: &str) -> Result<&Source> {
        self.sources.get(name).ok_or_else(|| {
            let known = self.sources.keys().cloned().collect();
            SharedError::NotFound { what: "source", name: name.to_owned(), known }.into()
        })
    }

    fn views(&self) -> MutexGuard<'_, BTreeMap<String, ViewEntry>> {
        lock(&self.views)
    }

    fn with_view<T>(&self, name: &str, read: impl FnOnce(&mut ViewEntry) -> T) -> Result<T> {
        let mut views = self.views();
        if let Some(entry) = views.get_mut(name) {
            return Ok(read(entry));
        }
        let known = views.keys().cloned().collect();
        Err(SharedError::NotFound { what: "view", name: name.to_owned(), known }.into())
    }
}

impl Source {
    /// A position that covers everything accepted before the call; as far as is known, if the log is elsewhere and cannot
    /// be reached.
    async fn accepted(&self) -> Position {
        match self.handle.log.accepted().await {
            Ok(position) => position,
            Err(error) => {
                let (source, error) = (&self.handle.source.name, with_causes(&error));
                tracing::warn!(source, error, "cannot tell where the log ends; going on with what is here");
                self.handle.log.end().borrow().clone()
            }
        }
    }
}

/// A panic elsewhere leaves these collections whole: every change to them is a single call.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Sends a command to a source's task and waits for the answer.
async fn ask<T>(source: &SourceHandle, command: impl FnOnce(oneshot::Sender<T>) -> Command) -> Result<T> {
    let (reply, answer) = oneshot::channel();
    source.commands.send(command(reply)).await.map_err(|_| Error::Stopping)?;
    answer.await.map_err(|_| Error::Stopping)
}

/// Folder of a definition's states, in the store and among the checkpoints. States of another format are never merged
/// with ours: they are in another folder, and the view is rebuilt.
fn states_folder(plan: &ViewPlan) -> String {
    format!("{}_{STATE_FORMAT_VERSION}", plan.id.as_str())
}

/// A context for one-partition plans of the platform's own.
fn task_context(runtime: &Arc<RuntimeEnv>) -> Arc<TaskContext> {
    let context = TaskContext::default().with_session_config(session_config(1)).with_runtime(Arc::clone(runtime));
    Arc::new(context)
}
