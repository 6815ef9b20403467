//! `send_invitation`: an invitation that was asked for here goes out through the provider.
//!
//! Guarantees: sent once. The provider is asked first whether it has an open invitation for the
//! address: an attempt that died between sending and recording finds its own there.

use uuid::Uuid;

use super::{JobContext, JobError, hear};
use crate::{
    identity::{self, Heard},
    members::{self, Asked},
    provider_api::{self, Client, NewInvitation, Refusal},
    queue::{
        self, Claim, Failure,
        worker::{Lease, Outcome, Settled},
    },
    webhooks::{IdentityEvent, Invitation, InvitationState, Said},
};

pub(super) async fn run(
    cx: &JobContext,
    claim: &Claim,
    lease: &Lease,
    id: Uuid,
) -> Result<Outcome, JobError> {
    let asked = cx
        .db
        .run(async |connection| members::find_invitation(connection, id).await)
        .await?;
    let Some(asked) = asked else {
        // its event came first, or it was given up
        return Ok(Outcome::Done);
    };
    let Some(client) = cx.providers.get(&asked.source) else {
        let error = format!("source {} has no api_key any more", asked.source);
        let failure = Failure::new("provider_api_not_configured", error);
        return Err(JobError::Discard(failure, None));
    };
    let sent = send_once(client, &asked, lease).await?;
    let heard = Heard::from_api(&asked.source, vec![IdentityEvent::Invitation(sent.clone())]);
    cx.db
        .transaction(async |tx| {
            identity::lock(tx).await?;
            queue::assert_held(tx, claim).await?;
            members::mark_sent(tx, id, &sent.id).await?;
            hear::hear(cx, tx, &[heard]).await?;
            queue::complete(tx, claim).await?;
            Ok::<_, JobError>(())
        })
        .await?;
    Ok(Outcome::Settled(Settled::Completed))
}

/// The open invitation of the address: one that is there, else a new one.
async fn send_once(
    client: &Client,
    asked: &Asked,
    lease: &Lease,
) -> Result<Said<Invitation>, JobError> {
    if let Some(open) = find_open(client, asked).await? {
        return Ok(open);
    }
    // after a long stop somebody else has the job and may have sent it
    if !lease.is_held() {
        return Err(JobError::Lost);
    }
    let new = NewInvitation {
        org_id: &asked.org_id,
        email: &asked.email,
        role: asked.role.as_deref(),
        inviter_user_id: asked.inviter_user_id.as_deref(),
        customer_id: asked.customer_id.as_deref(),
    };
    match client.send_invitation(&new).await {
        Ok(sent) => Ok(sent),
        // somebody else's was faster; the list has it now, or will at the next attempt
        Err(error) if error.reason() == Some(Refusal::AlreadyInvited) => {
            let open = find_open(client, asked).await?;
            open.ok_or_else(|| JobError::Retry(failure(&error)))
        }
        Err(error) => Err(error.into()),
    }
}

async fn find_open(
    client: &Client,
    asked: &Asked,
) -> Result<Option<Said<Invitation>>, provider_api::Error> {
    let listed = client
        .list_invitations(&asked.org_id, Some(&asked.email))
        .await?;
    let is_open = |said: &Said<Invitation>| {
        let described = said.described.as_ref();
        described.is_some_and(|described| described.content.state == InvitationState::Pending)
    };
    Ok(listed.into_iter().find(is_open))
}

fn failure(error: &provider_api::Error) -> Failure {
    Failure::new(error.code(), crate::causes::chain(error))
}
