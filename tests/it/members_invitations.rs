//! Invitations that are taken back or sent again, whatever happens at the provider meanwhile.

use std::time::Duration;

use serde_json::json;
use tenantry::{actions, members, queue::JobId, webhooks::SourceKind};
use uuid::Uuid;

use crate::support::{
    Provider,
    app::wait_until,
    people::{self, Belongs, new_id},
    team::Team,
};

const TOMAS: &str = "tomas@acme.example";

/// What the provider calls each of its invitations.
fn states(provider: &Provider) -> Vec<String> {
    let invitations = provider.invitations().into_iter();
    invitations
        .map(|object| {
            let word = object["state"].as_str().or(object["status"].as_str());
            word.unwrap().to_owned()
        })
        .collect()
}

/// A team whose provider can be called.
async fn team_at(provider: &Provider, kind: SourceKind) -> Team {
    if kind == SourceKind::Clerk {
        return Team::at_clerk(provider).await.0;
    }
    let team = Team::at(provider).await;
    team.has_at(provider, "Ada", "admin").await;
    team
}

fn count(provider: &Provider, ending: &str) -> usize {
    let lines = provider.lines();
    lines.iter().filter(|line| line.ends_with(ending)).count()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pending_invitation_is_revoked_at_once_here_and_then_at_the_provider() {
    for kind in [SourceKind::Workos, SourceKind::Clerk] {
        let provider = Provider::start(kind).await;
        let team = team_at(&provider, kind).await;
        let id = team.invite(TOMAS).await.unwrap();
        team.app.is_idle().await;
        assert_eq!(team.state(id).await, "pending");
        // the provider is down, then does it and its answer is lost
        for prefix in ["/user_management/invitations", "/v1/organizations"] {
            provider.fail_next("POST", prefix, 503, 1);
            provider.cut_after_next("POST", prefix, 1);
        }
        team.revoke(id).await.unwrap();
        assert_eq!(team.state(id).await, "revoked", "at once");
        assert_eq!(team.counts().await, ["active admin 1"]);
        let again = team.revoke(id).await.unwrap_err();
        assert_eq!(again.code(), "invitation_wrong_state");
        team.app.is_idle().await;
        assert_eq!(states(&provider), ["revoked"]);
        assert_eq!(team.state(id).await, "revoked");
        let state = "select state from invitations";
        assert_eq!(team.app.ask::<String>(state).await, "revoked");

        let id = team.invite(TOMAS).await.expect("there is none any more");
        team.app.is_idle().await;
        assert_eq!(states(&provider), ["revoked", "pending"]);
        assert_eq!(team.state(id).await, "pending");
        team.app.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_invitation_of_somebody_else_is_unknown() {
    let provider = Provider::start(SourceKind::Workos).await;
    let team = team_at(&provider, SourceKind::Workos).await;
    let mut elsewhere = people::accepted("invitation_x", ("org_other", TOMAS), "", 1);
    elsewhere["event"] = "invitation.created".into();
    elsewhere["data"]["state"] = "pending".into();
    team.app.accepts(&[&elsewhere]).await;
    wait_until("it is known", async || {
        team.app
            .ask::<i64>("select count(*) from invitations")
            .await
            == 1
    })
    .await;
    let other: Uuid = team.app.ask("select id from invitations").await;
    for id in [other, Uuid::nil()] {
        let code = team.revoke(id).await.unwrap_err().code();
        assert_eq!(code, "invitation_unknown");
        let code = team.resend(id).await.unwrap_err().code();
        assert_eq!(code, "invitation_unknown");
    }
    team.app.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn one_that_was_not_sent_yet_is_taken_back_with_its_job() {
    let provider = Provider::start(SourceKind::Workos).await;
    let team = team_at(&provider, SourceKind::Workos).await;
    // both in one transaction: no worker has seen the job
    let (of, actor) = (team.organization(), crate::support::app::operator());
    let promise = tenantry::members::Promise {
        email: TOMAS,
        role: None,
        customer_id: None,
    };
    let both = async |tx: &mut sqlx::PgConnection| {
        let id = team.desk.invite(tx, of, promise, &actor).await?;
        team.desk.revoke(tx, of, id, &actor).await?;
        Ok::<_, tenantry::members::Error>(id)
    };
    let id = team.app.replica.db.transaction(both).await.unwrap();
    team.app.is_idle().await;
    assert_eq!(team.state(id).await, "revoked");
    assert_eq!(count(&provider, "/invitations"), 0, "nothing was asked");
    // a later one to the same address is another one
    let later = team.invite(TOMAS).await.unwrap();
    team.app.is_idle().await;
    assert_eq!(team.state(later).await, "pending");
    assert_eq!(team.state(id).await, "revoked");
    assert_eq!(states(&provider), ["pending"]);
    team.app.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn one_that_is_just_being_sent_ends_revoked_everywhere() {
    for kind in [SourceKind::Workos, SourceKind::Clerk] {
        let provider = Provider::start(kind).await;
        let team = team_at(&provider, kind).await;
        provider.stall_next("POST", "/", Duration::from_millis(700), 1);
        let id = team.invite(TOMAS).await.unwrap();
        wait_until("it is being sent", async || {
            count(&provider, "/invitations") == 2
        })
        .await;
        team.revoke(id).await.unwrap();
        assert_eq!(team.state(id).await, "revoked");
        team.app.is_idle().await;
        assert_eq!(states(&provider), ["revoked"]);
        assert_eq!(team.state(id).await, "revoked");
        assert_eq!(
            team.app
                .ask::<i64>("select count(*) from invitations")
                .await,
            1
        );
        team.app.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn one_whose_sending_was_cut_off_is_looked_for_and_revoked() {
    let provider = Provider::start(SourceKind::Workos).await;
    let team = team_at(&provider, SourceKind::Workos).await;
    provider.cut_after_next("POST", "/user_management/invitations", 1);
    let id = team.invite(TOMAS).await.unwrap();
    wait_until("the provider has it", async || {
        provider.invitations().len() == 1
    })
    .await;
    // its event comes before it is looked for
    provider.rate_limit_next("GET", "/user_management/invitations", "1", 1);
    team.revoke(id).await.unwrap();
    let sent = provider.invitations().remove(0);
    team.hears("invitation.created", &sent).await;
    assert_eq!(states(&provider), ["revoked"]);
    assert_eq!(team.state(id).await, "revoked");
    let rows = "select count(*) from invitations";
    assert_eq!(team.app.ask::<i64>(rows).await, 1, "it is one invitation");
    team.app.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn whoever_is_invited_again_before_the_provider_heard_gets_a_new_invitation() {
    let provider = Provider::start(SourceKind::Workos).await;
    let team = team_at(&provider, SourceKind::Workos).await;
    let first = team.invite(TOMAS).await.unwrap();
    team.app.is_idle().await;
    provider.fail_next("POST", "/user_management/invitations", 503, 1);
    team.revoke(first).await.unwrap();
    wait_until("the provider was asked", async || {
        count(&provider, "/revoke") == 1
    })
    .await;
    // this job may run before the other is tried again
    let second = team.invite(TOMAS).await.unwrap();
    team.app.is_idle().await;
    assert_eq!(team.state(first).await, "revoked");
    assert_eq!(team.state(second).await, "pending");
    assert_eq!(states(&provider), ["revoked", "pending"]);
    team.app.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn whoever_accepted_before_the_provider_heard_is_in() {
    for kind in [SourceKind::Workos, SourceKind::Clerk] {
        let provider = Provider::start(kind).await;
        let team = team_at(&provider, kind).await;
        let id = team.invite(TOMAS).await.unwrap();
        team.app.is_idle().await;
        let tomas = new_id("user");
        provider.has_user(&tomas, TOMAS);
        let sent = provider.invitations()[0]["id"].as_str().unwrap().to_owned();
        let membership = provider.accepts_invitation(&sent, &tomas);
        team.revoke(id).await.unwrap();
        assert_eq!(team.state(id).await, "revoked", "as far as is known");
        team.app.is_idle().await;
        assert_eq!(team.state(id).await, "accepted");
        team.hears_membership("created", &provider.membership(&membership))
            .await;
        assert_eq!(team.role(&tomas).await, "member");
        assert_eq!(
            team.app
                .ask::<i64>("select count(*) from jobs where state = 'dead'")
                .await,
            0
        );
        team.app.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_the_provider_refuses_to_revoke_is_shown_as_it_is_there() {
    let provider = Provider::start(SourceKind::Workos).await;
    let team = team_at(&provider, SourceKind::Workos).await;
    let id = team.invite(TOMAS).await.unwrap();
    team.app.is_idle().await;
    let refusal = json!({ "code": "not_today", "message": "no" });
    provider.answer_next("POST", "/user_management/invitations", 400, &refusal, 1);
    team.revoke(id).await.unwrap();
    team.app.is_idle().await;
    assert_eq!(team.state(id).await, "pending");
    let job = team
        .app
        .ask::<i64>("select id from jobs where kind = 'revoke_invitation'")
        .await;
    let actor = crate::support::app::operator();
    let retry = async |tx: &mut _| actions::retry_job(tx, JobId(job), 25, &actor).await;
    let refused = team.app.replica.db.transaction(retry).await.unwrap_err();
    assert_eq!(refused.code(), "revocation_given_up");
    team.revoke(id).await.expect("it may be tried anew");
    team.app.is_idle().await;
    assert_eq!(states(&provider), ["revoked"]);
    assert_eq!(team.state(id).await, "revoked");
    team.app.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pending_invitation_is_sent_again_by_a_provider_that_can() {
    let provider = Provider::start(SourceKind::Workos).await;
    let team = team_at(&provider, SourceKind::Workos).await;
    let id = team.invite(TOMAS).await.unwrap();
    team.app.is_idle().await;
    let before = provider.invitations()[0]["expires_at"].clone();
    provider.fail_next("POST", "/user_management/invitations", 503, 1);
    team.resend(id).await.unwrap();
    team.app.is_idle().await;
    assert_eq!(count(&provider, "/resend"), 2);
    let after = provider.invitations()[0]["expires_at"].clone();
    assert_ne!(before, after);
    let known = "select content ->> 'expires_at' from invitations";
    let known: String = team.app.ask(known).await;
    assert_eq!(known[..19], after.as_str().unwrap()[..19], "it is recorded");
    let who = "select actor from audit_log where after ? 'resend_requested_at'";
    assert_eq!(team.app.ask::<String>(who).await, "ops");

    // accepted meanwhile: nothing to send, and no failure
    let tomas = new_id("user");
    let sent = provider.invitations()[0]["id"].as_str().unwrap().to_owned();
    provider.accepts_invitation(&sent, &tomas);
    team.resend(id).await.unwrap();
    team.app.is_idle().await;
    assert_eq!(team.state(id).await, "accepted");
    let code = team.resend(id).await.unwrap_err().code();
    assert_eq!(code, "invitation_wrong_state");
    assert_eq!(
        team.app
            .ask::<i64>("select count(*) from jobs where state = 'dead'")
            .await,
        0
    );
    team.app.stop().await;

    let clerk = Provider::start(SourceKind::Clerk).await;
    let team = team_at(&clerk, SourceKind::Clerk).await;
    let id = team.invite(TOMAS).await.unwrap();
    team.app.is_idle().await;
    let code = team.resend(id).await.unwrap_err().code();
    assert_eq!(code, "provider_unsupported");
    team.app.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn without_an_api_key_nothing_at_the_provider_is_revoked() {
    let team = Team::alone().await;
    let mut created = people::accepted("invitation_1", (&team.org, TOMAS), "", 1);
    created["event"] = "invitation.created".into();
    created["data"]["state"] = "pending".into();
    team.app.accepts(&[&created]).await;
    team.app.is_idle().await;
    let id: Uuid = team.app.ask("select id from invitations").await;
    let code = team.revoke(id).await.unwrap_err().code();
    assert_eq!(code, "provider_api_not_configured");
    assert_eq!(team.state(id).await, "pending");
    let belongs = Belongs {
        id: &new_id("om"),
        org: &team.org,
        user: &new_id("user"),
        role: "member",
    };
    let joined = people::membership("created", belongs, "active", 2);
    team.app.accepts(&[&joined]).await;
    team.app.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn one_that_was_taken_back_may_be_open_although_its_sending_failed() {
    let provider = Provider::start(SourceKind::Workos).await;
    let team = team_at(&provider, SourceKind::Workos).await;
    provider.cut_after_next("POST", "/user_management/invitations", 1);
    let id = team.invite(TOMAS).await.unwrap();
    wait_until("the provider has it", async || {
        provider.invitations().len() == 1
    })
    .await;
    wait_until("the attempt has failed", async || {
        let waiting =
            "select count(*) from jobs where kind = 'send_invitation' and state = 'available'";
        team.app.ask::<i64>(waiting).await == 1
    })
    .await;
    // taken back, and the last attempt to send it fails in the same moment
    let (of, actor) = (team.organization(), crate::support::app::operator());
    let both = async |tx: &mut sqlx::PgConnection| {
        sqlx::query(
            "update jobs set state = 'dead', finished_at = now() where kind = 'send_invitation'",
        )
        .execute(&mut *tx)
        .await?;
        team.desk.revoke(tx, of, id, &actor).await?;
        members::mark_not_sent(tx, id, "the answer never came").await?;
        Ok::<_, members::Error>(())
    };
    team.app.replica.db.transaction(both).await.unwrap();
    team.app.is_idle().await;
    assert_eq!(states(&provider), ["revoked"]);
    assert_eq!(team.state(id).await, "revoked");
    team.app.stop().await;
}
