//! Roles that are given here: shown at once, told to the provider and to the tenant, ended by the provider's later word.

use std::time::Duration;

use serde_json::{Value, json};
use tenantry::webhooks::SourceKind;

use crate::support::{Provider, app::wait_until, people::new_id, team::Team};

/// Who decided what is left to be told.
const DECIDED: &str = "select count(*) from memberships where role_set is not null";

/// How the provider is told of roles.
const TELLINGS: [&str; 2] = ["PATCH /v1/organizations", "PUT /user_management"];

fn tellings(provider: &Provider) -> usize {
    let is_telling = |line: &&String| TELLINGS.iter().any(|begin| line.starts_with(begin));
    provider.lines().iter().filter(is_telling).count()
}

/// A team at the provider with an administrator and a member.
async fn team_at(provider: &Provider, kind: SourceKind) -> (Team, String, String) {
    let (team, ada) = if kind == SourceKind::Clerk {
        Team::at_clerk(provider).await
    } else {
        let team = Team::at(provider).await;
        let ada = team.has_at(provider, "Ada", "admin").await;
        (team, ada)
    };
    let bob = team.has_at(provider, "Bob", "member").await;
    provider.has_role("editor");
    provider.has_role("viewer");
    (team, ada, bob)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_role_is_shown_at_once_and_reaches_provider_and_tenant() {
    for kind in [SourceKind::Workos, SourceKind::Clerk] {
        let provider = Provider::start(kind).await;
        let (team, ada, bob) = team_at(&provider, kind).await;
        // the provider is down, and comes back
        for method in ["PUT", "PATCH"] {
            provider.fail_next(method, "/", 503, 2);
        }
        assert!(team.set_role(&bob, "editor", &ada).await.unwrap());
        assert_eq!(team.role(&bob).await, "editor", "at once");
        assert_eq!(provider.role_of(&bob), "member");
        team.app.is_idle().await;
        assert_eq!(provider.role_of(&bob), "editor");
        assert_eq!(tellings(&provider), 3, "{:?}", provider.lines());
        assert_eq!(team.role(&bob).await, "editor");
        assert_eq!(team.app.ask::<i64>(DECIDED).await, 0, "it was told");
        let told = format!("select role from member_syncs where user_id = '{bob}'");
        assert_eq!(team.app.ask::<String>(&told).await, "editor");

        let changes = "select count(*) from audit_log where target_kind = 'membership'";
        let before: i64 = team.app.ask(changes).await;
        team.hears_membership("updated", &provider.membership_of(&bob))
            .await;
        assert_eq!(team.app.ask::<i64>(changes).await, before, "its echo");

        assert!(!team.set_role(&bob, "editor", &ada).await.unwrap());
        team.app.is_idle().await;
        assert_eq!(tellings(&provider), 3, "it was so already");
        let who = "select actor_kind || ' ' || actor from audit_log where after ->> 'role_set' = 'editor'";
        assert_eq!(team.app.ask::<String>(who).await, format!("user {ada}"));
        team.app.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn of_two_roles_the_provider_ends_in_the_last_one_even_when_the_first_echoes() {
    for kind in [SourceKind::Workos, SourceKind::Clerk] {
        let provider = Provider::start(kind).await;
        let (team, ada, bob) = team_at(&provider, kind).await;
        for method in ["PUT", "PATCH"] {
            provider.stall_next(method, "/", Duration::from_millis(800), 1);
        }
        team.set_role(&bob, "editor", &ada).await.unwrap();
        wait_until("the provider is being told", async || {
            tellings(&provider) == 1
        })
        .await;
        team.set_role(&bob, "viewer", &ada).await.unwrap();
        assert_eq!(team.role(&bob).await, "viewer");
        team.app.is_idle().await;
        assert_eq!(provider.role_of(&bob), "viewer");
        assert_eq!(team.role(&bob).await, "viewer");

        // the provider has the next one, its answer is lost, and its event is faster than the next attempt
        for method in ["PUT", "PATCH"] {
            provider.cut_after_next(method, "/", 1);
            provider.rate_limit_next(method, "/", "2", 1);
        }
        team.set_role(&bob, "editor", &ada).await.unwrap();
        wait_until("the provider has it", async || {
            provider.role_of(&bob) == "editor"
        })
        .await;
        team.set_role(&bob, "member", &ada).await.unwrap();
        team.hears_membership("updated", &provider.membership_of(&bob))
            .await;
        assert_eq!(team.role(&bob).await, "member", "an echo is no later word");
        assert_eq!(provider.role_of(&bob), "member");
        assert_eq!(team.app.ask::<i64>(DECIDED).await, 0);
        team.app.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn many_changes_of_mind_about_access_and_role_end_in_the_last_ones() {
    let provider = Provider::start(SourceKind::Workos).await;
    let (team, ada, bob) = team_at(&provider, SourceKind::Workos).await;
    provider.stall_next("PUT", "/", Duration::from_millis(120), 9);
    for role in ["editor", "viewer", "member", "viewer"] {
        team.set_role(&bob, role, &ada).await.unwrap();
        tokio::time::sleep(Duration::from_millis(50)).await;
        team.remove(&bob, &ada).await.unwrap();
        tokio::time::sleep(Duration::from_millis(70)).await;
        team.restore(&bob, &ada).await.unwrap();
        // whatever the answer to an earlier question is, the member is active again in a moment
        wait_until("the member is back", async || {
            team.status(&bob).await == tenantry::members::Status::Active
        })
        .await;
    }
    team.set_role(&bob, "editor", &ada).await.unwrap();
    team.app.is_idle().await;
    assert_eq!(provider.role_of(&bob), "editor");
    assert_eq!(team.role(&bob).await, "editor");
    team.app.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_role_outlives_a_removal_that_the_provider_hears_of_first() {
    for kind in [SourceKind::Workos, SourceKind::Clerk] {
        let provider = Provider::start(kind).await;
        let (team, ada, bob) = team_at(&provider, kind).await;
        for method in ["PUT", "PATCH"] {
            provider.rate_limit_next(method, "/", "1", 1);
        }
        team.set_role(&bob, "editor", &ada).await.unwrap();
        team.remove(&bob, &ada).await.unwrap();
        team.app.is_idle().await;
        team.restore(&bob, &ada).await.unwrap();
        team.app.is_idle().await;
        assert_eq!(provider.role_of(&bob), "editor", "{kind:?}");
        assert_eq!(team.role(&bob).await, "editor");
        team.app.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_providers_later_word_wins() {
    // the provider changes it itself before it can be told
    let provider = Provider::start(SourceKind::Workos).await;
    let (team, ada, bob) = team_at(&provider, SourceKind::Workos).await;
    provider.rate_limit_next("PUT", "/", "2", 1);
    team.set_role(&bob, "editor", &ada).await.unwrap();
    wait_until("the provider was asked", async || tellings(&provider) == 1).await;
    let changed = provider.changes_role(&bob, "viewer");
    team.hears_membership("updated", &changed).await;
    assert_eq!(team.role(&bob).await, "viewer");
    assert_eq!(provider.role_of(&bob), "viewer");
    assert_eq!(tellings(&provider), 1, "what is overtaken is not told");
    assert_eq!(team.app.ask::<i64>(DECIDED).await, 0);
    team.app.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_role_that_the_provider_refuses_does_not_stand_here() {
    for kind in [SourceKind::Workos, SourceKind::Clerk] {
        let provider = Provider::start(kind).await;
        let (team, ada, bob) = team_at(&provider, kind).await;
        team.set_role(&bob, "ghost", &ada).await.unwrap();
        team.app.is_idle().await;
        assert_eq!(team.role(&bob).await, "member");
        let told = format!("select role from member_syncs where user_id = '{bob}'");
        assert_eq!(team.app.ask::<String>(&told).await, "member");
        let why = "select error_code from job_attempts where error is not null order by started_at desc limit 1";
        assert_eq!(team.app.ask::<String>(why).await, "invalid_role");
        // and what comes after it is told
        team.set_role(&bob, "editor", &ada).await.unwrap();
        team.app.is_idle().await;
        assert_eq!(provider.role_of(&bob), "editor");
        team.app.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn nobody_changes_their_own_role_or_that_of_the_last_administrator() {
    let provider = Provider::start(SourceKind::Workos).await;
    let (team, ada, bob) = team_at(&provider, SourceKind::Workos).await;
    provider.has_role("planner");
    provider.has_role("dispatcher");
    let code = async |user: &str, role: &str, by: &str| {
        let refused = team.set_role(user, role, by).await;
        refused.map_err(|error| error.code())
    };
    assert_eq!(code(&bob, "admin", &bob).await, Err("member_is_yourself"));
    assert_eq!(
        code(&ada, "member", &bob).await,
        Err("member_is_last_admin")
    );
    assert_eq!(code(&ada, "admin", &bob).await, Ok(false), "so already");
    assert_eq!(code("user_no", "admin", &ada).await, Err("member_unknown"));
    for text in ["", " ", "a\nb", &"x".repeat(256)] {
        assert_eq!(code(&bob, text, &ada).await, Err("member_text_invalid"));
    }
    team.remove(&bob, &ada).await.unwrap();
    assert_eq!(code(&bob, "editor", &ada).await, Err("member_wrong_status"));
    team.app.is_idle().await;
    team.restore(&bob, &ada).await.unwrap();
    team.app.is_idle().await;
    // from here on the provider says which roles there are
    let role = |slug: &str| {
        json!({
            "object": "event",
            "id": new_id("event"),
            "event": "role.created",
            "data": {
                "object": "role", "slug": slug, "permissions": [],
                "created_at": "2026-11-16T07:36:40.000Z", "updated_at": "2026-11-16T07:36:40.000Z",
            },
            "created_at": "2026-11-16T07:36:40.040Z",
        })
    };
    team.app
        .accepts(&[&role("admin"), &role("dispatcher")])
        .await;
    let mut own = role("planner");
    own["event"] = "organization_role.created".into();
    own["data"]["object"] = "organization_role".into();
    own["data"]["organization_id"] = json!(team.org);
    let mut other = own.clone();
    other["id"] = json!(new_id("event"));
    other["data"]["slug"] = "stranger".into();
    other["data"]["organization_id"] = "org_other".into();
    team.app.accepts(&[&own, &other]).await;
    wait_until("the roles are known", async || {
        team.app.ask::<i64>("select count(*) from roles").await == 4
    })
    .await;
    assert_eq!(code(&bob, "member", &ada).await, Err("role_unknown"));
    assert_eq!(code(&bob, "stranger", &ada).await, Err("role_unknown"));
    let invited = team.invite("tomas@acme.example").await.unwrap_err();
    assert_eq!(invited.code(), "role_unknown", "an invitation as well");
    assert_eq!(code(&bob, "planner", &ada).await, Ok(true));
    assert_eq!(code(&bob, "dispatcher", &ada).await, Ok(true));
    team.app.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn of_two_administrators_who_demote_each_other_in_one_instant_one_stays() {
    let provider = Provider::start(SourceKind::Workos).await;
    let (team, ada, bob) = team_at(&provider, SourceKind::Workos).await;
    let eve = team.has_at(&provider, "Eve", "admin").await;
    for _ in 0..5 {
        let (one, other) = tokio::join!(
            team.set_role(&ada, "member", &eve),
            team.set_role(&eve, "member", &ada)
        );
        let outcomes = [
            one.map_err(|error| error.code()),
            other.map_err(|error| error.code()),
        ];
        assert!(
            outcomes.contains(&Ok(true)) && outcomes.contains(&Err("member_is_last_admin")),
            "{outcomes:?}"
        );
        for user in [&ada, &eve] {
            team.set_role(user, "admin", &bob).await.unwrap();
        }
        team.app.is_idle().await;
    }
    team.app.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_description_that_is_merely_late_overrules_nothing() {
    let provider = Provider::start(SourceKind::Workos).await;
    let (team, ada, bob) = team_at(&provider, SourceKind::Workos).await;
    provider.rate_limit_next("PUT", "/", "4", 1);
    // written before the decision, delivered after it
    let mut other = provider.membership_of(&bob);
    other["role"]["slug"] = "viewer".into();
    tokio::time::sleep(Duration::from_millis(20)).await;
    let written = team.app.ask::<String>("select to_char(clock_timestamp() at time zone 'utc', 'YYYY-MM-DD\"T\"HH24:MI:SS.MS\"Z\"')").await;
    other["updated_at"] = json!(written);
    tokio::time::sleep(Duration::from_millis(20)).await;
    team.set_role(&bob, "editor", &ada).await.unwrap();
    wait_until("the provider was asked", async || tellings(&provider) == 1).await;
    tell(&team, &other).await;
    assert_eq!(team.role(&bob).await, "editor", "an older word is none");

    // by a provider's clock that is ahead: the role of before once more
    let mut same = provider.membership_of(&bob);
    same["updated_at"] = "2100-01-01T00:00:00.000Z".into();
    tell(&team, &same).await;
    assert_eq!(team.role(&bob).await, "editor", "a repetition is none");
    team.app.is_idle().await;
    assert_eq!(provider.role_of(&bob), "editor", "and the provider is told");
    team.app.stop().await;
}

/// An event about a membership is recorded, while other jobs wait.
async fn tell(team: &Team, membership: &Value) {
    let mut data = membership.clone();
    data.as_object_mut().unwrap().remove("user");
    let event = json!({
        "object": "event", "id": new_id("event"), "event": "organization_membership.updated",
        "data": data, "created_at": data["updated_at"],
    });
    team.app.accepts(&[&event]).await;
    wait_until("it is recorded", async || {
        let pending = "select count(*) from webhook_events where state = 'received'";
        team.app.ask::<i64>(pending).await == 0
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn without_an_api_key_no_role_is_given() {
    let team = Team::alone().await;
    let ada = team.has("Ada", "admin").await;
    let bob = team.has("Bob", "member").await;
    let refused = team.set_role(&bob, "editor", &ada).await.unwrap_err();
    assert_eq!(refused.code(), "provider_api_not_configured");
    assert_eq!(team.role(&bob).await, "member");
    team.app.stop().await;
}
