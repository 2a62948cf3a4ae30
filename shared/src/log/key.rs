//! The keys of the embedded log's store; an encoding of our own, pinned by a golden test.
//!
//! | key | value |
//! |---|---|
//! | source, 0x00, partition u32, base offset u64 | a block of events; see `block` |
//! | 0x00, `f` | format version of the whole store, u8 |
//! | 0x00, `o`, source, 0x00, partition u32 | first offset of the partition that can be read, u64 |
//! | 0x00, `s`, fingerprint u64 | schema message that blocks refer to |
//!
//! Numbers are big endian, so a partition's blocks lie together in offset order. A source's name is not empty and holds
//! no 0x00, so no block's key starts with 0x00 and no name is another key's prefix.

use std::fmt;

use crate::position::{Offset, PartitionId};

/// Key of the store's format version.
pub(super) const FORMAT_KEY: [u8; 2] = [0, b'f'];

/// Whether keys can hold this name.
pub(super) fn is_storable_name(source: &str) -> bool {
    !source.is_empty() && !source.contains('\0')
}

/// Where a block of events is stored; displays as an operator would name it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct BlockKey<'a> {
    /// Name of the source.
    pub(super) source: &'a str,
    /// Partition that holds the events.
    pub(super) partition: PartitionId,
    /// Offset of the block's first event.
    pub(super) base: Offset,
}

impl BlockKey<'_> {
    /// The stored form.
    pub(super) fn to_bytes(self) -> Vec<u8> {
        let mut key = Vec::with_capacity(self.source.len() + 13);
        key.extend_from_slice(self.source.as_bytes());
        key.push(0);
        key.extend_from_slice(&self.partition.0.to_be_bytes());
        key.extend_from_slice(&self.base.0.to_be_bytes());
        key
    }

    /// The key at another offset of the same partition.
    pub(super) fn at(self, base: Offset) -> Self {
        BlockKey { base, ..self }
    }

    /// The key that a store of this partition's blocks gave back; `None` when it is not one.
    pub(super) fn parse(self, key: &[u8]) -> Option<Self> {
        let base = Offset(u64::from_be_bytes(*key.last_chunk()?));
        let parsed = self.at(base);
        (parsed.to_bytes() == key).then_some(parsed)
    }
}

impl fmt::Display for BlockKey<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "the log block of source \"{}\", partition {}, offset {}", self.source, self.partition, self.base)
    }
}

/// What the keys of all start offsets of a source begin with.
pub(super) fn start_prefix(source: &str) -> Vec<u8> {
    [&[0, b'o'], source.as_bytes(), &[0]].concat()
}

/// Key of a partition's start offset.
pub(super) fn start_key(source: &str, partition: PartitionId) -> Vec<u8> {
    [start_prefix(source).as_slice(), &partition.0.to_be_bytes()].concat()
}

/// Key of the schema message with this fingerprint.
pub(super) fn schema_key(fingerprint: u64) -> Vec<u8> {
    [&[0, b's'][..], &fingerprint.to_be_bytes()].concat()
}

#[cfg(test)]
mod tests {
    use super::*;

    const KEY: BlockKey<'_> = BlockKey { source: "edits", partition: PartitionId(3), base: Offset(0x0102) };

    #[test]
    fn keys_keep_their_bytes() {
        assert_eq!(KEY.to_bytes(), b"edits\0\0\0\0\x03\0\0\0\0\0\0\x01\x02");
        assert_eq!(start_key("edits", PartitionId(3)), b"\0oedits\0\0\0\0\x03");
        assert_eq!(schema_key(0x0102), b"\0s\0\0\0\0\0\0\x01\x02");
        assert_eq!(&FORMAT_KEY, b"\0f");
    }

    #[test]
    fn keys_sort_by_source_then_partition_then_offset() {
        let key = |source, partition, base| {
            BlockKey { source, partition: PartitionId(partition), base: Offset(base) }.to_bytes()
        };
        let sorted =
            [key("a", 0, 0), key("a", 0, 255), key("a", 0, 256), key("a", 1, 0), key("a", 256, 7), key("ab", 0, 0)];
        assert!(sorted.is_sorted());
    }

    #[test]
    fn only_keys_of_the_partition_parse() {
        assert_eq!(KEY.at(Offset(0)).parse(&KEY.to_bytes()), Some(KEY));
        assert_eq!(BlockKey { partition: PartitionId(4), ..KEY }.parse(&KEY.to_bytes()), None);
        assert_eq!(BlockKey { source: "edit", ..KEY }.parse(&KEY.to_bytes()), None);
        assert_eq!(KEY.parse(b"short"), None);
    }
}
