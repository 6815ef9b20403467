//! The queue by itself: who may run what, when, and who may still write.

use std::{
    collections::HashMap,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicI64, Ordering},
    },
    time::Duration,
};

use futures_util::future::join_all;
use secrecy::SecretString;
use tenantry::{
    db::Db,
    faults::Faults,
    metrics::Metrics,
    queue::{
        self, Claim, Error, Failure, Job, JobId, NewJob, Waker,
        worker::{self, Outcome},
    },
    shutdown::Tasks,
};

use crate::support::{
    App, Deployment, TinyBlueprint, app::new_org, app::wait_until, cluster, events,
};

const HOUR: Duration = Duration::from_hours(1);
const NOW: Duration = Duration::ZERO;

/// A queue in a control database of its own.
pub struct Queue {
    pub db: Db,
    url: String,
}

impl Queue {
    pub async fn new() -> Self {
        let url = Deployment::new().await.control_url;
        let db = Db::new(&SecretString::from(url.as_str()), 16).unwrap();
        db.migrate().await.unwrap();
        Self { db, url }
    }

    pub async fn enqueue(&self, key: Option<&str>, max_attempts: i32) -> JobId {
        let job = new_job(key, None, max_attempts);
        self.add(&job).await.unwrap()
    }

    async fn add(&self, job: &NewJob) -> Option<JobId> {
        let added = self
            .db
            .transaction(async |tx| queue::enqueue(tx, job).await);
        added.await.unwrap()
    }

    async fn rouse(&self, job: &NewJob) {
        let roused = self.db.transaction(async |tx| queue::rouse(tx, job).await);
        roused.await.unwrap();
    }

    pub async fn claim(&self, limit: i64) -> Vec<Claim> {
        let claimed = self
            .db
            .run(async |connection| queue::claim(connection, "a worker", HOUR, limit).await);
        claimed.await.unwrap()
    }

    /// The one job that can be claimed.
    async fn claim_one(&self) -> Claim {
        let mut claims = self.claim(10).await;
        assert_eq!(claims.len(), 1);
        claims.remove(0)
    }

    /// Whether the claim is still held and its lease was moved.
    pub async fn heartbeat(&self, claim: &Claim) -> bool {
        let kept = self.heartbeats(&[claim]).await;
        kept == [(claim.id, true)]
    }

    /// One heartbeat of several claims: those that are held, with whether their leases were moved.
    async fn heartbeats(&self, claims: &[&Claim]) -> Vec<(JobId, bool)> {
        let held: Vec<_> = claims.iter().map(|of| (of.id, of.attempt)).collect();
        let kept = self
            .db
            .run(async |connection| queue::heartbeat(connection, &held, HOUR).await);
        let mut kept: Vec<_> = kept
            .await
            .unwrap()
            .iter()
            .map(|of| (of.id, of.is_moved))
            .collect();
        kept.sort_unstable();
        kept
    }

    pub async fn complete(&self, claim: &Claim) -> Result<(), Error> {
        self.db
            .transaction(async |tx| queue::complete(tx, claim).await)
            .await
    }

    pub async fn retry(&self, claim: &Claim, delay: Duration) -> Result<(), Error> {
        let retried = self
            .db
            .transaction(async |tx| queue::retry(tx, claim, &failure(), delay).await);
        retried.await
    }

    pub async fn release(&self, claim: &Claim) -> Result<(), Error> {
        self.db
            .transaction(async |tx| queue::release(tx, claim).await)
            .await
    }

    pub async fn bury(&self, claim: &Claim) -> Result<(), Error> {
        let buried = self
            .db
            .transaction(async |tx| queue::bury(tx, claim, &failure()).await);
        buried.await
    }

    pub async fn rescue(&self) -> u64 {
        let taken = self
            .db
            .run(async |connection| queue::rescue(connection).await);
        taken.await.unwrap()
    }

    /// The worker of a job shows no sign of life for its whole lease.
    pub async fn expire(&self, id: JobId) {
        self.execute(format!(
            "update jobs set lease_expires_at = now() - interval '1 second' where id = {id} and state = 'running'"
        ))
        .await;
    }

    /// Whatever waits is due.
    pub async fn an_hour_passes(&self) {
        self.execute("update jobs set run_at = now() where run_at > now()".to_owned())
            .await;
    }

    pub async fn clear(&self) {
        self.execute("delete from jobs".to_owned()).await;
    }

    /// Every job with its state and its attempt.
    pub async fn rows(&self) -> Vec<(JobId, String, i32)> {
        let rows = self.db.run(async |connection| {
            sqlx::query_as("select id, state, attempt from jobs order by id")
                .fetch_all(connection)
                .await
        });
        rows.await.unwrap()
    }

    async fn execute(&self, sql: String) {
        let done = self.db.run(async |connection| {
            sqlx::raw_sql(sqlx::AssertSqlSafe(sql))
                .execute(connection)
                .await
        });
        done.await.unwrap();
    }

    async fn ask<T>(&self, sql: &str) -> T
    where
        T: for<'r> sqlx::Decode<'r, sqlx::Postgres> + sqlx::Type<sqlx::Postgres> + Send + Unpin,
    {
        cluster::ask(&self.url, sql).await
    }

    async fn state(&self, id: JobId) -> String {
        self.ask(&format!("select state from jobs where id = {id}"))
            .await
    }

    /// The attempts of a job: `<number> <outcome> <code>`.
    async fn attempts(&self, id: JobId) -> String {
        let sql = format!(
            "select string_agg(concat_ws(' ', attempt, outcome, error_code), ', ' order by attempt)
             from job_attempts
             where job_id = {id}"
        );
        self.ask(&sql).await
    }
}

pub fn new_job(key: Option<&str>, unique_key: Option<&str>, max_attempts: i32) -> NewJob {
    NewJob {
        job: Job::ProcessEvent { event: 1 },
        concurrency_key: key.map(str::to_owned),
        unique_key: unique_key.map(str::to_owned),
        max_attempts,
        delay: Duration::ZERO,
    }
}

fn failure() -> Failure {
    Failure {
        code: "it_broke",
        error: "it broke: twice".to_owned(),
        retry_after: None,
    }
}

fn is_lost<T: std::fmt::Debug>(result: &Result<T, Error>) -> bool {
    matches!(result, Err(Error::LostClaim { .. }))
}

#[tokio::test(flavor = "multi_thread")]
async fn eight_workers_run_the_jobs_of_a_key_one_at_a_time_and_oldest_first() {
    let queue = Queue::new().await;
    let keys = ["red", "green", "blue", "black"];
    let mut key_of = HashMap::new();
    for _ in 0..20 {
        for key in keys {
            key_of.insert(queue.enqueue(Some(key), 3).await, key);
        }
    }
    let running: Mutex<HashMap<&str, JobId>> = Mutex::default();
    let order: Mutex<HashMap<&str, Vec<JobId>>> = Mutex::default();
    let open = AtomicI64::new(i64::try_from(key_of.len()).unwrap());

    let worker = async || {
        while open.load(Ordering::SeqCst) > 0 {
            let claims = queue.claim(3).await;
            for claim in &claims {
                let key = key_of[&claim.id];
                let other = running.lock().unwrap().insert(key, claim.id);
                assert_eq!(other, None, "two jobs of {key} at once");
                order.lock().unwrap().entry(key).or_default().push(claim.id);
            }
            for claim in &claims {
                tokio::task::yield_now().await;
                running.lock().unwrap().remove(key_of[&claim.id]);
                queue.complete(claim).await.unwrap();
                open.fetch_sub(1, Ordering::SeqCst);
            }
        }
    };
    join_all((0..8).map(|_| worker())).await;

    let order = order.into_inner().unwrap();
    for key in keys {
        assert_eq!(order[key].len(), 20);
        assert!(order[key].is_sorted(), "{key}: {:?}", order[key]);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn jobs_without_a_key_do_not_wait_for_each_other() {
    let queue = Queue::new().await;
    for _ in 0..5 {
        queue.enqueue(None, 3).await;
    }
    assert_eq!(queue.claim(3).await.len(), 3);
    assert_eq!(queue.claim(3).await.len(), 2);
    assert_eq!(queue.claim(3).await.len(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_job_whose_worker_is_lost_is_taken_back_and_the_lost_one_writes_nothing() {
    let queue = Queue::new().await;
    let id = queue.enqueue(Some("key"), 3).await;
    let lost = queue.claim_one().await;
    assert_eq!((lost.id, lost.attempt), (id, 1));

    assert_eq!(queue.rescue().await, 0, "the lease has not run out");
    queue.expire(id).await;
    assert!(
        queue.heartbeat(&lost).await,
        "late, but nobody has taken it"
    );
    assert_eq!(queue.rescue().await, 0, "the heartbeat moved the lease");
    queue.expire(id).await;
    assert_eq!(queue.rescue().await, 1);
    assert_is_fenced(&queue, &lost).await;

    let held = queue.claim_one().await;
    assert_eq!((held.id, held.attempt), (id, 2));
    assert_is_fenced(&queue, &lost).await;

    assert!(queue.heartbeat(&held).await);
    queue.complete(&held).await.unwrap();
    assert_is_fenced(&queue, &held).await;
    assert_is_fenced(&queue, &lost).await;
    assert_eq!(queue.state(id).await, "completed");
    assert_eq!(queue.attempts(id).await, "1 lost worker_lost, 2 completed");
    assert!(queue.claim(10).await.is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_heartbeat_waits_for_nobody_who_has_a_job_locked() {
    let queue = Queue::new().await;
    for _ in 0..2 {
        queue.enqueue(None, 3).await;
    }
    let claims = queue.claim(2).await;
    let [first, second] = [&claims[0], &claims[1]];
    let busy = format!("select from jobs where id = {} for update", first.id);
    let mut busy = cluster::hold(&queue.url, &busy).await;
    let both = [first, second];
    let beat = tokio::time::timeout(Duration::from_secs(5), queue.heartbeats(&both));
    let kept = [(first.id, false), (second.id, true)];
    assert_eq!(beat.await.expect("it does not wait"), kept);
    busy.release().await;
    assert!(queue.heartbeat(first).await);
}

/// Whoever holds this claim can write nothing.
async fn assert_is_fenced(queue: &Queue, claim: &Claim) {
    let row = format!("select jobs::text from jobs where id = {}", claim.id);
    let before: String = queue.ask(&row).await;
    assert!(!queue.heartbeat(claim).await);
    assert!(is_lost(&queue.complete(claim).await));
    assert!(is_lost(&queue.retry(claim, NOW).await));
    assert!(is_lost(&queue.release(claim).await));
    assert!(is_lost(&queue.bury(claim).await));
    let held = queue
        .db
        .transaction(async |tx| queue::assert_held(tx, claim).await);
    assert!(is_lost(&held.await));
    assert_eq!(queue.ask::<String>(&row).await, before);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lease_runs_out_by_itself() {
    let queue = Queue::new().await;
    queue.enqueue(None, 3).await;
    let lease = Duration::from_millis(100);
    let claimed = queue
        .db
        .run(async |connection| queue::claim(connection, "w", lease, 1).await);
    assert_eq!(claimed.await.unwrap().len(), 1);
    wait_until("the lease has run out", async || queue.rescue().await == 1).await;
    assert_eq!(queue.claim_one().await.attempt, 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_retry_waits_for_its_time_and_lets_younger_jobs_of_the_key_pass() {
    let queue = Queue::new().await;
    let older = queue.enqueue(Some("key"), 3).await;
    let younger = queue.enqueue(Some("key"), 3).await;
    let claim = queue.claim_one().await;
    assert_eq!(claim.id, older);

    queue.retry(&claim, HOUR).await.unwrap();

    let passed = queue.claim_one().await;
    assert_eq!(passed.id, younger);
    queue.complete(&passed).await.unwrap();
    assert!(queue.claim(10).await.is_empty());
    let due = queue
        .db
        .run(async |connection| queue::next_due(connection).await);
    let due = due.await.unwrap().unwrap();
    assert!((Duration::from_mins(59)..=HOUR).contains(&due), "{due:?}");

    queue.an_hour_passes().await;
    let again = queue.claim_one().await;
    assert_eq!((again.id, again.attempt), (older, 2));
    assert_eq!(queue.attempts(older).await, "1 retried it_broke, 2");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_last_attempt_buries_the_job_with_its_error() {
    let queue = Queue::new().await;
    let id = queue.enqueue(None, 2).await;
    let first = queue.claim_one().await;
    assert!(!first.is_last_attempt());
    queue.retry(&first, NOW).await.unwrap();
    let last = queue.claim_one().await;
    assert!(last.is_last_attempt() && !last.is_exhausted());

    queue.bury(&last).await.unwrap();

    assert_eq!(queue.state(id).await, "dead");
    assert_eq!(
        queue.attempts(id).await,
        "1 retried it_broke, 2 discarded it_broke"
    );
    let error = format!("select error from job_attempts where job_id = {id} and attempt = 2");
    assert_eq!(queue.ask::<String>(&error).await, "it broke: twice");
    let finished = format!("select finished_at is not null from jobs where id = {id}");
    assert!(queue.ask::<bool>(&finished).await);
    assert!(queue.claim(10).await.is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_released_attempt_does_not_count_and_a_lost_one_does() {
    let queue = Queue::new().await;
    let id = queue.enqueue(None, 1).await;
    for _ in 0..3 {
        let claim = queue.claim_one().await;
        assert!(claim.is_last_attempt() && !claim.is_exhausted());
        queue.release(&claim).await.unwrap();
    }
    queue.claim_one().await;
    queue.expire(id).await;
    assert_eq!(queue.rescue().await, 1);
    assert!(queue.claim_one().await.is_exhausted());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_unique_key_allows_one_live_job() {
    let queue = Queue::new().await;
    let job = new_job(None, Some("provision:1"), 3);
    let added = join_all((0..10).map(|_| queue.add(&job))).await;
    assert_eq!(added.iter().flatten().count(), 1);
    let claim = queue.claim_one().await;
    assert_eq!(queue.add(&job).await, None, "one is running");
    queue.retry(&claim, HOUR).await.unwrap();
    assert_eq!(queue.add(&job).await, None, "one waits");
    queue.an_hour_passes().await;
    let claim = queue.claim_one().await;
    queue.complete(&claim).await.unwrap();
    assert!(queue.add(&job).await.is_some(), "the other one is done");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_event_whose_worker_is_lost_on_the_last_attempt_fails_with_its_job() {
    // its batch fails first: only then is the event's job claimed by itself
    let fault = "process_event.before=error;queue.claimed=error";
    let mut deployment = Deployment::new().await.with_fault(fault);
    deployment.set("TENANTRY__QUEUE__MAX_ATTEMPTS", "1");
    let blueprint = TinyBlueprint::new();
    let app = App::of(deployment, blueprint.source()).await;
    app.accepts(&[&events::created(&new_org(), "Acme")]).await;
    app.is_idle().await;
    let event = "select concat_ws(' ', state, reason) from webhook_events";
    assert_eq!(
        app.ask::<String>(event).await,
        "failed worker_lost: its worker was lost on the last attempt"
    );
    assert_eq!(app.ask::<String>("select state from jobs").await, "dead");
    assert_eq!(app.ask::<i64>("select count(*) from tenants").await, 0);
    app.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tenant_whose_worker_is_lost_on_the_last_attempt_fails_with_its_job_and_can_be_retried() {
    let mut deployment = Deployment::new().await;
    deployment.set("TENANTRY__QUEUE__MAX_ATTEMPTS", "1");
    let blueprint = TinyBlueprint::new();
    let stalled = deployment.with_fault("create_role.after_effect=stall:600000");
    let dying = App::of(stalled, blueprint.source()).await;
    let org = new_org();
    dying.accepts(&[&events::created(&org, "Acme")]).await;
    let faults = &dying.replica.provisioner.faults;
    wait_until("the role is there", async || {
        faults.was_hit("create_role.after_effect")
    })
    .await;
    dying.vanish().await;

    let app = App::of(deployment, blueprint.source()).await;
    let failure = app.tenant(&org).fails().await;
    assert_eq!(failure.code, "worker_lost");
    app.is_idle().await;
    let dead = "select count(*) from jobs where kind = 'provision_tenant' and state = 'dead'";
    assert_eq!(app.ask::<i64>(dead).await, 1);

    app.tenant(&org).retry().await;
    app.tenant(&org).is_ready().await;
    assert_eq!(
        app.tenant(&org)
            .ask::<i64>("select count(*) from notes")
            .await,
        1
    );
    app.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_job_that_is_roused_while_it_runs_and_then_fails_begins_anew_at_once() {
    let queue = Queue::new().await;
    let job = new_job(None, Some("sync:1"), 1);
    let rouse = async || queue.rouse(&job).await;
    rouse().await;
    let claim = queue.claim_one().await;
    rouse().await;
    queue.retry(&claim, HOUR).await.unwrap();
    let claim = queue.claim_one().await;
    assert_eq!((claim.attempt, claim.max_attempts), (2, 2), "due at once");
    rouse().await;
    queue.bury(&claim).await.unwrap();
    let claim = queue.claim_one().await;
    assert!(!claim.is_exhausted(), "asked for again, so not dead");
    queue.bury(&claim).await.unwrap();
    assert_eq!(queue.state(claim.id).await, "dead", "nobody asked any more");
    rouse().await;
    assert_ne!(queue.claim_one().await.id, claim.id, "a new one");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_job_that_is_roused_while_its_last_worker_is_lost_begins_anew() {
    let queue = Queue::new().await;
    let job = new_job(None, Some("sync:1"), 1);
    let rouse = async || queue.rouse(&job).await;
    rouse().await;
    let claim = queue.claim_one().await;
    rouse().await;
    queue.expire(claim.id).await;
    assert_eq!(queue.rescue().await, 1);
    let claim = queue.claim_one().await;
    assert!(!claim.is_exhausted(), "asked for again, so not dead");
    queue.expire(claim.id).await;
    assert_eq!(queue.rescue().await, 1);
    assert!(
        queue.claim_one().await.is_exhausted(),
        "nobody asked any more"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_postponed_attempt_does_not_count() {
    let queue = Queue::new().await;
    let id = queue.enqueue(None, 1).await;
    for _ in 0..3 {
        let claim = queue.claim_one().await;
        assert!(claim.is_last_attempt() && !claim.is_exhausted());
        let postponed = queue
            .db
            .transaction(async |tx| queue::postpone(tx, &claim, &failure(), HOUR).await);
        postponed.await.unwrap();
        assert!(queue.claim(1).await.is_empty(), "not before an hour");
        queue.an_hour_passes().await;
    }
    assert_eq!(
        queue.attempts(id).await,
        "1 released it_broke, 2 released it_broke, 3 released it_broke"
    );
}

/// Notes that what it belongs to is over.
struct Over(Arc<AtomicBool>);

impl Drop for Over {
    fn drop(&mut self) {
        self.0.store(true, Ordering::SeqCst);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_job_that_comes_back_to_the_same_process_is_kept_by_its_last_attempt_alone() {
    let lease = Duration::from_secs(2);
    let queue = Queue::new().await;
    let job = NewJob {
        job: Job::SyncMembers {
            tenant: uuid::Uuid::now_v7(),
        },
        ..new_job(None, None, 10)
    };
    let id = queue.add(&job).await.unwrap();
    let first_is_over = Arc::new(AtomicBool::new(false));
    let over = Arc::clone(&first_is_over);
    let run = move |claim: Claim, _| {
        let over = Arc::clone(&over);
        async move {
            if claim.attempt == 1 {
                let _over = Over(over);
                std::future::pending::<()>().await;
            }
            tokio::time::sleep(3 * lease).await;
            Outcome::Done
        }
    };
    let settings = worker::Settings {
        concurrency: 4,
        outgoing_concurrency: 1,
        fleet_concurrency: 1,
        lease,
        poll_interval: Duration::from_millis(20),
        faults: Faults::default(),
    };
    let tasks = Tasks::new();
    let parts = (queue.db.clone(), Waker::default(), tasks.clone());
    let work = worker::work(parts, settings, Metrics::new(), run, async || Ok(0));
    tasks.spawn(work);
    wait_until("the first attempt runs", async || {
        queue.state(id).await == "running"
    })
    .await;

    // before this process hears of it
    let taken_back = "update jobs set state = 'available', lease_expires_at = null, run_at = now()";
    queue.execute(taken_back.to_owned()).await;

    wait_until("the first attempt is dropped", async || {
        first_is_over.load(Ordering::SeqCst)
    })
    .await;
    wait_until("the second attempt ends", async || {
        queue.state(id).await == "completed"
    })
    .await;
    let attempts = "select max(attempt) from job_attempts";
    assert_eq!(queue.ask::<i32>(attempts).await, 2);
    tasks.finish(Duration::from_secs(10)).await;
}
