//! `revoke_invitation`: the provider is told that an invitation was taken back here.
//!
//! Guarantees: what the provider says then is recorded: revoked, or accepted before it heard of it. An
//! invitation of which nobody knows whether it was sent is looked for by its address.

use uuid::Uuid;

use super::{JobContext, JobError, hear, send_invitation::find_pending};
use crate::{
    identity::{self, Heard},
    members::{self, Open},
    provider_api::{self, Client, Refusal},
    queue::{
        self, Claim, Failure,
        worker::{Lease, Outcome, Settled},
    },
    webhooks::{IdentityEvent, Invitation, Said},
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
    // settled meanwhile, or wanted again
    let Some(open) = open.filter(|open| open.is_revoked) else {
        return Ok(Outcome::Done);
    };
    let client = client_of(cx, &open.source)?;
    let Some(invitation_id) = find_sent(client, &open).await? else {
        return Ok(Outcome::Done);
    };
    if !lease.is_held() {
        return Err(JobError::Lost);
    }
    let said = revoke(client, &open, &invitation_id).await?;
    let said = said.into_iter().map(IdentityEvent::Invitation).collect();
    let heard = Heard::from_api(&open.source, said);
    cx.db
        .transaction(async |tx| {
            identity::lock(tx).await?;
            queue::assert_held(tx, claim).await?;
            members::mark_sent(tx, id, &invitation_id).await?;
            hear::hear(cx, tx, &[heard]).await?;
            queue::complete(tx, claim).await?;
            Ok::<_, JobError>(())
        })
        .await?;
    cx.waker.wake();
    Ok(Outcome::Settled(Settled::Completed))
}

/// The client of a source that can be called.
pub(super) fn client_of<'a>(cx: &'a JobContext, source: &str) -> Result<&'a Client, JobError> {
    cx.providers.get(source).ok_or_else(|| {
        let error = format!("source {source} has no api_key any more");
        JobError::Discard(Failure::new("provider_api_not_configured", error), None)
    })
}

/// The provider's id, also of one whose sending was cut off.
async fn find_sent(client: &Client, open: &Open) -> Result<Option<String>, provider_api::Error> {
    match (&open.invitation_id, &open.email) {
        (Some(known), _) => Ok(Some(known.clone())),
        (None, Some(email)) => {
            let found = find_pending(client, &open.org_id, email).await?;
            Ok(found.map(|said| said.id))
        }
        (None, None) => Ok(None),
    }
}

/// Revokes it; what it is at the provider then, where the provider knows it.
async fn revoke(
    client: &Client,
    open: &Open,
    invitation_id: &str,
) -> Result<Option<Said<Invitation>>, provider_api::Error> {
    match client.revoke_invitation(&open.org_id, invitation_id).await {
        Ok(said) => Ok(Some(said)),
        Err(error) => match error.reason() {
            Some(Refusal::InvitationNotPending) => look_up(client, open, invitation_id).await,
            Some(Refusal::NotFound) => Ok(None),
            _ => Err(error),
        },
    }
}

/// What an invitation is at the provider.
pub(super) async fn look_up(
    client: &Client,
    open: &Open,
    invitation_id: &str,
) -> Result<Option<Said<Invitation>>, provider_api::Error> {
    let listed = client
        .list_invitations(&open.org_id, open.email.as_deref())
        .await?;
    Ok(listed.into_iter().find(|said| said.id == invitation_id))
}
