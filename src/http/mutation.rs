//! A request that changes something: done once per `Idempotency-Key`, in one transaction with its audit.
//!
//! Guarantees: the change, its audit rows and the saved answer commit together or not at all; the same
//! key with the same request is answered alike and changes nothing more; an error is not saved.

use axum::{
    Extension, Json,
    extract::{FromRequest, FromRequestParts, Request},
    http::{HeaderValue, StatusCode, Uri, header},
    response::{IntoResponse, Response},
};
use serde::{Serialize, de::DeserializeOwned};
use sqlx::PgConnection;

use super::{
    AppState, Problem,
    access::{self, Caller, OfOrganization},
    extract,
    observe::RequestId,
    problem::misfit,
};
use crate::{
    audit::{self, Actor},
    idempotency::{self, Begun},
};

pub(super) const IDEMPOTENCY_KEY: &str = "idempotency-key";
pub(super) const REPLAYED: &str = "idempotency-replayed";

/// The body of a request that has none.
#[derive(Debug, Clone, Copy, serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Nothing {}

/// A request that changes something, with its body.
#[derive(Debug)]
pub(super) struct Mutation<T = Nothing> {
    /// Who wants it.
    pub(super) actor: Actor,
    /// What they want.
    pub(super) body: T,
    principal: String,
    caller: Caller,
    /// Of a route about an organization's members.
    of: Option<OfOrganization>,
    request_id: RequestId,
    key: Option<String>,
    fingerprint: [u8; 32],
}

impl<T: DeserializeOwned> FromRequest<AppState> for Mutation<T> {
    type Rejection = Problem;

    async fn from_request(request: Request, state: &AppState) -> Result<Self, Problem> {
        let (mut parts, body) = request.into_parts();
        let unreadable = |_| Problem::internal(&std::io::Error::other("an extension is missing"));
        let Extension(caller) = Extension::<Caller>::from_request_parts(&mut parts, state)
            .await
            .map_err(unreadable)?;
        let Extension(request_id) = Extension::<RequestId>::from_request_parts(&mut parts, state)
            .await
            .map_err(unreadable)?;
        let of = parts.extensions.get::<OfOrganization>().cloned();
        let mut keys = parts.headers.get_all(IDEMPOTENCY_KEY).iter();
        let key = keys
            .next()
            .map(|key| idempotency::parse_key(key.as_bytes()))
            .transpose()?;
        if keys.next().is_some() {
            return Err(idempotency::Error::Invalid.into());
        }
        let (method, uri) = (parts.method.clone(), parts.uri.clone());
        let is_json = extract::is_json(&parts.headers);
        let bytes = extract::read_body(Request::from_parts(parts, body)).await?;
        let value = match (bytes.is_empty(), is_json) {
            (true, _) => serde_json::json!({}),
            (false, true) => extract::parse(&bytes)?,
            (false, false) => return Err(extract::not_json()),
        };
        let target = uri.path_and_query().map_or("/", |target| target.as_str());
        let fingerprint = idempotency::fingerprint(method.as_str(), target, &value);
        let body = serde_json::from_value(value).map_err(|error| {
            Problem::invalid(format!("the body {}", misfit(&error.to_string())))
        })?;
        Ok(Self {
            actor: caller.actor(),
            principal: caller.principal(),
            caller,
            of,
            body,
            request_id,
            key,
            fingerprint,
        })
    }
}

impl<T> Mutation<T> {
    /// Does it, once, and answers 201 with what `act` returns, and where it is: its `id` below `uri`.
    pub(super) async fn create<R: Serialize>(
        &self,
        state: &AppState,
        uri: &Uri,
        act: impl AsyncFnOnce(&mut PgConnection) -> Result<R, Problem>,
    ) -> Result<Response, Problem> {
        let (body, mut response) = self.once(state, StatusCode::CREATED, act).await?;
        let id = body["id"].as_str().unwrap_or_default();
        if let Ok(location) = HeaderValue::from_str(&format!("{}/{id}", uri.path())) {
            response.headers_mut().insert(header::LOCATION, location);
        }
        Ok(response)
    }

    /// Does it, once, and answers with `status` and what `act` returns.
    pub(super) async fn run<R: Serialize>(
        &self,
        state: &AppState,
        status: StatusCode,
        act: impl AsyncFnOnce(&mut PgConnection) -> Result<R, Problem>,
    ) -> Result<Response, Problem> {
        Ok(self.once(state, status, act).await?.1)
    }

    /// The answer, and its body.
    async fn once<R: Serialize>(
        &self,
        state: &AppState,
        status: StatusCode,
        act: impl AsyncFnOnce(&mut PgConnection) -> Result<R, Problem>,
    ) -> Result<(serde_json::Value, Response), Problem> {
        let answered = state
            .db
            .transaction(async |tx| {
                // before the saved answer as well: who lost the right does not get that either
                if let Some(of) = &self.of {
                    access::still_administers(tx, &self.caller, of).await?;
                }
                if let Some(key) = &self.key {
                    let begun =
                        idempotency::begin(tx, &self.principal, key, &self.fingerprint).await?;
                    if let Begun::Replay { status, body } = begun {
                        return Ok((status, body, true));
                    }
                }
                audit::during(tx, self.request_id.0).await?;
                audit::by(tx, &self.actor).await?;
                let done = act(&mut *tx).await?;
                let body = serde_json::to_value(done).map_err(|error| Problem::internal(&error))?;
                if let Some(key) = &self.key {
                    idempotency::finish(tx, &self.principal, key, status.as_u16(), &body).await?;
                }
                Ok::<_, Problem>((status.as_u16(), body, false))
            })
            .await?;
        // what was enqueued is not to wait for the next poll
        state.waker.wake();
        let (status, body, is_replay) = answered;
        let status = StatusCode::from_u16(status).unwrap_or(StatusCode::OK);
        let mut response = (status, Json(&body)).into_response();
        if is_replay {
            let headers = response.headers_mut();
            headers.insert(REPLAYED, HeaderValue::from_static("true"));
        }
        Ok((body, response))
    }
}
