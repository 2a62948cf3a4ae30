//! Where the platform meets the outside world: logs and stores, real or in memory.

use std::collections::HashMap;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};

use watershed_batch_layer::Store;
use watershed_shared::config::Config;
use watershed_shared::log::{EmbeddedLog, Log, LogStore, LogStoreOptions, MemoryLog};
use watershed_shared::source::SourceDefinition;

use crate::error::Result;

/// The logs and the store of one platform.
#[derive(Debug, Clone)]
pub struct Ports {
    /// Gives each source its log.
    pub logs: Logs,
    /// Holds histories, batch views and the catalog.
    pub store: Store,
}

impl Ports {
    /// The real ones: RocksDB in `data` and the configured store.
    pub fn open(config: &Config, data: &Path) -> Result<Ports> {
        let options = LogStoreOptions { tail_bytes_max: config.ingest.tail_bytes, ..LogStoreOptions::default() };
        let logs = Logs::Embedded(LogStore::open_with(data.join("log"), options)?);
        let store = match &config.store {
            Some(location) => Store::open(location)?,
            None => Store::open(&data.join("store").to_string_lossy())?,
        };
        Ok(Ports { logs, store })
    }

    /// Logs and store in memory; they outlive the platforms that are opened on them.
    ///
    /// # Errors
    /// None in practice; the store's constructor has one.
    pub fn in_memory() -> Result<Ports> {
        Ok(Ports { logs: Logs::Memory(Arc::default()), store: Store::in_memory()? })
    }
}

/// Where logs come from.
#[derive(Debug, Clone)]
pub enum Logs {
    /// One RocksDB for all sources.
    Embedded(LogStore),
    /// One log in memory for each source.
    Memory(Arc<Mutex<HashMap<String, Arc<MemoryLog>>>>),
}

impl Logs {
    /// The log of a source, made if it is not there.
    pub(super) fn log(&self, source: &SourceDefinition) -> Result<Arc<dyn Log>> {
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
        }
    }
}
