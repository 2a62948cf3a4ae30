//! A pinned version of a history, to be read as plain Parquet files.

use std::collections::BTreeMap;
use std::sync::Arc;

use arrow::array::AsArray;
use arrow::datatypes::{Int32Type, Int64Type, SchemaRef, TimestampMicrosecondType};
use datafusion::execution::TaskContext;
use datafusion::execution::runtime_env::RuntimeEnv;
use watershed_shared::event::{INGESTED_AT_COLUMN, OFFSET_COLUMN, PARTITION_COLUMN};
use watershed_shared::plan::{RowScan, RowSource};
use watershed_shared::position::{Gap, Offset, OffsetRange, PartitionId, Position};

use super::{EVENT_TIME_TRANSACTION, History, HistoryVersion, gaps, has_position, partition_transactions, position};
use crate::data_file::DataFile;
use crate::error::Result;
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
    has_position: bool,
    gaps: Vec<Gap>,
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
            has_position: has_position(snapshot),
            gaps: gaps(snapshot),
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

    /// Whether anything was ever appended, if only a position.
    pub fn has_position(&self) -> bool {
        self.has_position
    }

    /// Offsets below the end whose events, if there were any, were lost before the platform had them.
    pub fn gaps(&self) -> &[Gap] {
        &self.gaps
    }

    /// Number of events.
    pub fn events(&self) -> u64 {
        self.files.iter().map(|file| file.rows).sum()
    }

    /// The last event of each partition that has one: its offset, and when the log first saw it, in microseconds since the
    /// epoch.
    ///
    /// # Errors
    /// `Corrupt` when a file is damaged; `Retryable` when the store refuses.
    pub async fn last_events(&self) -> Result<Vec<(PartitionId, Offset, i64)>> {
        // A file's offsets end with its last event, also where offsets hold none.
        let mut last: BTreeMap<PartitionId, (Offset, &Arc<DataFile>)> = BTreeMap::new();
        for file in &self.files {
            for (partition, range) in file.offsets.iter().flatten().filter(|(_, range)| !range.is_empty()) {
                let known = last.entry(*partition).or_insert((range.end(), file));
                if range.end() > known.0 {
                    *known = (range.end(), file);
                }
            }
        }
        let files: BTreeMap<&object_store::path::Path, &Arc<DataFile>> =
            last.values().map(|(_, file)| (&file.path, *file)).collect();
        let projection = [PARTITION_COLUMN, OFFSET_COLUMN, INGESTED_AT_COLUMN].map(|name| self.schema().index_of(name));
        let projection = projection.into_iter().collect::<Result<Vec<_>, _>>()?;
        let runtime = Arc::new(RuntimeEnv::default());
        let context = Arc::new(TaskContext::default().with_runtime(Arc::clone(&runtime)));
        let mut events = Vec::new();
        for file in files.into_values() {
            let scan = RowScan {
                projection: Some(projection.clone()),
                predicate: None,
                target_partitions: 1,
                runtime: Arc::clone(&runtime),
            };
            let plan = self.rows(vec![Arc::clone(file)]).scan(scan)?;
            for batch in datafusion::physical_plan::collect(plan, Arc::clone(&context)).await? {
                let partitions = batch.column(0).as_primitive::<Int32Type>();
                let offsets = batch.column(1).as_primitive::<Int64Type>();
                let times = batch.column(2).as_primitive::<TimestampMicrosecondType>();
                for row in 0..batch.num_rows() {
                    let (partition, offset) =
                        (PartitionId(partitions.value(row) as u32), Offset(offsets.value(row) as u64));
                    if last.get(&partition).is_some_and(|(end, _)| *end == offset.advance(1)) {
                        events.push((partition, offset, times.value(row)));
                    }
                }
            }
        }
        Ok(events)
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
