//! The warm pool while replicas die, stand still, or lose what they hold: what is half made is mended, what was
//! claimed is taken by who comes next, and who is late changes nothing.

use futures_util::{StreamExt, stream};
use tenantry::provisioning::{
    BlueprintSource,
    pool::{self, FAULT_POINTS},
};

use crate::support::{
    App,
    app::{FENCED, is_delivered, metric, new_org, wait_until},
    cluster::execute,
    events,
    pool::with_pool,
    process::Process,
};

/// A replica dies at a point of making, or of dropping, a database.
async fn killed_while_filling(point: &'static str) {
    let mut deployment = with_pool(2).await;
    let drops = point.starts_with("pool.dropp");
    if drops {
        let mut larger = deployment.clone();
        larger.set("TENANTRY__POOL__SIZE", "4");
        let replica = Process::start(&larger, "").await;
        deployment.pool_is(4, point).await;
        drop(replica);
    }
    let mut first = Process::start(&deployment, &format!("{point}=kill")).await;
    first.is_killed().await;
    deployment.set("TENANTRY__POOL__SIZE", "2");
    let second = Process::start(&deployment, "").await;
    deployment.pool_is(2, point).await;
    drop(second);
    deployment.discard().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_replica_killed_while_it_fills_the_pool_leaves_nothing_that_is_not_mended() {
    stream::iter(FAULT_POINTS.map(|point| Box::pin(killed_while_filling(point))))
        .buffer_unordered(3)
        .collect::<Vec<()>>()
        .await;
}

/// A replica dies between the claim and the tenant's own record of its database.
async fn killed_while_claiming(point: &'static str) {
    let deployment = with_pool(1).await;
    let filler = Process::start(&deployment, "").await;
    deployment.pool_is(1, point).await;
    drop(filler);
    let [ready] = deployment.pool_databases().await.try_into().unwrap();
    let oid = deployment.oid(&ready).await;
    let mut first = Process::start(&deployment, &format!("{point}=kill")).await;
    first.is_ready().await;
    let org = new_org();
    assert!(is_delivered(first.address, &events::created(&org, "Acme")).await);
    first.is_killed().await;

    let second = Process::start(&deployment, "").await;
    let found = format!("select count(*) from tenants where org_id = '{org}' and state = 'ready'");
    wait_until(&format!("{point}: ready"), async || {
        deployment.control::<i64>(&found).await == 1
    })
    .await;
    let database: String = deployment
        .control("select database::text from tenants")
        .await;
    assert_eq!(deployment.oid(&database).await, oid, "{point}: another one");
    deployment.pool_is(1, point).await;
    assert_eq!(deployment.tenant_databases().await, 2, "{point}");
    drop(second);
    deployment.discard().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_replica_killed_while_it_claims_is_succeeded_by_one_that_takes_the_same_database() {
    let points = [
        pool::CLAIMED,
        "create_database.after_effect",
        "create_database.recorded",
    ];
    stream::iter(points.map(|point| Box::pin(killed_while_claiming(point))))
        .buffer_unordered(3)
        .collect::<Vec<()>>()
        .await;
}

/// A replica stops while it makes a database, loses its session to the server, and goes on later.
async fn stopped_while_filling(point: &'static str) {
    let deployment = with_pool(2).await;
    let zombie = Process::start(&deployment, &format!("{point}=stop")).await;
    zombie.is_stopped().await;
    // the server does it after a while of silence
    let end = format!(
        "select count(pg_terminate_backend(pid)) from pg_locks
         where locktype = 'advisory'
           and (classid::bigint << 32 | objid::bigint) = hashtextextended('{}pool', 0)",
        deployment.prefix
    );
    assert_eq!(deployment.control::<i64>(&end).await, 1, "{point}");
    let second = Process::start(&deployment, "").await;
    deployment.pool_is(2, point).await;
    let before = deployment.pool_databases().await;
    zombie.resume();
    let noticed = async || zombie.log().contains("the pool was not filled");
    wait_until(&format!("{point}: it notices"), noticed).await;
    deployment.pool_is(2, point).await;
    assert_eq!(deployment.pool_databases().await, before, "{point}");
    drop(second);
    deployment.discard().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_zombie_makes_nothing() {
    let points = ["pool.begun", "pool.cloned", "pool.marked"];
    stream::iter(points.map(|point| Box::pin(stopped_while_filling(point))))
        .buffer_unordered(3)
        .collect::<Vec<()>>()
        .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_database_that_another_one_drops_is_not_made_ready() {
    let deployment = with_pool(1).await;
    let zombie = Process::start(&deployment, "pool.marked=stop").await;
    zombie.is_stopped().await;
    let [lost] = deployment.pool_databases().await.try_into().unwrap();
    // what whoever takes it for lost does first
    let take = "update pool_databases set state = 'dropping'";
    execute(&deployment.control_url, take).await;
    zombie.resume();
    let noticed = async || zombie.log().contains("the pool was not filled");
    wait_until("it notices", noticed).await;
    drop(zombie);
    let second = Process::start(&deployment, "").await;
    deployment.pool_is(1, "afterwards").await;
    assert!(!deployment.pool_databases().await.contains(&lost));
    drop(second);
    deployment.discard().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_zombie_hands_nothing_over() {
    let deployment = with_pool(2).await;
    let filler = Process::start(&deployment, "").await;
    deployment.pool_is(2, "before").await;
    drop(filler);
    let zombie = Process::start(&deployment, &format!("{}=stop", pool::CLAIMED)).await;
    zombie.is_ready().await;
    let event = events::created(&new_org(), "Acme");
    assert!(is_delivered(zombie.address, &event).await);
    zombie.is_stopped().await;
    let second = Process::start(&deployment, "").await;
    let ready = "select count(*) from tenants where state = 'ready'";
    wait_until("the other one finishes", async || {
        deployment.control::<i64>(ready).await == 1
    })
    .await;
    deployment.pool_is(2, "afterwards").await;
    zombie.resume();
    let fenced = async || metric(zombie.address, FENCED).await >= Some(1);
    wait_until("the zombie notices", fenced).await;
    deployment.pool_is(2, "in spite of the zombie").await;
    assert_eq!(deployment.tenant_databases().await, 3);
    drop(second);
    deployment.discard().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn who_lost_its_job_without_noticing_claims_nothing() {
    let point = "create_database.before";
    let mut deployment = with_pool(1).await.with_fault(&format!("{point}=hold"));
    // nobody looks whether the lease is still there
    deployment.set("TENANTRY__QUEUE__LEASE_MS", "120000");
    let app = App::of(deployment.clone(), BlueprintSource::Bundled).await;
    deployment.pool_is(1, "before").await;
    let org = new_org();
    app.accepts(&[&events::created(&org, "Acme")]).await;
    let faults = app.replica.provisioner.faults.clone();
    wait_until("it is held", async || faults.was_hit(point)).await;
    let of = "where kind = 'provision_tenant' and state = 'running'";
    // another attempt has it, as far as the row knows
    let other = format!("update jobs set attempt = attempt + 1 {of}");
    execute(&deployment.control_url, &other).await;

    faults.release(point);
    wait_until("it notices", async || {
        metric(app.address, FENCED).await == Some(1)
    })
    .await;
    deployment.pool_is(1, "nothing is claimed").await;
    assert_eq!(deployment.tenant_databases().await, 1);

    let again = format!("update jobs set state = 'available', lease_expires_at = null {of}");
    execute(&deployment.control_url, &again).await;
    app.tenant(&org).is_ready().await;
    app.stop().await;
    deployment.discard().await;
}
