//! What becomes of recorded events.
//!
//! Guarantees: an event leaves `received` once, unless it is replayed; one that waits is settled when the last object that
//! it waits for comes, also if it had failed for want of it.

use sqlx::{FromRow, PgConnection};

use super::EventState;

/// The state in which an event is left.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum State {
    /// Its meaning was carried out.
    Processed,
    /// Recorded, but incomplete until what it names is described.
    Waiting,
}

/// How an event is settled.
#[derive(Debug, Clone)]
pub struct Settled {
    /// Our number of the event.
    pub event: i64,
    /// How it is left.
    pub state: State,
    /// What was not done and why.
    pub note: Option<&'static str>,
    /// What it waits for, such as `user:user_1`.
    pub waiting_for: Vec<String>,
}

/// Settles events.
pub async fn settle(tx: &mut PgConnection, settled: &[Settled]) -> sqlx::Result<()> {
    let state = |settled: &Settled| match settled.state {
        State::Processed => "processed",
        State::Waiting => "waiting",
    };
    // an array of arrays must be a rectangle: what an event waits for travels as one text
    let waiting_for = |settled: &Settled| {
        (settled.state == State::Waiting)
            .then(|| serde_json::json!(settled.waiting_for).to_string())
    };
    sqlx::query(
        "update webhook_events
         set state = settled.state,
             reason = settled.note,
             waiting_for = case when settled.waiting_for is not null then
                 array(select jsonb_array_elements_text(settled.waiting_for::jsonb))
             end,
             settled_at = case when settled.state <> 'waiting' then now() end
         from unnest($1::bigint[], $2::text[], $3::text[], $4::text[]) as settled (id, state, note, waiting_for)
         where webhook_events.id = settled.id
           and webhook_events.state = 'received'",
    )
    .bind(settled.iter().map(|settled| settled.event).collect::<Vec<_>>())
    .bind(settled.iter().map(state).collect::<Vec<_>>())
    .bind(settled.iter().map(|settled| settled.note).collect::<Vec<_>>())
    .bind(settled.iter().map(waiting_for).collect::<Vec<_>>())
    .execute(tx)
    .await?;
    Ok(())
}

/// The event cannot be processed: a dead letter.
pub async fn mark_failed(tx: &mut PgConnection, id: i64, reason: &str) -> sqlx::Result<()> {
    sqlx::query(
        "update webhook_events
         set state = 'failed',
             reason = $2,
             settled_at = now()
         where id = $1
           and state = 'received'",
    )
    .bind(id)
    .bind(reason)
    .execute(tx)
    .await?;
    Ok(())
}

/// An event under its lock.
#[derive(Debug, Clone, Copy, PartialEq, Eq, FromRow)]
pub struct Locked {
    /// What became of it.
    pub state: EventState,
    /// Whether its body is still kept.
    pub has_body: bool,
}

/// An event as it is now, and stays until the transaction ends.
pub async fn lock_event(tx: &mut PgConnection, id: i64) -> sqlx::Result<Option<Locked>> {
    sqlx::query_as(
        "select state, body is not null as has_body
         from webhook_events
         where id = $1
         for update",
    )
    .bind(id)
    .fetch_optional(tx)
    .await
}

/// A settled event is as if it had just been received; false when it is not settled, in conflict, or without its body.
pub async fn mark_received(tx: &mut PgConnection, id: i64) -> sqlx::Result<bool> {
    let marked = sqlx::query(
        "update webhook_events
         set state = 'received',
             reason = null,
             waiting_for = null,
             settled_at = null
         where id = $1
           and body is not null
           and state in ('processed', 'ignored', 'failed')",
    );
    Ok(marked.bind(id).execute(tx).await?.rows_affected() == 1)
}

/// These objects of `sources` are there now: whoever waited for the last of them is settled.
pub async fn settle_waiting(
    tx: &mut PgConnection,
    sources: &[&str],
    parents: &[String],
) -> sqlx::Result<u64> {
    let settled = sqlx::query(
        "with come as (
             select source, parent
             from unnest($1::text[], $2::text[]) as come (source, parent)
         ),
         still as (
             select event.id,
                    array(
                        select parent
                        from unnest(event.waiting_for) as parent
                        where (event.source, parent) not in (select source, parent from come)
                    ) as waiting_for
             from webhook_events event
             where event.waiting_for && $2
               and event.source = any($1)
             order by event.id
             for update
         )
         update webhook_events event
         set waiting_for = nullif(still.waiting_for, '{}'),
             state = case when still.waiting_for = '{}' then 'processed' else event.state end,
             reason = case when still.waiting_for = '{}' then null else event.reason end,
             settled_at = case when still.waiting_for = '{}' then now() else event.settled_at end
         from still
         where event.id = still.id
           and event.waiting_for <> still.waiting_for",
    )
    .bind(sources)
    .bind(parents)
    .execute(tx)
    .await?;
    Ok(settled.rows_affected())
}

/// Nobody knows the object: the events that wait for it are dead letters, with the reason.
pub async fn fail_waiting(
    tx: &mut PgConnection,
    source: &str,
    parent: &str,
    reason: &str,
) -> sqlx::Result<u64> {
    let failed = sqlx::query(
        "update webhook_events
         set state = 'failed',
             reason = $3,
             settled_at = now()
         where waiting_for @> array[$2]
           and source = $1
           and state = 'waiting'",
    )
    .bind(source)
    .bind(parent)
    .bind(reason)
    .execute(tx)
    .await?;
    Ok(failed.rows_affected())
}
