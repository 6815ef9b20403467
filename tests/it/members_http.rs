//! Members, invitations and staff assignments over HTTP.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use serde_json::{Value, json};
use tenantry::{api_keys::Scope, webhooks::SourceKind};
use tokio::task::JoinSet;

use crate::support::{Api, Provider, app::new_org, events, team::Team};

/// A team at its provider, and an operator's client.
async fn team_at(provider: &Provider) -> (Team, Api, String) {
    let team = Team::at(provider).await;
    team.has_at(provider, "Ada", "admin").await;
    let api = team.app.as_bearer(
        &team
            .app
            .key(&[Scope::MembersRead, Scope::MembersWrite])
            .await,
    );
    let base = format!("/v1/organizations/{}", team.org);
    (team, api, base)
}

fn texts(page: &Value, field: &str) -> Vec<String> {
    let rows = page["data"].as_array().unwrap().iter();
    rows.map(|row| row[field].as_str().unwrap().to_owned())
        .collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn an_operator_manages_the_members_of_an_organization() {
    let provider = Provider::start(SourceKind::Workos).await;
    let (team, api, base) = team_at(&provider).await;
    let bob = team.has_at(&provider, "Bob", "member").await;
    provider.has_role("editor");
    let members = format!("{base}/members");
    let first = api.get(&format!("{members}?limit=1")).await;
    assert_eq!(first.status, 200, "{:?}", first.body);
    assert_eq!(texts(&first.body, "display_name"), ["Ada Doe"]);
    let cursor = first.body["next_cursor"].as_str().unwrap();
    let second = api.get(&format!("{members}?limit=1&cursor={cursor}")).await;
    assert_eq!(texts(&second.body, "display_name"), ["Bob Doe"]);
    assert_eq!(second.body["next_cursor"], Value::Null);
    let found = api
        .get(&format!("{members}?q=BOB&role=member&status=active"))
        .await;
    assert_eq!(texts(&found.body, "user_id"), [&*bob]);
    assert_eq!(found.body["data"][0].get("sort_name"), None);
    let one = format!("{members}/{bob}");
    let changed = api.patch(&one, &json!({ "role": "editor" })).await;
    assert_eq!(
        (changed.status, &changed.body["role"]),
        (200, &json!("editor"))
    );
    let unknown = api.patch(&one, &json!({ "role": "x", "colour": 1 })).await;
    assert_eq!(unknown.refusal(), (400, "parameter_invalid"));
    team.app.is_idle().await;
    assert_eq!(provider.role_of(&bob), "editor");
    let who = "select actor_kind || ' ' || (request_id is not null)::text from audit_log where after ->> 'role_set' = 'editor'";
    assert_eq!(team.app.ask::<String>(who).await, "key true");

    let removed = api.delete(&one).await;
    assert_eq!(
        (removed.status, &removed.body["status"]),
        (200, &json!("removed"))
    );
    let again = api.delete(&one).await;
    assert_eq!(again.refusal(), (409, "member_wrong_status"));
    let counts = api.get(&format!("{members}/counts")).await;
    assert_eq!(
        counts.body[0],
        json!({ "status": "active", "role": "admin", "members": 1 })
    );
    let restored = api.post(&format!("{one}/restore"), &json!({})).await;
    assert_eq!(
        (restored.status, &restored.body["status"]),
        (200, &json!("active"))
    );
    let nobody = api.get(&format!("{members}/user_nobody")).await;
    assert_eq!(nobody.refusal(), (404, "member_unknown"));
    let nowhere = api.get("/v1/organizations/org_none/members").await;
    assert_eq!(nowhere.refusal(), (404, "organization_unknown"));
    let stranger = team.app.api().get(&members).await;
    assert_eq!(stranger.refusal(), (401, "credentials_missing"));
    team.app.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_page_that_cannot_be_is_refused() {
    let provider = Provider::start(SourceKind::Workos).await;
    let (team, api, base) = team_at(&provider).await;
    team.has_at(&provider, "Bob", "member").await;
    let members = format!("{base}/members");
    let first = api.get(&format!("{members}?limit=1")).await;
    let cursor = first.body["next_cursor"].as_str().unwrap();
    for (query, code) in [
        ("limit=0", "limit_invalid"),
        ("limit=201", "limit_invalid"),
        ("cursor=abc", "cursor_invalid"),
        ("colour=red", "parameter_invalid"),
        ("status=sleepy", "parameter_invalid"),
    ] {
        let refused = api.get(&format!("{members}?{query}")).await;
        assert_eq!(refused.refusal(), (400, code), "{query}");
    }
    let elsewhere = api
        .get(&format!("{base}/invitations?cursor={cursor}"))
        .await;
    assert_eq!(
        elsewhere.refusal(),
        (400, "cursor_invalid"),
        "of another list"
    );
    team.app.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_operator_invites_revokes_and_sends_again() {
    let provider = Provider::start(SourceKind::Workos).await;
    let (team, api, base) = team_at(&provider).await;
    let invitations = format!("{base}/invitations");
    let new = json!({ "email": "tomas@acme.example", "role": "member", "customer_id": "c7" });
    let invited = api.post(&invitations, &new).await;
    assert_eq!(invited.status, 201, "{:?}", invited.body);
    let id = invited.body["id"].as_str().unwrap();
    let one = format!("{invitations}/{id}");
    assert_eq!(invited.header("location"), Some(&*one));
    let twice = api.post(&invitations, &new).await;
    assert_eq!(twice.refusal(), (409, "member_already_there"));
    team.app.is_idle().await;
    let pending = api.get(&one).await;
    assert_eq!(pending.body["state"], "pending");
    let resent = api.post(&format!("{one}/resend"), &json!({})).await;
    assert_eq!(resent.status, 200);
    let revoked = api.delete(&one).await;
    assert_eq!(
        (revoked.status, &revoked.body["state"]),
        (200, &json!("revoked"))
    );
    team.app.is_idle().await;
    assert_eq!(provider.invitations()[0]["state"], "revoked");
    let again = api.delete(&one).await;
    assert_eq!(again.refusal(), (409, "invitation_wrong_state"));
    let listed = api.get(&format!("{invitations}?state=revoked")).await;
    assert_eq!(texts(&listed.body, "id"), [id]);
    let none = api.get(&format!("{invitations}?state=pending")).await;
    assert_eq!(none.body["data"], json!([]));
    let unknown = format!("{invitations}/{}", uuid::Uuid::nil());
    assert_eq!(
        api.delete(&unknown).await.refusal(),
        (404, "invitation_unknown")
    );
    let bad = api.post(&invitations, &json!({ "email": "nobody" })).await;
    assert_eq!(bad.refusal(), (422, "email_invalid"));
    team.app.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_operator_assigns_staff_and_ends_it() {
    let provider = Provider::start(SourceKind::Workos).await;
    let (team, api, base) = team_at(&provider).await;
    let bob = team.has_at(&provider, "Bob", "member").await;
    let staff = format!("{base}/staff-assignments");
    let new = json!({ "user_id": bob, "customer_id": "c/1" });
    let assigned = api.post(&staff, &new).await;
    assert_eq!(
        (assigned.status, &assigned.body["customer_id"]),
        (201, &json!("c/1"))
    );
    assert_eq!(
        api.post(&staff, &new).await.status,
        201,
        "it was so already"
    );
    let listed = api.get(&format!("{staff}?user={bob}&customer=c%2F1")).await;
    assert_eq!(texts(&listed.body, "user_id"), [&*bob]);
    let one = format!("{staff}/{bob}/c%2F1");
    assert_eq!(api.delete(&one).await.status, 200);
    assert_eq!(
        api.delete(&one).await.refusal(),
        (404, "assignment_unknown")
    );
    let nobody = json!({ "user_id": "user_no", "customer_id": "c1" });
    assert_eq!(
        api.post(&staff, &nobody).await.refusal(),
        (404, "member_unknown")
    );
    team.app.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn many_lists_of_a_slow_database_keep_no_delivery_out() {
    let provider = Provider::start(SourceKind::Workos).await;
    let (team, api, base) = team_at(&provider).await;
    let slow = async |tx: &mut sqlx::PgConnection| {
        sqlx::query("lock table memberships in access exclusive mode")
            .execute(tx)
            .await?;
        tokio::time::sleep(Duration::from_secs(8)).await;
        Ok::<_, sqlx::Error>(())
    };
    let api = Arc::new(api);
    let mut lists = JoinSet::new();
    let ask = async {
        tokio::time::sleep(Duration::from_millis(300)).await;
        for path in ["members", "members/counts"].repeat(12) {
            let (api, path) = (Arc::clone(&api), format!("{base}/{path}"));
            lists.spawn(async move { api.get(&path).await.status });
        }
        tokio::time::sleep(Duration::from_millis(300)).await;
        let begun = Instant::now();
        team.app
            .accepts(&[&events::created(&new_org(), "Other")])
            .await;
        assert!(begun.elapsed() < Duration::from_secs(2), "{begun:?}");
        lists.join_all().await
    };
    let (held, statuses) = tokio::join!(team.app.replica.db.transaction(slow), ask);
    held.unwrap();
    assert!(statuses.contains(&503), "a deadline: {statuses:?}");
    assert_eq!(api.get(&format!("{base}/members")).await.status, 200);
    team.app.stop().await;
}
