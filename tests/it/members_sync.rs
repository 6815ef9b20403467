//! People reach the tenant: who is a member is in its database, who left is not, whatever happens between.

use std::time::Duration;

use futures_util::future::join_all;
use serde_json::Value;

use crate::support::{
    App, Deployment, TinyBlueprint,
    app::{new_org, wait_until},
    cluster::{ask, execute},
    events,
    tiny::{MEMBER, TELL_MEMBER},
};

const ADA: (&str, &str) = ("Ada", "Lovelace");
const BOB: (&str, &str) = ("Bob", "Kahn");

impl App {
    /// The people in the database of a tenant of the worked example.
    async fn users(&self, org: &str) -> String {
        let users = "select coalesce(string_agg(
                         display_name || ' (' || role || case when removed_at is null then ')' else ', removed)' end,
                         ', ' order by external_id
                     ), 'nobody')
                     from users";
        self.tenant(org).ask(users).await
    }

    /// The people in the database of a tenant of the tiny blueprint.
    async fn people(&self, org: &str) -> String {
        let people = "select coalesce(string_agg(
                          name || ' (' || role || case when present then ')' else ', removed)' end,
                          ', ' order by id
                      ), 'nobody')
                      from people";
        self.tenant(org).ask(people).await
    }

    /// Delivers events and waits until nothing is left to be done.
    async fn heeds(&self, events: &[&Value]) {
        self.accepts(events).await;
        self.is_idle().await;
    }

    /// Executes on the control database.
    async fn execute(&self, sql: &str) {
        execute(&self.deployment.control_url, sql).await;
    }
}

/// A ready tenant of the worked example without people.
async fn ready() -> (App, String) {
    let app = App::start().await;
    let org = new_org();
    app.accepts(&[&events::created(&org, "Acme")]).await;
    app.tenant(&org).is_ready().await;
    (app, org)
}

/// A ready tenant of this blueprint without people; jobs have two attempts.
async fn ready_of(blueprint: &TinyBlueprint) -> (App, String) {
    let mut deployment = Deployment::new().await;
    deployment.set("TENANTRY__QUEUE__MAX_ATTEMPTS", "2");
    let app = App::of(deployment, blueprint.source()).await;
    let org = new_org();
    app.accepts(&[&events::created(&org, "Acme")]).await;
    app.tenant(&org).is_ready().await;
    (app, org)
}

const ATTEMPT: &str =
    "select error_code || ' ' || error from job_attempts join jobs on jobs.id = job_id
     where kind = 'sync_members' and error is not null order by started_at desc limit 1";
const DEAD: &str = "select count(*) from jobs where kind = 'sync_members' and state = 'dead'";

#[tokio::test(flavor = "multi_thread")]
async fn whoever_is_a_member_before_the_tenant_is_ready_is_in_its_database_when_it_is() {
    // time for the second one to arrive between the step and the opening
    let deployment = Deployment::new().await;
    let deployment = deployment.with_fault("verify.before=stall:2000");
    let app = App::of(deployment, tenantry::provisioning::BlueprintSource::Bundled).await;
    let org = new_org();
    app.accepts(&[
        &events::user("user_1", ADA),
        &events::member(&org, "user_1", "admin", 0),
        &events::created(&org, "Acme"),
    ])
    .await;
    wait_until("the members are synced", async || {
        app.tenant(&org).find().await.is_some()
            && app
                .tenant(&org)
                .steps()
                .await
                .contains(&"sync_members".to_owned())
    })
    .await;
    assert_eq!(app.users(&org).await, "Ada Lovelace (admin)");

    app.accepts(&[
        &events::user("user_2", BOB),
        &events::member(&org, "user_2", "viewer", 0),
    ])
    .await;
    app.tenant(&org).is_ready().await;
    app.is_idle().await;

    let both = "Ada Lovelace (admin), Bob Kahn (viewer)";
    assert_eq!(app.users(&org).await, both);
    let told = "select count(*) from member_syncs where digest <> '' and status = 'active' and note is null";
    assert_eq!(app.ask::<i64>(told).await, 2);
    app.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_member_arrives_changes_leaves_and_comes_back() {
    let (app, org) = ready().await;
    app.heeds(&[
        &events::user("user_1", ADA),
        &events::member(&org, "user_1", "member", 1),
    ])
    .await;
    assert_eq!(app.users(&org).await, "Ada Lovelace (member)");
    let row = "select external_id || ' ' || email from users";
    assert_eq!(
        app.tenant(&org).ask::<String>(row).await,
        "user_1 user_1@example.com"
    );

    app.heeds(&[&events::renamed("user_1", ("Ada", "King"), 2)])
        .await;
    assert_eq!(app.users(&org).await, "Ada King (member)");

    app.heeds(&[&events::member(&org, "user_1", "manager", 3)])
        .await;
    assert_eq!(app.users(&org).await, "Ada King (manager)");

    let membership = |status, minute| {
        events::membership("updated", (&org, "user_1"), (status, "manager"), minute)
    };
    app.heeds(&[&membership("inactive", 4)]).await;
    assert_eq!(app.users(&org).await, "Ada King (manager, removed)");
    app.heeds(&[&membership("active", 5)]).await;
    assert_eq!(app.users(&org).await, "Ada King (manager)");

    // invited again: not a member for as long as that lasts
    app.heeds(&[&membership("pending", 6)]).await;
    assert_eq!(app.users(&org).await, "Ada King (manager, removed)");
    app.heeds(&[&membership("active", 7)]).await;
    assert_eq!(app.users(&org).await, "Ada King (manager)");

    let deleted = events::membership("deleted", (&org, "user_1"), ("active", "manager"), 8);
    app.heeds(&[&deleted]).await;
    assert_eq!(app.users(&org).await, "Ada King (manager, removed)");

    // another membership of the same user
    let mut again = events::member(&org, "user_1", "viewer", 9);
    again["data"]["id"] = "om_again".into();
    app.heeds(&[&again]).await;
    assert_eq!(app.users(&org).await, "Ada King (viewer)");
    assert_eq!(app.ask::<i64>(DEAD).await, 0);
    app.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn who_is_invited_or_left_before_anybody_was_told_is_not_told_of() {
    let (app, org) = ready().await;
    app.heeds(&[
        &events::user("user_1", ADA),
        &events::user("user_2", BOB),
        &events::membership("created", (&org, "user_1"), ("pending", "member"), 1),
        &events::membership("created", (&org, "user_2"), ("inactive", "member"), 1),
    ])
    .await;
    assert_eq!(app.users(&org).await, "nobody");
    assert_eq!(app.ask::<i64>("select count(*) from member_syncs").await, 0);
    app.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_user_whom_no_membership_names_any_more_is_removed() {
    let (app, org) = ready().await;
    app.heeds(&[
        &events::user("user_1", ADA),
        &events::user("user_2", BOB),
        &events::member(&org, "user_1", "member", 1),
    ])
    .await;
    // the provider merged two users: the membership is another one's now
    let mut merged = events::member(&org, "user_2", "member", 2);
    merged["data"]["id"] = "om_user_1".into();
    app.heeds(&[&merged]).await;
    let users = "Ada Lovelace (member, removed), Bob Kahn (member)";
    assert_eq!(app.users(&org).await, users);
    app.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_role_that_the_database_does_not_know_becomes_the_default_one_and_says_so() {
    let (app, org) = ready().await;
    let mut roleless = events::member(&org, "user_2", "", 1);
    roleless["data"]["role"] = Value::Null;
    app.heeds(&[
        &events::user("user_1", ADA),
        &events::user("user_2", BOB),
        &events::member(&org, "user_1", "dispatcher", 1),
        &roleless,
    ])
    .await;
    let users = "Ada Lovelace (member), Bob Kahn (member)";
    assert_eq!(app.users(&org).await, users);
    let notes = "select string_agg(user_id || ' ' || role || ': ' || coalesce(note, 'nothing'), E'\\n' order by user_id) from member_syncs";
    insta::assert_snapshot!(app.ask::<String>(notes).await, @r#"
    user_1 member: role "dispatcher" is unknown here; synced as "member"
    user_2 member: nothing
    "#);

    // who created the organization administers it where nobody said otherwise
    app.execute("update organizations set content = content || '{\"created_by\": \"user_2\"}'")
        .await;
    app.heeds(&[
        &events::member(&org, "user_1", "viewer", 2),
        &events::renamed("user_2", ("Bob", "K"), 2),
    ])
    .await;
    let users = "Ada Lovelace (viewer), Bob K (admin)";
    assert_eq!(app.users(&org).await, users);
    app.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn three_hundred_members_arrive() {
    let (app, org) = ready().await;
    let people: Vec<[Value; 2]> = (0..300)
        .map(|at| {
            let user = format!("user_{at:03}");
            [
                events::user(&user, ("Person", &at.to_string())),
                events::member(&org, &user, "member", 1),
            ]
        })
        .collect();
    let deliveries = people.iter().flatten().map(|event| app.deliver(event));
    assert!(
        join_all(deliveries)
            .await
            .iter()
            .all(|answer| answer.status == 200)
    );
    app.is_idle().await;
    let users = "select count(*) from users where removed_at is null and role = 'member'";
    assert_eq!(app.tenant(&org).ask::<i64>(users).await, 300);

    let others: Vec<Value> = (0..150)
        .map(|at| {
            let user = format!("user_{at:03}");
            events::membership("deleted", (&org, &user), ("active", "member"), 2)
        })
        .collect();
    join_all(others.iter().map(|event| app.deliver(event))).await;
    app.is_idle().await;
    assert_eq!(app.tenant(&org).ask::<i64>(users).await, 150);
    app.stop().await;
}

/// Refuses one of them with a message that quotes the address, as a constraint may.
const REFUSES_BOB: &str = "
    do $$
    begin
        if current_setting('tenantry.user_id') = 'user_2' then
            raise exception 'no room for %', upper(current_setting('tenantry.user_id')) || ' ' || current_setting('tenantry.email');
        end if;
    end
    $$;";

#[tokio::test(flavor = "multi_thread")]
async fn a_member_whose_script_fails_keeps_nobody_out_and_is_a_dead_letter_until_it_is_repaired() {
    let blueprint = TinyBlueprint::with_people();
    blueprint.write(MEMBER, &format!("{REFUSES_BOB}{TELL_MEMBER}"));
    let mut deployment = Deployment::new().await;
    deployment.set("TENANTRY__QUEUE__MAX_ATTEMPTS", "2");
    let app = App::of(deployment, blueprint.source()).await;
    let org = new_org();
    app.accepts(&[
        &events::user("user_1", ADA),
        &events::user("user_2", BOB),
        &events::user("user_3", ("Cy", "Twombly")),
        &events::member(&org, "user_1", "admin", 0),
        &events::member(&org, "user_2", "admin", 0),
        &events::member(&org, "user_3", "admin", 0),
        &events::created(&org, "Acme"),
    ])
    .await;

    app.tenant(&org).is_ready().await;
    app.is_idle().await;

    let others = "Ada Lovelace (admin), Cy Twombly (admin)";
    assert_eq!(app.people(&org).await, others);
    assert_eq!(app.ask::<i64>(DEAD).await, 1);
    insta::assert_snapshot!(
        app.ask::<String>(ATTEMPT).await,
        @"member_sync_failed members are not synced: user_2: sync/member.sql failed: no room for USER_2 <e-mail> (SQLSTATE P0001)"
    );
    let note = "select note from member_syncs where user_id = 'user_2'";
    let note = app.ask::<String>(note).await;
    assert!(
        note.starts_with("not synced: sync/member.sql failed: no room"),
        "{note}"
    );

    blueprint.write(MEMBER, TELL_MEMBER);
    app.heeds(&[&events::renamed("user_1", ("Ada", "King"), 1)])
        .await;
    let all = "Ada King (admin), Bob Kahn (admin), Cy Twombly (admin)";
    assert_eq!(app.people(&org).await, all);
    let noted = "select count(*) from member_syncs where note is not null";
    assert_eq!(app.ask::<i64>(noted).await, 0);
    // the script is another one: everybody was told again
    let told = "select min(tellings) from people where id <> 'user_2'";
    assert_eq!(app.tenant(&org).ask::<i32>(told).await, 2);
    app.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_constraint_that_is_checked_at_the_end_is_the_members_own_failure_as_well() {
    let blueprint = TinyBlueprint::with_people();
    blueprint.write(
        "migrations/0003_names.sql",
        "alter table people add constraint one_of_a_name unique (name) deferrable initially deferred",
    );
    let (app, org) = ready_of(&blueprint).await;
    app.heeds(&[
        &events::user("user_1", ADA),
        &events::user("user_2", ADA),
        &events::user("user_3", BOB),
        &events::member(&org, "user_1", "admin", 0),
        &events::member(&org, "user_2", "admin", 0),
        &events::member(&org, "user_3", "admin", 0),
    ])
    .await;
    let people = "Ada Lovelace (admin), Bob Kahn (admin)";
    assert_eq!(app.people(&org).await, people);
    let cause = app.ask::<String>(ATTEMPT).await;
    assert!(
        cause.contains("user_2") && cause.contains("23505"),
        "{cause}"
    );
    app.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_script_has_the_rights_of_the_application_and_no_more() {
    let blueprint = TinyBlueprint::with_people();
    let (app, org) = ready_of(&blueprint).await;
    app.accepts(&[&events::user("user_1", ADA)]).await;
    for (minute, script) in [
        "create table mine (id integer)",
        "alter table people add column mine integer",
        "delete from tenantry.seeds",
        "create temporary table mine (id integer)",
    ]
    .iter()
    .enumerate()
    {
        blueprint.write(MEMBER, script);
        let minute = u32::try_from(minute).unwrap();
        app.heeds(&[&events::member(&org, "user_1", "admin", minute)])
            .await;
        let cause = app.ask::<String>(ATTEMPT).await;
        assert!(cause.contains("SQLSTATE 42501"), "{script}: {cause}");
    }
    assert_eq!(app.people(&org).await, "nobody");
    app.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_not_known_of_a_member_is_an_empty_string_and_values_are_never_sql() {
    let blueprint = TinyBlueprint::with_people();
    let settings = [
        "user_id",
        "email",
        "display_name",
        "first_name",
        "last_name",
        "role",
        "external_id",
        "customer_id",
        "membership_id",
        "organization_name",
        "source",
    ];
    let shown =
        settings.map(|name| format!("'{name}=[' || current_setting('tenantry.{name}') || ']'"));
    let name = shown.join(" || ' ' || ");
    blueprint.write(
        MEMBER,
        &format!("insert into people (id, name) values (current_setting('tenantry.user_id'), {name}) on conflict (id) do nothing"),
    );
    let (app, org) = ready_of(&blueprint).await;
    let mut user = events::user("user_1", ("Robert'); drop table people; --", ""));
    for key in ["email", "last_name"] {
        user["data"][key] = Value::Null;
    }
    app.heeds(&[&user, &events::member(&org, "user_1", "admin", 1)])
        .await;
    insta::assert_snapshot!(
        app.tenant(&org).ask::<String>("select name from people").await,
        @"user_id=[user_1] email=[] display_name=[Robert'); drop table people; --] first_name=[Robert'); drop table people; --] last_name=[] role=[admin] external_id=[] customer_id=[] membership_id=[om_user_1] organization_name=[Acme] source=[workos]"
    );
    app.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn after_a_crash_between_script_and_record_it_is_told_again_without_harm() {
    let (blueprint, org) = (TinyBlueprint::with_people(), new_org());
    let healthy = Deployment::new().await;
    let point = "sync_members.told";
    let stalled = healthy.with_fault(&format!("{point}=stall:600000"));
    let dying = App::of(stalled, blueprint.source()).await;
    dying
        .accepts(&[
            &events::created(&org, "Acme"),
            &events::user("user_1", ADA),
            &events::member(&org, "user_1", "admin", 1),
        ])
        .await;
    let faults = dying.replica.provisioner.faults.clone();
    wait_until(point, async || faults.was_hit(point)).await;
    dying.vanish().await;

    let app = App::of(healthy, blueprint.source()).await;
    app.tenant(&org).is_ready().await;
    app.is_idle().await;
    assert_eq!(app.people(&org).await, "Ada Lovelace (admin)");
    let tellings = "select tellings from people";
    assert_eq!(app.tenant(&org).ask::<i32>(tellings).await, 2);
    let lost = "select count(*) from job_attempts where outcome = 'lost'";
    assert_eq!(app.ask::<i64>(lost).await, 1);
    app.stop().await;
}

/// A ready tenant whose next job tells its database and cannot write that down, and is dead then.
async fn loses_a_record(blueprint: &TinyBlueprint, before: &[&Value]) -> App {
    let mut deployment = Deployment::new().await;
    deployment.set("TENANTRY__QUEUE__MAX_ATTEMPTS", "1");
    let app = App::of(deployment.clone(), blueprint.source()).await;
    app.heeds(before).await;
    app.stop().await;
    let deployment = deployment.with_fault("sync_members.told=error");
    App::of(deployment, blueprint.source()).await
}

#[tokio::test(flavor = "multi_thread")]
async fn who_is_removed_after_a_lost_record_does_not_stay_in() {
    let (blueprint, org) = (TinyBlueprint::with_people(), new_org());
    let (created, user) = (events::created(&org, "Acme"), events::user("user_1", ADA));
    let app = loses_a_record(&blueprint, &[&created, &user]).await;
    app.heeds(&[&events::member(&org, "user_1", "admin", 1)])
        .await;
    assert_eq!(app.people(&org).await, "Ada Lovelace (admin)");
    assert_eq!(app.ask::<i64>(DEAD).await, 1);

    let deleted = events::membership("deleted", (&org, "user_1"), ("active", "admin"), 2);
    app.heeds(&[&deleted]).await;
    assert_eq!(app.people(&org).await, "Ada Lovelace (admin, removed)");
    app.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn who_is_restored_after_a_lost_record_does_not_stay_out() {
    let (blueprint, org) = (TinyBlueprint::with_people(), new_org());
    let (created, user) = (events::created(&org, "Acme"), events::user("user_1", ADA));
    let membership =
        |status, minute| events::membership("updated", (&org, "user_1"), (status, "admin"), minute);
    let app = loses_a_record(&blueprint, &[&created, &user, &membership("active", 1)]).await;
    app.heeds(&[&membership("inactive", 2)]).await;
    assert_eq!(app.people(&org).await, "Ada Lovelace (admin, removed)");

    // now exactly as it was when it was last on record
    app.heeds(&[&membership("active", 3)]).await;
    assert_eq!(app.people(&org).await, "Ada Lovelace (admin)");
    app.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn two_replicas_tell_everybody_once() {
    let blueprint = TinyBlueprint::with_people();
    let (first, org) = ready_of(&blueprint).await;
    let second = App::of(first.deployment.clone(), blueprint.source()).await;
    for at in 0..40 {
        let app = if at % 2 == 0 { &first } else { &second };
        let user = format!("user_{at:02}");
        app.accepts(&[
            &events::user(&user, ADA),
            &events::member(&org, &user, "member", 1),
        ])
        .await;
    }
    first.is_idle().await;
    let told = "select count(*) from people where present and tellings = 1";
    assert_eq!(first.tenant(&org).ask::<i64>(told).await, 40);
    assert_eq!(first.ask::<i64>(DEAD).await, 0);
    second.stop().await;
    first.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn who_changes_while_being_told_is_told_again_by_the_same_job() {
    let blueprint = TinyBlueprint::with_people();
    let deployment = Deployment::new().await;
    let deployment = deployment.with_fault("sync_members.told=stall:1500");
    let app = App::of(deployment, blueprint.source()).await;
    let org = new_org();
    app.accepts(&[&events::created(&org, "Acme")]).await;
    app.tenant(&org).is_ready().await;
    app.accepts(&[
        &events::user("user_1", ADA),
        &events::member(&org, "user_1", "member", 1),
    ])
    .await;
    let faults = app.replica.provisioner.faults.clone();
    wait_until("it is told", async || faults.was_hit("sync_members.told")).await;
    // an event of a user waits for no organization's jobs
    app.heeds(&[&events::renamed("user_1", ("Ada", "King"), 2)])
        .await;
    assert_eq!(app.people(&org).await, "Ada King (member)");
    let jobs = "select count(*) from jobs where kind = 'sync_members'";
    assert_eq!(app.ask::<i64>(jobs).await, 1);
    app.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn who_arrives_while_the_tenant_has_failed_is_told_of_when_it_is_repaired() {
    let blueprint = TinyBlueprint::with_people();
    let deployment = Deployment::new().await;
    let mut deployment = deployment.with_fault("verify.before=error");
    deployment.set("TENANTRY__QUEUE__MAX_ATTEMPTS", "1");
    let app = App::of(deployment, blueprint.source()).await;
    let org = new_org();
    app.accepts(&[&events::created(&org, "Acme")]).await;
    app.tenant(&org).fails().await;

    // its step sync_members is done, and its job finds the tenant not ready
    app.heeds(&[
        &events::user("user_1", ADA),
        &events::member(&org, "user_1", "admin", 1),
    ])
    .await;
    assert_eq!(app.people(&org).await, "nobody");
    app.tenant(&org).retry().await;
    app.tenant(&org).is_ready().await;
    app.is_idle().await;
    assert_eq!(app.people(&org).await, "Ada Lovelace (admin)");
    app.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tenant_whose_database_is_made_again_gets_its_people_again() {
    let blueprint = TinyBlueprint::with_people();
    let mut deployment = Deployment::new().await.with_fault("verify.before=error");
    deployment.set("TENANTRY__QUEUE__MAX_ATTEMPTS", "1");
    let app = App::of(deployment, blueprint.source()).await;
    let org = new_org();
    app.accepts(&[
        &events::user("user_1", ADA),
        &events::member(&org, "user_1", "admin", 0),
        &events::created(&org, "Acme"),
    ])
    .await;
    assert_eq!(app.tenant(&org).fails().await.code, "injected_fault");
    let database = app.tenant(&org).find().await.unwrap().database;
    app.execute(&format!("drop database {database} with (force)"))
        .await;

    app.tenant(&org).retry().await;
    app.tenant(&org).is_ready().await;
    assert_eq!(app.people(&org).await, "Ada Lovelace (admin)");
    app.is_idle().await;
    app.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn nobody_is_told_to_a_database_that_was_exchanged() {
    let blueprint = TinyBlueprint::with_people();
    let (app, org) = ready_of(&blueprint).await;
    let database = app.tenant(&org).find().await.unwrap().database;
    for sql in [
        format!("alter database {database} rename to {database}_away"),
        format!("create database {database} template {database}_away"),
    ] {
        app.execute(&sql).await;
    }
    app.heeds(&[
        &events::user("user_1", ADA),
        &events::member(&org, "user_1", "admin", 1),
    ])
    .await;
    assert_eq!(app.people(&org).await, "nobody");
    let cause = app.ask::<String>(ATTEMPT).await;
    assert!(cause.starts_with("foreign_database"), "{cause}");
    app.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_deployment_from_before_there_was_anything_to_tell_goes_on() {
    let blueprint = TinyBlueprint::with_people();
    let (app, org) = ready_of(&blueprint).await;
    let prefix = &app.deployment.prefix;
    let revoke = format!(
        "do $$ declare it name; begin
             for it in select member.rolname from pg_auth_members
                 join pg_roles member on member.oid = pg_auth_members.member
                 join pg_roles app on app.oid = pg_auth_members.roleid
                 where app.rolname = '{prefix}app' and member.rolname like 'operator%' and grantor = member
             loop execute format('revoke {prefix}app from %I granted by %1$I', it); end loop;
         end $$"
    );
    app.execute(&revoke).await;
    app.heeds(&[
        &events::user("user_1", ADA),
        &events::member(&org, "user_1", "admin", 1),
    ])
    .await;
    assert_eq!(app.people(&org).await, "Ada Lovelace (admin)");
    app.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_blueprint_without_scripts_tells_nobody() {
    let blueprint = TinyBlueprint::new();
    let (app, org) = ready_of(&blueprint).await;
    app.heeds(&[
        &events::user("user_1", ADA),
        &events::member(&org, "user_1", "admin", 1),
    ])
    .await;
    assert_eq!(app.ask::<i64>("select count(*) from member_syncs").await, 0);
    assert_eq!(app.ask::<i64>(DEAD).await, 0);
    app.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tenants_database_that_is_away_costs_an_attempt_and_nothing_else() {
    let blueprint = TinyBlueprint::with_people();
    let mut deployment = Deployment::new().await;
    deployment.set("TENANTRY__QUEUE__MAX_ATTEMPTS", "20");
    let app = App::of(deployment, blueprint.source()).await;
    let org = new_org();
    app.accepts(&[&events::created(&org, "Acme")]).await;
    let database = app.tenant(&org).is_ready().await.database;
    app.execute(&format!(
        "alter database {database} allow_connections false"
    ))
    .await;
    app.accepts(&[
        &events::user("user_1", ADA),
        &events::member(&org, "user_1", "admin", 1),
    ])
    .await;
    let retried = "select count(*) from job_attempts where outcome = 'retried'";
    wait_until("it was tried in vain", async || {
        app.ask::<i64>(retried).await > 0
    })
    .await;
    tokio::time::sleep(Duration::from_millis(100)).await;
    app.execute(&format!("alter database {database} allow_connections true"))
        .await;
    app.is_idle().await;
    assert_eq!(app.people(&org).await, "Ada Lovelace (admin)");
    let url = app.tenant(&org).url().await;
    assert_eq!(ask::<i64>(&url, "select count(*) from people").await, 1);
    app.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_member_whose_script_hangs_keeps_nobody_out() {
    let blueprint = TinyBlueprint::with_people();
    let hangs = "select pg_sleep(60) where current_setting('tenantry.user_id') = 'user_2';";
    blueprint.write(MEMBER, &format!("{hangs}{TELL_MEMBER}"));
    let settings = "statement_timeout_ms = 400\n[members]\nsync_timeout_ms = 300\n";
    blueprint.write("blueprint.toml", settings);
    let mut deployment = Deployment::new().await;
    deployment.set("TENANTRY__QUEUE__MAX_ATTEMPTS", "1");
    let app = App::of(deployment, blueprint.source()).await;
    let org = new_org();
    app.accepts(&[
        &events::user("user_1", ADA),
        &events::user("user_2", BOB),
        &events::user("user_3", ("Cy", "Twombly")),
        &events::member(&org, "user_1", "admin", 0),
        &events::member(&org, "user_2", "admin", 0),
        &events::member(&org, "user_3", "admin", 0),
        &events::created(&org, "Acme"),
    ])
    .await;
    app.tenant(&org).is_ready().await;
    app.is_idle().await;
    let others = "Ada Lovelace (admin), Cy Twombly (admin)";
    assert_eq!(app.people(&org).await, others);
    app.stop().await;
}
