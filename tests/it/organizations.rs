//! Organizations: whatever their names, and in whatever order they are described and deleted.

use std::collections::HashSet;

use futures_util::future::join_all;
use serde_json::Value;

use crate::support::{App, Deployment, TinyBlueprint, app::new_org, events};

fn names() -> Vec<String> {
    let hostile = [
        "Acme Corp",
        "acme-corp!",
        "ACME  CORP",
        "acme_corp",
        "",
        " ",
        "!!! --- ???",
        "日本株式会社",
        "🚀🚀🚀",
        "شركة الاختبار",
        "\u{202e}evil",
        "nul\0nul",
        "O'Brien \"& Sons\" `x` \\",
        "'; drop database x; --",
        "$$; drop role y; $$",
        "%s %I \n\r\t",
        "www",
        "template_0000000000000000",
        "new_00000000000000000000000000000000",
        "owner",
    ];
    let long =
        [300, 2_000].map(|length| "long name ".repeat(length).chars().take(length).collect());
    let many = (0..78).map(|at| format!("Acme {}", at % 3));
    hostile
        .map(str::to_owned)
        .into_iter()
        .chain(long)
        .chain(many)
        .collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hundred_organizations_of_any_name_become_a_hundred_tenants() {
    let blueprint = TinyBlueprint::new();
    let app = App::of(Deployment::new().await, blueprint.source()).await;
    let organizations: Vec<(String, String)> =
        names().into_iter().map(|name| (new_org(), name)).collect();
    assert_eq!(organizations.len(), 100);

    let all: Vec<Value> = organizations
        .iter()
        .map(|(org, name)| events::created(org, name))
        .collect();
    let answers = join_all(all.iter().map(|event| app.deliver(event))).await;
    assert!(answers.iter().all(|answer| answer.status == 200));

    let (mut databases, mut hosts, mut roles) = (HashSet::new(), HashSet::new(), HashSet::new());
    for (org, name) in &organizations {
        let tenant = app.tenant(org).is_ready().await;
        let clean: String = name.chars().filter(|c| !c.is_control()).collect();
        assert_eq!(tenant.name, clean.chars().take(255).collect::<String>());
        assert!(is_legal(&tenant.database, 63, '_'), "{}", tenant.database);
        let label = tenant.url.strip_suffix(".localhost").unwrap();
        assert!(is_legal(label, 63, '-'), "{label}");
        // the whole name reaches the seed, as data
        let seeded: String = app
            .tenant(org)
            .ask("select string_agg(body, '|') from notes")
            .await;
        assert_eq!(seeded, clean);
        databases.insert(tenant.database);
        hosts.insert(tenant.url);
        roles.insert(tenant.username);
    }
    assert_eq!((databases.len(), hosts.len(), roles.len()), (100, 100, 100));
    assert_eq!(app.deployment.tenant_databases().await, 100);
    assert_eq!(app.deployment.tenant_roles().await, 100);
    app.is_idle().await;
    let deployment = app.deployment.clone();
    app.stop().await;
    deployment.discard().await;
}

fn is_legal(name: &str, longest: usize, separator: char) -> bool {
    let plain = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == separator;
    (1..=longest).contains(&name.len())
        && name.chars().all(plain)
        && !name.starts_with(separator)
        && !name.ends_with(separator)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_new_name_changes_the_name_and_nothing_else() {
    let blueprint = TinyBlueprint::new();
    let app = App::of(Deployment::new().await, blueprint.source()).await;
    let org = new_org();
    app.accepts(&[&events::created(&org, "Acme")]).await;
    let before = app.tenant(&org).is_ready().await;

    app.accepts(&[&events::updated(&org, "Umbrella", 2)]).await;
    app.is_idle().await;
    let after = app.tenant(&org).is_ready().await;
    assert_eq!(after.name, "Umbrella");
    assert_eq!(
        (
            &after.id,
            &after.url,
            &after.database,
            &after.username,
            after.ready_at
        ),
        (
            &before.id,
            &before.url,
            &before.database,
            &before.username,
            before.ready_at
        )
    );

    // late, and older than what is known
    let late = events::updated(&org, "Hooli", 1);
    app.accepts(&[&late]).await;
    app.is_idle().await;
    assert_eq!(app.tenant(&org).is_ready().await.name, "Umbrella");
    let note = "select reason from webhook_events order by id desc limit 1";
    assert_eq!(
        app.ask::<String>(note).await,
        "a newer description was there already"
    );
    assert_eq!(app.deployment.tenant_databases().await, 1);
    app.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_update_that_comes_first_makes_the_tenant() {
    let blueprint = TinyBlueprint::new();
    let app = App::of(Deployment::new().await, blueprint.source()).await;
    let org = new_org();
    app.accepts(&[&events::updated(&org, "Umbrella", 5)]).await;
    app.tenant(&org).is_ready().await;
    app.accepts(&[&events::created(&org, "Acme")]).await;
    app.is_idle().await;
    assert_eq!(app.tenant(&org).is_ready().await.name, "Umbrella");
    assert_eq!(app.ask::<i64>("select count(*) from tenants").await, 1);
    app.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_deletion_suspends_the_tenant_and_keeps_its_database() {
    let blueprint = TinyBlueprint::new();
    let app = App::of(Deployment::new().await, blueprint.source()).await;
    let org = new_org();
    app.accepts(&[&events::created(&org, "Acme")]).await;
    app.tenant(&org).is_ready().await;

    app.accepts(&[&events::deleted(&org, "Acme", 1)]).await;
    app.tenant(&org).is_in("suspended").await;
    assert_eq!(
        app.tenant(&org)
            .ask::<i64>("select count(*) from notes")
            .await,
        1
    );

    // nothing brings it back
    app.accepts(&[&events::updated(&org, "Acme again", 2)])
        .await;
    app.is_idle().await;
    app.tenant(&org).is_in("suspended").await;
    app.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_organization_that_was_deleted_first_gets_no_tenant() {
    let blueprint = TinyBlueprint::new();
    let app = App::of(Deployment::new().await, blueprint.source()).await;
    let org = new_org();
    app.accepts(&[
        &events::deleted(&org, "Acme", 1),
        &events::created(&org, "Acme"),
    ])
    .await;
    app.is_idle().await;
    assert!(app.tenant(&org).find().await.is_none());
    assert_eq!(app.deployment.tenant_databases().await, 0);
    let note = "select reason from webhook_events order by id desc limit 1";
    assert_eq!(
        app.ask::<String>(note).await,
        "its organization or user was deleted; a later event does not bring it back"
    );
    app.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn every_order_of_the_same_events_ends_in_the_same_organization() {
    let blueprint = TinyBlueprint::new();
    let app = App::of(Deployment::new().await, blueprint.source()).await;
    let orders = [
        [0, 1, 2],
        [0, 2, 1],
        [1, 0, 2],
        [1, 2, 0],
        [2, 0, 1],
        [2, 1, 0],
    ];
    let orgs: Vec<String> = orders.iter().map(|_| new_org()).collect();
    for (org, order) in orgs.iter().zip(orders) {
        let all = [
            events::created(org, "Acme"),
            events::updated(org, "Umbrella", 1),
            events::deleted(org, "Umbrella Inc", 2),
        ];
        app.accepts(&order.map(|at| &all[at])).await;
    }
    app.is_idle().await;
    let distinct = "select count(distinct (name, external_id, metadata, updated_at, deleted_at)) from organizations";
    assert_eq!(app.ask::<i64>(distinct).await, 1);
    let row = "select distinct concat_ws(' ', name, updated_at at time zone 'UTC', deleted_at at time zone 'UTC') from organizations";
    assert_eq!(
        app.ask::<String>(row).await,
        "Umbrella Inc 2026-11-16 09:02:00 2026-11-16 09:02:00"
    );
    let ready = "select count(*) from tenants where state <> 'suspended'";
    assert_eq!(
        app.ask::<i64>(ready).await,
        0,
        "nobody is routed to a deleted organization"
    );
    app.stop().await;
}
