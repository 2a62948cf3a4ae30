//! Time as text and the one place that reads the clock.

use chrono::{DateTime, Utc};

/// Now; microseconds since the epoch.
pub fn now_us() -> i64 {
    Utc::now().timestamp_micros()
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
}
