//! What can go wrong between a request and its answer.

use watershed_shared::error::{Error as SharedError, ErrorKind};

/// Result of the operations of this crate.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// An error of the serving layer; [`Error::kind`] decides the HTTP status.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// An error of the shared crate.
    #[error(transparent)]
    Shared(#[from] SharedError),

    /// The SQL does not parse, does not plan or asks for more than reading views.
    #[error("{reason}")]
    InvalidQuery {
        /// What is wrong, with a hint.
        reason: String,
    },

    /// The query failed while running.
    #[error("the query failed: {reason}")]
    QueryFailed {
        /// What happened.
        reason: String,
    },

    /// The query needed more memory than queries may use.
    #[error(
        "the query needs more memory than queries may use: {reason}; narrow it with a predicate on keys or raise query.memory_bytes"
    )]
    QueryMemory {
        /// The consumer's words.
        reason: String,
    },

    /// The query did not end in time.
    #[error(
        "the query did not end within {seconds} s and was stopped; narrow it with a predicate on keys or raise query.timeout"
    )]
    QueryDeadline {
        /// The limit.
        seconds: u64,
    },

    /// The position did not become visible in time.
    #[error("position {position} was not visible within {seconds} s; the answer is at {applied}; try again")]
    PositionTimeout {
        /// The position asked for.
        position: String,
        /// What is visible.
        applied: String,
        /// The limit.
        seconds: u64,
    },

    /// A request that contradicts the platform's state.
    #[error("{reason}")]
    Conflict {
        /// What contradicts what, and what to do.
        reason: String,
    },

    /// A part of the platform is not available now.
    #[error("{reason}")]
    Unavailable {
        /// What, and when to try again.
        reason: String,
    },
}

impl Error {
    /// What a caller can do about it.
    pub fn kind(&self) -> ErrorKind {
        match self {
            Error::Shared(error) => error.kind(),
            Error::InvalidQuery { .. } => ErrorKind::Invalid,
            Error::QueryFailed { .. } => ErrorKind::Internal,
            Error::QueryMemory { .. } => ErrorKind::Invalid,
            Error::QueryDeadline { .. } | Error::PositionTimeout { .. } | Error::Unavailable { .. } => {
                ErrorKind::Retryable
            }
            Error::Conflict { .. } => ErrorKind::Conflict,
        }
    }
}
