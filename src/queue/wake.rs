//! Wakes workers when there is work: at once in this process, by NOTIFY in the others.
//!
//! Guarantees: never inside the transaction that enqueues, because NOTIFY takes a lock that all
//! commits of the server share; at most one NOTIFY per 50 ms and replica. A lost notification costs
//! one poll interval, nothing else.

use std::{sync::Arc, time::Duration};

use tokio::sync::Notify;

use crate::{db::Db, shutdown::Tasks};

const CHANNEL: &str = "tenantry_jobs";
const DEBOUNCE: Duration = Duration::from_millis(50);
const RECONNECT_DELAY: Duration = Duration::from_secs(1);

/// Tells workers that there is work.
#[derive(Debug, Clone)]
pub struct Waker {
    here: Arc<Notify>,
    batches: Arc<Notify>,
    outgoing: Arc<Notify>,
    fleet: Arc<Notify>,
    elsewhere: Arc<Notify>,
    /// Tells our own calls from those of other processes.
    caller: Arc<str>,
}

impl Default for Waker {
    fn default() -> Self {
        Self {
            here: Arc::default(),
            batches: Arc::default(),
            outgoing: Arc::default(),
            fleet: Arc::default(),
            elsewhere: Arc::default(),
            caller: format!("{:016x}", rand::random::<u64>()).into(),
        }
    }
}

impl Waker {
    /// Call after the commit that enqueued.
    pub fn wake(&self) {
        self.wake_here();
        self.elsewhere.notify_one();
    }

    /// Wakes only the workers of this process.
    pub(super) fn wake_here(&self) {
        self.here.notify_one();
        self.batches.notify_one();
        self.outgoing.notify_one();
        self.fleet.notify_one();
    }

    /// Resolves when this process should look for a batch.
    pub(super) async fn woken_for_batch(&self) {
        self.batches.notified().await;
    }

    /// Resolves when this process should look for jobs that wait for somebody else's server.
    pub(super) async fn woken_for_outgoing(&self) {
        self.outgoing.notified().await;
    }

    /// Resolves when this process should look for jobs that migrate the fleet.
    pub(super) async fn woken_for_fleet(&self) {
        self.fleet.notified().await;
    }

    /// Resolves when this process's worker should look.
    pub(super) async fn woken(&self) {
        self.here.notified().await;
    }

    /// Calls the workers of all processes, from one that has none: after the commit that enqueued.
    pub async fn call(db: &Db) {
        notify(db, "").await;
    }

    /// Carries calls to the other processes until the tasks drain.
    pub fn spawn_notifier(&self, tasks: &Tasks, db: Db) {
        let (elsewhere, draining) = (Arc::clone(&self.elsewhere), tasks.clone());
        let caller = Arc::clone(&self.caller);
        tasks.spawn(async move {
            loop {
                tokio::select! {
                    () = elsewhere.notified() => {}
                    () = draining.draining() => return,
                }
                notify(&db, &caller).await;
                tokio::time::sleep(DEBOUNCE).await;
            }
        });
    }

    /// Listens for the calls of other processes until the tasks drain.
    pub(super) fn spawn_listener(&self, tasks: &Tasks, db: Db) {
        let (waker, draining) = (self.clone(), tasks.clone());
        tasks.spawn(async move {
            while !draining.is_draining() {
                tokio::select! {
                    () = listen(&waker, &db) => {}
                    () = draining.draining() => return,
                }
                tokio::select! {
                    () = tokio::time::sleep(RECONNECT_DELAY) => {}
                    () = draining.draining() => return,
                }
            }
        });
    }
}

async fn notify(db: &Db, caller: &str) {
    let sent = db
        .run(async |connection| {
            sqlx::query("select pg_notify($1, $2)")
                .bind(CHANNEL)
                .bind(caller)
                .execute(connection)
                .await
        })
        .await;
    if let Err(error) = sent {
        tracing::debug!(%error, "replicas were not woken; they poll");
    }
}

async fn listen(waker: &Waker, db: &Db) {
    let Ok(mut listener) = db.listen(CHANNEL).await else {
        return;
    };
    while let Ok(call) = listener.recv().await {
        // this process woke its worker itself
        if call.payload() != &*waker.caller {
            waker.wake_here();
        }
    }
}
