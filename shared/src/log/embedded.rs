//! Logs in one RocksDB on the local disk, shared by all sources of a platform.
//!
//! An append waits in a bounded queue for the store's one writer thread, which takes all that wait, gives them offsets,
//! writes them with one fsync and only then moves the end and answers. So an acknowledged event survives a crash, and
//! many small appends cost one fsync together.
//!
//! Reads come from the newest batches in memory, or from the blocks on disk. Every block carries a checksum, and blocks
//! must follow each other without a gap: what is damaged or missing is an error, never an answer.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use arrow::array::RecordBatch;
use async_trait::async_trait;
use rocksdb::{
    BlockBasedIndexType, BlockBasedOptions, Cache, DB, DBCompressionType, DBRecoveryMode, LogLevel, Options,
    WriteOptions,
};
use tokio::sync::watch;

use self::acknowledged::Acknowledged;
use self::blocks::read_blocks;
use self::receipts::StoredReceipts;
use self::state::LogState;
use self::writer::{Append, Writer};
use super::key::FORMAT_KEY;
use super::receipt::Window;
use super::{AppendLog, Appended, Log, RECEIPT_WINDOW, Receipt, check_partition, check_readable, checked_batches};
use crate::error::{Error, Result};
use crate::event::LogBatch;
use crate::fault;
use crate::folder::create_folder;
use crate::position::{Offset, PartitionId, Position};
use crate::source::SourceDefinition;

mod acknowledged;
mod blocks;
#[cfg(test)]
mod receipt_tests;
mod receipts;
mod state;
#[cfg(test)]
mod tests;
mod verify;
mod writer;

pub use verify::{LogDamage, LogPartition, LogReport};

/// How RocksDB begins what it says of damaged files.
const CORRUPTION: &str = "Corruption:";
/// Version of the key layout and of everything else but the blocks, which carry their own.
const STORE_VERSION: u8 = 1;

/// Bounds of a store's memory, and of what it remembers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LogStoreOptions {
    /// Most bytes of newest batches that each log keeps in memory for its readers.
    pub tail_bytes_max: usize,
    /// Most bytes of events, of all logs together, that wait for the disk; further appends wait in their callers.
    pub queue_bytes_max: usize,
    /// About as many bytes of events are written with one fsync, at most; one append is never divided.
    pub group_bytes_target: usize,
    /// How long receipts are remembered, at least a second; at most twice that long they take room on the disk.
    pub receipt_window: Duration,
    /// Free bytes to leave on the disk: with less, nothing is appended, so that trims, which make room, and whatever else
    /// is on the disk still can be written.
    pub disk_free_bytes_min: u64,
}

impl Default for LogStoreOptions {
    fn default() -> LogStoreOptions {
        LogStoreOptions {
            tail_bytes_max: 64 << 20,
            queue_bytes_max: 32 << 20,
            group_bytes_target: 8 << 20,
            receipt_window: RECEIPT_WINDOW,
            disk_free_bytes_min: 0,
        }
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
    /// Version of the form in which stores are written.
    pub const FORMAT_VERSION: u8 = STORE_VERSION;

    /// Opens the store in a folder, which is made if it is not there, within the default bounds. Blocks.
    ///
    /// # Errors
    /// `Retryable` when the folder cannot be opened, for instance because another process has it open; `Corrupt` when
    /// its files are damaged, end before what was acknowledged, or the record of receipts is damaged; `Invalid` when a
    /// later version has written it.
    pub fn open(path: impl AsRef<Path>) -> Result<LogStore> {
        LogStore::open_with(path, LogStoreOptions::default())
    }

    /// The file by which a store in `path` knows that it has lost its newest events. Without it the store opens as if
    /// these had never been there.
    pub fn acknowledgement_file(path: &Path) -> PathBuf {
        Acknowledged::path(path)
    }

    /// `open` within other bounds.
    pub fn open_with(path: impl AsRef<Path>, options: LogStoreOptions) -> Result<LogStore> {
        let path = path.as_ref();
        check_not_headless(path)?;
        let db = open_db(path).map_err(|reason| store_error(path, reason))?;
        fault::point("log.after_open");
        check_version(&db, path)?;
        check_nothing_lost(&db, path)?;
        let acknowledged = Acknowledged::open(path, db.latest_sequence_number());
        let acknowledged = acknowledged.map_err(|error| store_error(path, error.to_string()))?;
        let db = Arc::new(db);
        let receipts = StoredReceipts::open(Arc::clone(&db), Window::from(options.receipt_window))?;
        let writer = Writer::start(Arc::clone(&db), receipts, path, &options, acknowledged);
        let writer = writer.map_err(|error| store_error(path, error.to_string()))?;
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

    /// The folder that holds the logs.
    pub fn folder(&self) -> &Path {
        self.store.db.path()
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

#[async_trait]
impl AppendLog for EmbeddedLog {
    async fn append(&self, ingested_at_us: i64, batches: Vec<(PartitionId, RecordBatch)>) -> Result<Position> {
        let batches = checked_batches(&self.log.schema.columns, self.log.partitions, batches)?;
        match self.store.writer.append(Append::new(Arc::clone(&self.log), ingested_at_us, batches, None)).await? {
            Appended::Now(position) => Ok(position),
            other => Err(log_error("append to", &self.log.source, format!("the writer recalled a receipt: {other:?}"))),
        }
    }

    async fn append_once(
        &self,
        ingested_at_us: i64,
        batches: Vec<(PartitionId, RecordBatch)>,
        receipt: Receipt,
    ) -> Result<Appended> {
        let batches = checked_batches(&self.log.schema.columns, self.log.partitions, batches)?;
        let append = Append::new(Arc::clone(&self.log), ingested_at_us, batches, Some(receipt));
        self.store.writer.append(append).await
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
    create_folder(path).map_err(|error| error.to_string())?;
    DB::open(&db_options(), path).map_err(|error| error.to_string())
}

/// Bounded memory and few threads: two write buffers of 32 MiB and next to no cache, since the newest events are read
/// from memory and older ones once, in order. What is looked up by its key, and mostly is not there, are receipts: hence
/// the Bloom filters. They are in parts that are read one by one, since those of millions of receipts fill the cache.
fn db_options() -> Options {
    let mut table = BlockBasedOptions::default();
    table.set_block_cache(&Cache::new_lru_cache(8 << 20));
    table.set_cache_index_and_filter_blocks(true);
    table.set_bloom_filter(10.0, false);
    table.set_index_type(BlockBasedIndexType::TwoLevelIndexSearch);
    table.set_partition_filters(true);
    table.set_pin_top_level_index_and_filter(true);
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
    // A half-written record at the end is what a crash leaves; anything else that cannot be read is an error. RocksDB's
    // default would take the log up to there and forget the rest.
    options.set_wal_recovery_mode(DBRecoveryMode::TolerateCorruptedTailRecords);
    options.set_track_and_verify_wals_in_manifest(true);
    options.set_paranoid_checks(true);
    options
}

/// Refuses a store whose `CURRENT` is gone: RocksDB would take it for a new one and delete the rest.
fn check_not_headless(path: &Path) -> Result<()> {
    let Ok(entries) = std::fs::read_dir(path) else { return Ok(()) };
    let names: Vec<_> = entries.flatten().map(|entry| entry.file_name()).collect();
    let is_there = |wanted: &dyn Fn(&str) -> bool| names.iter().any(|name| name.to_str().is_some_and(wanted));
    match is_there(&|name| name.starts_with("MANIFEST-") || name.ends_with(".sst"))
        && !is_there(&|name| name == "CURRENT")
    {
        true => Err(store_error(path, format!("{CORRUPTION} its file CURRENT is missing"))),
        false => Ok(()),
    }
}

/// Refuses a store that ends before what was acknowledged.
fn check_nothing_lost(db: &DB, path: &Path) -> Result<()> {
    let (found, acknowledged) = (db.latest_sequence_number(), Acknowledged::read(path).unwrap_or_default());
    match found < acknowledged {
        true => Err(store_error(
            path,
            format!(
                "{CORRUPTION} its newest events are lost: it ends with write {found}, but write {acknowledged} was acknowledged"
            ),
        )),
        false => Ok(()),
    }
}

/// Marks a new store with the version and refuses others.
fn check_version(db: &DB, path: &Path) -> Result<()> {
    let failed = |error: rocksdb::Error| store_error(path, error.into_string());
    let stored = db.get(FORMAT_KEY).map_err(failed)?;
    match stored.as_deref() {
        Some([STORE_VERSION]) => Ok(()),
        Some([found]) if *found > STORE_VERSION => {
            let what = format!("the log in \"{}\"", path.display());
            Err(Error::NewerFormat { what, found: *found, known: STORE_VERSION })
        }
        Some(other) => Err(store_error(path, format!("{CORRUPTION} its format version is {other:?}"))),
        None if db.iterator(rocksdb::IteratorMode::Start).next().is_none() => {
            db.put_opt(FORMAT_KEY, [STORE_VERSION], &durable()).map_err(failed)
        }
        None => Err(store_error(path, "it holds something else than logs; choose another folder".to_owned())),
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
    let reason = reason.to_string();
    match damage(&reason) {
        Some(reason) => {
            Error::Corrupt { what: format!("the log of source \"{source}\""), reason: reason.trim().to_owned() }
        }
        None => Error::Log { action, name: source.to_owned(), reason },
    }
}

fn store_error(path: &Path, reason: String) -> Error {
    match damage(&reason) {
        Some(reason) => {
            Error::Corrupt { what: format!("the log in \"{}\"", path.display()), reason: reason.trim().to_owned() }
        }
        None => Error::Log { action: "open", name: path.display().to_string(), reason },
    }
}

/// What RocksDB says of damaged or missing files, if that is what it says.
fn damage(reason: &str) -> Option<&str> {
    let missing = || reason.contains("No such file or directory").then_some(reason);
    reason.strip_prefix(CORRUPTION).or_else(missing)
}

/// Nothing that runs under these locks is expected to panic; if it does, the writer thread has ended and says so.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
