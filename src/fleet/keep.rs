//! Runs that want to go on and have no job for it.
//!
//! Guarantees: whatever became of the jobs of a run (cancelled, given up, never enqueued by a process that
//! died), there are some again a moment later, also of a run that is over and of which something was begun
//! and not finished. Where nothing can be taken and somebody is working, no job is added.

use std::time::Duration;

use sqlx::PgConnection;

use super::{Run, RunState, held, runs, targets};
use crate::{
    causes::chain,
    db::Db,
    queue::{self, NewJob, Waker},
};

/// Between two looks.
const PAUSE: Duration = Duration::from_secs(2);

/// Looks for runs without jobs, for ever.
pub async fn keep_going(db: Db, waker: Waker) {
    loop {
        match enqueue_missing(&db).await {
            Ok(true) => waker.wake(),
            Ok(false) => {}
            Err(error) => tracing::warn!(
                error = chain(&error),
                "cannot look for fleet runs without a job"
            ),
        }
        tokio::time::sleep(PAUSE).await;
    }
}

/// Enqueues the jobs that runs need and do not have; whether there were any.
pub async fn enqueue_missing(db: &Db) -> Result<bool, queue::Error> {
    db.run(async |connection| {
        let mut any = false;
        for run in runs::list_wanting(connection).await? {
            for slot in 0..wanted(connection, &run).await? {
                let job = NewJob::migrate_fleet(run.id.0, slot);
                any |= queue::enqueue(connection, &job).await?.is_some();
            }
        }
        Ok(any)
    })
    .await
}

/// How many slots the run should have, including those that it has.
async fn wanted(connection: &mut PgConnection, run: &Run) -> Result<u32, queue::Error> {
    let slots = run.concurrency.unsigned_abs();
    let due = match run.state {
        RunState::Running => targets::count_due(connection, run.id, run.current_wave).await?,
        _ => 0,
    };
    let is_any_lost = !held::list_lost(connection, run.id).await?.is_empty();
    if due > 0 || is_any_lost {
        // those who work just now have no time for it
        return Ok(slots.min(due.saturating_add(run.counts.running)));
    }
    // one to prepare the run, to wait for what is due later, or to end it
    let jobs = (0..slots).filter_map(|slot| NewJob::migrate_fleet(run.id.0, slot).unique_key);
    let is_any_live = queue::is_any_live(connection, &jobs.collect::<Vec<_>>()).await?;
    Ok(u32::from(!is_any_live))
}
