//! What must be known in the end, computed in the simplest way there is.
//!
//! Nothing here knows an order of delivery: there are only sets of sentences, and the newest of them.

use std::collections::BTreeSet;

use super::{
    Event, History, Object,
    content::{Content, Person, Statement},
    event_id,
};

/// All that is known, a line each, such as `member org_0 user_0 active admin …`.
pub type World = BTreeSet<String>;

/// The end of a history.
pub fn fold(history: &History) -> World {
    let statements = history.events.iter();
    let statements: Vec<Statement> = statements
        .flat_map(|event| history.statements(event))
        .collect();
    let known = Known {
        history,
        statements: &statements,
    };
    let objects: BTreeSet<Object> = statements.iter().map(|said| said.object).collect();
    let rows = objects.iter().map(|object| known.row(*object));
    let pairs: BTreeSet<(Object, Object)> = objects
        .iter()
        .filter(|object| matches!(object, Object::Membership(_)))
        .map(|membership| (membership.organization(), membership.user()))
        .collect();
    let members = pairs.into_iter().map(|pair| known.member(pair));
    let waiting = (0..history.events.len())
        .filter(|at| known.waits(&history.events[*at]))
        .map(|at| format!("waiting {}", event_id(at)));
    rows.chain(members).chain(waiting).collect()
}

struct Known<'a> {
    history: &'a History,
    statements: &'a [Statement],
}

/// A membership as it stands, of several that one user may have in one organization.
struct Standing<'a> {
    status: &'static str,
    role: &'a Option<String>,
    hints: &'a Person,
}

/// An invitation that somebody accepted.
struct Accepted<'a> {
    role: Option<&'a str>,
    customer: Option<&'a str>,
}

impl<'a> Known<'a> {
    fn about(&self, object: Object) -> impl Iterator<Item = &'a Statement> {
        let about = move |said: &&Statement| said.object == object;
        self.statements.iter().filter(about)
    }

    /// The newest description, by the provider's time.
    fn newest(&self, object: Object) -> Option<&'a (u32, Content)> {
        let described = self
            .about(object)
            .filter_map(|said| said.described.as_ref());
        described.max_by_key(|(at, _)| *at)
    }

    /// Deletions are for ever; what counts is when it was deleted first.
    fn deleted_at(&self, object: Object) -> Option<u32> {
        self.about(object).filter_map(|said| said.deleted_at).min()
    }

    fn row(&self, object: Object) -> String {
        if object.may_return() {
            return self.row_that_may_return(object);
        }
        let newest = self.newest(object);
        let content = newest.map_or_else(String::new, |(_, content)| self.shown(object, content));
        let updated_at = newest.map(|(at, _)| *at);
        let deleted_at = self.deleted_at(object);
        format!(
            "{} {}: {content}, since {}, deleted {}",
            kind(object),
            object.id(self.history.provider),
            or_dash(updated_at),
            or_dash(deleted_at)
        )
    }

    /// Gone if the newest thing said of it is that it is gone.
    fn row_that_may_return(&self, object: Object) -> String {
        let gone_at = self.about(object).filter_map(|said| said.deleted_at).max();
        let (kind, id) = (kind(object), object.id(self.history.provider));
        match self.newest(object) {
            Some((at, content)) if Some(*at) > gone_at => {
                let content = self.shown(object, content);
                format!("{kind} {id}: {content}, since {at}, deleted -")
            }
            _ => format!("{kind} {id}: gone, since {}, deleted -", or_dash(gone_at)),
        }
    }

    fn shown(&self, object: Object, content: &Content) -> String {
        let organization = || object.organization().id(self.history.provider);
        match content {
            Content::Organization { name } | Content::DirectoryGroup { name } => name.clone(),
            Content::User(person) => format!(
                "{} {} {}",
                or_dash(person.email.as_ref()),
                or_dash(person.first_name.as_ref()),
                or_dash(person.last_name.as_ref())
            ),
            Content::Membership { status, role, .. } => {
                format!("{status} {}", or_dash(role.as_ref()))
            }
            Content::Invitation {
                organization,
                email,
                state,
                ..
            } => format!(
                "{} {email} {state} {}",
                or_dash(organization.map(|it| it.id(self.history.provider))),
                or_dash(self.promised_role(object))
            ),
            Content::Role { permissions } => format!("{} {}", object.slug(), permissions.join(",")),
            Content::Permission { slug } => slug.clone(),
            Content::Domain { domain, state } => {
                format!("{} {domain} {}", organization(), or_dash(state.as_ref()))
            }
            Content::DirectoryUser { email, state } => {
                format!("{} {email} {state}", organization())
            }
            Content::GroupMember => "in".to_owned(),
        }
    }

    /// The newest role that any description of an invitation tells.
    fn promised_role(&self, invitation: Object) -> Option<&'a str> {
        let told = self
            .about(invitation)
            .filter_map(|said| match &said.described {
                Some((
                    at,
                    Content::Invitation {
                        role: Some(role), ..
                    },
                )) => Some((*at, role.as_str())),
                _ => None,
            });
        told.max().map(|(_, role)| role)
    }

    fn member(&self, (organization, user): (Object, Object)) -> String {
        let membership = self.standing(organization, user);
        let person = match self.newest(user) {
            Some((_, Content::User(person))) => person,
            _ => membership.hints,
        };
        let accepted = self.accepted(organization, user, person);
        let is_removed = self.deleted_at(organization).is_some()
            || self.deleted_at(user).is_some()
            || self.is_kept_out(organization, person);
        let status = if is_removed {
            "removed"
        } else {
            membership.status
        };
        let promised = accepted.as_ref().and_then(|accepted| accepted.role);
        let customer = accepted.as_ref().and_then(|accepted| accepted.customer);
        let names = [&person.first_name, &person.last_name]
            .into_iter()
            .flatten();
        let names = names.map(String::as_str).collect::<Vec<_>>().join(" ");
        let (organization, user) = [organization, user]
            .map(|it| it.id(self.history.provider))
            .into();
        let display_name = match &person.email {
            _ if !names.is_empty() => &names,
            Some(email) => email,
            None => &user,
        };
        format!(
            "member {organization} {user}: {status} {} {display_name} {} {}",
            or_dash(membership.role.as_deref().or(promised)),
            or_dash(person.email.as_ref()),
            or_dash(customer)
        )
    }

    /// The membership in force counts, then one that may come into force, then the newest.
    fn standing(&self, organization: Object, user: Object) -> Standing<'a> {
        let objects: BTreeSet<Object> = self.statements.iter().map(|said| said.object).collect();
        let is_theirs = |it: &Object| {
            matches!(it, Object::Membership(_))
                && (it.organization(), it.user()) == (organization, user)
        };
        let standing = objects.into_iter().filter(is_theirs).map(|membership| {
            let Some((
                at,
                Content::Membership {
                    status,
                    role,
                    hints,
                },
            )) = self.newest(membership)
            else {
                unreachable!("a deletion of a membership describes it too")
            };
            let is_deleted = self.deleted_at(membership).is_some();
            let (rank, status) = match (is_deleted, *status) {
                (false, "active") => (2, "active"),
                (false, "pending") => (1, "invited"),
                _ => (0, "removed"),
            };
            (
                rank,
                *at,
                Standing {
                    status,
                    role,
                    hints,
                },
            )
        });
        let counts = standing.max_by_key(|(rank, at, _)| (*rank, *at));
        counts.unwrap().2
    }

    /// The newest invitation to the organization that this user accepted: by id, or by address where
    /// no id is told.
    fn accepted(
        &self,
        organization: Object,
        user: Object,
        person: &Person,
    ) -> Option<Accepted<'a>> {
        let objects: BTreeSet<Object> = self.statements.iter().map(|said| said.object).collect();
        let accepted = objects
            .into_iter()
            .filter_map(|object| match self.newest(object) {
                Some((
                    at,
                    Content::Invitation {
                        organization: Some(to),
                        email,
                        state: "accepted",
                        accepted_by,
                        customer,
                        ..
                    },
                )) if *to == organization
                    && accepted_by
                        .map_or_else(|| is_same_address(email, person), |by| by == user) =>
                {
                    let role = self.promised_role(object);
                    let customer = customer.as_deref();
                    Some((*at, Accepted { role, customer }))
                }
                _ => None,
            });
        accepted
            .max_by_key(|(at, _)| *at)
            .map(|(_, accepted)| accepted)
    }

    /// Whether the organization's directory knows the person and has no active entry of theirs.
    fn is_kept_out(&self, organization: Object, person: &Person) -> bool {
        let entries = (0..2).map(Object::DirectoryUser).filter_map(|entry| {
            let Some((_, Content::DirectoryUser { email, state })) = self.newest(entry) else {
                return None;
            };
            let is_theirs = entry.organization() == organization && is_same_address(email, person);
            is_theirs.then(|| *state == "active" && self.deleted_at(entry).is_none())
        });
        let entries: Vec<bool> = entries.collect();
        !entries.is_empty() && !entries.contains(&true)
    }

    /// Whether an event names an organization or user that nothing describes or deletes.
    fn waits(&self, event: &Event) -> bool {
        let statements = self.history.statements(event);
        let mut named = statements.iter().flat_map(named);
        named.any(|object| self.about(object).next().is_none())
    }
}

/// What a sentence needs to be complete; a deletion needs nobody.
fn named(said: &Statement) -> Vec<Object> {
    let Some((_, content)) = said
        .described
        .as_ref()
        .filter(|_| said.deleted_at.is_none())
    else {
        return Vec::new();
    };
    let organization = said.object.organization();
    match (said.object, content) {
        (_, Content::Membership { hints, .. }) if *hints == Person::default() => {
            vec![organization, said.object.user()]
        }
        (_, Content::Invitation { organization, .. }) => organization.iter().copied().collect(),
        (
            Object::Membership(_)
            | Object::Domain(_)
            | Object::OrganizationRole
            | Object::DirectoryUser(_)
            | Object::DirectoryGroup,
            _,
        ) => vec![organization],
        _ => Vec::new(),
    }
}

fn is_same_address(email: &str, person: &Person) -> bool {
    let theirs = person.email.as_ref();
    theirs.is_some_and(|theirs| theirs.to_lowercase() == email.to_lowercase())
}

fn or_dash(value: Option<impl ToString>) -> String {
    value.map_or_else(|| "-".to_owned(), |value| value.to_string())
}

const fn kind(object: Object) -> &'static str {
    match object {
        Object::Organization(_) => "organization",
        Object::User(_) => "user",
        Object::Membership(_) => "membership",
        Object::Invitation(_) => "invitation",
        Object::Role(_) | Object::OrganizationRole => "role",
        Object::Permission => "permission",
        Object::Domain(_) => "domain",
        Object::DirectoryUser(_) => "directory user",
        Object::DirectoryGroup => "group",
        Object::GroupMember(_) => "group member",
    }
}
