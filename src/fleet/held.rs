//! Targets as a job holds them: taken, taken over from one that was lost, recorded, given back.
//!
//! Guarantees: every write names the job and the attempt that hold the target, and changes nothing of
//! another's.

use std::time::Duration;

use serde::Serialize;
use sqlx::{FromRow, PgConnection, types::Json};
use uuid::Uuid;

use super::{RunId, runs::Progress, targets::TargetState, work::Prepared};
use crate::{
    causes::chain,
    queue::{self, Claim, JobId},
    tenants::{ReachedVersion, TenantId},
};

/// The most targets that a job takes at once.
const BATCH: i64 = 16;

/// Work of this length is not spread over slots: taking it would cost more.
const QUICK: Duration = Duration::from_millis(50);

/// The most that [`min_batch`] returns: the next targets may take longer than those before.
const MOST_QUICK: i64 = 4;

/// How many targets to take at least, if there are that many, where each takes this long: quick ones in batches, so
/// that taking them does not dominate.
pub(super) fn min_batch(each: Duration) -> i64 {
    let quick = QUICK.as_micros() / each.as_micros().max(1);
    i64::try_from(quick)
        .unwrap_or(MOST_QUICK)
        .clamp(1, MOST_QUICK)
}

/// A target that this job holds.
#[derive(Debug, Clone, FromRow)]
pub(super) struct Held {
    pub(super) tenant: TenantId,
    /// Names sessions in its database.
    pub(super) id: Uuid,
    /// Counted from 1.
    pub(super) attempt: i32,
    /// How many of the attempts before ended with the loss of their process.
    pub(super) lost: i32,
    /// The version that its tenant's row had when the run began.
    pub(super) from_version: String,
    /// Whether another attempt, which was lost, may have begun it.
    pub(super) is_taken_over: bool,
    /// Whether the run goes on: else only what was begun is brought to its end.
    pub(super) is_wanted: bool,
}

/// What became of a target.
#[derive(Debug, Serialize)]
pub(super) struct Record {
    pub(super) tenant: TenantId,
    /// `done`, `skipped`, `failed`, or `pending` for another attempt.
    pub(super) state: TargetState,
    pub(super) to_version: Option<String>,
    pub(super) applied: Option<u32>,
    pub(super) duration_ms: Option<f64>,
    pub(super) error_code: Option<&'static str>,
    pub(super) error: Option<String>,
    pub(super) fix: Option<String>,
    pub(super) blocker: Option<serde_json::Value>,
    /// Delay before the next attempt.
    pub(super) delay_s: f64,
    /// Version and blueprint's hash that the tenant's row had when it was begun.
    #[serde(skip)]
    pub(super) before: Option<(String, Option<String>)>,
}

impl Record {
    /// What the tenant's row is to say of its database now; `None` where that is as before.
    pub(super) fn reached_version<'a>(
        &'a self,
        prepared: &'a Prepared<'_>,
    ) -> Option<ReachedVersion<'a>> {
        let (version, hash) = self.before.as_ref()?;
        Some(ReachedVersion {
            tenant: self.tenant,
            before: (version, hash.as_deref()),
            version: self.to_version.as_deref()?,
            blueprint_hash: (self.state == TargetState::Done).then_some(&*prepared.goal.hash),
        })
    }

    /// The control database does not take it as it is.
    pub(super) fn refused(&mut self, error: &sqlx::Error, run: RunId) {
        *self = Self {
            state: TargetState::Failed,
            error_code: Some("control_database_refused"),
            error: Some(format!("its outcome cannot be recorded: {}", chain(error))),
            fix: Some(format!(
                "fix what the cause names; then: tenantry fleet retry --failed {run}"
            )),
            to_version: None,
            blocker: None,
            delay_s: 0.0,
            before: None,
            ..*self
        };
    }
}

/// Takes targets that are due, fewer of them the fewer there are: the last ones are spread over all slots,
/// as far as that is worth it.
pub(super) async fn take(
    tx: &mut PgConnection,
    run: RunId,
    progress: &Progress,
    claim: &Claim,
    min_batch: i64,
) -> sqlx::Result<Vec<Held>> {
    sqlx::query_as(
        "with due as (
             select count(*) as targets
             from (
                 select
                 from fleet_targets
                 where run = $1
                   and state = 'pending'
                   and wave <= $2
                   and run_at <= now()
                 limit $5 * 2 * $6
             ) nearest
         ),
         next as (
             select tenant
             from fleet_targets
             where run = $1
               and state = 'pending'
               and wave <= $2
               and run_at <= now()
             order by wave, priority desc, tenant
             limit (select greatest($7, least($6, targets / ($5 * 2))) from due)
             for update skip locked
         ),
         taken as (
             update fleet_targets
             set state = 'running',
                 attempt = attempt + 1,
                 held_by = $3,
                 held_attempt = $4,
                 started_at = now()
             from next
             where fleet_targets.run = $1
               and fleet_targets.tenant = next.tenant
             returning fleet_targets.tenant, id, attempt, lost, from_version, wave, priority
         )
         select tenant, id, attempt, lost, from_version, false as is_taken_over, true as is_wanted
         from taken
         order by wave, priority desc, tenant",
    )
    .bind(run)
    .bind(progress.current_wave)
    .bind(claim.id)
    .bind(claim.attempt)
    .bind(i64::from(progress.concurrency))
    .bind(BATCH)
    .bind(min_batch)
    .fetch_all(tx)
    .await
}

/// The attempts that have begun something in the run and no longer hold their jobs.
pub(super) async fn list_lost(
    connection: &mut PgConnection,
    run: RunId,
) -> sqlx::Result<Vec<(JobId, i32)>> {
    let holders: Vec<(JobId, i32)> = sqlx::query_as(
        "select distinct held_by, held_attempt
         from fleet_targets
         where run = $1
           and state = 'running'",
    )
    .bind(run)
    .fetch_all(&mut *connection)
    .await?;
    queue::list_lost(connection, &holders).await
}

/// Takes over a target of an attempt that no longer holds its job, the least tried ones first.
///
/// One at a time, since it counts as an attempt: the next process may die with it as well.
pub(super) async fn take_over(
    tx: &mut PgConnection,
    run: RunId,
    claim: &Claim,
) -> sqlx::Result<Vec<Held>> {
    let lost = list_lost(tx, run).await?;
    if lost.is_empty() {
        return Ok(Vec::new());
    }
    let (jobs, attempts): (Vec<JobId>, Vec<i32>) = lost.into_iter().unzip();
    sqlx::query_as(
        "with lost as (
             select tenant
             from fleet_targets
             join unnest($2::bigint[], $3::integer[]) as holder (job, attempt)
                 on held_by = job and held_attempt = holder.attempt
             where run = $1
               and state = 'running'
             order by fleet_targets.attempt, tenant
             limit 1
             for update of fleet_targets skip locked
         )
         update fleet_targets
         set held_by = $4,
             held_attempt = $5,
             attempt = attempt + 1,
             lost = fleet_targets.lost + 1,
             started_at = now()
         from lost
         where fleet_targets.run = $1
           and fleet_targets.tenant = lost.tenant
         returning fleet_targets.tenant, fleet_targets.id, fleet_targets.attempt, fleet_targets.lost, from_version,
                   true as is_taken_over,
                   (select state = 'running' from fleet_runs where id = $1) as is_wanted",
    )
    .bind(run)
    .bind(jobs)
    .bind(attempts)
    .bind(claim.id)
    .bind(claim.attempt)
    .fetch_all(tx)
    .await
}

/// Targets of lost attempts fail, if for this long nothing has happened in the run, which is over, and to their jobs;
/// how many.
pub(super) async fn give_up_lost(
    tx: &mut PgConnection,
    run: RunId,
    after: Duration,
) -> sqlx::Result<u64> {
    let lost = list_lost(tx, run).await?;
    let (jobs, attempts): (Vec<JobId>, Vec<i32>) = lost.into_iter().unzip();
    let given_up = sqlx::query(
        "with quiet as (
             select now() - make_interval(secs => $4) as since
         ),
         lost as (
             select tenant
             from fleet_targets
             join unnest($2::bigint[], $3::integer[]) as holder (job, attempt)
                 on held_by = job and held_attempt = holder.attempt
             join fleet_runs on fleet_runs.id = run
             cross join quiet
             where run = $1
               and fleet_targets.state = 'running'
               and fleet_runs.finished_at < since
               and not exists (
                   select
                   from fleet_targets other
                   where other.run = $1
                     and greatest(other.started_at, other.finished_at) >= since
               )
               and not exists (
                   select
                   from job_attempts
                   where job_id = held_by
                     and job_attempts.attempt = held_attempt
                     and finished_at >= since
               )
             order by tenant
             for update of fleet_targets skip locked
         )
         update fleet_targets
         set state = 'failed',
             error_code = 'fleet_blueprint_unknown',
             error = 'the process that migrated it was lost, and no replica has the blueprint of the run any more',
             fix = 'begin a run to the blueprint that replicas have: it looks at what the database is on',
             held_by = null,
             held_attempt = null,
             finished_at = now()
         from lost
         where fleet_targets.run = $1
           and fleet_targets.tenant = lost.tenant",
    );
    let given_up = given_up
        .bind(run)
        .bind(jobs)
        .bind(attempts)
        .bind(after.as_secs_f64());
    Ok(given_up.execute(tx).await?.rows_affected())
}

/// Writes what became of targets that this attempt holds; how many it did hold.
pub(super) async fn record(
    tx: &mut PgConnection,
    run: RunId,
    claim: &Claim,
    records: &[Record],
) -> sqlx::Result<u64> {
    let recorded = sqlx::query(
        "update fleet_targets
         set state = ended.state,
             to_version = coalesce(ended.to_version, fleet_targets.to_version),
             applied = ended.applied,
             duration_ms = ended.duration_ms,
             error_code = ended.error_code,
             error = ended.error,
             fix = ended.fix,
             blocker = ended.blocker,
             run_at = now() + make_interval(secs => ended.delay_s),
             finished_at = case when ended.state <> 'pending' then now() end,
             held_by = null,
             held_attempt = null
         from jsonb_to_recordset($4) as ended (
             tenant uuid, state text, to_version text, applied integer, duration_ms double precision,
             error_code text, error text, fix text, blocker jsonb, delay_s double precision
         )
         where fleet_targets.run = $1
           and fleet_targets.tenant = ended.tenant
           and fleet_targets.state = 'running'
           and fleet_targets.held_by = $2
           and fleet_targets.held_attempt = $3",
    )
    .bind(run)
    .bind(claim.id)
    .bind(claim.attempt)
    .bind(Json(records))
    .execute(tx)
    .await?;
    Ok(recorded.rows_affected())
}

/// Targets that this attempt holds and has not begun wait again.
pub(super) async fn give_back(
    tx: &mut PgConnection,
    run: RunId,
    claim: &Claim,
    tenants: &[TenantId],
) -> sqlx::Result<()> {
    sqlx::query(
        "update fleet_targets
         set state = 'pending',
             attempt = attempt - 1,
             held_by = null,
             held_attempt = null
         where run = $1
           and tenant = any($4)
           and state = 'running'
           and held_by = $2
           and held_attempt = $3",
    )
    .bind(run)
    .bind(claim.id)
    .bind(claim.attempt)
    .bind(tenants)
    .execute(tx)
    .await?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quick_targets_are_taken_together_and_slow_ones_one_by_one() {
        let min_of = |each| min_batch(Duration::from_millis(each));
        assert_eq!([0, 1, 10, 25, 60, 5_000].map(min_of), [4, 4, 4, 2, 1, 1]);
    }
}
