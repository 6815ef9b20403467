//! What an event needs to be complete: its organization, and its user.
//!
//! Guarantees: an object whose organization or user nobody has described yet is recorded all the
//! same; only the event waits, until the parent is described or deleted.

use std::collections::BTreeSet;

use sqlx::PgConnection;

use crate::webhooks::{IdentityEvent, Membership, Said};

/// Something that an event names.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Parent {
    /// What it is.
    pub kind: ParentKind,
    /// Name of the source.
    pub source: String,
    /// The provider's id.
    pub id: String,
}

/// What an event may wait for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum ParentKind {
    /// An organization.
    Organization,
    /// A user.
    User,
}

impl ParentKind {
    /// The word as it is stored and shown.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Organization => "organization",
            Self::User => "user",
        }
    }
}

impl Parent {
    pub(super) fn new(kind: ParentKind, source: &str, id: &str) -> Self {
        Self {
            kind,
            source: source.to_owned(),
            id: id.to_owned(),
        }
    }

    /// As it is stored with the event that waits: `user:user_1`.
    pub fn text(&self) -> String {
        format!("{}:{}", self.kind.name(), self.id)
    }

    /// Reads [`text`](Self::text) again.
    pub fn parse(source: &str, text: &str) -> Option<Self> {
        let (kind, id) = text.split_once(':')?;
        let kinds = [ParentKind::Organization, ParentKind::User];
        let kind = kinds.into_iter().find(|known| known.name() == kind)?;
        Some(Self::new(kind, source, id))
    }
}

/// The parents that nobody has described or deleted yet, for each of the events.
pub async fn missing(
    tx: &mut PgConnection,
    heard: &[super::Heard],
) -> sqlx::Result<Vec<BTreeSet<Parent>>> {
    let mut needed: Vec<BTreeSet<Parent>> = heard
        .iter()
        .map(|heard| {
            let parents = heard.said.iter().flat_map(parents);
            parents
                .map(|(kind, id)| Parent::new(kind, &heard.source, id))
                .collect()
        })
        .collect();
    let all: BTreeSet<&Parent> = needed.iter().flatten().collect();
    if all.is_empty() {
        return Ok(needed);
    }
    let known: BTreeSet<Parent> = known(tx, &all).await?;
    for needed in &mut needed {
        needed.retain(|parent| !known.contains(parent));
    }
    Ok(needed)
}

/// A deleted object needs nobody, and neither does a thing of the whole application.
fn parents(event: &IdentityEvent) -> Vec<(ParentKind, &str)> {
    fn organization<'a, T>(
        said: &'a Said<T>,
        of: impl Fn(&'a T) -> Option<&'a str>,
    ) -> Vec<(ParentKind, &'a str)> {
        let described = said.described.as_ref();
        let described = described.filter(|_| said.deleted_at.is_none());
        described
            .and_then(|described| of(&described.content))
            .map(|id| (ParentKind::Organization, id))
            .into_iter()
            .collect()
    }
    match event {
        IdentityEvent::Organization(_)
        | IdentityEvent::User(_)
        | IdentityEvent::Permission(_)
        | IdentityEvent::GroupMember(_) => Vec::new(),
        IdentityEvent::Domain(said) => organization(said, |it| Some(&it.organization_id)),
        IdentityEvent::Membership(said) => membership(said),
        IdentityEvent::Invitation(said) => organization(said, |it| it.organization_id.as_deref()),
        IdentityEvent::Role(said) => organization(said, |it| {
            it.organization_id.as_deref().filter(|_| !it.is_gone)
        }),
        IdentityEvent::DirectoryUser(said) => {
            organization(said, |it| it.organization_id.as_deref())
        }
        IdentityEvent::DirectoryGroup(said) => {
            organization(said, |it| it.organization_id.as_deref())
        }
    }
}

/// A membership that tells its user's name or address needs no further word of the user.
fn membership(said: &Said<Membership>) -> Vec<(ParentKind, &str)> {
    let Some(described) = said
        .described
        .as_ref()
        .filter(|_| said.deleted_at.is_none())
    else {
        return Vec::new();
    };
    let membership = &described.content;
    let mut parents = vec![(ParentKind::Organization, &*membership.organization_id)];
    if membership.email.is_none() && membership.first_name.is_none() {
        parents.push((ParentKind::User, &membership.user_id));
    }
    parents
}

async fn known(
    tx: &mut PgConnection,
    parents: &BTreeSet<&Parent>,
) -> sqlx::Result<BTreeSet<Parent>> {
    let of = |kind| {
        let parents = parents.iter().filter(move |parent| parent.kind == kind);
        parents
            .map(|parent| (parent.source.as_str(), parent.id.as_str()))
            .unzip::<_, _, Vec<_>, Vec<_>>()
    };
    let (organizations, users) = (of(ParentKind::Organization), of(ParentKind::User));
    let rows: Vec<(bool, String, String)> = sqlx::query_as(
        "select true, source, org_id
         from organizations
         join unnest($1::text[], $2::text[]) as wanted (source, org_id) using (source, org_id)
         union all
         select false, source, user_id
         from users
         join unnest($3::text[], $4::text[]) as wanted (source, user_id) using (source, user_id)",
    )
    .bind(organizations.0)
    .bind(organizations.1)
    .bind(users.0)
    .bind(users.1)
    .fetch_all(tx)
    .await?;
    let parent = |(is_organization, source, id): (bool, String, String)| {
        let kind = if is_organization {
            ParentKind::Organization
        } else {
            ParentKind::User
        };
        Parent::new(kind, &source, &id)
    };
    Ok(rows.into_iter().map(parent).collect())
}
