//! How far the log had come when it last acknowledged something: what RocksDB alone cannot tell after its newest files
//! have been cut or lost, for a log that ends earlier looks whole.
//!
//! A small file beside RocksDB's holds the sequence number of the newest write that is on the disk. It is written after
//! the write's fsync and never synced itself: after a crash of the process it is exact, after a power cut it may be
//! older, and it is never newer than what the disk holds. So a store that opens below it has lost acknowledged events.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use twox_hash::XxHash64;

/// Name of the file in the store's folder; no name of RocksDB's, which leaves it alone.
const FILE_NAME: &str = "watershed-acknowledged";
/// What the file begins with; its last byte is the version of its form.
const MAGIC: [u8; 8] = *b"wsacked\x01";
const FILE_BYTES: usize = 24;

/// The file, open for writing.
#[derive(Debug)]
pub(super) struct Acknowledged {
    file: File,
    path: PathBuf,
    has_failed: bool,
}

impl Acknowledged {
    /// The number that a store's folder remembers; `None` without a file, or with one that is not as it was written.
    pub(super) fn read(folder: &Path) -> Option<u64> {
        let bytes: [u8; FILE_BYTES] = std::fs::read(folder.join(FILE_NAME)).ok()?.try_into().ok()?;
        let (magic, rest) = bytes.split_first_chunk()?;
        let (sequence, rest) = rest.split_first_chunk()?;
        let sequence = u64::from_le_bytes(*sequence);
        (*magic == MAGIC && encode(sequence)[16..] == *rest).then_some(sequence)
    }

    /// Where the number is kept.
    pub(super) fn path(folder: &Path) -> PathBuf {
        folder.join(FILE_NAME)
    }

    /// Opens the file, which is made if it is not there, and notes `sequence` in it.
    pub(super) fn open(folder: &Path, sequence: u64) -> io::Result<Acknowledged> {
        let path = folder.join(FILE_NAME);
        let file = OpenOptions::new().write(true).create(true).truncate(false).open(&path)?;
        file.write_all_at(&encode(sequence), 0)?;
        file.set_len(FILE_BYTES as u64)?;
        // From here on its size never changes, so that a power cut leaves an old number and never half a file.
        file.sync_all()?;
        File::open(folder)?.sync_all()?;
        Ok(Acknowledged { file, path, has_failed: false })
    }

    /// Notes that every write up to `sequence` is on the disk. Costs one write into the system's cache.
    pub(super) fn note(&mut self, sequence: u64) {
        let noted = self.file.write_all_at(&encode(sequence), 0);
        // The events are durable all the same; only their loss would be harder to see.
        if let (Err(error), false) = (&noted, self.has_failed) {
            let path = self.path.display();
            tracing::warn!(%error, %path, "cannot note how far the log has acknowledged");
        }
        self.has_failed = noted.is_err();
    }
}

fn encode(sequence: u64) -> [u8; FILE_BYTES] {
    let mut bytes = [0; FILE_BYTES];
    bytes[..8].copy_from_slice(&MAGIC);
    bytes[8..16].copy_from_slice(&sequence.to_le_bytes());
    let checksum = XxHash64::oneshot(0, &bytes[..16]);
    bytes[16..].copy_from_slice(&checksum.to_le_bytes());
    bytes
}
