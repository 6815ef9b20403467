//! Open connections to one database, for use again and again.
//!
//! Guarantees: what is given back last is given out first, so that the same few do what little there is to do,
//! with their prepared statements, and the others are closed after a while; one that is not given back is
//! closed; no more than the given number are in use at a time; whoever asks has an answer within the limit; a server
//! that is away is waited for once, and not by everybody who comes after that.

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

/// A connection is asked whether it lives when it was given out so long ago; a busy one shows it by itself.
const PING_AFTER: Duration = Duration::from_secs(1);

/// One that was not needed for so long is closed.
const IDLE_TIMEOUT: Duration = Duration::from_mins(5);

/// Between two looks for those that were not needed.
const LOOK_AFTER: Duration = Duration::from_secs(30);

/// What a session keeps in the server grows as long as it lives.
const LIFETIME: Duration = Duration::from_mins(30);

/// The first pause between two attempts to reach a server that is just starting.
const PAUSE: Duration = Duration::from_millis(10);

/// A server that refuses or is starting is waited for no longer than this, though others may wait longer for their turn.
const PATIENCE: Duration = Duration::from_secs(3);

/// One that was waited for in vain is asked, and not waited for, until it answers, or for this time after the last attempt.
const AWAY_FOR: Duration = Duration::from_secs(10);

/// A host that says nothing at all.
const SILENCE: Duration = Duration::from_secs(10);

/// How long goodbyes may take.
const GOODBYE: Duration = Duration::from_secs(1);

/// Whoever waited for so long is told of in the log.
const LONG: Duration = Duration::from_secs(2);

/// `too_many_connections`
const FULL: &str = "53300";

/// Up to so many connections, each opened when it is first needed.
#[derive(Clone)]
pub(super) struct Connections {
    pool: Pool<Connector>,
    acquire_timeout: Duration,
}

/// A connection that is in use. Closed when it is dropped: it may be in the middle of something.
pub(super) struct InUse {
    object: Option<Object<Connector>>,
    lately: Arc<Lately>,
}

impl Connections {
    pub(super) fn new(options: PgConnectOptions, most: u32, acquire_timeout: Duration) -> Self {
        let connector = Connector {
            options,
            longest_pause: acquire_timeout / 5,
            lately: Arc::default(),
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
        if began.elapsed() >= LONG {
            let waited_s = began.elapsed().as_secs_f64();
            tracing::warn!(waited_s, "a connection was long in coming");
        }
        Ok(InUse {
            object: Some(object),
            lately: Arc::clone(&self.pool.manager().lately),
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
            tokio::time::sleep(LOOK_AFTER).await;
            self.close_those_idle_for(IDLE_TIMEOUT).await;
        }
    }

    pub(super) async fn close_those_idle_for(&self, limit: Duration) {
        say_goodbye(self.take_those_idle_for(limit)).await;
    }

    /// Closes all; those in use when they are given back. Nobody gets one any more.
    pub(super) async fn close(&self) {
        let idle = self.take_those_idle_for(Duration::ZERO);
        self.pool.close();
        say_goodbye(idle).await;
    }

    fn take_those_idle_for(&self, limit: Duration) -> Vec<PgConnection> {
        let retained = self.pool.retain(|_, metrics| metrics.last_used() < limit);
        retained.removed
    }
}

/// A server that does not listen finds out by itself.
async fn say_goodbye(connections: Vec<PgConnection>) {
    let all = join_all(connections.into_iter().map(Connection::close));
    let _ = tokio::time::timeout(GOODBYE, all).await;
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
            self.lately.lock().cut_off = Some(Instant::now());
            drop(Object::take(object));
        }
    }
}

/// When something last went wrong, which those that are idle since before it may not know of.
#[derive(Default)]
struct Lately(Mutex<Mishaps>);

#[derive(Clone, Copy, Default)]
struct Mishaps {
    /// One was not given back: the server may have ended the others as well.
    cut_off: Option<Instant>,
    /// One was found dead: the others are not asked.
    dead: Option<Instant>,
    /// No new one was to be had, however long it was waited for.
    away: Option<Instant>,
}

impl Lately {
    fn lock(&self) -> MutexGuard<'_, Mishaps> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether a server that is away is waited for no longer by whoever began to wait then.
    fn is_given_up(&self, began: Instant) -> bool {
        let mut mishaps = self.lock();
        let was_away = mishaps.away.is_some_and(|at| at.elapsed() < AWAY_FOR);
        let is_given_up = was_away || began.elapsed() >= PATIENCE;
        if is_given_up {
            mishaps.away = Some(Instant::now());
        }
        is_given_up
    }
}

/// Opens connections, and looks at them before they are used again.
struct Connector {
    options: PgConnectOptions,
    longest_pause: Duration,
    lately: Arc<Lately>,
}

impl Manager for Connector {
    type Type = PgConnection;
    type Error = sqlx::Error;

    /// Waits for a server that is just starting, and longer for one that has no connection to spare: whoever asks
    /// has a limit.
    async fn create(&self) -> sqlx::Result<PgConnection> {
        let (began, mut pause) = (Instant::now(), PAUSE);
        loop {
            let error = match self.connect().await {
                Err(error) if is_away(&error) || is_full(&error) => error,
                connected => return connected,
            };
            if is_away(&error) && self.lately.is_given_up(began) {
                return Err(error);
            }
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(self.longest_pause);
        }
    }

    async fn recycle(
        &self,
        connection: &mut PgConnection,
        metrics: &Metrics,
    ) -> RecycleResult<sqlx::Error> {
        let given_out = Some(metrics.recycled.unwrap_or(metrics.created));
        let lately = *self.lately.lock();
        let is_old = metrics.age() >= LIFETIME || metrics.last_used() >= IDLE_TIMEOUT;
        if is_old || lately.dead >= given_out {
            return Err(RecycleError::message("it is old"));
        }
        if metrics.last_used() >= PING_AFTER || lately.cut_off >= given_out {
            self.ask(connection).await?;
        }
        Ok(())
    }
}

impl Connector {
    async fn connect(&self) -> sqlx::Result<PgConnection> {
        // on the heap: large, and rare beside the uses in whose futures it is
        let connecting = Box::pin(PgConnection::connect_with(&self.options));
        let connected = tokio::time::timeout(SILENCE, connecting).await;
        let connected =
            connected.unwrap_or_else(|_| Err(sqlx::Error::Io(ErrorKind::TimedOut.into())));
        if connected.is_ok() {
            self.lately.lock().away = None;
        }
        connected
    }

    /// Waits as long as whoever wants the connection: a server that is only busy is not to be connected to anew.
    async fn ask(&self, connection: &mut PgConnection) -> sqlx::Result<()> {
        Box::pin(connection.ping()).await.inspect_err(|error| {
            self.lately.lock().dead = Some(Instant::now());
            tracing::debug!(%error, "an idle connection is dead; none is kept");
        })
    }
}

/// No server there, or one that takes nobody yet (57P03).
fn is_away(error: &sqlx::Error) -> bool {
    match error {
        sqlx::Error::Io(error) => {
            [ErrorKind::ConnectionRefused, ErrorKind::TimedOut].contains(&error.kind())
        }
        sqlx::Error::Database(error) => {
            error.is_transient_in_connect_phase() && error.code().as_deref() != Some(FULL)
        }
        _ => false,
    }
}

fn is_full(error: &sqlx::Error) -> bool {
    let code = error.as_database_error().and_then(DatabaseError::code);
    code.as_deref() == Some(FULL)
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
