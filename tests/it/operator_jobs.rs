//! What an operator does about jobs and events, and what follows from it.

use sqlx::PgConnection;
use tenantry::{
    actions::{self, Refusal},
    inbox::{self, Event, EventState},
    jobs,
    provisioning::BlueprintSource,
    queue::{self, Job, JobId, JobState, NewJob, StoredJob},
};

use crate::support::{
    App, Deployment, TinyBlueprint,
    app::{new_org, operator, wait_until},
    cluster::execute,
    events,
    people::{self, Belongs, new_id},
};

/// A replica that records events, with nobody at work.
async fn quiet(deployment: Deployment, blueprint: BlueprintSource) -> App {
    let app = App::listening(deployment, blueprint).await;
    app.replica.migrate().await.unwrap();
    app
}

async fn cancel(app: &App, id: JobId) -> Result<StoredJob, Refusal> {
    let cancel = async |tx: &mut _| actions::cancel_job(tx, id, &operator()).await;
    app.replica.db.transaction(cancel).await
}

async fn retry(app: &App, id: JobId) -> Result<StoredJob, Refusal> {
    let retry = async |tx: &mut _| actions::retry_job(tx, id, 25, &operator()).await;
    app.replica.db.transaction(retry).await
}

async fn replay(app: &App, id: i64) -> Result<Event, Refusal> {
    let replay = async |tx: &mut _| actions::replay_event(tx, id, 25, &operator()).await;
    let replayed = app.replica.db.transaction(replay).await;
    app.replica.waker.wake();
    replayed
}

async fn job(app: &App, kind: &str) -> JobId {
    let newest = format!("select max(id) from jobs where kind = '{kind}'");
    JobId(app.ask(&newest).await)
}

const EVENTS: &str =
    "select string_agg(concat_ws(' ', state, reason), ', ' order by id) from webhook_events";

/// What an operator is on record with.
async fn acts(app: &App) -> String {
    let acts = "select string_agg(concat_ws(' ', actor, action, target_kind, source, org_id is not null), ', ' order by id)
                from audit_log where actor_kind = 'operator' and target_kind <> 'tenant'";
    app.ask(acts).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cancelled_event_fails_with_its_job_and_goes_on_with_it() {
    let blueprint = TinyBlueprint::new();
    let app = quiet(Deployment::new().await, blueprint.source()).await;
    let org = new_org();
    app.accepts(&[&events::created(&org, "Acme")]).await;
    let id = job(&app, "process_event").await;
    let cancelled = cancel(&app, id).await.unwrap();
    assert_eq!(cancelled.state, JobState::Cancelled);
    assert!(cancelled.finished_at.is_some());
    assert_eq!(
        app.ask::<String>(EVENTS).await,
        format!("failed job_cancelled: job {id} was cancelled by an operator")
    );
    let again = cancel(&app, id).await.unwrap_err();
    assert_eq!(again.code(), "job_wrong_state");
    let unknown = cancel(&app, JobId(0)).await.unwrap_err();
    assert_eq!(unknown.code(), "job_unknown");
    let count = async |connection: &mut PgConnection| queue::count(connection).await;
    let counts = app.replica.db.run(count).await.unwrap();
    assert!(counts.is_empty(), "neither live nor dead: {counts:?}");

    let retried = retry(&app, id).await.unwrap();
    assert_eq!(
        (retried.state, retried.finished_at),
        (JobState::Available, None)
    );
    assert_eq!(app.ask::<String>(EVENTS).await, "received");
    app.replica.build_templates().await.unwrap();
    app.replica.work();
    app.tenant(&org).is_ready().await;
    app.is_idle().await;
    let done = retry(&app, id).await.unwrap_err();
    assert_eq!(done.code(), "job_wrong_state");
    assert_eq!(
        acts(&app).await,
        "ops job.cancelled job workos t, ops job.retried job workos t"
    );
    app.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tenant_whose_job_is_cancelled_fails_and_can_be_retried_by_either_name() {
    let blueprint = TinyBlueprint::new();
    let app = quiet(Deployment::new().await, blueprint.source()).await;
    let org = new_org();
    app.accepts(&[&events::created(&org, "Acme")]).await;
    let cx = app.replica.job_context();
    assert_eq!(jobs::process_batch(&cx).await.unwrap(), 1);
    let id = job(&app, "provision_tenant").await;

    cancel(&app, id).await.unwrap();
    let failure = app.tenant(&org).fails().await;
    assert_eq!(failure.code, "job_cancelled");
    retry(&app, id).await.unwrap();
    app.tenant(&org).is_in("pending").await;

    cancel(&app, id).await.unwrap();
    app.tenant(&org).fails().await;
    app.tenant(&org).retry().await;
    let live =
        "select string_agg(id || ' ' || state, ', ') from jobs where kind = 'provision_tenant'";
    assert_eq!(
        app.ask::<String>(live).await,
        format!("{id} available"),
        "the same job goes on"
    );
    app.replica.build_templates().await.unwrap();
    app.replica.work();
    app.tenant(&org).is_ready().await;
    app.is_idle().await;
    app.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_job_for_a_tenant_that_must_not_go_on_is_not_retried() {
    let blueprint = TinyBlueprint::new();
    let app = quiet(Deployment::new().await, blueprint.source()).await;
    let org = new_org();
    app.accepts(&[&events::created(&org, "Acme")]).await;
    let cx = app.replica.job_context();
    jobs::process_batch(&cx).await.unwrap();
    let id = job(&app, "provision_tenant").await;
    cancel(&app, id).await.unwrap();
    app.accepts(&[&events::deleted(&org, "Acme", 5)]).await;
    jobs::process_batch(&cx).await.unwrap();
    app.tenant(&org).is_in("suspended").await;
    let refused = retry(&app, id).await.unwrap_err();
    assert_eq!(refused.code(), "tenant_wrong_state");
    let state = format!("select state from jobs where id = {id}");
    assert_eq!(
        app.ask::<String>(&state).await,
        "cancelled",
        "nothing was changed"
    );
    app.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_job_that_runs_is_left_alone_and_one_that_waits_for_its_time_begins_now() {
    let app = quiet(Deployment::new().await, BlueprintSource::Bundled).await;
    let new = NewJob {
        job: Job::SyncMembers {
            tenant: uuid::Uuid::nil(),
        },
        concurrency_key: None,
        unique_key: Some("sync:1".to_owned()),
        max_attempts: 3,
        delay: std::time::Duration::from_hours(1),
    };
    let db = &app.replica.db;
    let enqueue = async |tx: &mut _| queue::enqueue(tx, &new).await;
    let id = db.transaction(enqueue).await.unwrap().unwrap();
    let retried = retry(&app, id).await.unwrap();
    assert!(retried.run_at <= crate::support::app::now());
    assert_eq!(retried.max_attempts, 3, "it was not given up");
    let lease = std::time::Duration::from_mins(1);
    let claim = async |connection: &mut _| queue::claim(connection, "worker", lease, 1).await;
    assert_eq!(db.run(claim).await.unwrap().len(), 1);
    assert_eq!(cancel(&app, id).await.unwrap_err().code(), "job_is_running");
    assert_eq!(retry(&app, id).await.unwrap_err().code(), "job_is_running");

    // it dies, and another one of its kind is asked for
    let die = format!(
        "update jobs set state = 'dead', lease_expires_at = null, finished_at = now() where id = {id}"
    );
    execute(&app.deployment.control_url, &die).await;
    let other = db.transaction(enqueue).await.unwrap().unwrap();
    assert_eq!(retry(&app, id).await.unwrap_err().code(), "job_superseded");
    cancel(&app, other).await.unwrap();
    let retried = retry(&app, id).await.unwrap();
    assert_eq!(
        (retried.attempt, retried.max_attempts),
        (1, 26),
        "further attempts"
    );
    app.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_failed_event_is_replayed_after_the_repair_and_its_dead_job_rests() {
    let mut deployment = Deployment::new().await;
    deployment.set("TENANTRY__QUEUE__MAX_ATTEMPTS", "1");
    let fault = "process_event.before=error;queue.claimed=error";
    let blueprint = TinyBlueprint::new();
    let app = App::of(deployment.with_fault(fault), blueprint.source()).await;
    let org = new_org();
    app.accepts(&[&events::created(&org, "Acme")]).await;
    app.is_idle().await;
    let event: i64 = app.ask("select id from webhook_events").await;
    assert!(
        app.ask::<String>(EVENTS)
            .await
            .starts_with("failed worker_lost")
    );

    let replayed = replay(&app, event).await.unwrap();
    assert_eq!(
        (replayed.state, replayed.settled_at),
        (EventState::Received, None)
    );
    app.tenant(&org).is_ready().await;
    app.is_idle().await;
    assert_eq!(app.ask::<String>(EVENTS).await, "processed");
    let jobs = "select string_agg(state, ', ' order by id) from jobs where kind = 'process_event'";
    assert_eq!(app.ask::<String>(jobs).await, "cancelled, completed");
    assert_eq!(acts(&app).await, "ops event.replayed event workos t");
    app.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_replay_and_a_retry_in_the_same_instant_do_not_wait_for_each_other() {
    let mut deployment = Deployment::new().await;
    deployment.set("TENANTRY__QUEUE__MAX_ATTEMPTS", "1");
    let fault = "process_event.before=error;queue.claimed=error";
    let blueprint = TinyBlueprint::new();
    let app = App::of(deployment.with_fault(fault), blueprint.source()).await;
    app.accepts(&[&events::created(&new_org(), "Acme")]).await;
    app.is_idle().await;
    let event: i64 = app.ask("select id from webhook_events").await;
    let dead = job(&app, "process_event").await;

    let (has_job, job_is_held) = tokio::sync::oneshot::channel::<()>();
    let retried = app.replica.db.transaction(async |tx| {
        queue::retry_job(tx, dead, 25).await?;
        has_job.send(()).unwrap();
        wait_until("the replay waits", async || {
            let waits = "select exists (select from pg_stat_activity
                                        where datname = current_database() and wait_event_type = 'Lock')";
            app.ask::<bool>(waits).await
        })
        .await;
        inbox::lock_event(tx, event).await?;
        inbox::mark_received(tx, event).await?;
        Ok::<_, Refusal>(())
    });
    let replayed = async {
        job_is_held.await.unwrap();
        replay(&app, event).await
    };
    let (retried, replayed) = tokio::join!(retried, replayed);
    retried.unwrap();
    assert!(
        matches!(replayed, Err(Refusal::EventIsPending(_))),
        "{replayed:?}"
    );
    app.is_idle().await;
    assert_eq!(app.ask::<String>(EVENTS).await, "processed");
    app.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_processed_event_that_is_replayed_changes_nothing() {
    let blueprint = TinyBlueprint::new();
    let app = App::of(Deployment::new().await, blueprint.source()).await;
    let org = new_org();
    app.accepts(&[
        &events::created(&org, "Acme"),
        &events::updated(&org, "Acme Inc", 3),
    ])
    .await;
    let before = app.tenant(&org).is_ready().await;
    app.is_idle().await;
    let log = "select count(*) from audit_log where target_kind <> 'event'";
    let logged: i64 = app.ask(log).await;
    let first: i64 = app.ask("select min(id) from webhook_events").await;
    replay(&app, first).await.unwrap();
    app.is_idle().await;
    let after = app.tenant(&org).is_ready().await;
    assert_eq!(after.name, "Acme Inc");
    assert_eq!(after.updated_at, before.updated_at.max(after.updated_at));
    assert_eq!(app.ask::<i64>(log).await, logged, "nobody changed anything");
    assert_eq!(app.ask::<i64>("select count(*) from tenants").await, 1);
    app.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_not_settled_or_in_conflict_is_not_replayed() {
    let blueprint = TinyBlueprint::new();
    let app = quiet(Deployment::new().await, blueprint.source()).await;
    let mut event = events::created(&new_org(), "Acme");
    app.accepts(&[&event]).await;
    event["data"]["name"] = "Other".into();
    app.deliver(&event).await;
    let code = async |id: i64| replay(&app, id).await.unwrap_err().code();
    let id = async |state: &str| {
        app.ask::<i64>(&format!(
            "select id from webhook_events where state = '{state}'"
        ))
        .await
    };
    assert_eq!(code(id("received").await).await, "event_is_pending");
    assert_eq!(code(id("conflict").await).await, "event_in_conflict");
    assert_eq!(code(-1).await, "event_unknown");
    let belongs = Belongs {
        id: &new_id("om"),
        org: &new_org(),
        user: "user_1",
        role: "member",
    };
    app.accepts(&[&people::membership("created", belongs, "active", 1)])
        .await;
    jobs::process_batch(&app.replica.job_context())
        .await
        .unwrap();
    assert_eq!(code(id("waiting").await).await, "event_is_pending");
    // who would ask about what it names is cancelled: it waits for nobody any more
    cancel(&app, job(&app, "fetch_parent").await).await.unwrap();
    let reason = "select reason from webhook_events where state = 'failed'";
    assert!(
        app.ask::<String>(reason)
            .await
            .starts_with("job_cancelled: ")
    );
    app.stop().await;
}
