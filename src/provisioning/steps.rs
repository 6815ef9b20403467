//! The record of each step: the checkpoint, and the timeline that operators see.
//!
//! Guarantees: written only by the attempt that holds the job, and only of a tenant that is still to be
//! made ready; a step that is done stays done until it is undone.
//!
//! Commits of `advance` do not wait for the disk, except activation's. The log is written in order, so
//! a crash of the server can only lose the last of these records together with all that came after
//! them in the control database; each step looks first, and runs again. Activation waits, and with
//! it every record before it is on disk.

use std::time::Duration;

use chrono::{DateTime, Utc};
use serde::Serialize;
use sqlx::{FromRow, PgConnection};

use super::{PLAN, Step};
use crate::{
    queue::{self, Claim, Failure},
    tenants::TenantId,
};

/// Steps before the plan, of a tenant whose organization was registered here and is made at the provider.
pub const PROVIDER_STEPS: [&str; 2] = [CREATE_ORGANIZATION, INVITE_USER];

/// The organization is made at the provider.
pub const CREATE_ORGANIZATION: &str = "create_organization";

/// Whoever signs up becomes its administrator there, or is invited to.
pub const INVITE_USER: &str = "invite_user";

/// A step of a tenant.
#[derive(Debug, Clone, FromRow, Serialize)]
pub struct StepRecord {
    /// Name of the step.
    pub name: String,
    /// `running`, `done` or `failed`.
    pub state: String,
    /// How often it was begun.
    pub attempts: i32,
    /// When it was last begun.
    pub started_at: DateTime<Utc>,
    /// How long it took, when it is done, in milliseconds.
    pub duration_ms: Option<f64>,
    /// Stable code of the last error.
    pub error_code: Option<String>,
    /// The last error, with its chain of causes.
    pub error: Option<String>,
}

/// The commit of this transaction does not wait for the disk: for what the next attempt finds out by looking.
pub(super) async fn do_not_wait_for_disk(tx: &mut PgConnection) -> sqlx::Result<()> {
    sqlx::query("set local synchronous_commit = off")
        .execute(tx)
        .await?;
    Ok(())
}

/// Names of the steps that are done.
pub async fn done(connection: &mut PgConnection, tenant: TenantId) -> sqlx::Result<Vec<String>> {
    sqlx::query_scalar(
        "select step from provisioning_steps where tenant_id = $1 and state = 'done'",
    )
    .bind(tenant)
    .fetch_all(connection)
    .await
}

/// Whether a step of a tenant is done.
pub async fn is_done(
    connection: &mut PgConnection,
    tenant: TenantId,
    step: &'static str,
) -> sqlx::Result<bool> {
    sqlx::query_scalar(
        "select exists (
             select
             from provisioning_steps
             where tenant_id = $1
               and step = $2
               and state = 'done'
         )",
    )
    .bind(tenant)
    .bind(step)
    .fetch_one(connection)
    .await
}

/// A step at the provider begins, ends or fails. The caller's transaction holds the job, and knows that the tenant is wanted.
pub async fn note_at_provider(
    tx: &mut PgConnection,
    tenant: TenantId,
    step: &'static str,
    went: Went<'_>,
) -> sqlx::Result<()> {
    let (state, took, failure) = match went {
        Went::Begun => ("running", None, None),
        Went::Done(took) => ("done", Some(took.as_secs_f64() * 1000.0), None),
        Went::Failed(failure) => ("failed", None, Some(failure)),
    };
    sqlx::query(
        "insert into provisioning_steps as step
             (tenant_id, step, state, duration_ms, error_code, error, finished_at)
         values ($1, $2, $3, $4, $5, $6, case when $3 <> 'running' then now() end)
         on conflict (tenant_id, step) do update
         set state = excluded.state,
             attempts = step.attempts + (excluded.state = 'running')::integer,
             started_at = case when excluded.state = 'running' then now() else step.started_at end,
             finished_at = excluded.finished_at,
             duration_ms = excluded.duration_ms,
             error_code = excluded.error_code,
             error = excluded.error
         where step.state <> 'done'",
    )
    .bind(tenant)
    .bind(step)
    .bind(state)
    .bind(took)
    .bind(failure.map(|failure| failure.code))
    .bind(failure.map(|failure| failure.error.as_str()))
    .execute(tx)
    .await?;
    Ok(())
}

/// How a step at the provider went.
#[derive(Debug, Clone, Copy)]
pub enum Went<'a> {
    /// It was begun.
    Begun,
    /// It is done, and took this long.
    Done(Duration),
    /// It failed.
    Failed(&'a Failure),
}

/// All steps of a tenant that were begun, in the order in which they were.
pub async fn list(
    connection: &mut PgConnection,
    tenant: TenantId,
) -> sqlx::Result<Vec<StepRecord>> {
    sqlx::query_as(
        "select step as name, state, attempts, started_at, duration_ms, error_code, error
         from provisioning_steps
         where tenant_id = $1
         order by started_at, step",
    )
    .bind(tenant)
    .fetch_all(connection)
    .await
}

/// Forgets every step that was done in, or to, a database that is gone.
pub async fn forget_database(tx: &mut PgConnection, tenant: TenantId) -> sqlx::Result<()> {
    let in_database = PLAN.map(Step::name);
    let in_database = in_database
        .iter()
        .filter(|step| **step != Step::Place.name());
    sqlx::query("delete from provisioning_steps where tenant_id = $1 and step = any($2)")
        .bind(tenant)
        .bind(in_database.copied().collect::<Vec<_>>())
        .execute(tx)
        .await?;
    Ok(())
}

/// Forgets a step that was undone.
pub(super) async fn forget(
    connection: &mut PgConnection,
    claim: &Claim,
    tenant: TenantId,
    step: Step,
) -> Result<(), queue::Error> {
    let (is_held,): (bool,) = sqlx::query_as(
        "with held as (
             select from jobs where id = $1 and attempt = $2 and state = 'running'
         ),
         forgotten as (
             delete from provisioning_steps
             using held
             where tenant_id = $3
               and step = $4
         )
         select exists (select from held)",
    )
    .bind(claim.id)
    .bind(claim.attempt)
    .bind(tenant)
    .bind(step.name())
    .fetch_one(connection)
    .await?;
    fenced(claim, is_held)
}

/// What became of a change from one step to the next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Advanced {
    /// It is on record.
    Recorded,
    /// Nobody wants the tenant any more: what did not have to be written was not.
    Unwanted,
}

/// A step is done, the next one begins, or both: one statement, and one commit.
///
/// For a tenant that was abandoned meanwhile nothing is recorded; for one that was suspended nothing begins.
pub(super) async fn advance(
    connection: &mut PgConnection,
    claim: &Claim,
    tenant: TenantId,
    done: Option<(Step, Duration)>,
    next: Option<Step>,
) -> Result<Advanced, queue::Error> {
    let (is_held, is_finished, is_started): (bool, bool, bool) = sqlx::query_as(
        "with held as (
             select from jobs where id = $1 and attempt = $2 and state = 'running'
         ),
         -- locked before the registration that follows its steps: whoever links a tenant holds them in this order,
         -- and the second step's foreign key would ask for the tenant only after the first step's trigger
         wanted as (
             select id, state from tenants where id = $3 for key share
         ),
         finished as (
             update provisioning_steps
             set state = 'done',
                 finished_at = now(),
                 duration_ms = $5,
                 error_code = null,
                 error = null
             -- for this transaction, which may be this statement: its commit does not wait for the disk
             from set_config('synchronous_commit', coalesce($6, current_setting('synchronous_commit')), true),
                  held,
                  wanted
             where wanted.state <> 'archived'
               and tenant_id = wanted.id
               and step = $4
             returning 1
         ),
         started as (
             insert into provisioning_steps (tenant_id, step, state)
             select wanted.id, $7, 'running'
             from set_config('synchronous_commit', 'off', true), held, wanted
             where $7::text is not null
               -- neither suspended nor abandoned meanwhile
               and wanted.state = 'provisioning'
               -- after it, so that whoever follows sees them in this order
               and ($4::text is null or exists (select from finished))
             on conflict (tenant_id, step) do update
             set state = 'running',
                 attempts = provisioning_steps.attempts + 1,
                 started_at = now(),
                 finished_at = null
             where provisioning_steps.state <> 'done'
             returning 1
         )
         select exists (select from held), exists (select from finished), exists (select from started)",
    )
    .bind(claim.id)
    .bind(claim.attempt)
    .bind(tenant)
    .bind(done.map(|(step, _)| step.name()))
    .bind(done.map(|(_, took)| took.as_secs_f64() * 1000.0))
    // the record of activation is part of the transaction that opens the tenant, and as durable
    .bind(done.and_then(|(step, _)| (step != Step::Activate).then_some("off")))
    .bind(next.map(Step::name))
    .fetch_one(connection)
    .await?;
    fenced(claim, is_held)?;
    let is_recorded = (done.is_none() || is_finished) && (next.is_none() || is_started);
    Ok(if is_recorded {
        Advanced::Recorded
    } else {
        Advanced::Unwanted
    })
}

/// The step failed; the caller's transaction settles the job and with it checks the fence.
pub async fn fail(
    tx: &mut PgConnection,
    tenant: TenantId,
    step: Step,
    failure: &Failure,
) -> sqlx::Result<()> {
    sqlx::query(
        "insert into provisioning_steps (tenant_id, step, state, finished_at, error_code, error)
         values ($1, $2, 'failed', now(), $3, $4)
         on conflict (tenant_id, step) do update
         set state = 'failed',
             finished_at = now(),
             error_code = excluded.error_code,
             error = excluded.error
         where provisioning_steps.state <> 'done'",
    )
    .bind(tenant)
    .bind(step.name())
    .bind(failure.code)
    .bind(&failure.error)
    .execute(tx)
    .await?;
    Ok(())
}

fn fenced(claim: &Claim, is_held: bool) -> Result<(), queue::Error> {
    if is_held {
        Ok(())
    } else {
        Err(queue::Error::LostClaim {
            id: claim.id,
            attempt: claim.attempt,
        })
    }
}
