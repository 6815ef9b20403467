//! Old notifications go.
//!
//! Guarantees: only what no endpoint is still to be told goes, with its attempts; nobody waits.

use std::time::Duration;

use sqlx::PgConnection;

/// The notifications meant; a macro because statements are literals.
macro_rules! old {
    ($select:literal, $rest:literal) => {
        concat!(
            $select,
            " from notifications
              where created_at < now() - make_interval(secs => $1)
                and not exists (
                    select
                    from notification_deliveries
                    where notification_deliveries.number = notifications.number
                      and state = 'pending'
                ) ",
            $rest
        )
    };
}

/// How many would go.
pub async fn count_old(connection: &mut PgConnection, age: Duration) -> sqlx::Result<i64> {
    sqlx::query_scalar(old!("select count(*)", ""))
        .bind(age.as_secs_f64())
        .fetch_one(connection)
        .await
}

/// Deletes at most `limit` of them, the oldest first; returns how many.
pub async fn prune(connection: &mut PgConnection, age: Duration, limit: i64) -> sqlx::Result<u64> {
    let deleted = sqlx::query(concat!(
        "with old as (",
        old!(
            "select number",
            "order by created_at
             limit $2
             -- a replay, or another one that prunes, has it
             for update skip locked"
        ),
        ")
         delete from notifications
         -- an array, as a join may read all of a table that is not large yet
         where number = any (array(select number from old))"
    ));
    let deleted = deleted.bind(age.as_secs_f64()).bind(limit);
    Ok(deleted.execute(connection).await?.rows_affected())
}
