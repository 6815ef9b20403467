//! Why a delivery is not let in.
//!
//! Guarantees that no message repeats what the sender wrote, and that each reason has a code that stays.

use chrono::TimeDelta;

use super::age;

/// Why a delivery is not let in.
///
/// *Malformed* (400) could not be checked at all; *refused* (401) was checked and is not trusted. No message repeats what the
/// sender wrote.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum VerifyError {
    /// The scheme's header did not come.
    #[error("the {name} header is missing")]
    HeaderMissing {
        /// The header.
        name: &'static str,
    },
    /// The header came more than once.
    #[error("the {name} header is there more than once; exactly one is accepted")]
    HeaderRepeated {
        /// The header.
        name: &'static str,
    },
    /// The header is longer than any real one.
    #[error("the {name} header is {size_bytes} bytes long; at most {max_bytes} are accepted")]
    HeaderTooLong {
        /// The header.
        name: &'static str,
        /// How long it is.
        size_bytes: usize,
        /// How long it may be.
        max_bytes: usize,
    },
    /// The header is not text.
    #[error("the {name} header is not UTF-8")]
    HeaderNotUtf8 {
        /// The header.
        name: &'static str,
    },
    /// Nothing says when the delivery was signed.
    #[error("the {name} header has no timestamp")]
    TimestampMissing {
        /// The header.
        name: &'static str,
    },
    /// Several timestamps: which one was signed is anyone's guess.
    #[error("the {name} header has {count} timestamps; exactly one is accepted")]
    TimestampRepeated {
        /// The header.
        name: &'static str,
        /// How many there are.
        count: usize,
    },
    /// The timestamp is no plain number.
    #[error("the timestamp is not 1 to {max_digits} digits and nothing else")]
    TimestampInvalid {
        /// How many digits are read.
        max_digits: usize,
    },
    /// No signature of a version that is known here.
    #[error("the {name} header has no signature of a known version")]
    SignatureMissing {
        /// The header.
        name: &'static str,
    },
    /// More signatures than any rotation needs: each costs a comparison.
    #[error("the {name} header has {count} v1 signatures; at most {max} are accepted")]
    TooManySignatures {
        /// The header.
        name: &'static str,
        /// How many there are.
        count: usize,
        /// How many are compared.
        max: usize,
    },
    /// The header that names the event cannot be stored, or could be read in two ways.
    #[error(
        "the {name} header is no usable id: 1 to {max_bytes} bytes, no dot, no control character"
    )]
    EventIdInvalid {
        /// The header.
        name: &'static str,
        /// How long it may be.
        max_bytes: usize,
    },
    /// There is nothing to check against, so nothing is let in.
    #[error("no usable secret is configured for this source")]
    NoSecret,
    /// Not signed with any of the secrets, or changed on the way.
    #[error("the signature matches none of the {secrets} configured secrets")]
    SignatureMismatch {
        /// How many secrets were tried.
        secrets: usize,
    },
    /// Signed too long ago: a replay, a slow retry, or a clock that is wrong.
    #[error("signed {} s ago; at most {} s are accepted", age::seconds(.age), age::seconds(.tolerance))]
    TooOld {
        /// How long ago.
        age: TimeDelta,
        /// How long ago it may be.
        tolerance: TimeDelta,
    },
    /// Signed by a clock that is ahead of ours.
    #[error("signed {} s in the future; at most {} s are accepted", age::seconds(.ahead), age::seconds(.tolerance))]
    InFuture {
        /// How far ahead.
        ahead: TimeDelta,
        /// How far ahead it may be.
        tolerance: TimeDelta,
    },
}

impl VerifyError {
    /// Whether the delivery could not be checked (400) rather than was checked and refused (401).
    pub const fn is_malformed(&self) -> bool {
        match self {
            Self::HeaderMissing { .. }
            | Self::HeaderRepeated { .. }
            | Self::HeaderTooLong { .. }
            | Self::HeaderNotUtf8 { .. }
            | Self::TimestampMissing { .. }
            | Self::TimestampRepeated { .. }
            | Self::TimestampInvalid { .. }
            | Self::SignatureMissing { .. }
            | Self::TooManySignatures { .. }
            | Self::EventIdInvalid { .. } => true,
            Self::NoSecret
            | Self::SignatureMismatch { .. }
            | Self::TooOld { .. }
            | Self::InFuture { .. } => false,
        }
    }

    /// The stable code for responses, logs and metrics.
    pub const fn code(&self) -> &'static str {
        match self {
            Self::HeaderMissing { .. } => "signature_header_missing",
            Self::HeaderRepeated { .. } => "signature_header_repeated",
            Self::HeaderTooLong { .. } => "signature_header_too_long",
            Self::HeaderNotUtf8 { .. } => "signature_header_not_utf8",
            Self::TimestampMissing { .. } => "timestamp_missing",
            Self::TimestampRepeated { .. } => "timestamp_repeated",
            Self::TimestampInvalid { .. } => "timestamp_invalid",
            Self::SignatureMissing { .. } => "signature_missing",
            Self::TooManySignatures { .. } => "too_many_signatures",
            Self::EventIdInvalid { .. } => "event_id_invalid",
            Self::NoSecret => "no_secret",
            Self::SignatureMismatch { .. } => "signature_mismatch",
            Self::TooOld { .. } => "timestamp_too_old",
            Self::InFuture { .. } => "timestamp_in_future",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn refusals_give_the_numbers() {
        let (age, tolerance) = (TimeDelta::milliseconds(180_001), TimeDelta::seconds(180));
        let old = VerifyError::TooOld { age, tolerance };
        assert_eq!(
            old.to_string(),
            "signed 180.001 s ago; at most 180 s are accepted"
        );
        assert!(!old.is_malformed());
        let ahead = TimeDelta::seconds(600);
        let future = VerifyError::InFuture { ahead, tolerance };
        assert_eq!(
            future.to_string(),
            "signed 600 s in the future; at most 180 s are accepted"
        );
    }
}
