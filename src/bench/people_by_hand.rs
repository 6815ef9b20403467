//! What events say of people, written by hand: the newest description of each object, and no question asked.
//!
//! The same rows as the registers get, with the same indexes and triggers, in transactions of as many
//! events. Without: taking the jobs, reading the bodies, looking for what an event waits for, tenants.

use std::collections::{BTreeMap, HashMap};

use chrono::{DateTime, Utc};
use serde::Serialize;
use serde_json::Value;
use sqlx::{AssertSqlSafe, PgConnection, types::Json};

use super::{
    Error,
    sender::Event,
    server::{Server, execute},
};
use crate::{
    secrets,
    webhooks::{self, IdentityEvent, Mapping, Meaning, Said, SourceKind},
};

/// Events in one transaction.
const BATCH: usize = 256;

/// Each table and its key.
const TABLES: [(&str, &str); 4] = [
    ("users", "user_id"),
    ("memberships", "membership_id"),
    ("invitations", "invitation_id"),
    ("roles", "role_id"),
];

/// Somebody at an open connection who has read every event.
pub(super) struct Hand {
    connection: PgConnection,
    batches: Vec<Batch>,
}

#[derive(Default)]
struct Batch {
    jobs: Vec<i64>,
    events: Vec<i64>,
    /// By table and id.
    rows: BTreeMap<(usize, String), Row>,
}

struct Row {
    content: Json<Value>,
    updated_at: DateTime<Utc>,
    digest: String,
    event: i64,
}

impl Hand {
    pub(super) async fn new(server: &Server, events: &[Event]) -> Result<Self, Error> {
        let mut connection = server.control().await?;
        let waiting: Vec<(i64, i64, String)> = sqlx::query_as(
            "select job.id, event.id, event.event_id
             from jobs job
             join webhook_events event on event.id = (job.payload ->> 'event')::bigint
             order by job.id",
        )
        .fetch_all(&mut connection)
        .await
        .map_err(Error::sql("listing what waits"))?;
        let by_id: HashMap<&str, &Event> = events.iter().map(|event| (&*event.id, event)).collect();
        let batch = |waiting: &[(i64, i64, String)]| {
            let mut batch = Batch::default();
            for (job, event, event_id) in waiting {
                batch.jobs.push(*job);
                batch.events.push(*event);
                if let Some((key, row)) = by_id.get(&**event_id).and_then(|it| read(*event, it)) {
                    let is_news = |known: &Row| known.updated_at < row.updated_at;
                    if batch.rows.get(&key).is_none_or(is_news) {
                        batch.rows.insert(key, row);
                    }
                }
            }
            batch
        };
        Ok(Self {
            batches: waiting.chunks(BATCH).map(batch).collect(),
            connection,
        })
    }

    /// Writes everything.
    pub(super) async fn process(&mut self) -> Result<(), Error> {
        for batch in &self.batches {
            let begin = "begin; select set_config('tenantry.actor_kind', 'event', true)";
            execute(&mut self.connection, begin.to_owned()).await?;
            for (table, names) in TABLES.iter().enumerate() {
                upsert(&mut self.connection, *names, batch.rows_of(table)).await?;
            }
            mark(&mut self.connection, batch).await?;
            execute(&mut self.connection, "commit".to_owned()).await?;
        }
        Ok(())
    }
}

impl Batch {
    fn rows_of(&self, table: usize) -> impl Iterator<Item = (&str, &Row)> {
        let rows = self.rows.iter().filter(move |((of, _), _)| *of == table);
        rows.map(|((_, id), row)| (id.as_str(), row))
    }
}

fn read(number: i64, event: &Event) -> Option<((usize, String), Row)> {
    let reading = webhooks::read(SourceKind::Workos, &Mapping::default(), &event.body);
    let Meaning::Events(mut said) = reading.meaning else {
        return None;
    };
    let (table, (id, content, updated_at)) = match said.pop()? {
        IdentityEvent::User(said) => (0, newest(said)?),
        IdentityEvent::Membership(said) => (1, newest(said)?),
        IdentityEvent::Invitation(said) => (2, newest(said)?),
        IdentityEvent::Role(said) => (3, newest(said)?),
        _ => return None,
    };
    let mut digest = hex::encode(secrets::sha256(content.to_string().as_bytes()));
    digest.truncate(32);
    let row = Row {
        content: Json(content),
        updated_at,
        digest,
        event: number,
    };
    Some(((table, id), row))
}

fn newest<T: Serialize>(said: Said<T>) -> Option<(String, Value, DateTime<Utc>)> {
    let described = said.described?;
    let content = serde_json::json!(described.content);
    Some((said.id, content, described.updated_at))
}

async fn upsert(
    connection: &mut PgConnection,
    (table, key): (&str, &str),
    rows: impl Iterator<Item = (&str, &Row)>,
) -> Result<(), Error> {
    let (ids, rows): (Vec<&str>, Vec<&Row>) = rows.unzip();
    if ids.is_empty() {
        return Ok(());
    }
    // what invitations have beside a description
    let (columns, values, set) = if table == "invitations" {
        (
            ", role, role_at",
            ", content ->> 'role', updated_at",
            ", role = excluded.role, role_at = excluded.role_at",
        )
    } else {
        ("", "", "")
    };
    let sql = format!(
        "insert into {table} as known (source, {key}, content, updated_at, digest, event{columns})
         select 'workos', id, content, updated_at, digest, event{values}
         from unnest($1::text[], $2::jsonb[], $3::timestamptz[], $4::text[], $5::bigint[])
             as said (id, content, updated_at, digest, event)
         on conflict (source, {key}) do update
         set content = excluded.content,
             updated_at = excluded.updated_at,
             digest = excluded.digest,
             event = excluded.event,
             recorded_at = now(){set}
         where excluded.updated_at > known.updated_at"
    );
    sqlx::query(AssertSqlSafe(sql))
        .bind(ids)
        .bind(rows.iter().map(|row| &row.content).collect::<Vec<_>>())
        .bind(rows.iter().map(|row| row.updated_at).collect::<Vec<_>>())
        .bind(rows.iter().map(|row| &*row.digest).collect::<Vec<_>>())
        .bind(rows.iter().map(|row| row.event).collect::<Vec<_>>())
        .execute(connection)
        .await
        .map(|_| ())
        .map_err(Error::sql("writing people by hand"))
}

/// The events are processed and the jobs completed.
async fn mark(connection: &mut PgConnection, batch: &Batch) -> Result<(), Error> {
    let doing = "completing jobs by hand";
    sqlx::query(
        "update webhook_events
         set state = 'processed',
             settled_at = now()
         where id = any($1)",
    )
    .bind(&batch.events)
    .execute(&mut *connection)
    .await
    .map_err(Error::sql(doing))?;
    sqlx::query(
        "with done as (
             update jobs
             set state = 'completed',
                 attempt = attempt + 1,
                 finished_at = now()
             where id = any($1)
             returning id, attempt
         )
         insert into job_attempts (job_id, attempt, worker, finished_at, outcome)
         select id, attempt, 'by hand', now(), 'completed'
         from done",
    )
    .bind(&batch.jobs)
    .execute(connection)
    .await
    .map(|_| ())
    .map_err(Error::sql(doing))
}
