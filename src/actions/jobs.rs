//! What an operator may do about a job, with what it means for the thing that the job is for.
//!
//! Guarantees: a job and what it is for fail together and go on together: a cancelled job leaves nobody
//! waiting for it, and a retried one finds its event, tenant or invitation as it was before the failure, or is refused.

use sqlx::PgConnection;

use super::{Refusal, tenants::why_not};
use crate::{
    audit::{self, Act, Actor},
    identity,
    inbox::{self, EventState},
    jobs, members,
    queue::{self, Failure, Job, JobId, JobState, Refused, StoredJob},
    registrations,
    tenants::{self, TenantId},
};

/// Gives up a job that waits or is dead; what it is for fails with it. Returns the job after that.
pub async fn cancel_job(
    tx: &mut PgConnection,
    id: JobId,
    actor: &Actor,
) -> Result<StoredJob, Refusal> {
    audit::by(tx, actor).await?;
    let (before, job) = find(tx, id).await?;
    if let Job::FetchParent { .. } = job {
        // an event that is just being recorded must not miss its last chance
        identity::lock(tx).await?;
    }
    let was = queue::cancel_job(tx, id).await?;
    // what a dead job was for has failed already, and for a better reason
    if was == JobState::Available {
        let error = format!("job {id} was cancelled by an operator");
        jobs::fail_subject(tx, &job, &Failure::new("job_cancelled", error), None).await?;
    }
    note(tx, "job.cancelled", &before).await?;
    Ok(find(tx, id).await?.0)
}

/// Makes a job due, one that was given up with `attempts` further attempts. Returns the job after that.
pub async fn retry_job(
    tx: &mut PgConnection,
    id: JobId,
    attempts: i32,
    actor: &Actor,
) -> Result<StoredJob, Refusal> {
    audit::by(tx, actor).await?;
    let (before, job) = find(tx, id).await?;
    let was = queue::retry_job(tx, id, attempts).await?;
    if was != JobState::Available {
        revive_subject(tx, id, &job).await?;
    }
    note(tx, "job.retried", &before).await?;
    Ok(find(tx, id).await?.0)
}

async fn find(tx: &mut PgConnection, id: JobId) -> Result<(StoredJob, Job), Refusal> {
    let stored = queue::find_job(tx, id).await?.ok_or(Refused::Unknown(id))?;
    let job = stored.job().ok_or(Refusal::JobKindUnknown(id))?;
    Ok((stored, job))
}

/// What failed with the job is as it was before.
async fn revive_subject(tx: &mut PgConnection, id: JobId, job: &Job) -> Result<(), Refusal> {
    match job {
        Job::ProcessEvent { event } => {
            // one that was settled in another way stays settled
            let locked = inbox::lock_event(tx, *event).await?;
            if locked.is_some_and(|event| event.state == EventState::Failed) {
                inbox::mark_received(tx, *event).await?;
            }
        }
        Job::ProvisionTenant { tenant } => {
            let tenant = TenantId(*tenant);
            if !tenants::mark_pending(tx, tenant).await?
                && let Some(tenant) = tenants::find(tx, tenant).await?
            {
                return Err(why_not(tx, &tenant, "failed").await?);
            }
        }
        Job::RegisterOrganization { registration } => {
            if let Some(found) = registrations::find_stored(tx, *registration).await?
                && let Some(tenant) = found.tenant_id
            {
                // one that joined a ready tenant is alone in having failed
                tenants::mark_pending(tx, tenant).await?;
                registrations::mark_retried(tx, *registration).await?;
            }
        }
        Job::SendInvitation { invitation } => members::mark_to_be_sent(tx, *invitation).await?,
        // the invitation is shown as it is at the provider since: it would be a success that does nothing
        Job::RevokeInvitation { .. } => return Err(Refusal::RevocationGivenUp(id)),
        // these look at what is to be done when they run
        Job::UndoTenant { .. }
        | Job::SyncMembers { .. }
        | Job::PushMembership { .. }
        | Job::FetchParent { .. }
        | Job::ResendInvitation { .. }
        | Job::Prune
        | Job::DeliverNotifications { .. }
        | Job::MigrateFleet { .. } => {}
    }
    Ok(())
}

async fn note(tx: &mut PgConnection, action: &'static str, job: &StoredJob) -> Result<(), Refusal> {
    let organization = job.organization();
    let act = Act {
        action,
        target_kind: "job",
        target: &job.id.to_string(),
        organization: organization.map(|(source, org_id)| (source, Some(org_id))),
    };
    Ok(audit::note(tx, act).await?)
}
