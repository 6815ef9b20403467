//! `deliver_notifications`: an endpoint is told what is outstanding of a tenant, in order.
//!
//! Guarantees: an attempt is recorded only while the claim is held, so that of two workers one writes; a
//! worker that dies between sending and recording has its attempt made again, under the same id; the job
//! ends only in a transaction that saw nothing outstanding while its own row was locked.

use std::time::Duration;

use uuid::Uuid;

use super::{JobContext, JobError};
use crate::{
    notifications::{self, Head, Next, Outgoing, Sender},
    queue::{
        self, Claim, Failure,
        worker::{Lease, Outcome, Settled},
    },
};

/// A replica with another configuration may know the endpoint: it is left to that one for so long.
const STRANGE: Duration = Duration::from_secs(10);

/// A line: an endpoint and a tenant.
pub(super) type Line<'a> = (&'a str, Uuid);

pub(super) async fn run(
    cx: &JobContext,
    claim: &Claim,
    lease: &Lease,
    (endpoint, tenant): Line<'_>,
) -> Result<Outcome, JobError> {
    let sender = cx.senders.get(endpoint);
    loop {
        if cx.tasks.is_draining() {
            return Ok(Outcome::Released);
        }
        let next = cx
            .db
            .transaction(async |tx| {
                queue::assert_held(tx, claim).await?;
                let head = notifications::find_head(tx, endpoint, tenant).await?;
                let (sender, outgoing) = match (head, sender) {
                    (Head::Nothing, _) => {
                        queue::complete(tx, claim).await?;
                        return Ok::<_, JobError>(Err(Settled::Completed));
                    }
                    (Head::Due(outgoing), Some(sender)) => (sender, outgoing),
                    (Head::Later(wait), Some(_)) => {
                        let waits = "the next attempt is not due yet";
                        let failure = Failure::new("notification_not_delivered", waits.to_owned());
                        queue::postpone(tx, claim, &failure, wait).await?;
                        return Ok(Err(Settled::Postponed));
                    }
                    (Head::Due(_) | Head::Later(_), None) => {
                        let error = format!("endpoint {endpoint} is not configured here");
                        let failure = Failure::new("notification_endpoint_unknown", error);
                        queue::postpone(tx, claim, &failure, STRANGE).await?;
                        return Ok(Err(Settled::Postponed));
                    }
                };
                Ok(Ok((sender, outgoing)))
            })
            .await?;
        match next {
            Ok((sender, outgoing)) => {
                attempt(cx, (claim, lease), sender, (endpoint, &outgoing)).await?;
            }
            Err(settled) => return Ok(Outcome::Settled(settled)),
        }
    }
}

async fn attempt(
    cx: &JobContext,
    (claim, lease): (&Claim, &Lease),
    sender: &Sender,
    (endpoint, outgoing): (&str, &Outgoing),
) -> Result<(), JobError> {
    let (faults, metrics) = (&cx.provisioner.faults, &cx.provisioner.metrics);
    faults.hit(notifications::FAULT_SENDING).await?;
    // after a long stop somebody else has the job and may be further
    if !lease.is_held() {
        return Err(JobError::Lost);
    }
    let tried = sender
        .send(outgoing, std::time::SystemTime::now().into())
        .await;
    faults.hit(notifications::FAULT_SENT).await?;
    let made = usize::try_from(outgoing.tries).unwrap_or_default();
    let next = Next::after(&tried, made, sender.schedule(), rand::random());
    cx.db
        .transaction(async |tx| {
            queue::assert_held(tx, claim).await?;
            notifications::record_attempt(tx, (endpoint, outgoing), &tried, next).await?;
            Ok::<_, JobError>(())
        })
        .await?;
    metrics.notification_tried(endpoint, next.outcome());
    if let Some(failure) = &tried.failure {
        tracing::warn!(
            notification.id = %outgoing.id,
            notification.endpoint = endpoint,
            notification.outcome = next.outcome(),
            error.code = failure.code(),
            error = %failure,
            "a notification was not delivered"
        );
    }
    Ok(())
}
