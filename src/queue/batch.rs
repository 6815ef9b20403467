//! Jobs that only write to the control database are done many at a time.
//!
//! Guarantees: taking, doing and completing are one transaction, so that a process that dies leaves
//! no trace; a job that is running under a lease, or whose key is, is not taken; a batch that failed
//! is left to be claimed job by job, where each has its attempts, its backoff and its dead letter.

use std::{future::Future, time::Duration};

use sqlx::{PgConnection, types::Json};

use super::{Claim, Error, JobId, NewJob, Waker};
use crate::{causes::chain, shutdown::Tasks};

/// Puts a job that is done in batches into the queue, in the caller's transaction.
pub async fn enqueue_batched(tx: &mut PgConnection, new: &NewJob) -> Result<JobId, Error> {
    let id = sqlx::query_scalar(
        "insert into jobs (kind, payload, concurrency_key, is_batched, max_attempts, run_at)
         values ($1, $2, $3, true, $4, now() + make_interval(secs => $5))
         returning id",
    )
    .bind(new.job.kind())
    .bind(Json(&new.job))
    .bind(&new.concurrency_key)
    .bind(new.max_attempts)
    .bind(new.delay.as_secs_f64())
    .fetch_one(tx)
    .await?;
    Ok(id)
}

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
