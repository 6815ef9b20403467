//! `prune`: what has been kept for its time goes.
//!
//! Guarantees: the next one is enqueued in the transaction in which this one ends, however it ends; a
//! run takes its time at most, and the next one then comes soon.

use std::time::{Duration, Instant};

use super::{JobContext, JobError};
use crate::{
    queue::{
        self, Claim, NewJob,
        worker::{Lease, Outcome, Settled},
    },
    retention,
};

/// A run takes no longer: a worker's slot is for more urgent things.
const RUN_LIMIT: Duration = Duration::from_secs(10);

/// The next run begins after this when there is more to do.
const SHORT_PAUSE: Duration = Duration::from_secs(10);

pub(super) async fn run(
    cx: &JobContext,
    claim: &Claim,
    lease: &Lease,
) -> Result<Outcome, JobError> {
    let Some(pause) = cx.retention.pause else {
        // it was scheduled when this was configured otherwise
        return Ok(Outcome::Done);
    };
    let began = Instant::now();
    let metrics = &cx.provisioner.metrics;
    let may_go_on = || lease.is_held() && !cx.tasks.is_draining() && began.elapsed() < RUN_LIMIT;
    let mut pruned = 0;
    let is_done = retention::prune(
        (&cx.db, &cx.provisioner.faults),
        &cx.retention.due,
        may_go_on,
        |kind, rows| {
            pruned += rows;
            metrics.pruned(kind.name(), rows);
        },
    )
    .await?;
    if !is_done && cx.tasks.is_draining() {
        return Ok(Outcome::Released);
    }
    let pause = if is_done {
        pause
    } else {
        pause.min(SHORT_PAUSE)
    };
    cx.db
        .transaction(async |tx| {
            queue::complete(tx, claim).await?;
            let next = NewJob::prune(pause, cx.max_attempts);
            queue::keep_scheduled(tx, &next).await
        })
        .await?;
    if pruned > 0 {
        tracing::info!(
            rows = pruned,
            is_done,
            duration_ms = began.elapsed().as_millis(),
            "pruned what was kept for its time"
        );
    }
    Ok(Outcome::Settled(Settled::Completed))
}
