//! `/v1/fleet-runs/{id}/events`: how far a fleet run is, as server-sent events.
//!
//! Guarantees: every event is all that there is to say, read from the tables, whichever replica works on the
//! run: whoever comes back with `Last-Event-ID`, to any replica, hears at once how it is now, unless that
//! is what they heard last; the stream ends when nothing more happens by itself, and says so to a browser
//! that comes back (204).
//!
//! Does not: tell every step between two looks.

use std::{convert::Infallible, time::Duration};

use axum::{
    extract::State,
    http::{HeaderMap, HeaderName, HeaderValue, StatusCode},
    response::{
        IntoResponse, Response, Sse,
        sse::{Event, KeepAlive},
    },
};
use futures_util::{Stream, stream};
use serde_json::json;
use sqlx::PgConnection;
use uuid::Uuid;

use super::{AppState, Problem, extract::Path, fleet_runs::find, operator::Reading};
use crate::fleet::{self, Pace, Run, RunId};

/// Between two looks.
const PAUSE: Duration = Duration::from_millis(500);

/// How often something is sent although nothing happens: proxies end what is silent for long.
const HEARTBEAT: Duration = Duration::from_secs(15);

/// When a browser comes back after its connection broke.
const RECONNECT: Duration = Duration::from_secs(1);

/// Pause after the database did not answer.
const PAUSE_AFTER_ERROR: Duration = Duration::from_secs(1);

const LAST_EVENT_ID: HeaderName = HeaderName::from_static("last-event-id");

/// Proxies of nginx's kind pass on at once what carries it.
const NO_BUFFERING: (HeaderName, HeaderValue) = (
    HeaderName::from_static("x-accel-buffering"),
    HeaderValue::from_static("no"),
);

/// One event of a stream, as a reader of `text/event-stream` has it.
#[derive(utoipa::ToSchema)]
#[expect(dead_code, reason = "only described: streams are written as text")]
pub(super) struct StreamEvent {
    /// What `Last-Event-ID` goes on after.
    id: String,
    /// What happened.
    event: String,
    /// JSON.
    data: String,
    /// Milliseconds before a reader that was cut off comes back.
    retry: Option<u64>,
}

/// Follow a fleet run.
#[utoipa::path(
    get,
    path = "/v1/fleet-runs/{id}/events",
    operation_id = "follow_fleet_run",
    tag = "fleet",
    params(
        ("id" = Uuid, Path, description = "Id of the run"),
        ("last-event-id" = Option<String>, Header, description = "Id of the last event that was seen")
    ),
    responses(
        (status = 200, description = "preparing, running, paused, done, failed, aborted, whenever the run's state, wave or counts have changed; the data says how far it is, how fast, and how long it will take", body = StreamEvent, content_type = "text/event-stream"),
        (status = 204, description = "It has ended, and that was seen"),
        (status = 404, description = "No run with this id", body = Problem, content_type = "application/problem+json"),
        Reading
    ),
    security(("key" = []))
)]
pub(super) async fn follow(
    State(state): State<AppState>,
    Path(id): Path<Uuid>,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    let look = async |connection: &mut PgConnection| find(connection, id).await;
    let run = state.db.run(look).await?;
    let last = headers.get(LAST_EVENT_ID);
    let last = last
        .and_then(|value| value.to_str().ok())
        .map(str::to_owned);
    if has_ended(&run) && last.as_deref() == Some(&event_id(&run)) {
        return Ok(StatusCode::NO_CONTENT.into_response());
    }
    let reader = Reader {
        state,
        id: run.id,
        last,
        has_ended: false,
    };
    let sse = Sse::new(reader.events()).keep_alive(KeepAlive::new().interval(HEARTBEAT));
    Ok(([NO_BUFFERING], sse).into_response())
}

/// Somebody who follows a run.
struct Reader {
    state: AppState,
    id: RunId,
    /// Id of the event that was sent last.
    last: Option<String>,
    has_ended: bool,
}

impl Reader {
    fn events(self) -> impl Stream<Item = Result<Event, Infallible>> {
        stream::unfold(self, async |mut reader| {
            let event = reader.next().await?;
            Some((Ok(event), reader))
        })
    }

    /// The next event; `None` when nothing more happens by itself, or this process ends.
    async fn next(&mut self) -> Option<Event> {
        while !self.has_ended {
            let pause = match self.look().await {
                Ok(Some((run, pace))) => {
                    self.has_ended = has_ended(&run);
                    let id = event_id(&run);
                    if self.last.as_ref() != Some(&id) {
                        self.last = Some(id);
                        return Some(event(&run, pace));
                    }
                    PAUSE
                }
                // it was pruned
                Ok(None) => return None,
                Err(_) => PAUSE_AFTER_ERROR,
            };
            tokio::select! {
                () = tokio::time::sleep(pause) => {}
                () = self.state.tasks.draining() => return None,
            }
        }
        None
    }

    async fn look(&self) -> sqlx::Result<Option<(Run, Pace)>> {
        let look = async |connection: &mut PgConnection| {
            let Some(run) = fleet::find(connection, self.id).await? else {
                return Ok(None);
            };
            let pace = fleet::find_pace(connection, &run).await?;
            Ok::<_, sqlx::Error>(Some((run, pace)))
        };
        self.state.db.run(look).await
    }
}

/// Whether nothing more happens by itself: it is over, and nothing that was begun is under way.
fn has_ended(run: &Run) -> bool {
    run.state.is_over() && run.counts.running == 0
}

/// The same for whatever is the same to see, on every replica.
fn event_id(run: &Run) -> String {
    let counts = &run.counts;
    format!(
        "{}-{}-{}-{}-{}-{}-{}",
        run.state.name(),
        run.current_wave,
        counts.pending,
        counts.running,
        counts.done,
        counts.skipped,
        counts.failed
    )
}

fn event(run: &Run, pace: Pace) -> Event {
    let data = json!({
        "id": run.id,
        "state": run.state,
        "version": run.version,
        "current_wave": run.current_wave,
        "counts": run.counts,
        "per_second": pace.per_second,
        "eta_s": pace.eta_s,
        "failure": run.failure,
    });
    Event::default()
        .id(event_id(run))
        .event(run.state.name())
        .retry(RECONNECT)
        .data(data.to_string())
}
