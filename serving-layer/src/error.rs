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

    /// The query needed more room for temporary files than their disk has.
    #[error(
        "there is no room for the query's temporary files: {reason}; free space on the disk of the system's temporary folder, or narrow the query with a predicate on keys"
    )]
    QueryDisk {
        /// The system's words.
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

    /// A key or number that stands for another request.
    #[error(
        "{request} was used before with other events or in another format, and those were not changed; nothing was \
         accepted now; use a new key or number for a new request, and send the same bytes to repeat one"
    )]
    RequestReused {
        /// The request as its key or number names it.
        request: String,
    },

    /// A producer's request that is not its next one.
    #[error("{}", out_of_sequence(.producer, *.sequence, *.expected))]
    OutOfSequence {
        /// Name of the producer.
        producer: String,
        /// Number of the request.
        sequence: u64,
        /// Number of the request that is the producer's next one.
        expected: u64,
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
            Error::QueryDisk { .. } => ErrorKind::DiskFull,
            Error::QueryDeadline { .. } | Error::PositionTimeout { .. } | Error::Unavailable { .. } => {
                ErrorKind::Retryable
            }
            Error::Conflict { .. } | Error::RequestReused { .. } | Error::OutOfSequence { .. } => ErrorKind::Conflict,
        }
    }
}

fn out_of_sequence(producer: &str, sequence: u64, expected: u64) -> String {
    let advice = match expected {
        0 => {
            "producers begin at 0, and this one is new or has sent nothing for longer than ingest.idempotency_window; \
             if this request was sent before, find out whether its events are there, then begin anew at 0"
        }
        _ if sequence < expected => "it was accepted before, too long ago for its answer to be remembered",
        _ => "send those before it first",
    };
    format!(
        "request {sequence} of producer \"{producer}\" is not its next one, which is {expected}; nothing was accepted; \
         {advice}"
    )
}
