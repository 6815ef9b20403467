//! `/v1/registrations`: somebody signs up, once, however often they ask.
//!
//! Guarantees: key, registration, tenant and job are one transaction; the same key is answered with the
//! same bytes, also when both requests come at the same moment to two replicas; whoever waits and goes
//! away changes nothing; a registration is shown to the key that made it, to operators and to whoever
//! has its status token, and to all others it does not exist.

use std::time::Duration;

use axum::{
    Extension, Json,
    extract::State,
    http::{HeaderMap, HeaderName, HeaderValue, StatusCode, Uri, header},
    response::{IntoResponse, Response},
};
use serde::Serialize;
use sqlx::PgConnection;
use tokio::time::Instant;
use uuid::Uuid;

use super::{
    AppState, Problem,
    access::Caller,
    extract::Path,
    mutation::{Ends, Mutation},
    operator::{Changing, Reading},
    problem::More,
};
use crate::{
    actions::{self, Asking, NotRegistered},
    api_keys::Scope,
    registrations::{self, Registration, Row, StatusToken, Viewer, form},
};

/// The longest that an answer is waited for.
const MAX_WAIT: Duration = Duration::from_secs(30);

/// When to look again at what is not ready, in seconds.
const RETRY_AFTER_S: u32 = 1;

const PREFER: HeaderName = HeaderName::from_static("prefer");
const PREFERENCE_APPLIED: HeaderName = HeaderName::from_static("preference-applied");

/// A registration, and how to follow it.
#[derive(Debug, Serialize, utoipa::ToSchema)]
pub(super) struct Registered {
    #[serde(flatten)]
    registration: Registration,
    /// Whoever has it may read the status, and nothing else: `Authorization: Bearer`, or `?status_token=`.
    status_token: String,
    links: Links,
}

/// Where to look.
#[derive(Debug, Serialize, utoipa::ToSchema)]
#[schema(as = RegistrationLinks)]
struct Links {
    /// The status.
    #[serde(rename = "self")]
    status: String,
    /// What happens, as server-sent events.
    events: String,
}

/// Register an organization and its first administrator.
///
/// The answer is the same for ever, or for the 7 days that an `Idempotency-Key` is kept by default.
/// `Prefer: wait=N` waits up to N seconds, 30 at most, until the tenant is ready.
#[utoipa::path(
    post,
    path = "/v1/registrations",
    operation_id = "register",
    tag = "registrations",
    params(
        ("idempotency-key" = String, Header, description = "A repeated key returns the saved answer, byte for byte, and changes nothing; kept for limits.idempotency_keys_days"),
        ("prefer" = Option<String>, Header, description = "wait=N: answer when the tenant is ready, or after N seconds, 30 at most")
    ),
    request_body = form::Asked,
    responses(
        (status = 201, description = "The tenant is ready", body = Registered),
        (status = 202, description = "It is being made: follow Location", body = Registered),
        Changing
    ),
    security(("key" = []), ("form_key" = []))
)]
pub(super) async fn register(
    State(state): State<AppState>,
    uri: Uri,
    headers: HeaderMap,
    mutation: Mutation<form::Asked>,
) -> Result<Response, Problem> {
    mutation.require_key()?;
    let form = form::read(&mutation.body).map_err(NotRegistered::Fields)?;
    let wait = preferred_wait(&headers);
    let viewer = viewer(mutation.caller());
    let ends = if wait.is_some() {
        Ends::Later
    } else {
        Ends::Here
    };
    let act = async |tx: &mut PgConnection| {
        let asking = Asking {
            form: &form,
            made_by: mutation.principal(),
            actor: &mutation.actor,
            is_form: viewer == Viewer::Public,
        };
        let row = state.registrations.register(tx, asking).await;
        describe(tx, row.map_err(|error| told(error, viewer))?, viewer).await
    };
    let mut answer = mutation.once(&state, ends, act).await?;
    // what was answered before is answered at once
    let wait = wait.filter(|_| answer.is_open);
    if let Some(wait) = wait {
        let id = answer.body["id"].as_str().and_then(|id| id.parse().ok());
        let id =
            id.ok_or_else(|| Problem::internal(&std::io::Error::other("the answer has no id")))?;
        let better = wait_until_ready(&state, id, wait, viewer).await?;
        answer = mutation.conclude(&state, answer, better).await?;
    }
    let mut response = answer.located(&uri);
    let added = response.headers_mut();
    if let Some(wait) = wait
        && let Ok(applied) = HeaderValue::try_from(format!("wait={}", wait.as_secs()))
    {
        added.insert(PREFERENCE_APPLIED, applied);
    }
    if response.status() == StatusCode::ACCEPTED {
        let retry_after = HeaderValue::from(RETRY_AFTER_S);
        response
            .headers_mut()
            .insert(header::RETRY_AFTER, retry_after);
    }
    Ok(response)
}

/// How long the client wants to wait (RFC 7240, section 4.3); `None`: not at all.
fn preferred_wait(headers: &HeaderMap) -> Option<Duration> {
    let values = headers.get_all(PREFER).iter();
    let mut preferences = values
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','));
    // of a preference that is stated twice the first counts
    let seconds = preferences.find_map(|preference| {
        let preference = preference.split(';').next().unwrap_or_default();
        let (name, value) = preference.split_once('=')?;
        let is_wait = name.trim().eq_ignore_ascii_case("wait");
        is_wait.then(|| value.trim().trim_matches('"').parse::<u64>().ok())
    })??;
    (seconds > 0).then(|| Duration::from_secs(seconds).min(MAX_WAIT))
}

/// The registration as its asker sees it, with the status that says whether the tenant is ready.
async fn describe(
    connection: &mut PgConnection,
    row: Row,
    viewer: Viewer,
) -> Result<(StatusCode, Registered), Problem> {
    let id = row.id;
    let StatusToken(status_token) = row.credential.clone();
    let is_ready = row.state == registrations::State::Ready;
    let registration = registrations::read(connection, row, viewer).await?;
    let registered = Registered {
        registration,
        status_token,
        links: Links {
            status: format!("/v1/registrations/{id}"),
            events: format!("/v1/registrations/{id}/events"),
        },
    };
    let status = if is_ready {
        StatusCode::CREATED
    } else {
        StatusCode::ACCEPTED
    };
    Ok((status, registered))
}

/// Waits until nothing more happens by itself, or it takes too long, or this process ends.
async fn wait_until_ready(
    state: &AppState,
    id: Uuid,
    wait: Duration,
    viewer: Viewer,
) -> Result<(StatusCode, Registered), Problem> {
    let until = Instant::now() + wait;
    let mut seen = state.watcher.follow(id);
    loop {
        let look = async |connection: &mut PgConnection| {
            let row = registrations::find(connection, id).await?;
            describe(connection, row.ok_or_else(unknown)?, viewer).await
        };
        let found = state.db.run(look).await?;
        if found.1.registration.state.is_terminal() {
            return Ok(found);
        }
        let changed = tokio::select! {
            changed = seen.changed() => changed.is_ok(),
            () = tokio::time::sleep_until(until) => false,
            () = state.tasks.draining() => false,
        };
        if !changed {
            return Ok(found);
        }
    }
}

/// How far a registration is.
#[utoipa::path(
    get,
    path = "/v1/registrations/{id}",
    operation_id = "find_registration",
    tag = "registrations",
    params(("id" = Uuid, Path, description = "Id of the registration")),
    responses(
        (status = 200, description = "The registration", body = Registration),
        (status = 404, description = "No registration with this id that the caller may see", body = Problem, content_type = "application/problem+json"),
        Reading
    ),
    security(("key" = []), ("status_token" = []), ("status_token_in_query" = []))
)]
pub(super) async fn find(
    State(state): State<AppState>,
    Path(id): Path<Uuid>,
    Extension(caller): Extension<Caller>,
) -> Result<Response, Problem> {
    let look = async |connection: &mut PgConnection| {
        let row = find_visible(connection, id, &caller).await?;
        Ok::<_, Problem>(registrations::read(connection, row, viewer(&caller)).await?)
    };
    let registration = state.db.run(look).await?;
    let is_terminal = registration.state.is_terminal();
    let mut response = Json(registration).into_response();
    if !is_terminal {
        let retry_after = HeaderValue::from(RETRY_AFTER_S);
        response
            .headers_mut()
            .insert(header::RETRY_AFTER, retry_after);
    }
    Ok(response)
}

/// Give a registration up before it is ready: what was made of it is undone, in reverse order.
#[utoipa::path(
    delete,
    path = "/v1/registrations/{id}",
    operation_id = "abandon_registration",
    tag = "registrations",
    params(
        ("id" = Uuid, Path, description = "Id of the registration"),
        ("idempotency-key" = Option<String>, Header, description = "A repeated key returns the saved answer and changes nothing")
    ),
    responses(
        (status = 202, description = "It is being undone, or was", body = Registration),
        Changing
    ),
    security(("key" = []))
)]
pub(super) async fn abandon(
    State(state): State<AppState>,
    Path(id): Path<Uuid>,
    mutation: Mutation,
) -> Result<Response, Problem> {
    let act = async |tx: &mut PgConnection| {
        find_own(tx, id, mutation.caller(), Scope::TenantsWrite).await?;
        actions::abandon_registration(tx, id, state.max_attempts, &mutation.actor).await?;
        let row = registrations::find(tx, id).await?.ok_or_else(unknown)?;
        Ok(registrations::read(tx, row, viewer(mutation.caller())).await?)
    };
    mutation.run(&state, StatusCode::ACCEPTED, act).await
}

/// The registration, if the caller may see it.
pub(super) async fn find_visible(
    connection: &mut PgConnection,
    id: Uuid,
    caller: &Caller,
) -> Result<Row, Problem> {
    find_own(connection, id, caller, Scope::TenantsRead).await
}

/// The registration, if it is the caller's, or the caller an operator with this scope.
async fn find_own(
    connection: &mut PgConnection,
    id: Uuid,
    caller: &Caller,
    operators: Scope,
) -> Result<Row, Problem> {
    let row = registrations::find(connection, id).await?;
    let is_own = |row: &Row| match caller {
        Caller::Key(key) => row.made_by == caller.principal() || key.scopes.allows(operators),
        Caller::Registrant(token) => token.matches(&row.credential.0),
        // everybody has a form's key
        Caller::User(_) | Caller::Form(_) => false,
    };
    row.filter(is_own).ok_or_else(unknown)
}

/// How much the caller is told.
pub(super) fn viewer(caller: &Caller) -> Viewer {
    match caller {
        Caller::Key(_) => Viewer::Operator,
        Caller::User(_) | Caller::Form(_) | Caller::Registrant(_) => Viewer::Public,
    }
}

fn unknown() -> Problem {
    Problem::new(
        StatusCode::NOT_FOUND,
        "registration_unknown",
        "there is no such registration",
        "check the id, and that the key or status token is the registration's own",
    )
}

/// Where somebody works is not told to whoever types their address into a form.
fn told(error: NotRegistered, viewer: Viewer) -> Problem {
    match (error, viewer) {
        (NotRegistered::AlreadyMember { .. }, Viewer::Public) => {
            Problem::from(NotRegistered::AlreadyMember { url: None })
        }
        (error, _) => error.into(),
    }
}

impl From<NotRegistered> for Problem {
    fn from(error: NotRegistered) -> Self {
        use NotRegistered as E;
        let detail = error.to_string();
        match error {
            E::Refused(refusal) => refusal.into(),
            E::Tenant(error) => Self::internal(&error),
            E::Secrets(error) => Self::internal(&error),
            E::Fields(errors) => Self::new(
                StatusCode::UNPROCESSABLE_ENTITY,
                "registration_invalid",
                "fields of the registration cannot be used",
                "correct every field that errors names",
            )
            .more(More {
                errors,
                ..More::default()
            }),
            E::SlugTaken { suggestions } => Self::new(
                StatusCode::CONFLICT,
                "slug_taken",
                "another tenant has this slug, or one that looks like it",
                "choose another one, or leave it out",
            )
            .more(More {
                suggestions,
                ..More::default()
            }),
            E::ExternalIdTaken => Self::new(
                StatusCode::CONFLICT,
                "external_id_registered",
                detail,
                "have them invite the person, or send another external_id",
            ),
            E::RegisteredElsewhere => Self::new(
                StatusCode::CONFLICT,
                "registered_elsewhere",
                detail,
                "go on where it was registered, or sign in",
            ),
            E::AlreadyMember { url } => Self::new(
                StatusCode::CONFLICT,
                "already_signed_up",
                detail,
                "sign in there",
            )
            .more(More {
                url,
                ..More::default()
            }),
            E::TenantUnavailable { .. } => Self::new(
                StatusCode::CONFLICT,
                "tenant_unavailable",
                detail,
                "an operator can resume a suspended tenant: tenantry tenants resume",
            ),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_client_may_wait_30_seconds_at_most() {
        let wait = |values: &[&'static str]| {
            let values = values
                .iter()
                .map(|value| (PREFER, HeaderValue::from_static(value)));
            preferred_wait(&values.collect()).map(|wait| wait.as_secs())
        };
        assert_eq!(wait(&["wait=10"]), Some(10));
        assert_eq!(wait(&["respond-async, Wait = \"7\"; x=y"]), Some(7));
        assert_eq!(wait(&["wait=31"]), Some(30));
        assert_eq!(wait(&["wait=99999999999999999999"]), None);
        for none in ["wait=0", "wait=-1", "wait=soon", "wait", "await=3", ""] {
            assert_eq!(wait(&[none]), None, "{none}");
        }
    }
}
