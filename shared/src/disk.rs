//! Full disks: how much room there is, and which errors say that there is none.

use std::error::Error;
use std::io;
use std::path::Path;

/// Bytes that this process may still write to the file system that holds `path`.
pub fn free_bytes(path: &Path) -> io::Result<u64> {
    let file_system = rustix::fs::statvfs(path)?;
    Ok(file_system.f_bavail.saturating_mul(file_system.f_frsize))
}

/// Whether an error, or any of its causes, says that a disk or a quota is full.
pub fn is_full(error: &(dyn Error + 'static)) -> bool {
    let mut cause = Some(error);
    while let Some(error) = cause {
        if let Some(error) = error.downcast_ref::<io::Error>() {
            let full = matches!(error.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded);
            // What an error made by `io::Error::other` holds is not among its causes.
            if full || error.get_ref().is_some_and(|within| is_full(within)) {
                return true;
            }
        }
        cause = error.source();
    }
    false
}

/// Whether a store that answers in words only, as RocksDB does, says that its disk is full.
pub(crate) fn says_full(words: &str) -> bool {
    ["No space left on device", "Disk quota exceeded", "space limit reached"].iter().any(|full| words.contains(full))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_full_disk_is_found_among_the_causes() -> io::Result<()> {
        let full = || io::Error::from_raw_os_error(28);
        assert!(is_full(&full()));
        assert!(is_full(&io::Error::other(full())));
        let stored = object_store::Error::Generic { store: "test", source: Box::new(io::Error::other(full())) };
        assert!(is_full(&stored));
        assert!(!is_full(&io::Error::other("the disk fell off the table")));
        assert!(free_bytes(Path::new("/"))? > 0);
        assert!(free_bytes(Path::new("/no/such/folder")).is_err());
        Ok(())
    }
}
