//! Reads data files for scans, and checks every block that it reads.

use std::ops::Range;
use std::sync::{Arc, OnceLock};

use bytes::Bytes;
use datafusion::datasource::listing::PartitionedFile;
use datafusion::datasource::physical_plan::parquet::{CachedParquetFileReaderFactory, CachedParquetMetaData};
use datafusion::datasource::physical_plan::{ParquetFileMetrics, ParquetFileReaderFactory};
use datafusion::execution::cache::cache_manager::{CachedFileMetadataEntry, FileMetadataCache};
use datafusion::physical_plan::metrics::ExecutionPlanMetricsSet;
use futures::FutureExt;
use futures::future::BoxFuture;
use object_store::path::Path;
use object_store::{ObjectMeta, ObjectStore, ObjectStoreExt};
use parquet::arrow::arrow_reader::ArrowReaderOptions;
use parquet::arrow::async_reader::AsyncFileReader;
use parquet::errors::{ParquetError, Result};
use parquet::file::metadata::{PageIndexPolicy, ParquetMetaData};
use watershed_shared::error::Error as SharedError;

use crate::checksum::{Damage, FileBlocks, FileChecksum};

/// The first damage that a scan has met in some files, if any. Clones share it.
#[derive(Debug, Clone, Default)]
pub(crate) struct DamageMark(Arc<OnceLock<String>>);

impl DamageMark {
    pub(crate) fn get(&self) -> Option<&str> {
        self.0.get().map(String::as_str)
    }

    fn set(&self, error: &SharedError) {
        // Only the first is kept.
        let _ = self.0.set(error.to_string());
    }
}

/// Makes readers that check what they read, and remember damage. Files that were written before there were checksums
/// are read as they are.
#[derive(Debug)]
pub(crate) struct VerifyingReaders {
    objects: Arc<dyn ObjectStore>,
    footers: Arc<FileMetadataCache>,
    unverified: CachedParquetFileReaderFactory,
    damage: DamageMark,
}

impl VerifyingReaders {
    pub(crate) fn new(
        objects: &Arc<dyn ObjectStore>,
        footers: Arc<FileMetadataCache>,
        damage: DamageMark,
    ) -> VerifyingReaders {
        let unverified = CachedParquetFileReaderFactory::new(Arc::clone(objects), Arc::clone(&footers));
        VerifyingReaders { objects: Arc::clone(objects), footers, unverified, damage }
    }
}

impl ParquetFileReaderFactory for VerifyingReaders {
    fn create_reader(
        &self,
        partition_index: usize,
        file: PartitionedFile,
        metadata_size_hint: Option<usize>,
        metrics: &ExecutionPlanMetricsSet,
    ) -> datafusion::error::Result<Box<dyn AsyncFileReader + Send>> {
        let Some(checksum) = file.extension::<FileChecksum>().copied() else {
            return self.unverified.create_reader(partition_index, file, metadata_size_hint, metrics);
        };
        Ok(Box::new(VerifyingReader {
            metrics: ParquetFileMetrics::new(partition_index, file.object_meta.location.as_ref(), metrics),
            file: VerifiedFile {
                objects: Arc::clone(&self.objects),
                path: file.object_meta.location.clone(),
                bytes: file.object_meta.size,
                checksum,
            },
            object_meta: file.object_meta,
            footers: Arc::clone(&self.footers),
            blocks: None,
            damage: self.damage.clone(),
        }))
    }
}

/// A file in an object store whose bytes prove themselves.
#[derive(Debug)]
pub(crate) struct VerifiedFile {
    pub(crate) objects: Arc<dyn ObjectStore>,
    pub(crate) path: Path,
    /// Its size as the Delta log says it.
    pub(crate) bytes: u64,
    pub(crate) checksum: FileChecksum,
}

/// Why a file cannot be read.
#[derive(Debug)]
pub(crate) enum ReadError {
    Damaged(Damage),
    /// The store's own words; it may succeed later.
    Store(object_store::Error),
}

impl VerifiedFile {
    /// The footer, and the page index if asked for.
    pub(crate) async fn metadata(&self, page_index: PageIndexPolicy) -> Result<ParquetMetaData, ReadError> {
        let range = self.checksum.tail_range(self.bytes);
        let tail = self.objects.get_range(&self.path, range).await;
        let tail = match tail {
            Ok(tail) => tail,
            Err(error) => return Err(self.explain(error).await),
        };
        self.checksum.open_tail(&tail, self.bytes, page_index).map_err(ReadError::Damaged)
    }

    /// The bytes of each range.
    pub(crate) async fn read(&self, blocks: &FileBlocks, ranges: &[Range<u64>]) -> Result<Vec<Bytes>, ReadError> {
        let around = blocks.around(ranges).map_err(ReadError::Damaged)?;
        let read = match self.objects.get_ranges(&self.path, &around).await {
            Ok(read) => read,
            Err(error) => return Err(self.explain(error).await),
        };
        for (range, bytes) in around.iter().zip(&read) {
            blocks.check(range.start, bytes).map_err(ReadError::Damaged)?;
        }
        let slice = |range: &Range<u64>| {
            if range.is_empty() {
                return Bytes::new();
            }
            let index = around.partition_point(|read| read.end <= range.start);
            let start = around[index].start;
            read[index].slice((range.start - start) as usize..(range.end - start) as usize)
        };
        Ok(ranges.iter().map(slice).collect())
    }

    /// Tells a file that has been lost or cut from a store that does not answer.
    async fn explain(&self, error: object_store::Error) -> ReadError {
        if matches!(error, object_store::Error::NotFound { .. }) {
            return ReadError::Damaged(Damage::Missing);
        }
        match self.objects.head(&self.path).await {
            Ok(found) if found.size != self.bytes => {
                ReadError::Damaged(Damage::Length { expected: self.bytes, found: found.size })
            }
            _ => ReadError::Store(error),
        }
    }

    /// The error that names the file.
    pub(crate) fn damaged(&self, damage: &Damage) -> SharedError {
        SharedError::Corrupt { what: format!("file \"{}\"", self.path), reason: damage.to_string() }
    }
}

/// Reads one file of a scan.
struct VerifyingReader {
    file: VerifiedFile,
    object_meta: ObjectMeta,
    footers: Arc<FileMetadataCache>,
    /// Known once the footer is.
    blocks: Option<Arc<FileBlocks>>,
    metrics: ParquetFileMetrics,
    damage: DamageMark,
}

impl VerifyingReader {
    async fn footer(&mut self, page_index: PageIndexPolicy) -> Result<Arc<ParquetMetaData>> {
        if let Some(cached) = self.cached_footer(page_index) {
            return Ok(cached);
        }
        let footer = match self.file.metadata(page_index).await {
            Ok(footer) => Arc::new(footer),
            Err(error) => return Err(self.failed(error)),
        };
        let entry = Arc::new(CachedParquetMetaData::new(Arc::clone(&footer)));
        let entry = CachedFileMetadataEntry::new(self.object_meta.clone(), entry);
        self.footers.put(&self.file.path, entry);
        Ok(footer)
    }

    fn cached_footer(&self, page_index: PageIndexPolicy) -> Option<Arc<ParquetMetaData>> {
        let cached = self.footers.get(&self.file.path).filter(|cached| cached.is_valid_for(&self.object_meta))?;
        let footer = cached.file_metadata.as_any().downcast_ref::<CachedParquetMetaData>()?.parquet_metadata();
        let has_page_index = footer.column_index().is_some() && footer.offset_index().is_some();
        (has_page_index || page_index == PageIndexPolicy::Skip).then(|| Arc::clone(footer))
    }

    async fn blocks(&mut self) -> Result<Arc<FileBlocks>> {
        if let Some(blocks) = &self.blocks {
            return Ok(Arc::clone(blocks));
        }
        let footer = self.footer(PageIndexPolicy::Skip).await?;
        let blocks = self.file.checksum.blocks(&footer, self.file.bytes);
        let blocks = Arc::new(blocks.map_err(|damage| self.failed(ReadError::Damaged(damage)))?);
        self.blocks = Some(Arc::clone(&blocks));
        Ok(blocks)
    }

    async fn read(&mut self, ranges: Vec<Range<u64>>) -> Result<Vec<Bytes>> {
        let blocks = self.blocks().await?;
        self.metrics.bytes_scanned.add(ranges.iter().map(|range| (range.end - range.start) as usize).sum());
        let read = self.file.read(&blocks, &ranges).await;
        read.map_err(|error| self.failed(error))
    }

    fn failed(&self, error: ReadError) -> ParquetError {
        match error {
            ReadError::Store(error) => ParquetError::External(Box::new(error)),
            ReadError::Damaged(damage) => {
                let error = self.file.damaged(&damage);
                self.damage.set(&error);
                ParquetError::External(Box::new(error))
            }
        }
    }
}

impl AsyncFileReader for VerifyingReader {
    fn get_bytes(&mut self, range: Range<u64>) -> BoxFuture<'_, Result<Bytes>> {
        async move { Ok(self.read(vec![range]).await?.pop().unwrap_or_default()) }.boxed()
    }

    fn get_byte_ranges(&mut self, ranges: Vec<Range<u64>>) -> BoxFuture<'_, Result<Vec<Bytes>>> {
        self.read(ranges).boxed()
    }

    fn get_metadata<'a>(
        &'a mut self,
        options: Option<&'a ArrowReaderOptions>,
    ) -> BoxFuture<'a, Result<Arc<ParquetMetaData>>> {
        let page_index = options.map_or(PageIndexPolicy::Optional, ArrowReaderOptions::column_index_policy);
        self.footer(page_index).boxed()
    }
}

impl Drop for VerifyingReader {
    fn drop(&mut self) {
        self.metrics.scan_efficiency_ratio.add_part(self.metrics.bytes_scanned.value());
        // Several readers may read one file.
        self.metrics.scan_efficiency_ratio.set_total(self.object_meta.size as usize);
    }
}
