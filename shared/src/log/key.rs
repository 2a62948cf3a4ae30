//! The keys of the embedded log's store; an encoding of our own, pinned by a golden test.
//!
//! | key | value |
//! |---|---|
//! | source, 0x00, partition u32, base offset u64 | a block of events; see `block` |
//! | 0x00, `f` | format version of the whole store, u8 |
//! | 0x00, `o`, source, 0x00, partition u32 | first offset of the partition that can be read, u64 |
//! | 0x00, `s`, fingerprint u64 | schema message that blocks refer to |
//! | 0x00, `g` | the generation of receipts in use: its number and its start; see `embedded::receipts` |
//! | 0x00, `r`, generation u64, source, 0x00, `k`, key | receipt of the request with this key |
//! | 0x00, `r`, generation u64, source, 0x00, `q`, producer, 0x00, sequence u64 | receipt of a producer's request |
//! | 0x00, `r`, generation u64, source, 0x00, `p`, producer | the producer's last request: its number and its time |
//!
//! Numbers are big endian, so a partition's blocks lie together in offset order, and the receipts of a generation lie
//! together. Receipts came without a new format version: who does not know them leaves them alone. A source's name is not empty and holds
//! no 0x00, so no block's key starts with 0x00 and no name is another key's prefix.

use std::fmt;

use super::receipt::ReceiptKey;
use crate::position::{Offset, PartitionId};

/// Key of the generation of receipts in use.
pub(super) const GENERATION_KEY: [u8; 2] = [0, b'g'];
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

/// What a key that is none of a block's says, as far as whoever checks a store needs it.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum SystemKey<'a> {
    /// A partition's start offset.
    Start(&'a str, PartitionId),
    /// A schema message.
    Schema(u64),
    /// A receipt, a producer's last request or the generation of both.
    Receipt,
    /// Anything else.
    Other,
}

/// Reads any key but a block's; `None` for that of a block.
pub(super) fn system_key(key: &[u8]) -> Option<SystemKey<'_>> {
    let known = match key.strip_prefix(&[0])? {
        [b's', fingerprint @ ..] => {
            fingerprint.try_into().ok().map(|bytes| SystemKey::Schema(u64::from_be_bytes(bytes)))
        }
        [b'o', rest @ ..] => source_and_numbers(rest)
            .map(|(source, number)| SystemKey::Start(source, PartitionId(u32::from_be_bytes(number)))),
        [b'r', ..] => Some(SystemKey::Receipt),
        _ if key == GENERATION_KEY => Some(SystemKey::Receipt),
        _ => None,
    };
    Some(known.unwrap_or(SystemKey::Other))
}

/// Reads the key of a block of any source and partition.
pub(super) fn block_key(key: &[u8]) -> Option<BlockKey<'_>> {
    let (source, numbers) = source_and_numbers::<12>(key)?;
    let (partition, base) = numbers.split_first_chunk()?;
    let partition = PartitionId(u32::from_be_bytes(*partition));
    Some(BlockKey { source, partition, base: Offset(u64::from_be_bytes(base.try_into().ok()?)) })
}

/// A source's name, a zero byte, and `N` bytes.
fn source_and_numbers<const N: usize>(key: &[u8]) -> Option<(&str, [u8; N])> {
    let end = key.iter().position(|byte| *byte == 0).filter(|end| *end > 0)?;
    Some((str::from_utf8(&key[..end]).ok()?, key[end + 1..].try_into().ok()?))
}

/// What the keys of all receipts of a generation begin with.
pub(super) fn generation_prefix(generation: u64) -> Vec<u8> {
    [&[0, b'r'][..], &generation.to_be_bytes()].concat()
}

/// Key of a request's receipt.
pub(super) fn receipt_key(generation: u64, source: &str, key: &ReceiptKey) -> Vec<u8> {
    let prefix = generation_prefix(generation);
    match key {
        ReceiptKey::Request(key) => [&prefix, source.as_bytes(), &[0, b'k'], key.as_bytes()].concat(),
        ReceiptKey::Sequence { producer, sequence } => {
            let sequence = sequence.to_be_bytes();
            [&prefix, source.as_bytes(), &[0, b'q'], producer.as_bytes(), &[0], &sequence].concat()
        }
    }
}

/// Key of a producer's last request.
pub(super) fn last_sequence_key(generation: u64, source: &str, producer: &str) -> Vec<u8> {
    [&generation_prefix(generation), source.as_bytes(), &[0, b'p'], producer.as_bytes()].concat()
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
        assert_eq!(&GENERATION_KEY, b"\0g");
        let sequence = ReceiptKey::Sequence { producer: "mill".to_owned(), sequence: 0x0102 };
        let expected = b"\0r\0\0\0\0\0\0\0\x05edits\0qmill\0\0\0\0\0\0\0\x01\x02";
        assert_eq!(receipt_key(5, "edits", &sequence), expected);
        let request = ReceiptKey::Request("a-1".to_owned());
        assert_eq!(receipt_key(5, "edits", &request), b"\0r\0\0\0\0\0\0\0\x05edits\0ka-1");
        assert_eq!(last_sequence_key(5, "edits", "mill"), b"\0r\0\0\0\0\0\0\0\x05edits\0pmill");
        assert!(generation_prefix(5) < receipt_key(5, "edits", &request));
        assert!(receipt_key(5, "zzz", &request) < generation_prefix(6));
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

    #[test]
    fn keys_are_read_without_knowing_the_source() {
        assert_eq!(block_key(&KEY.to_bytes()), Some(KEY));
        assert_eq!(system_key(&KEY.to_bytes()), None);
        assert_eq!(system_key(&start_key("edits", PartitionId(3))), Some(SystemKey::Start("edits", PartitionId(3))));
        assert_eq!(system_key(&schema_key(7)), Some(SystemKey::Schema(7)));
        assert_eq!(system_key(&FORMAT_KEY), Some(SystemKey::Other));
        assert_eq!((block_key(b"edits"), block_key(b"\0f")), (None, None));
    }
}
