//! Pinned lists of Parquet files as rows that plans read.

use std::sync::Arc;

use arrow::datatypes::{DataType, Schema, SchemaRef};
use datafusion::common::Statistics;
use datafusion::common::stats::Precision;
use datafusion::datasource::listing::PartitionedFile;
use datafusion::datasource::physical_plan::{FileGroup, FileGroupPartitioner, FileScanConfigBuilder, ParquetSource};
use datafusion::datasource::source::DataSourceExec;
use datafusion::error::Result;
use datafusion::physical_plan::ExecutionPlan;
use datafusion::physical_plan::empty::EmptyExec;
use watershed_shared::plan::{RowScan, RowSource};

use crate::data_file::DataFile;
use crate::store::Store;
use crate::verified::{DamageMark, VerifyingReaders};

/// Files below this size in total are not divided: opening them twice costs more than a second core gains.
const DIVIDED_BYTES_MIN: usize = 4 << 20;

/// The rows of some files of one table.
///
/// A scan registers the store in its runtime, and keeps the files' footers in the runtime's cache. All partitions of a
/// scan must be executed, and only once: they share a queue of files, which the first execution empties.
#[derive(Debug, Clone)]
pub struct FileRows {
    store: Store,
    schema: SchemaRef,
    files: Vec<Arc<DataFile>>,
    damage: DamageMark,
}

impl FileRows {
    /// The rows of `files`, whose columns are exactly those of `schema`.
    pub(crate) fn new(store: &Store, schema: &SchemaRef, files: Vec<Arc<DataFile>>) -> FileRows {
        FileRows { store: store.clone(), schema: Arc::clone(schema), files, damage: DamageMark::default() }
    }

    /// The same rows with those of `columns` that hold strings as string views, which are read and grouped without
    /// copying a string.
    pub(crate) fn with_string_views(mut self, columns: &[usize]) -> FileRows {
        let fields = self.schema.fields().iter().enumerate().map(|(index, field)| match field.data_type() {
            DataType::Utf8 if columns.contains(&index) => {
                Arc::new(field.as_ref().clone().with_data_type(DataType::Utf8View))
            }
            _ => Arc::clone(field),
        });
        self.schema = Arc::new(Schema::new(fields.collect::<Vec<_>>()));
        self
    }

    /// The files.
    pub fn files(&self) -> &[Arc<DataFile>] {
        &self.files
    }

    /// Number of rows in the files.
    pub fn count(&self) -> u64 {
        self.files.iter().map(|file| file.rows).sum()
    }

    /// The files in groups of about the same number of bytes, cut where a group is full.
    fn groups(&self, target_partitions: usize) -> Vec<FileGroup> {
        let files = self.files.iter().map(|file| {
            let statistics = file.statistics.to_datafusion(file.rows, file.bytes, &self.schema);
            let scanned = PartitionedFile::new(file.path.as_ref(), file.bytes).with_statistics(Arc::new(statistics));
            match file.checksum {
                Some(checksum) => scanned.with_extension(checksum),
                None => scanned,
            }
        });
        let all = vec![FileGroup::new(files.collect())];
        FileGroupPartitioner::new()
            .with_target_partitions(target_partitions.max(1))
            .with_repartition_file_min_size(DIVIDED_BYTES_MIN)
            .repartition_file_groups(&all)
            .unwrap_or(all)
    }
}

impl RowSource for FileRows {
    fn schema(&self) -> SchemaRef {
        Arc::clone(&self.schema)
    }

    fn damage(&self) -> Option<&str> {
        self.damage.get()
    }

    fn scan(&self, scan: RowScan) -> Result<Arc<dyn ExecutionPlan>> {
        if self.files.is_empty() {
            let schema = match &scan.projection {
                Some(columns) => Arc::new(self.schema.project(columns)?),
                None => self.schema(),
            };
            return Ok(Arc::new(EmptyExec::new(schema)));
        }
        self.store.register(&scan.runtime);
        let footers = scan.runtime.cache_manager.get_file_metadata_cache();
        let reader = VerifyingReaders::new(self.store.objects(), footers, self.damage.clone());
        let mut source = ParquetSource::new(self.schema()).with_parquet_file_reader_factory(Arc::new(reader));
        if let Some(predicate) = scan.predicate {
            source = source.with_predicate(predicate);
        }
        let rows = Precision::Exact(self.count() as usize);
        let statistics = Statistics { num_rows: rows, ..Statistics::new_unknown(&self.schema) };
        let config = FileScanConfigBuilder::new(self.store.objects_url().clone(), Arc::new(source))
            .with_file_groups(self.groups(scan.target_partitions))
            .with_statistics(statistics)
            .with_projection_indices(scan.projection)?
            .build();
        Ok(DataSourceExec::from_data_source(config))
    }
}
