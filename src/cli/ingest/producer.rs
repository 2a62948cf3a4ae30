//! Names requests so that the platform recognizes one that it has seen: a producer of our own, and a number.
//!
//! A producer's first request carries no rows. The platform refuses every other number of a producer that it does not
//! know, so once it has forgotten this one (`ingest.idempotency_window`), rows that are sent again are refused and not
//! counted twice. Were they in the producer's first request, they would be taken for new ones.

use std::hash::{BuildHasher, Hasher, RandomState};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use super::ledger::Pending;
use crate::client::RequestName;

/// A producer that sent nothing for so long is left for a new one, lest the platform forget it in the middle of a job:
/// `tail -f` on a quiet day. Far below any sensible window.
const IDLE_MAX: Duration = Duration::from_secs(600);

/// A producer that the platform knows.
#[derive(Debug)]
pub(super) struct Producer {
    id: String,
    next: u64,
    used: Instant,
}

impl Producer {
    /// A new producer; its first request is to carry no rows.
    pub(super) fn new() -> Producer {
        Producer { id: random_id(), next: 0, used: Instant::now() }
    }

    /// The producer of a request that was under way when an earlier call ended, behind that request.
    pub(super) fn behind(pending: &Pending) -> Producer {
        Producer { id: pending.producer.clone(), next: pending.sequence + 1, used: Instant::now() }
    }

    /// Whether a new one should take its place.
    pub(super) fn is_stale(&self) -> bool {
        self.used.elapsed() > IDLE_MAX
    }

    /// Names the next request.
    pub(super) fn next_request(&mut self) -> RequestName {
        let name = RequestName { producer: self.id.clone(), sequence: self.next };
        self.next += 1;
        name
    }

    /// Its last request was answered.
    pub(super) fn answered(&mut self) {
        self.used = Instant::now();
    }
}

/// 128 bits that no other call has: the standard library seeds its hashers with randomness of the system.
fn random_id() -> String {
    let since_epoch = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_nanos();
    let half = || {
        let mut hasher = RandomState::new().build_hasher();
        hasher.write_u128(since_epoch);
        hasher.write_u32(std::process::id());
        hasher.finish()
    };
    format!("ingest-{:016x}{:016x}", half(), half())
}
