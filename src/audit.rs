//! Who does what is done in a transaction: triggers write it to `audit_log` with every change.
//!
//! Guarantees: no change of a tenant, member, role, invitation, credential or API key is without its
//! row, in the same transaction, because the tables themselves write it; rows are only ever added. A
//! transaction that names nobody is tenantry itself.

use chrono::{DateTime, Utc};
use serde::Serialize;
use sqlx::{FromRow, PgConnection};
use uuid::Uuid;

use crate::page::{self, Asked, Page};

/// Name of this list, in its cursors.
const LIST: &str = "audit";

/// Who does it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Actor {
    /// An end user, by the provider's id.
    User(String),
    /// Somebody at the command line, by the name of their account.
    Operator(String),
    /// Whoever holds an API key, by the key's id.
    Key(String),
}

impl Actor {
    const fn kind(&self) -> &'static str {
        match self {
            Self::User(_) => "user",
            Self::Operator(_) => "operator",
            Self::Key(_) => "key",
        }
    }

    /// The id or name, as it is kept beside what the actor did.
    pub fn name(&self) -> &str {
        match self {
            Self::User(name) | Self::Operator(name) | Self::Key(name) => name,
        }
    }
}

/// What follows in this transaction is done by events: by the one that a row names, else by this one.
/// `None`: by the provider, and no single event is to be named.
pub async fn by_event(tx: &mut PgConnection, event: Option<i64>) -> sqlx::Result<()> {
    match event {
        Some(event) => set(tx, ("event", ""), Some(event)).await,
        None => set(tx, ("system", "provider"), None).await,
    }
}

/// What follows in this transaction is done by `actor`.
pub async fn by(tx: &mut PgConnection, actor: &Actor) -> sqlx::Result<()> {
    set(tx, (actor.kind(), actor.name()), None).await
}

/// What follows in this transaction is done by `actor`, and belongs to this request.
pub async fn by_request(
    tx: &mut PgConnection,
    actor: &Actor,
    request_id: Uuid,
) -> sqlx::Result<()> {
    sqlx::query(
        "select set_config('tenantry.actor_kind', $1, true),
                set_config('tenantry.actor', $2, true),
                set_config('tenantry.event', '', true),
                set_config('tenantry.request_id', $3, true)",
    )
    .bind(actor.kind())
    .bind(actor.name())
    .bind(request_id.to_string())
    .execute(tx)
    .await?;
    Ok(())
}

async fn set(
    tx: &mut PgConnection,
    (kind, actor): (&str, &str),
    event: Option<i64>,
) -> sqlx::Result<()> {
    sqlx::query(
        "select set_config('tenantry.actor_kind', $1, true),
                set_config('tenantry.actor', $2, true),
                set_config('tenantry.event', $3, true)",
    )
    .bind(kind)
    .bind(actor)
    .bind(event.map(|event| event.to_string()).unwrap_or_default())
    .execute(tx)
    .await?;
    Ok(())
}

/// A row of the audit log.
#[derive(Debug, Clone, FromRow, Serialize, utoipa::ToSchema)]
#[schema(as = AuditEntry)]
pub struct Entry {
    /// Number, in the order of the changes.
    pub id: i64,
    /// When.
    pub at: DateTime<Utc>,
    /// `event`, `key`, `user`, `operator` or `system`.
    pub actor_kind: String,
    /// Which one.
    pub actor: Option<String>,
    /// Such as `membership.changed`.
    pub action: String,
    /// What kind of thing was changed.
    pub target_kind: String,
    /// Which one.
    pub target: String,
    /// Name of the source.
    pub source: Option<String>,
    /// The provider's organization id.
    pub org_id: Option<String>,
    /// What the changed fields were.
    pub before: Option<serde_json::Value>,
    /// What they are.
    pub after: Option<serde_json::Value>,
    /// The HTTP request in which it was done.
    pub request_id: Option<String>,
}

/// Something that an actor did and that no row shows, such as looking at a credential.
#[derive(Debug, Clone, Copy)]
pub struct Act<'a> {
    /// What was done, such as `credential.revealed`.
    pub action: &'static str,
    /// What kind of thing it was done to.
    pub target_kind: &'static str,
    /// To which one.
    pub target: &'a str,
    /// Source and organization that it is about.
    pub organization: Option<(&'a str, Option<&'a str>)>,
}

/// Writes down an act that changes no row of its own, by whom [`by`] or [`by_request`] named.
pub async fn note(tx: &mut PgConnection, act: Act<'_>) -> sqlx::Result<()> {
    insert(tx, act, None).await
}

/// The same, with what was done.
pub async fn note_with(
    tx: &mut PgConnection,
    act: Act<'_>,
    done: &serde_json::Value,
) -> sqlx::Result<()> {
    insert(tx, act, Some(done)).await
}

async fn insert(
    tx: &mut PgConnection,
    act: Act<'_>,
    done: Option<&serde_json::Value>,
) -> sqlx::Result<()> {
    sqlx::query(
        "insert into audit_log (actor_kind, actor, action, target_kind, target, source, org_id, after, request_id)
         values (
             coalesce(nullif(current_setting('tenantry.actor_kind', true), ''), 'system'),
             nullif(current_setting('tenantry.actor', true), ''),
             $1, $2, $3, $4, $5, $6,
             nullif(current_setting('tenantry.request_id', true), '')
         )",
    )
    .bind(act.action)
    .bind(act.target_kind)
    .bind(act.target)
    .bind(act.organization.map(|(source, _)| source))
    .bind(act.organization.and_then(|(_, org_id)| org_id))
    .bind(done)
    .execute(tx)
    .await?;
    Ok(())
}

/// Which entries to list.
#[derive(Debug, Clone, Default)]
pub struct Filter {
    /// Only what happened to this organization.
    pub org_id: Option<String>,
    /// Only what this event, key, user or operator did.
    pub actor: Option<String>,
    /// Only this action, such as `membership.changed`.
    pub action: Option<String>,
    /// Only what was done to this kind of thing.
    pub target_kind: Option<String>,
    /// Only what was done to this one.
    pub target: Option<String>,
}

/// A page of entries, the newest first.
pub async fn list_page(
    connection: &mut PgConnection,
    filter: &Filter,
    asked: &Asked,
) -> Result<Page<Entry>, page::Error> {
    let after: Option<i64> = asked.after(LIST)?;
    let rows = sqlx::query_as(
        "select id, at, actor_kind, actor, action, target_kind, target, source, org_id, before, after, request_id
         from audit_log
         where ($1::text is null or org_id = $1)
           and ($2::text is null or actor = $2)
           and ($3::text is null or action = $3)
           and ($4::text is null or target_kind = $4)
           and ($5::text is null or target = $5)
           and ($6::bigint is null or id < $6)
         order by id desc
         limit $7",
    )
    .bind(&filter.org_id)
    .bind(&filter.actor)
    .bind(&filter.action)
    .bind(&filter.target_kind)
    .bind(&filter.target)
    .bind(after)
    .bind(asked.fetch_limit())
    .fetch_all(connection)
    .await?;
    Ok(asked.page(LIST, rows, |entry: &Entry| entry.id))
}
