//! Where the platform meets the outside world: logs and stores, real or in memory.

use std::collections::HashMap;
use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use watershed_batch_layer::Store;
use watershed_shared::config::{Config, parallelism};
use watershed_shared::cpu::CpuPool;
use watershed_shared::definition::ViewStatement;
use watershed_shared::log::{AppendLog, EmbeddedLog, LogStore, LogStoreOptions, MemoryLog};
use watershed_shared::plan::{ViewPlan, compile};
use watershed_shared::source::SourceDefinition;
use watershed_speed_layer::CheckpointStore;

use crate::error::{Error, Result};

/// The logs and the stores of one platform, and the means that several platforms of one process may share.
#[derive(Debug, Clone)]
pub struct Ports {
    /// Gives each source its log.
    pub logs: Logs,
    /// Holds histories, batch views and the catalog.
    pub store: Store,
    /// Holds copies of realtime views, which a restart without them computes again.
    pub checkpoints: CheckpointStore,
    /// Threads for CPU-bound work; `None` gives the platform its own.
    pub pool: Option<CpuPool>,
    /// Views that have been compiled before; `None` compiles each anew.
    pub compiled: Option<CompiledViews>,
}

impl Ports {
    /// The real ones: RocksDB and checkpoints in `data`, and the configured store.
    pub fn open(config: &Config, data: &Path) -> Result<Ports> {
        let options = LogStoreOptions {
            tail_bytes_max: config.ingest.tail_bytes,
            receipt_window: config.ingest.idempotency_window,
            disk_free_bytes_min: config.ingest.disk_free_bytes_min,
            ..LogStoreOptions::default()
        };
        let logs = Logs::Embedded(LogStore::open_with(data.join("log"), options)?);
        let store = match &config.store {
            Some(location) => Store::open(location)?,
            None => Store::open(&data.join("store").to_string_lossy())?,
        };
        let checkpoints = CheckpointStore::open(&data.join("realtime"))?;
        Ok(Ports { checkpoints, ..Ports::new(logs, store) })
    }

    /// The folders of log and store, as far as they are on local disks.
    pub(super) fn folders(&self) -> Vec<(&'static str, PathBuf)> {
        let log = match &self.logs {
            Logs::Embedded(store) => Some(("log", store.folder().to_owned())),
            Logs::Memory(_) | Logs::Given(_) => None,
        };
        log.into_iter().chain(self.store.local_folder().map(|folder| ("store", folder))).collect()
    }

    /// Logs and store in memory; they outlive the platforms that are opened on them.
    ///
    /// # Errors
    /// None in practice; the store's constructor has one.
    pub fn in_memory() -> Result<Ports> {
        Ok(Ports::new(Logs::Memory(Arc::default()), Store::in_memory()?))
    }

    /// These logs and this store; checkpoints in memory and threads of the platform's own.
    pub fn new(logs: Logs, store: Store) -> Ports {
        Ports { logs, store, checkpoints: CheckpointStore::in_memory(), pool: None, compiled: None }
    }

    pub(super) fn cpu_pool(&self) -> Result<CpuPool> {
        let own = || CpuPool::new(parallelism(0));
        let pool = self.pool.clone().map_or_else(own, Ok);
        pool.map_err(|source| Error::System { action: "start threads", source })
    }

    pub(super) async fn compile(&self, view: &ViewStatement, source: &Arc<SourceDefinition>) -> Result<Arc<ViewPlan>> {
        let known = self.compiled.as_ref().and_then(|compiled| compiled.get(view, source));
        if let Some(plan) = known {
            return Ok(plan);
        }
        let plan = Arc::new(compile(view, Arc::clone(source)).await?);
        if let Some(compiled) = &self.compiled {
            compiled.insert(view, source, &plan);
        }
        Ok(plan)
    }
}

type PlansByStatements = HashMap<(String, String), Arc<ViewPlan>>;

/// Compiled views by their source's and their own statement, for tests that open the same definitions thousands of times.
#[derive(Debug, Clone, Default)]
pub struct CompiledViews {
    plans: Arc<Mutex<PlansByStatements>>,
}

impl CompiledViews {
    fn get(&self, view: &ViewStatement, source: &SourceDefinition) -> Option<Arc<ViewPlan>> {
        let plans = self.plans.lock().unwrap_or_else(PoisonError::into_inner);
        plans.get(&CompiledViews::key(view, source)).cloned()
    }

    fn insert(&self, view: &ViewStatement, source: &SourceDefinition, plan: &Arc<ViewPlan>) {
        let mut plans = self.plans.lock().unwrap_or_else(PoisonError::into_inner);
        plans.insert(CompiledViews::key(view, source), Arc::clone(plan));
    }

    fn key(view: &ViewStatement, source: &SourceDefinition) -> (String, String) {
        (source.sql.clone(), view.sql.clone())
    }
}

/// Where logs come from.
#[derive(Debug, Clone)]
pub enum Logs {
    /// One RocksDB for all sources.
    Embedded(LogStore),
    /// One log in memory for each source.
    Memory(Arc<Mutex<HashMap<String, Arc<MemoryLog>>>>),
    /// Logs of the caller's making.
    Given(Arc<dyn OpenLog>),
}

/// Gives sources their logs.
pub trait OpenLog: fmt::Debug + Send + Sync {
    /// The log of a source as a new process finds it: what is durable, and nothing else.
    ///
    /// # Errors
    /// When the log cannot be opened.
    fn open_log(&self, source: &SourceDefinition) -> watershed_shared::error::Result<Arc<dyn AppendLog>>;
}

impl Logs {
    /// The log of a source that events are sent to, made if it is not there.
    pub(super) fn log(&self, source: &SourceDefinition) -> Result<Arc<dyn AppendLog>> {
        match self {
            Logs::Embedded(store) => {
                let log: Arc<EmbeddedLog> = store.log(source)?;
                Ok(log)
            }
            Logs::Memory(logs) => {
                let mut logs = logs.lock().unwrap_or_else(PoisonError::into_inner);
                let log = logs.entry(source.name.clone()).or_insert_with(|| Arc::new(MemoryLog::new(source)));
                let log: Arc<MemoryLog> = Arc::clone(log);
                Ok(log)
            }
            Logs::Given(logs) => Ok(logs.open_log(source)?),
        }
    }
}
