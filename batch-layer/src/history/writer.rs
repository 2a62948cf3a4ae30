//! Appends events to a history: Parquet files, then one commit that names them and says where the history now ends.
//!
//! An append starts where the history ends, or it is refused; so events are in it once, whoever retries what. A crash
//! before the commit leaves files that nobody names, which `delete_orphans` removes.

use std::collections::BTreeMap;
use std::sync::Arc;

use arrow::array::{Array, AsArray, RecordBatch};
use arrow::datatypes::{Int32Type, Int64Type, SchemaRef};
use futures::future::try_join_all;
use watershed_shared::event::{OFFSET_COLUMN, PARTITION_COLUMN};
use watershed_shared::position::{Offset, OffsetRange, PartitionId, Position};

use super::{EVENT_TIME_TRANSACTION, History, HistoryVersion, partition_transactions, position, position_transactions};
use crate::data_file::{DataFile, EncodeOptions, EncodedFile, FileEncoder};
use crate::error::{Error, Result};
use crate::table::{CommitOutcome, TableCommit, TableSnapshot};

/// Other commits that may come in between before an append gives up; none should.
const COMMIT_ATTEMPTS_MAX: usize = 8;

/// Consecutive events of a source, to be appended together or not at all.
#[derive(Debug, Clone)]
pub struct Append {
    /// The events in the source's event schema; each partition's in offset order, without gaps.
    pub batches: Vec<RecordBatch>,
    /// Where the events start and the history must end.
    pub start: Position,
    /// Where the history ends afterwards.
    pub end: Position,
    /// Largest event time of each partition as far as known, in microseconds since the epoch, by partition. The
    /// history keeps the larger of this and what it has.
    pub max_event_times_us: Vec<Option<i64>>,
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
}

impl HistoryWriter {
    pub(super) fn new(history: History, options: EncodeOptions) -> HistoryWriter {
        HistoryWriter { history, options }
    }

    /// Appends events and returns when they are durable. Repeating an append that has succeeded changes nothing.
    ///
    /// # Errors
    /// `Retryable` when the store refuses: repeat the call, whether or not the events are in. `Conflict` when the
    /// history ends neither at the start nor at or after the end: another writer is at work. `Internal` when the
    /// batches are not the events from start to end. The history is unchanged after the latter two.
    pub async fn append(&self, append: &Append) -> Result<Appended> {
        let table = &self.history.table;
        let mut base = table.latest().await?;
        let mut commit = None;
        for _ in 0..COMMIT_ATTEMPTS_MAX {
            let current = position(&base, self.history.partitions);
            if current.covers(&append.end) {
                return Ok(Appended { version: HistoryVersion(base.version), end: current, bytes: 0 });
            }
            if !(current.covers(&append.start) && append.start.covers(&current)) {
                return Err(self.conflict(append, &current));
            }
            let commit = match &commit {
                Some(commit) => commit,
                None => commit.insert(self.store_files(append, &base).await?),
            };
            match table.commit(base, commit).await? {
                CommitOutcome::Committed(snapshot) => {
                    let version = HistoryVersion(snapshot.version);
                    let bytes = commit.adds.iter().map(|file| file.bytes).sum();
                    return Ok(Appended { version, end: append.end.clone(), bytes });
                }
                CommitOutcome::Conflict(latest) => base = latest,
            }
        }
        Err(self.conflict(append, self.history.known().end()))
    }

    async fn store_files(&self, append: &Append, base: &TableSnapshot) -> Result<TableCommit> {
        let table = &self.history.table;
        let (schema, options) = (Arc::clone(table.schema()), self.options.clone());
        let work = append.clone();
        let encoded = tokio::task::spawn_blocking(move || encode(&schema, &options, &work)).await;
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
        let stored = files.into_iter().map(async |(file, offsets)| {
            let path = table.new_file(base.version);
            let stored = DataFile { offsets: Some(offsets), ..file.at(path) };
            table.store().put(&stored.path, file.bytes).await?;
            Ok::<_, Error>(Arc::new(stored))
        });
        let stored = try_join_all(stored).await?;
        let mut transactions: BTreeMap<String, i64> = position_transactions(&append.end).collect();
        transactions.extend(event_time_transactions(append, base));
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

/// Encodes an append's events, checking on the way that they are all the events from its start to its end.
fn encode(
    schema: &SchemaRef,
    options: &EncodeOptions,
    append: &Append,
) -> Result<Vec<(EncodedFile, Offsets)>, EncodeError> {
    let mut encoder = FileEncoder::new(Arc::clone(schema), options)?;
    let mut reached = append.start.clone();
    let mut file_start = append.start.clone();
    let mut files = Vec::new();
    for batch in &append.batches {
        advance(&mut reached, batch).map_err(EncodeError::NotTheEvents)?;
        if let Some(file) = encoder.write(batch)? {
            files.push((file, offsets_between(&file_start, &reached)));
            file_start = reached.clone();
        }
    }
    if let Some(file) = encoder.finish()? {
        files.push((file, offsets_between(&file_start, &reached)));
    }
    match reached.covers(&append.end) && append.end.covers(&reached) {
        true => Ok(files),
        false => Err(EncodeError::NotTheEvents(format!("they end at {reached}"))),
    }
}

/// Moves `reached` over a batch's events, each of which must be the next of its partition.
fn advance(reached: &mut Position, batch: &RecordBatch) -> Result<(), String> {
    let column = |name: &str| batch.column_by_name(name).ok_or_else(|| format!("a batch has no column {name}"));
    let partitions = column(PARTITION_COLUMN)?.as_primitive_opt::<Int32Type>();
    let offsets = column(OFFSET_COLUMN)?.as_primitive_opt::<Int64Type>();
    let (Some(partitions), Some(offsets)) = (partitions, offsets) else {
        return Err(format!("{PARTITION_COLUMN} is not an INT or {OFFSET_COLUMN} is not a BIGINT"));
    };
    if partitions.null_count() + offsets.null_count() > 0 {
        return Err("an event has no place".to_owned());
    }
    let (partitions, offsets) = (partitions.values(), offsets.values());
    let mut row = 0;
    while row < partitions.len() {
        let partition = PartitionId(partitions[row] as u32);
        let mut next = reached.get(partition).0;
        while row < partitions.len() && partitions[row] as u32 == partition.0 {
            if offsets[row] as u64 != next {
                return Err(format!("partition {partition} has offset {} where {next} comes next", offsets[row]));
            }
            next += 1;
            row += 1;
        }
        reached.raise(partition, Offset(next));
    }
    Ok(())
}

fn offsets_between(start: &Position, end: &Position) -> Offsets {
    let range = |(partition, offset)| (partition, OffsetRange::new(start.get(partition), offset));
    end.iter().map(range).filter(|(_, range)| !range.is_empty()).collect()
}
