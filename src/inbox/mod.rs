//! Station 2, RECORDED: every event once, durable before its sender is answered.
//!
//! Guarantees: at most one processed row per `(source, event id)`, by a unique index and for ever;
//! the event and the job that processes it are one statement and one commit; a duplicate is counted
//! on the row; the same id with another body is kept beside it as `conflict` and never processed. Both
//! hold also after the body was pruned: its digest stays.
//! [`Inbox::record`] returns only after the commit.
//!
//! Does not: verify signatures (`webhooks`) or know what an event means (`jobs`).

mod batch;
mod look;
mod prune;
mod record;
mod settle;

use sqlx::{FromRow, PgConnection};

pub use batch::{FAULT_POINTS, Inbox, Unavailable};
pub use look::{Event, EventState, Filter, find, find_event, list_page};
pub use prune::{count_old_bodies, prune_bodies};
pub use record::record;
pub use settle::{
    Locked, Settled, State, fail_waiting, lock_event, mark_failed, mark_received, settle,
    settle_waiting,
};

/// An event to be recorded.
#[derive(Debug, Clone)]
pub struct NewEvent {
    /// Name of the source.
    pub source: String,
    /// The sender's id of the event.
    pub event_id: String,
    /// The sender's type.
    pub event_type: String,
    /// The organization it is about.
    pub organization_id: Option<String>,
    /// When the sender says that it happened.
    pub occurred_at: Option<chrono::DateTime<chrono::Utc>>,
    /// The bytes as signed.
    pub body: Vec<u8>,
    /// SHA-256 of the bytes.
    pub body_sha256: [u8; 32],
    /// What is to become of it.
    pub disposition: Disposition,
}

/// What is to become of a new event.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Disposition {
    /// A job processes it.
    Process,
    /// It has no meaning for us.
    Ignore,
    /// It cannot be read: a dead letter, with the reason.
    Fail(String),
}

/// What became of a delivery.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Recorded {
    /// A new event.
    New,
    /// An event that was there already.
    Duplicate,
    /// The id was there with another body.
    Conflict,
}

/// The bytes of an event and what is needed to read them.
#[derive(Debug, Clone, FromRow)]
pub struct StoredBody {
    /// Our number of the event.
    pub id: i64,
    /// Name of the source.
    pub source: String,
    /// State of the event.
    pub state: String,
    /// The bytes as signed.
    pub body: Vec<u8>,
    /// When it was first recorded.
    pub received_at: chrono::DateTime<chrono::Utc>,
}

/// How many of these events, in the order of their numbers, have bodies of at most `max_bytes` together; at least one.
pub async fn count_within(
    connection: &mut PgConnection,
    ids: &[i64],
    max_bytes: i64,
) -> sqlx::Result<usize> {
    let within: i64 = sqlx::query_scalar(
        "select count(*)
         from (
             select sum(coalesce(octet_length(body), 0)) over (order by wanted.id) as size_bytes
             from unnest($1::bigint[]) as wanted (id)
             left join webhook_events using (id)
         ) as running
         where size_bytes <= $2",
    )
    .bind(ids)
    .bind(max_bytes)
    .fetch_one(connection)
    .await?;
    Ok(usize::try_from(within).unwrap_or_default().max(1))
}

/// The bodies of events that have one, in the order of their numbers. What is not settled has one.
pub async fn find_bodies(
    connection: &mut PgConnection,
    ids: &[i64],
) -> sqlx::Result<Vec<StoredBody>> {
    sqlx::query_as(
        "select id, source, state, body, received_at
         from webhook_events
         where id = any($1)
           and body is not null
         order by id",
    )
    .bind(ids)
    .fetch_all(connection)
    .await
}

/// How many events are not done with.
#[derive(Debug, Clone, FromRow)]
pub struct Counts {
    /// Received and not settled.
    pub pending: i64,
    /// Age of the oldest of them, in seconds.
    pub oldest_pending_s: f64,
    /// Those that name an object which nobody has described yet.
    pub waiting: i64,
    /// Dead letters.
    pub failed: i64,
}

/// Counts events that are not done with. The others are not counted: there may be millions.
pub async fn count(connection: &mut PgConnection) -> sqlx::Result<Counts> {
    sqlx::query_as(
        "select count(*) filter (where state = 'received') as pending,
                coalesce(extract(epoch from now() - min(received_at) filter (where state = 'received')), 0)::float8 as oldest_pending_s,
                count(*) filter (where state = 'waiting') as waiting,
                count(*) filter (where state = 'failed') as failed
         from webhook_events
         where state in ('received', 'waiting', 'failed')",
    )
    .fetch_one(connection)
    .await
}
