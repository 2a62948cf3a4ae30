//! A run as a file: an Arrow IPC stream, whose checksums the manifest keeps.
//!
//! Each part has a checksum of its own, so that nothing is decoded before it is known to be what was written.

use std::collections::VecDeque;
use std::sync::Arc;

use arrow::array::RecordBatch;
use arrow::buffer::Buffer;
use arrow::datatypes::SchemaRef;
use arrow::ipc::reader::StreamDecoder;
use arrow::ipc::writer::StreamWriter;
use bytes::Bytes;
use datafusion::error::DataFusionError;
use datafusion::execution::{SendableRecordBatchStream, TaskContext};
use datafusion::physical_plan::ExecutionPlan;
use datafusion::physical_plan::stream::RecordBatchStreamAdapter;
use datafusion::physical_plan::streaming::{PartitionStream, StreamingTableExec};
use futures::{StreamExt, TryStreamExt};
use object_store::path::Path;
use object_store::{ObjectStore, ObjectStoreExt, WriteMultipart};
use twox_hash::XxHash64;
use watershed_shared::error::Error as SharedError;
use watershed_shared::plan::{RowScan, RowSource};

use super::manifest::StoredRun;
use super::{CheckpointError, Result, damaged, store_error};

/// Rows that are encoded at once, so that writing a large run takes little memory.
const CHUNK_ROWS: usize = 65_536;
/// Bytes that are written or read at once, and have a checksum. Part of the stored form.
const PART_BYTES: usize = 8 << 20;

/// A run's states on disk, read anew by each scan. Clones are the same file.
#[derive(Debug, Clone)]
pub(crate) struct RunFile {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    file: StoredFile,
    schema: SchemaRef,
}

/// A run's bytes, whatever they say.
#[derive(Debug)]
pub(super) struct StoredFile {
    pub(super) objects: Arc<dyn ObjectStore>,
    pub(super) path: Path,
    pub(super) stored: StoredRun,
}

impl RunFile {
    /// The file of a run that the manifest names, or is about to name.
    pub(super) fn new(objects: &Arc<dyn ObjectStore>, path: Path, stored: StoredRun, schema: &SchemaRef) -> RunFile {
        let file = StoredFile { objects: Arc::clone(objects), path, stored };
        RunFile { inner: Arc::new(Inner { file, schema: Arc::clone(schema) }) }
    }

    /// Writes `states` to `path`.
    pub(super) async fn write(
        objects: &Arc<dyn ObjectStore>,
        path: Path,
        id: u64,
        schema: &SchemaRef,
        states: &[RecordBatch],
    ) -> Result<RunFile> {
        let failed = |source| store_error("write", &path, source);
        let mut checksums = Vec::new();
        let mut bytes = 0;
        let upload = objects.put_multipart(&path).await.map_err(failed)?;
        let mut upload = WriteMultipart::new_with_chunk_size(upload, PART_BYTES);
        let mut rest: Vec<u8> = Vec::new();
        let mut writer = StreamWriter::try_new(Vec::new(), schema)?;
        let chunks = states.iter().flat_map(|batch| {
            let rows = batch.num_rows();
            (0..rows).step_by(CHUNK_ROWS).map(move |start| batch.slice(start, CHUNK_ROWS.min(rows - start)))
        });
        let mut hand_over = |part: Vec<u8>, upload: &mut WriteMultipart| {
            checksums.push(XxHash64::oneshot(0, &part));
            bytes += part.len();
            upload.put(Bytes::from(part));
        };
        for chunk in chunks {
            writer.write(&chunk)?;
            rest.append(writer.get_mut());
            while rest.len() >= PART_BYTES {
                let next = rest.split_off(PART_BYTES);
                hand_over(std::mem::replace(&mut rest, next), &mut upload);
            }
            if let Err(error) = upload.wait_for_capacity(2).await {
                // The error is what matters; a part left behind is deleted with the other unnamed files.
                let _ = upload.abort().await;
                return Err(failed(error));
            }
            tokio::task::consume_budget().await;
        }
        writer.finish()?;
        rest.append(writer.get_mut());
        while !rest.is_empty() {
            let next = rest.split_off(PART_BYTES.min(rest.len()));
            hand_over(std::mem::replace(&mut rest, next), &mut upload);
        }
        upload.finish().await.map_err(failed)?;
        let rows = states.iter().map(RecordBatch::num_rows).sum();
        let stored = StoredRun { id, rows, bytes, checksums };
        Ok(RunFile::new(objects, path, stored, schema))
    }

    pub(crate) fn id(&self) -> u64 {
        self.inner.file.stored.id
    }

    pub(crate) fn rows(&self) -> usize {
        self.inner.file.stored.rows
    }

    /// Length of the file.
    pub(crate) fn bytes(&self) -> usize {
        self.inner.file.stored.bytes
    }

    pub(super) fn stored(&self) -> &StoredRun {
        &self.inner.file.stored
    }

    pub(super) fn path(&self) -> &Path {
        &self.inner.file.path
    }

    /// Whether somebody else may still read the file.
    pub(super) fn is_shared(&self) -> bool {
        Arc::strong_count(&self.inner) > 1
    }

    /// The states, into memory.
    ///
    /// # Errors
    /// `Damaged` or `Store`.
    pub(super) async fn read(&self) -> Result<Vec<RecordBatch>> {
        self.batches().try_collect().await
    }

    /// Reads the file to its end and keeps nothing.
    ///
    /// # Errors
    /// `Damaged` or `Store`.
    pub(super) async fn verify(&self) -> Result<()> {
        self.batches().try_for_each(|_| std::future::ready(Ok(()))).await
    }

    /// The states part by part; ends with an error when the file was not what was written.
    fn batches(&self) -> impl futures::Stream<Item = Result<RecordBatch>> + Send + use<> {
        let reading =
            Reading { file: self.clone(), offset: 0, rows: 0, decoder: StreamDecoder::new(), decoded: VecDeque::new() };
        futures::stream::try_unfold(reading, |mut reading| async move {
            Ok(reading.next().await?.map(|batch| (batch, reading)))
        })
    }
}

/// A file that is being read.
struct Reading {
    file: RunFile,
    offset: usize,
    rows: usize,
    decoder: StreamDecoder,
    decoded: VecDeque<RecordBatch>,
}

impl Reading {
    /// The next batch; `None` after the last, when the rows are as many as they should be.
    async fn next(&mut self) -> Result<Option<RecordBatch>> {
        loop {
            if let Some(batch) = self.decoded.pop_front() {
                self.rows += batch.num_rows();
                return Ok(Some(batch));
            }
            let StoredFile { path, stored, .. } = &self.file.inner.file;
            if self.offset >= stored.bytes {
                let wrong = || damaged(path, format!("it has {} rows instead of {}", self.rows, stored.rows));
                return if self.rows == stored.rows { Ok(None) } else { Err(wrong()) };
            }
            let part = self.file.inner.file.part(self.offset).await?;
            self.offset += part.len();
            if let Err(reason) = self.decode(part) {
                return Err(damaged(self.file.path(), reason));
            }
            tokio::task::consume_budget().await;
        }
    }

    fn decode(&mut self, part: Bytes) -> Result<(), String> {
        let mut buffer = Buffer::from(part);
        while !buffer.is_empty() {
            let decoded = self.decoder.decode(&mut buffer).map_err(|error| error.to_string())?;
            if let Some(batch) = decoded {
                // Fails when the columns are not the view's.
                let batch = RecordBatch::try_new(Arc::clone(&self.file.inner.schema), batch.columns().to_vec());
                self.decoded.push_back(batch.map_err(|error| error.to_string())?);
            }
        }
        Ok(())
    }
}

impl StoredFile {
    /// Reads the file to its end, checks its bytes and keeps nothing; `progress` hears how many they are.
    ///
    /// # Errors
    /// `Damaged` or `Store`.
    pub(super) async fn check(&self, progress: &(dyn Fn(u64) + Send + Sync)) -> Result<()> {
        let mut offset = 0;
        while offset < self.stored.bytes {
            let part = self.part(offset).await?.len();
            progress(part as u64);
            offset += part;
        }
        Ok(())
    }

    /// The part that starts at `offset`, as it was written.
    async fn part(&self, offset: usize) -> Result<Bytes> {
        let StoredFile { objects, path, stored } = self;
        let end = (offset + PART_BYTES).min(stored.bytes);
        let part = match objects.get_range(path, offset as u64..end as u64).await {
            Ok(part) => part,
            Err(object_store::Error::NotFound { .. }) => return Err(damaged(path, "it is missing".to_owned())),
            Err(source) => return Err(self.explain(source).await),
        };
        if part.len() != end - offset {
            let found = offset + part.len();
            return Err(damaged(path, format!("it ends after {found} of {} bytes", stored.bytes)));
        }
        let computed = XxHash64::oneshot(0, &part);
        let expected = stored.checksums.get(offset / PART_BYTES).copied().unwrap_or_default();
        if computed != expected {
            let reason = format!("from byte {offset} on its checksum is {computed:016x} instead of {expected:016x}");
            return Err(damaged(path, reason));
        }
        Ok(part)
    }

    /// Tells a file that has been cut from a store that does not answer.
    async fn explain(&self, source: object_store::Error) -> CheckpointError {
        let StoredFile { objects, path, stored } = self;
        match objects.head(path).await {
            Ok(found) if found.size != stored.bytes as u64 => {
                damaged(path, format!("it has {} bytes instead of {}", found.size, stored.bytes))
            }
            _ => store_error("read", path, source),
        }
    }
}

impl RowSource for RunFile {
    fn schema(&self) -> SchemaRef {
        Arc::clone(&self.inner.schema)
    }

    fn scan(&self, scan: RowScan) -> datafusion::error::Result<Arc<dyn ExecutionPlan>> {
        let partition: Arc<dyn PartitionStream> = Arc::new(self.clone());
        let schema = RowSource::schema(self);
        let plan = StreamingTableExec::try_new(schema, vec![partition], scan.projection.as_ref(), None, false, None)?;
        Ok(Arc::new(plan))
    }
}

impl PartitionStream for RunFile {
    fn schema(&self) -> &SchemaRef {
        &self.inner.schema
    }

    fn execute(&self, _context: Arc<TaskContext>) -> SendableRecordBatchStream {
        let batches = self.batches().map_err(|error| match error {
            CheckpointError::Damaged { path, reason } => {
                let what = format!("the file \"{path}\" of a realtime view");
                let reason = format!("{reason}; restart the platform, which computes the view again");
                DataFusionError::External(Box::new(SharedError::Corrupt { what, reason }))
            }
            error => DataFusionError::External(Box::new(error)),
        });
        Box::pin(RecordBatchStreamAdapter::new(RowSource::schema(self), batches.boxed()))
    }
}
