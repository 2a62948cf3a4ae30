//! Reads Parquet files in chunks of rows that travel as Arrow IPC streams: the types stay as they are.

use std::collections::VecDeque;
use std::fs::File;
use std::io::{Read, Seek, SeekFrom};

use anyhow::{Context, Result, bail};
use arrow::array::RecordBatch;
use arrow::ipc::writer::StreamWriter;
use flate2::Crc;
use parquet::arrow::arrow_reader::{ParquetRecordBatchReader, ParquetRecordBatchReaderBuilder};

use super::chunk::{Chunk, Limits, Mark};

/// How much of a file's end is its fingerprint: the footer, with the place and size of every column chunk.
const FINGERPRINT_BYTES: u64 = 64 * 1024;

/// A Parquet file on its way into chunks.
pub(super) struct ParquetChunks {
    batches: ParquetRecordBatchReader,
    /// Read, but not yet in a chunk.
    pending: VecDeque<RecordBatch>,
    limits: Limits,
    /// How many rows have proved to fit into a chunk.
    rows_that_fit: usize,
    /// The place behind the last chunk.
    mark: Mark,
    rows_total: u64,
}

impl ParquetChunks {
    /// Opens a file behind its first `skip` rows.
    ///
    /// # Errors
    /// When it is no Parquet file, or one with an encoding or compression that is not supported.
    pub(super) fn new(mut file: File, limits: Limits, skip: u64) -> Result<ParquetChunks> {
        let fingerprint = fingerprint(&mut file).context("cannot read the file")?;
        let rows_that_fit = usize::try_from(limits.rows).unwrap_or(usize::MAX).max(1);
        let builder = ParquetRecordBatchReaderBuilder::try_new(file).context("cannot read the file as Parquet")?;
        let rows_total = u64::try_from(builder.metadata().file_metadata().num_rows()).unwrap_or(0);
        let skip_rows = usize::try_from(skip).context("the file is too large for this machine")?;
        let batches = builder
            .with_batch_size(rows_that_fit)
            .with_offset(skip_rows)
            .build()
            .context("cannot read the file as Parquet")?;
        let mark = Mark { rows: skip, ..fingerprint };
        Ok(ParquetChunks { batches, pending: VecDeque::new(), limits, rows_that_fit, mark, rows_total })
    }

    /// Whether this is the file of which `mark` was made.
    pub(super) fn recognizes(&self, mark: Mark) -> bool {
        self.mark == mark
    }

    /// Which part of the file, from 0 to 1, is in chunks.
    pub(super) fn part_read(&self) -> f64 {
        if self.rows_total == 0 { 1.0 } else { self.mark.rows as f64 / self.rows_total as f64 }
    }

    /// The next rows; `None` when there are no more.
    ///
    /// # Errors
    /// When the file is damaged.
    pub(super) fn next_chunk(&mut self) -> Result<Option<Chunk>> {
        while let Some(batch) = self.next_batch()? {
            let rows = batch.num_rows().min(self.rows_that_fit);
            let body = encode(&batch.slice(0, rows))?;
            if body.len() > self.limits.bytes && rows > 1 {
                // In proportion, so that the next attempt nearly fits; at least halved, so that attempts end.
                let in_proportion = rows as u128 * self.limits.bytes as u128 / body.len() as u128;
                self.rows_that_fit = usize::try_from(in_proportion).unwrap_or(rows).clamp(1, rows / 2);
                self.pending.push_front(batch);
                continue;
            }
            if rows < batch.num_rows() {
                self.pending.push_front(batch.slice(rows, batch.num_rows() - rows));
            }
            let first_row = self.mark.rows;
            self.mark.rows += rows as u64;
            let content_type = "application/vnd.apache.arrow.stream";
            return Ok(Some(Chunk { body, content_type, first_row, end: self.mark }));
        }
        if self.mark.rows != self.rows_total {
            bail!("the file says it has {} rows but holds {}; it may be damaged", self.rows_total, self.mark.rows);
        }
        Ok(None)
    }

    fn next_batch(&mut self) -> Result<Option<RecordBatch>> {
        if let Some(batch) = self.pending.pop_front() {
            return Ok(Some(batch));
        }
        for batch in self.batches.by_ref() {
            let batch = batch.with_context(|| format!("cannot read on after row {}", self.mark.rows))?;
            if batch.num_rows() > 0 {
                return Ok(Some(batch));
            }
        }
        Ok(None)
    }
}

fn encode(batch: &RecordBatch) -> Result<Vec<u8>> {
    let mut writer = StreamWriter::try_new(Vec::new(), &batch.schema()).context("cannot encode rows as Arrow")?;
    writer.write(batch).context("cannot encode rows as Arrow")?;
    writer.into_inner().context("cannot encode rows as Arrow")
}

fn fingerprint(file: &mut File) -> std::io::Result<Mark> {
    let bytes = file.seek(SeekFrom::End(0))?;
    file.seek(SeekFrom::Start(bytes.saturating_sub(FINGERPRINT_BYTES)))?;
    let mut end = Vec::new();
    file.by_ref().take(FINGERPRINT_BYTES).read_to_end(&mut end)?;
    file.seek(SeekFrom::Start(0))?;
    let mut checksum = Crc::new();
    checksum.update(&end);
    Ok(Mark { rows: 0, bytes, checksum: checksum.sum() })
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test may panic")]
mod tests {
    use std::sync::Arc;

    use arrow::array::{ArrayRef, Int64Array, StringArray};
    use arrow::compute::concat_batches;
    use arrow::ipc::reader::StreamReader;
    use parquet::arrow::ArrowWriter;

    use super::*;

    fn events() -> RecordBatch {
        let ids: ArrayRef = Arc::new(Int64Array::from_iter_values(0..1000));
        let names: ArrayRef = Arc::new(StringArray::from_iter_values((0..1000).map(|id| "x".repeat(id % 50))));
        RecordBatch::try_from_iter([("id", ids), ("name", names)]).unwrap()
    }

    fn file_of(batch: &RecordBatch) -> File {
        let file = tempfile::tempfile().unwrap();
        let mut writer = ArrowWriter::try_new(file.try_clone().unwrap(), batch.schema(), None).unwrap();
        writer.write(batch).unwrap();
        writer.close().unwrap();
        file
    }

    fn rows_of(chunks: &[Chunk]) -> RecordBatch {
        let decode =
            |chunk: &Chunk| StreamReader::try_new(&chunk.body[..], None).unwrap().collect::<Result<Vec<_>, _>>();
        let batches: Vec<RecordBatch> = chunks.iter().flat_map(|chunk| decode(chunk).unwrap()).collect();
        concat_batches(&events().schema(), &batches).unwrap()
    }

    fn all(mut chunks: ParquetChunks) -> Vec<Chunk> {
        std::iter::from_fn(|| chunks.next_chunk().unwrap()).collect()
    }

    #[test]
    fn rows_arrive_in_order_within_both_limits() {
        let limits = Limits { rows: 400, bytes: 6000 };
        let chunks = all(ParquetChunks::new(file_of(&events()), limits, 0).unwrap());
        assert_eq!(rows_of(&chunks), events());
        assert!(
            chunks.len() > 3
                && chunks.iter().all(|chunk| chunk.body.len() <= 6000 && chunk.end.rows - chunk.first_row <= 400)
        );
    }

    #[test]
    fn resuming_at_any_chunk_gives_exactly_the_rest() {
        let limits = Limits { rows: 300, bytes: 1 << 20 };
        let file = file_of(&events());
        let whole = all(ParquetChunks::new(file.try_clone().unwrap(), limits, 0).unwrap());
        assert_eq!(whole.len(), 4);
        for (index, chunk) in whole.iter().enumerate().take(3) {
            let rest = ParquetChunks::new(file.try_clone().unwrap(), limits, chunk.end.rows).unwrap();
            assert!(rest.recognizes(chunk.end));
            assert_eq!(rows_of(&all(rest)), rows_of(&whole[index + 1..]));
        }
        let other = ParquetChunks::new(file_of(&events().slice(0, 900)), limits, 300).unwrap();
        assert!(!other.recognizes(whole[0].end), "another file");
    }
}
