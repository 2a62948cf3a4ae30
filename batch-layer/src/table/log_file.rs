//! The names of the files in a table's log.

/// A file of a table's log by its name in the log's folder.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum LogFile {
    /// The commit that made a version.
    Commit(u64),
    /// A checkpoint of a version.
    Checkpoint(u64),
}

impl LogFile {
    /// `None` for anything else.
    pub(crate) fn parse(name: &str) -> Option<LogFile> {
        let checkpoint = || name.split_once(".checkpoint.").filter(|(digits, _)| digits.len() == 20)?.0.parse().ok();
        commit_version(name).map(LogFile::Commit).or_else(|| checkpoint().map(LogFile::Checkpoint))
    }

    /// Whether a crash has left the file half written.
    pub(crate) fn is_staged(name: &str) -> bool {
        name.contains(".staged-")
    }
}

/// Name of a commit in the log's folder.
pub(super) fn commit_name(version: u64) -> String {
    format!("{version:020}.json")
}

/// The version of the commit with this name in the log's folder.
pub(super) fn commit_version(name: &str) -> Option<u64> {
    let digits = name.strip_suffix(".json").filter(|digits| digits.len() == 20)?;
    digits.parse().ok()
}
