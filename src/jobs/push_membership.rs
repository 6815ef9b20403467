//! `push_membership`: the provider is told of a removal or restoration that was made here.
//!
//! Guarantees: the provider ends in the state that was wanted last, however often it changed; its
//! answer is recorded, so that the event that follows says nothing new.

use super::{JobContext, JobError, hear};
use crate::{
    identity::{self, Heard},
    members::{self, Wanted},
    provider_api::{self, Client, MembershipRef},
    queue::{
        self, Claim,
        worker::{Lease, Outcome, Settled},
    },
    webhooks::IdentityEvent,
};

pub(super) async fn run(
    cx: &JobContext,
    claim: &Claim,
    lease: &Lease,
    (source, membership): (&str, &str),
) -> Result<Outcome, JobError> {
    let Some(client) = cx.providers.get(source) else {
        return Ok(Outcome::Done);
    };
    loop {
        let wanted = cx
            .db
            .run(async |connection| members::wanted(connection, source, membership).await)
            .await?;
        let Some(wanted) = wanted else {
            return Ok(Outcome::Done);
        };
        // after a long stop somebody else has the job
        if !lease.is_held() {
            return Err(JobError::Lost);
        }
        let said = push(client, membership, &wanted).await?;
        let heard = Heard::from_api(source, said);
        let is_done = cx
            .db
            .transaction(async |tx| {
                identity::lock(tx).await?;
                // whoever wants something else from here on waits for the end of this job
                queue::assert_held(tx, claim).await?;
                hear::hear(cx, tx, &[heard]).await?;
                let now = members::wanted(tx, source, membership).await?;
                let is_done = now.is_none_or(|now| now.is_active == wanted.is_active);
                if is_done {
                    queue::complete(tx, claim).await?;
                }
                Ok::<_, JobError>(is_done)
            })
            .await?;
        if is_done {
            cx.waker.wake();
            return Ok(Outcome::Settled(Settled::Completed));
        }
    }
}

async fn push(
    client: &Client,
    membership_id: &str,
    wanted: &Wanted,
) -> Result<Vec<IdentityEvent>, provider_api::Error> {
    let membership = MembershipRef {
        org_id: &wanted.org_id,
        user_id: &wanted.user_id,
        membership_id,
        role: wanted.role.as_deref(),
    };
    match (wanted.is_active, wanted.is_deleted) {
        (true, _) => client.reactivate_membership(&membership).await,
        (false, false) => client.deactivate_membership(&membership).await,
        // the provider ended it itself
        (false, true) => Ok(Vec::new()),
    }
}
