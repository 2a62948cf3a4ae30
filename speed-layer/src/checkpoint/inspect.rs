//! What checkpoints hold, looked at while no platform has them open and without the plans of their views.

use std::collections::{BTreeMap, BTreeSet};

use futures::TryStreamExt;
use object_store::path::Path;
use object_store::{ObjectMeta, ObjectStore};
use watershed_shared::position::{Boundary, Position};

use super::manifest::Manifest;
use super::run_file::StoredFile;
use super::{
    CheckpointError, CheckpointStore, Result, delete_all_but, folder, manifest_path, read_manifest, run_path,
    store_error,
};

/// The checkpoint of one definition of a view.
#[derive(Debug)]
pub struct CheckpointReport {
    /// Its folder's path in that of all checkpoints.
    pub folder: String,
    /// What is not as it was written; a start does not use the checkpoint then.
    pub damages: Vec<CheckpointError>,
    /// Number of files that the manifest does not name, and their size in bytes; the next start deletes them.
    pub unnamed: (usize, u64),
    manifest: Manifest,
}

impl CheckpointStore {
    /// Reads the checkpoints of all definitions and checks every byte; `progress` hears how many are read.
    ///
    /// # Errors
    /// `Store`.
    pub async fn inspect(&self, progress: &(dyn Fn(u64) + Send + Sync)) -> Result<Vec<CheckpointReport>> {
        let listed = self.objects.list(None).try_collect::<Vec<ObjectMeta>>().await;
        let listed = listed.map_err(|source| store_error("list", &Path::default(), source))?;
        let mut definitions: BTreeMap<Path, Vec<ObjectMeta>> = BTreeMap::new();
        for object in listed {
            definitions.entry(object.location.parts().take(2).collect()).or_default().push(object);
        }
        let mut reports = Vec::new();
        for (folder, objects) in definitions {
            reports.push(self.report(folder, &objects, progress).await?);
        }
        Ok(reports)
    }

    /// Deletes the checkpoint in a [`CheckpointReport::folder`]; the next start computes what it held.
    ///
    /// # Errors
    /// `Store`; some of it may be gone then.
    pub async fn remove(&self, folder: &str) -> Result<()> {
        let failed = |error: object_store::path::Error| store_error("delete", &Path::from(folder), error.into());
        delete_all_but(&self.objects, Some(&Path::parse(folder).map_err(failed)?), |_| false).await
    }

    async fn report(
        &self,
        folder: Path,
        objects: &[ObjectMeta],
        progress: &(dyn Fn(u64) + Send + Sync),
    ) -> Result<CheckpointReport> {
        let mut damages = Vec::new();
        let manifest = match read_manifest(&self.objects, &folder).await {
            Ok(manifest) => manifest.unwrap_or_default(),
            Err(damage @ CheckpointError::Damaged { .. }) => {
                damages.push(damage);
                Manifest::default()
            }
            Err(error) => return Err(error),
        };
        let mut named = BTreeSet::from([manifest_path(&folder)]);
        for stored in manifest.segments.iter().flat_map(|segment| &segment.runs) {
            let path = run_path(&folder, stored.id);
            let file = StoredFile { objects: self.objects.clone(), path: path.clone(), stored: stored.clone() };
            match file.check(progress).await {
                Ok(()) => {}
                Err(damage @ CheckpointError::Damaged { .. }) => damages.push(damage),
                Err(error) => return Err(error),
            }
            named.insert(path);
        }
        let unnamed = objects.iter().filter(|object| !named.contains(&object.location));
        let unnamed = unnamed.fold((0, 0), |(files, bytes), object| (files + 1, bytes + object.size));
        Ok(CheckpointReport { folder: folder.to_string(), damages, unnamed, manifest })
    }
}

impl CheckpointReport {
    /// Whether it is that of a view's definition, by the name of the definition's folder.
    pub fn is_of(&self, view: &str, definition: &str) -> bool {
        self.folder == folder(view, definition).as_ref()
    }

    /// Whether a start can use it for a realtime view that begins at `boundary`: its segments have no gap, and one of them
    /// begins there, unless all lie below.
    pub fn fits(&self, boundary: &Boundary) -> bool {
        self.manifest.fits(boundary)
    }

    /// Where the newest segment ends, if there is one.
    pub fn end(&self) -> Option<&Position> {
        self.manifest.segments.last().map(|segment| &segment.end)
    }
}
