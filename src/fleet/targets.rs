//! `fleet_targets`: what became of each tenant in a run.

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use sqlx::{FromRow, PgConnection};
use uuid::Uuid;

use super::RunId;
use crate::{
    page::{self, Asked, Page},
    tenants::TenantId,
};

/// Name of this list, in its cursors.
const LIST: &str = "fleet_targets";

/// Every column of [`Target`]; a macro because statements are literals.
macro_rules! select_target {
    ($rest:literal) => {
        concat!(
            "select run, tenant, wave, state, attempt, priority, run_at, from_version, to_version, applied,
                    duration_ms, error_code, error, fix, blocker, started_at, finished_at
             from fleet_targets ",
            $rest
        )
    };
}

/// Where a target is.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, sqlx::Type, Serialize, Deserialize, utoipa::ToSchema,
)]
#[sqlx(type_name = "text", rename_all = "lowercase")]
#[serde(rename_all = "lowercase")]
#[schema(as = FleetTargetState)]
pub enum TargetState {
    /// It waits: for its wave, for a slot, or for its next attempt.
    Pending,
    /// It is migrated just now.
    Running,
    /// Its database is on the run's version.
    Done,
    /// It is not migrated; `error_code` says why.
    Skipped,
    /// It could not be migrated.
    Failed,
}

impl TargetState {
    /// The word as it is stored and shown.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Pending => "pending",
            Self::Running => "running",
            Self::Done => "done",
            Self::Skipped => "skipped",
            Self::Failed => "failed",
        }
    }
}

/// A tenant in a run.
#[derive(Debug, Clone, FromRow, Serialize, utoipa::ToSchema)]
#[schema(as = FleetTarget)]
pub struct Target {
    /// The run.
    pub run: RunId,
    /// The tenant.
    pub tenant: TenantId,
    /// Its wave, counted from 1.
    pub wave: i32,
    /// Where it is.
    pub state: TargetState,
    /// How often it was begun.
    pub attempt: i32,
    /// The highest goes first.
    pub priority: i32,
    /// When its next attempt is due.
    pub run_at: DateTime<Utc>,
    /// The version it was on when it became a target.
    pub from_version: String,
    /// The version it is on now, as far as that was looked at.
    pub to_version: Option<String>,
    /// Migrations that were applied.
    pub applied: Option<i32>,
    /// How long the last attempt took.
    pub duration_ms: Option<f64>,
    /// Code of the last error, or why it was skipped.
    pub error_code: Option<String>,
    /// The last error with its chain of causes.
    pub error: Option<String>,
    /// What to do about it.
    pub fix: Option<String>,
    /// Who held the lock that was waited for.
    pub blocker: Option<serde_json::Value>,
    /// When the last attempt began.
    pub started_at: Option<DateTime<Utc>>,
    /// When it was done, skipped or failed.
    pub finished_at: Option<DateTime<Utc>>,
}

/// Which targets to list.
#[derive(Debug, Clone, Default)]
pub struct TargetFilter {
    /// Only targets in this state.
    pub state: Option<TargetState>,
}

/// A page of a run's targets, by the ids of the tenants.
pub async fn list_targets(
    connection: &mut PgConnection,
    run: RunId,
    filter: &TargetFilter,
    asked: &Asked,
) -> Result<Page<Target>, page::Error> {
    let after: Option<Uuid> = asked.after(LIST)?;
    let rows = sqlx::query_as(select_target!(
        "where run = $1
           and ($2::text is null or state = $2)
           and ($3::uuid is null or tenant > $3)
         order by tenant
         limit $4"
    ))
    .bind(run)
    .bind(filter.state.map(TargetState::name))
    .bind(after)
    .bind(asked.fetch_limit())
    .fetch_all(connection)
    .await?;
    Ok(asked.page(LIST, rows, |target: &Target| target.tenant))
}

/// The targets of the run that has not ended, by state; 0 in each where there is none.
pub async fn count_unfinished(connection: &mut PgConnection) -> sqlx::Result<Vec<(String, i64)>> {
    sqlx::query_as(
        "select states.state, count(targets.tenant)
         from unnest(array['pending', 'running', 'done', 'skipped', 'failed']) states (state)
         left join (
             select fleet_targets.state, tenant
             from fleet_targets
             join fleet_runs on fleet_runs.id = run
             where fleet_runs.state in ('preparing', 'running', 'paused')
         ) targets using (state)
         group by states.state",
    )
    .fetch_all(connection)
    .await
}

/// The failed targets wait again, with all their attempts before them; how many.
pub(super) async fn retry_failed(tx: &mut PgConnection, run: RunId) -> sqlx::Result<u64> {
    let retried = sqlx::query(
        "update fleet_targets
         set state = 'pending',
             attempt = 0,
             lost = 0,
             run_at = now(),
             finished_at = null
         where run = $1
           and state = 'failed'",
    );
    Ok(retried.bind(run).execute(tx).await?.rows_affected())
}

/// What an aborted run has not done is given up: what was tried before has failed, by the error that it met, and
/// nothing is to be tried again by this run.
pub(super) async fn give_up_rest(tx: &mut PgConnection, run: RunId) -> sqlx::Result<()> {
    sqlx::query(
        "update fleet_targets
         set state = case when error_code is null then 'skipped' else 'failed' end,
             error_code = coalesce(error_code, 'fleet_run_aborted'),
             error = coalesce(error, 'the run was aborted before its turn came'),
             fix = case
                 when state = 'failed' then replace(fix, 'tenantry fleet retry --failed ' || run, 'tenantry fleet migrate')
                 when error_code is not null then 'repair what the cause names; then: tenantry fleet migrate'
             end,
             finished_at = coalesce(finished_at, now())
         where run = $1
           and (state = 'pending' or (state = 'failed' and fix like '%tenantry fleet retry --failed%'))",
    )
    .bind(run)
    .execute(tx)
    .await?;
    Ok(())
}

/// A tenant that waits goes before all others of the run, at once; false when it does not wait.
pub(super) async fn put_first(
    tx: &mut PgConnection,
    run: RunId,
    tenant: TenantId,
) -> sqlx::Result<bool> {
    let put = sqlx::query(
        "update fleet_targets
         set priority = 1 + (select max(priority) from fleet_targets where run = $1),
             -- one that was put first never waits for a wave
             wave = 1,
             run_at = now()
         where run = $1
           and tenant = $2
           and state = 'pending'",
    );
    Ok(put
        .bind(run)
        .bind(tenant)
        .execute(tx)
        .await?
        .rows_affected()
        == 1)
}

/// How many targets can be taken up to this wave.
pub(super) async fn count_due(
    connection: &mut PgConnection,
    run: RunId,
    wave: i32,
) -> sqlx::Result<u32> {
    let due: i64 = sqlx::query_scalar(
        "select count(*)
         from fleet_targets
         where run = $1
           and state = 'pending'
           and wave <= $2
           and run_at <= now()",
    )
    .bind(run)
    .bind(wave)
    .fetch_one(connection)
    .await?;
    Ok(u32::try_from(due).unwrap_or(u32::MAX))
}

/// What is left of a run up to some wave.
#[derive(Debug, Clone, Copy, FromRow)]
pub(super) struct Left {
    pub(super) pending: i64,
    pub(super) running: i64,
    /// Seconds until the next one is due.
    pub(super) next_due_s: Option<f64>,
    /// Targets of this very wave that were not skipped, and how many of them failed.
    pub(super) of_wave: i64,
    pub(super) failed_of_wave: i64,
    /// Of the whole run. Counted together with what is left: a run's own counts may be older, and know
    /// nothing yet of what another slot has just recorded.
    pub(super) failed: i64,
    pub(super) targets: i64,
    pub(super) last_wave: i32,
    pub(super) last_ended_at: Option<DateTime<Utc>>,
}

/// What is left up to this wave, as of one moment.
pub(super) async fn find_left(tx: &mut PgConnection, run: RunId, wave: i32) -> sqlx::Result<Left> {
    sqlx::query_as(
        "select count(*) filter (where state = 'pending' and wave <= $2) as pending,
                count(*) filter (where state = 'running') as running,
                extract(epoch from min(run_at) filter (where state = 'pending' and wave <= $2) - now())::float8
                    as next_due_s,
                count(*) filter (where wave = $2 and state <> 'skipped') as of_wave,
                count(*) filter (where wave = $2 and state = 'failed') as failed_of_wave,
                count(*) filter (where state = 'failed') as failed,
                count(*) as targets,
                coalesce(max(wave), 0) as last_wave,
                max(finished_at) as last_ended_at
         from fleet_targets
         where run = $1",
    )
    .bind(run)
    .bind(wave)
    .fetch_one(tx)
    .await
}

/// A tenant that becomes a target.
#[derive(Debug)]
pub(super) struct NewTarget {
    pub(super) tenant: TenantId,
    pub(super) wave: i32,
    pub(super) from_version: String,
    /// Why it needs nothing, where that is known before it is looked at.
    pub(super) skipped: Option<&'static str>,
}

/// Writes targets; those that are there already stay as they are. How many are new.
pub(super) async fn insert(
    tx: &mut PgConnection,
    run: RunId,
    targets: &[NewTarget],
) -> sqlx::Result<u64> {
    let tenants: Vec<TenantId> = targets.iter().map(|target| target.tenant).collect();
    let waves: Vec<i32> = targets.iter().map(|target| target.wave).collect();
    let versions: Vec<&str> = targets.iter().map(|target| &*target.from_version).collect();
    let skipped: Vec<Option<&str>> = targets.iter().map(|target| target.skipped).collect();
    let inserted = sqlx::query(
        "insert into fleet_targets (run, tenant, wave, from_version, state, error_code, finished_at)
         select $1, tenant, wave, from_version,
                case when skipped is null then 'pending' else 'skipped' end,
                skipped,
                case when skipped is not null then now() end
         from unnest($2::uuid[], $3::integer[], $4::text[], $5::text[]) as new (tenant, wave, from_version, skipped)
         on conflict do nothing",
    )
    .bind(run)
    .bind(tenants)
    .bind(waves)
    .bind(versions)
    .bind(skipped)
    .execute(tx)
    .await?;
    Ok(inserted.rows_affected())
}

/// The tenants of a run's targets.
pub(super) async fn list_tenants(tx: &mut PgConnection, run: RunId) -> sqlx::Result<Vec<Uuid>> {
    sqlx::query_scalar("select tenant from fleet_targets where run = $1")
        .bind(run)
        .fetch_all(tx)
        .await
}
