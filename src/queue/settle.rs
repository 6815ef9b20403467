//! The ends of an attempt.
//!
//! Guarantees: only the attempt that holds the claim settles the job; whoever lost it changes nothing.

use std::time::Duration;

use sqlx::PgConnection;

use super::{Claim, Error, Failure};

/// Completes the job, in the caller's transaction. An error means: roll back, the claim is lost.
pub async fn complete(tx: &mut PgConnection, claim: &Claim) -> Result<(), Error> {
    settle(tx, claim, "completed", "completed", None, Duration::ZERO).await
}

/// Puts the job back, to run after `delay`.
pub async fn retry(
    tx: &mut PgConnection,
    claim: &Claim,
    failure: &Failure,
    delay: Duration,
) -> Result<(), Error> {
    settle(tx, claim, "available", "retried", Some(failure), delay).await
}

/// Puts the job back for any worker at once; a shutdown is not a failure.
pub async fn release(tx: &mut PgConnection, claim: &Claim) -> Result<(), Error> {
    settle(tx, claim, "available", "released", None, Duration::ZERO).await
}

/// Ends the job as a dead letter.
pub async fn bury(tx: &mut PgConnection, claim: &Claim, failure: &Failure) -> Result<(), Error> {
    settle(
        tx,
        claim,
        "dead",
        "discarded",
        Some(failure),
        Duration::ZERO,
    )
    .await
}

async fn settle(
    tx: &mut PgConnection,
    claim: &Claim,
    state: &str,
    outcome: &str,
    failure: Option<&Failure>,
    delay: Duration,
) -> Result<(), Error> {
    let settled = sqlx::query(
        "with settled as (
             update jobs
             set state = $3,
                 lease_expires_at = null,
                 run_at = case when $3 = 'available' then now() + make_interval(secs => $4) else run_at end,
                 finished_at = case when $3 = 'available' then null else now() end,
                 -- a released job has not failed: its attempt does not count against the limit
                 max_attempts = max_attempts + case when $5 = 'released' then 1 else 0 end
             where id = $1
               and attempt = $2
               and state = 'running'
             returning id, attempt
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
    .bind(state)
    .bind(delay.as_secs_f64())
    .bind(outcome)
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
