//! A copy on disk of what realtime views hold in closed segments, so that a restart does not compute it again.
//!
//! The copy mirrors memory: each run is a file that is written once, a manifest names the runs of each segment, and runs
//! that no segment names any more are deleted. Because runs are merged with others of like sizes, a state row is written
//! about log(rows) times.
//!
//! | object | content |
//! |---|---|
//! | `{view}/{definition}/manifest` | see `manifest` |
//! | `{view}/{definition}/{run}.arrow` | the run's states, an Arrow IPC stream |
//!
//! A run that is here need not be in memory as well: when realtime views outgrow their memory, queries read the largest
//! runs from their files.
//!
//! Nothing here is the only copy of anything: log and history hold the events. So nothing is fsynced, and whatever is
//! missing, torn or damaged is found by its checksum and computed again.

mod inspect;
mod manifest;
mod run_file;

use std::collections::BTreeMap;
use std::path::Path as FilePath;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use arrow::datatypes::SchemaRef;
use futures::{StreamExt, TryStreamExt};
use object_store::local::LocalFileSystem;
use object_store::memory::InMemory;
use object_store::path::Path;
use object_store::{ObjectStore, ObjectStoreExt, PutPayload};
use watershed_shared::fault;
use watershed_shared::position::Boundary;

pub use self::inspect::CheckpointReport;
use self::manifest::{Manifest, StoredRun, StoredSegment};
pub(crate) use self::run_file::RunFile;
use crate::segment::{Run, Segment};

/// Runs that are read or written at once.
const CONCURRENT_FILES: usize = 4;

/// Why a checkpoint could not be written or read. A view that meets it is computed from history and log instead.
#[derive(Debug, thiserror::Error)]
pub enum CheckpointError {
    /// A file is not what was written.
    #[error("the realtime checkpoint's file \"{path}\" is damaged: {reason}")]
    Damaged {
        /// Path in the checkpoints' folder.
        path: String,
        /// How the damage shows.
        reason: String,
    },
    /// The store refused.
    #[error("cannot {action} the realtime checkpoint's file \"{path}\"")]
    Store {
        /// What was tried, as a verb.
        action: &'static str,
        /// Path in the checkpoints' folder.
        path: String,
        /// The store's own words.
        #[source]
        source: object_store::Error,
    },
    /// The folder cannot be used.
    #[error("cannot use the folder of realtime checkpoints \"{folder}\"")]
    Folder {
        /// The folder.
        folder: String,
        /// The system's own words.
        #[source]
        source: std::io::Error,
    },
    /// States could not be turned into a file.
    #[error("cannot encode a realtime checkpoint")]
    Encode(#[from] arrow::error::ArrowError),
}

type Result<T, E = CheckpointError> = std::result::Result<T, E>;

/// The checkpoints of all views of one platform.
#[derive(Debug, Clone)]
pub struct CheckpointStore {
    objects: Arc<dyn ObjectStore>,
}

impl CheckpointStore {
    /// Checkpoints in a local folder, which is made if it is not there.
    ///
    /// # Errors
    /// `Folder` when the folder cannot be made or entered.
    pub fn open(folder: &FilePath) -> Result<CheckpointStore> {
        let failed = |source| CheckpointError::Folder { folder: folder.display().to_string(), source };
        std::fs::create_dir_all(folder).map_err(failed)?;
        let objects = LocalFileSystem::new_with_prefix(folder).map_err(|error| failed(std::io::Error::other(error)))?;
        Ok(CheckpointStore::new(Arc::new(objects.with_automatic_cleanup(true))))
    }

    /// Checkpoints in memory; they live as long as the store's clones.
    pub fn in_memory() -> CheckpointStore {
        CheckpointStore::new(Arc::new(InMemory::new()))
    }

    /// Checkpoints in an object store of the caller's.
    pub fn new(objects: Arc<dyn ObjectStore>) -> CheckpointStore {
        CheckpointStore { objects }
    }

    /// The checkpoint of one definition of a view, whose states have `schema`.
    pub fn of(&self, view: &str, definition: &str, schema: &SchemaRef) -> Checkpoint {
        Checkpoint {
            objects: Arc::clone(&self.objects),
            folder: folder(view, definition),
            schema: Arc::clone(schema),
            files: Mutex::default(),
            unnamed: Mutex::default(),
        }
    }

    /// Deletes the checkpoints of all views and definitions but `kept`.
    ///
    /// # Errors
    /// `Store`; some may be gone then.
    pub async fn retain(&self, kept: &[(String, String)]) -> Result<()> {
        let kept: Vec<Path> = kept.iter().map(|(view, definition)| folder(view, definition)).collect();
        delete_all_but(&self.objects, None, |path| kept.iter().any(|folder| path.prefix_matches(folder))).await
    }
}

/// The checkpoint of one view definition. Used by one task at a time.
#[derive(Debug)]
pub struct Checkpoint {
    objects: Arc<dyn ObjectStore>,
    folder: Path,
    schema: SchemaRef,
    /// The files that the manifest names, by the numbers of their runs.
    files: Mutex<BTreeMap<u64, RunFile>>,
    /// Files that the manifest has ceased to name; they go when no query reads them.
    unnamed: Mutex<Vec<RunFile>>,
}

impl Checkpoint {
    /// Makes the checkpoint hold exactly `segments`, which are closed, in order and without gaps.
    ///
    /// # Errors
    /// `Store` or `Encode`; the checkpoint is then as before, or holds nothing.
    pub async fn save(&self, segments: &[Segment]) -> Result<()> {
        let known = self.files().clone();
        let new: Vec<Run> = segments.iter().flat_map(|segment| &segment.runs).cloned().collect();
        let written = futures::stream::iter(new.into_iter().map(|run| self.keep(run, &known)));
        let files: BTreeMap<u64, RunFile> =
            written.buffer_unordered(CONCURRENT_FILES).map_ok(|file| (file.id(), file)).try_collect().await?;
        let stored = |segment: &Segment| StoredSegment {
            start: segment.start.clone(),
            end: segment.end.clone(),
            runs: segment.runs.iter().filter_map(|run| Some(files.get(&run.id)?.stored().clone())).collect(),
        };
        let manifest = Manifest::new(segments.iter().map(stored).collect());
        fault::point("checkpoint.before_manifest");
        let path = manifest_path(&self.folder);
        let put = self.objects.put(&path, PutPayload::from(manifest.to_bytes())).await;
        put.map_err(|source| store_error("write", &path, source))?;
        fault::point("checkpoint.before_cleanup");
        let unnamed = known.into_iter().filter(|(id, _)| !files.contains_key(id)).map(|(_, file)| file);
        lock(&self.unnamed).extend(unnamed);
        *self.files() = files;
        self.delete_unread().await
    }

    /// The stored segments from `boundary` on: in order, without gaps, the first one starting at it. Runs come into memory
    /// until they have `memory_bytes`, the smaller ones first; the others stay on disk. Files that the manifest does not
    /// name are deleted. Empty when there is no checkpoint, or none that starts at the boundary.
    ///
    /// # Errors
    /// `Damaged` or `Store`; the checkpoint can be written anew all the same.
    pub async fn load(&self, boundary: &Boundary, memory_bytes: usize) -> Result<Vec<Segment>> {
        let manifest = read_manifest(&self.objects, &self.folder)
            .await?
            .map(|manifest| manifest.starting_at(boundary))
            .unwrap_or_default();
        let named = manifest.segments.iter().flat_map(|segment| &segment.runs).map(|run| (run.id, self.file_of(run)));
        let files: BTreeMap<u64, RunFile> = named.collect();
        let manifest_path = manifest_path(&self.folder);
        let is_named = |path: &Path| *path == manifest_path || files.values().any(|file| file.path() == path);
        delete_all_but(&self.objects, Some(&self.folder), is_named).await?;

        let mut by_size: Vec<&RunFile> = files.values().collect();
        by_size.sort_by_key(|file| file.bytes());
        let mut bytes_left = memory_bytes;
        let reads = by_size.into_iter().map(|file| {
            let fits = file.bytes() <= bytes_left;
            bytes_left = if fits { bytes_left - file.bytes() } else { 0 };
            read_run(file.clone(), fits)
        });
        let reads = futures::stream::iter(reads.collect::<Vec<_>>());
        let runs: BTreeMap<u64, Run> =
            reads.buffer_unordered(CONCURRENT_FILES).map_ok(|run| (run.id, run)).try_collect().await?;
        let segment = |stored: StoredSegment| Segment {
            start: stored.start,
            end: stored.end,
            runs: stored.runs.iter().filter_map(|run| runs.get(&run.id).cloned()).collect(),
        };
        let segments = manifest.segments.into_iter().map(segment).collect();
        *self.files() = files;
        Ok(segments)
    }

    /// The file of a run, if the checkpoint holds it.
    pub(crate) fn file(&self, id: u64) -> Option<RunFile> {
        self.files().get(&id).cloned()
    }

    /// The file of a run, written if it is not there yet.
    async fn keep(&self, run: Run, known: &BTreeMap<u64, RunFile>) -> Result<RunFile> {
        match (known.get(&run.id), run.states()) {
            (None, Some(states)) => {
                RunFile::write(&self.objects, self.run_path(run.id), run.id, &self.schema, states).await
            }
            (Some(known), _) => Ok(known.clone()),
            // Only runs that the checkpoint holds are on disk alone.
            (None, None) => Err(damaged(&self.run_path(run.id), "the checkpoint has forgotten it".to_owned())),
        }
    }

    /// Deletes the files that the manifest has ceased to name, except those that queries may still read.
    async fn delete_unread(&self) -> Result<()> {
        let unread: Vec<RunFile> = lock(&self.unnamed).extract_if(.., |file| !file.is_shared()).collect();
        for file in unread {
            match self.objects.delete(file.path()).await {
                Ok(()) | Err(object_store::Error::NotFound { .. }) => {}
                Err(source) => return Err(store_error("delete", file.path(), source)),
            }
        }
        Ok(())
    }

    fn file_of(&self, stored: &StoredRun) -> RunFile {
        RunFile::new(&self.objects, self.run_path(stored.id), stored.clone(), &self.schema)
    }

    fn run_path(&self, id: u64) -> Path {
        run_path(&self.folder, id)
    }

    fn files(&self) -> MutexGuard<'_, BTreeMap<u64, RunFile>> {
        lock(&self.files)
    }
}

async fn read_run(file: RunFile, into_memory: bool) -> Result<Run> {
    match into_memory {
        true => Ok(Run::of(file.id(), file.read().await?)),
        false => {
            file.verify().await?;
            Ok(Run::stored(file))
        }
    }
}

/// A panic elsewhere leaves these collections whole: every change to them is a single call.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Views that are defined alike have checkpoints of their own.
fn folder(view: &str, definition: &str) -> Path {
    Path::from_iter([view, definition])
}

fn manifest_path(folder: &Path) -> Path {
    folder.clone().join("manifest")
}

fn run_path(folder: &Path, id: u64) -> Path {
    folder.clone().join(format!("{id}.arrow"))
}

async fn read_manifest(objects: &Arc<dyn ObjectStore>, folder: &Path) -> Result<Option<Manifest>> {
    let path = manifest_path(folder);
    let content = match objects.get(&path).await {
        Ok(found) => found.bytes().await.map_err(|source| store_error("read", &path, source))?,
        Err(object_store::Error::NotFound { .. }) => return Ok(None),
        Err(source) => return Err(store_error("read", &path, source)),
    };
    Manifest::from_bytes(&content).map(Some).map_err(|reason| damaged(&path, reason))
}

async fn delete_all_but(
    objects: &Arc<dyn ObjectStore>,
    folder: Option<&Path>,
    kept: impl Fn(&Path) -> bool,
) -> Result<()> {
    let listed: Vec<Path> = objects
        .list(folder)
        .map_ok(|object| object.location)
        .try_collect()
        .await
        .map_err(|source| store_error("list", folder.unwrap_or(&Path::default()), source))?;
    for path in listed.into_iter().filter(|path| !kept(path)) {
        match objects.delete(&path).await {
            Ok(()) | Err(object_store::Error::NotFound { .. }) => {}
            Err(source) => return Err(store_error("delete", &path, source)),
        }
    }
    Ok(())
}

fn store_error(action: &'static str, path: &Path, source: object_store::Error) -> CheckpointError {
    CheckpointError::Store { action, path: path.to_string(), source }
}

fn damaged(path: &Path, reason: String) -> CheckpointError {
    CheckpointError::Damaged { path: path.to_string(), reason }
}

#[cfg(test)]
mod tests;
