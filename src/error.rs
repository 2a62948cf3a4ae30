//! What can go wrong while a project is opened or run.

use std::path::PathBuf;

use watershed_serving_layer as serving;
use watershed_shared::error::ErrorKind;
pub use watershed_shared::error::with_causes;

/// Result of the operations of this crate.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// An error of the assembled platform.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A project folder that cannot be read.
    #[error("cannot read \"{}\": {reason}", path.display())]
    Unreadable {
        /// Folder or file.
        path: PathBuf,
        /// The system's words.
        reason: String,
    },

    /// A `watershed.toml` or an environment override that is wrong.
    #[error("the configuration is wrong: {reason}")]
    Configuration {
        /// Which key, and what is expected.
        reason: String,
    },

    /// A definition that is wrong, with its file.
    #[error("{}: {error}", path.display())]
    Definition {
        /// The file.
        path: PathBuf,
        /// What is wrong and where; part of the message, so not a cause of it.
        error: watershed_shared::error::Error,
    },

    /// A project whose definitions contradict each other or what is stored.
    #[error("{reason}")]
    Project {
        /// What contradicts what, and what to do.
        reason: String,
    },

    /// The log and the history of a source do not fit together.
    #[error(
        "the log of source \"{name}\" holds offsets from {log_start} to {log_end}, but its history ends at {history_end}; \
         both must belong to the same data folder; nothing was changed; restore the folder \"log\" that belongs to this store"
    )]
    LogBehindHistory {
        /// Name of the source.
        name: String,
        /// First offsets that the log holds.
        log_start: String,
        /// Next offsets of the log.
        log_end: String,
        /// Next offsets of the history.
        history_end: String,
    },

    /// A part of the platform panicked.
    #[error("{what} panicked; this is a bug, please report it")]
    Panicked {
        /// What was going on.
        what: &'static str,
    },

    /// A batch run whose definition does not wait for it any more.
    #[error(
        "the definition of view \"{view}\" has changed, stopped or gone during the batch run; the view answers as before"
    )]
    Overtaken {
        /// Name of the view.
        view: String,
    },

    /// A sink that cannot go on by itself.
    #[error("sink \"{name}\" cannot send: {reason}")]
    Sink {
        /// Name of the sink.
        name: String,
        /// Why.
        reason: String,
    },

    /// The platform is shutting down.
    #[error("the platform is stopping; retry when it runs again")]
    Stopping,

    /// An error of the shared crate.
    #[error(transparent)]
    Shared(#[from] watershed_shared::error::Error),

    /// An error of the batch layer.
    #[error(transparent)]
    Batch(#[from] watershed_batch_layer::Error),

    /// An error of the serving layer.
    #[error(transparent)]
    Serving(#[from] serving::Error),

    /// The folder of realtime checkpoints cannot be used.
    #[error(transparent)]
    Checkpoints(#[from] watershed_speed_layer::CheckpointError),

    /// The system refused something that the process needs.
    #[error("cannot {action}: {source}")]
    System {
        /// What was tried.
        action: &'static str,
        /// The system's words.
        source: std::io::Error,
    },
}

impl Error {
    /// What a caller can do about it.
    pub fn kind(&self) -> ErrorKind {
        match self {
            Error::Shared(error) => error.kind(),
            Error::Batch(error) => error.kind(),
            Error::Serving(error) => error.kind(),
            Error::Stopping => ErrorKind::Retryable,
            Error::LogBehindHistory { .. } => ErrorKind::Corrupt,
            Error::System { .. } | Error::Sink { .. } | Error::Panicked { .. } | Error::Checkpoints(_) => {
                ErrorKind::Internal
            }
            Error::Overtaken { .. } => ErrorKind::Conflict,
            _ => ErrorKind::Invalid,
        }
    }
}
