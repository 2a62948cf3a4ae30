//! What can go wrong in definitions, positions, event decoding, the log and plans.

use datafusion::error::DataFusionError;

/// Result of the operations of this crate.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// What a caller can do about an error; decides retries and the HTTP status in one place.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ErrorKind {
    /// The request names something that does not exist.
    NotFound,
    /// The request contradicts the current state.
    Conflict,
    /// The same request may succeed later, unchanged.
    Retryable,
    /// The request is wrong and will never succeed.
    Invalid,
    /// Stored data is damaged.
    Corrupt,
    /// A bug or an environment fault on our side.
    Internal,
}

/// An error of the shared crate.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A position token that does not parse.
    #[error(
        "\"{text}\" is not a position; a position looks like \"edits=12,40\": a source's name and the next offset of each of its partitions"
    )]
    InvalidPosition {
        /// The text as given, shortened.
        text: String,
    },

    /// A definition that cannot work; says where, why and what to write instead.
    #[error("line {line}, column {column}: {reason}{}", .hint.as_ref().map(|hint| format!("; {hint}")).unwrap_or_default())]
    InvalidDefinition {
        /// Line in the definition's text, from 1.
        line: u64,
        /// Column in that line, from 1.
        column: u64,
        /// What is wrong.
        reason: String,
        /// What to write instead.
        hint: Option<String>,
    },

    /// A name that no definition has.
    #[error("there is no {what} \"{name}\"; there are: {}", if .known.is_empty() { "none".to_owned() } else { .known.join(", ") })]
    NotFound {
        /// `source`, `view` or another kind of thing.
        what: &'static str,
        /// The name as given.
        name: String,
        /// Names that exist.
        known: Vec<String>,
    },

    /// A request body that cannot be read as events at all, so that no row of it can be accepted.
    #[error("the events cannot be read as {format}: {reason}; nothing was accepted")]
    UnreadableEvents {
        /// The format that was expected.
        format: &'static str,
        /// What is wrong and where.
        reason: String,
    },

    /// The log or another store refused an operation.
    #[error("cannot {action} the log of source \"{name}\": {reason}")]
    Log {
        /// What was tried, as a verb.
        action: &'static str,
        /// Name of the source.
        name: String,
        /// The store's own words.
        reason: String,
    },

    /// The log has been closed and takes nothing more.
    #[error("the log of source \"{name}\" is closed; nothing was accepted; retry when the platform is running")]
    LogClosed {
        /// Name of the source.
        name: String,
    },

    /// A stored block that does not decode.
    #[error("{what} is damaged: {reason}")]
    Corrupt {
        /// Which stored thing, with its key or path.
        what: String,
        /// How the damage shows.
        reason: String,
    },

    /// Planning or executing a view's plan failed.
    #[error(transparent)]
    Plan(#[from] DataFusionError),

    /// An Arrow kernel failed.
    #[error(transparent)]
    Arrow(#[from] arrow::error::ArrowError),
}

impl Error {
    /// What a caller can do about it.
    pub fn kind(&self) -> ErrorKind {
        match self {
            Error::InvalidPosition { .. } | Error::InvalidDefinition { .. } | Error::UnreadableEvents { .. } => {
                ErrorKind::Invalid
            }
            Error::NotFound { .. } => ErrorKind::NotFound,
            Error::Log { .. } | Error::LogClosed { .. } => ErrorKind::Retryable,
            Error::Corrupt { .. } => ErrorKind::Corrupt,
            Error::Plan(_) | Error::Arrow(_) => ErrorKind::Internal,
        }
    }
}
