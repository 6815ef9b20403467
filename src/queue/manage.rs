//! What an operator may do about a job.
//!
//! Guarantees: the job's row is looked at under its lock, so that no worker claims it in between; a
//! running job is never touched: its worker would not know; of one unique key at most one job is live.
//!
//! Does not: undo or do what the job's end means for others. `jobs` does, in the same transaction.

use sqlx::PgConnection;

use super::{JobId, JobState};
use crate::db;

/// Why a job is left as it is.
#[derive(Debug, thiserror::Error)]
pub enum Refused {
    /// The database does not answer, or refuses.
    #[error("the job cannot be changed")]
    Sql(#[from] sqlx::Error),
    /// There is none of this number.
    #[error("there is no job {0}")]
    Unknown(JobId),
    /// A worker has it.
    #[error("job {0} is running")]
    Running(JobId),
    /// It has ended in a way that cannot be changed.
    #[error("job {id} is {}", state.name())]
    WrongState {
        /// The job.
        id: JobId,
        /// How it is.
        state: JobState,
    },
    /// Another job for the same thing is live.
    #[error("another job does what job {0} was to do")]
    Superseded(JobId),
}

impl Refused {
    /// Stable code, explained in docs/errors.md.
    pub const fn code(&self) -> &'static str {
        match self {
            Self::Sql(_) => "control_database_unavailable",
            Self::Unknown(_) => "job_unknown",
            Self::Running(_) => "job_is_running",
            Self::WrongState { .. } => "job_wrong_state",
            Self::Superseded(_) => "job_superseded",
        }
    }
}

/// Makes a job due: one that was given up, with `attempts` further ones, or one that waits for its time.
///
/// Returns the state that it was in.
pub async fn retry_job(
    tx: &mut PgConnection,
    id: JobId,
    attempts: i32,
) -> Result<JobState, Refused> {
    let state = lock(tx, id).await?;
    match state {
        JobState::Running => return Err(Refused::Running(id)),
        JobState::Completed => return Err(Refused::WrongState { id, state }),
        JobState::Available | JobState::Dead | JobState::Cancelled => {}
    }
    let retried = sqlx::query(
        "update jobs
         set state = 'available',
             run_at = case when state = 'available' then least(run_at, now()) else now() end,
             finished_at = null,
             max_attempts = case when state = 'available' then max_attempts else attempt + $2 end
         where id = $1",
    )
    .bind(id)
    .bind(attempts)
    .execute(tx)
    .await;
    match retried {
        Ok(_) => Ok(state),
        // unique_violation: jobs_one_live_per_unique_key
        Err(error) if db::sqlstate(&error).as_deref() == Some("23505") => {
            Err(Refused::Superseded(id))
        }
        Err(error) => Err(error.into()),
    }
}

/// Gives up a job that waits or is dead. Returns the state that it was in.
pub async fn cancel_job(tx: &mut PgConnection, id: JobId) -> Result<JobState, Refused> {
    let state = lock(tx, id).await?;
    match state {
        JobState::Running => return Err(Refused::Running(id)),
        JobState::Completed | JobState::Cancelled => return Err(Refused::WrongState { id, state }),
        JobState::Available | JobState::Dead => {}
    }
    sqlx::query(
        "update jobs
         set state = 'cancelled',
             finished_at = now()
         where id = $1",
    )
    .bind(id)
    .execute(tx)
    .await?;
    Ok(state)
}

async fn lock(tx: &mut PgConnection, id: JobId) -> Result<JobState, Refused> {
    let state = sqlx::query_scalar("select state from jobs where id = $1 for update")
        .bind(id)
        .fetch_optional(tx)
        .await?;
    state.ok_or(Refused::Unknown(id))
}

/// Dead jobs that were to process this event are dealt with: another one does it.
pub async fn lay_to_rest(tx: &mut PgConnection, event: i64) -> sqlx::Result<()> {
    // the words of jobs_dead_by_event
    sqlx::query(
        "update jobs
         set state = 'cancelled',
             finished_at = now()
         where state = 'dead'
           and kind = 'process_event'
           and payload ->> 'event' = $1",
    )
    .bind(event.to_string())
    .execute(tx)
    .await?;
    Ok(())
}
