//! Looks at everything in a store while no platform has it open, and says what is wrong and what can be done about it.
//!
//! Nothing here changes a store but [`repair`], which only deletes what can be made again: batch views and checkpoints
//! from the history, the catalog from the definitions, and files that nobody names.

mod files;
mod history;
mod log;
mod view;

use std::collections::BTreeMap;
use std::fmt;

use object_store::ObjectMeta;
use object_store::path::Path;
use serde::Serialize;
use watershed_shared::position::Boundary;

use crate::catalog::Catalog;
use crate::error::{Error, Result};
use crate::layout;
use crate::store::Store;

pub use history::HistoryReport;

/// How bad a finding is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Severity {
    /// Worth knowing, and no fault.
    Note,
    /// The platform works, but something should be done.
    Warning,
    /// Something cannot be answered or started.
    Error,
}

/// Something that was found.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// How bad it is.
    pub severity: Severity,
    /// What is wrong, in a sentence without its place.
    pub what: String,
    /// Where: a path in the store, or another name that an operator finds.
    pub place: String,
    /// What to do.
    pub action: String,
    /// How it can be repaired here, if it can.
    #[serde(skip)]
    pub repair: Option<Repair>,
}

/// A way to repair a finding. Every way deletes only what can be made again.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Repair {
    /// Delete objects that nothing needs, or that the next start makes again.
    Delete(Vec<Path>),
    /// Delete the batch views of a view's definition and let the next start build them from the history.
    DropBatchViews {
        /// Name of the view.
        view: String,
        /// Folder of the definition, relative to the store's root.
        folder: Path,
    },
}

/// Which version of its form a stored thing has.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct FormatVersion {
    /// The stored thing.
    pub what: String,
    /// Its version.
    pub version: String,
}

/// Called with the bytes that have been read, as they are.
pub type Progress<'a> = &'a (dyn Fn(u64) + Send + Sync);

/// A store under inspection.
pub struct Inspection<'a> {
    store: &'a Store,
    objects: Vec<ObjectMeta>,
    progress: Progress<'a>,
    findings: Vec<Finding>,
    formats: Vec<FormatVersion>,
}

impl<'a> Inspection<'a> {
    /// Lists everything in the store.
    ///
    /// # Errors
    /// `Retryable` when the store refuses.
    pub async fn start(store: &'a Store, progress: Progress<'a>) -> Result<Inspection<'a>> {
        let objects = store.list(&store.path(&Path::default())).await?;
        Ok(Inspection { store, objects, progress, findings: Vec::new(), formats: Vec::new() })
    }

    /// Size of everything in the store.
    pub fn bytes(&self) -> u64 {
        self.objects.iter().map(|object| object.size).sum()
    }

    /// The catalog; `None` when it is damaged.
    ///
    /// # Errors
    /// `Retryable` when the store refuses.
    pub async fn catalog(&mut self) -> Result<Option<Catalog>> {
        let path = self.store.path(&layout::catalog());
        if !self.objects.iter().any(|object| object.location == path) {
            return Ok(Some(Catalog::load(self.store).await?));
        }
        match Catalog::load(self.store).await {
            Ok(catalog) => {
                self.format("catalog", catalog.format_version());
                Ok(Some(catalog))
            }
            Err(error) if error.is_lasting() => {
                let repair = matches!(error, Error::Corrupt { .. }).then(|| Repair::Delete(vec![path.clone()]));
                let action = "repair it: it is deleted, and the next start makes it again from the project; a view whose \
                              definition is being changed has no answer until it is built";
                self.find(Severity::Error, short(&error), path, action, repair);
                Ok(None)
            }
            Err(error) => Err(error),
        }
    }

    /// Checks the histories of all sources that the store has, by the sources' names.
    ///
    /// # Errors
    /// `Retryable` when the store refuses.
    pub async fn histories(&mut self) -> Result<BTreeMap<String, HistoryReport>> {
        let mut histories = BTreeMap::new();
        for folder in self.folders("history", 1) {
            let source = folder.filename().and_then(layout::name_of).unwrap_or_default();
            let report = self.history(&source, folder).await?;
            histories.insert(source, report);
        }
        Ok(histories)
    }

    /// Checks the batch views of all definitions that the store has. `sources` says which source each definition reads,
    /// by the names of their folders; `histories` says what there is of the sources. Gives the boundary of each definition
    /// whose batch view can be told, `None` for one that cannot.
    ///
    /// # Errors
    /// `Retryable` when the store refuses.
    pub async fn views(
        &mut self,
        used: &BTreeMap<(String, String), String>,
        histories: &BTreeMap<String, HistoryReport>,
    ) -> Result<BTreeMap<(String, String), Option<Boundary>>> {
        let mut boundaries = BTreeMap::new();
        for folder in self.folders("views", 2) {
            let mut parts = folder.parts().skip(1);
            let mut name = || parts.next().and_then(|part| layout::name_of(part.as_ref())).unwrap_or_default();
            let (view, definition) = (name(), name());
            let key = (view.clone(), definition);
            let history = used.get(&key).and_then(|source| histories.get(source));
            boundaries.insert(key, self.batch_views(&view, folder, history).await?);
        }
        Ok(boundaries)
    }

    /// What was found, the worst first, and the versions of everything.
    pub fn finish(mut self) -> (Vec<Finding>, Vec<FormatVersion>) {
        self.findings.sort_by_key(|finding| std::cmp::Reverse(finding.severity));
        (self.findings, self.formats)
    }

    /// The folders `depth` levels below the folder `top`, relative to the store's root.
    fn folders(&self, top: &str, depth: usize) -> Vec<Path> {
        let root = self.store.path(&Path::default());
        let folder = |object: &ObjectMeta| {
            let parts: Vec<_> = object.location.prefix_match(&root)?.collect();
            let is_inside = parts.len() > depth + 1 && parts.first().is_some_and(|part| part.as_ref() == top);
            is_inside.then(|| parts.into_iter().take(depth + 1).collect::<Path>())
        };
        let mut folders: Vec<Path> = self.objects.iter().filter_map(folder).collect();
        folders.sort();
        folders.dedup();
        folders
    }

    /// The objects in a folder, by their names in it.
    fn objects_in(&self, folder: &Path) -> BTreeMap<String, ObjectMeta> {
        let folder = self.store.path(folder);
        let named = |object: &ObjectMeta| {
            let name: Path = object.location.prefix_match(&folder)?.collect();
            Some((name.to_string(), object.clone()))
        };
        self.objects.iter().filter_map(named).collect()
    }

    fn find(
        &mut self,
        severity: Severity,
        what: impl Into<String>,
        place: impl fmt::Display,
        action: impl Into<String>,
        repair: Option<Repair>,
    ) {
        let (what, place, action) = (what.into(), place.to_string(), action.into());
        self.findings.push(Finding { severity, what, place, action, repair });
    }

    fn format(&mut self, what: impl fmt::Display, version: impl fmt::Display) {
        self.formats.push(FormatVersion { what: what.to_string(), version: version.to_string() });
    }
}

impl fmt::Debug for Inspection<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Inspection").field("findings", &self.findings).finish_non_exhaustive()
    }
}

impl Repair {
    /// What the repair does, in a sentence that a person can agree to.
    pub fn describe(&self) -> String {
        match self {
            Repair::Delete(paths) if paths.len() == 1 => format!("delete {}", paths[0]),
            Repair::Delete(paths) => format!("delete {} files, the first is {}", paths.len(), paths[0]),
            Repair::DropBatchViews { view, folder } => {
                format!("delete {folder}, the batch views of \"{view}\"; the next start builds them from the history")
            }
        }
    }
}

/// Carries out a repair.
///
/// # Errors
/// `Retryable` when the store refuses; the repair can be repeated. `Corrupt` when the catalog is damaged, which must be
/// repaired first.
pub async fn repair(store: &Store, repair: &Repair) -> Result<()> {
    match repair {
        Repair::Delete(paths) => store.delete(paths.iter().cloned()).await,
        Repair::DropBatchViews { view, folder } => {
            // Without its entry the view is built behind the scenes before it answers, as a new one is.
            Catalog::load(store).await?.retain(|name| name != view).await?;
            store.delete_folder(folder).await
        }
    }
}

/// What is wrong, without the advice that errors carry.
fn short(error: &Error) -> String {
    match error {
        Error::Corrupt { reason, .. } => reason.clone(),
        Error::NewerFormat { found, known, .. } => {
            format!("it has format version {found}; this version of watershed knows those up to {known}")
        }
        error => crate::error::with_causes(error),
    }
}
