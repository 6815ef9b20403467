//! Organizations that no provider knows yet: somebody registered here, and the tenant cannot wait for a name.
//!
//! Guarantees: the id cannot be a provider's; the row goes when the provider's organization takes its place.

use serde_json::json;
use sqlx::{PgConnection, types::Json};
use uuid::Uuid;

use crate::webhooks::IdentityEvent;

/// Records an organization under an id of our own.
pub async fn insert_own_organization(
    tx: &mut PgConnection,
    (source, org_id): (&str, &str),
    name: &str,
) -> sqlx::Result<()> {
    sqlx::query(
        "insert into organizations (source, org_id, content, updated_at, digest)
         values ($1, $2, $3, now(), '')",
    )
    .bind(source)
    .bind(org_id)
    .bind(Json(json!({"name": name})))
    .execute(tx)
    .await?;
    Ok(())
}

/// Deletes an organization of our own that has no tenant any more.
pub async fn discard_own_organization(
    tx: &mut PgConnection,
    (source, org_id): (&str, &str),
) -> sqlx::Result<()> {
    sqlx::query(
        "delete from organizations
         where source = $1
           and org_id = $2
           and digest = ''",
    )
    .bind(source)
    .bind(org_id)
    .execute(tx)
    .await?;
    Ok(())
}

/// Whether an organization was deleted at the provider.
pub async fn is_deleted(
    connection: &mut PgConnection,
    (source, org_id): (&str, &str),
) -> sqlx::Result<bool> {
    sqlx::query_scalar(
        "select exists (
             select
             from organizations
             where source = $1
               and org_id = $2
               and deleted_at is not null
         )",
    )
    .bind(source)
    .bind(org_id)
    .fetch_one(connection)
    .await
}

/// The organization that the provider knows by the application's id, unless it was deleted.
pub async fn find_by_external_id(
    connection: &mut PgConnection,
    source: &str,
    external_id: &str,
) -> sqlx::Result<Option<String>> {
    sqlx::query_scalar(
        "select org_id
         from organizations
         where source = $1
           and external_id = $2
           and deleted_at is null
         order by recorded_at
         limit 1",
    )
    .bind(source)
    .bind(external_id)
    .fetch_optional(connection)
    .await
}

/// The id of an organization that no provider knows yet.
pub fn own_organization(registration: Uuid) -> String {
    format!("reg_{}", registration.simple())
}

/// Id of the organization that a provider's answer tells of.
pub fn organization_in(said: &[IdentityEvent]) -> Option<String> {
    said.iter().find_map(|event| match event {
        IdentityEvent::Organization(said) => Some(said.id.clone()),
        _ => None,
    })
}
