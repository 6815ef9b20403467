//! Jobs that ended long ago are deleted, with their attempts.
//!
//! Guarantees: only what has ended goes, never what is available or running; nobody waits: a job that
//! somebody else has locked is left to the next time.

use std::time::Duration;

use sqlx::PgConnection;

/// Jobs in these states, in words of the index on them; a macro because statements are literals.
macro_rules! old_jobs {
    ($select:literal, $in_states:literal, $rest:literal) => {
        concat!(
            $select,
            " from jobs where state ",
            $in_states,
            " and finished_at < now() - make_interval(secs => $1) ",
            $rest
        )
    };
}

/// Deletes at most `$2` of them; their attempts go by their foreign key.
macro_rules! delete_old_jobs {
    ($in_states:literal, $order:literal) => {
        concat!(
            "with old as (",
            old_jobs!("select id", $in_states, $order),
            " limit $2
              -- an operator or another one that prunes has it
              for update skip locked
             )
             delete from jobs
             -- an array, as a join may read all of a table that is not large yet
             where id = any (array(select id from old))"
        )
    };
}

/// How many jobs were completed or cancelled longer than `age` ago.
pub async fn count_old(connection: &mut PgConnection, age: Duration) -> sqlx::Result<i64> {
    let old = old_jobs!("select count(*)", "in ('completed', 'cancelled')", "");
    let count = sqlx::query_scalar(old).bind(age.as_secs_f64());
    count.fetch_one(connection).await
}

/// Deletes at most `limit` of them, the oldest first; returns how many.
pub async fn prune(connection: &mut PgConnection, age: Duration, limit: i64) -> sqlx::Result<u64> {
    let delete = delete_old_jobs!("in ('completed', 'cancelled')", "order by finished_at");
    let delete = sqlx::query(delete).bind(age.as_secs_f64()).bind(limit);
    Ok(delete.execute(connection).await?.rows_affected())
}

/// How many jobs died longer than `age` ago.
pub async fn count_old_dead(connection: &mut PgConnection, age: Duration) -> sqlx::Result<i64> {
    let old = old_jobs!("select count(*)", "= 'dead'", "");
    let count = sqlx::query_scalar(old).bind(age.as_secs_f64());
    count.fetch_one(connection).await
}

/// Deletes at most `limit` of them; returns how many.
pub async fn prune_dead(
    connection: &mut PgConnection,
    age: Duration,
    limit: i64,
) -> sqlx::Result<u64> {
    // by number: of the dead ones there is an index by that
    let delete = delete_old_jobs!("= 'dead'", "order by id");
    let delete = sqlx::query(delete).bind(age.as_secs_f64()).bind(limit);
    Ok(delete.execute(connection).await?.rows_affected())
}
