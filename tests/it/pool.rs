//! The warm pool: a new tenant takes a database that was ready, and whatever dies, none is lost or given twice.

use std::sync::atomic::{AtomicU32, Ordering};

use futures_util::{StreamExt, stream};
use serde_json::Value;
use tenantry::provisioning::{
    BlueprintSource,
    pool::{self, FAULT_POINTS},
};

use crate::support::{
    App, Deployment, TinyBlueprint,
    app::{is_delivered, new_org, wait_until},
    cluster::{ask, execute, hold},
    events,
    process::{Process, tenantry},
};

/// A deployment with a pool of so many databases, which evicts what is stale at once.
pub async fn with_pool(size: u32) -> Deployment {
    let mut deployment = Deployment::new().await;
    deployment.set("TENANTRY__POOL__SIZE", &size.to_string());
    deployment.set("TENANTRY__POOL__EVICT_AFTER_S", "0");
    deployment
}

impl Deployment {
    /// The same without a pool.
    fn without_pool(&self) -> Self {
        let mut this = self.clone();
        this.set("TENANTRY__POOL__SIZE", "0");
        this
    }

    async fn control<T>(&self, sql: &str) -> T
    where
        T: for<'r> sqlx::Decode<'r, sqlx::Postgres> + sqlx::Type<sqlx::Postgres> + Send + Unpin,
    {
        ask(&self.control_url, sql).await
    }

    /// Databases of the pool, whatever their rows say.
    pub async fn pool_databases(&self) -> Vec<String> {
        let sql = format!(
            "select coalesce(array_agg(datname::text order by datname), '{{}}') from pg_database
             where starts_with(datname, '{}pool_')",
            self.prefix
        );
        self.control(&sql).await
    }

    /// Number of a database on the server, which a new name does not change.
    async fn oid(&self, database: &str) -> i64 {
        let sql = format!("select oid::bigint from pg_database where datname = '{database}'");
        self.control(&sql).await
    }

    /// Waits until exactly so many are ready and nothing else is on record, nor on the server.
    pub async fn pool_is(&self, ready: usize, what: &str) {
        wait_until(&format!("{what}: {ready} are ready"), async || {
            self.pool_agrees()
                .await
                .is_some_and(|there| there.len() == ready)
        })
        .await;
    }

    /// The databases of the pool, if each has its row, each row its database, and all are ready.
    async fn pool_agrees(&self) -> Option<Vec<String>> {
        let is_migrated = "select to_regclass('pool_databases') is not null";
        if !self.control::<bool>(is_migrated).await {
            return None;
        }
        let others = "select count(*) from pool_databases where state <> 'ready'";
        let rows =
            "select coalesce(array_agg(database order by database), '{}') from pool_databases";
        let rows: Vec<String> = self.control(rows).await;
        let agrees = self.control::<i64>(others).await == 0 && self.pool_databases().await == rows;
        agrees.then_some(rows)
    }
}

async fn metric(app: &App, name: &str) -> String {
    let text = app.get("/metrics").await.text;
    let found = text.lines().find_map(|line| line.strip_prefix(name));
    found.unwrap_or_default().trim().to_owned()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_new_tenant_takes_a_database_that_was_ready_and_another_is_made() {
    let app = App::of(with_pool(2).await, BlueprintSource::Bundled).await;
    let deployment = app.deployment.clone();
    deployment.pool_is(2, "at first").await;
    let [first, second] = deployment.pool_databases().await.try_into().unwrap();
    let were_ready = [deployment.oid(&first).await, deployment.oid(&second).await];

    let org = new_org();
    app.accepts(&[&events::created(&org, "Acme")]).await;
    let tenant = app.tenant(&org).is_ready().await;

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
    assert_eq!(metric(&app, "tenantry_pool_hits_total").await, "1");
    assert_eq!(metric(&app, "tenantry_pool_misses_total").await, "0");
    let ready = metric(&app, "tenantry_pool_databases{state=\"ready\"}").await;
    assert_eq!(ready, "2");
    // counted after the commit that everybody sees
    let path = "tenantry_provision_duration_seconds_count{path=\"pool\"}";
    wait_until(path, async || metric(&app, path).await == "1").await;
    app.stop().await;
    deployment.discard().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_empty_pool_costs_a_clone_and_is_filled_for_the_next() {
    let blueprint = TinyBlueprint::new();
    // without the template nothing can be made in advance
    let app = App::without_template(with_pool(1).await, blueprint.source()).await;
    let org = new_org();
    app.accepts(&[&events::created(&org, "Acme")]).await;
    app.tenant(&org).is_ready().await;
    assert_eq!(metric(&app, "tenantry_pool_misses_total").await, "1");
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

    let org = new_org();
    app.accepts(&[&events::created(&org, "Acme")]).await;
    app.tenant(&org).is_ready().await;
    let marks = "select count(*) from marks";
    assert_eq!(app.tenant(&org).ask::<i64>(marks).await, 0);

    wait_until("the stale ones are gone", async || {
        let there = deployment.pool_databases().await;
        !there.iter().any(|name| stale.contains(name))
    })
    .await;
    deployment.pool_is(2, "of the second blueprint").await;
    let next = new_org();
    app.accepts(&[&events::created(&next, "Acme")]).await;
    app.tenant(&next).is_ready().await;
    assert_eq!(metric(&app, "tenantry_pool_hits_total").await, "1");
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
    let fenced = async || {
        let text = crate::support::app::get(zombie.address, "/metrics").await;
        text.lines()
            .any(|line| line.starts_with("tenantry_fenced_writes_total") && !line.ends_with(" 0"))
    };
    wait_until("the zombie notices", fenced).await;
    deployment.pool_is(2, "in spite of the zombie").await;
    assert_eq!(deployment.tenant_databases().await, 3);
    drop(second);
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
    let org = new_org();
    app.accepts(&[&events::created(&org, "Acme")]).await;
    app.tenant(&org).is_ready().await;
    assert_eq!(metric(&app, "tenantry_pool_misses_total").await, "1");
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

    let org = new_org();
    app.accepts(&[&events::created(&org, "Acme")]).await;
    let tenant = app.tenant(&org).is_ready().await;

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
    let fenced = "tenantry_fenced_writes_total";
    wait_until("it notices", async || metric(&app, fenced).await == "1").await;
    deployment.pool_is(1, "nothing is claimed").await;
    assert_eq!(deployment.tenant_databases().await, 1);

    let again = format!("update jobs set state = 'available', lease_expires_at = null {of}");
    execute(&deployment.control_url, &again).await;
    app.tenant(&org).is_ready().await;
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
    assert!(
        stderr.contains("main: 0 of 2 databases are ready"),
        "{stderr}"
    );
    let (_, status, _) = command(&deployment, &["status"]).await;
    assert_eq!(status[0]["state"], "ready");
    assert_eq!(status[0]["databases"], 2);
    let (code, drained, stderr) = command(&deployment, &["drain"]).await;
    assert_eq!(code, 0, "{stderr}");
    assert_eq!(drained[0]["dropped"], 2);
    assert!(stderr.contains("pool.size = 0"), "{stderr}");
    assert!(stderr.contains("main: 1 databases are dropped"), "{stderr}");
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
    assert_eq!(metric(&app, "tenantry_pool_hits_total").await, "1");
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
