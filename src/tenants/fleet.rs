//! The tenants as a fleet: which of them have a database to migrate, and what it is on.

use sqlx::{FromRow, PgConnection, types::Json};

use super::{Selection, Tenant, TenantId};

/// What a tenant's database is on, as its row says.
#[derive(Debug, Clone, FromRow)]
pub struct Standing {
    /// The tenant.
    pub id: TenantId,
    /// Postgres cluster.
    pub cluster: String,
    /// Hash of its blueprint.
    pub blueprint_hash: Option<String>,
    /// Schema version.
    pub version: String,
}

/// Every selected tenant whose database is complete and kept up: ready, or suspended after it was.
pub async fn list_migratable(
    connection: &mut PgConnection,
    selection: &Selection,
) -> sqlx::Result<Vec<Standing>> {
    sqlx::query_as(
        "select id, cluster, blueprint_hash, alembic_version as version
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

/// The databases of these tenants are on this version of this blueprint now.
///
/// Of a tenant in any state: the row says what its database is.
pub async fn mark_migrated(
    tx: &mut PgConnection,
    ids: &[TenantId],
    (version, blueprint_hash): (&str, &str),
) -> sqlx::Result<()> {
    sqlx::query(
        "with changed as (
             select id
             from tenants
             where id = any($1)
               -- what is so already costs no row
               and (alembic_version, blueprint_hash) is distinct from ($2, $3)
             -- as a batch of events locks the tenants of several organizations
             order by source collate \"C\", org_id collate \"C\"
             for update
         )
         update tenants
         set alembic_version = $2,
             blueprint_hash = $3,
             updated_at = now()
         from changed
         where tenants.id = changed.id",
    )
    .bind(ids)
    .bind(version)
    .bind(blueprint_hash)
    .execute(tx)
    .await?;
    Ok(())
}

/// Whether a tenant is just being made from another blueprint than this: it will be ready with that.
///
/// One whose making does not come on is not waited for.
pub async fn is_any_begun_with_other(
    connection: &mut PgConnection,
    blueprint_hash: &str,
) -> sqlx::Result<bool> {
    sqlx::query_scalar(
        "select exists (
             select
             from tenants
             where state = 'provisioning'
               and blueprint_hash <> $1
               and updated_at > now() - interval '1 minute'
         )",
    )
    .bind(blueprint_hash)
    .fetch_one(connection)
    .await
}
