//! Claim → run → settle.
//!
//! Guarantees: no job runs inside the claim's transaction; every claim gets a heartbeat at a quarter
//! of its lease, and soon again where its row was locked; a job whose claim was lost, or whose lease ran out while this process was stopped,
//! is dropped where it is; an unreachable database pauses the worker and never ends it; draining
//! stops claiming at once and gives unfinished jobs back; jobs that wait for somebody else's server have
//! slots of their own, so that such a server holds up nobody else, and so have those that migrate the fleet.

use std::{
    collections::HashMap,
    future::Future,
    panic::AssertUnwindSafe,
    sync::{
        Arc, Mutex,
        atomic::{AtomicI64, Ordering},
    },
    time::Duration,
};

use futures_util::FutureExt;
use rustix::time::{ClockId, clock_gettime};
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;

use super::{Claim, Error, Failure, Job, JobId, Waker, backoff, batch};
use crate::{causes::chain, db::Db, faults::Faults, metrics::Metrics, shutdown::Tasks};

/// What a handler made of its job.
#[derive(Debug)]
pub enum Outcome {
    /// Done; the worker is to complete it.
    Done,
    /// Settled in the handler's own transaction, in this way.
    Settled(Settled),
    /// Stopped between two steps because of a shutdown.
    Released,
    /// Failed; worth another attempt.
    Retry(Failure),
    /// The claim was lost: nothing may be written any more.
    Lost,
}

/// How a handler settled its job itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Settled {
    /// Completed.
    Completed,
    /// Buried as a dead letter.
    Discarded,
    /// Put back until its next step is due.
    Postponed,
}

const FAULT_CLAIMED: &str = "queue.claimed";
const FAULT_SETTLING: &str = "queue.settling";
const FAULT_SETTLED: &str = "queue.settled";

/// Where a test can make a worker fail: after the claim, before and after it is settled.
pub const FAULT_POINTS: [&str; 3] = [FAULT_CLAIMED, FAULT_SETTLING, FAULT_SETTLED];

/// How a worker works.
#[derive(Debug, Clone)]
pub struct Settings {
    /// Jobs at once.
    pub concurrency: usize,
    /// Jobs at once that wait for somebody else's server, beside those.
    pub outgoing_concurrency: usize,
    /// Jobs at once that migrate the fleet, beside those.
    pub fleet_concurrency: usize,
    /// Lease of a claim.
    pub lease: Duration,
    /// Time between two looks at the queue.
    pub poll_interval: Duration,
    /// Faults that a test injects.
    pub faults: Faults,
}

/// The proof that a claim is still ours, by our own clock.
#[derive(Debug, Clone)]
pub struct Lease {
    /// Milliseconds of the boot clock until which the claim is surely ours.
    valid_until_ms: Arc<AtomicI64>,
    lost: CancellationToken,
}

impl Lease {
    fn new(lease: Duration, claimed_at: i64) -> Self {
        let this = Self {
            valid_until_ms: Arc::default(),
            lost: CancellationToken::new(),
        };
        this.extend(claimed_at, lease);
        this
    }

    fn extend(&self, asked_at: i64, lease: Duration) {
        // counted from before the database was asked: never later than the server's own reckoning
        let until = asked_at.saturating_add(i64::try_from(lease.as_millis()).unwrap_or(i64::MAX));
        self.valid_until_ms.store(until, Ordering::SeqCst);
    }

    /// Whether an effect may still be begun. False after a stop of this process that was longer than the lease.
    pub fn is_held(&self) -> bool {
        !self.lost.is_cancelled() && boot_clock_ms() < self.valid_until_ms.load(Ordering::SeqCst)
    }
}

/// A clock that goes on while the machine is suspended, in milliseconds.
fn boot_clock_ms() -> i64 {
    #[cfg(target_os = "linux")]
    let now = clock_gettime(ClockId::Boottime);
    #[cfg(not(target_os = "linux"))]
    let now = clock_gettime(ClockId::Monotonic);
    now.tv_sec * 1000 + now.tv_nsec / 1_000_000
}

/// The claims that this process runs.
type Running = Arc<Mutex<HashMap<JobId, (i32, Lease)>>>;

/// Runs jobs until the tasks drain, then waits for those that run.
///
/// `run` is what jobs mean; it is called with the claim and its lease. `run_batch` does many jobs in
/// one transaction and says how many.
pub async fn work<F, B>(
    (db, waker, tasks): (Db, Waker, Tasks),
    settings: Settings,
    metrics: Metrics,
    run: impl Fn(Claim, Lease) -> F + Clone + Send + Sync + 'static,
    run_batch: impl Fn() -> B + Send + 'static,
) where
    F: Future<Output = Outcome> + Send + 'static,
    B: Future<Output = Result<usize, Error>> + Send + 'static,
{
    let batches = batch::work(
        waker.clone(),
        tasks.clone(),
        settings.poll_interval,
        run_batch,
    );
    tasks.spawn(batches);
    let worker = Worker {
        // claims and heartbeats are quick, or the lease is in danger
        db: db.within((settings.lease / 2).min(Duration::from_secs(5))),
        settings,
        metrics,
        running: Running::default(),
        name: worker_name(),
    };
    waker.spawn_listener(&tasks, worker.db.clone());
    tasks.spawn_ground(worker.clone().keep_leases());
    tasks.spawn(worker.clone().rescue_lost(tasks.clone(), waker.clone()));
    let work = |lane: Lane| {
        let (worker, tasks, waker) = (worker.clone(), tasks.clone(), waker.clone());
        worker.claim_and_run(lane, tasks, waker, run.clone())
    };
    tokio::join!(work(Lane::Own), work(Lane::Outgoing), work(Lane::Fleet));
}

/// Jobs that share slots.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Lane {
    /// What is done here.
    Own,
    /// What waits for somebody else's server.
    Outgoing,
    /// What migrates the fleet.
    Fleet,
}

impl Lane {
    fn kinds(self) -> Vec<&'static str> {
        match self {
            Self::Own => {
                let elsewhere =
                    |kind: &&str| Job::OUTGOING.contains(kind) || Job::FLEET.contains(kind);
                let own = Job::KINDS.into_iter().filter(|kind| !elsewhere(kind));
                own.collect()
            }
            Self::Outgoing => Job::OUTGOING.to_vec(),
            Self::Fleet => Job::FLEET.to_vec(),
        }
    }
}

fn panicked() -> Failure {
    let error = "the handler panicked; the log has the place".to_owned();
    Failure::new("handler_panicked", error)
}

#[derive(Clone)]
struct Worker {
    db: Db,
    settings: Settings,
    metrics: Metrics,
    running: Running,
    name: String,
}

/// Host, process id and a random part: unique, and an operator can find the process.
pub fn worker_name() -> String {
    let host = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    format!(
        "{}:{}:{:04x}",
        host.trim(),
        std::process::id(),
        rand::random::<u16>()
    )
}

impl Worker {
    /// Claims and runs the jobs of a lane until the tasks drain.
    async fn claim_and_run<F>(
        self,
        lane: Lane,
        tasks: Tasks,
        waker: Waker,
        run: impl Fn(Claim, Lease) -> F + Clone + Send + Sync + 'static,
    ) where
        F: Future<Output = Outcome> + Send + 'static,
    {
        let slots = match lane {
            Lane::Own => self.settings.concurrency,
            Lane::Outgoing => self.settings.outgoing_concurrency,
            Lane::Fleet => self.settings.fleet_concurrency,
        };
        let (slots, kinds) = (Arc::new(Semaphore::new(slots)), lane.kinds());
        while !tasks.is_draining() {
            let claims = self.claim(&kinds, &slots, &waker).await;
            let claimed = !claims.is_empty();
            for (claim, lease) in claims {
                let Ok(slot) = Arc::clone(&slots).acquire_owned().await else {
                    return;
                };
                let (worker, run, waker) = (self.clone(), run.clone(), waker.clone());
                tasks.spawn(async move {
                    worker.run_one(claim, lease, run).await;
                    drop(slot);
                    // a slot is free, and the next job of the same key may be due
                    waker.wake_here();
                });
            }
            let woken = async || match lane {
                Lane::Own => waker.woken().await,
                Lane::Outgoing => waker.woken_for_outgoing().await,
                Lane::Fleet => waker.woken_for_fleet().await,
            };
            if woken().now_or_never().is_some() {
                continue;
            }
            // a call waits for the answer: a question that is cut off costs its connection
            let pause = tokio::select! {
                pause = self.find_pause(claimed) => pause,
                () = tasks.draining() => return,
            };
            tokio::select! {
                () = woken() => {}
                () = tokio::time::sleep(pause) => {}
                () = tasks.draining() => {}
            }
        }
    }

    async fn claim(&self, kinds: &[&str], slots: &Semaphore, waker: &Waker) -> Vec<(Claim, Lease)> {
        let free = i64::try_from(slots.available_permits()).unwrap_or(1);
        if free == 0 {
            return Vec::new();
        }
        let asked_at = boot_clock_ms();
        let lease = self.settings.lease;
        let claimed = self
            .db
            .run(async |connection| {
                super::claim_of(connection, kinds, &self.name, lease, free).await
            })
            .await;
        let claims = match claimed {
            Ok(claims) => claims,
            Err(Error::Raced) => {
                waker.wake_here();
                return Vec::new();
            }
            Err(error) => {
                tracing::warn!(error = chain(&error), "cannot claim jobs; trying again");
                return Vec::new();
            }
        };
        let hold = |claim: Claim| {
            let held = Lease::new(lease, asked_at);
            let now = (claim.attempt, held.clone());
            if let Some((_, earlier)) = self.running().insert(claim.id, now) {
                // the job was taken back from this very process before a heartbeat told it
                earlier.lost.cancel();
            }
            (claim, held)
        };
        claims.into_iter().map(hold).collect()
    }

    fn running(&self) -> std::sync::MutexGuard<'_, HashMap<JobId, (i32, Lease)>> {
        self.running
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    /// This attempt is over; a later one of the same job may run here.
    fn forget(&self, id: JobId, attempt: i32) {
        let mut running = self.running();
        if running.get(&id).is_some_and(|(at, _)| *at == attempt) {
            running.remove(&id);
        }
    }

    /// How long to sleep when nobody calls: until the next retry is due, at most a poll interval.
    ///
    /// After a claim the end of a job calls anyway: then nobody needs to ask what is due.
    async fn find_pause(&self, claimed: bool) -> Duration {
        if claimed {
            return self.settings.poll_interval;
        }
        let due = self
            .db
            .run(async |connection| super::next_due(connection).await)
            .await;
        let due = due.ok().flatten().unwrap_or(self.settings.poll_interval);
        due.min(self.settings.poll_interval)
    }

    async fn run_one<F: Future<Output = Outcome>>(
        &self,
        claim: Claim,
        lease: Lease,
        run: impl Fn(Claim, Lease) -> F,
    ) {
        let (kind, id, attempt) = (claim.payload.kind(), claim.id, claim.attempt);
        if self.settings.faults.hit(FAULT_CLAIMED).await.is_err() {
            self.forget(id, attempt);
            return;
        }
        let lost = lease.lost.clone();
        // a handler that panics has failed like any other: its claim must not be kept alive for ever
        let handled = AssertUnwindSafe(run(claim.clone(), lease)).catch_unwind();
        let outcome = tokio::select! {
            outcome = handled => outcome.unwrap_or_else(|_| Outcome::Retry(panicked())),
            () = lost.cancelled() => Outcome::Lost,
        };
        // an error at these points is that of a worker that vanished: the lease brings the job back
        let vanished = self.settings.faults.hit(FAULT_SETTLING).await.is_err();
        let settled = if vanished {
            Ok(())
        } else {
            self.settle(&claim, &outcome).await
        };
        let _ = self.settings.faults.hit(FAULT_SETTLED).await;
        self.forget(id, attempt);
        let name = match (&settled, &outcome) {
            (Err(Error::LostClaim { .. }), _) | (_, Outcome::Lost) => {
                self.metrics.fenced_writes.inc();
                "lost"
            }
            (_, Outcome::Done | Outcome::Settled(Settled::Completed)) => "completed",
            (_, Outcome::Settled(Settled::Discarded)) => "discarded",
            (_, Outcome::Released | Outcome::Settled(Settled::Postponed)) => "released",
            (_, Outcome::Retry(_)) => "retried",
        };
        self.metrics.job_attempt_ended(kind, name);
        tracing::debug!(job.id = %id, job.kind = kind, job.attempt = attempt, outcome = name, "job attempt ended");
        if let Err(error) = settled {
            // the lease runs out and the job is taken back: nothing is lost, only late
            tracing::warn!(job.id = %id, error = chain(&error), "the outcome of a job was not recorded");
        }
    }

    async fn settle(&self, claim: &Claim, outcome: &Outcome) -> Result<(), Error> {
        self.db
            .run(async |connection| match outcome {
                Outcome::Settled(_) | Outcome::Lost => Ok(()),
                Outcome::Done => super::complete(connection, claim).await,
                Outcome::Released => super::release(connection, claim).await,
                Outcome::Retry(
                    failure @ Failure {
                        retry_after: Some(after),
                        ..
                    },
                ) => {
                    // everybody is told the same moment: not all of them should come back in it
                    let delay = after.mul_f64(1.0 + rand::random::<f64>());
                    super::postpone(connection, claim, failure, delay).await
                }
                Outcome::Retry(failure) if claim.is_exhausted() => {
                    super::bury(connection, claim, failure).await
                }
                Outcome::Retry(failure) => {
                    let delay = backoff::delay(claim.attempt, rand::random());
                    super::retry(connection, claim, failure, delay).await
                }
            })
            .await
    }

    /// The heartbeat of everything that runs here.
    async fn keep_leases(self) {
        let mut beat = tokio::time::interval(self.settings.lease / 4);
        beat.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            beat.tick().await;
            let held: Vec<_> = self
                .running()
                .iter()
                .map(|(id, (attempt, _))| (*id, *attempt))
                .collect();
            if held.is_empty() {
                continue;
            }
            let asked_at = boot_clock_ms();
            let lease = self.settings.lease;
            let kept = self
                .db
                .run(async |connection| super::heartbeat(connection, &held, lease).await)
                .await;
            let Ok(kept) = kept else { continue };
            let kept: HashMap<_, _> = kept.iter().map(|kept| (kept.id, kept.is_moved)).collect();
            let running = self.running();
            for (id, attempt) in held {
                let Some((_, lease_of)) = running.get(&id).filter(|(at, _)| *at == attempt) else {
                    continue;
                };
                match kept.get(&id) {
                    Some(true) => lease_of.extend(asked_at, lease),
                    Some(false) => {}
                    None => lease_of.lost.cancel(),
                }
            }
            if kept.values().any(|is_moved| !is_moved) {
                // somebody had its row locked: that is short, and must not meet every beat
                beat.reset_after(lease / 40);
            }
        }
    }

    /// Takes back the jobs of processes that died.
    async fn rescue_lost(self, tasks: Tasks, waker: Waker) {
        let mut sweep =
            tokio::time::interval((self.settings.lease / 6).min(Duration::from_secs(2)));
        sweep.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        while !tasks.is_draining() {
            tokio::select! {
                _ = sweep.tick() => {}
                () = tasks.draining() => return,
            }
            let Ok(jobs) = self
                .db
                .run(async |connection| super::rescue(connection).await)
                .await
            else {
                continue;
            };
            if jobs > 0 {
                tracing::warn!(jobs, "took back jobs whose worker showed no sign of life");
                self.metrics.job_rescues.inc_by(jobs);
                waker.wake_here();
            }
        }
    }
}
