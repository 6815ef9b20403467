//! The control database: one guarded door to its pool, its migrations, its notifications.
//!
//! Guarantees: a connection whose use was cut off (a cancelled request, a lost server) is closed,
//! never returned to the pool: a returned one could sit inside an open transaction or in the
//! middle of an answer. A transaction commits when its closure succeeds and rolls back otherwise.
//! Migrations run once, whichever of several replicas starts first; a database that is newer than
//! this binary is refused.

use std::{str::FromStr, time::Duration};

use secrecy::{ExposeSecret, SecretString};
use sqlx::{
    Connection, PgConnection, PgPool, Postgres,
    migrate::{MigrateError, Migration, MigrationType, Migrator},
    pool::PoolConnection,
    postgres::{PgConnectOptions, PgListener, PgPoolOptions},
};

/// Control migrations, in order; compiled in.
const MIGRATIONS: [(i64, &str, &str); 10] = [
    (1, "inbox", include_str!("../migrations/0001_inbox.sql")),
    (2, "queue", include_str!("../migrations/0002_queue.sql")),
    (3, "tenants", include_str!("../migrations/0003_tenants.sql")),
    (
        4,
        "provisioning",
        include_str!("../migrations/0004_provisioning.sql"),
    ),
    (
        5,
        "identity",
        include_str!("../migrations/0005_identity.sql"),
    ),
    (6, "audit", include_str!("../migrations/0006_audit.sql")),
    (
        7,
        "api_keys",
        include_str!("../migrations/0007_api_keys.sql"),
    ),
    (
        8,
        "idempotency",
        include_str!("../migrations/0008_idempotency.sql"),
    ),
    (9, "access", include_str!("../migrations/0009_access.sql")),
    (
        12,
        "notifications",
        include_str!("../migrations/0012_notifications.sql"),
    ),
];

/// Advisory lock under which the control database is migrated: "tenantry" in ASCII.
const MIGRATION_LOCK: i64 = 0x7465_6e61_6e74_7279;

/// How long a request for a connection waits before the database counts as away.
const ACQUIRE_TIMEOUT: Duration = Duration::from_secs(3);

/// An idle connection is asked whether it lives after this long; a busy one shows it by itself.
const PING_AFTER_IDLE: Duration = Duration::from_secs(1);

/// Why the control database cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The URL is not one.
    #[error("the database URL cannot be read")]
    Url(#[source] sqlx::Error),
    /// The database does not answer, or refuses.
    #[error("the control database cannot be used")]
    Sql(#[from] sqlx::Error),
    /// A migration failed.
    #[error("migrating the control database failed")]
    Migrate(#[source] MigrateError),
    /// The database was migrated by a newer binary.
    #[error("the control database has migration {0}, which this version of tenantry does not know")]
    Newer(i64),
}

/// How long a use of the control database may take, by our own clock: the server's timeouts do not
/// help when its host is gone without a word.
const DEADLINE: Duration = Duration::from_secs(35);

/// A pool behind its guard.
#[derive(Clone)]
pub struct Db {
    pool: PgPool,
    deadline: Duration,
}

impl std::fmt::Debug for Db {
    /// Without the pool's options, which hold the password.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Db")
            .field("open", &self.pool.size())
            .finish_non_exhaustive()
    }
}

/// Closes the connection unless it was taken out after a clean use.
struct Guard(Option<PoolConnection<Postgres>>);

impl Drop for Guard {
    fn drop(&mut self) {
        if let Some(connection) = self.0.take() {
            drop(connection.detach());
        }
    }
}

/// Connect options with the limits that every one of our connections has.
pub fn connect_options(url: &SecretString) -> Result<PgConnectOptions, Error> {
    let options = PgConnectOptions::from_str(url.expose_secret()).map_err(Error::Url)?;
    Ok(options.application_name("tenantry").options([
        ("statement_timeout", "30s"),
        ("lock_timeout", "10s"),
        // a stopped process must not hold row locks past its lease
        ("idle_in_transaction_session_timeout", "10s"),
        ("client_connection_check_interval", "2s"),
    ]))
}

/// Connects once and hangs up: the error says why a server cannot be reached.
pub async fn reach(url: &SecretString) -> Result<(), Error> {
    let options = connect_options(url)?;
    let connect = async { PgConnection::connect_with(&options).await?.close().await };
    match tokio::time::timeout(ACQUIRE_TIMEOUT, connect).await {
        Ok(reached) => Ok(reached?),
        Err(_) => Err(sqlx::Error::Io(std::io::ErrorKind::TimedOut.into()).into()),
    }
}

impl Db {
    /// A pool of at most `max_connections`; connects when first used.
    pub fn new(url: &SecretString, max_connections: u32) -> Result<Self, Error> {
        Ok(Self::with_options(
            connect_options(url)?,
            max_connections,
            ACQUIRE_TIMEOUT,
            DEADLINE,
        ))
    }

    /// A pool with these options; a use of it may take `deadline` from the connection it was given on.
    pub fn with_options(
        options: PgConnectOptions,
        max_connections: u32,
        acquire_timeout: Duration,
        deadline: Duration,
    ) -> Self {
        let pool = PgPoolOptions::new()
            .max_connections(max_connections)
            .acquire_timeout(acquire_timeout)
            .idle_timeout(Duration::from_mins(5))
            .test_before_acquire(false)
            .before_acquire(|connection, meta| {
                Box::pin(async move {
                    if meta.idle_for >= PING_AFTER_IDLE {
                        connection.ping().await?;
                    }
                    Ok(true)
                })
            })
            .connect_lazy_with(options);
        Self { pool, deadline }
    }

    /// The same pool for uses that must be quick, such as those that a sender waits for.
    #[must_use]
    pub fn within(&self, deadline: Duration) -> Self {
        Self {
            pool: self.pool.clone(),
            deadline,
        }
    }

    /// Runs `work` on a connection, outside a transaction.
    pub async fn run<T, E: From<sqlx::Error>>(
        &self,
        work: impl AsyncFnOnce(&mut PgConnection) -> Result<T, E>,
    ) -> Result<T, E> {
        let mut guard = Guard(Some(self.pool.acquire().await?));
        let connection = guard.0.as_mut().expect("just put there");
        let result = self.in_time(work(connection)).await;
        // after an error the connection may be in the middle of an answer: the guard closes it
        if result.is_ok() {
            drop(guard.0.take());
        }
        result
    }

    /// Runs `work` in a transaction: commits when it succeeds, rolls back otherwise.
    pub async fn transaction<T, E: From<sqlx::Error>>(
        &self,
        work: impl AsyncFnOnce(&mut PgConnection) -> Result<T, E>,
    ) -> Result<T, E> {
        let mut guard = Guard(Some(self.pool.acquire().await?));
        let connection = guard.0.as_mut().expect("just put there");
        let result = self.in_time(within_transaction(connection, work)).await;
        // neither committed nor rolled back: the guard closes the connection
        let (result, is_clean) = result?;
        if is_clean {
            drop(guard.0.take());
        }
        result
    }

    async fn in_time<T, E: From<sqlx::Error>>(
        &self,
        work: impl Future<Output = Result<T, E>>,
    ) -> Result<T, E> {
        match tokio::time::timeout(self.deadline, work).await {
            Ok(result) => result,
            Err(_) => Err(sqlx::Error::Io(std::io::ErrorKind::TimedOut.into()).into()),
        }
    }

    /// Listens on a channel; reconnects by itself.
    pub async fn listen(&self, channel: &str) -> Result<PgListener, Error> {
        let mut listener = PgListener::connect_with(&self.pool).await?;
        listener.listen(channel).await?;
        Ok(listener)
    }

    /// Connections open and idle.
    pub fn connections(&self) -> (u32, usize) {
        (self.pool.size(), self.pool.num_idle())
    }

    /// Closes every connection.
    pub async fn close(&self) {
        self.pool.close().await;
    }

    /// Brings the control schema up to this binary's version.
    ///
    /// Waits its turn with a try-lock: a session that *waits* for an advisory lock holds a snapshot,
    /// against which `create index concurrently` of the other replica would deadlock.
    pub async fn migrate(&self) -> Result<(), Error> {
        // a large table may take long, and so may the other replica
        self.within(Duration::from_hours(24))
            .run(async |connection| {
                while !try_lock(connection).await? {
                    tokio::time::sleep(Duration::from_millis(50)).await;
                }
                let result = run_migrations(connection).await;
                unlock(connection).await?;
                result
            })
            .await
    }

    /// The server's clock.
    pub async fn server_clock(&self) -> Result<chrono::DateTime<chrono::Utc>, Error> {
        self.run(async |connection| {
            Ok(sqlx::query_scalar("select now()")
                .fetch_one(connection)
                .await?)
        })
        .await
    }

    /// Whether our user may create tables in the control database.
    pub async fn may_create_tables(&self) -> Result<bool, Error> {
        let may = "select has_schema_privilege('public', 'create')";
        self.run(async |connection| Ok(sqlx::query_scalar(may).fetch_one(connection).await?))
            .await
    }

    /// Whether the schema is exactly the one that this binary knows.
    pub async fn is_migrated(&self) -> Result<bool, Error> {
        self.run(async |connection| {
            let newest = sqlx::query_scalar::<_, Option<i64>>(
                "select max(version) from _sqlx_migrations where success",
            );
            Ok(newest.fetch_one(connection).await?
                == MIGRATIONS.last().map(|(version, ..)| *version))
        })
        .await
    }
}

/// What `work` made of it, and whether the connection can be used again.
async fn within_transaction<T, E: From<sqlx::Error>>(
    connection: &mut PgConnection,
    work: impl AsyncFnOnce(&mut PgConnection) -> Result<T, E>,
) -> Result<(Result<T, E>, bool), E> {
    sqlx::query("begin").execute(&mut *connection).await?;
    match work(connection).await {
        Ok(value) => {
            sqlx::query("commit").execute(connection).await?;
            Ok((Ok(value), true))
        }
        Err(error) => {
            let rolled_back = sqlx::query("rollback").execute(connection).await;
            Ok((Err(error), rolled_back.is_ok()))
        }
    }
}

async fn try_lock(connection: &mut PgConnection) -> Result<bool, Error> {
    let lock = sqlx::query_scalar("select pg_try_advisory_lock($1)").bind(MIGRATION_LOCK);
    Ok(lock.fetch_one(connection).await?)
}

async fn unlock(connection: &mut PgConnection) -> Result<(), Error> {
    sqlx::query("select pg_advisory_unlock($1)")
        .bind(MIGRATION_LOCK)
        .execute(connection)
        .await?;
    Ok(())
}

async fn run_migrations(connection: &mut PgConnection) -> Result<(), Error> {
    let migrations = MIGRATIONS.map(|(version, name, sql)| {
        Migration::new(
            version,
            name.into(),
            MigrationType::Simple,
            sqlx::SqlStr::from_static(sql),
            false,
        )
    });
    let mut migrator = Migrator::with_migrations(migrations.to_vec());
    migrator.set_locking(false);
    // a tenant's role must not reach the control database
    sqlx::raw_sql(
        "do $$ begin execute format('revoke all on database %I from public', current_database()); end $$",
    )
    .execute(&mut *connection)
    .await?;
    migrator
        .run_direct(None, connection, false)
        .await
        .map_err(|error| match error {
            MigrateError::VersionMissing(version) => Error::Newer(version),
            MigrateError::Execute(error) | MigrateError::ExecuteMigration(error, _)
                if is_unavailable(&error) =>
            {
                Error::Sql(error)
            }
            other => Error::Migrate(other),
        })
}

/// Whether an error says that the server is away or going away, rather than that a statement is wrong.
pub fn is_unavailable(error: &sqlx::Error) -> bool {
    match error {
        sqlx::Error::Io(_)
        | sqlx::Error::Tls(_)
        | sqlx::Error::Protocol(_)
        | sqlx::Error::PoolTimedOut
        | sqlx::Error::PoolClosed
        | sqlx::Error::WorkerCrashed => true,
        // connection exceptions, insufficient resources, operator intervention, a starting or read-only server
        sqlx::Error::Database(error) => error.code().is_some_and(|code| {
            ["08", "53", "57"]
                .iter()
                .any(|class| code.starts_with(class))
                || code == "25006"
        }),
        _ => false,
    }
}

/// Whether the same statement may well succeed in a moment: the server is away, or another transaction was in the way.
pub fn is_passing(error: &sqlx::Error) -> bool {
    // serialization failure, deadlock, lock timeout
    let in_the_way = ["40001", "40P01", "55P03"];
    let code = sqlstate(error);
    is_unavailable(error) || code.is_some_and(|code| in_the_way.contains(&code.as_str()))
}

/// The SQLSTATE of an error, where the server gave one.
pub fn sqlstate(error: &sqlx::Error) -> Option<String> {
    error
        .as_database_error()
        .and_then(sqlx::error::DatabaseError::code)
        .map(std::borrow::Cow::into_owned)
}
