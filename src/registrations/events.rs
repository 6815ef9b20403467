//! What happened to a registration, and who waits to hear of it.
//!
//! Guarantees: events are read from the table, whichever replica wrote them, so that a reader who comes
//! back with the number it saw last misses nothing; all readers of a process share one look at the
//! database, and there is none while nobody reads.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use chrono::{DateTime, Utc};
use serde::Serialize;
use sqlx::{FromRow, PgConnection};
use tokio::sync::{Notify, watch};
use uuid::Uuid;

use super::State;
use crate::{causes::chain, db::Db};

/// Pause between two looks while somebody waits.
const PAUSE: Duration = Duration::from_millis(100);

/// Pause after a look that failed.
const PAUSE_AFTER_ERROR: Duration = Duration::from_secs(1);

/// Something that happened.
#[derive(Debug, Clone, FromRow, Serialize)]
pub struct Event {
    /// Number within the registration, from 1.
    pub number: i32,
    /// What happened.
    pub kind: String,
    /// How the registration was after it.
    pub data: serde_json::Value,
    /// When.
    pub at: DateTime<Utc>,
}

impl Event {
    /// Whether nothing follows by itself.
    pub fn is_last(&self) -> bool {
        let state = serde_json::from_value::<State>(self.data["state"].clone());
        state.is_ok_and(State::is_terminal)
    }
}

/// The events of a registration after a number, in order.
pub async fn list_events(
    connection: &mut PgConnection,
    registration: Uuid,
    after: i32,
) -> sqlx::Result<Vec<Event>> {
    sqlx::query_as(
        "select number, kind, data, at
         from registration_events
         where registration_id = $1
           and number > $2
         order by number",
    )
    .bind(registration)
    .bind(after)
    .fetch_all(connection)
    .await
}

/// The events meant by the two below; a macro because statements are literals.
macro_rules! old_events {
    ($select:literal, $rest:literal) => {
        concat!(
            $select,
            " from registration_events
              where at < now() - make_interval(secs => $1)
                and exists (
                    select
                    from registrations
                    where registrations.id = registration_id
                      and ended_at is not null
                ) ",
            $rest
        )
    };
}

/// How many events of registrations that have ended are older than `age`.
pub async fn count_old_events(connection: &mut PgConnection, age: Duration) -> sqlx::Result<i64> {
    sqlx::query_scalar(old_events!("select count(*)", ""))
        .bind(age.as_secs_f64())
        .fetch_one(connection)
        .await
}

/// Deletes at most `limit` of them, the oldest first; returns how many.
pub async fn prune_events(
    connection: &mut PgConnection,
    age: Duration,
    limit: i64,
) -> sqlx::Result<u64> {
    let deleted = sqlx::query(concat!(
        "with old as (",
        old_events!(
            "select registration_id, number",
            "order by at
             limit $2
             -- another one that prunes has it
             for update skip locked"
        ),
        ")
         delete from registration_events
         using old
         where registration_events.registration_id = old.registration_id
           and registration_events.number = old.number"
    ));
    let deleted = deleted.bind(age.as_secs_f64()).bind(limit);
    Ok(deleted.execute(connection).await?.rows_affected())
}

/// The number of the newest event, as far as it was heard of.
pub type Seen = watch::Receiver<i32>;

/// Tells whoever follows a registration that there is something new.
#[derive(Debug, Clone, Default)]
pub struct Watcher {
    followed: Arc<Mutex<HashMap<Uuid, watch::Sender<i32>>>>,
    begun: Arc<Notify>,
}

impl Watcher {
    /// Follows a registration; what is dropped is not followed any more.
    pub fn follow(&self, registration: Uuid) -> Seen {
        let mut followed = self.followed.lock().unwrap_or_else(PoisonError::into_inner);
        let sender = followed
            .entry(registration)
            .or_insert_with(|| watch::Sender::new(0));
        let seen = sender.subscribe();
        drop(followed);
        self.begun.notify_one();
        seen
    }

    /// Looks, as long as somebody follows; does not end.
    pub async fn watch(self, db: Db) {
        loop {
            let ids = self.followed();
            if ids.is_empty() {
                self.begun.notified().await;
                continue;
            }
            match db
                .run(async |connection| newest(connection, &ids).await)
                .await
            {
                Ok(newest) => {
                    self.tell(&newest);
                    tokio::time::sleep(PAUSE).await;
                }
                Err(error) => {
                    tracing::debug!(error = chain(&error), "registrations cannot be followed");
                    tokio::time::sleep(PAUSE_AFTER_ERROR).await;
                }
            }
        }
    }

    /// What somebody still follows.
    fn followed(&self) -> Vec<Uuid> {
        let mut followed = self.followed.lock().unwrap_or_else(PoisonError::into_inner);
        followed.retain(|_, sender| sender.receiver_count() > 0);
        followed.keys().copied().collect()
    }

    fn tell(&self, newest: &[(Uuid, i32)]) {
        let followed = self.followed.lock().unwrap_or_else(PoisonError::into_inner);
        for (id, number) in newest {
            if let Some(sender) = followed.get(id) {
                sender.send_if_modified(|known| {
                    let is_news = *known != *number;
                    *known = *number;
                    is_news
                });
            }
        }
    }
}

async fn newest(connection: &mut PgConnection, ids: &[Uuid]) -> sqlx::Result<Vec<(Uuid, i32)>> {
    sqlx::query_as("select id, last_event from registrations where id = any($1)")
        .bind(ids)
        .fetch_all(connection)
        .await
}
