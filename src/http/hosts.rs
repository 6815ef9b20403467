//! `/v1/tenants/{id}/hosts`: hosts of a tenant beside its `url`.

use axum::{Json, extract::State, http::StatusCode, response::Response};
use serde::Serialize;
use sqlx::PgConnection;
use uuid::Uuid;

use super::{
    AppState, Problem,
    extract::Path,
    mutation::Mutation,
    operator::{Changing, Reading, find_tenant},
};
use crate::tenants::{self, Host, TenantId};

/// A tenant's hosts beside its `url`.
#[derive(Debug, Serialize, utoipa::ToSchema)]
pub(super) struct Hosts {
    /// The hosts, in the order of the alphabet.
    data: Vec<Host>,
}

async fn hosts_of(connection: &mut PgConnection, id: TenantId) -> Result<Hosts, Problem> {
    let data = tenants::list_hosts(connection, id).await?;
    Ok(Hosts { data })
}

/// The hosts of a tenant beside its own.
#[utoipa::path(
    get,
    path = "/v1/tenants/{id}/hosts",
    operation_id = "list_hosts",
    tag = "tenants",
    params(("id" = Uuid, Path, description = "Id of the tenant")),
    responses(
        (status = 200, description = "The hosts", body = Hosts),
        (status = 404, description = "There is no such tenant", body = Problem, content_type = "application/problem+json"),
        Reading
    ),
    security(("key" = []))
)]
pub(super) async fn list(
    State(state): State<AppState>,
    Path(id): Path<Uuid>,
) -> Result<Json<Hosts>, Problem> {
    let list = async |connection: &mut PgConnection| {
        let tenant = find_tenant(connection, id).await?;
        hosts_of(connection, tenant.id).await
    };
    Ok(Json(state.db.run(list).await?))
}

/// Give a tenant a further host.
#[utoipa::path(
    put,
    path = "/v1/tenants/{id}/hosts/{host}",
    operation_id = "add_host",
    tag = "tenants",
    params(
        ("id" = Uuid, Path, description = "Id of the tenant"),
        ("host" = String, Path, description = "The host, such as crm.customer.example"),
        ("idempotency-key" = Option<String>, Header, description = "A repeated key returns the saved answer and changes nothing")
    ),
    responses((status = 200, description = "The tenant's hosts after it", body = Hosts), Changing),
    security(("key" = []))
)]
pub(super) async fn add(
    State(state): State<AppState>,
    Path((id, host)): Path<(Uuid, String)>,
    mutation: Mutation,
) -> Result<Response, Problem> {
    let act = async |tx: &mut PgConnection| {
        let tenant = find_tenant(tx, id).await?;
        tenants::add_host(tx, tenant.id, &host).await?;
        hosts_of(tx, tenant.id).await
    };
    mutation.run(&state, StatusCode::OK, act).await
}

/// Take a further host from a tenant.
#[utoipa::path(
    delete,
    path = "/v1/tenants/{id}/hosts/{host}",
    operation_id = "remove_host",
    tag = "tenants",
    params(
        ("id" = Uuid, Path, description = "Id of the tenant"),
        ("host" = String, Path, description = "The host"),
        ("idempotency-key" = Option<String>, Header, description = "A repeated key returns the saved answer and changes nothing")
    ),
    responses((status = 200, description = "The tenant's hosts after it", body = Hosts), Changing),
    security(("key" = []))
)]
pub(super) async fn remove(
    State(state): State<AppState>,
    Path((id, host)): Path<(Uuid, String)>,
    mutation: Mutation,
) -> Result<Response, Problem> {
    let act = async |tx: &mut PgConnection| {
        let tenant = find_tenant(tx, id).await?;
        if !tenants::remove_host(tx, tenant.id, &host).await? {
            return Err(Problem::new(
                StatusCode::NOT_FOUND,
                "host_unknown",
                "the tenant has no such host beside its own",
                "list them: GET /v1/tenants/{id}/hosts",
            ));
        }
        hosts_of(tx, tenant.id).await
    };
    mutation.run(&state, StatusCode::OK, act).await
}
