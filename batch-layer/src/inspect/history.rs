//! Checks a history: its log, its files, and that they hold every offset once.

use std::collections::BTreeMap;

use object_store::path::Path;
use watershed_shared::position::{Offset, OffsetRange, PartitionId, Position};

use super::log::LogReport;
use super::{Inspection, Severity, short};
use crate::data_file::DataFile;
use crate::error::Result;
use crate::history::{gaps, is_sparse, position};
use crate::table::{StoredTable, TableSnapshot};

/// What a history holds.
#[derive(Debug, Default)]
pub struct HistoryReport {
    /// Where it ends; `None` when that cannot be told.
    pub end: Option<Position>,
    /// Whether its log is a topic, which is elsewhere.
    pub is_sparse: bool,
    /// The events that are in damaged files.
    pub damaged: Vec<(PartitionId, OffsetRange)>,
    pub(super) log: LogReport,
}

impl Inspection<'_> {
    pub(super) async fn history(&mut self, source: &str, folder: Path) -> Result<HistoryReport> {
        let objects = self.objects_in(&folder);
        let place = self.store.path(&folder);
        let action = "restore the history's folder from a copy";
        let table = match StoredTable::open_existing(self.store, folder.clone()).await {
            Ok(table) => table,
            Err(error) if error.is_lasting() => {
                self.find(Severity::Error, short(&error), place, action, None);
                return Ok(HistoryReport::default());
            }
            Err(error) => return Err(error),
        };
        let log = self.table_log(&table, &objects).await?;
        let snapshot = table.known();
        let end = position(&snapshot, 0);
        self.format(format!("history of {source}"), table.format_version());
        let (damaged, unverified) = self.data_files(&snapshot).await?;
        if unverified > 0 {
            let what = format!(
                "{unverified} files were written before files had checksums, so only their footers were checked"
            );
            self.find(Severity::Note, what, &place, "nothing", None);
        }
        let mut lost = Vec::new();
        for damage in damaged {
            let offsets = damage.file.offsets.clone().unwrap_or_default();
            let action = format!("restore it from a copy; it holds the events {}", describe(&offsets));
            self.find(Severity::Error, damage.what, &damage.file.path, action, None);
            lost.extend(offsets);
        }
        self.check_offsets(&snapshot, &end, &place);
        self.orphans(&folder, &objects, &snapshot);
        Ok(HistoryReport { end: Some(end), is_sparse: is_sparse(&snapshot), damaged: lost, log })
    }

    /// Every offset from 0 to the end must be in one file, and every file must have as many rows as offsets; of a sparse
    /// history only that no offset is in two files.
    fn check_offsets(&mut self, snapshot: &TableSnapshot, end: &Position, place: &Path) {
        let is_sparse = is_sparse(snapshot);
        for gap in gaps(snapshot) {
            let what = format!(
                "the log lost the events of partition {} at offsets {} before they were read; an operator has skipped them",
                gap.partition, gap.range
            );
            self.find(Severity::Note, what, place, "nothing", None);
        }
        let mut ranges: BTreeMap<PartitionId, Vec<OffsetRange>> = BTreeMap::new();
        for file in snapshot.files.values() {
            let Some(offsets) = &file.offsets else {
                let what = "the log does not say which offsets the file holds, so gaps cannot be found";
                self.find(Severity::Note, what, &file.path, "nothing, if another tool has rewritten the file", None);
                return;
            };
            self.check_rows(file, offsets, is_sparse);
            for (partition, range) in offsets {
                ranges.entry(*partition).or_default().push(*range);
            }
        }
        for (partition, end) in end.iter() {
            let mut ranges = ranges.remove(&partition).unwrap_or_default();
            ranges.sort_by_key(|range| range.start());
            let mut next = Offset::BEGINNING;
            for range in ranges.iter().copied().chain([OffsetRange::new(end, end)]) {
                let (from, to) = (next.min(range.start()), next.max(range.start()));
                if from != to && !(is_sparse && next < range.start()) {
                    let fault = if next < range.start() { "are in no file" } else { "are in two files" };
                    let what = format!("the events of partition {partition} from offset {from} to {to} {fault}");
                    self.find(Severity::Error, what, place, "restore the history's folder from a copy", None);
                }
                next = next.max(range.end());
            }
        }
    }

    fn check_rows(&mut self, file: &DataFile, offsets: &[(PartitionId, OffsetRange)], is_sparse: bool) {
        let expected: u64 = offsets.iter().map(|(_, range)| range.len() as u64).sum();
        if expected < file.rows || (expected > file.rows && !is_sparse) {
            let what = format!("it has {} rows for {expected} offsets", file.rows);
            self.find(Severity::Error, what, &file.path, "restore the history's folder from a copy", None);
        }
    }
}

/// Events by their places.
pub(super) fn describe(offsets: &[(PartitionId, OffsetRange)]) -> String {
    let partition = |(partition, range): &(PartitionId, OffsetRange)| {
        format!("of partition {partition} from offset {} to {}", range.start(), range.end())
    };
    match offsets {
        [] => "that the log does not say".to_owned(),
        offsets => offsets.iter().map(partition).collect::<Vec<_>>().join(", "),
    }
}
