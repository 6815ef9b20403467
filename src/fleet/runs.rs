//! `fleet_runs`: what a run is to do, and how far it has got.

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use sqlx::{FromRow, PgConnection, types::Json};
use uuid::Uuid;

use super::Portion;
use crate::{
    page::{self, Asked, Page},
    tenants::{Selection, TenantId},
};

/// Name of the list of runs, in its cursors.
const LIST: &str = "fleet_runs";

/// Every column of [`Run`], and its counts; a macro because statements are literals.
macro_rules! select_run {
    ($rest:literal) => {
        concat!(
            "select id, state, wanted_version, blueprint_hash, version, is_dry, waves, current_wave, concurrency,
                    max_failures, forgiven, selection - 'clone' as selection,
                    coalesce(selection -> 'clone', '[]') as clones, rehearsals, failure, created_by, created_at, prepared_at,
                    finished_at, counts
             from fleet_runs,
             lateral (
                 select jsonb_build_object(
                     'pending', count(*) filter (where fleet_targets.state = 'pending'),
                     'running', count(*) filter (where fleet_targets.state = 'running'),
                     'done', count(*) filter (where fleet_targets.state = 'done'),
                     'skipped', count(*) filter (where fleet_targets.state = 'skipped'),
                     'failed', count(*) filter (where fleet_targets.state = 'failed')
                 ) as counts
                 from fleet_targets
                 where run = fleet_runs.id
             ) counted ",
            $rest
        )
    };
}

/// Id of a fleet run.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, Hash, sqlx::Type, Serialize, Deserialize, utoipa::ToSchema,
)]
#[sqlx(transparent)]
#[serde(transparent)]
pub struct RunId(pub Uuid);

impl std::fmt::Display for RunId {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.0.fmt(f)
    }
}

/// Where a run is.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, sqlx::Type, Serialize, Deserialize, utoipa::ToSchema,
)]
#[sqlx(type_name = "text", rename_all = "lowercase")]
#[serde(rename_all = "lowercase")]
#[schema(as = FleetRunState)]
pub enum RunState {
    /// Templates and pools are made; no tenant is touched.
    Preparing,
    /// Tenants are migrated.
    Running,
    /// Nothing new is begun until it is resumed.
    Paused,
    /// Every target is done or skipped.
    Done,
    /// It could not be prepared, was stopped by failures, or ended with some.
    Failed,
    /// An operator ended it.
    Aborted,
}

impl RunState {
    /// The word as it is stored and shown.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Preparing => "preparing",
            Self::Running => "running",
            Self::Paused => "paused",
            Self::Done => "done",
            Self::Failed => "failed",
            Self::Aborted => "aborted",
        }
    }

    /// Whether nothing happens any more unless somebody resumes it.
    pub const fn is_over(self) -> bool {
        matches!(self, Self::Done | Self::Failed | Self::Aborted)
    }
}

/// How many targets are in each state.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
#[schema(as = FleetCounts)]
pub struct Counts {
    /// Waiting.
    pub pending: u32,
    /// Being migrated.
    pub running: u32,
    /// On the run's version, including those that were on it before, with nothing applied.
    pub done: u32,
    /// Ahead of the run's version, no longer migratable, or not reached before the run was aborted.
    pub skipped: u32,
    /// Could not be migrated.
    pub failed: u32,
}

impl Counts {
    /// All of them.
    pub const fn total(&self) -> u32 {
        self.pending + self.running + self.settled()
    }

    /// Those that have ended, one way or another.
    pub const fn settled(&self) -> u32 {
        self.done + self.skipped + self.failed
    }
}

/// Why a run stopped.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
#[schema(as = FleetRunFailure)]
pub struct RunFailure {
    /// Stable code, explained in docs/errors.md.
    pub code: String,
    /// What went wrong, with its chain of causes.
    pub cause: String,
    /// What to do.
    pub fix: String,
}

/// What became of a throw-away clone.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, utoipa::ToSchema)]
#[schema(as = FleetRehearsal)]
pub struct RehearsalResult {
    /// The cluster.
    pub cluster: String,
    /// The tenant whose database was cloned; none where it was a template.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tenant: Option<TenantId>,
    /// Hash of the blueprint whose template, or whose tenant's database, was cloned.
    pub blueprint_hash: String,
    /// The version it began with.
    pub from_version: String,
    /// Tenants that are on it.
    pub tenants: u32,
    /// Migrations that were applied.
    pub applied: u32,
    /// How long the migration took; without cloning and dropping.
    pub duration_ms: f64,
    /// Why it failed, if it did.
    pub failure: Option<RunFailure>,
}

/// A fleet run.
#[derive(Debug, Clone, FromRow, Serialize, utoipa::ToSchema)]
#[schema(as = FleetRun)]
pub struct Run {
    /// Id.
    pub id: RunId,
    /// Where it is.
    pub state: RunState,
    /// The version that was asked for; none for the blueprint's newest.
    pub wanted_version: Option<String>,
    /// Hash of the blueprint that tenants are brought to; settled while the run is prepared.
    pub blueprint_hash: Option<String>,
    /// Schema version of that blueprint.
    pub version: Option<String>,
    /// Whether only throw-away clones are migrated.
    pub is_dry: bool,
    /// How far each wave goes.
    #[sqlx(json)]
    pub waves: Vec<Portion>,
    /// The wave it is in, counted from 1.
    pub current_wave: i32,
    /// Maximum number of databases migrated at once, over all replicas.
    pub concurrency: i32,
    /// The run stops after more failures than this.
    #[sqlx(json(nullable))]
    pub max_failures: Option<Portion>,
    /// Failures that were known when the run was resumed.
    #[serde(skip)]
    pub forgiven: i32,
    /// Which tenants.
    #[sqlx(json)]
    pub selection: Selection,
    /// Tenants whose databases are cloned and tried as well, in a dry run.
    #[sqlx(json)]
    #[serde(rename = "clone")]
    pub clones: Vec<TenantId>,
    /// What became of throw-away clones, in a dry run.
    #[sqlx(json)]
    pub rehearsals: Vec<RehearsalResult>,
    /// Why it stopped.
    #[sqlx(json(nullable))]
    pub failure: Option<RunFailure>,
    /// Who began it.
    pub created_by: String,
    /// When it was begun.
    pub created_at: DateTime<Utc>,
    /// When templates and pools were there.
    pub prepared_at: Option<DateTime<Utc>>,
    /// When it ended.
    pub finished_at: Option<DateTime<Utc>>,
    /// How many targets are in each state.
    #[sqlx(json)]
    pub counts: Counts,
}

/// What a new run is to do.
#[derive(Debug, Clone)]
pub struct NewRun {
    /// Hash of the blueprint to bring tenants to; `None` for that of the replica which prepares the run.
    pub blueprint_hash: Option<String>,
    /// The version to stop at; `None` for the blueprint's newest.
    pub wanted_version: Option<String>,
    /// Which tenants.
    pub selection: Selection,
    /// How far each wave goes; the last one goes to the end in any case.
    pub waves: Vec<Portion>,
    /// Maximum number of databases migrated at once, over all replicas: 1 to 256.
    pub concurrency: u32,
    /// The run stops after more failures than this.
    pub max_failures: Option<Portion>,
    /// Only throw-away clones are migrated.
    pub is_dry: bool,
    /// Tenants whose databases are cloned and tried as well; for a dry run.
    pub clones: Vec<TenantId>,
}

impl NewRun {
    /// Databases that are migrated at once where nobody says how many.
    pub const DEFAULT_CONCURRENCY: u32 = 16;
}

/// Every tenant, in one wave, whatever fails.
impl Default for NewRun {
    fn default() -> Self {
        Self {
            blueprint_hash: None,
            wanted_version: None,
            selection: Selection::default(),
            waves: Vec::new(),
            concurrency: Self::DEFAULT_CONCURRENCY,
            max_failures: None,
            is_dry: false,
            clones: Vec::new(),
        }
    }
}

/// A run by its id.
pub async fn find(connection: &mut PgConnection, id: RunId) -> sqlx::Result<Option<Run>> {
    sqlx::query_as(select_run!("where id = $1"))
        .bind(id)
        .fetch_optional(connection)
        .await
}

/// The run that has not ended, if there is one.
pub async fn find_unfinished(connection: &mut PgConnection) -> sqlx::Result<Option<Run>> {
    sqlx::query_as(select_run!(
        "where state in ('preparing', 'running', 'paused')"
    ))
    .fetch_optional(connection)
    .await
}

/// The run that was begun last, of those that are not dry.
pub async fn find_newest_real(connection: &mut PgConnection) -> sqlx::Result<Option<Run>> {
    sqlx::query_as(select_run!(
        "where not is_dry order by created_at desc, id desc limit 1"
    ))
    .fetch_optional(connection)
    .await
}

/// The run that was begun last.
pub async fn find_newest(connection: &mut PgConnection) -> sqlx::Result<Option<Run>> {
    sqlx::query_as(select_run!("order by created_at desc, id desc limit 1"))
        .fetch_optional(connection)
        .await
}

/// A page of runs, the newest first.
pub async fn list_page(
    connection: &mut PgConnection,
    state: Option<RunState>,
    asked: &Asked,
) -> Result<Page<Run>, page::Error> {
    let after: Option<(DateTime<Utc>, Uuid)> = asked.after(LIST)?;
    let rows = sqlx::query_as(select_run!(
        "where ($1::text is null or state = $1)
           and ($2::timestamptz is null or (created_at, id) < ($2, $3))
         order by created_at desc, id desc
         limit $4"
    ))
    .bind(state.map(RunState::name))
    .bind(after.map(|(created_at, _)| created_at))
    .bind(after.map(|(_, id)| id))
    .bind(asked.fetch_limit())
    .fetch_all(connection)
    .await?;
    Ok(asked.page(LIST, rows, |run: &Run| (run.created_at, run.id)))
}

/// The run, locked: nobody changes its state until the transaction ends. Whoever locks jobs as well locks them first.
pub(super) async fn lock(tx: &mut PgConnection, id: RunId) -> sqlx::Result<Option<Run>> {
    sqlx::query("select from fleet_runs where id = $1 for update")
        .bind(id)
        .execute(&mut *tx)
        .await?;
    // a statement of its own: it counts what was committed while the lock was waited for
    find(tx, id).await
}

/// How far a run is, without its counts.
#[derive(Debug, Clone, Copy, FromRow)]
pub(super) struct Progress {
    pub(super) state: RunState,
    pub(super) current_wave: i32,
    pub(super) concurrency: i32,
}

/// How far the run is. What is read here may change at once.
pub(super) async fn find_progress(
    connection: &mut PgConnection,
    id: RunId,
) -> sqlx::Result<Option<Progress>> {
    sqlx::query_as("select state, current_wave, concurrency from fleet_runs where id = $1")
        .bind(id)
        .fetch_optional(connection)
        .await
}

/// The same, and that it stays so while the transaction lasts.
pub(super) async fn hold_progress(
    tx: &mut PgConnection,
    id: RunId,
) -> sqlx::Result<Option<Progress>> {
    sqlx::query_as(
        "select state, current_wave, concurrency from fleet_runs where id = $1 for share",
    )
    .bind(id)
    .fetch_optional(tx)
    .await
}

/// Runs that need a job: unfinished ones, and those of which something was begun and not finished.
pub(super) async fn list_wanting(connection: &mut PgConnection) -> sqlx::Result<Vec<Run>> {
    sqlx::query_as(select_run!(
        "where state in ('preparing', 'running')
            or exists (
                select
                from fleet_targets
                where run = fleet_runs.id
                  and fleet_targets.state = 'running'
            )
         order by id"
    ))
    .fetch_all(connection)
    .await
}

/// Writes the run's row; false when another run has not ended.
pub(super) async fn insert(
    tx: &mut PgConnection,
    id: RunId,
    new: &NewRun,
    created_by: &str,
) -> sqlx::Result<bool> {
    let inserted = sqlx::query(
        "insert into fleet_runs
             (id, wanted_version, blueprint_hash, is_dry, waves, concurrency, max_failures, selection, created_by)
         values (
             $1, $2, $3, $4, $5, $6, $7,
             $8 || case when $10 = '[]'::jsonb then '{}' else jsonb_build_object('clone', $10) end,
             $9
         )
         on conflict do nothing",
    )
    .bind(id)
    .bind(&new.wanted_version)
    .bind(&new.blueprint_hash)
    .bind(new.is_dry)
    .bind(Json(&new.waves))
    .bind(i32::try_from(new.concurrency).unwrap_or(i32::MAX))
    .bind(new.max_failures.map(Json))
    .bind(Json(&new.selection))
    .bind(created_by)
    .bind(Json(&new.clones))
    .execute(tx)
    .await?;
    Ok(inserted.rows_affected() == 1)
}

/// Sets the run's state, with the reason where it stops.
///
/// The caller has locked it and looked where it is.
pub(super) async fn set_state(
    tx: &mut PgConnection,
    id: RunId,
    state: RunState,
    failure: Option<&RunFailure>,
) -> sqlx::Result<()> {
    sqlx::query(
        "update fleet_runs
         set state = $2,
             failure = $3,
             finished_at = case when $2 in ('done', 'failed', 'aborted') then now() end
         where id = $1",
    )
    .bind(id)
    .bind(state.name())
    .bind(failure.map(Json))
    .execute(tx)
    .await?;
    Ok(())
}

/// From now on the present failures do not stop the run.
pub(super) async fn forgive(tx: &mut PgConnection, id: RunId, failures: u32) -> sqlx::Result<()> {
    sqlx::query("update fleet_runs set forgiven = $2 where id = $1")
        .bind(id)
        .bind(i32::try_from(failures).unwrap_or(i32::MAX))
        .execute(tx)
        .await?;
    Ok(())
}

/// A run that is not prepared yet is for this blueprint.
pub(super) async fn set_blueprint(
    tx: &mut PgConnection,
    id: RunId,
    hash: &str,
) -> sqlx::Result<()> {
    sqlx::query("update fleet_runs set blueprint_hash = $2, version = null where id = $1")
        .bind(id)
        .bind(hash)
        .execute(tx)
        .await?;
    Ok(())
}

/// The blueprint is settled, the targets are set.
pub(super) async fn set_prepared(
    tx: &mut PgConnection,
    id: RunId,
    hash: &str,
    version: &str,
) -> sqlx::Result<()> {
    sqlx::query(
        "update fleet_runs
         set state = 'running',
             blueprint_hash = $2,
             version = $3,
             prepared_at = now()
         where id = $1",
    )
    .bind(id)
    .bind(hash)
    .bind(version)
    .execute(tx)
    .await?;
    Ok(())
}

/// What became of the throw-away clones.
pub(super) async fn set_rehearsals(
    tx: &mut PgConnection,
    id: RunId,
    hash: &str,
    version: &str,
    rehearsals: &[RehearsalResult],
) -> sqlx::Result<()> {
    sqlx::query(
        "update fleet_runs
         set rehearsals = $2,
             blueprint_hash = $3,
             version = $4
         where id = $1
           and state <> 'aborted'",
    )
    .bind(id)
    .bind(Json(rehearsals))
    .bind(hash)
    .bind(version)
    .execute(tx)
    .await?;
    Ok(())
}

/// What became of the throw-away clones advises another command than before.
pub(super) async fn advise_of_rehearsals(
    tx: &mut PgConnection,
    id: RunId,
    (before, now): (&str, &str),
) -> sqlx::Result<()> {
    sqlx::query(
        "update fleet_runs
         set rehearsals = replace(rehearsals::text, $2, $3)::jsonb
         where id = $1
           and rehearsals <> '[]'",
    )
    .bind(id)
    .bind(before)
    .bind(now)
    .execute(tx)
    .await?;
    Ok(())
}

/// The next wave begins.
pub(super) async fn set_wave(tx: &mut PgConnection, id: RunId, wave: i32) -> sqlx::Result<()> {
    sqlx::query("update fleet_runs set current_wave = $2 where id = $1")
        .bind(id)
        .bind(wave)
        .execute(tx)
        .await?;
    Ok(())
}
