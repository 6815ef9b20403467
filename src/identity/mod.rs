//! What the providers said of their objects: organizations, users, memberships, invitations, roles, directories.
//!
//! ```text
//!  IdentityEvent ─▶ register: newest description (updated_at, digest) ⊔ earliest deletion ─▶ view `members`
//! ```
//!
//! Guarantees: any order and any repetition of the same events ends in the same rows, because each
//! row is joined, never overwritten, and everything else is computed from the rows; all of it is
//! written under one lock, so that an event and the parent it waits for cannot miss each other.
//!
//! Does not: decide anything (`members` does), or make tenants (`jobs` does).

mod invitations;
mod own;
mod parents;
mod register;

use std::collections::BTreeSet;

use sqlx::PgConnection;

pub use own::{
    discard_own_organization, find_by_external_id, insert_own_organization, is_deleted,
    organization_in, own_organization,
};
pub use parents::{Parent, ParentKind, Parents, find as find_parents};

use crate::webhooks::IdentityEvent;

/// Something a provider said, and where we have it from.
#[derive(Debug)]
pub struct Heard {
    /// Name of the source.
    pub source: String,
    /// Number of the event in the inbox; `None` when the provider's API told it.
    pub event: Option<i64>,
    /// When we got it.
    pub received_at: chrono::DateTime<chrono::Utc>,
    /// What was said.
    pub said: Vec<IdentityEvent>,
}

impl Heard {
    /// What the provider's API told just now.
    pub fn from_api(source: &str, said: Vec<IdentityEvent>) -> Self {
        Self {
            source: source.to_owned(),
            event: None,
            received_at: std::time::SystemTime::now().into(),
            said,
        }
    }
}

/// What a recording changed.
#[derive(Debug, Default)]
pub struct Changes {
    rows: BTreeSet<register::Key>,
    /// For each [`Heard`], whether it changed anything.
    pub is_news: Vec<bool>,
}

impl Changes {
    /// Source and id of the organizations that changed.
    pub fn organizations(&self) -> impl Iterator<Item = (&str, &str)> {
        self.of(register::Table::Organizations)
    }

    /// What others may have waited for, and is there now.
    pub fn parents(&self) -> Vec<Parent> {
        let organizations = self.of(register::Table::Organizations);
        let users = self.of(register::Table::Users);
        let organizations =
            organizations.map(|(source, id)| Parent::new(ParentKind::Organization, source, id));
        let users = users.map(|(source, id)| Parent::new(ParentKind::User, source, id));
        organizations.chain(users).collect()
    }

    fn of(&self, table: register::Table) -> impl Iterator<Item = (&str, &str)> {
        self.rows
            .iter()
            .filter(move |key| key.table == table)
            .map(|key| (key.source.as_str(), key.id.as_str()))
    }
}

/// "people" in ASCII.
const LOCK: i64 = 0x7065_6f70_6c65;

/// Waits until nobody else records; holds until the transaction ends.
pub async fn lock(tx: &mut PgConnection) -> sqlx::Result<()> {
    sqlx::query("select pg_advisory_xact_lock($1)")
        .bind(LOCK)
        .execute(tx)
        .await?;
    Ok(())
}

/// The same without waiting: false when somebody else records.
pub async fn try_lock(tx: &mut PgConnection) -> sqlx::Result<bool> {
    sqlx::query_scalar("select pg_try_advisory_xact_lock($1)")
        .bind(LOCK)
        .fetch_one(tx)
        .await
}

/// Joins what was said into the registers. The caller holds the [`lock`].
pub async fn record(tx: &mut PgConnection, heard: &[Heard]) -> sqlx::Result<Changes> {
    let rows = register::join(heard);
    invitations::adopt_requested(tx, &rows).await?;
    let mut changed = register::write(tx, &rows).await?;
    changed.append(&mut invitations::tell_roles(tx, heard).await?);
    let is_news = heard
        .iter()
        .map(|heard| register::keys(heard).any(|key| changed.contains(&key)))
        .collect();
    Ok(Changes {
        rows: changed,
        is_news,
    })
}

/// Organizations whose members may look different after these changes, where they have a tenant.
pub async fn affected_tenants(
    tx: &mut PgConnection,
    changes: &Changes,
) -> sqlx::Result<Vec<AffectedTenant>> {
    use register::Table;
    let ids = |table| changes.of(table).map(|(_, id)| id).collect::<Vec<_>>();
    let sources: BTreeSet<&str> = changes.rows.iter().map(|key| key.source.as_str()).collect();
    sqlx::query_as(
        "with affected as (
             select source, org_id from memberships
             where source = any($1) and membership_id = any($2)
             union
             select source, org_id from memberships
             where source = any($1) and user_id = any($3)
             union
             select source, org_id from invitations
             where source = any($1) and invitation_id = any($4) and state = 'accepted'
             union
             select source, org_id from directory_users
             where source = any($1) and directory_user_id = any($5)
             union
             -- the creator's role may follow from the organization
             select source, org_id from memberships
             where source = any($1) and org_id = any($6) and role is null
         )
         select tenants.id, source, org_id
         from affected
         join tenants using (source, org_id)
         order by tenants.id",
    )
    .bind(sources.into_iter().collect::<Vec<_>>())
    .bind(ids(Table::Memberships))
    .bind(ids(Table::Users))
    .bind(ids(Table::Invitations))
    .bind(ids(Table::DirectoryUsers))
    .bind(ids(Table::Organizations))
    .fetch_all(tx)
    .await
}

/// A member by what names them.
#[derive(Debug, Clone, PartialEq, Eq, sqlx::FromRow)]
pub struct MemberKey {
    /// Name of the source.
    pub source: String,
    /// The provider's organization id.
    pub org_id: String,
    /// The provider's user id.
    pub user_id: String,
}

/// Members whose status may be another after these changes.
pub async fn affected_members(
    tx: &mut PgConnection,
    changes: &Changes,
) -> sqlx::Result<Vec<MemberKey>> {
    use register::Table;
    let ids = |table| changes.of(table).map(|(_, id)| id).collect::<Vec<_>>();
    let sources: BTreeSet<&str> = changes.rows.iter().map(|key| key.source.as_str()).collect();
    sqlx::query_as(
        "select source, org_id, user_id from memberships
         where source = any($1) and membership_id = any($2)
         union
         select source, org_id, user_id from memberships
         where source = any($1) and user_id = any($3)
         union
         -- its deletion, and its first description, which may make a tenant
         select source, org_id, user_id from memberships
         where source = any($1) and org_id = any($4)
         union
         -- an entry may have had another address before
         select member.source, member.org_id, member.user_id
         from directory_users entry
         join memberships member using (source, org_id)
         where entry.source = any($1) and entry.directory_user_id = any($5)",
    )
    .bind(sources.into_iter().collect::<Vec<_>>())
    .bind(ids(Table::Memberships))
    .bind(ids(Table::Users))
    .bind(ids(Table::Organizations))
    .bind(ids(Table::DirectoryUsers))
    .fetch_all(tx)
    .await
}

/// A tenant whose members may look different.
#[derive(Debug, sqlx::FromRow)]
pub struct AffectedTenant {
    /// The tenant.
    pub id: uuid::Uuid,
    /// Name of the source.
    pub source: String,
    /// The provider's organization id.
    pub org_id: String,
}

/// An organization that is described and not deleted: it is to have a tenant.
#[derive(Debug, sqlx::FromRow)]
pub struct LiveOrganization {
    /// Name of the source.
    pub source: String,
    /// The provider's id.
    pub org_id: String,
    /// Its name; may be empty.
    pub name: String,
    /// What the application calls it, where it told the provider.
    pub external_id: Option<String>,
    /// Whether it has a tenant already.
    pub has_tenant: bool,
}

impl LiveOrganization {
    /// Name of the source, and the provider's id.
    pub fn key(&self) -> (&str, &str) {
        (&self.source, &self.org_id)
    }
}

/// The sources that know an organization of this id.
pub async fn find_sources(
    connection: &mut PgConnection,
    org_id: &str,
) -> sqlx::Result<Vec<String>> {
    sqlx::query_scalar("select source from organizations where org_id = $1 order by source")
        .bind(org_id)
        .fetch_all(connection)
        .await
}

/// Which of these organizations are alive; the others are deleted, or only their deletion is known.
pub async fn live_organizations(
    tx: &mut PgConnection,
    changes: &Changes,
) -> sqlx::Result<Vec<LiveOrganization>> {
    let (sources, ids): (Vec<_>, Vec<_>) = changes.organizations().unzip();
    if ids.is_empty() {
        return Ok(Vec::new());
    }
    sqlx::query_as(
        "select source, org_id, coalesce(name, '') as name, external_id,
                exists (
                    select
                    from tenants
                    where tenants.source = organizations.source
                      and tenants.org_id = organizations.org_id
                ) as has_tenant
         from organizations
         join unnest($1::text[], $2::text[]) as changed (source, org_id) using (source, org_id)
         where content is not null
           and deleted_at is null
         order by source, org_id",
    )
    .bind(sources)
    .bind(ids)
    .fetch_all(tx)
    .await
}

/// The organization's full name; the tenant's row has only 255 characters.
pub async fn find_organization_name(
    connection: &mut PgConnection,
    source: &str,
    org_id: &str,
) -> sqlx::Result<Option<String>> {
    let name: Option<Option<String>> =
        sqlx::query_scalar("select name from organizations where source = $1 and org_id = $2")
            .bind(source)
            .bind(org_id)
            .fetch_optional(connection)
            .await?;
    Ok(name.flatten())
}
