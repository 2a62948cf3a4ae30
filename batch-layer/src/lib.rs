//! The batch layer: the history of every source, and the batch views that are computed from it.

pub mod audit;
pub mod catalog;
pub mod data_file;
pub mod error;
pub mod history;
pub mod inspect;
pub mod layout;
pub mod run;
pub mod scan;
pub mod schedule;
pub mod store;
pub mod view_store;

mod checksum;
mod table;
mod verified;

pub use catalog::{ActiveDefinition, Catalog};
pub use data_file::{DataFile, EncodeOptions};
pub use error::{Error, Result};
pub use history::{Append, History, HistorySnapshot, HistoryWriter};
pub use store::Store;
pub use view_store::{BatchView, NewBatchVersion, PublishOutcome, ViewStore};

#[cfg(test)]
mod test_support;
