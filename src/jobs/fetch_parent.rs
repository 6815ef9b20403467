//! `fetch_parent`: the provider is asked about an object that events name and nobody has described.
//!
//! Guarantees: its answer is recorded like an event, and settles whoever waited; when it does not
//! know the object either, or cannot be asked, those who waited are dead letters with the reason.

use super::{JobContext, JobError};
use crate::{
    inbox,
    queue::{
        self, Claim,
        worker::{Outcome, Settled},
    },
};

pub(super) async fn run(
    cx: &JobContext,
    claim: &Claim,
    source: &str,
    parent: &str,
) -> Result<Outcome, JobError> {
    let reason =
        format!("parent_missing: {parent} did not come, and {source} has no api_key to ask with");
    cx.db
        .transaction(async |tx| {
            queue::assert_held(tx, claim).await?;
            inbox::fail_waiting(tx, source, parent, &reason).await?;
            queue::complete(tx, claim).await?;
            Ok::<_, JobError>(())
        })
        .await?;
    Ok(Outcome::Settled(Settled::Completed))
}
