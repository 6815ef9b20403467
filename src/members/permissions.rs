//! What a role lets its members do: what the provider says, and what the blueprint adds.
//!
//! An organization's own role stands in front of the environment's role of the same slug.

use std::collections::BTreeMap;

use sqlx::{FromRow, PgConnection};

use super::Organization;

/// What is known of a role.
#[derive(Debug, Clone, Default, PartialEq, Eq, FromRow)]
pub struct Permissions {
    /// Whether the provider has said what the role may do: then nobody else speaks for the provider.
    pub is_described: bool,
    /// Slugs of the permissions, sorted.
    pub permissions: Vec<String>,
}

/// What a role lets its members do in an organization.
pub async fn permissions(
    connection: &mut PgConnection,
    of: Organization<'_>,
    role: &str,
) -> sqlx::Result<Permissions> {
    sqlx::query_as(
        "with described as (
             select role_id, jsonb_typeof(content -> 'permissions') = 'array' as tells_permissions
             from roles
             where source = $1
               and slug = $3
               and (org_id is null or org_id = $2)
               and not is_gone
               and deleted_at is null
             order by org_id nulls last, role_id
             limit 1
         )
         select exists (select from described where tells_permissions) as is_described,
                array(
                    select permission
                    from role_permissions
                    where source = $1
                      and role_id = (select role_id from described)
                    union
                    select permission
                    from blueprint_permissions
                    where role = $3
                    order by 1
                ) as permissions",
    )
    .bind(of.source)
    .bind(of.org_id)
    .bind(role)
    .fetch_one(connection)
    .await
}

/// The blueprint's permissions are these and no others.
pub async fn replace_blueprint_permissions(
    tx: &mut PgConnection,
    roles: &BTreeMap<String, Vec<String>>,
) -> sqlx::Result<()> {
    let pairs = roles.iter().flat_map(|(role, permissions)| {
        permissions
            .iter()
            .map(|permission| (role.as_str(), permission.as_str()))
    });
    let (named, permissions): (Vec<&str>, Vec<&str>) = pairs.unzip();
    // a start that changes nothing writes nothing: no other replica has to forget anything
    sqlx::query(
        "with wanted as (
             select distinct role, permission
             from unnest($1::text[], $2::text[]) as wanted (role, permission)
         ),
         dropped as (
             delete from blueprint_permissions
             where (role, permission) not in (select role, permission from wanted)
         )
         insert into blueprint_permissions (role, permission)
         select role, permission from wanted
         on conflict do nothing",
    )
    .bind(named)
    .bind(permissions)
    .execute(tx)
    .await?;
    Ok(())
}
