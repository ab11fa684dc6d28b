//! Values as Go spells them.
//!
//! Flags, logs and metrics of etcd are written and read by Go's standard library; operators, dashboards
//! and scripts have learned its spellings: `1m0s`, `8.388608e+06`, `T` for true.

use std::fmt;
use std::time::Duration;

/// Reads a boolean: `1`, `t`, `T`, `true`, `True`, `TRUE` and their opposites.
pub fn parse_bool(text: &str) -> Option<bool> {
    match text {
        "1" | "t" | "T" | "true" | "True" | "TRUE" => Some(true),
        "0" | "f" | "F" | "false" | "False" | "FALSE" => Some(false),
        _ => None,
    }
}

/// Why a number could not be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NumberError {
    /// It is not a number.
    Syntax,
    /// It does not fit.
    Range,
}

/// Reads an unsigned integer: decimal, or with one of the prefixes `0x`, `0o`, `0b`, `0`; underscores
/// may stand between digits.
pub fn parse_uint(text: &str) -> Result<u64, NumberError> {
    let lower = text.to_ascii_lowercase();
    let (digits, radix) = match lower.as_bytes() {
        [b'0', b'x', ..] => (&lower[2..], 16),
        [b'0', b'o', ..] => (&lower[2..], 8),
        [b'0', b'b', ..] => (&lower[2..], 2),
        [b'0', _, ..] => (&lower[1..], 8),
        _ => (lower.as_str(), 10),
    };
    if !are_between_digits(&lower) {
        return Err(NumberError::Syntax);
    }
    let digits = digits.replace('_', "");
    if digits.is_empty() || !digits.chars().all(|c| c.is_digit(radix)) {
        return Err(NumberError::Syntax);
    }
    u64::from_str_radix(&digits, radix).map_err(|_| NumberError::Range)
}

/// Whether each underscore stands between two digits, or behind what tells the radix.
fn are_between_digits(text: &str) -> bool {
    let bytes = text.as_bytes();
    let is_digit = |at: usize| bytes.get(at).is_some_and(u8::is_ascii_alphanumeric);
    let underscores = (0..bytes.len()).filter(|at| bytes[*at] == b'_');
    let mut stand_well = underscores.map(|at| at > 0 && is_digit(at - 1) && is_digit(at + 1));
    stand_well.all(|stands_well| stands_well)
}

/// Reads a signed integer, spelled like [`parse_uint`]'s with a sign before it.
pub fn parse_int(text: &str) -> Result<i64, NumberError> {
    let (negative, digits) = match text.as_bytes().first() {
        Some(b'-') => (true, &text[1..]),
        Some(b'+') => (false, &text[1..]),
        _ => (false, text),
    };
    let magnitude = i128::from(parse_uint(digits)?);
    i64::try_from(if negative { -magnitude } else { magnitude }).map_err(|_| NumberError::Range)
}

/// Units of a duration with their nanoseconds.
const UNITS: [(&str, f64); 8] = [
    ("ns", 1.0),
    ("us", 1e3),
    ("µs", 1e3),
    ("μs", 1e3),
    ("ms", 1e6),
    ("s", 1e9),
    ("m", 60e9),
    ("h", 3600e9),
];

/// Reads a duration such as `1h15m30.5s`. A duration of ours is never negative; `-0s` is zero.
pub fn parse_duration(text: &str) -> Result<Duration, String> {
    let invalid = || format!("time: invalid duration {text:?}");
    let (negative, mut rest) = match text.as_bytes().first() {
        Some(b'-') => (true, &text[1..]),
        Some(b'+') => (false, &text[1..]),
        _ => (false, text),
    };
    if rest == "0" {
        return Ok(Duration::ZERO);
    }
    if rest.is_empty() {
        return Err(invalid());
    }
    let mut nanos = 0.0;
    while !rest.is_empty() {
        let (number, tail) = split_where(rest, |c| !c.is_ascii_digit() && c != '.');
        let (unit, tail) = split_where(tail, |c| c.is_ascii_digit() || c == '.');
        let number: f64 = number.parse().map_err(|_| invalid())?;
        if unit.is_empty() {
            return Err(format!("time: missing unit in duration {text:?}"));
        }
        let (_, unit) = UNITS
            .iter()
            .find(|(name, _)| *name == unit)
            .ok_or_else(|| format!("time: unknown unit {unit:?} in duration {text:?}"))?;
        nanos += number * unit;
        rest = tail;
    }
    if nanos >= i64::MAX as f64 || (negative && nanos > 0.0) {
        return Err(invalid());
    }
    Ok(Duration::from_nanos(nanos.round() as u64))
}

fn split_where(text: &str, stop: impl Fn(char) -> bool) -> (&str, &str) {
    text.split_at(text.find(stop).unwrap_or(text.len()))
}

/// Shows a duration: `1.5s`, `100ms`, `2h0m0s`, `0s`.
pub fn duration(value: Duration) -> impl fmt::Display {
    struct Show(Duration);
    impl fmt::Display for Show {
        fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            let nanos = self.0.as_nanos();
            let (divisor, unit) = match nanos {
                0 => return f.write_str("0s"),
                1..1_000 => (1, "ns"),
                1_000..1_000_000 => (1_000, "µs"),
                1_000_000..1_000_000_000 => (1_000_000, "ms"),
                _ => (1_000_000_000, "s"),
            };
            let (mut whole, fraction) = (nanos / divisor, nanos % divisor);
            if whole >= 3600 && unit == "s" {
                write!(f, "{}h", whole / 3600)?;
            }
            if whole >= 60 && unit == "s" {
                write!(f, "{}m", whole % 3600 / 60)?;
                whole %= 60;
            }
            write!(f, "{whole}")?;
            if fraction > 0 {
                let width = divisor.ilog10() as usize;
                write!(f, ".{}", format!("{fraction:0width$}").trim_end_matches('0'))?;
            }
            f.write_str(unit)
        }
    }
    Show(value)
}

/// Shows a float as the Prometheus text format of Go does: shortest digits, an exponent from 1e6 up
/// and below 1e-4.
pub fn float(value: f64) -> impl fmt::Display {
    struct Show(f64);
    impl fmt::Display for Show {
        fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            let value = self.0;
            if value.is_nan() {
                return f.write_str("NaN");
            }
            if value.is_infinite() {
                return f.write_str(if value > 0.0 { "+Inf" } else { "-Inf" });
            }
            let magnitude = value.abs();
            if magnitude == 0.0 || (1e-4..1e6).contains(&magnitude) {
                return write!(f, "{value}");
            }
            let text = format!("{value:e}");
            let (digits, exponent) = text.split_once('e').expect("the format has an exponent");
            let (sign, exponent) = match exponent.strip_prefix('-') {
                Some(exponent) => ('-', exponent),
                None => ('+', exponent),
            };
            write!(f, "{digits}e{sign}{exponent:0>2}")
        }
    }
    Show(value)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_round_trip_in_gos_spelling() {
        for text in [
            "0s",
            "1ns",
            "1.101942ms",
            "500µs",
            "100ms",
            "1s",
            "1.5s",
            "1m0s",
            "2h0m0s",
            "26h3m4.000000005s",
        ] {
            assert_eq!(duration(parse_duration(text).unwrap()).to_string(), text);
        }
        assert_eq!(parse_duration("1h15m30.5s"), Ok(Duration::from_millis(4_530_500)));
        assert_eq!(parse_duration("0"), Ok(Duration::ZERO));
    }

    #[test]
    fn what_is_no_duration() {
        assert_eq!(
            parse_duration("5").unwrap_err(),
            "time: missing unit in duration \"5\""
        );
        assert_eq!(
            parse_duration("foo").unwrap_err(),
            "time: invalid duration \"foo\""
        );
        assert_eq!(
            parse_duration("5d").unwrap_err(),
            "time: unknown unit \"d\" in duration \"5d\""
        );
        for text in ["", "-", "-1s", ".s", "1..5s", "99999999h"] {
            assert!(parse_duration(text).is_err(), "{text}");
        }
    }

    #[test]
    fn numbers_of_every_radix() {
        assert_eq!(parse_uint("0x1_0"), Ok(16));
        assert_eq!(parse_uint("0x_10"), Ok(16));
        assert_eq!(parse_uint("1_000"), Ok(1000));
        assert_eq!(parse_uint("010"), Ok(8));
        assert_eq!(parse_uint("0"), Ok(0));
        assert_eq!(parse_int("-5"), Ok(-5));
        assert_eq!(parse_int("-9223372036854775808"), Ok(i64::MIN));
        assert_eq!(parse_int("9223372036854775808"), Err(NumberError::Range));
        assert_eq!(parse_uint("99999999999999999999"), Err(NumberError::Range));
        for text in [
            "", "-1", "x", "0x", "_1", "1_", "1__0", "0_", "--1", "09", "+1", "é",
        ] {
            assert_eq!(parse_uint(text), Err(NumberError::Syntax), "{text}");
        }
    }

    #[test]
    fn floats_as_in_gos_text_format() {
        for (value, text) in [
            (0.0, "0"),
            (1.0, "1"),
            (0.001, "0.001"),
            (0.0001, "0.0001"),
            (0.00001, "1e-05"),
            (52.4288, "52.4288"),
            (819200.0, "819200"),
            (1e6, "1e+06"),
            (8388608.0, "8.388608e+06"),
            (2147483648.0, "2.147483648e+09"),
            (-1.5e-7, "-1.5e-07"),
            (1e100, "1e+100"),
            (f64::INFINITY, "+Inf"),
            (f64::NAN, "NaN"),
        ] {
            assert_eq!(float(value).to_string(), text);
        }
    }
}
