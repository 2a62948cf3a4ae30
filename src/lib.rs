//! Watershed, assembled: a project's definitions become sources and views that are kept current by both layers.
//!
//! The library half of the package exists for the command and for tests; the layers are crates of their own.

pub mod error;
pub mod platform;
pub mod project;
