//! Reads of the queue: what an operator sees, and what other modules ask about jobs of theirs. Changes nothing.

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use sqlx::{FromRow, PgConnection};

use super::{Job, JobId};
use crate::page::{self, Asked, Page};

/// Name of this list, in its cursors.
const LIST: &str = "jobs";

/// Where a job is in its life.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, Hash, sqlx::Type, Serialize, Deserialize, utoipa::ToSchema,
)]
#[sqlx(type_name = "text", rename_all = "lowercase")]
#[serde(rename_all = "lowercase")]
pub enum JobState {
    /// Waits until it is due, or for a worker.
    Available,
    /// An attempt is being made.
    Running,
    /// Done.
    Completed,
    /// Given up after its last attempt.
    Dead,
    /// Given up by an operator.
    Cancelled,
}

impl JobState {
    /// The word as it is stored and shown.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Available => "available",
            Self::Running => "running",
            Self::Completed => "completed",
            Self::Dead => "dead",
            Self::Cancelled => "cancelled",
        }
    }
}

/// A job as it is stored.
#[derive(Debug, Clone, FromRow, Serialize, utoipa::ToSchema)]
#[schema(as = Job)]
pub struct StoredJob {
    /// Number.
    #[schema(value_type = i64)]
    pub id: JobId,
    /// What to do.
    pub kind: String,
    /// The data of the kind; a newer version may know more kinds than this one.
    pub payload: serde_json::Value,
    /// Jobs of one key run one at a time: `<source>:<organization id>`.
    pub concurrency_key: Option<String>,
    /// At most one live job of one key.
    pub unique_key: Option<String>,
    /// Where it is in its life.
    pub state: JobState,
    /// Not before.
    pub run_at: DateTime<Utc>,
    /// Attempts made, or being made.
    pub attempt: i32,
    /// Attempts before it is dead.
    pub max_attempts: i32,
    /// Until when the running attempt owns it.
    pub lease_expires_at: Option<DateTime<Utc>>,
    /// When it was put into the queue.
    pub created_at: DateTime<Utc>,
    /// When it was completed, died or was cancelled.
    pub finished_at: Option<DateTime<Utc>>,
    /// Code of the newest attempt that failed, explained in docs/errors.md.
    pub error_code: Option<String>,
    /// Its error.
    pub error: Option<String>,
}

impl StoredJob {
    /// What it means; `None` for a kind that this version does not know.
    pub fn job(&self) -> Option<Job> {
        serde_json::from_value(self.payload.clone()).ok()
    }

    /// Source and organization that it is about, where it is about one.
    pub fn organization(&self) -> Option<(&str, &str)> {
        self.concurrency_key.as_deref()?.split_once(':')
    }
}

/// One attempt of a job.
#[derive(Debug, Clone, FromRow, Serialize, utoipa::ToSchema)]
pub struct Attempt {
    /// Which one, from 1 on.
    pub attempt: i32,
    /// Who made it.
    pub worker: String,
    /// When it began.
    pub started_at: DateTime<Utc>,
    /// When it ended.
    pub finished_at: Option<DateTime<Utc>>,
    /// `completed`, `retried`, `discarded`, `released` or `lost`.
    pub outcome: Option<String>,
    /// Stable code, explained in docs/errors.md.
    pub error_code: Option<String>,
    /// The error with its causes.
    pub error: Option<String>,
}

/// Which jobs to list.
#[derive(Debug, Clone, Default)]
pub struct Filter {
    /// Only jobs in this state.
    pub state: Option<JobState>,
    /// Only jobs of this kind.
    pub kind: Option<String>,
    /// Only jobs of this key: `<source>:<organization id>`.
    pub concurrency_key: Option<String>,
}

/// Every column of [`StoredJob`]; a macro because statements are literals.
macro_rules! select_job {
    ($rest:literal) => {
        concat!(
            "select job.id, job.kind, job.payload, job.concurrency_key, job.unique_key, job.state, job.run_at,
                    job.attempt, job.max_attempts, job.lease_expires_at, job.created_at, job.finished_at,
                    failed.error_code, failed.error
             from jobs job
             left join lateral (
                 select attempt.error_code, attempt.error
                 from job_attempts attempt
                 where attempt.job_id = job.id
                   and attempt.error_code is not null
                 order by attempt.attempt desc
                 limit 1
             ) as failed on true ",
            $rest
        )
    };
}

/// A job by its number.
pub async fn find_job(connection: &mut PgConnection, id: JobId) -> sqlx::Result<Option<StoredJob>> {
    sqlx::query_as(select_job!("where job.id = $1"))
        .bind(id)
        .fetch_optional(connection)
        .await
}

/// A page of jobs, the newest first.
pub async fn list_page(
    connection: &mut PgConnection,
    filter: &Filter,
    asked: &Asked,
) -> Result<Page<StoredJob>, page::Error> {
    let after: Option<i64> = asked.after(LIST)?;
    let rows = sqlx::query_as(select_job!(
        "where ($1::text is null or job.state = $1)
           and ($2::text is null or job.kind = $2)
           and ($3::text is null or job.concurrency_key = $3)
           and ($4::bigint is null or job.id < $4)
         order by job.id desc
         limit $5"
    ))
    .bind(filter.state.map(JobState::name))
    .bind(&filter.kind)
    .bind(&filter.concurrency_key)
    .bind(after)
    .bind(asked.fetch_limit())
    .fetch_all(connection)
    .await?;
    Ok(asked.page(LIST, rows, |job: &StoredJob| job.id.0))
}

/// The attempts of a job, the oldest first.
pub async fn list_attempts(connection: &mut PgConnection, id: JobId) -> sqlx::Result<Vec<Attempt>> {
    sqlx::query_as(
        "select attempt, worker, started_at, finished_at, outcome, error_code, error
         from job_attempts
         where job_id = $1
         order by attempt",
    )
    .bind(id)
    .fetch_all(connection)
    .await
}

/// When the next attempt of the waiting jobs of these unique keys is due; `None` when none waits.
pub async fn find_next_attempt(
    connection: &mut PgConnection,
    unique_keys: &[String],
) -> sqlx::Result<Option<DateTime<Utc>>> {
    sqlx::query_scalar(
        "select min(run_at)
         from jobs
         where unique_key = any($1)
           and state = 'available'",
    )
    .bind(unique_keys)
    .fetch_one(connection)
    .await
}

/// Whether jobs of a kind wait, or run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, FromRow)]
pub struct Traffic {
    /// Some are due and nobody has claimed them.
    pub waiting: bool,
    /// Some are running.
    pub running: bool,
}

/// Looks whether jobs of a kind wait or run.
pub async fn traffic(connection: &mut PgConnection, kind: &str) -> sqlx::Result<Traffic> {
    sqlx::query_as(
        "select exists (
                    select
                    from jobs
                    -- the words of jobs_available
                    where state = 'available'
                      and not is_batched
                      and run_at <= now()
                      and kind = $1
                ) as waiting,
                exists (select from jobs where state = 'running' and kind = $1) as running",
    )
    .bind(kind)
    .fetch_one(connection)
    .await
}

/// How many attempts of a job ended with an error that is none of these.
pub async fn count_errors(
    connection: &mut PgConnection,
    id: JobId,
    other_than: &[&str],
) -> sqlx::Result<i64> {
    sqlx::query_scalar(
        "select count(*) from job_attempts where job_id = $1 and error_code <> all($2)",
    )
    .bind(id)
    .bind(other_than)
    .fetch_one(connection)
    .await
}

/// Which of these claims nobody holds any more: their workers were lost, or gave them back.
pub async fn list_lost(
    connection: &mut PgConnection,
    claims: &[(JobId, i32)],
) -> sqlx::Result<Vec<(JobId, i32)>> {
    let (ids, attempts): (Vec<JobId>, Vec<i32>) = claims.iter().copied().unzip();
    sqlx::query_as(
        "select distinct held.id, held.attempt
         from unnest($1::bigint[], $2::integer[]) as held (id, attempt)
         where not exists (
             select
             from jobs
             where jobs.id = held.id
               and jobs.attempt = held.attempt
               and jobs.state = 'running'
         )",
    )
    .bind(ids)
    .bind(attempts)
    .fetch_all(connection)
    .await
}

/// Whether a job of one of these unique keys waits or runs.
pub async fn is_any_live(
    connection: &mut PgConnection,
    unique_keys: &[String],
) -> sqlx::Result<bool> {
    sqlx::query_scalar(
        "select exists (
             select
             from jobs
             where unique_key = any($1)
               and state in ('available', 'running')
         )",
    )
    .bind(unique_keys)
    .fetch_one(connection)
    .await
}
