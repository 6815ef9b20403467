//! The migrator `sql`: a tenant's database follows its blueprint, file by file, or says why it does not.

use std::time::Duration;

use sqlx::Connection;

use crate::support::{
    Migrations, TinyBlueprint,
    cluster::{execute, hold, shared},
    tiny::MIGRATION,
};

const SECOND: &str = "migrations/0002_more.sql";

/// A tenant of the smallest blueprint.
async fn story() -> (TinyBlueprint, Migrations) {
    let blueprint = TinyBlueprint::new();
    let migrations = Migrations::of(blueprint.source()).await;
    (blueprint, migrations)
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_missing_is_applied_once_and_the_structure_is_the_templates() {
    let (blueprint, acme) = story().await;
    blueprint.write(
        SECOND,
        "create table more (id int primary key, note text default 'x')",
    );
    blueprint.write(
        "migrations/0003_column.sql",
        "alter table more add column at timestamptz -- no semicolon",
    );
    let done = acme.follow_the_template().await.unwrap();
    assert_eq!(
        (&*done.from, &*done.to, done.applied),
        ("0001_notes", "0003_column", 2)
    );
    let owner = format!("{}owner", acme.app.deployment.prefix);
    let owns = format!("select tableowner = '{owner}' from pg_tables where tablename = 'more'");
    assert!(acme.ask::<bool>(&owns).await);
    let may = format!(
        "select has_table_privilege('{}', 'more', 'insert')",
        acme.tenant().await.username
    );
    assert!(
        acme.ask::<bool>(&may).await,
        "the tenant's role may use the new table"
    );

    let again = acme.follow_the_template().await.unwrap();
    assert_eq!(
        (&*again.from, &*again.to, again.applied),
        ("0003_column", "0003_column", 0)
    );
    assert_eq!(
        acme.ask::<i64>("select count(*) from tenantry.migrations")
            .await,
        3
    );
    acme.is_left().await;
    acme.app.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_blueprint_that_is_cut_off_leads_to_that_version_and_later_on() {
    let (blueprint, acme) = story().await;
    blueprint.write(SECOND, "create table more (id int)");
    blueprint.write("migrations/0003_last.sql", "create table last (id int)");
    let whole = blueprint.source().load().unwrap();
    let cut = whole.up_to("2").unwrap();
    let wanted = acme.template_of(&cut).await.unwrap();
    assert_eq!(wanted.version, "0002_more");
    let done = acme.migrate_to(&cut, Some(&wanted)).await.unwrap();
    assert_eq!((&*done.to, done.applied), ("0002_more", 1));
    let done = acme.migrate_to(&whole, None).await.unwrap();
    assert_eq!((&*done.from, &*done.to), ("0002_more", "0003_last"));
    // a database that is ahead is not taken back
    let behind = acme.migrate_to(&cut, None).await.unwrap_err();
    assert_eq!(behind.code(), "blueprint_migration_removed");
    acme.app.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_schema_that_a_migration_makes_gets_the_grants_that_the_template_has() {
    let (blueprint, acme) = story().await;
    blueprint.write(
        SECOND,
        "create schema archive; create table archive.notes (id int)",
    );
    acme.follow_the_template().await.unwrap();
    let may = format!(
        "select has_table_privilege('{}', 'archive.notes', 'select')",
        acme.tenant().await.username
    );
    assert!(acme.ask::<bool>(&may).await);
    acme.app.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_database_that_was_changed_by_hand_is_migrated_and_called_drifted() {
    let (blueprint, acme) = story().await;
    blueprint.write(SECOND, "create table more (id int)");
    acme.execute("alter table notes add column odd int, add column even int")
        .await;
    let error = acme.follow_the_template().await.unwrap_err();
    assert_eq!(error.code(), "drifted");
    assert!(!error.is_retryable());
    assert_eq!(
        error.to_string(),
        format!(
            "database {} was migrated, and its structure differs from its template's: \
             column even of notes is there and should not be, and 1 more",
            acme.tenant().await.database
        )
    );
    // nothing is left to apply, and it is as different as before
    let again = acme.follow_the_template().await.unwrap_err();
    assert_eq!(again.to_string(), error.to_string());
    acme.execute("alter table notes drop column odd, drop column even")
        .await;
    acme.follow_the_template().await.unwrap();
    acme.app.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_database_that_is_as_another_version_wants_it_is_called_drifted() {
    let (blueprint, acme) = story().await;
    blueprint.write(SECOND, "create table more (id int)");
    // from now on it is known how a database of this version looks
    acme.follow_the_template().await.unwrap();
    // a template has no rows
    blueprint.write(
        "migrations/0003_empty.sql",
        "do $$ begin if not exists (select from notes) then create table extra (id int); end if; end $$",
    );
    let error = acme.follow_the_template().await.unwrap_err();
    assert_eq!(error.code(), "drifted");
    acme.app.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_that_fails_leaves_what_came_before_it_and_nothing_of_itself() {
    let (blueprint, acme) = story().await;
    blueprint.write(SECOND, "create table more (id int)");
    let third = "migrations/0003_broken.sql";
    blueprint.write(third, "create table half (id int);\n\nselect nothing_such");
    let error = acme.migrate().await.unwrap_err();
    assert_eq!(error.code(), "migration_failed");
    assert!(
        error
            .to_string()
            .starts_with("migrations/0003_broken.sql:3 failed"),
        "{error}"
    );
    assert!(!error.is_retryable());
    assert!(
        acme.ask::<bool>("select to_regclass('more') is not null and to_regclass('half') is null")
            .await
    );

    blueprint.write(third, "create table half (id int)");
    let done = acme.migrate().await.unwrap();
    assert_eq!((&*done.from, done.applied), ("0002_more", 1));
    acme.app.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_history_that_was_changed_is_refused_before_anything_is_done() {
    let (blueprint, acme) = story().await;
    blueprint.write("migrations/0003_third.sql", "create table third (id int)");
    acme.migrate().await.unwrap();
    let original = std::fs::read_to_string(blueprint.path().join(MIGRATION)).unwrap();

    blueprint.write(SECOND, "create table more (id int)");
    assert_eq!(
        acme.migrate().await.unwrap_err().code(),
        "blueprint_migration_late"
    );
    blueprint.remove(SECOND);
    blueprint.write("migrations/0004_fourth.sql", "create table fourth (id int)");
    blueprint.write(MIGRATION, &format!("{original} "));
    assert_eq!(
        acme.migrate().await.unwrap_err().code(),
        "blueprint_migration_edited"
    );
    blueprint.remove(MIGRATION);
    assert_eq!(
        acme.migrate().await.unwrap_err().code(),
        "blueprint_migration_removed"
    );
    assert!(
        acme.ask::<bool>("select to_regclass('fourth') is null")
            .await
    );
    blueprint.write(MIGRATION, &original);
    assert_eq!(acme.migrate().await.unwrap().applied, 1);
    acme.app.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_index_that_was_not_finished_is_built_again() {
    let (blueprint, acme) = story().await;
    acme.execute("insert into notes (body) values ('twice'), ('twice')")
        .await;
    let index = "-- tenantry: no transaction\ncreate unique index concurrently if not exists \"notes by body\" on notes (body);\nanalyze notes;";
    blueprint.write(SECOND, index);
    let error = acme.migrate().await.unwrap_err();
    assert_eq!(error.code(), "migration_failed");
    let left = "select count(*) from pg_index where not indisvalid";
    assert_eq!(
        acme.ask::<i64>(left).await,
        1,
        "the server leaves it, invalid"
    );
    let applied = "select count(*) from tenantry.migrations where name like '%0002%'";
    assert_eq!(acme.ask::<i64>(applied).await, 0);

    acme.execute("delete from notes where body = 'twice'").await;
    let done = acme.follow_the_template().await.unwrap();
    assert_eq!((&*done.to, done.applied), ("0002_more", 1));
    assert_eq!(acme.ask::<i64>(left).await, 0);
    assert!(
        acme.ask::<bool>(
            "select indisunique from pg_index where indexrelid = '\"notes by body\"'::regclass"
        )
        .await
    );
    acme.app.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lock_that_was_not_had_names_who_holds_it() {
    let (blueprint, acme) = story().await;
    blueprint.write("blueprint.toml", "lock_timeout_ms = 400");
    blueprint.write(SECOND, "alter table notes add column more int");
    let url = format!("{}?application_name=nightly%20report", acme.url().await);
    let mut holder = hold(&url, "lock table notes in share mode").await;
    let error = acme.migrate().await.unwrap_err();
    assert_eq!(error.code(), "lock_timeout");
    assert!(error.is_retryable());
    let blocker = error.blocker().expect("somebody was seen");
    assert_eq!(blocker.application, "nightly report");
    assert!(blocker.pid > 0 && blocker.transaction_age_s.is_some() || blocker.state.is_none());
    let told = error.to_string();
    assert!(
        told.contains(SECOND) && told.contains("nightly report"),
        "{told}"
    );
    holder.release().await;
    assert_eq!(acme.migrate().await.unwrap().applied, 1);
    acme.app.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lock_that_the_comparison_does_not_get_names_who_holds_it() {
    let (blueprint, acme) = story().await;
    blueprint.write("blueprint.toml", "lock_timeout_ms = 400");
    blueprint.write(SECOND, "create table more (id int)");
    // for what differs every table is opened
    acme.execute("alter table notes add column by_hand int")
        .await;
    let url = format!("{}?application_name=nightly%20report", acme.url().await);
    let mut holder = hold(&url, "lock table notes in access exclusive mode").await;
    let error = acme.follow_the_template().await.unwrap_err();
    assert_eq!(error.code(), "lock_timeout", "{error}");
    let blocker = error.blocker().expect("somebody was seen");
    assert_eq!(blocker.application, "nightly report");
    holder.release().await;
    let error = acme.follow_the_template().await.unwrap_err();
    assert_eq!(error.code(), "drifted");
    acme.app.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn of_two_migrators_in_one_database_one_waits_and_finds_it_done() {
    let (blueprint, acme) = story().await;
    blueprint.write(SECOND, "create table more (id int); select pg_sleep(0.4)");
    let (one, two) = tokio::join!(acme.migrate(), acme.migrate());
    let (one, two) = (one.unwrap(), two.unwrap());
    assert_eq!(one.applied + two.applied, 1);
    assert_eq!(
        (one.to, two.to),
        ("0002_more".to_owned(), "0002_more".to_owned())
    );

    // and where the other one does not end, it is named
    blueprint.write("blueprint.toml", "lock_timeout_ms = 300");
    blueprint.write("migrations/0003_slow.sql", "select pg_sleep(2)");
    let (one, two) = tokio::join!(acme.migrate(), acme.migrate());
    let (done, error) = match (one, two) {
        (Ok(done), Err(error)) | (Err(error), Ok(done)) => (done, error),
        both => panic!("{both:?}"),
    };
    assert_eq!((done.applied, error.code()), (1, "lock_timeout"));
    assert_eq!(error.blocker().unwrap().application, "tenantry");
    acme.app.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_shared_seed_that_changed_runs_again() {
    let blueprint = TinyBlueprint::new();
    let seed = "seed/shared/01_settings.sql";
    blueprint.write(
        "migrations/0002_settings.sql",
        "create table settings (name text primary key, value text)",
    );
    let with = |value: &str| {
        format!(
            "insert into settings values ('plan', '{value}') on conflict (name) do update set value = excluded.value"
        )
    };
    blueprint.write(seed, &with("free"));
    let acme = Migrations::of(blueprint.source()).await;
    blueprint.write(seed, &with("paid"));
    let done = acme.follow_the_template().await.unwrap();
    assert_eq!(
        (&*done.from, &*done.to, done.applied),
        ("0002_settings", "0002_settings", 0)
    );
    assert_eq!(
        acme.ask::<String>("select value from settings").await,
        "paid"
    );
    acme.execute("update settings set value = 'by hand'").await;
    acme.migrate().await.unwrap();
    assert_eq!(
        acme.ask::<String>("select value from settings").await,
        "by hand"
    );
    acme.app.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_that_changes_its_session_does_not_change_the_next_ones() {
    let (blueprint, acme) = story().await;
    blueprint.write(
        SECOND,
        "create schema other; set search_path = other; create table more (id int)",
    );
    blueprint.write("migrations/0003_third.sql", "create table third (id int)");
    acme.follow_the_template().await.unwrap();
    assert!(acme.ask::<bool>("select to_regclass('other.more') is not null and to_regclass('public.third') is not null").await);
    acme.app.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_migration_that_takes_too_long_is_cut_off_and_leaves_no_session() {
    let (blueprint, acme) = story().await;
    blueprint.write("blueprint.toml", "migrate_timeout_ms = 400");
    blueprint.write(SECOND, "create table more (id int); select pg_sleep(60)");
    let error = acme.migrate().await.unwrap_err();
    assert_eq!(error.code(), "migrator_timed_out");
    acme.is_left().await;
    assert!(acme.ask::<bool>("select to_regclass('more') is null").await);
    acme.app.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_database_that_is_gone_says_so() {
    let (blueprint, acme) = story().await;
    blueprint.write(SECOND, "create table more (id int)");
    let tenant = acme.tenant().await;
    let drop = format!("drop database {} with (force)", tenant.database);
    execute(&acme.app.deployment.control_url, &drop).await;
    let error = acme.migrate().await.unwrap_err();
    assert_eq!(error.code(), "database_gone");
    assert!(!error.is_retryable());
    acme.app.stop().await;
}

/// One after the other in one database; each makes another structure of it.
const CHANGES: &[&str] = &[
    "alter table more alter note set default 'w'",
    "alter table more alter note drop not null, alter at set not null",
    "alter table more alter at type timestamptz",
    "alter table more drop constraint more_note_check, add constraint more_note_check check (note <> 'q')",
    "drop index more_by_note; create index more_by_note on more (note) where note <> 'x'",
    "drop index more_by_note",
    "create index by_lower on more (lower(note))",
    "create or replace function f() returns int language sql as 'select 2'",
    "create or replace view v as select id from more where note <> 'a'",
    "alter type mood add value 'bad'",
    "create trigger t before update on more for each row execute function suppress_redundant_updates_trigger()",
    "alter table more enable row level security",
    "create policy p on more using (note = 'a')",
    "create schema other",
    "create index by_note on more (note) with (fillfactor = 50)",
    "drop index by_note; create index by_note on more (note) with (fillfactor = 60)",
    "create index by_words on more using gist (to_tsvector('simple', note) tsvector_ops (siglen = 100))",
    "drop index by_words; create index by_words on more using gist (to_tsvector('simple', note) tsvector_ops (siglen = 200))",
    "create function g(a int) returns int language sql as 'select 1'",
    "drop function g(int); create function g(b int) returns int language sql as 'select 1'",
    "alter table more add constraint positive check (id > 0)",
    "alter table more drop constraint positive, add constraint positive check (id > 0) no inherit",
    "create table pairs (a int, b int, primary key (a, b));
     alter table more add a int, add b int, add constraint pair foreign key (a, b) references pairs",
    "alter table more drop constraint pair, add constraint pair foreign key (a, b) references pairs match full",
    "create constraint trigger c after update on more for each row execute function suppress_redundant_updates_trigger()",
    "drop trigger c on more;
     create constraint trigger c after update on more deferrable for each row execute function suppress_redundant_updates_trigger()",
    "create unique index once on more (note)",
    "alter function f() strict",
    "alter function f() leakproof",
    "alter function f() parallel safe",
    "alter function f() cost 7",
    "create or replace function f() returns int language plpgsql as 'begin return 2; end'",
    "create function h(a int default 7) returns int language sql as 'select a'",
    "create or replace function h(a int default 8) returns int language sql as 'select a'",
    "alter view v set (security_barrier = true)",
    "alter sequence more_id_seq increment 2",
    "alter sequence more_id_seq maxvalue 200000",
    "alter sequence more_id_seq maxvalue 300000",
    "alter table more add price numeric(10, 2)",
    "alter table more alter price type numeric(12, 2)",
    "alter table more add short varchar(20000)",
    "alter table more alter short type varchar(30000)",
    "alter sequence more_id_seq cycle",
    "alter table more set unlogged",
    "alter table more replica identity full",
    "alter table done detach partition done_2026",
    "alter table done attach partition done_2026 for values from ('2026-01-01') to ('2026-07-01')",
    "alter table pairs add note text",
    "alter table pairs alter note type text collate \"C\"",
    "create rule keep as on delete to more do instead nothing",
    "alter table more disable rule keep",
    "alter domain word set default 'a'",
    "alter domain word set not null",
    "alter type place add attribute floor integer",
];

/// What the fingerprint tells apart the shape tells apart as well.
#[tokio::test(flavor = "multi_thread")]
async fn every_change_of_the_structure_is_another_shape() {
    let (blueprint, acme) = story().await;
    blueprint.write(
        SECOND,
        "create table more (id serial primary key, note text default 'x' check (note <> ''), at date);
         create index more_by_note on more (note) where note <> 'y';
         create function f() returns int language sql as 'select 1';
         create view v as select id from more where note <> 'z';
         create type mood as enum ('good');
         create table done (at date) partition by range (at);
         create table done_2026 partition of done for values from ('2026-01-01') to ('2027-01-01');
         create domain word as text;
         create type place as (street text)",
    );
    let done = acme.follow_the_template().await.unwrap();
    assert_eq!(done.applied, 1);
    let app = format!("{}app", acme.app.deployment.prefix);
    let mut session = sqlx::PgConnection::connect(&acme.url().await)
        .await
        .unwrap();
    let of_rights = [
        format!("revoke insert on more from {app}"),
        format!("grant update (note) on more to {app}"),
        format!("create policy q on more to {app}"),
        format!("alter policy q on more to {}", app.replace("app", "owner")),
    ];
    let version = "select current_setting('server_version_num')::integer";
    let version: i32 = acme.app.ask(version).await;
    let since_15 = ["drop index once; create unique index once on more (note) nulls not distinct"];
    let since_15 = since_15.into_iter().filter(|_| version >= 150_000);
    let of_rights = of_rights.iter().map(String::as_str);
    for change in CHANGES.iter().copied().chain(of_rights).chain(since_15) {
        let before = both(&mut session).await;
        let executed = sqlx::raw_sql(sqlx::AssertSqlSafe(change.to_owned()));
        executed.execute(&mut session).await.unwrap();
        let after = both(&mut session).await;
        assert_ne!(before.0, after.0, "the fingerprint after: {change}");
        assert_ne!(before.1, after.1, "the shape after: {change}");
    }
    let before = both(&mut session).await;
    sqlx::raw_sql("insert into more (at) values (now())")
        .execute(&mut session)
        .await
        .unwrap();
    assert_eq!(both(&mut session).await, before, "data does not count");
    acme.app.stop().await;
}

/// Fingerprint and shape.
async fn both(session: &mut sqlx::PgConnection) -> (String, String) {
    (
        tenantry::tenant_db::fingerprint::of(session).await.unwrap(),
        tenantry::tenant_db::shape::of(session).await.unwrap(),
    )
}

/// Objects of a release whose numbers differ from database to database.
const NUMBERED: &str = "
    create collation mine (locale = 'C');
    create domain label as text check (value <> '');
    create type mood as enum ('good');
    create table rooms (id int primary key, note text collate mine, taken tsrange, kind mood default 'good', called label,
                        exclude using gist (taken with &&));
    create index rooms_by_note on rooms (note);
    create function touch() returns trigger language plpgsql as 'begin return new; end';
    create trigger touched before update on rooms for each row when (old.* is distinct from new.*) execute function touch();
    create view taken_rooms as select rooms.* from rooms where taken is not null;
    create policy seen on rooms using (note = 'good')";

/// What a fleet's databases have in common is found without the fingerprint, though each was migrated by itself.
#[tokio::test(flavor = "multi_thread")]
async fn the_same_migrations_make_the_same_shape() {
    let crm = std::fs::read_dir("examples/crm/migrations").unwrap();
    let mut crm: Vec<_> = crm.map(|file| file.unwrap().path()).collect();
    crm.sort();
    let mut made = Vec::new();
    for nth in 0..2 {
        let name = format!("shape_{nth}_{:08x}", rand::random::<u32>());
        execute(
            &shared().url("postgres"),
            &format!("create database {name}"),
        )
        .await;
        let url = shared().url(&name);
        // its numbers are further by these
        for number in 0..nth * 7 {
            execute(
                &url,
                &format!("create table t{number} (); drop table t{number}"),
            )
            .await;
        }
        for file in &crm {
            execute(&url, &std::fs::read_to_string(file).unwrap()).await;
        }
        execute(&url, NUMBERED).await;
        let mut session = sqlx::PgConnection::connect(&url).await.unwrap();
        made.push(both(&mut session).await);
        session.close().await.unwrap();
        execute(&shared().url("postgres"), &format!("drop database {name}")).await;
    }
    assert_eq!(made[0], made[1]);
}

/// A process that is killed in the middle leaves its transaction to the server, which ends it.
#[tokio::test(flavor = "multi_thread")]
async fn a_migrator_that_died_holds_no_lock() {
    let (blueprint, acme) = story().await;
    blueprint.write(SECOND, "create table more (id int); select pg_sleep(0.3)");
    let cut_off = tokio::time::timeout(Duration::from_millis(100), acme.migrate()).await;
    assert!(cut_off.is_err());
    // the server goes on until it answers: so long the other one waits
    let done = acme.migrate().await.unwrap();
    assert_eq!(done.to, "0002_more");
    acme.is_left().await;
    assert_eq!(
        acme.ask::<i64>("select count(*) from tenantry.migrations")
            .await,
        2
    );
    acme.app.stop().await;
}
