//! The path of an event, as the README tells it.

use crate::support::{App, app::new_org, cluster::ask, events};

#[tokio::test(flavor = "multi_thread")]
async fn a_signed_webhook_becomes_a_ready_tenant() {
    let app = App::start().await;
    let org = new_org();

    let answer = app.deliver(&events::created(&org, "Acme Corp")).await;
    assert_eq!(
        (answer.status, &answer.body["status"]),
        (200, &"accepted".into())
    );

    let tenant = app.tenant(&org).is_ready().await;
    assert!(tenant.initialize);
    assert_eq!(tenant.name, "Acme Corp");
    assert_eq!(tenant.url, "acme-corp.localhost");
    assert_eq!(tenant.alembic_version, "0008_attachments");
    let plan = [
        "place",
        "create_database",
        "create_role",
        "seed",
        "sync_members",
        "verify",
        "activate",
    ];
    assert_eq!(app.tenant(&org).steps().await, plan);

    let url = app.tenant(&org).url().await;
    let name: String = ask(
        &url,
        "select value #>> '{}' from settings where key = 'workspace.name'",
    )
    .await;
    assert_eq!(name, "Acme Corp");
    app.is_idle().await;
    app.stop().await;
}
