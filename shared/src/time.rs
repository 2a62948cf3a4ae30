//! Time as text, and the one place that reads the clock and waits for it.
//!
//! On a thread that has entered [`simulated::SimulatedTime`] it is that time; everywhere else it is the system's.

use std::pin::pin;
use std::time::{Duration, Instant};

use chrono::{DateTime, Utc};

pub mod simulated;

/// Now; microseconds since the epoch.
pub fn now_us() -> i64 {
    simulated::now_us().unwrap_or_else(|| Utc::now().timestamp_micros())
}

/// Now, as a date and time.
pub fn now() -> DateTime<Utc> {
    // A simulation may be anywhere in the calendar but not beyond it.
    DateTime::from_timestamp_micros(now_us()).unwrap_or_default()
}

/// Now, for measuring and for deadlines: it never goes back.
pub fn instant() -> Instant {
    simulated::instant().unwrap_or_else(Instant::now)
}

/// Whether this thread is in simulated time.
pub fn is_simulated() -> bool {
    simulated::is_entered()
}

/// Waits.
pub async fn sleep(time: Duration) {
    sleep_until(instant() + time).await;
}

/// Waits for an instant.
pub async fn sleep_until(deadline: Instant) {
    match is_simulated() {
        true => simulated::sleep_until(deadline).await,
        false => tokio::time::sleep_until(deadline.into()).await,
    }
}

/// What `work` gives, or `None` when it has not ended by the deadline; it is dropped then.
pub async fn timeout_at<F: Future>(deadline: Instant, work: F) -> Option<F::Output> {
    let work = pin!(work);
    tokio::select! {
        biased;
        output = work => Some(output),
        () = sleep_until(deadline) => None,
    }
}

/// What `work` gives, or `None` when it takes longer than `time`; it is dropped then.
pub async fn timeout<F: Future>(time: Duration, work: F) -> Option<F::Output> {
    timeout_at(instant() + time, work).await
}

/// Microseconds since the epoch as ISO 8601 in UTC with six digits of fraction; `None` beyond the calendar.
pub fn iso_timestamp(micros: i64) -> Option<String> {
    DateTime::from_timestamp_micros(micros).map(|time| time.format("%Y-%m-%dT%H:%M:%S%.6fZ").to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn timestamps_always_have_six_digits_of_fraction() {
        assert_eq!(iso_timestamp(0).as_deref(), Some("1970-01-01T00:00:00.000000Z"));
        assert_eq!(iso_timestamp(1_442_016_000_123_000).as_deref(), Some("2015-09-12T00:00:00.123000Z"));
        assert_eq!(iso_timestamp(i64::MAX), None);
    }

    #[test]
    fn simulated_time_passes_only_when_it_is_moved() -> std::io::Result<()> {
        let time = simulated::SimulatedTime::enter(5);
        let move_on = || {
            if let Some(next) = simulated::next_timer() {
                simulated::advance_to(next);
            }
        };
        let runtime = tokio::runtime::Builder::new_current_thread().on_thread_park(move_on).build()?;
        let hour = Duration::from_secs(3600);
        runtime.block_on(async {
            let (begun, real) = (instant(), Instant::now());
            let slow = tokio::spawn(sleep(2 * hour));
            assert_eq!(timeout(hour, std::future::pending::<()>()).await, None);
            assert_eq!((instant() - begun, now_us()), (hour, 5 + 3_600_000_000));
            assert_eq!(timeout(hour, async { 7 }).await, Some(7));
            assert!(slow.await.is_ok());
            assert_eq!(simulated::elapsed(), 2 * hour);
            assert!(real.elapsed() < hour / 100, "nobody waits for simulated time");
        });
        assert_eq!(simulated::next_timer(), None, "timers of finished waits are forgotten");
        drop(time);
        assert!(!is_simulated() && now_us() > 1_700_000_000_000_000);
        Ok(())
    }
}
