//! Attempt → delay: exponential, capped, with full jitter. Pure.
//!
//! Full jitter spreads the retries of many jobs that failed in one instant; see "Exponential
//! Backoff And Jitter" in the AWS Architecture Blog.

use std::time::Duration;

/// Upper bound of the first delay.
const BASE: Duration = Duration::from_secs(1);

/// Upper bound of any delay.
const CAP: Duration = Duration::from_hours(1);

/// Lower bound of any delay: a failure is never retried in a hot loop.
const FLOOR: Duration = Duration::from_millis(50);

/// The delay before the attempt after `attempt` (counted from 1); `random` is in `0.0..1.0`.
pub fn delay(attempt: i32, random: f64) -> Duration {
    let doublings = attempt.clamp(1, 32).unsigned_abs() - 1;
    let bound = BASE
        .saturating_mul(1_u32.checked_shl(doublings).unwrap_or(u32::MAX))
        .min(CAP);
    bound.mul_f64(random.clamp(0.0, 1.0)).max(FLOOR)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn stays_within_its_bounds(attempt in any::<i32>(), random in 0.0..1.0_f64) {
            let delay = delay(attempt, random);
            prop_assert!((FLOOR..=CAP).contains(&delay));
        }

        #[test]
        fn never_shrinks_with_the_attempt(attempt in 1..1000_i32, random in 0.0..1.0_f64) {
            prop_assert!(delay(attempt, random) <= delay(attempt + 1, random));
        }
    }

    #[test]
    fn doubles_up_to_an_hour() {
        let bounds: Vec<u64> = [1, 2, 3, 12, 13, 99]
            .map(|attempt| delay(attempt, 1.0).as_secs())
            .to_vec();
        assert_eq!(bounds, [1, 2, 4, 2048, 3600, 3600]);
    }
}
