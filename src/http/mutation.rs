//! A request that changes something: done once per `Idempotency-Key`, in one transaction with its audit.
//!
//! Guarantees: the change, its audit rows and the saved answer commit together or not at all; the same
//! key with the same request returns the saved answer and changes nothing; an error is not saved.

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
            (true, _) => serde_json::Value::Null,
            (false, true) => extract::parse(&bytes)?,
            (false, false) => return Err(extract::not_json()),
        };
        // a body that may be left out may also be said to be none
        let value = if value.is_null() {
            serde_json::json!({})
        } else {
            value
        };
        // a list would be read as the members of an object in their order
        if value.is_array() {
            return Err(Problem::invalid("the body is a list, not an object"));
        }
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
    /// Fails unless the client sent an idempotency key.
    pub(super) fn require_key(&self) -> Result<(), Problem> {
        match self.key {
            Some(_) => Ok(()),
            None => Err(idempotency::Error::Missing.into()),
        }
    }

    /// Whose idempotency key it is.
    pub(super) fn principal(&self) -> &str {
        &self.principal
    }

    /// Who asks.
    pub(super) fn caller(&self) -> &Caller {
        &self.caller
    }

    /// Does it, once, and answers 201 with what `act` returns, and where it is: its `id` below `uri`.
    pub(super) async fn create<R: Serialize>(
        &self,
        state: &AppState,
        uri: &Uri,
        act: impl AsyncFnOnce(&mut PgConnection) -> Result<R, Problem>,
    ) -> Result<Response, Problem> {
        let act = async |tx: &mut _| Ok((StatusCode::CREATED, act(tx).await?));
        Ok(self.once(state, Ends::Here, act).await?.located(uri))
    }

    /// Does it, once, and answers with `status` and what `act` returns.
    pub(super) async fn run<R: Serialize>(
        &self,
        state: &AppState,
        status: StatusCode,
        act: impl AsyncFnOnce(&mut PgConnection) -> Result<R, Problem>,
    ) -> Result<Response, Problem> {
        let act = async |tx: &mut _| Ok((status, act(tx).await?));
        Ok(self.once(state, Ends::Here, act).await?.into_response())
    }

    /// Does it, once. An answer that is not final is open until somebody [concludes](Self::conclude) it.
    pub(super) async fn once<R: Serialize>(
        &self,
        state: &AppState,
        ends: Ends,
        act: impl AsyncFnOnce(&mut PgConnection) -> Result<(StatusCode, R), Problem>,
    ) -> Result<Answer, Problem> {
        let answer = state
            .db
            .transaction(async |tx| {
                // before the saved answer as well: who lost the right does not get that either
                if let Some(of) = &self.of {
                    access::still_administers(tx, &self.caller, of).await?;
                }
                if let Some(answer) = self.find_answer(tx, ends).await? {
                    return Ok(answer);
                }
                audit::by_request(tx, &self.actor, self.request_id.0).await?;
                let (status, done) = act(&mut *tx).await?;
                let body = serde_json::to_value(done).map_err(|error| Problem::internal(&error))?;
                let key = self
                    .key
                    .as_deref()
                    .map(|key| (self.principal.as_str(), key));
                match (key, ends) {
                    (None, _) => {}
                    (Some((principal, key)), Ends::Here) => {
                        idempotency::finish(tx, principal, key, status.as_u16(), &body).await?;
                    }
                    (Some((principal, key)), Ends::Later) => {
                        idempotency::leave_open(tx, principal, key, &body).await?;
                    }
                }
                let is_open = ends == Ends::Later;
                Ok::<_, Problem>(Answer {
                    status,
                    body,
                    is_open,
                    is_replay: false,
                })
            })
            .await?;
        // what was enqueued is not to wait for the next poll
        state.waker.wake();
        Ok(answer)
    }

    /// The answer of the key, where it was used before.
    async fn find_answer(
        &self,
        tx: &mut PgConnection,
        ends: Ends,
    ) -> Result<Option<Answer>, Problem> {
        let Some(key) = &self.key else {
            return Ok(None);
        };
        let replay = |(status, body): (u16, _), is_open| Answer {
            status: StatusCode::from_u16(status).unwrap_or(StatusCode::OK),
            body,
            is_open,
            is_replay: true,
        };
        match idempotency::begin(tx, &self.principal, key, &self.fingerprint).await? {
            Begun::Fresh => Ok(None),
            Begun::Replay { status, body } => Ok(Some(replay((status, body), false))),
            Begun::Open { body } => {
                let as_of_the_change = (StatusCode::ACCEPTED.as_u16(), body);
                if ends == Ends::Later {
                    return Ok(Some(replay(as_of_the_change, true)));
                }
                let key = (self.principal.as_str(), key.as_str());
                let answer = idempotency::conclude(tx, key, as_of_the_change).await?;
                Ok(Some(replay(answer, false)))
            }
        }
    }

    /// Gives an open answer for good: this one, unless another request with the key was faster.
    pub(super) async fn conclude<R: Serialize>(
        &self,
        state: &AppState,
        open: Answer,
        (status, better): (StatusCode, R),
    ) -> Result<Answer, Problem> {
        let body = serde_json::to_value(better).map_err(|error| Problem::internal(&error))?;
        let Some(key) = &self.key else {
            return Ok(Answer {
                status,
                body,
                ..open
            });
        };
        let key = (self.principal.as_str(), key.as_str());
        let ours = (status.as_u16(), body.clone());
        let conclude =
            async |connection: &mut _| idempotency::conclude(connection, key, ours).await;
        let (status, given) = state.db.run(conclude).await?;
        Ok(Answer {
            status: StatusCode::from_u16(status).unwrap_or(StatusCode::OK),
            is_replay: open.is_replay || given != body,
            is_open: false,
            body: given,
        })
    }
}

/// When the answer is given.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Ends {
    /// With the change.
    Here,
    /// After it: a better one may follow.
    Later,
}

/// What a client is answered.
#[derive(Debug)]
pub(super) struct Answer {
    status: StatusCode,
    /// The body; a replayed one is the same to the byte, because an object's members are sorted.
    pub(super) body: serde_json::Value,
    /// Whether a better one may be given.
    pub(super) is_open: bool,
    is_replay: bool,
}

impl Answer {
    /// With where it is: the body's `id` below `uri`.
    pub(super) fn located(self, uri: &Uri) -> Response {
        let id = self.body["id"].as_str().unwrap_or_default();
        let location = HeaderValue::from_str(&format!("{}/{id}", uri.path()));
        let mut response = self.into_response();
        if let Ok(location) = location {
            response.headers_mut().insert(header::LOCATION, location);
        }
        response
    }
}

impl IntoResponse for Answer {
    fn into_response(self) -> Response {
        let mut response = (self.status, Json(self.body)).into_response();
        if self.is_replay {
            let headers = response.headers_mut();
            headers.insert(REPLAYED, HeaderValue::from_static("true"));
        }
        response
    }
}
