//! The words of the platform: positions, definitions and their plans, event formats, the log, configuration, errors.
//!
//! All three layers depend on this crate and never on each other.

pub mod error;
pub mod event;
pub mod log;
pub mod position;
pub mod source;
