//! Who may use a route: one rule a route, checked before its handler runs.
//!
//! Guarantees: credentials are looked at in one place; a handler runs only for a caller whom its rule
//! lets in, and not more often than they may; of an organization in the path only its own active administrators and keys with the scope
//! get through, and to all others it does not exist.

use std::{net::IpAddr, sync::Arc};

use axum::{
    extract::{RawPathParams, Request, State, rejection::RawPathParamsRejection},
    http::{HeaderMap, StatusCode, header},
    middleware::Next,
    response::{IntoResponse, Response},
};
use chrono::{DateTime, Utc};
use sqlx::PgConnection;

use super::{
    AppState, Problem, forward_auth,
    limits::Allowance,
    origin,
    registrants::{self, StatusToken},
};
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
    /// An API key with `registrations:write`, or a form key from a page of its origins.
    Registrant,
    /// An API key with `registrations:write` or `tenants:read`, or whoever has a registration's status token;
    /// the handler judges which registrations they may see.
    RegistrationReader,
}

/// Who calls.
#[derive(Debug, Clone)]
pub(super) enum Caller {
    /// The holder of an API key that is no form key.
    Key(Arc<ApiKey>),
    /// An end user.
    User(Arc<EndUser>),
    /// Anybody, in a page that a form key is for.
    Form(Arc<ApiKey>),
    /// Whoever has what may be a registration's status token; the handler compares it.
    Registrant(StatusToken),
}

impl Caller {
    /// For the audit log.
    pub(super) fn actor(&self) -> Actor {
        match self {
            Self::Key(key) | Self::Form(key) => Actor::Key(key.id.clone()),
            Self::User(user) => Actor::User(user.user_id.clone()),
            // who only looks is in no audit log
            Self::Registrant(_) => Actor::Key(self.principal()),
        }
    }

    /// Whose idempotency keys and limits these are; a rotated key is the same one.
    pub(super) fn principal(&self) -> String {
        match self {
            Self::Key(key) | Self::Form(key) => format!("key:{}", key.id),
            Self::User(user) => format!("user:{}:{}", user.source, user.user_id),
            Self::Registrant(token) => format!("registrant:{}", token.fingerprint()),
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
    let user = match caller {
        Caller::Key(_) => return Ok(()),
        Caller::User(user) => user,
        Caller::Form(_) | Caller::Registrant(_) => return Err(registrants::form_key_refused()),
    };
    let of = of.organization();
    let (tenant, standing) = standing::read_now(tx, of, &user.user_id).await?;
    administers((tenant.as_ref(), standing.as_ref()), of.admin_role)
}

/// What a request says of its caller.
#[derive(Debug, Clone, Copy)]
pub(super) struct Asking<'r> {
    pub(super) headers: &'r HeaderMap,
    pub(super) query: Option<&'r str>,
    pub(super) address: IpAddr,
}

/// A caller whom the rule lets in.
#[derive(Debug)]
pub(super) struct Admitted {
    pub(super) caller: Caller,
    /// On a route about an organization's members.
    pub(super) of: Option<OfOrganization>,
    pub(super) allowance: Allowance,
}

/// An answer instead of the handler's.
pub(super) type Refused = Box<Response>;

/// Lets a request through to its handler, or answers why not.
pub(super) async fn check(
    State((state, access)): State<(AppState, Access)>,
    path: Result<RawPathParams, RawPathParamsRejection>,
    mut request: Request,
    next: Next,
) -> Response {
    let address = origin::address(&request, &state.trusted_proxies);
    let asking = Asking {
        headers: request.headers(),
        query: request.uri().query(),
        address,
    };
    let admitted = match access {
        Access::Public | Access::Signature | Access::ForwardAuth => {
            return run(&state, request, next).await;
        }
        Access::Visitor => return visit(&state, address, request, next).await,
        Access::Registrant => registrants::admit(&state, asking).await,
        Access::RegistrationReader => registrants::admit_reader(&state, asking).await,
        Access::Key(scope) | Access::KeyOrUser(scope) | Access::KeyOrAdmin(scope) => {
            let path = path.as_ref().ok();
            let org = path.map(|path| {
                let org = path.iter().find(|(name, _)| *name == "org");
                org.map_or("", |(_, org)| org)
            });
            admit(&state, asking, (access, scope), org).await
        }
    };
    match admitted {
        Ok(admitted) => {
            request.extensions_mut().insert(admitted.caller);
            if let Some(of) = admitted.of {
                request.extensions_mut().insert(of);
            }
            admitted.allowance.tell(run(&state, request, next).await)
        }
        Err(refused) => *refused,
    }
}

/// Somebody known, where the rule lets them in; `org` is in the path, `None` where that cannot be read.
async fn admit(
    state: &AppState,
    asking: Asking<'_>,
    rule: (Access, Scope),
    org: Option<&str>,
) -> Result<Admitted, Refused> {
    let caller = match known(state, asking).await? {
        // it is no secret: whoever comes with it is anybody
        Caller::Form(_) => {
            return Err(Box::new(refuse(
                state,
                asking,
                registrants::form_key_refused(),
            )));
        }
        caller => caller,
    };
    let counted = state.limits.count_principal(&caller.principal());
    let allowance = counted.map_err(|limited| Box::new(limited.into_response()))?;
    let authorized = match org {
        Some(org) => authorize(state, &caller, rule, org).await,
        None => Err(Problem::invalid("the path cannot be read")),
    };
    match authorized {
        Ok(of) => Ok(Admitted {
            caller,
            of,
            allowance,
        }),
        Err(problem) => Err(Box::new(allowance.tell(problem.into_response()))),
    }
}

/// Whoever has credentials that are accepted; who guesses does so only so often.
pub(super) async fn known(state: &AppState, asking: Asking<'_>) -> Result<Caller, Refused> {
    match identify(state, asking.headers).await {
        Ok(caller) => Ok(caller),
        Err(problem) if problem.is_unauthorized() => Err(Box::new(refuse(state, asking, problem))),
        Err(problem) => Err(Box::new(problem.into_response())),
    }
}

/// Answers somebody unknown, whose address is counted.
pub(super) fn refuse(state: &AppState, asking: Asking<'_>, problem: Problem) -> Response {
    state.limits.refuse(asking.address, problem)
}

/// Runs the handler.
async fn run(state: &AppState, request: Request, next: Next) -> Response {
    match state.faults.hit("http.handler").await {
        Ok(()) => next.run(request).await,
        Err(injected) => Problem::internal(&injected).into_response(),
    }
}

/// Runs the handler for anybody whose address has not asked too often.
async fn visit(state: &AppState, address: IpAddr, request: Request, next: Next) -> Response {
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
        let caller = if key.is_form() {
            Caller::Form
        } else {
            Caller::Key
        };
        return Ok(caller(key));
    }
    if registrants::looks_like_status_token(text) {
        return Err(registrants::status_token_refused());
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
        (Caller::Form(_) | Caller::Registrant(_), _) => Err(registrants::form_key_refused()),
        (Caller::Key(key), _) if !key.scopes.allows(scope) => Err(scope_missing(scope)),
        (Caller::User(_), Access::Key(_)) => Err(api_key_required()),
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

pub(super) fn scope_missing(scope: Scope) -> Problem {
    let scope = scope.name();
    Problem::forbidden(
        "scope_missing",
        format!("the API key does not have the scope {scope}"),
        format!("make one: tenantry keys create --scope {scope}"),
    )
}

pub(super) fn api_key_required() -> Problem {
    Problem::forbidden(
        "api_key_required",
        "this route takes an operator's API key, not the token of an end user",
        "make one: tenantry keys create",
    )
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
        Caller::Form(_) | Caller::Registrant(_) => return Err(registrants::form_key_refused()),
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
