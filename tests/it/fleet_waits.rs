//! Fleet runs that wait: for a lock, for tenants that are just being made, for a pool that is filled.

use tenantry::fleet::{NewRun, RunState, TargetState};

use crate::support::{
    App, Deployment, Fleet,
    app::{new_org, wait_for, wait_until},
    cluster::{ask, execute, hold},
    events,
    fleet::{ADDITIVE, NEXT, all},
};

#[tokio::test(flavor = "multi_thread")]
async fn a_lock_that_is_not_had_is_tried_again_and_names_who_holds_it() {
    let fleet = Fleet::of(2).await;
    fleet
        .blueprint
        .write("blueprint.toml", "lock_timeout_ms = 200\n");
    fleet
        .blueprint
        .write(NEXT, "alter table notes add column tag text");
    let report = "set application_name = 'a long report'; lock table notes in access share mode";
    let mut holder = hold(&fleet.url(&fleet.orgs[0]).await, report).await;
    let run = fleet.begin(&all()).await;
    let blocked = wait_for("it met the lock", async || {
        let target = fleet.find_target(&run, &fleet.orgs[0]).await;
        target.filter(|target| target.error_code.is_some())
    })
    .await;
    assert_eq!(blocked.error_code.as_deref(), Some("lock_timeout"));
    assert_eq!(blocked.blocker.unwrap()["application"], "a long report");
    assert_eq!(blocked.state, TargetState::Pending);
    holder.release().await;
    let run = fleet.is_over(&run).await;
    assert_eq!((run.state, run.counts.done), (RunState::Done, 2));
    fleet.every_row_is_true().await;
    fleet.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn who_becomes_ready_with_the_old_version_meanwhile_is_migrated_as_well() {
    let fleet = Fleet::of(2).await;
    fleet.is_ready_once_the_run_goes_on(&fleet.orgs[0]).await;
    let run = fleet.migrate(&all()).await;
    assert_eq!((run.state, run.counts.done), (RunState::Done, 2));
    fleet.every_row_is_true().await;
    fleet.stop().await;
}

/// A tenant whose making stands still at a point, where it has read the blueprint without the newest migration.
async fn half_made(point: &str) -> (Fleet, String) {
    let deployment = Deployment::new().await.with_fault(&format!("{point}=hold"));
    let fleet = Fleet::on(deployment, 0).await;
    fleet.blueprint.remove(NEXT);
    let org = new_org();
    fleet.app.accepts(&[&events::created(&org, "Acme")]).await;
    let faults = &fleet.app.replica.provisioner.faults;
    wait_until("it is being made", async || faults.was_hit(point)).await;
    fleet.blueprint.write(NEXT, ADDITIVE);
    (fleet, org)
}

/// The run has nothing else to do and does not end; once the making goes on the tenant is one of its targets.
async fn it_is_waited_for(mut fleet: Fleet, org: String, point: &str) {
    let run = fleet.begin(&all()).await;
    let looked =
        "select exists (select from job_attempts where error_code = 'fleet_target_not_due')";
    wait_until("the run has nothing else to do", async || {
        fleet.app.ask::<bool>(looked).await || fleet.find(&run).await.state.is_over()
    })
    .await;
    assert_eq!(fleet.find(&run).await.state, RunState::Running);
    fleet.app.replica.provisioner.faults.release(point);

    let run = fleet.is_over(&run).await;
    assert_eq!((run.state, run.counts.done), (RunState::Done, 1));
    assert_eq!(fleet.tenant(&org).await.alembic_version, "0002_tags");
    let template = format!(
        "select count(*) from templates where hash = '{}'",
        run.blueprint_hash.unwrap()
    );
    let templates = fleet.app.ask::<i64>(&template).await;
    assert_eq!(templates, 1, "what it was compared with");
    fleet.orgs.push(org);
    fleet.every_row_is_true().await;
    fleet.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_run_waits_for_who_is_just_being_made_from_another_blueprint_however_long_that_takes() {
    let point = "create_database.recorded";
    let (fleet, org) = half_made(point).await;
    let aged = "update tenants set updated_at = now() - interval '1 hour'";
    execute(&fleet.app.deployment.control_url, aged).await;
    it_is_waited_for(fleet, org, point).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_run_waits_for_who_has_read_another_blueprint_and_has_no_database_yet() {
    let point = "create_database.before";
    let (fleet, org) = half_made(point).await;
    it_is_waited_for(fleet, org, point).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn who_is_not_meant_is_not_waited_for() {
    let point = "create_database.recorded";
    let (fleet, org) = half_made(point).await;
    let mut of_plan = all();
    let label = ("plan".to_owned(), "gold".to_owned());
    of_plan.selection.labels.extend([label]);
    let run = fleet.begin(&of_plan).await;
    assert_eq!(fleet.is_over(&run).await.state, RunState::Done);
    fleet.app.replica.provisioner.faults.release(point);
    fleet.app.tenant(&org).is_ready().await;
    fleet.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn who_waits_for_the_next_attempt_is_waited_for() {
    let point = "activate.before";
    let (fleet, org) = half_made(point).await;
    // the database says that it may have been opened: the next attempt goes on with it
    let opened = "insert into tenantry.seeds (name) values ('opened')";
    fleet.sql(&org, opened).await;
    let lost = "update jobs
        set state = 'available', lease_expires_at = null, run_at = now() + interval '5 s'
        where kind = 'provision_tenant'";
    execute(&fleet.app.deployment.control_url, lost).await;
    it_is_waited_for(fleet, org, point).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_run_ends_while_somebody_is_always_just_beginning() {
    let (taken, beginning) = ("fleet.taken", "create_database.before");
    let plan = format!("{taken}=hold; {beginning}=hold");
    let fleet = Fleet::on(Deployment::new().await.with_fault(&plan), 0).await;
    let faults = fleet.app.replica.provisioner.faults.clone();
    // in one slot, so that nobody else ends it
    let new = NewRun {
        concurrency: 1,
        ..all()
    };
    let run = fleet.begin(&new).await;
    wait_until("the run goes on", async || faults.was_hit(taken)).await;
    let org = new_org();
    fleet.app.accepts(&[&events::created(&org, "Acme")]).await;
    wait_until("it is being made", async || faults.was_hit(beginning)).await;
    assert_eq!(fleet.find(&run).await.state, RunState::Running);
    faults.release(taken);
    assert_eq!(fleet.is_over(&run).await.state, RunState::Done);
    faults.release(beginning);
    let tenant = fleet.app.tenant(&org).is_ready().await;
    assert_eq!(tenant.alembic_version, "0002_tags");
    fleet.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_replica_that_drains_while_the_pool_is_filled_leaves_the_run_to_be_prepared() {
    let fleet = Fleet::of(1).await;
    fleet.blueprint.remove(NEXT);
    let mut deployment = fleet.app.deployment.clone();
    fleet.app.stop().await;
    deployment.set("TENANTRY__POOL__SIZE", "2");
    // somebody else is at the pool
    let lock = format!(
        "select pg_advisory_xact_lock(hashtextextended('{}pool', 0))",
        deployment.prefix
    );
    let mut other = hold(&deployment.control_url, &lock).await;
    let app = App::of(deployment.clone(), fleet.blueprint.source()).await;
    let fleet = Fleet { app, ..fleet };
    fleet.blueprint.write(NEXT, ADDITIVE);
    let run = fleet.begin(&all()).await;
    let built = "select exists (select from templates where version = '0002_tags')";
    wait_until("the template is there", async || fleet.app.ask(built).await).await;
    fleet.app.stop().await;
    let state: String = ask(&deployment.control_url, "select state from fleet_runs").await;
    assert_eq!(state, "preparing");

    other.release().await;
    let app = App::of(deployment, fleet.blueprint.source()).await;
    let fleet = Fleet { app, ..fleet };
    assert_eq!(fleet.is_over(&run).await.state, RunState::Done);
    assert_eq!(fleet.app.deployment.pool_databases().await.len(), 2);
    fleet.stop().await;
}
