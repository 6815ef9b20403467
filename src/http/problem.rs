//! Errors as RFC 9457 problems: `code`, what happened, what to do, and the request's id.
//!
//! Guarantees: a 5xx says nothing about the inside; `code` is stable and explained in docs/errors.md.

use axum::{
    Json,
    extract::rejection::{PathRejection, QueryRejection},
    http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header},
    response::{IntoResponse, Response},
};
use serde::Serialize;
use uuid::Uuid;

use crate::{
    api_keys::KeyError, auth, causes::chain, db, idempotency, members, page, queue,
    registrations::form::FieldProblem,
};

/// What the body of a problem is.
pub(super) const MEDIA_TYPE: &str = "application/problem+json";

/// What a client is told to wait when the control database is away, in seconds.
const RETRY_AFTER_S: u32 = 2;

/// What a client is told to wait while another request has its idempotency key, in seconds.
const RETRY_KEY_AFTER_S: u32 = 1;

/// A problem document.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, utoipa::ToSchema)]
pub struct Problem {
    /// `urn:tenantry:error:` and the code.
    #[serde(rename = "type")]
    #[schema(value_type = String)]
    kind: Box<str>,
    /// The status in words.
    title: &'static str,
    /// The HTTP status.
    #[schema(minimum = 400, maximum = 599)]
    status: u16,
    /// Stable code, explained in docs/errors.md.
    code: &'static str,
    /// What happened.
    #[schema(value_type = String)]
    detail: Box<str>,
    /// What to do.
    #[schema(value_type = String)]
    fix: Box<str>,
    /// The request's id, as in `x-request-id` and in the log.
    #[serde(skip_serializing_if = "Option::is_none")]
    request_id: Option<Uuid>,
    /// What some problems say beside that.
    #[serde(flatten)]
    more: Option<Box<More>>,
    /// Boxed: every handler's result carries a problem's size.
    #[serde(skip)]
    headers: Box<HeaderMap>,
}

/// Extension members of a problem (RFC 9457, section 3.2).
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, utoipa::ToSchema)]
#[schema(as = ProblemExtensions)]
pub(super) struct More {
    /// What is wrong with which field: all of it at once.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(super) errors: Vec<FieldProblem>,
    /// What could be sent instead.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(super) suggestions: Vec<String>,
    /// The host to which the person belongs.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) url: Option<String>,
}

impl Problem {
    /// A problem with its stable code, cause and fix.
    pub fn new(
        status: StatusCode,
        code: &'static str,
        detail: impl Into<String>,
        fix: impl Into<String>,
    ) -> Self {
        Self {
            kind: format!("urn:tenantry:error:{code}").into(),
            title: status.canonical_reason().unwrap_or("Error"),
            status: status.as_u16(),
            code,
            detail: detail.into().into(),
            fix: fix.into().into(),
            request_id: None,
            more: None,
            headers: Box::default(),
        }
    }

    /// Tells the client when to come again, in seconds.
    #[must_use]
    pub fn retry_after(self, seconds: u32) -> Self {
        self.header(header::RETRY_AFTER, HeaderValue::from(seconds))
    }

    /// Says more than what every problem says.
    #[must_use]
    pub(super) fn more(mut self, more: More) -> Self {
        self.more = Some(Box::new(more));
        self
    }

    /// Answers with a header.
    #[must_use]
    pub fn header(mut self, name: HeaderName, value: HeaderValue) -> Self {
        self.headers.insert(name, value);
        self
    }

    /// Something that went wrong here: the log has the cause, the client only the code.
    pub fn internal(error: &(dyn std::error::Error + 'static)) -> Self {
        tracing::error!(error = chain(error), "a request met an error");
        Self::new(
            StatusCode::INTERNAL_SERVER_ERROR,
            "internal_error",
            "something went wrong here",
            "try again; the log has the cause",
        )
    }

    /// The control database is away.
    pub fn unavailable() -> Self {
        Self::new(
            StatusCode::SERVICE_UNAVAILABLE,
            "control_database_unavailable",
            "the control database does not answer",
            "try again after Retry-After; `tenantry doctor` tells more",
        )
        .retry_after(RETRY_AFTER_S)
    }

    /// A parameter or body that cannot be what the route takes.
    pub fn invalid(detail: impl Into<String>) -> Self {
        Self::new(
            StatusCode::BAD_REQUEST,
            "parameter_invalid",
            detail,
            "see /openapi.json for what this route takes",
        )
    }

    /// The body, with the id of the request that it answers.
    pub(super) fn render(mut self, request_id: Uuid) -> Response {
        self.request_id = Some(request_id);
        self.write()
    }

    fn write(self) -> Response {
        let status = StatusCode::from_u16(self.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        let headers = *self.headers.clone();
        let mut response = (status, Json(self)).into_response();
        response.headers_mut().extend(headers);
        response
            .headers_mut()
            .insert(header::CONTENT_TYPE, HeaderValue::from_static(MEDIA_TYPE));
        response
    }
}

impl IntoResponse for Problem {
    /// The problem goes along, for the layer that knows the request's id.
    fn into_response(self) -> Response {
        let mut response = self.clone().write();
        response.extensions_mut().insert(self);
        response
    }
}

impl From<sqlx::Error> for Problem {
    fn from(error: sqlx::Error) -> Self {
        // 22021, 22P05: a text with a character that Postgres cannot keep
        if matches!(db::sqlstate(&error).as_deref(), Some("22021" | "22P05")) {
            return Self::invalid("a text contains the character U+0000");
        }
        if db::is_unavailable(&error) || db::is_passing(&error) {
            tracing::warn!(
                error = chain(&error),
                "the control database does not answer"
            );
            return Self::unavailable();
        }
        Self::internal(&error)
    }
}

impl From<queue::Error> for Problem {
    fn from(error: queue::Error) -> Self {
        match error {
            queue::Error::Sql(error) => error.into(),
            other => Self::internal(&other),
        }
    }
}

impl From<auth::standing::Unavailable> for Problem {
    fn from(error: auth::standing::Unavailable) -> Self {
        tracing::warn!(
            error = chain(&error),
            "the control database does not answer"
        );
        Self::unavailable()
    }
}

impl From<members::Error> for Problem {
    fn from(error: members::Error) -> Self {
        use members::Error as E;
        let code = error.code();
        let (status, fix) = match &error {
            E::Sql(_) | E::Queue(_) => return error.into_storage(),
            E::Unknown { .. } => (StatusCode::NOT_FOUND, "list the organization's members"),
            E::UnknownInvitation { .. } => {
                (StatusCode::NOT_FOUND, "list the organization's invitations")
            }
            E::WrongState { .. } => (StatusCode::CONFLICT, "look at the invitation's state"),
            E::RoleUnknown(_) => (
                StatusCode::UNPROCESSABLE_ENTITY,
                "send the slug of a role that the provider has described",
            ),
            E::CannotResend(_) => (
                StatusCode::CONFLICT,
                "revoke the invitation, and invite anew",
            ),
            E::Yourself(_) => (StatusCode::CONFLICT, "another administrator has to do it"),
            E::LastAdmin(_) => (
                StatusCode::CONFLICT,
                "make another active member an administrator first",
            ),
            E::WrongStatus { .. } => (StatusCode::CONFLICT, "look at the member's status"),
            E::RemovedElsewhere(_) => (
                StatusCode::CONFLICT,
                "bring the member back at the provider, or invite them",
            ),
            E::AlreadyThere(_) => (
                StatusCode::CONFLICT,
                "list members and invitations: the person is there",
            ),
            E::BadText(_) | E::BadEmail(_) => {
                (StatusCode::UNPROCESSABLE_ENTITY, "send another value")
            }
            E::NoProviderApi(_) => (
                StatusCode::CONFLICT,
                "configure the source's api_key, or do it at the provider",
            ),
        };
        // what was sent is not sent back: it could be a secret in the wrong place
        let detail = match &error {
            E::Unknown { .. } => "there is no such member in the organization".to_owned(),
            E::RoleUnknown(_) => "the provider has not described such a role".to_owned(),
            E::BadEmail(_) => "the text is no e-mail address".to_owned(),
            _ => error.to_string(),
        };
        Self::new(status, code, detail, fix)
    }
}

impl members::Error {
    fn into_storage(self) -> Problem {
        match self {
            Self::Sql(error) => error.into(),
            Self::Queue(error) => error.into(),
            other => Problem::internal(&other),
        }
    }
}

impl From<idempotency::Error> for Problem {
    fn from(error: idempotency::Error) -> Self {
        use idempotency::Error as E;
        let code = error.code();
        let (status, fix) = match error {
            E::Sql(error) => return error.into(),
            E::Reused => (
                StatusCode::UNPROCESSABLE_ENTITY,
                "send another Idempotency-Key for another request",
            ),
            E::InUse => {
                let fix = "send it again after Retry-After";
                return Self::new(StatusCode::CONFLICT, code, error.to_string(), fix)
                    .retry_after(RETRY_KEY_AFTER_S);
            }
            E::Missing => (
                StatusCode::BAD_REQUEST,
                "send Idempotency-Key: a new one for each registration, the same one when you repeat it",
            ),
            E::Invalid => (
                StatusCode::BAD_REQUEST,
                "send 1 to 255 visible ASCII characters",
            ),
        };
        Self::new(status, code, error.to_string(), fix)
    }
}

impl From<page::Error> for Problem {
    fn from(error: page::Error) -> Self {
        let fix = match error {
            page::Error::Sql(error) => return error.into(),
            page::Error::CursorInvalid => "begin again without a cursor",
            page::Error::LimitInvalid(_) => "ask for fewer rows, and follow next_cursor",
        };
        Self::new(
            StatusCode::BAD_REQUEST,
            error.code(),
            error.to_string(),
            fix,
        )
    }
}

impl From<auth::TokenError> for Problem {
    fn from(error: auth::TokenError) -> Self {
        if error.is_unavailable() {
            return Self::new(
                StatusCode::SERVICE_UNAVAILABLE,
                error.code(),
                error.to_string(),
                "try again after Retry-After; `tenantry doctor` asks every issuer",
            )
            .retry_after(error.retry_after_s());
        }
        Self::unauthorized(error.code(), error.to_string())
    }
}

impl From<KeyError> for Problem {
    fn from(error: KeyError) -> Self {
        if error.is_unavailable() {
            return Self::unavailable();
        }
        Self::unauthorized(error.code(), error.to_string())
    }
}

impl Problem {
    /// Credentials that are not accepted (RFC 6750, section 3).
    pub(super) fn unauthorized(code: &'static str, detail: impl Into<String>) -> Self {
        Self::new(
            StatusCode::UNAUTHORIZED,
            code,
            detail,
            "send a valid token or API key: Authorization: Bearer …",
        )
        .header(
            header::WWW_AUTHENTICATE,
            HeaderValue::from_static("Bearer realm=\"tenantry\", error=\"invalid_token\""),
        )
    }

    /// No credentials at all.
    pub(super) fn unauthenticated() -> Self {
        Self::new(
            StatusCode::UNAUTHORIZED,
            "credentials_missing",
            "this route needs a token or an API key",
            "send Authorization: Bearer …",
        )
        .header(
            header::WWW_AUTHENTICATE,
            HeaderValue::from_static("Bearer realm=\"tenantry\""),
        )
    }

    /// Whether it says that credentials are missing or not accepted.
    pub(super) fn is_unauthorized(&self) -> bool {
        self.status == StatusCode::UNAUTHORIZED.as_u16()
    }

    /// Known, and not allowed.
    pub(super) fn forbidden(
        code: &'static str,
        detail: impl Into<String>,
        fix: impl Into<String>,
    ) -> Self {
        Self::new(StatusCode::FORBIDDEN, code, detail, fix)
    }
}

impl From<QueryRejection> for Problem {
    fn from(rejection: QueryRejection) -> Self {
        Self::invalid(format!("the query {}", misfit(&rejection.body_text())))
    }
}

impl From<PathRejection> for Problem {
    fn from(_: PathRejection) -> Self {
        Self::invalid("a part of the path is not what this route takes")
    }
}

/// What a reader says of a text, without the text: it could be a secret in the wrong place.
pub(super) fn misfit(told: &str) -> String {
    let told_name = ["missing field `", "duplicate field `"]
        .into_iter()
        .find_map(|beginning| told.find(beginning).map(|at| &told[at..]));
    match (told_name, told.rfind(", expected ")) {
        (Some(name), _) => format!("cannot be used: {name}"),
        (None, Some(at)) => format!("cannot be used:{}", &told[at + 1..]),
        (None, None) => "cannot be used".to_owned(),
    }
}

pub(super) async fn not_found() -> Problem {
    nothing_here()
}

pub(super) fn nothing_here() -> Problem {
    Problem::new(
        StatusCode::NOT_FOUND,
        "not_found",
        "there is nothing here",
        "see docs/api.md for the routes",
    )
}

pub(super) async fn method_not_allowed() -> Problem {
    Problem::new(
        StatusCode::METHOD_NOT_ALLOWED,
        "method_not_allowed",
        "this route does not take this method",
        "see the Allow header",
    )
}

pub(super) fn panicked(_panic: Box<dyn std::any::Any + Send>) -> Response {
    // the panic hook has logged it
    Problem::new(
        StatusCode::INTERNAL_SERVER_ERROR,
        "internal_error",
        "something went wrong here",
        "try again; the log has the cause",
    )
    .into_response()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_in_use_says_when_to_come_again() {
        let response = Problem::from(idempotency::Error::InUse).into_response();
        assert_eq!(response.status(), StatusCode::CONFLICT);
        assert_eq!(response.headers()[header::RETRY_AFTER], "1");
        let reused = Problem::from(idempotency::Error::Reused).into_response();
        assert!(!reused.headers().contains_key(header::RETRY_AFTER));
    }
}
