//! The local file system with writes that survive a power cut.
//!
//! `object_store`'s own local store never calls fsync. The log forgets events once the history's commit has returned,
//! so by then the commit and the files it names must be on the disk, and so must the folders' entries for them.

use std::fmt;
use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::path::{Path as FilePath, PathBuf};

use async_trait::async_trait;
use futures::stream::BoxStream;
use object_store::local::LocalFileSystem;
use object_store::path::Path;
use object_store::{
    CopyOptions, Error, GetOptions, GetResult, ListResult, MultipartUpload, ObjectMeta, ObjectStore, PutMode,
    PutMultipartOptions, PutOptions, PutPayload, PutResult, Result, UploadPart,
};
use uuid::Uuid;
use watershed_shared::fault;
use watershed_shared::folder::{create_folder, sync_name};

/// A [`LocalFileSystem`] whose writes are on the disk when they return.
#[derive(Debug)]
pub(super) struct DurableFileSystem {
    inner: LocalFileSystem,
}

impl DurableFileSystem {
    pub(super) fn new() -> DurableFileSystem {
        DurableFileSystem { inner: LocalFileSystem::new() }
    }
}

impl fmt::Display for DurableFileSystem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("DurableFileSystem")
    }
}

#[async_trait]
impl ObjectStore for DurableFileSystem {
    async fn put_opts(&self, location: &Path, payload: PutPayload, options: PutOptions) -> Result<PutResult> {
        let exclusive = match options.mode {
            PutMode::Create => true,
            PutMode::Overwrite => false,
            PutMode::Update(_) => return self.inner.put_opts(location, payload, options).await,
        };
        let path = self.inner.path_to_filesystem(location)?;
        blocking(path, move |path| put(path, &payload, exclusive)).await?;
        Ok(PutResult { e_tag: None, version: None })
    }

    async fn put_multipart_opts(
        &self,
        location: &Path,
        options: PutMultipartOptions,
    ) -> Result<Box<dyn MultipartUpload>> {
        let path = self.inner.path_to_filesystem(location)?;
        let inner = self.inner.put_multipart_opts(location, options).await?;
        Ok(Box::new(DurableUpload { inner, path }))
    }

    async fn get_opts(&self, location: &Path, options: GetOptions) -> Result<GetResult> {
        self.inner.get_opts(location, options).await
    }

    async fn get_ranges(&self, location: &Path, ranges: &[std::ops::Range<u64>]) -> Result<Vec<bytes::Bytes>> {
        self.inner.get_ranges(location, ranges).await
    }

    fn delete_stream(&self, locations: BoxStream<'static, Result<Path>>) -> BoxStream<'static, Result<Path>> {
        self.inner.delete_stream(locations)
    }

    fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, Result<ObjectMeta>> {
        self.inner.list(prefix)
    }

    fn list_with_offset(&self, prefix: Option<&Path>, offset: &Path) -> BoxStream<'static, Result<ObjectMeta>> {
        self.inner.list_with_offset(prefix, offset)
    }

    async fn list_with_delimiter(&self, prefix: Option<&Path>) -> Result<ListResult> {
        self.inner.list_with_delimiter(prefix).await
    }

    async fn copy_opts(&self, from: &Path, to: &Path, options: CopyOptions) -> Result<()> {
        self.inner.copy_opts(from, to, options).await
    }
}

/// A multipart upload whose file is on the disk when `complete` returns.
#[derive(Debug)]
struct DurableUpload {
    inner: Box<dyn MultipartUpload>,
    path: PathBuf,
}

#[async_trait]
impl MultipartUpload for DurableUpload {
    fn put_part(&mut self, data: PutPayload) -> UploadPart {
        self.inner.put_part(data)
    }

    async fn complete(&mut self) -> Result<PutResult> {
        let result = self.inner.complete().await?;
        blocking(self.path.clone(), |path| {
            File::open(path)?.sync_all()?;
            sync_name(path)
        })
        .await?;
        Ok(result)
    }

    async fn abort(&mut self) -> Result<()> {
        self.inner.abort().await
    }
}

/// What a staged file has in its name between that of the object and a number of its own.
const STAGED: &str = ".staged-";

/// Whether a path is that of a file that a crash has left on the way to its name.
pub(crate) fn is_staged(path: &Path) -> bool {
    path.filename().is_some_and(|name| name.contains(STAGED))
}

/// Stages the payload beside `path`, syncs it and gives it its name in one step, so that no reader sees a part of it.
///
/// A crash leaves at most the staged file, which the next start deletes.
fn put(path: &FilePath, payload: &PutPayload, exclusive: bool) -> io::Result<()> {
    let mut staged = path.as_os_str().to_owned();
    staged.push(format!("{STAGED}{}", Uuid::new_v4().simple()));
    let staged = PathBuf::from(staged);
    let result = write(&staged, payload).and_then(|()| {
        fault::point("store.after_stage");
        match exclusive {
            true => std::fs::hard_link(&staged, path),
            false => std::fs::rename(&staged, path),
        }
    });
    fault::point("store.after_link");
    if exclusive || result.is_err() {
        // The write stands or has failed already; a staged file that stays is only an orphan.
        let _ = std::fs::remove_file(&staged);
    }
    result?;
    sync_name(path)
}

fn write(path: &FilePath, payload: &PutPayload) -> io::Result<()> {
    let open = || OpenOptions::new().write(true).create_new(true).open(path);
    let mut file = match (open(), path.parent()) {
        (Err(error), Some(folder)) if error.kind() == io::ErrorKind::NotFound => {
            create_folder(folder)?;
            open()?
        }
        (opened, _) => opened?,
    };
    payload.iter().try_for_each(|bytes| file.write_all(bytes))?;
    file.sync_all()
}

async fn blocking(path: PathBuf, work: impl FnOnce(&FilePath) -> io::Result<()> + Send + 'static) -> Result<()> {
    let work = move || {
        work(&path).map_err(|source| match source.kind() {
            io::ErrorKind::AlreadyExists => {
                Error::AlreadyExists { path: path.display().to_string(), source: source.into() }
            }
            _ => Error::Generic { store: "DurableFileSystem", source: source.into() },
        })
    };
    tokio::task::spawn_blocking(work).await?
}
