//! Which tenants of the fleet are meant.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use sqlx::{PgConnection, types::Json};
use utoipa::openapi::Object;

use super::{Tenant, TenantId, TenantState, labels};

/// Which tenants are meant; every one where it says nothing.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Selection {
    /// Labels that a tenant has, all of them.
    #[schema(schema_with = labels_schema)]
    pub labels: BTreeMap<String, String>,
    /// Only these tenants; empty for any.
    #[schema(value_type = Vec<uuid::Uuid>)]
    pub tenants: Vec<TenantId>,
}

fn labels_schema() -> Object {
    let mut schema = labels::schema("Labels that a tenant has, all of them.");
    schema.default = Some(serde_json::json!({}));
    schema
}

/// Every selected tenant in one of these states that has a database which was complete once, in the
/// order in which they were made.
pub async fn list_selected(
    connection: &mut PgConnection,
    selection: &Selection,
    states: &[TenantState],
) -> sqlx::Result<Vec<Tenant>> {
    let states: Vec<&str> = states.iter().map(|state| state.name()).collect();
    sqlx::query_as(select_tenant!(
        "where state = any($1)
           and initialize
           and cluster is not null
           and labels @> $2
           and (cardinality($3::uuid[]) = 0 or id = any($3))
         order by created_at, id"
    ))
    .bind(states)
    .bind(Json(&selection.labels))
    .bind(selection.tenants.as_slice())
    .fetch_all(connection)
    .await
}
