//! Open connections to one database, for use again and again.
//!
//! Guarantees: what is given back last is given out first, so that the same few do what little there is to do,
//! with their prepared statements, and the others are closed after a while; one that is not given back is
//! closed; no more than the given number are in use at a time; whoever asks has an answer within the limit; a server
//! that is away is waited for once, and not by everybody who comes after that, where the limit is longer than that.

use std::{
    io::ErrorKind,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use deadpool::managed::{
    Manager, Metrics, Object, Pool, PoolError, QueueMode, RecycleError, RecycleResult,
};
use futures_util::future::join_all;
use sqlx::{Connection, PgConnection, error::DatabaseError, postgres::PgConnectOptions};

use super::opening::{CONNECT_TIMEOUT, Openings};

/// A connection that was last handed out longer ago is pinged before reuse; a busier one shows it by itself.
const PING_AFTER: Duration = Duration::from_secs(1);

/// A connection that was not needed for this long is closed.
const IDLE_TIMEOUT: Duration = Duration::from_mins(5);

/// Between two sweeps for idle connections.
const SWEEP_PAUSE: Duration = Duration::from_secs(30);

/// A connection is replaced at this age: what a session keeps in the server's memory only grows.
const MAX_AGE: Duration = Duration::from_mins(30);

/// The first pause between two attempts to connect to a server that is starting, or full.
const FIRST_RETRY_PAUSE: Duration = Duration::from_millis(10);

/// How long a server that refuses or is starting is waited for, even where callers may wait longer for their turn.
const STARTUP_WAIT: Duration = Duration::from_secs(3);

/// How long whoever asks waits for a host that is known to be away.
const CONNECT_TIMEOUT_WHILE_AWAY: Duration = Duration::from_secs(1);

/// For how long that is known. Then somebody gives it the whole time again: it may be there, and slow.
const AWAY_TTL: Duration = Duration::from_secs(10);

/// How long closing may take.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(1);

/// Acquiring a connection for longer than this is logged.
const SLOW_ACQUIRE: Duration = Duration::from_secs(2);

/// SQLSTATE `too_many_connections`.
const TOO_MANY_CONNECTIONS: &str = "53300";

/// Up to so many connections, each opened when it is first needed.
#[derive(Clone)]
pub(super) struct Connections {
    pool: Pool<Connector>,
    acquire_timeout: Duration,
}

/// A connection that is in use. Closed when it is dropped: it may be in the middle of something.
pub(super) struct InUse {
    object: Option<Object<Connector>>,
    health: Arc<Health>,
}

impl Connections {
    pub(super) fn new(options: PgConnectOptions, most: u32, acquire_timeout: Duration) -> Self {
        let connector = Connector {
            options,
            openings: Openings::default(),
            longest_pause: acquire_timeout / 5,
            health: Arc::default(),
        };
        let pool = Pool::builder(connector)
            .max_size(usize::try_from(most).unwrap_or(usize::MAX))
            .queue_mode(QueueMode::Lifo)
            .build()
            .expect("a pool without time-outs of its own needs no runtime");
        Self {
            pool,
            acquire_timeout,
        }
    }

    pub(super) async fn get(&self) -> sqlx::Result<InUse> {
        let began = Instant::now();
        let object = tokio::time::timeout(self.acquire_timeout, self.pool.get())
            .await
            .map_err(|_| sqlx::Error::PoolTimedOut)?
            .map_err(cause)?;
        if began.elapsed() >= SLOW_ACQUIRE {
            let waited_s = began.elapsed().as_secs_f64();
            tracing::warn!(waited_s, "a connection was long in coming");
        }
        Ok(InUse {
            object: Some(object),
            health: Arc::clone(&self.pool.manager().health),
        })
    }

    /// How many are open, and how many of them are in nobody's use.
    pub(super) fn count(&self) -> (usize, usize) {
        let status = self.pool.status();
        (status.size, status.available)
    }

    pub(super) fn options(&self) -> &PgConnectOptions {
        &self.pool.manager().options
    }

    /// Closes those that are not needed, again and again.
    pub(super) async fn keep_closing_idle(self) {
        loop {
            tokio::time::sleep(SWEEP_PAUSE).await;
            self.close_idle(IDLE_TIMEOUT).await;
        }
    }

    pub(super) async fn close_idle(&self, limit: Duration) {
        self.pool.manager().openings.sweep();
        close_all(self.take_idle(limit)).await;
    }

    /// Closes all; those in use when they are given back. Nobody gets one any more.
    pub(super) async fn close(&self) {
        let idle = self.take_idle(Duration::ZERO);
        self.pool.close();
        self.pool.manager().openings.clear();
        close_all(idle).await;
    }

    fn take_idle(&self, limit: Duration) -> Vec<PgConnection> {
        let retained = self.pool.retain(|_, metrics| metrics.last_used() < limit);
        retained.removed
    }
}

/// A server that does not listen finds out by itself.
async fn close_all(connections: Vec<PgConnection>) {
    let all = join_all(connections.into_iter().map(Connection::close));
    let _ = tokio::time::timeout(CLOSE_TIMEOUT, all).await;
}

impl InUse {
    pub(super) fn connection(&mut self) -> &mut PgConnection {
        self.object.as_mut().expect("given back by value only")
    }

    /// It is as whoever comes next expects it.
    pub(super) fn give_back(mut self) {
        drop(self.object.take());
    }
}

impl Drop for InUse {
    fn drop(&mut self) {
        if let Some(object) = self.object.take() {
            self.health.lock().cut_off = Some(Instant::now());
            drop(Object::take(object));
        }
    }
}

/// When something last went wrong, which those that are idle since before it may not know of.
#[derive(Default)]
struct Health(Mutex<LastFailures>);

#[derive(Clone, Copy, Default)]
struct LastFailures {
    /// One was not given back: the server may have ended the others as well.
    cut_off: Option<Instant>,
    /// One was found dead: the others are not asked.
    dead: Option<Instant>,
    /// The server was waited for in vain. Until it answers it is asked, and waited for no more.
    away: Option<Instant>,
}

impl Health {
    fn lock(&self) -> MutexGuard<'_, LastFailures> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn is_away(&self) -> bool {
        self.lock().away.is_some()
    }

    fn is_away_lately(&self) -> bool {
        self.lock().away.is_some_and(|at| at.elapsed() < AWAY_TTL)
    }

    fn note_away(&self) {
        self.lock().away = Some(Instant::now());
    }
}

/// Opens connections, and looks at them before they are used again.
struct Connector {
    options: PgConnectOptions,
    openings: Openings,
    longest_pause: Duration,
    health: Arc<Health>,
}

impl Manager for Connector {
    type Type = PgConnection;
    type Error = sqlx::Error;

    /// Waits for a server that is just starting, and longer for one that has no connection to spare: whoever asks
    /// has a limit.
    async fn create(&self) -> sqlx::Result<PgConnection> {
        let (mut away_since, mut pause) = (None, FIRST_RETRY_PAUSE);
        loop {
            let left = match self.connect().await {
                Err(error) if is_full(&error) => {
                    away_since = None;
                    pause
                }
                Err(error) if is_away(&error) => {
                    let waited = away_since.get_or_insert_with(Instant::now).elapsed();
                    if waited >= STARTUP_WAIT || self.health.is_away() {
                        if !is_silence(&error) {
                            self.health.note_away();
                        }
                        return Err(error);
                    }
                    STARTUP_WAIT.saturating_sub(waited)
                }
                connected => return connected,
            };
            tokio::time::sleep(pause.min(left)).await;
            pause = (pause * 2).min(self.longest_pause);
        }
    }

    async fn recycle(
        &self,
        connection: &mut PgConnection,
        metrics: &Metrics,
    ) -> RecycleResult<sqlx::Error> {
        let given_out = Some(metrics.recycled.unwrap_or(metrics.created));
        let health = *self.health.lock();
        let is_old = metrics.age() >= MAX_AGE || metrics.last_used() >= IDLE_TIMEOUT;
        if is_old || health.dead >= given_out {
            return Err(RecycleError::message("it is old"));
        }
        if metrics.last_used() >= PING_AFTER || health.cut_off >= given_out {
            self.ask(connection).await?;
        }
        Ok(())
    }
}

impl Connector {
    async fn connect(&self) -> sqlx::Result<PgConnection> {
        let limit = if self.health.is_away_lately() {
            CONNECT_TIMEOUT_WHILE_AWAY
        } else {
            CONNECT_TIMEOUT
        };
        let began = Instant::now();
        loop {
            let opening = self.openings.next(&self.options);
            let is_inherited = opening.is_inherited;
            let left = limit.saturating_sub(began.elapsed());
            match opening.within(left).await {
                Some(Ok(connection)) => {
                    self.health.lock().away = None;
                    return Ok(connection);
                }
                // one of our own may do better
                Some(Err(_)) | None if is_inherited && began.elapsed() < limit => {}
                Some(Err(error)) => return Err(error),
                None => {
                    // whoever listened briefly does not know better
                    if began.elapsed() >= CONNECT_TIMEOUT {
                        self.health.note_away();
                    }
                    return Err(sqlx::Error::Io(ErrorKind::TimedOut.into()));
                }
            }
        }
    }

    /// Waits long: a server that is only busy is not to be connected to anew.
    async fn ask(&self, connection: &mut PgConnection) -> sqlx::Result<()> {
        let asked = tokio::time::timeout(CONNECT_TIMEOUT, Box::pin(connection.ping())).await;
        let asked = asked.unwrap_or_else(|_| {
            self.health.note_away();
            Err(sqlx::Error::Io(ErrorKind::TimedOut.into()))
        });
        match &asked {
            Ok(()) => self.health.lock().away = None,
            Err(error) => {
                self.health.lock().dead = Some(Instant::now());
                tracing::debug!(%error, "an idle connection is dead; none is kept");
            }
        }
        asked
    }
}

/// No server there, or one that takes nobody yet (57P03).
fn is_away(error: &sqlx::Error) -> bool {
    match error {
        sqlx::Error::Io(error) => matches!(
            error.kind(),
            ErrorKind::ConnectionRefused
                | ErrorKind::HostUnreachable
                | ErrorKind::NetworkUnreachable
                | ErrorKind::TimedOut
        ),
        sqlx::Error::Database(error) => {
            error.is_transient_in_connect_phase()
                && error.code().as_deref() != Some(TOO_MANY_CONNECTIONS)
        }
        _ => false,
    }
}

fn is_silence(error: &sqlx::Error) -> bool {
    matches!(error, sqlx::Error::Io(error) if error.kind() == ErrorKind::TimedOut)
}

fn is_full(error: &sqlx::Error) -> bool {
    let code = error.as_database_error().and_then(DatabaseError::code);
    code.as_deref() == Some(TOO_MANY_CONNECTIONS)
}

fn cause(error: PoolError<sqlx::Error>) -> sqlx::Error {
    match error {
        PoolError::Backend(error) => error,
        PoolError::Timeout(_) => sqlx::Error::PoolTimedOut,
        // without hooks and time-outs of its own there is nothing but the end
        PoolError::Closed | PoolError::NoRuntimeSpecified | PoolError::PostCreateHook(_) => {
            sqlx::Error::PoolClosed
        }
    }
}
