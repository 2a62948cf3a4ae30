//! Finds and reads the blocks of one partition on disk. Everything here blocks.

use std::ops::Range;
use std::sync::Arc;

use arrow::datatypes::SchemaRef;
use rocksdb::{DB, DBRawIterator, ReadOptions};

use super::super::block::{Block, BlockSchema, corrupt};
use super::super::key::{BlockKey, schema_key};
use super::super::{READ_BYTES_TARGET, check_readable};
use super::log_error;
use super::state::LogState;
use crate::error::{Error, Result};
use crate::event::LogBatch;
use crate::position::{Offset, OffsetRange, PartitionId};

/// The events from `offsets.start` on, whole blocks, until `rows_max` rows are there or `offsets.end` is reached.
pub(super) fn read_blocks(
    db: &DB,
    log: &LogState,
    partition: PartitionId,
    offsets: Range<Offset>,
    rows_max: usize,
) -> Result<Vec<LogBatch>> {
    let first = log.key(partition, offsets.start);
    let refused = |error| log_error("read", &log.source, error);
    let mut blocks = partition_iterator(db, first, offsets.end);
    blocks.seek_for_prev(first.to_bytes());
    let mut batches: Vec<LogBatch> = Vec::new();
    let mut next = offsets.start;
    let mut bytes = 0;
    while next < offsets.end && next.0 - offsets.start.0 < rows_max as u64 && bytes < READ_BYTES_TARGET {
        let found = blocks.item().and_then(|(key, value)| Some((first.parse(key)?, value)));
        let Some((key, value)) = found else {
            blocks.status().map_err(refused)?;
            return Err(missing(log, first.at(next)));
        };
        let block = Block::open(key, value)?;
        let range = OffsetRange::new(key.base, key.base.advance(block.rows()));
        let is_next =
            if batches.is_empty() { range.start() <= next && next < range.end() } else { range.start() == next };
        if !is_next {
            return Err(missing(log, first.at(next)));
        }
        let columns = columns(db, log, &block, key)?;
        let batch = LogBatch::consecutive(partition, key.base, block.ingested_at_us(), block.decode(columns)?);
        bytes += batch.events.get_array_memory_size();
        batches.push(batch.between(next, range.end()));
        next = range.end();
        blocks.next();
    }
    Ok(batches)
}

/// Offset after the last block of the key's partition; 0 without blocks.
pub(super) fn first_offset_after_blocks(db: &DB, partition: BlockKey<'_>) -> Result<Offset> {
    let mut blocks = partition_iterator(db, partition, Offset(u64::MAX));
    blocks.seek_to_last();
    match blocks.item().and_then(|(key, value)| Some((partition.parse(key)?, value))) {
        Some((key, value)) => Ok(key.base.advance(Block::open(key, value)?.rows())),
        None => {
            blocks.status().map_err(|error| log_error("open", partition.source, error))?;
            Ok(Offset::BEGINNING)
        }
    }
}

/// Base of the last block that starts at or before the key's offset, in its partition.
pub(super) fn block_holding(db: &DB, offset: BlockKey<'_>) -> Result<Option<Offset>, rocksdb::Error> {
    let mut blocks = partition_iterator(db, offset, Offset(u64::MAX));
    blocks.seek_for_prev(offset.to_bytes());
    blocks.status()?;
    Ok(blocks.key().and_then(|key| offset.parse(key)).map(|key| key.base))
}

/// Over the blocks of the key's partition that start below `end`.
fn partition_iterator<'a>(db: &'a DB, partition: BlockKey<'_>, end: Offset) -> DBRawIterator<'a> {
    let mut options = ReadOptions::default();
    options.set_iterate_lower_bound(partition.at(Offset::BEGINNING).to_bytes());
    options.set_iterate_upper_bound(partition.at(end).to_bytes());
    options.fill_cache(false);
    db.raw_iterator_opt(options)
}

/// The columns that the block was written with; today's, unless the source had others then.
fn columns(db: &DB, log: &LogState, block: &Block<'_>, key: BlockKey<'_>) -> Result<SchemaRef> {
    if block.schema() == log.schema.fingerprint {
        return Ok(Arc::clone(&log.schema.columns));
    }
    let message = db.get_pinned(schema_key(block.schema())).map_err(|error| log_error("read", &log.source, error))?;
    BlockSchema::load(block.schema(), message.as_deref(), key)
}

/// Why the offset's block is not there: it was trimmed just now, or the store has lost it.
fn missing(log: &LogState, offset: BlockKey<'_>) -> Error {
    let end = log.end.borrow().clone();
    match check_readable(&log.source, offset.partition, offset.base, &log.readable().start, &end) {
        Err(trimmed) => trimmed,
        Ok(()) => corrupt(offset, "no block holds this offset, which lies between the log's start and end"),
    }
}
