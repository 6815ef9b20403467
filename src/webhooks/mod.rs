//! Station 1, VERIFIED: bytes + headers + secrets + now → an [`IdentityEvent`], or a refusal.
//!
//! ```text
//! raw body ──▶ verify() ──▶ read() ──▶ Reading ──▶ inbox
//!                │ VerifyError           └ Events · Ignored · Unreadable
//!                └▶ 400 malformed · 401 refused
//! ```
//!
//! | kind | signature | payloads | id of an event |
//! |---|---|---|---|
//! | `workos` | `workos` | `workos_objects` | in the body |
//! | `clerk` | `standard_webhooks` | `clerk` | `svix-id` header |
//! | `standard` | `standard_webhooks` | `standard`: a [`Mapping`] | `webhook-id` header |
//!
//! Guarantees that [`verify`] looks at the bytes exactly as they arrived, before anything parses them, and that [`read`] has
//! an answer for every body. Pure: no I/O, no clock, no database. Does not know which events were seen before; that is the
//! inbox's. A provider is one file here and one arm in each `match` on [`SourceKind`].

mod age;
mod clerk;
mod event;
mod headers;
mod hmac;
mod json;
mod mapping;
mod object;
mod standard;
mod standard_webhooks;
mod verify_error;
mod workos;
mod workos_objects;

use chrono::{DateTime, TimeDelta, Utc};
use secrecy::{ExposeSecret, SecretString};
use serde::{Deserialize, Serialize};

use standard_webhooks::{CLERK, STANDARD};

pub use event::{
    Description, DirectoryGroup, DirectoryState, DirectoryUser, Domain, FieldProblem, GroupMember,
    IdentityEvent, Invitation, InvitationState, Meaning, Membership, MembershipStatus,
    Organization, Permission, Reading, Role, Said, UnreadableReason, User,
};
pub use headers::Headers;
pub use mapping::Mapping;
pub use verify_error::VerifyError;

/// Whose signature scheme and payloads a source speaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum SourceKind {
    /// `WorkOS`: <https://workos.com/docs/events/data-syncing/webhooks>.
    Workos,
    /// Clerk, which sends with Svix: <https://clerk.com/docs/guides/development/webhooks/overview>.
    Clerk,
    /// Whoever signs as <https://www.standardwebhooks.com> says; a [`Mapping`] tells what is meant.
    Standard,
}

impl SourceKind {
    /// Every kind, in the order of their introduction.
    pub const ALL: [Self; 3] = [Self::Workos, Self::Clerk, Self::Standard];

    /// The text for configuration, routes, rows and labels.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Workos => "workos",
            Self::Clerk => "clerk",
            Self::Standard => "standard",
        }
    }

    /// The kind with this exact [`name`](Self::name).
    pub fn parse(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| kind.name() == name)
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
    let secrets = usable(secrets);
    let signed_at = match kind {
        SourceKind::Workos => workos::verify(headers, body, &secrets)?,
        SourceKind::Clerk => CLERK.verify(headers, body, &secrets)?,
        SourceKind::Standard => STANDARD.verify(headers, body, &secrets)?,
    };
    age::check(signed_at, now, tolerance)
}

/// The headers with which the provider would send this body; none when the secret cannot sign.
///
/// For samples, load and tests; names are lower-case, as HTTP libraries want them, and the signature is in the last. `WorkOS`
/// has the event's id in the body, and `event_id` changes nothing.
pub fn sign(
    kind: SourceKind,
    secret: &SecretString,
    event_id: &str,
    now: DateTime<Utc>,
    body: &[u8],
) -> Vec<(&'static str, String)> {
    match kind {
        SourceKind::Workos => workos::sign(secret, now, body),
        SourceKind::Clerk => CLERK.sign(secret, event_id, now, body),
        SourceKind::Standard => STANDARD.sign(secret, event_id, now, body),
    }
}

/// The event's id, where the kind has it in a header: from the same set of headers as [`verify`] looks at.
pub fn event_id(kind: SourceKind, headers: &Headers<'_>) -> Option<String> {
    match kind {
        SourceKind::Workos => None,
        SourceKind::Clerk => CLERK.event_id(headers),
        SourceKind::Standard => STANDARD.event_id(headers),
    }
}

/// Says what a body means; every body has a [`Reading`].
///
/// Call it after [`verify`]. What is not understood is [`Meaning::Ignored`] or [`Meaning::Unreadable`], never an error.
/// `mapping` counts for [`SourceKind::Standard`] alone.
pub fn read(kind: SourceKind, mapping: &Mapping, body: &[u8]) -> Reading {
    match kind {
        SourceKind::Workos => workos::read(body, None),
        SourceKind::Clerk => clerk::read(body, None),
        SourceKind::Standard => standard::read(mapping, body, None),
    }
}

/// The same for a delivery that came at `received_at`: what has no time of its own counts as of then.
///
/// Some senders of [`SourceKind::Standard`] write no times, and a deletion must not fail for want of one.
pub fn read_received(
    kind: SourceKind,
    mapping: &Mapping,
    body: &[u8],
    received_at: DateTime<Utc>,
) -> Reading {
    match kind {
        SourceKind::Workos => workos::read(body, Some(received_at)),
        SourceKind::Clerk => clerk::read(body, Some(received_at)),
        SourceKind::Standard => standard::read(mapping, body, Some(received_at)),
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
///
/// The last of several is the object itself, those before it came along in it. [`SourceKind::Standard`] has no API.
pub fn read_object(
    kind: SourceKind,
    object: ObjectKind,
    data: &serde_json::Map<String, serde_json::Value>,
) -> Result<Vec<IdentityEvent>, UnreadableReason> {
    match kind {
        SourceKind::Workos => workos_objects::read(object, data),
        SourceKind::Clerk => clerk::read_object(object, data),
        SourceKind::Standard => Ok(Vec::new()),
    }
}

/// Whether a delivery can be checked with this secret at all.
///
/// `WorkOS` takes any text for a key; for the other kinds the secret is one in base64.
pub fn is_usable(kind: SourceKind, secret: &SecretString) -> bool {
    match kind {
        SourceKind::Workos => !secret.expose_secret().trim().is_empty(),
        SourceKind::Clerk => CLERK.is_usable(secret),
        SourceKind::Standard => STANDARD.is_usable(secret),
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
}
