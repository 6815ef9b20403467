//! Bodies of old events are emptied.
//!
//! Guarantees: only what is settled loses its body; the row stays, with the digest by which a duplicate
//! and a conflict are known. Nobody waits: what somebody else has locked is left to the next time.

use std::time::Duration;

use sqlx::PgConnection;

/// The events meant, in the words of `webhook_events_with_body`; a macro because statements are literals.
macro_rules! with_old_bodies {
    ($select:literal, $rest:literal) => {
        concat!(
            $select,
            " from webhook_events
              where body is not null
                and state in ('processed', 'ignored', 'conflict')
                and settled_at < now() - make_interval(secs => $1) ",
            $rest
        )
    };
}

/// How many events were settled longer than `age` ago and have their body.
pub async fn count_old_bodies(connection: &mut PgConnection, age: Duration) -> sqlx::Result<i64> {
    sqlx::query_scalar(with_old_bodies!("select count(*)", ""))
        .bind(age.as_secs_f64())
        .fetch_one(connection)
        .await
}

/// Empties the bodies of at most `limit` of them, the oldest first; returns of how many.
pub async fn prune_bodies(
    connection: &mut PgConnection,
    age: Duration,
    limit: i64,
) -> sqlx::Result<u64> {
    let pruned = sqlx::query(concat!(
        "with old as (",
        with_old_bodies!(
            "select id",
            "order by settled_at
             limit $2
             -- a delivery, a replay or another one that prunes has it
             for update skip locked"
        ),
        ")
         update webhook_events
         set body = null
         -- an array, as a join may read all of a table that is not large yet
         where id = any (array(select id from old))"
    ));
    let pruned = pruned
        .bind(age.as_secs_f64())
        .bind(limit)
        .execute(connection)
        .await?;
    Ok(pruned.rows_affected())
}
