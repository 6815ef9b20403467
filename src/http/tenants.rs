//! `/v1/tenants`: the tenants, and what an operator does about one.

use axum::{Json, extract::State, http::StatusCode, response::Response};
use serde::Deserialize;
use sqlx::PgConnection;
use uuid::Uuid;

use super::{
    AppState, Problem,
    extract::{Path, Query},
    mutation::Mutation,
    operator::{Changing, Reading, find_tenant},
};
use crate::{
    actions,
    page::{Asked, Page},
    tenants::{self, Tenant, TenantFilter, TenantState},
};

/// Which tenants to list.
#[derive(Debug, Deserialize, utoipa::IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct Which {
    /// Only tenants in this state.
    #[param(inline)]
    state: Option<TenantState>,
    /// Only tenants of this source.
    source: Option<String>,
    /// Only the tenant of this organization.
    org_id: Option<String>,
    /// Only tenants with this in their name, organization id, host or database; case does not matter.
    q: Option<String>,
    /// `next_cursor` of the page before.
    cursor: Option<String>,
    /// Rows of a page: 1 to 200, 50 if not given.
    limit: Option<u32>,
}

/// Tenants, the newest first.
#[utoipa::path(
    get,
    path = "/v1/tenants",
    operation_id = "list_tenants",
    tag = "tenants",
    params(Which),
    responses((status = 200, description = "A page of tenants", body = Page<Tenant>), Reading),
    security(("key" = []))
)]
pub(super) async fn list(
    State(state): State<AppState>,
    Query(which): Query<Which>,
) -> Result<Json<Page<Tenant>>, Problem> {
    let asked = Asked::read(which.cursor, which.limit)?;
    let filter = TenantFilter {
        state: which.state,
        source: which.source,
        org_id: which.org_id,
        search: which.q,
    };
    let list = async |connection: &mut _| tenants::list_page(connection, &filter, &asked).await;
    Ok(Json(state.db.run(list).await?))
}

/// A tenant.
#[utoipa::path(
    get,
    path = "/v1/tenants/{id}",
    operation_id = "find_tenant",
    tag = "tenants",
    params(("id" = Uuid, Path, description = "Id of the tenant")),
    responses(
        (status = 200, description = "The tenant", body = Tenant),
        (status = 404, description = "No tenant with this id", body = Problem, content_type = "application/problem+json"),
        Reading
    ),
    security(("key" = []))
)]
pub(super) async fn get(
    State(state): State<AppState>,
    Path(id): Path<Uuid>,
) -> Result<Json<Tenant>, Problem> {
    let find = async |connection: &mut _| find_tenant(connection, id).await;
    Ok(Json(state.db.run(find).await?))
}

/// Try a failed tenant again, from the step that failed.
#[utoipa::path(
    post,
    path = "/v1/tenants/{id}/retry",
    operation_id = "retry_tenant",
    tag = "tenants",
    params(
        ("id" = Uuid, Path, description = "Id of the tenant"),
        ("idempotency-key" = Option<String>, Header, description = "A repeated key returns the saved answer and changes nothing")
    ),
    responses((status = 200, description = "The tenant, pending", body = Tenant), Changing),
    security(("key" = []))
)]
pub(super) async fn retry(
    State(state): State<AppState>,
    Path(id): Path<Uuid>,
    mutation: Mutation,
) -> Result<Response, Problem> {
    let act = async |tx: &mut PgConnection| {
        let tenant = find_tenant(tx, id).await?;
        actions::retry_tenant(tx, &tenant, state.max_attempts, &mutation.actor).await?;
        find_tenant(tx, id).await
    };
    mutation.run(&state, StatusCode::OK, act).await
}

/// Take a ready tenant out of the routing; its database stays.
#[utoipa::path(
    post,
    path = "/v1/tenants/{id}/suspend",
    operation_id = "suspend_tenant",
    tag = "tenants",
    params(
        ("id" = Uuid, Path, description = "Id of the tenant"),
        ("idempotency-key" = Option<String>, Header, description = "A repeated key returns the saved answer and changes nothing")
    ),
    responses((status = 200, description = "The tenant, suspended", body = Tenant), Changing),
    security(("key" = []))
)]
pub(super) async fn suspend(
    State(state): State<AppState>,
    Path(id): Path<Uuid>,
    mutation: Mutation,
) -> Result<Response, Problem> {
    let act = async |tx: &mut PgConnection| {
        let tenant = find_tenant(tx, id).await?;
        actions::suspend_tenant(tx, &tenant, &mutation.actor).await?;
        find_tenant(tx, id).await
    };
    mutation.run(&state, StatusCode::OK, act).await
}

/// Route a suspended tenant again.
#[utoipa::path(
    post,
    path = "/v1/tenants/{id}/resume",
    operation_id = "resume_tenant",
    tag = "tenants",
    params(
        ("id" = Uuid, Path, description = "Id of the tenant"),
        ("idempotency-key" = Option<String>, Header, description = "A repeated key returns the saved answer and changes nothing")
    ),
    responses((status = 200, description = "The tenant, ready", body = Tenant), Changing),
    security(("key" = []))
)]
pub(super) async fn resume(
    State(state): State<AppState>,
    Path(id): Path<Uuid>,
    mutation: Mutation,
) -> Result<Response, Problem> {
    let act = async |tx: &mut PgConnection| {
        let tenant = find_tenant(tx, id).await?;
        actions::resume_tenant(tx, &tenant, state.max_attempts, &mutation.actor).await?;
        find_tenant(tx, id).await
    };
    mutation.run(&state, StatusCode::OK, act).await
}
