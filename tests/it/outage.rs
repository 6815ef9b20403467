//! Outages: Postgres goes away, crashes and comes back, on a cluster of its own.

use std::time::{Duration, Instant};

use futures_util::future::join_all;
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use tenantry::{private_postgres::PrivatePostgres, tenant_db::Clusters};

use crate::support::{
    App, Deployment, TinyBlueprint,
    app::{new_org, wait_until},
    cluster::{self, ask},
    events,
};

async fn postgres() -> (PrivatePostgres, Deployment) {
    let postgres = PrivatePostgres::start(&cluster::settings(), |_| {})
        .await
        .unwrap();
    let deployment = Deployment::on(|database| postgres.url(database)).await;
    (postgres, deployment)
}

fn organizations(count: usize) -> (Vec<String>, Vec<Value>) {
    let orgs: Vec<String> = (0..count).map(|_| new_org()).collect();
    let events = orgs
        .iter()
        .map(|org| events::created(org, "Acme"))
        .collect();
    (orgs, events)
}

impl App {
    async fn every_tenant_is_ready_once(&self, orgs: &[String]) {
        for org in orgs {
            self.tenant(org).is_ready().await;
            assert_eq!(
                self.tenant(org)
                    .ask::<i64>("select count(*) from notes")
                    .await,
                1
            );
        }
        self.is_idle().await;
        let expected = i64::try_from(orgs.len()).unwrap();
        assert_eq!(self.deployment.tenant_databases().await, expected);
        assert_eq!(self.deployment.tenant_roles().await, expected);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn while_postgres_is_away_senders_are_told_to_come_again_and_nothing_is_lost() {
    let (mut postgres, deployment) = postgres().await;
    let blueprint = TinyBlueprint::new();
    let app = App::of(deployment, blueprint.source()).await;
    let (orgs, all) = organizations(20);
    assert_eq!(app.get("/readyz").await.status, 200);

    postgres.halt().await.unwrap();
    let asked = Instant::now();
    let answers = join_all(all.iter().map(|event| app.deliver(event))).await;
    for answer in &answers {
        assert_eq!(
            (answer.status, &answer.body["code"]),
            (503, &"storage_unavailable".into())
        );
        let seconds: u64 = answer.retry_after.as_ref().unwrap().parse().unwrap();
        assert!((1..=60).contains(&seconds));
        let told = answer.body.to_string();
        assert!(
            !told.contains("postgres") && !told.contains("127.0.0.1"),
            "{told}"
        );
    }
    // a sender that gives up after ten seconds has heard from us
    assert!(
        asked.elapsed() < Duration::from_secs(10),
        "{:?}",
        asked.elapsed()
    );
    assert_eq!(app.get("/livez").await.status, 200);
    let readiness = app.get("/readyz").await;
    assert_eq!(
        (readiness.status, &readiness.body["code"]),
        (503, &"database_unavailable".into())
    );
    assert!(readiness.retry_after.is_some());
    assert_eq!(app.get("/metrics").await.status, 200);

    postgres.restart().await.unwrap();
    wait_until("the replica is ready again", async || {
        app.get("/readyz").await.status == 200
    })
    .await;
    for event in &all {
        let answer = app.deliver(event).await;
        assert_eq!(
            (answer.status, &answer.body["status"]),
            (200, &"accepted".into())
        );
    }
    app.every_tenant_is_ready_once(&orgs).await;
    app.stop().await;
    postgres.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn tenants_that_were_being_made_when_postgres_crashed_become_ready_by_themselves() {
    let (mut postgres, mut deployment) = postgres().await;
    deployment.set("TENANTRY__QUEUE__CONCURRENCY", "8");
    let blueprint = TinyBlueprint::new();
    let app = App::of(deployment, blueprint.source()).await;
    let (orgs, all) = organizations(8);
    app.accepts(&all.iter().collect::<Vec<_>>()).await;
    let begun = "select count(*) from tenants where state in ('provisioning', 'ready')";
    wait_until("all are being made", async || {
        app.ask::<i64>(begun).await == 8
    })
    .await;
    let ready = "select count(*) from tenants where state = 'ready'";
    assert!(
        app.ask::<i64>(ready).await < 8,
        "the crash would come too late"
    );

    postgres.crash().await.unwrap();
    postgres.restart().await.unwrap();

    app.every_tenant_is_ready_once(&orgs).await;
    app.stop().await;
    postgres.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn crash_after_crash_ends_in_one_tenant_each() {
    let (mut postgres, deployment) = postgres().await;
    let blueprint = TinyBlueprint::new();
    let app = App::of(deployment, blueprint.source()).await;
    let (orgs, all) = organizations(6);
    app.accepts(&all.iter().collect::<Vec<_>>()).await;
    for databases in [1, 2, 3] {
        // after whichever is made, in the middle of the next
        let made = format!(
            "select count(*) >= {databases} from pg_database where starts_with(datname, '{}')",
            app.deployment.prefix
        );
        wait_until("another database is there", async || {
            app.ask::<bool>(&made).await
        })
        .await;
        postgres.crash().await.unwrap();
        postgres.restart().await.unwrap();
    }
    app.every_tenant_is_ready_once(&orgs).await;
    app.stop().await;
    postgres.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_replica_that_starts_while_postgres_is_away_waits_for_it() {
    let (mut postgres, deployment) = postgres().await;
    postgres.halt().await.unwrap();
    let blueprint = TinyBlueprint::new();
    let app = App::listening(deployment, blueprint.source()).await;
    let starting = async {
        app.replica.migrate().await.unwrap();
        app.replica.build_templates().await.unwrap();
        app.replica.work();
    };
    let meanwhile = async {
        assert_eq!(app.get("/livez").await.status, 200);
        assert_eq!(app.get("/readyz").await.status, 503);
        let (_, all) = organizations(1);
        assert_eq!(app.deliver(&all[0]).await.status, 503);
        postgres.restart().await.unwrap();
    };
    tokio::join!(starting, meanwhile);

    assert_eq!(app.get("/readyz").await.status, 200);
    let (orgs, all) = organizations(1);
    app.accepts(&[&all[0]]).await;
    app.every_tenant_is_ready_once(&orgs).await;
    app.stop().await;
    postgres.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn whoever_holds_a_lock_does_not_wait_for_ever_for_a_server_that_says_nothing() {
    let (_postgres, mut deployment) = postgres().await;
    deployment.set("TENANTRY__PROVISIONING__CLONE_TIMEOUT_S", "1");
    let clusters = Clusters::new(&deployment.config()).unwrap();
    let cluster = clusters.iter().next().unwrap();
    let mut session = cluster.connect_for_maintenance().await.unwrap();
    assert!(session.try_lock("pool").await.unwrap());
    let backend = "select pid from pg_stat_activity where datname = current_database() and query like '%pg_try_advisory_lock%' and pid <> pg_backend_pid()";
    let backend: i32 = ask(&deployment.control_url, backend).await;
    let backend = Pid::from_raw(backend).unwrap();

    kill_process(backend, Signal::STOP).unwrap();
    let silent = session.ping().await;
    kill_process(backend, Signal::CONT).unwrap();

    assert!(silent.is_err(), "it answered");
    clusters.close().await;
}
