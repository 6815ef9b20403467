//! Step 7, activate: one transaction opens the tenant, records the step and completes the job.
//!
//! Guarantees: a tenant is `ready` exactly when its job is completed; an attempt that lost its claim
//! opens nothing; whoever became a member since the step `sync_members` is told by a job of their own.

use std::{sync::atomic::Ordering, time::Instant};

use sqlx::{Connection, PgConnection};

use super::{Step, StepContext, StepError, UndoContext, is_marked, seed, steps, template};
use crate::{
    members,
    queue::{self, NewJob},
    tenant_db::{Ident, databases::Facts},
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

/// Takes the note back that the database is about to be opened; what opens it is one transaction, and a tenant that was
/// opened is not undone.
///
/// Where the database has the note and no attempt to open it is on record, the control database is of a moment before,
/// and the tenant may be in use: nothing is undone.
pub(super) async fn undo(cx: &UndoContext<'_>) -> Result<(), StepError> {
    let Some(cluster) = cx.cluster()? else {
        return Ok(());
    };
    let (database, _) = cx.names()?;
    let facts = cluster.find_database(database.as_str()).await?;
    let is_ours = |facts: &Facts| {
        is_marked(facts, cluster, &cx.tenant) && facts.usable && facts.allows_connections
    };
    if !facts.as_ref().is_some_and(is_ours) {
        return Ok(());
    }
    let (db, id) = (&cx.provisioner.db, cx.tenant.id);
    let steps = db
        .run(async |connection| steps::list(connection, id).await)
        .await?;
    let is_begun = steps.iter().any(|step| step.name == Step::Activate.name());
    let mut connection = cluster.connect(&database, Some(&cx.tag)).await?;
    let undone = if is_begun {
        seed::forget_opening(&mut connection).await
    } else {
        refuse_opened(&mut connection, &database).await
    };
    // it is about to be dropped
    let _ = connection.close().await;
    undone
}

async fn refuse_opened(connection: &mut PgConnection, database: &Ident) -> Result<(), StepError> {
    if seed::is_opened(connection).await? {
        let database = database.as_str().to_owned();
        return Err(StepError::InUse { database });
    }
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
