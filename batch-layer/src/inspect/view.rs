//! Checks the batch views of one definition: their log, their files, and the boundary against the history's cuts.

use object_store::path::Path;
use watershed_shared::position::Boundary;

use super::log::offsets;
use super::{HistoryReport, Inspection, Repair, Severity, short};
use crate::error::{Error, Result};
use crate::history::position;
use crate::table::StoredTable;

impl Inspection<'_> {
    /// `history` is that of the view's source; without it, the boundary cannot be checked. Gives the boundary, if the
    /// table says one.
    pub(super) async fn batch_views(
        &mut self,
        view: &str,
        folder: Path,
        history: Option<&HistoryReport>,
    ) -> Result<Option<Boundary>> {
        let objects = self.objects_in(&folder);
        let place = self.store.path(&folder);
        let repair = Some(Repair::DropBatchViews { view: view.to_owned(), folder: folder.clone() });
        let action = "repair it: the batch views are deleted and built again from the history";
        let table = match StoredTable::open_existing(self.store, folder.clone()).await {
            Ok(table) => table,
            Err(error) if error.is_lasting() => {
                let repair = repair.filter(|_| matches!(error, Error::Corrupt { .. }));
                self.find(Severity::Error, short(&error), place, action, repair);
                return Ok(None);
            }
            Err(error) => return Err(error),
        };
        self.table_log(&table, &objects).await?;
        let snapshot = table.known();
        self.format(format!("batch views in {folder}"), table.format_version());
        let (damaged, unverified) = self.data_files(&snapshot).await?;
        if unverified > 0 {
            let what = format!(
                "{unverified} files were written before files had checksums, so only their footers were checked"
            );
            self.find(Severity::Note, what, &place, "nothing: the next batch run replaces them", None);
        }
        for damage in damaged {
            self.find(Severity::Error, damage.what, &damage.file.path, action, repair.clone());
        }
        let boundary = position(&snapshot, 0);
        if let Some(history) = history {
            if let Some(what) = boundary_fault(&offsets(&boundary), history) {
                self.find(Severity::Error, what, &place, action, repair);
            }
        } else {
            let what = "no definition uses these batch views";
            let action = "nothing, or delete the folder if the definition will not come back";
            self.find(Severity::Note, what, &place, action, None);
        }
        self.orphans(&folder, &objects, &snapshot);
        Ok(Some(Boundary(boundary)))
    }
}

/// A boundary must be a cut of the history: where one of its versions ended.
fn boundary_fault(boundary: &[u64], history: &HistoryReport) -> Option<String> {
    let end = offsets(history.end.as_ref()?);
    let covers = |a: &[u64], b: &[u64]| b.iter().enumerate().all(|(index, b)| a.get(index).unwrap_or(&0) >= b);
    if !covers(&end, boundary) {
        return Some(format!("its boundary {boundary:?} lies beyond the history's end {end:?}"));
    }
    let oldest_cut = history.log.cuts.iter().next();
    let is_known = history.log.is_complete || oldest_cut.is_some_and(|oldest| covers(boundary, oldest));
    (is_known && !history.log.cuts.contains(boundary)).then(|| {
        format!("its boundary {boundary:?} is no cut of the history: events would be counted twice or not at all")
    })
}
