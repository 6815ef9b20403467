//! Provisioning that fails: at every point of every step, and where something is in the way.

use futures_util::{StreamExt, stream};
use sqlx::{Connection, PgConnection};
use tenantry::{
    provisioning::{FAULT_POINTS, INNER_FAULT_POINTS, PLAN, Step},
    tenant_db::{self, Tag},
};

use crate::support::{
    App, Deployment, TinyBlueprint,
    app::{is_delivered, new_org, wait_until},
    cluster::{ask, execute, hold},
    events,
};

/// Every point at which a step can be made to fail, as the product lists them.
fn points() -> Vec<String> {
    let of_steps = PLAN
        .iter()
        .flat_map(|step| FAULT_POINTS.map(|point| format!("{}.{point}", step.name())))
        .filter(|point| point != "activate.recorded");
    of_steps
        .chain(INNER_FAULT_POINTS.map(str::to_owned))
        .collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_failure_at_any_point_heals_by_itself_and_leaves_nothing_behind() {
    let points = points();
    assert_eq!(points.len(), 25, "{points:?}");
    let all =
        stream::iter(points).map(|point| async move { heals_after_a_failure_at(&point).await });
    all.buffer_unordered(4).collect::<Vec<()>>().await;
}

async fn heals_after_a_failure_at(point: &str) {
    let blueprint = TinyBlueprint::with_people();
    let deployment = Deployment::new()
        .await
        .with_fault(&format!("{point}=error"));
    // the template is built by the tenant's own job, so that its points are part of it
    let app = App::without_template(deployment, blueprint.source()).await;
    let org = new_org();
    for event in [
        events::user("user_1", ("Ada", "Lovelace")),
        events::member(&org, "user_1", "admin", 0),
        events::created(&org, "Acme"),
    ] {
        assert!(is_delivered(app.address, &event).await);
    }

    let tenant = app.tenant(&org).is_ready().await;
    app.is_idle().await;

    assert!(
        app.replica.provisioner.faults.was_hit(point),
        "{point} was never reached"
    );
    assert_eq!(tenant.failure, None, "{point}");
    assert_eq!(
        app.tenant(&org).steps().await,
        PLAN.map(Step::name),
        "{point}"
    );
    assert_eq!(
        app.tenant(&org)
            .ask::<i64>("select count(*) from notes")
            .await,
        1,
        "{point}"
    );
    assert_eq!(
        app.tenant(&org)
            .ask::<String>("select string_agg(name || ' ' || role, ',') from people where present")
            .await,
        "Ada Lovelace admin",
        "{point}"
    );
    assert_eq!(app.deployment.tenant_databases().await, 1, "{point}");
    assert_eq!(app.deployment.tenant_roles().await, 1, "{point}");
    let every = format!(
        "select count(*) from pg_database where starts_with(datname, '{}')",
        app.deployment.prefix
    );
    assert_eq!(
        app.ask::<i64>(&every).await,
        2,
        "the tenant's and the template, after {point}"
    );
    let url = app.tenant(&org).url().await;
    assert_eq!(
        ask::<String>(&url, "select body from notes").await,
        "Acme",
        "{point}"
    );
    app.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_replica_that_vanishes_in_the_middle_is_succeeded_by_another() {
    let blueprint = TinyBlueprint::new();
    let healthy = Deployment::new().await;
    for point in [
        "create_database.cloned",
        "seed.after_effect",
        "activate.after_effect",
    ] {
        let stalled = healthy.with_fault(&format!("{point}=stall:600000"));
        let dying = App::of(stalled, blueprint.source()).await;
        let org = new_org();
        dying.accepts(&[&events::created(&org, "Acme")]).await;
        let faults = dying.replica.provisioner.faults.clone();
        wait_until(point, async || faults.was_hit(point)).await;
        dying.vanish().await;

        let app = App::of(healthy.clone(), blueprint.source()).await;
        app.tenant(&org).is_ready().await;
        assert_eq!(
            app.tenant(&org)
                .ask::<i64>("select count(*) from notes")
                .await,
            1
        );
        let lost = "select count(*) from job_attempts where outcome = 'lost'";
        assert!(app.ask::<i64>(lost).await >= 1);
        app.is_idle().await;
        let leftovers = format!(
            "select count(*) from pg_database where starts_with(datname, '{}new_')",
            healthy.prefix
        );
        assert_eq!(app.ask::<i64>(&leftovers).await, 0, "{point}");
        app.stop().await;
    }
}

/// A tenant that failed at a point and waits for an operator, so that a test can change its world.
struct Failed {
    app: App,
    org: String,
    _blueprint: TinyBlueprint,
}

impl Failed {
    async fn at(point: &str) -> Self {
        let mut deployment = Deployment::new()
            .await
            .with_fault(&format!("{point}=error"));
        deployment.set("TENANTRY__QUEUE__MAX_ATTEMPTS", "1");
        let blueprint = TinyBlueprint::new();
        let app = App::of(deployment, blueprint.source()).await;
        let org = new_org();
        app.accepts(&[&events::created(&org, "Acme")]).await;
        assert_eq!(app.tenant(&org).fails().await.code, "injected_fault");
        app.is_idle().await;
        Self {
            app,
            org,
            _blueprint: blueprint,
        }
    }

    async fn database(&self) -> String {
        self.app.tenant(&self.org).find().await.unwrap().database
    }

    async fn retry(&self) {
        self.app.tenant(&self.org).retry().await;
    }

    /// Retries; the code and the cause of the failure.
    async fn fails_again(&self) -> (String, String) {
        self.retry().await;
        self.app.is_idle().await;
        let failure = self.app.tenant(&self.org).fails().await;
        assert!(
            failure.fix.contains("tenantry tenants retry "),
            "{}",
            failure.fix
        );
        (failure.code, failure.cause)
    }

    async fn becomes_ready(self) {
        self.retry().await;
        let tenant = self.app.tenant(&self.org).is_ready().await;
        assert_eq!(tenant.failure, None);
        assert_eq!(
            self.app
                .tenant(&self.org)
                .ask::<i64>("select count(*) from notes")
                .await,
            1
        );
        self.app.is_idle().await;
        self.app.stop().await;
    }

    async fn execute(&self, sql: &str) {
        execute(&self.app.deployment.control_url, sql).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn somebody_elses_database_of_the_tenants_name_is_neither_adopted_nor_dropped() {
    let failed = Failed::at("create_database.before").await;
    let database = failed.database().await;
    failed.execute(&format!("create database {database}")).await;
    let url = failed.app.deployment.url(&database);
    execute(
        &url,
        "create table precious (id int); insert into precious values (42)",
    )
    .await;

    let (code, cause) = failed.fails_again().await;
    assert_eq!(code, "foreign_database");
    assert!(
        cause.contains(&database) && cause.contains("no comment"),
        "{cause}"
    );
    assert_eq!(ask::<i32>(&url, "select id from precious").await, 42);

    failed.execute(&format!("drop database {database}")).await;
    failed.becomes_ready().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn another_tenants_database_under_this_name_is_refused() {
    let failed = Failed::at("create_database.before").await;
    let (database, prefix) = (failed.database().await, &failed.app.deployment.prefix);
    let other = uuid::Uuid::now_v7();
    failed
        .execute(&format!("create database {database} owner {prefix}owner"))
        .await;
    failed
        .execute(&format!(
            "comment on database {database} is 'tenantry tenant={other} template=abc'"
        ))
        .await;

    let (code, cause) = failed.fails_again().await;
    assert_eq!(code, "foreign_database");
    assert!(cause.contains(&other.to_string()), "{cause}");

    failed.execute(&format!("drop database {database}")).await;
    failed.becomes_ready().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_database_that_was_exchanged_between_two_attempts_is_refused_and_a_missing_one_is_made_again()
 {
    // the step create_database is recorded as done
    let failed = Failed::at("seed.before").await;
    let database = failed.database().await;
    failed.execute(&format!("drop database {database}")).await;
    failed.execute(&format!("create database {database}")).await;
    failed
        .execute(&format!("revoke all on database {database} from public"))
        .await;

    assert_eq!(failed.fails_again().await.0, "foreign_database");

    failed.execute(&format!("drop database {database}")).await;
    failed.becomes_ready().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_database_of_our_prefix_that_lets_everybody_in_holds_up_tenants_until_it_is_closed() {
    let deployment = Deployment::new().await;
    let blueprint = TinyBlueprint::new();
    let app = App::of(deployment, blueprint.source()).await;
    let (control, prefix) = (
        app.deployment.control_url.clone(),
        app.deployment.prefix.clone(),
    );
    execute(&control, &format!("create database {prefix}open")).await;
    let org = new_org();
    app.accepts(&[&events::created(&org, "Acme")]).await;
    let code = "select coalesce((select failure ->> 'code' from tenants), '')";
    wait_until("the tenant waits", async || {
        app.ask::<String>(code).await == "isolation_open"
    })
    .await;

    execute(
        &control,
        &format!("revoke connect on database {prefix}open from public"),
    )
    .await;
    app.tenant(&org).is_ready().await;
    app.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn somebody_who_copies_our_mark_is_refused_by_the_owner() {
    let failed = Failed::at("create_database.before").await;
    let tenant = failed.app.tenant(&failed.org).find().await.unwrap();
    let database = tenant.database;
    failed.execute(&format!("create database {database}")).await;
    failed
        .execute(&format!(
            "comment on database {database} is 'tenantry tenant={} template=abc'",
            tenant.id
        ))
        .await;
    assert_eq!(failed.fails_again().await.0, "foreign_database");
    failed.execute(&format!("drop database {database}")).await;
    failed.becomes_ready().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn somebody_elses_role_of_the_tenants_name_is_not_changed() {
    let failed = Failed::at("create_database.before").await;
    let role = failed
        .app
        .tenant(&failed.org)
        .find()
        .await
        .unwrap()
        .username;
    failed
        .execute(&format!(
            "create role {role} nologin; comment on role {role} is 'mine'"
        ))
        .await;

    let (code, cause) = failed.fails_again().await;
    assert_eq!(code, "foreign_role");
    assert!(cause.contains(&role) && cause.contains("mine"), "{cause}");
    let can_login = format!("select rolcanlogin from pg_roles where rolname = '{role}'");
    assert!(!failed.app.ask::<bool>(&can_login).await);

    failed.execute(&format!("drop role {role}")).await;
    failed.becomes_ready().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_database_of_ours_that_a_crash_made_unusable_is_built_anew() {
    let failed = Failed::at("create_database.after_effect").await;
    let database = failed.database().await;
    let oid = format!("select oid::int8 from pg_database where datname = '{database}'");
    let before: i64 = failed.app.ask(&oid).await;
    // what a crash in the middle of "drop database" leaves
    failed
        .execute(&format!(
            "update pg_database set datconnlimit = -2 where datname = '{database}'"
        ))
        .await;
    failed.retry().await;
    failed.app.tenant(&failed.org).is_ready().await;
    assert_ne!(failed.app.ask::<i64>(&oid).await, before);
    assert_eq!(failed.app.deployment.tenant_databases().await, 1);
    failed.app.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_database_of_ours_that_was_handed_over_is_adopted() {
    let failed = Failed::at("create_database.after_effect").await;
    let database = failed.database().await;
    let oid = format!("select oid::int8 from pg_database where datname = '{database}'");
    let before: i64 = failed.app.ask(&oid).await;
    failed.retry().await;
    failed.app.tenant(&failed.org).is_ready().await;
    assert_eq!(failed.app.ask::<i64>(&oid).await, before);
    failed.app.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_session_of_an_earlier_job_is_ended_before_a_retry_begins() {
    let failed = Failed::at("seed.before").await;
    let tenant = failed.app.tenant(&failed.org).find().await.unwrap();
    // what a stopped worker still holds: a session that carries its attempt's name
    let url = failed.app.deployment.operator_url(&tenant.database);
    let stale = format!("{url}?application_name=tenantry%20{}%201.1", tenant.id);
    let mut stale = PgConnection::connect(&stale).await.unwrap();
    sqlx::query("begin").execute(&mut stale).await.unwrap();

    failed.retry().await;
    failed.app.tenant(&failed.org).is_ready().await;

    let write = sqlx::query("insert into notes (body) values ('too late')");
    assert!(
        write.execute(&mut stale).await.is_err(),
        "the stale session is alive"
    );
    failed.app.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn who_has_lost_the_claim_ends_nobodys_session() {
    let failed = Failed::at("seed.before").await;
    let tenant = failed.app.tenant(&failed.org).find().await.unwrap();
    let url = failed.app.deployment.operator_url(&tenant.database);
    let newer = format!("{url}?application_name=tenantry%20{}%202.1", tenant.id);
    let mut newer = hold(&newer, "insert into notes (body) values ('in time')").await;

    let older = Tag::new(tenant.id.0, 1, 1);
    for cluster in failed.app.replica.provisioner.clusters.iter() {
        let ended = cluster.end_stale_sessions(&older, || false).await;
        assert!(
            matches!(ended, Err(tenant_db::Error::LostClaim)),
            "{ended:?}"
        );
    }

    newer.commit().await;
    failed.app.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tenant_that_has_not_failed_is_not_retried() {
    let blueprint = TinyBlueprint::new();
    let app = App::of(Deployment::new().await, blueprint.source()).await;
    let org = new_org();
    app.accepts(&[&events::created(&org, "Acme")]).await;
    let tenant = app.tenant(&org).is_ready().await;
    let actor = crate::support::app::operator();
    let retry = async |tx: &mut _| tenantry::actions::retry_tenant(tx, &tenant, 25, &actor).await;
    let refused = app.replica.db.transaction(retry).await.unwrap_err();
    assert_eq!(refused.code(), "tenant_wrong_state");
    app.tenant(&org).is_ready().await;
    app.stop().await;
}
