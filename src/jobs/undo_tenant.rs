//! `undo_tenant`: the plan of `provisioning` in reverse, and what a step that cannot be undone tells the operator.

use super::{JobContext, JobError};
use crate::{
    causes::chain,
    provisioning::{self, Failed, StepError, Undone},
    queue::{
        self, Claim, Failure, JobId,
        worker::{Lease, Outcome, Settled},
    },
    tenants::{self, TenantFailure, TenantId},
};

pub(super) async fn run(
    cx: &JobContext,
    claim: &Claim,
    lease: &Lease,
    tenant: TenantId,
) -> Result<Outcome, JobError> {
    match provisioning::undo(&cx.provisioner, claim, lease, &cx.tasks, tenant).await {
        Ok(Undone::Gone) => Ok(Outcome::Settled(Settled::Completed)),
        Ok(Undone::NothingToDo) => Ok(Outcome::Done),
        Ok(Undone::Draining) => Ok(Outcome::Released),
        Err(Failed {
            error: StepError::LostClaim,
            ..
        }) => Err(JobError::Lost),
        Err(failed) => Err(record(cx, claim, tenant, failed).await),
    }
}

/// Records where and why; says whether to try again.
async fn record(
    cx: &JobContext,
    claim: &Claim,
    tenant: TenantId,
    Failed { step, error }: Failed,
) -> JobError {
    let failure = Failure::new(error.code(), chain(&error));
    let told = TenantFailure {
        step: step.name().to_owned(),
        code: error.code().to_owned(),
        cause: failure.error.clone(),
        // what made the step fail is repaired in the same way; another job goes on after that
        fix: error
            .fix()
            .replace("tenantry tenants retry <tenant>", &retry(claim.id)),
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
        _ if error.is_retryable() && !claim.is_last_attempt() => JobError::Retry(failure),
        _ => JobError::Discard(failure, Some(Box::new(told))),
    }
}

/// The command that lets the job go on.
fn retry(job: JobId) -> String {
    format!("tenantry jobs retry {job}")
}
