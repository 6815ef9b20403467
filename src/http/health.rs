//! `/livez`, `/readyz`, `/metrics`.
//!
//! Guarantees: liveness never asks Postgres; readiness answers within two seconds; metrics are served
//! while the database is away, without the figures that only it knows.

use std::time::{Duration, Instant};

use axum::{
    extract::State,
    http::{StatusCode, header},
    response::{IntoResponse, Response},
};

use super::{AppState, Problem};
use crate::{
    db::Schema, fleet, inbox, metrics::Backlog, notifications, provisioning::pool, queue,
    registrations, tenants,
};

const PATIENCE: Duration = Duration::from_secs(2);

/// How old the database's figures may be.
const FRESH: Duration = Duration::from_millis(500);

/// Is the process live?
#[utoipa::path(
    get,
    path = "/livez",
    operation_id = "livez",
    tag = "operations",
    responses((status = 200, description = "Yes", body = String, content_type = "text/plain"))
)]
pub(super) async fn livez() -> &'static str {
    "live\n"
}

/// May requests be sent here?
#[utoipa::path(
    get,
    path = "/readyz",
    operation_id = "readyz",
    tag = "operations",
    responses(
        (status = 200, description = "Yes", body = String, content_type = "text/plain"),
        (status = 503, description = "Not now; `code` says why", body = Problem, content_type = "application/problem+json"),
    )
)]
pub(super) async fn readyz(State(state): State<AppState>) -> Response {
    let not_ready = |code, detail: &str, fix: &str| {
        Problem::new(StatusCode::SERVICE_UNAVAILABLE, code, detail, fix)
            .retry_after(1)
            .into_response()
    };
    if state.tasks.is_draining() {
        return not_ready("draining", "this process is ending", "use another replica");
    }
    match tokio::time::timeout(PATIENCE, state.db.schema()).await {
        Ok(Ok(Schema::Usable)) => "ready\n".into_response(),
        Ok(Ok(Schema::Behind)) => not_ready(
            "not_migrated",
            "the control database is being migrated",
            "wait a moment",
        ),
        Ok(Ok(Schema::TooNew(_))) => not_ready(
            "schema_too_new",
            "a newer tenantry has migrated the control database",
            "replace this replica by a newer one",
        ),
        Ok(Err(_)) | Err(_) => not_ready(
            "database_unavailable",
            "the control database does not answer",
            "run `tenantry doctor`",
        ),
    }
}

/// What the process has counted, for Prometheus.
#[utoipa::path(
    get,
    path = "/metrics",
    operation_id = "metrics",
    tag = "operations",
    responses(
        (status = 200, description = "OpenMetrics text", body = String, content_type = "application/openmetrics-text"),
        (status = 500, description = "The text cannot be written", body = Problem, content_type = "application/problem+json"),
    )
)]
pub(super) async fn metrics(State(state): State<AppState>) -> Response {
    // one at a time: a crowd of scrapers must not take the connections that deliveries need,
    // nor see each other's figures half set
    let mut last = state.last_backlog.lock().await;
    if last.is_none_or(|at| at.elapsed() > FRESH) {
        let backlog = tokio::time::timeout(PATIENCE, backlog(&state)).await;
        state.metrics.backlog(backlog.ok().and_then(Result::ok));
        *last = Some(Instant::now());
    }
    state.metrics.connections(state.db.connections());
    let rendered = state.metrics.render();
    drop(last);
    match rendered {
        Ok(text) => (
            [(
                header::CONTENT_TYPE,
                "application/openmetrics-text; version=1.0.0; charset=utf-8",
            )],
            text,
        )
            .into_response(),
        Err(error) => Problem::internal(&error).into_response(),
    }
}

async fn backlog(state: &AppState) -> Result<Backlog, queue::Error> {
    state
        .db
        .run(async |connection| {
            let events = inbox::count(connection).await?;
            let jobs = queue::count(connection).await?;
            let notifications = notifications::count(connection).await?;
            Ok(Backlog {
                inbox_pending: events.pending,
                inbox_oldest_s: events.oldest_pending_s,
                waiting_events: events.waiting,
                failed_events: events.failed,
                jobs_past_due: jobs.iter().map(|count| count.past_due).sum(),
                oldest_due_s: jobs
                    .iter()
                    .map(|count| count.oldest_due_s)
                    .fold(0.0, f64::max),
                jobs: jobs
                    .into_iter()
                    .map(|count| (count.state, count.jobs))
                    .collect(),
                tenants: tenants::count_by_state(connection).await?,
                registrations: registrations::count_open(connection).await?,
                last_pruned: queue::last_pruned(connection).await?,
                notifications: notifications
                    .into_iter()
                    .map(|of| (of.endpoint, of.pending, of.oldest_s))
                    .collect(),
                disabled_endpoints: notifications::count_disabled(connection).await?,
                fleet_run_targets: fleet::count_unfinished(connection).await?,
                pool: pool::count_by_state(connection).await?,
            })
        })
        .await
}
