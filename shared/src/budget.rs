//! A bound on the memory of work that is under way. Who would exceed it is told so at once and never waits, so that
//! nothing piles up behind it.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

/// Bytes that work under way may hold together.
#[derive(Debug)]
pub struct MemoryBudget {
    bytes_max: usize,
    reserved: AtomicUsize,
}

/// A part of a budget; given back when it is dropped.
#[derive(Debug)]
pub struct Reservation {
    budget: Arc<MemoryBudget>,
    bytes: usize,
}

impl MemoryBudget {
    /// A budget of `bytes_max` bytes.
    pub fn new(bytes_max: usize) -> MemoryBudget {
        MemoryBudget { bytes_max, reserved: AtomicUsize::new(0) }
    }

    /// The bound in bytes.
    pub fn bytes_max(&self) -> usize {
        self.bytes_max
    }

    /// Bytes that are reserved now.
    pub fn reserved(&self) -> usize {
        self.reserved.load(Ordering::Relaxed)
    }

    /// A reservation of `bytes`; `None` when that would exceed the budget. `held` are bytes that the caller's own work
    /// has reserved already: work that is alone may exceed the budget, or a budget that is too small for one piece of
    /// work would refuse it for ever.
    pub fn reserve(self: &Arc<Self>, bytes: usize, held: usize) -> Option<Reservation> {
        self.take(bytes, held).then(|| Reservation { budget: Arc::clone(self), bytes })
    }

    fn take(&self, bytes: usize, held: usize) -> bool {
        let fits = |reserved: usize| {
            let wanted = reserved.saturating_add(bytes);
            (wanted <= self.bytes_max || reserved <= held).then_some(wanted)
        };
        self.reserved.fetch_update(Ordering::AcqRel, Ordering::Relaxed, fits).is_ok()
    }
}

impl Reservation {
    /// Bytes of this reservation.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// Raises the reservation to `bytes`, if it is smaller. Returns whether the budget allows it; if not, nothing
    /// changes.
    pub fn raise(&mut self, bytes: usize) -> bool {
        let more = bytes.saturating_sub(self.bytes);
        let taken = more == 0 || self.budget.take(more, self.bytes);
        if taken {
            self.bytes += more;
        }
        taken
    }
}

impl Drop for Reservation {
    fn drop(&mut self) {
        self.budget.reserved.fetch_sub(self.bytes, Ordering::AcqRel);
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test may panic")]

    use super::*;

    #[test]
    fn reservations_never_exceed_the_budget_together() {
        let budget = Arc::new(MemoryBudget::new(100));
        let mut first = budget.reserve(60, 0).unwrap();
        assert!(budget.reserve(41, 0).is_none());
        let second = budget.reserve(40, 0).unwrap();
        assert!(!first.raise(61), "the budget is full");
        drop(second);
        assert!(first.raise(100) && first.raise(10));
        assert_eq!((first.bytes(), budget.reserved()), (100, 100));
        drop(first);
        assert_eq!(budget.reserved(), 0);
    }

    #[test]
    fn work_that_is_alone_may_exceed_the_budget() {
        let budget = Arc::new(MemoryBudget::new(100));
        let mut alone = budget.reserve(150, 0).unwrap();
        assert!(alone.raise(200), "nobody else has anything");
        assert!(budget.reserve(1, 0).is_none(), "it is not alone");
        assert!(budget.reserve(1, 200).is_some(), "it is part of the work that is");
    }
}
