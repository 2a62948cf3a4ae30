//! One log's state in memory, and the two things about it that are stored besides its blocks: start and schema.

use std::sync::{Mutex, MutexGuard};

use rocksdb::{DB, WriteBatch};
use tokio::sync::watch;

use super::super::block::BlockSchema;
use super::super::key::{BlockKey, is_storable_name, schema_key, start_key, start_prefix};
use super::super::move_end;
use super::super::tail::Tail;
use super::blocks::{block_holding, first_offset_after_blocks};
use super::{durable, lock, log_error};
use crate::error::{Error, Result};
use crate::event::LogBatch;
use crate::fault;
use crate::position::{Offset, PartitionId, Position};
use crate::source::SourceDefinition;

/// One log's state in memory; the writer thread moves its end.
#[derive(Debug)]
pub(super) struct LogState {
    pub(super) source: String,
    pub(super) partitions: u32,
    pub(super) schema: BlockSchema,
    pub(super) end: watch::Sender<Position>,
    readable: Mutex<Readable>,
    /// The start that the store knows; locked by a trim from beginning to end.
    durable_start: Mutex<Position>,
}

#[derive(Debug)]
pub(super) struct Readable {
    pub(super) start: Position,
    pub(super) tail: Tail,
}

impl LogState {
    pub(super) fn open(db: &DB, source: &SourceDefinition, tail_bytes_max: usize) -> Result<LogState> {
        let name = &source.name;
        if !is_storable_name(name) {
            return Err(log_error("open", name, "a source's name is not empty and holds no zero byte"));
        }
        let schema = BlockSchema::of(&source.columns)?;
        let start = load_start(db, name, source.partitions)?;
        register(db, name, &schema, &start).map_err(|error| log_error("open", name, error))?;
        fault::point("log.after_register");
        let mut end = start.clone();
        for (partition, _) in start.iter() {
            let key = BlockKey { source: name, partition, base: Offset::BEGINNING };
            end.raise(partition, first_offset_after_blocks(db, key)?);
        }
        Ok(LogState {
            source: name.clone(),
            partitions: source.partitions,
            schema,
            end: watch::Sender::new(end),
            readable: Mutex::new(Readable { start: start.clone(), tail: Tail::new(source.partitions, tail_bytes_max) }),
            durable_start: Mutex::new(start),
        })
    }

    pub(super) fn readable(&self) -> MutexGuard<'_, Readable> {
        lock(&self.readable)
    }

    pub(super) fn key(&self, partition: PartitionId, base: Offset) -> BlockKey<'_> {
        BlockKey { source: &self.source, partition, base }
    }

    /// Makes durable events readable: `batches` follow the current end and reach up to `end`.
    ///
    /// Nothing is locked when the end moves: who borrows the end may ask for the start meanwhile.
    pub(super) fn publish(&self, batches: Vec<LogBatch>, end: Position) {
        let mut readable = self.readable();
        batches.into_iter().for_each(|batch| readable.tail.push(batch));
        drop(readable);
        move_end(&self.end, &end);
    }

    /// Deletes the blocks that lie wholly below `before` and remembers the new start, in one durable write.
    pub(super) fn trim(&self, db: &DB, before: &Position) -> Result<()> {
        let mut durable_start = lock(&self.durable_start);
        let end = self.end.borrow().clone();
        let mut start = durable_start.clone();
        let mut writes = WriteBatch::new();
        for (partition, old) in durable_start.iter() {
            let new = before.get(partition).min(end.get(partition));
            if new <= old {
                continue;
            }
            let kept_from = if new == end.get(partition) { new } else { self.block_base(db, partition, new)? };
            // Ranges that meet and never overlap: RocksDB's cost of overlapping ones grows with their square.
            let deleted_from = self.block_base(db, partition, old)?;
            if deleted_from < kept_from {
                let [from, to] = [deleted_from, kept_from].map(|base| self.key(partition, base).to_bytes());
                writes.delete_range(from, to);
            }
            writes.put(start_key(&self.source, partition), new.0.to_be_bytes());
            start.raise(partition, new);
        }
        if start == *durable_start {
            return Ok(());
        }
        // First refuse, then delete, so that a reader who finds its block gone can tell that it was trimmed.
        self.forget(&start);
        fault::point("log.before_trim");
        db.write_opt(writes, &durable()).map_err(|error| log_error("trim", &self.source, error))?;
        fault::point("log.after_trim");
        *durable_start = start;
        Ok(())
    }

    /// Where the block begins that holds the offset; the offset itself when no block does.
    fn block_base(&self, db: &DB, partition: PartitionId, offset: Offset) -> Result<Offset> {
        let base = block_holding(db, self.key(partition, offset));
        Ok(base.map_err(|error| log_error("trim", &self.source, error))?.unwrap_or(offset))
    }

    fn forget(&self, before: &Position) {
        let mut readable = self.readable();
        readable.start.join(before);
        before.iter().for_each(|(partition, before)| readable.tail.trim(partition, before));
    }
}

/// The start offset of each partition; 0 for those that the store does not know yet.
fn load_start(db: &DB, source: &str, partitions: u32) -> Result<Position> {
    let mut start = Position::beginning(partitions);
    let prefix = start_prefix(source);
    for item in db.prefix_iterator(&prefix) {
        let (key, value) = item.map_err(|error| log_error("open", source, error))?;
        let Some(partition) = key.strip_prefix(prefix.as_slice()) else {
            break;
        };
        let (Ok(partition), Ok(offset)) = (partition.try_into(), value.as_ref().try_into()) else {
            let what = format!("the stored start of the log of source \"{source}\"");
            return Err(Error::Corrupt { what, reason: format!("key {key:02x?}, value {value:02x?}") });
        };
        start.raise(PartitionId(u32::from_be_bytes(partition)), Offset(u64::from_be_bytes(offset)));
    }
    let stored = start.offsets().len();
    if stored > partitions as usize {
        let reason = format!(
            "it has {stored} partitions on disk, but the source is defined with {partitions}; define it with {stored} again"
        );
        return Err(log_error("open", source, reason));
    }
    Ok(start)
}

/// Makes schema and start known to the store where they are not; from then on the number of partitions is fixed below.
fn register(db: &DB, source: &str, schema: &BlockSchema, start: &Position) -> Result<(), rocksdb::Error> {
    let mut writes = WriteBatch::new();
    let mut put_absent = |key: Vec<u8>, value: &[u8]| -> Result<(), rocksdb::Error> {
        if db.get_pinned(&key)?.is_none() {
            writes.put(key, value);
        }
        Ok(())
    };
    put_absent(schema_key(schema.fingerprint), &schema.message)?;
    for (partition, offset) in start.iter() {
        put_absent(start_key(source, partition), &offset.0.to_be_bytes())?;
    }
    if writes.is_empty() { Ok(()) } else { db.write_opt(writes, &durable()) }
}
