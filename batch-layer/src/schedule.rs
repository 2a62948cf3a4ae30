//! When a view's batch runs start: cron expressions, in UTC.

use std::str::FromStr;

use chrono::{DateTime, Utc};

/// A cron expression: seconds, minutes, hours, day of month, month, day of week, and optionally the year, as the `cron`
/// crate reads it (names such as `MON`, ranges, steps); with five fields, as in crontab, it starts at second 0.
#[derive(Debug, Clone, PartialEq)]
pub struct Schedule {
    text: String,
    schedule: cron::Schedule,
}

impl Schedule {
    /// Parses a cron expression.
    ///
    /// # Errors
    /// A sentence that says what a cron expression looks like.
    pub fn parse(text: &str) -> Result<Schedule, String> {
        let fields = text.split_whitespace().count();
        let full = if fields == 5 { format!("0 {text}") } else { text.to_owned() };
        let schedule = cron::Schedule::from_str(&full).map_err(|error| {
            let reason = error.to_string();
            format!(
                "\"{text}\" is not a cron expression ({}); write for instance '0 */5 * * * *' (second, minute, hour, day of \
                 month, month, day of week)",
                reason.lines().next().unwrap_or_default()
            )
        })?;
        Ok(Schedule { text: text.to_owned(), schedule })
    }

    /// The first start after `time`; `None` when the expression has none left.
    pub fn next_after(&self, time: DateTime<Utc>) -> Option<DateTime<Utc>> {
        self.schedule.after(&time).next()
    }

    /// The expression as written.
    pub fn text(&self) -> &str {
        &self.text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn crontab_lines_and_lines_with_seconds_mean_the_same() -> Result<(), Box<dyn std::error::Error>> {
        let time: DateTime<Utc> = "2026-01-01T00:03:20Z".parse()?;
        for text in ["*/5 * * * *", "0 */5 * * * *"] {
            let next = Schedule::parse(text)?.next_after(time);
            assert_eq!(next, Some("2026-01-01T00:05:00Z".parse()?), "{text}");
        }
        Ok(())
    }

    #[test]
    fn anything_else_is_refused_with_an_example() {
        for text in ["", "every minute", "61 * * * * *", "* * * *"] {
            let reason = Schedule::parse(text).err().unwrap_or_default();
            assert!(reason.contains("0 */5 * * * *"), "{text:?}: {reason}");
        }
    }
}
