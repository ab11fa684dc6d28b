//! How long a call may take, as the header `Grpc-Timeout` says.

use std::time::Duration;

use crate::Refusal;

/// The time in a header such as `250m`, which is 250 ms; without a number but 0 the call may take as long as it likes.
///
/// # Errors
/// It is no such time.
pub fn deadline(text: &str) -> Result<Option<Duration>, Refusal> {
    if text.is_empty() {
        return Ok(None);
    }
    let refusal = || Refusal::invalid(format!("invalid grpc-timeout: {text}"));
    let unit = text.chars().next_back().ok_or_else(refusal)?;
    let number = &text[..text.len() - unit.len_utf8()];
    let number: i64 = number.parse().map_err(|_| refusal())?;
    // One that lies in the past is over at once.
    let count = u64::try_from(number).unwrap_or(0);
    let time = match unit {
        'H' => Duration::from_secs(count.saturating_mul(3600)),
        'M' => Duration::from_secs(count.saturating_mul(60)),
        'S' => Duration::from_secs(count),
        'm' => Duration::from_millis(count),
        'u' => Duration::from_micros(count),
        'n' => Duration::from_nanos(count),
        _ => return Err(refusal()),
    };
    Ok((number != 0).then_some(time))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_time_has_a_number_and_a_unit() {
        for (text, time) in [
            ("250m", Some(Duration::from_millis(250))),
            ("1H", Some(Duration::from_secs(3600))),
            ("-1S", Some(Duration::ZERO)),
            ("0S", None),
            ("", None),
        ] {
            assert_eq!(deadline(text).unwrap(), time, "{text}");
        }
        for wrong in ["1", "0", "x", "1x", "xS", "1\u{e4}"] {
            let refusal = deadline(wrong).unwrap_err();
            assert_eq!(refusal.message, format!("invalid grpc-timeout: {wrong}"));
        }
    }
}
