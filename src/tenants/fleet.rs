//! The tenants as a fleet: which of them have a database to migrate, and what it is on.

use sqlx::{FromRow, PgConnection, types::Json};

use super::{Selection, Tenant, TenantId};

/// What a tenant's database is on, as its row says.
#[derive(Debug, Clone, FromRow)]
pub struct RecordedVersion {
    /// The tenant.
    pub id: TenantId,
    /// Postgres cluster.
    pub cluster: String,
    /// Host.
    pub url: String,
    /// Hash of its blueprint.
    pub blueprint_hash: Option<String>,
    /// Schema version.
    pub version: String,
}

impl RecordedVersion {
    /// Hash of its blueprint, and its version.
    pub fn hash_and_version(&self) -> (Option<&str>, &str) {
        (self.blueprint_hash.as_deref(), &self.version)
    }
}

/// Every selected tenant whose database is complete and kept up: ready, or suspended after it was.
pub async fn list_migratable(
    connection: &mut PgConnection,
    selection: &Selection,
) -> sqlx::Result<Vec<RecordedVersion>> {
    sqlx::query_as(
        "select id, cluster, url, blueprint_hash, alembic_version as version
         from tenants
         where state in ('ready', 'suspended')
           and initialize
           and cluster is not null
           and labels @> $1
           and (cardinality($2::uuid[]) = 0 or id = any($2))
         order by id",
    )
    .bind(Json(&selection.labels))
    .bind(selection.tenants.as_slice())
    .fetch_all(connection)
    .await
}

/// The tenants of these ids, as far as there are any.
pub async fn find_all(
    connection: &mut PgConnection,
    ids: &[TenantId],
) -> sqlx::Result<Vec<Tenant>> {
    sqlx::query_as(select_tenant!("where id = any($1)"))
        .bind(ids)
        .fetch_all(connection)
        .await
}

/// What a tenant's database was brought to.
#[derive(Debug, Clone, Copy)]
pub struct ReachedVersion<'a> {
    /// The tenant.
    pub tenant: TenantId,
    /// Schema version and blueprint's hash that the tenant's row had before.
    pub before: (&'a str, Option<&'a str>),
    /// Schema version.
    pub version: &'a str,
    /// Hash of the blueprint that it is like now; `None` where a failure left it on the way.
    pub blueprint_hash: Option<&'a str>,
}

/// The tenants' rows say what their databases are on, of a tenant in any state.
///
/// What `is_latest` counts in any case. Else a row that says something else by now than when this one began stays:
/// somebody who came later has brought the database further.
pub async fn mark_migrated(
    tx: &mut PgConnection,
    reached: &[ReachedVersion<'_>],
    is_latest: bool,
) -> sqlx::Result<()> {
    let ids: Vec<TenantId> = reached.iter().map(|reached| reached.tenant).collect();
    let versions: Vec<&str> = reached.iter().map(|reached| reached.version).collect();
    let hashes: Vec<Option<&str>> = reached.iter().map(|it| it.blueprint_hash).collect();
    let (versions_before, hashes_before): (Vec<&str>, Vec<Option<&str>>) =
        reached.iter().map(|reached| reached.before).unzip();
    sqlx::query(
        "with changed as (
             select tenants.id, reached.version, coalesce(reached.hash, blueprint_hash) as hash
             from tenants
             join unnest($1::uuid[], $2::text[], $3::text[], $4::text[], $5::text[])
                      as reached (id, version, hash, version_before, hash_before)
                 on reached.id = tenants.id
             where ($6
                    or (alembic_version, blueprint_hash)
                       is not distinct from (reached.version_before, reached.hash_before))
               -- what is so already costs no row
               and (alembic_version, blueprint_hash)
                   is distinct from (reached.version, coalesce(reached.hash, blueprint_hash))
             -- as a batch of events locks the tenants of several organizations
             order by source collate \"C\", org_id collate \"C\"
             for update of tenants
         )
         update tenants
         set alembic_version = changed.version,
             blueprint_hash = changed.hash,
             updated_at = now()
         from changed
         where tenants.id = changed.id",
    )
    .bind(ids)
    .bind(versions)
    .bind(hashes)
    .bind(versions_before)
    .bind(hashes_before)
    .bind(is_latest)
    .execute(tx)
    .await?;
    Ok(())
}

/// Whether a selected one of these tenants, which are being made now, will be ready with another blueprint than this.
///
/// Of those that have no database yet only `blank` may be.
pub async fn is_any_of_other(
    connection: &mut PgConnection,
    (being_made, blank): (&[TenantId], &[TenantId]),
    selection: &Selection,
    blueprint_hash: &str,
) -> sqlx::Result<bool> {
    sqlx::query_scalar(
        "select exists (
             select
             from tenants
             where id = any($1)
               and state in ('pending', 'provisioning')
               and (blueprint_hash <> $3 or (blueprint_hash is null and id = any($2)))
               and labels @> $4
               and (cardinality($5::uuid[]) = 0 or id = any($5))
         )",
    )
    .bind(being_made)
    .bind(blank)
    .bind(blueprint_hash)
    .bind(Json(&selection.labels))
    .bind(selection.tenants.as_slice())
    .fetch_one(connection)
    .await
}
