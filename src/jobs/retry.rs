//! What an operator may do about a tenant that failed.

use super::Job;
use crate::{
    db::Db,
    queue::{self, NewJob},
    tenants::{self, Tenant},
};

/// Puts a failed tenant back to work; the plan goes on at the step that failed.
///
/// False when the tenant is not failed: then nothing was changed.
pub async fn retry_tenant(
    db: &Db,
    tenant: &Tenant,
    max_attempts: i32,
) -> Result<bool, queue::Error> {
    db.transaction(async |tx| {
        if !tenants::mark_pending(tx, tenant.id).await? {
            return Ok(false);
        }
        queue::enqueue(tx, &provision(tenant, max_attempts)).await?;
        Ok(true)
    })
    .await
}

fn provision(tenant: &Tenant, max_attempts: i32) -> NewJob {
    NewJob {
        job: Job::ProvisionTenant {
            tenant: tenant.id.0,
        },
        concurrency_key: Some(format!("{}:{}", tenant.source, tenant.org_id)),
        unique_key: Some(format!("provision:{}", tenant.id)),
        max_attempts,
    }
}
