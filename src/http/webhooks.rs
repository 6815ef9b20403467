//! `POST /webhooks/{source}`: verify the bytes, record them, then answer.
//!
//! Guarantees: nothing is parsed before the signature holds; 2xx only after the commit; a body that
//! is not signed is not kept; whatever is signed is kept, and never answered with an error that would
//! make the sender retry in vain.

use std::time::{Duration, Instant};

use axum::{
    Extension, Json,
    body::{Body, Bytes},
    extract::{Path, State},
    http::{HeaderMap, StatusCode, header},
    response::{IntoResponse, Response},
};
use chrono::{DateTime, TimeDelta, Utc};
use http_body_util::BodyExt;
use serde::Serialize;
use tokio::sync::{Semaphore, SemaphorePermit};

use super::{AppState, Problem, observe::RequestId};
use crate::{
    causes::chain,
    config::Source,
    inbox::{Disposition, NewEvent, Recorded},
    secrets,
    webhooks::{self, Headers, IdentityEvent, Meaning, Reading, VerifyError},
};

/// Bytes of a body; more are answered 413.
const MAX_BODY: usize = 1 << 20;

/// Bytes of a body above which it counts as large; a provider's are under 20 kB.
const LARGE_BODY: usize = 64 << 10;

/// Large bodies that are read at once.
pub(super) const LARGE_BODIES: usize = 32;

/// How long a body may take to arrive.
const BODY_TIMEOUT: Duration = Duration::from_secs(10);

/// What a sender is told to wait when storage is away, in seconds.
const RETRY_AFTER_S: u32 = 5;

/// The source that the alias for Clerk stands for.
const CLERK_SOURCE: &str = "clerk";

/// What a sender is told.
#[derive(Debug, Serialize, utoipa::ToSchema)]
pub(super) struct Receipt {
    /// `accepted`, `duplicate`, `ignored`, `conflict` or `failed`.
    status: &'static str,
}

/// An event of a provider, signed as its source is configured.
#[utoipa::path(
    post,
    path = "/webhooks/{source}",
    operation_id = "receive",
    tag = "webhooks",
    params(("source" = String, Path, description = "Name of the source")),
    request_body(content = Object, content_type = "application/json", description = "What the provider sends, at most 1 MiB"),
    responses(
        (status = 200, description = "Kept; do not send it again", body = Receipt),
        (status = 400, description = "The signature cannot be checked, or the body did not arrive whole", body = Problem, content_type = "application/problem+json"),
        (status = 401, description = "The signature does not hold", body = Problem, content_type = "application/problem+json"),
        (status = 404, description = "No such source, or it has no secret", body = Problem, content_type = "application/problem+json"),
        (status = 413, description = "The body is too large", body = Problem, content_type = "application/problem+json"),
        (status = 500, description = "Something went wrong here; send it again", body = Problem, content_type = "application/problem+json"),
        (status = 503, description = "Not recorded; send it again after Retry-After", body = Problem, content_type = "application/problem+json"),
    )
)]
pub(super) async fn receive(
    State(state): State<AppState>,
    Path(name): Path<String>,
    Extension(request_id): Extension<RequestId>,
    headers: HeaderMap,
    body: Body,
) -> Response {
    answer(&state, &name, &request_id, &headers, body).await
}

/// The same as `POST /webhooks/clerk`: the address that existing Clerk set-ups know.
#[utoipa::path(
    post,
    path = "/api/clerk/webhooks",
    operation_id = "receive_from_clerk",
    tag = "webhooks",
    request_body(content = Object, content_type = "application/json", description = "What the provider sends, at most 1 MiB"),
    responses(
        (status = 200, description = "Kept; do not send it again", body = Receipt),
        (status = 400, description = "The signature cannot be checked, or the body did not arrive whole", body = Problem, content_type = "application/problem+json"),
        (status = 401, description = "The signature does not hold", body = Problem, content_type = "application/problem+json"),
        (status = 404, description = "No such source, or it has no secret", body = Problem, content_type = "application/problem+json"),
        (status = 413, description = "The body is too large", body = Problem, content_type = "application/problem+json"),
        (status = 500, description = "Something went wrong here; send it again", body = Problem, content_type = "application/problem+json"),
        (status = 503, description = "Not recorded; send it again after Retry-After", body = Problem, content_type = "application/problem+json"),
    )
)]
pub(super) async fn receive_from_clerk(
    State(state): State<AppState>,
    Extension(request_id): Extension<RequestId>,
    headers: HeaderMap,
    body: Body,
) -> Response {
    answer(&state, CLERK_SOURCE, &request_id, &headers, body).await
}

async fn answer(
    state: &AppState,
    name: &str,
    RequestId(request_id): &RequestId,
    headers: &HeaderMap,
    body: Body,
) -> Response {
    let started = Instant::now();
    let Some(source) = state.sources.get(name) else {
        return super::problem::not_found().await.into_response();
    };
    let delivered = deliver(state, name, source, headers, body).await;
    state.metrics.delivery(
        name,
        delivered.event_type,
        delivered.outcome,
        started.elapsed(),
    );
    tracing::debug!(request.id = %request_id, source = name, event.id = delivered.event_id, outcome = delivered.outcome, "delivery");
    if let Some(reason) = &delivered.reason {
        tracing::warn!(request.id = %request_id, source = name, outcome = delivered.outcome, error = reason, "delivery not accepted");
    }
    delivered.response
}

/// A delivery's answer, and what is logged and counted of it.
struct Delivered {
    response: Response,
    outcome: &'static str,
    event_type: &'static str,
    event_id: Option<String>,
    reason: Option<String>,
}

impl Delivered {
    fn refused(problem: Problem, outcome: &'static str, reason: String) -> Self {
        Self {
            response: problem.into_response(),
            outcome,
            event_type: "other",
            event_id: None,
            reason: Some(reason),
        }
    }
}

async fn deliver(
    state: &AppState,
    name: &str,
    source: &Source,
    headers: &HeaderMap,
    body: Body,
) -> Delivered {
    // the permit of a large one is kept until it is recorded
    let (body, _permit) = match read_body(headers, body, &state.large_bodies).await {
        Ok(read) => read,
        Err(refused) => return refused,
    };
    let now = DateTime::<Utc>::from(std::time::SystemTime::now());
    let tolerance = TimeDelta::seconds(source.tolerance_s.into());
    let pairs: Headers<'_> = headers
        .iter()
        .map(|(name, value)| (name.as_str(), value.as_bytes()))
        .collect();
    if let Err(error) =
        webhooks::verify(source.kind, &pairs, &body, &source.secrets, now, tolerance)
    {
        return refuse(&error);
    }
    let mut reading = webhooks::read_received(source.kind, &source.mapping, &body, now);
    if let Some(id) = webhooks::event_id(source.kind, &pairs) {
        reading.event_id = Some(id);
    }
    let event_type = known_type(&reading);
    let event = new_event(name, reading, &body);
    let event_id = Some(event.event_id.clone());
    let disposition = event.disposition.clone();
    match state.inbox.record(event).await {
        Ok(recorded) => {
            let outcome = outcome(recorded, &disposition);
            let reason = match (recorded, disposition) {
                (Recorded::Conflict, _) => {
                    Some("this id was delivered before with another body".to_owned())
                }
                (_, Disposition::Fail(reason)) => Some(reason),
                _ => None,
            };
            Delivered {
                response: Json(Receipt { status: outcome }).into_response(),
                outcome,
                event_type,
                event_id,
                reason,
            }
        }
        Err(error) => {
            let problem = Problem::new(
                StatusCode::SERVICE_UNAVAILABLE,
                "storage_unavailable",
                "the event was not recorded",
                "deliver it again after Retry-After",
            );
            let refused = Delivered::refused(
                problem.retry_after(RETRY_AFTER_S),
                "unavailable",
                chain(&error),
            );
            Delivered {
                event_type,
                event_id,
                ..refused
            }
        }
    }
}

async fn read_body<'a>(
    headers: &HeaderMap,
    body: Body,
    large: &'a Semaphore,
) -> Result<(Bytes, Option<SemaphorePermit<'a>>), Delivered> {
    let too_large = || {
        let problem = Problem::new(
            StatusCode::PAYLOAD_TOO_LARGE,
            "body_too_large",
            format!("the body is larger than {MAX_BODY} bytes"),
            "no event of a provider is that large: look at what was sent",
        );
        Delivered::refused(
            problem,
            "too_large",
            format!("body larger than {MAX_BODY} bytes"),
        )
    };
    let declared = headers
        .get(header::CONTENT_LENGTH)
        .and_then(|value| value.to_str().ok()?.parse::<usize>().ok());
    if declared.is_some_and(|declared| declared > MAX_BODY) {
        return Err(too_large());
    }
    let incomplete = |reason: String| {
        let problem = Problem::new(
            StatusCode::BAD_REQUEST,
            "body_incomplete",
            "the body did not arrive whole, or not in time",
            "deliver it again",
        );
        Delivered::refused(problem, "incomplete", reason)
    };
    match tokio::time::timeout(BODY_TIMEOUT, collect(body, large)).await {
        Ok(Ok(Some(body))) => Ok(body),
        Ok(Ok(None)) => Err(too_large()),
        Ok(Err(error)) => Err(incomplete(error.to_string())),
        Err(_) => Err(incomplete(format!(
            "no end within {} s",
            BODY_TIMEOUT.as_secs()
        ))),
    }
}

/// The whole body; `None` when it is larger than any may be.
///
/// Nobody has signed it yet, so few may be large at once: the others wait where they are until one ends.
async fn collect(
    mut body: Body,
    large: &Semaphore,
) -> Result<Option<(Bytes, Option<SemaphorePermit<'_>>)>, axum::Error> {
    let (mut whole, mut permit) = (Vec::new(), None);
    while let Some(frame) = body.frame().await {
        let Ok(data) = frame?.into_data() else {
            continue;
        };
        if whole.len() + data.len() > MAX_BODY {
            return Ok(None);
        }
        if permit.is_none() && whole.len() + data.len() > LARGE_BODY {
            permit = large.acquire().await.ok();
        }
        whole.extend_from_slice(&data);
    }
    Ok(Some((Bytes::from(whole), permit)))
}

/// One body for every 401: which of signature and age it was is for our log, not for a forger.
fn refuse(error: &VerifyError) -> Delivered {
    let reason = format!("{}: {error}", error.code());
    if error.is_malformed() {
        let problem = Problem::new(
            StatusCode::BAD_REQUEST,
            error.code(),
            error.to_string(),
            "send the headers of the signature as the provider documents them",
        );
        return Delivered::refused(problem, "malformed", reason);
    }
    let outcome = match error {
        VerifyError::TooOld { .. } | VerifyError::InFuture { .. } => "stale",
        _ => "bad_signature",
    };
    let problem = Problem::new(
        StatusCode::UNAUTHORIZED,
        "signature_refused",
        "the signature does not hold",
        "check the signing secret and the clocks; the log of tenantry says which of them it was",
    );
    Delivered::refused(problem, outcome, reason)
}

/// A label that no sender can invent.
fn known_type(reading: &Reading) -> &'static str {
    match &reading.meaning {
        Meaning::Events(events) => events.last().map_or("other", IdentityEvent::name),
        Meaning::Ignored | Meaning::Unreadable(_) => "other",
    }
}

fn outcome(recorded: Recorded, disposition: &Disposition) -> &'static str {
    match (recorded, disposition) {
        (Recorded::Duplicate, _) => "duplicate",
        (Recorded::Conflict, _) => "conflict",
        (Recorded::New, Disposition::Process) => "accepted",
        (Recorded::New, Disposition::Ignore) => "ignored",
        (Recorded::New, Disposition::Fail(_)) => "failed",
    }
}

fn new_event(source: &str, reading: Reading, body: &Bytes) -> NewEvent {
    let body_sha256 = secrets::sha256(body);
    NewEvent {
        source: source.to_owned(),
        // an event without a usable id is still recorded once: by what it is
        event_id: reading
            .event_id
            .unwrap_or_else(|| format!("sha256:{}", hex::encode(body_sha256))),
        event_type: if reading.event_type.is_empty() {
            "unknown".to_owned()
        } else {
            reading.event_type
        },
        organization_id: reading.organization_id,
        occurred_at: reading.occurred_at,
        body: body.to_vec(),
        body_sha256,
        disposition: match reading.meaning {
            Meaning::Events(_) => Disposition::Process,
            Meaning::Ignored => Disposition::Ignore,
            Meaning::Unreadable(reason) => Disposition::Fail(chain(&reason)),
        },
    }
}
