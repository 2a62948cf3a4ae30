//! What one request carries, and the places between them.

use std::ops::Range;

use serde::{Deserialize, Serialize};

/// Consecutive rows of one input, as the body of one request.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Chunk {
    pub(super) body: Vec<u8>,
    pub(super) content_type: &'static str,
    /// Rows of the input before this chunk.
    pub(super) first_row: u64,
    /// The place behind the chunk's last row.
    pub(super) end: Mark,
}

impl Chunk {
    /// Its rows as rows of the input, from 0.
    pub(super) fn rows(&self) -> Range<u64> {
        self.first_row..self.end.rows
    }
}

/// A place between two rows of an input, with what is needed to recognize the input there later.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub(super) struct Mark {
    /// Rows before the place.
    pub(super) rows: u64,
    /// Bytes of uncompressed text before the place; for Parquet, of the whole file.
    pub(super) bytes: u64,
    /// CRC-32 of those bytes; for Parquet, of the file's end, which describes all of it.
    pub(super) checksum: u32,
}

/// When a chunk is large enough. The row that reaches a limit is still part of the chunk.
#[derive(Debug, Clone, Copy)]
pub(super) struct Limits {
    pub(super) rows: u64,
    pub(super) bytes: usize,
}

impl Limits {
    pub(super) fn reached(self, rows: u64, bytes: usize) -> bool {
        rows >= self.rows || bytes >= self.bytes
    }
}
