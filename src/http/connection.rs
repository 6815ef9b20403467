//! `GET /v1/tenants/{id}/connection`: how an application connects to a tenant's database.
//!
//! Guarantees: the password leaves only for a ready tenant and a key with the scope for it, after the audit
//! row is committed; nothing on the way may keep the answer.

use axum::{
    Extension, Json,
    extract::State,
    http::{HeaderValue, header},
    response::{IntoResponse, Response},
};
use secrecy::ExposeSecret;
use serde::Serialize;
use sqlx::PgConnection;
use uuid::Uuid;

use super::{
    AppState, Problem,
    access::Caller,
    extract::Path,
    forward_auth,
    observe::RequestId,
    operator::{Reading, find_tenant},
};
use crate::{
    actions::Refusal,
    audit::{self, Act},
    auth::standing,
    tenants::{self, Tenant, TenantState},
};

/// How an application connects to a tenant's database. Not for logs.
#[derive(Serialize, utoipa::ToSchema)]
pub(super) struct Connection {
    /// Host of the server.
    host: String,
    /// Port of the server.
    port: u16,
    /// Database.
    database: String,
    /// Database for read-only use.
    read_only_database: String,
    /// Login role.
    username: String,
    /// Its password.
    password: String,
    /// All of it as one URL.
    url: String,
}

/// How an application connects to a tenant's database, with the password.
#[utoipa::path(
    get,
    path = "/v1/tenants/{id}/connection",
    operation_id = "reveal_connection",
    tag = "tenants",
    params(("id" = Uuid, Path, description = "Id of the tenant")),
    responses(
        (status = 200, description = "The connection; every answer is in the audit log", body = Connection),
        (status = 404, description = "There is no such tenant", body = Problem, content_type = "application/problem+json"),
        (status = 409, description = "The tenant is deleted", body = Problem, content_type = "application/problem+json"),
        (status = 423, description = "The tenant is suspended or archived", body = Problem, content_type = "application/problem+json"),
        Reading
    ),
    security(("key" = []))
)]
pub(super) async fn reveal(
    State(state): State<AppState>,
    Extension(caller): Extension<Caller>,
    Extension(request): Extension<RequestId>,
    Path(id): Path<Uuid>,
) -> Result<Response, Problem> {
    let reveal = async |tx: &mut PgConnection| {
        let tenant = find_tenant(tx, id).await?;
        must_be_ready(&tenant)?;
        let sealed = tenants::find_credential(tx, tenant.id).await?;
        let connection = connection(&state, &tenant, &sealed.unwrap_or_default())?;
        audit::by_request(tx, &caller.actor(), request.0).await?;
        let act = Act {
            action: "credential.revealed",
            target_kind: "credential",
            target: &tenant.username,
            organization: Some((&tenant.source, Some(&tenant.org_id))),
        };
        audit::note(tx, act).await?;
        Ok::<_, Problem>(connection)
    };
    let connection = state.db.transaction(reveal).await?;
    let no_store = (header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    Ok(([no_store], Json(connection)).into_response())
}

fn must_be_ready(tenant: &Tenant) -> Result<(), Problem> {
    let state = tenant.state;
    Err(match state {
        TenantState::Ready => return Ok(()),
        TenantState::Pending | TenantState::Provisioning | TenantState::Failed => {
            forward_auth::refused(standing::Refusal::NotReady(state))
        }
        TenantState::Suspended | TenantState::Archived => {
            forward_auth::refused(standing::Refusal::Closed(state))
        }
        TenantState::Deleted => Problem::from(Refusal::TenantWrongState {
            tenant: tenant.id,
            state,
            wanted: "ready",
        }),
    })
}

fn connection(state: &AppState, tenant: &Tenant, sealed: &[u8]) -> Result<Connection, Problem> {
    let password = state.keyring.open(tenant.id.0, sealed);
    let password = password.map_err(|error| Problem::internal(&error))?;
    let cluster = state.clusters.get(tenant.cluster.as_deref().unwrap_or(""));
    let cluster = cluster.map_err(|error| Problem::internal(&error))?;
    let (host, port) = cluster.address();
    Ok(Connection {
        host: host.to_owned(),
        port,
        database: tenant.database.clone(),
        read_only_database: tenant.read_only_database.clone(),
        username: tenant.username.clone(),
        url: cluster.tenant_url(&tenant.database, &tenant.username, Some(&password)),
        password: password.expose_secret().to_owned(),
    })
}
