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

use crate::error::{Error, Result};
use crate::layout;
use crate::store::Store;

/// Version of the stored form.
const FORMAT_VERSION: u32 = 1;

/// The active definition of each view.
#[derive(Debug)]
pub struct Catalog {
    objects: Arc<dyn ObjectStore>,
    path: Path,
    views: BTreeMap<String, ActiveDefinition>,
}

/// A definition that answers.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ActiveDefinition {
    /// Identity of the definition.
    pub definition_id: String,
    /// Its CREATE MATERIALIZED VIEW statement.
    pub sql: String,
}

#[derive(Serialize, Deserialize)]
struct StoredCatalog {
    format_version: u32,
    views: BTreeMap<String, ActiveDefinition>,
}

impl Catalog {
    /// Reads a store's catalog; an empty one if there is none.
    ///
    /// # Errors
    /// `Corrupt` when it does not parse or is of a later version; `Retryable` when the store refuses.
    pub async fn load(store: &Store) -> Result<Catalog> {
        let path = store.path(&layout::catalog());
        let objects = Arc::clone(store.objects());
        let corrupt = |reason: String| Error::Corrupt { what: path.to_string(), reason };
        let bytes = match objects.get(&path).await {
            Ok(found) => found.bytes().await.map_err(|source| store_error("read", &path, source))?,
            Err(object_store::Error::NotFound { .. }) => return Ok(Catalog { objects, path, views: BTreeMap::new() }),
            Err(source) => return Err(store_error("read", &path, source)),
        };
        let stored: StoredCatalog = serde_json::from_slice(&bytes).map_err(|error| corrupt(error.to_string()))?;
        if stored.format_version != FORMAT_VERSION {
            return Err(corrupt(format!("it has format version {}, not {FORMAT_VERSION}", stored.format_version)));
        }
        Ok(Catalog { objects, path, views: stored.views })
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
        let stored = StoredCatalog { format_version: FORMAT_VERSION, views };
        let bytes = serde_json::to_vec_pretty(&stored)
            .map_err(|error| Error::Corrupt { what: self.path.to_string(), reason: error.to_string() })?;
        let put = self.objects.put(&self.path, Bytes::from(bytes).into()).await;
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
}
