//! What was delivered or given up is told once more, under the same id.
//!
//! Guarantees: a replayed notification takes its place in the line again: what comes after it and is not
//! delivered yet waits for it; the jobs of its lines are locked before the deliveries, as their handler does.

use chrono::{DateTime, Utc};
use sqlx::{FromRow, PgConnection};
use uuid::Uuid;

use super::{Detailed, Error, endpoints, look};
use crate::audit::{self, Act, Actor};

/// Tells a notification once more: at one endpoint, or at every one that was to be told of it.
///
/// One that is still to be told is told at once.
pub async fn replay(
    tx: &mut PgConnection,
    id: Uuid,
    only: Option<&str>,
    actor: &Actor,
) -> Result<Detailed, Error> {
    audit::by(tx, actor).await?;
    let found = look::find(tx, id).await?.notification;
    let is_meant = |endpoint: &&str| only.is_none_or(|only| only == *endpoint);
    let told = found.deliveries.iter().map(|it| it.endpoint.as_str());
    let meant: Vec<&str> = told.filter(is_meant).collect();
    if let (Some(only), true) = (only, meant.is_empty()) {
        return Err(Error::EndpointUnknown(only.to_owned()));
    }
    for endpoint in &meant {
        endpoints::rouse(tx, endpoint, found.tenant_id).await?;
    }
    sqlx::query(
        "update notification_deliveries
         set state = 'pending',
             tries = 0,
             run_at = now(),
             finished_at = null
         from notifications
         where notifications.id = $1
           and notification_deliveries.number = notifications.number
           and notification_deliveries.endpoint = any($2)",
    )
    .bind(id)
    .bind(&meant)
    .execute(&mut *tx)
    .await?;
    note(tx, &id.to_string()).await?;
    look::find(tx, id).await
}

/// A line in which something was given up.
#[derive(Debug, Clone, FromRow)]
pub struct FailedLine {
    /// Name of the endpoint.
    pub endpoint: String,
    /// The tenant.
    pub tenant_id: Uuid,
}

/// The lines in which something was given up since then.
pub async fn list_failed(
    connection: &mut PgConnection,
    since: DateTime<Utc>,
    only: Option<&str>,
) -> sqlx::Result<Vec<FailedLine>> {
    sqlx::query_as(
        "select distinct endpoint, tenant_id
         from notification_deliveries
         where state = 'failed'
           and finished_at >= $1
           and ($2::text is null or endpoint = $2)
         order by endpoint, tenant_id",
    )
    .bind(since)
    .bind(only)
    .fetch_all(connection)
    .await
}

/// Tells once more what was given up in a line since then; returns how many. A transaction a line, so that
/// nobody waits for the locks of several.
pub async fn replay_line(
    tx: &mut PgConnection,
    line: &FailedLine,
    since: DateTime<Utc>,
    actor: &Actor,
) -> sqlx::Result<u64> {
    audit::by(tx, actor).await?;
    endpoints::rouse(tx, &line.endpoint, line.tenant_id).await?;
    let replayed: Vec<Uuid> = sqlx::query_scalar(
        "update notification_deliveries
         set state = 'pending',
             tries = 0,
             run_at = now(),
             finished_at = null
         from notifications
         where notifications.number = notification_deliveries.number
           and notification_deliveries.state = 'failed'
           and notification_deliveries.endpoint = $1
           and notification_deliveries.tenant_id = $2
           and notification_deliveries.finished_at >= $3
         returning notifications.id",
    )
    .bind(&line.endpoint)
    .bind(line.tenant_id)
    .bind(since)
    .fetch_all(&mut *tx)
    .await?;
    for id in &replayed {
        note(tx, &id.to_string()).await?;
    }
    Ok(replayed.len() as u64)
}

async fn note(tx: &mut PgConnection, id: &str) -> sqlx::Result<()> {
    let act = Act {
        action: "notification.replayed",
        target_kind: "notification",
        target: id,
        organization: None,
    };
    audit::note(tx, act).await
}
