//! `tenantry fleet drift`: whose database is not what its blueprint makes, and what is different.

use serde_json::Value;

use crate::{
    cli_operator::run,
    support::{
        Deployment, Fleet, TinyBlueprint,
        cluster::{ask, execute},
    },
};

const TASKS: &str = "
    create table tasks (id bigint primary key, owner text, due_on date default current_date);
    create index tasks_by_owner on tasks (owner);
    create function due() returns date language sql as 'select max(due_on) from tasks'";

const DETAILED: &str = "
    create table tasks (id bigint primary key, owner text);
    create function due() returns date language sql as 'select current_date';
    create function due_in(days integer default 7) returns date language sql as 'select current_date + days';
    create view urgent as select id from tasks where id > 9;
    create sequence numbers;
    create table done (id bigint, at date) partition by range (at);
    create table done_2026 partition of done for values from ('2026-01-01') to ('2027-01-01');
    create domain label as text;
    create type place as (street text)";

/// A fleet of tenants that have tasks.
async fn with_tasks(tenants: usize) -> Fleet {
    that_have(TASKS, tenants).await
}

async fn that_have(migration: &str, tenants: usize) -> Fleet {
    let blueprint = TinyBlueprint::new();
    blueprint.write("migrations/0002_tasks.sql", migration);
    Fleet::made_from(blueprint, Deployment::new().await, tenants).await
}

impl Fleet {
    /// Somebody changes a tenant's database by hand.
    async fn meddle(&self, at: usize, sql: &str) {
        self.sql(&self.orgs[at], sql).await;
    }

    async fn drift(&self, arguments: &[&str]) -> (i32, Value, String) {
        let all = [&["fleet", "drift", "--json"], arguments].concat();
        let (code, stdout, stderr) = run(&self.app, &all).await;
        (code, serde_json::from_str(&stdout).unwrap(), stderr)
    }

    /// Who is accused of what: positions of tenants, and what is different in their databases.
    fn accused(&self, drift: &Value) -> Vec<(Vec<usize>, Vec<String>)> {
        let at = |tenant: &Value| {
            let org = tenant["org_id"].as_str().unwrap();
            self.orgs.iter().position(|known| known == org).unwrap()
        };
        let group = |group: &Value| {
            let mut who: Vec<usize> = group["tenants"]
                .as_array()
                .unwrap()
                .iter()
                .map(at)
                .collect();
            who.sort_unstable();
            let differences = group["differences"].as_array().unwrap().iter();
            let differences = differences.map(|text| text.as_str().unwrap().to_owned());
            (who, differences.collect())
        };
        let mut accused: Vec<_> = drift["drifted"]
            .as_array()
            .unwrap()
            .iter()
            .map(group)
            .collect();
        accused.sort();
        accused
    }
}

/// Somebody was at it: structure, rights, rows only, a suspended tenant, and one without a database.
async fn meddle_with_some(fleet: &Fleet) {
    let app_role = format!("{}app", fleet.app.deployment.prefix);
    fleet
        .meddle(3, "alter table tasks drop column due_on cascade")
        .await;
    fleet.meddle(7, "drop index tasks_by_owner").await;
    fleet.meddle(11, "drop index tasks_by_owner").await;
    fleet
        .meddle(19, &format!("revoke select on tasks from {app_role}"))
        .await;
    let other = "create or replace function public.due() returns date language sql as 'select min(due_on) from public.tasks'";
    fleet.meddle(23, other).await;
    fleet
        .meddle(29, "create table public.extra (id bigint)")
        .await;
    fleet
        .meddle(31, "alter table tasks alter owner type varchar(9)")
        .await;
    // data is no structure
    fleet
        .meddle(37, "insert into tasks (id) values (1); analyze")
        .await;
    let suspend = ["tenants", "suspend", fleet.orgs[7].as_str()];
    assert_eq!(run(&fleet.app, &suspend).await.0, 0);
    let gone = fleet.tenant(&fleet.orgs[41]).await;
    let server = fleet.app.deployment.url("postgres");
    execute(
        &server,
        &format!("drop database {} with (force)", gone.database),
    )
    .await;
}

/// Who is different, and in what.
fn what_was_meddled_with(fleet: &Fleet) -> Vec<(Vec<usize>, Vec<String>)> {
    let app_role = format!("{}app", fleet.app.deployment.prefix);
    let told = |texts: &[&str]| {
        texts
            .iter()
            .map(|text| (*text).to_owned())
            .collect::<Vec<_>>()
    };
    vec![
        (vec![3], told(&["column due_on of tasks is missing"])),
        (vec![7, 11], told(&["index tasks_by_owner is missing"])),
        (
            vec![19],
            told(&[&format!("role {app_role} lacks select on table tasks")]),
        ),
        (vec![23], told(&["function due(): body differs"])),
        (
            vec![29],
            told(&[
                "table extra is there and should not be",
                "column id of extra is there and should not be",
            ]),
        ),
        (
            vec![31],
            told(&["column owner of tasks: type is character varying(9), should be text"]),
        ),
    ]
}

#[tokio::test(flavor = "multi_thread")]
async fn who_has_drifted_is_named_with_what_is_different_and_nobody_else() {
    let fleet = with_tasks(50).await;
    let (code, drift, stderr) = fleet.drift(&[]).await;
    assert_eq!((code, &drift["alike"]), (0, &50.into()), "{stderr}");

    meddle_with_some(&fleet).await;

    let (code, drift, stderr) = fleet.drift(&[]).await;
    assert_eq!(code, 1);
    assert!(
        stderr.contains("7 of 50 tenants have drifted from their blueprint"),
        "{stderr}"
    );
    assert_eq!(fleet.accused(&drift), what_was_meddled_with(&fleet));
    assert_eq!(drift["alike"], 42);
    let unreached = &drift["unreached"];
    assert_eq!(unreached.as_array().unwrap().len(), 1);
    assert_eq!(unreached[0]["tenant"]["org_id"], fleet.orgs[41].as_str());
    assert_eq!(unreached[0]["code"], "database_gone");

    // only the ones that are named, only those in a state
    let some = ["--tenant", &fleet.orgs[3], "--tenant", &fleet.orgs[4]];
    let (_, drift, _) = fleet.drift(&some).await;
    assert_eq!(drift["alike"], 1);
    assert_eq!(fleet.accused(&drift).len(), 1);
    let (_, drift, _) = fleet.drift(&["--state", "suspended"]).await;
    assert_eq!(fleet.accused(&drift)[0].0, [7]);
    let (code, stdout, stderr) = run(&fleet.app, &["fleet", "drift"]).await;
    assert_eq!(code, 1);
    assert!(
        stdout.contains("index tasks_by_owner is missing"),
        "{stdout}"
    );
    assert!(stderr.contains("could not be checked"), "{stderr}");
    fleet.app.deployment.discard().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_template_of_an_older_version_accuses_nobody_and_is_built_anew() {
    let fleet = with_tasks(2).await;
    fleet.meddle(0, "drop index tasks_by_owner").await;
    // of an older version of the server, and of an older version of tenantry
    for older in [
        "server_major = 9",
        "compared = null, compared_fingerprint = null",
    ] {
        let older = format!("update templates set {older}");
        execute(&fleet.app.deployment.control_url, &older).await;
        let (code, drift, _) = fleet.drift(&[]).await;
        assert_eq!(code, 1);
        assert!(fleet.accused(&drift).is_empty());
        let unreached = drift["unreached"].as_array().unwrap();
        assert_eq!(unreached.len(), 2);
        assert_eq!(unreached[0]["code"], "template_unknown");
    }

    fleet.app.replica.build_templates().await.unwrap();
    let (_, drift, _) = fleet.drift(&[]).await;
    assert_eq!(drift["alike"], 1);
    assert_eq!(
        fleet.accused(&drift)[0].1,
        ["index tasks_by_owner is missing"]
    );
    fleet.app.deployment.discard().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_older_version_finds_what_it_compares_and_nothing_else() {
    let fleet = that_have(DETAILED, 0).await;
    let control = &fleet.app.deployment.control_url;
    let agrees = "select full_fingerprint = encode(sha256(convert_to(string_agg(line, E'\\n' order by line collate \"C\"), 'UTF8')), 'hex')
                  from templates, unnest(structure || details) line
                  group by full_fingerprint";
    assert!(ask::<bool>(control, agrees).await);
    // which it knows as constraints
    let names =
        "select count(*) from templates, unnest(structure) line where line like 'not null%'";
    assert_eq!(ask::<i64>(control, names).await, 0);
    fleet.app.deployment.discard().await;
}

/// What is not to be seen at the first look: each is a change of one statement, in a database of its own.
const DETAILS: [(&str, &str); 13] = [
    (
        "alter function due() strict",
        "function due(): strict is true, should be false",
    ),
    (
        "alter function due() parallel safe",
        "function due(): parallel is s, should be u",
    ),
    (
        "create or replace function public.due_in(days integer default 8) returns date language sql as 'select current_date + days'",
        "function due_in(days integer): arguments is days integer DEFAULT 8, should be days integer DEFAULT 7",
    ),
    (
        "alter view urgent set (security_barrier = true)",
        "view urgent: options is {security_barrier=true}, should be nothing",
    ),
    (
        "alter sequence numbers increment 2",
        "sequence numbers: increment is 2, should be 1",
    ),
    (
        "alter table tasks set unlogged",
        "table tasks: persistence is u, should be p",
    ),
    (
        "alter table tasks replica identity full",
        "table tasks: replica identity is f, should be d",
    ),
    (
        "alter table done detach partition done_2026;
         alter table done attach partition done_2026 for values from ('2026-01-01') to ('2026-07-01')",
        "table done_2026: bound is FOR VALUES FROM ('2026-01-01') TO ('2026-07-01'), should be FOR VALUES FROM ('2026-01-01') TO ('2027-01-01')",
    ),
    (
        "alter table tasks alter owner type text collate \"C\"",
        "column collation owner of tasks is there and should not be",
    ),
    (
        "create rule keep as on delete to tasks do instead nothing",
        "rule keep of tasks is there and should not be",
    ),
    (
        "alter domain label set default 'nobody'",
        "domain label: default is 'nobody'::text, should be nothing",
    ),
    (
        "alter type place add attribute floor integer",
        "composite type place: attributes is street text, floor integer, should be street text",
    ),
    (
        "drop view urgent",
        "view urgent is missing",
    ),
];

#[tokio::test(flavor = "multi_thread")]
async fn a_detail_that_was_changed_is_named() {
    let fleet = that_have(DETAILED, DETAILS.len() + 1).await;
    for (at, (change, _)) in DETAILS.iter().enumerate() {
        let change = format!("set search_path = public; {change}");
        fleet.meddle(at, &change).await;
    }
    let (_, drift, stderr) = fleet.drift(&[]).await;
    assert_eq!(drift["alike"], 1, "{stderr}");
    for (who, told) in fleet.accused(&drift) {
        let (change, expected) = DETAILS[who[0]];
        assert_eq!((who.len(), told[0].as_str()), (1, expected), "{change}");
    }
    assert_eq!(fleet.accused(&drift).len(), DETAILS.len());
    fleet.app.deployment.discard().await;
}

/// A server keeps it as a constraint from 18 on, and one of a domain from 17 on, which an upgrade names anew.
#[tokio::test(flavor = "multi_thread")]
async fn a_not_null_is_compared_and_its_name_is_not() {
    let made = "create table people (name text not null); create domain word as text not null";
    let fleet = that_have(made, 4).await;
    let rename = "do $$ begin
            if exists (select from pg_constraint where conname = 'people_name_not_null') then
                alter table public.people rename constraint people_name_not_null to of_before;
            end if;
            if exists (select from pg_constraint where conname = 'word_not_null') then
                alter domain public.word rename constraint word_not_null to of_before;
            end if;
        end $$";
    fleet.meddle(0, rename).await;
    let nullable = "alter table public.people alter name drop not null";
    fleet.meddle(1, nullable).await;
    let nullable = "alter domain public.word drop not null";
    fleet.meddle(2, nullable).await;
    let (_, drift, stderr) = fleet.drift(&[]).await;
    assert_eq!(drift["alike"], 2, "{stderr}");
    let accused = fleet.accused(&drift);
    assert_eq!(accused.len(), 2);
    assert!(accused.iter().all(|(who, _)| who != &[0]), "{accused:?}");
    fleet.app.deployment.discard().await;
}
