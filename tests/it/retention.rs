//! What is old and over goes; what is young or not over stays, whatever happens meanwhile.

use std::time::Duration;

use serde_json::{Value, json};
use sqlx::PgConnection;
use tenantry::{
    actions,
    faults::Faults,
    provisioning::BlueprintSource,
    queue,
    replica::Replica,
    retention::{self, Plan},
};

use crate::support::{
    App, Deployment, TinyBlueprint,
    app::{new_org, operator, wait_until},
    cluster::{ask, execute, hold},
    events,
    process::{Process, tenantry},
};

/// A replica that records events, with nobody at work.
async fn quiet(deployment: Deployment) -> App {
    let app = App::listening(deployment, BlueprintSource::Bundled).await;
    app.replica.migrate().await.unwrap();
    app
}

impl App {
    async fn on_control(&self, sql: &str) {
        execute(&self.deployment.control_url, sql).await;
    }

    /// `count` completed jobs of an attempt each that ended so many days ago.
    async fn has_old_jobs(&self, count: usize, days: usize) {
        let jobs = format!(
            "with job as (
                 insert into jobs (kind, payload, max_attempts, state, finished_at)
                 select 'sync_members', '{{}}', 1, 'completed', now() - interval '{days} days'
                 from generate_series(1, {count})
                 returning id
             )
             insert into job_attempts (job_id, attempt, worker) select id, 1, 'old' from job"
        );
        self.on_control(&jobs).await;
    }

    /// `count` processed events that were settled so many days ago.
    async fn has_old_events(&self, count: usize, days: usize) {
        let events = format!(
            "insert into webhook_events (source, event_id, event_type, body, body_sha256, state, settled_at)
             select 'workos', gen_random_uuid(), 'organization.updated', '{{}}', '\\x00', 'processed',
                    now() - interval '{days} days'
             from generate_series(1, {count})"
        );
        self.on_control(&events).await;
    }

    /// `tenantry prune --json`.
    async fn prune(&self, arguments: &[&str]) -> Value {
        let (code, stdout, stderr) = self
            .command(&[&["prune", "--json"], arguments].concat())
            .await;
        assert_eq!(code, 0, "{stderr}");
        serde_json::from_str(&stdout).unwrap()
    }

    async fn command(&self, arguments: &[&str]) -> (i32, String, String) {
        let mut command = tenantry();
        command
            .args(arguments)
            .envs(self.deployment.variables.iter().cloned());
        let output = tokio::task::spawn_blocking(move || command.output().unwrap());
        let output = output.await.unwrap();
        let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
        let code = output.status.code().unwrap();
        (code, text(output.stdout), text(output.stderr))
    }
}

/// Rows by kind, of a report.
fn rows(report: &Value) -> String {
    let kinds = report["kinds"].as_array().unwrap().iter();
    let rows = kinds.map(|of| format!("{} {}", of["kind"].as_str().unwrap(), of["rows"]));
    rows.collect::<Vec<_>>().join(", ")
}

/// Prunes as the scheduled job does; how many rows went.
async fn prune(replica: &Replica, plan: &Plan) -> u64 {
    let mut went = 0;
    let to = (&replica.db, &Faults::default());
    let done = retention::prune(to, &plan.due, || true, |_, rows| went += rows).await;
    assert!(done.unwrap());
    went
}

/// Every event without its body, and every job that is there, with whether it is old.
const LEFT: &str = "select concat_ws('; ',
    (select string_agg(event_id, ' ' order by event_id) from webhook_events where body is null),
    (select string_agg(kind, ' ' order by kind) from jobs),
    (select string_agg(worker, ' ' order by worker) from job_attempts),
    (select string_agg(key, ' ' order by key) from idempotency_keys))";

/// Something of each kind in each state, a minute older and a minute younger than it may be.
const ONE_OF_EACH: &str = "
    create temp table ages as
    select * from (values ('old', interval '1 minute'), ('young', interval '-1 minute')) as age (name, more);
    insert into webhook_events (source, event_id, event_type, body, body_sha256, state, received_at, settled_at)
    select 'workos', state || '-' || name, 'organization.updated', '{}', '\\x00', state,
           now() - interval '90 days' - more,
           case when state <> 'received' then now() - interval '90 days' - more end
    from ages, unnest(array['received', 'waiting', 'processed', 'ignored', 'failed', 'conflict']) as state;
    insert into jobs (kind, payload, max_attempts, state, lease_expires_at, run_at, created_at, finished_at)
    select state || '-' || name, '{}', 1, state,
           case when state = 'running' then now() + interval '1 day' end,
           now() + interval '1 day', now() - interval '300 days',
           case when state not in ('available', 'running') then now() - interval '30 days' - more end
    from ages, unnest(array['available', 'running', 'completed', 'dead', 'cancelled']) as state;
    insert into job_attempts (job_id, attempt, worker) select id, 1, kind from jobs;
    insert into idempotency_keys (principal, key, fingerprint, created_at)
    select 'p', name, '', now() - interval '7 days' - more from ages";

#[tokio::test(flavor = "multi_thread")]
async fn what_is_over_and_old_goes_and_nothing_else_does() {
    let app = quiet(Deployment::new().await).await;
    app.on_control(ONE_OF_EACH).await;
    let before: String = app.ask(LEFT).await;

    let dry = app.prune(&["--dry-run"]).await;
    assert_eq!(
        rows(&dry),
        "idempotency_keys 1, jobs 2, dead_jobs 0, event_bodies 3, notifications 0, registration_events 0"
    );
    assert_eq!(dry["dry_run"], true);
    assert_eq!(app.ask::<String>(LEFT).await, before, "nothing was changed");

    let report = app.prune(&[]).await;
    assert_eq!(rows(&report), rows(&dry), "the run does what was said");
    let kinds = report["kinds"].as_array().unwrap().iter();
    let days: Vec<_> = kinds.map(|of| &of["older_than_days"]).collect();
    assert_eq!(
        days,
        [
            &json!(7),
            &json!(30),
            &Value::Null,
            &json!(90),
            &json!(30),
            &json!(30)
        ]
    );
    let jobs = "available-old available-young cancelled-young completed-young dead-old dead-young running-old running-young";
    assert_eq!(
        app.ask::<String>(LEFT).await,
        format!("conflict-old ignored-old processed-old; {jobs}; {jobs}; young")
    );
    assert_eq!(
        app.ask::<i64>("select count(*) from webhook_events").await,
        12,
        "events are for ever"
    );
    assert_eq!(
        rows(&app.prune(&[]).await),
        rows(&app.prune(&["--dry-run"]).await)
    );
    app.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn zero_days_are_for_ever_and_dead_jobs_go_when_that_is_asked_for() {
    let mut deployment = Deployment::new().await;
    deployment.set("TENANTRY__RETENTION__EVENT_BODIES_DAYS", "0");
    deployment.set("TENANTRY__RETENTION__JOBS_DAYS", "0");
    deployment.set("TENANTRY__RETENTION__DEAD_JOBS_DAYS", "30");
    let app = quiet(deployment).await;
    app.on_control(ONE_OF_EACH).await;
    let report = app.prune(&[]).await;
    assert_eq!(
        rows(&report),
        "idempotency_keys 1, jobs 0, dead_jobs 1, event_bodies 0, notifications 0, registration_events 0"
    );
    let gone = "select count(*) from jobs where kind = 'dead-old'";
    assert_eq!(app.ask::<i64>(gone).await, 0);
    assert_eq!(app.ask::<i64>("select count(*) from jobs").await, 9);
    app.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_event_without_its_body_still_counts_once_and_is_not_replayed() {
    let blueprint = TinyBlueprint::new();
    let app = App::of(Deployment::new().await, blueprint.source()).await;
    let org = new_org();
    let mut event = events::created(&org, "Acme");
    app.accepts(&[&event]).await;
    app.tenant(&org).is_ready().await;
    app.is_idle().await;
    app.on_control("update webhook_events set settled_at = now() - interval '91 days'")
        .await;
    assert_eq!(
        rows(&app.prune(&[]).await),
        "idempotency_keys 0, jobs 0, dead_jobs 0, event_bodies 1, notifications 0, registration_events 0"
    );

    assert_eq!(app.deliver(&event).await.body["status"], "duplicate");
    event["data"]["name"] = "Other".into();
    assert_eq!(app.deliver(&event).await.body["status"], "conflict");
    let stored = "select string_agg(concat_ws(' ', state, deliveries, body is null), ', ' order by id) from webhook_events";
    assert_eq!(
        app.ask::<String>(stored).await,
        "processed 2 t, conflict 1 f"
    );

    let id: i64 = app.ask("select min(id) from webhook_events").await;
    let replay = async |tx: &mut PgConnection| actions::replay_event(tx, id, 25, &operator()).await;
    let refused = app.replica.db.transaction(replay).await.unwrap_err();
    assert_eq!(refused.code(), "event_body_pruned");
    let (code, _, stderr) = app.command(&["events", "replay", &id.to_string()]).await;
    assert_eq!(code, 1);
    assert!(stderr.contains("[event_body_pruned]"), "{stderr}");
    let (_, stdout, _) = app.command(&["events", "get", &id.to_string()]).await;
    assert!(stdout.contains("body          pruned"), "{stdout}");
    let live = "select count(*) from jobs where state in ('available', 'running')";
    assert_eq!(app.ask::<i64>(live).await, 0, "nothing came of it");
    assert_eq!(app.tenant(&org).find().await.unwrap().name, "Acme");

    // a replica of an earlier version knows nothing of this: the table itself refuses
    let earlier = "update webhook_events set state = 'received' where body is null";
    let refused =
        async |connection: &mut PgConnection| sqlx::raw_sql(earlier).execute(connection).await;
    let refused = app.replica.db.run(refused).await.unwrap_err();
    assert!(
        refused
            .to_string()
            .contains("webhook_events_body_while_needed")
    );
    app.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn many_that_prune_at_once_prune_once_and_hurt_nobody() {
    let blueprint = TinyBlueprint::new();
    let app = App::of(Deployment::new().await, blueprint.source()).await;
    let other = Replica::new(app.deployment.config(), blueprint.source()).unwrap();
    let (first, orgs): (_, Vec<String>) = (new_org(), (0..20).map(|_| new_org()).collect());
    let again = events::created(&first, "Acme");
    app.accepts(&[&again]).await;
    app.tenant(&first).is_ready().await;
    app.is_idle().await;
    app.on_control("update webhook_events set settled_at = now() - interval '91 days'")
        .await;
    app.has_old_events(1_999, 100).await;
    app.has_old_jobs(5_000, 40).await;
    let deadlocks = "select deadlocks from pg_stat_database where datname = current_database()";
    let before: i64 = app.ask(deadlocks).await;

    let plan = Plan::new(&app.deployment.config());
    // what is pruned is delivered again, and new work comes and is done
    let deliveries = async {
        for org in &orgs {
            app.accepts(&[&events::created(org, "Acme")]).await;
            assert_eq!(app.deliver(&again).await.body["status"], "duplicate");
        }
        for org in &orgs {
            app.tenant(org).is_ready().await;
        }
    };
    let (here, there, command, ()) = tokio::join!(
        prune(&app.replica, &plan),
        prune(&other, &plan),
        app.prune(&[]),
        deliveries
    );
    let kinds = command["kinds"].as_array().unwrap();
    let by_command: u64 = kinds.iter().map(|of| of["rows"].as_u64().unwrap()).sum();
    // what a delivery held in that moment is left to the next run
    let rest = prune(&app.replica, &plan).await;
    assert_eq!(here + there + by_command + rest, 7_000);
    assert!(rest <= 1, "{rest} rows were left");
    app.is_idle().await;
    let left = "select (select count(*) from jobs where finished_at < now() - interval '30 days')
                     + (select count(*) from job_attempts where worker = 'old')
                     + (select count(*) from webhook_events where settled_at < now() - interval '90 days' and body is not null)";
    assert_eq!(app.ask::<i64>(left).await, 0);
    let counted = "select max(deliveries)::bigint from webhook_events";
    assert_eq!(app.ask::<i64>(counted).await, 21);
    other.finish().await;
    let url = app.deployment.control_url.clone();
    app.stop().await;
    assert_eq!(ask::<i64>(&url, deadlocks).await, before);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_somebody_holds_is_left_to_the_next_time() {
    let app = quiet(Deployment::new().await).await;
    app.has_old_jobs(3, 40).await;
    app.has_old_events(3, 100).await;
    let held = "select from jobs where id = (select min(id) from jobs) for update;
                select from webhook_events where id = (select min(id) from webhook_events) for update";
    let mut holder = hold(&app.deployment.control_url, held).await;
    let plan = Plan::new(&app.deployment.config());
    let in_time = tokio::time::timeout(Duration::from_secs(5), prune(&app.replica, &plan));
    assert_eq!(in_time.await.expect("nobody is waited for"), 4);
    holder.release().await;
    assert_eq!(prune(&app.replica, &plan).await, 2);
    app.stop().await;
}

/// Jobs of kind `prune` in a state.
fn prunes(state: &str) -> String {
    format!("select count(*) from jobs where kind = 'prune' and state = '{state}'")
}

const LIVE: &str =
    "select count(*) from jobs where kind = 'prune' and state in ('available', 'running')";

#[tokio::test(flavor = "multi_thread")]
async fn however_many_replicas_start_the_job_is_there_once_and_comes_back() {
    let mut deployment = Deployment::new().await;
    deployment.set("TENANTRY__RETENTION__PAUSE_S", "3600");
    let app = quiet(deployment.clone()).await;
    let replica = || Replica::new(deployment.config(), BlueprintSource::Bundled).unwrap();
    let replicas: Vec<Replica> = (0..8).map(|_| replica()).collect();
    for replica in &replicas {
        replica.tidy();
    }
    let tidied = "select coalesce(max(id), 0) from jobs";
    wait_until("the job is scheduled", async || {
        app.ask::<i64>(tidied).await > 0
    })
    .await;
    for replica in &replicas {
        replica.finish().await;
    }
    assert_eq!(app.ask::<i64>("select count(*) from jobs").await, 1);
    // its time has not come, and whoever waits for all work does not wait for it
    app.replica.work();
    app.is_idle().await;
    assert_eq!(app.ask::<i64>(&prunes("available")).await, 1);

    // a replica that is configured otherwise brings it forward, and it comes back after its end
    app.has_old_jobs(2_500, 40).await;
    app.stop().await;
    deployment.set("TENANTRY__RETENTION__PAUSE_S", "1");
    let app = quiet(deployment).await;
    app.replica.work();
    app.replica.tidy();
    wait_until("it was done three times", async || {
        let live: i64 = app.ask(LIVE).await;
        assert_eq!(live, 1, "there is always one and never a second");
        app.ask::<i64>(&prunes("completed")).await >= 3
    })
    .await;
    let old = "select count(*) from job_attempts where worker = 'old'";
    assert_eq!(app.ask::<i64>(old).await, 0);
    let metrics = app.replica.metrics.clone();
    crate::support::app::get(app.address, "/metrics").await;
    let told = metrics.render().unwrap();
    assert!(
        told.contains("tenantry_pruned_rows_total{kind=\"jobs\"} 2500"),
        "{told}"
    );
    assert!(
        told.contains("tenantry_prune_last_success_timestamp_seconds{} 1"),
        "{told}"
    );
    app.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_job_that_was_given_up_comes_back_as_well() {
    let mut deployment = Deployment::new().await.with_fault("prune.committing=error");
    deployment.set("TENANTRY__RETENTION__PAUSE_S", "1");
    deployment.set("TENANTRY__QUEUE__MAX_ATTEMPTS", "1");
    let app = quiet(deployment).await;
    app.has_old_jobs(10, 40).await;
    // what cannot be pruned does not keep the rest from it
    app.has_old_events(10, 100).await;
    app.replica.tidy();
    app.replica.work();
    wait_until("one is dead", async || {
        app.ask::<i64>(&prunes("dead")).await == 1
    })
    .await;
    let bodies = "select count(*) from webhook_events where body is not null";
    assert_eq!(app.ask::<i64>(bodies).await, 0);
    wait_until("the next one succeeds", async || {
        app.ask::<i64>(&prunes("completed")).await > 0
    })
    .await;
    let old = "select count(*) from job_attempts where worker = 'old'";
    assert_eq!(app.ask::<i64>(old).await, 0);
    app.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_pause_there_is_no_job_and_one_that_was_left_over_ends() {
    let mut deployment = Deployment::new().await;
    deployment.set("TENANTRY__RETENTION__PAUSE_S", "0");
    let app = quiet(deployment).await;
    app.has_old_jobs(10, 40).await;
    app.on_control("insert into jobs (kind, payload, unique_key, max_attempts) values ('prune', '{\"kind\": \"prune\"}', 'prune', 25)")
        .await;
    app.replica.tidy();
    app.replica.work();
    app.is_idle().await;
    assert_eq!(app.ask::<i64>(&prunes("completed")).await, 1);
    assert_eq!(app.ask::<i64>(LIVE).await, 0);
    assert_eq!(app.ask::<i64>("select count(*) from jobs").await, 11);
    app.stop().await;
}

async fn killed_at(point: &str, left: i64) {
    let mut deployment = Deployment::new().await;
    deployment.set("TENANTRY__RETENTION__PAUSE_S", "1");
    let app = quiet(deployment).await;
    app.has_old_jobs(2_500, 40).await;
    let old = "select count(*) from job_attempts where worker = 'old'";

    let mut first = Process::start(&app.deployment, &format!("{point}=kill")).await;
    first.is_killed().await;
    assert_eq!(app.ask::<i64>(old).await, left, "killed at {point}");
    assert_eq!(app.ask::<i64>(LIVE).await, 1);
    let _second = Process::start(&app.deployment, "").await;
    wait_until("the next replica finishes", async || {
        app.ask::<i64>(old).await == 0 && app.ask::<i64>(&prunes("completed")).await > 0
    })
    .await;
    let lost = "select string_agg(outcome, ' ' order by attempt) from job_attempts
                where job_id = (select min(id) from jobs where kind = 'prune')";
    assert_eq!(app.ask::<String>(lost).await, "lost completed");
    assert_eq!(app.ask::<i64>(LIVE).await, 1);
    app.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_replica_killed_inside_a_batch_has_done_none_of_it() {
    killed_at("prune.committing", 2_500).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_replica_killed_after_a_batch_has_done_all_of_it() {
    killed_at("prune.committed", 1_500).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_command_killed_in_the_middle_is_run_again() {
    let app = quiet(Deployment::new().await.with_fault("prune.committed=kill")).await;
    app.has_old_jobs(2_500, 40).await;
    let mut command = tenantry();
    command
        .arg("prune")
        .envs(app.deployment.variables.iter().cloned());
    let status = tokio::task::spawn_blocking(move || command.status().unwrap());
    assert_eq!(status.await.unwrap().code(), None, "killed");
    let plan = Plan::new(&app.deployment.config());
    assert_eq!(prune(&app.replica, &plan).await, 1_500);
    app.stop().await;
}

/// What a session has read is counted when it ends.
async fn nobody_is_connected(control: &str) {
    let others = "select count(*) from pg_stat_activity
                  where datname = current_database() and pid <> pg_backend_pid()";
    wait_until("nobody is connected", async || {
        ask::<i64>(control, others).await == 0
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn nobody_reads_a_whole_table_however_much_is_kept() {
    let app = quiet(Deployment::new().await).await;
    let control = app.deployment.control_url.clone();
    app.has_old_jobs(20_000, 20).await;
    app.has_old_jobs(1_500, 40).await;
    app.has_old_events(20_000, 60).await;
    app.has_old_events(300, 100).await;
    app.on_control("analyze").await;
    // a burst that the planner's figures know nothing of
    app.on_control(
        "insert into jobs (kind, payload, concurrency_key, max_attempts)
         select 'provision_tenant', '{\"kind\": \"prune\"}', 'workos:org_' || n, 1 from generate_series(1, 5000) as n",
    )
    .await;
    let deployment = app.deployment.clone();
    app.stop().await;
    nobody_is_connected(&control).await;
    execute(&control, "select pg_stat_reset()").await;

    let replica = Replica::new(deployment.config(), BlueprintSource::Bundled).unwrap();
    let plan = Plan::new(&deployment.config());
    assert_eq!(prune(&replica, &plan).await, 1_800);
    let work = async |connection: &mut PgConnection| {
        for _ in 0..10 {
            let lease = Duration::from_mins(1);
            let claims = queue::claim(connection, "me", lease, 4).await?;
            assert_eq!(claims.len(), 4);
            let held: Vec<_> = claims.iter().map(|of| (of.id, of.attempt)).collect();
            queue::heartbeat(connection, &held, lease).await?;
            queue::rescue(connection).await?;
            queue::next_due(connection).await?;
            queue::last_pruned(connection).await?;
        }
        Ok::<_, queue::Error>(())
    };
    replica.db.run(work).await.unwrap();
    replica.finish().await;
    nobody_is_connected(&control).await;
    let read = "select sum(seq_scan)::bigint from pg_stat_user_tables where relname in ('jobs', 'webhook_events')";
    assert_eq!(ask::<i64>(&control, read).await, 0);
    let entries = "select sum(idx_tup_read)::bigint from pg_stat_user_indexes
                   where indexrelname in ('jobs_available', 'jobs_by_concurrency_key', 'jobs_by_state', 'jobs_by_lease', 'jobs_one_running_per_key')";
    let entries: i64 = ask(&control, entries).await;
    assert!(
        (40..4_000).contains(&entries),
        "{entries} entries were read for 40 claims"
    );
}
