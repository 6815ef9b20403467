//! Runs that want to go on and have no job for it.
//!
//! Guarantees: whatever became of the jobs of a run (cancelled, given up, never enqueued by a process that
//! died), there are some again a moment later, also of a run that is over and of which something was begun
//! and not brought to its end.

use std::time::Duration;

use super::{RunState, runs};
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

/// Whether there were any.
async fn enqueue_missing(db: &Db) -> Result<bool, queue::Error> {
    db.run(async |connection| {
        let mut any = false;
        for run in runs::list_wanting(connection).await? {
            let places = match run.state {
                // the preparation, and the end of what was begun, is one place's work
                RunState::Running => run.concurrency.unsigned_abs().min(wanted(&run.counts)),
                _ => 1,
            };
            for slot in 0..places {
                let job = NewJob::migrate_fleet(run.id.0, slot);
                any |= queue::enqueue(connection, &job).await?.is_some();
            }
        }
        Ok(any)
    })
    .await
}

/// No more places than there is work, and one to end the run.
fn wanted(counts: &super::Counts) -> u32 {
    (counts.pending + counts.running).max(1)
}
