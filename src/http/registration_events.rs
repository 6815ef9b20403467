//! `/v1/registrations/{id}/events`: what happens to a registration, as server-sent events.
//!
//! Guarantees: every event is read from the table, whichever replica wrote it: whoever comes back with
//! `Last-Event-ID`, to any replica, misses none and sees none twice; the stream ends when nothing more
//! happens by itself, and says so to a browser that comes back (204).

use std::{collections::VecDeque, convert::Infallible, time::Duration};

use axum::{
    Extension,
    extract::State,
    http::{HeaderMap, HeaderName, HeaderValue, StatusCode},
    response::{
        IntoResponse, Response, Sse,
        sse::{Event, KeepAlive},
    },
};
use futures_util::{Stream, stream};
use serde_json::Value;
use sqlx::PgConnection;
use uuid::Uuid;

use super::{
    AppState, Problem,
    access::Caller,
    extract::Path,
    operator::Reading,
    registrations::{find_visible, viewer},
};
use crate::registrations::{self, Registration, Seen, Viewer};

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

/// Follow a registration.
#[utoipa::path(
    get,
    path = "/v1/registrations/{id}/events",
    operation_id = "follow_registration",
    tag = "registrations",
    params(
        ("id" = Uuid, Path, description = "Id of the registration"),
        ("last-event-id" = Option<String>, Header, description = "Number of the last event that was seen")
    ),
    responses(
        (status = 200, description = "accepted, step, waiting, delayed, ready, failed, retried, abandoning, abandoned; the data is the registration as after it", body = super::fleet_run_events::StreamEvent, content_type = "text/event-stream"),
        (status = 204, description = "It has ended, and everything was seen"),
        (status = 404, description = "No registration with this id that the caller may see", body = Problem, content_type = "application/problem+json"),
        Reading
    ),
    security(("key" = []), ("status_token" = []), ("status_token_in_query" = []))
)]
pub(super) async fn follow(
    State(state): State<AppState>,
    Path(id): Path<Uuid>,
    headers: HeaderMap,
    Extension(caller): Extension<Caller>,
) -> Result<Response, Problem> {
    let last = headers.get(LAST_EVENT_ID);
    let last = last.and_then(|value| value.to_str().ok()?.parse().ok());
    let look = async |connection: &mut PgConnection| {
        let row = find_visible(connection, id, &caller).await?;
        // more than there is: the numbers of a database that lost its last moment; all of it is told again
        let after = last.filter(|last| (0..=row.last_event).contains(last));
        let after = after.unwrap_or(0);
        // what is old may be pruned
        let is_over = row.state.is_terminal()
            && registrations::list_events(connection, id, after)
                .await?
                .is_empty();
        Ok::<_, Problem>((after, is_over))
    };
    let (after, is_over) = state.db.run(look).await?;
    if is_over {
        return Ok(StatusCode::NO_CONTENT.into_response());
    }
    let reader = Reader {
        seen: state.watcher.follow(id),
        viewer: viewer(&caller),
        state,
        id,
        after,
        unsent: VecDeque::new(),
        has_ended: false,
    };
    let sse = Sse::new(reader.events()).keep_alive(KeepAlive::new().interval(HEARTBEAT));
    Ok(([NO_BUFFERING], sse).into_response())
}

/// Somebody who follows a registration.
struct Reader {
    state: AppState,
    id: Uuid,
    viewer: Viewer,
    seen: Seen,
    /// Number of the last event that was sent, or is about to be.
    after: i32,
    unsent: VecDeque<Event>,
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
        loop {
            if let Some(event) = self.unsent.pop_front() {
                return Some(event);
            }
            if self.has_ended {
                return None;
            }
            // what is written from here on is heard of below
            self.seen.mark_unchanged();
            let look_again = match self.read().await {
                Ok(true) => continue,
                Ok(false) => Duration::MAX,
                // nobody calls for what was told while the database was away
                Err(_) => PAUSE_AFTER_ERROR,
            };
            tokio::select! {
                changed = self.seen.changed() => changed.ok()?,
                () = tokio::time::sleep(look_again) => {}
                () = self.state.tasks.draining() => return None,
            }
        }
    }

    /// Reads what is new; false when there is nothing.
    async fn read(&mut self) -> sqlx::Result<bool> {
        let (id, after, viewer) = (self.id, self.after, self.viewer);
        let look = async |connection: &mut PgConnection| {
            let events = registrations::list_events(connection, id, after).await?;
            if events.is_empty() {
                return Ok((events, None));
            }
            let now = match registrations::find(connection, id).await? {
                Some(row) => Some(registrations::read(connection, row, viewer).await?),
                None => None,
            };
            Ok::<_, sqlx::Error>((events, now))
        };
        let (events, now) = self.state.db.run(look).await?;
        let Some(newest) = events.last() else {
            return Ok(false);
        };
        self.after = newest.number;
        self.has_ended = newest.is_last();
        self.unsent = events
            .iter()
            .map(|event| shown(event, now.as_ref()))
            .collect();
        Ok(true)
    }
}

/// An event as it is sent: its own data, and of the newest one the tenant.
fn shown(event: &registrations::Event, now: Option<&Registration>) -> Event {
    let mut data = event.data.clone();
    if let (Value::Object(data), Some(now)) = (&mut data, now) {
        data.insert("at".to_owned(), serde_json::json!(event.at));
        data.insert("steps".to_owned(), now.progress.of.into());
        if event.kind == "ready" {
            data.insert("tenant".to_owned(), serde_json::json!(now.tenant));
        }
    }
    Event::default()
        .id(event.number.to_string())
        .event(&event.kind)
        .retry(RECONNECT)
        .data(data.to_string())
}
