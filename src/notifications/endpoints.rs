//! Who is told: the configuration's endpoints as the database knows them.
//!
//! Guarantees: the triggers know who listens without reading a configuration; a disabled endpoint stays
//! disabled over restarts until it is enabled, or has another URL; what is outstanding has a job, also
//! after somebody cancelled it.
//!
//! Does not: keep URLs or secrets.

use std::{collections::BTreeMap, time::Duration};

use chrono::{DateTime, Utc};
use secrecy::ExposeSecret;
use serde::Serialize;
use sqlx::{FromRow, PgConnection};
use uuid::Uuid;

use super::{Error, are_members_told, outbox::OF_MEMBERS};
use crate::{
    audit::{self, Actor},
    causes::chain,
    config,
    db::Db,
    identity, secrets,
};

/// Pause between two looks for what has no job.
const SWEEP_INTERVAL: Duration = Duration::from_secs(30);

/// Lines that one look rouses.
const SWEPT: i64 = 1000;

/// "notifies" in ASCII.
const SYNC_LOCK: i64 = 0x6e6f_7469_6669_6573;

/// An endpoint and how it stands.
#[derive(Debug, Clone, FromRow, Serialize)]
pub struct Endpoint {
    /// Name in the configuration.
    pub name: String,
    /// What it is told of; `None` for everything.
    pub types: Option<Vec<String>>,
    /// Since when it is told nothing.
    pub disabled_at: Option<DateTime<Utc>>,
    /// Why.
    pub disabled_reason: Option<String>,
    /// Since when the configuration does not name it.
    pub removed_at: Option<DateTime<Utc>>,
    /// What it is still to be told.
    pub pending: i64,
    /// What it was not told, for good.
    pub failed: i64,
}

/// Records which endpoints the configuration has, at the start.
///
/// When somebody begins to be told of members, those that there are count as told; when nobody is any
/// more, that is forgotten.
pub async fn sync_endpoints(
    tx: &mut PgConnection,
    configured: &BTreeMap<String, config::Endpoint>,
) -> sqlx::Result<()> {
    sqlx::query("select pg_advisory_xact_lock($1), set_config('statement_timeout', '0', true)")
        .bind(SYNC_LOCK)
        .execute(&mut *tx)
        .await?;
    let were_told = are_members_told(tx).await?;
    let will_be_told = configured.values().any(is_told_of_members);
    if will_be_told && !were_told {
        // nobody's standing changes between the look at it and the beginning
        identity::lock(tx).await?;
    }
    for (name, endpoint) in configured {
        put(tx, name, endpoint).await?;
    }
    let names: Vec<&str> = configured.keys().map(String::as_str).collect();
    sqlx::query(
        "update notification_endpoints
         set removed_at = now()
         where removed_at is null
           and name <> all($1)",
    )
    .bind(names)
    .execute(&mut *tx)
    .await?;
    if will_be_told && !were_told {
        sqlx::query(
            "insert into announced_members (source, org_id, user_id, status)
             select source, org_id, user_id, status
             from members
             join tenants using (source, org_id)
             where status in ('active', 'removed')
             on conflict do nothing",
        )
        .execute(tx)
        .await?;
    } else if !will_be_told {
        sqlx::query("delete from announced_members")
            .execute(tx)
            .await?;
    }
    Ok(())
}

fn is_told_of_members(endpoint: &config::Endpoint) -> bool {
    let is_of_members = |kind: &config::NotificationType| OF_MEMBERS.contains(&kind.name());
    endpoint.types.is_empty() || endpoint.types.iter().any(is_of_members)
}

async fn put(tx: &mut PgConnection, name: &str, endpoint: &config::Endpoint) -> sqlx::Result<()> {
    let digest = hex::encode(secrets::sha256(endpoint.url.expose_secret().as_bytes()));
    let types = endpoint.types.iter().map(|kind| kind.name());
    let types = Some(types.collect::<Vec<_>>()).filter(|types| !types.is_empty());
    sqlx::query(
        "insert into notification_endpoints as known (name, digest, types)
         values ($1, $2, $3)
         on conflict (name) do update
         set digest = excluded.digest,
             types = excluded.types,
             removed_at = null,
             disabled_at = case when known.digest = excluded.digest then known.disabled_at end,
             disabled_reason = case when known.digest = excluded.digest then known.disabled_reason end
         where (known.digest, known.types, known.removed_at)
            is distinct from (excluded.digest, excluded.types, null)",
    )
    .bind(name)
    .bind(digest)
    .bind(types)
    .execute(tx)
    .await?;
    Ok(())
}

/// Whether the endpoint is told anything now.
pub(super) async fn is_told(connection: &mut PgConnection, name: &str) -> sqlx::Result<bool> {
    sqlx::query_scalar(
        "select exists (
             select
             from notification_endpoints
             where name = $1
               and removed_at is null
               and disabled_at is null
         )",
    )
    .bind(name)
    .fetch_one(connection)
    .await
}

/// From here on the endpoint is told nothing; what there is to tell waits.
pub async fn disable(tx: &mut PgConnection, name: &str, reason: &str) -> sqlx::Result<()> {
    sqlx::query(
        "update notification_endpoints
         set disabled_at = now(),
             disabled_reason = $2
         where name = $1
           and disabled_at is null",
    )
    .bind(name)
    .bind(reason)
    .execute(tx)
    .await?;
    Ok(())
}

/// Enables an endpoint; what waited for it is told. False when it was not disabled.
pub async fn enable(db: &Db, name: &str, actor: &Actor) -> Result<bool, Error> {
    let enabled = db
        .transaction(async |tx| {
            audit::by(tx, actor).await?;
            let enabled: Option<bool> = sqlx::query_scalar(
                "with before as (
                     select name, disabled_at
                     from notification_endpoints
                     where name = $1
                       and removed_at is null
                     for update
                 ),
                 enabled as (
                     update notification_endpoints
                     set disabled_at = null,
                         disabled_reason = null
                     from before
                     where notification_endpoints.name = before.name
                       and before.disabled_at is not null
                 )
                 select disabled_at is not null from before",
            )
            .bind(name)
            .fetch_optional(tx)
            .await?;
            enabled.ok_or_else(|| Error::EndpointUnknown(name.to_owned()))
        })
        .await?;
    // after the commit: a job that ends meanwhile has seen it, or is begun anew
    while rouse_stranded(db).await? == SWEPT {}
    Ok(enabled)
}

/// Every endpoint that is configured, or was and has something outstanding.
pub async fn list_endpoints(connection: &mut PgConnection) -> sqlx::Result<Vec<Endpoint>> {
    sqlx::query_as(
        "select name, types, disabled_at, disabled_reason, removed_at, pending, failed
         from notification_endpoints
         cross join lateral (
             select count(*) filter (where state = 'pending') as pending,
                    count(*) filter (where state = 'failed') as failed
             from notification_deliveries
             where endpoint = name
               and state in ('pending', 'failed')
         ) as outstanding
         where removed_at is null
            or pending > 0
         order by name",
    )
    .fetch_all(connection)
    .await
}

/// How many configured endpoints are disabled.
pub async fn count_disabled(connection: &mut PgConnection) -> sqlx::Result<i64> {
    sqlx::query_scalar(
        "select count(*)
         from notification_endpoints
         where removed_at is null
           and disabled_at is not null",
    )
    .fetch_one(connection)
    .await
}

/// Sees to it now and then that whatever is outstanding has a job; never ends.
///
/// A job that was cancelled, an endpoint that is enabled or configured again, are begun anew by this.
pub async fn keep_going(db: Db) {
    loop {
        if let Err(error) = rouse_stranded(&db).await {
            tracing::warn!(
                error = chain(&error),
                "cannot look for notifications without a job"
            );
        }
        tokio::time::sleep(SWEEP_INTERVAL).await;
    }
}

/// Begins lines that have no job; returns how many. Each by itself: nobody waits for several locks.
async fn rouse_stranded(db: &Db) -> sqlx::Result<i64> {
    db.run(async |connection| {
        let stranded: Vec<(String, Uuid)> = sqlx::query_as(
            "select distinct delivery.endpoint, delivery.tenant_id
             from notification_deliveries delivery
             join notification_endpoints endpoint on endpoint.name = delivery.endpoint
             where delivery.state = 'pending'
               and endpoint.removed_at is null
               and endpoint.disabled_at is null
               and not exists (
                   select
                   from jobs
                   where jobs.unique_key = 'notify:' || delivery.endpoint || ':' || delivery.tenant_id::text
                     and jobs.state in ('available', 'running')
               )
             limit $1",
        )
        .bind(SWEPT)
        .fetch_all(&mut *connection)
        .await?;
        for (endpoint, tenant) in &stranded {
            rouse(connection, endpoint, *tenant).await?;
        }
        Ok(i64::try_from(stranded.len()).unwrap_or(SWEPT))
    })
    .await
}

/// The line is looked at, at once.
pub(super) async fn rouse(tx: &mut PgConnection, endpoint: &str, tenant: Uuid) -> sqlx::Result<()> {
    sqlx::query("select rouse_delivery($1, $2, true)")
        .bind(endpoint)
        .bind(tenant)
        .execute(tx)
        .await?;
    Ok(())
}
