//! A tenant that is abandoned before it is ready: whatever had become of it, nothing is left.

use futures_util::{StreamExt, stream};
use sqlx::{Connection, PgConnection};
use tenantry::{
    private_postgres::PrivatePostgres,
    provisioning::{FAULT_POINTS, INNER_FAULT_POINTS, PLAN, UNDO_FAULT_POINTS},
};

use crate::support::{
    App, Deployment, TinyBlueprint,
    app::{FENCED, is_delivered, metric, new_org, operator, wait_until},
    cluster::{self, ask, execute, hold},
    events,
    process::Process,
};

/// Every point at which making a tenant can be made to fail so that it is not ready.
fn points_before_ready() -> Vec<String> {
    let of_steps = PLAN
        .iter()
        .flat_map(|step| FAULT_POINTS.map(|point| format!("{}.{point}", step.name())));
    of_steps
        .chain(INNER_FAULT_POINTS.map(str::to_owned))
        .filter(|point| point != "activate.recorded")
        .collect()
}

/// Every point at which the undoing can be made to fail.
fn points_of_undoing() -> Vec<String> {
    let of_steps = PLAN
        .iter()
        .flat_map(|step| FAULT_POINTS.map(|point| format!("undo.{}.{point}", step.name())));
    of_steps
        .chain(UNDO_FAULT_POINTS.map(str::to_owned))
        .collect()
}

/// A deployment in which nobody dies, and no claim is lost because the machine is busy.
async fn patient() -> Deployment {
    let mut deployment = Deployment::new().await;
    deployment.set("TENANTRY__QUEUE__LEASE_MS", PATIENT_MS);
    deployment
}

const PATIENT_MS: &str = "30000";

/// Neither row nor record, neither database nor role, and no job that anybody would have to look at.
async fn nothing_is_left(deployment: &Deployment, what: &str) {
    let control = &deployment.control_url;
    wait_until(&format!("{what}: the tenant is gone"), async || {
        ask::<i64>(control, "select count(*) from tenants").await == 0
    })
    .await;
    let open =
        "select count(*) from jobs where state in ('available', 'running') and kind <> 'prune'";
    wait_until(&format!("{what}: no job is open"), async || {
        ask::<i64>(control, open).await == 0
    })
    .await;
    for left in [
        "provisioning_steps",
        "tenant_hosts",
        "member_syncs",
        "jobs where state = 'dead'",
    ] {
        let count = format!("select count(*) from {left}");
        assert_eq!(ask::<i64>(control, &count).await, 0, "{what}: {left}");
    }
    assert_eq!(deployment.tenant_databases().await, 0, "{what}: databases");
    // also those that cannot log in any more
    let roles = format!(
        "select count(*) from pg_roles
         where starts_with(rolname, '{0}') and rolname not in ('{0}owner', '{0}app')",
        deployment.prefix
    );
    assert_eq!(ask::<i64>(control, &roles).await, 0, "{what}: roles");
    let told = "select count(*) from audit_log where action = 'tenant.deleted'";
    assert_eq!(ask::<i64>(control, told).await, 1, "{what}: audit");
    let opened = "select count(*) from audit_log where after ->> 'state' = 'ready'";
    assert_eq!(ask::<i64>(control, opened).await, 0, "{what}: it was ready");
}

/// A tenant that failed at a point, in a replica of this process.
struct Failed {
    app: App,
    org: String,
    blueprint: TinyBlueprint,
}

impl Failed {
    /// `faults` begins with the point at which the making fails.
    async fn at(faults: &str) -> Self {
        Self::of(Deployment::new().await, faults).await
    }

    async fn of(deployment: Deployment, faults: &str) -> Self {
        let mut deployment = deployment.with_fault(faults);
        deployment.set("TENANTRY__QUEUE__LEASE_MS", PATIENT_MS);
        deployment.set("TENANTRY__QUEUE__MAX_ATTEMPTS", "1");
        let blueprint = TinyBlueprint::with_people();
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
        assert_eq!(app.tenant(&org).fails().await.code, "injected_fault");
        Self {
            app,
            org,
            blueprint,
        }
    }

    async fn abandon(&self) {
        self.app.deployment.abandon(&self.org).await.unwrap();
    }

    async fn execute(&self, sql: &str) {
        execute(&self.app.deployment.control_url, sql).await;
    }

    async fn ends(self, what: &str) {
        nothing_is_left(&self.app.deployment, what).await;
        let deployment = self.app.deployment.clone();
        self.app.stop().await;
        deployment.discard().await;
        drop(self.blueprint);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn whatever_step_failed_nothing_is_left_of_an_abandoned_tenant() {
    let points = points_before_ready();
    assert_eq!(points.len(), 25, "{points:?}");
    let all = stream::iter(points).map(|point| async move {
        let failed = Failed::at(&format!("{point}=error")).await;
        failed.abandon().await;
        failed.ends(&format!("failed at {point}")).await;
    });
    all.buffer_unordered(3).collect::<Vec<()>>().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_undoing_that_fails_anywhere_is_repeated_and_ends() {
    let points = points_of_undoing();
    assert_eq!(points.len(), 24, "{points:?}");
    let all = stream::iter(points).map(|point| async move {
        let failed = Failed::at(&format!("activate.before=error;{point}=error")).await;
        let (prefix, tenant) = (
            &failed.app.deployment.prefix,
            failed.app.tenant(&failed.org).find().await.unwrap(),
        );
        // what a lost attempt may have left beside the finished database
        let clone = format!("{prefix}new_{}", tenant.id.0.simple());
        failed
            .execute(&format!("create database {clone} owner {prefix}owner"))
            .await;
        failed.abandon().await;
        let faults = failed.app.replica.provisioner.faults.clone();
        wait_until(&point, async || faults.was_hit(&point)).await;
        failed
            .ends(&format!("undone with an error at {point}"))
            .await;
    });
    all.buffer_unordered(3).collect::<Vec<()>>().await;
}

/// What replicas in processes of their own share, with a blueprint that costs little.
async fn with_a_tiny_blueprint() -> (Deployment, TinyBlueprint) {
    let (mut deployment, blueprint) = (Deployment::new().await, TinyBlueprint::with_people());
    deployment.set_blueprint(blueprint.path());
    (deployment, blueprint)
}

/// A replica in a process of its own whose first tenant fails with everything made; abandoned then.
async fn abandoned_in(deployment: &mut Deployment, fault: &str) -> Process {
    deployment.set("TENANTRY__QUEUE__MAX_ATTEMPTS", "1");
    let process = Process::start(deployment, &format!("activate.before=error;{fault}")).await;
    process.is_ready().await;
    let org = new_org();
    assert!(is_delivered(process.address, &events::created(&org, "Acme")).await);
    let control = &deployment.control_url;
    let failed = "select count(*) from tenants where state = 'failed'";
    wait_until("the tenant failed", async || {
        ask::<i64>(control, failed).await == 1
    })
    .await;
    deployment.abandon(&org).await.unwrap();
    process
}

async fn killed_at(point: String) {
    let (mut deployment, _blueprint) = with_a_tiny_blueprint().await;
    let mut first = abandoned_in(&mut deployment, &format!("{point}=kill")).await;
    first.is_killed().await;
    let second = Process::start(&deployment, "").await;
    nothing_is_left(&deployment, &format!("killed at {point}")).await;
    drop(second);
    deployment.discard().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_replica_killed_while_it_undoes_is_succeeded_by_another() {
    let cases = points_of_undoing().into_iter().map(killed_at);
    stream::iter(cases)
        .buffer_unordered(4)
        .collect::<Vec<_>>()
        .await;
}

/// Everything that a late write could change.
async fn everything(deployment: &Deployment) -> String {
    let sql = format!(
        "select concat_ws(' ',
             (select count(*) from tenants),
             (select count(*) from provisioning_steps),
             (select count(*) from audit_log),
             (select md5(string_agg(concat_ws(' ', id, state, attempt), ',' order by id)) from jobs),
             (select string_agg(datname, ',' order by datname) from pg_database where starts_with(datname, '{0}')),
             (select string_agg(rolname, ',' order by rolname) from pg_roles where starts_with(rolname, '{0}')))",
        deployment.prefix
    );
    ask(&deployment.control_url, &sql).await
}

async fn writes_nothing_any_more(zombie: &Process, deployment: &Deployment, what: &str) {
    nothing_is_left(deployment, what).await;
    // the other replica builds it while it starts
    let sealed = format!(
        "select count(*) from pg_database where datistemplate and starts_with(datname, '{}')",
        deployment.prefix
    );
    wait_until(&format!("{what}: the template is there"), async || {
        ask::<i64>(&deployment.control_url, &sealed).await == 1
    })
    .await;
    let before = everything(deployment).await;
    zombie.resume();
    let fenced = async || metric(zombie.address, FENCED).await >= Some(1);
    wait_until(&format!("{what}: the zombie notices"), fenced).await;
    // what it began in spite of that would still be under way
    let busy = format!(
        "select count(*) from pg_stat_activity
         where state = 'active' and pid <> pg_backend_pid() and strpos(query, '\"{}') > 0",
        deployment.prefix
    );
    wait_until(&format!("{what}: nothing is under way"), async || {
        ask::<i64>(&deployment.control_url, &busy).await == 0
    })
    .await;
    assert_eq!(everything(deployment).await, before, "{what}");
}

/// A replica that is stopped in the middle of undoing, and goes on when another has done it.
async fn undoing_stopped_at(point: &str) {
    let (mut deployment, _blueprint) = with_a_tiny_blueprint().await;
    let zombie = abandoned_in(&mut deployment, &format!("{point}=stop")).await;
    zombie.is_stopped().await;
    let second = Process::start(&deployment, "").await;
    writes_nothing_any_more(&zombie, &deployment, &format!("stopped at {point}")).await;
    drop(second);
    deployment.discard().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_zombie_undoes_nothing() {
    let points = [
        "undo.sync_members.before",
        "undo.create_role.before",
        "undo.create_database.before",
        "undo.create_database.dropped",
        "undo.create_database.after_effect",
        "undo.place.before",
        "undo.row.before",
        "undo.row.committing",
    ];
    stream::iter(points.map(|point| Box::pin(undoing_stopped_at(point))))
        .buffer_unordered(3)
        .collect::<Vec<_>>()
        .await;
}

/// A replica that is stopped while it makes a tenant, which is abandoned and undone by another one.
async fn making_stopped_at(point: &str) {
    let (deployment, _blueprint) = with_a_tiny_blueprint().await;
    let zombie = Process::start(&deployment, &format!("{point}=stop")).await;
    zombie.is_ready().await;
    let org = new_org();
    assert!(is_delivered(zombie.address, &events::created(&org, "Acme")).await);
    zombie.is_stopped().await;
    deployment.abandon(&org).await.unwrap();
    let second = Process::start(&deployment, "").await;
    let what = format!("stopped at {point}, then abandoned");
    writes_nothing_any_more(&zombie, &deployment, &what).await;
    drop(second);
    deployment.discard().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_zombie_makes_nothing_of_a_tenant_that_is_gone() {
    let points = [
        "create_database.before",
        "create_database.cloned",
        "create_role.before",
        "seed.before",
    ];
    stream::iter(points.map(|point| Box::pin(making_stopped_at(point))))
        .buffer_unordered(3)
        .collect::<Vec<_>>()
        .await;
}

/// A tenant that is abandoned while an attempt to make it stands still at `point`.
async fn abandoned_while_it_stalls_at(point: &str, then: &str) {
    // a step that is reached in spite of it all would be noticed
    let faults = format!("{point}=stall:5000;verify.before=stall:0;{then}");
    let deployment = patient().await.with_fault(&faults);
    let blueprint = TinyBlueprint::with_people();
    let app = App::of(deployment, blueprint.source()).await;
    let org = new_org();
    app.accepts(&[&events::created(&org, "Acme")]).await;
    let faults = app.replica.provisioner.faults.clone();
    wait_until(point, async || faults.was_hit(point)).await;

    app.deployment.abandon(&org).await.unwrap();

    nothing_is_left(&app.deployment, point).await;
    let after = "select undoing.started_at >= making.finished_at
         from job_attempts making
         join jobs made on made.id = making.job_id and made.kind = 'provision_tenant',
             job_attempts undoing
         join jobs undone on undone.id = undoing.job_id and undone.kind = 'undo_tenant'
         where making.outcome = 'completed'";
    assert!(app.ask::<bool>(after).await, "{point}: both at once");
    if point != "activate.before" {
        assert!(!faults.was_hit("verify.before"), "{point}: it went on");
    }
    app.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_attempt_that_runs_while_its_tenant_is_abandoned_stops_and_is_undone_after_that() {
    for (point, then) in [
        ("create_database.cloned", ""),
        ("seed.after_effect", ""),
        // the step fails: that is nobody's failure any more, and not tried again
        ("seed.before", "seed.after_effect=error"),
        ("activate.before", ""),
    ] {
        abandoned_while_it_stalls_at(point, then).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tenant_is_either_ready_or_abandoned() {
    let deployment = patient()
        .await
        .with_fault("activate.after_effect=stall:700");
    let blueprint = TinyBlueprint::new();
    let app = App::of(deployment, blueprint.source()).await;
    let org = new_org();
    app.accepts(&[&events::created(&org, "Acme")]).await;
    let faults = app.replica.provisioner.faults.clone();
    // inside the transaction that opens it
    wait_until("activate", async || faults.was_hit("activate.after_effect")).await;

    let refused = app.deployment.abandon(&org).await.unwrap_err();

    assert_eq!(refused.code(), "tenant_wrong_state");
    assert!(refused.to_string().contains("is ready"), "{refused}");
    app.is_idle().await;
    app.tenant(&org).is_ready().await;
    let undone = "select count(*) from jobs where kind = 'undo_tenant'";
    assert_eq!(app.ask::<i64>(undone).await, 0);
    let notes = "select count(*) from notes";
    assert_eq!(app.tenant(&org).ask::<i64>(notes).await, 1);
    app.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tenant_that_waits_for_its_next_attempt_is_undone_at_once_and_without_its_blueprint() {
    let blueprint = TinyBlueprint::new();
    let app = App::of(patient().await, blueprint.source()).await;
    blueprint.remove("blueprint.toml");
    let org = new_org();
    app.accepts(&[&events::created(&org, "Acme")]).await;
    let waits = "select count(*) from jobs where kind = 'provision_tenant' and attempt >= 1 and state = 'available'";
    wait_until("it waits", async || app.ask::<i64>(waits).await == 1).await;
    execute(
        &app.deployment.control_url,
        "update jobs set run_at = now() + interval '1 hour' where state = 'available'",
    )
    .await;

    app.deployment.abandon(&org).await.unwrap();

    nothing_is_left(&app.deployment, "abandoned between two attempts").await;
    let state = "select state from jobs where kind = 'provision_tenant'";
    assert_eq!(app.ask::<String>(state).await, "cancelled");
    let again = app.ask::<i64>("select count(*) from jobs where kind = 'undo_tenant'");
    assert_eq!(again.await, 1);
    app.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_somebody_elses_survives_whatever_its_name() {
    let failed = Failed::at("create_database.before=error").await;
    let tenant = failed.app.tenant(&failed.org).find().await.unwrap();
    let (database, role) = (tenant.database, tenant.username);
    let (deployment, other) = (failed.app.deployment.clone(), uuid::Uuid::now_v7());
    let prefix = &deployment.prefix;
    failed.execute(&format!("create database {database}")).await;
    // the tenant's mark, copied onto a database that is not ours
    failed
        .execute(&format!(
            "comment on database {database} is 'tenantry tenant={} template=abc'",
            tenant.id
        ))
        .await;
    // ours, but another tenant's
    failed
        .execute(&format!(
            "create role {role} login; comment on role {role} is 'tenantry tenant={other}'"
        ))
        .await;
    let clone = format!("{prefix}new_{}", tenant.id.0.simple());
    failed.execute(&format!("create database {clone}")).await;
    let url = deployment.url(&database);
    execute(&url, "create table precious as select 42 as id").await;

    failed.abandon().await;
    wait_until("the tenant is gone", async || {
        failed.app.ask::<i64>("select count(*) from tenants").await == 0
    })
    .await;

    assert_eq!(ask::<i32>(&url, "select id from precious").await, 42);
    assert_eq!(deployment.tenant_databases().await, 2);
    let can_login = format!("select rolcanlogin from pg_roles where rolname = '{role}'");
    assert!(failed.app.ask::<bool>(&can_login).await);
    failed.execute(&format!("drop database {database}")).await;
    failed.execute(&format!("drop database {clone}")).await;
    failed.execute(&format!("drop role {role}")).await;
    failed.ends("beside what is somebody else's").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn sessions_rights_and_a_half_dropped_database_are_no_obstacle() {
    let failed = Failed::at("verify.before=error").await;
    let app = &failed.app;
    let tenant = app.tenant(&failed.org).find().await.unwrap();
    let mut session = PgConnection::connect(&app.tenant(&failed.org).url().await)
        .await
        .unwrap();
    // an operator gave the role more than it has by the application group
    let url = app.deployment.url(&tenant.database);
    let grant = format!("grant truncate on notes to {}", tenant.username);
    execute(&url, &grant).await;
    failed
        .execute(&format!(
            "insert into tenant_hosts (host, tenant_id) values ('crm.acme.example', '{}')",
            tenant.id
        ))
        .await;
    // what a crash in the middle of "drop database" leaves
    failed
        .execute(&format!(
            "update pg_database set datconnlimit = -2 where datname = '{}'",
            tenant.database
        ))
        .await;

    failed.abandon().await;

    nothing_is_left(&app.deployment, "in use").await;
    assert!(session.ping().await.is_err(), "the session is alive");
    failed.ends("in use").await;
}

/// A server whose autovacuum comes every second and takes its time.
async fn with_an_eager_autovacuum() -> PrivatePostgres {
    let postgres = PrivatePostgres::start(&cluster::settings(), |_| {})
        .await
        .unwrap();
    for sql in [
        "alter system set autovacuum_naptime = '1s'",
        "alter system set autovacuum_vacuum_cost_delay = '100ms'",
        "alter system set autovacuum_vacuum_cost_limit = 1",
        "select pg_reload_conf()",
    ] {
        execute(&postgres.url("postgres"), sql).await;
    }
    postgres
}

#[tokio::test(flavor = "multi_thread")]
async fn autovacuum_at_work_is_no_obstacle() {
    let postgres = with_an_eager_autovacuum().await;
    let deployment = Deployment::on(|database| postgres.url(database)).await;
    let failed = Failed::of(deployment, "verify.before=error").await;
    let tenant = failed.app.tenant(&failed.org).find().await.unwrap();
    let url = failed.app.deployment.url(&tenant.database);
    execute(
        &url,
        "create table large as select g from generate_series(1, 500000) g; delete from large",
    )
    .await;
    let at_work = format!(
        "select exists (
             select
             from pg_stat_activity
             where backend_type = 'autovacuum worker'
               and datname = '{}'
         )",
        tenant.database
    );
    wait_until("autovacuum is there", async || {
        failed.app.ask::<bool>(&at_work).await
    })
    .await;

    failed.abandon().await;

    failed.ends("while autovacuum is at work").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_undoing_waits_for_a_session_that_only_a_superuser_may_end() {
    let failed = Failed::at("verify.before=error").await;
    let app = &failed.app;
    let tenant = app.tenant(&failed.org).find().await.unwrap();
    let superuser = PgConnection::connect(&app.deployment.url(&tenant.database))
        .await
        .unwrap();

    failed.abandon().await;
    let tried = "select count(*) from job_attempts where error_code = 'cluster_unavailable'";
    wait_until("it was tried", async || app.ask::<i64>(tried).await > 0).await;
    let failure = app.tenant(&failed.org).is_in("archived").await.failure;
    let cause = failure.unwrap().cause;
    assert!(cause.contains("accessed by other users"), "{cause}");

    superuser.close().await.unwrap();
    failed.ends("after somebody was in it").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn nobody_holds_a_tenant_up_by_the_name_of_a_session() {
    let failed = Failed::at("verify.before=error").await;
    let app = &failed.app;
    let tenant = app.tenant(&failed.org).find().await.unwrap();
    let ours = url::Url::parse(&app.deployment.operator_url("postgres")).unwrap();
    let [stranger, other] =
        ["stranger", "other"].map(|it| format!("{}{it}", app.deployment.prefix));
    // one whose sessions we may not end, and the role of another tenant, whose we may where we are a superuser
    let rights = format!(
        "comment on role {other} is 'tenantry tenant={}'; grant {other} to {}",
        uuid::Uuid::now_v7(),
        ours.username(),
    );
    let mut sessions = Vec::new();
    for (role, rights) in [(&stranger, ""), (&other, &rights)] {
        let connect = format!("grant connect on database postgres to {role}; {rights}");
        failed
            .execute(&format!(
                "create role {role} login password 'pw'; {connect}"
            ))
            .await;
        let mut url = url::Url::parse(&app.deployment.url("postgres")).unwrap();
        url.set_username(role).unwrap();
        url.set_password(Some("pw")).unwrap();
        let named = format!("set application_name = 'tenantry {} 1.1'", tenant.id);
        sessions.push(hold(url.as_str(), &named).await);
    }

    app.tenant(&failed.org).retry().await;

    app.tenant(&failed.org).is_ready().await;
    for session in &mut sessions {
        // nobody ended it
        session.commit().await;
    }
    drop(sessions);
    for role in [stranger, other] {
        failed
            .execute(&format!("drop owned by {role}; drop role {role}"))
            .await;
    }
    failed.app.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_undoing_that_cannot_go_on_says_why_and_goes_on_when_an_operator_says_so() {
    let failed = Failed::at("verify.before=error").await;
    let app = &failed.app;
    let tenant = app.tenant(&failed.org).find().await.unwrap();
    // elsewhere: what nobody but who gave it may take back
    let elsewhere = app.deployment.url("postgres");
    let (table, role) = (format!("{}extra", app.deployment.prefix), &tenant.username);
    execute(
        &elsewhere,
        &format!("create table {table} (id int); grant select on {table} to {role}"),
    )
    .await;

    failed.abandon().await;
    let dead = "select count(*) from jobs where kind = 'undo_tenant' and state = 'dead'";
    wait_until("it is given up", async || app.ask::<i64>(dead).await == 1).await;

    let left = app.tenant(&failed.org).is_in("archived").await;
    let failure = left.failure.unwrap();
    assert_eq!(failure.step, "create_database");
    assert_eq!(failure.code, "cluster_refused");
    assert!(failure.cause.contains(role.as_str()), "{}", failure.cause);
    let job: i64 = app
        .ask("select id from jobs where kind = 'undo_tenant'")
        .await;
    let fix = format!("tenantry jobs retry {job}");
    assert!(failure.fix.contains(&fix), "{}", failure.fix);
    let can_login = format!("select rolcanlogin from pg_roles where rolname = '{role}'");
    assert!(!app.ask::<bool>(&can_login).await, "it can log in");
    assert_eq!(app.deployment.tenant_databases().await, 0);

    execute(&elsewhere, &format!("drop table {table}")).await;
    let retry = async |tx: &mut _| {
        tenantry::actions::retry_job(tx, tenantry::queue::JobId(job), 25, &operator()).await
    };
    app.replica.db.transaction(retry).await.unwrap();
    failed.ends("retried").await;
}

/// Sessions of the first attempt at this tenant that the server still has.
async fn sessions_of_first_attempt(app: &App, tenant: tenantry::tenants::TenantId) -> i64 {
    app.ask(&format!(
        "select count(*) from pg_stat_activity where application_name like 'tenantry {tenant} %.1'"
    ))
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_seed_that_is_cut_off_leaves_no_session_and_no_row() {
    let mut deployment = patient().await;
    deployment.set("TENANTRY__QUEUE__MAX_ATTEMPTS", "1");
    let blueprint = TinyBlueprint::new();
    blueprint.write("blueprint.toml", "seed_timeout_ms = 500");
    let seed = "insert into notes (body) values (current_setting('tenantry.organization_name'))";
    let sleep = format!("{seed}; select pg_sleep(60)");
    blueprint.write(crate::support::tiny::SEED, &sleep);
    let app = App::of(deployment, blueprint.source()).await;
    let org = new_org();
    app.accepts(&[&events::created(&org, "Acme")]).await;

    let failure = app.tenant(&org).fails().await;

    let tenant = app.tenant(&org).find().await.unwrap();
    assert_eq!(sessions_of_first_attempt(&app, tenant.id).await, 0);
    assert_eq!((&*failure.step, &*failure.code), ("seed", "step_timed_out"));
    let notes = "select count(*) from notes";
    assert_eq!(app.tenant(&org).ask::<i64>(notes).await, 0);

    blueprint.write(crate::support::tiny::SEED, seed);
    app.tenant(&org).retry().await;
    app.tenant(&org).is_ready().await;
    assert_eq!(app.tenant(&org).ask::<i64>(notes).await, 1);
    app.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_step_that_waits_for_somebody_else_is_cut_off_and_tried_again_by_itself() {
    let mut deployment = patient().await.with_fault("create_role.before=stall:1000");
    deployment.set("TENANTRY__PROVISIONING__STEP_TIMEOUT_S", "1");
    let blueprint = TinyBlueprint::new();
    let app = App::of(deployment, blueprint.source()).await;
    let org = new_org();
    app.accepts(&[&events::created(&org, "Acme")]).await;
    let faults = app.replica.provisioner.faults.clone();
    wait_until("create_role", async || faults.was_hit("create_role.before")).await;
    let tenant = app.tenant(&org).find().await.unwrap();
    // "create role" waits for this transaction, to see whether the name is taken
    let create = format!("create role {}", tenant.username);
    let mut holder = hold(&app.deployment.control_url, &create).await;

    let code = "select coalesce((select failure ->> 'code' from tenants), '')";
    wait_until("it is cut off", async || {
        app.ask::<String>(code).await == "step_timed_out"
    })
    .await;
    assert_eq!(sessions_of_first_attempt(&app, tenant.id).await, 0);
    let told = "select failure ->> 'cause' from tenants";
    assert_eq!(
        app.ask::<String>(told).await,
        "step create_role did not finish within 1 s"
    );
    holder.release().await;

    app.tenant(&org).is_ready().await;
    assert_eq!(app.deployment.tenant_roles().await, 1);
    app.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_opened_is_not_dropped_where_the_control_database_is_of_a_moment_before() {
    let app = App::start().await;
    let (org, tenant) = app.new_tenant("Acme").await;
    app.is_idle().await;
    // as it was when the tenant had failed, before somebody repaired that
    let before = "delete from provisioning_steps where step in ('verify', 'activate');
         update tenants
         set state = 'failed', initialize = false, ready_at = null,
             failure = '{\"step\": \"verify\", \"code\": \"not_verified\", \"cause\": \"\", \"fix\": \"\"}'";
    execute(&app.deployment.control_url, before).await;
    app.deployment.abandon(&org).await.unwrap();
    let refused = "select exists (
             select
             from jobs
             join job_attempts on job_id = jobs.id
             where kind = 'undo_tenant' and jobs.state = 'dead' and error_code = 'database_in_use'
         )";
    wait_until("it is refused", async || app.ask::<bool>(refused).await).await;
    let there = format!(
        "select count(*) from pg_database where datname = '{}'",
        tenant.database
    );
    assert_eq!(app.ask::<i64>(&there).await, 1);
    app.deployment.discard().await;
}
