//! The arrows of the state machine, each a guarded update.
//!
//! Guarantees: `false` means that the tenant was not in a state from which the arrow leads; then
//! nothing was changed.

use sqlx::PgConnection;

use super::{TenantFailure, TenantId, stored};

/// pending, failed → provisioning. True as well when it was provisioning already: a retry goes on.
pub async fn mark_provisioning(tx: &mut PgConnection, id: TenantId) -> sqlx::Result<bool> {
    let marked = sqlx::query(
        "update tenants
         set state = 'provisioning',
             updated_at = now()
         where id = $1
           and state in ('pending', 'provisioning', 'failed')",
    );
    Ok(marked.bind(id).execute(tx).await?.rows_affected() == 1)
}

/// The tenant is placed on a cluster; a tenant is placed once.
pub async fn mark_placed(tx: &mut PgConnection, id: TenantId, cluster: &str) -> sqlx::Result<bool> {
    let marked = sqlx::query(
        "update tenants
         set cluster = $2,
             updated_at = now()
         where id = $1
           and state = 'provisioning'
           and cluster is null",
    );
    Ok(marked
        .bind(id)
        .bind(cluster)
        .execute(tx)
        .await?
        .rows_affected()
        == 1)
}

/// The tenant's database was cloned from this blueprint's template.
pub async fn mark_cloned(
    tx: &mut PgConnection,
    id: TenantId,
    blueprint_hash: &str,
) -> sqlx::Result<bool> {
    let marked = sqlx::query(
        "update tenants
         set blueprint_hash = $2,
             updated_at = now()
         where id = $1
           and state = 'provisioning'",
    );
    Ok(marked
        .bind(id)
        .bind(blueprint_hash)
        .execute(tx)
        .await?
        .rows_affected()
        == 1)
}

/// provisioning → ready. From here on requests may be routed to it.
pub async fn mark_ready(
    tx: &mut PgConnection,
    id: TenantId,
    version: &str,
    blueprint_hash: &str,
) -> sqlx::Result<bool> {
    let marked = sqlx::query(
        "update tenants
         set state = 'ready',
             initialize = true,
             alembic_version = $2,
             blueprint_hash = $3,
             failure = null,
             ready_at = now(),
             updated_at = now()
         where id = $1
           and state = 'provisioning'",
    );
    Ok(marked
        .bind(id)
        .bind(version)
        .bind(blueprint_hash)
        .execute(tx)
        .await?
        .rows_affected()
        == 1)
}

/// provisioning → failed, with the reason.
pub async fn mark_failed(
    tx: &mut PgConnection,
    id: TenantId,
    failure: &TenantFailure,
) -> sqlx::Result<bool> {
    let marked = sqlx::query(
        "update tenants
         set state = 'failed',
             failure = $2,
             updated_at = now()
         where id = $1
           and state in ('pending', 'provisioning')",
    );
    Ok(marked
        .bind(id)
        .bind(stored(failure))
        .execute(tx)
        .await?
        .rows_affected()
        == 1)
}

/// Stays provisioning, and says why it waits.
pub async fn note_failure(
    tx: &mut PgConnection,
    id: TenantId,
    failure: &TenantFailure,
) -> sqlx::Result<bool> {
    let marked = sqlx::query(
        "update tenants
         set failure = $2,
             updated_at = now()
         where id = $1
           and state = 'provisioning'",
    );
    Ok(marked
        .bind(id)
        .bind(stored(failure))
        .execute(tx)
        .await?
        .rows_affected()
        == 1)
}

/// pending, provisioning, failed → archived: given up before it was ready, to be taken back.
pub async fn mark_abandoned(tx: &mut PgConnection, id: TenantId) -> sqlx::Result<bool> {
    let marked = sqlx::query(
        "update tenants
         set state = 'archived',
             failure = null,
             updated_at = now()
         where id = $1
           and state in ('pending', 'provisioning', 'failed', 'suspended')
           and not initialize",
    );
    Ok(marked.bind(id).execute(tx).await?.rows_affected() == 1)
}

/// Stays abandoned, and says why it is not gone yet.
pub async fn note_undo_failure(
    tx: &mut PgConnection,
    id: TenantId,
    failure: &TenantFailure,
) -> sqlx::Result<bool> {
    let marked = sqlx::query(
        "update tenants
         set failure = $2,
             updated_at = now()
         where id = $1
           and state = 'archived'
           and not initialize",
    );
    Ok(marked
        .bind(id)
        .bind(stored(failure))
        .execute(tx)
        .await?
        .rows_affected()
        == 1)
}

/// An abandoned tenant that has no database any more gives its place back.
pub async fn mark_unplaced(tx: &mut PgConnection, id: TenantId) -> sqlx::Result<bool> {
    let marked = sqlx::query(
        "update tenants
         set cluster = null,
             blueprint_hash = null,
             updated_at = now()
         where id = $1
           and state = 'archived'
           and not initialize",
    );
    Ok(marked.bind(id).execute(tx).await?.rows_affected() == 1)
}

/// Deletes an abandoned tenant that has no place any more, and with it its hosts and its steps.
pub async fn delete_abandoned(tx: &mut PgConnection, id: TenantId) -> sqlx::Result<bool> {
    // the audit log asks for the tenant of a deleted host: the hosts go first
    let hosts = sqlx::query(
        "delete from tenant_hosts
         using tenants
         where tenant_id = $1
           and tenants.id = tenant_id
           and tenants.state = 'archived'
           and not tenants.initialize
           and tenants.cluster is null",
    );
    hosts.bind(id).execute(&mut *tx).await?;
    let deleted = sqlx::query(
        "delete from tenants
         where id = $1
           and state = 'archived'
           and not initialize
           and cluster is null",
    );
    Ok(deleted.bind(id).execute(tx).await?.rows_affected() == 1)
}

/// failed → pending, for a retry.
pub async fn mark_pending(tx: &mut PgConnection, id: TenantId) -> sqlx::Result<bool> {
    let marked = sqlx::query(
        "update tenants
         set state = 'pending',
             updated_at = now()
         where id = $1
           and state = 'failed'",
    );
    Ok(marked.bind(id).execute(tx).await?.rows_affected() == 1)
}

/// anything alive → suspended, because its organization was deleted. The database stays.
pub async fn mark_suspended(
    tx: &mut PgConnection,
    source: &str,
    org_id: &str,
) -> sqlx::Result<bool> {
    let marked = sqlx::query(
        "update tenants
         set state = 'suspended',
             updated_at = now()
         where source = $1
           and org_id = $2
           and state in ('pending', 'provisioning', 'ready', 'failed')",
    );
    Ok(marked
        .bind(source)
        .bind(org_id)
        .execute(tx)
        .await?
        .rows_affected()
        == 1)
}

/// ready → suspended, because an operator says so. Kept, not routed, its members not synced.
pub async fn mark_suspended_by_operator(tx: &mut PgConnection, id: TenantId) -> sqlx::Result<bool> {
    let marked = sqlx::query(
        "update tenants
         set state = 'suspended',
             updated_at = now()
         where id = $1
           and state = 'ready'",
    );
    Ok(marked.bind(id).execute(tx).await?.rows_affected() == 1)
}

/// suspended → ready, if it ever was, and if its organization is not deleted.
pub async fn mark_resumed(tx: &mut PgConnection, id: TenantId) -> sqlx::Result<bool> {
    let marked = sqlx::query(
        "with organization as (
             select source, org_id
             from organizations
             where (source, org_id) = (select source, org_id from tenants where id = $1)
               and deleted_at is null
             -- a deletion that is just being recorded goes first, or finds the tenant ready
             for share
         )
         update tenants
         set state = 'ready',
             updated_at = now()
         from organization
         where tenants.id = $1
           and tenants.source = organization.source
           and tenants.org_id = organization.org_id
           and tenants.state = 'suspended'
           and tenants.initialize",
    );
    Ok(marked.bind(id).execute(tx).await?.rows_affected() == 1)
}

/// Whether its organization was deleted at the provider.
pub async fn is_of_deleted_organization(
    connection: &mut PgConnection,
    id: TenantId,
) -> sqlx::Result<bool> {
    sqlx::query_scalar(
        "select exists (
             select
             from tenants
             join organizations using (source, org_id)
             where tenants.id = $1
               and organizations.deleted_at is not null
         )",
    )
    .bind(id)
    .fetch_one(connection)
    .await
}
