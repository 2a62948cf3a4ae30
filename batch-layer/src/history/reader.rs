//! A pinned version of a history, to be read as plain Parquet files.

use std::sync::Arc;

use arrow::datatypes::SchemaRef;
use watershed_shared::position::{OffsetRange, PartitionId, Position};

use super::{EVENT_TIME_TRANSACTION, History, HistoryVersion, partition_transactions, position};
use crate::data_file::DataFile;
use crate::scan::FileRows;
use crate::store::Store;
use crate::table::{StoredTable, TableSnapshot};

/// One version of a history. It stays readable while newer versions come, as no file of a history is ever deleted.
#[derive(Debug, Clone)]
pub struct HistorySnapshot {
    table: Arc<StoredTable>,
    version: HistoryVersion,
    files: Vec<Arc<DataFile>>,
    end: Position,
    max_event_times_us: Vec<Option<i64>>,
}

impl HistorySnapshot {
    pub(super) fn new(history: &History, snapshot: &TableSnapshot) -> HistorySnapshot {
        let end = position(snapshot, history.partitions);
        let mut max_event_times_us = vec![None; end.offsets().len()];
        for (partition, event_time) in partition_transactions(snapshot, EVENT_TIME_TRANSACTION) {
            if let Some(max) = max_event_times_us.get_mut(partition.index()) {
                *max = Some(event_time);
            }
        }
        HistorySnapshot {
            table: Arc::clone(&history.table),
            version: HistoryVersion(snapshot.version),
            files: snapshot.files.values().cloned().collect(),
            end,
            max_event_times_us,
        }
    }

    /// The version that this is.
    pub fn version(&self) -> HistoryVersion {
        self.version
    }

    /// Where each partition continues: the files hold all events below and none from here on.
    pub fn end(&self) -> &Position {
        &self.end
    }

    /// Largest event time in each partition, in microseconds since the epoch; `None` where no event had one.
    pub fn max_event_times_us(&self) -> &[Option<i64>] {
        &self.max_event_times_us
    }

    /// The files, oldest commit first.
    pub fn files(&self) -> &[Arc<DataFile>] {
        &self.files
    }

    /// The files that may hold events at or after `start`; they may hold earlier events too.
    pub fn files_from(&self, start: &Position) -> Vec<Arc<DataFile>> {
        let reaches = |(partition, range): &(PartitionId, OffsetRange)| range.end() > start.get(*partition);
        let wanted = |file: &&Arc<DataFile>| file.offsets.as_ref().is_none_or(|offsets| offsets.iter().any(reaches));
        self.files.iter().filter(wanted).cloned().collect()
    }

    /// The history's columns: the source's event schema.
    pub fn schema(&self) -> &SchemaRef {
        self.table.schema()
    }

    /// The store that holds the files.
    pub fn store(&self) -> &Store {
        self.table.store()
    }

    /// The rows of some of the version's files.
    pub fn rows(&self, files: Vec<Arc<DataFile>>) -> FileRows {
        FileRows::new(self.table.store(), self.table.schema(), files)
    }
}
