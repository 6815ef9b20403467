//! Who may use a route: one rule a route, checked before its handler runs.
//!
//! Guarantees: credentials are looked at in one place; a handler runs only for a caller whom its rule
//! lets in, and not more often than they may; of an organization in the path only its own active administrators and keys with the scope
//! get through, and to all others it does not exist.

use std::sync::Arc;

use axum::{
    extract::{RawPathParams, Request, State, rejection::RawPathParamsRejection},
    http::{HeaderMap, StatusCode, header},
    middleware::Next,
    response::{IntoResponse, Response},
};
use chrono::{DateTime, Utc};
use sqlx::PgConnection;

use super::{AppState, Problem, forward_auth, origin};
use crate::{
    api_keys::{self, ApiKey, Scope},
    audit::Actor,
    auth::{
        EndUser,
        standing::{self, Standing},
    },
    identity, members,
    tenants::Tenant,
};

/// Who may use a route.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Access {
    /// Anybody, as often as they like.
    Public,
    /// Anybody, as often as one address may.
    Visitor,
    /// A sender, by the signature over the body.
    Signature,
    /// Whoever asks for themselves; the handler judges the token, so that public paths need none.
    ForwardAuth,
    /// An API key with this scope.
    Key(Scope),
    /// An API key with this scope, or any end user with a valid token.
    KeyOrUser(Scope),
    /// An API key with this scope, or an administrator of the organization in the path.
    KeyOrAdmin(Scope),
}

/// Who calls.
#[derive(Debug, Clone)]
pub(super) enum Caller {
    /// The holder of an API key.
    Key(Arc<ApiKey>),
    /// An end user.
    User(Arc<EndUser>),
}

impl Caller {
    /// For the audit log.
    pub(super) fn actor(&self) -> Actor {
        match self {
            Self::Key(key) => Actor::Key(key.id.clone()),
            Self::User(user) => Actor::User(user.user_id.clone()),
        }
    }

    /// Whose idempotency keys and limits these are; a rotated key is the same one.
    pub(super) fn principal(&self) -> String {
        match self {
            Self::Key(key) => format!("key:{}", key.id),
            Self::User(user) => format!("user:{}:{}", user.source, user.user_id),
        }
    }
}

/// The organization in the path, for a caller who may manage its members.
#[derive(Debug, Clone)]
pub(super) struct OfOrganization {
    source: String,
    org_id: String,
    admin_role: Arc<str>,
}

impl OfOrganization {
    pub(super) fn organization(&self) -> members::Organization<'_> {
        members::Organization {
            source: &self.source,
            org_id: &self.org_id,
            admin_role: &self.admin_role,
        }
    }
}

/// Fails unless the caller may still manage the organization's members, as the change's own transaction sees it.
///
/// What is remembered may be some milliseconds old: enough to read by, not to change by.
pub(super) async fn still_administers(
    tx: &mut PgConnection,
    caller: &Caller,
    of: &OfOrganization,
) -> Result<(), Problem> {
    let Caller::User(user) = caller else {
        return Ok(());
    };
    let of = of.organization();
    let (tenant, standing) = standing::read_now(tx, of, &user.user_id).await?;
    administers((tenant.as_ref(), standing.as_ref()), of.admin_role)
}

/// Lets a request through to its handler, or answers why not.
pub(super) async fn check(
    State((state, access)): State<(AppState, Access)>,
    path: Result<RawPathParams, RawPathParamsRejection>,
    mut request: Request,
    next: Next,
) -> Response {
    let scope = match access {
        Access::Public | Access::Signature | Access::ForwardAuth => {
            return run(&state, request, next).await;
        }
        Access::Visitor => return visit(&state, request, next).await,
        Access::Key(scope) | Access::KeyOrUser(scope) | Access::KeyOrAdmin(scope) => scope,
    };
    let caller = match identify(&state, request.headers()).await {
        Ok(caller) => caller,
        // who guesses does so only so often
        Err(problem) if problem.is_unauthorized() => {
            let address = origin::address(&request, &state.trusted_proxies);
            return state.limits.refuse(address, problem);
        }
        Err(problem) => return problem.into_response(),
    };
    let allowance = match state.limits.count_principal(&caller.principal()) {
        Ok(allowance) => allowance,
        Err(limited) => return limited.into_response(),
    };
    let Ok(path) = path else {
        return Problem::invalid("the path cannot be read").into_response();
    };
    let org = path.iter().find(|(name, _)| *name == "org");
    let org = org.map_or("", |(_, org)| org);
    let response = match authorize(&state, &caller, (access, scope), org).await {
        Ok(of) => {
            request.extensions_mut().insert(caller);
            if let Some(of) = of {
                request.extensions_mut().insert(of);
            }
            run(&state, request, next).await
        }
        Err(problem) => problem.into_response(),
    };
    allowance.tell(response)
}

/// Runs the handler.
async fn run(state: &AppState, request: Request, next: Next) -> Response {
    match state.faults.hit("http.handler").await {
        Ok(()) => next.run(request).await,
        Err(injected) => Problem::internal(&injected).into_response(),
    }
}

/// Runs the handler for anybody whose address has not asked too often.
async fn visit(state: &AppState, request: Request, next: Next) -> Response {
    let address = origin::address(&request, &state.trusted_proxies);
    match state.limits.count_address(address) {
        Ok(allowance) => allowance.tell(run(state, request, next).await),
        Err(limited) => limited.into_response(),
    }
}

/// Who calls; what they may do is another question.
async fn identify(state: &AppState, headers: &HeaderMap) -> Result<Caller, Problem> {
    let text = bearer(headers)?.ok_or_else(Problem::unauthenticated)?;
    let now = DateTime::<Utc>::from(std::time::SystemTime::now());
    if api_keys::looks_like_key(text) {
        let key = state.api_keys.authenticate(text, now).await?;
        return Ok(Caller::Key(key));
    }
    let user = state.issuers.authenticate(text, now).await?;
    Ok(Caller::User(user))
}

/// Whether the rule lets the caller in, and to which organization where it is about one.
async fn authorize(
    state: &AppState,
    caller: &Caller,
    (access, scope): (Access, Scope),
    org: &str,
) -> Result<Option<OfOrganization>, Problem> {
    match (caller, access) {
        (Caller::Key(key), _) if !key.scopes.allows(scope) => {
            let scope = scope.name();
            Err(Problem::forbidden(
                "scope_missing",
                format!("the API key does not have the scope {scope}"),
                format!("make one: tenantry keys create --scope {scope}"),
            ))
        }
        (Caller::User(_), Access::Key(_)) => Err(Problem::forbidden(
            "api_key_required",
            "this route takes an operator's API key, not the token of an end user",
            "make one: tenantry keys create",
        )),
        // whoever looks over a user's shoulder may look, and nothing else: the audit log has one name
        (Caller::User(user), Access::KeyOrAdmin(_))
            if user.actor.is_some() && scope == Scope::MembersWrite =>
        {
            Err(Problem::forbidden(
                "impersonation_is_read_only",
                "the session is of somebody who acts as the user",
                "act under your own name, or with an API key",
            ))
        }
        (_, Access::KeyOrAdmin(_)) => of_organization(state, caller, org).await.map(Some),
        _ => Ok(None),
    }
}

/// The credentials of RFC 6750, section 2.1; `None` where there are none.
pub(super) fn bearer(headers: &HeaderMap) -> Result<Option<&str>, Problem> {
    let mut values = headers.get_all(header::AUTHORIZATION).iter();
    let Some(value) = values.next() else {
        return Ok(None);
    };
    let text = value.to_str().ok().filter(|_| values.next().is_none());
    let credentials = text.and_then(|text| {
        let (scheme, credentials) = text.split_once(' ')?;
        scheme
            .eq_ignore_ascii_case("bearer")
            .then(|| credentials.trim())
    });
    match credentials {
        Some(credentials) if !credentials.is_empty() => Ok(Some(credentials)),
        _ => Err(Problem::unauthorized(
            "credentials_malformed",
            "Authorization does not carry one bearer token",
        )),
    }
}

async fn of_organization(
    state: &AppState,
    caller: &Caller,
    org: &str,
) -> Result<OfOrganization, Problem> {
    let (source, org_id) = match caller {
        Caller::Key(_) => find_organization(state, org).await?,
        Caller::User(user) => {
            must_administer(state, user, org).await?;
            (user.source.clone(), org.to_owned())
        }
    };
    Ok(OfOrganization {
        source,
        org_id,
        admin_role: Arc::clone(&state.admin_role),
    })
}

/// The organization that an operator names: by its id, or as `source:id` where several sources know the id.
async fn find_organization(state: &AppState, org: &str) -> Result<(String, String), Problem> {
    let named = org
        .split_once(':')
        .filter(|(source, _)| state.source_names.contains(*source));
    let (source, org_id) = named.map_or((None, org), |(source, org_id)| (Some(source), org_id));
    let sources = state
        .db
        .run(async |connection| identity::find_sources(connection, org_id).await)
        .await
        .map_err(Problem::from)?;
    let mut matching = sources
        .into_iter()
        .filter(|known| source.is_none_or(|source| source == known));
    match (matching.next(), matching.next()) {
        (Some(source), None) => Ok((source, org_id.to_owned())),
        (None, _) => Err(unknown_organization()),
        (Some(_), Some(_)) => Err(Problem::new(
            StatusCode::CONFLICT,
            "organization_ambiguous",
            "several sources have an organization of this id",
            "write <source>:<id> in the path",
        )),
    }
}

fn unknown_organization() -> Problem {
    Problem::new(
        StatusCode::NOT_FOUND,
        "organization_unknown",
        "there is no such organization",
        "check the id, and that the token is of a session in this organization",
    )
}

/// An active administrator of this organization, whose tenant is ready. Others' organizations do not exist.
async fn must_administer(state: &AppState, user: &EndUser, org: &str) -> Result<(), Problem> {
    if user.org_id.as_deref() != Some(org) {
        return Err(unknown_organization());
    }
    let tenant = state.registry.tenant(&user.source, org).await?;
    let standing = state
        .registry
        .standing(&user.source, org, &user.user_id)
        .await?;
    let now = (Option::as_ref(&tenant), Option::as_ref(&standing));
    administers(now, &state.admin_role)
}

/// Whether this is how an administrator stands.
fn administers(
    (tenant, standing): (Option<&Tenant>, Option<&Standing>),
    admin_role: &str,
) -> Result<(), Problem> {
    standing::admit(tenant, standing).map_err(forward_auth::refused)?;
    let role = standing.and_then(|standing| standing.member.role.as_deref());
    if role == Some(admin_role) {
        return Ok(());
    }
    Err(Problem::forbidden(
        "admin_required",
        "only an administrator of the organization may do this",
        "ask one of them",
    ))
}
