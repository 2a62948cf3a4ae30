//! Writes dates and times as ISO 8601, the one spelling that all text formats share.
//!
//! Seconds have six decimals, or nine where a nanosecond would be lost. Any 64-bit value has a text: years beyond four
//! digits carry a sign, as ISO 8601 says.

use std::io::Write;

use arrow::datatypes::TimeUnit;

const SECONDS_A_DAY: i64 = 86_400;
const DAYS_IN_400_YEARS: i64 = 146_097;

/// Appends `2015-09-12` for a number of days since the epoch.
pub(super) fn push_date(out: &mut Vec<u8>, days: i64) {
    let (year, month, day) = calendar(days);
    if (0..=9999).contains(&year) {
        push_digits(out, year, 4);
    } else {
        // Writing to memory cannot fail.
        let _ = write!(out, "{year:+05}");
    }
    out.push(b'-');
    push_digits(out, month, 2);
    out.push(b'-');
    push_digits(out, day, 2);
}

/// Appends `00:46:58.771000` for a time since midnight.
pub(super) fn push_time(out: &mut Vec<u8>, value: i64, unit: &TimeUnit) {
    let (seconds, nanoseconds) = split(value, unit);
    push_time_of_day(out, seconds, nanoseconds);
}

/// Appends `2015-09-12T00:46:58.771000Z` for a time since the epoch.
pub(super) fn push_timestamp(out: &mut Vec<u8>, value: i64, unit: &TimeUnit) {
    let (seconds, nanoseconds) = split(value, unit);
    push_date(out, seconds.div_euclid(SECONDS_A_DAY));
    out.push(b'T');
    push_time_of_day(out, seconds.rem_euclid(SECONDS_A_DAY), nanoseconds);
    out.push(b'Z');
}

fn push_time_of_day(out: &mut Vec<u8>, seconds: i64, nanoseconds: i64) {
    push_digits(out, seconds / 3600, 2);
    out.push(b':');
    push_digits(out, seconds / 60 % 60, 2);
    out.push(b':');
    push_digits(out, seconds % 60, 2);
    out.push(b'.');
    if nanoseconds % 1000 == 0 {
        push_digits(out, nanoseconds / 1000, 6);
    } else {
        push_digits(out, nanoseconds, 9);
    }
}

/// Whole seconds, and the nanoseconds from there on.
fn split(value: i64, unit: &TimeUnit) -> (i64, i64) {
    let per_second = match unit {
        TimeUnit::Second => 1,
        TimeUnit::Millisecond => 1_000,
        TimeUnit::Microsecond => 1_000_000,
        TimeUnit::Nanosecond => 1_000_000_000,
    };
    (value.div_euclid(per_second), value.rem_euclid(per_second) * (1_000_000_000 / per_second))
}

fn push_digits(out: &mut Vec<u8>, number: i64, width: u32) {
    for place in (0..width).rev() {
        out.push(b'0' + (number / 10_i64.pow(place) % 10) as u8);
    }
}

/// Year, month and day of a day since the epoch, in the Gregorian calendar extended both ways.
///
/// Years are counted from 1 March, so that a leap day is a year's last day; in 400 of them the calendar repeats.
fn calendar(days: i64) -> (i64, i64, i64) {
    // 1970-01-01 is the day 719,468 after 0000-03-01.
    let days = days + 719_468;
    let day_of_era = days.rem_euclid(DAYS_IN_400_YEARS);
    let year_of_era = (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    // March to January have 153 days in each five months.
    let month_from_march = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * month_from_march + 2) / 5 + 1;
    let month = if month_from_march < 10 { month_from_march + 3 } else { month_from_march - 9 };
    let year = year_of_era + days.div_euclid(DAYS_IN_400_YEARS) * 400 + i64::from(month <= 2);
    (year, month, day)
}

#[cfg(test)]
mod tests {
    use chrono::{Datelike, NaiveDate};
    use watershed_shared::time::iso_timestamp;

    use super::*;

    fn text(write: impl FnOnce(&mut Vec<u8>)) -> String {
        let mut out = Vec::new();
        write(&mut out);
        String::from_utf8_lossy(&out).into_owned()
    }

    #[test]
    fn every_day_of_eight_hundred_years_has_the_date_that_the_calendar_gives_it() {
        let first = NaiveDate::from_ymd_opt(1600, 1, 1).into_iter();
        for date in first.flat_map(|first| first.iter_days().take_while(|date| date.year() < 2400)) {
            let days = date.signed_duration_since(NaiveDate::default()).num_days();
            assert_eq!(text(|out| push_date(out, days)), date.to_string());
        }
    }

    #[test]
    fn timestamps_agree_with_those_of_as_of() {
        for microseconds in [0, -1, 1_442_018_818_771_000, -62_135_596_800_000_000, 253_402_300_800_000_000] {
            let written = text(|out| push_timestamp(out, microseconds, &TimeUnit::Microsecond));
            assert_eq!(Some(written), iso_timestamp(microseconds));
        }
    }

    #[test]
    fn a_timestamp_is_the_same_text_in_every_unit_and_loses_no_nanosecond() {
        let expected = "2015-09-12T00:46:58.000000Z";
        let seconds = 1_442_018_818;
        assert_eq!(text(|out| push_timestamp(out, seconds, &TimeUnit::Second)), expected);
        assert_eq!(text(|out| push_timestamp(out, seconds * 1_000, &TimeUnit::Millisecond)), expected);
        assert_eq!(text(|out| push_timestamp(out, seconds * 1_000_000, &TimeUnit::Microsecond)), expected);
        assert_eq!(text(|out| push_timestamp(out, seconds * 1_000_000_000, &TimeUnit::Nanosecond)), expected);
        let nanosecond_before = seconds * 1_000_000_000 - 1;
        let text = text(|out| push_timestamp(out, nanosecond_before, &TimeUnit::Nanosecond));
        assert_eq!(text, "2015-09-12T00:46:57.999999999Z");
    }

    #[test]
    fn times_beyond_the_calendar_still_have_a_text() {
        let text_of = |value| text(|out| push_timestamp(out, value, &TimeUnit::Second));
        assert_eq!(text_of(i64::MAX), "+292277026596-12-04T15:30:07.000000Z");
        assert_eq!(text_of(i64::MIN), "-292277022657-01-27T08:29:52.000000Z");
        assert_eq!(text(|out| push_date(out, i64::from(i32::MIN))), "-5877641-06-23");
    }

    #[test]
    fn times_of_day_have_six_decimals() {
        assert_eq!(text(|out| push_time(out, 0, &TimeUnit::Second)), "00:00:00.000000");
        assert_eq!(text(|out| push_time(out, 86_399_999, &TimeUnit::Millisecond)), "23:59:59.999000");
    }
}
