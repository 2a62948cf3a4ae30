//! One Delta table of a store: an ordered log of commits that name Parquet files.
//!
//! A commit adds files, removes files and sets application transactions (named numbers), all or nothing. It is made
//! *on* the version that the caller has looked at: another commit in between is a conflict, never merged, because what
//! to do about it depends on what the commit means. A commit whose response was lost is found again by its token.
//!
//! The table's latest state is kept in memory and follows the log commit by commit, so a commit costs one write and a
//! refresh reads only what is new. Delta's library is asked for the log's formats, for checkpoints, and for the state
//! at the checkpoint when a table is opened. Its own `CommitBuilder` lists the log before every commit, retries on
//! newer versions by itself and cannot tell a lost success from a conflict, so commits do not go through it.
//!
//! Every commit repeats all transactions and the last record, so the newest commit of ours holds them all.

mod checkpoint;
mod load;
mod log_file;
pub(crate) mod seal;

use std::collections::{BTreeMap, HashMap, HashSet};
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use arrow::datatypes::SchemaRef;
use deltalake_core::DeltaTableError;
use deltalake_core::kernel::engine::arrow_conversion::TryIntoKernel;
use deltalake_core::kernel::transaction::{CommitData, TransactionError};
use deltalake_core::kernel::{Action, Add, Metadata, Protocol, Remove, StructType, Transaction};
use deltalake_core::logstore::{CommitOrBytes, LogStoreRef, StorageConfig, default_logstore, get_actions};
use deltalake_core::protocol::{DeltaOperation, SaveMode};
use futures::future::try_join_all;
use object_store::path::Path;
use object_store::prefix::PrefixStore;
use serde_json::{Value, json};
use tokio::sync::{Mutex, watch};
use uuid::Uuid;
use watershed_shared::fault;
use watershed_shared::position::{Offset, OffsetRange, PartitionId};
use watershed_shared::time::{is_simulated, now};

pub(crate) use self::checkpoint::{HINT, MARK};
pub(crate) use self::log_file::LogFile;
use self::seal::Seal;
use crate::checksum::FileChecksum;
use crate::data_file::{DataFile, FileStatistics};
use crate::error::{Error, Result};
use crate::store::{Store, is_staged};

/// Key of our part of a commit's information.
const COMMIT_INFO_KEY: &str = "watershed";
/// More rows or bytes than any file has; below, sums over all files of a table cannot overflow.
const FILE_SIZE_MAX: u64 = 1 << 44;
/// Tag of a file that says which offsets it holds.
const OFFSETS_TAG: &str = "watershed.offsets";
/// Reading a table replays at most this many commits after its checkpoint, and some more until `checkpoint_if_due`.
const CHECKPOINT_COMMITS: u64 = 64;
/// Tag of a file that holds its checksum.
const CHECKSUM_TAG: &str = "watershed.checksum";
/// Property of a table that says in which version of our form it is; tables of version 1 have none.
const FORMAT_PROPERTY: &str = "watershed.formatVersion";
/// The version that new tables get, and the newest that this code knows. From 2 on, every commit has a checksum.
const FORMAT_VERSION: u32 = 2;
/// The first version in which every commit has a checksum.
const SEALED_FORMAT_VERSION: u32 = 2;
/// Commits read at once when many are new.
const READ_AHEAD_MAX: u64 = 16;

/// A Delta table, open for reading and writing. One process writes a table; tasks of it may share this.
pub(crate) struct StoredTable {
    store: Store,
    folder: Path,
    schema: SchemaRef,
    delta_schema: StructType,
    log: LogStoreRef,
    /// Held while the log is read or written, so that `latest` moves one commit at a time.
    log_access: Mutex<()>,
    latest: watch::Sender<Arc<TableSnapshot>>,
    /// Version of the newest checkpoint; held while one is made.
    checkpoint: Mutex<u64>,
    /// Version of the table's form, once its metadata has been read.
    format_version: AtomicU32,
    files_named: AtomicU64,
}

/// What a table holds at one version.
#[derive(Debug, Clone)]
pub(crate) struct TableSnapshot {
    /// Delta's version number: that of the last commit.
    pub(crate) version: u64,
    /// The files by their name in the table's folder.
    pub(crate) files: BTreeMap<String, Arc<DataFile>>,
    /// Application transactions by their id.
    pub(crate) transactions: BTreeMap<String, i64>,
    /// What the writer noted beside its last change; null for nothing.
    pub(crate) record: Arc<Value>,
}

/// What to change in one commit. Trying the same value again is safe: it is committed once.
#[derive(Debug)]
pub(crate) struct TableCommit {
    token: Uuid,
    pub(crate) adds: Vec<Arc<DataFile>>,
    pub(crate) removes: Vec<Arc<DataFile>>,
    pub(crate) transactions: BTreeMap<String, i64>,
    /// Replaces the table's record; null keeps it.
    pub(crate) record: Value,
}

/// How a commit ended; either way with the table's latest state.
#[derive(Debug)]
pub(crate) enum CommitOutcome {
    Committed(Arc<TableSnapshot>),
    /// Another commit was first. Nothing of this one is in the table.
    Conflict(Arc<TableSnapshot>),
}

impl TableCommit {
    pub(crate) fn new(adds: Vec<Arc<DataFile>>, transactions: BTreeMap<String, i64>) -> TableCommit {
        TableCommit { token: Uuid::new_v4(), adds, removes: Vec::new(), transactions, record: Value::Null }
    }
}

impl StoredTable {
    /// Opens the table in `folder` (relative to the store's root), creating it if there is none.
    ///
    /// # Errors
    /// `Invalid` when Delta cannot hold the schema, or the table there has another one; `Corrupt` when its log cannot
    /// be followed; `Retryable` when the store refuses.
    pub(crate) async fn open(store: &Store, folder: Path, schema: SchemaRef) -> Result<StoredTable> {
        let table = StoredTable::new(store, folder, schema)?;
        table.load().await?;
        Ok(table)
    }

    fn new(store: &Store, folder: Path, schema: SchemaRef) -> Result<StoredTable> {
        let unsupported = |reason: String| Error::UnsupportedSchema { table: folder.to_string(), reason };
        let delta_schema: StructType =
            schema.as_ref().try_into_kernel().map_err(|error| unsupported(error.to_string()))?;
        let prefixed = PrefixStore::new(Arc::clone(store.objects()), store.path(&folder));
        let log = default_logstore(
            Arc::new(prefixed),
            Arc::clone(store.objects()),
            &store.folder_url(&folder),
            &StorageConfig::default(),
        );
        Ok(StoredTable {
            store: store.clone(),
            folder,
            schema,
            delta_schema,
            log,
            log_access: Mutex::new(()),
            latest: watch::Sender::new(Arc::new(TableSnapshot::nothing())),
            checkpoint: Mutex::new(0),
            format_version: AtomicU32::new(1),
            files_named: AtomicU64::new(0),
        })
    }

    pub(crate) fn store(&self) -> &Store {
        &self.store
    }

    pub(crate) fn schema(&self) -> &SchemaRef {
        &self.schema
    }

    /// The table's folder relative to the store's root; its name in messages.
    pub(crate) fn folder(&self) -> &Path {
        &self.folder
    }

    /// A path for a new file of the version after `base`. Its name sorts after those of older versions and after
    /// those given before.
    pub(crate) fn new_file(&self, base: u64) -> Path {
        let version = base + 1;
        let number = self.files_named.fetch_add(1, Ordering::Relaxed);
        let name = format!("{version:012}-{number:06}-{}.parquet", Uuid::new_v4().simple());
        self.store.path(&self.folder).join(name)
    }

    /// The newest state that this process knows; exact as long as it is the only writer.
    pub(crate) fn known(&self) -> Arc<TableSnapshot> {
        Arc::clone(&self.latest.borrow())
    }

    /// The newest state in the store.
    pub(crate) async fn latest(&self) -> Result<Arc<TableSnapshot>> {
        let _access = self.log_access.lock().await;
        self.follow_log().await?;
        Ok(self.known())
    }

    /// Makes `commit` the version after `base`. Takes `base` so that nobody holds the state that it moves on.
    ///
    /// # Errors
    /// `Retryable` when the store refuses and it is unknown whether the commit happened: repeat the call.
    pub(crate) async fn commit(&self, base: Arc<TableSnapshot>, commit: &TableCommit) -> Result<CommitOutcome> {
        let _access = self.log_access.lock().await;
        let version = base.version + 1;
        let data = self.commit_data(&base, commit);
        drop(base);
        let bytes = data.get_bytes().map_err(|error| self.delta_error("write a commit of", error.into()))?;
        let bytes = seal::seal(&bytes, self.folder.as_ref(), version);
        match self.log.write_commit_entry(version, CommitOrBytes::LogBytes(bytes), commit.token).await {
            Ok(()) if self.latest.borrow().version + 1 == version => self.apply(version, &data.actions)?,
            Ok(()) => self.follow_log().await?,
            Err(error) if fault::has_defect("commit.retried_blindly") => {
                return Err(self.delta_error("commit to", error.into()));
            }
            Err(error) => {
                // The response may be what was lost, not the commit.
                let winner = match (self.read_commit(version).await, error) {
                    (Ok(Some(winner)), _) => winner,
                    (Err(error), TransactionError::VersionAlreadyExists(_)) => return Err(error),
                    (_, error) => return Err(self.delta_error("commit to", error.into())),
                };
                self.follow_log().await?;
                if commit_token(&winner) != Some(commit.token.to_string().as_str()) {
                    return Ok(CommitOutcome::Conflict(self.known()));
                }
            }
        }
        Ok(CommitOutcome::Committed(self.known()))
    }

    /// Writes a checkpoint of the latest known version if enough commits came since the last one, and deletes old
    /// commits. To be called off the hot path; returns whether there was one to write.
    pub(crate) async fn checkpoint_if_due(&self) -> Result<bool> {
        // The library does this on threads of its own, which would not replay, and which a simulated crash would leave hanging.
        if is_simulated() {
            return Ok(false);
        }
        let mut newest = self.checkpoint.lock().await;
        let version = self.known().version;
        let due = version >= *newest + CHECKPOINT_COMMITS;
        if due {
            self.write_checkpoint().await?;
            *newest = version;
        }
        Ok(due)
    }

    /// Deletes files in the folder that the latest version does not name: what crashes before a commit and versions
    /// that are no longer read have left. Nobody may be writing files of this table or reading its old versions.
    ///
    /// A remote store may still carry out the commit of a process that is dead. So an empty commit comes first: it takes
    /// that commit's version, or loses against it and sees the files that it names.
    ///
    /// Returns the number of files deleted.
    pub(crate) async fn delete_orphans(&self) -> Result<usize> {
        let mut latest = self.latest().await?;
        let mut orphans = self.orphans(&latest).await?;
        while !orphans.is_empty() && !fault::has_defect("orphans.unfenced") {
            match self.commit(latest, &TableCommit::new(Vec::new(), BTreeMap::new())).await? {
                CommitOutcome::Committed(_) => break,
                CommitOutcome::Conflict(newer) => {
                    orphans = self.orphans(&newer).await?;
                    latest = newer;
                }
            }
        }
        fault::point("table.before_orphans");
        let count = orphans.len();
        self.store.delete(orphans).await?;
        Ok(count)
    }

    async fn orphans(&self, latest: &TableSnapshot) -> Result<Vec<Path>> {
        let named: HashSet<&Path> = latest.files.values().map(|file| &file.path).collect();
        let folder = self.store.path(&self.folder);
        let log_folder = self.log_folder();
        let is_orphan = |path: &Path| match path.prefix_matches(&log_folder) {
            true => is_staged(path),
            false => !named.contains(path),
        };
        let listed = self.store.list(&folder).await?.into_iter().map(|file| file.location);
        Ok(listed.filter(is_orphan).collect())
    }

    /// Applies commits after the known version, reading more of them at once the more there are.
    async fn follow_log(&self) -> Result<()> {
        let mut window = 1;
        loop {
            let first = self.known().version + 1;
            let commits = try_join_all((first..first + window).map(|version| self.read_commit(version))).await?;
            for (version, commit) in (first..).zip(commits) {
                let Some(actions) = commit else { return Ok(()) };
                self.apply(version, &actions)?;
            }
            window = (window * 2).min(READ_AHEAD_MAX);
        }
    }

    pub(crate) async fn read_commit(&self, version: u64) -> Result<Option<Vec<Action>>> {
        let bytes = self.log.read_commit_entry(version).await;
        let Some(bytes) = bytes.map_err(|error| self.delta_error("read the log of", error))? else {
            return Ok(None);
        };
        let damaged = |reason: String| self.corrupt(format!("commit {version} of its log {reason}"));
        let seal = seal::check(&bytes, self.folder.as_ref(), version);
        if let Seal::Broken { expected, found } = seal {
            return Err(damaged(format!("has the checksum {found:016x}, but {expected:016x} was written")));
        }
        let actions = get_actions(version, &bytes);
        let actions = actions.map_err(|error| damaged(format!("cannot be understood: {error}")))?;
        let format_version = metadata(&actions).map_or(self.format_version(), format_version);
        if seal == Seal::Absent && format_version >= SEALED_FORMAT_VERSION {
            return Err(damaged("has no checksum: it is damaged, or another tool has written it".to_owned()));
        }
        Ok(Some(actions))
    }

    fn apply(&self, version: u64, actions: &[Action]) -> Result<()> {
        let mut added = Vec::new();
        let mut removed = Vec::new();
        for action in actions {
            match action {
                Action::Protocol(protocol) => self.check_protocol(protocol)?,
                Action::Metadata(metadata) => self.check_metadata(metadata)?,
                Action::Add(add) => added.push(self.data_file(add.clone())?),
                Action::Remove(remove) => removed.push(remove.path.clone()),
                _ => {}
            }
        }
        self.latest.send_modify(|latest| {
            // Copies the state only while somebody else holds it.
            let latest = Arc::make_mut(latest);
            latest.version = version;
            for name in &removed {
                latest.files.remove(name);
            }
            latest.files.extend(added);
            latest.take_transactions(actions);
        });
        Ok(())
    }

    fn commit_data(&self, base: &TableSnapshot, commit: &TableCommit) -> CommitData {
        let now = now().timestamp_millis();
        let adds = commit.adds.iter().map(|file| Action::Add(self.add(file, now)));
        let removes = commit.removes.iter().map(|file| Action::Remove(self.remove(file, now)));
        let mut transactions = base.transactions.clone();
        transactions.extend(commit.transactions.clone());
        let transactions = transactions.iter().map(|(id, version)| Transaction::new(id, *version)).collect();
        let mode = if commit.removes.is_empty() { SaveMode::Append } else { SaveMode::Overwrite };
        let operation = DeltaOperation::Write { mode, partition_by: None, predicate: None };
        let record = if commit.record.is_null() { &base.record } else { &commit.record };
        let info = json!({"checksum": seal::PLACEHOLDER, "token": commit.token.to_string(), "record": record});
        CommitData::new(
            removes.chain(adds).collect(),
            operation,
            HashMap::from([(COMMIT_INFO_KEY.to_owned(), info)]),
            transactions,
        )
    }

    fn add(&self, file: &DataFile, now: i64) -> Add {
        let offsets = file.offsets.as_ref().map(|offsets| {
            let offsets: Vec<String> =
                offsets.iter().map(|(id, at)| format!("{id}={}..{}", at.start(), at.end())).collect();
            (OFFSETS_TAG.to_owned(), Some(offsets.join(",")))
        });
        let checksum = file.checksum.map(|checksum| (CHECKSUM_TAG.to_owned(), Some(checksum.to_tag())));
        let tags: HashMap<_, _> = offsets.into_iter().chain(checksum).collect();
        Add {
            path: self.file_name(&file.path),
            size: file.bytes as i64,
            modification_time: now,
            data_change: true,
            stats: Some(file.statistics.to_json(file.rows)),
            tags: (!tags.is_empty()).then_some(tags),
            ..Add::default()
        }
    }

    fn remove(&self, file: &DataFile, now: i64) -> Remove {
        Remove {
            path: self.file_name(&file.path),
            data_change: true,
            deletion_timestamp: Some(now),
            extended_file_metadata: Some(true),
            partition_values: Some(HashMap::new()),
            size: Some(file.bytes as i64),
            ..Remove::default()
        }
    }

    /// The file's name in the table's folder.
    fn file_name(&self, path: &Path) -> String {
        let folder = self.store.path(&self.folder);
        path.prefix_match(&folder).map_or_else(|| path.to_string(), |name| name.collect::<Path>().to_string())
    }

    fn data_file(&self, add: Add) -> Result<(String, Arc<DataFile>)> {
        let statistics = add.stats.as_ref().and_then(|json| FileStatistics::from_json(json, &self.schema));
        let Some((rows, statistics)) = statistics else {
            return Err(self.corrupt(format!("file \"{}\" has no number of rows", add.path)));
        };
        let bytes = add.size.try_into().unwrap_or(u64::MAX);
        if rows > FILE_SIZE_MAX || bytes > FILE_SIZE_MAX {
            return Err(
                self.corrupt(format!("file \"{}\" is said to have {rows} rows and {} bytes", add.path, add.size))
            );
        }
        let tag = |name| add.tags.as_ref().and_then(|tags| tags.get(name)?.as_deref());
        let unknown = |tag| self.corrupt(format!("file \"{}\" has the checksum \"{tag}\", which is none", add.path));
        let checksum = tag(CHECKSUM_TAG).map(|tag| FileChecksum::from_tag(tag).ok_or_else(|| unknown(tag)));
        let file = DataFile {
            path: self.store.path(&self.folder).parts().chain(Path::from(add.path.as_str()).parts()).collect(),
            bytes,
            rows,
            statistics,
            offsets: tag(OFFSETS_TAG).and_then(parse_offsets),
            checksum: checksum.transpose()?,
        };
        Ok((add.path, Arc::new(file)))
    }

    /// Newer protocols allow what this module does not read, such as files with deleted rows.
    fn check_protocol(&self, protocol: &Protocol) -> Result<()> {
        let (reader, writer) = (protocol.min_reader_version(), protocol.min_writer_version());
        match (reader, writer) {
            (1, 1..=2) => Ok(()),
            _ => Err(self.corrupt(format!(
                "another tool has raised its protocol to reader version {reader} and writer version {writer}, which \
                 Watershed does not support"
            ))),
        }
    }

    fn check_metadata(&self, metadata: &Metadata) -> Result<()> {
        let found = format_version(metadata);
        if found > FORMAT_VERSION {
            return Err(self.newer_format(found, FORMAT_VERSION));
        }
        self.format_version.store(found, Ordering::Relaxed);
        let stored = metadata.parse_schema();
        let stored = stored.map_err(|error| self.corrupt(format!("its schema cannot be read: {error}")))?;
        match schema_difference(&self.delta_schema, &stored) {
            None => Ok(()),
            Some(difference) => Err(Error::SchemaMismatch { table: self.folder.to_string(), difference }),
        }
    }

    /// Version of the table's form; 1 until its metadata has been read.
    pub(crate) fn format_version(&self) -> u32 {
        self.format_version.load(Ordering::Relaxed)
    }

    fn newer_format(&self, found: u32, known: u32) -> Error {
        Error::NewerFormat { what: format!("table {}", self.folder), found, known }
    }

    fn delta_error(&self, action: &'static str, source: DeltaTableError) -> Error {
        Error::Delta { action, table: self.folder.to_string(), source: Box::new(source) }
    }

    fn corrupt(&self, reason: String) -> Error {
        Error::Corrupt { what: format!("table {}", self.folder), reason }
    }
}

impl fmt::Debug for StoredTable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let version = self.known().version;
        f.debug_struct("StoredTable").field("folder", &self.folder).field("version", &version).finish_non_exhaustive()
    }
}

impl TableSnapshot {
    fn nothing() -> TableSnapshot {
        TableSnapshot { version: 0, files: BTreeMap::new(), transactions: BTreeMap::new(), record: Arc::default() }
    }

    /// What one commit of ours says besides its files.
    pub(crate) fn of_transactions(actions: &[Action]) -> TableSnapshot {
        let mut snapshot = TableSnapshot::nothing();
        snapshot.take_transactions(actions);
        snapshot
    }

    fn take_transactions(&mut self, actions: &[Action]) {
        for action in actions {
            match action {
                Action::Txn(transaction) => {
                    self.transactions.insert(transaction.app_id.clone(), transaction.version);
                }
                Action::CommitInfo(info) => {
                    let record = info.info.get(COMMIT_INFO_KEY).and_then(|ours| ours.get("record"));
                    if let Some(record) = record.filter(|record| !record.is_null()) {
                        self.record = Arc::new(record.clone());
                    }
                }
                _ => {}
            }
        }
    }
}

fn metadata(actions: &[Action]) -> Option<&Metadata> {
    actions.iter().find_map(|action| match action {
        Action::Metadata(metadata) => Some(metadata),
        _ => None,
    })
}

/// The version of our form that a table's metadata names. One that does not parse is newer than any that we know.
fn format_version(metadata: &Metadata) -> u32 {
    let property = metadata.configuration().get(FORMAT_PROPERTY);
    property.map_or(1, |version| version.parse().unwrap_or(u32::MAX))
}

/// The token of a commit of ours.
fn commit_token(actions: &[Action]) -> Option<&str> {
    actions.iter().find_map(|action| match action {
        Action::CommitInfo(info) => info.info.get(COMMIT_INFO_KEY)?.get("token")?.as_str(),
        _ => None,
    })
}

/// Reads `0=12..40,3=0..7`.
fn parse_offsets(text: &str) -> Option<Vec<(PartitionId, OffsetRange)>> {
    let partition = |text: &str| {
        let (partition, range) = text.split_once('=')?;
        let (start, end) = range.split_once("..")?;
        let (start, end): (u64, u64) = (start.parse().ok()?, end.parse().ok()?);
        let range = (start <= end).then(|| OffsetRange::new(Offset(start), Offset(end)))?;
        Some((PartitionId(partition.parse().ok()?), range))
    };
    text.split(',').map(partition).collect()
}

/// The first column in which two schemas differ.
fn schema_difference(defined: &StructType, stored: &StructType) -> Option<String> {
    let column = |field: Option<&deltalake_core::kernel::StructField>| match field {
        Some(field) => {
            let null = if field.is_nullable() { "" } else { " not null" };
            format!("column \"{}\" {}{null}", field.name(), field.data_type())
        }
        None => "no more columns".to_owned(),
    };
    let (mut defined, mut stored) = (defined.fields(), stored.fields());
    loop {
        match (defined.next(), stored.next()) {
            (None, None) => return None,
            (Some(a), Some(b))
                if a.name() == b.name() && a.data_type() == b.data_type() && a.is_nullable() == b.is_nullable() => {}
            (a, b) => return Some(format!("the definition has {}, the table has {}", column(a), column(b))),
        }
    }
}
