//! Where the batch views of one definition of a view are kept: state files and boundary, in one Delta table.
//!
//! Publishing is one commit: it adds state files, removes those they replace, and says, as Delta application
//! transactions, which batch version this is and where its boundary lies. Readers see the old version with the old
//! boundary or the new one with the new. Files of an old version stay until the caller knows that no query reads them
//! and deletes them; what a crash leaves behind is deleted at the next start.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use arrow::datatypes::SchemaRef;
use datafusion::execution::SendableRecordBatchStream;
use futures::StreamExt;
use object_store::path::Path;
use serde_json::{Value, json};
use uuid::Uuid;
use watershed_shared::error::ErrorKind;
use watershed_shared::fault;
use watershed_shared::position::{BatchVersion, Boundary, PartitionId};

use crate::data_file::{DataFile, EncodeOptions, EncodedFile, FileEncoder};
use crate::error::{Error, Result};
use crate::history::{check_position, position, position_transactions};
use crate::layout;
use crate::scan::FileRows;
use crate::store::Store;
use crate::table::{CommitOutcome, StoredTable, TableCommit, TableSnapshot};

/// Delta application transaction that holds the number of the batch version.
const BATCH_VERSION_TRANSACTION: &str = "watershed-batch-version";
/// Other commits that may come in between before a publication gives up; none should.
const COMMIT_ATTEMPTS_MAX: usize = 8;

/// A batch view about to be published. Publishing the same value again is safe: it is published once.
#[derive(Debug)]
pub struct NewBatchVersion {
    /// State files written by `write_state_files`.
    pub files: Vec<DataFile>,
    /// Whether the files replace all files of the version before (a full run) or join them (an incremental one).
    pub replace: bool,
    /// Where the batch view ends: its states cover all events below.
    pub boundary: Boundary,
    /// The record of the run that made it; kept with the version, and not interpreted here.
    pub record: Value,
    publication: Uuid,
}

impl NewBatchVersion {
    /// A batch view to be published, from the files of one run.
    pub fn new(files: Vec<DataFile>, replace: bool, boundary: Boundary, record: Value) -> NewBatchVersion {
        NewBatchVersion { files, replace, boundary, record, publication: Uuid::new_v4() }
    }
}

/// How a publication ended.
#[derive(Debug)]
pub enum PublishOutcome {
    /// The new version is the current one.
    Published {
        /// The new version.
        view: BatchView,
        /// Files that only older versions read; to be deleted once no query reads those.
        superseded: Vec<Path>,
    },
    /// The current version is not the expected one. Nothing was published, and the files belong to nobody.
    Conflict {
        /// The version that is current.
        current: Option<BatchView>,
    },
}

/// The batch views of one definition of a view.
#[derive(Debug, Clone)]
pub struct ViewStore {
    table: Arc<StoredTable>,
    /// Files that were written, or begun, since the last batch version.
    unpublished: Arc<Mutex<Vec<Path>>>,
}

impl ViewStore {
    /// Opens the batch views of a view's definition, creating their table if there is none. `schema` is that of the
    /// states, in types that Delta has.
    ///
    /// # Errors
    /// `Invalid` when the schema is not that of the stored states, or Delta cannot hold it; `Corrupt` when the table
    /// cannot be read; `Retryable` when the store refuses.
    pub async fn open(store: &Store, view: &str, definition_id: &str, schema: SchemaRef) -> Result<ViewStore> {
        let folder = layout::view_definition(view, definition_id)?;
        let table = StoredTable::open(store, folder, schema).await?;
        check_position(&table)?;
        Ok(ViewStore { table: Arc::new(table), unpublished: Arc::default() })
    }

    /// As `open`, but batch views whose table is damaged are dropped: they can be computed again from the history.
    /// Answers also what was wrong with them, if they were dropped.
    ///
    /// # Errors
    /// `open`'s, but `Corrupt` only when the empty table is damaged too.
    pub async fn open_or_reset(
        store: &Store,
        view: &str,
        definition_id: &str,
        schema: SchemaRef,
    ) -> Result<(ViewStore, Option<String>)> {
        match ViewStore::open(store, view, definition_id, Arc::clone(&schema)).await {
            Err(error) if error.kind() == ErrorKind::Corrupt => {
                store.delete_folder(&layout::view_definition(view, definition_id)?).await?;
                let views = ViewStore::open(store, view, definition_id, schema).await?;
                Ok((views, Some(error.to_string())))
            }
            opened => Ok((opened?, None)),
        }
    }

    /// The current batch view as far as this process knows; `None` before the first is published. Exact if no other
    /// process publishes. Reads no storage.
    pub fn current(&self) -> Option<BatchView> {
        BatchView::new(&self.table, &self.table.known())
    }

    /// The current batch view in the store.
    pub async fn latest(&self) -> Result<Option<BatchView>> {
        let latest = self.table.latest().await?;
        Ok(BatchView::new(&self.table, &latest))
    }

    /// The schema of the states.
    pub fn schema(&self) -> &SchemaRef {
        self.table.schema()
    }

    /// The rows of state files, published or not.
    pub fn rows(&self, files: Vec<DataFile>) -> FileRows {
        FileRows::new(self.table.store(), self.table.schema(), files.into_iter().map(Arc::new).collect())
    }

    /// Writes a stream of states, in its order, into one or more files, and returns when they are durable.
    ///
    /// Encodes on the calling task. No version has the files until they are published.
    ///
    /// # Errors
    /// The stream's; `Internal` when it has another schema; `Retryable` when the store refuses.
    pub async fn write_state_files(
        &self,
        mut states: SendableRecordBatchStream,
        options: &EncodeOptions,
    ) -> Result<Vec<DataFile>> {
        let mut encoder = FileEncoder::new(Arc::clone(self.schema()), options)?;
        let mut files = Vec::new();
        while let Some(batch) = states.next().await {
            if let Some(file) = encoder.write(&batch?)? {
                files.push(self.store_file(file).await?);
            }
        }
        if let Some(file) = encoder.finish()? {
            files.push(self.store_file(file).await?);
        }
        Ok(files)
    }

    async fn store_file(&self, file: EncodedFile) -> Result<DataFile> {
        let stored = file.at(self.table.new_file(self.table.known().version));
        self.unpublished().push(stored.path.clone());
        self.table.store().put(&stored.path, file.bytes).await?;
        fault::point("batch.after_state_file");
        Ok(stored)
    }

    /// Makes `batch` the batch version after `expected`, or the first if `expected` is `None`.
    ///
    /// # Errors
    /// `Retryable` when the store refuses: repeat the call with the same value, whether or not it was published.
    /// `Conflict` when the boundary lies before the current one; nothing was published then.
    pub async fn publish(&self, batch: &NewBatchVersion, expected: Option<BatchVersion>) -> Result<PublishOutcome> {
        let mut base = self.table.latest().await?;
        let mut superseded = Vec::new();
        let publication = Value::String(batch.publication.to_string());
        for _ in 0..=COMMIT_ATTEMPTS_MAX {
            match BatchView::new(&self.table, &base) {
                Some(view) if base.record.get("publication") == Some(&publication) => {
                    self.unpublished().clear();
                    return Ok(PublishOutcome::Published { view, superseded });
                }
                current if current.as_ref().map(|view| view.version) != expected => {
                    return Ok(PublishOutcome::Conflict { current });
                }
                Some(view) => self.check_boundary(batch, &view)?,
                None => {}
            }
            let commit = new_version(batch, expected, &base);
            superseded = commit.removes.iter().map(|file| file.path.clone()).collect();
            base = match self.table.commit(base, &commit).await? {
                CommitOutcome::Committed(latest) | CommitOutcome::Conflict(latest) => latest,
            };
        }
        Ok(PublishOutcome::Conflict { current: self.current() })
    }

    /// Deletes what was written for batch versions that were not published, so that runs which fail one after the other
    /// do not fill the disk. To be called before a run writes, and, with `may_still_be_written`, after it has failed.
    ///
    /// # Errors
    /// `Retryable` when the store refuses; the next call tries again.
    pub async fn delete_unpublished(&self, may_still_be_written: bool) -> Result<()> {
        let paths = self.unpublished().clone();
        if paths.is_empty() {
            return Ok(());
        }
        // The response to a publication may have been lost, and not the publication.
        self.table.latest().await?;
        self.delete_files(paths).await?;
        if !may_still_be_written {
            self.unpublished().clear();
        }
        Ok(())
    }

    fn unpublished(&self) -> MutexGuard<'_, Vec<Path>> {
        self.unpublished.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Deletes files of superseded versions. Files of the current version and files already gone are left alone.
    ///
    /// # Errors
    /// `Retryable` when the store refuses; some files may be gone then.
    pub async fn delete_files(&self, paths: impl IntoIterator<Item = Path>) -> Result<()> {
        let known = self.table.known();
        let current: BTreeSet<&Path> = known.files.values().map(|file| &file.path).collect();
        self.table.store().delete(paths.into_iter().filter(|path| !current.contains(path))).await
    }

    /// Deletes files that the current version does not have. Only for start-up: no run may be writing and no query
    /// reading an older version.
    ///
    /// Returns how many were deleted.
    pub async fn delete_orphans(&self) -> Result<usize> {
        self.table.delete_orphans().await
    }

    /// Writes a Delta checkpoint if enough versions came since the last; returns whether it did.
    ///
    /// # Errors
    /// `Retryable` when the store refuses; the batch views are unharmed then.
    pub async fn checkpoint_if_due(&self) -> Result<bool> {
        self.table.checkpoint_if_due().await
    }

    fn check_boundary(&self, batch: &NewBatchVersion, current: &BatchView) -> Result<()> {
        match batch.boundary.0.covers(&current.boundary.0) {
            true => Ok(()),
            false => Err(Error::Conflict {
                action: "publish a batch version of",
                table: self.table.folder().to_string(),
                expected: format!("a boundary at or before {}, that of the new version", batch.boundary),
                found: format!("version {} with the boundary {}", current.version, current.boundary),
            }),
        }
    }
}

fn new_version(batch: &NewBatchVersion, expected: Option<BatchVersion>, base: &TableSnapshot) -> TableCommit {
    let version = expected.map_or(1, |version| version.0 + 1);
    let transactions = position_transactions(&batch.boundary.0)
        .chain([(BATCH_VERSION_TRANSACTION.to_owned(), version as i64)])
        .collect();
    let mut commit = TableCommit::new(batch.files.iter().cloned().map(Arc::new).collect(), transactions);
    if batch.replace {
        commit.removes = base.files.values().cloned().collect();
    }
    commit.record = json!({"publication": batch.publication.to_string(), "run": batch.record});
    commit
}

/// One batch version of a view. It is readable until its files are deleted.
#[derive(Debug, Clone)]
pub struct BatchView {
    /// Its number.
    pub version: BatchVersion,
    /// Where it ends: its states cover all events below and none from here on.
    pub boundary: Boundary,
    /// Its state files; each in the order in which it was written.
    pub files: Vec<Arc<DataFile>>,
    /// Number of states in the files.
    pub rows: u64,
    /// Size of the files.
    pub bytes: u64,
    /// The record of the run that made it.
    pub record: Value,
    table: Arc<StoredTable>,
}

impl BatchView {
    fn new(table: &Arc<StoredTable>, snapshot: &TableSnapshot) -> Option<BatchView> {
        let version = *snapshot.transactions.get(BATCH_VERSION_TRANSACTION)?;
        let mut boundary = position(snapshot, 0);
        if fault::has_defect("boundary.off_by_one") {
            boundary.raise(PartitionId(0), boundary.get(PartitionId(0)).advance(1));
        }
        Some(BatchView {
            version: BatchVersion(version.try_into().unwrap_or_default()),
            boundary: Boundary(boundary),
            files: snapshot.files.values().cloned().collect(),
            rows: snapshot.files.values().map(|file| file.rows).sum(),
            bytes: snapshot.files.values().map(|file| file.bytes).sum(),
            record: snapshot.record.get("run").cloned().unwrap_or_default(),
            table: Arc::clone(table),
        })
    }

    /// The schema of the states.
    pub fn schema(&self) -> &SchemaRef {
        self.table.schema()
    }

    /// The version's states. Keys may repeat, within a file and between files.
    pub fn states(&self) -> FileRows {
        FileRows::new(self.table.store(), self.table.schema(), self.files.clone())
    }
}

#[cfg(test)]
mod tests {
    use arrow::array::{BinaryArray, Int64Array, ListArray, RecordBatch, StringArray};
    use arrow::datatypes::{DataType, Field, Int64Type, Schema};
    use datafusion::physical_plan::stream::RecordBatchStreamAdapter;
    use watershed_shared::position::{Offset, Position};

    use super::*;
    use crate::test_support::{Fault, TempFolder, faulty_store, read};

    fn states(keys: &[&str]) -> Result<RecordBatch> {
        let schema = Schema::new(vec![
            Field::new("k0", DataType::Utf8, true),
            Field::new("count(*)[count]", DataType::Int64, true),
            Field::new("hll", DataType::Binary, true),
            Field::new("values", DataType::new_list(DataType::Int64, true), true),
        ]);
        let numbers = 0..keys.len() as i64;
        let sketches: Vec<Vec<u8>> = numbers.clone().map(|n| vec![n as u8; 30]).collect();
        let lists =
            ListArray::from_iter_primitive::<Int64Type, _, _>(numbers.clone().map(|n| Some(vec![Some(n), None])));
        Ok(RecordBatch::try_new(
            Arc::new(schema),
            vec![
                Arc::new(StringArray::from_iter_values(keys)),
                Arc::new(Int64Array::from_iter_values(numbers)),
                Arc::new(BinaryArray::from_iter_values(sketches)),
                Arc::new(lists),
            ],
        )?)
    }

    async fn open(store: &Store) -> Result<ViewStore> {
        ViewStore::open(store, "Per hour", "d1", states(&[])?.schema()).await
    }

    async fn write(views: &ViewStore, keys: &[&str]) -> Result<Vec<DataFile>> {
        let options =
            EncodeOptions { file_rows_max: 2, bloom_filter_columns: vec!["k0".into()], ..EncodeOptions::states() };
        let all = states(keys)?;
        let batches: Vec<_> = (0..all.num_rows()).map(|row| Ok(all.slice(row, 1))).collect();
        let stream = RecordBatchStreamAdapter::new(all.schema(), futures::stream::iter(batches));
        views.write_state_files(Box::pin(stream), &options).await
    }

    fn boundary(offset: u64) -> Boundary {
        Boundary(Position::new(vec![Offset(offset), Offset(1)]))
    }

    fn published(outcome: PublishOutcome) -> (BatchView, Vec<Path>) {
        match outcome {
            PublishOutcome::Published { view, superseded } => (view, superseded),
            PublishOutcome::Conflict { current } => unreachable!("{current:?}"),
        }
    }

    async fn keys(view: &BatchView) -> Result<Vec<String>> {
        let rows = read(&view.states(), 1, None).await?;
        let keys = rows.column(0).as_any().downcast_ref::<StringArray>().cloned();
        let mut keys: Vec<String> = keys.iter().flatten().flatten().map(str::to_owned).collect();
        keys.sort();
        Ok(keys)
    }

    #[tokio::test]
    async fn versions_join_or_replace_states_and_move_the_boundary_with_them() -> Result<()> {
        let folder = TempFolder::new();
        for store in [Store::open(folder.path())?, Store::in_memory()?] {
            let views = open(&store).await?;
            assert!(views.current().is_none());
            let files = write(&views, &["a", "b", "c"]).await?;
            assert_eq!(files.iter().map(|file| file.rows).collect::<Vec<_>>(), [2, 1]);
            let first = NewBatchVersion::new(files, true, boundary(10), json!({"run": "first"}));
            let (first, superseded) = published(views.publish(&first, None).await?);
            assert_eq!((first.version, first.rows, superseded.len()), (BatchVersion(1), 3, 0));
            assert_eq!(read(&first.states(), 1, None).await?, states(&["a", "b", "c"])?);

            let second = NewBatchVersion::new(write(&views, &["c", "d"]).await?, false, boundary(20), Value::Null);
            let (second, superseded) = published(views.publish(&second, Some(first.version)).await?);
            assert_eq!((keys(&second).await?.concat(), superseded.len()), ("abccd".to_owned(), 0));

            let third = NewBatchVersion::new(write(&views, &["e"]).await?, true, boundary(20), json!({"run": 3}));
            let (third, superseded) = published(views.publish(&third, Some(second.version)).await?);
            assert_eq!((third.version, keys(&third).await?.concat()), (BatchVersion(3), "e".to_owned()));
            assert_eq!((superseded.len(), keys(&second).await?.concat()), (3, "abccd".to_owned()));

            views.delete_files(superseded.clone()).await?;
            views.delete_files(superseded).await?;
            views.delete_files(third.files.iter().map(|file| file.path.clone())).await?;
            write(&views, &["orphan"]).await?;
            let reopened = open(&store).await?;
            assert_eq!(reopened.delete_orphans().await?, 1);
            let current = reopened.current();
            let current = current.as_ref().map(|view| (view.version, &view.boundary, &view.record, &view.files));
            assert_eq!(current, Some((BatchVersion(3), &boundary(20), &json!({"run": 3}), &third.files)));
        }
        Ok(())
    }

    #[tokio::test]
    async fn a_lost_response_does_not_publish_twice() -> Result<()> {
        for fault in [Fault::Before, Fault::After, Fault::AfterAndReads] {
            let (store, faults) = faulty_store()?;
            let views = open(&store).await?;
            let batch = NewBatchVersion::new(write(&views, &["a"]).await?, false, boundary(5), json!(1));
            faults.arm(fault);
            assert_eq!(views.publish(&batch, None).await.is_ok(), fault == Fault::After, "{fault:?}");
            let (view, _) = published(views.publish(&batch, None).await?);
            assert_eq!((view.version, view.rows), (BatchVersion(1), 1), "{fault:?}");
        }
        Ok(())
    }

    #[tokio::test]
    async fn a_run_that_started_from_an_older_version_publishes_nothing() -> Result<()> {
        let store = Store::in_memory()?;
        let (views, others) = (open(&store).await?, open(&store).await?);
        let new = async |keys, offset| {
            Ok::<_, Error>(NewBatchVersion::new(write(&views, keys).await?, true, boundary(offset), Value::Null))
        };
        published(others.publish(&new(&["a"], 5).await?, None).await?);
        let late = views.publish(&new(&["b"], 9).await?, None).await?;
        let PublishOutcome::Conflict { current: Some(current) } = late else { unreachable!("{late:?}") };
        assert_eq!((current.version, current.boundary), (BatchVersion(1), boundary(5)));

        let backwards = views.publish(&new(&["c"], 4).await?, Some(BatchVersion(1))).await;
        assert!(matches!(&backwards, Err(Error::Conflict { .. })), "{backwards:?}");
        assert_eq!(views.latest().await?.map(|view| view.rows), Some(1));
        Ok(())
    }

    #[tokio::test]
    async fn a_publication_in_flight_fails_once_its_files_are_deleted() -> Result<()> {
        let store = Store::in_memory()?;
        let views = open(&store).await?;
        let batch = NewBatchVersion::new(write(&views, &["a"]).await?, true, boundary(5), Value::Null);
        let base = views.table.known();
        let in_flight = new_version(&batch, None, &base);
        let next_process = open(&store).await?;
        assert_eq!(next_process.delete_orphans().await?, 1);
        let late = views.table.commit(base, &in_flight).await?;
        assert!(matches!(&late, CommitOutcome::Conflict(_)), "{late:?}");
        assert!(next_process.latest().await?.is_none());
        Ok(())
    }

    #[tokio::test]
    async fn a_dropped_definition_leaves_nothing() -> Result<()> {
        let store = Store::in_memory()?;
        let views = open(&store).await?;
        write(&views, &["a"]).await?;
        store.delete_folder(&layout::view("Per hour")?).await?;
        assert!(store.list(&store.path(&Path::from("views"))).await?.is_empty());
        Ok(())
    }
}
