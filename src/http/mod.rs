//! The HTTP edge: extract, call, respond. The only place that knows axum.
//!
//! Guarantees: a panic is a 500 and logged; every answer carries `x-request-id`; errors are RFC 9457
//! problems with a stable code; no client can hold more than its share of time or connections.

mod health;
mod observe;
mod problem;
mod server;
mod webhooks;

use std::{collections::BTreeMap, sync::Arc};

use axum::{
    Router, middleware,
    routing::{get, post},
};
use tower_http::catch_panic::CatchPanicLayer;

use crate::{config::Source, db::Db, inbox::Inbox, metrics::Metrics, shutdown::Tasks};

pub use problem::Problem;
pub use server::serve;

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
    /// The sources that are routed; none in a process that only works.
    pub sources: Arc<BTreeMap<String, Source>>,
    /// How long a connection may be idle.
    pub idle_timeout: std::time::Duration,
    /// How many large bodies may be read at once.
    pub large_bodies: Arc<tokio::sync::Semaphore>,
    /// When the database was last asked for the backlog.
    pub last_backlog: Arc<tokio::sync::Mutex<Option<std::time::Instant>>>,
}

/// The limit of large bodies, shared by all connections of a process.
pub fn large_bodies() -> Arc<tokio::sync::Semaphore> {
    Arc::new(tokio::sync::Semaphore::new(webhooks::LARGE_BODIES))
}

/// Every route.
pub fn router(state: AppState) -> Router {
    Router::new()
        .route("/webhooks/{source}", post(webhooks::receive))
        .route("/api/clerk/webhooks", post(webhooks::receive_from_clerk))
        .route("/livez", get(health::livez))
        .route("/readyz", get(health::readyz))
        .route("/metrics", get(health::metrics))
        .fallback(problem::not_found)
        .method_not_allowed_fallback(problem::method_not_allowed)
        .layer(CatchPanicLayer::custom(problem::panicked))
        .layer(middleware::from_fn_with_state(
            state.clone(),
            observe::observe,
        ))
        .with_state(state)
}
