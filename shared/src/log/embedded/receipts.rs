//! Receipts on disk. They are kept in generations, each of which takes the receipts of one window; the one before it is
//! kept too. When a new one begins, all that the one before the last holds is older than the window, and goes with one
//! range delete. So a receipt is found by at most two point reads, which for a new key the Bloom filters answer, and the
//! store holds those of two windows at most.
//!
//! | receipt, bytes | content, little endian |
//! |---|---|
//! | 0 | format version, 1 |
//! | 1..9 | hash of the request's content |
//! | 9..17 | when the events were first seen, microseconds since the epoch |
//! | 17..21 | number of offsets |
//! | 21.. | the offsets of the answer's position, u64 each; what the caller needs for its answer |
//! | last 8 | xxh64 of everything before |
//!
//! A producer's last request and the generation in use are a number u64 and a time i64 between version and checksum.

use std::fmt;
use std::sync::Arc;

use bytes::Bytes;
use rocksdb::{DB, WriteBatch};
use twox_hash::XxHash64;

use super::super::key::{GENERATION_KEY, generation_prefix, last_sequence_key, receipt_key};
use super::super::receipt::{LastSequence, Memory, MemoryReceipts, ReceiptKey, Remembered, Window};
use super::log_error;
use crate::error::{Error, Result};
use crate::fault;
use crate::position::{Offset, Position};

/// The version that this code writes, and the only one so far.
const RECEIPT_VERSION: u8 = 1;

/// The receipts of all logs of a store. Belongs to the writer thread.
pub(super) struct StoredReceipts {
    db: Arc<DB>,
    pub(super) window: Window,
    /// `None` until the store's first receipt.
    generation: Option<Generation>,
}

/// Receipts that were written while it was in use.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Generation {
    number: u64,
    start_us: i64,
}

/// The receipts of one source: those of the group that is being made, and those on disk.
pub(super) struct SourceReceipts<'a> {
    pub(super) source: &'a str,
    pub(super) pending: &'a MemoryReceipts,
    pub(super) stored: &'a StoredReceipts,
}

impl StoredReceipts {
    /// What the store holds; a store of before there were receipts holds none.
    pub(super) fn open(db: Arc<DB>, window: Window) -> Result<StoredReceipts> {
        let stored = db.get_pinned(GENERATION_KEY).map_err(|error| log_error("open", "receipts", error))?;
        let what = "the record of receipts";
        let pair = stored.map(|value| decode_pair(&value).map_err(|reason| corrupt(what, reason))).transpose()?;
        let generation = pair.map(|(number, start_us)| Generation { number, start_us });
        Ok(StoredReceipts { db, window, generation })
    }

    /// The generation that a group of this time is written in, when it is not the one in use.
    pub(super) fn next_generation(&self, now_us: i64, has_receipts: bool) -> Option<Generation> {
        let Some(Generation { number, start_us }) = self.generation else {
            return has_receipts.then_some(Generation { number: 0, start_us: now_us });
        };
        if !self.window.covers(start_us, now_us) {
            return Some(Generation { number: number + 1, start_us: now_us });
        }
        // The clock was ahead for a while; without this the generation would last until it is there again.
        (!self.window.covers(now_us, start_us)).then_some(Generation { number, start_us: now_us })
    }

    /// Adds a log's new receipts to the group's write.
    pub(super) fn put(&self, writes: &mut WriteBatch, next: Option<Generation>, source: &str, new: &MemoryReceipts) {
        let Some(Generation { number, .. }) = next.or(self.generation) else { return };
        for (key, receipt) in new.receipts() {
            writes.put(receipt_key(number, source, key), encode_receipt(receipt));
        }
        for (producer, last) in new.last_sequences() {
            let value = encode_pair(last.sequence, last.ingested_at_us);
            writes.put(last_sequence_key(number, source, producer), value);
        }
    }

    /// Adds the beginning of a generation to the group's write, and the end of the one before the last.
    pub(super) fn put_generation(&self, writes: &mut WriteBatch, next: Generation) {
        writes.put(GENERATION_KEY, encode_pair(next.number, next.start_us));
        let begins = self.generation.is_some_and(|generation| generation.number < next.number);
        if let Some(ended) = next.number.checked_sub(2).filter(|_| begins) {
            // Ranges that meet and never overlap: RocksDB's cost of overlapping ones grows with their square.
            writes.delete_range(generation_prefix(ended), generation_prefix(ended + 1));
        }
    }

    /// The write that began the generation is durable.
    pub(super) fn begin(&mut self, generation: Generation) {
        self.generation = Some(generation);
    }

    /// What one of the two newest generations holds.
    fn get<T>(
        &self,
        what: impl fmt::Display,
        source: &str,
        key: impl Fn(u64) -> Vec<u8>,
        decode: impl Fn(&[u8]) -> Result<T, String>,
    ) -> Result<Option<T>> {
        let Some(Generation { number, .. }) = self.generation else { return Ok(None) };
        if fault::has_defect("receipts.forgotten") {
            return Ok(None);
        }
        for number in [Some(number), number.checked_sub(1)].into_iter().flatten() {
            let value = self.db.get_pinned(key(number)).map_err(|error| log_error("append to", source, error))?;
            if let Some(value) = value {
                return decode(&value).map(Some).map_err(|reason| corrupt(what, reason));
            }
        }
        Ok(None)
    }
}

impl Memory for SourceReceipts<'_> {
    fn receipt(&self, key: &ReceiptKey) -> Result<Option<Remembered>> {
        if let Some(pending) = self.pending.receipt(key)? {
            return Ok(Some(pending));
        }
        let what = format_args!("the receipt of {key} of source \"{}\"", self.source);
        self.stored.get(what, self.source, |number| receipt_key(number, self.source, key), decode_receipt)
    }

    fn last_sequence(&self, producer: &str) -> Result<Option<LastSequence>> {
        if let Some(pending) = self.pending.last_sequence(producer)? {
            return Ok(Some(pending));
        }
        let what = format_args!("the last request of producer \"{producer}\" of source \"{}\"", self.source);
        let decode = |value: &[u8]| {
            decode_pair(value).map(|(sequence, ingested_at_us)| LastSequence { sequence, ingested_at_us })
        };
        self.stored.get(what, self.source, |number| last_sequence_key(number, self.source, producer), decode)
    }
}

fn encode_receipt(receipt: &Remembered) -> Vec<u8> {
    let offsets = receipt.position.offsets();
    let mut value = vec![RECEIPT_VERSION];
    value.extend_from_slice(&receipt.content.to_le_bytes());
    value.extend_from_slice(&receipt.ingested_at_us.to_le_bytes());
    value.extend_from_slice(&(offsets.len() as u32).to_le_bytes());
    offsets.iter().for_each(|offset| value.extend_from_slice(&offset.0.to_le_bytes()));
    value.extend_from_slice(&receipt.answer);
    with_checksum(value)
}

fn decode_receipt(value: &[u8]) -> Result<Remembered, String> {
    let mut content = checked(value)?;
    let receipt = (|| {
        let hash = u64::from_le_bytes(take(&mut content)?);
        let ingested_at_us = i64::from_le_bytes(take(&mut content)?);
        let count = u32::from_le_bytes(take(&mut content)?);
        let offsets = (0..count).map(|_| take(&mut content).map(|bytes| Offset(u64::from_le_bytes(bytes))));
        let position = Position::new(offsets.collect::<Option<_>>()?);
        Some(Remembered { content: hash, ingested_at_us, position, answer: Bytes::copy_from_slice(content) })
    })();
    receipt.ok_or_else(|| format!("it has only {} bytes", value.len()))
}

fn encode_pair(number: u64, time_us: i64) -> Vec<u8> {
    with_checksum([&[RECEIPT_VERSION][..], &number.to_le_bytes(), &time_us.to_le_bytes()].concat())
}

fn decode_pair(value: &[u8]) -> Result<(u64, i64), String> {
    let mut content = checked(value)?;
    let pair = (|| Some((u64::from_le_bytes(take(&mut content)?), i64::from_le_bytes(take(&mut content)?))))();
    pair.filter(|_| content.is_empty()).ok_or_else(|| format!("it has {} bytes", value.len()))
}

fn with_checksum(mut value: Vec<u8>) -> Vec<u8> {
    let checksum = XxHash64::oneshot(0, &value);
    value.extend_from_slice(&checksum.to_le_bytes());
    value
}

/// What lies between version and checksum, if both are right.
pub(super) fn checked(value: &[u8]) -> Result<&[u8], String> {
    match value.split_last_chunk() {
        Some((content, stored)) if XxHash64::oneshot(0, content) == u64::from_le_bytes(*stored) => match content {
            [RECEIPT_VERSION, rest @ ..] => Ok(rest),
            [version, ..] => Err(format!("its format version is {version}, not {RECEIPT_VERSION}")),
            [] => Err("it is empty".to_owned()),
        },
        _ => Err("its checksum does not match".to_owned()),
    }
}

fn take<const N: usize>(bytes: &mut &[u8]) -> Option<[u8; N]> {
    let (taken, rest) = bytes.split_first_chunk()?;
    *bytes = rest;
    Some(*taken)
}

fn corrupt(what: impl fmt::Display, reason: String) -> Error {
    Error::Corrupt { what: what.to_string(), reason }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample() -> Remembered {
        let position = Position::new(vec![Offset(12), Offset(40)]);
        let answer = Bytes::from_static(b"{\"accepted\":2}");
        Remembered { content: 0x1122_3344_5566_7788, ingested_at_us: 1_442_016_000_123_000, position, answer }
    }

    #[test]
    fn stored_receipts_of_version_1_are_read_forever() {
        assert_eq!(decode_receipt(include_bytes!("../testdata/receipt_v1.bin")), Ok(sample()));
        assert_eq!(decode_pair(include_bytes!("../testdata/last_sequence_v1.bin")), Ok((7, -2)));
    }

    #[test]
    fn receipts_are_written_as_version_1() {
        assert_eq!(encode_receipt(&sample()), include_bytes!("../testdata/receipt_v1.bin"));
        assert_eq!(encode_pair(7, -2), include_bytes!("../testdata/last_sequence_v1.bin"));
    }

    #[test]
    fn damaged_receipts_are_refused() {
        let (receipt, pair) = (encode_receipt(&sample()), encode_pair(7, -2));
        for byte in 0..receipt.len() {
            let mut damaged = receipt.clone();
            damaged[byte] ^= 0x10;
            assert!(decode_receipt(&damaged).is_err(), "byte {byte}");
            assert!(decode_receipt(&receipt[..byte]).is_err(), "cut at {byte}");
        }
        for byte in 0..pair.len() {
            assert!(decode_pair(&pair[..byte]).is_err(), "cut at {byte}");
        }
        assert!(decode_pair(&receipt).is_err() && decode_receipt(&pair).is_err());
        let mut newer = receipt[..receipt.len() - 8].to_vec();
        newer[0] = 2;
        assert_eq!(decode_receipt(&with_checksum(newer)), Err("its format version is 2, not 1".to_owned()));
    }
}
