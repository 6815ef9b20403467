//! The control database: one guarded door to its pool, its migrations, its notifications.
//!
//! Guarantees: a connection whose use was cut off (a cancelled request, a lost server) is closed,
//! never returned to the pool: a returned one could sit inside an open transaction or in the
//! middle of an answer. A transaction commits when its closure succeeds and rolls back otherwise.
//! Migrations run once, whichever of several replicas starts first; a database with newer migrations
//! is used where all of them say that this binary can, and is refused otherwise.

use std::{str::FromStr, time::Duration};

use secrecy::{ExposeSecret, SecretString};
use sqlx::{
    Connection, PgConnection, PgPool, Postgres,
    migrate::{MigrateError, Migration, MigrationType, Migrator},
    pool::PoolConnection,
    postgres::{PgConnectOptions, PgListener, PgPoolOptions},
};

/// Control migrations, in order; compiled in.
const MIGRATIONS: [(i64, &str, &str); 16] = [
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
        10,
        "registrations",
        include_str!("../migrations/0010_registrations.sql"),
    ),
    (
        11,
        "form_keys",
        include_str!("../migrations/0011_form_keys.sql"),
    ),
    (
        12,
        "notifications",
        include_str!("../migrations/0012_notifications.sql"),
    ),
    (
        13,
        "retention",
        include_str!("../migrations/0013_retention.sql"),
    ),
    (14, "pool", include_str!("../migrations/0014_pool.sql")),
    (15, "fleet", include_str!("../migrations/0015_fleet.sql")),
    (
        16,
        "structure",
        include_str!("../migrations/0016_structure.sql"),
    ),
];

/// Which older binaries a migration leaves working: those whose own newest migration is at least the
/// second number. One that only adds what they do not know serves them; one that takes something
/// away serves those that have ceased to use it. A migration that is not here serves nobody older.
const SERVES_SINCE: &[(i64, i64)] = &[
    (10, 9),
    (11, 9),
    (12, 9),
    (13, 9),
    (14, 9),
    (15, 9),
    (16, 9),
];

/// What migrations say of older binaries. No migration of its own makes it: it is read and written
/// by binaries that know different migrations, before any of them runs.
const CONTROL_SCHEMA: &str = "
create table if not exists control_schema (
    version bigint primary key,
    serves_since bigint not null check (serves_since <= version)
);
comment on table control_schema is
    'Which older versions of tenantry go on working on this database. Written before a migration runs.';
comment on column control_schema.version is 'A migration: _sqlx_migrations.version.';
comment on column control_schema.serves_since is
    'A tenantry whose own newest migration is this one or a later one works with the migration.';
";

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
    /// The database was migrated by a newer binary, in a way that this one cannot work with.
    #[error(
        "the control database has migration {0}, with which this version of tenantry cannot work"
    )]
    Newer(i64),
}

/// How the control schema stands to this binary.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Schema {
    /// It can be used: it is this binary's, or a newer one that serves it.
    Usable,
    /// A migration that this binary knows was not run yet.
    Behind,
    /// This migration is a newer binary's, and does not serve this one.
    TooNew(i64),
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

    /// How the schema stands to this binary.
    pub async fn schema(&self) -> Result<Schema, Error> {
        self.run(async |connection| find_schema(connection).await)
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

async fn find_schema(connection: &mut PgConnection) -> Result<Schema, Error> {
    let known = MIGRATIONS.map(|(version, ..)| version).to_vec();
    let query = sqlx::query_as::<_, (bool, Option<i64>)>(
        "select
            count(*) filter (where version = any($1)) = cardinality($1),
            -- a migration that says nothing serves nobody older
            min(version) filter (where version <> all($1)
                and coalesce(serves_since, version) > (select max(own) from unnest($1) own))
        from _sqlx_migrations
        left join control_schema using (version)
        where success",
    );
    let (is_complete, unusable) = query.bind(known).fetch_one(connection).await?;
    Ok(match (unusable, is_complete) {
        (Some(version), _) => Schema::TooNew(version),
        (None, false) => Schema::Behind,
        (None, true) => Schema::Usable,
    })
}

/// Says which older binaries each migration serves: before it runs, so that no replica ever finds one
/// that has run and said nothing.
async fn declare_migrations(connection: &mut PgConnection) -> Result<(), Error> {
    sqlx::raw_sql(CONTROL_SCHEMA)
        .execute(&mut *connection)
        .await?;
    let serves = |version| SERVES_SINCE.iter().find(|(of, _)| *of == version);
    let versions = MIGRATIONS.map(|(version, ..)| version);
    let since = versions.map(|version| serves(version).map_or(version, |(_, since)| *since));
    let insert = "insert into control_schema (version, serves_since)
        select * from unnest($1::bigint[], $2::bigint[])
        on conflict do nothing";
    sqlx::query(insert)
        .bind(versions.to_vec())
        .bind(since.to_vec())
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
    declare_migrations(connection).await?;
    // an index on what is kept for ever takes as long as it takes
    sqlx::query("set statement_timeout = 0")
        .execute(&mut *connection)
        .await?;
    let run = apply(&mut migrator, connection).await;
    sqlx::query("reset statement_timeout")
        .execute(connection)
        .await?;
    run
}

async fn apply(migrator: &mut Migrator, connection: &mut PgConnection) -> Result<(), Error> {
    match migrator.run_direct(None, &mut *connection, false).await {
        Err(MigrateError::VersionMissing(_)) => {
            if let Schema::TooNew(version) = find_schema(connection).await? {
                return Err(Error::Newer(version));
            }
            migrator.set_ignore_missing(true);
            let run = migrator.run_direct(None, connection, false).await;
            run.map_err(migration_failed)
        }
        run => run.map_err(migration_failed),
    }
}

fn migration_failed(error: MigrateError) -> Error {
    match error {
        MigrateError::Execute(error) | MigrateError::ExecuteMigration(error, _)
            if is_unavailable(&error) =>
        {
            Error::Sql(error)
        }
        other => Error::Migrate(other),
    }
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
        // connection exceptions, insufficient resources, operator intervention, a starting or read-only server,
        // a session that the server ended because we were silent in a transaction for too long
        sqlx::Error::Database(error) => error.code().is_some_and(|code| {
            ["08", "53", "57"]
                .iter()
                .any(|class| code.starts_with(class))
                || ["25006", "25P03", "25P04"].contains(&code.as_ref())
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
