//! The words of the platform: positions, definitions and their plans, event formats, the log, configuration, errors.
//!
//! All three layers depend on this crate and never on each other.

pub mod budget;
pub mod config;
pub mod cpu;
pub mod definition;
pub mod disk;
pub mod environment;
pub mod error;
pub mod event;
pub mod fault;
pub mod folder;
pub mod format;
pub mod log;
pub mod panics;
pub mod plan;
pub mod position;
pub mod registry;
pub mod sink;
pub mod snapshot;
pub mod source;
pub mod telemetry;
pub mod time;
