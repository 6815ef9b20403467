//! An application of many tenants: a request works in the database of its tenant, and in no other.
//!
//! Who asks and for which tenant is in the headers of the proxy, which asked tenantry. Whoever reaches this
//! process past the proxy can write these headers too: it listens on the loopback.

mod pools;

use std::{env, error::Error, sync::Arc};

use axum::{
    Json, Router,
    extract::{FromRequestParts, State},
    http::{StatusCode, header, request::Parts},
    response::{IntoResponse, Response},
    routing::get,
};
use serde::Serialize;

use pools::{Pools, Settings, Tenant};

/// A setting from the environment.
fn setting(name: &str, default: &str) -> String {
    env::var(name).unwrap_or_else(|_| default.to_owned())
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let pools = Pools::new(Settings {
        tenantry: setting("TENANTRY_URL", "http://127.0.0.1:8420"),
        // with the scope tenants:connect and no other
        key: env::var("TENANTRY_KEY").map_err(|_| "TENANTRY_KEY is not set")?,
        // tenants with open connections at once, and connections of each: together less than Postgres has
        pools: setting("POOLS", "50").parse()?,
        pool_size: setting("POOL_SIZE", "4").parse()?,
    })?;
    let app = Router::new()
        .route("/healthz", get(healthz))
        .route("/people", get(people))
        .with_state(Arc::new(pools));
    let port: u16 = setting("PORT", "8000").parse()?;
    let listener = tokio::net::TcpListener::bind(("127.0.0.1", port)).await?;
    axum::serve(listener, app).await?;
    Ok(())
}

/// Why a request is not answered.
pub enum Refusal {
    NoTenant,
    Unavailable,
    Failed,
}

impl From<pools::Error> for Refusal {
    fn from(error: pools::Error) -> Self {
        eprintln!("no connection: {error}");
        Self::Unavailable
    }
}

impl From<sqlx::Error> for Refusal {
    fn from(error: sqlx::Error) -> Self {
        eprintln!("a query failed: {error}");
        Self::Failed
    }
}

impl IntoResponse for Refusal {
    fn into_response(self) -> Response {
        match self {
            Self::NoTenant => {
                let text = "no tenant: this application is asked through the proxy";
                (StatusCode::FORBIDDEN, text).into_response()
            }
            Self::Unavailable => {
                let text = "the tenant's database cannot be reached";
                let headers = [(header::RETRY_AFTER, "2")];
                (StatusCode::SERVICE_UNAVAILABLE, headers, text).into_response()
            }
            Self::Failed => StatusCode::INTERNAL_SERVER_ERROR.into_response(),
        }
    }
}

impl<S: Sync> FromRequestParts<S> for Tenant {
    type Rejection = Refusal;

    async fn from_request_parts(request: &mut Parts, _: &S) -> Result<Self, Refusal> {
        let header = |name| {
            let value = request.headers.get(name)?.to_str().ok()?;
            Some(value.to_owned()).filter(|value| !value.is_empty())
        };
        let id = header("x-tenant-id").ok_or(Refusal::NoTenant)?;
        let database = header("x-tenant-database").ok_or(Refusal::NoTenant)?;
        Ok(Self { id, database })
    }
}

#[derive(Serialize)]
struct Health {
    status: &'static str,
    pools: u64,
}

/// Public: `access.public_paths` of tenantry names it.
async fn healthz(State(pools): State<Arc<Pools>>) -> Json<Health> {
    let (status, pools) = ("ok", pools.open().await);
    Json(Health { status, pools })
}

#[derive(Serialize, sqlx::FromRow)]
struct Person {
    id: String,
    name: String,
    email: Option<String>,
    role: String,
}

async fn people(
    State(pools): State<Arc<Pools>>,
    tenant: Tenant,
) -> Result<Json<Vec<Person>>, Refusal> {
    let mut connection = pools.connection(&tenant).await?;
    let people = sqlx::query_as(
        "select external_id as id, display_name as name, email, role
         from users
         where removed_at is null
         order by display_name, id",
    )
    .fetch_all(&mut *connection)
    .await?;
    Ok(Json(people))
}
