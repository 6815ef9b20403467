//! `tenantry fleet migrate --dry-run --clone`: a migration tried on what a tenant really has, and no tenant notices.

use serde_json::{Value, json};
use tenantry::api_keys::Scope;

use crate::{
    cli_operator::run,
    support::{
        Deployment, Fleet, TinyBlueprint,
        app::{wait_for, wait_until},
        cluster::{ask, execute, hold},
        process::Process,
    },
};

const NEXT: &str = "migrations/0002_short.sql";

/// Two tenants whose blueprint has grown; the first one has a note that is too long for that.
async fn two_behind() -> Fleet {
    let fleet = Fleet::made_from(TinyBlueprint::new(), Deployment::new().await, 2).await;
    let short = "alter table notes add check (length(body) < 100)";
    fleet.blueprint.write(NEXT, short);
    let long = "insert into notes (body) values (repeat('x', 100))";
    fleet.sql(&fleet.orgs[0], long).await;
    fleet
}

impl Fleet {
    /// `tenantry fleet migrate --dry-run`, with these clones.
    async fn tries(&self, clones: &[&str]) -> (i32, Value) {
        let clones = clones.iter().flat_map(|tenant| ["--clone", tenant]);
        let all: Vec<&str> = ["fleet", "migrate", "--dry-run", "--json"]
            .into_iter()
            .chain(clones)
            .collect();
        let (code, stdout, stderr) = run(&self.app, &all).await;
        let printed = serde_json::from_str(&stdout);
        (
            code,
            printed.unwrap_or_else(|_| panic!("{stdout} {stderr}")),
        )
    }

    /// The databases that rehearsals have made.
    async fn clones(&self) -> i64 {
        let sql = format!(
            "select count(*) from pg_database where starts_with(datname, '{}rehearsal_')",
            self.app.deployment.prefix
        );
        ask(&self.app.deployment.control_url, &sql).await
    }

    async fn a_file_that_no_tenant_has_may_be_repaired(&self, dry: &Value) {
        let longer = "alter table notes add check (length(body) < 200)";
        self.blueprint.write(NEXT, longer);
        let id = dry["id"].as_str().unwrap();
        let (code, _, stderr) = run(&self.app, &["fleet", "resume", id]).await;
        assert_eq!(code, 0, "{stderr}");
        let (code, stdout, stderr) = run(&self.app, &["fleet", "status", "--wait", id]).await;
        assert_eq!(code, 0, "{stdout} {stderr}");
    }

    async fn nobody_was_migrated(&self) {
        for org in &self.orgs {
            let sql = format!("select count(*) from tenantry.migrations where name = '{NEXT}'");
            assert_eq!(self.app.tenant(org).ask::<i64>(&sql).await, 0);
        }
    }
}

/// Whose clone each was (none for a template's), with the code of its failure.
fn tried(run: &Value) -> Vec<(&Value, &Value)> {
    let rehearsals = run["rehearsals"].as_array().unwrap().iter();
    rehearsals
        .map(|of| (&of["tenant"], &of["failure"]["code"]))
        .collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn what_the_template_has_not_is_found_in_the_clone_of_a_tenant() {
    let fleet = two_behind().await;
    let (code, dry) = fleet.tries(&[]).await;
    assert_eq!((code, tried(&dry)), (0, vec![(&Value::Null, &Value::Null)]));

    // the clone is closed to the tenants, or it fails for all of them
    let [first, second] = fleet.tenants().await;
    let closed = format!(
        "do $$ begin
             if current_database() ~ 'rehearsal' and exists (
                 select
                 from pg_roles
                 where rolname in ('{}', '{}')
                   and has_database_privilege(oid, current_database(), 'connect')
             ) then
                 raise exception 'a tenant can connect';
             end if;
         end $$",
        first.username, second.username
    );
    fleet.blueprint.write("migrations/0003_closed.sql", &closed);
    let (code, dry) = fleet.tries(&[&first.org_id, &second.database]).await;
    let ids = [json!(first.id), json!(second.id)];
    assert_eq!((code, &dry["clone"]), (1, &json!(ids)));
    let failed = json!("migration_failed");
    assert_eq!(
        tried(&dry),
        [
            (&Value::Null, &Value::Null),
            (&ids[0], &failed),
            (&ids[1], &Value::Null)
        ],
        "{dry}"
    );
    let cause = dry["rehearsals"][1]["failure"]["cause"].as_str().unwrap();
    assert!(cause.contains("is violated by some row"), "{cause}");
    let fix = dry["failure"]["fix"].as_str().unwrap();
    assert!(fix.contains("tenantry fleet resume"), "{fix}");
    assert_eq!(dry["rehearsals"][2]["applied"], 2);
    assert_eq!(fleet.clones().await, 0);
    fleet.nobody_was_migrated().await;
    let noted = "select count(*) from audit_log where action = 'tenant.clone_wanted'";
    assert_eq!(fleet.app.ask::<i64>(noted).await, 2);
    let (_, stdout, _) = run(&fleet.app, &["fleet", "status"]).await;
    assert!(
        stdout.contains(&format!("(tenant {})", second.id)),
        "{stdout}"
    );
    fleet.a_file_that_no_tenant_has_may_be_repaired(&dry).await;
    fleet.app.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn whose_database_somebody_is_in_is_not_cloned_and_nobody_is_sent_away() {
    let fleet = two_behind().await;
    let [in_use, free] = fleet.tenants().await;
    let url = fleet.app.deployment.url(&in_use.database);
    execute(&url, "delete from notes where length(body) = 100").await;
    let [first, second] = [json!(in_use.id), json!(free.id)];
    let mut sessions = [
        hold(&url, "set application_name = 'crm'; select 1").await,
        hold(&url, "set application_name = 'crm'; select 1").await,
        hold(&url, "set application_name = 'a report'; select 1").await,
    ];
    let names = [first.as_str().unwrap(), second.as_str().unwrap()];
    let (code, dry) = fleet.tries(&names).await;
    assert_eq!(code, 1);
    let not_copied = json!("database_not_copied");
    assert_eq!(
        tried(&dry),
        [
            (&Value::Null, &Value::Null),
            (&first, &not_copied),
            (&second, &Value::Null)
        ],
        "{dry}"
    );
    assert_eq!(
        dry["failure"]["cause"],
        format!(
            "database {} was not copied: 2 sessions of crm, 1 session of a report would have to leave it",
            in_use.database
        )
    );
    for session in &mut sessions {
        session.commit().await;
    }
    drop(sessions);
    let left = format!(
        "select count(*) from pg_stat_activity where datname = '{}'",
        in_use.database
    );
    wait_until("everybody has left", async || {
        fleet.app.ask::<i64>(&left).await == 0
    })
    .await;
    assert_eq!(run(&fleet.app, &["fleet", "resume"]).await.0, 0);
    let (code, _, stderr) = run(&fleet.app, &["fleet", "status", "--wait"]).await;
    assert_eq!(code, 0, "{stderr}");
    assert_eq!(fleet.clones().await, 0);
    fleet.nobody_was_migrated().await;
    fleet.app.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_copy_that_takes_too_long_is_given_up_and_nobody_waits_for_it_any_more() {
    let fleet = two_behind().await;
    let [_, second] = fleet.tenants().await;
    let database = &second.database;
    // whoever changes a database lets nobody copy it meanwhile
    let change = format!("comment on database {database} is 'another'");
    let mut slow = hold(&fleet.app.deployment.url("postgres"), &change).await;
    let (code, dry) = fleet.tries(&[database]).await;
    let not_copied = json!("database_not_copied");
    assert_eq!((code, tried(&dry)[1].1), (1, &not_copied), "{dry}");
    let cause = dry["failure"]["cause"].as_str().unwrap();
    assert!(cause.contains("takes longer than 10 s"), "{cause}");
    let notes = "select count(*) from notes";
    assert_eq!(fleet.app.tenant(&second.org_id).ask::<i64>(notes).await, 1);
    assert_eq!(fleet.clones().await, 0);
    slow.release().await;
    assert_eq!(fleet.tries(&[database]).await.0, 0);
    fleet.app.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_run_that_died_and_was_given_up_has_left_is_dropped() {
    let fleet = two_behind().await.without_workers().await;
    let (code, id, stderr) = run(
        &fleet.app,
        &[
            "fleet",
            "migrate",
            "--dry-run",
            "--no-wait",
            "--clone",
            &fleet.orgs[0],
        ],
    )
    .await;
    assert_eq!(code, 0, "{stderr}");
    // killed while it was made, and while it was tried; and one that is somebody else's
    let prefix = &fleet.app.deployment.prefix;
    let server = fleet.app.deployment.url("postgres");
    for (name, comment) in [
        ("a", "null"),
        ("b", "'tenantry rehearsal'"),
        ("c", "'mine'"),
    ] {
        let database = format!("{prefix}rehearsal_{}", name.repeat(16));
        let create =
            format!("create database {database} owner {prefix}owner allow_connections false");
        execute(&server, &create).await;
        let mark = format!("comment on database {database} is {comment}");
        execute(&server, &mark).await;
    }
    assert_eq!(run(&fleet.app, &["fleet", "abort", &id]).await.0, 0);
    let _replica = Process::with_roles(&fleet.app.deployment, "worker").await;
    wait_for("what is ours is gone", async || {
        (fleet.clones().await == 1).then_some(())
    })
    .await;
    let mine = format!("{prefix}rehearsal_{}", "c".repeat(16));
    execute(&server, &format!("drop database {mine}")).await;
    fleet.app.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_aborted_run_copies_nobody_elses_database() {
    let fleet = two_behind().await;
    let server = fleet.app.deployment.url("postgres");
    let mut slow = Vec::new();
    let tenants = fleet.tenants::<2>().await;
    for tenant in &tenants {
        let change = format!("comment on database {} is 'another'", tenant.database);
        slow.push(hold(&server, &change).await);
    }
    let copies = async |at: usize| {
        let database = &tenants[at].database;
        let copying = format!(
            "select count(*) from pg_stat_activity where query ~ '^create database .* template \"?{database}'"
        );
        fleet.app.ask::<i64>(&copying).await
    };
    let begin = ["fleet", "migrate", "--dry-run", "--no-wait"];
    let clones = fleet.orgs.iter().flat_map(|org| ["--clone", org]);
    let begin: Vec<&str> = begin.into_iter().chain(clones).collect();
    let (code, id, stderr) = run(&fleet.app, &begin).await;
    assert_eq!(code, 0, "{stderr}");
    let first = wait_for("the first is copied", async || {
        match (copies(0).await, copies(1).await) {
            (0, 0) => None,
            (first, _) => Some(usize::from(first == 0)),
        }
    })
    .await;
    assert_eq!(run(&fleet.app, &["fleet", "abort", &id]).await.0, 0);
    slow[first].release().await;
    wait_until("the run's job has ended", async || {
        // that one's copy would wait for ten seconds
        assert_eq!(copies(1 - first).await, 0);
        fleet.open_jobs().await == 0
    })
    .await;
    assert_eq!(fleet.clones().await, 0);
    fleet.app.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn who_is_given_up_between_the_choice_and_the_copy_is_told() {
    let fleet = two_behind().await.without_workers().await;
    let key = fleet.app.key(&[Scope::FleetRead, Scope::FleetWrite]).await;
    let api = fleet.app.as_bearer(&key);
    let [first, second] = fleet.tenants().await;
    let body = json!({ "dry_run": true, "clone": [first.id, second.id] });
    let begun = api.post("/v1/fleet-runs", &body).await;
    assert_eq!(begun.status, 201, "{}", begun.body);
    let archive = format!(
        "update tenants set state = 'archived' where id = '{}'",
        second.id
    );
    execute(&fleet.app.deployment.control_url, &archive).await;
    let _replica = Process::with_roles(&fleet.app.deployment, "worker").await;
    let path = begun.header("location").unwrap();
    let failed = wait_for("the run is over", async || {
        let run = api.get(path).await.body;
        (!run["finished_at"].is_null()).then_some(run)
    })
    .await;
    assert_eq!(failed["state"], "failed", "{failed}");
    let mut told = tried(&failed);
    told.sort_by_key(|(tenant, _)| tenant.to_string());
    let long = json!("migration_failed");
    let ids = [json!(first.id), json!(second.id)];
    assert_eq!(
        told,
        [
            (&ids[0], &long),
            (&ids[1], &json!("not_kept_up")),
            (&Value::Null, &Value::Null)
        ],
        "{failed}"
    );
    fleet.app.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn only_a_dry_run_clones_and_only_what_is_kept_up() {
    let fleet = two_behind().await;
    let [first, second] = fleet.tenants().await;
    let (code, _, _) = run(&fleet.app, &["fleet", "migrate", "--clone", &first.org_id]).await;
    assert_eq!(code, 64);
    let nobody = ["fleet", "migrate", "--dry-run", "--clone", "nobody"];
    let (code, _, stderr) = run(&fleet.app, &nobody).await;
    assert_eq!(code, 1);
    assert!(stderr.contains("no tenant is named"), "{stderr}");

    let key = fleet.app.key(&[Scope::FleetRead, Scope::FleetWrite]).await;
    let api = fleet.app.as_bearer(&key);
    let wet = json!({ "clone": [first.id] });
    let refused = api.post("/v1/fleet-runs", &wet).await;
    assert_eq!(refused.refusal(), (400, "parameter_invalid"));
    let archive = format!(
        "update tenants set state = 'archived' where id = '{}'",
        first.id
    );
    execute(&fleet.app.deployment.control_url, &archive).await;
    let body = json!({ "dry_run": true, "clone": [second.id, first.id] });
    let refused = api.post("/v1/fleet-runs", &body).await;
    assert_eq!(refused.refusal(), (409, "not_kept_up"));
    let body = json!({ "dry_run": true, "clone": [second.id] });
    let begun = api.post("/v1/fleet-runs", &body).await;
    assert_eq!(
        (begun.status, &begun.body["clone"]),
        (201, &json!([second.id]))
    );
    assert_eq!(
        begun.body["selection"],
        json!({ "labels": {}, "tenants": [] })
    );
    let path = begun.header("location").unwrap();
    let done = wait_for("the run is over", async || {
        let run = api.get(path).await.body;
        (run["state"] == "done").then_some(run)
    })
    .await;
    assert_eq!(tried(&done).len(), 2);
    fleet.app.stop().await;
}
