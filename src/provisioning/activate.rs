//! Step 7, activate: one transaction opens the tenant, records the step and completes the job.
//!
//! Guarantees: a tenant is `ready` exactly when its job is completed; an attempt that lost its claim
//! opens nothing; whoever became a member since the step `sync_members` is told by a job of their own.

use std::{sync::atomic::Ordering, time::Instant};

use sqlx::PgConnection;

use super::{Step, StepContext, StepError, seed, steps, template};
use crate::{
    members,
    queue::{self, NewJob},
    tenants::{self, Tenant},
};

pub(super) async fn run(cx: &StepContext<'_>) -> Result<(), StepError> {
    let started = Instant::now();
    let tenant = cx.tenant().await;
    let hash = tenant.blueprint_hash.clone().unwrap_or_default();
    let cluster = cx.cluster().await?;
    cx.check_lease()?;
    let owner = cluster.owner.to_string();
    cx.in_tenant(async |connection| seed::note_opening(connection, &owner).await)
        .await?;
    let is_ready = cx
        .provisioner
        .db
        .transaction(async |tx| {
            let Some(template) = template::find(tx, &cluster.name, &hash).await? else {
                return Err(StepError::TemplateUnknown { hash: hash.clone() });
            };
            // the job's row first, as everywhere: attempts never lock crosswise
            queue::assert_held(tx, cx.claim).await?;
            // one that was suspended or abandoned meanwhile stays so; its job is done all the same
            let is_ready = tenants::mark_ready(tx, tenant.id, &template.version, &hash).await?;
            if is_ready {
                // as it is now: it may have been linked with the provider's organization meanwhile
                let linked = tenants::find(tx, tenant.id).await?;
                rouse_if_unsynced(cx, tx, linked.as_ref().unwrap_or(&tenant)).await?;
            }
            let step = Step::Activate;
            let done = Some((step, started.elapsed()));
            steps::advance(tx, cx.claim, tenant.id, done, None).await?;
            cx.fault(Step::Activate, super::FAULT_AFTER_EFFECT).await?;
            queue::complete(tx, cx.claim).await?;
            Ok(is_ready)
        })
        .await?;
    if !is_ready {
        return Ok(());
    }
    let waited = (chrono::DateTime::<chrono::Utc>::from(std::time::SystemTime::now())
        - tenant.requested_at)
        .to_std();
    cx.provisioner.metrics.tenant_ready(
        cx.from_pool.load(Ordering::Relaxed),
        waited.unwrap_or_default(),
    );
    tracing::info!(
        tenant.id = %tenant.id,
        organization.id = tenant.org_id,
        job.id = %cx.claim.id,
        tenant.url = tenant.url,
        duration_ms = waited.unwrap_or_default().as_millis(),
        "tenant is ready"
    );
    Ok(())
}

/// Nothing: a tenant that was opened is not undone, and what opens it is one transaction.
#[expect(clippy::unnecessary_wraps, reason = "one shape for every step")]
pub(super) fn undo() -> Result<(), StepError> {
    Ok(())
}

/// Members who came since they were told of, or whose script failed, are left to the job.
async fn rouse_if_unsynced(
    cx: &StepContext<'_>,
    tx: &mut PgConnection,
    tenant: &Tenant,
) -> Result<(), StepError> {
    let Some(hash) = cx.blueprint.sync_hash() else {
        return Ok(());
    };
    let unsynced = members::unsynced(tx, tenant.key(), cx.terms(&hash), "", 1).await?;
    if !unsynced.is_empty() {
        let attempts = cx.provisioner.max_attempts;
        queue::rouse(
            tx,
            &NewJob::sync_members(tenant.id.0, tenant.key(), attempts),
        )
        .await?;
    }
    Ok(())
}
