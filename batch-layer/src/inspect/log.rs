//! Checks the log of a table: every commit, the order of their numbers, the checkpoints.

use std::collections::{BTreeMap, BTreeSet};

use object_store::ObjectMeta;
use object_store::path::Path;
use watershed_shared::position::Position;

use super::{Inspection, Repair, Severity, short};
use crate::error::Result;
use crate::history::position;
use crate::table::{HINT, LogFile, MARK, StoredTable, TableSnapshot};

/// What the commits of a table say.
#[derive(Debug, Default)]
pub(super) struct LogReport {
    /// Where the table ended after each commit that is there.
    pub(super) cuts: BTreeSet<Vec<u64>>,
    /// Whether no commit is missing, so that `cuts` has all cuts.
    pub(super) is_complete: bool,
}

impl Inspection<'_> {
    /// Checks all files of a table's log. What makes the table unreadable is found again when it is opened, and is said
    /// there once; here comes what opening does not look at.
    pub(super) async fn table_log(
        &mut self,
        table: &StoredTable,
        objects: &BTreeMap<String, ObjectMeta>,
    ) -> Result<LogReport> {
        let mut report = LogReport { is_complete: true, ..LogReport::default() };
        let mut next = 0;
        for (name, object) in objects {
            let Some(file) = name.strip_prefix("_delta_log/").and_then(LogFile::parse) else { continue };
            (self.progress)(object.size);
            match file {
                LogFile::Commit(version) => {
                    report.is_complete &= version == next;
                    next = version + 1;
                    self.commit(table, version, &object.location, &mut report).await?;
                }
                LogFile::Checkpoint(version) => self.checkpoint(table, version, &object.location).await?,
            }
        }
        self.mark(table, objects).await?;
        Ok(report)
    }

    /// A mark that cannot be read makes its checkpoint worthless.
    async fn mark(&mut self, table: &StoredTable, objects: &BTreeMap<String, ObjectMeta>) -> Result<()> {
        let Some(mark) = objects.get(&format!("_delta_log/{MARK}")) else { return Ok(()) };
        if table.checkpoint_mark().await?.is_some() {
            return Ok(());
        }
        let what = "the mark that holds the checksum of the newest checkpoint is damaged";
        let action = "repair it: it is deleted, and the next checkpoint makes another";
        let repair = Repair::Delete(vec![mark.location.clone(), table.log_file(HINT)]);
        self.find(Severity::Warning, what, &mark.location, action, Some(repair));
        Ok(())
    }

    async fn commit(&mut self, table: &StoredTable, version: u64, path: &Path, report: &mut LogReport) -> Result<()> {
        match table.read_commit(version).await {
            Ok(Some(actions)) => {
                let cut = position(&TableSnapshot::of_transactions(&actions), 0);
                report.cuts.insert(offsets(&cut));
            }
            Ok(None) => {}
            Err(error) if error.is_lasting() => {
                report.is_complete = false;
                let is_summed_up = table.checkpoint_version().await?.is_some_and(|checkpoint| checkpoint > version);
                let action = match is_summed_up {
                    true => "nothing: a later checkpoint sums it up; only what old versions held is lost",
                    false => "restore it from a copy, or see what is said of the table",
                };
                let severity = if is_summed_up { Severity::Warning } else { Severity::Error };
                self.find(severity, short(&error), path, action, None);
            }
            Err(error) => return Err(error),
        }
        Ok(())
    }

    async fn checkpoint(&mut self, table: &StoredTable, version: u64, path: &Path) -> Result<()> {
        let Some(mark) = table.checkpoint_mark().await? else {
            let what = "a checkpoint of the log has no checksum, so it is not read if the commits are there";
            self.find(Severity::Note, what, path, "nothing: the next checkpoint will have one", None);
            return Ok(());
        };
        if mark.version != version {
            return Ok(());
        }
        match table.verify_checkpoint(&mark).await {
            Ok(()) => {}
            Err(error) if error.is_lasting() => {
                let has_commits = table.read_commit(0).await.is_ok_and(|first| first.is_some());
                let repair = has_commits.then(|| Repair::Delete(table.checkpoint_files(version)));
                let (severity, action) = match has_commits {
                    true => (Severity::Warning, "repair it: it is deleted, and made again from the commits"),
                    false => (Severity::Error, "restore it from a copy: the commits that it sums up are gone"),
                };
                self.find(severity, short(&error), path, action, repair);
            }
            Err(error) => return Err(error),
        }
        Ok(())
    }
}

pub(super) fn offsets(position: &Position) -> Vec<u64> {
    let mut offsets: Vec<u64> = position.offsets().iter().map(|offset| offset.0).collect();
    // Partitions without events may be named or not.
    while offsets.last() == Some(&0) {
        offsets.pop();
    }
    offsets
}
