//! The rows of the warm pool: one a database, from before it is created until it is a tenant's or gone.
//!
//! Guarantees: every change is guarded by the state from which it leads; one tenant claims one database at
//! most, and nobody claims one that is claimed already; a claim is made only by the attempt that holds the job.
//!
//! Whoever makes or drops databases holds the pool's lock on the cluster (`build`); a claim needs no lock.

use chrono::{DateTime, Utc};
use serde::Serialize;
use sqlx::{FromRow, PgConnection};
use uuid::Uuid;

use crate::{
    config,
    queue::{self, Claim},
    tenants::TenantId,
};

/// A database that a tenant was promised.
#[derive(Debug)]
pub(in crate::provisioning) enum Taken {
    /// This one is the tenant's.
    Claimed(Uuid),
    /// An earlier attempt had claimed one that does not fit any more; it was given back.
    GivenBack,
    /// There is none.
    Empty,
}

/// Claims a ready database for the tenant, or finds the one that an earlier attempt claimed.
///
/// The commit does not wait for the disk. Whoever claims the same one after a crash of the server finds
/// it gone, if it was handed over: the hand-over is the server's own word of whose it is.
pub(in crate::provisioning) async fn claim(
    connection: &mut PgConnection,
    claim: &Claim,
    tenant: TenantId,
    cluster: &str,
    hash: &str,
) -> Result<Taken, queue::Error> {
    let (is_held, claimed, was_given_back): (bool, Option<Uuid>, bool) = sqlx::query_as(
        "with held as (
             select
             from set_config('synchronous_commit', 'off', true), jobs
             where id = $1
               and attempt = $2
               and state = 'running'
             -- nobody takes the job over before this is committed
             for update of jobs
         ),
         own as (
             select pool.id, pool.cluster = $4 and pool.hash = $5 as fits
             from pool_databases pool, held
             where pool.tenant_id = $3
         ),
         given_back as (
             update pool_databases pool
             set state = 'ready',
                 tenant_id = null,
                 claimed_at = null
             from own
             where pool.id = own.id
               and not own.fits
             returning pool.id
         ),
         next as (
             select pool.id
             from pool_databases pool, held
             where pool.cluster = $4
               and pool.hash = $5
               and pool.state = 'ready'
               and not exists (select from own)
             order by pool.ready_at, pool.id
             limit 1
             for update of pool skip locked
         ),
         claimed as (
             update pool_databases pool
             set state = 'claimed',
                 tenant_id = $3,
                 claimed_at = now()
             from next
             where pool.id = next.id
             returning pool.id
         )
         select exists (select from held),
                (select id from own where fits union all select id from claimed),
                exists (select from given_back)",
    )
    .bind(claim.id)
    .bind(claim.attempt)
    .bind(tenant)
    .bind(cluster)
    .bind(hash)
    .fetch_one(connection)
    .await?;
    if !is_held {
        return Err(queue::Error::LostClaim {
            id: claim.id,
            attempt: claim.attempt,
        });
    }
    Ok(match claimed {
        Some(id) => Taken::Claimed(id),
        None if was_given_back => Taken::GivenBack,
        None => Taken::Empty,
    })
}

/// The claim of a tenant, if it has one.
pub(in crate::provisioning) async fn find_claimed(
    connection: &mut PgConnection,
    tenant: TenantId,
) -> sqlx::Result<Option<Uuid>> {
    sqlx::query_scalar("select id from pool_databases where tenant_id = $1")
        .bind(tenant)
        .fetch_optional(connection)
        .await
}

/// The tenant's claim is over: its database is the tenant's, or gone. The caller's transaction holds the job.
pub(in crate::provisioning) async fn forget_claim(
    tx: &mut PgConnection,
    tenant: TenantId,
) -> sqlx::Result<()> {
    sqlx::query("delete from pool_databases where tenant_id = $1")
        .bind(tenant)
        .execute(tx)
        .await?;
    Ok(())
}

/// A database is about to be made.
pub(super) async fn begin(
    connection: &mut PgConnection,
    id: Uuid,
    cluster: &str,
    hash: &str,
    database: &str,
) -> sqlx::Result<()> {
    sqlx::query("insert into pool_databases (id, cluster, hash, database) values ($1, $2, $3, $4)")
        .bind(id)
        .bind(cluster)
        .bind(hash)
        .bind(database)
        .execute(connection)
        .await?;
    Ok(())
}

/// building → ready. False when somebody else took it for lost meanwhile.
pub(super) async fn mark_ready(connection: &mut PgConnection, id: Uuid) -> sqlx::Result<bool> {
    let marked = sqlx::query(
        "update pool_databases
         set state = 'ready',
             ready_at = now()
         where id = $1
           and state = 'building'",
    );
    Ok(marked.bind(id).execute(connection).await?.rows_affected() == 1)
}

/// ready → dropping. False when a tenant has claimed it meanwhile.
pub(super) async fn mark_dropping(connection: &mut PgConnection, id: Uuid) -> sqlx::Result<bool> {
    let marked = sqlx::query(
        "update pool_databases
         set state = 'dropping'
         where id = $1
           and state = 'ready'",
    );
    Ok(marked.bind(id).execute(connection).await?.rows_affected() == 1)
}

/// Its database is dropped.
pub(super) async fn forget(connection: &mut PgConnection, id: Uuid) -> sqlx::Result<()> {
    sqlx::query("delete from pool_databases where id = $1 and state = 'dropping'")
        .bind(id)
        .execute(connection)
        .await?;
    Ok(())
}

/// Takes what was left half done: building, dropping, or claimed for a tenant that no longer needs it. All of
/// it is to be dropped. The caller holds the pool's lock: nobody else is at it.
pub(super) async fn take_lost(
    connection: &mut PgConnection,
    cluster: &str,
) -> sqlx::Result<Vec<(Uuid, String)>> {
    sqlx::query_as(
        "update pool_databases pool
         set state = 'dropping',
             tenant_id = null
         where cluster = $1
           and (state in ('building', 'dropping')
                or (state = 'claimed'
                    and not exists (
                        select
                        from tenants
                        where tenants.id = pool.tenant_id
                          -- of one that was abandoned, the undoing does it
                          and tenants.state in ('pending', 'provisioning', 'failed', 'archived')
                    )))
         returning id, database",
    )
    .bind(cluster)
    .fetch_all(connection)
    .await
}

/// The ready databases of a blueprint are of no use any more: their template is built anew. Whoever has the pool's
/// lock next drops them.
pub(in crate::provisioning) async fn discard(
    connection: &mut PgConnection,
    cluster: &str,
    hash: &str,
) -> sqlx::Result<()> {
    sqlx::query(
        "update pool_databases
         set state = 'dropping'
         where cluster = $1
           and hash = $2
           and state = 'ready'",
    )
    .bind(cluster)
    .bind(hash)
    .execute(connection)
    .await?;
    Ok(())
}

/// The moment, by the clock by which rows are ready.
pub(super) async fn now(connection: &mut PgConnection) -> sqlx::Result<DateTime<Utc>> {
    sqlx::query_scalar("select now()")
        .fetch_one(connection)
        .await
}

/// Forgets rows that were ready before `listed_at` and whose database is not among those that were there then;
/// how many.
pub(super) async fn forget_missing(
    connection: &mut PgConnection,
    cluster: &str,
    (there, listed_at): (&[String], DateTime<Utc>),
) -> sqlx::Result<u64> {
    let forgotten = sqlx::query(
        "delete from pool_databases
         where cluster = $1
           and state = 'ready'
           and database <> all($2)
           and ready_at < $3",
    );
    Ok(forgotten
        .bind(cluster)
        .bind(there)
        .bind(listed_at)
        .execute(connection)
        .await?
        .rows_affected())
}

/// Which of these databases have no row under any of the clusters' names: a server may be configured under two.
pub(super) async fn without_row(
    connection: &mut PgConnection,
    clusters: &[&str],
    there: &[String],
) -> sqlx::Result<Vec<String>> {
    sqlx::query_scalar(
        "select there
         from unnest($2::text[]) there
         where not exists (
             select
             from pool_databases
             where cluster = any ($1)
               and database = there
         )",
    )
    .bind(clusters)
    .bind(there)
    .fetch_all(connection)
    .await
}

/// Ready databases that should go: of another blueprint and older than that, or more than there should be.
pub(super) async fn to_evict(
    connection: &mut PgConnection,
    cluster: &str,
    hash: &str,
    evict_after_s: u32,
    wanted: u32,
) -> sqlx::Result<Vec<(Uuid, String)>> {
    sqlx::query_as(
        "select id, database
         from (
             select id, database, ready_at, hash = $2 as is_fresh,
                    row_number() over (partition by hash order by ready_at desc, id) as place
             from pool_databases
             where cluster = $1
               and state = 'ready'
         ) pool
         where (not is_fresh and ready_at <= now() - make_interval(secs => $3))
            or (is_fresh and place > $4)
         order by ready_at",
    )
    .bind(cluster)
    .bind(hash)
    .bind(f64::from(evict_after_s))
    .bind(i64::from(wanted))
    .fetch_all(connection)
    .await
}

/// Every ready database of a cluster.
pub(super) async fn list_ready(
    connection: &mut PgConnection,
    cluster: &str,
) -> sqlx::Result<Vec<(Uuid, String)>> {
    sqlx::query_as(
        "select id, database
         from pool_databases
         where cluster = $1
           and state = 'ready'
         order by ready_at, id",
    )
    .bind(cluster)
    .fetch_all(connection)
    .await
}

/// What a look at a cluster's pool finds.
#[derive(Debug, Clone, Copy, FromRow)]
pub(super) struct Found {
    /// Ready, of the blueprint asked for.
    pub(super) ready: i64,
    /// Ready, of another one, and old enough to go.
    pub(super) stale: i64,
    /// Building or dropping.
    pub(super) unfinished: i64,
    /// In whatever state.
    pub(super) rows: i64,
    /// Tenants that came in the busiest minute of the last hour.
    busiest_minute: i64,
}

impl Found {
    /// How many there should be.
    pub(super) fn wanted(&self, settings: &config::Pool) -> u32 {
        settings.wanted(u32::try_from(self.busiest_minute).unwrap_or(u32::MAX))
    }
}

pub(super) async fn look(
    connection: &mut PgConnection,
    cluster: &str,
    hash: &str,
    evict_after_s: u32,
) -> sqlx::Result<Found> {
    sqlx::query_as(
        "select count(*) filter (where state = 'ready' and hash = $2) as ready,
                count(*) filter (
                    where state = 'ready'
                      and hash <> $2
                      and ready_at <= now() - make_interval(secs => $3)
                ) as stale,
                count(*) filter (where state in ('building', 'dropping')) as unfinished,
                count(*) as rows,
                (
                    select coalesce(max(came), 0)
                    from (
                        select count(*) as came
                        from tenants
                        where created_at > now() - interval '1 hour'
                          and cluster = $1
                        group by date_trunc('minute', created_at)
                    ) minutes
                ) as busiest_minute
         from pool_databases
         where cluster = $1",
    )
    .bind(cluster)
    .bind(hash)
    .bind(f64::from(evict_after_s))
    .fetch_one(connection)
    .await
}

/// How many are ready, of a blueprint.
pub(super) async fn count_ready(
    connection: &mut PgConnection,
    cluster: &str,
    hash: &str,
) -> sqlx::Result<i64> {
    sqlx::query_scalar(
        "select count(*)
         from pool_databases
         where cluster = $1
           and hash = $2
           and state = 'ready'",
    )
    .bind(cluster)
    .bind(hash)
    .fetch_one(connection)
    .await
}

/// How many databases of a cluster are in a state.
#[derive(Debug, Clone, FromRow, Serialize)]
pub struct StateCount {
    /// The cluster.
    pub cluster: String,
    /// Hash of the blueprint.
    pub hash: String,
    /// `building`, `ready`, `claimed` or `dropping`.
    pub state: String,
    /// How many.
    pub databases: i64,
    /// Age of the oldest in this state, in seconds.
    pub oldest_s: f64,
}

/// Counts the pool's databases by cluster, blueprint and state.
pub async fn count(connection: &mut PgConnection) -> sqlx::Result<Vec<StateCount>> {
    sqlx::query_as(
        "select cluster, hash, state,
                count(*) as databases,
                extract(epoch from now() - min(coalesce(claimed_at, ready_at, created_at)))::float8 as oldest_s
         from pool_databases
         group by cluster, hash, state
         order by cluster, hash, state",
    )
    .fetch_all(connection)
    .await
}

/// Counts the pool's databases by state, over all clusters, with the age of the oldest in seconds.
pub async fn count_by_state(
    connection: &mut PgConnection,
) -> sqlx::Result<Vec<(String, i64, f64)>> {
    sqlx::query_as(
        "select states.state,
                count(pool.id),
                coalesce(extract(epoch from now() - min(coalesce(claimed_at, ready_at, created_at))), 0)::float8
         from unnest(array['building', 'ready', 'claimed', 'dropping']) states (state)
         left join pool_databases pool using (state)
         group by states.state",
    )
    .fetch_all(connection)
    .await
}
