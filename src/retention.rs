//! Retention: what has been kept for its time goes, in small batches.
//!
//! Guarantees: only what is over goes, and only when it is older than was configured; a batch is one
//! transaction that waits for nobody, so that any number of processes prune at the same time and one
//! that dies leaves nothing half done; between two batches there is a pause of a batch's length.
//!
//! Does not: know a table. The module that owns it counts and deletes; here is the list of them.

use std::time::{Duration, Instant};

use sqlx::PgConnection;

use crate::{
    causes::chain,
    config::{Config, days},
    db::Db,
    faults::Faults,
    idempotency, inbox, notifications,
    queue::{self, NewJob},
    registrations,
};

const FAULT_COMMITTING: &str = "prune.committing";
const FAULT_COMMITTED: &str = "prune.committed";

/// Where a test can make it fail: before the commit of a batch, after it.
pub const FAULT_POINTS: [&str; 2] = [FAULT_COMMITTING, FAULT_COMMITTED];

/// Between two batches at least.
const LEAST_PAUSE: Duration = Duration::from_millis(20);

/// How often a replica sees to it that the job is there, should somebody have cancelled it.
const LOOK_PAUSE: Duration = Duration::from_mins(10);

/// What goes when it is old.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// The bodies of settled events; the events stay.
    EventBodies,
    /// Completed and cancelled jobs, with their attempts.
    Jobs,
    /// Dead jobs, with their attempts.
    DeadJobs,
    /// Idempotency keys with their answers.
    IdempotencyKeys,
    /// Notifications that were delivered or given up.
    Notifications,
    /// What happened to registrations that have ended; the registrations stay.
    RegistrationEvents,
}

impl Kind {
    /// All of them, in the order in which they are pruned.
    pub const ALL: [Self; 6] = [
        Self::IdempotencyKeys,
        Self::Jobs,
        Self::DeadJobs,
        Self::EventBodies,
        Self::Notifications,
        Self::RegistrationEvents,
    ];

    /// The word as it is shown and counted.
    pub const fn name(self) -> &'static str {
        match self {
            Self::EventBodies => "event_bodies",
            Self::Jobs => "jobs",
            Self::DeadJobs => "dead_jobs",
            Self::IdempotencyKeys => "idempotency_keys",
            Self::Notifications => "notifications",
            Self::RegistrationEvents => "registration_events",
        }
    }

    /// How long it is kept; `None` for ever.
    pub fn age(self, config: &Config) -> Option<Duration> {
        let retention = &config.retention;
        match self {
            Self::EventBodies => days(retention.event_bodies_days),
            Self::Jobs => days(retention.jobs_days),
            Self::DeadJobs => days(retention.dead_jobs_days),
            Self::IdempotencyKeys => days(config.limits.idempotency_keys_days),
            Self::Notifications => days(retention.notifications_days),
            Self::RegistrationEvents => days(retention.registration_events_days),
        }
    }

    /// Rows of one transaction: a few ten milliseconds of work.
    const fn batch(self) -> u32 {
        match self {
            // one of 1 MiB lies in five hundred rows of its own
            Self::EventBodies => 200,
            Self::Jobs
            | Self::DeadJobs
            | Self::IdempotencyKeys
            | Self::Notifications
            | Self::RegistrationEvents => 1_000,
        }
    }
}

/// Something that is older than this goes.
#[derive(Debug, Clone, Copy)]
pub struct Due {
    /// What.
    pub kind: Kind,
    /// Its age.
    pub age: Duration,
}

/// What is pruned by itself, and how often.
#[derive(Debug, Clone)]
pub struct Plan {
    /// What goes.
    pub due: Vec<Due>,
    /// Between two runs of the scheduled job; `None`: there is no such job.
    pub pause: Option<Duration>,
}

impl Plan {
    /// What was configured.
    pub fn new(config: &Config) -> Self {
        let due = |kind: Kind| kind.age(config).map(|age| Due { kind, age });
        let pause = config.retention.pause_s;
        Self {
            due: Kind::ALL.into_iter().filter_map(due).collect(),
            pause: (pause > 0).then(|| Duration::from_secs(pause)),
        }
    }
}

/// How many rows would go now.
pub async fn count(connection: &mut PgConnection, due: Due) -> sqlx::Result<i64> {
    let Due { kind, age } = due;
    match kind {
        Kind::EventBodies => inbox::count_old_bodies(connection, age).await,
        Kind::Jobs => queue::count_old(connection, age).await,
        Kind::DeadJobs => queue::count_old_dead(connection, age).await,
        Kind::IdempotencyKeys => idempotency::count_old(connection, age).await,
        Kind::Notifications => notifications::count_old(connection, age).await,
        Kind::RegistrationEvents => registrations::count_old_events(connection, age).await,
    }
}

/// Prunes until nothing is left, true, or `may_go_on` says no, false. `told` hears of every batch.
///
/// What cannot be pruned does not keep the rest from it: then the first error is returned at the end.
pub async fn prune(
    (db, faults): (&Db, &Faults),
    due: &[Due],
    may_go_on: impl Fn() -> bool,
    mut told: impl FnMut(Kind, u64),
) -> sqlx::Result<bool> {
    let mut failed = None;
    for due in due {
        loop {
            if !may_go_on() {
                return failed.map_or(Ok(false), Err);
            }
            let began = Instant::now();
            let rows = match prune_batch(db, faults, *due).await {
                Ok(rows) => rows,
                Err(error) => {
                    failed.get_or_insert(error);
                    break;
                }
            };
            told(due.kind, rows);
            if rows < u64::from(due.kind.batch()) {
                break;
            }
            // half of the time at most: the other half is for whoever works
            tokio::time::sleep(began.elapsed().max(LEAST_PAUSE)).await;
        }
    }
    failed.map_or(Ok(true), Err)
}

async fn prune_batch(db: &Db, faults: &Faults, due: Due) -> sqlx::Result<u64> {
    let injected = |error: crate::faults::Injected| sqlx::Error::Protocol(error.to_string());
    let (age, limit) = (due.age, i64::from(due.kind.batch()));
    let rows = db
        .transaction(async |tx| {
            let rows = match due.kind {
                Kind::EventBodies => inbox::prune_bodies(tx, age, limit).await?,
                Kind::Jobs => queue::prune(tx, age, limit).await?,
                Kind::DeadJobs => queue::prune_dead(tx, age, limit).await?,
                Kind::IdempotencyKeys => idempotency::prune(tx, age, limit).await?,
                Kind::Notifications => notifications::prune(tx, age, limit).await?,
                Kind::RegistrationEvents => registrations::prune_events(tx, age, limit).await?,
            };
            if rows > 0 {
                faults.hit(FAULT_COMMITTING).await.map_err(injected)?;
            }
            Ok::<_, sqlx::Error>(rows)
        })
        .await?;
    if rows > 0 {
        faults.hit(FAULT_COMMITTED).await.map_err(injected)?;
    }
    Ok(rows)
}

/// Sees to it that the scheduled job is in the queue, now and ever after; does not end.
///
/// Any number of replicas do so: the job is there once. Its end enqueues the next one.
pub async fn keep_scheduled(db: Db, pause: Duration, max_attempts: i32) {
    let next = NewJob::prune(pause, max_attempts);
    loop {
        let kept = db.run(async |connection| queue::keep_scheduled(connection, &next).await);
        if let Err(error) = kept.await {
            tracing::warn!(
                error = chain(&error),
                "the job that prunes was not scheduled; trying again in ten minutes"
            );
        }
        tokio::time::sleep(LOOK_PAUSE).await;
    }
}
