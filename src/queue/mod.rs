//! Station 3, QUEUED: durable jobs in Postgres.
//!
//! ```text
//!              claim (attempt + 1)               complete
//!  available ─────────────────────▶ running ───────────────▶ completed
//!      ▲                               │
//!      │  retry (backoff) · release    │  discard, or the last attempt
//!      └───────── lease expired ◀──────┴───────────────────▶ dead
//!
//!  an operator: available, dead ─▶ cancelled;  dead, cancelled ─▶ available
//! ```
//!
//! Guarantees: a job is claimed by one worker at a time and jobs of one concurrency key run one at a
//! time, oldest first; a claim that shows no sign of life for the lease is taken back; the attempt
//! number fences every write, so that a worker that lost its claim changes nothing; every attempt is
//! kept with its error. Any number of processes share the queue.
//!
//! Does not: know what a job means. `jobs` does, and is handed to the worker.

pub mod backoff;
mod batch;
pub mod job;
mod leases;
mod look;
mod manage;
mod prune;
mod settle;
mod wake;
pub mod worker;

use std::time::Duration;

use sqlx::{FromRow, PgConnection, types::Json};

pub use batch::{complete_taken, enqueue_batched, leave_batch, take};
pub use job::{Job, JobId, invite_key, organization_key, provision_key, register_key};
pub use leases::{Begun, Kept, assert_held, heartbeat, list_begun, rescue};
pub use look::{
    Attempt, Filter, JobState, StoredJob, Traffic, count_errors, find_job, find_next_attempt,
    is_any_live, list_attempts, list_lost, list_page, traffic,
};
pub use manage::{Refused, cancel_job, lay_to_rest, retry_job};
pub use prune::{count_old, count_old_dead, prune, prune_dead};
pub use settle::{bury, complete, postpone, release, retry};
pub use wake::Waker;

use crate::db;

/// Why the queue could not do what was asked.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The database does not answer, or refuses.
    #[error("the queue cannot be used")]
    Sql(#[from] sqlx::Error),
    /// Another replica claimed in the same instant; nothing was claimed here.
    #[error("another replica claimed a job of the same key in the same instant")]
    Raced,
    /// Another worker has the job now: whatever was about to be written must not be.
    #[error("job {id} is no longer held by attempt {attempt}")]
    LostClaim {
        /// The job.
        id: JobId,
        /// The attempt that lost it.
        attempt: i32,
    },
}

/// A job to be put into the queue.
#[derive(Debug, Clone)]
pub struct NewJob {
    /// What to do.
    pub job: Job,
    /// Jobs of one key run one at a time.
    pub concurrency_key: Option<String>,
    /// At most one live job of one key.
    pub unique_key: Option<String>,
    /// Attempts before the job is dead.
    pub max_attempts: i32,
    /// Not before so long from now.
    pub delay: Duration,
}

/// A job that this process holds, and the attempt that fences its writes.
#[derive(Debug, Clone, FromRow)]
pub struct Claim {
    /// The job.
    pub id: JobId,
    /// The fence.
    pub attempt: i32,
    /// Attempts before the job is dead.
    pub max_attempts: i32,
    /// What to do.
    #[sqlx(json)]
    pub payload: Job,
}

impl Claim {
    /// Whether a failure of this attempt is final.
    pub const fn is_last_attempt(&self) -> bool {
        self.attempt >= self.max_attempts
    }

    /// Whether every attempt was used up, the last one by a worker that was lost.
    pub const fn is_exhausted(&self) -> bool {
        self.attempt > self.max_attempts
    }
}

/// How a failed attempt is recorded.
#[derive(Debug, Clone)]
pub struct Failure {
    /// Stable code.
    pub code: &'static str,
    /// The error with its chain.
    pub error: String,
    /// When whoever limits our rate wants to be asked again: the attempt does not count then.
    pub retry_after: Option<Duration>,
}

impl Failure {
    /// A failure that says nothing of when to try again.
    pub const fn new(code: &'static str, error: String) -> Self {
        Self {
            code,
            error,
            retry_after: None,
        }
    }
}

/// Puts a job into the queue, in the caller's transaction. `None`: a live job has its unique key.
pub async fn enqueue(tx: &mut PgConnection, new: &NewJob) -> Result<Option<JobId>, Error> {
    let id = sqlx::query_scalar(
        "insert into jobs (kind, payload, concurrency_key, unique_key, max_attempts, run_at)
         values ($1, $2, $3, $4, $5, now() + make_interval(secs => $6))
         on conflict (unique_key) where unique_key is not null and state in ('available', 'running') do nothing
         returning id",
    )
    .bind(new.job.kind())
    .bind(Json(&new.job))
    .bind(&new.concurrency_key)
    .bind(&new.unique_key)
    .bind(new.max_attempts)
    .bind(new.delay.as_secs_f64())
    .fetch_optional(tx)
    .await?;
    Ok(id)
}

/// Sees to it that a job of the unique key begins after the caller's commit, or notices it before it ends.
///
/// For jobs that bring something to its desired state. A live job of the key is made due, and its row
/// is locked until the caller commits: a handler that looks for more to do after [`assert_held`]
/// therefore sees what the caller wrote. One that fails instead begins anew at once. Callers with
/// several keys call in the order of the keys.
pub async fn rouse(tx: &mut PgConnection, new: &NewJob) -> Result<(), Error> {
    sqlx::query(
        "insert into jobs (kind, payload, concurrency_key, unique_key, max_attempts)
         values ($1, $2, $3, $4, $5)
         on conflict (unique_key) where unique_key is not null and state in ('available', 'running') do update
         set run_at = least(jobs.run_at, now()),
             roused_with = case when jobs.state = 'running' then excluded.max_attempts end",
    )
    .bind(new.job.kind())
    .bind(Json(&new.job))
    .bind(&new.concurrency_key)
    .bind(&new.unique_key)
    .bind(new.max_attempts)
    .execute(tx)
    .await?;
    Ok(())
}

/// Sees to it that a job of the unique key is live and due in `new.delay` at the latest.
///
/// For a job that comes back by itself: any number of replicas may say so whenever they start.
pub async fn keep_scheduled(tx: &mut PgConnection, new: &NewJob) -> Result<(), Error> {
    sqlx::query(
        "insert into jobs (kind, payload, unique_key, max_attempts, run_at)
         values ($1, $2, $3, $4, now() + make_interval(secs => $5))
         on conflict (unique_key) where unique_key is not null and state in ('available', 'running') do update
         set run_at = excluded.run_at
         where jobs.state = 'available'
           and jobs.run_at > excluded.run_at",
    )
    .bind(new.job.kind())
    .bind(Json(&new.job))
    .bind(&new.unique_key)
    .bind(new.max_attempts)
    .bind(new.delay.as_secs_f64())
    .execute(tx)
    .await?;
    Ok(())
}

/// Completes waiting jobs whose reason went away.
pub async fn withdraw_all(tx: &mut PgConnection, unique_keys: &[String]) -> Result<(), Error> {
    sqlx::query(
        "update jobs
         set state = 'completed',
             finished_at = now()
         where unique_key = any($1)
           and state = 'available'",
    )
    .bind(unique_keys)
    .execute(tx)
    .await?;
    Ok(())
}

/// Completes the waiting job of the unique key; true when it had never begun, so that nothing came of it.
///
/// False also where it runs, has ended, or was never there.
pub async fn withdraw(tx: &mut PgConnection, unique_key: &str) -> Result<bool, Error> {
    let attempts: Option<i32> = sqlx::query_scalar(
        "update jobs
         set state = 'completed',
             finished_at = now()
         where unique_key = $1
           and state = 'available'
         returning attempt",
    )
    .bind(unique_key)
    .fetch_optional(tx)
    .await?;
    Ok(attempts == Some(0))
}

/// Cancels the jobs of the unique key that wait or were given up: nobody wants what they were to do.
///
/// One that runs is left to notice it.
pub async fn call_off(tx: &mut PgConnection, unique_key: &str) -> Result<(), Error> {
    sqlx::query(
        "update jobs
         set state = 'cancelled',
             finished_at = now()
         -- the words of two indexes
         where (unique_key = $1 and state = 'available')
            or (unique_key = $1 and state = 'dead')",
    )
    .bind(unique_key)
    .execute(tx)
    .await?;
    Ok(())
}

/// The concurrency key of the live job of the unique key.
pub async fn find_concurrency_key(
    connection: &mut PgConnection,
    unique_key: &str,
) -> Result<Option<String>, Error> {
    let key: Option<Option<String>> = sqlx::query_scalar(
        "select concurrency_key
         from jobs
         where unique_key = $1
           and state in ('available', 'running')",
    )
    .bind(unique_key)
    .fetch_optional(connection)
    .await?;
    Ok(key.flatten())
}

/// Brings the newest dead or cancelled job of the unique key back, with as many further attempts as a new one has.
///
/// False when there is none, or when a live one has the key.
pub async fn revive(tx: &mut PgConnection, job: &NewJob) -> Result<bool, Error> {
    let revived = sqlx::query(
        "update jobs
         set state = 'available',
             run_at = now(),
             finished_at = null,
             max_attempts = attempt + $2
         where id = (
             select max(id)
             from jobs
             where unique_key = $1
               and state in ('dead', 'cancelled')
         )
           -- still so when its lock was waited for
           and state in ('dead', 'cancelled')
           and not exists (
               select
               from jobs live
               where live.unique_key = $1
                 and live.state in ('available', 'running')
           )",
    )
    .bind(&job.unique_key)
    .bind(job.max_attempts)
    .execute(tx)
    .await?;
    Ok(revived.rows_affected() == 1)
}

/// Claims up to `limit` jobs of any kind for `worker`.
pub async fn claim(
    connection: &mut PgConnection,
    worker: &str,
    lease: Duration,
    limit: i64,
) -> Result<Vec<Claim>, Error> {
    claim_of(connection, &Job::KINDS, worker, lease, limit).await
}

/// Claims up to `limit` jobs of these kinds for `worker`.
///
/// A unique violation of `jobs_one_running_per_key` (23505), or a deadlock with another claim (40P01),
/// means that another replica took a job of the same key in the same instant: nothing was claimed
/// ([`Error::Raced`]), the caller tries again.
pub async fn claim_of(
    connection: &mut PgConnection,
    kinds: &[&str],
    worker: &str,
    lease: Duration,
    limit: i64,
) -> Result<Vec<Claim>, Error> {
    let claimed = sqlx::query_as(
        "with next as (
             select job.id
             from jobs job
             where job.state = 'available'
               and not job.is_batched
               and job.run_at <= now()
               and job.kind = any($4)
               -- one at a time per key, oldest first: nothing of the key runs,
               -- and no older job of the key is due
               and not exists (
                   select
                   from jobs other
                   where other.concurrency_key = job.concurrency_key
                     and (other.state = 'running'
                          or (other.state = 'available' and other.id < job.id and other.run_at <= now()))
               )
             order by job.run_at, job.id
             limit $1
             for update skip locked
         ),
         claimed as (
             update jobs
             set state = 'running',
                 attempt = attempt + 1,
                 roused_with = null,
                 lease_expires_at = now() + make_interval(secs => $2)
             from next
             where jobs.id = next.id
             returning jobs.id, jobs.attempt, jobs.max_attempts, jobs.payload
         ),
         attempts as (
             insert into job_attempts (job_id, attempt, worker)
             select id, attempt, $3 from claimed
         )
         select id, attempt, max_attempts, payload
         from claimed
         order by id",
    )
    .bind(limit)
    .bind(lease.as_secs_f64())
    .bind(worker)
    .bind(kinds)
    .fetch_all(connection)
    .await;
    match claimed {
        Ok(claims) => Ok(claims),
        Err(error) if matches!(db::sqlstate(&error).as_deref(), Some("23505" | "40P01")) => {
            Err(Error::Raced)
        }
        Err(error) => Err(error.into()),
    }
}

/// How long until the next job that is available later is due; `None` when there is none.
pub async fn next_due(connection: &mut PgConnection) -> Result<Option<Duration>, Error> {
    let seconds: Option<f64> = sqlx::query_scalar(
        "select extract(epoch from min(run_at) - now())::float8
         from jobs
         where state = 'available'
           -- the words of jobs_available; a batch is never due later
           and not is_batched
           and run_at > now()",
    )
    .fetch_one(connection)
    .await?;
    Ok(seconds.map(|seconds| Duration::from_secs_f64(seconds.max(0.0))))
}

/// Counts for metrics and for tests.
#[derive(Debug, Clone, FromRow)]
pub struct StateCount {
    /// State of the jobs.
    pub state: String,
    /// How many.
    pub jobs: i64,
    /// How many of them are due and wait.
    pub past_due: i64,
    /// Age of the oldest that is due, in seconds.
    pub oldest_due_s: f64,
}

/// When a job of kind `prune` was completed last, in seconds since 1970.
pub async fn last_pruned(connection: &mut PgConnection) -> Result<Option<f64>, Error> {
    let at = sqlx::query_scalar(
        "select extract(epoch from max(finished_at))::float8
         from jobs
         where kind = 'prune'
           and state = 'completed'",
    );
    Ok(at.fetch_one(connection).await?)
}

/// Counts the live and dead jobs. Completed ones are not counted: there may be millions.
pub async fn count(connection: &mut PgConnection) -> Result<Vec<StateCount>, Error> {
    let counts = sqlx::query_as(
        "select state,
                count(*) as jobs,
                count(*) filter (where state = 'available' and run_at <= now()) as past_due,
                coalesce(extract(epoch from now() - min(run_at) filter (where state = 'available' and run_at <= now())), 0)::float8
                    as oldest_due_s
         from jobs
         where state in ('available', 'running', 'dead')
         group by state",
    )
    .fetch_all(connection)
    .await?;
    Ok(counts)
}
