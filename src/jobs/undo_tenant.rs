//! `undo_tenant`: the plan of `provisioning` in reverse, and what a step that cannot be undone tells the operator.

use super::{JobContext, JobError, hear, revoke_invitation::client_of};
use crate::{
    causes::chain,
    identity::{self, Heard},
    provisioning::{self, Again, FAULT_UNDO_COMMITTING, FAULT_UNDO_ROW, Failed, StepError, Undone},
    queue::{
        self, Claim, Failure, JobId,
        worker::{Lease, Outcome, Settled},
    },
    registrations::{self, Stored},
    tenants::{self, TenantFailure, TenantId},
    webhooks::{IdentityEvent, Said},
};

pub(super) async fn run(
    cx: &JobContext,
    claim: &Claim,
    lease: &Lease,
    tenant: TenantId,
) -> Result<Outcome, JobError> {
    match provisioning::undo(&cx.provisioner, claim, lease, &cx.tasks, tenant).await {
        Ok(Undone::Steps) => {
            let undone = release_organization(cx, lease, tenant).await?;
            forget(cx, claim, tenant, undone).await
        }
        Ok(Undone::NothingToDo) => Ok(Outcome::Done),
        Ok(Undone::Draining) => Ok(Outcome::Released),
        Err(Failed {
            error: StepError::LostClaim,
            ..
        }) => Err(JobError::Lost),
        Err(failed) => Err(record(cx, claim, tenant, failed).await),
    }
}

/// Deletes the provider's organization that was made for the tenant's registration; its source and id.
async fn release_organization(
    cx: &JobContext,
    lease: &Lease,
    tenant: TenantId,
) -> Result<Option<(String, String)>, JobError> {
    let find = async |connection: &mut _| registrations::find_of_tenant(connection, tenant).await;
    let registration = cx.db.run(find).await?;
    let Some(registration) = registration.filter(Stored::is_organization_ours) else {
        return Ok(None);
    };
    let client = client_of(cx, &registration.source)?;
    let org_id = match registration.org_id {
        Some(known) => Some(known),
        // made by an attempt that could not record it
        None => client
            .find_organization_by_external_id(&registration.external_id)
            .await?
            .as_deref()
            .and_then(identity::organization_in),
    };
    let Some(org_id) = org_id else {
        return Ok(None);
    };
    if !lease.is_held() {
        return Err(JobError::Lost);
    }
    client.delete_organization(&org_id).await?;
    Ok(Some((registration.source, org_id)))
}

/// The row goes with its registration's end and the job's, in one commit.
async fn forget(
    cx: &JobContext,
    claim: &Claim,
    tenant: TenantId,
    deleted: Option<(String, String)>,
) -> Result<Outcome, JobError> {
    let faults = &cx.provisioner.faults;
    faults.hit(FAULT_UNDO_ROW).await?;
    cx.db
        .transaction(async |tx| {
            identity::lock(tx).await?;
            queue::assert_held(tx, claim).await?;
            if let Some((source, org_id)) = &deleted {
                // the provider's event will say the same: until then no late one brings the organization back
                hear::hear(cx, tx, &[deletion_of(source, org_id)]).await?;
            }
            // one that failed on its last attempt while the tenant was abandoned; jobs before the tenant
            queue::call_off(tx, &queue::provision_key(tenant.0)).await?;
            let registration = registrations::find_of_tenant(tx, tenant).await?;
            if !tenants::delete_abandoned(tx, tenant).await? {
                // not as this attempt left it a moment ago
                return Err(JobError::Lost);
            }
            if let Some(registration) = registration {
                registrations::mark_abandoned(tx, registration.id).await?;
                let own = identity::own_organization(registration.id);
                identity::discard_own_organization(tx, (&registration.source, &own)).await?;
            }
            faults.hit(FAULT_UNDO_COMMITTING).await?;
            Ok(queue::complete(tx, claim).await?)
        })
        .await?;
    tracing::info!(tenant.id = %tenant, job.id = %claim.id, "an abandoned tenant is gone");
    Ok(Outcome::Settled(Settled::Completed))
}

fn deletion_of(source: &str, org_id: &str) -> Heard {
    let now = std::time::SystemTime::now().into();
    let said = Said {
        id: org_id.to_owned(),
        described: None,
        deleted_at: Some(now),
    };
    Heard::from_api(source, vec![IdentityEvent::Organization(said)])
}

/// Records where and why; says whether to try again.
async fn record(
    cx: &JobContext,
    claim: &Claim,
    tenant: TenantId,
    Failed { step, error }: Failed,
) -> JobError {
    let failure = Failure::new(error.code(), chain(&error));
    let is_again = error.is_retryable() && !claim.is_last_attempt();
    // what made the step fail is repaired in the same way; another job goes on after that
    let again = if is_again {
        Again::ByItself
    } else {
        Again::With(retry(claim.id))
    };
    let told = TenantFailure {
        step: step.name().to_owned(),
        code: error.code().to_owned(),
        cause: failure.error.clone(),
        fix: error.fix(&again),
    };
    let noted = cx
        .db
        .transaction(async |tx| {
            queue::assert_held(tx, claim).await?;
            tenants::note_undo_failure(tx, tenant, &told).await?;
            Ok::<_, JobError>(())
        })
        .await;
    match noted {
        Err(JobError::Lost) => JobError::Lost,
        // a database that is away cannot take the note; the attempt keeps the error all the same
        _ if is_again => JobError::Retry(failure),
        _ => JobError::Discard(failure, Some(Box::new(told))),
    }
}

/// The command that lets the job go on.
fn retry(job: JobId) -> String {
    format!("tenantry jobs retry {job}")
}
