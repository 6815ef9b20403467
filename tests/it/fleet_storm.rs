//! A fleet run while replicas die: every tenant is migrated exactly once, and the rows are true.

use std::time::Duration;

use serde_json::Value;
use sqlx::{Connection, PgConnection};
use tenantry::{
    fleet::{self, NewRun, Run, RunState},
    tenants::Selection,
};

use crate::support::{
    App, Deployment, TinyBlueprint,
    app::{new_org, operator, wait_for},
    cluster::{ask, execute},
    events,
    process::Process,
};

/// Takes a moment, so that a kill falls into it, and counts how often it ran.
const NEXT: &str = "create table tags (id int); select pg_sleep(0.05); insert into notes (body) values ('migrated')";

/// How many tenants, and how often a replica is killed at least.
fn size() -> (usize, usize) {
    let tenants = std::env::var("TENANTRY_TEST_FLEET").ok();
    let tenants = tenants.map_or(24, |text| text.parse().unwrap());
    (tenants, if tenants > 24 { 10 } else { 3 })
}

/// Kills a replica every second until the run is over.
async fn storm(deployment: &Deployment, app: &App, run: &Run, kills: usize) -> (Run, usize) {
    let mut steady = Process::with_roles(deployment, "worker").await;
    let mut killed = 0;
    loop {
        let other = Process::with_roles(deployment, "worker").await;
        tokio::time::sleep(Duration::from_millis(if kills > 3 { 1000 } else { 400 })).await;
        steady.kill();
        killed += 1;
        steady = other;
        let now = find(app, run).await;
        if now.state.is_over() || killed > 200 {
            return (now, killed);
        }
    }
}

async fn find(app: &App, run: &Run) -> Run {
    let find = async |connection: &mut _| fleet::find(connection, run.id).await;
    app.replica.db.run(find).await.unwrap().unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn whoever_dies_every_tenant_is_migrated_exactly_once() {
    let (tenants, kills) = size();
    let blueprint = TinyBlueprint::new();
    let mut deployment = Deployment::new().await;
    let directory = blueprint.path().to_str().unwrap().to_owned();
    deployment.set("TENANTRY__BLUEPRINT__DIRECTORY", &directory);
    deployment.set("TENANTRY__FLEET__CONCURRENCY", "2");
    deployment.set("TENANTRY__FLEET__MAX_ATTEMPTS", "100");
    deployment.set("TENANTRY__POOL__SIZE", "0");
    deployment.set("TENANTRY__QUEUE__LEASE_MS", "600");
    let app = App::of(deployment.clone(), blueprint.source()).await;
    let mut orgs = Vec::new();
    for _ in 0..tenants {
        let org = new_org();
        app.accepts(&[&events::created(&org, "Acme")]).await;
        orgs.push(org);
    }
    for org in &orgs {
        app.tenant(org).is_ready().await;
    }
    app.is_idle().await;
    app.stop().await;
    // this one only looks; processes work
    let app = App::listening(deployment.clone(), blueprint.source()).await;
    blueprint.write("blueprint.toml", "lock_timeout_ms = 300\n");
    blueprint.write("migrations/0002_tags.sql", NEXT);

    let database = async |org: &str| app.tenant(org).find().await.unwrap().database;
    // one fails, one is locked for some time, one is dropped
    let (broken, locked, dropped) = (&orgs[0], &orgs[1], &orgs[2]);
    execute(
        &deployment.url(&database(broken).await),
        "create table tags (by_hand int)",
    )
    .await;
    let gone = database(dropped).await;
    execute(
        &deployment.control_url,
        &format!("drop database {gone} with (force)"),
    )
    .await;
    let mut holder = PgConnection::connect(&deployment.url(&database(locked).await))
        .await
        .unwrap();
    sqlx::raw_sql("begin; lock table notes in exclusive mode")
        .execute(&mut holder)
        .await
        .unwrap();

    let new = NewRun {
        blueprint_hash: None,
        wanted_version: None,
        selection: Selection::default(),
        waves: vec!["3".parse().unwrap()],
        concurrency: 8,
        max_failures: None,
        is_dry: false,
    };
    let create = async |tx: &mut _| fleet::create(tx, &new, &operator()).await;
    let run = app.replica.db.transaction(create).await.unwrap();
    let released = async {
        let is_met = format!(
            "select count(*) > 0 from fleet_targets where run = '{}' and error_code = 'lock_timeout'",
            run.id
        );
        wait_for("the lock is met", async || {
            app.ask::<bool>(&is_met).await.then_some(())
        })
        .await;
        sqlx::raw_sql("rollback")
            .execute(&mut holder)
            .await
            .unwrap();
    };
    let ((run, killed), ()) = tokio::join!(storm(&deployment, &app, &run, kills), released);
    assert!(killed >= kills, "only {killed} replicas were killed");

    let counts = run.counts;
    assert_eq!(run.state, RunState::Failed, "{:?}", run.failure);
    assert_eq!((counts.failed, counts.running, counts.pending), (2, 0, 0));
    assert_eq!(counts.done as usize, tenants - 2);
    for org in &orgs {
        let tenant = app.tenant(org).find().await.unwrap();
        let of = format!(
            "select to_jsonb(fleet_targets) from fleet_targets where tenant = '{}'",
            tenant.id
        );
        let target: Value = app.ask(&of).await;
        if org == broken {
            assert_eq!(target["error_code"], "migration_failed");
            assert_eq!(tenant.alembic_version, "0001_notes");
        } else if org == dropped {
            assert_eq!(target["error_code"], "database_gone");
        } else {
            assert_eq!(target["state"], "done", "{target}");
            assert_eq!(tenant.alembic_version, "0002_tags");
            assert_eq!(tenant.blueprint_hash, run.blueprint_hash);
            let times: i64 = ask(
                &deployment.url(&tenant.database),
                "select count(*) from notes where body = 'migrated'",
            )
            .await;
            let lines: i64 = ask(
                &deployment.url(&tenant.database),
                "select count(*) from tenantry.migrations where name = 'migrations/0002_tags.sql'",
            )
            .await;
            assert_eq!((times, lines), (1, 1), "{org}");
        }
    }
    println!("{tenants} tenants, {killed} replicas killed");
    app.stop().await;
    deployment.discard().await;
}
