//! Orderly ends: every task is known, told to stop, waited for, and cut off if it must be.
//!
//! Guarantees: the first SIGTERM, SIGINT or SIGHUP asks for a drain (stop taking work, finish what
//! runs); the second, or the end of the drain time, ends at once. No task is spawned outside
//! [`Tasks`], so none is forgotten.

use std::{
    future::Future,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use tokio::signal::unix::{SignalKind, signal};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

/// The tasks of a process and the two ways to end them.
#[derive(Debug, Clone, Default)]
pub struct Tasks {
    /// What a drain waits for.
    work: TaskTracker,
    /// Open connections: they are finished when the work is.
    connections: TaskTracker,
    /// What both stand on; it ends last.
    ground: TaskTracker,
    closing: CancellationToken,
    listens: Arc<AtomicBool>,
    drain: CancellationToken,
    stop: CancellationToken,
}

impl Tasks {
    /// Tasks that live until [`Tasks::stop_now`] or their own end.
    pub fn new() -> Self {
        Self::default()
    }

    /// Runs work that a drain waits for; a hard stop drops it where it is.
    #[expect(clippy::disallowed_methods, reason = "one of the places that spawn")]
    pub fn spawn<F>(&self, task: F) -> tokio::task::JoinHandle<Option<F::Output>>
    where
        F: Future + Send + 'static,
        F::Output: Send + 'static,
    {
        let stop = self.stop.clone();
        let task = async move { stop.run_until_cancelled(task).await };
        tokio::spawn(self.work.track_future(task))
    }

    /// Runs what work stands on: it goes on through a drain, and ends when all work has.
    #[expect(clippy::disallowed_methods, reason = "one of the places that spawn")]
    pub fn spawn_ground(&self, task: impl Future<Output = ()> + Send + 'static) {
        let stop = self.stop.clone();
        let task = async move {
            stop.run_until_cancelled(task).await;
        };
        tokio::spawn(self.ground.track_future(task));
    }

    /// Runs a connection, which goes on through a drain.
    #[expect(clippy::disallowed_methods, reason = "one of the places that spawn")]
    pub fn spawn_connection(&self, connection: impl Future<Output = ()> + Send + 'static) {
        let stop = self.stop.clone();
        let connection = async move {
            stop.run_until_cancelled(connection).await;
        };
        tokio::spawn(self.connections.track_future(connection));
    }

    /// Cancelled when the work is done and connections should end.
    pub fn closing(&self) -> CancellationToken {
        self.closing.clone()
    }

    /// Asks everything to finish what it does and take nothing new.
    pub fn drain(&self) {
        self.drain.cancel();
    }

    /// Ends everything where it is.
    pub fn stop_now(&self) {
        self.drain.cancel();
        self.stop.cancel();
    }

    /// True from the first signal on.
    pub fn is_draining(&self) -> bool {
        self.drain.is_cancelled()
    }

    /// Resolves when draining begins.
    pub async fn draining(&self) {
        self.drain.cancelled().await;
    }

    /// Waits for all work, then for open connections, at most `limit` together; then ends the rest.
    /// True when all ended by itself.
    pub async fn finish(&self, limit: Duration) -> bool {
        let in_order = async {
            self.work.close();
            self.work.wait().await;
            self.closing.cancel();
            self.connections.close();
            self.connections.wait().await;
        };
        let in_time = tokio::time::timeout(limit, in_order).await.is_ok();
        self.stop_now();
        self.closing.cancel();
        for tracker in [&self.work, &self.connections, &self.ground] {
            tracker.close();
            tracker.wait().await;
        }
        in_time
    }

    /// Waits for the first signal and drains; a second one stops at once, in the background.
    ///
    /// May be called again and dropped in between: no signal is lost, because one task listens.
    pub async fn wait_for_signal(&self) -> std::io::Result<()> {
        if !self.listens.swap(true, Ordering::SeqCst) {
            let mut signals = [
                SignalKind::terminate(),
                SignalKind::interrupt(),
                SignalKind::hangup(),
            ]
            .map(signal);
            if signals.iter().any(Result::is_err) {
                return Err(std::io::Error::other("signal handlers cannot be installed"));
            }
            let tasks = self.clone();
            self.spawn_ground(async move {
                if next_signal(&mut signals).await.is_ok() {
                    tracing::info!(
                        "stopping: finishing running steps; a second signal ends at once"
                    );
                    tasks.drain();
                }
                if next_signal(&mut signals).await.is_ok() {
                    tasks.stop_now();
                }
            });
        }
        self.draining().await;
        Ok(())
    }
}

async fn next_signal(
    signals: &mut [std::io::Result<tokio::signal::unix::Signal>; 3],
) -> std::io::Result<()> {
    let [terminate, interrupt, hangup] = signals;
    let (Ok(terminate), Ok(interrupt), Ok(hangup)) = (terminate, interrupt, hangup) else {
        return Err(std::io::Error::other("signal handlers cannot be installed"));
    };
    tokio::select! {
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
        _ = hangup.recv() => {}
    }
    Ok(())
}
