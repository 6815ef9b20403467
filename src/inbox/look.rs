//! What an operator sees of the inbox.

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use sqlx::{FromRow, PgConnection};

use crate::page::{self, Asked, Page};

/// Name of this list, in its cursors.
const LIST: &str = "events";

/// What became of an event.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, Hash, sqlx::Type, Serialize, Deserialize, utoipa::ToSchema,
)]
#[sqlx(type_name = "text", rename_all = "lowercase")]
#[serde(rename_all = "lowercase")]
pub enum EventState {
    /// Recorded; its job has not come to it yet.
    Received,
    /// Recorded, but incomplete until what it names is described.
    Waiting,
    /// Its meaning was carried out.
    Processed,
    /// It has no meaning for tenantry.
    Ignored,
    /// A dead letter.
    Failed,
    /// Another body of an event that was there already.
    Conflict,
}

impl EventState {
    /// The word as it is stored and shown.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Received => "received",
            Self::Waiting => "waiting",
            Self::Processed => "processed",
            Self::Ignored => "ignored",
            Self::Failed => "failed",
            Self::Conflict => "conflict",
        }
    }
}

/// An event of the inbox.
#[derive(Debug, Clone, FromRow, Serialize, utoipa::ToSchema)]
pub struct Event {
    /// Our number.
    pub id: i64,
    /// Name of the source.
    pub source: String,
    /// The sender's id.
    pub event_id: String,
    /// The sender's type.
    pub event_type: String,
    /// The organization it is about.
    pub organization_id: Option<String>,
    /// What became of it.
    pub state: EventState,
    /// Why it was ignored, failed or is in conflict.
    pub reason: Option<String>,
    /// What it waits for, such as `user:user_1`.
    pub waiting_for: Option<Vec<String>>,
    /// How often it was delivered.
    pub deliveries: i32,
    /// When it happened, as the sender says.
    pub occurred_at: Option<DateTime<Utc>>,
    /// When it was first recorded.
    pub received_at: DateTime<Utc>,
    /// When it was settled.
    pub settled_at: Option<DateTime<Utc>>,
    /// Whether its body is still kept; without it the event cannot be replayed.
    pub has_body: bool,
}

/// Which events to list.
#[derive(Debug, Clone, Default)]
pub struct Filter {
    /// Only events in this state.
    pub state: Option<EventState>,
    /// Only events of this source.
    pub source: Option<String>,
    /// Only events of this type.
    pub event_type: Option<String>,
    /// Only events about this organization.
    pub organization_id: Option<String>,
}

/// Every column of [`Event`]; a macro because statements are literals.
macro_rules! select_event {
    ($rest:literal) => {
        concat!(
            "select id, source, event_id, event_type, organization_id, state, reason, waiting_for, deliveries,
                    occurred_at, received_at, settled_at, body is not null as has_body
             from webhook_events ",
            $rest
        )
    };
}

/// A page of events, the newest first.
pub async fn list_page(
    connection: &mut PgConnection,
    filter: &Filter,
    asked: &Asked,
) -> Result<Page<Event>, page::Error> {
    let after: Option<i64> = asked.after(LIST)?;
    let rows = sqlx::query_as(select_event!(
        "where ($1::text is null or state = $1)
           and ($2::text is null or source = $2)
           and ($3::text is null or event_type = $3)
           and ($4::text is null or organization_id = $4)
           and ($5::bigint is null or id < $5)
         order by id desc
         limit $6"
    ))
    .bind(filter.state.map(EventState::name))
    .bind(&filter.source)
    .bind(&filter.event_type)
    .bind(&filter.organization_id)
    .bind(after)
    .bind(asked.fetch_limit())
    .fetch_all(connection)
    .await?;
    Ok(asked.page(LIST, rows, |event: &Event| event.id))
}

/// An event by our number.
pub async fn find_event(connection: &mut PgConnection, id: i64) -> sqlx::Result<Option<Event>> {
    sqlx::query_as(select_event!("where id = $1"))
        .bind(id)
        .fetch_optional(connection)
        .await
}

/// All rows of a sender's event id, or of our number: the event and its conflicts.
pub async fn find(connection: &mut PgConnection, id: &str) -> sqlx::Result<Vec<Event>> {
    sqlx::query_as(select_event!(
        "where event_id = $1
            or id::text = $1
         order by id"
    ))
    .bind(id)
    .fetch_all(connection)
    .await
}
