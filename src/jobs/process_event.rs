//! `process_event`: what received events mean.
//!
//! Guarantees: the events' effects, the jobs for what follows, the events' new states and the end of
//! these jobs are one transaction; events are done many at a time, and one by one where a batch failed.

use chrono::TimeDelta;
use sqlx::PgConnection;

use super::{JobContext, JobError, hear};
use crate::{
    causes::chain,
    identity::{self, Heard},
    inbox::{self, StoredBody},
    queue::{
        self, Claim, Failure, Job,
        worker::{Outcome, Settled},
    },
    webhooks::{self, Meaning},
};

/// Events in one transaction: a few ten milliseconds of work.
const BATCH: i64 = 256;

/// Bytes of bodies in one transaction, for memory's sake; a body alone may be 1 MiB.
const BATCH_BYTES: i64 = 8 << 20;

/// A version this far after its receipt is a mistake. Years, so that a clock of ours which is wrong by less does no harm.
const FAR_AHEAD: TimeDelta = TimeDelta::days(3650);

/// Processes the events that are due, at most 256; returns how many were taken.
///
/// Nothing is returned as an error but an unusable database: events that make a batch fail are left
/// to be processed one by one.
pub async fn process_batch(cx: &JobContext) -> Result<usize, queue::Error> {
    let mut taken = Vec::new();
    let processed = cx
        .db
        .transaction(async |tx| {
            // somebody else is at it: what is left is seen by them, or at the next call
            if !identity::try_lock(tx).await? {
                return Ok(false);
            }
            taken = queue::take(tx, BATCH).await?;
            if taken.is_empty() {
                return Ok(false);
            }
            // those that are left out stay available, and are locked no longer than this takes
            taken.sort_by_key(event);
            let events: Vec<i64> = taken.iter().map(event).collect();
            taken.truncate(inbox::count_within(tx, &events, BATCH_BYTES).await?);
            let follow_up = process(cx, tx, &taken).await?;
            queue::complete_taken(tx, &taken, &cx.worker).await?;
            cx.provisioner.faults.hit(super::FAULT_COMMITTING).await?;
            Ok::<_, JobError>(follow_up)
        })
        .await;
    match processed {
        Ok(follow_up) => {
            let _ = cx.provisioner.faults.hit(super::FAULT_COMMITTED).await;
            for claim in &taken {
                let kind = claim.payload.kind();
                cx.provisioner.metrics.job_attempt_ended(kind, "completed");
            }
            if follow_up {
                cx.waker.wake();
            }
        }
        Err(JobError::Retry(failure) | JobError::Discard(failure, _)) => {
            if taken.is_empty() {
                let error = std::io::Error::other(failure.error);
                return Err(queue::Error::Sql(sqlx::Error::Io(error)));
            }
            tracing::warn!(
                jobs = taken.len(),
                error.code = failure.code,
                error = failure.error,
                "a batch of events failed; they are processed one by one"
            );
            cx.db
                .run(async |connection| queue::leave_batch(connection, &taken).await)
                .await?;
            cx.waker.wake();
        }
        Err(JobError::Lost) => {}
    }
    Ok(taken.len())
}

/// Processes one event whose batch failed.
pub(super) async fn run(cx: &JobContext, claim: &Claim) -> Result<Outcome, JobError> {
    let follow_up = cx
        .db
        .transaction(async |tx| {
            // whoever waits for the lock must not hold the job's row: the heartbeat moves its lease
            identity::lock(tx).await?;
            queue::assert_held(tx, claim).await?;
            let follow_up = process(cx, tx, std::slice::from_ref(claim)).await?;
            queue::complete(tx, claim).await?;
            cx.provisioner.faults.hit(super::FAULT_COMMITTING).await?;
            Ok::<_, JobError>(follow_up)
        })
        .await?;
    cx.provisioner.faults.hit(super::FAULT_COMMITTED).await?;
    if follow_up {
        cx.waker.wake();
    }
    Ok(Outcome::Settled(Settled::Completed))
}

/// Carries out what the jobs' events mean; true when that made other jobs.
async fn process(
    cx: &JobContext,
    tx: &mut PgConnection,
    claims: &[Claim],
) -> Result<bool, JobError> {
    let events: Vec<i64> = claims.iter().map(event).collect();
    // an event that is not there, or settled, was pruned or done by an attempt that could not say so
    let stored = inbox::find_bodies(tx, &events).await?;
    let stored = stored.iter().filter(|stored| stored.state == "received");
    let heard = stored
        .map(|stored| read(cx, stored))
        .collect::<Result<Vec<_>, _>>()?;
    cx.provisioner.faults.hit(super::FAULT_BEFORE).await?;
    let heeded = hear::hear(cx, tx, &heard).await?;
    inbox::settle(tx, &heeded.settled).await?;
    Ok(heeded.has_follow_up)
}

/// The number of a job's event.
const fn event(claim: &Claim) -> i64 {
    match claim.payload {
        Job::ProcessEvent { event } => event,
        // only jobs of this kind come here, and no event has this number
        _ => 0,
    }
}

fn read(cx: &JobContext, stored: &StoredBody) -> Result<Heard, JobError> {
    let Some(source) = cx.sources.get(&stored.source) else {
        let error = format!("source {} is not configured any more", stored.source);
        return Err(JobError::Retry(Failure::new("source_unknown", error)));
    };
    let reading = webhooks::read_received(
        source.kind,
        &source.mapping,
        &stored.body,
        stored.received_at,
    );
    let said = match reading.meaning {
        Meaning::Events(mut said) => {
            let latest = stored.received_at + FAR_AHEAD;
            for event in &mut said {
                event.not_after(latest, stored.received_at);
            }
            said
        }
        Meaning::Ignored => Vec::new(),
        Meaning::Unreadable(reason) => {
            let failure = Failure::new("event_unreadable", chain(&reason));
            return Err(JobError::Discard(failure, None));
        }
    };
    Ok(Heard {
        source: stored.source.clone(),
        event: Some(stored.id),
        received_at: stored.received_at,
        said,
    })
}
