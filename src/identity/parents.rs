//! What an event needs to be complete: its organization, and its user.
//!
//! Guarantees: an object whose organization or user nobody has described yet is recorded all the
//! same; only the event waits, until the parent is described or deleted.

use std::collections::{BTreeMap, BTreeSet};

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

/// How an event stands to what it names.
#[derive(Debug, Default)]
pub struct Parents {
    /// Those that nobody has described or deleted yet.
    pub missing: BTreeSet<Parent>,
    /// Whether its organization or user is deleted: then it has no effect.
    pub is_deleted: bool,
}

/// How each of the events stands to what it names.
pub async fn find(tx: &mut PgConnection, heard: &[super::Heard]) -> sqlx::Result<Vec<Parents>> {
    let needed: Vec<BTreeSet<Parent>> = heard
        .iter()
        .map(|heard| {
            let parents = heard.said.iter().flat_map(parents);
            parents
                .map(|(kind, id)| Parent::new(kind, &heard.source, id))
                .collect()
        })
        .collect();
    let all: BTreeSet<&Parent> = needed.iter().flatten().collect();
    let known = if all.is_empty() {
        BTreeMap::new()
    } else {
        known(tx, &all).await?
    };
    let parents = |needed: BTreeSet<Parent>| Parents {
        is_deleted: needed.iter().any(|parent| known.get(parent) == Some(&true)),
        missing: needed
            .into_iter()
            .filter(|parent| !known.contains_key(parent))
            .collect(),
    };
    Ok(needed.into_iter().map(parents).collect())
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
        // itself: whether it is deleted is what counts
        IdentityEvent::Organization(said) => {
            let said = said.described.as_ref().map(|_| said);
            let said = said.filter(|said| said.deleted_at.is_none());
            said.map(|said| (ParentKind::Organization, &*said.id))
                .into_iter()
                .collect()
        }
        IdentityEvent::User(_) | IdentityEvent::Permission(_) | IdentityEvent::GroupMember(_) => {
            Vec::new()
        }
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
    let told = [
        &membership.email,
        &membership.first_name,
        &membership.last_name,
    ];
    if told.iter().all(|told| told.is_none()) {
        parents.push((ParentKind::User, &membership.user_id));
    }
    parents
}

/// Those that are described or deleted, and whether they are deleted.
async fn known(
    tx: &mut PgConnection,
    parents: &BTreeSet<&Parent>,
) -> sqlx::Result<BTreeMap<Parent, bool>> {
    let of = |kind| {
        let parents = parents.iter().filter(move |parent| parent.kind == kind);
        parents
            .map(|parent| (parent.source.as_str(), parent.id.as_str()))
            .unzip::<_, _, Vec<_>, Vec<_>>()
    };
    let (organizations, users) = (of(ParentKind::Organization), of(ParentKind::User));
    let rows: Vec<(bool, String, String, bool)> = sqlx::query_as(
        "select true, source, org_id, deleted_at is not null
         from organizations
         join unnest($1::text[], $2::text[]) as wanted (source, org_id) using (source, org_id)
         union all
         select false, source, user_id, deleted_at is not null
         from users
         join unnest($3::text[], $4::text[]) as wanted (source, user_id) using (source, user_id)",
    )
    .bind(organizations.0)
    .bind(organizations.1)
    .bind(users.0)
    .bind(users.1)
    .fetch_all(tx)
    .await?;
    let parent = |(is_organization, source, id, is_deleted): (bool, String, String, bool)| {
        let kind = if is_organization {
            ParentKind::Organization
        } else {
            ParentKind::User
        };
        (Parent::new(kind, &source, &id), is_deleted)
    };
    Ok(rows.into_iter().map(parent).collect())
}
