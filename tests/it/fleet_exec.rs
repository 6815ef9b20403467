//! `tenantry fleet exec`: an operator's statements in the databases of many tenants.

use serde_json::Value;

use crate::{
    cli_operator::{json, run},
    support::{Deployment, Fleet, TinyBlueprint},
};

/// Called House 0 to House 2.
async fn three_tenants() -> Fleet {
    let mut fleet = Fleet::made_from(TinyBlueprint::new(), Deployment::new().await, 0).await;
    for at in 0..3 {
        let (org, _) = fleet.app.new_tenant(&format!("House {at}")).await;
        fleet.orgs.push(org);
    }
    fleet.app.is_idle().await;
    fleet
}

/// A line a tenant, by the order of the organizations.
fn lines(stdout: &str, orgs: &[String]) -> Vec<Value> {
    let lines: Vec<Value> = stdout
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    let of = |org: &String| {
        let found = lines
            .iter()
            .find(|line| line["tenant"]["org_id"] == org.as_str());
        found.cloned().unwrap_or_default()
    };
    orgs.iter().map(of).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn rows_of_every_tenant_come_out_with_its_name_and_nothing_is_changed() {
    let fleet = three_tenants().await;
    let look =
        "select body, id, id = 1 as first, null as nothing, '{\"a\": 1}'::jsonb as json from notes";
    let (code, stdout, stderr) = run(&fleet.app, &["fleet", "exec", "--json", "--sql", look]).await;
    assert_eq!(code, 0, "{stderr}");
    for (at, line) in lines(&stdout, &fleet.orgs).iter().enumerate() {
        let expected = serde_json::json!([
            { "body": format!("House {at}"), "id": 1, "first": true, "nothing": null, "json": { "a": 1 } }
        ]);
        assert_eq!(line["rows"], expected);
    }
    let (_, stdout, _) = run(
        &fleet.app,
        &["fleet", "exec", "--sql", look, "--tenant", &fleet.orgs[1]],
    )
    .await;
    assert!(
        stdout.contains("House 1") && !stdout.contains("House 2"),
        "{stdout}"
    );

    for change in [
        "delete from notes",
        "commit; delete from notes",
        "rollback; begin; delete from notes; commit",
        "commit; drop table notes",
        "do $$ begin delete from notes; end $$",
    ] {
        let (code, _, stderr) = run(&fleet.app, &["fleet", "exec", "--sql", change]).await;
        assert_eq!(code, 1, "{change}");
        assert!(stderr.contains("[statement_failed]"), "{change}: {stderr}");
        assert_eq!(
            fleet
                .app
                .tenant(&fleet.orgs[0])
                .ask::<i64>("select count(*) from notes")
                .await,
            1,
            "{change}"
        );
    }
    let said = ["fleet", "exec", "--write", "--sql", "delete from notes"];
    let (code, _, stderr) = run(&fleet.app, &said).await;
    assert_eq!(code, 64, "nobody is there to ask");
    assert!(stderr.contains("--yes"), "{stderr}");
    assert_eq!(
        fleet
            .app
            .tenant(&fleet.orgs[0])
            .ask::<i64>("select count(*) from notes")
            .await,
        1
    );
    fleet.app.deployment.discard().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_writes_is_one_transaction_a_tenant_and_in_the_audit_log() {
    let fleet = three_tenants().await;
    // fails for the second tenant, after it has changed something
    let change = "update notes set body = 'new ' || body; select 1 / (length(body) - 11) from notes where body like '%1'";
    let spoil = "update notes set body = 'House 1'";
    let one = [
        "fleet",
        "exec",
        "--write",
        "--yes",
        "--tenant",
        &fleet.orgs[1],
        "--sql",
        spoil,
    ];
    assert_eq!(run(&fleet.app, &one).await.0, 0);
    let all = [
        "fleet", "exec", "--write", "--yes", "--json", "--sql", change,
    ];
    let (code, stdout, stderr) = run(&fleet.app, &all).await;
    assert_eq!(code, 1, "{stderr}");
    assert!(stderr.contains("it failed for 1 of 3 tenants"), "{stderr}");
    assert_eq!(lines(&stdout, &fleet.orgs)[1]["code"], "statement_failed");
    let mut bodies = Vec::new();
    for org in &fleet.orgs {
        bodies.push(
            fleet
                .app
                .tenant(org)
                .ask::<String>("select body from notes")
                .await,
        );
    }
    assert_eq!(bodies, ["new House 0", "House 1", "new House 2"]);

    let noted = json(
        &fleet.app,
        &[
            "audit",
            "ls",
            "--actor",
            "ada",
            "--action",
            "tenant.statements_run",
            "--json",
        ],
    )
    .await;
    assert_eq!(noted.len(), 4);
    assert_eq!(noted[3]["after"]["sql"], spoil);
    assert_eq!(noted[3]["org_id"], fleet.orgs[1].as_str());
    // what it made belongs to the owner, as what a migration makes does
    let make = [
        "fleet",
        "exec",
        "--write",
        "--yes",
        "--tenant",
        &fleet.orgs[0],
        "--sql",
        "create table made ()",
    ];
    assert_eq!(run(&fleet.app, &make).await.0, 0);
    let owner: String = fleet
        .app
        .tenant(&fleet.orgs[0])
        .ask("select tableowner::text from pg_tables where tablename = 'made'")
        .await;
    assert_eq!(owner, format!("{}owner", fleet.app.deployment.prefix));
    fleet.app.deployment.discard().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_statement_has_its_time_and_a_tenant_its_rows() {
    let fleet = three_tenants().await;
    let sleep = [
        "fleet",
        "exec",
        "--timeout",
        "1",
        "--tenant",
        &fleet.orgs[0],
        "--sql",
        "select pg_sleep(60)",
    ];
    let (code, _, stderr) = run(&fleet.app, &sleep).await;
    assert_eq!(code, 1);
    assert!(stderr.contains("[statement_timed_out]"), "{stderr}");

    let many = [
        "fleet",
        "exec",
        "--json",
        "--rows",
        "2",
        "--tenant",
        &fleet.orgs[0],
        "--sql",
        "select generate_series(1, 5) as n",
    ];
    let (_, stdout, _) = run(&fleet.app, &many).await;
    let line = &lines(&stdout, &fleet.orgs)[0];
    assert_eq!(line["rows"], serde_json::json!([{ "n": 1 }, { "n": 2 }]));
    assert_eq!(line["is_cut"], true);

    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), "select 1 as one;\nselect 'ß' as two;\n").unwrap();
    let path = file.path().to_str().unwrap();
    let (_, stdout, _) = run(
        &fleet.app,
        &[
            "fleet",
            "exec",
            "--json",
            "--file",
            path,
            "--tenant",
            &fleet.orgs[2],
        ],
    )
    .await;
    assert_eq!(
        lines(&stdout, &fleet.orgs)[2]["rows"],
        serde_json::json!([{ "two": "ß" }])
    );
    let none = ["fleet", "exec", "--state", "archived", "--sql", "select 1"];
    assert_eq!(run(&fleet.app, &none).await.0, 0, "no tenant is no failure");
    fleet.app.deployment.discard().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_last_statement_counts_and_who_has_no_rows_is_counted() {
    let fleet = three_tenants().await;
    let exec = async |more: &[&str]| {
        let (code, stdout, stderr) = run(&fleet.app, &[&["fleet", "exec"], more].concat()).await;
        assert_eq!(code, 0, "{stderr}");
        (stdout, stderr)
    };
    let nobody = "select body from notes where false";
    let (stdout, stderr) = exec(&["--sql", nobody]).await;
    assert_eq!(stdout, "");
    assert!(stderr.contains("3 tenants returned no rows\n"), "{stderr}");
    assert!(stderr.contains("succeeded for 3 of 3 tenants"), "{stderr}");
    let one = "select body from notes where body = 'House 1'";
    let (stdout, stderr) = exec(&["--sql", one]).await;
    assert_eq!(stdout.lines().count(), 2, "a header and a row: {stdout}");
    assert!(stderr.contains("2 tenants returned no rows\n"), "{stderr}");

    let earlier = "select 'an earlier one' as which; ";
    for last in [nobody, "set time zone 'UTC'"] {
        let sql = format!("{earlier}{last}");
        let (stdout, _) = exec(&["--json", "--sql", &sql]).await;
        let rows = lines(&stdout, &fleet.orgs)[0]["rows"].clone();
        assert_eq!(rows, serde_json::json!([]), "{last}");
    }
    let change = format!("{earlier}update notes set body = body");
    let (stdout, stderr) = exec(&["--write", "--yes", "--sql", &change]).await;
    assert!(!stdout.contains("an earlier one"), "{stdout}");
    let header = stdout.lines().next().unwrap();
    assert!(header.ends_with("rows changed"), "{stdout}");
    assert!(!stderr.contains("returned no rows"), "{stderr}");

    let alike = "select 1 as id, 2 as id, 3 as id_2, 4 as id, 5 as other";
    let (stdout, _) = exec(&["--json", "--sql", alike]).await;
    assert_eq!(
        lines(&stdout, &fleet.orgs)[0]["rows"],
        serde_json::json!([{ "id": 1, "id_3": 2, "id_2": 3, "id_4": 4, "other": 5 }])
    );
    fleet.app.deployment.discard().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_command_is_started_for_each_tenant_with_its_url_in_the_environment() {
    let fleet = three_tenants().await;
    let all = [
        "fleet",
        "exec",
        "--json",
        "--write",
        "--yes",
        "--timeout",
        "20",
    ];
    let started = async |script: &str| {
        let command = [&all[..], &["--command", "sh", "-c", script]].concat();
        run(&fleet.app, &command).await
    };
    let (code, stdout, stderr) = started("echo $TENANTRY_ORGANIZATION_ID $DATABASE_URL $0").await;
    assert_eq!(code, 0, "{stderr}");
    for (org, line) in fleet.orgs.iter().zip(lines(&stdout, &fleet.orgs)) {
        let tenant = fleet.tenant(org).await;
        let output = line["output"].as_str().unwrap();
        let url = format!("{org} postgresql://{}:***@", tenant.username);
        assert!(output.starts_with(&url), "{output}");
        assert!(output.contains(&tenant.database), "{output}");
    }
    let fails_once = format!(
        "test $TENANTRY_ORGANIZATION_ID != {} || {{ echo no >&2; exit 7; }}",
        fleet.orgs[1]
    );
    let (code, stdout, stderr) = started(&fails_once).await;
    assert_eq!(code, 1, "{stderr}");
    let failed = &lines(&stdout, &fleet.orgs)[1];
    assert_eq!(failed["code"], "command_failed");
    assert_eq!(failed["error"], "the command ended with exit code 7: no");
    let noted = json(
        &fleet.app,
        &["audit", "ls", "--action", "tenant.command_run", "--json"],
    )
    .await;
    assert_eq!(noted.len(), 6);
    let without = ["fleet", "exec", "--command", "true"];
    assert_eq!(run(&fleet.app, &without).await.0, 64, "it needs --write");
    let nothing = [&all[..], &["--command", "/nowhere/at/all"]].concat();
    let (code, stdout, _) = run(&fleet.app, &nothing).await;
    assert_eq!(
        (code, &lines(&stdout, &fleet.orgs)[0]["code"]),
        (1, &"command_failed".into())
    );
    fleet.app.deployment.discard().await;
}
