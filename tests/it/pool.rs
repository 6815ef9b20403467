//! The warm pool: a new tenant takes a database that was ready, and none is lost or given twice.

use std::sync::atomic::{AtomicU32, Ordering};

use serde_json::Value;
use tenantry::provisioning::{BlueprintSource, pool};

use crate::support::{
    App, Deployment, TinyBlueprint,
    app::{metric, new_org, wait_until},
    cluster::{execute, hold},
    events,
    pool::with_pool,
    process::tenantry,
};

/// Tenants that took a database of the pool.
async fn hits(app: &App) -> Option<u64> {
    metric(app.address, "tenantry_pool_hits_total").await
}

/// Tenants for whom there was none.
async fn misses(app: &App) -> Option<u64> {
    metric(app.address, "tenantry_pool_misses_total").await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_new_tenant_takes_a_database_that_was_ready_and_another_is_made() {
    let app = App::of(with_pool(2).await, BlueprintSource::Bundled).await;
    let deployment = app.deployment.clone();
    deployment.pool_is(2, "at first").await;
    let [first, second] = deployment.pool_databases().await.try_into().unwrap();
    let were_ready = [deployment.oid(&first).await, deployment.oid(&second).await];

    let (_, tenant) = app.new_tenant("Acme").await;

    let oid = deployment.oid(&tenant.database).await;
    assert!(were_ready.contains(&oid), "{oid} of {were_ready:?}");
    deployment.pool_is(2, "afterwards").await;
    let left = if oid == were_ready[0] { second } else { first };
    assert!(deployment.pool_databases().await.contains(&left));
    // what a tenant of its own making has as well
    let open = format!(
        "select datallowconn and datacl::text !~ '[{{,]=' from pg_database where datname = '{}'",
        tenant.database
    );
    assert!(deployment.control::<bool>(&open).await);
    // the pool is nobody's tenant
    assert_eq!(app.ask::<i64>("select count(*) from tenants").await, 1);
    assert_eq!(hits(&app).await, Some(1));
    assert_eq!(misses(&app).await, Some(0));
    let ready = metric(app.address, "tenantry_pool_databases{state=\"ready\"}").await;
    assert_eq!(ready, Some(2));
    // counted after the commit that everybody sees
    let path = "tenantry_provision_duration_seconds_count{path=\"pool\"}";
    wait_until(path, async || metric(app.address, path).await == Some(1)).await;
    app.stop().await;
    deployment.discard().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_empty_pool_costs_a_clone_and_is_filled_for_the_next() {
    let blueprint = TinyBlueprint::new();
    // without the template nothing can be made in advance
    let app = App::without_template(with_pool(1).await, blueprint.source()).await;
    app.new_tenant("Acme").await;
    assert_eq!(misses(&app).await, Some(1));
    let deployment = app.deployment.clone();
    deployment.pool_is(1, "after the first").await;
    app.stop().await;
    deployment.discard().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tenant_gets_a_database_of_its_own_blueprint_and_the_others_go() {
    let blueprint = TinyBlueprint::new();
    let app = App::of(with_pool(2).await, blueprint.source()).await;
    let deployment = app.deployment.clone();
    deployment.pool_is(2, "of the first blueprint").await;
    let stale = deployment.pool_databases().await;
    blueprint.write("migrations/0002_marks.sql", "create table marks (id int)");

    let (org, _) = app.new_tenant("Acme").await;
    let marks = "select count(*) from marks";
    assert_eq!(app.tenant(&org).ask::<i64>(marks).await, 0);

    wait_until("the stale ones are gone", async || {
        let there = deployment.pool_databases().await;
        !there.iter().any(|name| stale.contains(name))
    })
    .await;
    deployment.pool_is(2, "of the second blueprint").await;
    app.new_tenant("Acme").await;
    assert_eq!(hits(&app).await, Some(1));
    app.stop().await;
    deployment.discard().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pool_that_became_too_large_shrinks() {
    let app = App::of(with_pool(3).await, BlueprintSource::Bundled).await;
    app.deployment.pool_is(3, "before").await;
    let mut deployment = app.deployment.clone();
    app.stop().await;
    deployment.set("TENANTRY__POOL__SIZE", "1");
    let app = App::of(deployment.clone(), BlueprintSource::Bundled).await;
    deployment.pool_is(1, "after").await;
    app.stop().await;
    deployment.discard().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_made_while_a_tenant_waits() {
    let app = App::listening(with_pool(1).await, BlueprintSource::Bundled).await;
    app.replica.migrate().await.unwrap();
    let deployment = app.deployment.clone();
    // nobody works: the job waits
    let waits = "insert into jobs (kind, payload, max_attempts)
        values ('provision_tenant', '{\"kind\": \"provision_tenant\", \"tenant\": \"00000000-0000-0000-0000-000000000000\"}', 1)";
    execute(&deployment.control_url, waits).await;
    let provisioner = &app.replica.provisioner;
    let cluster = app.replica.clusters.iter().next().unwrap();
    let blueprint = provisioner.blueprint.load().unwrap();
    let fill = async |looks: u32| {
        let left = AtomicU32::new(looks);
        let may_go_on = || left.fetch_sub(1, Ordering::SeqCst) > 1;
        let filled = pool::fill(provisioner, cluster, &blueprint, may_go_on, |_| {}).await;
        filled.unwrap().made
    };
    assert_eq!(fill(5).await, 0);
    assert_eq!(deployment.pool_databases().await.len(), 0);
    execute(&deployment.control_url, "delete from jobs").await;
    assert_eq!(fill(100).await, 1);
    deployment.pool_is(1, "when nobody waits").await;
    app.stop().await;
    deployment.discard().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tenant_that_is_abandoned_leaves_no_claim() {
    let mut deployment = with_pool(1).await;
    deployment.set("TENANTRY__QUEUE__LEASE_MS", "30000");
    deployment.set("TENANTRY__QUEUE__MAX_ATTEMPTS", "1");
    let deployment = deployment.with_fault(&format!("{}=error", pool::CLAIMED));
    let app = App::of(deployment.clone(), BlueprintSource::Bundled).await;
    deployment.pool_is(1, "before").await;
    let [claimed] = deployment.pool_databases().await.try_into().unwrap();
    let org = new_org();
    app.accepts(&[&events::created(&org, "Acme")]).await;
    assert_eq!(app.tenant(&org).fails().await.code, "injected_fault");
    let claims = "select count(*) from pool_databases where state = 'claimed'";
    assert_eq!(deployment.control::<i64>(claims).await, 1);

    deployment.abandon(&org).await.unwrap();

    wait_until("the tenant is gone", async || {
        app.ask::<i64>("select count(*) from tenants").await == 0
    })
    .await;
    deployment.pool_is(1, "afterwards").await;
    assert!(!deployment.pool_databases().await.contains(&claimed));
    assert_eq!(deployment.tenant_databases().await, 1);
    app.stop().await;
    deployment.discard().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn rows_and_databases_that_lost_each_other_are_mended() {
    let app = App::of(with_pool(3).await, BlueprintSource::Bundled).await;
    let deployment = app.deployment.clone();
    deployment.pool_is(3, "before").await;
    app.stop().await;
    let [dropped, forgotten, kept] = deployment.pool_databases().await.try_into().unwrap();
    let control = &deployment.control_url;
    execute(control, &format!("drop database {dropped}")).await;
    let forget = format!("delete from pool_databases where database = '{forgotten}'");
    execute(control, &forget).await;
    // somebody else's, whatever it is called
    let foreign = format!("{}pool_{}", deployment.prefix, "0".repeat(32));
    execute(control, &format!("create database {foreign}")).await;

    let app = App::of(deployment.clone(), BlueprintSource::Bundled).await;
    wait_until("it is filled", async || {
        let there = deployment.pool_databases().await;
        there.len() == 4 && !there.contains(&forgotten)
    })
    .await;
    let there = deployment.pool_databases().await;
    assert!(
        there.contains(&kept) && there.contains(&foreign),
        "{there:?}"
    );
    app.stop().await;
    deployment.discard().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_database_that_is_gone_is_claimed_by_nobody_for_long() {
    let app = App::of(with_pool(1).await, BlueprintSource::Bundled).await;
    let deployment = app.deployment.clone();
    deployment.pool_is(1, "before").await;
    let [gone] = deployment.pool_databases().await.try_into().unwrap();
    execute(&deployment.control_url, &format!("drop database {gone}")).await;
    app.new_tenant("Acme").await;
    assert_eq!(misses(&app).await, Some(1));
    deployment.pool_is(1, "afterwards").await;
    app.stop().await;
    deployment.discard().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_claim_that_does_not_fit_any_more_is_given_back() {
    let blueprint = TinyBlueprint::new();
    let fault = format!("{}=error", pool::CLAIMED);
    let mut deployment = with_pool(1).await.with_fault(&fault);
    deployment.set("TENANTRY__POOL__EVICT_AFTER_S", "600");
    deployment.set("TENANTRY__QUEUE__MAX_ATTEMPTS", "1");
    let app = App::of(deployment.clone(), blueprint.source()).await;
    deployment.pool_is(1, "before").await;
    let [claimed] = deployment.pool_databases().await.try_into().unwrap();
    let org = new_org();
    app.accepts(&[&events::created(&org, "Acme")]).await;
    app.tenant(&org).fails().await;
    blueprint.write("migrations/0002_marks.sql", "create table marks (id int)");

    app.tenant(&org).retry().await;

    app.tenant(&org).is_ready().await;
    let marks = "select count(*) from marks";
    assert_eq!(app.tenant(&org).ask::<i64>(marks).await, 0);
    wait_until("it is in the pool again", async || {
        let there = deployment.pool_agrees().await;
        there.is_some_and(|there| there.contains(&claimed))
    })
    .await;
    app.stop().await;
    deployment.discard().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_database_that_is_claimed_is_given_to_nobody_else() {
    let deployment = with_pool(1).await;
    let deployment = deployment.with_fault(&format!("{}=hold", pool::CLAIMED));
    let app = App::of(deployment.clone(), BlueprintSource::Bundled).await;
    deployment.pool_is(1, "before").await;
    let [claimed] = deployment.pool_databases().await.try_into().unwrap();
    let oid = deployment.oid(&claimed).await;
    let faults = app.replica.provisioner.faults.clone();
    let (first, second) = (new_org(), new_org());
    app.accepts(&[&events::created(&first, "Acme")]).await;
    wait_until("it is claimed", async || faults.was_hit(pool::CLAIMED)).await;

    // it would be the next one, if it was still ready
    app.accepts(&[&events::created(&second, "Acme")]).await;
    let other = app.tenant(&second).is_ready().await;

    assert_ne!(deployment.oid(&other.database).await, oid);
    faults.release(pool::CLAIMED);
    let tenant = app.tenant(&first).is_ready().await;
    assert_eq!(deployment.oid(&tenant.database).await, oid);
    deployment.pool_is(1, "afterwards").await;
    app.stop().await;
    deployment.discard().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_claim_that_is_not_committed_yet_holds_up_no_other() {
    let app = App::of(with_pool(2).await, BlueprintSource::Bundled).await;
    let deployment = app.deployment.clone();
    deployment.pool_is(2, "before").await;
    let next = "select database from pool_databases order by ready_at desc, id desc limit 1";
    let next: String = deployment.control(next).await;
    let oid = deployment.oid(&next).await;
    let claim = "update pool_databases set state = 'claimed', tenant_id = gen_random_uuid()
        where id = (select id from pool_databases order by ready_at, id limit 1)";
    let mut claim = hold(&deployment.control_url, claim).await;

    let (_, tenant) = app.new_tenant("Acme").await;

    assert_eq!(deployment.oid(&tenant.database).await, oid);
    claim.release().await;
    deployment.pool_is(2, "afterwards").await;
    app.stop().await;
    deployment.discard().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_database_that_is_claimed_just_now_is_not_dropped() {
    let app = App::listening(with_pool(1).await, BlueprintSource::Bundled).await;
    app.replica.migrate().await.unwrap();
    let deployment = app.deployment.clone();
    let provisioner = &app.replica.provisioner;
    let cluster = app.replica.clusters.iter().next().unwrap();
    let blueprint = provisioner.blueprint.load().unwrap();
    pool::fill(provisioner, cluster, &blueprint, || true, |_| {})
        .await
        .unwrap();
    let claim = "update pool_databases set state = 'claimed', tenant_id = gen_random_uuid()";
    let mut claim = hold(&deployment.control_url, claim).await;

    let waits = "select exists (
        select from pg_stat_activity where datname = current_database() and wait_event_type = 'Lock'
    )";
    let claimed = async {
        wait_until("the drain waits", async || deployment.control(waits).await).await;
        claim.commit().await;
    };
    let (drained, ()) = tokio::join!(pool::drain(provisioner, cluster, |_| {}), claimed);

    assert_eq!(drained.unwrap(), 0);
    assert_eq!(deployment.pool_databases().await.len(), 1);
    let state: String = deployment.control("select state from pool_databases").await;
    assert_eq!(state, "claimed");
    app.stop().await;
    deployment.discard().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn one_at_a_time_fills_the_pool() {
    let app = App::listening(with_pool(3).await, BlueprintSource::Bundled).await;
    app.replica.migrate().await.unwrap();
    let provisioner = &app.replica.provisioner;
    let cluster = app.replica.clusters.iter().next().unwrap();
    let blueprint = provisioner.blueprint.load().unwrap();
    let fill = async || pool::fill(provisioner, cluster, &blueprint, || true, |_| {}).await;
    let (one, other) = tokio::join!(fill(), fill());
    assert_eq!(one.unwrap().made + other.unwrap().made, 3);
    let deployment = app.deployment.clone();
    assert_eq!(deployment.pool_databases().await.len(), 3);
    app.stop().await;
    deployment.discard().await;
}

/// `tenantry pool … --json`.
async fn command(deployment: &Deployment, arguments: &[&str]) -> (i32, Value, String) {
    let mut command = tenantry();
    command
        .args(["pool"])
        .args(arguments)
        .arg("--json")
        .env("TENANTRY__BLUEPRINT__DIRECTORY", "examples/crm")
        .envs(deployment.variables.iter().cloned());
    let output = tokio::task::spawn_blocking(move || command.output().unwrap());
    let output = output.await.unwrap();
    let stderr = String::from_utf8(output.stderr).unwrap();
    let stdout = serde_json::from_slice(&output.stdout).unwrap_or_default();
    (output.status.code().unwrap(), stdout, stderr)
}

#[tokio::test(flavor = "multi_thread")]
async fn an_operator_fills_and_drains_the_pool() {
    let deployment = with_pool(2).await;
    let app = App::listening(deployment.clone(), BlueprintSource::Bundled).await;
    app.replica.migrate().await.unwrap();

    let (code, filled, stderr) = command(&deployment, &["fill"]).await;
    assert_eq!(code, 0, "{stderr}");
    assert_eq!(
        filled,
        serde_json::json!([{"cluster": "main", "made": 2, "ready": 2, "wanted": 2}])
    );
    // no terminal: a line at once
    assert!(stderr.contains("main: 0 of 2 databases ready"), "{stderr}");
    let (_, status, _) = command(&deployment, &["status"]).await;
    assert_eq!(status[0]["state"], "ready");
    assert_eq!(status[0]["databases"], 2);
    let (code, drained, stderr) = command(&deployment, &["drain"]).await;
    assert_eq!(code, 0, "{stderr}");
    assert_eq!(drained[0]["dropped"], 2);
    assert!(stderr.contains("pool.size = 0"), "{stderr}");
    assert!(stderr.contains("main: 1 database dropped"), "{stderr}");
    deployment.pool_is(0, "drained").await;
    let (code, _, stderr) = command(&deployment.without_pool(), &["fill"]).await;
    assert_eq!(code, 1);
    assert!(stderr.contains("pool.size is 0"), "{stderr}");
    app.stop().await;
    deployment.discard().await;
}

/// Somebody with all rights changes the structure of a database that is closed.
async fn change_by_hand(deployment: &Deployment, database: &str) {
    let open = |is_open: bool| format!("alter database {database} allow_connections {is_open}");
    execute(&deployment.url("postgres"), &open(true)).await;
    execute(
        &deployment.url(database),
        "create table public.by_hand (id int)",
    )
    .await;
    execute(&deployment.url("postgres"), &open(false)).await;
}

async fn is_refused_for_its_structure(app: &App) {
    let org = new_org();
    app.accepts(&[&events::created(&org, "Acme")]).await;
    let failure = app.tenant(&org).is_in("failed").await.failure.unwrap();
    assert_eq!(failure.code, "not_verified");
    assert!(failure.cause.contains("by_hand"), "{}", failure.cause);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tenant_whose_own_rows_come_with_a_change_of_the_structure_is_refused() {
    let blueprint = TinyBlueprint::new();
    let sql = "create table public.by_hand (id int)";
    blueprint.write("seed/tenant/02_more.sql", sql);
    let app = App::of(with_pool(1).await, blueprint.source()).await;
    let deployment = app.deployment.clone();
    deployment.pool_is(1, "at first").await;
    is_refused_for_its_structure(&app).await;
    assert_eq!(hits(&app).await, Some(1));
    app.stop().await;
    deployment.discard().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_database_that_somebody_changed_while_it_waited_becomes_no_tenants() {
    let blueprint = TinyBlueprint::new();
    let app = App::of(with_pool(1).await, blueprint.source()).await;
    let deployment = app.deployment.clone();
    deployment.pool_is(1, "at first").await;
    let [pooled] = deployment.pool_databases().await.try_into().unwrap();
    change_by_hand(&deployment, &pooled).await;
    is_refused_for_its_structure(&app).await;
    app.stop().await;
    deployment.discard().await;
}
