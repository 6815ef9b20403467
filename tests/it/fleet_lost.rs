//! Fleet runs that lose their replicas, their blueprint, or what they found out: every run ends, and nothing more
//! is begun than was wanted.

use serde_json::json;
use tenantry::{
    api_keys::Scope,
    fleet::{self, NewRun, Run, RunState},
};

use crate::{
    fleet_storm::{Fleet, all},
    support::{
        TinyBlueprint,
        app::{operator, wait_until},
        cluster::{ask, execute},
        process::Process,
    },
};

/// A run that lost its only replica with every target taken, and none begun.
async fn taken_and_not_begun(fleet: &Fleet) -> Run {
    let mut replica = Process::start(&fleet.deployment, "fleet.taken=kill").await;
    // in one place: another one would find nothing to take, and die before the first has recorded what it took
    let new = NewRun {
        concurrency: 1,
        ..all()
    };
    let run = fleet.begin_as(&new).await;
    replica.is_killed().await;
    assert!(fleet.find(&run).await.counts.running > 0);
    run
}

async fn pause(fleet: &Fleet, run: &Run) {
    let pause = async |tx: &mut _| fleet::pause(tx, run.id, &operator()).await;
    fleet.app.replica.db.transaction(pause).await.unwrap();
}

async fn resume(fleet: &Fleet, run: &Run) {
    let resume = async |tx: &mut _| fleet::resume(tx, run.id, &operator()).await;
    fleet.app.replica.db.transaction(resume).await.unwrap();
}

async fn abort(fleet: &Fleet, run: &Run) {
    let abort = async |tx: &mut _| fleet::abort(tx, run.id, &operator()).await;
    fleet.app.replica.db.transaction(abort).await.unwrap();
}

async fn nothing_is_under_way(fleet: &Fleet, run: &Run) {
    wait_until("nothing is under way", async || {
        fleet.find(run).await.counts.running == 0
    })
    .await;
}

/// How many jobs the run has still.
async fn jobs(fleet: &Fleet) -> i64 {
    let jobs = "select count(*) from jobs where kind = 'migrate_fleet' and state in ('available', 'running')";
    fleet.app.ask(jobs).await
}

#[tokio::test(flavor = "multi_thread")]
async fn what_nobody_had_begun_waits_when_its_run_is_paused_and_is_skipped_when_it_is_aborted() {
    let fleet = Fleet::of(3).await;
    fleet.grow("0002_more");
    let run = taken_and_not_begun(&fleet).await;
    pause(&fleet, &run).await;
    let next = Process::with_roles(&fleet.deployment, "worker").await;
    nothing_is_under_way(&fleet, &run).await;
    let paused = fleet.find(&run).await;
    assert_eq!((paused.counts.pending, paused.counts.done), (3, 0));
    resume(&fleet, &run).await;
    let over = fleet.is_over(&run).await;
    assert_eq!((over.state, over.counts.done), (RunState::Done, 3));
    for org in &fleet.orgs {
        fleet.is_migrated_once(&over, org).await;
    }
    drop(next);

    fleet.grow("0003_bad");
    let run = taken_and_not_begun(&fleet).await;
    abort(&fleet, &run).await;
    let _next = Process::with_roles(&fleet.deployment, "worker").await;
    nothing_is_under_way(&fleet, &run).await;
    let aborted = fleet.find(&run).await;
    assert_eq!((aborted.counts.skipped, aborted.counts.done), (3, 0));
    for org in &fleet.orgs {
        assert_eq!(fleet.tenant(org).await.alembic_version, "0002_more");
    }
    wait_until("no job is left", async || jobs(&fleet).await == 0).await;
    fleet.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_migrated_when_its_replica_died_is_on_record_also_of_an_aborted_run() {
    let fleet = Fleet::of(1).await;
    fleet.grow("0002_more");
    let mut replica = Process::start(&fleet.deployment, "fleet.recording=kill").await;
    let run = fleet.begin(&[]).await;
    replica.is_killed().await;
    abort(&fleet, &run).await;
    let _next = Process::with_roles(&fleet.deployment, "worker").await;
    nothing_is_under_way(&fleet, &run).await;
    let aborted = fleet.find(&run).await;
    assert_eq!((aborted.state, aborted.counts.done), (RunState::Aborted, 1));
    fleet.is_migrated_once(&aborted, &fleet.orgs[0]).await;
    fleet.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_that_is_no_transaction_may_be_half_applied_and_is_brought_to_its_end() {
    let fleet = Fleet::of(1).await;
    let sql = "-- tenantry: no transaction\ncreate index concurrently notes_body on notes (body)";
    fleet.blueprint.write("migrations/0002_index.sql", sql);
    let run = taken_and_not_begun(&fleet).await;
    abort(&fleet, &run).await;
    let _next = Process::with_roles(&fleet.deployment, "worker").await;
    nothing_is_under_way(&fleet, &run).await;
    assert_eq!(fleet.find(&run).await.counts.done, 1);
    let tenant = fleet.tenant(&fleet.orgs[0]).await;
    assert_eq!(tenant.alembic_version, "0002_index");
    fleet.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_database_that_drifted_is_compared_again_until_it_is_repaired() {
    let fleet = Fleet::of(2).await;
    fleet.grow("0002_more");
    let url = fleet.url(&fleet.orgs[0]).await;
    execute(&url, "alter table notes add column by_hand int").await;
    let run = fleet.begin(&[]).await;
    let _replica = Process::with_roles(&fleet.deployment, "worker").await;
    let retry = async |tx: &mut _| fleet::retry(tx, run.id, &operator()).await;
    for _ in 0..2 {
        let over = fleet.is_over(&run).await;
        assert_eq!((over.state, over.counts.failed), (RunState::Failed, 1));
        let (_, code) = fleet.target(&run, &fleet.orgs[0]).await;
        assert_eq!(code, "drifted");
        let tenant = fleet.tenant(&fleet.orgs[0]).await;
        assert_eq!(tenant.alembic_version, "0002_more", "it was migrated");
        fleet.app.replica.db.transaction(retry).await.unwrap();
    }
    fleet.is_over(&run).await;

    execute(&url, "alter table notes drop column by_hand").await;
    fleet.app.replica.db.transaction(retry).await.unwrap();
    let over = fleet.is_over(&run).await;
    assert_eq!((over.state, over.counts.done), (RunState::Done, 2));
    fleet.is_migrated_once(&over, &fleet.orgs[0]).await;
    fleet.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_database_with_which_replica_after_replica_dies_is_left_alone() {
    let mut fleet = Fleet::of(1).await;
    fleet.deployment.set("TENANTRY__FLEET__MAX_ATTEMPTS", "1");
    fleet.grow("0002_more");
    let run = fleet.begin(&[]).await;
    for _ in 0..5 {
        let mut replica = Process::start(&fleet.deployment, "fleet.recording=kill").await;
        replica.is_killed().await;
    }
    let _last = Process::with_roles(&fleet.deployment, "worker").await;
    let over = fleet.is_over(&run).await;
    assert_eq!((over.state, over.counts.failed), (RunState::Failed, 1));
    let (state, code) = fleet.target(&run, &fleet.orgs[0]).await;
    assert_eq!((&*state, &*code), ("failed", "worker_lost"));

    let retry = async |tx: &mut _| fleet::retry(tx, run.id, &operator()).await;
    fleet.app.replica.db.transaction(retry).await.unwrap();
    let over = fleet.is_over(&run).await;
    assert_eq!((over.state, over.counts.done), (RunState::Done, 1));
    fleet.is_migrated_once(&over, &fleet.orgs[0]).await;
    fleet.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_result_that_cannot_be_recorded_is_a_failure_and_the_others_are_recorded() {
    let fleet = Fleet::of(4).await;
    fleet.grow("0002_more");
    let refused = fleet.tenant(&fleet.orgs[1]).await.id;
    execute(
        &fleet.deployment.control_url,
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
    let run = fleet.begin(&[]).await;
    let _replica = Process::with_roles(&fleet.deployment, "worker").await;
    let over = fleet.is_over(&run).await;
    let counts = over.counts;
    assert_eq!(over.state, RunState::Failed);
    assert_eq!((counts.done, counts.failed), (3, 1));
    let (_, code) = fleet.target(&run, &fleet.orgs[1]).await;
    assert_eq!(code, "control_database_refused");
    let told = format!("select error from fleet_targets where tenant = '{refused}'");
    let told: String = fleet.app.ask(&told).await;
    assert!(told.contains("not this one"), "{told}");
    fleet.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn who_is_skipped_does_not_vouch_for_a_canary_that_failed() {
    let fleet = Fleet::of(3).await;
    fleet.grow("0002_more");
    fleet.grow("0003_last");
    let replica = Process::with_roles(&fleet.deployment, "worker").await;
    let mut ahead = all();
    ahead.selection.tenants = vec![fleet.tenant(&fleet.orgs[2]).await.id];
    let run = fleet.begin_as(&ahead).await;
    assert_eq!(fleet.is_over(&run).await.state, RunState::Done);
    let canary = fleet.url(&fleet.orgs[0]).await;
    execute(&canary, "create table t0002_more (id int)").await;

    let careful = NewRun {
        wanted_version: Some("0002_more".to_owned()),
        waves: vec!["1".parse().unwrap()],
        ..all()
    };
    let run = fleet.begin_as(&careful).await;
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
    let fleet = Fleet::of(3).await;
    fleet.grow("0002_more");
    let replica = Process::with_roles(&fleet.deployment, "worker").await;
    let mut first = all();
    first.selection.tenants = vec![fleet.tenant(&fleet.orgs[0]).await.id];
    let run = fleet.begin_as(&first).await;
    assert_eq!(fleet.is_over(&run).await.state, RunState::Done);
    let canary = fleet.url(&fleet.orgs[1]).await;
    execute(&canary, "create table t0002_more (id int)").await;

    let run = fleet.begin(&["1"]).await;
    let over = fleet.is_over(&run).await;
    let code = over.failure.map(|failure| failure.code);
    assert_eq!(code.as_deref(), Some("fleet_wave_failed"));
    assert_eq!((over.counts.failed, over.counts.pending), (1, 2));
    drop(replica);
    fleet.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_run_begun_over_http_is_about_the_blueprint_of_the_replica_that_took_it() {
    let fleet = Fleet::of(1).await;
    fleet.grow("0002_more");
    let old = TinyBlueprint::new();
    let mut outdated = fleet.deployment.clone();
    let directory = old.path().to_str().unwrap();
    outdated.set("TENANTRY__BLUEPRINT__DIRECTORY", directory);
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
    let _right = Process::with_roles(&fleet.deployment, "worker").await;
    let over = fleet.is_over(&run).await;
    assert_eq!(over.state, RunState::Done);
    fleet.is_migrated_once(&over, &fleet.orgs[0]).await;
    fleet.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_replica_with_another_blueprint_leaves_a_run_alone_and_ends_one_that_was_aborted() {
    let fleet = Fleet::of(2).await;
    fleet.grow("0002_more");
    let old = TinyBlueprint::new();
    let mut outdated = fleet.deployment.clone();
    let directory = old.path().to_str().unwrap();
    outdated.set("TENANTRY__BLUEPRINT__DIRECTORY", directory);
    let behind = Process::with_roles(&outdated, "worker").await;
    let new = NewRun {
        blueprint_hash: Some(fleet.blueprint.source().load().unwrap().hash()),
        wanted_version: Some("0002_more".to_owned()),
        waves: vec!["1".parse().unwrap()],
        ..all()
    };
    let run = fleet.begin_as(&new).await;
    let left = "select count(*) from job_attempts where error_code = 'fleet_blueprint_unknown'";
    let is_left = async |times: i64| fleet.app.ask::<i64>(left).await >= times;
    wait_until("it is left to others", async || is_left(2).await).await;
    assert_eq!(fleet.find(&run).await.state, RunState::Preparing);

    let canary = fleet.url(&fleet.orgs[0]).await;
    execute(&canary, "create table t0002_more (id int)").await;
    let right = Process::with_roles(&fleet.deployment, "worker").await;
    assert_eq!(fleet.is_over(&run).await.state, RunState::Failed);
    drop(right);
    // nobody has its blueprint any more
    resume(&fleet, &run).await;
    let before: i64 = ask(&fleet.deployment.control_url, left).await;
    wait_until("it is left to others", async || is_left(before + 1).await).await;
    abort(&fleet, &run).await;
    wait_until("no job is left", async || jobs(&fleet).await == 0).await;
    assert_eq!(fleet.find(&run).await.counts.skipped, 1);
    drop(behind);
    fleet.end().await;
}
