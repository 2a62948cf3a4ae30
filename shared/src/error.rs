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
    /// There is too much work under way; the same request may succeed when some of it is done.
    Overloaded,
    /// A disk is full; the same request may succeed when there is room again.
    DiskFull,
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

    /// A schema of a source's records that cannot be used, or none where one is needed.
    #[error("the records cannot be read as {format}: {reason}")]
    RecordSchema {
        /// The format of the records.
        format: &'static str,
        /// What is wrong with the schema, and what to give instead.
        reason: String,
    },

    /// A schema registry that cannot be asked as it is configured.
    #[error("the schema registry at {url} cannot be used: {reason}")]
    RegistrySettings {
        /// Its address, or what was given as such.
        url: String,
        /// What is wrong.
        reason: String,
    },

    /// A schema registry that gives no answer of use.
    #[error(
        "the schema registry at {url} gives no answer: {reason}; nothing was accepted; see that it runs and that its address and credentials are right; it is asked again by itself"
    )]
    Registry {
        /// Its address.
        url: String,
        /// What happened instead.
        reason: String,
    },

    /// A schema registry that understood a request and says no.
    #[error("the schema registry at {url} refuses to {action}: {reason}")]
    RegistryRefused {
        /// Its address.
        url: String,
        /// What was asked for.
        action: String,
        /// Its own words.
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

    /// The brokers of a topic that is written in transactions refused an operation, or gave no answer.
    #[error("cannot {action} the topic of {what}: {reason}")]
    Transaction {
        /// What was tried, as a verb.
        action: &'static str,
        /// Who writes, as `sink "changes"`.
        what: String,
        /// The client's own words.
        reason: String,
    },

    /// A writer whose topic another process has taken over.
    #[error(
        "another process has opened the topic of {what} since, and this one sends nothing any more; end one of the two; the next start goes on where the other has stopped"
    )]
    Fenced {
        /// Who writes, as `sink "changes"`.
        what: String,
    },

    /// A definition that names what the process's environment does not have.
    #[error(
        "a definition names ${{{name}}}, but the environment variable {name} is not set; set it before the platform starts"
    )]
    MissingVariable {
        /// The variable.
        name: String,
    },

    /// Events for a source that takes none from clients.
    #[error(
        "source \"{name}\" reads a Kafka topic and takes no events over HTTP; nothing was accepted; write them to the topic, or define the source with http_ingest = true"
    )]
    NotIngestible {
        /// Name of the source.
        name: String,
    },

    /// A request that is to be remembered, for a source that can remember none.
    #[error(
        "source \"{name}\" writes events to a Kafka topic, which cannot remember requests; nothing was accepted; send without Idempotency-Key, Producer-Id and Producer-Sequence, or with a producer of Kafka's own"
    )]
    NotRemembering {
        /// Name of the source.
        name: String,
    },

    /// An event that is too large for a record of a topic.
    #[error(
        "event {row} of those that fit source \"{name}\" is a record of {bytes} bytes, more than the {bytes_max} that its topic's client sends; nothing was written; leave it out, or raise kafka.message.max.bytes and the topic's max.message.bytes"
    )]
    RecordTooLarge {
        /// Name of the source.
        name: String,
        /// Number of the event among those accepted, from 0.
        row: usize,
        /// Its size.
        bytes: usize,
        /// The largest allowed.
        bytes_max: usize,
    },

    /// Something that only sources of Kafka topics have.
    #[error("source \"{name}\" reads no Kafka topic, so there is nothing to resume or to replay")]
    NoTopic {
        /// Name of the source.
        name: String,
    },

    /// Halted partitions of a topic that cannot go on as asked.
    #[error("source \"{name}\" cannot be resumed: {reason}; nothing was changed")]
    OffsetsLost {
        /// Name of the source.
        name: String,
        /// Which offsets, and what can be done.
        reason: String,
    },

    /// The disk of the log is full, or nearly.
    #[error(
        "the log of source \"{name}\" has no room: {reason}; nothing was accepted; free space on that disk, then the platform goes on by itself"
    )]
    LogFull {
        /// Name of the source.
        name: String,
        /// Which disk, how much is free and how much must be, or the store's own words.
        reason: String,
    },

    /// More events are being taken in than there is memory for.
    #[error(
        "{bytes_in_flight} bytes of events are being taken in, and {bytes} more would exceed ingest.memory_bytes = {bytes_max}; nothing was accepted; send it again later, send less at once, or raise ingest.memory_bytes"
    )]
    Overloaded {
        /// What the request needs, in bytes.
        bytes: usize,
        /// What all requests under way need, in bytes.
        bytes_in_flight: usize,
        /// The limit.
        bytes_max: usize,
    },

    /// The log has been closed and takes nothing more.
    #[error("the log of source \"{name}\" is closed; nothing was accepted; retry when the platform is running")]
    LogClosed {
        /// Name of the source.
        name: String,
    },

    /// Stored data that is not what was written.
    #[error(
        "{what} is damaged: {reason}; stop the platform and run `watershed doctor`, which says what can be repaired and what must be restored from a copy"
    )]
    Corrupt {
        /// Which stored thing, with its key or path.
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
        found: u8,
        /// The newest version that this code knows.
        known: u8,
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
            Error::InvalidPosition { .. }
            | Error::InvalidDefinition { .. }
            | Error::UnreadableEvents { .. }
            | Error::NotIngestible { .. }
            | Error::NotRemembering { .. }
            | Error::RecordTooLarge { .. }
            | Error::NoTopic { .. }
            | Error::MissingVariable { .. }
            | Error::RecordSchema { .. }
            | Error::RegistrySettings { .. }
            | Error::RegistryRefused { .. }
            | Error::NewerFormat { .. } => ErrorKind::Invalid,
            Error::NotFound { .. } => ErrorKind::NotFound,
            Error::Log { .. } | Error::LogClosed { .. } | Error::Registry { .. } | Error::Transaction { .. } => {
                ErrorKind::Retryable
            }
            Error::OffsetsLost { .. } | Error::Fenced { .. } => ErrorKind::Conflict,
            Error::LogFull { .. } => ErrorKind::DiskFull,
            Error::Overloaded { .. } => ErrorKind::Overloaded,
            Error::Corrupt { .. } => ErrorKind::Corrupt,
            Error::Plan(_) | Error::Arrow(_) => ErrorKind::Internal,
        }
    }
}

/// An error and its causes in one line.
pub fn with_causes(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let words = error.to_string();
        // A transparent error repeats its cause's words.
        if !text.contains(&words) {
            text = format!("{text}: {words}");
        }
        cause = error.source();
    }
    text
}
