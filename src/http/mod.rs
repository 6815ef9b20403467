//! The HTTP edge: extract, call, respond. The only place that knows axum.
//!
//! Guarantees: every route stands in one table with who may use it, and is checked before its handler
//! runs; a panic is a 500 and logged; every answer carries `x-request-id`; errors are RFC 9457
//! problems with a stable code; no client can hold more than its share of time or connections.

mod access;
mod audit;
mod connection;
mod connections;
mod cors;
mod docs;
mod events;
mod extract;
mod fleet_run_events;
mod fleet_runs;
mod forward_auth;
mod head_deadline;
mod health;
mod hosts;
mod invitations;
mod jobs;
mod labels;
mod limits;
mod members;
mod mutation;
mod notifications;
mod observe;
mod openapi;
mod operator;
mod origin;
mod problem;
mod registrants;
mod registration_events;
mod registrations;
mod resolve;
mod routes;
mod security_headers;
mod server;
mod staff;
mod tenants;
mod webhooks;

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use axum::{Router, extract::DefaultBodyLimit, middleware};
use ipnet::IpNet;
use tower_http::catch_panic::CatchPanicLayer;

use crate::{
    actions::{MemberDesk, RegistrationDesk},
    api_keys::ApiKeys,
    auth::{Issuers, standing::Registry},
    config::Source,
    db::Db,
    faults::Faults,
    inbox::Inbox,
    metrics::Metrics,
    provisioning::BlueprintSource,
    queue::Waker,
    registrations::Watcher,
    secrets::Keyring,
    shutdown::Tasks,
    tenant_db::Clusters,
};

pub use access::Access;
pub use limits::{Limits, RequestsPerMinute};
pub use openapi::document;
pub use origin::PublicPath;
pub use problem::Problem;
use routes::{Route, routes};
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
    /// How many reads of all members of an organization may run at once.
    pub member_reads: Arc<tokio::sync::Semaphore>,
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
    /// Where registrations are carried out.
    pub registrations: Arc<RegistrationDesk>,
    /// Tells who follows a registration that there is something new.
    pub watcher: Watcher,
    /// Where tenants live.
    pub clusters: Clusters,
    /// Where the blueprint is that this replica works with; `None` where it does not work.
    pub blueprint: Option<BlueprintSource>,
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

/// The limit of reads of all members of an organization, shared by all requests of a process.
pub fn member_reads() -> Arc<tokio::sync::Semaphore> {
    Arc::new(tokio::sync::Semaphore::new(members::READS))
}

/// Method, path and rule of every route.
pub fn access_table() -> Vec<(&'static str, &'static str, Access)> {
    let row = |route: Route| (route.method, route.path, route.access);
    routes().into_iter().map(row).collect()
}

/// Every route, behind the layers that all of them share.
pub fn router(state: AppState) -> Router {
    let is_api = |route: &Route| security_headers::is_api(route.path);
    let is_for_forms = |route: &Route| cors::is_for_forms(route.path);
    let (forms, routes): (Vec<_>, Vec<_>) = routes().into_iter().partition(is_for_forms);
    let (api, others): (Vec<_>, Vec<_>) = routes.into_iter().partition(is_api);
    let mut api = behind_layers(&state, api);
    if let Some(cors) = cors::layer(&state.cors_origins) {
        api = api.layer(cors);
    }
    behind_layers(&state, others)
        .merge(api)
        .merge(behind_layers(&state, forms).layer(cors::for_forms()))
        .fallback(problem::not_found)
        .layer(middleware::from_fn_with_state(
            state.clone(),
            observe::observe,
        ))
        .with_state(state)
}

fn behind_layers(state: &AppState, routes: Vec<Route>) -> Router<AppState> {
    let mut guarded = Router::new();
    for route in routes {
        let check = middleware::from_fn_with_state((state.clone(), route.access), access::check);
        guarded = guarded.route(route.path, route.handler.route_layer(check));
    }
    guarded
        .method_not_allowed_fallback(problem::method_not_allowed)
        .layer(DefaultBodyLimit::max(MAX_BODY))
        .layer(CatchPanicLayer::custom(problem::panicked))
}
