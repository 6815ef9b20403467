//! Leases: who still holds what it claimed.
//!
//! Guarantees: a claim that was lost is told at the next heartbeat, and can be used for nothing; no heartbeat
//! waits for another's transaction; the jobs of a process that died are taken back when their leases have run
//! out.

use std::time::Duration;

use chrono::{DateTime, Utc};
use sqlx::{FromRow, PgConnection};

use super::{Claim, Error, Job, JobId};

/// A claim that is still held.
#[derive(Debug, Clone, Copy, PartialEq, Eq, FromRow)]
pub struct Kept {
    /// The job.
    pub id: JobId,
    /// False where somebody has the job's row locked: the lease is as it was.
    pub is_moved: bool,
}

/// A job that was begun and has not ended.
#[derive(Debug, FromRow)]
pub struct Begun {
    /// What it is.
    #[sqlx(json)]
    pub payload: Job,
    /// When its last attempt began.
    pub began_at: DateTime<Utc>,
    /// Whether that is being made now; else the next one is due within a minute.
    pub is_running: bool,
}

/// The jobs of a kind that are under way: running, or soon again.
pub async fn list_begun(connection: &mut PgConnection, kind: &str) -> sqlx::Result<Vec<Begun>> {
    sqlx::query_as(
        "select jobs.payload, attempts.started_at as began_at, jobs.state = 'running' as is_running
         from jobs
         join job_attempts attempts on attempts.job_id = jobs.id and attempts.attempt = jobs.attempt
         where jobs.kind = $1
           and (jobs.state = 'running'
                or (jobs.state = 'available' and jobs.run_at < now() + interval '1 minute'))",
    )
    .bind(kind)
    .fetch_all(connection)
    .await
}

/// Moves the leases of these claims; returns those that are still held.
///
/// Waits for nobody: whoever [rouses](super::rouse) several jobs locks them in another order, and one job that is
/// being settled must not hold up the leases of the others.
pub async fn heartbeat(
    connection: &mut PgConnection,
    claims: &[(JobId, i32)],
    lease: Duration,
) -> Result<Vec<Kept>, Error> {
    let (ids, attempts): (Vec<JobId>, Vec<i32>) = claims.iter().copied().unzip();
    let kept = sqlx::query_as(
        "with free as (
             select jobs.id
             from jobs
             join unnest($1::bigint[], $2::integer[]) as held (id, attempt) using (id, attempt)
             where jobs.state = 'running'
             for update of jobs skip locked
         ),
         moved as (
             update jobs
             set lease_expires_at = now() + make_interval(secs => $3)
             from free
             where jobs.id = free.id
             returning jobs.id
         )
         select jobs.id, moved.id is not null as is_moved
         from jobs
         join unnest($1::bigint[], $2::integer[]) as held (id, attempt) using (id, attempt)
         left join moved on moved.id = jobs.id
         where jobs.state = 'running'",
    )
    .bind(ids)
    .bind(attempts)
    .bind(lease.as_secs_f64())
    .fetch_all(connection)
    .await?;
    Ok(kept)
}

/// Fails unless the claim is still held, and keeps it held until the caller's transaction ends.
pub async fn assert_held(tx: &mut PgConnection, claim: &Claim) -> Result<(), Error> {
    let held: Option<i32> = sqlx::query_scalar(
        "select 1
         from jobs
         where id = $1
           and attempt = $2
           and state = 'running'
         for update",
    )
    .bind(claim.id)
    .bind(claim.attempt)
    .fetch_optional(tx)
    .await?;
    held.map(|_| ()).ok_or(Error::LostClaim {
        id: claim.id,
        attempt: claim.attempt,
    })
}

/// Takes back every job whose lease has run out; returns how many.
///
/// They become available even after their last attempt: the next claim sees that there is none
/// left ([`Claim::is_exhausted`]) and buries the job together with what it was for.
pub async fn rescue(connection: &mut PgConnection) -> Result<u64, Error> {
    let taken = sqlx::query(
        "with expired as (
             select id, attempt
             from jobs
             where state = 'running'
               and lease_expires_at < now()
             -- a row that its stopped worker has locked is taken when the server ends that session
             for update skip locked
         ),
         taken as (
             update jobs
             set state = 'available',
                 lease_expires_at = null,
                 run_at = now(),
                 -- roused meanwhile, it begins anew: the attempt that was lost may have been the last
                 max_attempts = greatest(max_attempts, jobs.attempt + coalesce(roused_with, 0))
             from expired
             where jobs.id = expired.id
             returning jobs.id, jobs.attempt
         )
         update job_attempts
         set outcome = 'lost',
             finished_at = now(),
             error_code = 'worker_lost',
             error = 'the worker showed no sign of life for the length of the lease'
         from taken
         where job_attempts.job_id = taken.id
           and job_attempts.attempt = taken.attempt",
    )
    .execute(connection)
    .await?;
    Ok(taken.rows_affected())
}
