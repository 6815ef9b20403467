//! Lists a page at a time, while they grow.

use sqlx::{AssertSqlSafe, PgConnection};
use tenantry::{
    audit::{self, Act},
    inbox,
    page::{self, Asked, Page},
    queue,
    tenants::{self, TenantFilter},
};

use tenantry::provisioning::BlueprintSource;

use crate::support::{App, Deployment};

/// A control database with its tables and nobody at work.
async fn quiet() -> App {
    let app = App::listening(Deployment::new().await, BlueprintSource::Bundled).await;
    app.replica.migrate().await.unwrap();
    app
}

async fn run(app: &App, sql: String) {
    let run = async |connection: &mut PgConnection| {
        sqlx::raw_sql(AssertSqlSafe(sql)).execute(connection).await
    };
    app.replica.db.run(run).await.unwrap();
}

/// Tenants with these numbers; several begin in the same instant.
async fn tenants_are_made(app: &App, numbers: std::ops::Range<u32>) {
    let (first, last) = (numbers.start, numbers.end - 1);
    let sql = format!(
        "insert into organizations (source, org_id, content) select 'workos', 'org_' || n, '{{}}' from generate_series({first}, {last}) n;
         insert into tenants (id, org_id, initialize, name, url, database, read_only_database, username, alembic_version,
                              source, credential, created_at)
         select gen_random_uuid(), 'org_' || n, false, 'Acme ' || n, 'acme-' || n || '.localhost', 'db_' || n, 'db_' || n, 'role_' || n, '',
                'workos', '', '2026-11-20T12:00:00Z'::timestamptz + make_interval(secs => n / 7)
         from generate_series({first}, {last}) n"
    );
    run(app, sql).await;
}

/// Follows the cursors to the end; `between` happens after every page.
async fn follow<T>(
    limit: u32,
    page: impl AsyncFn(Asked) -> Result<Page<T>, page::Error>,
    between: impl AsyncFn(u32),
) -> Vec<T> {
    let (mut all, mut cursor, mut pages) = (Vec::new(), None, 0);
    loop {
        let asked = Asked::read(cursor, Some(limit)).unwrap();
        let mut found = page(asked).await.unwrap();
        all.append(&mut found.data);
        cursor = found.next_cursor;
        if cursor.is_none() {
            return all;
        }
        pages += 1;
        between(pages).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_thousand_tenants_are_seen_once_each_while_others_are_made() {
    let app = quiet().await;
    tenants_are_made(&app, 0..1000).await;
    let filter = TenantFilter::default();
    let page = async |asked: Asked| {
        let list = async |connection: &mut _| tenants::list_page(connection, &filter, &asked).await;
        app.replica.db.run(list).await
    };
    let seen = follow(70, page, async |pages| {
        let first = 1000 + pages * 10;
        tenants_are_made(&app, first..first + 10).await;
    })
    .await;
    let numbers: Vec<u32> = seen
        .iter()
        .map(|tenant| tenant.org_id.trim_start_matches("org_").parse().unwrap())
        .collect();
    let mut sorted = numbers.clone();
    sorted.sort_unstable();
    assert_eq!(sorted, (0..1000).collect::<Vec<_>>(), "each of them, once");
    let is_newer = |pair: &[tenants::Tenant]| pair[0].created_at >= pair[1].created_at;
    assert!(seen.windows(2).all(is_newer), "the newest first");
    app.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn tenants_are_found_by_what_stands_in_them_and_nothing_in_it_has_a_meaning() {
    let app = quiet().await;
    tenants_are_made(&app, 0..20).await;
    run(
        &app,
        "update tenants set name = '50%_off' where org_id = 'org_7'".to_owned(),
    )
    .await;
    let hosts = "insert into tenant_hosts select 'crm.zebra.example', id from tenants where org_id = 'org_3'";
    run(&app, hosts.to_owned()).await;
    let found = async |filter: TenantFilter| {
        let asked = Asked::first(200);
        let list = async |connection: &mut _| tenants::list_page(connection, &filter, &asked).await;
        let mut found: Vec<String> = app
            .replica
            .db
            .run(list)
            .await
            .unwrap()
            .data
            .into_iter()
            .map(|tenant| tenant.org_id)
            .collect();
        found.sort_unstable();
        found
    };
    let search = |text: &str| TenantFilter {
        search: Some(text.to_owned()),
        ..TenantFilter::default()
    };
    assert_eq!(found(search("ACME 12")).await, ["org_12"]);
    assert_eq!(found(search("DB_19")).await, ["org_19"]);
    assert_eq!(found(search("org_5")).await, ["org_5"]);
    assert_eq!(found(search("acme-4.local")).await, ["org_4"]);
    assert_eq!(found(search("Zebra")).await, ["org_3"], "by a further host");
    assert_eq!(found(search("%")).await, ["org_7"]);
    assert_eq!(found(search("50%_")).await, ["org_7"]);
    assert!(found(search("a%e")).await.is_empty());
    assert!(found(search("\\")).await.is_empty());
    let none = TenantFilter {
        source: Some("clerk".to_owned()),
        ..TenantFilter::default()
    };
    assert!(found(none).await.is_empty());
    app.stop().await;
}

/// 90 events and as many jobs after the number `first`, half of them of a kind.
async fn events_and_jobs(app: &App, first: u32) {
    let numbers = format!("from generate_series({first} + 1, {first} + 90) n");
    let kind = "case when n % 2 = 0 then 'even' else 'odd' end";
    let events = format!(
        "insert into webhook_events (source, event_id, event_type, organization_id, body, body_sha256, state)
         select 'workos', 'event_' || n, {kind}, 'org_1', '', '', 'processed' {numbers}"
    );
    let jobs = format!(
        "insert into jobs (kind, payload, concurrency_key, state, max_attempts)
         select {kind}, '{{}}', 'workos:org_1', 'completed', 1 {numbers}"
    );
    run(app, format!("{events}; {jobs}")).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn events_jobs_and_the_audit_log_come_in_pages_as_well() {
    let app = quiet().await;
    events_and_jobs(&app, 0).await;
    let db = &app.replica.db;
    let note = async |tx: &mut PgConnection| {
        for n in 0..90 {
            let action = if n % 2 == 0 { "even" } else { "odd" };
            let (target_kind, target) = ("number", &*n.to_string());
            let act = Act {
                action,
                target_kind,
                target,
                organization: None,
            };
            audit::note(tx, act).await?;
        }
        Ok::<_, sqlx::Error>(())
    };
    db.transaction(note).await.unwrap();
    let filter = inbox::Filter {
        event_type: Some("even".to_owned()),
        ..inbox::Filter::default()
    };
    let page = async |asked: Asked| {
        let list = async |connection: &mut _| inbox::list_page(connection, &filter, &asked).await;
        db.run(list).await
    };
    let seen = follow(7, page, async |pages| {
        if pages == 1 {
            events_and_jobs(&app, 90).await;
        }
    })
    .await;
    let mut ids: Vec<i64> = seen.iter().map(|event| event.id).collect();
    assert_eq!(ids.len(), 45);
    ids.dedup();
    assert_eq!(ids.len(), 45);

    let filter = queue::Filter {
        kind: Some("odd".to_owned()),
        concurrency_key: Some("workos:org_1".to_owned()),
        state: None,
    };
    let page = async |asked: Asked| {
        let list = async |connection: &mut _| queue::list_page(connection, &filter, &asked).await;
        db.run(list).await
    };
    let seen = follow(200, page, async |_| {}).await;
    assert_eq!(seen.len(), 90, "those that were added are there now");

    let filter = audit::Filter {
        action: Some("odd".to_owned()),
        ..audit::Filter::default()
    };
    let page = async |asked: Asked| {
        let list = async |connection: &mut _| audit::list_page(connection, &filter, &asked).await;
        db.run(list).await
    };
    let seen = follow(10, page, async |_| {}).await;
    let targets: Vec<i64> = seen
        .iter()
        .map(|entry| entry.target.parse().unwrap())
        .collect();
    assert_eq!(targets, (0..45).map(|n| 89 - 2 * n).collect::<Vec<_>>());
    app.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cursor_of_another_list_is_refused() {
    let app = quiet().await;
    run(&app, "insert into jobs (kind, payload, max_attempts) select 'x', '{}', 1 from generate_series(1, 3)".to_owned()).await;
    let db = &app.replica.db;
    let filter = queue::Filter::default();
    let asked = Asked::read(None, Some(2)).unwrap();
    let list = async |connection: &mut _| queue::list_page(connection, &filter, &asked).await;
    let cursor = db.run(list).await.unwrap().next_cursor;
    let asked = Asked::read(cursor, None).unwrap();
    let filter = inbox::Filter::default();
    let list = async |connection: &mut _| inbox::list_page(connection, &filter, &asked).await;
    assert_eq!(db.run(list).await.unwrap_err().code(), "cursor_invalid");
    app.stop().await;
}
