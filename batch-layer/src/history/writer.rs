//! Appends events to a history: Parquet files, then one commit that names them and says where the history now ends.
//!
//! An append starts where the history ends, or it is refused; so events are in it once, whoever retries what. A crash
//! before the commit leaves files that nobody names, which `delete_orphans` removes.
//!
//! A remote store may carry out a commit after the process that sent it has died and its successor has read where the
//! history ends. The successor's append then starts with events that are there already. They are compared one by one,
//! since another log's events at the same offsets would be other events, and only the others are appended.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, BooleanArray, RecordBatch};
use arrow::compute::{SortColumn, concat_batches, filter_record_batch, lexsort_to_indices, take_record_batch};
use arrow::datatypes::{Int32Type, Int64Type, SchemaRef};
use arrow::error::ArrowError;
use datafusion::execution::TaskContext;
use datafusion::execution::runtime_env::RuntimeEnv;
use futures::future::join_all;
use tokio::sync::Mutex;
use watershed_shared::cpu::blocking;
use watershed_shared::event::{OFFSET_COLUMN, PARTITION_COLUMN};
use watershed_shared::fault;
use watershed_shared::plan::{RowScan, RowSource};
use watershed_shared::position::{Gap, Offset, OffsetRange, PartitionId, Position};

use super::{
    EVENT_TIME_TRANSACTION, GAP_TRANSACTION, History, HistorySnapshot, HistoryVersion, SPARSE_TRANSACTION,
    partition_transactions, position, position_transactions,
};
use crate::data_file::{DataFile, EncodeOptions, EncodedFile, FileEncoder};
use crate::error::{Error, Result};
use crate::table::{CommitOutcome, TableCommit, TableSnapshot};

/// Other commits that may come in between before an append gives up; none should.
const COMMIT_ATTEMPTS_MAX: usize = 8;

/// Consecutive events of a source, to be appended together or not at all.
#[derive(Debug, Clone)]
pub struct Append {
    /// The events in the source's event schema; each partition's in offset order, without gaps unless the source has them.
    pub batches: Vec<RecordBatch>,
    /// Where the events start and the history must end.
    pub start: Position,
    /// Where the history ends afterwards.
    pub end: Position,
    /// Largest event time of each partition as far as known, in microseconds since the epoch, by partition. The
    /// history keeps the larger of this and what it has.
    pub max_event_times_us: Vec<Option<i64>>,
    /// Offsets between start and end that the log lost.
    pub gaps: Vec<Gap>,
}

/// What an append has made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Appended {
    /// The history's version that holds the events.
    pub version: HistoryVersion,
    /// Where that version ends.
    pub end: Position,
    /// Bytes written to files by this call; 0 if the events were there already.
    pub bytes: u64,
}

/// Appends to one history.
#[derive(Debug)]
pub struct HistoryWriter {
    history: History,
    options: EncodeOptions,
    /// What the last append has stored and not committed. Its repetition takes that: it would leave the files to nobody
    /// otherwise, again and again while a store refuses commits.
    stored: Mutex<Option<StoredAppend>>,
}

/// Files of an append from one position to another, and the commit that names them.
#[derive(Debug)]
struct StoredAppend {
    start: Position,
    end: Position,
    commit: TableCommit,
}

impl HistoryWriter {
    pub(super) fn new(history: History, options: EncodeOptions) -> HistoryWriter {
        HistoryWriter { history, options, stored: Mutex::default() }
    }

    /// Appends events and returns when they are durable. Repeating an append that has succeeded changes nothing.
    ///
    /// # Errors
    /// `Retryable` when the store refuses: repeat the call, whether or not the events are in. `Conflict` when the
    /// history does not end where the append starts, unless the events in between are the append's own: another writer
    /// is at work. `Internal` when the batches are not the events from start to end. The history is unchanged after the
    /// latter two.
    pub async fn append(&self, append: &Append) -> Result<Appended> {
        let table = &self.history.table;
        let mut append = Cow::Borrowed(append);
        let mut base = table.latest().await?;
        let mut stored = self.stored.lock().await;
        for _ in 0..COMMIT_ATTEMPTS_MAX {
            let mut current = position(&base, self.history.partitions);
            if fault::has_defect("commit.retried_blindly") {
                current = append.start.clone();
                *stored = None;
            }
            if !append.start.covers(&current) {
                *stored = None;
                let rest = self.rest(&append, &base, &current).await?;
                if rest.start.covers(&rest.end) {
                    return Ok(Appended { version: HistoryVersion(base.version), end: current, bytes: 0 });
                }
                append = Cow::Owned(rest);
            } else if !current.covers(&append.start) {
                return Err(self.conflict(&append, &current));
            }
            let is_it = |stored: &StoredAppend| stored.start == append.start && stored.end == append.end;
            let commit = match &*stored {
                Some(stored) if is_it(stored) => &stored.commit,
                _ => {
                    let commit = self.store_files(&append, &base).await?;
                    let (start, end) = (append.start.clone(), append.end.clone());
                    &stored.insert(StoredAppend { start, end, commit }).commit
                }
            };
            fault::point("history.after_files");
            match table.commit(base, commit).await? {
                CommitOutcome::Committed(snapshot) => {
                    fault::point("history.after_commit");
                    let version = HistoryVersion(snapshot.version);
                    let bytes = commit.adds.iter().map(|file| file.bytes).sum();
                    *stored = None;
                    return Ok(Appended { version, end: append.end.clone(), bytes });
                }
                CommitOutcome::Conflict(latest) => base = latest,
            }
        }
        Err(self.conflict(&append, self.history.known().end()))
    }

    /// What of an append comes after the history's end `current`, if the history has exactly what comes before. It ends where
    /// the history would end then, which may be behind the append's end in some partitions.
    async fn rest(&self, append: &Append, base: &TableSnapshot, current: &Position) -> Result<Append> {
        // Of a topic, which others can read as well, the history may have more than the append of some partitions and less of
        // others. A log of our own has one writer at a time, which cuts all partitions at once.
        let crosses = !current.covers(&append.end) && !append.end.covers(current);
        if !current.covers(&append.start) || (crosses && !self.history.is_sparse) {
            return Err(self.conflict(append, current));
        }
        let shared_end = &current.meet(&append.end);
        let snapshot = HistorySnapshot::new(&self.history, base);
        let files = snapshot.rows(snapshot.files_from(&append.start));
        let runtime = Arc::new(RuntimeEnv::default());
        let scan = RowScan { projection: None, predicate: None, target_partitions: 1, runtime: Arc::clone(&runtime) };
        let context = Arc::new(TaskContext::default().with_runtime(runtime));
        let there = datafusion::physical_plan::collect(files.scan(scan)?, context).await?;
        let schema = self.history.table.schema();
        let shared = |batches: &[RecordBatch]| events_between(schema, batches, &append.start, shared_end);
        if shared(&there)? != shared(&append.batches)? {
            return Err(self.conflict(append, current));
        }
        tracing::info!(
            table = %self.history.table.folder(),
            events = shared_end.events_since(&append.start),
            "events are in the history already, by a commit whose answer was lost"
        );
        let batches = append.batches.iter().map(|batch| events_in(batch, shared_end, &append.end));
        let batches = batches.collect::<Result<_>>()?;
        let mut end = append.end.clone();
        end.join(current);
        Ok(Append { batches, start: current.clone(), end, ..append.clone() })
    }

    async fn store_files(&self, append: &Append, base: &TableSnapshot) -> Result<TableCommit> {
        fault::point("history.before_files");
        let table = &self.history.table;
        let (schema, options) = (Arc::clone(table.schema()), self.options.clone());
        let (work, is_sparse) = (append.clone(), self.history.is_sparse);
        let encoded = blocking(move || encode(&schema, &options, &work, is_sparse)).await;
        let encoded = encoded.map_err(|source| Error::Interrupted { what: "encoding events", source })?;
        let files = encoded.map_err(|error| match error {
            EncodeError::NotTheEvents(reason) => Error::InvalidBatches {
                table: table.folder().to_string(),
                start: append.start.to_string(),
                end: append.end.to_string(),
                reason,
            },
            EncodeError::Other(error) => error,
        })?;
        let files: Vec<_> =
            files.into_iter().map(|(file, offsets)| (file, offsets, table.new_file(base.version))).collect();
        let paths: Vec<_> = files.iter().map(|(_, _, path)| path.clone()).collect();
        let puts = files.into_iter().map(async |(file, offsets, path)| {
            let stored = DataFile { offsets: Some(offsets), ..file.at(path) };
            table.store().put(&stored.path, file.bytes).await?;
            Ok::<_, Error>(Arc::new(stored))
        });
        let stored: Result<Vec<_>> = join_all(puts).await.into_iter().collect();
        let stored = match stored {
            Ok(stored) => stored,
            Err(error) => {
                // The next attempt has other names; those that arrived would fill a disk that is full already.
                if let Err(error) = table.store().delete(paths).await {
                    tracing::warn!(%error, "cannot delete files of a commit that failed; the next start deletes them");
                }
                return Err(error);
            }
        };
        let mut transactions: BTreeMap<String, i64> = position_transactions(&append.end).collect();
        transactions.extend(event_time_transactions(append, base));
        transactions.extend(append.gaps.iter().map(|Gap { partition, range }| {
            (format!("{GAP_TRANSACTION}{partition}/{}", range.start()), range.end().0 as i64)
        }));
        if self.history.is_sparse {
            transactions.insert(SPARSE_TRANSACTION.to_owned(), 1);
        }
        Ok(TableCommit::new(stored, transactions))
    }

    fn conflict(&self, append: &Append, found: &Position) -> Error {
        Error::Conflict {
            action: "append events to",
            table: self.history.table.folder().to_string(),
            expected: format!("that it ends at {}", append.start),
            found: format!("that it ends at {found}, where another writer has brought it"),
        }
    }
}

fn event_time_transactions(append: &Append, base: &TableSnapshot) -> BTreeMap<String, i64> {
    let mut max: BTreeMap<PartitionId, i64> = partition_transactions(base, EVENT_TIME_TRANSACTION).collect();
    for (index, event_time) in append.max_event_times_us.iter().enumerate() {
        if let Some(event_time) = *event_time {
            let max = max.entry(PartitionId(index as u32)).or_insert(event_time);
            *max = (*max).max(event_time);
        }
    }
    max.into_iter().map(|(partition, max)| (format!("{EVENT_TIME_TRANSACTION}{partition}"), max)).collect()
}

/// The events from `start` to `end`, by partition and offset.
fn events_between(
    schema: &SchemaRef,
    batches: &[RecordBatch],
    start: &Position,
    end: &Position,
) -> Result<Vec<ArrayRef>> {
    let events = batches.iter().map(|batch| events_in(batch, start, end)).collect::<Result<Vec<_>>>()?;
    let events = concat_batches(schema, &events)?;
    let place = [PARTITION_COLUMN, OFFSET_COLUMN].into_iter().filter_map(|name| events.column_by_name(name));
    let place: Vec<SortColumn> = place.map(|values| SortColumn { values: Arc::clone(values), options: None }).collect();
    let order = lexsort_to_indices(&place, None)?;
    Ok(take_record_batch(&events, &order)?.columns().to_vec())
}

/// The events of a batch from `start` to `end`.
fn events_in(batch: &RecordBatch, start: &Position, end: &Position) -> Result<RecordBatch> {
    let (partitions, offsets) = places(batch).map_err(ArrowError::InvalidArgumentError)?;
    let is_in = |(partition, offset): (&i32, &i64)| {
        let (partition, offset) = (PartitionId(*partition as u32), Offset(*offset as u64));
        start.get(partition) <= offset && offset < end.get(partition)
    };
    let wanted: BooleanArray = partitions.iter().zip(offsets).map(is_in).map(Some).collect();
    Ok(filter_record_batch(batch, &wanted)?)
}

/// Offsets in one file, by partition.
type Offsets = Vec<(PartitionId, OffsetRange)>;

enum EncodeError {
    NotTheEvents(String),
    Other(Error),
}

impl<E: Into<Error>> From<E> for EncodeError {
    fn from(error: E) -> EncodeError {
        EncodeError::Other(error.into())
    }
}

/// Encodes an append's events, checking on the way that they are all the events from its start to its end, or, of a
/// sparse history, that they lie between these and none comes twice.
fn encode(
    schema: &SchemaRef,
    options: &EncodeOptions,
    append: &Append,
    is_sparse: bool,
) -> Result<Vec<(EncodedFile, Offsets)>, EncodeError> {
    let mut encoder = FileEncoder::new(Arc::clone(schema), options)?;
    let mut reached = append.start.clone();
    let mut file_start = append.start.clone();
    let mut files = Vec::new();
    for batch in &append.batches {
        advance(&mut reached, batch, is_sparse).map_err(EncodeError::NotTheEvents)?;
        if let Some(file) = encoder.write(batch)? {
            files.push((file, offsets_between(&file_start, &reached)));
            file_start = reached.clone();
        }
    }
    if let Some(file) = encoder.finish()? {
        files.push((file, offsets_between(&file_start, &reached)));
    }
    match append.end.covers(&reached) && (is_sparse || reached.covers(&append.end)) {
        true => Ok(files),
        false => Err(EncodeError::NotTheEvents(format!("they end at {reached}"))),
    }
}

/// Moves `reached` over a batch's events, each of which must be the next of its partition, or of a sparse one a later one.
fn advance(reached: &mut Position, batch: &RecordBatch, is_sparse: bool) -> Result<(), String> {
    let (partitions, offsets) = places(batch)?;
    let mut row = 0;
    while row < partitions.len() {
        let partition = PartitionId(partitions[row] as u32);
        let mut next = reached.get(partition).0;
        while row < partitions.len() && partitions[row] as u32 == partition.0 {
            let offset = offsets[row] as u64;
            if offset < next || (offset > next && !is_sparse) {
                return Err(format!("partition {partition} has offset {offset} where {next} comes next"));
            }
            next = offset + 1;
            row += 1;
        }
        reached.raise(partition, Offset(next));
    }
    Ok(())
}

/// The partition and offset of each event of a batch; the error says what is wrong with the columns.
fn places(batch: &RecordBatch) -> Result<(&[i32], &[i64]), String> {
    let column = |name: &str| batch.column_by_name(name).ok_or_else(|| format!("a batch has no column {name}"));
    let partitions = column(PARTITION_COLUMN)?.as_primitive_opt::<Int32Type>();
    let offsets = column(OFFSET_COLUMN)?.as_primitive_opt::<Int64Type>();
    let (Some(partitions), Some(offsets)) = (partitions, offsets) else {
        return Err(format!("{PARTITION_COLUMN} is not an INT or {OFFSET_COLUMN} is not a BIGINT"));
    };
    match partitions.null_count() + offsets.null_count() {
        0 => Ok((partitions.values(), offsets.values())),
        _ => Err("an event has no place".to_owned()),
    }
}

fn offsets_between(start: &Position, end: &Position) -> Offsets {
    let range = |(partition, offset)| (partition, OffsetRange::new(start.get(partition), offset));
    end.iter().map(range).filter(|(_, range)| !range.is_empty()).collect()
}
