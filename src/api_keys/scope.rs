//! What a key may do. Pure.
//!
//! Guarantees: a scope allows itself and nothing else, `admin` allows everything; a text that is no
//! scope is refused, and a stored one that this version does not know allows nothing.

use std::{collections::BTreeSet, fmt};

use serde::{Serialize, Serializer};

/// One thing that a key may do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Scope {
    /// Look at tenants.
    TenantsRead,
    /// Retry, suspend, delete tenants.
    TenantsWrite,
    /// Get the password with which a tenant's role connects.
    TenantsConnect,
    /// Look at members, invitations and assignments.
    MembersRead,
    /// Remove, restore, invite, assign.
    MembersWrite,
    /// Look at events and jobs.
    EventsRead,
    /// Replay events; retry and cancel jobs.
    EventsWrite,
    /// Look at fleet runs.
    FleetRead,
    /// Begin fleet runs; pause, resume, retry and abort them.
    FleetWrite,
    /// Ask for registrations.
    RegistrationsWrite,
    /// Ask for registrations from a web page: what a form key may do, and no other key.
    RegistrationsSubmit,
    /// Read the audit log.
    AuditRead,
    /// Everything.
    Admin,
}

/// The scopes as they may be typed, for messages; not that of form keys, which comes with `--form`.
pub const CHOICES: &str = "tenants:read, tenants:write, tenants:connect, tenants:* (without connect), members:read, \
     members:write, members:*, events:read, events:write, events:*, fleet:read, \
     fleet:write, fleet:*, registrations:write, audit:read, admin";

impl Scope {
    /// Every scope.
    pub const ALL: [Self; 13] = [
        Self::TenantsRead,
        Self::TenantsWrite,
        Self::TenantsConnect,
        Self::MembersRead,
        Self::MembersWrite,
        Self::EventsRead,
        Self::EventsWrite,
        Self::FleetRead,
        Self::FleetWrite,
        Self::RegistrationsWrite,
        Self::RegistrationsSubmit,
        Self::AuditRead,
        Self::Admin,
    ];

    /// The scope as it is stored and shown.
    pub const fn name(self) -> &'static str {
        match self {
            Self::TenantsRead => "tenants:read",
            Self::TenantsWrite => "tenants:write",
            Self::TenantsConnect => "tenants:connect",
            Self::MembersRead => "members:read",
            Self::MembersWrite => "members:write",
            Self::EventsRead => "events:read",
            Self::EventsWrite => "events:write",
            Self::FleetRead => "fleet:read",
            Self::FleetWrite => "fleet:write",
            Self::RegistrationsWrite => "registrations:write",
            Self::RegistrationsSubmit => "registrations:submit",
            Self::AuditRead => "audit:read",
            Self::Admin => "admin",
        }
    }

    fn parse(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|scope| scope.name() == name)
    }
}

/// A text that is no scope.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is no scope: give one of {CHOICES}")]
pub struct UnknownScope(pub String);

/// What a key may do, altogether.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Scopes(BTreeSet<Scope>);

impl Scopes {
    /// Reads a scope as somebody types it; a star stands for reading and writing.
    ///
    /// `tenants:*` is without `tenants:connect`: who hands out passwords says so.
    pub fn parse(text: &str) -> Result<Self, UnknownScope> {
        let scopes = match text {
            "tenants:*" => vec![Scope::TenantsRead, Scope::TenantsWrite],
            "members:*" => vec![Scope::MembersRead, Scope::MembersWrite],
            "events:*" => vec![Scope::EventsRead, Scope::EventsWrite],
            "fleet:*" => vec![Scope::FleetRead, Scope::FleetWrite],
            name => vec![Scope::parse(name).ok_or_else(|| UnknownScope(name.to_owned()))?],
        };
        Ok(scopes.into_iter().collect())
    }

    /// Whether a key with these may do it.
    pub fn allows(&self, scope: Scope) -> bool {
        self.0.contains(&Scope::Admin) || self.0.contains(&scope)
    }

    /// Whether it is named, whatever `admin` stands for.
    pub fn contains(&self, scope: Scope) -> bool {
        self.0.contains(&scope)
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Their names, in the order of [`Scope::ALL`].
    pub fn names(&self) -> impl Iterator<Item = &'static str> {
        self.0.iter().map(|scope| scope.name())
    }
}

impl FromIterator<Scope> for Scopes {
    fn from_iter<I: IntoIterator<Item = Scope>>(scopes: I) -> Self {
        Self(scopes.into_iter().collect())
    }
}

/// All of them together.
impl FromIterator<Self> for Scopes {
    fn from_iter<I: IntoIterator<Item = Self>>(sets: I) -> Self {
        sets.into_iter().flat_map(|set| set.0).collect()
    }
}

/// As they are stored.
impl From<Vec<String>> for Scopes {
    fn from(names: Vec<String>) -> Self {
        // a newer tenantry may know more
        names.iter().filter_map(|name| Scope::parse(name)).collect()
    }
}

impl fmt::Display for Scopes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.names().collect::<Vec<_>>().join(" "))
    }
}

impl Serialize for Scopes {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_seq(self.names())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn scopes(texts: &[&str]) -> Scopes {
        texts.iter().map(|it| Scopes::parse(it).unwrap()).collect()
    }

    fn allowed(texts: &[&str]) -> Vec<&'static str> {
        let scopes = scopes(texts);
        let allowed = Scope::ALL.into_iter().filter(|it| scopes.allows(*it));
        allowed.map(Scope::name).collect()
    }

    #[test]
    fn a_scope_allows_itself_and_only_admin_allows_everything() {
        for scope in Scope::ALL {
            let names = allowed(&[scope.name()]);
            match scope {
                Scope::Admin => assert_eq!(names.len(), Scope::ALL.len()),
                other => assert_eq!(names, [other.name()]),
            }
        }
    }

    #[test]
    fn a_star_reads_and_writes_and_never_hands_out_passwords() {
        assert_eq!(allowed(&["tenants:*"]), ["tenants:read", "tenants:write"]);
        assert_eq!(allowed(&["members:*"]), ["members:read", "members:write"]);
        assert_eq!(allowed(&["events:*"]), ["events:read", "events:write"]);
        assert_eq!(allowed(&["fleet:*"]), ["fleet:read", "fleet:write"]);
        assert_eq!(
            allowed(&["tenants:*", "tenants:connect"]),
            ["tenants:read", "tenants:write", "tenants:connect"]
        );
    }

    #[test]
    fn what_is_no_scope_is_refused_and_allows_nothing_where_it_is_stored() {
        for text in [
            "",
            "*",
            "admin:*",
            "audit:*",
            "Tenants:read",
            "tenants:",
            "tenants:read ",
        ] {
            assert_eq!(Scopes::parse(text), Err(UnknownScope(text.to_owned())));
        }
        let stored = Scopes::from(vec!["moons:write".to_owned(), "audit:read".to_owned()]);
        assert_eq!(stored, scopes(&["audit:read"]));
    }

    #[test]
    fn scopes_are_shown_once_each_and_in_one_order() {
        let scopes = scopes(&["audit:read", "tenants:*", "tenants:read"]);
        let json = serde_json::to_string(&scopes).unwrap();
        assert_eq!(json, r#"["tenants:read","tenants:write","audit:read"]"#);
        assert_eq!(scopes.to_string(), "tenants:read tenants:write audit:read");
    }
}
