//! Checkpoints of a table's log, and the mark that makes them trustworthy.
//!
//! Delta's library writes checkpoints as Parquet files without checksums, each from the one before. So a checkpoint is
//! compared with the state in memory when it is written, and a small file beside it, the mark, keeps its checksum. What
//! does not match the mark is not read; the commits that a checkpoint sums up stay for a week and can stand in for it.

use std::sync::Arc;

use deltalake_core::DeltaTable;
use deltalake_core::checkpoints::{cleanup_expired_logs_for, create_checkpoint};
use object_store::ObjectStoreExt;
use object_store::path::Path;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::StoredTable;
use watershed_shared::fault;
use watershed_shared::time::now;

use crate::checksum::{to_hex, xxh64};
use crate::error::{Error, Result};

/// Commits that a checkpoint has made superfluous stay readable for a week.
const LOG_RETENTION_MS: i64 = 7 * 24 * 60 * 60 * 1000;
/// Version of the mark's form.
const MARK_FORMAT_VERSION: u32 = 1;
/// Name of the mark in the log's folder; the underscore makes other engines ignore it.
pub(crate) const MARK: &str = "_watershed_checkpoint";
/// Name of Delta's own hint at the newest checkpoint.
pub(crate) const HINT: &str = "_last_checkpoint";

/// Which checkpoint is the newest that has been verified, and what its bytes are.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct CheckpointMark {
    format_version: u32,
    /// The table's version that the checkpoint sums up.
    pub(crate) version: u64,
    bytes: u64,
    xxh64: String,
}

impl StoredTable {
    /// Writes a checkpoint of the latest known version, verifies it, and deletes commits that are older than a week.
    pub(crate) async fn write_checkpoint(&self) -> Result<()> {
        let state = self.known();
        let version = state.version;
        // The library makes a checkpoint from the one before, so a damaged one would live on.
        if let Some(mark) = self.checkpoint_mark().await?
            && let Err(error) = self.verify_checkpoint(&mark).await
        {
            tracing::warn!(table = %self.folder, error = %error, "removing a damaged checkpoint");
            self.delete_checkpoint(mark.version).await?;
        }
        fault::point("table.before_checkpoint");
        self.in_library(move |table| async move { create_checkpoint(&table, None).await }, version).await?;
        fault::point("table.after_checkpoint");
        if self.read_base(Some(version)).await?.files != state.files {
            self.delete_checkpoint(version).await?;
            let reason = format!("a checkpoint made of it at version {version} says something else; it was removed");
            return Err(self.corrupt(reason));
        }
        self.write_mark(version).await?;
        let cutoff = now().timestamp_millis() - LOG_RETENTION_MS;
        let cleanup = move |table: DeltaTable| async move {
            cleanup_expired_logs_for(version, table.log_store().as_ref(), cutoff, None).await.map(drop)
        };
        self.in_library(cleanup, version).await
    }

    /// Runs work of the library on a thread that may block: it encodes and decodes between its awaits.
    async fn in_library<F>(&self, work: impl FnOnce(DeltaTable) -> F + Send + 'static, version: u64) -> Result<()>
    where
        F: Future<Output = Result<(), deltalake_core::DeltaTableError>>,
    {
        let log = Arc::clone(&self.log);
        let runtime = tokio::runtime::Handle::current();
        let done = tokio::task::spawn_blocking(move || {
            runtime.block_on(async move {
                let mut table = DeltaTable::new(log);
                table.load_version(version).await?;
                work(table).await
            })
        });
        let done = done.await.map_err(|source| Error::Interrupted { what: "writing a checkpoint", source })?;
        done.map_err(|error| self.delta_error("write a checkpoint of", error))
    }

    /// The mark, if there is a readable one; an unreadable one is as good as none.
    pub(crate) async fn checkpoint_mark(&self) -> Result<Option<CheckpointMark>> {
        let Some(bytes) = self.read_log_file(MARK).await? else { return Ok(None) };
        let Ok(mark) = serde_json::from_slice::<CheckpointMark>(&bytes) else { return Ok(None) };
        match mark.format_version {
            0..=MARK_FORMAT_VERSION => Ok(Some(mark)),
            found => Err(self.newer_format(found, MARK_FORMAT_VERSION)),
        }
    }

    /// Checks that a checkpoint is what was marked.
    pub(crate) async fn verify_checkpoint(&self, mark: &CheckpointMark) -> Result<()> {
        let name = checkpoint_name(mark.version);
        let Some(bytes) = self.read_log_file(&name).await? else {
            return Err(self.corrupt(format!("its checkpoint \"{name}\" is missing")));
        };
        let (length, sum) = (bytes.len() as u64, to_hex(xxh64(&bytes)));
        match length == mark.bytes && sum == mark.xxh64 {
            true => Ok(()),
            false => Err(self.corrupt(format!(
                "its checkpoint \"{name}\" has {length} bytes with the checksum {sum}, but {} bytes with {} were written",
                mark.bytes, mark.xxh64
            ))),
        }
    }

    async fn write_mark(&self, version: u64) -> Result<()> {
        let name = checkpoint_name(version);
        let Some(bytes) = self.read_log_file(&name).await? else {
            return Err(self.corrupt(format!("its new checkpoint \"{name}\" cannot be found")));
        };
        let xxh64 = to_hex(xxh64(&bytes));
        let mark = CheckpointMark { format_version: MARK_FORMAT_VERSION, version, bytes: bytes.len() as u64, xxh64 };
        let text = serde_json::to_vec(&mark).map_err(|error| self.corrupt(error.to_string()))?;
        self.store.put(&self.log_file(MARK), text.into()).await
    }

    async fn delete_checkpoint(&self, version: u64) -> Result<()> {
        self.store.delete(self.checkpoint_files(version)).await
    }

    /// A checkpoint with all that points at it.
    pub(crate) fn checkpoint_files(&self, version: u64) -> Vec<Path> {
        [&checkpoint_name(version), MARK, HINT].map(|name| self.log_file(name)).to_vec()
    }

    /// The version of the newest checkpoint that is as it was written.
    pub(crate) async fn checkpoint_version(&self) -> Result<Option<u64>> {
        let Some(mark) = self.checkpoint_mark().await? else { return Ok(None) };
        Ok(self.verify_checkpoint(&mark).await.is_ok().then_some(mark.version))
    }

    /// The version that Delta's hint names, if that checkpoint is there; a missing or wrong hint only makes opening slower.
    /// Delta's library would look for every commit up to a version that the hint makes up.
    pub(super) async fn last_checkpoint(&self) -> Result<Option<u64>> {
        let bytes = self.read_log_file(HINT).await?;
        let version = bytes.and_then(|bytes| serde_json::from_slice::<Value>(&bytes).ok()?.get("version")?.as_u64());
        let Some(version) = version else { return Ok(None) };
        let path = self.log_file(&checkpoint_name(version));
        match self.store.objects().head(&path).await {
            Ok(_) => Ok(Some(version)),
            Err(object_store::Error::NotFound { .. }) => Ok(None),
            Err(source) => Err(Error::Store { action: "look for", path: path.to_string(), source }),
        }
    }

    /// A file in the log's folder; `None` when it is not there.
    pub(super) async fn read_log_file(&self, name: &str) -> Result<Option<bytes::Bytes>> {
        let path = self.log_file(name);
        let read = async { self.store.objects().get(&path).await?.bytes().await };
        match read.await {
            Ok(bytes) => Ok(Some(bytes)),
            Err(object_store::Error::NotFound { .. }) => Ok(None),
            Err(source) => Err(Error::Store { action: "read", path: path.to_string(), source }),
        }
    }

    pub(super) fn log_folder(&self) -> Path {
        self.store.path(&self.folder).join("_delta_log")
    }

    pub(crate) fn log_file(&self, name: &str) -> Path {
        self.log_folder().join(name)
    }
}

/// Name of the checkpoint of a version, as Delta prescribes it for a checkpoint in one file.
pub(super) fn checkpoint_name(version: u64) -> String {
    format!("{version:020}.checkpoint.parquet")
}
