//! Connections on their way to being open.
//!
//! Guarantees: one that its caller no longer waits for is left to whoever asks next, so that a server that is slow to
//! greet is not asked again and again for what nobody stays to see, and answers somebody in the end; one that is too
//! old is given up. So after the address of a server has changed it may take that long until nobody waits for the old
//! one any more.

use std::{
    sync::{Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use futures_util::future::BoxFuture;
use sqlx::{Connection, PgConnection, postgres::PgConnectOptions};

/// How long a server may take to greet.
pub(super) const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);

/// What has less time left than this is not waited for any more: it may have stood still all the time.
const LEAST_TIME_LEFT: Duration = Duration::from_secs(2);

/// Those that nobody waits for just now, the oldest first.
#[derive(Default)]
pub(super) struct Openings(Mutex<Vec<Opening>>);

struct Opening {
    connecting: BoxFuture<'static, sqlx::Result<PgConnection>>,
    began: Instant,
}

impl Opening {
    fn new(options: PgConnectOptions) -> Self {
        let connecting = Box::pin(async move { PgConnection::connect_with(&options).await });
        let began = Instant::now();
        Self { connecting, began }
    }

    /// How long it may still take.
    fn time_left(&self) -> Duration {
        CONNECT_TIMEOUT.saturating_sub(self.began.elapsed())
    }
}

/// One that somebody waits for. Dropped before it is open, it waits for the next.
pub(super) struct Awaited<'a> {
    opening: Option<Opening>,
    left: &'a Openings,
    /// Somebody else has begun it: how it fails may tell of a server that was there before.
    pub(super) is_inherited: bool,
}

impl Openings {
    fn lock(&self) -> MutexGuard<'_, Vec<Opening>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Gives up those that are too old.
    pub(super) fn sweep(&self) {
        self.lock().retain(|it| it.time_left() >= LEAST_TIME_LEFT);
    }

    /// The one that was begun first and left, or a new one.
    pub(super) fn next(&self, options: &PgConnectOptions) -> Awaited<'_> {
        self.sweep();
        let mut left = self.lock();
        let oldest = (!left.is_empty()).then(|| left.remove(0));
        Awaited {
            is_inherited: oldest.is_some(),
            opening: Some(oldest.unwrap_or_else(|| Opening::new(options.clone()))),
            left: self,
        }
    }

    /// Nobody asks any more.
    pub(super) fn clear(&self) {
        self.lock().clear();
    }
}

impl Awaited<'_> {
    /// What became of it, if that is known within this time; `None` also when it took too long as a whole.
    pub(super) async fn within(mut self, limit: Duration) -> Option<sqlx::Result<PgConnection>> {
        let opening = self.opening.as_mut()?;
        let limit = limit.min(opening.time_left());
        let opened = tokio::time::timeout(limit, &mut opening.connecting).await;
        if opened.is_ok() || opening.time_left().is_zero() {
            self.opening = None;
        }
        opened.ok()
    }
}

impl Drop for Awaited<'_> {
    fn drop(&mut self) {
        if let Some(opening) = self.opening.take() {
            let mut left = self.left.lock();
            let at = left.partition_point(|it| it.began < opening.began);
            left.insert(at, opening);
        }
    }
}
