//! What an operator may do about a tenant that failed.

use super::provision;
use crate::{
    audit::{self, Actor},
    db::Db,
    queue,
    tenants::{self, Tenant},
};

/// Puts a failed tenant back to work; the plan goes on at the step that failed.
///
/// False when the tenant is not failed: then nothing was changed.
pub async fn retry_tenant(
    db: &Db,
    tenant: &Tenant,
    max_attempts: i32,
    actor: &Actor,
) -> Result<bool, queue::Error> {
    db.transaction(async |tx| {
        audit::by(tx, actor).await?;
        if !tenants::mark_pending(tx, tenant.id).await? {
            return Ok(false);
        }
        let key = (tenant.source.as_str(), tenant.org_id.as_str());
        let job = provision(tenant.id, key, max_attempts);
        // the dead job goes on, with its history; a new one only where it was pruned
        if !queue::revive(tx, &job).await? {
            queue::enqueue(tx, &job).await?;
        }
        Ok(true)
    })
    .await
}
