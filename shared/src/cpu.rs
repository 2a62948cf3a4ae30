//! Threads for CPU-bound work: plans, encoding, compression.
//!
//! A query or a batch run keeps a thread busy for long stretches; on the threads that serve requests it would delay
//! everyone else. The pool is a second tokio runtime, because DataFusion's plans are async. Simulations have one thread
//! for everything, so that the order of events follows from their seed: there the work runs on the calling runtime.

use std::future::Future;
use std::sync::Arc;

use tokio::runtime::{Builder, Handle, Runtime};
use tokio::task::JoinError;

use crate::time::is_simulated;

/// Planners walk expressions recursively, and some walks have no guard of their own; the length of a query is bounded so
/// that they fit into this with a wide margin.
const STACK_BYTES: usize = 16 << 20;

/// A pool of threads for CPU-bound futures. Clones share it; the threads end with the last clone.
#[derive(Debug, Clone)]
pub struct CpuPool {
    /// `None`: the calling runtime does the work.
    threads: Option<Arc<Threads>>,
}

#[derive(Debug)]
struct Threads {
    handle: Handle,
    /// Taken on drop, because a runtime must not be dropped where blocking is forbidden.
    runtime: Option<Runtime>,
}

impl Drop for Threads {
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

impl CpuPool {
    /// A pool of `threads` threads, at least one.
    ///
    /// # Errors
    /// When the system gives no threads.
    pub fn new(threads: usize) -> std::io::Result<CpuPool> {
        let runtime = Builder::new_multi_thread()
            .worker_threads(threads.max(1))
            .thread_name("watershed-cpu")
            .thread_stack_size(STACK_BYTES)
            // DataFusion's file reads and timeouts run on the runtime that runs the plan.
            .enable_all()
            .build()?;
        let threads = Threads { handle: runtime.handle().clone(), runtime: Some(runtime) };
        Ok(CpuPool { threads: Some(Arc::new(threads)) })
    }

    /// A pool without threads, whose work is tasks of the runtime that asks for it; for simulations.
    pub fn on_calling_runtime() -> CpuPool {
        CpuPool { threads: None }
    }

    /// Runs `work` on the pool. Dropping the returned future stops the work at its next await.
    ///
    /// # Panics
    /// When `work` panics, with its panic.
    pub async fn run<F>(&self, work: F) -> F::Output
    where
        F: Future + Send + 'static,
        F::Output: Send + 'static,
    {
        let mut task = AbortOnDrop(match &self.threads {
            Some(threads) => threads.handle.spawn(work),
            None => tokio::spawn(work),
        });
        match (&mut task.0).await {
            Ok(output) => output,
            Err(error) => match error.try_into_panic() {
                Ok(panic) => std::panic::resume_unwind(panic),
                // Only the pool's own end cancels a task that is still awaited; then nobody is left to answer.
                Err(_) => std::future::pending().await,
            },
        }
    }
}

/// Runs work that blocks, or takes long without an await, on a thread of its own; in simulated time, where other threads
/// would end at no certain moment, at once.
///
/// # Errors
/// When `work` panics or the runtime ends before it.
pub async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> Result<T, JoinError> {
    match is_simulated() {
        true => Ok(work()),
        false => tokio::task::spawn_blocking(work).await,
    }
}

struct AbortOnDrop<T>(tokio::task::JoinHandle<T>);

impl<T> Drop for AbortOnDrop<T> {
    fn drop(&mut self) {
        self.0.abort();
    }
}
