//! Reads dates and timestamps: ISO 8601 text in UTC or with an offset, in the years 0001 to 9999.

use std::ops::RangeInclusive;

use chrono::{Datelike, NaiveDate};

/// Microseconds of a day.
pub(super) const DAY_US: i64 = 86_400_000_000;
/// The days since the epoch that a DATE may be: 0001-01-01 to 9999-12-31.
pub(super) const DATE_RANGE: RangeInclusive<i64> = -719_162..=2_932_896;
/// The microseconds since the epoch that a TIMESTAMP may be: the first to the last of those days.
pub(crate) const TIMESTAMP_RANGE: RangeInclusive<i64> =
    *DATE_RANGE.start() * DAY_US..=(*DATE_RANGE.end() + 1) * DAY_US - 1;

/// The epoch in chrono's count of days, in which 0001-01-01 is day 1.
const EPOCH_FROM_COMMON_ERA: i32 = 719_163;

/// Why text is no time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum TimeError {
    /// It is not written as a time.
    Malformed,
    /// It is written as a time, but there is no such day, hour, minute or second.
    NoSuchTime,
    /// Outside of the years 0001 to 9999.
    OutOfRange,
}

/// Microseconds since the epoch of `YYYY-MM-DD`, or of that with `T` or a space and `HH:MM[:SS[.fraction]]` and
/// optionally `Z`, `UTC`, `+HH`, `+HHMM` or `+HH:MM`. Digits beyond the microsecond are dropped.
pub(super) fn parse_timestamp(text: &str) -> Result<i64, TimeError> {
    let mut rest = Digits { rest: text.as_bytes() };
    let days = rest.date()?;
    if rest.is_empty() {
        return in_range(days * DAY_US, TIMESTAMP_RANGE);
    }
    if !rest.take_any(b"Tt ") {
        return Err(TimeError::Malformed);
    }
    let time_of_day = rest.time_of_day()?;
    let offset = rest.offset()?;
    if !rest.is_empty() {
        return Err(TimeError::Malformed);
    }
    in_range(days * DAY_US + time_of_day - offset, TIMESTAMP_RANGE)
}

/// Days since the epoch of `YYYY-MM-DD`, or of a timestamp that is a midnight in UTC.
pub(super) fn parse_date(text: &str) -> Result<i32, TimeError> {
    let timestamp = parse_timestamp(text)?;
    let midnight = timestamp.rem_euclid(DAY_US) == 0;
    i32::try_from(timestamp.div_euclid(DAY_US)).ok().filter(|_| midnight).ok_or(TimeError::Malformed)
}

fn in_range(value: i64, range: RangeInclusive<i64>) -> Result<i64, TimeError> {
    if range.contains(&value) { Ok(value) } else { Err(TimeError::OutOfRange) }
}

/// What is left of a text made of fixed-width numbers.
struct Digits<'a> {
    rest: &'a [u8],
}

impl Digits<'_> {
    fn date(&mut self) -> Result<i64, TimeError> {
        let year = self.number(4)?;
        self.expect(b'-')?;
        let month = self.number(2)?;
        self.expect(b'-')?;
        let day = self.number(2)?;
        if year == 0 {
            return Err(TimeError::OutOfRange);
        }
        let date = NaiveDate::from_ymd_opt(year as i32, month, day).ok_or(TimeError::NoSuchTime)?;
        Ok(i64::from(date.num_days_from_ce() - EPOCH_FROM_COMMON_ERA))
    }

    /// Microseconds since midnight.
    fn time_of_day(&mut self) -> Result<i64, TimeError> {
        let hour = self.number(2)?;
        self.expect(b':')?;
        let minute = self.number(2)?;
        let mut second = 0;
        let mut microsecond = 0;
        if self.take_any(b":") {
            second = self.number(2)?;
            if self.take_any(b".") {
                microsecond = self.fraction()?;
            }
        }
        if hour > 23 || minute > 59 || second > 59 {
            return Err(TimeError::NoSuchTime);
        }
        Ok(i64::from((hour * 60 + minute) * 60 + second) * 1_000_000 + i64::from(microsecond))
    }

    fn fraction(&mut self) -> Result<u32, TimeError> {
        let digits = self.rest.iter().take_while(|byte| byte.is_ascii_digit()).count();
        if digits == 0 {
            return Err(TimeError::Malformed);
        }
        let (fraction, rest) = self.rest.split_at(digits);
        self.rest = rest;
        Ok((0..6).fold(0, |value, index| value * 10 + fraction.get(index).map_or(0, |digit| u32::from(digit - b'0'))))
    }

    /// Microseconds that the local time is ahead of UTC.
    fn offset(&mut self) -> Result<i64, TimeError> {
        self.take_any(b" ");
        if self.is_empty() || self.take_any(b"Zz") {
            return Ok(0);
        }
        if let Some(rest) = self.rest.strip_prefix(b"UTC") {
            self.rest = rest;
            return Ok(0);
        }
        let negative = self.rest.first() == Some(&b'-');
        if !self.take_any(b"+-") {
            return Err(TimeError::Malformed);
        }
        let hours = self.number(2)?;
        let separated = self.take_any(b":");
        let minutes = if separated || !self.is_empty() { self.number(2)? } else { 0 };
        if hours > 23 || minutes > 59 {
            return Err(TimeError::NoSuchTime);
        }
        let offset = i64::from(hours * 60 + minutes) * 60_000_000;
        Ok(if negative { -offset } else { offset })
    }

    fn number(&mut self, width: usize) -> Result<u32, TimeError> {
        let (digits, rest) = self.rest.split_at_checked(width).ok_or(TimeError::Malformed)?;
        self.rest = rest;
        let mut number = 0;
        for digit in digits {
            if !digit.is_ascii_digit() {
                return Err(TimeError::Malformed);
            }
            number = number * 10 + u32::from(digit - b'0');
        }
        Ok(number)
    }

    fn expect(&mut self, byte: u8) -> Result<(), TimeError> {
        if self.take_any(&[byte]) { Ok(()) } else { Err(TimeError::Malformed) }
    }

    fn take_any(&mut self, bytes: &[u8]) -> bool {
        match self.rest {
            [first, rest @ ..] if bytes.contains(first) => {
                self.rest = rest;
                true
            }
            _ => false,
        }
    }

    fn is_empty(&self) -> bool {
        self.rest.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use chrono::DateTime;

    use super::*;

    #[test]
    fn every_spelling_of_an_instant_is_that_instant() {
        let instant = 1_442_018_818_771_000;
        for text in [
            "2015-09-12T00:46:58.771Z",
            "2015-09-12T00:46:58.771",
            "2015-09-12 00:46:58.771",
            "2015-09-12t00:46:58.771z",
            "2015-09-12 00:46:58.771000 UTC",
            "2015-09-12 00:46:58.771+00",
            "2015-09-12T02:46:58.771+02:00",
            "2015-09-12T02:46:58.771 +0200",
            "2015-09-11T17:16:58.771-07:30",
            "2015-09-12T00:46:58.771000999Z",
        ] {
            assert_eq!(parse_timestamp(text), Ok(instant), "{text}");
        }
        assert_eq!(parse_timestamp("2015-09-12T00:46"), Ok(1_442_018_760_000_000));
        assert_eq!(parse_timestamp("2015-09-12"), Ok(1_442_016_000_000_000));
        assert_eq!(parse_timestamp("1969-12-31T23:59:59.999999999Z"), Ok(-1));
    }

    #[test]
    fn times_agree_with_chrono_on_every_day_of_some_centuries() {
        let first = NaiveDate::from_ymd_opt(1890, 1, 1).into_iter().flat_map(|day| day.iter_days());
        for day in first.take(80_000) {
            let text = format!("{day}T12:34:56.789012Z");
            let expected = DateTime::parse_from_rfc3339(&text).map(|time| time.timestamp_micros());
            assert_eq!(parse_timestamp(&text).ok(), expected.ok(), "{text}");
        }
    }

    #[test]
    fn the_first_and_the_last_microsecond_are_accepted_and_their_neighbours_are_not() {
        assert_eq!(parse_timestamp("0001-01-01"), Ok(*TIMESTAMP_RANGE.start()));
        assert_eq!(parse_timestamp("9999-12-31T23:59:59.999999Z"), Ok(*TIMESTAMP_RANGE.end()));
        for text in ["0001-01-01T00:00+00:01", "9999-12-31T23:59:59-00:01", "0000-12-31"] {
            assert_eq!(parse_timestamp(text), Err(TimeError::OutOfRange), "{text}");
        }
        assert_eq!(parse_date("0001-01-01").map(i64::from), Ok(*DATE_RANGE.start()));
        assert_eq!(parse_date("9999-12-31").map(i64::from), Ok(*DATE_RANGE.end()));
    }

    #[test]
    fn days_and_hours_that_do_not_exist_are_told_from_other_text() {
        for text in
            ["2015-02-29", "2015-13-01", "2015-00-10", "2015-09-12T24:00", "2015-09-12T00:60", "2015-09-12T00:00:60"]
        {
            assert_eq!(parse_timestamp(text), Err(TimeError::NoSuchTime), "{text}");
        }
        for text in [
            "",
            "2015",
            "2015-9-12",
            "12.09.2015",
            "2015-09-12T",
            "2015-09-12T00",
            "2015-09-12T00:46:58.",
            "x015-09-12",
            "2015-09-12T00:46:58.771ZZ",
            "2015-09-12T00:46:58 Europe/Berlin",
            "2015-09-12T00:46+2",
            "２０15-09-12",
            "2015-09-12T00:46:58,771",
            "+2015-09-12",
            "2015-09-12T00:46+02:",
            "2015-09-12  00:46",
        ] {
            assert_eq!(parse_timestamp(text), Err(TimeError::Malformed), "{text}");
        }
    }

    #[test]
    fn a_date_is_a_day_or_its_midnight() {
        assert_eq!(parse_date("1970-01-02"), Ok(1));
        assert_eq!(parse_date("1969-12-31T00:00:00Z"), Ok(-1));
        assert_eq!(parse_date("1970-01-02T00:00:01Z"), Err(TimeError::Malformed));
    }
}
