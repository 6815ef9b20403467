//! What follows an attempt: delivered, again later, given up, or the endpoint disabled. Pure.
//!
//! Guarantees: never sooner than the schedule says, nor than a `Retry-After` asks for; at most a fifth
//! later, so that not everybody comes back in one instant.

use std::time::Duration;

use reqwest::header::HeaderMap;

use super::sender::{AttemptError, Tried};

/// The longest `Retry-After` that is believed.
const MAX_RETRY_AFTER: Duration = Duration::from_hours(24);

/// What follows an attempt.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Next {
    /// It was delivered.
    Delivered,
    /// Another attempt after so long.
    Again(Duration),
    /// The schedule has ended.
    GivenUp,
    /// The endpoint said that it is gone: it is told nothing until it is enabled again.
    Disable,
}

impl Next {
    /// What follows the attempt before which `made` were made in this round; `random` is in `0.0..1.0`.
    pub fn after(tried: &Tried, made: usize, schedule: &[Duration], random: f64) -> Self {
        match (&tried.failure, schedule.get(made)) {
            (None, _) => Self::Delivered,
            (Some(AttemptError::Gone), _) => Self::Disable,
            (Some(_), None) => Self::GivenUp,
            (Some(_), Some(wait)) => {
                let wait = (*wait).max(tried.retry_after.unwrap_or_default());
                Self::Again(wait.mul_f64(1.0 + random.clamp(0.0, 1.0) / 5.0))
            }
        }
    }

    /// The word that attempts are counted by.
    pub const fn outcome(self) -> &'static str {
        match self {
            Self::Delivered => "delivered",
            Self::Again(_) => "failed",
            Self::GivenUp => "given_up",
            Self::Disable => "gone",
        }
    }
}

/// `Retry-After` in seconds or as a date, which is taken against the answer's own `Date`.
pub(super) fn retry_after(headers: &HeaderMap) -> Option<Duration> {
    let text = headers.get("retry-after")?.to_str().ok()?.trim();
    let date = |name: &str| {
        let text = headers.get(name)?.to_str().ok()?;
        chrono::DateTime::parse_from_rfc2822(text).ok()
    };
    let wait = match text.parse::<u64>() {
        Ok(seconds) => Duration::from_secs(seconds),
        Err(_) => (date("retry-after")? - date("date")?)
            .to_std()
            .unwrap_or_default(),
    };
    Some(wait.min(MAX_RETRY_AFTER))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use reqwest::header::{HeaderName, HeaderValue};

    use super::*;

    fn failed(retry_after: Option<u64>) -> Tried {
        Tried {
            took: Duration::ZERO,
            status: Some(503),
            failure: Some(AttemptError::Refused(503)),
            answer: None,
            retry_after: retry_after.map(Duration::from_secs),
        }
    }

    proptest! {
        #[test]
        fn no_attempt_comes_early(made in 0..4_usize, asked in proptest::option::of(0..10_000_u64), random in 0.0..1.0_f64) {
            let schedule = [5, 300, 1800, 7200].map(Duration::from_secs);
            let Next::Again(wait) = Next::after(&failed(asked), made, &schedule, random) else {
                panic!("the schedule has not ended");
            };
            let least = schedule[made].max(Duration::from_secs(asked.unwrap_or_default()));
            prop_assert!(wait >= least && wait <= least.mul_f64(1.2), "{wait:?} for {least:?}");
        }
    }

    #[test]
    fn it_ends_with_the_schedule_or_when_the_endpoint_is_gone() {
        let schedule = [Duration::from_secs(5)];
        assert_eq!(Next::after(&failed(None), 1, &schedule, 0.5), Next::GivenUp);
        let mut gone = failed(None);
        gone.failure = Some(AttemptError::Gone);
        assert_eq!(Next::after(&gone, 0, &schedule, 0.5), Next::Disable);
        gone.failure = None;
        assert_eq!(Next::after(&gone, 9, &schedule, 0.5), Next::Delivered);
    }

    #[test]
    fn a_wait_is_seconds_or_a_date() {
        let read = |pairs: &[(&'static str, &'static str)]| {
            let pairs = pairs.iter();
            retry_after(
                &pairs
                    .map(|&(name, value)| {
                        let name = HeaderName::from_static(name);
                        (name, HeaderValue::from_static(value))
                    })
                    .collect(),
            )
        };
        let date = ("date", "Wed, 21 Oct 2026 07:28:00 GMT");
        let later = ("retry-after", "Wed, 21 Oct 2026 07:29:30 GMT");
        assert_eq!(read(&[("retry-after", "7")]), Some(Duration::from_secs(7)));
        assert_eq!(read(&[date, later]), Some(Duration::from_secs(90)));
        assert_eq!(read(&[("retry-after", "999999999")]), Some(MAX_RETRY_AFTER));
        for unknown in [&[later][..], &[("retry-after", "soon")], &[]] {
            assert_eq!(read(unknown), None);
        }
    }
}
