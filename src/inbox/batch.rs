//! Groups concurrent deliveries into one statement and one commit.
//!
//! Guarantees: a delivery waits for no other one. Whatever arrives while a commit is under way goes
//! into the next group, so a group forms exactly when there is something to gain, without a timer.
//! Each sender is answered after the commit that holds its row, or told that storage is away.

use std::{sync::Arc, time::Duration};

use tokio::sync::{Mutex, OwnedSemaphorePermit, Semaphore, mpsc, oneshot};

use super::{NewEvent, Recorded, record};
use crate::{
    db::{self, Db},
    faults::Faults,
    queue::Waker,
    shutdown::Tasks,
};

/// Deliveries of one statement.
const GROUP_LIMIT: usize = 128;

/// Bytes of one statement; a group closes when its bodies reach this.
const GROUP_BYTES: usize = 4 << 20;

/// Deliveries that may wait for a group; more are told to come again.
const WAITING_LIMIT: usize = 4096;

/// Bytes of bodies that may wait for a group or be under way.
const WAITING_BYTES: usize = 64 << 20;

/// How long recording a group may take before its senders are told to come again.
const DEADLINE: Duration = Duration::from_secs(5);

/// Groups under way at once: one in its commit while the next one is being sent.
const WRITERS: usize = 2;

/// Storage is away: nothing was recorded, the sender should try again.
#[derive(Debug, Clone, thiserror::Error)]
pub enum Unavailable {
    /// The database does not answer, or refuses.
    #[error("the event was not recorded")]
    Storage(#[source] Arc<sqlx::Error>),
    /// More deliveries wait than may.
    #[error("more than {WAITING_LIMIT} deliveries, or {WAITING_BYTES} bytes, wait to be recorded")]
    Overloaded,
    /// This process is ending.
    #[error("this process is ending")]
    Stopping,
}

const FAULT_BEFORE: &str = "inbox.before";
const FAULT_RECORDED: &str = "inbox.recorded";

/// Where a test can make the inbox fail: before and after the commit.
pub const FAULT_POINTS: [&str; 2] = [FAULT_BEFORE, FAULT_RECORDED];

type Answer = Result<Recorded, Unavailable>;

struct Waiting {
    event: NewEvent,
    answer: oneshot::Sender<Answer>,
    /// Its share of what may wait; given back when it is answered.
    bytes_held: OwnedSemaphorePermit,
}

/// The way into the inbox.
#[derive(Debug, Clone)]
pub struct Inbox {
    waiting: mpsc::Sender<Waiting>,
    bytes: Arc<Semaphore>,
}

impl Inbox {
    /// Starts the writers; they go on through a drain, because open requests need them.
    pub fn start(
        db: &Db,
        waker: &Waker,
        tasks: &Tasks,
        max_attempts: i32,
        faults: &Faults,
    ) -> Self {
        let (sender, receiver) = mpsc::channel(WAITING_LIMIT);
        let receiver = Arc::new(Mutex::new(receiver));
        for _ in 0..WRITERS {
            let writer = Writer {
                db: db.within(DEADLINE),
                waker: waker.clone(),
                receiver: Arc::clone(&receiver),
                max_attempts,
                faults: faults.clone(),
            };
            tasks.spawn_ground(writer.run());
        }
        Self {
            waiting: sender,
            bytes: Arc::new(Semaphore::new(WAITING_BYTES)),
        }
    }

    /// Records an event; returns after the commit that holds it.
    pub async fn record(&self, event: NewEvent) -> Result<Recorded, Unavailable> {
        let (answer, answered) = oneshot::channel();
        let size = u32::try_from(event.body.len()).unwrap_or(u32::MAX);
        let bytes = Arc::clone(&self.bytes).try_acquire_many_owned(size);
        let waiting = Waiting {
            event,
            answer,
            bytes_held: bytes.map_err(|_| Unavailable::Overloaded)?,
        };
        self.waiting
            .try_send(waiting)
            .map_err(|error| match error {
                mpsc::error::TrySendError::Full(_) => Unavailable::Overloaded,
                mpsc::error::TrySendError::Closed(_) => Unavailable::Stopping,
            })?;
        answered.await.unwrap_or(Err(Unavailable::Stopping))
    }
}

struct Writer {
    db: Db,
    waker: Waker,
    receiver: Arc<Mutex<mpsc::Receiver<Waiting>>>,
    max_attempts: i32,
    faults: Faults,
}

impl Writer {
    async fn run(self) {
        while let Some(group) = self.next_group().await {
            let (mut events, mut answers, mut permits) = (Vec::new(), Vec::new(), Vec::new());
            for waiting in group {
                events.push(waiting.event);
                answers.push(waiting.answer);
                permits.push(waiting.bytes_held);
            }
            let recorded = self.record(&events).await;
            match recorded {
                Ok(recorded) => {
                    if recorded.contains(&Recorded::New) {
                        self.waker.wake();
                    }
                    for (answer, recorded) in answers.into_iter().zip(recorded) {
                        // a sender that hung up has its event all the same
                        let _ = answer.send(Ok(recorded));
                    }
                }
                Err(error) => self.refuse(answers, error).await,
            }
        }
    }

    /// The same answer for the group and for all that waited meanwhile: a sender should hear of an
    /// outage while it still listens.
    async fn refuse(&self, answers: Vec<oneshot::Sender<Answer>>, error: sqlx::Error) {
        // a part of the group may have been recorded before the error
        self.waker.wake();
        let away = db::is_unavailable(&error);
        let error = Unavailable::Storage(Arc::new(error));
        for answer in answers {
            let _ = answer.send(Err(error.clone()));
        }
        let mut receiver = self.receiver.lock().await;
        while away && let Ok(waiting) = receiver.try_recv() {
            let _ = waiting.answer.send(Err(error.clone()));
        }
    }

    /// Waits for a delivery, then takes all that wait with it.
    async fn next_group(&self) -> Option<Vec<Waiting>> {
        let mut receiver = self.receiver.lock().await;
        let first = receiver.recv().await?;
        let mut bytes = first.event.body.len();
        let mut group = vec![first];
        while group.len() < GROUP_LIMIT && bytes < GROUP_BYTES {
            let Ok(next) = receiver.try_recv() else { break };
            bytes += next.event.body.len();
            group.push(next);
        }
        Some(group)
    }

    /// Records a group; once more when the connection turned out to be dead, because recording is
    /// idempotent and a connection that a restarted server left behind says so only when used.
    async fn record(&self, events: &[NewEvent]) -> sqlx::Result<Vec<Recorded>> {
        match self.record_once(events).await {
            Err(error)
                if db::is_unavailable(&error) && !matches!(error, sqlx::Error::PoolTimedOut) =>
            {
                self.record_once(events).await
            }
            result => result,
        }
    }

    async fn record_once(&self, events: &[NewEvent]) -> sqlx::Result<Vec<Recorded>> {
        let injected = |error: crate::faults::Injected| sqlx::Error::Protocol(error.to_string());
        self.faults.hit(FAULT_BEFORE).await.map_err(injected)?;
        let recorded = self
            .db
            .run(async |connection| record(connection, events, self.max_attempts).await)
            .await?;
        self.faults.hit(FAULT_RECORDED).await.map_err(injected)?;
        Ok(recorded)
    }
}
