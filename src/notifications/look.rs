//! What an operator sees of notifications.

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use sqlx::{FromRow, PgConnection};
use uuid::Uuid;

use super::Error;
use crate::{
    config::NotificationType,
    page::{self, Asked, Page},
};

/// Name of this list, in its cursors.
const LIST: &str = "notifications";

/// What became of a notification at an endpoint.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, Hash, sqlx::Type, Serialize, Deserialize, utoipa::ToSchema,
)]
#[sqlx(type_name = "text", rename_all = "lowercase")]
#[serde(rename_all = "lowercase")]
pub enum DeliveryState {
    /// It is to be sent, or sent again.
    Pending,
    /// The endpoint took it.
    Delivered,
    /// It was given up.
    Failed,
}

impl DeliveryState {
    /// The word as it is stored and shown.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Pending => "pending",
            Self::Delivered => "delivered",
            Self::Failed => "failed",
        }
    }
}

/// A notification, and what became of it.
#[derive(Debug, Clone, FromRow, Serialize, utoipa::ToSchema)]
pub struct Notification {
    /// The id that every endpoint gets, on every attempt.
    pub id: Uuid,
    /// Such as `tenant.ready`.
    #[sqlx(rename = "type")]
    #[serde(rename = "type")]
    pub kind: String,
    /// The tenant it is about.
    pub tenant_id: Uuid,
    /// What is told.
    pub data: serde_json::Value,
    /// When it happened.
    pub created_at: DateTime<Utc>,
    /// What became of it at each endpoint.
    #[sqlx(skip)]
    pub deliveries: Vec<Delivery>,
    #[serde(skip)]
    number: i64,
}

/// What became of a notification at one endpoint.
#[derive(Debug, Clone, FromRow, Serialize, utoipa::ToSchema)]
#[schema(as = NotificationDelivery)]
pub struct Delivery {
    /// Name of the endpoint.
    pub endpoint: String,
    /// What became of it.
    pub state: DeliveryState,
    /// Attempts that were made.
    pub attempts: i32,
    /// When the next attempt is due; one before it in line, or a disabled endpoint, may make it later.
    pub due_at: Option<DateTime<Utc>>,
    /// When it was delivered or given up.
    pub finished_at: Option<DateTime<Utc>>,
    #[serde(skip)]
    number: i64,
}

/// One attempt to deliver a notification.
#[derive(Debug, Clone, FromRow, Serialize, utoipa::ToSchema)]
#[schema(as = NotificationAttempt)]
pub struct Attempt {
    /// Name of the endpoint.
    pub endpoint: String,
    /// Which one, from 1 on.
    pub attempt: i32,
    /// When it began.
    pub started_at: DateTime<Utc>,
    /// How long it took.
    pub duration_ms: f64,
    /// HTTP status, where there was an answer.
    pub status: Option<i32>,
    /// Stable code, explained in docs/errors.md; absent where it was delivered.
    pub error_code: Option<String>,
    /// The error.
    pub error: Option<String>,
    /// Beginning of the body of a refusal.
    pub answer: Option<String>,
}

/// A notification with its attempts.
#[derive(Debug, Clone, Serialize, utoipa::ToSchema)]
#[schema(as = NotificationWithAttempts)]
pub struct Detailed {
    /// The notification.
    #[serde(flatten)]
    pub notification: Notification,
    /// Every attempt whose end was recorded, by endpoint, the oldest first.
    pub attempts: Vec<Attempt>,
}

/// Which notifications to list.
#[derive(Debug, Clone, Default)]
pub struct Filter {
    /// Only those of this type.
    pub kind: Option<NotificationType>,
    /// Only those about this tenant.
    pub tenant: Option<Uuid>,
    /// Only those that are in this state at some endpoint.
    pub state: Option<DeliveryState>,
    /// Only those for this endpoint; with a state, those that are in it there.
    pub endpoint: Option<String>,
}

/// A page of notifications, the newest first.
pub async fn list_page(
    connection: &mut PgConnection,
    filter: &Filter,
    asked: &Asked,
) -> Result<Page<Notification>, page::Error> {
    let after: Option<i64> = asked.after(LIST)?;
    let mut rows: Vec<Notification> = sqlx::query_as(
        "select number, id, type, tenant_id, data, created_at
         from notifications
         where ($1::text is null or type = $1)
           and ($2::uuid is null or tenant_id = $2)
           and (($3::text is null and $4::text is null) or exists (
               select
               from notification_deliveries delivery
               where delivery.number = notifications.number
                 and ($3::text is null or delivery.state = $3)
                 and ($4::text is null or delivery.endpoint = $4)
           ))
           and ($5::bigint is null or number < $5)
         order by number desc
         limit $6",
    )
    .bind(filter.kind.map(NotificationType::name))
    .bind(filter.tenant)
    .bind(filter.state.map(DeliveryState::name))
    .bind(&filter.endpoint)
    .bind(after)
    .bind(asked.fetch_limit())
    .fetch_all(&mut *connection)
    .await?;
    add_deliveries(connection, &mut rows).await?;
    Ok(asked.page(LIST, rows, |it: &Notification| it.number))
}

async fn add_deliveries(
    connection: &mut PgConnection,
    notifications: &mut [Notification],
) -> sqlx::Result<()> {
    let numbers: Vec<i64> = notifications.iter().map(|it| it.number).collect();
    let deliveries: Vec<Delivery> = sqlx::query_as(
        "select number, endpoint, state, attempts, case when state = 'pending' then run_at end as due_at, finished_at
         from notification_deliveries
         where number = any($1)
         order by number, endpoint",
    )
    .bind(numbers)
    .fetch_all(connection)
    .await?;
    for notification in notifications {
        let of_it = deliveries
            .iter()
            .filter(|it| it.number == notification.number);
        notification.deliveries = of_it.cloned().collect();
    }
    Ok(())
}

/// A notification by its id, with its attempts.
pub async fn find(connection: &mut PgConnection, id: Uuid) -> Result<Detailed, Error> {
    let found: Option<Notification> = sqlx::query_as(
        "select number, id, type, tenant_id, data, created_at
         from notifications
         where id = $1",
    )
    .bind(id)
    .fetch_optional(&mut *connection)
    .await?;
    let mut notification = found.ok_or(Error::Unknown(id))?;
    add_deliveries(connection, std::slice::from_mut(&mut notification)).await?;
    let attempts = sqlx::query_as(
        "select endpoint, attempt, started_at, duration_ms, status, error_code, error, answer
         from notification_attempts
         where number = $1
         order by endpoint, attempt",
    )
    .bind(notification.number)
    .fetch_all(connection)
    .await?;
    Ok(Detailed {
        notification,
        attempts,
    })
}

/// What a configured endpoint is still to be told.
#[derive(Debug, Clone, FromRow)]
pub struct Backlog {
    /// Name of the endpoint.
    pub endpoint: String,
    /// How many notifications.
    pub pending: i64,
    /// Age of the oldest of them, in seconds.
    pub oldest_s: f64,
}

/// The backlog of every configured endpoint.
pub async fn count(connection: &mut PgConnection) -> sqlx::Result<Vec<Backlog>> {
    sqlx::query_as(
        "select endpoint.name as endpoint, outstanding.pending,
                coalesce(extract(epoch from now() - oldest.created_at), 0)::float8 as oldest_s
         from notification_endpoints endpoint
         cross join lateral (
             select count(*) as pending, min(number) as number
             from notification_deliveries delivery
             where delivery.endpoint = endpoint.name
               and delivery.state = 'pending'
         ) as outstanding
         left join notifications oldest using (number)
         where endpoint.removed_at is null
         order by endpoint.name",
    )
    .fetch_all(connection)
    .await
}
