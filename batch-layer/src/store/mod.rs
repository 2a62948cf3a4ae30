//! The place that holds history and batch views: a local folder, a folder in memory, or any `object_store` URL.
//!
//! Histories and views of one platform share one [`Store`]; `layout` gives every table a folder in it. Cloned stores
//! are the same place, so a table closed and opened again on a clone of an in-memory store finds its data.

mod durable;

use std::sync::Arc;

use bytes::Bytes;
use datafusion::execution::object_store::ObjectStoreUrl;
use datafusion::execution::runtime_env::RuntimeEnv;
use futures::{StreamExt, TryStreamExt};
use object_store::memory::InMemory;
use object_store::path::Path;
use object_store::{ObjectMeta, ObjectStore, ObjectStoreExt, ObjectStoreScheme, WriteMultipart};
use url::Url;
use uuid::Uuid;
use watershed_shared::fault;
use watershed_shared::folder::create_folder;

use crate::error::{Error, Result};
use durable::DurableFileSystem;

pub(crate) use durable::is_staged;

/// Remote stores get files in parts of this size: a part that fails is sent again alone.
const UPLOAD_PART_BYTES: usize = 16 << 20;

/// A root folder for tables, and the object store that holds it.
#[derive(Debug, Clone)]
pub struct Store {
    objects: Arc<dyn ObjectStore>,
    /// The root folder's URL; ends with a slash.
    url: Url,
    /// The root folder's path in `objects`.
    root: Path,
    /// What `objects` is called in DataFusion plans.
    objects_url: ObjectStoreUrl,
}

impl Store {
    /// Opens the store at `location`: a folder's path, which is created if it does not exist, or a URL.
    ///
    /// # Errors
    /// `Invalid` when the location is no URL that this build supports or its folder cannot be created.
    pub fn open(location: &str) -> Result<Store> {
        let invalid = |reason: String| Error::InvalidLocation { location: location.to_owned(), reason };
        let url = match location.contains("://") {
            true => Url::parse(location).map_err(|error| invalid(error.to_string()))?,
            false => {
                let folder = std::path::absolute(location).map_err(|error| invalid(error.to_string()))?;
                Url::from_directory_path(folder).map_err(|()| invalid("it is not a folder's path".to_owned()))?
            }
        };
        let (scheme, _) = ObjectStoreScheme::parse(&url).map_err(|error| invalid(error.to_string()))?;
        let objects: Arc<dyn ObjectStore> = match scheme {
            ObjectStoreScheme::Memory => Arc::new(InMemory::new()),
            ObjectStoreScheme::Local => {
                let folder = url.to_file_path().map_err(|()| invalid("it is not a folder's path".to_owned()))?;
                create_folder(&folder).map_err(|error| invalid(error.to_string()))?;
                Arc::new(DurableFileSystem::new())
            }
            _ => {
                let options = std::env::vars().map(|(key, value)| (key.to_ascii_lowercase(), value));
                let (objects, _) =
                    object_store::parse_url_opts(&url, options).map_err(|error| invalid(error.to_string()))?;
                Arc::from(objects)
            }
        };
        Store::new(objects, &url)
    }

    /// A store in memory, empty; lives as long as its clones.
    pub fn in_memory() -> Result<Store> {
        Store::open("memory:///")
    }

    /// The store at `url` in an object store of the caller's, whose root is the root of the URL's scheme and host.
    ///
    /// # Errors
    /// `Invalid` when the URL cannot name a folder.
    pub fn new(objects: Arc<dyn ObjectStore>, url: &Url) -> Result<Store> {
        let invalid = |reason: String| Error::InvalidLocation { location: url.to_string(), reason };
        let mut url = url.clone();
        if !url.path().ends_with('/') {
            url.set_path(&format!("{}/", url.path()));
        }
        let root = Path::from_url_path(url.path()).map_err(|error| invalid(error.to_string()))?;
        // Stores in memory have no host to tell them apart in a runtime that several of them share.
        let objects_url = match url.scheme() {
            "memory" => format!("memory://{}", Uuid::new_v4()),
            _ => url[..url::Position::BeforePath].to_owned(),
        };
        let objects_url = ObjectStoreUrl::parse(objects_url).map_err(|error| invalid(error.to_string()))?;
        Ok(Store { objects, url, root, objects_url })
    }

    /// The root folder, if it is on a local disk.
    pub fn local_folder(&self) -> Option<std::path::PathBuf> {
        (self.url.scheme() == "file").then(|| self.url.to_file_path().ok()).flatten()
    }

    /// Lets plans that run in `runtime` read this store. Repeating it changes nothing.
    pub fn register(&self, runtime: &RuntimeEnv) {
        runtime.register_object_store(self.objects_url.as_ref(), Arc::clone(&self.objects));
    }

    /// The object store behind; paths in it start at the root of the URL's scheme and host.
    pub fn objects(&self) -> &Arc<dyn ObjectStore> {
        &self.objects
    }

    /// Name of the object store in plans.
    pub fn objects_url(&self) -> &ObjectStoreUrl {
        &self.objects_url
    }

    /// Deletes every object in a folder that `layout` named; used for dropped tables only.
    ///
    /// # Errors
    /// `Retryable` when the store refuses; some objects may be gone then.
    pub async fn delete_folder(&self, folder: &Path) -> Result<()> {
        let files = self.list(&self.path(folder)).await?;
        self.delete(files.into_iter().map(|file| file.location)).await
    }

    /// The object path of a path relative to the store's root.
    pub(crate) fn path(&self, relative: &Path) -> Path {
        self.root.parts().chain(relative.parts()).collect()
    }

    /// The URL of a folder relative to the store's root, ending with a slash.
    pub(crate) fn folder_url(&self, relative: &Path) -> Url {
        let mut url = self.url.clone();
        url.set_path(&format!("{}{relative}/", url.path()));
        url
    }

    /// Writes a new object and returns when it is durable.
    pub(crate) async fn put(&self, path: &Path, bytes: Bytes) -> Result<()> {
        let local = matches!(self.url.scheme(), "file" | "memory");
        let written = match local || bytes.len() <= UPLOAD_PART_BYTES {
            true => self.objects.put(path, bytes.into()).await.map(drop),
            false => self.upload(path, bytes).await,
        };
        written.map_err(|source| Error::Store { action: "write", path: path.to_string(), source })
    }

    async fn upload(&self, path: &Path, bytes: Bytes) -> object_store::Result<()> {
        let upload = self.objects.put_multipart(path).await?;
        let mut writer = WriteMultipart::new_with_chunk_size(upload, UPLOAD_PART_BYTES);
        writer.put(bytes);
        writer.finish().await.map(drop)
    }

    pub(crate) async fn list(&self, folder: &Path) -> Result<Vec<ObjectMeta>> {
        let listed = self.objects.list(Some(folder)).try_collect().await;
        listed.map_err(|source| Error::Store { action: "list", path: folder.to_string(), source })
    }

    /// The objects in a folder whose paths sort after `last`.
    pub(crate) async fn list_after(&self, folder: &Path, last: &Path) -> Result<Vec<ObjectMeta>> {
        let listed = self.objects.list_with_offset(Some(folder), last).try_collect().await;
        listed.map_err(|source| Error::Store { action: "list", path: folder.to_string(), source })
    }

    /// Deletes objects; those that are gone already do not count as errors.
    pub(crate) async fn delete(&self, paths: impl IntoIterator<Item = Path>) -> Result<()> {
        let paths: Vec<object_store::Result<Path>> = paths.into_iter().map(Ok).collect();
        let mut deleted = self.objects.delete_stream(futures::stream::iter(paths).boxed());
        while let Some(outcome) = deleted.next().await {
            fault::point("store.between_deletes");
            match outcome {
                Ok(_) | Err(object_store::Error::NotFound { .. }) => {}
                Err(source) => {
                    return Err(Error::Store { action: "delete from", path: self.url.to_string(), source });
                }
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::test_support::TempFolder;

    #[tokio::test]
    async fn objects_written_are_listed_and_deleted_folders_are_empty() -> Result<()> {
        let folder = TempFolder::new();
        for store in [Store::open(folder.path())?, Store::in_memory()?] {
            let table = Path::from("views/a");
            let path = store.path(&Path::from("views/a/b.parquet"));
            store.put(&path, Bytes::from_static(b"1")).await?;
            let listed = store.list(&store.path(&table)).await?;
            assert_eq!(listed.iter().map(|file| &file.location).collect::<Vec<_>>(), [&path]);
            store.delete([path.clone(), path]).await?;
            store.delete_folder(&table).await?;
            assert!(store.list(&store.path(&table)).await?.is_empty());
        }
        Ok(())
    }

    #[test]
    fn locations_that_cannot_be_used_are_refused_by_name() {
        for location in ["ftp://host/x", "no scheme://x", "/dev/null/x"] {
            let refused = Store::open(location).map(|store| store.url);
            assert!(matches!(&refused, Err(Error::InvalidLocation { location: named, .. }) if named == location));
        }
    }
}
