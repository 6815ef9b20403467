//! Lengths of time as they are typed: `30s`, `15m`, `24h`, `90d`. Pure.

use std::time::Duration;

/// The longest one: a century.
const MAX: Duration = Duration::from_hours(100 * 365 * 24);

/// Reads digits and one unit.
pub(super) fn parse(text: &str) -> Result<Duration, String> {
    let wrong = || "give a number and a unit, such as 30s, 15m, 24h or 90d".to_owned();
    let digits = text.trim_end_matches(|c: char| !c.is_ascii_digit());
    let unit_s = match &text[digits.len()..] {
        "s" => 1,
        "m" => 60,
        "h" => 60 * 60,
        "d" => 24 * 60 * 60,
        _ => return Err(wrong()),
    };
    // `parse` would also take a sign
    if digits.is_empty() || !digits.bytes().all(|byte| byte.is_ascii_digit()) {
        return Err(wrong());
    }
    let too_long = || "at most 36500d".to_owned();
    let seconds = digits
        .parse::<u64>()
        .ok()
        .and_then(|n| n.checked_mul(unit_s));
    let duration = Duration::from_secs(seconds.ok_or_else(too_long)?);
    (duration <= MAX).then_some(duration).ok_or_else(too_long)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_number_and_a_unit_are_read() {
        for (text, seconds) in [
            ("0s", 0),
            ("30s", 30),
            ("15m", 900),
            ("24h", 86_400),
            ("90d", 7_776_000),
            ("36500d", MAX.as_secs()),
        ] {
            assert_eq!(parse(text), Ok(Duration::from_secs(seconds)), "{text}");
        }
    }

    #[test]
    fn anything_else_is_refused() {
        for text in [
            "", "s", "1", "+1s", "-1s", "1.5h", "1w", "1 h", "1h30m", " 1h", "1H", "1é", "٣d",
        ] {
            assert!(parse(text).unwrap_err().contains("such as"), "{text}");
        }
        for text in ["36501d", "18446744073709551615d", "99999999999999999999s"] {
            assert!(parse(text).unwrap_err().contains("at most"), "{text}");
        }
    }
}
