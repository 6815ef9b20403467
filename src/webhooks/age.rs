//! When a delivery was signed, and whether that is recent enough.
//!
//! Guarantees strict digits (no sign, fraction, space or other alphabet's digits, all of which some SDKs take) and a symmetric
//! tolerance: a signature from the future is refused as one from the past. Has no clock: `now` is given.

use chrono::{DateTime, TimeDelta, Utc};

use super::VerifyError;

/// Fifteen digits of milliseconds reach the year 33658.
const MILLIS_DIGITS: usize = 15;

/// And so do twelve of seconds; milliseconds since 2001 are thirteen, and so never taken for seconds.
const SECONDS_DIGITS: usize = 12;

/// Reads milliseconds since the epoch.
pub(super) fn parse_millis(text: &str) -> Result<DateTime<Utc>, VerifyError> {
    parse(text, MILLIS_DIGITS, DateTime::from_timestamp_millis)
}

/// Reads seconds since the epoch.
pub(super) fn parse_seconds(text: &str) -> Result<DateTime<Utc>, VerifyError> {
    parse(text, SECONDS_DIGITS, |seconds| {
        DateTime::from_timestamp(seconds, 0)
    })
}

fn parse(
    text: &str,
    max_digits: usize,
    date: impl FnOnce(i64) -> Option<DateTime<Utc>>,
) -> Result<DateTime<Utc>, VerifyError> {
    let strict = text.len() <= max_digits && text.bytes().all(|byte| byte.is_ascii_digit());
    strict
        .then(|| text.parse().ok())
        .flatten()
        .and_then(date)
        .ok_or(VerifyError::TimestampInvalid { max_digits })
}

/// Refuses what was signed more than `tolerance` before or after `now`; exactly `tolerance` is accepted.
pub(super) fn check(
    signed_at: DateTime<Utc>,
    now: DateTime<Utc>,
    tolerance: TimeDelta,
) -> Result<(), VerifyError> {
    let age = now.signed_duration_since(signed_at);
    if age > tolerance {
        return Err(VerifyError::TooOld { age, tolerance });
    }
    if -age > tolerance {
        let ahead = -age;
        return Err(VerifyError::InFuture { ahead, tolerance });
    }
    Ok(())
}

/// Seconds with the milliseconds only when there are some: `180`, `180.001`.
pub(super) fn seconds(span: &TimeDelta) -> String {
    let text = format!("{}.{:03}", span.num_seconds(), span.subsec_millis().abs());
    text.trim_end_matches('0').trim_end_matches('.').to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_digits_are_a_time() {
        for text in [
            "",
            "-1",
            "+1",
            "1.0",
            " 1",
            "1 ",
            "1e3",
            "0x1",
            "١٢٣",
            "1\0",
            "1000000000000000",
        ] {
            assert!(parse_millis(text).is_err(), "{text:?}");
            assert!(parse_seconds(text).is_err(), "{text:?}");
        }
        for (text, millis) in [
            ("0", 0),
            ("0001", 1),
            ("999999999999999", 999_999_999_999_999),
        ] {
            let time = parse_millis(text).expect(text);
            assert_eq!(time.timestamp_millis(), millis);
        }
        assert!(parse_seconds("1794819600000").is_err(), "milliseconds");
        let time = parse_seconds("1794819600").expect("seconds");
        assert_eq!(time.timestamp(), 1_794_819_600);
    }

    #[test]
    fn the_tolerance_is_symmetric_and_inclusive() {
        let now = DateTime::from_timestamp_millis(1_794_819_601_000).expect("a date");
        let tolerance = TimeDelta::seconds(180);
        for (offset_ms, accepted) in [
            (-180_001, false),
            (-180_000, true),
            (0, true),
            (180_000, true),
            (180_001, false),
        ] {
            let signed_at = now + TimeDelta::milliseconds(offset_ms);
            assert_eq!(
                check(signed_at, now, tolerance).is_ok(),
                accepted,
                "{offset_ms}"
            );
        }
        let negative = TimeDelta::milliseconds(-1);
        assert!(
            check(now, now, negative).is_err(),
            "a negative tolerance accepts nothing"
        );
    }

    #[test]
    fn extreme_times_are_refused_without_overflow() {
        let far = parse_millis("999999999999999").expect("digits");
        for now in [DateTime::<Utc>::MIN_UTC, DateTime::<Utc>::MAX_UTC] {
            assert!(check(far, now, TimeDelta::seconds(300)).is_err());
        }
    }

    #[test]
    fn seconds_are_short() {
        for (ms, text) in [
            (180_000, "180"),
            (180_001, "180.001"),
            (1_500, "1.5"),
            (0, "0"),
            (100_000, "100"),
        ] {
            assert_eq!(seconds(&TimeDelta::milliseconds(ms)), text);
        }
    }
}
