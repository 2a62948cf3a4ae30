//! Tells a slow client from one that keeps its end of a connection busy for nothing.
//!
//! A client may pause for a while, and may be slow for as long as it likes at the least rate; below that it uses its
//! pause up. So a large body over a thin line arrives, and one that trickles does not hold memory for ever.

use std::time::Duration;

use watershed_shared::config::ConnectionsConfig;

/// How long a client may still keep us waiting.
#[derive(Debug, Clone)]
pub(super) struct Pace {
    stall_max: Duration,
    bytes_per_second_min: f64,
    left: Duration,
}

impl Pace {
    pub(super) fn new(limits: &ConnectionsConfig) -> Pace {
        let stall_max = limits.stall_timeout;
        Pace { stall_max, bytes_per_second_min: f64::from(limits.bytes_per_second_min.max(1)), left: stall_max }
    }

    /// The longest further wait without a byte.
    pub(super) fn left(&self) -> Duration {
        self.left
    }

    /// Counts a wait that brought `bytes`.
    pub(super) fn waited(&mut self, wait: Duration, bytes: usize) {
        let earned = Duration::from_secs_f64(bytes as f64 / self.bytes_per_second_min);
        self.left = self.left.saturating_sub(wait).saturating_add(earned).min(self.stall_max);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pace() -> Pace {
        let limits = ConnectionsConfig { stall_timeout: Duration::from_secs(10), ..ConnectionsConfig::default() };
        Pace::new(&ConnectionsConfig { bytes_per_second_min: 1000, ..limits })
    }

    /// Whether a client that sends `bytes` every `every` seconds may go on for an hour.
    fn goes_on(every: u64, bytes: usize) -> bool {
        let mut pace = pace();
        (0..3600 / every).all(|_| {
            let in_time = Duration::from_secs(every) < pace.left();
            pace.waited(Duration::from_secs(every), bytes);
            in_time
        })
    }

    #[test]
    fn a_client_at_the_least_rate_goes_on_and_a_slower_one_does_not() {
        assert!(goes_on(1, 1000));
        assert!(goes_on(5, 5000));
        assert!(!goes_on(1, 900));
        assert!(!goes_on(5, 1));
    }

    #[test]
    fn no_rate_earns_a_pause_longer_than_the_longest() {
        let mut pace = pace();
        pace.waited(Duration::from_secs(1), 100_000_000);
        assert_eq!(pace.left(), Duration::from_secs(10));
        assert!(!goes_on(11, 1_000_000));
    }
}
