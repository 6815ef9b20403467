//! PLACEHOLDER, to be replaced whole: routes about registrations that answer 204, so that their rules can be tried.

use axum::{Extension, http::StatusCode};

use super::{Problem, access::Caller};

/// Placeholder.
#[utoipa::path(
    post,
    path = "/v1/registrations",
    operation_id = "register",
    tag = "registrations",
    security(("key" = []), ("form_key" = [])),
    responses(
        (status = 204, description = "Placeholder"),
        (status = 401, description = "No key, or one that is not accepted", body = Problem, content_type = "application/problem+json"),
        (status = 403, description = "The key may not do this, or not from this page", body = Problem, content_type = "application/problem+json"),
        (status = 429, description = "Asked too often", body = Problem, content_type = "application/problem+json"),
    )
)]
pub(super) async fn register() -> StatusCode {
    StatusCode::NO_CONTENT
}

/// Placeholder.
#[utoipa::path(
    get,
    path = "/v1/registrations/{id}",
    operation_id = "get_registration",
    tag = "registrations",
    params(("id" = String, Path, description = "Id of the registration")),
    security(("key" = []), ("status_token" = []), ("status_token_in_query" = [])),
    responses(
        (status = 204, description = "Placeholder"),
        (status = 401, description = "Nothing that is accepted", body = Problem, content_type = "application/problem+json"),
        (status = 403, description = "The key may not do this", body = Problem, content_type = "application/problem+json"),
        (status = 429, description = "Asked too often", body = Problem, content_type = "application/problem+json"),
    )
)]
pub(super) async fn get(Extension(caller): Extension<Caller>) -> StatusCode {
    match caller {
        // no registration has this one
        Caller::Registrant(token) if token.matches("") => StatusCode::NOT_FOUND,
        _ => StatusCode::NO_CONTENT,
    }
}

/// Placeholder.
#[utoipa::path(
    get,
    path = "/v1/registrations/{id}/events",
    operation_id = "follow_registration",
    tag = "registrations",
    params(("id" = String, Path, description = "Id of the registration")),
    security(("key" = []), ("status_token" = []), ("status_token_in_query" = [])),
    responses(
        (status = 204, description = "Placeholder"),
        (status = 401, description = "Nothing that is accepted", body = Problem, content_type = "application/problem+json"),
        (status = 403, description = "The key may not do this", body = Problem, content_type = "application/problem+json"),
        (status = 429, description = "Asked too often", body = Problem, content_type = "application/problem+json"),
    )
)]
pub(super) async fn events(caller: Extension<Caller>) -> StatusCode {
    get(caller).await
}
