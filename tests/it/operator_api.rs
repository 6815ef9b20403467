//! The API of operators, as a client with an API key calls it.

use serde_json::{Value, json};
use tenantry::{
    api_keys::{Scope, Scopes},
    tenants::Tenant,
};

use crate::support::{
    Api, App, Deployment, TinyBlueprint,
    app::{new_org, wait_until},
    cluster::try_execute,
    events,
};

/// A deployment with a ready tenant.
struct House {
    app: App,
    tenant: Tenant,
    _blueprint: TinyBlueprint,
}

impl House {
    async fn new() -> Self {
        let blueprint = TinyBlueprint::new();
        let app = App::of(Deployment::new().await, blueprint.source()).await;
        let org = new_org();
        app.accepts(&[&events::created(&org, "Acme")]).await;
        let tenant = app.tenant(&org).is_ready().await;
        app.is_idle().await;
        Self {
            app,
            tenant,
            _blueprint: blueprint,
        }
    }

    /// A client with a key of this scope.
    async fn with(&self, scope: &str) -> Api {
        let parsed = Scopes::parse(scope).unwrap();
        let is_for_operators =
            |one: &Scope| !matches!(one, Scope::Admin | Scope::RegistrationsSubmit);
        let is_meant = |one: &Scope| is_for_operators(one) && parsed.allows(*one);
        let scopes: Vec<Scope> = Scope::ALL.into_iter().filter(is_meant).collect();
        self.app.as_bearer(&self.app.key(&scopes).await)
    }

    fn path(&self, rest: &str) -> String {
        format!("/v1/tenants/{}{rest}", self.tenant.id)
    }

    async fn count(&self, action: &str) -> i64 {
        let count = format!(
            "select count(*) from audit_log
             where action = '{action}' and actor_kind = 'key' and request_id is not null"
        );
        self.app.ask(&count).await
    }
}

fn nothing() -> Value {
    json!({})
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tenant_is_found_suspended_once_and_resumed() {
    let house = House::new().await;
    let (read, write) = (
        house.with("tenants:read").await,
        house.with("tenants:write").await,
    );
    let listed = read.get("/v1/tenants?state=ready&q=acme").await;
    assert_eq!(listed.status, 200);
    assert_eq!(listed.body["data"][0]["id"], json!(house.tenant.id));
    assert_eq!(listed.body["next_cursor"], Value::Null);
    let none = read.get("/v1/tenants?source=clerk").await;
    assert_eq!(none.body["data"], json!([]));
    let text = read.get(&house.path("")).await.body.to_string();
    assert!(
        text.contains("\"state\":\"ready\"") && !text.contains("credential"),
        "{text}"
    );

    let suspend = house.path("/suspend");
    let refused = read.post(&suspend, &nothing()).await;
    assert_eq!(refused.refusal(), (403, "scope_missing"));
    let keyed = write.clone().header("idempotency-key", "\"suspend-1\"");
    let first = keyed.post(&suspend, &nothing()).await;
    assert_eq!(
        (first.status, &first.body["state"]),
        (200, &json!("suspended"))
    );
    assert_eq!(first.header("idempotency-replayed"), None);
    let again = keyed.post(&suspend, &nothing()).await;
    assert_eq!((again.status, &again.body), (200, &first.body));
    assert_eq!(again.header("idempotency-replayed"), Some("true"));
    assert_eq!(house.count("tenant.changed").await, 1, "once");
    let other = keyed.post(&house.path("/resume"), &nothing()).await;
    assert_eq!(other.refusal(), (422, "idempotency_key_reused"));
    let without = write.post(&suspend, &nothing()).await;
    assert_eq!(without.refusal(), (409, "tenant_wrong_state"));
    let bad = write.clone().header("idempotency-key", "\"open");
    let bad = bad.post(&suspend, &nothing()).await;
    assert_eq!(bad.refusal(), (400, "idempotency_key_invalid"));

    let resumed = write.post(&house.path("/resume"), &nothing()).await;
    assert_eq!(
        (resumed.status, &resumed.body["state"]),
        (200, &json!("ready"))
    );
    let retried = write.post(&house.path("/retry"), &nothing()).await;
    assert_eq!(retried.refusal(), (409, "tenant_wrong_state"));
    house.app.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_password_is_shown_for_a_ready_tenant_and_never_without_a_trace() {
    let house = House::new().await;
    let (path, connect) = (
        house.path("/connection"),
        house.with("tenants:connect").await,
    );
    for scope in ["tenants:*", "events:*"] {
        let refused = house.with(scope).await.get(&path).await;
        assert_eq!(refused.refusal(), (403, "scope_missing"), "{scope}");
    }
    assert_eq!(house.count("credential.revealed").await, 0);
    let shown = connect.get(&path).await;
    assert_eq!(
        (shown.status, shown.header("cache-control")),
        (200, Some("no-store"))
    );
    let url = shown.body["url"].as_str().unwrap();
    assert!(url.contains(shown.body["password"].as_str().unwrap()));
    assert!(url.contains(&format!(":{}/", shown.body["port"])), "{url}");
    assert_eq!(shown.body["username"], json!(house.tenant.username));
    try_execute(url, "select count(*) from notes")
        .await
        .unwrap();
    assert_eq!(house.count("credential.revealed").await, 1);

    let write = house.with("tenants:write").await;
    write.post(&house.path("/suspend"), &nothing()).await;
    let refused = connect.get(&path).await;
    assert_eq!(refused.refusal(), (423, "tenant_suspended"));
    let sql = "update tenants set state = 'provisioning'";
    try_execute(&house.app.deployment.control_url, sql)
        .await
        .unwrap();
    let refused = connect.get(&path).await;
    assert_eq!(refused.refusal(), (503, "tenant_not_ready"));
    let sql = "update tenants set state = 'deleted'";
    try_execute(&house.app.deployment.control_url, sql)
        .await
        .unwrap();
    let refused = connect.get(&path).await;
    assert_eq!(refused.refusal(), (409, "tenant_wrong_state"));
    assert_eq!(
        house.count("credential.revealed").await,
        1,
        "nothing was shown"
    );
    house.app.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_further_host_is_given_resolved_and_taken_back() {
    let house = House::new().await;
    let (read, write) = (
        house.with("tenants:read").await,
        house.with("tenants:write").await,
    );
    let host = house.path("/hosts/CRM.acme.example");
    let resolve = "/v1/tenants/resolve?host=crm.acme.example";
    assert_eq!(read.get(resolve).await.refusal(), (404, "tenant_unknown"));
    for _ in 0..2 {
        let given = write.put(&host, &nothing()).await;
        assert_eq!(
            (given.status, &given.body["data"][0]["host"]),
            (200, &json!("crm.acme.example"))
        );
    }
    // what was remembered of the host is forgotten
    wait_until("the host is resolved", async || {
        read.get(resolve).await.status == 200
    })
    .await;
    let taken = write
        .put(
            &house.path(&format!("/hosts/{}", house.tenant.url)),
            &nothing(),
        )
        .await;
    assert_eq!(taken.refusal(), (409, "host_taken"));
    let invalid = write.put(&house.path("/hosts/10.0.0.1"), &nothing()).await;
    assert_eq!(invalid.refusal(), (400, "host_invalid"));
    let removed = write.delete(&host).await;
    assert_eq!((removed.status, &removed.body["data"]), (200, &json!([])));
    assert_eq!(write.delete(&host).await.refusal(), (404, "host_unknown"));
    assert_eq!(
        read.get(&house.path("/hosts")).await.body,
        json!({ "data": [] })
    );
    wait_until("the host is forgotten", async || {
        read.get(resolve).await.status == 404
    })
    .await;
    house.app.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn events_are_followed_page_by_page_and_replayed() {
    let house = House::new().await;
    let (read, write) = (
        house.with("events:read").await,
        house.with("events:write").await,
    );
    let org = &house.tenant.org_id;
    for minute in 1..4 {
        house
            .app
            .accepts(&[&events::updated(org, "Acme Inc", minute)])
            .await;
    }
    house.app.is_idle().await;
    let path = format!("/v1/events?org_id={org}&type=organization.updated&state=processed&limit=2");
    let first = read.get(&path).await;
    assert_eq!(first.body["data"].as_array().unwrap().len(), 2);
    let cursor = first.body["next_cursor"].as_str().unwrap();
    let last = read.get(&format!("{path}&cursor={cursor}")).await;
    assert_eq!(last.body["data"].as_array().unwrap().len(), 1);
    assert_eq!(last.body["next_cursor"], Value::Null);

    let event = last.body["data"][0]["id"].to_string();
    let shown = read.get(&format!("/v1/events/{event}")).await;
    assert_eq!(shown.body["state"], "processed");
    assert!(
        shown.body.get("body").is_none(),
        "what was sent is not shown"
    );
    let replayed = write
        .post(&format!("/v1/events/{event}/replay"), &nothing())
        .await;
    assert_eq!(
        (replayed.status, &replayed.body["state"]),
        (200, &json!("received"))
    );
    assert_eq!(house.count("event.replayed").await, 1);
    let audit = house.with("audit:read").await;
    let found = audit
        .get(&format!(
            "/v1/audit?action=event.replayed&target={event}&limit=1"
        ))
        .await;
    assert_eq!(found.body["data"][0]["actor_kind"], "key");
    assert_eq!(found.body["data"][0]["org_id"], json!(org));
    assert!(found.body["data"][0]["request_id"].is_string());
    house.app.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn jobs_are_found_by_their_tenant_and_left_alone_when_they_are_done() {
    let house = House::new().await;
    let (read, write) = (
        house.with("events:read").await,
        house.with("events:write").await,
    );
    let jobs = read
        .get(&format!(
            "/v1/jobs?tenant={}&kind=provision_tenant",
            house.tenant.id
        ))
        .await;
    assert_eq!(
        jobs.body["data"].as_array().unwrap().len(),
        1,
        "{}",
        jobs.body
    );
    let job = jobs.body["data"][0]["id"].to_string();
    let shown = read.get(&format!("/v1/jobs/{job}")).await;
    assert_eq!(shown.body["state"], "completed");
    assert_eq!(shown.body["attempts"][0]["outcome"], "completed");
    for act in ["retry", "cancel"] {
        let refused = write
            .post(&format!("/v1/jobs/{job}/{act}"), &nothing())
            .await;
        assert_eq!(refused.refusal(), (409, "job_wrong_state"), "{act}");
        let refused = read
            .post(&format!("/v1/jobs/{job}/{act}"), &nothing())
            .await;
        assert_eq!(refused.refusal(), (403, "scope_missing"), "{act}");
    }
    house.app.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_read_is_refused_and_what_is_not_there_is_404() {
    let house = House::new().await;
    let admin = house.with("admin").await;
    for path in [
        "/v1/tenants?color=red",
        "/v1/tenants?state=blue",
        "/v1/tenants/17",
        "/v1/tenants/17/hosts",
        "/v1/tenants/17/connection",
        "/v1/events?status=failed",
        "/v1/events/abc",
        "/v1/jobs/abc",
        "/v1/jobs?tenant=abc",
        "/v1/jobs?state=undead",
        "/v1/audit?who=me",
        "/v1/audit?limit=-1",
    ] {
        assert_eq!(
            admin.get(path).await.refusal(),
            (400, "parameter_invalid"),
            "{path}"
        );
    }
    for list in ["tenants", "events", "jobs", "audit"] {
        let refused = admin.get(&format!("/v1/{list}?cursor=x")).await;
        assert_eq!(refused.refusal(), (400, "cursor_invalid"), "{list}");
        let refused = admin.get(&format!("/v1/{list}?limit=201")).await;
        assert_eq!(refused.refusal(), (400, "limit_invalid"), "{list}");
        let refused = house.app.api().get(&format!("/v1/{list}")).await;
        assert_eq!(refused.refusal(), (401, "credentials_missing"), "{list}");
    }
    let nobody = "/v1/tenants/00000000-0000-0000-0000-000000000000";
    for (path, code) in [
        (nobody.to_owned(), "tenant_unknown"),
        (format!("{nobody}/hosts"), "tenant_unknown"),
        (format!("{nobody}/connection"), "tenant_unknown"),
        ("/v1/events/0".to_owned(), "event_unknown"),
        ("/v1/jobs/0".to_owned(), "job_unknown"),
    ] {
        assert_eq!(admin.get(&path).await.refusal(), (404, code), "{path}");
    }
    for (path, code) in [
        (format!("{nobody}/suspend"), "tenant_unknown"),
        ("/v1/events/0/replay".to_owned(), "event_unknown"),
        ("/v1/jobs/0/cancel".to_owned(), "job_unknown"),
    ] {
        assert_eq!(
            admin.post(&path, &nothing()).await.refusal(),
            (404, code),
            "{path}"
        );
    }
    let refused = admin
        .post(&house.path("/suspend"), &json!({ "why": "x" }))
        .await;
    assert_eq!(
        refused.refusal(),
        (400, "parameter_invalid"),
        "it takes no body"
    );
    house.app.stop().await;
}
