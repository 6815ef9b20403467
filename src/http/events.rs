//! `/v1/events`: what was received, and once more.

use axum::{Json, extract::State, http::StatusCode, response::Response};
use serde::Deserialize;

use super::{
    AppState, Problem,
    extract::{Path, Query},
    mutation::Mutation,
    operator::{Changing, Reading},
};
use crate::{
    actions::{self, Refusal},
    inbox::{self, Event, EventState, Filter},
    page::{Asked, Page},
};

/// Which events to list.
#[derive(Debug, Deserialize, utoipa::IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct Which {
    /// Only events in this state.
    #[param(inline)]
    state: Option<EventState>,
    /// Only events of this source.
    source: Option<String>,
    /// Only events of this type, such as `organization.created`.
    #[serde(rename = "type")]
    event_type: Option<String>,
    /// Only events about this organization.
    org_id: Option<String>,
    /// `next_cursor` of the page before.
    cursor: Option<String>,
    /// Rows of a page: 1 to 200, 50 if not given.
    limit: Option<u32>,
}

/// Received events, the newest first.
#[utoipa::path(
    get,
    path = "/v1/events",
    operation_id = "list_events",
    tag = "events",
    params(Which),
    responses((status = 200, description = "A page of events", body = Page<Event>), Reading),
    security(("key" = []))
)]
pub(super) async fn list(
    State(state): State<AppState>,
    Query(which): Query<Which>,
) -> Result<Json<Page<Event>>, Problem> {
    let asked = Asked::read(which.cursor, which.limit)?;
    let filter = Filter {
        state: which.state,
        source: which.source,
        event_type: which.event_type,
        organization_id: which.org_id,
    };
    let list = async |connection: &mut _| inbox::list_page(connection, &filter, &asked).await;
    Ok(Json(state.db.run(list).await?))
}

/// An event.
#[utoipa::path(
    get,
    path = "/v1/events/{id}",
    operation_id = "find_event",
    tag = "events",
    params(("id" = i64, Path, description = "Our number of the event")),
    responses(
        (status = 200, description = "The event", body = Event),
        (status = 404, description = "There is none of this number", body = Problem, content_type = "application/problem+json"),
        Reading
    ),
    security(("key" = []))
)]
pub(super) async fn get(
    State(state): State<AppState>,
    Path(id): Path<i64>,
) -> Result<Json<Event>, Problem> {
    let find = async |connection: &mut _| inbox::find_event(connection, id).await;
    let found = state.db.run(find).await?;
    Ok(Json(found.ok_or(Refusal::EventUnknown(id))?))
}

/// Process a settled event once more.
#[utoipa::path(
    post,
    path = "/v1/events/{id}/replay",
    operation_id = "replay_event",
    tag = "events",
    params(
        ("id" = i64, Path, description = "Our number of the event"),
        ("idempotency-key" = Option<String>, Header, description = "A repeated key returns the saved answer and changes nothing")
    ),
    responses((status = 200, description = "The event, received as if just now", body = Event), Changing),
    security(("key" = []))
)]
pub(super) async fn replay(
    State(state): State<AppState>,
    Path(id): Path<i64>,
    mutation: Mutation,
) -> Result<Response, Problem> {
    let act = async |tx: &mut _| {
        let replayed = actions::replay_event(tx, id, state.max_attempts, &mutation.actor).await;
        Ok(replayed?)
    };
    mutation.run(&state, StatusCode::OK, act).await
}
