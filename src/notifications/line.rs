//! The line of what an endpoint is to be told of one tenant: its head, and what became of it.
//!
//! Guarantees: the head is the oldest that is neither delivered nor given up; an attempt and what it
//! leads to are written together.

use std::time::Duration;

use chrono::{DateTime, Utc};
use sqlx::{FromRow, PgConnection};
use uuid::Uuid;

use super::{Next, Tried, endpoints};

/// A notification on its way to an endpoint.
#[derive(Debug, Clone, FromRow)]
pub struct Outgoing {
    /// Its number in the outbox.
    pub number: i64,
    /// The id that every attempt has.
    pub id: Uuid,
    /// Its type.
    #[sqlx(rename = "type")]
    pub kind: String,
    /// When it happened.
    pub created_at: DateTime<Utc>,
    /// What is told.
    pub data: serde_json::Value,
    /// Attempts of this round.
    pub tries: i32,
    wait_s: f64,
}

/// What stands at the head of a line.
#[derive(Debug)]
pub enum Head {
    /// Nothing is outstanding, or the endpoint is disabled or not configured: what waits, waits for that.
    Nothing,
    /// The next attempt is due after so long.
    Later(Duration),
    /// It is due.
    Due(Box<Outgoing>),
}

/// What an endpoint is to be told next of a tenant.
pub async fn find_head(tx: &mut PgConnection, endpoint: &str, tenant: Uuid) -> sqlx::Result<Head> {
    if !endpoints::is_told(tx, endpoint).await? {
        return Ok(Head::Nothing);
    }
    let head: Option<Outgoing> = sqlx::query_as(
        "select notification.number, notification.id, notification.type, notification.created_at, notification.data,
                delivery.tries,
                greatest(extract(epoch from delivery.run_at - clock_timestamp()), 0)::float8 as wait_s
         from notification_deliveries delivery
         join notifications notification using (number)
         where delivery.endpoint = $1
           and delivery.tenant_id = $2
           and delivery.state = 'pending'
         order by delivery.number
         limit 1",
    )
    .bind(endpoint)
    .bind(tenant)
    .fetch_optional(tx)
    .await?;
    Ok(match head {
        None => Head::Nothing,
        Some(head) if head.wait_s > 0.0 => Head::Later(Duration::from_secs_f64(head.wait_s)),
        Some(head) => Head::Due(Box::new(head)),
    })
}

/// Records an attempt and what follows it.
pub async fn record_attempt(
    tx: &mut PgConnection,
    (endpoint, outgoing): (&str, &Outgoing),
    tried: &Tried,
    next: Next,
) -> sqlx::Result<()> {
    let (state, wait) = match next {
        Next::Delivered => ("delivered", Duration::ZERO),
        Next::Again(wait) => ("pending", wait),
        Next::GivenUp => ("failed", Duration::ZERO),
        Next::Disable => ("pending", Duration::ZERO),
    };
    sqlx::query(
        "with delivery as (
             update notification_deliveries
             set state = $3,
                 attempts = attempts + 1,
                 -- enabled again, it begins anew
                 tries = case when $5 then 0 else tries + 1 end,
                 run_at = clock_timestamp() + make_interval(secs => $4),
                 finished_at = case when $3 <> 'pending' then clock_timestamp() end
             where number = $1
               and endpoint = $2
               and state = 'pending'
             returning number, endpoint, attempts
         )
         insert into notification_attempts
             (number, endpoint, attempt, started_at, duration_ms, status, error_code, error, answer)
         select number, endpoint, attempts, clock_timestamp() - make_interval(secs => $6 / 1000), $6, $7, $8, $9, $10
         from delivery",
    )
    .bind(outgoing.number)
    .bind(endpoint)
    .bind(state)
    .bind(wait.as_secs_f64())
    .bind(next == Next::Disable)
    .bind(tried.took.as_secs_f64() * 1000.0)
    .bind(tried.status.map(i32::from))
    .bind(tried.failure.as_ref().map(super::AttemptError::code))
    .bind(tried.failure.as_ref().map(ToString::to_string))
    .bind(&tried.answer)
    .execute(&mut *tx)
    .await?;
    if next == Next::Disable {
        endpoints::disable(tx, endpoint, "it answered 410 Gone").await?;
    }
    Ok(())
}
