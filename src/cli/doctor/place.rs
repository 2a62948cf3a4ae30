//! Where the things are that are to be checked.

use std::path::{Path, PathBuf};

use anyhow::{Result, bail};
use watershed::project::Project;
use watershed_batch_layer::Store;

/// A data folder, and the project that it belongs to, if that is known.
#[derive(Debug)]
pub(super) struct Place {
    pub(super) project: Option<Project>,
    pub(super) data: PathBuf,
    /// Folder or URL of histories and batch views.
    pub(super) store: String,
}

impl Place {
    /// Takes a folder for a project if it has a `watershed.toml`, and for a data folder if it has a log or a store.
    pub(super) fn find(folder: &Path, data: Option<PathBuf>) -> Result<Place> {
        let has = |name: &str| folder.join(name).exists();
        let (project, data) = if has("watershed.toml") {
            let project = Project::read(folder)?;
            let data = data.unwrap_or_else(|| project.data());
            (Some(project), data)
        } else if has("log") || has("store") {
            if data.is_some() {
                bail!("--data goes with a project's folder, but \"{}\" has no watershed.toml", folder.display());
            }
            (None, folder.to_owned())
        } else {
            bail!(
                "\"{}\" is neither a project (it has no watershed.toml) nor a data folder (it has no \"log\" and no \"store\")",
                folder.display()
            );
        };
        let configured = project.as_ref().and_then(|project| project.config.store.clone());
        let store = configured.unwrap_or_else(|| data.join("store").to_string_lossy().into_owned());
        Ok(Place { project, data, store })
    }

    /// Folder of the log.
    pub(super) fn log(&self) -> PathBuf {
        self.data.join("log")
    }

    /// Folder of the realtime checkpoints.
    pub(super) fn realtime(&self) -> PathBuf {
        self.data.join("realtime")
    }

    /// The store; `None` when it is a folder that is not there.
    pub(super) fn open_store(&self) -> Result<Option<Store>> {
        let is_missing = !self.store.contains("://") && !Path::new(&self.store).is_dir();
        Ok(if is_missing { None } else { Some(Store::open(&self.store)?) })
    }
}
