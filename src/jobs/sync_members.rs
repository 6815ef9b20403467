//! `sync_members`: a tenant's database is told of its members.

use super::{JobContext, JobError};
use crate::{
    causes::chain,
    provisioning::{self, StepError, Synced},
    queue::{
        Claim, Failure,
        worker::{Lease, Outcome, Settled},
    },
    tenants::TenantId,
};

pub(super) async fn run(
    cx: &JobContext,
    claim: &Claim,
    lease: &Lease,
    tenant: TenantId,
) -> Result<Outcome, JobError> {
    match provisioning::sync_members(&cx.provisioner, (claim, lease), &cx.tasks, tenant).await {
        Ok(Synced::Completed) => Ok(Outcome::Settled(Settled::Completed)),
        Ok(Synced::NothingToDo) => Ok(Outcome::Done),
        Ok(Synced::Draining) => Ok(Outcome::Released),
        Err(StepError::LostClaim) => Err(JobError::Lost),
        // whatever it is, it may be repaired while there are attempts: nobody else asks for one
        Err(error) => Err(JobError::Retry(Failure::new(error.code(), chain(&error)))),
    }
}
