//! `migrate_fleet`: one slot of a fleet run.
//!
//! Guarantees: none of its own; `fleet` settles the job in the transaction that decides what becomes of the run.

use std::time::Duration;

use super::{JobContext, JobError};
use crate::{
    causes::chain,
    fleet::{self, RunId, Slot},
    provisioning::StepError,
    queue::{
        Claim, Failure,
        worker::{Lease, Outcome},
    },
};

/// Before a slot that met an error goes on: however long the run has lasted.
const PAUSE: Duration = Duration::from_secs(1);

pub(super) async fn run(
    cx: &JobContext,
    claim: &Claim,
    lease: &Lease,
    run: RunId,
) -> Result<Outcome, JobError> {
    let slot = Slot {
        provisioner: &cx.provisioner,
        claim,
        lease,
        tasks: &cx.tasks,
        waker: &cx.waker,
        max_attempts: cx.fleet_attempts,
        run,
    };
    match Box::pin(fleet::work(&slot)).await {
        Ok(outcome) => Ok(outcome),
        Err(StepError::LostClaim) => Err(JobError::Lost),
        // a target's own failures are its row's: this is one of the slot, and passes
        Err(error) => Err(JobError::Retry(Failure {
            code: error.code(),
            error: chain(&error),
            retry_after: Some(PAUSE),
        })),
    }
}
