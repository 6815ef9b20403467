//! Crashes: whatever dies, whenever, the next replica finishes, and nothing is left over.

use futures_util::{StreamExt, stream};
use serde_json::Value;
use tenantry::{
    config::Config,
    inbox, jobs,
    provisioning::{FAULT_POINTS, INNER_FAULT_POINTS, PLAN},
    queue::worker,
};

use crate::support::{
    Deployment,
    app::{FENCED, is_delivered, metric, new_org, wait_until},
    cluster::ask,
    events,
    process::Process,
};

/// Every point at which the product can be made to die.
fn every_point() -> Vec<String> {
    let of_steps = PLAN
        .iter()
        .flat_map(|step| FAULT_POINTS.map(|point| format!("{}.{point}", step.name())))
        .filter(|point| point != "activate.recorded");
    let others = INNER_FAULT_POINTS
        .iter()
        .chain(&inbox::FAULT_POINTS)
        .chain(&worker::FAULT_POINTS)
        .chain(&jobs::FAULT_POINTS)
        .map(|point| (*point).to_owned());
    of_steps.chain(others).collect()
}

/// Whoever is a member is in the tenant's database, and that is on record.
async fn its_members_are_in(deployment: &Deployment, database: &str, what: &str) {
    let control = &deployment.control_url;
    let members: i64 = ask(control, "select count(*) from memberships").await;
    let told = "select count(*) from users where removed_at is null";
    assert_eq!(
        ask::<i64>(&deployment.url(database), told).await,
        members,
        "{what}: members in the tenant's database"
    );
    let synced = "select count(*) from member_syncs where digest <> ''";
    assert_eq!(
        ask::<i64>(control, synced).await,
        members,
        "{what}: members on record"
    );
}

/// What must hold of a deployment with one organization, when everything is quiet.
async fn one_tenant_and_nothing_else(deployment: &Deployment, org: &str, what: &str) {
    let control = &deployment.control_url;
    let ready = format!(
        "select count(*) from tenants where org_id = '{org}' and state = 'ready' and initialize"
    );
    wait_until(&format!("{what}: the tables are there"), async || {
        ask::<bool>(control, "select to_regclass('tenants') is not null").await
    })
    .await;
    wait_until(&format!("{what}: the tenant is ready"), async || {
        ask::<i64>(control, &ready).await == 1
    })
    .await;
    let open =
        "select count(*) from jobs where state in ('available', 'running') and kind <> 'prune'";
    wait_until(&format!("{what}: no job is open"), async || {
        ask::<i64>(control, open).await == 0
    })
    .await;
    assert_eq!(
        ask::<i64>(control, "select count(*) from tenants").await,
        1,
        "{what}"
    );
    assert_eq!(
        ask::<i64>(control, "select count(*) from jobs where state = 'dead'").await,
        0,
        "{what}"
    );
    assert_eq!(
        ask::<i64>(
            control,
            "select count(*) from webhook_events where state <> 'processed'"
        )
        .await,
        0,
        "{what}"
    );
    assert_eq!(
        ask::<i64>(
            control,
            "select count(*) from provisioning_steps where state <> 'done'"
        )
        .await,
        0,
        "{what}"
    );
    assert_eq!(deployment.tenant_databases().await, 1, "{what}: databases");
    assert_eq!(deployment.tenant_roles().await, 1, "{what}: roles");
    let unsealed = format!(
        "select count(*) from pg_database where starts_with(datname, '{}template_') and not datistemplate",
        deployment.prefix
    );
    assert_eq!(
        ask::<i64>(control, &unsealed).await,
        0,
        "{what}: unsealed templates"
    );
    let database: String = ask(control, "select database::text from tenants").await;
    let seeded = "select count(*) from tenantry.seeds where name = 'tenant'";
    assert_eq!(
        ask::<i64>(&deployment.url(&database), seeded).await,
        1,
        "{what}: seeds"
    );
    its_members_are_in(deployment, &database, what).await;
    deployment.discard().await;
}

/// An organization with one member; all is known of the member before the tenant is begun.
fn organization_with_a_member(org: &str) -> [Value; 3] {
    [
        events::user("user_1", ("Ada", "Lovelace")),
        events::member(org, "user_1", "admin", 0),
        events::created(org, "Acme"),
    ]
}

async fn killed_at(point: String) {
    let deployment = Deployment::new().await;
    let mut first = Process::start(&deployment, &format!("{point}=kill")).await;
    let (org, what) = (new_org(), format!("killed at {point}"));
    let mut acknowledged = 0;
    let events = organization_with_a_member(&org);
    for event in &events {
        if !is_delivered(first.address, event).await {
            break;
        }
        acknowledged += 1;
    }
    first.is_killed().await;
    let second = Process::start(&deployment, "").await;
    for event in &events[acknowledged..] {
        assert!(
            is_delivered(second.address, event).await,
            "{what}: delivered again"
        );
    }
    one_tenant_and_nothing_else(&deployment, &org, &what).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_replica_killed_at_any_point_leaves_work_that_the_next_one_finishes() {
    let cases = every_point().into_iter().map(killed_at);
    stream::iter(cases)
        .buffer_unordered(4)
        .collect::<Vec<_>>()
        .await;
}

/// A replica that was stopped past its lease, after another one did the work, writes nothing.
async fn stopped_at(point: &str) {
    let deployment = Deployment::new().await;
    let zombie = Process::start(&deployment, &format!("{point}=stop")).await;
    let (org, what) = (new_org(), format!("stopped at {point}"));
    for event in organization_with_a_member(&org) {
        assert!(is_delivered(zombie.address, &event).await);
    }
    zombie.is_stopped().await;
    let second = Process::start(&deployment, "").await;
    let control = &deployment.control_url;
    let ready = "select count(*) from tenants where state = 'ready'";
    wait_until(&format!("{what}: the other one finishes"), async || {
        ask::<i64>(control, ready).await == 1
    })
    .await;
    let state = "select md5(string_agg(t::text, '') || (select string_agg(s::text, '' order by step) from provisioning_steps s)) from tenants t";
    let before: String = ask(control, state).await;

    zombie.resume();
    let fenced = async || metric(zombie.address, FENCED).await >= Some(1);
    wait_until(&format!("{what}: the zombie notices"), fenced).await;

    assert_eq!(
        ask::<String>(control, state).await,
        before,
        "{what}: it wrote something"
    );
    drop(second);
    one_tenant_and_nothing_else(&deployment, &org, &what).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_zombie_writes_nothing() {
    let points = [
        "create_database.before",
        "create_database.cloned",
        "create_role.before",
        "seed.before",
        "sync_members.before",
        "sync_members.told",
        "verify.after_effect",
        "activate.before",
    ];
    stream::iter(points.map(|point| Box::pin(stopped_at(point))))
        .buffer_unordered(3)
        .collect::<Vec<_>>()
        .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_zombie_inside_the_last_transaction_opens_nothing() {
    Box::pin(stopped_at("activate.after_effect")).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_killed_while_create_database_waits_leaves_no_ghost() {
    let deployment = Deployment::new().await;
    let mut first = Process::start(&deployment, "").await;
    let control = &deployment.control_url;
    let sealed = format!(
        "select coalesce(min(datname::text), '') from pg_database where starts_with(datname, '{}template_') and datistemplate",
        deployment.prefix
    );
    wait_until("the template is built", async || {
        !ask::<String>(control, &sealed).await.is_empty()
    })
    .await;
    let template: String = ask(control, &sealed).await;

    // whoever clones it waits for this lock: the statement is under way when its client dies
    let mut holder = crate::support::cluster::hold(
        control,
        &format!("alter database {template} rename to held"),
    )
    .await;
    let org = new_org();
    assert!(is_delivered(first.address, &events::created(&org, "Acme")).await);
    let creating = format!(
        "select count(*) from pg_stat_activity where query ilike 'create database \"{}%' and wait_event_type = 'Lock'",
        deployment.prefix
    );
    wait_until("create database waits", async || {
        ask::<i64>(control, &creating).await == 1
    })
    .await;
    first.kill();
    holder.release().await;

    let _second = Process::start(&deployment, "").await;
    one_tenant_and_nothing_else(&deployment, &org, "killed inside create database").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_drain_finishes_the_running_step_and_gives_the_job_back() {
    let deployment = Deployment::new().await;
    let mut first = Process::start(&deployment, "create_role.before=stall:800").await;
    first.is_ready().await;
    let org = new_org();
    assert!(is_delivered(first.address, &events::created(&org, "Acme")).await);
    let control = &deployment.control_url;
    let running = "select count(*) from provisioning_steps where step = 'create_role'";
    wait_until("the step runs", async || {
        ask::<i64>(control, running).await == 1
    })
    .await;
    first.terminate();
    assert!(first.has_ended().await.success());

    let released = "select count(*) from job_attempts where outcome = 'released'";
    assert_eq!(
        ask::<i64>(control, released).await,
        1,
        "released, not left to its lease"
    );
    let done =
        "select count(*) from provisioning_steps where step = 'create_role' and state = 'done'";
    assert_eq!(
        ask::<i64>(control, done).await,
        1,
        "the running step was finished"
    );
    let _second = Process::start(&deployment, "").await;
    one_tenant_and_nothing_else(&deployment, &org, "drained").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn two_replicas_may_start_at_once() {
    let deployment = Deployment::new().await;
    let both = tokio::join!(
        Process::start(&deployment, ""),
        Process::start(&deployment, "")
    );
    let org = new_org();
    assert!(is_delivered(both.0.address, &events::created(&org, "Acme")).await);
    let control = &deployment.control_url;
    // events are accepted as soon as their table is there, and tables come one after the other
    let migrated = "select count(*) from pg_tables where tablename = 'tenants'";
    wait_until("the table is there", async || {
        ask::<i64>(control, migrated).await == 1
    })
    .await;
    let ready = "select count(*) from tenants where state = 'ready'";
    wait_until("the tenant is ready", async || {
        ask::<i64>(control, ready).await == 1
    })
    .await;
    drop(both);
    deployment.discard().await;
}

#[test]
fn faults_are_for_debug_builds_only() {
    // the configuration that production would get: no plan, no points
    let config = Config::load(None, &std::iter::empty::<(String, String)>().collect()).unwrap();
    assert_eq!(format!("{:?}", config.faults), "Faults({})");
}
