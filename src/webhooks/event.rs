//! What deliveries say, in our own words: the vocabulary that every provider is translated into.
//!
//! Guarantees that an [`IdentityEvent`] holds nothing Postgres text cannot hold (no NUL), that its ids are 1 to 255 bytes
//! without control characters, and that its times are dates. Names and metadata are otherwise the provider's: any script, any
//! length, hostile punctuation included. Does not say whether an event is new, or newer than what is stored.

use chrono::{DateTime, Utc};
use serde::Serialize;
use serde_json::{Map, Value};

use super::json;

/// What was read from a body; see [`read`](super::read).
///
/// The fields beside `meaning` are filled as far as they can be read, also when the whole is [`Meaning::Unreadable`], so that
/// the delivery can be stored and found.
#[derive(Debug, Clone, PartialEq)]
pub struct Reading {
    /// The provider's id of the event; `None` when unusable, and where it is in a header: [`event_id`](super::event_id).
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

impl Reading {
    /// Lets `fill` say what an object means; what it had filled in by then stays when it gives up.
    pub(super) fn of(
        body: &[u8],
        fill: impl FnOnce(Map<String, Value>, &mut Self) -> Result<Meaning, UnreadableReason>,
    ) -> Self {
        let mut reading = Self {
            event_id: None,
            event_type: String::new(),
            organization_id: None,
            occurred_at: None,
            meaning: Meaning::Ignored,
        };
        reading.meaning = json::parse_object(body)
            .and_then(|object| fill(object, &mut reading))
            .unwrap_or_else(Meaning::Unreadable);
        reading
    }
}

/// What a body asks for.
#[derive(Debug, Clone, PartialEq)]
pub enum Meaning {
    /// Something that has a meaning here; one body may speak of several objects, such as a
    /// membership and the organization it is in. Never empty; the last is what the event is about,
    /// those before it come along.
    Events(Vec<IdentityEvent>),
    /// A proper event of a type that has no meaning here.
    Ignored,
    /// No proper event; replaying it cannot help before the code or the sender changes.
    Unreadable(UnreadableReason),
}

/// What an identity provider says of one of its objects.
#[derive(Debug, Clone, PartialEq)]
pub enum IdentityEvent {
    /// An organization: it gets a tenant.
    Organization(Said<Organization>),
    /// An e-mail domain of an organization.
    Domain(Said<Domain>),
    /// A user, who may belong to any number of organizations.
    User(Said<User>),
    /// That a user belongs to an organization, and in which role.
    Membership(Said<Membership>),
    /// That somebody was invited.
    Invitation(Said<Invitation>),
    /// A role, of all organizations or of one.
    Role(Said<Role>),
    /// A permission that roles may carry.
    Permission(Said<Permission>),
    /// A user of an organization's own directory (SCIM).
    DirectoryUser(Said<DirectoryUser>),
    /// A group of an organization's own directory.
    DirectoryGroup(Said<DirectoryGroup>),
    /// That a directory user is in a directory group.
    GroupMember(Said<GroupMember>),
}

impl IdentityEvent {
    /// The name for metrics: a few values, whatever a sender calls its types.
    pub const fn name(&self) -> &'static str {
        /// One object's two names.
        const fn of<T>(said: &Said<T>, names: [&'static str; 2]) -> &'static str {
            names[said.deleted_at.is_some() as usize]
        }
        match self {
            Self::Organization(said) => of(said, ["organization.upserted", "organization.deleted"]),
            Self::Domain(said) => of(said, ["domain.upserted", "domain.deleted"]),
            Self::User(said) => of(said, ["user.upserted", "user.deleted"]),
            Self::Membership(said) => of(said, ["membership.upserted", "membership.deleted"]),
            Self::Invitation(said) => of(said, ["invitation.upserted", "invitation.deleted"]),
            Self::Role(said) => of(said, ["role.upserted", "role.deleted"]),
            Self::Permission(said) => of(said, ["permission.upserted", "permission.deleted"]),
            Self::DirectoryUser(said) => {
                of(said, ["directory_user.upserted", "directory_user.deleted"])
            }
            Self::DirectoryGroup(said) => of(
                said,
                ["directory_group.upserted", "directory_group.deleted"],
            ),
            Self::GroupMember(said) => of(said, ["group_member.upserted", "group_member.deleted"]),
        }
    }
}

impl IdentityEvent {
    /// Takes every time after `latest` for `now`: a date that is far ahead must not win for ever.
    pub fn not_after(&mut self, latest: DateTime<Utc>, now: DateTime<Utc>) {
        let cap = |at: &mut DateTime<Utc>| {
            if *at > latest {
                *at = now;
            }
        };
        let (updated_at, deleted_at) = match self {
            Self::Organization(said) => said.times(),
            Self::Domain(said) => said.times(),
            Self::User(said) => said.times(),
            Self::Membership(said) => said.times(),
            Self::Invitation(said) => said.times(),
            Self::Role(said) => said.times(),
            Self::Permission(said) => said.times(),
            Self::DirectoryUser(said) => said.times(),
            Self::DirectoryGroup(said) => said.times(),
            Self::GroupMember(said) => said.times(),
        };
        updated_at.into_iter().chain(deleted_at).for_each(cap);
    }
}

/// What is said of one object: how it looks since when, that it is gone, or both.
///
/// Two of them about one object are joined by taking the newest description and the earliest
/// deletion: that is associative, commutative and idempotent, and it is why order and repetition do
/// not matter. A deletion is for ever. Things whose id may be used again (a role's slug, a
/// membership named by organization and user) are therefore never deleted: their newest description
/// says that they are gone.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Said<T> {
    /// The provider's id, opaque.
    pub id: String,
    /// How it looks; `None` in a deletion that says nothing else.
    pub described: Option<Description<T>>,
    /// When it was deleted, if it was.
    pub deleted_at: Option<DateTime<Utc>>,
}

impl<T> Said<T> {
    fn times(&mut self) -> (Option<&mut DateTime<Utc>>, Option<&mut DateTime<Utc>>) {
        let described = self.described.as_mut();
        let updated_at = described.map(|described| &mut described.updated_at);
        (updated_at, self.deleted_at.as_mut())
    }

    /// An object as its provider last saw it.
    pub const fn described(id: String, content: T, updated_at: DateTime<Utc>) -> Self {
        Self {
            id,
            described: Some(Description {
                content,
                updated_at,
            }),
            deleted_at: None,
        }
    }
}

/// How an object looks since a moment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Description<T> {
    /// How it looks.
    pub content: T,
    /// The provider's version of the object, in microseconds as Postgres stores it: the larger one wins.
    pub updated_at: DateTime<Utc>,
}

/// An organization.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Organization {
    /// The display name without control characters; may be empty.
    pub name: String,
    /// The application's own id for it, given at creation.
    pub external_id: Option<String>,
    /// Free pairs; always a JSON object.
    pub metadata: Value,
    /// The user who created it, where the provider says so.
    pub created_by: Option<String>,
}

/// An e-mail domain of an organization.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Domain {
    /// The organization.
    pub organization_id: String,
    /// Such as `acme.example`.
    pub domain: String,
    /// The provider's word for how far its verification is, such as `verified`; optional at `WorkOS`.
    pub state: Option<String>,
}

/// A user.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct User {
    /// The primary e-mail address; there may be none.
    pub email: Option<String>,
    /// Given name.
    pub first_name: Option<String>,
    /// Family name.
    pub last_name: Option<String>,
    /// The application's own id for it.
    pub external_id: Option<String>,
}

/// That a user belongs to an organization.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Membership {
    /// The organization.
    pub organization_id: String,
    /// The user.
    pub user_id: String,
    /// How far it is.
    pub status: MembershipStatus,
    /// Slug of the role, without a provider's prefix (`admin`, not `org:admin`).
    pub role: Option<String>,
    /// The user's e-mail address, where the membership event tells it.
    pub email: Option<String>,
    /// The user's given name, where the membership event tells it.
    pub first_name: Option<String>,
    /// The user's family name, where the membership event tells it.
    pub last_name: Option<String>,
}

/// How far a membership is, by the provider's own word.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum MembershipStatus {
    /// In force.
    Active,
    /// Invited, not in force yet.
    Pending,
    /// Deactivated.
    Inactive,
    /// Ended, where the same membership may begin again.
    Gone,
}

/// That somebody was invited.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Invitation {
    /// The organization; an invitation to the application alone has none.
    pub organization_id: Option<String>,
    /// Where it was sent.
    pub email: Option<String>,
    /// Slug of the role that it promises.
    pub role: Option<String>,
    /// How far it is.
    pub state: InvitationState,
    /// Who invited.
    pub inviter_user_id: Option<String>,
    /// Who accepted it.
    pub accepted_user_id: Option<String>,
    /// The application's customer that the invited person is for, from the invitation's metadata.
    pub customer_id: Option<String>,
    /// Until when it can be accepted.
    pub expires_at: Option<DateTime<Utc>>,
}

/// How far an invitation is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum InvitationState {
    /// Sent.
    Pending,
    /// Accepted.
    Accepted,
    /// Taken back.
    Revoked,
    /// Too late.
    Expired,
}

/// A role.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Role {
    /// The organization whose own role it is; `None` for a role of all.
    pub organization_id: Option<String>,
    /// Its name in memberships, without a provider's prefix; absent only in a thin deletion.
    pub slug: Option<String>,
    /// Its name for people.
    pub name: Option<String>,
    /// What it is for.
    pub description: Option<String>,
    /// Slugs of its permissions, sorted.
    pub permissions: Vec<String>,
    /// Whether it was deleted: a slug may be used again.
    pub is_gone: bool,
}

/// A permission.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Permission {
    /// Its name in roles and tokens.
    pub slug: String,
    /// Its name for people.
    pub name: Option<String>,
    /// What it allows.
    pub description: Option<String>,
}

/// A user of an organization's own directory.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct DirectoryUser {
    /// The directory.
    pub directory_id: Option<String>,
    /// The organization.
    pub organization_id: Option<String>,
    /// E-mail address: what ties it to a user.
    pub email: Option<String>,
    /// Given name.
    pub first_name: Option<String>,
    /// Family name.
    pub last_name: Option<String>,
    /// Whether the directory lets the person in.
    pub state: DirectoryState,
    /// Slug of the role that the directory gives.
    pub role: Option<String>,
}

/// Whether a directory lets a person in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum DirectoryState {
    /// Yes.
    Active,
    /// Not now.
    Suspended,
    /// Not any more.
    Inactive,
}

/// A group of an organization's own directory.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct DirectoryGroup {
    /// The directory.
    pub directory_id: Option<String>,
    /// The organization.
    pub organization_id: Option<String>,
    /// Its name.
    pub name: Option<String>,
}

/// That a directory user is, or was, in a group.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct GroupMember {
    /// The group.
    pub group_id: String,
    /// The directory user.
    pub directory_user_id: String,
    /// Whether the user has left it.
    pub is_gone: bool,
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
