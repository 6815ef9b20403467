//! `push_membership`: the provider is told of a removal, restoration or role that was decided here.
//!
//! Guarantees: the provider ends in the state that was wanted last, however often it changed; its
//! answer is recorded, so that the event that follows says nothing new; a role that it refuses does
//! not stand here either.

use sqlx::PgConnection;

use super::{JobContext, JobError, hear, rouse_sync};
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

/// A membership by its source and the provider's id.
type Named<'a> = (&'a str, &'a str);

pub(super) async fn run(
    cx: &JobContext,
    claim: &Claim,
    lease: &Lease,
    named: Named<'_>,
) -> Result<Outcome, JobError> {
    let (source, membership_id) = named;
    let Some(client) = cx.providers.get(source) else {
        return Ok(Outcome::Done);
    };
    loop {
        let wanted = cx
            .db
            .run(async |connection| members::wanted(connection, source, membership_id).await)
            .await?;
        let Some(wanted) = wanted else {
            return Ok(Outcome::Done);
        };
        // after a long stop somebody else has the job
        if !lease.is_held() {
            return Err(JobError::Lost);
        }
        let membership = MembershipRef {
            org_id: &wanted.org_id,
            user_id: &wanted.user_id,
            membership_id,
            role: wanted.role.as_deref(),
        };
        let mut said = tell_access(client, &membership, &wanted).await?;
        if let Some(role) = wanted.role_to_tell() {
            said.extend(tell_role(cx, claim, client, (source, &membership), role).await?);
        }
        if record(cx, claim, named, (&wanted, said)).await? {
            cx.waker.wake();
            return Ok(Outcome::Settled(Settled::Completed));
        }
    }
}

/// Whether the member is to have access.
async fn tell_access(
    client: &Client,
    membership: &MembershipRef<'_>,
    wanted: &Wanted,
) -> Result<Vec<IdentityEvent>, provider_api::Error> {
    if wanted.is_active && wanted.is_restored {
        client.reactivate_membership(membership).await
    } else if !wanted.is_active && !wanted.is_deleted {
        client.deactivate_membership(membership).await
    } else {
        // the provider gave access, or ended it, itself
        Ok(Vec::new())
    }
}

/// In which role.
async fn tell_role(
    cx: &JobContext,
    claim: &Claim,
    client: &Client,
    (source, membership): (&str, &MembershipRef<'_>),
    role: &str,
) -> Result<Vec<IdentityEvent>, JobError> {
    let named = (source, membership.membership_id);
    cx.db
        .transaction(async |tx| {
            queue::assert_held(tx, claim).await?;
            members::note_telling(tx, named, role).await?;
            Ok::<_, JobError>(())
        })
        .await?;
    match client.set_role(membership, role).await {
        Ok(said) => Ok(said),
        Err(error @ provider_api::Error::Refused { .. }) => {
            cx.db
                .transaction(async |tx| {
                    queue::assert_held(tx, claim).await?;
                    members::settle_role(tx, named, Some(role)).await?;
                    rouse_sync(tx, (source, membership.org_id), cx.max_attempts).await?;
                    Ok::<_, JobError>(())
                })
                .await?;
            cx.waker.wake();
            Err(error.into())
        }
        Err(error) => Err(error.into()),
    }
}

/// Records the answer; true when nothing else is wanted by now, and the job is complete.
async fn record(
    cx: &JobContext,
    claim: &Claim,
    named: Named<'_>,
    (wanted, said): (&Wanted, Vec<IdentityEvent>),
) -> Result<bool, JobError> {
    let (source, membership_id) = named;
    let heard = Heard::from_api(source, said);
    let role = wanted.role_to_tell();
    let work = async |tx: &mut PgConnection| {
        identity::lock(tx).await?;
        // whoever wants something else from here on waits for the end of this job
        queue::assert_held(tx, claim).await?;
        members::settle_role(tx, named, role).await?;
        hear::hear(cx, tx, &[heard]).await?;
        if role.is_some() {
            rouse_sync(tx, (source, &wanted.org_id), cx.max_attempts).await?;
        }
        let now = members::wanted(tx, source, membership_id).await?;
        let is_done =
            now.is_none_or(|now| now.is_active == wanted.is_active && now.role_to_tell().is_none());
        if is_done {
            queue::complete(tx, claim).await?;
        }
        Ok::<_, JobError>(is_done)
    };
    cx.db.transaction(work).await
}
