//! `GET /v1/auth/verify`: may this request go on, and to which tenant?
//!
//! Guarantees: 200 only for an active member of a ready tenant (or a path that is configured as
//! public); the answer's headers come from the control database and the verified token alone; a host counts
//! only from a trusted proxy, and must then be the tenant's or nobody's.

use axum::{
    extract::State,
    http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header, request::Parts},
    response::{IntoResponse, Response},
};
use chrono::{DateTime, Utc};
use serde::Deserialize;

use super::{
    AppState, Problem, access,
    extract::Query,
    origin::{self, Forwarded},
};
use crate::{
    auth::{
        EndUser,
        standing::{self, Refusal, Standing},
    },
    tenants::{Tenant, TenantState},
};

/// What a client is told to wait for a tenant that is being made, in seconds.
const RETRY_AFTER_S: u32 = 2;

const STATE: HeaderName = HeaderName::from_static("x-tenant-state");

/// What to ask.
#[derive(Debug, Deserialize, utoipa::IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct Question {
    /// Permissions that the user must have, separated by commas.
    #[serde(default)]
    require: Option<String>,
}

/// May this request go on?
///
/// For `auth_request` of nginx and the forward-auth of Caddy, Traefik and Envoy: the token is taken from
/// `Authorization: Bearer` or one of the configured session cookies.
#[utoipa::path(
    get,
    path = "/v1/auth/verify",
    operation_id = "verify",
    tag = "access",
    params(Question),
    responses(
        (status = 200, description = "Yes; the headers say who and where. A public path is answered without headers.", headers(
            ("x-tenant-id" = String, description = "Id of the tenant"),
            ("x-tenant-url" = String, description = "Host of the tenant"),
            ("x-tenant-database" = String, description = "Database of the tenant"),
            ("x-tenant-schema-version" = String, description = "Schema version of the tenant"),
            ("x-user-id" = String, description = "The provider's user id"),
            ("x-user-email" = String, description = "E-mail address, where known"),
            ("x-user-role" = String, description = "Slug of the role, where the member has one"),
            ("x-user-actor" = String, description = "Who acts as the user, where somebody does"),
            ("x-user-permissions" = String, description = "Slugs of the permissions, separated by commas"),
        )),
        (status = 400, description = "The query cannot be read", body = Problem, content_type = "application/problem+json"),
        (status = 401, description = "No token, or one that is not accepted", body = Problem, content_type = "application/problem+json"),
        (status = 403, description = "No organization, not a member, another tenant's host, or a permission is missing", body = Problem, content_type = "application/problem+json"),
        (status = 423, description = "The tenant is suspended or archived", body = Problem, content_type = "application/problem+json"),
        (status = 500, description = "Something went wrong here", body = Problem, content_type = "application/problem+json"),
        (status = 503, description = "The tenant is not ready yet, or keys or database cannot be asked", body = Problem, content_type = "application/problem+json"),
    ),
    security(("token" = []), ("session" = []))
)]
pub(super) async fn verify(
    State(state): State<AppState>,
    Query(question): Query<Question>,
    request: Parts,
) -> Response {
    match judge(&state, &question, &request).await {
        Ok(headers) => (StatusCode::OK, headers).into_response(),
        Err(problem) => problem.into_response(),
    }
}

async fn judge(
    state: &AppState,
    question: &Question,
    request: &Parts,
) -> Result<HeaderMap, Problem> {
    let origin = origin::of(request, &state.trusted_proxies);
    if let Forwarded::Said(path) = origin.path
        && state.public_paths.iter().any(|public| public.covers(path))
    {
        return Ok(HeaderMap::new());
    }
    let token = match access::bearer(&request.headers) {
        Ok(Some(token)) => token,
        // credentials of another scheme are the application's own
        refused => match session_cookie(&request.headers, &state.session_cookies) {
            Some(token) => token,
            None => return Err(refused.err().unwrap_or_else(Problem::unauthenticated)),
        },
    };
    let now = DateTime::<Utc>::from(std::time::SystemTime::now());
    let user = state.issuers.authenticate(token, now).await?;
    let org_id = user.org_id.as_deref().ok_or_else(no_organization)?;
    match origin.host {
        Forwarded::Nothing => {}
        Forwarded::Said(host) => {
            owner_of(state, &user, org_id, host).await?;
        }
        Forwarded::Unclear => return Err(elsewhere()),
    }
    let tenant = state.registry.tenant(&user.source, org_id).await?;
    let standing = state
        .registry
        .standing(&user.source, org_id, &user.user_id)
        .await?;
    let tenant =
        standing::admit(Option::as_ref(&tenant), Option::as_ref(&standing)).map_err(refused)?;
    let standing = Option::as_ref(&standing).ok_or_else(|| refused(Refusal::NotAMember))?;
    let permissions = standing.permissions(&user);
    let is_missing = question
        .require
        .iter()
        .flat_map(|required| required.split(','))
        .map(str::trim)
        .any(|required| !required.is_empty() && !permissions.contains(required));
    if is_missing {
        return Err(Problem::forbidden(
            "permission_missing",
            "a permission that this request requires is missing",
            "ask an administrator of the organization for a role that has it",
        ));
    }
    let mut headers = tenant_headers(tenant);
    user_headers(&mut headers, &user, standing);
    let permissions: Vec<_> = permissions
        .iter()
        .map(|permission| escape(permission))
        .collect();
    insert(&mut headers, "x-user-permissions", permissions.join(","));
    Ok(headers)
}

/// Whose a host is: this user's organization's, or nobody's. Another tenant's is refused, and one that cannot be read.
pub(super) async fn owner_of(
    state: &AppState,
    user: &EndUser,
    org_id: &str,
    host: &str,
) -> Result<Owner, Problem> {
    let host = crate::tenants::normalize_host(host).ok_or_else(elsewhere)?;
    let owner = state.registry.organization_at(&host).await?;
    match Option::as_ref(&owner) {
        None => Ok(Owner::Nobody),
        Some((source, org)) if *source == user.source && org == org_id => Ok(Owner::Own),
        Some(_) => Err(elsewhere()),
    }
}

/// Whose a host is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Owner {
    /// The tenant of the token's organization.
    Own,
    /// No tenant, such as the application's common host.
    Nobody,
}

pub(super) fn elsewhere() -> Problem {
    Problem::forbidden(
        "tenant_host_mismatch",
        "this host is not the token's tenant's",
        "switch to the organization whose host this is",
    )
}

pub(super) fn no_organization() -> Problem {
    Problem::forbidden(
        "no_organization",
        "the session is in no organization",
        "choose an organization, then try again",
    )
}

/// Why a user is not let in, as an answer.
pub(super) fn refused(refusal: Refusal) -> Problem {
    let state = |state: TenantState| HeaderValue::from_static(state.name());
    match refusal {
        Refusal::NotAMember => Problem::forbidden(
            "not_a_member",
            "the user is no member of the organization",
            "ask an administrator of the organization for an invitation",
        ),
        Refusal::Removed => Problem::forbidden(
            "member_removed",
            "the user was removed from the organization",
            "an administrator of the organization can restore them",
        ),
        Refusal::Invited => Problem::forbidden(
            "member_invited",
            "the user has not accepted the invitation yet",
            "accept the invitation",
        ),
        Refusal::NotReady(now @ TenantState::Failed) => Problem::new(
            StatusCode::SERVICE_UNAVAILABLE,
            "tenant_failed",
            "the tenant could not be made",
            "an operator finds the reason with `tenantry tenants get`, and retries",
        )
        .retry_after(30)
        .header(STATE, state(now)),
        Refusal::NotReady(now) => Problem::new(
            StatusCode::SERVICE_UNAVAILABLE,
            "tenant_not_ready",
            "the tenant is being made",
            "try again after Retry-After",
        )
        .retry_after(RETRY_AFTER_S)
        .header(STATE, state(now)),
        Refusal::Closed(now) => Problem::new(
            StatusCode::LOCKED,
            "tenant_suspended",
            format!("the tenant is {}", now.name()),
            "an operator can resume it",
        )
        .header(STATE, state(now)),
        Refusal::Gone => Problem::forbidden(
            "tenant_deleted",
            "the tenant is deleted",
            "the organization has to be created anew",
        ),
    }
}

/// The tenant, as headers.
pub(super) fn tenant_headers(tenant: &Tenant) -> HeaderMap {
    let mut headers = HeaderMap::with_capacity(12);
    insert(&mut headers, "x-tenant-id", tenant.id.to_string());
    insert(&mut headers, "x-tenant-url", escape(&tenant.url));
    insert(&mut headers, "x-tenant-database", escape(&tenant.database));
    let version = escape(&tenant.alembic_version);
    insert(&mut headers, "x-tenant-schema-version", version);
    headers.insert(STATE, HeaderValue::from_static(tenant.state.name()));
    headers
}

fn user_headers(headers: &mut HeaderMap, user: &EndUser, standing: &Standing) {
    insert(headers, "x-user-id", escape(&user.user_id));
    if let Some(email) = standing.member.email.as_ref().or(user.email.as_ref()) {
        insert(headers, "x-user-email", escape(email));
    }
    if let Some(actor) = &user.actor {
        insert(headers, "x-user-actor", escape(actor));
    }
    if let Some(role) = &standing.member.role {
        insert(headers, "x-user-role", escape(role));
    }
}

fn insert(headers: &mut HeaderMap, name: &'static str, value: String) {
    // whatever was escaped is a header's value
    if let Ok(value) = HeaderValue::try_from(value) {
        headers.insert(HeaderName::from_static(name), value);
    }
}

/// Percent-encoded wherever a header, or a list in one, could be misread: no value can pass for another.
fn escape(text: &str) -> String {
    use std::fmt::Write;
    let mut escaped = String::with_capacity(text.len());
    for byte in text.bytes() {
        if byte.is_ascii_graphic() && !matches!(byte, b'%' | b',') {
            escaped.push(char::from(byte));
        } else {
            // writing to a string cannot fail
            let _ = write!(escaped, "%{byte:02X}");
        }
    }
    escaped
}

/// The token of the first configured cookie that the request has.
fn session_cookie<'r>(headers: &'r HeaderMap, names: &[String]) -> Option<&'r str> {
    let cookies: Vec<_> = headers
        .get_all(header::COOKIE)
        .iter()
        // a cookie of somebody else may be anything: it must not hide ours
        .flat_map(|value| value.as_bytes().split(|byte| *byte == b';'))
        .filter_map(|cookie| std::str::from_utf8(cookie).ok()?.trim().split_once('='))
        .collect();
    let value = names
        .iter()
        .find_map(|name| cookies.iter().find(|(known, _)| known == name));
    value
        .map(|(_, value)| *value)
        .filter(|value| !value.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_value_can_pass_for_another() {
        assert_eq!(escape("org:admin"), "org:admin");
        assert_eq!(escape("ada@example.com"), "ada@example.com");
        assert_eq!(escape("ad\nmin"), "ad%0Amin");
        assert_eq!(escape("a,b 100%"), "a%2Cb%20100%25");
        assert_eq!(escape("zoë"), "zo%C3%AB");
    }
}
