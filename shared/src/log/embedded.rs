//! Logs in one RocksDB on the local disk, shared by all sources of a platform.
//!
//! An append waits in a bounded queue for the store's one writer thread, which takes all that wait, gives them offsets,
//! writes them with one fsync and only then moves the end and answers. So an acknowledged event survives a crash, and
//! many small appends cost one fsync together.
//!
//! Reads come from the newest batches in memory, or from the blocks on disk. Every block carries a checksum, and blocks
//! must follow each other without a gap: what is damaged or missing is an error, never an answer.

use std::collections::HashMap;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use arrow::array::RecordBatch;
use async_trait::async_trait;
use rocksdb::{BlockBasedOptions, Cache, DB, DBCompressionType, LogLevel, Options, WriteOptions};
use tokio::sync::watch;

use self::blocks::read_blocks;
use self::state::LogState;
use self::writer::{Append, Writer};
use super::key::FORMAT_KEY;
use super::{Log, check_partition, check_readable, checked_batches};
use crate::error::{Error, Result};
use crate::event::LogBatch;
use crate::position::{Offset, PartitionId, Position};
use crate::source::SourceDefinition;

mod blocks;
mod state;
#[cfg(test)]
mod tests;
mod writer;

/// Version of the key layout and of everything else but the blocks, which carry their own.
const STORE_VERSION: u8 = 1;

/// Bounds of a store's memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LogStoreOptions {
    /// Most bytes of newest batches that each log keeps in memory for its readers.
    pub tail_bytes_max: usize,
    /// Most bytes of events, of all logs together, that wait for the disk; further appends wait in their callers.
    pub queue_bytes_max: usize,
    /// About as many bytes of events are written with one fsync, at most; one append is never divided.
    pub group_bytes_target: usize,
}

impl Default for LogStoreOptions {
    fn default() -> LogStoreOptions {
        LogStoreOptions { tail_bytes_max: 64 << 20, queue_bytes_max: 32 << 20, group_bytes_target: 8 << 20 }
    }
}

/// The folder that holds the logs of all sources. Clones share it; only one process can have it open.
///
/// When the store, its logs and their reads are gone, the folder can be opened again. Dropping the last of them waits
/// for the writer to finish what it has taken.
#[derive(Debug, Clone)]
pub struct LogStore {
    store: Arc<Store>,
}

/// One source's log in a `LogStore`.
#[derive(Debug)]
pub struct EmbeddedLog {
    log: Arc<LogState>,
    store: Arc<Store>,
}

impl LogStore {
    /// Opens the store in a folder, which is made if it is not there, within the default bounds. Blocks.
    ///
    /// # Errors
    /// `Retryable` when the folder cannot be opened, for instance because another process has it open.
    pub fn open(path: impl AsRef<Path>) -> Result<LogStore> {
        LogStore::open_with(path, LogStoreOptions::default())
    }

    /// `open` within other bounds.
    pub fn open_with(path: impl AsRef<Path>, options: LogStoreOptions) -> Result<LogStore> {
        let path = path.as_ref();
        let db = open_db(path).map_err(|reason| store_error(path, reason))?;
        check_version(&db).map_err(|reason| store_error(path, reason))?;
        let db = Arc::new(db);
        let writer = Writer::start(Arc::clone(&db), &options).map_err(|error| store_error(path, error.to_string()))?;
        Ok(LogStore { store: Arc::new(Store { writer, logs: Mutex::default(), options, db }) })
    }

    /// The log of a source; made when it is not there. All callers share one. Blocks for a few reads, and one fsync
    /// when the log is new.
    ///
    /// # Errors
    /// `Retryable` when the store refuses, when the log on disk has more partitions than the source, or when it is open
    /// already for other columns or partitions; `Corrupt` when the last block of a partition is damaged, so that its
    /// end is unknown.
    pub fn log(&self, source: &SourceDefinition) -> Result<Arc<EmbeddedLog>> {
        let mut logs = lock(&self.store.logs);
        let log = match logs.get(&source.name) {
            Some(log) if log.partitions == source.partitions && log.schema.columns == source.columns => Arc::clone(log),
            Some(_) => return Err(log_error("open", &source.name, "it is open for other columns or partitions")),
            None => {
                let log = Arc::new(LogState::open(&self.store.db, source, self.store.options.tail_bytes_max)?);
                logs.insert(source.name.clone(), Arc::clone(&log));
                log
            }
        };
        Ok(Arc::new(EmbeddedLog { log, store: Arc::clone(&self.store) }))
    }

    /// Number of fsyncs that appends of all logs have cost since the store was opened.
    pub fn group_commits(&self) -> u64 {
        self.store.writer.group_commits()
    }

    /// Refuses appends to all logs from now on and returns when those that wait are durable. Reads and trims go on.
    pub async fn close(&self) {
        self.store.writer.close().await;
    }
}

#[async_trait]
impl Log for EmbeddedLog {
    fn partitions(&self) -> u32 {
        self.log.partitions
    }

    async fn append(&self, ingested_at_us: i64, batches: Vec<(PartitionId, RecordBatch)>) -> Result<Position> {
        let batches = checked_batches(&self.log.schema.columns, self.log.partitions, batches)?;
        self.store.writer.append(Append::new(Arc::clone(&self.log), ingested_at_us, batches)).await
    }

    fn end(&self) -> watch::Receiver<Position> {
        self.log.end.subscribe()
    }

    fn start(&self) -> Position {
        self.log.readable().start.clone()
    }

    async fn read(&self, partition: PartitionId, from: Offset, rows_max: usize) -> Result<Vec<LogBatch>> {
        let log = &self.log;
        check_partition(log.partitions, partition)?;
        let end = log.end.borrow().clone();
        {
            let readable = log.readable();
            check_readable(&log.source, partition, from, &readable.start, &end)?;
            if from == end.get(partition) {
                return Ok(Vec::new());
            }
            if let Some(mut batches) = readable.tail.read(partition, from, rows_max) {
                // The newest may be durable and not published yet.
                batches.retain(|batch| batch.range.end() <= end.get(partition));
                return Ok(batches);
            }
        }
        let (db, reader) = (Arc::clone(&self.store.db), Arc::clone(log));
        let read = move || read_blocks(&db, &reader, partition, from..end.get(partition), rows_max.max(1));
        run_blocking("read", &log.source, read).await
    }

    async fn trim(&self, before: &Position) -> Result<()> {
        let (db, log, before) = (Arc::clone(&self.store.db), Arc::clone(&self.log), before.clone());
        run_blocking("trim", &self.log.source, move || log.trim(&db, &before)).await
    }
}

/// What a `LogStore` and its logs share.
#[derive(Debug)]
struct Store {
    /// Above `db`: the writer ends before the database is closed.
    writer: Writer,
    logs: Mutex<HashMap<String, Arc<LogState>>>,
    options: LogStoreOptions,
    db: Arc<DB>,
}

fn open_db(path: &Path) -> Result<DB, String> {
    std::fs::create_dir_all(path).map_err(|error| error.to_string())?;
    DB::open(&db_options(), path).map_err(|error| error.to_string())
}

/// Bounded memory and few threads: two write buffers of 32 MiB and next to no cache, since the newest events are read
/// from memory and older ones once, in order.
fn db_options() -> Options {
    let mut table = BlockBasedOptions::default();
    table.set_block_cache(&Cache::new_lru_cache(8 << 20));
    table.set_cache_index_and_filter_blocks(true);
    let mut options = Options::default();
    options.create_if_missing(true);
    options.set_block_based_table_factory(&table);
    options.set_compression_type(DBCompressionType::Lz4);
    options.set_write_buffer_size(32 << 20);
    options.set_max_write_buffer_number(2);
    options.set_max_total_wal_size(128 << 20);
    options.set_max_background_jobs(2);
    options.set_max_open_files(256);
    options.set_keep_log_file_num(2);
    options.set_max_log_file_size(1 << 20);
    options.set_log_level(LogLevel::Warn);
    options.set_stats_dump_period_sec(0);
    options
}

/// Marks a new store with the version and refuses others.
fn check_version(db: &DB) -> Result<(), String> {
    let stored = db.get(FORMAT_KEY).map_err(|error| error.to_string())?;
    match stored.as_deref() {
        Some([STORE_VERSION]) => Ok(()),
        Some(other) => Err(format!(
            "its format version is {other:?}, and this version of the platform reads {STORE_VERSION}; \
             use the version that wrote it"
        )),
        None if db.iterator(rocksdb::IteratorMode::Start).next().is_none() => {
            db.put_opt(FORMAT_KEY, [STORE_VERSION], &durable()).map_err(|error| error.to_string())
        }
        None => Err("it holds something else than logs; choose another folder".to_owned()),
    }
}

/// Options of writes that are on the disk when they return.
fn durable() -> WriteOptions {
    let mut options = WriteOptions::default();
    options.set_sync(true);
    options
}

/// Runs on the pool for blocking work; goes on when the caller goes away.
async fn run_blocking<T: Send + 'static>(
    action: &'static str,
    source: &str,
    work: impl FnOnce() -> Result<T> + Send + 'static,
) -> Result<T> {
    match tokio::task::spawn_blocking(work).await {
        Ok(result) => result,
        Err(error) => Err(log_error(action, source, error)),
    }
}

fn log_error(action: &'static str, source: &str, reason: impl ToString) -> Error {
    Error::Log { action, name: source.to_owned(), reason: reason.to_string() }
}

fn store_error(path: &Path, reason: String) -> Error {
    Error::Log { action: "open", name: path.display().to_string(), reason }
}

/// Nothing that runs under these locks is expected to panic; if it does, the writer thread has ended and says so.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
