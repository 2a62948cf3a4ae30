//! Remembers how far each file has been acknowledged, so that a second call goes on where the first one stopped.
//!
//! One small JSON file for each file, source and platform, in a folder of the user's state directory: calls that run at
//! the same time never write to the same one, and a lock keeps two from sending the same file. A record is replaced as a
//! whole and synced twice for every chunk: before it is sent, with the name of its request, and when it is acknowledged.
//! So the request that is under way when the command is killed can be sent again under its name.

use std::fs::{self, File, Metadata, TryLockError};
use std::io::{ErrorKind, Write};
use std::path::{Path, PathBuf};
use std::time::UNIX_EPOCH;

use anyhow::{Context, Result, bail};
use serde::{Deserialize, Serialize};
use watershed_shared::position::PositionToken;

use super::chunk::Mark;

/// Version 1 did not know of requests under way; its records are read.
const FORMAT_VERSIONS: std::ops::RangeInclusive<u32> = 1..=2;

/// A folder of records.
#[derive(Debug)]
pub(super) struct Ledger {
    folder: PathBuf,
}

/// The place of one file's record, held by this process alone.
#[derive(Debug)]
pub(super) struct Entry {
    path: PathBuf,
    key: Key,
    /// What earlier calls have left.
    pub(super) record: Option<Record>,
    _lock: File,
}

/// Which file was sent where.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Key {
    pub(super) url: String,
    pub(super) source: String,
    pub(super) file: PathBuf,
}

/// What is known of a file of which a part has been acknowledged.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Record {
    /// Size and time of the last change, when the record was made.
    pub(super) stamp: Stamp,
    /// The place behind the last acknowledged row.
    pub(super) mark: Mark,
    pub(super) accepted: u64,
    pub(super) rejected: u64,
    /// Whether the file ended there.
    pub(super) complete: bool,
    /// What the acknowledgements covered, joined.
    pub(super) position: Option<PositionToken>,
    /// The request that was sent after `mark` and whose answer is not known.
    #[serde(default)]
    pub(super) pending: Option<Pending>,
}

/// A request under way.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Pending {
    pub(super) producer: String,
    pub(super) sequence: u64,
    /// The place behind its last row.
    pub(super) end: Mark,
}

/// What tells cheaply that a file has not changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Stamp {
    size: u64,
    modified_ns: Option<u64>,
}

impl Record {
    /// Of a file of which nothing has been acknowledged.
    pub(super) fn nothing(stamp: Stamp) -> Record {
        Record {
            stamp,
            mark: Mark::default(),
            accepted: 0,
            rejected: 0,
            complete: false,
            position: None,
            pending: None,
        }
    }
}

impl Stamp {
    pub(super) fn of(metadata: &Metadata) -> Stamp {
        let modified = metadata.modified().ok().and_then(|time| time.duration_since(UNIX_EPOCH).ok());
        Stamp { size: metadata.len(), modified_ns: modified.and_then(|since| u64::try_from(since.as_nanos()).ok()) }
    }
}

/// A record as it is stored.
#[derive(Serialize, Deserialize)]
struct Stored {
    version: u32,
    #[serde(flatten)]
    key: Key,
    #[serde(flatten)]
    record: Record,
}

impl Ledger {
    /// The ledger in `folder`, which is made if need be.
    pub(super) fn open(folder: PathBuf) -> Result<Ledger> {
        fs::create_dir_all(&folder).with_context(|| format!("cannot make the folder \"{}\"", folder.display()))?;
        Ok(Ledger { folder })
    }

    /// Takes the entry of one file, for as long as the answer lives.
    ///
    /// # Errors
    /// When another process holds it, or the record in it is damaged.
    pub(super) fn entry(&self, key: Key) -> Result<Entry> {
        let mut entry = self.new_entry(key)?;
        entry.record = read(&entry.path, &entry.key).with_context(|| {
            let (file, path) = (entry.key.file.display(), entry.path.display());
            format!("cannot use what is remembered of \"{file}\" in \"{path}\"; --again starts afresh")
        })?;
        Ok(entry)
    }

    /// Takes the entry of one file without looking at what earlier calls have left there.
    pub(super) fn new_entry(&self, key: Key) -> Result<Entry> {
        let path = self.folder.join(format!("{}.json", entry_name(&key)));
        let lock_path = path.with_extension("lock");
        let lock = File::create(&lock_path).with_context(|| format!("cannot write \"{}\"", lock_path.display()))?;
        match lock.try_lock() {
            Ok(()) => Ok(Entry { path, key, record: None, _lock: lock }),
            Err(TryLockError::WouldBlock) => bail!(
                "another `watershed ingest` is sending \"{}\" to source \"{}\" right now",
                key.file.display(),
                key.source
            ),
            Err(TryLockError::Error(error)) => {
                Err(error).with_context(|| format!("cannot lock \"{}\"", lock_path.display()))
            }
        }
    }
}

impl Entry {
    /// Replaces the record; it is on disk when this returns.
    pub(super) fn save(&mut self, record: Record) -> Result<()> {
        let stored = Stored { version: *FORMAT_VERSIONS.end(), key: self.key.clone(), record };
        let replacement = self.path.with_extension("new");
        write(&replacement, &stored)
            .and_then(|()| fs::rename(&replacement, &self.path))
            .and_then(|()| match &stored.record.pending {
                // What the record says is about to be done. Of what has been done, the record before says enough.
                Some(_) => sync_folder(&self.path),
                None => Ok(()),
            })
            .with_context(|| format!("cannot remember what was acknowledged in \"{}\"", self.path.display()))?;
        self.record = Some(stored.record);
        Ok(())
    }
}

fn read(path: &Path, key: &Key) -> Result<Option<Record>> {
    let bytes = match fs::read(path) {
        Ok(bytes) => bytes,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error.into()),
    };
    let stored: Stored = serde_json::from_slice(&bytes)?;
    if !FORMAT_VERSIONS.contains(&stored.version) {
        bail!("it was written by another version of the command");
    }
    if stored.key != *key {
        bail!("it belongs to \"{}\"", stored.key.file.display());
    }
    Ok(Some(stored.record))
}

fn write(path: &Path, stored: &Stored) -> std::io::Result<()> {
    let mut file = File::create(path)?;
    file.write_all(&serde_json::to_vec_pretty(stored)?)?;
    file.sync_data()
}

/// Makes a rename survive a power cut.
fn sync_folder(path: &Path) -> std::io::Result<()> {
    match path.parent() {
        Some(folder) if cfg!(unix) => File::open(folder)?.sync_all(),
        _ => Ok(()),
    }
}

/// A name that people recognize and that is distinct for each key.
fn entry_name(key: &Key) -> String {
    let stem = key.file.file_name().map(|name| name.to_string_lossy()).unwrap_or_default();
    let readable = |character: &char| character.is_ascii_alphanumeric() || matches!(character, '.' | '-' | '_');
    let stem: String = stem.chars().filter(readable).take(60).collect();
    let parts = [key.url.as_bytes(), key.source.as_bytes(), key.file.as_os_str().as_encoded_bytes()];
    format!("{stem}-{:016x}", fnv1a(&parts.join(&0)))
}

/// The 64-bit FNV-1a hash: the standard library's is not the same in every release, and names must be.
fn fnv1a(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, |hash, byte| (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3))
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test may panic")]
mod tests {
    use super::*;

    fn key(source: &str) -> Key {
        Key { url: "http://127.0.0.1:8080/".into(), source: source.into(), file: "/data/über uns.ndjson".into() }
    }

    fn record(rows: u64) -> Record {
        Record {
            stamp: Stamp { size: 100, modified_ns: Some(1_700_000_000_123_456_789) },
            mark: Mark { rows, bytes: 55, checksum: 0xdead_beef },
            accepted: rows,
            rejected: 0,
            complete: false,
            position: "edits=3,4".parse().ok(),
            pending: None,
        }
    }

    fn pending(rows: u64) -> Option<Pending> {
        let end = Mark { rows: rows + 2, bytes: 77, checksum: 1 };
        Some(Pending { producer: "ingest-00".into(), sequence: 4, end })
    }

    #[test]
    fn record_survives_the_process_and_belongs_to_one_source() {
        let folder = tempfile::tempdir().unwrap();
        let ledger = Ledger::open(folder.path().join("ingest")).unwrap();
        let mut entry = ledger.entry(key("edits")).unwrap();
        assert_eq!(entry.record, None);
        entry.save(record(7)).unwrap();
        entry.save(Record { pending: pending(7), ..record(7) }).unwrap();
        drop(entry);
        let mut entry = ledger.entry(key("edits")).unwrap();
        assert_eq!(entry.record, Some(Record { pending: pending(7), ..record(7) }));
        entry.save(record(8)).unwrap();
        drop(entry);
        assert_eq!(ledger.entry(key("edits")).unwrap().record, Some(record(8)));
        assert_eq!(ledger.entry(key("flights")).unwrap().record, None);
        assert_eq!(ledger.new_entry(key("edits")).unwrap().record, None, "as if nothing were known");
    }

    #[test]
    fn one_file_is_not_sent_twice_at_the_same_time() {
        let folder = tempfile::tempdir().unwrap();
        let ledger = Ledger::open(folder.path().to_owned()).unwrap();
        let _held = ledger.entry(key("edits")).unwrap();
        let error = ledger.entry(key("edits")).unwrap_err().to_string();
        assert!(error.contains("another `watershed ingest`"), "{error}");
        ledger.entry(key("flights")).unwrap();
    }

    #[test]
    fn damaged_record_is_an_error_that_names_the_way_out() {
        let folder = tempfile::tempdir().unwrap();
        let ledger = Ledger::open(folder.path().to_owned()).unwrap();
        let mut entry = ledger.entry(key("edits")).unwrap();
        entry.save(record(7)).unwrap();
        fs::write(&entry.path, b"{\"version\":1").unwrap();
        drop(entry);
        let error = format!("{:#}", ledger.entry(key("edits")).unwrap_err());
        assert!(error.contains("--again"), "{error}");
    }

    #[test]
    fn stored_forms_of_all_versions_stay_readable() {
        let folder = tempfile::tempdir().unwrap();
        let name = entry_name(&key("edits"));
        assert!(name.starts_with("beruns.ndjson-"), "{name}");
        let read = |version: u32, pending: &str| {
            let sample = format!(
                r#"{{"version":{version},"url":"http://127.0.0.1:8080/","source":"edits","file":"/data/über uns.ndjson",
                "stamp":{{"size":100,"modified_ns":1700000000123456789}},
                "mark":{{"rows":8,"bytes":55,"checksum":3735928559}},
                "accepted":8,"rejected":0,"complete":false,"position":"edits=3,4"{pending}}}"#
            );
            fs::write(folder.path().join(format!("{name}.json")), sample).unwrap();
            Ledger::open(folder.path().to_owned()).unwrap().entry(key("edits")).map(|entry| entry.record)
        };
        let under_way = r#","pending":{"producer":"ingest-00","sequence":4,"end":{"rows":10,"bytes":77,"checksum":1}}"#;
        assert_eq!(read(1, "").unwrap(), Some(record(8)));
        assert_eq!(read(2, r#","pending":null"#).unwrap(), Some(record(8)));
        assert_eq!(read(2, under_way).unwrap(), Some(Record { pending: pending(8), ..record(8) }));
        assert!(format!("{:#}", read(3, "").unwrap_err()).contains("another version"));
        assert_eq!(fnv1a(b"foobar"), 0x8594_4171_f739_67e8, "the published test value");
    }
}
