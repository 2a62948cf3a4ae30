//! Damages files at places that follow from a seed.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use anyhow::Result;
use rand::rngs::StdRng;
use rand::seq::IndexedRandom;
use rand::{RngExt, SeedableRng};

/// What a file of a data folder is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum FileKind {
    LogJournal,
    LogTable,
    LogManifest,
    LogCurrent,
    LogAcknowledged,
    HistoryCommit,
    HistoryCheckpoint,
    CheckpointMark,
    CheckpointHint,
    HistoryFile,
    ViewCommit,
    ViewFile,
    Catalog,
    RealtimeManifest,
    RealtimeRun,
}

impl FileKind {
    pub(super) const ALL: [FileKind; 15] = [
        FileKind::LogJournal,
        FileKind::LogTable,
        FileKind::LogManifest,
        FileKind::LogCurrent,
        FileKind::LogAcknowledged,
        FileKind::HistoryCommit,
        FileKind::HistoryCheckpoint,
        FileKind::CheckpointMark,
        FileKind::CheckpointHint,
        FileKind::HistoryFile,
        FileKind::ViewCommit,
        FileKind::ViewFile,
        FileKind::Catalog,
        FileKind::RealtimeManifest,
        FileKind::RealtimeRun,
    ];

    /// The kind of a file by its path in the data folder; `None` for what nothing reads.
    fn of(path: &Path) -> Option<FileKind> {
        let (path, name) = (path.to_string_lossy(), path.file_name()?.to_string_lossy());
        let is_history = path.contains("store/history/");
        match name.as_ref() {
            "CURRENT" => Some(FileKind::LogCurrent),
            "watershed-acknowledged" => Some(FileKind::LogAcknowledged),
            "_watershed_checkpoint" => Some(FileKind::CheckpointMark),
            "_last_checkpoint" => Some(FileKind::CheckpointHint),
            "views.json" => Some(FileKind::Catalog),
            "manifest" => Some(FileKind::RealtimeManifest),
            name if name.ends_with(".arrow") => Some(FileKind::RealtimeRun),
            name if name.starts_with("MANIFEST-") => Some(FileKind::LogManifest),
            name if name.ends_with(".sst") => Some(FileKind::LogTable),
            name if name.ends_with(".log") => Some(FileKind::LogJournal),
            name if name.contains(".checkpoint.") => Some(FileKind::HistoryCheckpoint),
            name if name.ends_with(".json") && is_history => Some(FileKind::HistoryCommit),
            name if name.ends_with(".json") => Some(FileKind::ViewCommit),
            name if name.ends_with(".parquet") && is_history => Some(FileKind::HistoryFile),
            name if name.ends_with(".parquet") => Some(FileKind::ViewFile),
            _ => None,
        }
    }
}

/// A way to damage a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Damage {
    FlipBit,
    Cut,
    Zero,
    Delete,
    Swap,
}

impl Damage {
    pub(super) const ALL: [Damage; 5] = [Damage::FlipBit, Damage::Cut, Damage::Zero, Damage::Delete, Damage::Swap];

    /// Damages one of `paths` (or two, to swap them) in `folder` and says what it did; `None` if it could do nothing.
    pub(super) fn inflict(self, folder: &Path, paths: &[PathBuf], seed: u64) -> Result<Option<String>> {
        let mut random = StdRng::seed_from_u64(seed ^ (self as u64) << 32);
        let Some(path) = paths.choose(&mut random) else { return Ok(None) };
        let file = folder.join(path);
        let mut bytes = std::fs::read(&file)?;
        let length = bytes.len();
        if length == 0 && self != Damage::Delete {
            return Ok(None);
        }
        let name = path.display();
        let done = match self {
            Damage::FlipBit => {
                let bit = random.random_range(0..length * 8);
                bytes[bit / 8] ^= 1 << (bit % 8);
                format!("bit {bit} of {name} flipped")
            }
            Damage::Cut => {
                bytes.truncate(random.random_range(0..length));
                format!("{name} cut to {} of {length} bytes", bytes.len())
            }
            Damage::Zero => {
                let start = random.random_range(0..length);
                let end = random.random_range(start..length) + 1;
                bytes[start..end].fill(0);
                format!("{name} zeroed from {start} to {end}")
            }
            Damage::Delete => {
                std::fs::remove_file(&file)?;
                return Ok(Some(format!("{name} deleted")));
            }
            Damage::Swap => {
                let others: Vec<&PathBuf> = paths.iter().filter(|other| *other != path).collect();
                let Some(other) = others.choose(&mut random) else { return Ok(None) };
                let other_bytes = std::fs::read(folder.join(other))?;
                std::fs::write(folder.join(other), bytes)?;
                bytes = other_bytes;
                format!("{name} and {} swapped", other.display())
            }
        };
        std::fs::write(&file, bytes)?;
        Ok(Some(done))
    }
}

/// The files of a data folder by their kinds, as paths in it.
pub(super) fn files(folder: &Path) -> Result<BTreeMap<FileKind, Vec<PathBuf>>> {
    let mut files: BTreeMap<FileKind, Vec<PathBuf>> = BTreeMap::new();
    let mut folders = vec![folder.to_owned()];
    while let Some(next) = folders.pop() {
        for entry in std::fs::read_dir(next)? {
            let path = entry?.path();
            if path.is_dir() {
                folders.push(path);
            } else if let Some(kind) = FileKind::of(&path) {
                files.entry(kind).or_default().push(path.strip_prefix(folder)?.to_owned());
            }
        }
    }
    // The order of a folder's entries is the file system's.
    files.values_mut().for_each(|paths| paths.sort());
    Ok(files)
}
