//! Station 1, VERIFIED: bytes + headers + secrets + now → an [`IdentityEvent`], or a refusal.
//!
//! ```text
//! raw body ──▶ verify() ──▶ read() ──▶ Reading ──▶ inbox
//!                │ VerifyError           └ Events · Ignored · Unreadable
//!                └▶ 400 malformed · 401 refused
//! ```
//!
//! Guarantees that [`verify`] looks at the bytes exactly as they arrived, before anything parses them, and that [`read`] has
//! an answer for every body. Pure: no I/O, no clock, no database. Does not know which events were seen before; that is the
//! inbox's. A provider is one file here and one arm in each `match` on [`SourceKind`].

mod age;
mod event;
mod headers;
mod hmac;
mod json;
mod workos;

use chrono::{DateTime, TimeDelta, Utc};
use secrecy::{ExposeSecret, SecretString};
use serde::{Deserialize, Serialize};

pub use event::{
    Description, DirectoryGroup, DirectoryState, DirectoryUser, Domain, FieldProblem, GroupMember,
    IdentityEvent, Invitation, InvitationState, Meaning, Membership, MembershipStatus,
    Organization, Permission, Reading, Role, Said, UnreadableReason, User,
};
pub use headers::Headers;

/// Whose signature scheme and payloads a source speaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum SourceKind {
    /// `WorkOS`: <https://workos.com/docs/events/data-syncing/webhooks>.
    Workos,
}

impl SourceKind {
    /// Every kind, in the order of their introduction.
    pub const ALL: [Self; 1] = [Self::Workos];

    /// The text for configuration, routes, rows and labels.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Workos => "workos",
        }
    }

    /// The kind with this exact [`name`](Self::name).
    pub fn parse(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| kind.name() == name)
    }
}

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
    #[error("the {name} header has no v1 signature")]
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
    /// There is nothing to check against, so nothing is let in.
    #[error("no secret is configured for this source")]
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
            | Self::TooManySignatures { .. } => true,
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
            Self::NoSecret => "no_secret",
            Self::SignatureMismatch { .. } => "signature_mismatch",
            Self::TooOld { .. } => "timestamp_too_old",
            Self::InFuture { .. } => "timestamp_in_future",
        }
    }
}

/// Checks signature and age over the raw bytes of a delivery.
///
/// The signature comes first: the timestamp of a delivery that was not signed by the provider says nothing. `secrets` are all
/// tried, so that one may be rotated; without a usable one nothing verifies.
pub fn verify(
    kind: SourceKind,
    headers: &Headers<'_>,
    body: &[u8],
    secrets: &[SecretString],
    now: DateTime<Utc>,
    tolerance: TimeDelta,
) -> Result<(), VerifyError> {
    let signed_at = match kind {
        SourceKind::Workos => workos::verify(headers, body, &usable(secrets))?,
    };
    age::check(signed_at, now, tolerance)
}

/// The headers with which the provider would send this body.
///
/// For samples, load and tests; names are lower-case, as HTTP libraries want them.
pub fn sign(
    kind: SourceKind,
    secret: &SecretString,
    now: DateTime<Utc>,
    body: &[u8],
) -> Vec<(&'static str, String)> {
    match kind {
        SourceKind::Workos => workos::sign(secret, now, body),
    }
}

/// Says what a body means; every body has a [`Reading`].
///
/// Call it after [`verify`]. What is not understood is [`Meaning::Ignored`] or [`Meaning::Unreadable`], never an error.
pub fn read(kind: SourceKind, body: &[u8]) -> Reading {
    match kind {
        SourceKind::Workos => workos::read(body),
    }
}

/// What kind of object a provider's API answered with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ObjectKind {
    /// An organization.
    Organization,
    /// A user.
    User,
    /// A membership.
    Membership,
    /// An invitation.
    Invitation,
}

/// Reads an object that the provider's API answered with: the same objects as in events.
pub fn read_object(
    kind: SourceKind,
    object: ObjectKind,
    data: &serde_json::Map<String, serde_json::Value>,
) -> Result<Vec<IdentityEvent>, UnreadableReason> {
    match kind {
        SourceKind::Workos => workos::read_object(object, data),
    }
}

/// Leaves out blank secrets: anyone can sign with the empty key.
fn usable(secrets: &[SecretString]) -> Vec<&SecretString> {
    secrets
        .iter()
        .filter(|secret| !secret.expose_secret().trim().is_empty())
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_kind_has_one_name_everywhere() {
        for kind in SourceKind::ALL {
            assert_eq!(SourceKind::parse(kind.name()), Some(kind));
            assert_eq!(serde_json::json!(kind), kind.name());
        }
        assert_eq!(SourceKind::parse("WorkOS"), None);
    }

    #[test]
    fn blank_secrets_are_no_secrets() {
        let secrets = ["", " \n", "whsec_1"].map(SecretString::from);
        assert_eq!(usable(&secrets).len(), 1);
    }

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
