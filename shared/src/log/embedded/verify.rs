//! Reads everything in a store and says what is damaged, which events that concerns, and what each log holds.
//!
//! Needs no definitions: the keys say which source and partition a block belongs to. Reading all keys makes RocksDB check
//! the checksums of all its blocks; ours are checked on top.

use std::collections::HashMap;

use arrow::datatypes::SchemaRef;
use rocksdb::{DBRawIterator, ReadOptions};

use super::super::block::{Block, BlockSchema};
use super::super::key::{BlockKey, SystemKey, block_key, system_key};
use super::LogStore;
use super::receipts::checked;
use crate::error::Error;
use crate::position::{Offset, PartitionId};

/// What a store holds, and what of it is damaged.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct LogReport {
    /// The partitions of all logs, by source and number.
    pub partitions: Vec<LogPartition>,
    /// What is damaged, in the order in which it lies in the store.
    pub damages: Vec<LogDamage>,
    /// How each receipt that is damaged is so: a repeated request that needs one fails.
    pub damaged_receipts: Vec<String>,
}

/// What a store holds of one partition.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LogPartition {
    /// Name of the source.
    pub source: String,
    /// The partition.
    pub partition: PartitionId,
    /// The first offset that can be read.
    pub start: Offset,
    /// The offset after the last that is stored.
    pub end: Offset,
    /// Number of blocks.
    pub blocks: u64,
}

/// Stored events that cannot be read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LogDamage {
    /// Name of the source; empty when it is unknown.
    pub source: String,
    /// The partition.
    pub partition: PartitionId,
    /// The first offset that cannot be read.
    pub from: Offset,
    /// The next offset that can; `None` when there is none.
    pub to: Option<Offset>,
    /// How the damage shows.
    pub reason: String,
}

impl LogStore {
    /// Reads everything in the store, checks it, and calls `progress` with the bytes of each block. Blocks.
    pub fn verify(&self, progress: &mut dyn FnMut(u64)) -> LogReport {
        let mut options = ReadOptions::default();
        options.fill_cache(false);
        options.set_verify_checksums(true);
        let mut entries = self.store.db.raw_iterator_opt(options);
        let mut reading = Reading::default();
        entries.seek_to_first();
        loop {
            while let Some((key, value)) = entries.item() {
                progress(value.len() as u64);
                reading.take(key, value);
                entries.next();
            }
            let Err(error) = entries.status() else { break };
            if !reading.skip(&mut entries, error.into_string()) {
                break;
            }
        }
        reading.report
    }
}

/// A report while it is made.
#[derive(Default)]
struct Reading {
    report: LogReport,
    starts: HashMap<(String, PartitionId), Offset>,
    schemas: HashMap<u64, Vec<u8>>,
    /// Whether the last damage still waits for the next block that can be read.
    is_damage_open: bool,
}

impl Reading {
    fn take(&mut self, key: &[u8], value: &[u8]) {
        match system_key(key) {
            Some(SystemKey::Start(source, partition)) => {
                let start = value.try_into().map(u64::from_be_bytes).unwrap_or_default();
                self.starts.insert((source.to_owned(), partition), Offset(start));
                self.partition(source, partition);
            }
            Some(SystemKey::Schema(fingerprint)) => {
                self.schemas.insert(fingerprint, value.to_vec());
            }
            Some(SystemKey::Receipt) => self.report.damaged_receipts.extend(checked(value).err()),
            Some(SystemKey::Other) => {}
            None => match block_key(key) {
                Some(key) => self.take_block(key, value),
                None => self.damage("", PartitionId(0), Offset(0), format!("a key is none of ours: {key:02x?}")),
            },
        }
    }

    fn take_block(&mut self, key: BlockKey<'_>, value: &[u8]) {
        let BlockKey { source, partition, base } = key;
        let index = self.partition(source, partition);
        let next = self.report.partitions[index].end;
        if self.is_damage_open {
            self.close_damage(source, partition, base);
        } else if base > next {
            let reason = "no block holds these offsets, which lie between the log's start and end".to_owned();
            self.damage(source, partition, next, reason);
            self.close_damage(source, partition, base);
        }
        let known = &mut self.report.partitions[index];
        known.blocks += 1;
        match rows(key, value, &self.schemas) {
            Ok(rows) => known.end = base.advance(rows).max(known.end),
            Err(error) => {
                known.end = base.max(known.end);
                let reason = match error {
                    Error::Corrupt { reason, .. } => reason,
                    error => error.to_string(),
                };
                self.damage(source, partition, base, reason);
            }
        }
    }

    /// Index of the partition's entry, which is made if there is none.
    fn partition(&mut self, source: &str, partition: PartitionId) -> usize {
        let is_it = |known: &LogPartition| known.source == source && known.partition == partition;
        // Blocks come in the order of partitions, so the last looked for is mostly the last found.
        self.report.partitions.iter().rposition(is_it).unwrap_or_else(|| {
            let start = self.starts.get(&(source.to_owned(), partition)).copied().unwrap_or_default();
            let source = source.to_owned();
            self.report.partitions.push(LogPartition { source, partition, start, end: start, blocks: 0 });
            self.report.partitions.len() - 1
        })
    }

    fn damage(&mut self, source: &str, partition: PartitionId, from: Offset, reason: String) {
        self.report.damages.push(LogDamage { source: source.to_owned(), partition, from, to: None, reason });
        self.is_damage_open = true;
    }

    /// Ends the open damage where the next block begins, if that is of the same partition.
    fn close_damage(&mut self, source: &str, partition: PartitionId, base: Offset) {
        self.is_damage_open = false;
        if let Some(damage) = self.report.damages.last_mut()
            && damage.source == source
            && damage.partition == partition
        {
            damage.to = Some(base);
        }
    }

    /// Goes on behind what RocksDB cannot read, in ever larger steps; false when there is nothing more to read.
    fn skip(&mut self, entries: &mut DBRawIterator<'_>, reason: String) -> bool {
        let Some(last) = self.report.partitions.iter().rfind(|partition| partition.blocks > 0).cloned() else {
            self.damage("", PartitionId(0), Offset(0), reason);
            return false;
        };
        let key = BlockKey { source: &last.source, partition: last.partition, base: last.end };
        if !self.is_damage_open {
            self.damage(&last.source, last.partition, last.end, reason);
        }
        // What cannot be read may begin in this partition or in the next one.
        let following = PartitionId(last.partition.0 + 1);
        let start = self.starts.get(&(last.source.clone(), following)).copied().unwrap_or_default();
        let following = BlockKey { partition: following, base: start, ..key };
        let steps = |from: BlockKey<'_>| (0..48).map(move |step| from.base.advance(1 << step));
        let targets = steps(key).map(|base| key.at(base)).chain([following]);
        for target in targets.chain(steps(following).map(|base| following.at(base))) {
            entries.seek(target.to_bytes());
            if entries.valid() || entries.status().is_ok() {
                return true;
            }
        }
        false
    }
}

/// Number of events in a block that decodes.
fn rows(key: BlockKey<'_>, value: &[u8], schemas: &HashMap<u64, Vec<u8>>) -> crate::error::Result<usize> {
    let block = Block::open(key, value)?;
    let message = schemas.get(&block.schema()).map(Vec::as_slice);
    let columns: SchemaRef = BlockSchema::load(block.schema(), message, key)?;
    Ok(block.decode(columns)?.num_rows())
}
