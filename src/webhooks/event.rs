//! What deliveries say, in our own words: the vocabulary that every provider is translated into.
//!
//! Guarantees that an [`IdentityEvent`] holds nothing Postgres text cannot hold (no NUL), that its ids are 1 to 255 bytes
//! without control characters, and that its times are dates. Names and metadata are otherwise the provider's: any script, any
//! length, hostile punctuation included. Does not say whether an event is new, or newer than what is stored.

use chrono::{DateTime, Utc};
use serde_json::Value;

/// What was read from a body; see [`read`](super::read).
///
/// The fields beside `meaning` are filled as far as they can be read, also when the whole is [`Meaning::Unreadable`], so that
/// the delivery can be stored and found.
#[derive(Debug, Clone, PartialEq)]
pub struct Reading {
    /// The provider's id of the event; `None` when unusable.
    pub event_id: Option<String>,
    /// The provider's name of the type, such as `organization.created`; empty when unusable.
    pub event_type: String,
    /// The organization that the event is about; `None` when unusable or about none.
    pub organization_id: Option<String>,
    /// When the provider says it happened; `None` when unusable.
    pub occurred_at: Option<DateTime<Utc>>,
    /// What to do about it.
    pub meaning: Meaning,
}

/// What a body asks for.
#[derive(Debug, Clone, PartialEq)]
pub enum Meaning {
    /// Something happened that has a meaning here.
    Event(IdentityEvent),
    /// A proper event of a type that has no meaning here yet.
    Ignored,
    /// No proper event; replaying it cannot help before the code or the sender changes.
    Unreadable(UnreadableReason),
}

/// Something that happened at an identity provider.
#[derive(Debug, Clone, PartialEq)]
pub enum IdentityEvent {
    /// The organization exists and looks like this since its `updated_at`.
    ///
    /// Created and updated are one: either may arrive first.
    OrganizationUpserted(Organization),
    /// The organization is gone since its `updated_at`, which here is the time of the deletion.
    OrganizationDeleted(Organization),
}

impl IdentityEvent {
    /// The name for metrics: a few values, whatever a sender calls its types.
    pub const fn name(&self) -> &'static str {
        match self {
            Self::OrganizationUpserted(_) => "organization.upserted",
            Self::OrganizationDeleted(_) => "organization.deleted",
        }
    }
}

/// An organization as the provider last saw it.
#[derive(Debug, Clone, PartialEq)]
pub struct Organization {
    /// The provider's id, opaque.
    pub id: String,
    /// The display name without control characters; may be empty.
    pub name: String,
    /// The application's own id for it, given at creation.
    pub external_id: Option<String>,
    /// Free pairs; always a JSON object.
    pub metadata: Value,
    /// E-mail domains that belong to it.
    pub domains: Vec<Domain>,
    /// The provider's version of the object, in microseconds as Postgres stores it: the larger one wins.
    pub updated_at: DateTime<Utc>,
}

/// An e-mail domain of an organization.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Domain {
    /// Such as `acme.example`.
    pub domain: String,
    /// The provider's word for how far its verification is, such as `verified`; optional at `WorkOS`.
    pub state: Option<String>,
}

/// Why a body is no proper event.
///
/// Holds texts, not error values: it is stored with the event and compared in tests.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum UnreadableReason {
    /// Bytes that are not text.
    #[error("the body is not UTF-8 from byte {valid_up_to} on")]
    NotUtf8 {
        /// How many bytes are text.
        valid_up_to: usize,
    },
    /// Text that is not JSON, is nested too deeply, or names a key twice.
    #[error("the body is not usable JSON: {detail}")]
    NotJson {
        /// What the parser says, with line and column.
        detail: String,
    },
    /// A field that is needed cannot be used.
    #[error("the {field} {problem}")]
    Field {
        /// The field in words, such as "organization id".
        field: &'static str,
        /// What is wrong with it.
        problem: FieldProblem,
    },
    /// Without a time the event cannot be ordered against others.
    #[error("no time can be read: neither from the event nor from the {object} in it")]
    NoTime {
        /// What the event is about, such as "organization".
        object: &'static str,
    },
}

/// What is wrong with a field; reads on after its name.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum FieldProblem {
    /// Absent, or null.
    #[error("is missing")]
    Missing,
    /// Empty, or only white space.
    #[error("is empty")]
    Empty,
    /// Another JSON type than the provider documents.
    #[error("is {found}, not {expected}")]
    WrongType {
        /// The type that is there.
        found: &'static str,
        /// The type that should be.
        expected: &'static str,
    },
    /// Longer than a column that is indexed should hold.
    #[error("is {size_bytes} bytes long; at most {max_bytes} are accepted")]
    TooLong {
        /// How long it is.
        size_bytes: usize,
        /// How long it may be.
        max_bytes: usize,
    },
    /// A character that Postgres or a log line cannot hold.
    #[error("contains the control character U+{:04X}", u32::from(*.0))]
    Control(char),
}
