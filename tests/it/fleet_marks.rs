//! What a run knows of a database without looking into it: its row and its cluster's own word, which must agree.

use tenantry::{
    fleet::{NewRun, Run, RunState, TargetState},
    secrets::sha256,
};

use crate::support::{
    Deployment, Fleet, TinyBlueprint,
    app::wait_until,
    cluster::{ask, execute, hold},
    documents::statement,
    fleet::{ADDITIVE, NEXT, all},
    tiny::MIGRATION,
};

/// A program that has one version only.
const COMMAND: &str = "migrator = \"command\"
[command]
argv = [\"/bin/sh\", \"db/migrate.sh\"]
files = [\"db\"]
version_query = \"select 'v1'\"";

const SCRIPT: &str = r"
PATH=$PATH:$(echo /usr/lib/postgresql/*/bin | tr ' ' :)
psql --quiet --no-psqlrc --set ON_ERROR_STOP=1 --command 'create table if not exists public.notes (body text not null)'
";

/// Nobody is let into the tenant's database, or somebody again.
async fn lets_in(fleet: &Fleet, org: &str, is_open: bool) {
    let database = fleet.tenant(org).await.database;
    let sql = format!("alter database {database} allow_connections {is_open}");
    execute(&fleet.app.deployment.control_url, &sql).await;
}

/// The cluster's word about the tenant's database.
async fn mark(fleet: &Fleet, org: &str) -> String {
    let database = fleet.tenant(org).await.database;
    let sql = format!(
        "select shobj_description(oid, 'pg_database') from pg_database where datname = '{database}'"
    );
    ask(&fleet.app.deployment.control_url, &sql).await
}

/// The tenant's database is as it was before the next migration; its cluster's word is not changed.
async fn forgets_the_next_migration(fleet: &Fleet, org: &str) {
    let forget = format!("drop table tags; delete from tenantry.migrations where name = '{NEXT}'");
    fleet.sql(org, &forget).await;
}

fn ended(run: &Run) -> (RunState, u32, u32) {
    (run.state, run.counts.done, run.counts.failed)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_database_that_has_the_version_is_looked_into_only_when_it_is_named() {
    let fleet = Fleet::of(2).await;
    fleet.migrate(&all()).await;
    let [org, other] = [0, 1].map(|at| fleet.orgs[at].clone());
    let (database, control) = (
        fleet.tenant(&org).await.database,
        &fleet.app.deployment.control_url,
    );
    lets_in(&fleet, &org, false).await;
    lets_in(&fleet, &other, false).await;
    let nothing = fleet.migrate(&all()).await;
    assert_eq!(ended(&nothing), (RunState::Done, 2, 0));
    assert_eq!(fleet.target(&nothing, &org).await.applied, Some(0));
    assert_eq!(
        fleet.target(&nothing, &org).await.to_version.unwrap(),
        "0002_tags"
    );

    let mut by_name = all();
    by_name.selection.tenants = vec![fleet.tenant(&org).await.id];
    by_name.max_failures = None;
    let run = fleet.migrate(&by_name).await;
    assert_eq!(ended(&run), (RunState::Failed, 0, 1));
    lets_in(&fleet, &org, true).await;
    lets_in(&fleet, &other, true).await;
    // as after a `drop database` that was broken off
    let limit = |limit: i32| {
        format!("update pg_database set datconnlimit = {limit} where datname = '{database}'")
    };
    execute(control, &limit(-2)).await;
    assert_eq!(
        ended(&fleet.migrate(&all()).await),
        (RunState::Failed, 1, 1)
    );
    execute(control, &limit(-1)).await;
    // as after a restore into the database as it stood
    forgets_the_next_migration(&fleet, &org).await;
    let run = fleet.migrate(&by_name).await;
    assert_eq!(ended(&run), (RunState::Done, 1, 0));
    assert_eq!(fleet.target(&run, &org).await.applied, Some(1));
    fleet.every_row_is_true().await;
    fleet.sql(&org, "alter table tags add by_hand int").await;
    assert_eq!(ended(&fleet.migrate(&all()).await), (RunState::Done, 2, 0));
    let run = fleet.migrate(&by_name).await;
    assert_eq!(ended(&run), (RunState::Failed, 0, 1));
    assert_eq!(
        fleet.target(&run, &org).await.error_code.as_deref(),
        Some("drifted")
    );
    fleet.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_its_cluster_says_is_older_than_its_row_is_brought_up_and_compared() {
    let fleet = Fleet::of(2).await;
    let org = &fleet.orgs[0];
    let before = mark(&fleet, org).await;
    fleet.migrate(&all()).await;
    let after = mark(&fleet, org).await;
    assert_ne!(before, after);
    // the cluster was restored to an earlier moment, and the control database was not
    forgets_the_next_migration(&fleet, org).await;
    let database = fleet.tenant(org).await.database;
    let remark = format!("comment on database {database} is '{before}'");
    execute(&fleet.app.deployment.control_url, &remark).await;

    fleet.sql(org, "alter table notes add by_hand int").await;
    for _ in 0..2 {
        let run = fleet.migrate(&all()).await;
        assert_eq!(ended(&run), (RunState::Failed, 1, 1));
        let target = fleet.target(&run, org).await;
        assert_eq!(target.error_code.as_deref(), Some("drifted"));
        assert!(!mark(&fleet, org).await.contains("like="));
    }
    assert_eq!(fleet.applied(org).await, 1);
    fleet.sql(org, "alter table notes drop by_hand").await;
    let run = fleet.migrate(&all()).await;
    assert_eq!(ended(&run), (RunState::Done, 2, 0));
    assert_eq!(mark(&fleet, org).await, after);
    fleet.every_row_is_true().await;
    fleet.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_its_row_says_is_older_than_its_cluster_does_is_looked_into() {
    let fleet = Fleet::of(1).await;
    let org = &fleet.orgs[0];
    let before = fleet.tenant(org).await;
    fleet.migrate(&all()).await;
    // the control database was restored to an earlier moment, and somebody has changed the database since
    fleet.sql(org, "alter table tags add by_hand int").await;
    let hash = before.blueprint_hash.unwrap();
    let restored = format!(
        "update tenants set alembic_version = '{}', blueprint_hash = '{hash}'",
        before.alembic_version
    );
    execute(&fleet.app.deployment.control_url, &restored).await;
    let run = fleet.migrate(&all()).await;
    assert_eq!(ended(&run), (RunState::Failed, 0, 1));
    let target = fleet.target(&run, org).await;
    assert_eq!(target.error_code.as_deref(), Some("drifted"));
    fleet.sql(org, "alter table tags drop by_hand").await;
    fleet.retry(&run).await;
    assert_eq!(fleet.is_over(&run).await.state, RunState::Done);
    fleet.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn whoever_goes_around_a_migration_as_documented_has_its_version() {
    let fleet = Fleet::of(2).await;
    let sql = "create table tags (id int); insert into tags select id from notes where body = 'two'; select 1 / (2 - count(*)) from notes";
    fleet.blueprint.write(NEXT, sql);
    let [org, other] = [0, 1].map(|at| fleet.orgs[at].clone());
    fleet
        .sql(&org, "insert into notes (body) values ('two')")
        .await;
    let run = fleet.migrate(&all()).await;
    assert_eq!(ended(&run), (RunState::Failed, 1, 1));
    assert_eq!(fleet.target(&run, &other).await.state, TargetState::Done);

    // as the owner: what the file was to bring about
    let owner = format!("{}owner", fleet.app.deployment.prefix);
    fleet
        .sql(&org, &format!("set role {owner}; {ADDITIVE}"))
        .await;
    let documented = statement("docs/fleet.md", "insert into tenantry.migrations")
        .replace("migrations/0009_name.sql", NEXT)
        .replace('…', &hex::encode(sha256(sql.as_bytes())));
    fleet.sql(&org, &documented).await;
    fleet.retry(&run).await;
    assert_eq!(ended(&fleet.is_over(&run).await), (RunState::Done, 2, 0));
    assert_eq!(
        mark(&fleet, &org).await.rsplit_once('=').unwrap().1,
        run.blueprint_hash.unwrap()
    );
    fleet.every_row_is_true().await;
    fleet.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_an_attempt_left_half_done_is_looked_into_although_its_version_is_the_old_one() {
    const COLOUR: &str = "seed/shared/01_colour.sql";
    const SHAPE: &str = "seed/shared/02_shape.sql";
    let blueprint = TinyBlueprint::new();
    blueprint.write(
        "migrations/0002_looks.sql",
        "create table looks (key text primary key, value text)",
    );
    let is = |key: &str, value: &str| {
        format!(
            "insert into looks values ('{key}', '{value}') on conflict (key) do update set value = excluded.value"
        )
    };
    blueprint.write(COLOUR, &is("colour", "blue"));
    blueprint.write(SHAPE, &is("shape", "round"));
    let fleet = Fleet::made_from(blueprint, Deployment::new().await, 1).await;
    let org = &fleet.orgs[0];
    fleet.blueprint.write(COLOUR, &is("colour", "red"));
    // where there is a note: not in the template
    fleet
        .blueprint
        .write(SHAPE, "select 1 / (1 - count(*)) from notes");
    let run = fleet.migrate(&all()).await;
    assert_eq!(ended(&run), (RunState::Failed, 0, 1));
    let colour = async || {
        let sql = "select value from looks where key = 'colour'";
        ask::<String>(&fleet.url(org).await, sql).await
    };
    assert_eq!(colour().await, "red");

    fleet.blueprint.write(COLOUR, &is("colour", "blue"));
    fleet.blueprint.write(SHAPE, &is("shape", "round"));
    let run = fleet.migrate(&all()).await;
    assert_eq!(ended(&run), (RunState::Done, 1, 0));
    assert_eq!(colour().await, "blue");
    fleet.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_seed_left_where_a_program_migrates_is_found() {
    const TABLE: &str = "seed/shared/01_table.sql";
    const FAILING: &str = "seed/shared/02_failing.sql";
    let blueprint = TinyBlueprint::new();
    blueprint.remove(MIGRATION);
    blueprint.write("blueprint.toml", COMMAND);
    blueprint.write("db/migrate.sh", SCRIPT);
    let fleet = Fleet::made_from(blueprint, Deployment::new().await, 1).await;
    let org = &fleet.orgs[0];
    fleet
        .blueprint
        .write(TABLE, "create table left_over (id int)");
    let failing = "select 1 / (1 - count(*)) from notes";
    fleet.blueprint.write(FAILING, failing);
    let run = fleet.migrate(&all()).await;
    assert_eq!(ended(&run), (RunState::Failed, 0, 1));

    fleet.blueprint.remove(TABLE);
    fleet.blueprint.remove(FAILING);
    let run = fleet.migrate(&all()).await;
    assert_eq!(ended(&run), (RunState::Failed, 0, 1));
    let target = fleet.target(&run, org).await;
    assert_eq!(target.error_code.as_deref(), Some("drifted"));
    fleet.sql(org, "drop table left_over").await;
    fleet.retry(&run).await;
    assert_eq!(fleet.is_over(&run).await.state, RunState::Done);
    fleet.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_an_aborted_run_brings_further_meanwhile_is_ahead() {
    let blueprint = TinyBlueprint::new();
    blueprint.write(
        "blueprint.toml",
        "lock_timeout_ms = 60000\nstatement_timeout_ms = 60000\n",
    );
    let fleet = Fleet::made_from(blueprint, Deployment::new().await, 1).await;
    let org = &fleet.orgs[0];
    fleet
        .blueprint
        .write(NEXT, "alter table notes add flag bool");
    let mut holder = hold(&fleet.url(org).await, "select from notes").await;
    let further = fleet.begin(&all()).await;
    wait_until("the migration waits for the lock", async || {
        let waits =
            "select count(*) from pg_locks where not granted and relation = 'notes'::regclass";
        ask::<i64>(&fleet.url(org).await, waits).await == 1
    })
    .await;
    fleet.abort(&further).await;
    let as_it_was = NewRun {
        wanted_version: Some("0001_notes".to_owned()),
        ..all()
    };
    let run = fleet.begin(&as_it_was).await;
    wait_until("the other run has looked", async || {
        let target = fleet.find_target(&run, org).await;
        target.is_some_and(|target| target.attempt > 0)
    })
    .await;
    holder.release().await;
    let over = fleet.is_over(&run).await;
    assert_eq!(fleet.is_over(&further).await.counts.done, 1);
    let target = fleet.target(&run, org).await;
    assert_eq!(
        (over.counts.done, over.counts.skipped),
        (0, 1),
        "{target:?}"
    );
    fleet.every_row_is_true().await;
    fleet.stop().await;
}
