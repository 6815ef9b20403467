//! What invitations have beyond a register: those asked for here, and roles that outlive a description.

use std::collections::{BTreeMap, BTreeSet};

use chrono::{DateTime, Utc};
use serde::Serialize;
use sqlx::{PgConnection, types::Json};

use super::{
    Heard,
    register::{Key, Row, Table},
};
use crate::webhooks::IdentityEvent;

/// An invitation that was asked for here becomes the provider's own, whether its event or the answer to our request comes first.
pub(super) async fn adopt_requested(
    tx: &mut PgConnection,
    rows: &BTreeMap<Key, Row>,
) -> sqlx::Result<()> {
    let said: Vec<&Row> = rows
        .iter()
        .filter(|(key, row)| key.table == Table::Invitations && row.content.is_some())
        .map(|(_, row)| row)
        .collect();
    if said.is_empty() {
        return Ok(());
    }
    sqlx::query(
        "update invitations
         set invitation_id = said.id
         from jsonb_to_recordset($1) as said (source text, id text, content jsonb)
         where invitations.id = (
                   select asked.id
                   from invitations asked
                   where asked.source = said.source
                     and asked.invitation_id is null
                     and asked.revoke_requested_at is null
                     and asked.failure is null
                     and asked.org_id = said.content ->> 'organization_id'
                     and lower(asked.email) = lower(said.content ->> 'email')
                   order by asked.requested_at, asked.id
                   limit 1
               )
           and said.content ->> 'state' in ('pending', 'accepted')
           and not exists (
               select
               from invitations known
               where known.source = said.source
                 and known.invitation_id = said.id
           )",
    )
    .bind(Json(said))
    .execute(tx)
    .await?;
    Ok(())
}

#[derive(Serialize)]
struct ToldRole<'a> {
    source: &'a str,
    id: &'a str,
    role: &'a str,
    role_at: DateTime<Utc>,
    event: Option<i64>,
}

/// When which role was told, and by which event.
type Told<'a> = (DateTime<Utc>, &'a str, Option<i64>);

/// The newest role that any description tells: an acceptance may leave it out.
///
/// Returns the invitations whose role that changed.
pub(super) async fn tell_roles(
    tx: &mut PgConnection,
    heard: &[Heard],
) -> sqlx::Result<BTreeSet<Key>> {
    let mut told: BTreeMap<(&str, &str), Told<'_>> = BTreeMap::new();
    for heard in heard {
        for event in &heard.said {
            if let IdentityEvent::Invitation(said) = event
                && let Some(described) = &said.described
                && let Some(role) = &described.content.role
            {
                let new = (described.updated_at, role.as_str(), heard.event);
                let known = told.entry((&heard.source, &said.id)).or_insert(new);
                *known = new.max(*known);
            }
        }
    }
    if told.is_empty() {
        return Ok(BTreeSet::new());
    }
    let roles = told
        .iter()
        .map(|((source, id), (role_at, role, event))| ToldRole {
            source,
            id,
            role,
            role_at: *role_at,
            event: *event,
        });
    let changed: Vec<(String, String)> = sqlx::query_as(
        "update invitations
         set role = told.role,
             role_at = told.role_at,
             event = told.event
         from jsonb_to_recordset($1) as told
             (source text, id text, role text, role_at timestamptz, event bigint)
         where invitations.source = told.source
           and invitations.invitation_id = told.id
           and (told.role_at, told.role collate \"C\")
               > (coalesce(invitations.role_at, '-infinity'), coalesce(invitations.role, ''))
         returning invitations.source, invitations.invitation_id",
    )
    .bind(Json(roles.collect::<Vec<_>>()))
    .fetch_all(tx)
    .await?;
    let table = Table::Invitations;
    let key = |(source, id)| Key { table, source, id };
    Ok(changed.into_iter().map(key).collect())
}
