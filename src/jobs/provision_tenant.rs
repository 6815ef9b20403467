//! `provision_tenant`: the plan of `provisioning`, and what a failed step tells the operator.

use super::{JobContext, JobError};
use crate::{
    causes::chain,
    provisioning::{self, Again, Ended, Failed, StepError, steps},
    queue::{
        self, Claim, Failure,
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
    match provisioning::provision(&cx.provisioner, claim, lease, &cx.tasks, tenant).await {
        Ok(Ended::Ready) => Ok(Outcome::Settled(Settled::Completed)),
        Ok(Ended::NothingToDo) => Ok(Outcome::Done),
        Ok(Ended::Draining) => Ok(Outcome::Released),
        Err(Failed {
            error: StepError::LostClaim,
            ..
        }) => Err(JobError::Lost),
        Err(failed) => record(cx, claim, tenant, failed).await,
    }
}

/// Records where and why; says whether to try again. A tenant that nobody wants any more has not failed.
async fn record(
    cx: &JobContext,
    claim: &Claim,
    tenant: TenantId,
    Failed { step, error }: Failed,
) -> Result<Outcome, JobError> {
    let failure = Failure::new(error.code(), chain(&error));
    let is_again = error.is_retryable() && !claim.is_last_attempt();
    let again = if is_again {
        Again::ByItself
    } else {
        Again::With(format!("tenantry tenants retry {tenant}"))
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
            let found = tenants::find(tx, tenant).await?;
            if !found.is_some_and(|tenant| tenant.is_unfinished()) {
                return Ok(false);
            }
            steps::fail(tx, tenant, step, &failure).await?;
            tenants::note_failure(tx, tenant, &told).await?;
            Ok::<_, JobError>(true)
        })
        .await;
    match noted {
        Ok(false) => Ok(Outcome::Done),
        Err(JobError::Lost) => Err(JobError::Lost),
        // a database that is away cannot take the note; the attempt keeps the error all the same
        _ if is_again => Err(JobError::Retry(failure)),
        _ => Err(JobError::Discard(failure, Some(Box::new(told)))),
    }
}
