//! What the tests of this crate share: folders that go away, and a store that fails when told to.

use std::fmt;
use std::ops::Range;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};

use arrow::array::RecordBatch;
use arrow::compute::concat_batches;
use async_trait::async_trait;
use bytes::Bytes;
use datafusion::execution::TaskContext;
use datafusion::execution::runtime_env::RuntimeEnv;
use datafusion::physical_expr::PhysicalExpr;
use datafusion::physical_plan::collect;
use futures::stream::BoxStream;
use object_store::memory::InMemory;
use object_store::path::Path;
use object_store::{
    CopyOptions, Error, GetOptions, GetResult, ListResult, MultipartUpload, ObjectMeta, ObjectStore,
    PutMultipartOptions, PutOptions, PutPayload, PutResult, Result,
};
use url::Url;
use uuid::Uuid;
use watershed_shared::plan::{RowScan, RowSource};

use crate::scan::FileRows;
use crate::store::Store;

/// A new folder that is deleted when this is dropped.
pub(crate) struct TempFolder(PathBuf);

impl TempFolder {
    pub(crate) fn new() -> TempFolder {
        let folder = std::env::temp_dir().join(format!("watershed-test-{}", Uuid::new_v4().simple()));
        TempFolder(folder)
    }

    pub(crate) fn path(&self) -> &str {
        self.0.to_str().unwrap_or_default()
    }
}

impl Drop for TempFolder {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// When a [`FaultyStore`] fails the next write to a Delta log.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum Fault {
    None,
    /// The commit is not written.
    Before,
    /// The commit is written, but its writer is told that it failed.
    After,
    /// As `After`, and the reads by which the writer could find out fail as well.
    AfterAndReads,
}

/// A store whose next commit fails as told.
#[derive(Debug)]
pub(crate) struct FaultyStore {
    inner: Arc<dyn ObjectStore>,
    fault: AtomicU8,
}

impl FaultyStore {
    pub(crate) fn new(inner: Arc<dyn ObjectStore>) -> FaultyStore {
        FaultyStore { inner, fault: AtomicU8::new(Fault::None as u8) }
    }

    pub(crate) fn arm(&self, fault: Fault) {
        self.fault.store(fault as u8, Ordering::SeqCst);
    }

    fn is_armed(&self, fault: Fault) -> bool {
        self.fault.load(Ordering::SeqCst) == fault as u8
    }

    fn failure() -> Error {
        Error::Generic { store: "FaultyStore", source: "connection reset".into() }
    }
}

impl fmt::Display for FaultyStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("FaultyStore")
    }
}

#[async_trait]
impl ObjectStore for FaultyStore {
    async fn put_opts(&self, location: &Path, payload: PutPayload, options: PutOptions) -> Result<PutResult> {
        if self.is_armed(Fault::None) || !location.as_ref().contains("_delta_log") {
            return self.inner.put_opts(location, payload, options).await;
        }
        if !self.is_armed(Fault::Before) {
            self.inner.put_opts(location, payload, options).await?;
        }
        if !self.is_armed(Fault::AfterAndReads) {
            self.arm(Fault::None);
        }
        Err(FaultyStore::failure())
    }

    async fn put_multipart_opts(
        &self,
        location: &Path,
        options: PutMultipartOptions,
    ) -> Result<Box<dyn MultipartUpload>> {
        self.inner.put_multipart_opts(location, options).await
    }

    async fn get_opts(&self, location: &Path, options: GetOptions) -> Result<GetResult> {
        if self.is_armed(Fault::AfterAndReads) {
            self.arm(Fault::None);
            return Err(FaultyStore::failure());
        }
        self.inner.get_opts(location, options).await
    }

    async fn get_ranges(&self, location: &Path, ranges: &[Range<u64>]) -> Result<Vec<Bytes>> {
        self.inner.get_ranges(location, ranges).await
    }

    fn delete_stream(&self, locations: BoxStream<'static, Result<Path>>) -> BoxStream<'static, Result<Path>> {
        self.inner.delete_stream(locations)
    }

    fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, Result<ObjectMeta>> {
        self.inner.list(prefix)
    }

    async fn list_with_delimiter(&self, prefix: Option<&Path>) -> Result<ListResult> {
        self.inner.list_with_delimiter(prefix).await
    }

    async fn copy_opts(&self, from: &Path, to: &Path, options: CopyOptions) -> Result<()> {
        self.inner.copy_opts(from, to, options).await
    }
}

/// An in-memory store whose commits fail when told to.
pub(crate) fn faulty_store() -> crate::error::Result<(Store, Arc<FaultyStore>)> {
    let faults = Arc::new(FaultyStore::new(Arc::new(InMemory::new())));
    let objects: Arc<dyn ObjectStore> = Arc::clone(&faults) as _;
    let url = Url::parse("memory:///base").map_err(|error| crate::error::Error::InvalidLocation {
        location: "memory:///base".to_owned(),
        reason: error.to_string(),
    })?;
    Ok((Store::new(objects, &url)?, faults))
}

/// All rows, read in `partitions` partitions; `predicate` only prunes.
pub(crate) async fn read(
    rows: &FileRows,
    partitions: usize,
    predicate: Option<Arc<dyn PhysicalExpr>>,
) -> datafusion::error::Result<RecordBatch> {
    let runtime = Arc::new(RuntimeEnv::default());
    let scan = RowScan { projection: None, predicate, target_partitions: partitions, runtime: Arc::clone(&runtime) };
    let context = Arc::new(TaskContext::default().with_runtime(runtime));
    let batches = collect(rows.scan(scan)?, context).await?;
    Ok(concat_batches(&rows.schema(), &batches)?)
}
