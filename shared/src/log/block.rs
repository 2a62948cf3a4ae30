//! The stored form of consecutive events: a small header, the Arrow IPC body of their batch, a checksum.
//!
//! | bytes | content, little endian |
//! |---|---|
//! | 0 | format version, 1 |
//! | 1..4 | zero |
//! | 4..8 | length of the IPC message |
//! | 8..16 | number of rows, at least 1 |
//! | 16..24 | when the events were first seen, microseconds since the epoch |
//! | 24..32 | fingerprint of the schema |
//! | 32.. | IPC message of the record batch, zeros up to a multiple of 16, its body |
//! | last 8 | xxh64 of everything before |
//!
//! The schema's own IPC message is stored once, under its fingerprint: it would be most of a small block. The
//! fingerprint is the xxh64 of that message, so a stored schema checks itself, and a release of Arrow that writes
//! schemas differently only stores one more of them.

use std::collections::HashMap;
use std::sync::Arc;

use arrow::array::RecordBatch;
use arrow::buffer::Buffer;
use arrow::datatypes::SchemaRef;
use arrow::ipc::convert::try_schema_from_flatbuffer_bytes;
use arrow::ipc::reader::read_record_batch;
use arrow::ipc::writer::{DictionaryTracker, IpcDataGenerator, IpcWriteContext, IpcWriteOptions};
use arrow::ipc::{MetadataVersion, root_as_message};
use twox_hash::XxHash64;

use super::key::BlockKey;
use crate::error::{Error, Result};
use crate::panics::catch_panic;

/// The version that this code writes, and the only one so far.
const BLOCK_VERSION: u8 = 1;
const HEADER_BYTES: usize = 32;
/// Alignment of the body's buffers: enough for decimals, the widest values, so that they are read without a copy.
const ALIGNMENT: usize = 16;

/// A source's columns as blocks refer to them.
#[derive(Debug)]
pub(super) struct BlockSchema {
    /// The columns.
    pub(super) columns: SchemaRef,
    /// Names `message` in blocks and keys.
    pub(super) fingerprint: u64,
    /// The stored form of the columns.
    pub(super) message: Vec<u8>,
}

impl BlockSchema {
    /// The schema of blocks with these columns.
    pub(super) fn of(columns: &SchemaRef) -> Result<BlockSchema> {
        let message = IpcDataGenerator {}
            .schema_to_bytes_with_dictionary_tracker(columns, &mut DictionaryTracker::new(true), &write_options()?)
            .ipc_message;
        Ok(BlockSchema { columns: Arc::clone(columns), fingerprint: checksum(&message), message })
    }

    /// The columns of a stored schema message.
    ///
    /// # Errors
    /// `Corrupt`, as the fault of the block `key` that refers to it, when the message is missing or damaged.
    pub(super) fn load(fingerprint: u64, message: Option<&[u8]>, key: BlockKey<'_>) -> Result<SchemaRef> {
        let damaged = |reason| corrupt(key, format!("its schema {fingerprint:016x} {reason}"));
        let message = message.ok_or_else(|| damaged("is not in the store"))?;
        if checksum(message) != fingerprint {
            return Err(damaged("does not match its fingerprint"));
        }
        let schema = try_schema_from_flatbuffer_bytes(message).map_err(|_| damaged("does not decode"))?;
        Ok(Arc::new(schema))
    }
}

/// Turns batches into blocks; keeps its buffers between them.
#[derive(Default)]
pub(super) struct BlockEncoder {
    context: IpcWriteContext,
    block: Vec<u8>,
}

impl BlockEncoder {
    /// The block of `events`, which have the schema's columns and at least one row; valid until the next call.
    pub(super) fn encode(&mut self, schema: &BlockSchema, ingested_at_us: i64, events: &RecordBatch) -> Result<&[u8]> {
        let mut dictionaries = DictionaryTracker::new(true);
        let (_, encoded) =
            IpcDataGenerator {}.encode(events, &mut dictionaries, &write_options()?, &mut self.context)?;
        let header = Header {
            message_bytes: encoded.ipc_message.len(),
            rows: events.num_rows(),
            ingested_at_us,
            schema: schema.fingerprint,
        };
        self.block.clear();
        self.block.extend_from_slice(&header.to_bytes());
        self.block.extend_from_slice(&encoded.ipc_message);
        self.block.resize(header.body_start(), 0);
        self.block.extend_from_slice(&encoded.arrow_data);
        let checksum = checksum(&self.block);
        self.block.extend_from_slice(&checksum.to_le_bytes());
        Ok(&self.block)
    }
}

/// A stored block whose checksum is right.
#[derive(Debug)]
pub(super) struct Block<'a> {
    key: BlockKey<'a>,
    header: Header,
    /// Everything but the checksum.
    content: &'a [u8],
}

impl<'a> Block<'a> {
    /// The block stored as `value` under `key`.
    ///
    /// # Errors
    /// `Corrupt`, naming the key, unless every byte is as it was written.
    pub(super) fn open(key: BlockKey<'a>, value: &'a [u8]) -> Result<Block<'a>> {
        let (content, stored) =
            value.split_last_chunk().ok_or_else(|| corrupt(key, format!("it has only {} bytes", value.len())))?;
        let (stored, computed) = (u64::from_le_bytes(*stored), checksum(content));
        if stored != computed {
            return Err(corrupt(key, format!("its checksum is {computed:016x}, but {stored:016x} was stored with it")));
        }
        // Every version ends with a checksum, so a version that is not ours was written so.
        match content.first() {
            Some(&BLOCK_VERSION) => {}
            Some(&found) => return Err(Error::NewerFormat { what: key.to_string(), found, known: BLOCK_VERSION }),
            None => return Err(corrupt(key, "it is empty")),
        }
        let header = Header::parse(content).ok_or_else(|| corrupt(key, "its header contradicts its length"))?;
        Ok(Block { key, header, content })
    }

    /// Number of events; at least one.
    pub(super) fn rows(&self) -> usize {
        self.header.rows
    }

    /// When the events were first seen; microseconds since the epoch.
    pub(super) fn ingested_at_us(&self) -> i64 {
        self.header.ingested_at_us
    }

    /// Fingerprint of the schema that `decode` needs.
    pub(super) fn schema(&self) -> u64 {
        self.header.schema
    }

    /// The events, under the columns that `schema` names.
    ///
    /// # Errors
    /// `Corrupt`, naming the key.
    pub(super) fn decode(&self, columns: SchemaRef) -> Result<RecordBatch> {
        // arrow-ipc asserts some of what it reads. The checksum is right, but the bytes may be another version's.
        catch_panic(|| self.read(columns)).unwrap_or_else(|words| Err(corrupt(self.key, words)))
    }

    fn read(&self, columns: SchemaRef) -> Result<RecordBatch> {
        // The copy is aligned as Arrow needs it; RocksDB's own memory is not, and is gone after the next step.
        let content = Buffer::from(self.content);
        let message = &content[HEADER_BYTES..HEADER_BYTES + self.header.message_bytes];
        let message = root_as_message(message).map_err(|error| corrupt(self.key, error.to_string()))?;
        let batch = message.header_as_record_batch().ok_or_else(|| corrupt(self.key, "it holds no record batch"))?;
        let body = content.slice(self.header.body_start());
        let events = read_record_batch(&body, batch, columns, &HashMap::new(), None, &message.version())
            .map_err(|error| corrupt(self.key, error.to_string()))?;
        if events.num_rows() != self.header.rows {
            let reason = format!("its header says {} rows, its body has {}", self.header.rows, events.num_rows());
            return Err(corrupt(self.key, reason));
        }
        Ok(events)
    }
}

#[derive(Debug)]
struct Header {
    message_bytes: usize,
    rows: usize,
    ingested_at_us: i64,
    schema: u64,
}

impl Header {
    fn to_bytes(&self) -> [u8; HEADER_BYTES] {
        let mut bytes = [0; HEADER_BYTES];
        bytes[0] = BLOCK_VERSION;
        bytes[4..8].copy_from_slice(&(self.message_bytes as u32).to_le_bytes());
        bytes[8..16].copy_from_slice(&(self.rows as u64).to_le_bytes());
        bytes[16..24].copy_from_slice(&self.ingested_at_us.to_le_bytes());
        bytes[24..32].copy_from_slice(&self.schema.to_le_bytes());
        bytes
    }

    /// `None` when the bytes are too few for what they announce.
    fn parse(content: &[u8]) -> Option<Header> {
        let header = Header {
            message_bytes: u32::from_le_bytes(*content.get(4..)?.first_chunk()?) as usize,
            rows: usize::try_from(u64::from_le_bytes(*content.get(8..)?.first_chunk()?)).ok()?,
            ingested_at_us: i64::from_le_bytes(*content.get(16..)?.first_chunk()?),
            schema: u64::from_le_bytes(*content.get(24..)?.first_chunk()?),
        };
        (header.rows > 0 && header.body_start() <= content.len()).then_some(header)
    }

    fn body_start(&self) -> usize {
        (HEADER_BYTES + self.message_bytes).next_multiple_of(ALIGNMENT)
    }
}

fn write_options() -> Result<IpcWriteOptions> {
    Ok(IpcWriteOptions::try_new(ALIGNMENT, false, MetadataVersion::V5)?)
}

fn checksum(bytes: &[u8]) -> u64 {
    XxHash64::oneshot(0, bytes)
}

/// The error of a block that cannot be read.
pub(super) fn corrupt(key: BlockKey<'_>, reason: impl Into<String>) -> Error {
    Error::Corrupt { what: key.to_string(), reason: reason.into() }
}

#[cfg(test)]
mod tests {
    use arrow::array::{ArrayRef, Decimal128Array, StringArray};

    use super::*;
    use crate::position::{Offset, PartitionId};

    const KEY: BlockKey<'_> = BlockKey { source: "edits", partition: PartitionId(3), base: Offset(40) };

    /// What `testdata/block_v1.bin` and `testdata/schema_v1.bin` hold.
    fn sample() -> Result<RecordBatch> {
        let page: ArrayRef = Arc::new(StringArray::from(vec![Some("Zürich"), None, Some("")]));
        let added: ArrayRef = Arc::new(Decimal128Array::from(vec![Some(-5), Some(1 << 70), None]));
        Ok(RecordBatch::try_from_iter_with_nullable([("page", page, true), ("added", added, true)])?)
    }

    #[test]
    fn header_keeps_its_bytes() {
        let header = Header { message_bytes: 0x0102, rows: 3, ingested_at_us: -2, schema: 0x1122_3344_5566_7788 };
        let expected = "01000000020100000300000000000000feffffffffffffff8877665544332211";
        let bytes: String = header.to_bytes().iter().map(|byte| format!("{byte:02x}")).collect();
        assert_eq!(bytes, expected);
        assert_eq!(header.body_start(), 0x130);
    }

    #[test]
    fn stored_blocks_of_version_1_are_read_forever() -> Result<()> {
        let block = Block::open(KEY, include_bytes!("testdata/block_v1.bin"))?;
        assert_eq!((block.rows(), block.ingested_at_us()), (3, 1_442_016_000_123_000));
        let columns = BlockSchema::load(block.schema(), Some(include_bytes!("testdata/schema_v1.bin")), KEY)?;
        assert_eq!(block.decode(columns)?, sample()?);
        Ok(())
    }

    #[test]
    fn blocks_that_are_damaged_under_a_right_checksum_are_corrupt() -> Result<()> {
        let block = include_bytes!("testdata/block_v1.bin");
        let columns = sample()?.schema();
        for place in HEADER_BYTES..block.len() - 8 {
            for byte in [0, 1, 0x7f, 0xff] {
                let mut damaged = block[..block.len() - 8].to_vec();
                damaged[place] = byte;
                damaged.extend_from_slice(&checksum(&damaged).to_le_bytes());
                // Other values are other values; what is no batch is said to be damaged.
                let read = Block::open(KEY, &damaged)?.decode(Arc::clone(&columns));
                assert!(matches!(read, Ok(_) | Err(Error::Corrupt { .. })), "byte {place}: {read:?}");
            }
        }
        Ok(())
    }

    #[test]
    fn slices_are_stored_without_what_they_leave_out() -> Result<()> {
        let whole = sample()?;
        let schema = BlockSchema::of(&whole.schema())?;
        let mut encoder = BlockEncoder::default();
        for slice in [whole.slice(0, 3), whole.slice(1, 2), whole.slice(2, 1)] {
            let block = encoder.encode(&schema, 7, &slice)?;
            let block = Block::open(KEY, block)?;
            assert_eq!((block.rows(), block.schema()), (slice.num_rows(), schema.fingerprint));
            assert_eq!(block.decode(Arc::clone(&schema.columns))?, slice);
        }
        let text: ArrayRef = Arc::new(StringArray::from(vec!["x".repeat(1000), "y".to_owned()]));
        let text = RecordBatch::try_from_iter([("text", text)])?;
        let block = encoder.encode(&BlockSchema::of(&text.schema())?, 7, &text.slice(1, 1))?.len();
        assert!(block < 400, "{block} bytes for one letter");
        Ok(())
    }

    #[test]
    fn schema_is_loaded_only_as_it_was_stored() -> Result<()> {
        let schema = BlockSchema::of(&sample()?.schema())?;
        assert_eq!(BlockSchema::load(schema.fingerprint, Some(&schema.message), KEY)?, schema.columns);
        for message in [None, Some(&schema.message[1..]), Some(&[])] {
            let refused = BlockSchema::load(schema.fingerprint, message, KEY);
            assert!(matches!(refused, Err(Error::Corrupt { .. })), "{refused:?}");
        }
        Ok(())
    }
}
