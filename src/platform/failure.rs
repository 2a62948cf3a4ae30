//! Why something that is tried again and again does not succeed, for whoever looks at the platform.

use std::sync::{Arc, Mutex, PoisonError};

/// The words of the last failure, until a success. Clones share it.
#[derive(Debug, Clone, Default)]
pub(super) struct Failure(Arc<Mutex<Option<String>>>);

impl Failure {
    /// The last attempt's failure; `None` if it succeeded or there was none.
    pub(super) fn current(&self) -> Option<String> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// How the last attempt ended.
    pub(super) fn set(&self, failure: Option<String>) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = failure;
    }
}
