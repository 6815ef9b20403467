//! The HTTP edge: extract, call, respond. The only place that knows axum.
//!
//! Guarantees: a panic is a 500 and logged; every answer carries `x-request-id`; errors are RFC 9457
//! problems with a stable code; draining stops taking connections and finishes open requests.

mod health;
mod observe;
mod problem;
mod webhooks;

use std::{collections::BTreeMap, sync::Arc};

use axum::{
    Router, middleware,
    routing::{get, post},
};
use tower_http::catch_panic::CatchPanicLayer;

use crate::{config::Source, db::Db, inbox::Inbox, metrics::Metrics, shutdown::Tasks};

pub use problem::Problem;

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
}

/// Every route.
pub fn router(state: AppState) -> Router {
    Router::new()
        .route("/webhooks/{source}", post(webhooks::receive))
        .route("/livez", get(health::livez))
        .route("/readyz", get(health::readyz))
        .route("/metrics", get(health::metrics))
        .fallback(problem::not_found)
        .method_not_allowed_fallback(problem::method_not_allowed)
        .layer(middleware::from_fn_with_state(
            state.clone(),
            observe::observe,
        ))
        .layer(CatchPanicLayer::custom(problem::panicked))
        .with_state(state)
}

/// Serves until the tasks drain, then finishes open requests.
pub async fn serve(listener: tokio::net::TcpListener, state: AppState) {
    let tasks = state.tasks.clone();
    let served = axum::serve(listener, router(state))
        .with_graceful_shutdown(async move { tasks.draining().await })
        .await;
    if let Err(error) = served {
        tracing::error!(%error, "the HTTP server ended");
    }
}
