//! Checksums of data files, and reading with them: nothing is handed out that is not what was written.
//!
//! Parquet's writer here makes no checksums of its own. So a file carries them: its footer holds an xxh64 of every 64 KiB
//! block before the footer, and the footer itself (with the page index before it) is covered by one that the Delta log
//! holds as a tag of the file. A scan reads any range as the whole blocks around it, checks them and hands out slices of
//! what it has read, so checking costs a hash of what is read and no copy.
//!
//! ```text
//! | block 0 | block 1 | ... | last block | page index, footer with the checksums of the blocks |
//!                                        ^ start of the tail, whose checksum is in the Delta log
//! ```

use std::hash::Hasher;
use std::ops::Range;

use bytes::Bytes;
use parquet::file::metadata::{KeyValue, PageIndexPolicy, ParquetMetaData, ParquetMetaDataReader};
use twox_hash::XxHash64;

/// Bytes covered by one checksum: small, because a lookup reads and checks at least one block; large, because each costs
/// 16 bytes of the footer.
pub(crate) const BLOCK_BYTES: u64 = 64 << 10;
/// Key of the blocks' checksums in a footer: 16 hexadecimal digits for each block, in order.
const BLOCKS_KEY: &str = "watershed.blocks.xxh64";

/// What proves a whole file: where its tail starts, and what the tail's bytes are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FileChecksum {
    /// Where the data ends, and page index and footer begin.
    tail_start: u64,
    /// xxh64 of the bytes from there on.
    tail: u64,
}

/// How bytes differ from those that were written.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Damage {
    #[error("its bytes from {} to {} have the checksum {found:016x}, but {expected:016x} was written", .bytes.start, .bytes.end)]
    Checksum { bytes: Range<u64>, expected: u64, found: u64 },
    #[error("it has {found} bytes, but {expected} were written")]
    Length { expected: u64, found: u64 },
    #[error("it is missing")]
    Missing,
    #[error("its footer is not one: {0}")]
    Footer(String),
}

/// The checksums of a file's blocks, to be written into its footer.
pub(crate) fn block_checksums(data: &[u8]) -> KeyValue {
    let sums = data.chunks(BLOCK_BYTES as usize).map(|block| to_hex(xxh64(block)));
    KeyValue::new(BLOCKS_KEY.to_owned(), sums.collect::<String>())
}

impl FileChecksum {
    /// Of a complete file whose data ends at `tail_start`.
    pub(crate) fn of(file: &[u8], tail_start: usize) -> FileChecksum {
        FileChecksum { tail_start: tail_start as u64, tail: xxh64(&file[tail_start..]) }
    }

    /// The form in which the Delta log keeps it.
    pub(crate) fn to_tag(self) -> String {
        format!("xxh64:{}:{}", self.tail_start, to_hex(self.tail))
    }

    /// Reads that form.
    pub(crate) fn from_tag(tag: &str) -> Option<FileChecksum> {
        let (tail_start, tail) = tag.strip_prefix("xxh64:")?.split_once(':')?;
        Some(FileChecksum { tail_start: tail_start.parse().ok()?, tail: from_hex(tail)? })
    }

    pub(crate) fn tail_range(self, file_bytes: u64) -> Range<u64> {
        self.tail_start.min(file_bytes)..file_bytes
    }

    /// Reads the footer, and the page index if asked for, of a file from its tail.
    pub(crate) fn open_tail(
        self,
        tail: &Bytes,
        file_bytes: u64,
        page_index: PageIndexPolicy,
    ) -> Result<ParquetMetaData, Damage> {
        check(self.tail_range(file_bytes), tail, self.tail)?;
        let footer = |error: parquet::errors::ParquetError| Damage::Footer(error.to_string());
        let mut reader = ParquetMetaDataReader::new().with_page_index_policy(page_index);
        reader.try_parse_sized(tail, file_bytes).map_err(footer)?;
        reader.finish().map_err(footer)
    }

    /// The blocks of a file whose footer is `metadata`.
    pub(crate) fn blocks(self, metadata: &ParquetMetaData, file_bytes: u64) -> Result<FileBlocks, Damage> {
        let keys = metadata.file_metadata().key_value_metadata().into_iter().flatten();
        let text = keys.filter(|entry| entry.key == BLOCKS_KEY).find_map(|entry| entry.value.as_deref());
        let text = text.ok_or_else(|| Damage::Footer("it has no checksums of the blocks".to_owned()))?;
        let count = self.tail_start.div_ceil(BLOCK_BYTES);
        let mut sums: Vec<u64> =
            text.as_bytes().chunks(16).filter_map(|digits| from_hex(str::from_utf8(digits).ok()?)).collect();
        if text.len() as u64 != count * 16 || sums.len() as u64 != count {
            return Err(Damage::Footer(format!("it does not hold {count} checksums of blocks")));
        }
        sums.push(self.tail);
        Ok(FileBlocks { tail_start: self.tail_start, file_bytes, sums })
    }
}

/// Where a file's blocks are and what they must be; the tail is the last of them.
#[derive(Debug)]
pub(crate) struct FileBlocks {
    tail_start: u64,
    file_bytes: u64,
    sums: Vec<u64>,
}

impl FileBlocks {
    /// Number of blocks.
    pub(crate) fn count(&self) -> usize {
        self.sums.len()
    }

    /// Where a block is.
    pub(crate) fn range(&self, block: usize) -> Range<u64> {
        match block + 1 == self.sums.len() {
            true => self.tail_start..self.file_bytes,
            false => {
                let start = block as u64 * BLOCK_BYTES;
                start..(start + BLOCK_BYTES).min(self.tail_start)
            }
        }
    }

    /// The block that holds a byte.
    fn holding(&self, byte: u64) -> usize {
        if byte >= self.tail_start { self.sums.len() - 1 } else { (byte / BLOCK_BYTES) as usize }
    }

    /// The whole blocks around each range, where they meet joined, in order.
    ///
    /// # Errors
    /// `Length` when a range ends beyond the file: whoever asks for it has been misled by a footer of another file.
    pub(crate) fn around(&self, ranges: &[Range<u64>]) -> Result<Vec<Range<u64>>, Damage> {
        let mut around = Vec::with_capacity(ranges.len());
        for range in ranges.iter().filter(|range| !range.is_empty()) {
            if range.end > self.file_bytes {
                return Err(Damage::Length { expected: range.end, found: self.file_bytes });
            }
            let (first, last) = (self.holding(range.start), self.holding(range.end - 1));
            around.push(self.range(first).start..self.range(last).end);
        }
        around.sort_unstable_by_key(|range| range.start);
        around.dedup_by(|next, joined| {
            let meets = next.start <= joined.end;
            if meets {
                joined.end = joined.end.max(next.end);
            }
            meets
        });
        Ok(around)
    }

    /// Checks bytes that begin and end where blocks do.
    pub(crate) fn check(&self, start: u64, bytes: &[u8]) -> Result<(), Damage> {
        let mut rest = bytes;
        let mut block = self.holding(start);
        while !rest.is_empty() {
            let range = self.range(block);
            let Some((content, after)) = rest.split_at_checked((range.end - range.start) as usize) else {
                return Err(Damage::Length { expected: range.end, found: range.start + rest.len() as u64 });
            };
            check(range, content, self.sums[block])?;
            rest = after;
            block += 1;
        }
        Ok(())
    }
}

fn check(range: Range<u64>, bytes: &[u8], expected: u64) -> Result<(), Damage> {
    let found = xxh64(bytes);
    match found == expected {
        true => Ok(()),
        false => Err(Damage::Checksum { bytes: range, expected, found }),
    }
}

/// xxh64 of bytes, with the seed 0.
pub(crate) fn xxh64(bytes: &[u8]) -> u64 {
    XxHash64::oneshot(0, bytes)
}

/// xxh64 of several pieces, one after the other.
pub(crate) fn xxh64_of(pieces: &[&[u8]]) -> u64 {
    let mut hasher = XxHash64::with_seed(0);
    pieces.iter().for_each(|piece| hasher.write(piece));
    hasher.finish()
}

/// A checksum as it is stored in texts: 16 digits.
pub(crate) fn to_hex(sum: u64) -> String {
    format!("{sum:016x}")
}

/// Reads what `to_hex` writes, and nothing else.
pub(crate) fn from_hex(text: &str) -> Option<u64> {
    let is_digit = |byte: u8| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte);
    (text.len() == 16 && text.bytes().all(is_digit)).then(|| u64::from_str_radix(text, 16).ok()).flatten()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn blocks(tail_start: u64, file_bytes: u64) -> FileBlocks {
        let sums = vec![0; tail_start.div_ceil(BLOCK_BYTES) as usize + 1];
        FileBlocks { tail_start, file_bytes, sums }
    }

    #[test]
    fn ranges_are_read_as_the_blocks_around_them_and_joined_where_these_meet() {
        let (kib, end) = (1 << 10, 200_010);
        let file = blocks(200_000, end);
        assert_eq!(file.count(), 5);
        type Ranges<'a> = &'a [(u64, u64)];
        let cases: [(Ranges<'_>, Ranges<'_>); 8] = [
            (&[(0, 1)], &[(0, 64 * kib)]),
            (&[(64 * kib - 1, 64 * kib + 1)], &[(0, 128 * kib)]),
            (&[(128 * kib, 128 * kib + 1), (0, 10)], &[(0, 64 * kib), (128 * kib, 192 * kib)]),
            (&[(70_000, 70_001), (0, 10)], &[(0, 128 * kib)]),
            (&[(199_999, 200_000)], &[(192 * kib, 200_000)]),
            (&[(199_999, 200_001)], &[(192 * kib, end)]),
            (&[(200_005, 200_006)], &[(200_000, end)]),
            (&[(5, 5)], &[]),
        ];
        let ranges = |pairs: &[(u64, u64)]| pairs.iter().map(|(start, end)| *start..*end).collect::<Vec<_>>();
        for (asked, read) in cases {
            assert_eq!(file.around(&ranges(asked)), Ok(ranges(read)), "{asked:?}");
        }
        assert!(file.around(&ranges(&[(0, end + 1)])).is_err());
    }

    #[test]
    fn every_bit_of_a_tag_counts() {
        let checksum = FileChecksum { tail_start: 70_000, tail: 0x00ab_cdef_0123_4567 };
        assert_eq!(checksum.to_tag(), "xxh64:70000:00abcdef01234567");
        assert_eq!(FileChecksum::from_tag(&checksum.to_tag()), Some(checksum));
        for wrong in ["", "xxh64:1", "xxh64:1:00ab", "xxh64:1:00ABcdef01234567", "xxh65:1:00abcdef01234567"] {
            assert_eq!(FileChecksum::from_tag(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn empty_data_has_no_blocks_but_a_tail() {
        let file = blocks(0, 20);
        assert_eq!((file.count(), file.range(0)), (1, 0..20));
        assert_eq!(file.around(std::slice::from_ref(&(3..4))), Ok(Vec::from([file.range(0)])));
    }
}
