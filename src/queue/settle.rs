//! The ends of an attempt.
//!
//! Guarantees: only the attempt that holds the claim settles the job; whoever lost it changes nothing.

use std::time::Duration;

use sqlx::PgConnection;

use super::{Claim, Error, Failure};

/// How an attempt ends.
#[derive(Clone, Copy)]
enum End {
    Completed,
    Retried,
    Discarded,
    Released,
}

impl End {
    /// The outcome of the attempt.
    const fn outcome(self) -> &'static str {
        match self {
            Self::Completed => "completed",
            Self::Retried => "retried",
            Self::Discarded => "discarded",
            Self::Released => "released",
        }
    }

    /// The state of the job after it.
    const fn state(self) -> &'static str {
        match self {
            Self::Completed => "completed",
            Self::Retried | Self::Released => "available",
            Self::Discarded => "dead",
        }
    }
}

/// Completes the job, in the caller's transaction. An error means: roll back, the claim is lost.
pub async fn complete(tx: &mut PgConnection, claim: &Claim) -> Result<(), Error> {
    settle(tx, claim, End::Completed, None, Duration::ZERO).await
}

/// Puts the job back, to run after `delay`.
pub async fn retry(
    tx: &mut PgConnection,
    claim: &Claim,
    failure: &Failure,
    delay: Duration,
) -> Result<(), Error> {
    settle(tx, claim, End::Retried, Some(failure), delay).await
}

/// Puts the job back for any worker at once; a shutdown is not a failure.
pub async fn release(tx: &mut PgConnection, claim: &Claim) -> Result<(), Error> {
    settle(tx, claim, End::Released, None, Duration::ZERO).await
}

/// Puts the job back, to run after `delay`; somebody else's limit is not a failure.
pub async fn postpone(
    tx: &mut PgConnection,
    claim: &Claim,
    reason: &Failure,
    delay: Duration,
) -> Result<(), Error> {
    settle(tx, claim, End::Released, Some(reason), delay).await
}

/// Ends the job as a dead letter, unless it was asked for again meanwhile: then it begins anew.
pub async fn bury(tx: &mut PgConnection, claim: &Claim, failure: &Failure) -> Result<(), Error> {
    settle(tx, claim, End::Discarded, Some(failure), Duration::ZERO).await
}

async fn settle(
    tx: &mut PgConnection,
    claim: &Claim,
    end: End,
    failure: Option<&Failure>,
    delay: Duration,
) -> Result<(), Error> {
    let settled = sqlx::query(
        "with ended as (
             select id, attempt,
                    -- one that failed and was asked for meanwhile is not done with
                    case when roused_with is not null and $3 = 'dead' then 'available' else $3 end as state,
                    case when roused_with is not null then now() else now() + make_interval(secs => $4) end as run_at,
                    case
                        -- what was only given back does not count against the limit
                        when $5 = 'released' then max_attempts + 1
                        when roused_with is not null then greatest(max_attempts, attempt + roused_with)
                        else max_attempts
                    end as max_attempts
             from jobs
             where id = $1
               and attempt = $2
               and state = 'running'
             for update
         ),
         settled as (
             update jobs
             set state = ended.state,
                 lease_expires_at = null,
                 roused_with = null,
                 run_at = case when ended.state = 'available' then ended.run_at else jobs.run_at end,
                 finished_at = case when ended.state = 'available' then null else now() end,
                 max_attempts = ended.max_attempts
             from ended
             where jobs.id = ended.id
             returning jobs.id, jobs.attempt
         )
         update job_attempts
         set outcome = $5,
             finished_at = now(),
             error_code = $6,
             error = $7
         from settled
         where job_attempts.job_id = settled.id
           and job_attempts.attempt = settled.attempt",
    )
    .bind(claim.id)
    .bind(claim.attempt)
    .bind(end.state())
    .bind(delay.as_secs_f64())
    .bind(end.outcome())
    .bind(failure.map(|failure| failure.code))
    .bind(failure.map(|failure| &failure.error))
    .execute(tx)
    .await?;
    if settled.rows_affected() == 1 {
        Ok(())
    } else {
        Err(Error::LostClaim {
            id: claim.id,
            attempt: claim.attempt,
        })
    }
}
