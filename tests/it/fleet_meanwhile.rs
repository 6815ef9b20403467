//! What changes while a fleet run is under way, or has stopped: its blueprint, other runs, what is known of a tenant.

use tenantry::fleet::{self, NewRun, RunState, TargetState};

use crate::support::{
    Deployment, Fleet, TinyBlueprint,
    app::{new_org, wait_until},
    cluster::{execute, hold},
    events,
    fleet::{ADDITIVE, NEXT, all},
    tiny::MIGRATION,
};

/// A program that makes a table for each version in `db/versions`, and takes a second for a tenant.
const SCRIPT: &str = r#"
PATH=$PATH:$(echo /usr/lib/postgresql/*/bin | tr ' ' :)
run() { psql --quiet --tuples-only --no-align --no-psqlrc --set ON_ERROR_STOP=1 --command "$1"; }
run 'set client_min_messages = warning
    ; create table if not exists public.notes (body text not null)
    ; create table if not exists public.versions (version text)' || exit
if [ "$TENANTRY_TENANT_ID" ]; then sleep 1; fi
while read -r version; do
    run "create table if not exists public.$version (); insert into public.versions values ('$version')" </dev/null || exit
done < db/versions
"#;

const COMMAND: &str = "migrator = \"command\"
[command]
argv = [\"/bin/sh\", \"db/migrate.sh\"]
files = [\"db\"]
version_query = \"select max(version) from public.versions\"";

fn one_by_one() -> NewRun {
    NewRun {
        concurrency: 1,
        ..all()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_program_whose_files_change_takes_nobody_to_what_was_not_prepared() {
    let blueprint = TinyBlueprint::new();
    blueprint.remove(MIGRATION);
    blueprint.write("blueprint.toml", COMMAND);
    blueprint.write("db/migrate.sh", SCRIPT);
    blueprint.write("db/versions", "v1\n");
    let fleet = Fleet::made_from(blueprint, Deployment::new().await, 6).await;
    fleet.blueprint.write("db/versions", "v1\nv2\n");
    let run = fleet.begin(&one_by_one()).await;
    let done = async || fleet.find(&run).await.counts.done;
    wait_until("the first one is done", async || done().await > 0).await;
    fleet.blueprint.write("db/versions", "v1\nv2\nv3\n");
    let left =
        "select exists (select from job_attempts where error_code = 'fleet_blueprint_unknown')";
    wait_until("the run is left alone", async || {
        fleet.app.ask::<bool>(left).await
    })
    .await;
    assert_eq!(fleet.find(&run).await.state, RunState::Running);

    fleet.blueprint.write("db/versions", "v1\nv2\n");
    let run = fleet.is_over(&run).await;
    // several are taken at once, and one of them may have been under way when the files changed
    assert!(run.counts.done >= 5, "{:?}", run.counts);
    assert!(run.counts.failed <= 1, "{:?}", run.counts);
    fleet.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_lost_with_the_only_replica_of_a_blueprint_does_not_keep_a_run_open() {
    let fleet = Fleet::of(1).await;
    let begun = fleet.migrate(&all()).await;
    fleet.app.is_idle().await;
    // as a replica leaves it that was killed and does not come back
    let control = &fleet.app.deployment.control_url;
    let lost = "update fleet_runs set state = 'aborted', blueprint_hash = 'gone', finished_at = now() - interval '11 minutes';
         update fleet_targets
         set state = 'running', finished_at = null, held_by = 1, held_attempt = 99, started_at = now()";
    execute(control, lost).await;
    fleet::enqueue_missing(&fleet.app.replica.db).await.unwrap();
    let left =
        "select exists (select from job_attempts where error_code = 'fleet_blueprint_unknown')";
    wait_until("the run is left alone", async || {
        fleet.app.ask::<bool>(left).await
    })
    .await;
    assert_eq!(fleet.find(&begun).await.counts.running, 1);

    let long_ago = "update fleet_targets set started_at = now() - interval '11 minutes'";
    execute(control, long_ago).await;
    wait_until("nothing is under way", async || {
        fleet.find(&begun).await.counts.running == 0
    })
    .await;
    let target = fleet.target(&begun, &fleet.orgs[0]).await;
    assert_eq!(target.state, TargetState::Failed);
    assert_eq!(
        target.error_code.as_deref(),
        Some("fleet_blueprint_unknown")
    );
    fleet.app.is_idle().await;
    assert_eq!(fleet.find(&begun).await.state, RunState::Aborted);
    fleet.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_late_result_of_a_run_that_is_over_does_not_take_back_what_a_later_one_has_recorded() {
    let point = fleet::FAULT_RECORDING;
    let deployment = Deployment::new().await.with_fault(&format!("{point}=hold"));
    let fleet = Fleet::on(deployment, 1).await;
    let run = fleet.begin(&all()).await;
    let faults = &fleet.app.replica.provisioner.faults;
    wait_until("it is about to record", async || faults.was_hit(point)).await;
    fleet.abort(&run).await;
    // with another seed
    let later = "update tenants set blueprint_hash = 'later'";
    execute(&fleet.app.deployment.control_url, later).await;
    faults.release(point);
    let run = fleet.is_over(&run).await;
    assert_eq!((run.state, run.counts.done), (RunState::Aborted, 1));
    let tenant = fleet.tenant(&fleet.orgs[0]).await;
    assert_eq!(tenant.alembic_version, "0001_notes");
    assert_eq!(tenant.blueprint_hash.as_deref(), Some("later"));
    fleet.stop().await;
}

/// An earlier run records after this one has looked at the row, and before it comes to the database.
#[tokio::test(flavor = "multi_thread")]
async fn a_result_of_the_run_that_goes_on_is_later_than_what_was_recorded_before() {
    let point = fleet::FAULT_RECORDING;
    let deployment = Deployment::new().await.with_fault(&format!("{point}=hold"));
    let fleet = Fleet::on(deployment, 1).await;
    let run = fleet.begin(&all()).await;
    let faults = &fleet.app.replica.provisioner.faults;
    wait_until("it is about to record", async || faults.was_hit(point)).await;
    let earlier = "update tenants set alembic_version = '0001_notes', blueprint_hash = 'of before'";
    execute(&fleet.app.deployment.control_url, earlier).await;
    faults.release(point);
    let run = fleet.is_over(&run).await;
    let tenant = fleet.tenant(&fleet.orgs[0]).await;
    assert_eq!(tenant.alembic_version, "0002_tags");
    assert_eq!(tenant.blueprint_hash, run.blueprint_hash);
    fleet.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_tried_before_the_run_was_aborted_has_failed_by_what_it_met() {
    let fleet = Fleet::of(1).await;
    fleet
        .blueprint
        .write(NEXT, &format!("lock table notes; {ADDITIVE}"));
    fleet
        .blueprint
        .write("blueprint.toml", "lock_timeout_ms = 300\n");
    let org = &fleet.orgs[0];
    let mut holder = hold(&fleet.url(org).await, "lock table notes").await;
    let run = fleet.begin(&all()).await;
    wait_until("it waits for its next attempt", async || {
        let target = fleet.targets(&run).await;
        let waits = |target: &fleet::Target| {
            target.state == TargetState::Pending && target.error_code.is_some()
        };
        target.first().is_some_and(waits)
    })
    .await;
    fleet.abort(&run).await;
    fleet.nothing_is_under_way(&run).await;
    let target = fleet.target(&run, org).await;
    assert_eq!(target.state, TargetState::Failed);
    assert_eq!(target.error_code.as_deref(), Some("lock_timeout"));
    let fix = target.fix.unwrap();
    assert!(fix.ends_with("then: tenantry fleet migrate"), "{fix}");
    holder.release().await;
    fleet.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn who_was_brought_further_meanwhile_is_passed_over() {
    let fleet = Fleet::of(1).await;
    fleet
        .blueprint
        .write("migrations/0003_more.sql", "create table more (id int)");
    let org = &fleet.orgs[0];
    let run = fleet.migrate(&all()).await;
    assert_eq!(run.state, RunState::Done);
    // as a run that failed before that one left it
    let left = format!(
        "update fleet_runs set state = 'failed', wanted_version = '0002_tags', version = '0002_tags', blueprint_hash = '{}';
         update fleet_targets set state = 'failed', finished_at = now()",
        fleet::known_hash(&fleet.blueprint.source(), Some("0002_tags")).unwrap()
    );
    execute(&fleet.app.deployment.control_url, &left).await;
    fleet.retry(&run).await;
    let run = fleet.is_over(&run).await;
    assert_eq!((run.state, run.counts.skipped), (RunState::Done, 1));
    let target = fleet.target(&run, org).await;
    assert_eq!(target.error_code.as_deref(), Some("ahead_of_version"));
    assert_eq!(fleet.tenant(org).await.alembic_version, "0003_more");
    fleet.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_run_that_was_only_paused_is_resumed_with_its_own_blueprint() {
    let fleet = Fleet::of(1).await.without_workers().await;
    let run = fleet.begin(&all()).await;
    fleet.pause(&run).await;
    fleet.blueprint.write(NEXT, "create table tags (id bigint)");
    let resumed = fleet.resume(&run).await;
    assert_eq!(resumed.state, RunState::Preparing);
    assert_eq!(resumed.blueprint_hash, run.blueprint_hash);
    fleet.app.deployment.discard().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn whoever_does_not_know_the_blueprint_resumes_a_run_with_its_own() {
    let fleet = Fleet::of(1).await.without_workers().await;
    let run = fleet.begin(&all()).await;
    let failed = "update fleet_runs set state = 'failed', finished_at = now()";
    execute(&fleet.app.deployment.control_url, failed).await;
    let resumed = fleet.resume_knowing(&run, None).await.unwrap();
    assert_eq!(resumed.state, RunState::Preparing);
    assert_eq!(resumed.blueprint_hash, run.blueprint_hash);
    fleet.app.deployment.discard().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_run_that_cannot_be_prepared_says_so_although_it_was_paused_meanwhile() {
    let fleet = Fleet::of(1).await;
    fleet
        .blueprint
        .write(NEXT, "select pg_sleep(2); create table tags (id typo)");
    let run = fleet.begin(&all()).await;
    let sleeps = format!(
        "select exists (select from pg_stat_activity where wait_event = 'PgSleep' and datname like '{}template%')",
        fleet.app.deployment.prefix
    );
    wait_until("the template is built", async || {
        fleet.app.ask::<bool>(&sleeps).await
    })
    .await;
    fleet.pause(&run).await;
    let failed = fleet.is_over(&run).await;
    assert_eq!(failed.state, RunState::Failed);
    assert_eq!(failed.failure.unwrap().code, "migration_failed");

    fleet.blueprint.write(NEXT, ADDITIVE);
    fleet.resume(&run).await;
    let run = fleet.is_over(&run).await;
    assert_eq!(run.state, RunState::Done);
    fleet.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_aborted_run_advises_nothing_that_it_would_refuse() {
    let fleet = Fleet::of(1).await;
    fleet.sql(&fleet.orgs[0], ADDITIVE).await;
    let run = fleet.migrate(&all()).await;
    assert_eq!(run.state, RunState::Failed);
    let aborted = fleet.abort(&run).await;
    let target = fleet.target(&run, &fleet.orgs[0]).await;
    for fix in [target.fix.unwrap(), aborted.failure.unwrap().fix] {
        assert!(fix.ends_with("then: tenantry fleet migrate"), "{fix}");
        assert!(!fix.contains("retry"), "{fix}");
    }
    // one that was not prepared
    fleet.blueprint.write(NEXT, "create table tags (id typo)");
    let dry = NewRun {
        is_dry: true,
        ..all()
    };
    for (new, command) in [(all(), "migrate"), (dry, "migrate --dry-run")] {
        let run = fleet.migrate(&new).await;
        assert_eq!(run.state, RunState::Failed);
        let fix = fleet.abort(&run).await.failure.unwrap().fix;
        let again = format!("then: tenantry fleet {command}");
        assert!(fix.ends_with(&again), "{fix}");
    }
    fleet.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_attempt_that_failed_is_no_process_that_was_lost() {
    let fleet = Fleet::of(1).await;
    let run = fleet.migrate(&all()).await;
    // as a process leaves it that was killed when the target had failed often
    let lost = "update fleet_runs set state = 'running', finished_at = null;
         update fleet_targets set state = 'running', finished_at = null, attempt = 9, held_by = 1, held_attempt = 99";
    execute(&fleet.app.deployment.control_url, lost).await;
    fleet::enqueue_missing(&fleet.app.replica.db).await.unwrap();
    let run = fleet.is_over(&run).await;
    assert_eq!((run.state, run.counts.done), (RunState::Done, 1));
    assert_eq!(fleet.target(&run, &fleet.orgs[0]).await.attempt, 10);
    fleet.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_replica_with_an_older_blueprint_passes_over_who_came_with_a_newer_one() {
    let newer = "migrations/0003_more.sql";
    let fleet = Fleet::of(1).await;
    assert_eq!(fleet.migrate(&all()).await.state, RunState::Done);
    fleet.blueprint.write(newer, "create table more (id int)");
    let late = new_org();
    fleet
        .app
        .accepts(&[&events::created(&late, "Umbrella")])
        .await;
    fleet.app.tenant(&late).is_ready().await;
    fleet.blueprint.remove(newer);
    let run = fleet.migrate(&all()).await;
    assert_eq!((run.state, run.counts.done), (RunState::Done, 1));
    let target = fleet.target(&run, &late).await;
    assert_eq!(target.state, TargetState::Skipped);
    assert_eq!(target.error_code.as_deref(), Some("ahead_of_version"));
    assert_eq!(fleet.tenant(&late).await.alembic_version, "0003_more");
    fleet.stop().await;
}
