//! Jobs that only write to the control database are done many at a time.
//!
//! Guarantees: taking, doing and completing are one transaction, so that a process that dies leaves
//! no trace; a job that is running under a lease, or whose key is, is not taken; a batch that failed
//! is left to be claimed job by job, where each has its attempts, its backoff and its dead letter.

use std::{future::Future, time::Duration};

use sqlx::PgConnection;

use super::{Claim, Error, JobId, Waker};
use crate::{causes::chain, shutdown::Tasks};

/// Locks up to `limit` due jobs, oldest first, for the caller's transaction.
pub async fn take(tx: &mut PgConnection, limit: i64) -> Result<Vec<Claim>, Error> {
    let taken = sqlx::query_as(
        "select job.id, job.attempt + 1 as attempt, job.max_attempts, job.payload
         from jobs job
         where job.state = 'available'
           and job.is_batched
           and job.run_at <= now()
           -- one at a time per key
           and not exists (
               select
               from jobs other
               where other.concurrency_key = job.concurrency_key
                 and other.state = 'running'
           )
         order by job.run_at, job.id
         limit $1
         for update skip locked",
    )
    .bind(limit)
    .fetch_all(tx)
    .await?;
    Ok(taken)
}

/// Completes jobs that were taken in this transaction.
pub async fn complete_taken(
    tx: &mut PgConnection,
    taken: &[Claim],
    worker: &str,
) -> Result<(), Error> {
    sqlx::query(
        "with done as (
             update jobs
             set state = 'completed',
                 attempt = attempt + 1,
                 finished_at = now()
             where id = any($1)
             returning id, attempt
         )
         insert into job_attempts (job_id, attempt, worker, finished_at, outcome)
         select id, attempt, $2, now(), 'completed'
         from done",
    )
    .bind(ids(taken))
    .bind(worker)
    .execute(tx)
    .await?;
    Ok(())
}

/// These jobs run one by one from now on.
pub async fn leave_batch(connection: &mut PgConnection, taken: &[Claim]) -> Result<(), Error> {
    sqlx::query("update jobs set is_batched = false where id = any($1) and state = 'available'")
        .bind(ids(taken))
        .execute(connection)
        .await?;
    Ok(())
}

fn ids(taken: &[Claim]) -> Vec<JobId> {
    taken.iter().map(|claim| claim.id).collect()
}

/// Does batches until the tasks drain. `run` does one and says how many jobs were in it.
pub(super) async fn work<F>(
    waker: Waker,
    tasks: Tasks,
    poll_interval: Duration,
    run: impl Fn() -> F,
) where
    F: Future<Output = Result<usize, Error>>,
{
    while !tasks.is_draining() {
        match run().await {
            Ok(0) => {}
            Ok(_) => continue,
            Err(error) => {
                tracing::warn!(
                    error = chain(&error),
                    "cannot do a batch of jobs; trying again"
                );
            }
        }
        tokio::select! {
            () = waker.woken_for_batch() => {}
            () = tokio::time::sleep(poll_interval) => {}
            () = tasks.draining() => {}
        }
    }
}
