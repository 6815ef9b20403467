//! What the provider said of its organizations.
//!
//! Guarantees: the newest description wins by the provider's own `updated_at`, whatever order the
//! events come in; a deletion leaves a tombstone, also of an organization never seen before, and
//! nothing undoes it.

use chrono::{DateTime, Utc};
use sqlx::{PgConnection, types::Json};

/// What is kept of an organization.
#[derive(Debug)]
pub struct Description<'a> {
    /// Name of the source.
    pub source: &'a str,
    /// The provider's id.
    pub org_id: &'a str,
    /// Name; may be empty.
    pub name: &'a str,
    /// The application's own id, where the provider knows it.
    pub external_id: Option<&'a str>,
    /// The provider's metadata.
    pub metadata: &'a serde_json::Value,
    /// The provider's time of this description.
    pub updated_at: DateTime<Utc>,
}

/// What an upsert made of the organization.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Upserted {
    /// This description is the newest.
    Newest,
    /// A newer or equal one was there.
    Stale,
    /// The organization is deleted, whichever description is the newest.
    Deleted,
}

/// Records a description unless a newer one is there.
pub async fn upsert(tx: &mut PgConnection, new: &Description<'_>) -> sqlx::Result<Upserted> {
    let deleted: Option<bool> = sqlx::query_scalar(
        "insert into organizations (source, org_id, name, external_id, metadata, updated_at)
         values ($1, $2, $3, $4, $5, $6)
         on conflict (source, org_id) do update
         set name = excluded.name,
             external_id = excluded.external_id,
             metadata = excluded.metadata,
             updated_at = excluded.updated_at,
             recorded_at = now()
         -- of two descriptions of the same moment the greater one wins, so that order does not matter;
         -- for the same reason it counts beside a tombstone as well
         where (organizations.updated_at, organizations.name, coalesce(organizations.external_id, ''), organizations.metadata::text)
               < (excluded.updated_at, excluded.name, coalesce(excluded.external_id, ''), excluded.metadata::text)
         returning deleted_at is not null",
    )
    .bind(new.source)
    .bind(new.org_id)
    .bind(new.name)
    .bind(new.external_id)
    .bind(Json(new.metadata))
    .bind(new.updated_at)
    .fetch_optional(&mut *tx)
    .await?;
    let deleted = match deleted {
        Some(false) => return Ok(Upserted::Newest),
        Some(true) => true,
        None => is_deleted(tx, new.source, new.org_id).await?,
    };
    Ok(if deleted {
        Upserted::Deleted
    } else {
        Upserted::Stale
    })
}

async fn is_deleted(tx: &mut PgConnection, source: &str, org_id: &str) -> sqlx::Result<bool> {
    sqlx::query_scalar(
        "select deleted_at is not null
         from organizations
         where source = $1
           and org_id = $2",
    )
    .bind(source)
    .bind(org_id)
    .fetch_one(tx)
    .await
}

/// Leaves the tombstone; the description of the deletion counts like any other.
pub async fn delete(
    tx: &mut PgConnection,
    last: &Description<'_>,
    deleted_at: DateTime<Utc>,
) -> sqlx::Result<()> {
    upsert(tx, last).await?;
    sqlx::query(
        "update organizations
         -- the earliest deletion counts, in whatever order they come
         set deleted_at = least(deleted_at, $3)
         where source = $1
           and org_id = $2",
    )
    .bind(last.source)
    .bind(last.org_id)
    .bind(deleted_at)
    .execute(tx)
    .await?;
    Ok(())
}

/// The organization's full name; the tenant's row has only 255 characters.
pub async fn find_name(
    connection: &mut PgConnection,
    source: &str,
    org_id: &str,
) -> sqlx::Result<Option<String>> {
    sqlx::query_scalar("select name from organizations where source = $1 and org_id = $2")
        .bind(source)
        .bind(org_id)
        .fetch_optional(connection)
        .await
}
