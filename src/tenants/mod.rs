//! Station 6, READY: tenants, and the states they go through.
//!
//! ```text
//!  pending ─▶ provisioning ─▶ ready ⇄ suspended ─▶ archived ─▶ deleted
//!                  │  ▲
//!                  ▼  │ retry
//!                 failed
//!
//!  abandoned: pending, provisioning, failed ─▶ archived (never ready) ─▶ no row any more
//! ```
//!
//! Guarantees: one tenant per `(source, organization)`, by a unique constraint; a state changes only
//! along the arrows, by guarded updates; `initialize` is true only from activation on; names given
//! once stay; a deleted organization never comes back, and its tenant is suspended, never dropped; only a
//! tenant that never was ready loses its row.
//!
//! Does not: touch a tenant's database. `provisioning` does.

/// Every column of [`Tenant`]; a macro because statements are literals.
macro_rules! select_tenant {
    ($rest:literal) => {
        concat!(
            "select id, org_id, initialize, name, url, database, read_only_database, username, alembic_version,
                    source, state, cluster, blueprint_hash, failure, requested_at, created_at, updated_at, ready_at, seeded_as, labels
             from tenants ",
            $rest
        )
    };
}

mod fleet;
mod hosts;
mod labels;
mod look;
pub mod naming;
mod selection;
mod transitions;

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use sqlx::{FromRow, PgConnection, types::Json};
use uuid::Uuid;

pub use fleet::{
    ReachedVersion, RecordedVersion, find_all, is_any_of_other, list_migratable, mark_migrated,
};
pub use hosts::{
    Host, HostError, add_host, find_by_host, find_taken, list_hosts, normalize_host, remove_host,
};
pub use labels::{
    Label, LabelInvalid, Labels, check_all, check_key, schema as labels_schema,
    schema_of as labels_schema_of, set_labels,
};
pub use look::{TenantFilter, list_page};
pub use selection::{Selection, list_selected};
pub use transitions::{
    delete_abandoned, is_of_deleted_organization, mark_abandoned, mark_cloned, mark_failed,
    mark_pending, mark_placed, mark_provisioning, mark_ready, mark_resumed, mark_suspended,
    mark_suspended_by_operator, mark_unplaced, note_failure, note_undo_failure,
};

use crate::{config, secrets};

/// Id of a tenant.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, Hash, sqlx::Type, Serialize, Deserialize, utoipa::ToSchema,
)]
#[sqlx(transparent)]
#[serde(transparent)]
pub struct TenantId(pub Uuid);

impl std::fmt::Display for TenantId {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.0.fmt(f)
    }
}

/// Where a tenant is in its life.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, Hash, sqlx::Type, Serialize, Deserialize, utoipa::ToSchema,
)]
#[sqlx(type_name = "text", rename_all = "lowercase")]
#[serde(rename_all = "lowercase")]
pub enum TenantState {
    /// Asked for; nothing exists yet.
    Pending,
    /// Being made.
    Provisioning,
    /// Verified; requests may be routed to it.
    Ready,
    /// A step failed for good; `tenants retry` goes on there.
    Failed,
    /// Kept, not routed.
    Suspended,
    /// Kept for the record, not migrated any more; or, where it never was ready, being taken back.
    Archived,
    /// Its database is gone.
    Deleted,
}

impl TenantState {
    /// The word as it is stored and shown.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Pending => "pending",
            Self::Provisioning => "provisioning",
            Self::Ready => "ready",
            Self::Failed => "failed",
            Self::Suspended => "suspended",
            Self::Archived => "archived",
            Self::Deleted => "deleted",
        }
    }
}

/// Why provisioning failed, for people.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct TenantFailure {
    /// The step that failed.
    pub step: String,
    /// Stable code, explained in docs/errors.md.
    pub code: String,
    /// What went wrong, with its chain of causes.
    pub cause: String,
    /// What to do.
    pub fix: String,
}

/// A tenant, as applications and operators see it.
#[derive(Debug, Clone, FromRow, Serialize, utoipa::ToSchema)]
pub struct Tenant {
    /// Id.
    pub id: TenantId,
    /// The provider's organization id.
    pub org_id: String,
    /// Whether requests may be routed to it.
    pub initialize: bool,
    /// The organization's name.
    pub name: String,
    /// Host name.
    pub url: String,
    /// Database name.
    pub database: String,
    /// Database name for read-only use.
    pub read_only_database: String,
    /// Login role.
    pub username: String,
    /// Schema version.
    pub alembic_version: String,
    /// Name of the source.
    pub source: String,
    /// Where it is in its life.
    pub state: TenantState,
    /// Postgres cluster.
    pub cluster: Option<String>,
    /// Hash of the blueprint it was made from.
    pub blueprint_hash: Option<String>,
    /// Why the last attempt failed.
    #[sqlx(json(nullable))]
    pub failure: Option<TenantFailure>,
    /// When the event that asked for it was received.
    pub requested_at: DateTime<Utc>,
    /// When the row was made.
    pub created_at: DateTime<Utc>,
    /// When the row last changed.
    pub updated_at: DateTime<Utc>,
    /// When it became ready.
    pub ready_at: Option<DateTime<Utc>>,
    /// The organization id that its seeds were told, where it was begun before the provider's was known.
    #[serde(skip)]
    pub seeded_as: Option<String>,
    /// What operators tell it apart by.
    #[sqlx(json)]
    pub labels: Labels,
}

impl Tenant {
    /// The organization id that seeds and verify queries are told.
    pub fn seeded_as(&self) -> &str {
        self.seeded_as.as_deref().unwrap_or(&self.org_id)
    }

    /// The organization whose tenant it is: name of the source, and the provider's id.
    pub fn key(&self) -> (&str, &str) {
        (&self.source, &self.org_id)
    }

    /// Whether it is still to be made ready.
    pub fn is_unfinished(&self) -> bool {
        use TenantState::{Failed, Pending, Provisioning};
        matches!(self.state, Pending | Provisioning | Failed)
    }

    /// Whether it was given up before it was ready, so that what was made of it is to be taken back.
    pub fn is_abandoned(&self) -> bool {
        self.state == TenantState::Archived && !self.initialize
    }
}

/// A tenant by its id.
pub async fn find(connection: &mut PgConnection, id: TenantId) -> sqlx::Result<Option<Tenant>> {
    sqlx::query_as(select_tenant!("where id = $1"))
        .bind(id)
        .fetch_optional(connection)
        .await
}

/// The tenant of an organization.
pub async fn find_of_organization(
    connection: &mut PgConnection,
    source: &str,
    org_id: &str,
) -> sqlx::Result<Option<Tenant>> {
    sqlx::query_as(select_tenant!("where source = $1 and org_id = $2"))
        .bind(source)
        .bind(org_id)
        .fetch_optional(connection)
        .await
}

/// The same, and it stays as it is until the transaction ends: whoever begins to follow it now misses nothing.
pub async fn hold_of_organization(
    tx: &mut PgConnection,
    source: &str,
    org_id: &str,
) -> sqlx::Result<Option<Tenant>> {
    sqlx::query_as(select_tenant!(
        "where source = $1 and org_id = $2 for share"
    ))
    .bind(source)
    .bind(org_id)
    .fetch_optional(tx)
    .await
}

/// A tenant by its id; nobody changes it until the transaction ends.
///
/// Nor records a step of it: whoever links it changes a key later, and must not wait for that with more in hand.
pub async fn lock(tx: &mut PgConnection, id: TenantId) -> sqlx::Result<Option<Tenant>> {
    sqlx::query_as(select_tenant!("where id = $1 for update"))
        .bind(id)
        .fetch_optional(tx)
        .await
}

/// A tenant by whatever a person has at hand: id, organization id, host, database.
pub async fn find_by_any(connection: &mut PgConnection, text: &str) -> sqlx::Result<Vec<Tenant>> {
    sqlx::query_as(select_tenant!(
        "where id::text = lower($1) or org_id = $1 or url = lower($1) or database = $1
            or id = (select tenant_id from tenant_hosts where host = lower($1))
         order by created_at
         limit 10"
    ))
    .bind(text)
    .fetch_all(connection)
    .await
}

/// The sealed password of a tenant's role.
pub async fn find_credential(
    connection: &mut PgConnection,
    id: TenantId,
) -> sqlx::Result<Option<Vec<u8>>> {
    sqlx::query_scalar("select credential from tenants where id = $1")
        .bind(id)
        .fetch_optional(connection)
        .await
}

/// How many tenants each cluster holds.
pub async fn count_by_cluster(connection: &mut PgConnection) -> sqlx::Result<Vec<(String, i64)>> {
    sqlx::query_as(
        "select cluster, count(*)
         from tenants
         where cluster is not null
           and state <> 'deleted'
         group by cluster",
    )
    .fetch_all(connection)
    .await
}

/// How many tenants are in each state.
pub async fn count_by_state(connection: &mut PgConnection) -> sqlx::Result<Vec<(String, i64)>> {
    sqlx::query_as("select state, count(*) from tenants group by state")
        .fetch_all(connection)
        .await
}

/// What a new tenant is made from.
#[derive(Debug)]
pub struct NewTenant<'a> {
    /// Name of the source.
    pub source: &'a str,
    /// The provider's organization id.
    pub org_id: &'a str,
    /// The organization's name.
    pub name: &'a str,
    /// The first label of its host, where somebody asked for one: that one or none.
    pub slug: Option<&'a str>,
    /// When the event that asks for it was received.
    pub requested_at: DateTime<Utc>,
}

/// Why a tenant row cannot be made.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The database does not answer, or refuses.
    #[error("the tenant's row cannot be written")]
    Sql(#[from] sqlx::Error),
    /// Its password cannot be made or sealed.
    #[error("the tenant's password cannot be sealed")]
    Secrets(#[from] secrets::Error),
    /// No free host name was found.
    #[error("no free host name for organization {0}")]
    NoFreeName(String),
    /// The host of the slug that was asked for is another tenant's, or looks like it.
    #[error("the host of this slug is taken")]
    SlugTaken,
}

/// Makes the tenant's row unless the organization has one; returns the id of a new row.
///
/// The password is made here, once: whichever attempt creates the role later, it is the same one.
pub async fn insert(
    tx: &mut PgConnection,
    new: &NewTenant<'_>,
    names: &config::Tenants,
    keyring: &secrets::Keyring,
) -> Result<Option<TenantId>, Error> {
    let attempts = if new.slug.is_some() { 1 } else { 5 };
    for attempt in 0..attempts {
        let id = TenantId(Uuid::now_v7());
        let given = match new.slug {
            Some(slug) => naming::names_with_slug(names, slug, id.0),
            None => naming::names(names, new.name, id.0, attempt),
        };
        let credential = keyring.seal(id.0, &secrets::random_password()?)?;
        hosts::lock_host(tx, &given.url).await?;
        let inserted = sqlx::query(
            "insert into tenants
                 (id, org_id, initialize, name, url, database, read_only_database, username, alembic_version,
                  source, credential, requested_at, host_skeleton)
             select $1, $2, false, $3, $4, $5, $5, $6, '', $7, $8, $9, $10
             -- of another tenant's url the index below says so
             where not exists (select from tenants where host_skeleton = $10)
               and not exists (select from tenant_hosts where host = $4)
             on conflict do nothing",
        )
        .bind(id)
        .bind(new.org_id)
        .bind(shown_name(new.name))
        .bind(&given.url)
        .bind(&given.database)
        .bind(&given.role)
        .bind(new.source)
        .bind(credential)
        .bind(new.requested_at)
        .bind(naming::skeleton(&given.url))
        .execute(&mut *tx)
        .await?;
        if inserted.rows_affected() == 1 {
            return Ok(Some(id));
        }
        // either the organization has its tenant, made by another replica just now perhaps, or the name is taken
        if exists(tx, new.source, new.org_id).await? {
            return Ok(None);
        }
    }
    match new.slug {
        Some(_) => Err(Error::SlugTaken),
        None => Err(Error::NoFreeName(new.org_id.to_owned())),
    }
}

/// The tenant is from now on that of the organization by its provider's id.
///
/// False when the organization has a tenant already, or when this one was given up: then nothing was changed.
pub async fn link(
    tx: &mut PgConnection,
    id: TenantId,
    (source, org_id): (&str, &str),
) -> sqlx::Result<bool> {
    let linked = sqlx::query(
        "update tenants
         set org_id = $3,
             -- what was begun under the other id goes on under it
             seeded_as = case when state <> 'pending' then coalesce(seeded_as, org_id) end,
             updated_at = now()
         where id = $1
           and source = $2
           and state <> 'archived'
           and not exists (
               select
               from tenants other
               where other.source = $2
                 and other.org_id = $3
           )",
    );
    Ok(linked
        .bind(id)
        .bind(source)
        .bind(org_id)
        .execute(tx)
        .await?
        .rows_affected()
        == 1)
}

/// Deletes the row of a tenant of which nothing was made yet; false when something was.
pub async fn discard_pending(tx: &mut PgConnection, id: TenantId) -> sqlx::Result<bool> {
    let discarded = sqlx::query(
        "delete from tenants
         where id = $1
           and state in ('pending', 'failed')
           and cluster is null",
    );
    Ok(discarded.bind(id).execute(tx).await?.rows_affected() == 1)
}

async fn exists(tx: &mut PgConnection, source: &str, org_id: &str) -> sqlx::Result<bool> {
    sqlx::query_scalar("select exists (select from tenants where source = $1 and org_id = $2)")
        .bind(source)
        .bind(org_id)
        .fetch_one(tx)
        .await
}

/// The tenant follows its organization's newest name; host, database and role names stay.
pub async fn follow_name(tx: &mut PgConnection, source: &str, org_id: &str) -> sqlx::Result<()> {
    sqlx::query(
        "update tenants
         set name = left(organizations.name, 255),
             updated_at = now()
         from organizations
         where tenants.source = $1
           and tenants.org_id = $2
           and organizations.source = tenants.source
           and organizations.org_id = tenants.org_id
           and tenants.name <> left(organizations.name, 255)",
    )
    .bind(source)
    .bind(org_id)
    .execute(tx)
    .await?;
    Ok(())
}

/// The contract gives the name 255 characters; the organization's row has all of them.
fn shown_name(name: &str) -> String {
    name.chars().take(255).collect()
}

/// The failure as it is stored.
fn stored(failure: &TenantFailure) -> Json<&TenantFailure> {
    Json(failure)
}
