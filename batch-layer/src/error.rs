//! What can go wrong with stored tables and batch runs, and what a caller can do about it.

use datafusion::error::DataFusionError;
use deltalake_core::DeltaTableError;
use watershed_shared::disk::is_full;
pub(crate) use watershed_shared::error::with_causes;
use watershed_shared::error::{Error as SharedError, ErrorKind};

/// Result of the operations of this crate.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// An error of the batch layer.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A name that cannot become a folder's name.
    #[error("{what} \"{name}\" cannot have a folder of its own: {reason}; choose another name")]
    InvalidName {
        /// `source` or `view`.
        what: &'static str,
        /// The name as given, shortened.
        name: String,
        /// What is wrong with it.
        reason: &'static str,
    },

    /// A store location that cannot be opened.
    #[error(
        "\"{location}\" cannot be used as a store: {reason}; give a folder or a URL like \"file:///var/lib/watershed\""
    )]
    InvalidLocation {
        /// The location as configured.
        location: String,
        /// What is wrong with it.
        reason: String,
    },

    /// A schema that Delta cannot hold.
    #[error("{table} cannot be stored: {reason}; nothing was created")]
    UnsupportedSchema {
        /// The table's folder.
        table: String,
        /// Which column or type, and why.
        reason: String,
    },

    /// A stored table whose columns are not those of its definition.
    #[error("{table} has other columns than its definition: {difference}; restore the definition or use another name")]
    SchemaMismatch {
        /// The table's folder.
        table: String,
        /// The first column that differs, in the definition and in the table.
        difference: String,
    },

    /// A request that contradicts what the table already holds.
    #[error(
        "cannot {action} {table}: expected {expected}, but found {found}; nothing was changed; read its latest version and start again"
    )]
    Conflict {
        /// What was tried, as a verb with its object.
        action: &'static str,
        /// The table's folder.
        table: String,
        /// What the caller took for granted.
        expected: String,
        /// What the table holds.
        found: String,
    },

    /// Batches that are not what their description says: a bug of the caller, caught before anything is written.
    #[error("the batches for {table} are not the events from {start} to {end}: {reason}; nothing was written")]
    InvalidBatches {
        /// The table's folder.
        table: String,
        /// Where they should start.
        start: String,
        /// Where they should end.
        end: String,
        /// The first difference.
        reason: String,
    },

    /// Stored data that is damaged, or changed by a tool in a way that cannot be followed.
    #[error(
        "{what} is damaged: {reason}; stop the platform and run `watershed doctor`, which says what can be repaired and what must be restored from a copy"
    )]
    Corrupt {
        /// Which stored thing, by its path.
        what: String,
        /// How the damage shows.
        reason: String,
    },

    /// Stored data of a version that this code does not know.
    #[error(
        "{what} has format version {found}, but this version of watershed knows only those up to {known}; nothing was changed; use the version of watershed that wrote it, or a later one"
    )]
    NewerFormat {
        /// Which stored thing.
        what: String,
        /// Its version.
        found: u32,
        /// The newest version that this code knows.
        known: u32,
    },

    /// The object store refused an operation.
    #[error("cannot {action} \"{path}\"")]
    Store {
        /// What was tried, as a verb.
        action: &'static str,
        /// Path in the store.
        path: String,
        /// The store's own words.
        source: object_store::Error,
    },

    /// The Delta library refused an operation.
    #[error("cannot {action} {table}")]
    Delta {
        /// What was tried, as a verb with its object.
        action: &'static str,
        /// The table's folder.
        table: String,
        /// The library's own words.
        source: Box<DeltaTableError>,
    },

    /// Work on another thread ended before its result; only when the process stops or that work panicked.
    #[error("{what} was interrupted; nothing was committed; retry it")]
    Interrupted {
        /// What was going on.
        what: &'static str,
        /// How the thread ended.
        source: tokio::task::JoinError,
    },

    /// Encoding a Parquet file failed.
    #[error("cannot encode a parquet file")]
    Encode(#[from] parquet::errors::ParquetError),

    /// An Arrow kernel failed.
    #[error(transparent)]
    Arrow(#[from] arrow::error::ArrowError),

    /// Planning or executing a plan failed.
    #[error(transparent)]
    Plan(#[from] DataFusionError),

    /// The shared crate failed.
    #[error(transparent)]
    Shared(#[from] watershed_shared::error::Error),
}

impl Error {
    /// Whether what is stored is at fault, so that trying again changes nothing.
    pub(crate) fn is_lasting(&self) -> bool {
        !matches!(self.kind(), ErrorKind::Retryable)
    }

    /// What a caller can do about it.
    pub fn kind(&self) -> ErrorKind {
        match self {
            Error::InvalidName { .. }
            | Error::InvalidLocation { .. }
            | Error::UnsupportedSchema { .. }
            | Error::NewerFormat { .. }
            | Error::SchemaMismatch { .. } => ErrorKind::Invalid,
            Error::Conflict { .. } => ErrorKind::Conflict,
            Error::Corrupt { .. } => ErrorKind::Corrupt,
            Error::Interrupted { .. } => ErrorKind::Retryable,
            Error::Store { source, .. } if is_full(source) => ErrorKind::DiskFull,
            Error::Delta { source, .. } if is_full(source.as_ref()) => ErrorKind::DiskFull,
            Error::Plan(source) if is_full(source) => ErrorKind::DiskFull,
            Error::Store { source, .. } => store_error_kind(source),
            Error::Delta { source, .. } => error_chain_kind(source.as_ref()),
            Error::Plan(source) => error_chain_kind(source),
            Error::Shared(source) => source.kind(),
            Error::InvalidBatches { .. } | Error::Encode(_) | Error::Arrow(_) => ErrorKind::Internal,
        }
    }
}

/// The kind of the object store's error, or of damage, at the root of another library's error; `Internal` if there is
/// none.
fn error_chain_kind(error: &(dyn std::error::Error + 'static)) -> ErrorKind {
    let kind = |error: &(dyn std::error::Error + 'static)| match error.downcast_ref::<SharedError>() {
        Some(error) => Some(error.kind()),
        None => error.downcast_ref::<object_store::Error>().map(store_error_kind),
    };
    std::iter::successors(Some(error), |error| error.source()).find_map(kind).unwrap_or(ErrorKind::Internal)
}

/// A lost connection and a timeout arrive as `Generic`, and both may pass.
fn store_error_kind(error: &object_store::Error) -> ErrorKind {
    use object_store::Error as Store;
    match error {
        Store::Generic { .. } | Store::JoinError { .. } => ErrorKind::Retryable,
        Store::NotFound { .. } => ErrorKind::Corrupt,
        Store::AlreadyExists { .. } | Store::Precondition { .. } => ErrorKind::Conflict,
        _ => ErrorKind::Internal,
    }
}
