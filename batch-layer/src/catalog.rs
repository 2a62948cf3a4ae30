//! Which definition of each view answers: the one thing that must survive a restart and is in no table.
//!
//! A view whose definition has changed in the project keeps answering by its old definition until the new one has a batch
//! view; so the old definition's text is kept here. One process writes it.

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;
use object_store::path::Path;
use object_store::{ObjectStore, ObjectStoreExt};
use serde::{Deserialize, Serialize};
use watershed_shared::fault;

use crate::checksum::{to_hex, xxh64};
use crate::error::{Error, Result};
use crate::layout;
use crate::store::{Store, is_staged};

/// Version of the stored form. Version 1 had no checksum.
const FORMAT_VERSION: u32 = 2;
/// The first version with a checksum.
const CHECKSUM_FORMAT_VERSION: u32 = 2;

/// The active definition of each view.
#[derive(Debug)]
pub struct Catalog {
    objects: Arc<dyn ObjectStore>,
    path: Path,
    views: BTreeMap<String, ActiveDefinition>,
    /// Version of the form in which it was read.
    format_version: u32,
}

/// A definition that answers.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ActiveDefinition {
    /// Identity of the definition.
    pub definition_id: String,
    /// Its CREATE MATERIALIZED VIEW statement.
    pub sql: String,
}

/// What every version of the stored form has.
#[derive(Deserialize)]
struct FormatVersion {
    format_version: u32,
}

#[derive(Serialize, Deserialize)]
struct StoredCatalog {
    format_version: u32,
    /// xxh64 of the views in the form that [`StoredCatalog::checksum`] gives them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    checksum: Option<String>,
    views: BTreeMap<String, ActiveDefinition>,
}

impl StoredCatalog {
    /// The checksum of the names and definitions, each with its length, whatever the file's white space.
    fn checksum(views: &BTreeMap<String, ActiveDefinition>) -> String {
        let texts = views.iter().flat_map(|(name, view)| [name, &view.definition_id, &view.sql]);
        let pieces: Vec<u8> =
            texts.flat_map(|text| [&(text.len() as u64).to_le_bytes(), text.as_bytes()].concat()).collect();
        to_hex(xxh64(&pieces))
    }

    /// Says what is wrong with a catalog as it was read.
    fn damage(&self) -> Option<String> {
        let found = StoredCatalog::checksum(&self.views);
        match &self.checksum {
            Some(expected) if *expected == found => None,
            Some(expected) => Some(format!("its views have the checksum {found}, but {expected} was written")),
            None if self.format_version < CHECKSUM_FORMAT_VERSION => None,
            None => Some("its checksum is missing".to_owned()),
        }
    }
}

impl Catalog {
    /// Reads a store's catalog; an empty one if there is none. Deletes what a crash has left of a write.
    ///
    /// # Errors
    /// `Corrupt` when it is not as it was written; `Invalid` when it is of a later version; `Retryable` when the store
    /// refuses.
    pub async fn load(store: &Store) -> Result<Catalog> {
        let path = store.path(&layout::catalog());
        let objects = Arc::clone(store.objects());
        let beside = store.list(&path.parent().unwrap_or_default()).await?.into_iter().map(|object| object.location);
        store.delete(beside.filter(is_staged)).await?;
        let corrupt = |reason: String| Error::Corrupt { what: path.to_string(), reason };
        let bytes = match objects.get(&path).await {
            Ok(found) => found.bytes().await.map_err(|source| store_error("read", &path, source))?,
            Err(object_store::Error::NotFound { .. }) => {
                return Ok(Catalog { objects, path, views: BTreeMap::new(), format_version: FORMAT_VERSION });
            }
            Err(source) => return Err(store_error("read", &path, source)),
        };
        let version: FormatVersion = serde_json::from_slice(&bytes).map_err(|error| corrupt(error.to_string()))?;
        if version.format_version > FORMAT_VERSION {
            let (found, known) = (version.format_version, FORMAT_VERSION);
            return Err(Error::NewerFormat { what: path.to_string(), found, known });
        }
        let stored: StoredCatalog = serde_json::from_slice(&bytes).map_err(|error| corrupt(error.to_string()))?;
        if let Some(reason) = stored.damage() {
            return Err(corrupt(reason));
        }
        Ok(Catalog { objects, path, views: stored.views, format_version: stored.format_version })
    }

    /// Version of the form in which it was read; it is always written in the newest.
    pub fn format_version(&self) -> u32 {
        self.format_version
    }

    /// The active definition of every view, by name.
    pub fn definitions(&self) -> &BTreeMap<String, ActiveDefinition> {
        &self.views
    }

    /// The active definition of a view.
    pub fn active(&self, view: &str) -> Option<&ActiveDefinition> {
        self.views.get(view)
    }

    /// Makes a definition the active one of its view; returns when that is durable. On an error nothing has changed.
    pub async fn activate(&mut self, view: &str, definition: ActiveDefinition) -> Result<()> {
        let mut views = self.views.clone();
        views.insert(view.to_owned(), definition);
        self.store(views).await
    }

    /// Forgets the views for which `keep` is false; returns their names. On an error nothing has changed.
    pub async fn retain(&mut self, keep: impl Fn(&str) -> bool) -> Result<Vec<String>> {
        let (kept, dropped): (BTreeMap<_, _>, BTreeMap<_, _>) =
            self.views.clone().into_iter().partition(|(name, _)| keep(name));
        if !dropped.is_empty() {
            self.store(kept).await?;
        }
        Ok(dropped.into_keys().collect())
    }

    async fn store(&mut self, views: BTreeMap<String, ActiveDefinition>) -> Result<()> {
        let checksum = Some(StoredCatalog::checksum(&views));
        let stored = StoredCatalog { format_version: FORMAT_VERSION, checksum, views };
        let bytes = serde_json::to_vec_pretty(&stored)
            .map_err(|error| Error::Corrupt { what: self.path.to_string(), reason: error.to_string() })?;
        fault::point("catalog.before_write");
        let put = self.objects.put(&self.path, Bytes::from(bytes).into()).await;
        fault::point("catalog.after_write");
        put.map_err(|source| store_error("write", &self.path, source))?;
        self.views = stored.views;
        Ok(())
    }
}

fn store_error(action: &'static str, path: &Path, source: object_store::Error) -> Error {
    Error::Store { action, path: path.to_string(), source }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::test_support::TempFolder;

    #[tokio::test]
    async fn the_active_definition_survives_a_restart_and_dropped_views_do_not() -> Result<()> {
        let store = Store::in_memory()?;
        let definition = ActiveDefinition { definition_id: "1f".into(), sql: "CREATE ...".into() };
        let mut catalog = Catalog::load(&store).await?;
        assert_eq!(catalog.active("v"), None);
        catalog.activate("v", definition.clone()).await?;
        catalog.activate("w", definition.clone()).await?;
        assert_eq!(catalog.retain(|name| name == "v").await?, ["w"]);
        let catalog = Catalog::load(&store).await?;
        assert_eq!(catalog.active("v"), Some(&definition));
        assert_eq!(catalog.active("w"), None);
        Ok(())
    }

    #[tokio::test]
    async fn a_changed_catalog_is_refused_and_one_of_version_1_is_read() -> Result<()> {
        let store = Store::in_memory()?;
        let path = store.path(&layout::catalog());
        let mut catalog = Catalog::load(&store).await?;
        catalog.activate("v", ActiveDefinition { definition_id: "1f".into(), sql: "CREATE \"x\"".into() }).await?;
        let written = store.objects().get(&path).await.map(|found| found.bytes());
        let written = written.map_err(|source| store_error("read", &path, source))?.await.unwrap_or_default();
        for bit in 0..written.len() * 8 {
            let mut changed = written.to_vec();
            changed[bit / 8] ^= 1 << (bit % 8);
            store.put(&path, changed.into()).await?;
            match Catalog::load(&store).await {
                Ok(loaded) => assert_eq!(loaded.views, catalog.views, "bit {bit}"),
                Err(Error::Corrupt { .. } | Error::NewerFormat { .. }) => {}
                Err(error) => unreachable!("bit {bit}: {error}"),
            }
        }
        let old = br#"{"format_version": 1, "views": {"v": {"definition_id": "1f", "sql": "S"}}}"#;
        store.put(&path, Bytes::from_static(old)).await?;
        assert_eq!(Catalog::load(&store).await?.active("v").map(|view| view.sql.as_str()), Some("S"));
        store.put(&path, Bytes::from_static(br#"{"format_version": 3, "sources": {}}"#)).await?;
        let newer = Catalog::load(&store).await;
        assert!(matches!(&newer, Err(Error::NewerFormat { found: 3, known: 2, .. })), "{newer:?}");
        Ok(())
    }

    #[tokio::test]
    async fn what_a_crash_left_of_a_write_is_deleted() -> Result<()> {
        let folder = TempFolder::new();
        let store = Store::open(folder.path())?;
        let definition = ActiveDefinition { definition_id: "1f".into(), sql: "CREATE ...".into() };
        let mut catalog = Catalog::load(&store).await?;
        catalog.activate("v", definition.clone()).await?;
        let half = Path::from(format!("{}.staged-0123", catalog.path));
        store.put(&half, Bytes::from_static(b"{")).await?;
        assert_eq!(Catalog::load(&store).await?.active("v"), Some(&definition));
        let left = store.list(&store.path(&Path::from("catalog"))).await?;
        assert_eq!(left.iter().map(|object| &object.location).collect::<Vec<_>>(), [&catalog.path]);
        Ok(())
    }
}
