//! `/v1/jobs`: what is to be done, what was tried, and what an operator makes of it.

use axum::{Json, extract::State, http::StatusCode, response::Response};
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::{
    AppState, Problem,
    extract::{Path, Query},
    mutation::Mutation,
    operator::{Changing, Reading, find_tenant},
};
use crate::{
    actions::{self, Refusal},
    page::{Asked, Page},
    queue::{self, Attempt, Filter, JobId, JobState, Refused, StoredJob},
};

/// Which jobs to list.
#[derive(Debug, Deserialize, utoipa::IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct Which {
    /// Only jobs in this state.
    #[param(inline)]
    state: Option<JobState>,
    /// Only jobs of this kind, such as `provision_tenant`.
    kind: Option<String>,
    /// Only jobs about the organization of this tenant.
    tenant: Option<Uuid>,
    /// Only jobs of this key: `<source>:<organization id>`.
    concurrency_key: Option<String>,
    /// `next_cursor` of the page before.
    cursor: Option<String>,
    /// Rows of a page: 1 to 200, 50 if not given.
    limit: Option<u32>,
}

/// A job with everything that was tried.
#[derive(Debug, Serialize, utoipa::ToSchema)]
pub(super) struct JobWithAttempts {
    #[serde(flatten)]
    job: StoredJob,
    /// Its attempts, the oldest first.
    attempts: Vec<Attempt>,
}

/// Jobs, the newest first.
#[utoipa::path(
    get,
    path = "/v1/jobs",
    operation_id = "list_jobs",
    tag = "jobs",
    params(Which),
    responses(
        (status = 200, description = "A page of jobs", body = Page<StoredJob>),
        (status = 404, description = "There is no such tenant", body = Problem, content_type = "application/problem+json"),
        Reading
    ),
    security(("key" = []))
)]
pub(super) async fn list(
    State(state): State<AppState>,
    Query(which): Query<Which>,
) -> Result<Json<Page<StoredJob>>, Problem> {
    let asked = Asked::read(which.cursor, which.limit)?;
    let mut filter = Filter {
        state: which.state,
        kind: which.kind,
        concurrency_key: which.concurrency_key,
    };
    let list = async |connection: &mut _| {
        if let Some(id) = which.tenant {
            let tenant = find_tenant(connection, id).await?;
            let key = queue::organization_key(tenant.key());
            let other = filter.concurrency_key.replace(key.clone());
            if other.is_some_and(|other| other != key) {
                return Err(Problem::invalid("tenant and concurrency_key differ"));
            }
        }
        Ok(queue::list_page(connection, &filter, &asked).await?)
    };
    Ok(Json(state.db.run(list).await?))
}

/// A job and its attempts.
#[utoipa::path(
    get,
    path = "/v1/jobs/{id}",
    operation_id = "find_job",
    tag = "jobs",
    params(("id" = i64, Path, description = "Number of the job")),
    responses(
        (status = 200, description = "The job", body = JobWithAttempts),
        (status = 404, description = "There is none of this number", body = Problem, content_type = "application/problem+json"),
        Reading
    ),
    security(("key" = []))
)]
pub(super) async fn get(
    State(state): State<AppState>,
    Path(id): Path<i64>,
) -> Result<Json<JobWithAttempts>, Problem> {
    let id = JobId(id);
    let find = async |connection: &mut _| {
        let job = queue::find_job(connection, id).await?;
        let job = job.ok_or(Refusal::Job(Refused::Unknown(id)))?;
        let attempts = queue::list_attempts(connection, id).await?;
        Ok::<_, Problem>(JobWithAttempts { job, attempts })
    };
    Ok(Json(state.db.run(find).await?))
}

/// Let a job that was given up go on, or one that waits begin now.
#[utoipa::path(
    post,
    path = "/v1/jobs/{id}/retry",
    operation_id = "retry_job",
    tag = "jobs",
    params(
        ("id" = i64, Path, description = "Number of the job"),
        ("idempotency-key" = Option<String>, Header, description = "A repeated key returns the saved answer and changes nothing")
    ),
    responses((status = 200, description = "The job, due", body = StoredJob), Changing),
    security(("key" = []))
)]
pub(super) async fn retry(
    State(state): State<AppState>,
    Path(id): Path<i64>,
    mutation: Mutation,
) -> Result<Response, Problem> {
    let act = async |tx: &mut _| {
        let retried = actions::retry_job(tx, JobId(id), state.max_attempts, &mutation.actor).await;
        Ok(retried?)
    };
    mutation.run(&state, StatusCode::OK, act).await
}

/// Give up a job that waits or is dead, and what it is for.
#[utoipa::path(
    post,
    path = "/v1/jobs/{id}/cancel",
    operation_id = "cancel_job",
    tag = "jobs",
    params(
        ("id" = i64, Path, description = "Number of the job"),
        ("idempotency-key" = Option<String>, Header, description = "A repeated key returns the saved answer and changes nothing")
    ),
    responses((status = 200, description = "The job, cancelled", body = StoredJob), Changing),
    security(("key" = []))
)]
pub(super) async fn cancel(
    State(state): State<AppState>,
    Path(id): Path<i64>,
    mutation: Mutation,
) -> Result<Response, Problem> {
    let act = async |tx: &mut _| Ok(actions::cancel_job(tx, JobId(id), &mutation.actor).await?);
    mutation.run(&state, StatusCode::OK, act).await
}
