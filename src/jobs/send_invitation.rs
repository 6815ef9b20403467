//! `send_invitation`: an invitation that was asked for here goes out through the provider.
//!
//! Guarantees: sent once. The provider is asked first whether it has an open invitation for the
//! address: an attempt that died between sending and recording finds its own there. One that was taken
//! back here is none: it is revoked first.

use uuid::Uuid;

use super::{JobContext, JobError, hear, revoke_invitation::client_of};
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
        .run(async |connection| members::find_asked(connection, id).await)
        .await?;
    let Some(asked) = asked else {
        // its event came first, or it was given up
        return Ok(Outcome::Done);
    };
    let client = client_of(cx, &asked.source)?;
    let (revoked, sent) = send_once(cx, client, &asked, lease).await?;
    let said = revoked.into_iter().chain([sent.clone()]);
    let heard = Heard::from_api(&asked.source, said.map(IdentityEvent::Invitation).collect());
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

/// The open invitation of the address: one that is there, else a new one; and before it the one that had to be revoked.
async fn send_once(
    cx: &JobContext,
    client: &Client,
    asked: &Asked,
    lease: &Lease,
) -> Result<(Option<Said<Invitation>>, Said<Invitation>), JobError> {
    let open = find_pending(client, &asked.org_id, &asked.email).await?;
    let revoked = match open {
        Some(open) if is_taken_back(cx, asked, &open).await? => {
            Some(revoke(client, asked, &open).await?)
        }
        Some(open) => return Ok((None, open)),
        None => None,
    };
    Ok((revoked, send(client, asked, lease).await?))
}

async fn send(client: &Client, asked: &Asked, lease: &Lease) -> Result<Said<Invitation>, JobError> {
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
            let open = find_pending(client, &asked.org_id, &asked.email).await?;
            open.ok_or_else(|| JobError::Retry(failure(&error)))
        }
        Err(error) => Err(error.into()),
    }
}

/// The open invitation of an address, if there is one.
pub(super) async fn find_pending(
    client: &Client,
    org_id: &str,
    email: &str,
) -> Result<Option<Said<Invitation>>, provider_api::Error> {
    let listed = client.list_invitations(org_id, Some(email)).await?;
    let is_open = |said: &Said<Invitation>| {
        let described = said.described.as_ref();
        described.is_some_and(|described| described.content.state == InvitationState::Pending)
    };
    Ok(listed.into_iter().find(is_open))
}

/// Whether it was taken back here, and the provider did not hear of it yet.
async fn is_taken_back(
    cx: &JobContext,
    asked: &Asked,
    open: &Said<Invitation>,
) -> Result<bool, JobError> {
    let ask = async |connection: &mut _| {
        members::is_being_revoked(connection, &asked.source, &open.id).await
    };
    Ok(cx.db.run(ask).await?)
}

async fn revoke(
    client: &Client,
    asked: &Asked,
    open: &Said<Invitation>,
) -> Result<Said<Invitation>, JobError> {
    let revoked = client.revoke_invitation(&asked.org_id, &open.id).await;
    revoked.map_err(|error| match error.reason() {
        // settled in this moment: the next attempt sees it
        Some(Refusal::InvitationNotPending) => JobError::Retry(failure(&error)),
        _ => error.into(),
    })
}

fn failure(error: &provider_api::Error) -> Failure {
    Failure::new(error.code(), crate::causes::chain(error))
}
