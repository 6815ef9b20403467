//! Who holds up a migration.
//!
//! Guarantees: looks from outside, on the maintenance database, and only when a migration takes longer
//! than a part of its lock time-out: one that goes through costs nothing more.

use std::{
    convert::Infallible,
    fmt,
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicI32, Ordering},
    },
    time::Duration,
};

use sqlx::FromRow;

use super::Migration;
use crate::{
    causes::chain,
    tenant_db::{self, sessions},
};

/// A session that holds a lock that a migration waits for.
#[derive(Debug, Clone, PartialEq, FromRow)]
pub struct Blocker {
    /// The server's process.
    pub pid: i32,
    /// Its `application_name`.
    pub application: String,
    /// Such as `idle in transaction`; `None` where we may not know.
    pub state: Option<String>,
    /// Seconds since its last statement began.
    pub query_age_s: Option<f64>,
    /// Seconds since its transaction began.
    pub transaction_age_s: Option<f64>,
}

impl fmt::Display for Blocker {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let application = match self.application.as_str() {
            "" => "without an application name",
            name => name,
        };
        write!(f, "pid {} ({application}", self.pid)?;
        if let Some(state) = &self.state {
            write!(f, ", {state}")?;
        }
        if let Some(age) = self.query_age_s {
            write!(f, ", last statement {age:.1} s ago")?;
        }
        if let Some(age) = self.transaction_age_s {
            write!(f, ", transaction open for {age:.1} s")?;
        }
        write!(f, ")")
    }
}

/// An eye on the sessions of one migration.
#[derive(Debug)]
pub(super) struct Watch<'a> {
    migration: &'a Migration<'a>,
    /// Our own session's process; 0 while it is not known.
    pid: AtomicI32,
    seen: Mutex<Option<Box<Blocker>>>,
}

impl<'a> Watch<'a> {
    pub(super) fn new(migration: &'a Migration<'a>) -> Self {
        Self {
            migration,
            pid: AtomicI32::new(0),
            seen: Mutex::new(None),
        }
    }

    /// Makes our own session known.
    pub(super) fn follow(&self, pid: i32) {
        self.pid.store(pid, Ordering::Relaxed);
    }

    /// The last one that was seen in the way.
    pub(super) fn seen(&self) -> Option<Box<Blocker>> {
        let seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        seen.clone()
    }

    /// Runs `work`, and looks who is in its way when it takes long.
    pub(super) async fn during<T>(&self, work: impl Future<Output = T>) -> T {
        tokio::select! {
            biased;
            done = work => done,
            never = self.look_again_and_again() => match never {},
        }
    }

    async fn look_again_and_again(&self) -> Infallible {
        let limit = u64::from(self.migration.blueprint.settings.lock_timeout_ms);
        // a lock that is not had within the limit is waited for at one of these moments
        tokio::time::sleep(Duration::from_millis(limit * 3 / 5)).await;
        loop {
            match self.look().await {
                Ok(Some(blocker)) => {
                    let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
                    *seen = Some(Box::new(blocker));
                }
                Ok(None) => {}
                Err(error) => {
                    tracing::debug!(error = chain(&error), "nobody could look for a blocker");
                }
            }
            tokio::time::sleep(Duration::from_millis((limit / 5).clamp(20, 1000))).await;
        }
    }

    async fn look(&self) -> Result<Option<Blocker>, tenant_db::Error> {
        let Migration {
            cluster, database, ..
        } = self.migration;
        let pid = self.pid.load(Ordering::Relaxed);
        cluster
            .run(async |connection| {
                sqlx::query_as(
                    "with waiting as materialized (
                         select pid
                         from pg_stat_activity
                         where datname = $1
                           and (pid = $2 or usename = $3)
                     )
                     select blocker.pid,
                            coalesce(blocker.application_name, '') as application,
                            blocker.state,
                            extract(epoch from now() - blocker.query_start)::float8 as query_age_s,
                            extract(epoch from now() - blocker.xact_start)::float8 as transaction_age_s
                     from waiting
                     cross join lateral unnest(pg_blocking_pids(waiting.pid)) as blocking (pid)
                     join pg_stat_activity blocker on blocker.pid = blocking.pid
                     -- a chain ends with one who waits for nobody, and that is who holds it up
                     order by cardinality(pg_blocking_pids(blocker.pid)), blocker.xact_start
                     limit 1",
                )
                .bind(database.as_str())
                .bind(pid)
                .bind(cluster.migrator.as_str())
                .fetch_optional(connection)
                .await
                .map_err(tenant_db::Error::sql("looking who is in the way"))
            })
            .await
    }

    /// Who holds the advisory lock of this database.
    pub(super) async fn holder_of(&self, key: i64) -> Option<Box<Blocker>> {
        let Migration {
            cluster, database, ..
        } = self.migration;
        let found = cluster
            .run(async |connection| {
                sqlx::query_as(
                    "select holder.pid,
                            coalesce(holder.application_name, '') as application,
                            holder.state,
                            extract(epoch from now() - holder.query_start)::float8 as query_age_s,
                            extract(epoch from now() - holder.xact_start)::float8 as transaction_age_s
                     from pg_locks
                     join pg_database on pg_database.oid = database
                     join pg_stat_activity holder on holder.pid = pg_locks.pid
                     where locktype = 'advisory'
                       and granted
                       and pg_database.datname = $1
                       and (classid::bigint << 32) | objid::bigint = $2
                     limit 1",
                )
                .bind(database.as_str())
                .bind(key)
                .fetch_optional(connection)
                .await
                .map_err(tenant_db::Error::sql("looking who migrates the database"))
            })
            .await;
        let found: Result<Option<Blocker>, tenant_db::Error> = found;
        match found {
            Ok(found) => found.map(Box::new),
            Err(error) => {
                tracing::debug!(
                    error = chain(&error),
                    "nobody could look for the holder of the lock"
                );
                None
            }
        }
    }

    /// Ends our own session and those of a program, and waits until they are gone.
    pub(super) async fn end_sessions(&self) -> Result<(), tenant_db::Error> {
        let pid = self.pid.load(Ordering::Relaxed);
        let Migration {
            cluster, database, ..
        } = self.migration;
        let end = async |connection: &mut _| {
            sessions::end(connection, database, pid).await?;
            sessions::end_of_role(connection, database, &cluster.migrator).await
        };
        self.migration.run_on_cluster(end).await
    }
}
