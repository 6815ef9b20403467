//! `GET /v1/tenants/resolve`: which tenant a host, or a token, stands for.
//!
//! Guarantees: an end user learns of their own tenant only, and only as an active member; who asks with
//! a key learns of any. Not ready is 503, suspended 423, unknown 404.

use axum::{
    Extension, Json,
    extract::State,
    http::StatusCode,
    response::{IntoResponse, Response},
};
use serde::{Deserialize, Serialize};

use super::{
    AppState, Problem,
    access::Caller,
    extract::Query,
    forward_auth::{Owner, elsewhere, no_organization, owner_of, refused, tenant_headers},
    registrants,
};
use crate::{
    auth::{
        EndUser,
        standing::{self, Refusal},
    },
    tenants::{self, Tenant, TenantState},
};

/// What to resolve.
#[derive(Debug, Deserialize, utoipa::IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct Question {
    /// Host of a request, such as `acme.app.example.com`; a port does not matter. Needed with an API key.
    #[serde(default)]
    host: Option<String>,
}

/// A tenant that requests may be routed to.
#[derive(Debug, Serialize, utoipa::ToSchema)]
pub(super) struct Resolved {
    /// Id of the tenant.
    id: uuid::Uuid,
    /// Name of the source.
    source: String,
    /// The provider's organization id.
    org_id: String,
    /// The organization's name.
    name: String,
    /// Host of the tenant.
    url: String,
    /// Database of the tenant.
    database: String,
    /// Schema version.
    schema_version: String,
}

/// Which tenant is this?
#[utoipa::path(
    get,
    path = "/v1/tenants/resolve",
    operation_id = "resolve",
    tag = "access",
    params(Question),
    responses(
        (status = 200, description = "The tenant; its headers are those of /v1/auth/verify", body = Resolved),
        (status = 400, description = "The query cannot be read, or names no host", body = Problem, content_type = "application/problem+json"),
        (status = 401, description = "No credentials, or none that are accepted", body = Problem, content_type = "application/problem+json"),
        (status = 403, description = "Not a member, no organization, or the host is another tenant's", body = Problem, content_type = "application/problem+json"),
        (status = 404, description = "No tenant has this host", body = Problem, content_type = "application/problem+json"),
        (status = 423, description = "The tenant is suspended or archived", body = Problem, content_type = "application/problem+json"),
        (status = 429, description = "Asked too often", body = Problem, content_type = "application/problem+json"),
        (status = 500, description = "Something went wrong here", body = Problem, content_type = "application/problem+json"),
        (status = 503, description = "The tenant is not ready yet, or the database cannot be asked", body = Problem, content_type = "application/problem+json"),
    ),
    security(("key" = []), ("token" = []))
)]
pub(super) async fn resolve(
    State(state): State<AppState>,
    Extension(caller): Extension<Caller>,
    Query(question): Query<Question>,
) -> Result<Response, Problem> {
    let host = question.host.as_deref();
    match caller {
        Caller::User(user) => of_user(&state, &user, host).await,
        Caller::Key(_) => of_host(&state, host).await,
        Caller::Form(_) | Caller::Registrant(_) => Err(registrants::form_key_refused()),
    }
}

async fn of_user(
    state: &AppState,
    user: &EndUser,
    host: Option<&str>,
) -> Result<Response, Problem> {
    let org_id = user.org_id.as_deref().ok_or_else(no_organization)?;
    if let Some(host) = host
        && owner_of(state, user, org_id, host).await? != Owner::Own
    {
        return Err(elsewhere());
    }
    let tenant = state.registry.tenant(&user.source, org_id).await?;
    let standing = state
        .registry
        .standing(&user.source, org_id, &user.user_id)
        .await?;
    let tenant =
        standing::admit(Option::as_ref(&tenant), Option::as_ref(&standing)).map_err(refused)?;
    Ok(answer(tenant))
}

async fn of_host(state: &AppState, host: Option<&str>) -> Result<Response, Problem> {
    let host = host.ok_or_else(|| Problem::invalid("the query names no host"))?;
    let host = tenants::normalize_host(host).ok_or_else(|| Problem::invalid("this is no host"))?;
    let owner = state.registry.organization_at(&host).await?;
    let Some((source, org_id)) = Option::as_ref(&owner) else {
        return Err(unknown());
    };
    let tenant = state.registry.tenant(source, org_id).await?;
    let tenant = Option::as_ref(&tenant).ok_or_else(unknown)?;
    match tenant.state {
        TenantState::Ready => Ok(answer(tenant)),
        TenantState::Suspended | TenantState::Archived => {
            Err(refused(Refusal::Closed(tenant.state)))
        }
        TenantState::Deleted => Err(unknown()),
        TenantState::Pending | TenantState::Provisioning | TenantState::Failed => {
            Err(refused(Refusal::NotReady(tenant.state)))
        }
    }
}

fn answer(tenant: &Tenant) -> Response {
    let resolved = Resolved {
        id: tenant.id.0,
        source: tenant.source.clone(),
        org_id: tenant.org_id.clone(),
        name: tenant.name.clone(),
        url: tenant.url.clone(),
        database: tenant.database.clone(),
        schema_version: tenant.alembic_version.clone(),
    };
    (StatusCode::OK, tenant_headers(tenant), Json(resolved)).into_response()
}

pub(super) fn unknown() -> Problem {
    Problem::new(
        StatusCode::NOT_FOUND,
        "tenant_unknown",
        "there is no such tenant",
        "list them: GET /v1/tenants, or `tenantry tenants ls`",
    )
}
