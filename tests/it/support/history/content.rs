//! What is said of each object at each minute.

use std::hash::{DefaultHasher, Hash, Hasher};

use tenantry::webhooks::SourceKind;

use super::{
    Event, History,
    Object::{self, Domain, Invitation, Membership, Organization, User},
};

/// How an object looks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Content {
    Organization {
        name: String,
    },
    User(Person),
    Membership {
        status: &'static str,
        role: Option<String>,
        /// What the membership itself tells of its user.
        hints: Person,
    },
    Invitation {
        organization: Option<Object>,
        email: String,
        state: &'static str,
        role: Option<String>,
        accepted_by: Option<Object>,
        customer: Option<String>,
    },
    Role {
        permissions: Vec<String>,
    },
    Permission {
        slug: String,
    },
    Domain {
        domain: String,
        state: Option<String>,
    },
    DirectoryUser {
        email: String,
        state: &'static str,
    },
    DirectoryGroup {
        name: String,
    },
    GroupMember,
}

/// Somebody's address and names, as far as they are told.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Person {
    pub email: Option<String>,
    pub first_name: Option<String>,
    pub last_name: Option<String>,
}

/// One sentence of an event: an object, how it looks since when, and whether it is deleted since when.
#[derive(Debug, Clone)]
pub struct Statement {
    pub object: Object,
    pub described: Option<(u32, Content)>,
    pub deleted_at: Option<u32>,
}

const STATES: [&str; 3] = ["pending", "accepted", "revoked"];

impl History {
    /// Always the same choice for the same content: a number below `of`.
    fn choose(&self, event: &Event, what: &str, of: u64) -> u64 {
        let mut hasher = DefaultHasher::new();
        (self.seed, event.object, event.minute, event.variant, what).hash(&mut hasher);
        hasher.finish() % of
    }

    fn pick<T: Copy, const N: usize>(&self, event: &Event, what: &str, from: [T; N]) -> T {
        let at = self.choose(event, what, from.len() as u64);
        from[usize::try_from(at).unwrap()]
    }

    /// How the event's object looks at its minute.
    pub fn content(&self, event: &Event) -> Content {
        let is_workos = self.provider == SourceKind::Workos;
        let minute = event.minute;
        match event.object {
            Organization(at) => Content::Organization {
                name: format!("Acme {at} {minute} {}", event.variant),
            },
            User(at) => Content::User(self.person(event, at)),
            Membership(_) => self.membership(event),
            Invitation(at) => self.invitation(event, at),
            Object::Role(_) | Object::OrganizationRole => {
                let told = self.choose(event, "permissions", 4);
                let slugs = ["jobs:assign", "jobs:read"].into_iter().enumerate();
                let slugs = slugs.filter(|(at, _)| told >> at & 1 == 1);
                Content::Role {
                    permissions: slugs.map(|(_, slug)| slug.to_owned()).collect(),
                }
            }
            Object::Permission => Content::Permission {
                slug: format!("jobs:cancel:{minute}{}", event.variant),
            },
            Domain(at) => Content::Domain {
                domain: format!("acme{at}.example"),
                state: self
                    .pick(event, "state", [None, Some("pending"), Some("verified")])
                    .map(str::to_owned),
            },
            Object::DirectoryUser(_) => Content::DirectoryUser {
                email: self
                    .pick(event, "email", ["USER0@a.example", "User0@B.example"])
                    .to_owned(),
                state: self.pick(
                    event,
                    "state",
                    ["active", "active", "inactive", "suspended"],
                ),
            },
            Object::DirectoryGroup => Content::DirectoryGroup {
                name: format!("Planners {minute} {}", event.variant),
            },
            Object::GroupMember(_) => {
                debug_assert!(is_workos);
                Content::GroupMember
            }
        }
    }

    /// At `WorkOS` everybody has an address; at Clerk some signed up by phone.
    fn person(&self, event: &Event, user: u32) -> Person {
        let has_none = self.provider == SourceKind::Clerk && self.choose(event, "phone", 4) == 0;
        let domain = self.pick(event, "domain", ["a", "a", "b"]);
        let told = self.choose(event, "names", 4);
        let minute = event.minute;
        Person {
            email: (!has_none).then(|| format!("user{user}@{domain}.example")),
            first_name: (told & 1 == 0).then(|| format!("Ada{user}")),
            last_name: (told & 2 == 0).then(|| format!("Byron-{minute}{}", event.variant)),
        }
    }

    fn membership(&self, event: &Event) -> Content {
        let slugs = ["admin", "member", "org-night-shift"];
        let User(user) = event.object.user() else {
            unreachable!("a membership has a user")
        };
        if self.provider == SourceKind::Clerk {
            return Content::Membership {
                status: "active",
                role: Some(self.pick(event, "role", slugs).to_owned()),
                hints: self.person(event, user),
            };
        }
        let told = self.choose(event, "role told", 3) > 0;
        Content::Membership {
            status: self.pick(event, "status", ["active", "active", "pending", "inactive"]),
            role: told.then(|| self.pick(event, "role", slugs).to_owned()),
            hints: Person::default(),
        }
    }

    /// To the user of the same number, or to nobody of ours.
    fn invitation(&self, event: &Event, at: u32) -> Content {
        let state = self.pick(event, "state", STATES);
        let in_organization = self.choose(event, "organization", 5) > 0;
        let has_role = self.choose(event, "role told", 2) > 0;
        let says_who = self.choose(event, "by", 2) > 0;
        let has_customer = self.choose(event, "customer", 3) > 0;
        let is_clerk = self.provider == SourceKind::Clerk;
        // most are for the user who has memberships in both organizations
        let user = u32::from(at == 2 && self.seed.is_multiple_of(2));
        let address = self.pick(event, "email", ["@A.example", "@b.example"]);
        Content::Invitation {
            organization: in_organization.then(|| event.object.organization()),
            email: format!("User{user}{address}"),
            state,
            role: has_role.then(|| {
                self.pick(event, "role", ["dispatcher", "viewer"])
                    .to_owned()
            }),
            accepted_by: (state == "accepted" && says_who).then_some(User(user)),
            customer: (is_clerk && has_customer).then(|| format!("customer_{at}")),
        }
    }

    /// A description that came along in an event about something else: not newer than the event.
    pub fn embedded(&self, event: &Event, object: Object) -> Event {
        let minute = self.choose(event, "embedded", u64::from(event.minute) + 1);
        Event {
            object,
            minute: u32::try_from(minute).unwrap(),
            is_deletion: false,
            variant: event.variant,
        }
    }

    /// What comes along: an organization's domain at `WorkOS`, a membership's organization at Clerk.
    pub fn along(&self, event: &Event) -> Option<Event> {
        let along = match (self.provider, event.object) {
            (SourceKind::Workos, Organization(at)) => Domain(at),
            (SourceKind::Clerk, Membership(_)) => event.object.organization(),
            _ => return None,
        };
        Some(self.embedded(event, along))
    }

    /// Whether a deletion shows the object once more, or names no more than its id.
    pub fn is_thin(&self, event: &Event) -> bool {
        let is_membership = matches!(event.object, Membership(_));
        event.is_deletion && self.provider == SourceKind::Clerk && !is_membership
    }

    /// All that an event says.
    pub fn statements(&self, event: &Event) -> Vec<Statement> {
        let is_clerk = self.provider == SourceKind::Clerk;
        let along = self.along(event);
        // the organization around a membership that ends may be going itself
        let along = along.filter(|_| !(is_clerk && event.is_deletion));
        let along = along.map(|along| Statement {
            object: along.object,
            described: Some((along.updated_at(), self.content(&along))),
            deleted_at: None,
        });
        let is_bare = self.is_thin(event) || (event.is_deletion && event.object.may_return());
        let own = Statement {
            object: event.object,
            described: (!is_bare).then(|| (event.updated_at(), self.content(event))),
            deleted_at: event.is_deletion.then(|| event.occurred_at()),
        };
        along.into_iter().chain([own]).collect()
    }
}
