//! `resend_invitation`: the provider sends an invitation's e-mail again.
//!
//! Guarantees: an invitation that was taken back or settled meanwhile is left alone, and what the
//! provider says of it is recorded.
//!
//! Does not: promise one e-mail. An attempt whose answer was lost is made again.

use uuid::Uuid;

use super::{
    JobContext, JobError, hear,
    revoke_invitation::{client_of, look_up},
};
use crate::{
    identity::{self, Heard},
    members,
    provider_api::Refusal,
    queue::{
        self, Claim,
        worker::{Lease, Outcome, Settled},
    },
    webhooks::{IdentityEvent, InvitationState, Said},
};

pub(super) async fn run(
    cx: &JobContext,
    claim: &Claim,
    lease: &Lease,
    id: Uuid,
) -> Result<Outcome, JobError> {
    let open = cx
        .db
        .run(async |connection| members::find_open(connection, id).await)
        .await?;
    let Some(open) = open.filter(|open| !open.is_revoked) else {
        return Ok(Outcome::Done);
    };
    let Some(invitation_id) = &open.invitation_id else {
        return Ok(Outcome::Done);
    };
    let client = client_of(cx, &open.source)?;
    if !lease.is_held() {
        return Err(JobError::Lost);
    }
    let (said, refused) = match client.resend_invitation(&open.org_id, invitation_id).await {
        Ok(said) => (Some(said), None),
        Err(error) if error.reason() == Some(Refusal::InvitationNotPending) => {
            (look_up(client, &open, invitation_id).await?, Some(error))
        }
        Err(error) => return Err(error.into()),
    };
    // who accepted, or was uninvited, needs no e-mail
    let is_settled = said.as_ref().is_some_and(is_settled);
    let said = said.into_iter().map(IdentityEvent::Invitation).collect();
    let heard = Heard::from_api(&open.source, said);
    let refused = refused.filter(|_| !is_settled);
    cx.db
        .transaction(async |tx| {
            identity::lock(tx).await?;
            queue::assert_held(tx, claim).await?;
            hear::hear(cx, tx, &[heard]).await?;
            if refused.is_none() {
                queue::complete(tx, claim).await?;
            }
            Ok::<_, JobError>(())
        })
        .await?;
    cx.waker.wake();
    match refused {
        None => Ok(Outcome::Settled(Settled::Completed)),
        Some(error) => Err(error.into()),
    }
}

fn is_settled(said: &Said<crate::webhooks::Invitation>) -> bool {
    let described = said.described.as_ref();
    described.is_some_and(|described| {
        matches!(
            described.content.state,
            InvitationState::Accepted | InvitationState::Revoked
        )
    })
}
