//! `sync_members`: a tenant's database is told of its members.

use std::time::Duration;

use super::{JobContext, JobError};
use crate::{
    queue::{
        Claim, Job, NewJob,
        worker::{Lease, Outcome},
    },
    tenants::TenantId,
};

/// The job for the tenant of an organization.
pub(super) fn job(tenant: TenantId, (source, org_id): (&str, &str), max_attempts: i32) -> NewJob {
    NewJob {
        job: Job::SyncMembers { tenant: tenant.0 },
        concurrency_key: Some(format!("{source}:{org_id}")),
        unique_key: Some(format!("sync:{tenant}")),
        max_attempts,
        delay: Duration::ZERO,
    }
}

pub(super) async fn run(
    _cx: &JobContext,
    _claim: &Claim,
    _lease: &Lease,
    _tenant: TenantId,
) -> Result<Outcome, JobError> {
    Ok(Outcome::Done)
}
