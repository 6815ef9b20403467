//! The HTTP edge: extract, call, respond. The only place that knows axum.
//!
//! Guarantees: every route stands in one table with who may use it, and is checked before its handler
//! runs; a panic is a 500 and logged; every answer carries `x-request-id`; errors are RFC 9457
//! problems with a stable code; no client can hold more than its share of time or connections.

mod access;
mod connections;
mod cors;
mod cursor;
mod docs;
mod extract;
mod forward_auth;
mod head_deadline;
mod health;
mod invitations;
mod limits;
mod members;
mod mutation;
mod observe;
mod openapi;
mod origin;
mod problem;
mod resolve;
mod security_headers;
mod server;
mod staff;
mod webhooks;

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use axum::{
    Router,
    extract::DefaultBodyLimit,
    handler::Handler,
    middleware,
    routing::{MethodFilter, MethodRouter, on},
};
use ipnet::IpNet;
use tower_http::catch_panic::CatchPanicLayer;

use crate::{
    api_keys::{ApiKeys, Scope},
    auth::{Issuers, standing::Registry},
    config::Source,
    db::Db,
    faults::Faults,
    inbox::Inbox,
    jobs::MemberDesk,
    metrics::Metrics,
    queue::Waker,
    secrets::Keyring,
    shutdown::Tasks,
    tenant_db::Clusters,
};

pub use access::Access;
pub use limits::Limits;
pub use openapi::document;
pub use origin::PublicPath;
pub use problem::Problem;
pub use server::{ConnectionLimits, serve};

/// Bytes of a body of the API; more are answered 413.
const MAX_BODY: usize = 256 << 10;

/// What requests need.
#[derive(Debug, Clone)]
pub struct AppState {
    /// The way into the inbox.
    pub inbox: Inbox,
    /// Control database.
    pub db: Db,
    /// Counts.
    pub metrics: Metrics,
    /// Says whether the process drains.
    pub tasks: Tasks,
    /// Wakes workers.
    pub waker: Waker,
    /// The sources that are routed; none in a process that only works.
    pub sources: Arc<BTreeMap<String, Source>>,
    /// Names of all sources.
    pub source_names: Arc<BTreeSet<String>>,
    /// What a connection may do.
    pub connections: ConnectionLimits,
    /// How often somebody may ask.
    pub limits: Arc<Limits>,
    /// Origins whose pages may call the API from a browser.
    pub cors_origins: Arc<[String]>,
    /// How many large bodies may be read at once.
    pub large_bodies: Arc<tokio::sync::Semaphore>,
    /// When the database was last asked for the backlog.
    pub last_backlog: Arc<tokio::sync::Mutex<Option<std::time::Instant>>>,
    /// Operators' keys.
    pub api_keys: ApiKeys,
    /// Whose tokens are believed.
    pub issuers: Issuers,
    /// Tenants and people, remembered for a moment.
    pub registry: Registry,
    /// Slug of the role that administers an organization.
    pub admin_role: Arc<str>,
    /// Proxies whose `X-Forwarded-*` count.
    pub trusted_proxies: Arc<[IpNet]>,
    /// Paths of the application that need no token.
    pub public_paths: Arc<[PublicPath]>,
    /// Cookies that may carry an end user's token, for forward-auth.
    pub session_cookies: Arc<[String]>,
    /// Where member operations are carried out.
    pub desk: MemberDesk,
    /// Where tenants live.
    pub clusters: Clusters,
    /// Opens tenants' passwords.
    pub keyring: Arc<Keyring>,
    /// Attempts of a job that is enqueued here.
    pub max_attempts: i32,
    /// Points at which a test makes a request fail.
    pub faults: Faults,
}

/// The limit of large bodies, shared by all connections of a process.
pub fn large_bodies() -> Arc<tokio::sync::Semaphore> {
    Arc::new(tokio::sync::Semaphore::new(webhooks::LARGE_BODIES))
}

/// A route, and who may use it.
struct Route {
    method: &'static str,
    path: &'static str,
    access: Access,
    handler: MethodRouter<AppState>,
}

fn get<H: Handler<T, AppState>, T: 'static>(
    path: &'static str,
    access: Access,
    handler: H,
) -> Route {
    route("GET", MethodFilter::GET, (path, access), handler)
}

fn post<H: Handler<T, AppState>, T: 'static>(
    path: &'static str,
    access: Access,
    handler: H,
) -> Route {
    route("POST", MethodFilter::POST, (path, access), handler)
}

fn patch<H: Handler<T, AppState>, T: 'static>(
    path: &'static str,
    access: Access,
    handler: H,
) -> Route {
    route("PATCH", MethodFilter::PATCH, (path, access), handler)
}

fn delete<H: Handler<T, AppState>, T: 'static>(
    path: &'static str,
    access: Access,
    handler: H,
) -> Route {
    route("DELETE", MethodFilter::DELETE, (path, access), handler)
}

fn route<H: Handler<T, AppState>, T: 'static>(
    method: &'static str,
    filter: MethodFilter,
    (path, access): (&'static str, Access),
    handler: H,
) -> Route {
    Route {
        method,
        path,
        access,
        handler: on(filter, handler),
    }
}

/// Every route, and who may use it: there is no other way to a handler.
fn routes() -> Vec<Route> {
    use Access::{ForwardAuth, KeyOrUser, Public, Signature, Visitor};
    let mut routes = vec![
        // senders
        post("/webhooks/{source}", Signature, webhooks::receive),
        post(
            "/api/clerk/webhooks",
            Signature,
            webhooks::receive_from_clerk,
        ),
        // applications and the proxies before them
        get("/v1/auth/verify", ForwardAuth, forward_auth::verify),
        get(
            "/v1/tenants/resolve",
            KeyOrUser(Scope::TenantsRead),
            resolve::resolve,
        ),
        // operations
        get("/livez", Public, health::livez),
        get("/readyz", Public, health::readyz),
        get("/metrics", Public, health::metrics),
        get("/openapi.json", Visitor, openapi::serve),
        get("/docs", Visitor, docs::redirect),
        get("/docs/", Visitor, docs::index),
        get("/docs/{*file}", Visitor, docs::asset),
    ];
    routes.extend(organization_routes());
    routes
}

/// What an organization's administrators may do, and operators in their place.
fn organization_routes() -> Vec<Route> {
    let read = Access::KeyOrAdmin(Scope::MembersRead);
    let write = Access::KeyOrAdmin(Scope::MembersWrite);
    vec![
        get("/v1/organizations/{org}/members", read, members::list),
        get(
            "/v1/organizations/{org}/members/counts",
            read,
            members::counts,
        ),
        get(
            "/v1/organizations/{org}/members/{user}",
            read,
            members::find,
        ),
        patch(
            "/v1/organizations/{org}/members/{user}",
            write,
            members::set_role,
        ),
        delete(
            "/v1/organizations/{org}/members/{user}",
            write,
            members::remove,
        ),
        post(
            "/v1/organizations/{org}/members/{user}/restore",
            write,
            members::restore,
        ),
        get(
            "/v1/organizations/{org}/invitations",
            read,
            invitations::list,
        ),
        post(
            "/v1/organizations/{org}/invitations",
            write,
            invitations::invite,
        ),
        get(
            "/v1/organizations/{org}/invitations/{id}",
            read,
            invitations::find,
        ),
        delete(
            "/v1/organizations/{org}/invitations/{id}",
            write,
            invitations::revoke,
        ),
        post(
            "/v1/organizations/{org}/invitations/{id}/resend",
            write,
            invitations::resend,
        ),
        get(
            "/v1/organizations/{org}/staff-assignments",
            read,
            staff::list,
        ),
        post(
            "/v1/organizations/{org}/staff-assignments",
            write,
            staff::assign,
        ),
        delete(
            "/v1/organizations/{org}/staff-assignments/{user}/{customer}",
            write,
            staff::unassign,
        ),
    ]
}

/// Method, path and rule of every route.
pub fn access_table() -> Vec<(&'static str, &'static str, Access)> {
    let row = |route: Route| (route.method, route.path, route.access);
    routes().into_iter().map(row).collect()
}

/// Every route, behind the layers that all of them share.
pub fn router(state: AppState) -> Router {
    let is_api = |route: &Route| security_headers::is_api(route.path);
    let (api, others): (Vec<_>, Vec<_>) = routes().into_iter().partition(is_api);
    let mut api = behind_layers(&state, api);
    if let Some(cors) = cors::layer(&state.cors_origins) {
        api = api.layer(cors);
    }
    behind_layers(&state, others)
        .merge(api)
        .fallback(problem::not_found)
        .layer(middleware::from_fn_with_state(
            state.clone(),
            observe::observe,
        ))
        .with_state(state)
}

fn behind_layers(state: &AppState, routes: Vec<Route>) -> Router<AppState> {
    let mut router = Router::new();
    for route in routes {
        let check = middleware::from_fn_with_state((state.clone(), route.access), access::check);
        router = router.route(route.path, route.handler.route_layer(check));
    }
    router
        .method_not_allowed_fallback(problem::method_not_allowed)
        .layer(DefaultBodyLimit::max(MAX_BODY))
        .layer(CatchPanicLayer::custom(problem::panicked))
}
