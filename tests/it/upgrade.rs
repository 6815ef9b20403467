//! Two versions on one control database: which older one a newer schema serves, and which not. And a
//! control database that was restored: what was forgotten, and that nothing is adopted or dropped for it.

use tenantry::fleet::RunState;

use crate::{
    cli_operator::run,
    support::{
        Deployment, Fleet,
        app::{deliver, get, new_org, wait_until},
        cluster::{ask, execute, rows},
        documents::statement,
        events,
        fleet::all,
        process::Process,
    },
};

/// The first migration of which an older binary may not know.
const FIRST_UPGRADE: i64 = 10;

/// The newest migration of the program under test.
async fn own_newest(control: &str) -> i64 {
    ask(control, "select max(version) from _sqlx_migrations").await
}

/// What a newer tenantry leaves when it has migrated: a schema with more in it, and what it says of older binaries.
async fn newer_migrates(control: &str, version: i64, serves_since: Option<i64>) {
    if let Some(since) = serves_since {
        let declare = format!("insert into control_schema values ({version}, {since})");
        execute(control, &declare).await;
    }
    let migrate = format!(
        "begin;
        alter table tenants add column colour_{version} text not null default 'blue';
        create table palette_{version} (tenant_id uuid references tenants (id));
        insert into _sqlx_migrations (version, description, success, checksum, execution_time)
        values ({version}, 'colours', true, 'x', 1);
        commit;"
    );
    execute(control, &migrate).await;
}

async fn makes_a_tenant(replica: &Process, deployment: &Deployment) -> String {
    let org = new_org();
    makes_the_tenant_of(&org, replica, deployment).await;
    org
}

async fn makes_the_tenant_of(org: &str, replica: &Process, deployment: &Deployment) {
    let answer = deliver(replica.address, &events::created(org, "Acme")).await;
    assert_eq!(answer.status, 200);
    let ready = format!("select count(*) from tenants where org_id = '{org}' and state = 'ready'");
    wait_until("its tenant is ready", async || {
        ask::<i64>(&deployment.control_url, &ready).await == 1
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_older_replica_goes_on_and_starts_again_where_newer_migrations_serve_it() {
    let deployment = Deployment::new().await;
    let control = &deployment.control_url;
    let mut running = Process::start(&deployment, "").await;
    running.is_ready().await;
    let own = own_newest(control).await;

    newer_migrates(control, own + 90, Some(own)).await;
    newer_migrates(control, own + 91, Some(1)).await;
    running.is_ready().await;
    makes_a_tenant(&running, &deployment).await;

    running.kill();
    let restarted = Process::start(&deployment, "").await;
    restarted.is_ready().await;
    makes_a_tenant(&restarted, &deployment).await;
    deployment.discard().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_older_replica_is_not_ready_and_does_not_start_where_a_newer_migration_does_not_serve_it()
 {
    // one that says nothing, and one that took away what this binary still uses
    for serves_from_own in [None, Some(1)] {
        let deployment = Deployment::new().await;
        let control = &deployment.control_url;
        let running = Process::start(&deployment, "").await;
        running.is_ready().await;
        let own = own_newest(control).await;

        newer_migrates(control, own + 90, Some(own)).await;
        newer_migrates(control, own + 91, serves_from_own.map(|more| own + more)).await;
        let too_new = async || {
            let answer = get(running.address, "/readyz").await;
            answer.contains("503") && answer.contains("\"schema_too_new\"")
        };
        wait_until("the running replica is not ready", too_new).await;

        let mut restarted = Process::start(&deployment, "").await;
        assert_eq!(
            restarted.has_ended().await.code(),
            Some(1),
            "it ends, it does not loop"
        );
        let reason = format!("has migration {}, with which", own + 91);
        let says = async || {
            let log = restarted.log();
            log.contains(&reason) && log.contains("[schema_too_new]")
        };
        wait_until("it says why", says).await;
        // it goes on looking after what is taken away now
        drop(running);
        deployment.discard().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn every_migration_says_which_older_binaries_it_serves() {
    let deployment = Deployment::new().await;
    let replica = Process::start(&deployment, "").await;
    replica.is_ready().await;
    let said = rows(
        &deployment.control_url,
        "select version::text, serves_since::text, description
        from _sqlx_migrations left join control_schema using (version) order by version",
    )
    .await;
    for (version, since, description) in said {
        let (version, since): (i64, i64) = (version.parse().unwrap(), since.parse().unwrap());
        // else no replica of the version before could run beside the newer one, nor be gone back to
        assert!(
            version < FIRST_UPGRADE || since < version,
            "name {version} {description} in SERVES_SINCE of src/db/schema.rs"
        );
    }
    deployment.discard().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn after_a_restore_the_forgotten_tenant_is_found_and_left_alone_and_made_anew() {
    let deployment = Deployment::new().await;
    let control = &deployment.control_url;
    let (server, name) = control.rsplit_once('/').unwrap();
    let server = format!("{server}/postgres");
    let mut replica = Process::start(&deployment, "").await;
    replica.is_ready().await;
    let kept = makes_a_tenant(&replica, &deployment).await;
    replica.kill();
    let copy = format!(
        "create database {name}_backup template {name} owner operator_{}",
        &name["control_".len()..]
    );
    execute(&server, &copy).await;

    let mut replica = Process::start(&deployment, "").await;
    replica.is_ready().await;
    let forgotten = makes_a_tenant(&replica, &deployment).await;
    let database = format!("select database from tenants where org_id = '{forgotten}'");
    let before: String = ask(control, &database).await;
    execute(
        &deployment.url(&before),
        "create table of_the_customer (x int)",
    )
    .await;
    replica.kill();
    execute(&server, &format!("drop database {name} with (force)")).await;
    execute(
        &server,
        &format!("alter database {name}_backup rename to {name}"),
    )
    .await;

    let missing = statement("docs/operations.md", "marked (tenant_id)");
    let ours = format!(
        "select string_agg(datname, ',') from ({missing}) missing where starts_with(datname, '{}')",
        deployment.prefix
    );
    assert_eq!(
        ask::<String>(control, &ours).await,
        before,
        "what docs/operations.md has people look for"
    );
    let replica = Process::start(&deployment, "").await;
    replica.is_ready().await;
    makes_the_tenant_of(&forgotten, &replica, &deployment).await;
    let after: String = ask(control, &database).await;
    assert_ne!(after, before, "it gets another database");
    let rows = "select count(*) from of_the_customer";
    assert_eq!(
        ask::<i64>(&deployment.url(&before), rows).await,
        0,
        "the old one is as it was"
    );
    let tenants = format!("select count(*) from tenants where org_id in ('{kept}', '{forgotten}')");
    assert_eq!(ask::<i64>(control, &tenants).await, 2);
    assert_eq!(
        deployment.tenant_databases().await,
        3,
        "the old one's included"
    );
    execute(control, &statement("docs/operations.md", "serves_since")).await;
    deployment.discard().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_database_that_was_restored_is_its_tenants_when_it_is_marked_as_documented() {
    let fleet = Fleet::of(1).await;
    let [tenant] = fleet.tenants().await;
    let deployment = &fleet.app.deployment;
    let (control, prefix) = (&deployment.control_url, &deployment.prefix);
    let hash = tenant.blueprint_hash.as_ref().unwrap();
    // as it is in a dump: without what is said of the database itself
    let kept = format!("{prefix}kept");
    execute(
        control,
        &format!("create database {kept} template {}", tenant.database),
    )
    .await;
    execute(control, &format!("drop database {}", tenant.database)).await;
    let documented = statement("docs/operations.md", "to tn_acme_role")
        .replace("tn_acme_role", &tenant.username)
        .replace("tn_acme", &tenant.database)
        .replace("template template0", &format!("template {kept}"))
        .replace("tn_owner", &format!("{prefix}owner"))
        .replace("tenant=…", &format!("tenant={}", tenant.id))
        .replace("template=…", &format!("template={hash}"));
    for statement in documented.split(';') {
        execute(control, statement).await;
    }
    execute(control, &format!("drop database {kept}")).await;

    let (code, stdout, stderr) = run(&fleet.app, &["fleet", "drift"]).await;
    assert_eq!(code, 0, "{stdout} {stderr}");
    let run = fleet.migrate(&all()).await;
    assert_eq!((run.state, run.counts.done), (RunState::Done, 1));
    let as_tenant = fleet.app.tenant(&tenant.org_id).url().await;
    assert_eq!(
        ask::<i64>(&as_tenant, "select count(*) from notes").await,
        1
    );
    // it does not let the new one's role in
    let late = new_org();
    fleet
        .app
        .accepts(&[&events::created(&late, "Umbrella")])
        .await;
    fleet.app.tenant(&late).is_ready().await;
    fleet.stop().await;
}
