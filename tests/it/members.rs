//! Members: what events say of them, what may be done about them, and what the provider is told.

use std::time::Duration;

use serde_json::{Value, json};
use tenantry::{
    members::{self, Status},
    webhooks::SourceKind,
};

use crate::support::{
    App, Deployment, TinyBlueprint,
    app::wait_until,
    people::{self, Belongs, new_id},
    provider::Provider,
    team::Team,
};

#[tokio::test(flavor = "multi_thread")]
async fn a_removal_is_soft_ends_assignments_and_can_be_taken_back_without_them() {
    let team = Team::alone().await;
    let ada = team.has("Ada", "admin").await;
    let bob = team.has("Bob", "member").await;
    assert!(team.assign(&bob, "customer_1").await.unwrap());
    assert!(team.assign(&bob, "customer_2").await.unwrap());
    assert!(
        !team.assign(&bob, "customer_2").await.unwrap(),
        "it was so already"
    );
    assert_eq!(team.remove(&bob, &ada).await.unwrap(), 2);
    assert_eq!(team.status(&bob).await, Status::Removed);
    assert_eq!(team.assignments().await, 0);
    assert_eq!(team.counts().await, ["active admin 1", "removed member 1"]);
    let again = team.remove(&bob, &ada).await.unwrap_err();
    assert_eq!(again.code(), "member_wrong_status");
    let assigned = team.assign(&bob, "customer_1").await.unwrap_err();
    assert_eq!(assigned.code(), "member_wrong_status");

    team.restore(&bob, &ada).await.unwrap();
    assert_eq!(team.status(&bob).await, Status::Active);
    assert_eq!(team.assignments().await, 0, "they do not come back");
    let again = team.restore(&bob, &ada).await.unwrap_err();
    assert_eq!(again.code(), "member_wrong_status");
    team.app.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn nobody_removes_themselves_or_the_last_administrator() {
    let team = Team::alone().await;
    let ada = team.has("Ada", "admin").await;
    let bob = team.has("Bob", "member").await;
    let code = async |user: &str, by: &str| team.remove(user, by).await.unwrap_err().code();
    assert_eq!(code(&bob, &bob).await, "member_is_yourself");
    assert_eq!(code(&ada, &bob).await, "member_is_last_admin");
    assert_eq!(code("user_unknown", &ada).await, "member_unknown");
    let eve = team.has("Eve", "admin").await;
    // each removes the other in the same instant: one of them must stay
    for _ in 0..5 {
        let (one, other) = tokio::join!(team.remove(&ada, &eve), team.remove(&eve, &ada));
        let outcomes = [
            one.map_err(|error| error.code()),
            other.map_err(|error| error.code()),
        ];
        let refused = [Err("member_is_last_admin")];
        assert!(
            outcomes.contains(&Ok(0)) && outcomes.contains(&refused[0]),
            "{outcomes:?}"
        );
        for user in [&ada, &eve] {
            let _ = team.restore(user, &bob).await;
        }
    }
    team.app.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_the_provider_ended_is_not_ours_to_restore() {
    let team = Team::alone().await;
    let ada = team.has("Ada", "admin").await;
    let (bob, membership) = (new_id("user"), new_id("om"));
    team.joins((&bob, &membership), "Bob", "member").await;
    let belongs = Belongs {
        id: &membership,
        org: &team.org,
        user: &bob,
        role: "member",
    };
    assert!(team.assign(&bob, "customer_1").await.unwrap());
    let inactive = people::membership("updated", belongs, "inactive", 2);
    team.app.accepts(&[&inactive]).await;
    team.app.is_idle().await;
    assert_eq!(team.status(&bob).await, Status::Removed);
    assert_eq!(team.assignments().await, 0, "they end with it");
    let refused = team.restore(&bob, &ada).await.unwrap_err();
    assert_eq!(refused.code(), "member_removed_elsewhere");
    let active = people::membership("updated", belongs, "active", 3);
    team.app.accepts(&[&active]).await;
    team.app.is_idle().await;
    assert_eq!(team.status(&bob).await, Status::Active);
    team.app.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_removal_here_ends_the_access_at_the_provider_and_its_echo_changes_nothing() {
    let provider = Provider::start(SourceKind::Workos).await;
    let team = Team::at(&provider).await;
    let ada = team.has("Ada", "admin").await;
    let bob = new_id("user");
    provider.has_user(&bob, "bob@acme.example");
    let membership = provider.has_membership(&team.org, &bob, "member", "active");
    team.joins((&bob, &membership), "Bob", "member").await;

    provider.fail_next("PUT", "/user_management", 503, 2);
    team.remove(&bob, &ada).await.unwrap();
    team.app.is_idle().await;
    assert_eq!(provider.memberships()[0]["status"], "inactive");
    assert_eq!(team.status(&bob).await, Status::Removed);
    let changes = "select count(*) from audit_log where target_kind = 'membership'";
    let before: i64 = team.app.ask(changes).await;
    // a webhook does not embed the user, as the API's list does
    let mut told = provider.memberships()[0].clone();
    told.as_object_mut().unwrap().remove("user");
    let echo = json!({
        "object": "event",
        "id": new_id("event"),
        "event": "organization_membership.updated",
        "data": told,
        "created_at": told["updated_at"],
    });
    team.app.accepts(&[&echo]).await;
    team.app.is_idle().await;
    assert_eq!(team.app.ask::<i64>(changes).await, before, "a no-op");
    let note = "select reason from webhook_events order by id desc limit 1";
    let note: String = team.app.ask(note).await;
    assert_eq!(note, "a newer description was there already");

    team.restore(&bob, &ada).await.unwrap();
    assert_eq!(team.status(&bob).await, Status::Active, "at once");
    team.app.is_idle().await;
    assert_eq!(provider.memberships()[0]["status"], "active");
    assert_eq!(team.status(&bob).await, Status::Active);
    team.app.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn of_many_changes_of_mind_the_provider_ends_in_the_last_one() {
    let provider = Provider::start(SourceKind::Workos).await;
    let team = Team::at(&provider).await;
    let ada = team.has("Ada", "admin").await;
    let bob = new_id("user");
    provider.has_user(&bob, "bob@acme.example");
    let membership = provider.has_membership(&team.org, &bob, "member", "active");
    team.joins((&bob, &membership), "Bob", "member").await;
    // the opinion changes while the provider is being told of the one before
    provider.stall_next("PUT", "/user_management", Duration::from_millis(600), 1);
    team.remove(&bob, &ada).await.unwrap();
    wait_until("the provider is being told", async || {
        provider.lines().iter().any(|line| line.starts_with("PUT"))
    })
    .await;
    team.restore(&bob, &ada).await.unwrap();
    team.app.is_idle().await;
    assert_eq!(provider.memberships()[0]["status"], "active");
    // the provider is slow, so that many change meanwhile
    provider.stall_next("PUT", "/user_management", Duration::from_millis(150), 9);
    for _ in 0..5 {
        team.remove(&bob, &ada).await.unwrap();
        tokio::time::sleep(Duration::from_millis(70)).await;
        team.restore(&bob, &ada).await.unwrap();
    }
    team.remove(&bob, &ada).await.unwrap();
    team.app.is_idle().await;
    assert_eq!(provider.memberships()[0]["status"], "inactive");
    assert_eq!(team.status(&bob).await, Status::Removed);
    team.app.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_invitation_is_sent_once_and_what_it_promised_reaches_the_member() {
    let provider = Provider::start(SourceKind::Workos).await;
    let team = Team::at(&provider).await;
    team.has("Ada", "admin").await;
    // the provider sends it and the answer is lost: the next attempt must find it
    provider.cut_after_next("POST", "/user_management/invitations", 1);
    team.invite("Tomas@Acme.example").await.unwrap();
    let twice = team.invite("tomas@acme.example").await.unwrap_err();
    assert_eq!(twice.code(), "member_already_there");
    assert_eq!(team.counts().await, ["active admin 1", "invited member 1"]);
    team.app.is_idle().await;
    let sent = provider.invitations();
    assert_eq!(sent.len(), 1, "{sent:?}");
    let lines = provider.lines();
    let posts = lines.iter().filter(|line| line.starts_with("POST"));
    assert_eq!(posts.count(), 1, "it was found, not sent again: {lines:?}");
    assert_eq!(sent[0]["role_slug"], "member");
    let state = "select concat_ws(' ', state, role, customer_id, invitation_id) from invitations";
    let id = sent[0]["id"].as_str().unwrap();
    assert_eq!(
        team.app.ask::<String>(state).await,
        format!("pending member customer_7 {id}")
    );

    let tomas = new_id("user");
    let belongs = Belongs {
        id: &new_id("om"),
        org: &team.org,
        user: &tomas,
        role: "member",
    };
    let accepted = people::accepted(id, (&team.org, "tomas@acme.example"), &tomas, 59);
    team.app.accepts(&[&accepted]).await;
    team.app.is_idle().await;
    assert_eq!(
        team.app.ask::<String>(state).await,
        format!("accepted member customer_7 {id}")
    );
    team.app
        .accepts(&[
            &people::membership("created", belongs, "active", 5),
            &people::user("created", &tomas, "tomas@acme.example", ("", ""), 5),
        ])
        .await;
    team.app.is_idle().await;
    let members = team.members().await;
    let tomas = members
        .iter()
        .find(|member| member.user_id == tomas)
        .unwrap();
    assert_eq!(tomas.customer_id.as_deref(), Some("customer_7"));
    assert_eq!(tomas.display_name, "tomas@acme.example");
    assert_eq!(team.counts().await, ["active admin 1", "active member 1"]);
    team.app.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_invitation_that_cannot_be_sent_says_why() {
    let team = Team::alone().await;
    let refused = team.invite("tomas@acme.example").await.unwrap_err();
    assert_eq!(refused.code(), "provider_api_not_configured");
    team.app.stop().await;

    let provider = Provider::start(SourceKind::Workos).await;
    let team = Team::at(&provider).await;
    for address in [
        "",
        "tomas",
        "@acme.example",
        "a b@acme.example",
        "a@b@c",
        "a\n@b",
    ] {
        let refused = team.invite(address).await.unwrap_err();
        assert_eq!(refused.code(), "email_invalid", "{address:?}");
    }
    let refusal = json!({ "code": "invalid_role", "message": "no such role" });
    provider.answer_next("POST", "/user_management/invitations", 400, &refusal, 1);
    team.invite("tomas@acme.example").await.unwrap();
    team.app.is_idle().await;
    let failure: String = team.app.ask("select failure from invitations").await;
    assert!(failure.starts_with("invalid_role: "), "{failure}");
    assert!(!failure.contains("tomas"), "{failure}");
    let dead = "select kind || ' ' || state from jobs order by id desc limit 1";
    assert_eq!(team.app.ask::<String>(dead).await, "send_invitation dead");
    assert_eq!(team.counts().await, Vec::<String>::new());
    team.invite("tomas@acme.example")
        .await
        .expect("it may be tried anew");
    team.app.is_idle().await;
    assert_eq!(provider.invitations().len(), 1);
    team.app.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn two_users_may_share_an_address_and_one_may_have_none() {
    let team = Team::alone().await;
    let users = [new_id("user"), new_id("user"), new_id("user")];
    for (user, email) in users
        .iter()
        .zip(["twin@acme.example", "Twin@acme.example", ""])
    {
        let belongs = Belongs {
            id: &new_id("om"),
            org: &team.org,
            user,
            role: "member",
        };
        team.app
            .accepts(&[
                &people::membership("created", belongs, "active", 1),
                &people::user("created", user, email, ("", ""), 1),
            ])
            .await;
    }
    team.app.is_idle().await;
    let members = team.members().await;
    let mut names: Vec<_> = members
        .iter()
        .map(|member| member.display_name.as_str())
        .collect();
    names.sort_unstable();
    assert_eq!(names, ["Twin@acme.example", "twin@acme.example", &users[2]]);
    assert_eq!(team.counts().await, ["active member 3"]);
    team.app.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn every_change_is_in_the_audit_log_which_nobody_can_rewrite() {
    let team = Team::alone().await;
    let ada = team.has("Ada", "admin").await;
    let bob = team.has("Bob", "member").await;
    team.assign(&bob, "customer_1").await.unwrap();
    team.remove(&bob, &ada).await.unwrap();
    let log = "select string_agg(concat_ws(' ', actor_kind, case when actor_kind <> 'event' then actor end, action), ', ' order by id)
               from audit_log where target_kind in ('membership', 'staff_assignment') and (after ->> 'user_id' is distinct from ";
    let sql = format!("{log}'{ada}')");
    assert_eq!(
        team.app.ask::<String>(&sql).await,
        format!(
            "event membership.created, operator ops staff_assignment.created, user {ada} membership.changed, user {ada} staff_assignment.deleted"
        )
    );
    let cause = "select event = (select id from webhook_events where event_type = 'organization_membership.created' order by id desc limit 1)
                 from audit_log where action = 'membership.created' order by id desc limit 1";
    assert!(
        team.app.ask::<bool>(cause).await,
        "the event that caused it"
    );
    let cause =
        "select event = (select id from webhook_events where event_type = 'organization.created')
                 from audit_log where action = 'tenant.created'";
    assert!(team.app.ask::<bool>(cause).await, "the tenant's as well");
    let change: Value = team
        .app
        .ask("select after from audit_log where action = 'membership.changed' order by id desc limit 1")
        .await;
    assert_eq!(change["removed_by"], json!(ada));
    let secrets = "select count(*) from audit_log where concat(before, after) like '%credential%'";
    assert_eq!(team.app.ask::<i64>(secrets).await, 0);
    let tenant = "select string_agg(action, ' ' order by id) from audit_log where target_kind in ('tenant', 'credential')";
    let tenant: String = team.app.ask(tenant).await;
    assert!(
        tenant.starts_with("tenant.created credential.created tenant.changed"),
        "{tenant}"
    );
    for sql in [
        "update audit_log set actor = 'nobody'",
        "delete from audit_log",
        "truncate audit_log",
    ] {
        for url in [team.app.deployment.control_url.clone(), operator(&team)] {
            let error = crate::support::cluster::try_execute(&url, sql)
                .await
                .unwrap_err();
            let code = tenantry::db::sqlstate(&error);
            assert_eq!(code.as_deref(), Some("42501"), "{sql}: {error}");
        }
    }
    team.app.stop().await;
}

fn operator(team: &Team) -> String {
    let (_, control) = team.app.deployment.control_url.rsplit_once('/').unwrap();
    team.app.deployment.operator_url(control)
}

#[tokio::test(flavor = "multi_thread")]
async fn the_creator_is_the_first_administrator_whichever_event_comes_first() {
    let blueprint = TinyBlueprint::new();
    let mut deployment = Deployment::new().await;
    deployment.set(
        "CLERK_WEBHOOK_SECRET",
        "whsec_dGVzdF9vZl90ZW5hbnRyeV8wMTIzNDU2Nzg5",
    );
    let app = App::of(deployment, blueprint.source()).await;
    let org: Value = fixture("organization.created");
    let member: Value = fixture("organizationMembership.created.admin");
    for (order, text) in [[&org, &member], [&member, &org]]
        .into_iter()
        .zip(["_1", "_2"])
    {
        for event in order {
            let body = event.to_string().replace(
                "org_3mQMefPZYo217KCYThEDYkR2pEH",
                &format!("org_clerk{text}"),
            );
            let body = body.replace(
                "orgmem_3WfRc7QOUOMknxuVpvRFst8fwtz",
                &format!("orgmem{text}"),
            );
            let answer = app.deliver_clerk(body.as_bytes()).await;
            assert_eq!(answer.status, 200);
        }
    }
    app.is_idle().await;
    let admins =
        "select count(*) from members where status = 'active' and role = 'admin' and is_creator";
    wait_until("both organizations have their administrator", async || {
        app.ask::<i64>(admins).await == 2
    })
    .await;
    let ready = "select count(*) from tenants where initialize";
    assert_eq!(app.ask::<i64>(ready).await, 2);
    app.stop().await;
}

fn fixture(name: &str) -> Value {
    let path = format!("tests/fixtures/webhooks/clerk/{name}.json");
    serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_role_that_is_told_late_reaches_the_member_and_its_tenant() {
    let team = Team::alone().await;
    let (user, id) = (new_id("user"), new_id("invitation"));
    let belongs = Belongs {
        id: &new_id("om"),
        org: &team.org,
        user: &user,
        role: "",
    };
    let email = "ada@acme.example";
    let accepted = people::accepted(&id, (&team.org, email), &user, 5);
    team.app
        .accepts(&[
            &people::user("created", &user, email, ("Ada", ""), 1),
            &people::membership("created", belongs, "active", 1),
            &accepted,
        ])
        .await;
    team.app.is_idle().await;
    let told = "select count(*) from jobs where kind = 'sync_members'";
    let before: i64 = team.app.ask(told).await;
    let mut created = people::accepted(&id, (&team.org, email), &user, 1);
    created["event"] = "invitation.created".into();
    created["data"]["state"] = "pending".into();
    created["data"]["role_slug"] = "editor".into();
    team.app.accepts(&[&created]).await;
    team.app.is_idle().await;
    let members = team.members().await;
    assert_eq!(members[0].role.as_deref(), Some("editor"));
    assert_eq!(team.app.ask::<i64>(told).await, before + 1);
    let note = "select reason is null from webhook_events order by id desc limit 1";
    assert!(team.app.ask::<bool>(note).await, "it was news");
    team.app.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn nobody_is_assigned_while_an_event_ends_the_membership() {
    let team = Team::alone().await;
    team.has("Ada", "admin").await;
    let bob = team.has("Bob", "member").await;
    let end = async |tx: &mut sqlx::PgConnection| {
        sqlx::query("update memberships set deleted_at = now() where user_id = $1")
            .bind(&bob)
            .execute(&mut *tx)
            .await?;
        members::end_assignments(tx, (vec!["workos"], vec![&team.org])).await?;
        tokio::time::sleep(std::time::Duration::from_millis(600)).await;
        Ok::<_, sqlx::Error>(())
    };
    let assign = async {
        tokio::time::sleep(std::time::Duration::from_millis(200)).await;
        team.assign(&bob, "customer_1").await
    };
    let (ended, assigned) = tokio::join!(team.app.replica.db.transaction(end), assign);
    ended.unwrap();
    assert_eq!(assigned.unwrap_err().code(), "member_wrong_status");
    assert_eq!(team.assignments().await, 0);
    team.app.stop().await;
}
