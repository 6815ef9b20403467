//! Blueprints that are wrong, get repaired, or change under a running fleet.

use crate::support::{
    App, Deployment, TinyBlueprint,
    app::{new_org, wait_until},
    cluster::{ask, execute},
    events,
    tiny::{MIGRATION, SEED, VERIFY},
};

/// An application whose blueprint can be edited, with one organization.
struct Story {
    app: App,
    blueprint: TinyBlueprint,
    org: String,
}

impl Story {
    /// The organization arrives while the blueprint has this file.
    async fn with(file: &str, sql: &str) -> Self {
        let blueprint = TinyBlueprint::new();
        blueprint.write(file, sql);
        let app = App::of(Deployment::new().await, blueprint.source()).await;
        let org = new_org();
        app.accepts(&[&events::created(&org, "Acme")]).await;
        Self {
            app,
            blueprint,
            org,
        }
    }

    /// Waits for the failure: its step, code and cause.
    async fn fails(&self) -> (String, String, String) {
        let failure = self.app.tenant(&self.org).fails().await;
        assert!(
            failure.fix.contains("tenantry tenants retry "),
            "{}",
            failure.fix
        );
        (failure.step, failure.code, failure.cause)
    }

    /// After the repair: ready, under the names that it had from the start.
    async fn becomes_ready_by_a_retry(self) {
        let before = self.app.tenant(&self.org).find().await.unwrap();
        self.app.tenant(&self.org).retry().await;
        let after = self.app.tenant(&self.org).is_ready().await;
        assert_eq!(
            (after.database, after.username, after.url, after.failure),
            (before.database, before.username, before.url, None)
        );
        assert_eq!(
            self.app
                .tenant(&self.org)
                .ask::<i64>("select count(*) from notes")
                .await,
            1
        );
        assert_eq!(self.app.deployment.tenant_databases().await, 1);
        self.app.is_idle().await;
        self.app.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_migration_that_fails_names_its_file_and_leaves_no_half_template() {
    let second = "migrations/0002_more.sql";
    let story = Story::with(second, "create table more (id int); select 1 / 0").await;
    let (step, code, cause) = story.fails().await;
    assert_eq!((&*step, &*code), ("create_database", "migration_failed"));
    assert!(
        cause.contains(second) && cause.contains("division by zero"),
        "{cause}"
    );
    let of_prefix = format!(
        "select count(*) from pg_database where starts_with(datname, '{}')",
        story.app.deployment.prefix
    );
    assert_eq!(story.app.ask::<i64>(&of_prefix).await, 0);

    story.blueprint.write(second, "create table more (id int)");
    story.becomes_ready_by_a_retry().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_seed_that_fails_names_its_file_and_leaves_no_row() {
    let more = "seed/tenant/02_more.sql";
    let story = Story::with(more, "insert into notes (body) values (null)").await;
    let (step, code, cause) = story.fails().await;
    assert_eq!((&*step, &*code), ("seed", "seed_failed"));
    assert!(
        cause.contains(more) && cause.contains("null value"),
        "{cause}"
    );
    assert_eq!(
        story
            .app
            .tenant(&story.org)
            .ask::<i64>("select count(*) from notes")
            .await,
        0
    );

    story.blueprint.remove(more);
    story.becomes_ready_by_a_retry().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_verify_query_that_returns_a_row_keeps_the_tenant_closed_and_says_why() {
    let story = Story::with(VERIFY, "select 'the coffee is cold' as problem").await;
    let (step, code, cause) = story.fails().await;
    assert_eq!((&*step, &*code), ("verify", "not_verified"));
    assert!(
        cause.contains(VERIFY) && cause.contains("problem = the coffee is cold"),
        "{cause}"
    );
    assert!(
        !story
            .app
            .tenant(&story.org)
            .find()
            .await
            .unwrap()
            .initialize
    );

    story.blueprint.remove(VERIFY);
    story.becomes_ready_by_a_retry().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_verify_query_that_cannot_run_is_told_from_one_that_found_something() {
    let story = Story::with(VERIFY, "select * from nowhere").await;
    let (step, code, cause) = story.fails().await;
    assert_eq!((&*step, &*code), ("verify", "verify_query_failed"));
    assert!(
        cause.contains(VERIFY) && cause.contains("nowhere"),
        "{cause}"
    );
    story.blueprint.remove(VERIFY);
    story.becomes_ready_by_a_retry().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_verify_query_cannot_write() {
    let sql = "with gone as (delete from notes returning id) select 'gone' as problem from gone";
    let story = Story::with(VERIFY, sql).await;
    let (_, code, cause) = story.fails().await;
    assert_eq!(code, "verify_query_failed");
    assert!(cause.contains("read-only transaction"), "{cause}");
    story.blueprint.remove(VERIFY);
    story.becomes_ready_by_a_retry().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tenant_database_that_was_opened_to_public_is_not_verified() {
    let opening = "do $$ begin execute format('grant connect on database %I to public', current_database()); end $$";
    let story = Story::with("seed/tenant/02_open.sql", opening).await;
    let (step, code, cause) = story.fails().await;
    assert_eq!((&*step, &*code), ("verify", "not_verified"));
    assert!(cause.contains("PUBLIC has rights on database"), "{cause}");
    let tenant = story.app.tenant(&story.org).find().await.unwrap();
    let revoke = format!("revoke connect on database {} from public", tenant.database);
    execute(&story.app.deployment.control_url, &revoke).await;
    story.becomes_ready_by_a_retry().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tenant_whose_structure_differs_from_its_template_is_not_verified() {
    let story = Story::with(
        "seed/tenant/02_odd.sql",
        "alter table notes add column odd int",
    )
    .await;
    let (step, code, cause) = story.fails().await;
    assert_eq!((&*step, &*code), ("verify", "not_verified"));
    assert!(
        cause.contains("column odd of notes is there and should not be"),
        "{cause}"
    );
    let drop = "alter table notes drop column odd";
    let url = story
        .app
        .deployment
        .url(&story.app.tenant(&story.org).find().await.unwrap().database);
    execute(&url, drop).await;
    story.becomes_ready_by_a_retry().await;
}

/// A tenant that one version begins and the next one completes.
#[tokio::test(flavor = "multi_thread")]
async fn a_clone_of_an_older_versions_template_is_compared_as_that_version_does() {
    for (odd, becomes) in [
        ("comment on table notes is 'x'", "ready"),
        ("create table odd ()", "failed"),
    ] {
        let blueprint = TinyBlueprint::new();
        let point = "verify.before";
        let deployment = Deployment::new().await.with_fault(&format!("{point}=hold"));
        let app = App::of(deployment, blueprint.source()).await;
        let org = new_org();
        app.accepts(&[&events::created(&org, "Acme")]).await;
        let faults = &app.replica.provisioner.faults;
        wait_until("it is about to be verified", async || faults.was_hit(point)).await;
        let older = "update templates set compared = null, compared_fingerprint = null";
        execute(&app.deployment.control_url, older).await;
        let tenant = app.tenant(&org).find().await.unwrap();
        execute(&app.deployment.url(&tenant.database), odd).await;
        faults.release(point);

        app.tenant(&org).is_in(becomes).await;
        app.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_migration_that_was_edited_after_it_was_applied_is_refused_by_name() {
    let story = Story::with(SEED, "insert into notes (body) values ('x')").await;
    story.app.tenant(&story.org).is_ready().await;

    story.blueprint.write(
        MIGRATION,
        "create table notes (id int, body text, extra text)",
    );
    let late = new_org();
    story
        .app
        .accepts(&[&events::created(&late, "Umbrella")])
        .await;
    let failure = story.app.tenant(&late).fails().await;
    assert_eq!(failure.code, "blueprint_migration_edited");
    assert!(failure.cause.contains(MIGRATION), "{}", failure.cause);
    let build = story.app.replica.build_templates().await;
    assert!(build.is_err(), "a replica does not start with it either");
    story.app.tenant(&story.org).is_ready().await;
    story.app.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_new_migration_makes_a_new_template_and_old_tenants_stay_as_they_are() {
    let story = Story::with(SEED, "insert into notes (body) values ('x')").await;
    let old = story.app.tenant(&story.org).is_ready().await;
    story
        .blueprint
        .write("migrations/0002_more.sql", "create table more (id int)");
    let late = new_org();
    story
        .app
        .accepts(&[&events::created(&late, "Umbrella")])
        .await;
    let new = story.app.tenant(&late).is_ready().await;
    assert_eq!(
        (&*old.alembic_version, &*new.alembic_version),
        ("0001_notes", "0002_more")
    );
    assert_ne!(old.blueprint_hash, new.blueprint_hash);
    let unchanged = "select to_regclass('more') is null";
    assert!(story.app.tenant(&story.org).ask::<bool>(unchanged).await);
    story.app.stop().await;
}

/// A builder that ends after any of its parts leaves a template that is not sealed.
#[tokio::test(flavor = "multi_thread")]
async fn a_template_that_was_not_finished_is_rebuilt_and_open_to_nobody() {
    for point in ["template.created", "template.filled"] {
        let blueprint = TinyBlueprint::new();
        let deployment = Deployment::new()
            .await
            .with_fault(&format!("{point}=error"));
        let app = App::listening(deployment, blueprint.source()).await;
        app.replica.migrate().await.unwrap();
        app.replica.build_templates().await.unwrap();
        let prefix = &app.deployment.prefix;
        let of_template = |column: &str| {
            format!(
                "select {column} from pg_database where starts_with(datname, '{prefix}template_')"
            )
        };
        let before: i64 = app.ask(&of_template("oid::int8")).await;
        assert!(!app.ask::<bool>(&of_template("datistemplate")).await);
        let open = of_template(
            "datallowconn and (datacl is null or exists (select from aclexplode(datacl) acl where acl.grantee = 0))",
        );
        assert!(
            !app.ask::<bool>(&open).await,
            "half a template is open to PUBLIC after {point}"
        );

        app.replica.work();
        let org = new_org();
        app.accepts(&[&events::created(&org, "Acme")]).await;
        app.tenant(&org).is_ready().await;
        assert_ne!(app.ask::<i64>(&of_template("oid::int8")).await, before);
        assert!(
            app.ask::<bool>(&of_template("datistemplate and not datallowconn"))
                .await
        );
        let url = app.tenant(&org).url().await;
        assert_eq!(ask::<i64>(&url, "select count(*) from notes").await, 1);
        app.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn while_a_new_template_is_built_tenants_of_the_old_one_become_ready() {
    let blueprint = TinyBlueprint::new();
    let deployment = Deployment::new().await;
    let app = App::of(deployment.clone(), blueprint.source()).await;
    let next = TinyBlueprint::new();
    next.write("migrations/0002_more.sql", "create table more (id int)");
    // another replica has the next release, and stops in the middle of building its template
    let releasing = App::listening(
        deployment.with_fault("template.created=error"),
        next.source(),
    )
    .await;
    releasing.replica.build_templates().await.unwrap();
    assert!(
        releasing
            .replica
            .provisioner
            .faults
            .was_hit("template.created")
    );

    let org = new_org();
    app.accepts(&[&events::created(&org, "Acme")]).await;
    app.is_idle().await;
    assert_eq!(
        app.tenant(&org).is_ready().await.alembic_version,
        "0001_notes"
    );
    releasing.stop().await;
    app.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_seeded_wrongly_is_made_once_more_when_the_seed_is_repaired() {
    // two notes, where the verify query wants one
    let wrong = "insert into notes (body) values ('one'), ('two')";
    let story = Story::with(SEED, wrong).await;
    let (step, code, _) = story.fails().await;
    assert_eq!((&*step, &*code), ("verify", "not_verified"));

    story
        .blueprint
        .write(SEED, "insert into notes (body) values ('one')");
    story.becomes_ready_by_a_retry().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_cloned_from_a_wrong_template_is_made_once_more_when_that_is_repaired() {
    let more = "migrations/0002_more.sql";
    let story = Story::with(more, "insert into notes (body) values ('left over')").await;
    let (step, code, _) = story.fails().await;
    assert_eq!((&*step, &*code), ("verify", "not_verified"));

    let repair = "delete from notes where body = 'left over'";
    story.blueprint.write("migrations/0003_repair.sql", repair);
    story.becomes_ready_by_a_retry().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_template_that_the_server_clones_no_more_is_built_anew() {
    let blueprint = TinyBlueprint::new();
    let app = App::of(Deployment::new().await, blueprint.source()).await;
    // what an upgrade of the system's libraries leaves
    let outdated = format!(
        "update pg_database set datcollversion = 'of yesterday'
         where starts_with(datname, '{}template_')",
        app.deployment.prefix
    );
    execute(&app.deployment.control_url, &outdated).await;
    let org = new_org();
    app.accepts(&[&events::created(&org, "Acme")]).await;

    app.tenant(&org).is_ready().await;

    let outdated = "select count(*) from pg_database where datcollversion = 'of yesterday'";
    assert_eq!(app.ask::<i64>(outdated).await, 0);
    app.is_idle().await;
    app.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn while_our_own_password_is_changed_nobody_is_given_up() {
    let deployment = Deployment::new().await;
    let blueprint = TinyBlueprint::new();
    let app = App::of(
        deployment.with_fault("create_database.cloned=hold"),
        blueprint.source(),
    )
    .await;
    let org = new_org();
    app.accepts(&[&events::created(&org, "Acme")]).await;
    let faults = app.replica.provisioner.faults.clone();
    let point = "create_database.cloned";
    wait_until(point, async || faults.was_hit(point)).await;
    let user = "select usename::text from pg_stat_activity where application_name = 'tenantry' and datname = current_database() limit 1";
    let user: String = app.ask(user).await;
    let verifier = format!("select rolpassword from pg_authid where rolname = '{user}'");
    let before: String = app.ask(&verifier).await;
    let control = &app.deployment.control_url;
    execute(control, &format!("alter role {user} password 'another'")).await;

    faults.release(point);
    let refused = "select count(*) from job_attempts where error_code = 'login_refused'";
    wait_until("it was refused", async || app.ask::<i64>(refused).await > 0).await;
    execute(control, &format!("alter role {user} password '{before}'")).await;

    app.tenant(&org).is_ready().await;
    app.is_idle().await;
    app.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_database_that_was_ever_opened_is_kept_whatever_the_control_database_says() {
    let blueprint = TinyBlueprint::new();
    let mut deployment = Deployment::new().await;
    deployment.set("TENANTRY__QUEUE__MAX_ATTEMPTS", "1");
    let app = App::of(
        deployment.with_fault("verify.before=error"),
        blueprint.source(),
    )
    .await;
    let org = new_org();
    app.accepts(&[&events::created(&org, "Acme")]).await;
    app.tenant(&org).fails().await;
    // a dump of the control database from this moment is restored later
    let rows = ["tenants", "provisioning_steps", "jobs"];
    for table in rows {
        let keep = format!("create table kept_{table} as select * from {table}");
        execute(&app.deployment.control_url, &keep).await;
    }
    app.tenant(&org).retry().await;
    let tenant = app.tenant(&org).is_ready().await;
    app.is_idle().await;
    let url = app.deployment.url(&tenant.database);
    execute(&url, "insert into notes (body) values ('of a customer')").await;
    execute(
        &app.deployment.control_url,
        "delete from provisioning_steps;
         delete from jobs;
         update tenants set state = kept.state, initialize = kept.initialize, failure = kept.failure
         from kept_tenants kept
         where tenants.id = kept.id;
         insert into provisioning_steps select * from kept_provisioning_steps;
         insert into jobs overriding system value select * from kept_jobs",
    )
    .await;
    blueprint.write("migrations/0002_more.sql", "create table more (id int)");
    blueprint.write(SEED, "insert into notes (body) values ('another')");
    blueprint.remove(VERIFY);

    app.tenant(&org).retry().await;
    app.is_idle().await;

    let kept = "select count(*) from notes where body = 'of a customer'";
    assert_eq!(ask::<i64>(&url, kept).await, 1);
    app.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_template_that_is_built_anew_takes_the_pool_with_it() {
    let blueprint = TinyBlueprint::new();
    let mut deployment = Deployment::new().await;
    deployment.set("TENANTRY__POOL__SIZE", "1");
    let app = App::of(deployment, blueprint.source()).await;
    let ready = "select coalesce(max(database), '') from pool_databases where state = 'ready'";
    wait_until("the pool is filled", async || {
        !app.ask::<String>(ready).await.is_empty()
    })
    .await;
    let before: String = app.ask(ready).await;
    let template: String = app.ask("select database from templates").await;
    let unsealed = format!("alter database {template} is_template false");
    execute(&app.deployment.control_url, &unsealed).await;

    app.replica.build_templates().await.unwrap();

    wait_until("the pool is filled anew", async || {
        let now = app.ask::<String>(ready).await;
        !now.is_empty() && now != before
    })
    .await;
    let left = format!("select count(*) from pg_database where datname = '{before}'");
    assert_eq!(app.ask::<i64>(&left).await, 0);
    app.stop().await;
}
