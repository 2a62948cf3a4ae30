//! Exact reading of numbers written in decimal.

/// A number as it was written: `(-1)^negative x magnitude x 10^exponent`, without rounding.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Decimal {
    negative: bool,
    /// Zero, or without factor ten.
    magnitude: u128,
    exponent: i64,
    /// The digits did not fit `magnitude`, which is meaningless then; `exponent` is right.
    saturated: bool,
}

/// Why a number is not a whole multiple of the unit that was asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Inexact {
    /// It has digits below the unit.
    TooFine,
    /// It is too large.
    OutOfRange,
}

impl Decimal {
    /// Reads `[+-] digits [. digits] [e [+-] digits]`, with at least one digit before the exponent. `None` for other
    /// text.
    pub(super) fn parse(text: &str) -> Option<Decimal> {
        let (negative, unsigned) = split_sign(text.as_bytes());
        let mut decimal = Decimal { negative, magnitude: 0, exponent: 0, saturated: false };
        let (mut digits, mut fraction_digits, mut zeros, mut written_exponent) = (0_usize, 0_i64, 0_i64, 0);
        let mut in_fraction = false;
        for (index, byte) in unsigned.iter().enumerate() {
            match byte {
                b'0'..=b'9' => {
                    digits += 1;
                    fraction_digits += i64::from(in_fraction);
                    decimal.push_digit(byte - b'0', &mut zeros);
                }
                b'.' if !in_fraction => in_fraction = true,
                b'e' | b'E' => {
                    written_exponent = parse_exponent(&unsigned[index + 1..])?;
                    break;
                }
                _ => return None,
            }
        }
        decimal.exponent = written_exponent - fraction_digits + zeros;
        (digits > 0).then_some(decimal)
    }

    /// The number in units of `10^-scale`, if it is a whole number of them.
    pub(super) fn scaled(&self, scale: i8) -> Result<i128, Inexact> {
        if self.is_zero() {
            return Ok(0);
        }
        let shift = self.exponent + i64::from(scale);
        if shift < 0 {
            return Err(Inexact::TooFine);
        }
        self.shifted_up(shift)
    }

    /// The number in units of `10^-scale`, rounded down.
    pub(super) fn scaled_down(&self, scale: i8) -> Result<i128, Inexact> {
        let shift = self.exponent + i64::from(scale);
        if shift >= 0 || self.is_zero() {
            return self.scaled(scale);
        }
        if self.saturated {
            return Err(Inexact::OutOfRange);
        }
        // The magnitude has no factor ten, so that something is left over by every division below.
        let quotient = power_of_ten(-shift).map_or(0, |divisor| self.magnitude / divisor);
        let quotient = i128::try_from(quotient).map_err(|_| Inexact::OutOfRange)?;
        Ok(if self.negative { -quotient - 1 } else { quotient })
    }

    fn shifted_up(&self, shift: i64) -> Result<i128, Inexact> {
        let magnitude = power_of_ten(shift).filter(|_| !self.saturated).and_then(|f| self.magnitude.checked_mul(f));
        let magnitude = magnitude.and_then(|m| i128::try_from(m).ok()).ok_or(Inexact::OutOfRange)?;
        Ok(if self.negative { -magnitude } else { magnitude })
    }

    fn is_zero(&self) -> bool {
        self.magnitude == 0 && !self.saturated
    }

    /// Appends a digit; zeros are only counted until a digit follows them, so that trailing ones cost no precision.
    fn push_digit(&mut self, digit: u8, zeros: &mut i64) {
        if digit == 0 {
            *zeros += 1;
            return;
        }
        let shift = if self.is_zero() { 0 } else { *zeros + 1 };
        *zeros = 0;
        let shifted = power_of_ten(shift).and_then(|factor| self.magnitude.checked_mul(factor));
        match shifted.and_then(|magnitude| magnitude.checked_add(u128::from(digit))) {
            Some(magnitude) => self.magnitude = magnitude,
            None => self.saturated = true,
        }
    }
}

/// The nearest DOUBLE of a number in decimal; `None` if that is infinite.
pub(super) fn nearest_f64(number: &str) -> Option<f64> {
    number.parse().ok().filter(|value: &f64| value.is_finite())
}

/// The nearest FLOAT of a number in decimal, rounded once; `None` if that is infinite.
pub(super) fn nearest_f32(number: &str) -> Option<f32> {
    number.parse().ok().filter(|value: &f32| value.is_finite())
}

/// The values of FLOAT and DOUBLE that no number spells; text spells them exactly so.
pub(super) fn special_float(text: &str) -> Option<f64> {
    match text {
        "NaN" => Some(f64::NAN),
        "Infinity" => Some(f64::INFINITY),
        "-Infinity" => Some(f64::NEG_INFINITY),
        _ => None,
    }
}

fn split_sign(text: &[u8]) -> (bool, &[u8]) {
    match text {
        [b'-', rest @ ..] => (true, rest),
        [b'+', rest @ ..] => (false, rest),
        _ => (false, text),
    }
}

fn parse_exponent(text: &[u8]) -> Option<i64> {
    let (negative, digits) = split_sign(text);
    if digits.is_empty() {
        return None;
    }
    let mut exponent: i64 = 0;
    for digit in digits {
        if !digit.is_ascii_digit() {
            return None;
        }
        // Beyond 10^17 more digits make no difference: a body has at most 2^31 of them to shift the point by.
        if exponent < 100_000_000_000_000_000 {
            exponent = exponent * 10 + i64::from(digit - b'0');
        }
    }
    Some(if negative { -exponent } else { exponent })
}

fn power_of_ten(exponent: i64) -> Option<u128> {
    10_u128.checked_pow(u32::try_from(exponent).ok()?)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn scaled(text: &str, scale: i8) -> Option<Result<i128, Inexact>> {
        Decimal::parse(text).map(|decimal| decimal.scaled(scale))
    }

    #[test]
    fn a_number_is_exact_whatever_its_spelling() {
        for text in ["1200", "+1200", "1200.000", "1.2e3", "12E+2", "0.0012e6", "120000e-2", "001200", "1200."] {
            assert_eq!(scaled(text, 0), Some(Ok(1200)), "{text}");
            assert_eq!(scaled(text, 2), Some(Ok(120_000)), "{text}");
        }
        assert_eq!(scaled("-.5", 1), Some(Ok(-5)));
        assert_eq!(scaled("9007199254740993", 0), Some(Ok(9_007_199_254_740_993)));
        assert_eq!(scaled("99999999999999999999999999999999999999", 0), Some(Ok(10_i128.pow(38) - 1)));
        let trailing_zeros = format!("1.{}", "0".repeat(100_000));
        assert_eq!(scaled(&trailing_zeros, 0), Some(Ok(1)));
        let leading_zeros = format!("{}1", "0".repeat(100_000));
        assert_eq!(scaled(&leading_zeros, 0), Some(Ok(1)));
    }

    #[test]
    fn zero_is_zero_at_every_exponent() {
        for text in ["0", "-0", "0.000", "0e999999999999999999999", "0e-999999999999999999999"] {
            assert_eq!(scaled(text, 0), Some(Ok(0)), "{text}");
            assert_eq!(Decimal::parse(text).map(|zero| zero.scaled_down(3)), Some(Ok(0)), "{text}");
        }
    }

    #[test]
    fn digits_below_the_unit_are_told_from_numbers_too_large() {
        assert_eq!(scaled("1.5", 0), Some(Err(Inexact::TooFine)));
        assert_eq!(scaled("1e-999999999999999999999", 10), Some(Err(Inexact::TooFine)));
        assert_eq!(scaled("0.12345678901234567890123456789012345678901234567890", 2), Some(Err(Inexact::TooFine)));
        assert_eq!(scaled("1e39", 0), Some(Err(Inexact::OutOfRange)));
        assert_eq!(scaled("1e999999999999999999999", 0), Some(Err(Inexact::OutOfRange)));
        assert_eq!(scaled(&"9".repeat(1000), 0), Some(Err(Inexact::OutOfRange)));
        assert_eq!(scaled("340282366920938463463374607431768211455", 0), Some(Err(Inexact::OutOfRange)));
    }

    #[test]
    fn rounding_down_goes_below_negative_numbers() {
        let down = |text| Decimal::parse(text).map(|decimal| decimal.scaled_down(0));
        assert_eq!(down("1.9"), Some(Ok(1)));
        assert_eq!(down("-1.1"), Some(Ok(-2)));
        assert_eq!(down("-2.000"), Some(Ok(-2)));
        assert_eq!(down("1e-400"), Some(Ok(0)));
        assert_eq!(down("-1e-400"), Some(Ok(-1)));
        assert_eq!(down("25e1"), Some(Ok(250)));
    }

    #[test]
    fn other_text_is_no_number() {
        for text in
            ["", "-", "+", ".", "1e", "1e+", "e5", "1.2.3", "0x10", "1_000", " 1", "1 ", "NaN", "inf", "--1", "1e5.0"]
        {
            assert_eq!(Decimal::parse(text), None, "{text}");
        }
    }

    #[test]
    fn floats_take_the_nearest_value_and_never_become_infinite() {
        assert_eq!(nearest_f64("0.1"), Some(0.1));
        assert_eq!(nearest_f64("1e309"), None);
        assert_eq!(nearest_f32("16777217"), Some(16_777_216.0));
        assert_eq!(nearest_f32("1e39"), None);
    }
}
