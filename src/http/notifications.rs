//! `/v1/notifications`: what was told to whom, and once more.

use axum::{Json, extract::State, http::StatusCode, response::Response};
use serde::Deserialize;
use uuid::Uuid;

use super::{
    AppState, Problem,
    extract::{Path, Query},
    mutation::Mutation,
    operator::{Changing, Reading},
};
use crate::{
    config::NotificationType,
    notifications::{self, DeliveryState, Detailed, Error, Filter, Notification},
    page::{Asked, Page},
};

/// Which notifications to list.
#[derive(Debug, Deserialize, utoipa::IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct Which {
    /// Only those of this type.
    #[serde(rename = "type")]
    #[param(inline)]
    kind: Option<NotificationType>,
    /// Only those about this tenant.
    tenant_id: Option<Uuid>,
    /// Only those that are in this state at some endpoint.
    #[param(inline)]
    state: Option<DeliveryState>,
    /// Only those for this endpoint; with a state, those that are in it there.
    endpoint: Option<String>,
    /// `next_cursor` of the page before.
    cursor: Option<String>,
    /// Rows of a page: 1 to 200, 50 if not given.
    limit: Option<u32>,
}

/// Notifications, the newest first.
#[utoipa::path(
    get,
    path = "/v1/notifications",
    operation_id = "list_notifications",
    tag = "notifications",
    params(Which),
    responses((status = 200, description = "A page of notifications", body = Page<Notification>), Reading),
    security(("key" = []))
)]
pub(super) async fn list(
    State(state): State<AppState>,
    Query(which): Query<Which>,
) -> Result<Json<Page<Notification>>, Problem> {
    let asked = Asked::read(which.cursor, which.limit)?;
    let filter = Filter {
        kind: which.kind,
        tenant: which.tenant_id,
        state: which.state,
        endpoint: which.endpoint,
    };
    let list =
        async |connection: &mut _| notifications::list_page(connection, &filter, &asked).await;
    Ok(Json(state.db.run(list).await?))
}

/// A notification and its attempts.
#[utoipa::path(
    get,
    path = "/v1/notifications/{id}",
    operation_id = "find_notification",
    tag = "notifications",
    params(("id" = Uuid, Path, description = "Its id, as in webhook-id")),
    responses(
        (status = 200, description = "The notification", body = Detailed),
        (status = 404, description = "No notification with this id", body = Problem, content_type = "application/problem+json"),
        Reading
    ),
    security(("key" = []))
)]
pub(super) async fn get(
    State(state): State<AppState>,
    Path(id): Path<Uuid>,
) -> Result<Json<Detailed>, Problem> {
    let find = async |connection: &mut _| notifications::find(connection, id).await;
    Ok(Json(state.db.run(find).await?))
}

/// To whom a notification is told once more.
#[derive(Debug, Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = NotificationReplay)]
pub(super) struct Again {
    /// Name of the endpoint; everybody who was, or was to be, told of it, if not given.
    #[schema(pattern = r"^[^\u0000]*$")]
    endpoint: Option<String>,
}

/// Tell a notification once more, under the same id.
#[utoipa::path(
    post,
    path = "/v1/notifications/{id}/replay",
    operation_id = "replay_notification",
    tag = "notifications",
    params(
        ("id" = Uuid, Path, description = "Its id, as in webhook-id"),
        ("idempotency-key" = Option<String>, Header, description = "A repeated key returns the saved answer and changes nothing")
    ),
    request_body(content = Option<Again>, description = "May be left out"),
    responses((status = 200, description = "The notification, to be told again", body = Detailed), Changing),
    security(("key" = []))
)]
pub(super) async fn replay(
    State(state): State<AppState>,
    Path(id): Path<Uuid>,
    mutation: Mutation<Again>,
) -> Result<Response, Problem> {
    let only = mutation.body.endpoint.as_deref();
    let act = async |tx: &mut _| Ok(notifications::replay(tx, id, only, &mutation.actor).await?);
    mutation.run(&state, StatusCode::OK, act).await
}

impl From<Error> for Problem {
    fn from(error: Error) -> Self {
        let (code, fix) = (error.code(), error.fix());
        match error {
            Error::Sql(error) => error.into(),
            error @ (Error::Unknown(_) | Error::EndpointUnknown(_)) => {
                Self::new(StatusCode::NOT_FOUND, code, error.to_string(), fix)
            }
        }
    }
}
