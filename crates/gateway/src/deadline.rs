//! How long a call may take, as the header `Grpc-Timeout` says.

use std::time::Duration;

use crate::Refusal;

/// The time in a header such as `250m`, which is 250 ms.
///
/// # Errors
/// It is no such time.
pub fn deadline(text: &str) -> Result<Duration, Refusal> {
    let refusal = || Refusal::invalid(format!("invalid grpc-timeout: {text}"));
    let unit = text.chars().next_back().ok_or_else(refusal)?;
    let number = &text[..text.len() - unit.len_utf8()];
    let number: i64 = number.parse().map_err(|_| refusal())?;
    // One that lies in the past is over at once.
    let number = u64::try_from(number).unwrap_or(0);
    match unit {
        'H' => Ok(Duration::from_secs(number.saturating_mul(3600))),
        'M' => Ok(Duration::from_secs(number.saturating_mul(60))),
        'S' => Ok(Duration::from_secs(number)),
        'm' => Ok(Duration::from_millis(number)),
        'u' => Ok(Duration::from_micros(number)),
        'n' => Ok(Duration::from_nanos(number)),
        _ => Err(refusal()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_time_has_a_number_and_a_unit() {
        assert_eq!(deadline("250m").unwrap(), Duration::from_millis(250));
        assert_eq!(deadline("1H").unwrap(), Duration::from_secs(3600));
        assert_eq!(deadline("-1S").unwrap(), Duration::ZERO);
        for wrong in ["", "1", "x", "1x", "xS", "1\u{e4}"] {
            let refusal = deadline(wrong).unwrap_err();
            assert_eq!(refusal.message, format!("invalid grpc-timeout: {wrong}"));
        }
    }
}
