//! `migrate_fleet`: one place of a fleet run.

use super::{JobContext, JobError};
use crate::{
    fleet::RunId,
    queue::{
        Claim,
        worker::{Lease, Outcome},
    },
};

pub(super) async fn run(
    _cx: &JobContext,
    _claim: &Claim,
    _lease: &Lease,
    (_run, _slot): (RunId, u32),
) -> Result<Outcome, JobError> {
    Ok(Outcome::Done)
}
