//! Histories: what providers might say of a few organizations and their people, and what must be
//! known in the end.
//!
//! An event says that an object was described at a minute, or deleted half a minute after it. Its
//! content is a function of the history, the object and the minute, so that equal minutes mean equal
//! content; a `variant` other than 0 breaks that on purpose. No two objects ever share a moment.

mod bodies;
mod content;
mod fold;
mod tables;

use std::fmt;

use proptest::{collection::vec, prelude::*, sample::select};
use tenantry::webhooks::SourceKind;

pub use fold::{World, fold};
pub use tables::{read_rows, read_worlds};

/// What an event is about; two of the same kind and number are one object.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Object {
    Organization(u32),
    User(u32),
    /// Of a user to an organization, both fixed: see [`Object::organization`] and [`Object::user`].
    Membership(u32),
    Invitation(u32),
    /// A role of all organizations.
    Role(u32),
    /// Organization 0's own role.
    OrganizationRole,
    Permission,
    Domain(u32),
    DirectoryUser(u32),
    DirectoryGroup,
    /// That a directory user is in the group; "deleted" means that it left.
    GroupMember(u32),
}

use Object::{
    DirectoryGroup, DirectoryUser, Domain, GroupMember, Invitation, Membership, Organization,
    OrganizationRole, Permission, Role, User,
};

impl Object {
    /// The provider's id. `WorkOS` names roles by their slugs, and group members not at all.
    pub fn id(self, provider: SourceKind) -> String {
        let is_workos = provider == SourceKind::Workos;
        match self {
            Organization(at) => format!("org_{at}"),
            User(at) => format!("user_{at}"),
            Membership(at) => format!("membership_{at}"),
            Invitation(at) => format!("invitation_{at}"),
            Role(_) if is_workos => self.slug(),
            Role(at) => format!("role_{at}"),
            OrganizationRole => format!("org_0/{}", self.slug()),
            Permission => "permission_0".to_owned(),
            Domain(at) => format!("domain_{at}"),
            DirectoryUser(at) => format!("directory_user_{at}"),
            DirectoryGroup => "directory_group_0".to_owned(),
            GroupMember(at) => format!("directory_group_0/directory_user_{at}"),
        }
    }

    /// What a role is called in memberships.
    pub fn slug(self) -> String {
        match self {
            Role(0) => "admin".to_owned(),
            Role(_) => "member".to_owned(),
            _ => "org-night-shift".to_owned(),
        }
    }

    /// The organization that it belongs to for ever.
    pub const fn organization(self) -> Object {
        match self {
            // one user in organization 0 twice, in organization 1 once; then one user each
            Membership(at @ 0..4) => Organization(at / 3),
            Membership(at) | Domain(at) | Invitation(at) => Organization(at % 2),
            _ => Organization(0),
        }
    }

    /// The user whose membership it is for ever.
    pub const fn user(self) -> Object {
        match self {
            Membership(2) => User(1),
            Membership(at @ 4..) => User(at),
            _ => User(0),
        }
    }

    /// Whether it has no id of its own, so that a deletion is not for ever.
    pub const fn may_return(self) -> bool {
        matches!(self, Role(_) | OrganizationRole | GroupMember(_))
    }

    /// Keeps the moments of any two objects apart.
    fn second(self) -> u32 {
        match self {
            Organization(at) => at,
            User(at) => 2 + at % 3,
            Membership(at) => 5 + at % 4,
            Invitation(at) => 9 + at,
            Role(at) => 12 + at,
            OrganizationRole => 14,
            Permission => 15,
            Domain(at) => 16 + at,
            DirectoryUser(at) => 18 + at,
            DirectoryGroup => 20,
            GroupMember(at) => 21 + at,
        }
    }
}

/// One thing that a provider says.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Event {
    pub object: Object,
    pub minute: u32,
    pub is_deletion: bool,
    pub variant: u32,
}

impl Event {
    /// Since when the object looks as it does, in seconds.
    pub fn updated_at(&self) -> u32 {
        self.minute * 60 + self.object.second()
    }

    /// When the event happened: a deletion half a minute after the last description.
    pub fn occurred_at(&self) -> u32 {
        self.updated_at() + if self.is_deletion { 30 } else { 0 }
    }
}

impl fmt::Debug for Event {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let verb = if self.is_deletion { "deleted" } else { "is" };
        write!(f, "{:?} {verb} at {}", self.object, self.minute)?;
        match self.variant {
            0 => Ok(()),
            variant => write!(f, " ({variant})"),
        }
    }
}

/// Everything that one provider says.
#[derive(Debug, Clone)]
pub struct History {
    pub provider: SourceKind,
    /// Makes the contents of this history others than those of the next one.
    pub seed: u64,
    pub events: Vec<Event>,
}

/// The provider's id of the event at this place of its history.
pub fn event_id(at: usize) -> String {
    format!("event_{at}")
}

/// What a provider speaks of, some of it more often.
fn objects(provider: SourceKind) -> Vec<Object> {
    let of = |kind: fn(u32) -> Object, count: u32, often: u32| {
        (0..count * often).map(move |at| kind(at % count))
    };
    let all = of(Organization, 2, 2).chain(of(User, 3, 1));
    let all = all.chain(of(Membership, 4, 2)).chain(of(Invitation, 3, 1));
    let all = all.chain(of(Role, 2, 1)).chain([Permission]);
    let mut all: Vec<Object> = all.chain(of(Domain, 2, 1)).collect();
    if provider == SourceKind::Workos {
        all.extend(of(DirectoryUser, 2, 2).chain(of(GroupMember, 2, 1)));
        all.extend([OrganizationRole, DirectoryGroup]);
    }
    all
}

fn event(provider: SourceKind, variants: u32) -> impl Strategy<Value = Event> {
    let deletion = prop::bool::weighted(0.15);
    (select(objects(provider)), 0..8_u32, deletion, 0..variants).prop_map(
        |(object, minute, is_deletion, variant)| Event {
            object,
            minute,
            // nobody deletes an invitation
            is_deletion: is_deletion && !matches!(object, Invitation(_)),
            variant,
        },
    )
}

/// Any history of at most 40 events, with so many contents of one moment.
pub fn any_history(variants: u32) -> impl Strategy<Value = History> {
    prop_oneof![Just(SourceKind::Workos), Just(SourceKind::Clerk)].prop_flat_map(move |provider| {
        let events = vec(event(provider, variants), 1..=40);
        (any::<u64>(), events).prop_map(move |(seed, events)| History {
            provider,
            seed,
            events,
        })
    })
}
