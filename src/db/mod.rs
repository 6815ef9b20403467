//! The control database: one guarded door to its connections, its schema, its notifications.
//!
//! Guarantees: a connection whose use was cut off (a cancelled request, a lost server) is closed,
//! never used again: it could sit inside an open transaction or in the middle of an answer.
//! A transaction commits when its closure succeeds and rolls back otherwise.

mod connections;
mod opening;
mod schema;

use std::{str::FromStr, time::Duration};

use secrecy::{ExposeSecret, SecretString};
use sqlx::{
    Connection, PgConnection, Row,
    migrate::MigrateError,
    postgres::{PgConnectOptions, PgListener, PgPoolOptions},
};

use self::connections::Connections;
pub use self::schema::Schema;

/// The statements that a connection keeps prepared: one that is used again and again meets nearly all of them.
const STATEMENTS: usize = 256;

/// How long a request for a connection waits before the database counts as away.
const ACQUIRE_TIMEOUT: Duration = Duration::from_secs(3);

/// The listeners of a replica, each of which has a connection of its own: the queue's, and the one that hears of
/// changed keys and members.
pub const LISTENERS: u32 = 2;

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

/// How long a use of the control database may take, by our own clock: the server's timeouts do not
/// help when its host is gone without a word.
const DEADLINE: Duration = Duration::from_secs(35);

/// Connections, each use of which is bounded.
#[derive(Clone)]
pub struct Db {
    connections: Connections,
    deadline: Duration,
}

impl std::fmt::Debug for Db {
    /// Without the options, which hold the password.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Db")
            .field("open", &self.connections.count().0)
            .finish_non_exhaustive()
    }
}

/// Connect options with the limits that every one of our connections has.
pub fn connect_options(url: &SecretString) -> Result<PgConnectOptions, Error> {
    let options = PgConnectOptions::from_str(url.expose_secret()).map_err(Error::Url)?;
    let options = options
        .application_name("tenantry")
        .statement_cache_capacity(STATEMENTS);
    Ok(options.options([
        ("statement_timeout", "30s"),
        ("lock_timeout", "10s"),
        // a stopped process must not hold row locks past its lease
        ("idle_in_transaction_session_timeout", "10s"),
        ("client_connection_check_interval", "2s"),
        // one of the server's would end sessions that hold a lock while a program works
        ("idle_session_timeout", "0"),
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
        Self {
            connections: Connections::new(options, max_connections, acquire_timeout),
            deadline,
        }
    }

    /// The same pool for uses that must be quick, such as those that a sender waits for.
    #[must_use]
    pub fn within(&self, deadline: Duration) -> Self {
        Self {
            connections: self.connections.clone(),
            deadline,
        }
    }

    /// Runs `work` on a connection, outside a transaction.
    pub async fn run<T, E: From<sqlx::Error>>(
        &self,
        work: impl AsyncFnOnce(&mut PgConnection) -> Result<T, E>,
    ) -> Result<T, E> {
        let mut in_use = self.connections.get().await?;
        let result = self.in_time(work(in_use.connection())).await;
        // after an error the connection may be in the middle of an answer: it is closed
        if result.is_ok() {
            in_use.give_back();
        }
        result
    }

    /// Runs `work` in a transaction: commits when it succeeds, rolls back otherwise.
    pub async fn transaction<T, E: From<sqlx::Error>>(
        &self,
        work: impl AsyncFnOnce(&mut PgConnection) -> Result<T, E>,
    ) -> Result<T, E> {
        let mut in_use = self.connections.get().await?;
        let result = self
            .in_time(within_transaction(in_use.connection(), work))
            .await;
        // neither committed nor rolled back: the connection is closed
        let (result, is_clean) = result?;
        if is_clean {
            in_use.give_back();
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

    /// Listens on a channel, on a connection of its own; reconnects automatically.
    pub async fn listen(&self, channel: &str) -> Result<PgListener, Error> {
        let own = PgPoolOptions::new()
            .max_connections(1)
            .acquire_timeout(ACQUIRE_TIMEOUT)
            .connect_lazy_with(self.connections.options().clone());
        let mut listener = PgListener::connect_with(&own).await?;
        listener.listen(channel).await?;
        Ok(listener)
    }

    /// How many connections are open, and how many of them are in nobody's use.
    pub fn connections(&self) -> (usize, usize) {
        self.connections.count()
    }

    /// Closes connections that are not needed, again and again.
    pub fn keep_closing_idle(&self) -> impl Future<Output = ()> + Send + use<> {
        self.connections.clone().keep_closing_idle()
    }

    /// Closes connections that were not needed for this long.
    pub async fn close_idle(&self, limit: Duration) {
        self.connections.close_idle(limit).await;
    }

    /// Closes every connection.
    pub async fn close(&self) {
        self.connections.close().await;
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
            // after a failover it may lead to a server that only reads: it is not used again
            let rolled_back = sqlx::raw_sql("rollback; select pg_is_in_recovery()");
            let is_standby = rolled_back.fetch_one(connection).await;
            let is_standby = is_standby.and_then(|row| row.try_get::<bool, _>(0));
            Ok((Err(error), matches!(is_standby, Ok(false))))
        }
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
