//! Opens a table: from its newest checkpoint and the commits after it, from the first commit, or by creating it.
//!
//! A checkpoint that is damaged is not read; the commits that it sums up stand in for it if they are there.

use std::collections::HashMap;
use std::sync::Arc;

use arrow::datatypes::Schema;
use deltalake_core::DeltaTableError;
use deltalake_core::kernel::engine::arrow_conversion::TryIntoArrow;
use deltalake_core::kernel::transaction::CommitData;
use deltalake_core::kernel::{Action, Protocol, Snapshot, new_metadata};
use deltalake_core::logstore::CommitOrBytes;
use deltalake_core::protocol::{DeltaOperation, SaveMode};
use futures::TryStreamExt;
use object_store::path::Path;
use serde_json::json;
use uuid::Uuid;
use watershed_shared::error::ErrorKind;
use watershed_shared::fault;

use super::log_file::{commit_name, commit_version};
use super::{
    COMMIT_INFO_KEY, FORMAT_PROPERTY, FORMAT_VERSION, SEALED_FORMAT_VERSION, StoredTable, TableSnapshot, commit_token,
    metadata, seal,
};
use crate::error::{Result, with_causes};
use crate::store::Store;

impl StoredTable {
    /// Opens the table in `folder` with the columns that it has, whatever its definition says.
    ///
    /// # Errors
    /// `open`'s, and `Corrupt` when there is no table.
    pub(crate) async fn open_existing(store: &Store, folder: Path) -> Result<StoredTable> {
        let any = StoredTable::new(store, folder.clone(), Arc::new(Schema::empty()))?;
        let checkpoint = any.checkpoint_version().await?;
        let first = if checkpoint.is_none() { any.read_commit(0).await? } else { None };
        let metadata = match first {
            Some(actions) => metadata(&actions).cloned(),
            None => {
                let snapshot = Snapshot::try_new(any.log.as_ref(), checkpoint).await;
                let unreadable = |error: DeltaTableError| any.corrupt(format!("its log cannot be read: {error}"));
                Some(snapshot.map_err(unreadable)?.metadata().clone())
            }
        };
        let metadata = metadata.ok_or_else(|| any.corrupt("its first commit has no schema".to_owned()))?;
        let schema = metadata.parse_schema().and_then(|schema| Ok((&schema).try_into_arrow()?));
        let schema: Schema = schema.map_err(|error| any.corrupt(format!("its schema cannot be read: {error}")))?;
        StoredTable::open(store, folder, Arc::new(schema)).await
    }

    pub(super) async fn load(&self) -> Result<()> {
        let _access = self.log_access.lock().await;
        match self.load_checkpoint().await {
            Ok(true) => {}
            Ok(false) => self.load_first_commit().await?,
            Err(error) if error.kind() == ErrorKind::Corrupt && self.read_commit(0).await?.is_some() => {
                let error = error.to_string();
                tracing::warn!(table = %self.folder, error, "reading the commits instead of their checkpoint");
                self.load_first_commit().await?;
            }
            Err(error) => return Err(error),
        }
        self.follow_log().await?;
        self.check_nothing_follows().await
    }

    /// Starts from the newest checkpoint; false without one.
    async fn load_checkpoint(&self) -> Result<bool> {
        let mark = self.checkpoint_mark().await?;
        let version = match &mark {
            Some(mark) => {
                self.verify_checkpoint(mark).await?;
                mark.version
            }
            None => match self.last_checkpoint().await? {
                Some(version) => version,
                None => return Ok(false),
            },
        };
        self.load_base(Some(version), mark.is_some()).await?;
        *self.checkpoint.lock().await = version;
        Ok(true)
    }

    /// Starts from the first commit, or a checkpoint that only a listing finds, or creates the table.
    async fn load_first_commit(&self) -> Result<()> {
        if let Some(actions) = self.read_commit(0).await? {
            return self.apply(0, &actions);
        }
        if self.log.is_delta_table_location().await.map_err(|error| self.delta_error("open", error))? {
            // A remote store may have carried out the first commit of a dead process just now.
            if let Some(actions) = self.read_commit(0).await? {
                return self.apply(0, &actions);
            }
            return self.load_base(None, false).await;
        }
        let files = self.store.list(&self.store.path(&self.folder)).await?;
        let count = files.iter().filter(|file| file.location.extension() == Some("parquet")).count();
        match count {
            0 => self.create().await,
            _ => Err(self.corrupt(format!("its log is missing, but there are {count} data files"))),
        }
    }

    /// Takes the state that Delta's library reads at `version` or the newest.
    async fn load_base(&self, version: Option<u64>, is_verified: bool) -> Result<()> {
        let mut state = self.read_base(version).await?;
        if !is_verified && self.format_version() >= SEALED_FORMAT_VERSION {
            return Err(self.corrupt(format!("its checkpoint of version {} has no checksum", state.version)));
        }
        for version in (0..=state.version).rev() {
            let Some(actions) = self.read_commit(version).await? else {
                let reason = format!("commit {version}, the newest that Watershed made, is missing from its log");
                return Err(self.corrupt(reason));
            };
            if version == 0 || commit_token(&actions).is_some() {
                state.take_transactions(&actions);
                break;
            }
        }
        self.latest.send_replace(Arc::new(state));
        Ok(())
    }

    /// The files that Delta's library finds at `version` or the newest.
    pub(super) async fn read_base(&self, version: Option<u64>) -> Result<TableSnapshot> {
        let unreadable = |error: DeltaTableError| match self.delta_error("read a checkpoint of", error) {
            error if error.kind() == ErrorKind::Retryable => error,
            error => self.corrupt(format!("its checkpoint cannot be read: {}", with_causes(&error))),
        };
        let snapshot = Snapshot::try_new(self.log.as_ref(), version).await.map_err(unreadable)?;
        self.check_protocol(snapshot.protocol())?;
        self.check_metadata(snapshot.metadata())?;
        let mut state = TableSnapshot { version: snapshot.version(), ..TableSnapshot::nothing() };
        let files: Vec<_> = snapshot.file_views(self.log.as_ref(), None).try_collect().await.map_err(unreadable)?;
        for file in files {
            #[expect(deprecated, reason = "the only public access to a file's tags")]
            let add = file.add_action();
            let (name, file) = self.data_file(add)?;
            state.files.insert(name, file);
        }
        Ok(state)
    }

    /// A commit that is missing between others would hide those after it.
    async fn check_nothing_follows(&self) -> Result<()> {
        let known = self.known().version;
        let last = self.log_file(&commit_name(known));
        let later = self.store.list_after(&self.log_folder(), &last).await?;
        let later = later.iter().filter_map(|file| commit_version(file.location.filename()?)).min();
        match later {
            // Another commit may have come since.
            Some(version) if version > known + 1 => {
                Err(self
                    .corrupt(format!("commit {} is missing from its log, but commit {version} is there", known + 1)))
            }
            _ => Ok(()),
        }
    }

    async fn create(&self) -> Result<()> {
        let protocol = json!({"minReaderVersion": 1, "minWriterVersion": 2});
        let protocol: Protocol = serde_json::from_value(protocol).map_err(|error| self.corrupt(error.to_string()))?;
        // Old commits hold the records of batch views; only `checkpoint_if_due` knows which may go.
        let format_version = FORMAT_VERSION.to_string();
        let properties = [("delta.enableExpiredLogCleanup", "false"), (FORMAT_PROPERTY, &format_version)];
        let metadata = new_metadata(&self.delta_schema, std::iter::empty::<String>(), properties)
            .map_err(|error| self.delta_error("create", error.into()))?;
        let operation = DeltaOperation::Create {
            mode: SaveMode::ErrorIfExists,
            location: self.log.root_url().clone(),
            protocol: protocol.clone(),
            metadata: metadata.clone(),
        };
        let actions = vec![Action::Protocol(protocol), Action::Metadata(metadata)];
        let info = HashMap::from([(COMMIT_INFO_KEY.to_owned(), json!({"checksum": seal::PLACEHOLDER}))]);
        let data = CommitData::new(actions, operation, info, Vec::new());
        let bytes = data.get_bytes().map_err(|error| self.delta_error("create", error.into()))?;
        let bytes = seal::seal(&bytes, self.folder.as_ref(), 0);
        let created = self.log.write_commit_entry(0, CommitOrBytes::LogBytes(bytes), Uuid::new_v4()).await;
        fault::point("table.after_create");
        match (created, self.read_commit(0).await?) {
            // Whoever created it, and whether or not the response was lost, it is there.
            (_, Some(actions)) => self.apply(0, &actions),
            (Err(error), None) => Err(self.delta_error("create", error.into())),
            (Ok(()), None) => Err(self.corrupt("its first commit cannot be read back".to_owned())),
        }
    }
}
