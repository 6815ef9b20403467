//! The statements that record a group of deliveries.
//!
//! Guarantees: one commit for the whole group; rows are inserted in the order of their ids, so that
//! two replicas that record the same events wait for each other and never deadlock.

use std::collections::{HashMap, HashSet};

use sqlx::{PgConnection, types::Json};

use super::{Disposition, NewEvent, Recorded};
use crate::queue::Job;

/// Records the events; the answers are in the order of `events`.
pub async fn record(
    connection: &mut PgConnection,
    events: &[NewEvent],
    max_attempts: i32,
) -> sqlx::Result<Vec<Recorded>> {
    let mut order: Vec<usize> = (0..events.len()).collect();
    order.sort_by_key(|&at| (&events[at].source, &events[at].event_id));
    let mut new = insert(connection, events, &order, max_attempts).await?;
    // of one event delivered twice in a group, the first is the new one
    let again: Vec<usize> = order
        .into_iter()
        .filter(|&at| !new.remove(&key(&events[at])))
        .collect();
    let mut answers = vec![Recorded::New; events.len()];
    if again.is_empty() {
        return Ok(answers);
    }
    let known = count_again(connection, events, &again).await?;
    for at in again {
        let event = &events[at];
        answers[at] = match known.get(&(key(event), event.body_sha256.to_vec())) {
            Some(recorded) => *recorded,
            None => keep_conflict(connection, event).await?,
        };
    }
    Ok(answers)
}

fn key(event: &NewEvent) -> Key {
    (event.source.clone(), event.event_id.clone())
}

type Key = (String, String);

/// Inserts what is new, with the jobs of what is to be processed; returns the keys of what was inserted.
async fn insert(
    connection: &mut PgConnection,
    events: &[NewEvent],
    order: &[usize],
    max_attempts: i32,
) -> sqlx::Result<HashSet<Key>> {
    let column =
        |of: fn(&NewEvent) -> &str| order.iter().map(|&at| of(&events[at])).collect::<Vec<_>>();
    let rows: Vec<Key> = sqlx::query_as(
        "with delivered as (
             select *
             from unnest($1::text[], $2::text[], $3::text[], $4::text[], $5::timestamptz[], $6::bytea[], $7::bytea[], $8::text[], $9::text[])
                 as delivery (source, event_id, event_type, organization_id, occurred_at, body, body_sha256, state, reason)
         ),
         recorded as (
             insert into webhook_events
                 (source, event_id, event_type, organization_id, occurred_at, body, body_sha256, state, reason, settled_at)
             select source, event_id, event_type, organization_id, occurred_at, body, body_sha256, state, reason,
                    case when state <> 'received' then now() end
             from delivered
             on conflict do nothing
             returning id, source, event_id, organization_id, state
         ),
         queued as (
             insert into jobs (kind, payload, concurrency_key, is_batched, max_attempts)
             select 'process_event', jsonb_set($10, '{event}', to_jsonb(id)), source || ':' || organization_id, true, $11
             from recorded
             where state = 'received'
             order by id
         )
         select source, event_id
         from recorded",
    )
    .bind(column(|event| &event.source))
    .bind(column(|event| &event.event_id))
    .bind(column(|event| &event.event_type))
    .bind(order.iter().map(|&at| events[at].organization_id.as_deref()).collect::<Vec<_>>())
    .bind(order.iter().map(|&at| events[at].occurred_at).collect::<Vec<_>>())
    .bind(order.iter().map(|&at| events[at].body.as_slice()).collect::<Vec<_>>())
    .bind(order.iter().map(|&at| events[at].body_sha256.as_slice()).collect::<Vec<_>>())
    .bind(column(|event| state(&event.disposition)))
    .bind(order.iter().map(|&at| reason(&events[at].disposition)).collect::<Vec<_>>())
    .bind(Json(Job::ProcessEvent { event: 0 }))
    .bind(max_attempts)
    .fetch_all(connection)
    .await?;
    Ok(rows.into_iter().collect())
}

const fn state(disposition: &Disposition) -> &'static str {
    match disposition {
        Disposition::Process => "received",
        Disposition::Ignore => "ignored",
        Disposition::Fail(_) => "failed",
    }
}

fn reason(disposition: &Disposition) -> Option<&str> {
    match disposition {
        Disposition::Process => None,
        Disposition::Ignore => Some("no meaning for tenantry"),
        Disposition::Fail(reason) => Some(reason),
    }
}

/// Counts deliveries of rows that are there; what is missing from the answer has a body not seen before.
async fn count_again(
    connection: &mut PgConnection,
    events: &[NewEvent],
    again: &[usize],
) -> sqlx::Result<HashMap<(Key, Vec<u8>), Recorded>> {
    let rows: Vec<(String, String, Vec<u8>, bool)> = sqlx::query_as(
        "with delivered as (
             select source, event_id, body_sha256, count(*) as times
             from unnest($1::text[], $2::text[], $3::bytea[]) as delivery (source, event_id, body_sha256)
             group by source, event_id, body_sha256
         ),
         locked as (
             select event.id, delivered.times
             from webhook_events event
             join delivered using (source, event_id, body_sha256)
             -- in one order for all replicas: never a deadlock
             order by event.id
             for update of event
         )
         update webhook_events event
         set deliveries = deliveries + locked.times,
             last_delivered_at = now()
         from locked
         where event.id = locked.id
         returning event.source, event.event_id, event.body_sha256, event.state = 'conflict'",
    )
    .bind(again.iter().map(|&at| events[at].source.as_str()).collect::<Vec<_>>())
    .bind(again.iter().map(|&at| events[at].event_id.as_str()).collect::<Vec<_>>())
    .bind(again.iter().map(|&at| events[at].body_sha256.as_slice()).collect::<Vec<_>>())
    .fetch_all(connection)
    .await?;
    let recorded = |conflict| {
        if conflict {
            Recorded::Conflict
        } else {
            Recorded::Duplicate
        }
    };
    Ok(rows
        .into_iter()
        .map(|(source, event_id, sha256, conflict)| {
            (((source, event_id), sha256), recorded(conflict))
        })
        .collect())
}

/// Keeps another body of a known id beside it; it is never processed.
async fn keep_conflict(connection: &mut PgConnection, event: &NewEvent) -> sqlx::Result<Recorded> {
    sqlx::query(
        "insert into webhook_events
             (source, event_id, event_type, organization_id, occurred_at, body, body_sha256, state, reason, settled_at)
         values ($1, $2, $3, $4, $5, $6, $7, 'conflict', 'this id was delivered before with another body', now())
         on conflict (source, event_id, body_sha256) where state = 'conflict' do update
         set deliveries = webhook_events.deliveries + 1,
             last_delivered_at = now()",
    )
    .bind(&event.source)
    .bind(&event.event_id)
    .bind(&event.event_type)
    .bind(&event.organization_id)
    .bind(event.occurred_at)
    .bind(&event.body)
    .bind(event.body_sha256.as_slice())
    .execute(connection)
    .await?;
    Ok(Recorded::Conflict)
}
