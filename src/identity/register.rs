//! Registers: one row per object, joined from everything that was said of it.
//!
//! Guarantees: the join takes the newest description by `(updated_at, digest)` and the earliest
//! deletion; [`join`] in memory and [`write`] in SQL are the same join, so that it makes no
//! difference how events are cut into batches. Rows are written in one order everywhere.

use std::collections::{BTreeMap, BTreeSet};

use chrono::{DateTime, Utc};
use serde::Serialize;
use sqlx::{PgConnection, types::Json};

use super::Heard;
use crate::webhooks::{IdentityEvent, Said};

/// A table of registers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Table {
    Organizations,
    Domains,
    Users,
    Memberships,
    Invitations,
    Roles,
    Permissions,
    DirectoryUsers,
    DirectoryGroups,
    GroupMembers,
}

/// Which row.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Key {
    pub(super) table: Table,
    pub(super) source: String,
    pub(super) id: String,
}

/// What a row is to be joined with.
#[derive(Debug, Clone, Serialize)]
pub(super) struct Row {
    source: String,
    id: String,
    pub(super) content: Option<serde_json::Value>,
    pub(super) updated_at: Option<DateTime<Utc>>,
    digest: Option<String>,
    deleted_at: Option<DateTime<Utc>>,
    event: Option<i64>,
}

impl Row {
    fn new<T: Serialize>(heard: &Heard, said: &Said<T>) -> Self {
        let described = said.described.as_ref();
        let content = described.map(|described| serde_json::json!(described.content));
        Self {
            source: heard.source.clone(),
            id: said.id.clone(),
            digest: content.as_ref().map(digest),
            updated_at: described.map(|described| described.updated_at),
            content,
            deleted_at: said.deleted_at,
            event: heard.event,
        }
    }

    fn join(&mut self, other: Self) {
        if (other.updated_at, &other.digest) > (self.updated_at, &self.digest) {
            self.content = other.content;
            self.updated_at = other.updated_at;
            self.digest = other.digest;
            self.event = other.event;
        }
        if let Some(deleted_at) = other.deleted_at
            && self.deleted_at.is_none_or(|known| deleted_at < known)
        {
            self.deleted_at = Some(deleted_at);
            self.event = other.event;
        }
    }
}

/// Half of a SHA-256, in hex: any order of contents would do, as long as it is the same everywhere.
fn digest(content: &serde_json::Value) -> String {
    let mut hash = hex::encode(crate::secrets::sha256(content.to_string().as_bytes()));
    hash.truncate(32);
    hash
}

fn row(heard: &Heard, event: &IdentityEvent) -> (Table, Row) {
    match event {
        IdentityEvent::Organization(said) => (Table::Organizations, Row::new(heard, said)),
        IdentityEvent::Domain(said) => (Table::Domains, Row::new(heard, said)),
        IdentityEvent::User(said) => (Table::Users, Row::new(heard, said)),
        IdentityEvent::Membership(said) => (Table::Memberships, Row::new(heard, said)),
        IdentityEvent::Invitation(said) => (Table::Invitations, Row::new(heard, said)),
        IdentityEvent::Role(said) => (Table::Roles, Row::new(heard, said)),
        IdentityEvent::Permission(said) => (Table::Permissions, Row::new(heard, said)),
        IdentityEvent::DirectoryUser(said) => (Table::DirectoryUsers, Row::new(heard, said)),
        IdentityEvent::DirectoryGroup(said) => (Table::DirectoryGroups, Row::new(heard, said)),
        IdentityEvent::GroupMember(said) => (Table::GroupMembers, Row::new(heard, said)),
    }
}

/// The rows that something is about.
pub(super) fn keys(heard: &Heard) -> impl Iterator<Item = Key> {
    heard.said.iter().map(|event| key(&row(heard, event)))
}

fn key((table, row): &(Table, Row)) -> Key {
    Key {
        table: *table,
        source: row.source.clone(),
        id: row.id.clone(),
    }
}

/// One row per object, in the order in which all of us write.
pub(super) fn join(heard: &[Heard]) -> BTreeMap<Key, Row> {
    let mut rows: BTreeMap<Key, Row> = BTreeMap::new();
    for heard in heard {
        for event in &heard.said {
            let new = row(heard, event);
            match rows.entry(key(&new)) {
                std::collections::btree_map::Entry::Occupied(mut known) => {
                    known.get_mut().join(new.1);
                }
                std::collections::btree_map::Entry::Vacant(free) => {
                    free.insert(new.1);
                }
            }
        }
    }
    rows
}

/// Writes the rows; returns those that changed.
pub(super) async fn write(
    tx: &mut PgConnection,
    rows: &BTreeMap<Key, Row>,
) -> sqlx::Result<BTreeSet<Key>> {
    let mut by_table: BTreeMap<Table, Vec<&Row>> = BTreeMap::new();
    for (key, row) in rows {
        by_table.entry(key.table).or_default().push(row);
    }
    let mut changed = BTreeSet::new();
    for (table, rows) in by_table {
        let written: Vec<(String, String)> = sqlx::query_as(table.upsert())
            .bind(Json(rows))
            .fetch_all(&mut *tx)
            .await?;
        changed.extend(
            written
                .into_iter()
                .map(|(source, id)| Key { table, source, id }),
        );
    }
    Ok(changed)
}

/// The join in SQL; a macro because statements are literals.
macro_rules! upsert {
    ($table:literal, $key:literal) => {
        concat!(
            "insert into ", $table, " as known (source, ", $key, ", content, updated_at, digest, deleted_at, event)
             select source, id, content, updated_at, digest, deleted_at, event
             from jsonb_to_recordset($1) as said
                 (source text, id text, content jsonb, updated_at timestamptz, digest text, deleted_at timestamptz, event bigint)
             on conflict (source, ", $key, ") do update
             set (content, updated_at, digest) = (
                     select newest.content, newest.updated_at, newest.digest
                     from (values
                         (known.content, known.updated_at, known.digest),
                         (excluded.content, excluded.updated_at, excluded.digest)
                     ) as newest (content, updated_at, digest)
                     order by newest.updated_at desc nulls last, newest.digest desc nulls last
                     limit 1
                 ),
                 deleted_at = least(known.deleted_at, excluded.deleted_at),
                 event = excluded.event,
                 recorded_at = now()
             where (excluded.updated_at, excluded.digest collate \"C\")
                       > (coalesce(known.updated_at, '-infinity'), coalesce(known.digest, ''))
                or excluded.deleted_at < coalesce(known.deleted_at, 'infinity')
             returning source, ", $key
        )
    };
}

impl Table {
    const fn upsert(self) -> &'static str {
        match self {
            Self::Organizations => upsert!("organizations", "org_id"),
            Self::Domains => upsert!("organization_domains", "domain_id"),
            Self::Users => upsert!("users", "user_id"),
            Self::Memberships => upsert!("memberships", "membership_id"),
            Self::Invitations => upsert!("invitations", "invitation_id"),
            Self::Roles => upsert!("roles", "role_id"),
            Self::Permissions => upsert!("permissions", "permission_id"),
            Self::DirectoryUsers => upsert!("directory_users", "directory_user_id"),
            Self::DirectoryGroups => upsert!("directory_groups", "directory_group_id"),
            Self::GroupMembers => upsert!("directory_group_members", "group_member_id"),
        }
    }
}
