//! The platform's settings and all their defaults. Unknown keys are refused; units are in names or, for times, in values.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::log::RECEIPT_WINDOW;

/// All settings, as in `watershed.toml`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Config {
    /// Address of the HTTP API. Port 0 takes a free one, which is printed.
    pub http: SocketAddr,
    /// Folder of everything stored, relative to the project: `log` and `realtime` in it, and `store` unless `store` says otherwise.
    pub data: PathBuf,
    /// URL of the history and the batch views, or a folder, relative to the project; without it the folder `store` in
    /// `data`.
    pub store: Option<String>,
    /// Filter of the process's own log, in the syntax of `RUST_LOG`.
    pub log_filter: String,
    /// Connections of the HTTP API.
    pub connections: ConnectionsConfig,
    /// Accepting events.
    pub ingest: IngestConfig,
    /// Writing the history.
    pub history: HistoryConfig,
    /// Realtime views.
    pub realtime: RealtimeConfig,
    /// Batch runs.
    pub batch: BatchConfig,
    /// Answering queries.
    pub query: QueryConfig,
}

impl Default for Config {
    fn default() -> Config {
        Config {
            http: SocketAddr::from(([127, 0, 0, 1], 8080)),
            data: PathBuf::from("data"),
            store: None,
            log_filter: "info".to_owned(),
            connections: ConnectionsConfig::default(),
            ingest: IngestConfig::default(),
            history: HistoryConfig::default(),
            realtime: RealtimeConfig::default(),
            batch: BatchConfig::default(),
            query: QueryConfig::default(),
        }
    }
}

/// Connections of the HTTP API: how many, and how slow their clients may be.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ConnectionsConfig {
    /// Most connections at a time; further ones are told so and closed.
    pub count_max: usize,
    /// Longest time for a request's head to arrive, and for a connection to stay open without a request.
    #[serde(with = "humantime_serde")]
    pub header_timeout: Duration,
    /// Longest time that a client may stop sending a body or taking an answer.
    #[serde(with = "humantime_serde")]
    pub stall_timeout: Duration,
    /// Slowest rate at which a client may send a body or take an answer for longer than `stall_timeout`.
    pub bytes_per_second_min: u32,
    /// Longest time for requests under way to end when the platform is told to stop.
    #[serde(with = "humantime_serde")]
    pub stop_timeout: Duration,
}

impl Default for ConnectionsConfig {
    fn default() -> ConnectionsConfig {
        ConnectionsConfig {
            count_max: 1024,
            header_timeout: Duration::from_secs(30),
            stall_timeout: Duration::from_secs(20),
            bytes_per_second_min: 8 << 10,
            stop_timeout: Duration::from_secs(10),
        }
    }
}

/// Accepting events.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct IngestConfig {
    /// Largest request body, before and after decompression.
    pub body_bytes_max: usize,
    /// Memory of all requests that bring events, from their first byte to their acknowledgement; beyond, further ones are
    /// refused at once.
    pub memory_bytes: usize,
    /// Free bytes that the log leaves on its disk; below, events are refused until there is room again.
    pub disk_free_bytes_min: u64,
    /// Memory for the log's recent events of each source, from which the views read.
    pub tail_bytes: usize,
    /// Most events that are handed to the views in one step.
    pub micro_batch_rows_max: usize,
    /// How long a request that came with an `Idempotency-Key` or a `Producer-Sequence` is recognized when it is repeated;
    /// at least a second.
    #[serde(with = "humantime_serde")]
    pub idempotency_window: Duration,
}

impl Default for IngestConfig {
    fn default() -> IngestConfig {
        IngestConfig {
            body_bytes_max: 64 << 20,
            memory_bytes: 256 << 20,
            disk_free_bytes_min: 64 << 20,
            tail_bytes: 64 << 20,
            micro_batch_rows_max: 65_536,
            idempotency_window: RECEIPT_WINDOW,
        }
    }
}

/// Writing the history.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct HistoryConfig {
    /// Longest time that accepted events wait for their commit.
    #[serde(with = "humantime_serde")]
    pub commit_interval: Duration,
    /// Events after which a commit starts before its time.
    pub commit_rows: usize,
    /// Memory of each source for events that wait for a commit that fails or lags; the commit reads those beyond from
    /// the log.
    pub unarchived_bytes_max: usize,
}

impl Default for HistoryConfig {
    fn default() -> HistoryConfig {
        HistoryConfig {
            commit_interval: Duration::from_secs(30),
            commit_rows: 500_000,
            unarchived_bytes_max: 256 << 20,
        }
    }
}

/// Realtime views.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct RealtimeConfig {
    /// Memory of each source's realtime views; beyond, queries read the largest runs from disk until a batch run covers
    /// them.
    pub memory_bytes: usize,
}

impl Default for RealtimeConfig {
    fn default() -> RealtimeConfig {
        RealtimeConfig { memory_bytes: 1 << 30 }
    }
}

/// Batch runs.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct BatchConfig {
    /// Memory of all batch runs together; beyond, they spill to disk.
    pub memory_bytes: usize,
    /// Ways of parallelism of one batch run; 0 takes the number of cores.
    pub parallelism: usize,
}

impl Default for BatchConfig {
    fn default() -> BatchConfig {
        BatchConfig { memory_bytes: 4 << 30, parallelism: 0 }
    }
}

/// Answering queries.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct QueryConfig {
    /// Longest time from a query's start to its last row.
    #[serde(with = "humantime_serde")]
    pub timeout: Duration,
    /// Longest time that a query waits for the position that it names.
    #[serde(with = "humantime_serde")]
    pub position_timeout: Duration,
    /// Memory of all queries together.
    pub memory_bytes: usize,
    /// Largest answer.
    pub answer_bytes_max: usize,
    /// Ways of parallelism of one query; 0 takes the number of cores.
    pub parallelism: usize,
}

impl Default for QueryConfig {
    fn default() -> QueryConfig {
        QueryConfig {
            timeout: Duration::from_secs(60),
            position_timeout: Duration::from_secs(30),
            memory_bytes: 2 << 30,
            answer_bytes_max: 256 << 20,
            parallelism: 0,
        }
    }
}

/// `configured`, or the number of cores when it is 0.
pub fn parallelism(configured: usize) -> usize {
    match configured {
        0 => std::thread::available_parallelism().map_or(1, std::num::NonZeroUsize::get),
        some => some,
    }
}
