//! Open connections to one database, for use again and again.
//!
//! Guarantees: what is given back last is given out first, so that the same few do what little there is to do,
//! with their prepared statements, and the others are closed after a while; one that is not given back is
//! closed; there are never more than the most; whoever asks has an answer within the limit.

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use deadpool::managed::{
    Manager, Metrics, Object, Pool, PoolError, QueueMode, RecycleError, RecycleResult,
};
use sqlx::{Connection, PgConnection, postgres::PgConnectOptions};

/// An idle connection is asked whether it lives after this long; a busy one shows it by itself.
const PING_AFTER_IDLE: Duration = Duration::from_secs(1);

/// One that was not needed for so long is closed.
const IDLE_TIMEOUT: Duration = Duration::from_mins(5);

/// Between two looks for those that were not needed.
const LOOK_AFTER: Duration = Duration::from_secs(30);

/// What a session keeps in the server grows as long as it lives.
const LIFETIME: Duration = Duration::from_mins(30);

/// Between two attempts to reach a server that is just starting.
const PAUSE: Duration = Duration::from_millis(50);

/// How long a goodbye may take.
const GOODBYE: Duration = Duration::from_secs(1);

/// Up to so many connections, each opened when it is first needed.
#[derive(Clone)]
pub(super) struct Connections {
    pool: Pool<Connector>,
    acquire_timeout: Duration,
    looked_at: Arc<Mutex<Instant>>,
}

/// A connection that is in use. Closed when it is dropped: it may be in the middle of something.
pub(super) struct InUse(Option<Object<Connector>>);

impl Connections {
    pub(super) fn new(options: PgConnectOptions, most: u32, acquire_timeout: Duration) -> Self {
        let pool = Pool::builder(Connector { options })
            .max_size(usize::try_from(most).unwrap_or(usize::MAX))
            .queue_mode(QueueMode::Lifo)
            .build()
            .expect("a pool without time-outs of its own needs no runtime");
        Self {
            pool,
            acquire_timeout,
            looked_at: Arc::new(Mutex::new(Instant::now())),
        }
    }

    pub(super) async fn get(&self) -> sqlx::Result<InUse> {
        let object = tokio::time::timeout(self.acquire_timeout, self.pool.get())
            .await
            .map_err(|_| sqlx::Error::PoolTimedOut)?
            .map_err(cause)?;
        let in_use = InUse(Some(object));
        if self.is_time_to_look() {
            Box::pin(self.close_those_idle_for(IDLE_TIMEOUT)).await;
        }
        Ok(in_use)
    }

    /// How many are open, and how many of them are in nobody's use.
    pub(super) fn count(&self) -> (usize, usize) {
        let status = self.pool.status();
        (status.size, status.available)
    }

    pub(super) fn options(&self) -> &PgConnectOptions {
        &self.pool.manager().options
    }

    /// Closes all; those in use when they are given back. Nobody gets one any more.
    pub(super) async fn close(&self) {
        self.close_those_idle_for(Duration::ZERO).await;
        self.pool.close();
    }

    fn is_time_to_look(&self) -> bool {
        let mut looked_at = self
            .looked_at
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        let is_time = looked_at.elapsed() >= LOOK_AFTER;
        if is_time {
            *looked_at = Instant::now();
        }
        is_time
    }

    async fn close_those_idle_for(&self, limit: Duration) {
        let idle = self.pool.retain(|_, metrics| metrics.last_used() < limit);
        for connection in idle.removed {
            // a server that does not listen finds out by itself
            let _ = tokio::time::timeout(GOODBYE, connection.close()).await;
        }
    }
}

impl InUse {
    pub(super) fn connection(&mut self) -> &mut PgConnection {
        self.0.as_mut().expect("given back by value only")
    }

    /// It is as whoever comes next expects it.
    pub(super) fn give_back(mut self) {
        drop(self.0.take());
    }
}

impl Drop for InUse {
    fn drop(&mut self) {
        if let Some(object) = self.0.take() {
            drop(Object::take(object));
        }
    }
}

/// Opens connections, and looks at them before they are used again.
struct Connector {
    options: PgConnectOptions,
}

impl Manager for Connector {
    type Type = PgConnection;
    type Error = sqlx::Error;

    /// Waits for a server that is just starting, or has no connection to spare: whoever asks has a limit.
    async fn create(&self) -> sqlx::Result<PgConnection> {
        loop {
            // on the heap: large, and rare beside the uses in whose futures it is
            match Box::pin(PgConnection::connect_with(&self.options)).await {
                Err(error) if is_passing(&error) => tokio::time::sleep(PAUSE).await,
                connected => return connected,
            }
        }
    }

    async fn recycle(
        &self,
        connection: &mut PgConnection,
        metrics: &Metrics,
    ) -> RecycleResult<sqlx::Error> {
        if metrics.age() >= LIFETIME {
            return Err(RecycleError::message("it is old"));
        }
        if metrics.last_used() >= PING_AFTER_IDLE {
            Box::pin(connection.ping()).await?;
        }
        Ok(())
    }
}

fn is_passing(error: &sqlx::Error) -> bool {
    match error {
        sqlx::Error::Io(error) => error.kind() == std::io::ErrorKind::ConnectionRefused,
        sqlx::Error::Database(error) => error.is_transient_in_connect_phase(),
        _ => false,
    }
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
