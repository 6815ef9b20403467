//! Fleet runs that lose their replicas, their blueprint, or what they found out: every run ends, and nothing more
//! is begun than was wanted.

use serde_json::json;
use tenantry::{
    api_keys::Scope,
    fleet::{self, NewRun, Run, RunState, TargetState},
};

use crate::support::{
    Fleet, TinyBlueprint,
    app::wait_until,
    cluster::execute,
    fleet::{all, in_waves},
    process::Process,
};

/// A run that lost its only replica with every target taken, and none begun.
async fn taken_and_not_begun(fleet: &Fleet) -> Run {
    let mut replica = Process::start(&fleet.app.deployment, "fleet.taken=kill").await;
    // in one slot: another one would find nothing to take, and die before the first has recorded what it took
    let new = NewRun {
        concurrency: 1,
        ..all()
    };
    let run = fleet.begin(&new).await;
    replica.is_killed().await;
    assert!(fleet.find(&run).await.counts.running > 0);
    run
}

#[tokio::test(flavor = "multi_thread")]
async fn what_nobody_had_begun_waits_when_its_run_is_paused_and_is_skipped_when_it_is_aborted() {
    let fleet = Fleet::watched(3).await;
    fleet.grow("0002_more");
    let run = taken_and_not_begun(&fleet).await;
    fleet.pause(&run).await;
    let next = Process::with_roles(&fleet.app.deployment, "worker").await;
    fleet.nothing_is_under_way(&run).await;
    let paused = fleet.find(&run).await;
    assert_eq!((paused.counts.pending, paused.counts.done), (3, 0));
    fleet.resume(&run).await;
    let over = fleet.is_over(&run).await;
    assert_eq!((over.state, over.counts.done), (RunState::Done, 3));
    for org in &fleet.orgs {
        fleet.is_migrated_once(&over, org).await;
    }
    drop(next);

    fleet.grow("0003_bad");
    let run = taken_and_not_begun(&fleet).await;
    fleet.abort(&run).await;
    let _next = Process::with_roles(&fleet.app.deployment, "worker").await;
    fleet.nothing_is_under_way(&run).await;
    let aborted = fleet.find(&run).await;
    assert_eq!((aborted.counts.skipped, aborted.counts.done), (3, 0));
    for org in &fleet.orgs {
        assert_eq!(fleet.tenant(org).await.alembic_version, "0002_more");
    }
    wait_until("no job is left", async || fleet.open_jobs().await == 0).await;
    fleet.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_migrated_when_its_replica_died_is_on_record_also_of_an_aborted_run() {
    let fleet = Fleet::watched(1).await;
    fleet.grow("0002_more");
    let mut replica = Process::start(&fleet.app.deployment, "fleet.recording=kill").await;
    let run = fleet.begin(&all()).await;
    replica.is_killed().await;
    fleet.abort(&run).await;
    let _next = Process::with_roles(&fleet.app.deployment, "worker").await;
    fleet.nothing_is_under_way(&run).await;
    let aborted = fleet.find(&run).await;
    assert_eq!((aborted.state, aborted.counts.done), (RunState::Aborted, 1));
    fleet.is_migrated_once(&aborted, &fleet.orgs[0]).await;
    fleet.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_that_is_no_transaction_may_be_half_applied_and_is_brought_to_its_end() {
    let fleet = Fleet::watched(1).await;
    let sql = "-- tenantry: no transaction\ncreate index concurrently notes_body on notes (body)";
    fleet.blueprint.write("migrations/0002_index.sql", sql);
    let run = taken_and_not_begun(&fleet).await;
    fleet.abort(&run).await;
    let _next = Process::with_roles(&fleet.app.deployment, "worker").await;
    fleet.nothing_is_under_way(&run).await;
    assert_eq!(fleet.find(&run).await.counts.done, 1);
    let tenant = fleet.tenant(&fleet.orgs[0]).await;
    assert_eq!(tenant.alembic_version, "0002_index");
    fleet.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_database_that_drifted_is_compared_again_until_it_is_repaired() {
    let fleet = Fleet::watched(2).await;
    fleet.grow("0002_more");
    fleet
        .sql(&fleet.orgs[0], "alter table notes add column by_hand int")
        .await;
    let run = fleet.begin(&all()).await;
    let _replica = Process::with_roles(&fleet.app.deployment, "worker").await;
    for _ in 0..2 {
        let over = fleet.is_over(&run).await;
        assert_eq!((over.state, over.counts.failed), (RunState::Failed, 1));
        let target = fleet.target(&run, &fleet.orgs[0]).await;
        assert_eq!(target.error_code.as_deref(), Some("drifted"));
        let tenant = fleet.tenant(&fleet.orgs[0]).await;
        assert_eq!(tenant.alembic_version, "0002_more", "it was migrated");
        fleet.retry(&run).await;
    }
    fleet.is_over(&run).await;

    fleet
        .sql(&fleet.orgs[0], "alter table notes drop column by_hand")
        .await;
    fleet.retry(&run).await;
    let over = fleet.is_over(&run).await;
    assert_eq!((over.state, over.counts.done), (RunState::Done, 2));
    fleet.is_migrated_once(&over, &fleet.orgs[0]).await;
    fleet.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_database_with_which_replica_after_replica_dies_is_left_alone() {
    let mut fleet = Fleet::watched(1).await;
    fleet
        .app
        .deployment
        .set("TENANTRY__FLEET__MAX_ATTEMPTS", "1");
    fleet.grow("0002_more");
    let run = fleet.begin(&all()).await;
    for _ in 0..5 {
        let mut replica = Process::start(&fleet.app.deployment, "fleet.recording=kill").await;
        replica.is_killed().await;
    }
    let _last = Process::with_roles(&fleet.app.deployment, "worker").await;
    let over = fleet.is_over(&run).await;
    assert_eq!((over.state, over.counts.failed), (RunState::Failed, 1));
    let target = fleet.target(&run, &fleet.orgs[0]).await;
    let told = (target.state, target.error_code.as_deref());
    assert_eq!(told, (TargetState::Failed, Some("worker_lost")));

    fleet.retry(&run).await;
    let over = fleet.is_over(&run).await;
    assert_eq!((over.state, over.counts.done), (RunState::Done, 1));
    fleet.is_migrated_once(&over, &fleet.orgs[0]).await;
    fleet.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_result_that_cannot_be_recorded_is_a_failure_and_the_others_are_recorded() {
    let fleet = Fleet::watched(4).await;
    fleet.grow("0002_more");
    let refused = fleet.tenant(&fleet.orgs[1]).await.id;
    execute(
        &fleet.app.deployment.control_url,
        &format!(
            "create function refuse() returns trigger language plpgsql as $$
             begin
                 if new.tenant = '{refused}' and new.state = 'done' then
                     raise exception 'not this one';
                 end if;
                 return new;
             end $$;
             create trigger refuse before update on fleet_targets for each row execute function refuse()"
        ),
    )
    .await;
    let run = fleet.begin(&all()).await;
    let _replica = Process::with_roles(&fleet.app.deployment, "worker").await;
    let over = fleet.is_over(&run).await;
    let counts = over.counts;
    assert_eq!(over.state, RunState::Failed);
    assert_eq!((counts.done, counts.failed), (3, 1));
    let target = fleet.target(&run, &fleet.orgs[1]).await;
    let code = target.error_code.as_deref();
    assert_eq!(code, Some("control_database_refused"));
    let told = target.error.unwrap();
    assert!(told.contains("not this one"), "{told}");
    fleet.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn who_is_skipped_does_not_vouch_for_a_canary_that_failed() {
    let fleet = Fleet::watched(3).await;
    fleet.grow("0002_more");
    fleet.grow("0003_last");
    let replica = Process::with_roles(&fleet.app.deployment, "worker").await;
    let mut ahead = all();
    ahead.selection.tenants = vec![fleet.tenant(&fleet.orgs[2]).await.id];
    let run = fleet.begin(&ahead).await;
    assert_eq!(fleet.is_over(&run).await.state, RunState::Done);
    fleet
        .sql(&fleet.orgs[0], "create table t0002_more (id int)")
        .await;

    let careful = NewRun {
        wanted_version: Some("0002_more".to_owned()),
        ..in_waves("1")
    };
    let run = fleet.begin(&careful).await;
    let over = fleet.is_over(&run).await;
    let code = over.failure.map(|failure| failure.code);
    assert_eq!(code.as_deref(), Some("fleet_wave_failed"));
    let counts = over.counts;
    assert_eq!((counts.failed, counts.skipped, counts.pending), (1, 1, 1));
    drop(replica);
    fleet.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_canary_is_one_that_needs_the_migration() {
    let fleet = Fleet::watched(3).await;
    fleet.grow("0002_more");
    let replica = Process::with_roles(&fleet.app.deployment, "worker").await;
    let mut first = all();
    first.selection.tenants = vec![fleet.tenant(&fleet.orgs[0]).await.id];
    let run = fleet.begin(&first).await;
    assert_eq!(fleet.is_over(&run).await.state, RunState::Done);
    fleet
        .sql(&fleet.orgs[1], "create table t0002_more (id int)")
        .await;

    let run = fleet.begin(&in_waves("1")).await;
    let over = fleet.is_over(&run).await;
    let code = over.failure.map(|failure| failure.code);
    assert_eq!(code.as_deref(), Some("fleet_wave_failed"));
    assert_eq!((over.counts.failed, over.counts.pending), (1, 2));
    drop(replica);
    fleet.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_run_begun_over_http_is_about_the_blueprint_of_the_replica_that_took_it() {
    let fleet = Fleet::watched(1).await;
    fleet.grow("0002_more");
    let old = TinyBlueprint::new();
    let mut outdated = fleet.app.deployment.clone();
    outdated.set_blueprint(old.path());
    let key = fleet.app.key(&[Scope::FleetWrite]).await;
    let api = fleet.app.as_bearer(&key);
    let answer = api.post("/v1/fleet-runs", &json!({})).await;
    assert_eq!(answer.status, 201, "{}", answer.body);
    let newest = async |connection: &mut _| fleet::find_newest(connection).await;
    let run = fleet.app.replica.db.run(newest).await.unwrap().unwrap();

    let behind = Process::with_roles(&outdated, "worker").await;
    let left =
        "select exists (select from job_attempts where error_code = 'fleet_blueprint_unknown')";
    wait_until("it is left to others", async || {
        fleet.app.ask::<bool>(left).await || fleet.find(&run).await.state.is_over()
    })
    .await;
    assert_eq!(fleet.find(&run).await.state, RunState::Preparing);
    drop(behind);
    let _right = Process::with_roles(&fleet.app.deployment, "worker").await;
    let over = fleet.is_over(&run).await;
    assert_eq!(over.state, RunState::Done);
    fleet.is_migrated_once(&over, &fleet.orgs[0]).await;
    fleet.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_replica_with_another_blueprint_leaves_a_run_alone_and_ends_one_that_was_aborted() {
    let fleet = Fleet::watched(2).await;
    fleet.grow("0002_more");
    let old = TinyBlueprint::new();
    let mut outdated = fleet.app.deployment.clone();
    outdated.set_blueprint(old.path());
    let behind = Process::with_roles(&outdated, "worker").await;
    let new = NewRun {
        blueprint_hash: Some(fleet.blueprint.source().load().unwrap().hash()),
        wanted_version: Some("0002_more".to_owned()),
        ..in_waves("1")
    };
    let run = fleet.begin(&new).await;
    let left = "select count(*) from job_attempts where error_code = 'fleet_blueprint_unknown'";
    let is_left = async |times: i64| fleet.app.ask::<i64>(left).await >= times;
    wait_until("it is left to others", async || is_left(2).await).await;
    assert_eq!(fleet.find(&run).await.state, RunState::Preparing);

    fleet
        .sql(&fleet.orgs[0], "create table t0002_more (id int)")
        .await;
    let right = Process::with_roles(&fleet.app.deployment, "worker").await;
    assert_eq!(fleet.is_over(&run).await.state, RunState::Failed);
    drop(right);
    // nobody has its blueprint any more
    fleet.resume(&run).await;
    let before: i64 = fleet.app.ask(left).await;
    wait_until("it is left to others", async || is_left(before + 1).await).await;
    fleet.abort(&run).await;
    wait_until("no job is left", async || fleet.open_jobs().await == 0).await;
    assert_eq!(fleet.find(&run).await.counts.skipped, 1);
    drop(behind);
    fleet.end().await;
}

/// Live jobs of runs, by their slots.
async fn slots(fleet: &Fleet) -> String {
    fleet
        .app
        .ask(
            "select coalesce(string_agg(payload ->> 'slot', ' ' order by payload ->> 'slot'), '')
             from jobs
             where kind = 'migrate_fleet'
               and state in ('available', 'running')",
        )
        .await
}

#[tokio::test(flavor = "multi_thread")]
async fn nobody_is_called_where_nothing_can_be_taken_and_somebody_works() {
    // replicas are away, and so is whoever looks for missing jobs
    let fleet = Fleet::of(2).await.without_workers().await;
    let run = fleet.begin(&all()).await;
    let [long, other] = fleet.tenants().await;
    let control = &fleet.app.deployment.control_url;
    // slot 3 works on a long migration, and slot 0 has found nothing to do
    let begun = format!(
        "update jobs
         set payload = jsonb_set(payload, '{{slot}}', '3'), unique_key = 'fleet:{run}:003', state = 'running',
             attempt = 1, lease_expires_at = now() + interval '1 hour'
         where kind = 'migrate_fleet';
         update fleet_runs set state = 'running', prepared_at = now(), version = '0002_tags', blueprint_hash = 'it';
         insert into fleet_targets (run, tenant, wave, from_version, state, attempt, held_by, held_attempt, started_at)
         select '{run}', '{long}', 1, '0001_notes', 'running', 1, id, 1, now() from jobs where kind = 'migrate_fleet' and state = 'running'",
        run = run.id,
        long = long.id
    );
    execute(control, &begun).await;
    let looks = async || fleet::enqueue_missing(&fleet.app.replica.db).await.unwrap();
    assert_eq!((looks().await, &*slots(&fleet).await), (false, "3"));

    let waits = format!(
        "insert into fleet_targets (run, tenant, wave, from_version, state, run_at)
         values ('{}', '{}', 1, '0001_notes', 'pending', now() + interval '1 hour')",
        run.id, other.id
    );
    execute(control, &waits).await;
    assert_eq!((looks().await, &*slots(&fleet).await), (false, "3"));
    execute(control, "update fleet_targets set run_at = now()").await;
    assert_eq!((looks().await, &*slots(&fleet).await), (true, "0 1 3"));
    assert!(!looks().await, "once");

    // what was begun by one that is lost is taken over, also when nothing else is left
    let lost = "update jobs set state = 'completed', finished_at = now() where kind = 'migrate_fleet' and state = 'available';
                update fleet_targets set state = 'done', finished_at = now() where state = 'pending';
                update jobs set attempt = 2 where kind = 'migrate_fleet' and state = 'running'";
    execute(control, lost).await;
    assert_eq!((looks().await, &*slots(&fleet).await), (true, "0 3"));
    // and where nobody works somebody is called
    let nobody = "update jobs set state = 'completed', finished_at = now(), lease_expires_at = null where kind = 'migrate_fleet';
                  update fleet_targets set state = 'done', finished_at = now(), held_by = null, held_attempt = null";
    execute(control, nobody).await;
    assert_eq!((looks().await, &*slots(&fleet).await), (true, "0"));
    fleet.app.stop().await;
}
