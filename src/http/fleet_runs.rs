//! `/v1/fleet-runs`: one migration over all tenants, and what an operator makes of it.

use axum::{
    Json,
    extract::State,
    http::{StatusCode, Uri},
    response::Response,
};
use serde::Deserialize;
use sqlx::PgConnection;
use uuid::Uuid;

use super::{
    AppState, Problem,
    extract::{Path, Query},
    mutation::Mutation,
    operator::{Changing, Reading},
};
use crate::{
    audit::Actor,
    fleet::{self, NewRun, Portion, Run, RunId, RunState, Target, TargetFilter, TargetState},
    page::{Asked, Page},
    tenants::{self, Selection, TenantId},
};

/// The most waves a run may have.
const MOST_WAVES: usize = 100;

/// The most tenants' databases a dry run may clone.
const MOST_CLONES: usize = 100;

/// A new run.
#[derive(Debug, Deserialize, utoipa::ToSchema)]
#[serde(default, deny_unknown_fields)]
#[schema(as = NewFleetRun)]
pub(super) struct Wanted {
    /// The version to stop at; if not given, the newest of the blueprint.
    #[schema(
        min_length = 1,
        max_length = 255,
        pattern = r"^[^\u0000-\u001f\u007f-\u009f]*$"
    )]
    to: Option<String>,
    /// Which tenants; if not given, all that are ready or suspended.
    selection: Selection,
    /// How far each wave goes, a count such as `"1"` or a share such as `"10%"`; the last one goes to the end.
    #[schema(max_items = 100)]
    waves: Vec<Portion>,
    /// Maximum number of databases migrated at once, over all replicas.
    #[schema(minimum = 1, maximum = 256)]
    concurrency: u32,
    /// The run stops after more failures than this, a count or a share of all targets; if not given, no number stops it.
    max_failures: Option<Portion>,
    /// Only throw-away clones are migrated.
    dry_run: bool,
    /// Tenants whose databases are cloned and tried as well; for a dry run.
    #[serde(rename = "clone")]
    #[schema(value_type = Vec<Uuid>, max_items = 100)]
    clones: Vec<TenantId>,
}

impl Default for Wanted {
    fn default() -> Self {
        Self {
            to: None,
            selection: Selection::default(),
            waves: Vec::new(),
            concurrency: NewRun::DEFAULT_CONCURRENCY,
            max_failures: None,
            dry_run: false,
            clones: Vec::new(),
        }
    }
}

impl Wanted {
    fn read(&self) -> Result<NewRun, Problem> {
        if let Some(to) = &self.to
            && (!(1..=255).contains(&to.chars().count()) || to.chars().any(char::is_control))
        {
            return Err(Problem::invalid("`to` is not a valid version"));
        }
        if !(1..=256).contains(&self.concurrency) {
            return Err(Problem::invalid("concurrency is not between 1 and 256"));
        }
        if self.waves.len() > MOST_WAVES {
            return Err(Problem::invalid("there are more than 100 waves"));
        }
        if self.clones.len() > MOST_CLONES {
            return Err(Problem::invalid("there are more than 100 tenants to clone"));
        }
        if !self.dry_run && !self.clones.is_empty() {
            return Err(Problem::invalid("`clone` requires `dry_run`"));
        }
        tenants::check_all(&self.selection.labels)
            .map_err(|invalid| Problem::invalid(invalid.to_string()))?;
        Ok(NewRun {
            // settled when the run is created
            blueprint_hash: None,
            wanted_version: self.to.clone(),
            selection: self.selection.clone(),
            waves: self.waves.clone(),
            concurrency: self.concurrency,
            max_failures: self.max_failures,
            is_dry: self.dry_run,
            clones: self.clones.clone(),
        })
    }
}

/// Which runs to list.
#[derive(Debug, Deserialize, utoipa::IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct Which {
    /// Only runs in this state.
    #[param(inline)]
    state: Option<RunState>,
    /// `next_cursor` of the page before.
    cursor: Option<String>,
    /// Rows of a page: 1 to 200, 50 if not given.
    limit: Option<u32>,
}

/// Which targets to list.
#[derive(Debug, Deserialize, utoipa::IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct WhichTargets {
    /// Only targets in this state.
    #[param(inline)]
    state: Option<TargetState>,
    /// `next_cursor` of the page before.
    cursor: Option<String>,
    /// Rows of a page: 1 to 200, 50 if not given.
    limit: Option<u32>,
}

/// The run of this id.
pub(super) async fn find(connection: &mut PgConnection, id: Uuid) -> Result<Run, Problem> {
    let id = RunId(id);
    let found = fleet::find(connection, id).await?;
    found.ok_or_else(|| fleet::Error::Unknown(id).into())
}

/// Fleet runs, the newest first.
#[utoipa::path(
    get,
    path = "/v1/fleet-runs",
    operation_id = "list_fleet_runs",
    tag = "fleet",
    params(Which),
    responses((status = 200, description = "A page of runs", body = Page<Run>), Reading),
    security(("key" = []))
)]
pub(super) async fn list(
    State(state): State<AppState>,
    Query(which): Query<Which>,
) -> Result<Json<Page<Run>>, Problem> {
    let asked = Asked::read(which.cursor, which.limit)?;
    let list = async |connection: &mut _| fleet::list_page(connection, which.state, &asked).await;
    Ok(Json(state.db.run(list).await?))
}

/// Migrate the fleet.
///
/// Templates and pools of the new version are made first; then the tenants, wave by wave. One run at a time.
#[utoipa::path(
    post,
    path = "/v1/fleet-runs",
    operation_id = "create_fleet_run",
    tag = "fleet",
    params(
        ("idempotency-key" = Option<String>, Header, description = "A repeated key returns the saved answer and changes nothing")
    ),
    request_body = Wanted,
    responses((status = 201, description = "The run, being prepared", body = Run, headers(("location" = String, description = "Where it is"))), Changing),
    security(("key" = []))
)]
pub(super) async fn create(
    State(state): State<AppState>,
    uri: Uri,
    mutation: Mutation<Wanted>,
) -> Result<Response, Problem> {
    let mut new = mutation.body.read()?;
    new.blueprint_hash = known_hash(&state, new.wanted_version.as_deref());
    let act = async |tx: &mut _| Ok(fleet::create(tx, &new, &mutation.actor).await?);
    mutation.create(&state, &uri, act).await
}

/// A fleet run.
#[utoipa::path(
    get,
    path = "/v1/fleet-runs/{id}",
    operation_id = "find_fleet_run",
    tag = "fleet",
    params(("id" = Uuid, Path, description = "Id of the run")),
    responses(
        (status = 200, description = "The run", body = Run),
        (status = 404, description = "No run with this id", body = Problem, content_type = "application/problem+json"),
        Reading
    ),
    security(("key" = []))
)]
pub(super) async fn get(
    State(state): State<AppState>,
    Path(id): Path<Uuid>,
) -> Result<Json<Run>, Problem> {
    let find = async |connection: &mut _| find(connection, id).await;
    Ok(Json(state.db.run(find).await?))
}

/// What became of each tenant in a run.
#[utoipa::path(
    get,
    path = "/v1/fleet-runs/{id}/targets",
    operation_id = "list_fleet_targets",
    tag = "fleet",
    params(("id" = Uuid, Path, description = "Id of the run"), WhichTargets),
    responses(
        (status = 200, description = "A page of targets, by the ids of their tenants", body = Page<Target>),
        (status = 404, description = "No run with this id", body = Problem, content_type = "application/problem+json"),
        Reading
    ),
    security(("key" = []))
)]
pub(super) async fn targets(
    State(state): State<AppState>,
    Path(id): Path<Uuid>,
    Query(which): Query<WhichTargets>,
) -> Result<Json<Page<Target>>, Problem> {
    let asked = Asked::read(which.cursor, which.limit)?;
    let filter = TargetFilter { state: which.state };
    let list = async |connection: &mut PgConnection| -> Result<_, Problem> {
        let run = find(connection, id).await?;
        Ok(fleet::list_targets(connection, run.id, &filter, &asked).await?)
    };
    Ok(Json(state.db.run(list).await?))
}

/// The blueprint of this replica up to some version.
fn known_hash(state: &AppState, to: Option<&str>) -> Option<String> {
    // reads files: the other requests of this thread go on elsewhere
    tokio::task::block_in_place(|| fleet::known_hash(state.blueprint.as_ref()?, to))
}

/// What is done about a run.
async fn act(
    state: &AppState,
    id: Uuid,
    mutation: &Mutation,
    act: impl AsyncFn(&mut PgConnection, RunId, &Actor) -> Result<Run, fleet::Error>,
) -> Result<Response, Problem> {
    let act = async |tx: &mut PgConnection| Ok(act(tx, RunId(id), &mutation.actor).await?);
    mutation.run(state, StatusCode::OK, act).await
}

/// Pause a run; migrations under way finish.
#[utoipa::path(
    post,
    path = "/v1/fleet-runs/{id}/pause",
    operation_id = "pause_fleet_run",
    tag = "fleet",
    params(
        ("id" = Uuid, Path, description = "Id of the run"),
        ("idempotency-key" = Option<String>, Header, description = "A repeated key returns the saved answer and changes nothing")
    ),
    responses((status = 200, description = "The run, paused", body = Run), Changing),
    security(("key" = []))
)]
pub(super) async fn pause(
    State(state): State<AppState>,
    Path(id): Path<Uuid>,
    mutation: Mutation,
) -> Result<Response, Problem> {
    act(&state, id, &mutation, fleet::pause).await
}

/// Resume a run that was paused, or one that was stopped by failures with what it left.
///
/// One that could not be prepared begins with the blueprint of the replica that answers, if that has one.
#[utoipa::path(
    post,
    path = "/v1/fleet-runs/{id}/resume",
    operation_id = "resume_fleet_run",
    tag = "fleet",
    params(
        ("id" = Uuid, Path, description = "Id of the run"),
        ("idempotency-key" = Option<String>, Header, description = "A repeated key returns the saved answer and changes nothing")
    ),
    responses((status = 200, description = "The run, running or being prepared", body = Run), Changing),
    security(("key" = []))
)]
pub(super) async fn resume(
    State(state): State<AppState>,
    Path(id): Path<Uuid>,
    mutation: Mutation,
) -> Result<Response, Problem> {
    let find = async |connection: &mut _| find(connection, id).await;
    let run = state.db.run(find).await?;
    let hash = known_hash(&state, run.wanted_version.as_deref());
    let act = async |tx: &mut _| {
        Ok(fleet::resume(tx, RunId(id), hash.as_deref(), &mutation.actor).await?)
    };
    mutation.run(&state, StatusCode::OK, act).await
}

/// Try the failed targets of a run again.
#[utoipa::path(
    post,
    path = "/v1/fleet-runs/{id}/retry",
    operation_id = "retry_fleet_run",
    tag = "fleet",
    params(
        ("id" = Uuid, Path, description = "Id of the run"),
        ("idempotency-key" = Option<String>, Header, description = "A repeated key returns the saved answer and changes nothing")
    ),
    responses((status = 200, description = "The run, running or paused", body = Run), Changing),
    security(("key" = []))
)]
pub(super) async fn retry(
    State(state): State<AppState>,
    Path(id): Path<Uuid>,
    mutation: Mutation,
) -> Result<Response, Problem> {
    act(&state, id, &mutation, fleet::retry).await
}

/// Who is to be put first.
#[derive(Debug, Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = FleetFirst)]
pub(super) struct First {
    /// A tenant that waits in the run.
    #[schema(value_type = Uuid)]
    tenant: TenantId,
}

/// Move a waiting tenant to the front of a run.
#[utoipa::path(
    post,
    path = "/v1/fleet-runs/{id}/first",
    operation_id = "put_first_in_fleet_run",
    tag = "fleet",
    params(
        ("id" = Uuid, Path, description = "Id of the run"),
        ("idempotency-key" = Option<String>, Header, description = "A repeated key returns the saved answer and changes nothing")
    ),
    request_body = First,
    responses((status = 200, description = "The run", body = Run), Changing),
    security(("key" = []))
)]
pub(super) async fn first(
    State(state): State<AppState>,
    Path(id): Path<Uuid>,
    mutation: Mutation<First>,
) -> Result<Response, Problem> {
    let put = async |tx: &mut PgConnection| {
        let tenant = mutation.body.tenant;
        fleet::put_first(tx, RunId(id), tenant, &mutation.actor).await?;
        find(tx, id).await
    };
    mutation.run(&state, StatusCode::OK, put).await
}

/// End a run; waiting tenants are skipped, migrations under way finish.
#[utoipa::path(
    post,
    path = "/v1/fleet-runs/{id}/abort",
    operation_id = "abort_fleet_run",
    tag = "fleet",
    params(
        ("id" = Uuid, Path, description = "Id of the run"),
        ("idempotency-key" = Option<String>, Header, description = "A repeated key returns the saved answer and changes nothing")
    ),
    responses((status = 200, description = "The run, aborted", body = Run), Changing),
    security(("key" = []))
)]
pub(super) async fn abort(
    State(state): State<AppState>,
    Path(id): Path<Uuid>,
    mutation: Mutation,
) -> Result<Response, Problem> {
    act(&state, id, &mutation, fleet::abort).await
}
