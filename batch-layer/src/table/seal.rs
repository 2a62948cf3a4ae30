//! The checksum of a commit to a Delta log.
//!
//! Delta's commits are lines of JSON without a checksum. Ours has one in a field of its commit information, which other
//! engines ignore. It covers every byte of the commit (with zeros where the checksum itself stands), the table's folder
//! and the commit's version, so that neither a changed commit nor one in another's place passes.

use bytes::Bytes;

use crate::checksum::{from_hex, to_hex, xxh64_of};

/// What stands for the checksum until it is known.
pub(crate) const PLACEHOLDER: &str = "0000000000000000";
/// Key of the checksum. Texts in JSON have their quotes escaped, so this can only be a key.
const KEY: &[u8] = b"\"checksum\":\"";

/// What a commit's checksum says of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Seal {
    Intact,
    /// The commit has none.
    Absent,
    Broken {
        expected: u64,
        found: u64,
    },
}

/// Puts its checksum into a commit, in place of the first placeholder; without one the commit stays as it is.
pub(crate) fn seal(commit: &[u8], table: &str, version: u64) -> Bytes {
    let mut sealed = commit.to_vec();
    if let Some(place) = place(commit) {
        let sum = checksum(commit, place, table, version);
        sealed[place..place + PLACEHOLDER.len()].copy_from_slice(to_hex(sum).as_bytes());
    }
    sealed.into()
}

/// Checks a commit as it was read.
pub(super) fn check(commit: &[u8], table: &str, version: u64) -> Seal {
    let Some(place) = place(commit) else { return Seal::Absent };
    let stored = str::from_utf8(&commit[place..place + PLACEHOLDER.len()]).ok().and_then(from_hex);
    let found = checksum(commit, place, table, version);
    match stored {
        Some(expected) if expected == found => Seal::Intact,
        stored => Seal::Broken { expected: stored.unwrap_or_default(), found },
    }
}

/// Where the first checksum stands.
fn place(commit: &[u8]) -> Option<usize> {
    let start = commit.windows(KEY.len()).position(|window| window == KEY)? + KEY.len();
    (start + PLACEHOLDER.len() <= commit.len()).then_some(start)
}

fn checksum(commit: &[u8], place: usize, table: &str, version: u64) -> u64 {
    let (before, after) = (&commit[..place], &commit[place + PLACEHOLDER.len()..]);
    xxh64_of(&[table.as_bytes(), &[0], &version.to_le_bytes(), before, PLACEHOLDER.as_bytes(), after])
}

#[cfg(test)]
mod tests {
    use super::*;

    const COMMIT: &[u8] = br#"{"commitInfo":{"timestamp":1,"watershed":{"checksum":"0000000000000000","token":"t"}}}
{"add":{"path":"a","stats":"{\"minValues\":{\"checksum\":\"x\"}}"}}"#;

    #[test]
    fn every_change_of_a_sealed_commit_is_seen() {
        let sealed = seal(COMMIT, "history/a", 7);
        assert_eq!(check(&sealed, "history/a", 7), Seal::Intact);
        assert_ne!(sealed, COMMIT);
        for bit in 0..sealed.len() * 8 {
            let mut changed = sealed.to_vec();
            changed[bit / 8] ^= 1 << (bit % 8);
            assert_ne!(check(&changed, "history/a", 7), Seal::Intact, "bit {bit}");
        }
        for end in 0..sealed.len() {
            assert_ne!(check(&sealed[..end], "history/a", 7), Seal::Intact, "cut at {end}");
        }
    }

    #[test]
    fn a_commit_in_the_place_of_another_is_seen() {
        let sealed = seal(COMMIT, "history/a", 7);
        assert!(matches!(check(&sealed, "history/a", 8), Seal::Broken { .. }));
        assert!(matches!(check(&sealed, "history/b", 7), Seal::Broken { .. }));
    }

    #[test]
    fn commits_without_a_checksum_are_told_apart() {
        assert_eq!(check(b"{\"commitInfo\":{}}", "history/a", 7), Seal::Absent);
        assert_eq!(check(b"", "history/a", 7), Seal::Absent);
    }
}
