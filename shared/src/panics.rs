//! Panics as values, for code whose authors we cannot hold to our rules: the functions that views and queries use.

use std::any::Any;
use std::panic::{AssertUnwindSafe, catch_unwind};

use futures::FutureExt;

/// What `work` gives.
///
/// # Errors
/// The words of its panic. What `work` was changing must not be used any more, or be replaced as a whole.
pub fn catch_panic<T>(work: impl FnOnce() -> T) -> Result<T, String> {
    catch_unwind(AssertUnwindSafe(work)).map_err(|panic| panic_words(panic.as_ref()))
}

/// As [`catch_panic`], for what is waited for.
pub async fn catch_panic_of<T>(work: impl Future<Output = T>) -> Result<T, String> {
    AssertUnwindSafe(work).catch_unwind().await.map_err(|panic| panic_words(panic.as_ref()))
}

fn panic_words(panic: &(dyn Any + Send)) -> String {
    let words = panic.downcast_ref::<String>().map(String::as_str).or(panic.downcast_ref::<&str>().copied());
    words.unwrap_or("it gives no reason").to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_panic_becomes_its_words() {
        assert_eq!(catch_panic(|| 1), Ok(1));
        assert_eq!(catch_panic_of(async { 1 }).await, Ok(1));
        let formatted = catch_panic_of(async { assert_ne!(1, 1, "value {}", 1) }).await;
        assert!(formatted.is_err_and(|words| words.contains("value 1")));
        let literal = catch_panic(|| assert!(std::hint::black_box(false), "in words"));
        assert_eq!(literal, Err("in words".to_owned()));
        let other = catch_panic(|| std::panic::panic_any(5));
        assert_eq!(other, Err("it gives no reason".to_owned()));
    }
}
