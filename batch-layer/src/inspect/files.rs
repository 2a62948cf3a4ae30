//! Checks the data files of a table: every block of each, the number of rows, and what no version names.

use std::collections::BTreeMap;
use std::sync::Arc;

use object_store::{ObjectMeta, ObjectStoreExt};
use parquet::file::metadata::{PageIndexPolicy, ParquetMetaDataReader};

use super::{Inspection, Repair, Severity};
use crate::checksum::{BLOCK_BYTES, Damage};
use crate::data_file::DataFile;
use crate::error::{Error, Result};
use crate::table::{LogFile, TableSnapshot};
use crate::verified::{ReadError, VerifiedFile};

/// Blocks read at once.
const BLOCKS_PER_READ: usize = 64;

/// A file that cannot be read.
#[derive(Debug)]
pub(super) struct DamagedFile {
    pub(super) file: Arc<DataFile>,
    pub(super) what: String,
}

impl Inspection<'_> {
    /// Checks all files of a version; gives the damaged ones and the number of those without checksums.
    pub(super) async fn data_files(&mut self, snapshot: &TableSnapshot) -> Result<(Vec<DamagedFile>, usize)> {
        let mut damaged = Vec::new();
        let mut unverified = 0;
        for file in snapshot.files.values() {
            let checked = match file.checksum {
                Some(_) => self.blocks(file).await,
                None => {
                    unverified += 1;
                    self.footer(file).await
                }
            };
            let what = match checked {
                Ok(rows) if rows == file.rows => continue,
                Ok(rows) => format!("its footer says {rows} rows, the table's log says {}", file.rows),
                Err(ReadError::Damaged(damage)) => damage.to_string(),
                Err(ReadError::Store(source)) => {
                    return Err(Error::Store { action: "read", path: file.path.to_string(), source });
                }
            };
            damaged.push(DamagedFile { file: Arc::clone(file), what });
        }
        Ok((damaged, unverified))
    }

    /// Checks every block; gives the number of rows in the footer.
    async fn blocks(&self, file: &DataFile) -> Result<u64, ReadError> {
        let Some(checksum) = file.checksum else { return self.footer(file).await };
        let objects = Arc::clone(self.store.objects());
        let verified = VerifiedFile { objects, path: file.path.clone(), bytes: file.bytes, checksum };
        let footer = verified.metadata(PageIndexPolicy::Optional).await?;
        let blocks = checksum.blocks(&footer, file.bytes).map_err(ReadError::Damaged)?;
        for first in (0..blocks.count()).step_by(BLOCKS_PER_READ) {
            let last = (first + BLOCKS_PER_READ).min(blocks.count()) - 1;
            let range = blocks.range(first).start..blocks.range(last).end;
            verified.read(&blocks, std::slice::from_ref(&range)).await?;
            (self.progress)(range.end - range.start);
        }
        Ok(footer.file_metadata().num_rows() as u64)
    }

    /// Reads the footer of a file that has no checksums.
    async fn footer(&self, file: &DataFile) -> Result<u64, ReadError> {
        let footer_error = |error: parquet::errors::ParquetError| ReadError::Damaged(Damage::Footer(error.to_string()));
        let found = match self.store.objects().head(&file.path).await {
            Ok(found) => found.size,
            Err(object_store::Error::NotFound { .. }) => return Err(ReadError::Damaged(Damage::Missing)),
            Err(error) => return Err(ReadError::Store(error)),
        };
        if found != file.bytes {
            return Err(ReadError::Damaged(Damage::Length { expected: file.bytes, found }));
        }
        let mut start = file.bytes.saturating_sub(BLOCK_BYTES);
        loop {
            let end = self.store.objects().get_range(&file.path, start..file.bytes).await.map_err(ReadError::Store)?;
            let mut reader = ParquetMetaDataReader::new();
            match reader.try_parse_sized(&end, file.bytes) {
                Ok(()) => {
                    (self.progress)(file.bytes);
                    let footer = reader.finish().map_err(footer_error)?;
                    return Ok(footer.file_metadata().num_rows() as u64);
                }
                Err(parquet::errors::ParquetError::NeedMoreData(needed)) if start > 0 => {
                    start = file.bytes.saturating_sub(needed as u64);
                }
                Err(error) => return Err(footer_error(error)),
            }
        }
    }

    /// Says which objects in a table's folder no version names.
    pub(super) fn orphans(
        &mut self,
        folder: &object_store::path::Path,
        objects: &BTreeMap<String, ObjectMeta>,
        snapshot: &TableSnapshot,
    ) {
        let is_orphan = |(name, object): &(&String, &ObjectMeta)| match name.strip_prefix("_delta_log/") {
            Some(name) => LogFile::is_staged(name),
            None => !snapshot.files.values().any(|file| file.path == object.location),
        };
        let orphans: Vec<_> = objects.iter().filter(is_orphan).map(|(_, object)| object).collect();
        if orphans.is_empty() {
            return;
        }
        let bytes: u64 = orphans.iter().map(|object| object.size).sum();
        let what = format!(
            "{} files of {bytes} bytes belong to no version: a crash or an old version left them",
            orphans.len()
        );
        let repair = Repair::Delete(orphans.iter().map(|object| object.location.clone()).collect());
        let place = self.store.path(folder);
        self.find(
            Severity::Note,
            what,
            place,
            "nothing: the next start deletes them, and so does a repair",
            Some(repair),
        );
    }
}
