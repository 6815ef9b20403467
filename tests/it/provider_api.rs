//! The client of the providers' APIs, against a provider that keeps the real one's rules and breaks when told to.

use std::{
    io,
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

use chrono::{DateTime, Utc};
use secrecy::SecretString;
use serde_json::{Value, json};
use tenantry::{
    causes,
    provider_api::{Client, Error, MembershipRef, NewInvitation, Refusal},
    webhooks::{
        IdentityEvent, Invitation, InvitationState, Membership, MembershipStatus, Organization,
        Said, SourceKind, User,
    },
};

use crate::support::{Provider, provider::API_KEY};

const ORG: &str = "org_1";
const DANA: &str = "user_dana";
const TOMAS: &str = "user_tomas";
const BOTH: [SourceKind; 2] = [SourceKind::Workos, SourceKind::Clerk];

/// A provider that knows one organization and two users.
async fn provider(kind: SourceKind) -> Provider {
    let provider = Provider::start(kind).await;
    provider.has_organization(ORG, "Brightwater", "2026-11-16T09:00:00Z");
    provider.has_user(DANA, "dana@brightwater.example");
    provider.has_user(TOMAS, "tomas@brightwater.example");
    provider
}

fn to(email: &str) -> NewInvitation<'_> {
    NewInvitation {
        org_id: ORG,
        email,
        role: None,
        inviter_user_id: None,
        customer_id: None,
    }
}

fn of<'a>(user_id: &'a str, membership_id: &'a str) -> MembershipRef<'a> {
    MembershipRef {
        org_id: ORG,
        user_id,
        membership_id,
        role: Some("admin"),
    }
}

fn time(text: &str) -> DateTime<Utc> {
    DateTime::parse_from_rfc3339(text).unwrap().to_utc()
}

fn organizations(events: &[IdentityEvent]) -> Vec<&Said<Organization>> {
    let found = events.iter().filter_map(|event| match event {
        IdentityEvent::Organization(said) => Some(said),
        _ => None,
    });
    found.collect()
}

fn users(events: &[IdentityEvent]) -> Vec<&Said<User>> {
    let found = events.iter().filter_map(|event| match event {
        IdentityEvent::User(said) => Some(said),
        _ => None,
    });
    found.collect()
}

fn memberships(events: &[IdentityEvent]) -> Vec<&Said<Membership>> {
    let found = events.iter().filter_map(|event| match event {
        IdentityEvent::Membership(said) => Some(said),
        _ => None,
    });
    found.collect()
}

/// The only membership in events, how it looks.
fn membership(events: &[IdentityEvent]) -> &Membership {
    match &memberships(events)[..] {
        [said] => &said.described.as_ref().unwrap().content,
        other => panic!("not one membership: {other:?}"),
    }
}

fn content(said: &Said<Invitation>) -> &Invitation {
    &said.described.as_ref().unwrap().content
}

#[tokio::test]
async fn an_organization_is_found_as_a_webhook_would_describe_it() {
    for kind in BOTH {
        let provider = provider(kind).await;
        let client = provider.client();
        let events = client.find_organization(ORG).await.unwrap().unwrap();
        let [said] = organizations(&events)[..] else {
            panic!("{kind:?}: {events:?}");
        };
        let described = said.described.as_ref().unwrap();
        assert_eq!(
            (said.id.as_str(), described.content.name.as_str()),
            (ORG, "Brightwater")
        );
        assert_eq!(described.updated_at, time("2026-11-16T09:00:00Z"));
        assert_eq!(said.deleted_at, None);
        assert_eq!(client.find_organization("org_none").await.unwrap(), None);
        provider.forgets_organization(ORG);
        assert_eq!(client.find_organization(ORG).await.unwrap(), None);
    }
}

#[tokio::test]
async fn a_user_is_found_with_the_address() {
    for kind in BOTH {
        let provider = provider(kind).await;
        let client = provider.client();
        let events = client.find_user(DANA).await.unwrap().unwrap();
        let [said] = users(&events)[..] else {
            panic!("{kind:?}: {events:?}");
        };
        let user = &said.described.as_ref().unwrap().content;
        assert_eq!(user.email.as_deref(), Some("dana@brightwater.example"));
        assert_eq!(client.find_user("user_none").await.unwrap(), None);
    }
}

#[tokio::test]
async fn requests_say_who_asks_and_how() {
    for kind in BOTH {
        let provider = provider(kind).await;
        provider.client().find_organization(ORG).await.unwrap();
        let requests = provider.requests();
        let [request] = &requests[..] else {
            panic!("{requests:?}");
        };
        let prefix = if kind == SourceKind::Clerk { "/v1" } else { "" };
        assert_eq!(request.line(), format!("GET {prefix}/organizations/{ORG}"));
        assert_eq!(request.header("authorization"), format!("Bearer {API_KEY}"));
        assert_eq!(
            request.header("user-agent"),
            concat!("tenantry/", env!("CARGO_PKG_VERSION"))
        );
        let version = request.header("clerk-api-version");
        assert_eq!(version.is_empty(), kind == SourceKind::Workos);
    }
}

#[tokio::test]
async fn every_page_and_every_status_of_memberships_is_listed() {
    for kind in BOTH {
        let provider = provider(kind).await;
        for at in 0..230 {
            let status = ["active", "pending", "inactive"][at % 3];
            provider.has_membership(ORG, &format!("user_{at}"), "member", status);
        }
        provider.has_membership("org_other", DANA, "member", "active");
        let events = provider.client().list_memberships(ORG).await.unwrap();
        let found = memberships(&events);
        let mut names: Vec<&str> = found
            .iter()
            .map(|said| {
                let described = said.described.as_ref().unwrap();
                assert_eq!(described.content.organization_id, ORG);
                described.content.user_id.as_str()
            })
            .collect();
        names.sort_unstable();
        names.dedup();
        assert_eq!((found.len(), names.len()), (230, 230), "{kind:?}");
        let pages = if kind == SourceKind::Clerk { 5 } else { 3 };
        assert_eq!(provider.requests().len(), pages);
        if kind == SourceKind::Workos {
            let pending = found.iter().filter(|said| {
                said.described.as_ref().unwrap().content.status == MembershipStatus::Pending
            });
            assert_eq!(pending.count(), 77);
        }
    }
}

#[tokio::test]
async fn invitations_are_listed_by_organization_and_address() {
    for kind in BOTH {
        let provider = provider(kind).await;
        provider.has_organization("org_2", "Other", "2026-11-16T09:00:00Z");
        let client = provider.client();
        for at in 0..120 {
            let address = format!("p{at}@brightwater.example");
            client.send_invitation(&to(&address)).await.unwrap();
        }
        let elsewhere = NewInvitation {
            org_id: "org_2",
            ..to("p7@brightwater.example")
        };
        client.send_invitation(&elsewhere).await.unwrap();
        let all = client.list_invitations(ORG, None).await.unwrap();
        assert_eq!(all.len(), 120, "{kind:?}");
        let one = client.list_invitations(ORG, Some("P7@Brightwater.example"));
        let one = one.await.unwrap();
        let [said] = &one[..] else {
            panic!("{kind:?}: {one:?}");
        };
        assert_eq!(
            content(said).email.as_deref(),
            Some("p7@brightwater.example")
        );
        let nobody = client.list_invitations(ORG, Some("x@example.com")).await;
        assert_eq!(nobody.unwrap(), []);
    }
}

#[tokio::test]
async fn a_provider_that_ignores_the_address_is_filtered_here() {
    let provider = provider(SourceKind::Workos).await;
    let client = provider.client();
    for address in ["a@x.example", "b@x.example"] {
        client.send_invitation(&to(address)).await.unwrap();
    }
    let all = json!({"data": provider.invitations(), "list_metadata": {}});
    provider.answer_next("GET", "/user_management/invitations", 200, &all, 1);
    let found = client.list_invitations(ORG, Some("b@x.example")).await;
    assert_eq!(found.unwrap().len(), 1);
}

#[tokio::test]
async fn an_invitation_is_sent_with_role_inviter_and_customer() {
    for kind in BOTH {
        let provider = provider(kind).await;
        let new = NewInvitation {
            role: Some("admin"),
            inviter_user_id: Some(DANA),
            customer_id: Some("customer_7"),
            ..to("new@brightwater.example")
        };
        let said = provider.client().send_invitation(&new).await.unwrap();
        let sent = content(&said);
        assert_eq!(sent.organization_id.as_deref(), Some(ORG));
        assert_eq!(sent.email.as_deref(), Some("new@brightwater.example"));
        assert_eq!(sent.role.as_deref(), Some("admin"));
        assert_eq!(sent.state, InvitationState::Pending);
        assert_eq!(sent.inviter_user_id.as_deref(), Some(DANA));
        assert!(sent.expires_at.is_some());
        let body = &provider.requests()[0].body;
        if kind == SourceKind::Clerk {
            assert_eq!(body["role"], "org:admin");
            assert_eq!(sent.customer_id.as_deref(), Some("customer_7"));
        } else {
            assert_eq!(body["role_slug"], "admin");
            assert_eq!(sent.customer_id, None, "WorkOS has no place for it");
        }
        assert_eq!(provider.invitations().len(), 1);
    }
}

#[tokio::test]
async fn what_a_provider_refuses_has_a_reason() {
    for kind in BOTH {
        let provider = provider(kind).await;
        provider.has_membership(ORG, DANA, "admin", "active");
        let client = provider.client();
        client.send_invitation(&to("a@x.example")).await.unwrap();
        let elsewhere = NewInvitation {
            org_id: "org_none",
            ..to("b@x.example")
        };
        let pirate = NewInvitation {
            role: Some("pirate"),
            ..to("b@x.example")
        };
        let mut cases = vec![
            (to("A@x.example"), Refusal::AlreadyInvited),
            (to("dana@brightwater.example"), Refusal::AlreadyMember),
            (to("nobody"), Refusal::EmailRefused),
            (elsewhere, Refusal::NotFound),
            (pirate, Refusal::InvalidRole),
        ];
        if kind == SourceKind::Workos {
            cases.push((to("a@undeliverable.example"), Refusal::EmailRefused));
        }
        for (new, reason) in cases {
            let error = client.send_invitation(&new).await.unwrap_err();
            assert_eq!(error.reason(), Some(reason), "{kind:?}: {error}");
            assert_eq!(error.code(), reason.code());
            assert!(!error.is_retryable());
            let text = error.to_string();
            assert!(!text.contains('@'), "an address in {text}");
            assert!(text.starts_with("inviting to organization org_"), "{text}");
            let request = if kind == SourceKind::Clerk {
                " (request trace_of_clerk)"
            } else {
                " (request req_of_workos)"
            };
            assert!(text.ends_with(request), "{text}");
        }
        assert_eq!(provider.invitations().len(), 1);
    }
}

#[tokio::test]
async fn a_403_about_the_organization_is_no_bad_key() {
    let provider = provider(SourceKind::Clerk).await;
    let client = provider.client();
    for (code, reason) in [
        (
            "organization_membership_quota_exceeded",
            Refusal::MemberLimit,
        ),
        (
            "invitations_not_supported_in_organization",
            Refusal::MayNotInvite,
        ),
        ("not_an_admin_in_organization", Refusal::MayNotInvite),
    ] {
        let body = json!({"errors": [{"message": "no", "code": code}]});
        provider.answer_next("POST", "/v1/", 403, &body, 1);
        let error = client.send_invitation(&to("a@x.example")).await;
        assert_eq!(error.unwrap_err().reason(), Some(reason));
    }
    let body = json!({"errors": [{"message": "no", "code": "authorization_invalid"}]});
    provider.answer_next("POST", "/v1/", 403, &body, 1);
    let error = client.send_invitation(&to("a@x.example")).await;
    assert_eq!(error.unwrap_err().code(), "provider_unauthorized");
}

#[tokio::test]
async fn an_invitation_is_revoked_once() {
    for kind in BOTH {
        let provider = provider(kind).await;
        let client = provider.client();
        let sent = client.send_invitation(&to("a@x.example")).await.unwrap();
        let revoked = client.revoke_invitation(ORG, &sent.id).await.unwrap();
        assert_eq!(revoked.id, sent.id);
        assert_eq!(content(&revoked).state, InvitationState::Revoked);
        let again = client.revoke_invitation(ORG, &sent.id).await.unwrap_err();
        assert_eq!(
            again.reason(),
            Some(Refusal::InvitationNotPending),
            "{again}"
        );
        let unknown = client.revoke_invitation(ORG, "inv_none").await.unwrap_err();
        assert_eq!(unknown.reason(), Some(Refusal::NotFound), "{unknown}");
        // the place is free again
        client.send_invitation(&to("a@x.example")).await.unwrap();
    }
}

#[tokio::test]
async fn an_accepted_invitation_is_a_membership_and_cannot_be_revoked() {
    for kind in BOTH {
        let provider = provider(kind).await;
        provider.has_role("owner");
        let client = provider.client();
        let new = NewInvitation {
            role: Some("owner"),
            ..to("tomas@brightwater.example")
        };
        let sent = client.send_invitation(&new).await.unwrap();
        let id = provider.accepts_invitation(&sent.id, TOMAS);
        let listed = client.list_invitations(ORG, None).await.unwrap();
        assert_eq!(content(&listed[0]).state, InvitationState::Accepted);
        let events = client.list_memberships(ORG).await.unwrap();
        assert_eq!(memberships(&events)[0].id, id);
        assert_eq!(membership(&events).role.as_deref(), Some("owner"));
        let error = client.revoke_invitation(ORG, &sent.id).await.unwrap_err();
        assert_eq!(error.reason(), Some(Refusal::InvitationNotPending));
        let error = client.send_invitation(&new).await.unwrap_err();
        assert_eq!(error.reason(), Some(Refusal::AlreadyMember));
    }
}

#[tokio::test]
async fn workos_resends_and_clerk_cannot() {
    let workos = provider(SourceKind::Workos).await;
    let client = workos.client();
    let sent = client.send_invitation(&to("a@x.example")).await.unwrap();
    let resent = client.resend_invitation(ORG, &sent.id).await.unwrap();
    assert_eq!(resent.id, sent.id);
    assert!(content(&resent).expires_at > content(&sent).expires_at);
    workos.has_settled(&sent.id, "accepted");
    let error = client.resend_invitation(ORG, &sent.id).await.unwrap_err();
    assert_eq!(error.reason(), Some(Refusal::InvitationNotPending));

    let clerk = provider(SourceKind::Clerk).await;
    let error = clerk.client().resend_invitation(ORG, "orginv_1").await;
    let error = error.unwrap_err();
    assert_eq!(error.code(), "provider_unsupported");
    assert!(!error.is_retryable());
    assert_eq!(clerk.lines(), Vec::<String>::new());
}

#[tokio::test]
async fn workos_deactivates_and_reactivates_what_it_keeps() {
    let provider = provider(SourceKind::Workos).await;
    let client = provider.client();
    let id = provider.has_membership(ORG, DANA, "admin", "active");
    for _ in 0..2 {
        let events = client.deactivate_membership(&of(DANA, &id)).await.unwrap();
        assert_eq!(membership(&events).status, MembershipStatus::Inactive);
    }
    for _ in 0..2 {
        let events = client.reactivate_membership(&of(DANA, &id)).await.unwrap();
        assert_eq!(membership(&events).status, MembershipStatus::Active);
    }
    assert_eq!(provider.memberships().len(), 1);
    let gone = client.deactivate_membership(&of(DANA, "om_none")).await;
    assert_eq!(gone.unwrap(), [], "unknown is as good as inactive");

    let id = provider.has_membership(ORG, TOMAS, "member", "pending");
    for error in [
        client.deactivate_membership(&of(TOMAS, &id)).await,
        client.reactivate_membership(&of(TOMAS, &id)).await,
    ] {
        let error = error.unwrap_err();
        assert_eq!(error.reason(), Some(Refusal::MembershipPending), "{error}");
    }
}

#[tokio::test]
async fn workos_makes_a_deleted_membership_anew() {
    let provider = provider(SourceKind::Workos).await;
    let client = provider.client();
    let events = client.reactivate_membership(&of(DANA, "om_gone")).await;
    let events = events.unwrap();
    let found = membership(&events);
    assert_eq!(found.role.as_deref(), Some("admin"));
    assert_eq!(found.status, MembershipStatus::Active);
    let id = memberships(&events)[0].id.clone();
    // whoever still has the old id finds the new membership
    let events = client.reactivate_membership(&of(DANA, "om_gone")).await;
    let events = events.unwrap();
    assert_eq!(memberships(&events)[0].id, id);
    assert_eq!(provider.memberships().len(), 1);
}

#[tokio::test]
async fn clerk_ends_and_renews_a_membership() {
    let provider = provider(SourceKind::Clerk).await;
    let client = provider.client();
    provider.has_membership(ORG, DANA, "admin", "active");
    let events = client.deactivate_membership(&of(DANA, "")).await.unwrap();
    assert_eq!(provider.memberships(), Vec::<Value>::new());
    assert_eq!(
        provider.lines(),
        ["DELETE /v1/organizations/org_1/memberships/user_dana"]
    );
    let [said] = memberships(&events)[..] else {
        panic!("{events:?}");
    };
    let was = said.described.as_ref().unwrap();
    // by the clock of the answer, which is this machine's
    assert!(said.deleted_at.unwrap() > was.updated_at, "{said:?}");
    assert_eq!(events.len(), 1, "nothing is said of the organization");
    let again = client.deactivate_membership(&of(DANA, "")).await.unwrap();
    assert_eq!(again, [], "unknown is as good as ended");
    for _ in 0..2 {
        let events = client.reactivate_membership(&of(DANA, "")).await.unwrap();
        assert_eq!(membership(&events).role.as_deref(), Some("admin"));
        assert_eq!(provider.memberships().len(), 1);
    }
}

#[tokio::test]
async fn a_status_says_whether_to_come_back() {
    for kind in BOTH {
        let provider = provider(kind).await;
        let client = provider.client();
        for (status, code, is_retryable) in [
            (400, "provider_refused", false),
            (401, "provider_unauthorized", false),
            (403, "provider_unauthorized", false),
            (408, "provider_unavailable", true),
            (409, "provider_refused", false),
            (418, "provider_refused", false),
            (422, "provider_refused", false),
            (500, "provider_unavailable", true),
            (503, "provider_unavailable", true),
        ] {
            provider.fail_next("GET", "/", status, 1);
            let error = client.find_organization(ORG).await.unwrap_err();
            assert_eq!(
                (error.code(), error.is_retryable()),
                (code, is_retryable),
                "{status}: {error}"
            );
            assert!(error.to_string().contains(&status.to_string()), "{error}");
            assert_eq!(error.retry_after(), None);
        }
        let found = client.find_organization(ORG).await.unwrap();
        assert!(found.is_some());
    }
}

#[tokio::test]
async fn a_404_that_is_not_the_providers_finds_nobody_gone() {
    for kind in BOTH {
        let provider = provider(kind).await;
        for body in [
            &b"<html>404 Not Found</html>"[..],
            b"",
            br#"{"message":"Cannot GET /v2/organizations/org_1","statusCode":404}"#,
        ] {
            provider.bytes_next("GET", "/", 404, &[], body);
            let error = provider.client().find_organization(ORG).await.unwrap_err();
            assert_eq!(error.code(), "provider_unreadable", "{error}");
        }
    }
}

#[tokio::test]
async fn an_answer_that_makes_no_sense_is_unreadable() {
    let provider = provider(SourceKind::Workos).await;
    let client = provider.client();
    let bodies = [
        b"<html>maintenance</html>".to_vec(),
        Vec::new(),
        b"[]".to_vec(),
        br#"{"id":"org_1"}"#.to_vec(),
        br#"{"id":5}"#.to_vec(),
    ];
    for body in bodies {
        provider.bytes_next("GET", "/", 200, &[], &body);
        let error = client.find_organization(ORG).await.unwrap_err();
        assert_eq!(error.code(), "provider_unreadable", "{error}");
        assert!(error.is_retryable());
    }
    for (page, times, problem) in [
        (json!([]), 1, "the page is not an object"),
        (json!({"data": {}}), 1, "the page has no list"),
        (json!({"data": [5]}), 1, "it is not an object"),
        (
            json!({"data": [{"id": "om_1"}], "list_metadata": {"after": "om_1"}}),
            2,
            "the page leads to itself",
        ),
    ] {
        provider.answer_next("GET", "/", 200, &page, times);
        let error = client.list_memberships(ORG).await.unwrap_err();
        assert_eq!(error.code(), "provider_unreadable");
        assert!(error.to_string().contains(problem), "{error}");
    }
}

#[tokio::test]
async fn an_answer_of_two_megabytes_is_not_read() {
    let provider = provider(SourceKind::Workos).await;
    let body = json!({
        "id": ORG,
        "name": "x".repeat(2 << 20),
        "updated_at": "2026-11-16T09:00:00Z",
    });
    provider.answer_next("GET", "/", 200, &body, 1);
    let error = provider.client().find_organization(ORG).await.unwrap_err();
    let text = error.to_string();
    assert!(text.ends_with("it is larger than 1048576 bytes"), "{text}");
}

#[tokio::test]
async fn an_error_of_two_megabytes_still_has_its_status() {
    let provider = provider(SourceKind::Workos).await;
    provider.bytes_next("GET", "/", 502, &[], "x".repeat(2 << 20).as_bytes());
    let error = provider.client().find_user(DANA).await.unwrap_err();
    assert_eq!(error.code(), "provider_unavailable", "{error}");
}

#[tokio::test]
async fn a_redirect_is_not_followed() {
    let provider = provider(SourceKind::Workos).await;
    let elsewhere = Provider::start(SourceKind::Workos).await;
    let headers = [("location", elsewhere.url())];
    for status in [301, 302, 307, 308] {
        provider.bytes_next("GET", "/", status, &headers, b"");
        let error = provider.client().find_user(DANA).await.unwrap_err();
        assert_eq!(error.code(), "provider_unreadable", "{error}");
    }
    assert_eq!(elsewhere.lines(), Vec::<String>::new());
}

#[tokio::test]
async fn a_provider_that_does_not_answer_is_unavailable() {
    let provider = provider(SourceKind::Workos).await;
    let client = provider.client().with_timeout(Duration::from_millis(300));
    provider.stall_next("GET", "/", Duration::from_secs(30), 1);
    let began = Instant::now();
    let error = client.find_user(DANA).await.unwrap_err();
    assert!(began.elapsed() < Duration::from_secs(5));
    assert!(error.to_string().contains("no answer in time"), "{error}");
    assert!(error.is_retryable());

    provider.cut_next("GET", "/", 2);
    let error = client.find_user(DANA).await.unwrap_err();
    assert_eq!(error.code(), "provider_unavailable", "{error}");

    // nobody listens on port 1
    let key = SecretString::from(API_KEY);
    let client = Client::new(SourceKind::Workos, &key, "http://127.0.0.1:1").unwrap();
    let error = client.list_invitations(ORG, Some("secret@x.example")).await;
    let error = error.unwrap_err();
    assert!(error.to_string().contains("no connection"), "{error}");
    let told = format!("{} {error:?}", causes::chain(&error));
    assert!(!told.contains("secret"), "the URL is told: {told}");
    assert!(error.is_retryable());
}

#[tokio::test]
async fn an_invitation_whose_answer_was_lost_is_not_sent_twice() {
    for kind in BOTH {
        let provider = provider(kind).await;
        let client = provider.client();
        // a connection that was used before must not be a reason to send again
        client.find_organization(ORG).await.unwrap();
        provider.cut_after_next("POST", "/", 1);
        let lost = client
            .send_invitation(&to("a@x.example"))
            .await
            .unwrap_err();
        assert_eq!(lost.code(), "provider_unavailable");
        let again = client
            .send_invitation(&to("a@x.example"))
            .await
            .unwrap_err();
        assert_eq!(again.reason(), Some(Refusal::AlreadyInvited));
        let found = client.list_invitations(ORG, Some("a@x.example")).await;
        assert_eq!(found.unwrap().len(), 1, "{kind:?}");
        let sent = provider.lines();
        let sent = sent.iter().filter(|line| line.starts_with("POST"));
        assert_eq!(sent.count(), 2);
    }
}

#[tokio::test]
async fn after_a_429_nothing_is_sent_until_its_time_is_over() {
    let provider = provider(SourceKind::Workos).await;
    let client = provider.client();
    let other = client.clone();
    provider.rate_limit_next("GET", "/", "2", 1);
    let error = client.find_user(DANA).await.unwrap_err();
    assert_eq!(error.code(), "provider_rate_limited");
    assert_eq!(error.retry_after(), Some(Duration::from_secs(2)));
    assert!(error.is_retryable());
    for _ in 0..20 {
        let error = other.find_organization(ORG).await.unwrap_err();
        let left = error.retry_after().unwrap();
        assert!(left <= Duration::from_secs(2), "{left:?}");
        assert!(left > Duration::from_millis(500), "{left:?}");
    }
    assert_eq!(provider.requests().len(), 1, "clones wait too");
    tokio::time::sleep(Duration::from_millis(2_050)).await;
    assert!(other.find_user(DANA).await.unwrap().is_some());
}

#[tokio::test]
async fn retry_after_is_read_in_every_form_and_believed_within_reason() {
    let wait = async |headers: &[(&'static str, &str)]| {
        let provider = provider(SourceKind::Workos).await;
        provider.bytes_next("GET", "/", 429, headers, b"{}");
        let error = provider.client().find_user(DANA).await.unwrap_err();
        error.retry_after().unwrap().as_secs_f64()
    };
    let exact = |seconds: f64| seconds..=seconds;
    let date = ("date", "Mon, 16 Nov 2026 09:00:00 GMT");
    for (headers, expected) in [
        (&[("retry-after", "7")][..], exact(7.0)),
        (&[("retry-after", "0")], exact(1.0)),
        (&[("retry-after", "999999999999")], exact(600.0)),
        (
            &[date, ("retry-after", "Mon, 16 Nov 2026 09:00:42 GMT")],
            exact(42.0),
        ),
        (
            &[date, ("retry-after", "Mon, 16 Nov 2026 08:00:00 GMT")],
            exact(1.0),
        ),
        (&[("retry-after", "soon")], 1.0..=10.0),
        (&[("retry-after", "-5")], 1.0..=10.0),
        (&[], 1.0..=10.0),
    ] {
        let waited = wait(headers).await;
        assert!(expected.contains(&waited), "{headers:?}: {waited}");
    }
}

#[tokio::test]
async fn a_hostile_id_stays_one_segment() {
    for kind in BOTH {
        let provider = provider(kind).await;
        let client = provider.client();
        let id = "../users/x?a=b#c %2e%2e/\u{202e}";
        assert_eq!(client.find_organization(id).await.unwrap(), None);
        let base = if kind == SourceKind::Clerk { "/v1" } else { "" };
        let encoded = "..%2Fusers%2Fx%3Fa=b%23c%20%252e%252e%2F%E2%80%AE";
        assert_eq!(
            provider.lines(),
            [format!("GET {base}/organizations/{encoded}")]
        );
        for id in ["", ".", "..", "a\nb", ".\t."] {
            let error = client.find_organization(id).await.unwrap_err();
            assert_eq!(error.code(), "provider_id_invalid", "{id:?}");
            assert!(!error.is_retryable());
            let ended = client.deactivate_membership(&of(id, id)).await;
            assert_eq!(ended.unwrap_err().code(), "provider_id_invalid");
        }
        assert_eq!(provider.requests().len(), 1);
    }
}

#[tokio::test]
async fn a_providers_words_are_cut_to_one_line() {
    let provider = provider(SourceKind::Workos).await;
    let message = format!(
        "first\r\nlevel=ERROR forged\u{1b}[31m dana@x.example is \"member\" {}",
        "x".repeat(5_000)
    );
    let body = json!({"message": message, "code": "y".repeat(5_000)});
    provider.answer_next("GET", "/", 400, &body, 1);
    let error = provider.client().find_user(DANA).await.unwrap_err();
    let text = error.to_string();
    assert!(!text.contains(char::is_control), "{text:?}");
    assert!(!text.contains("dana@x.example"), "{text}");
    assert!(text.contains("first level=ERROR forged"), "{text}");
    assert!(text.chars().count() < 400, "{text}");
}

/// Everything that is logged, at every level.
#[derive(Clone, Default)]
struct Log(Arc<Mutex<Vec<u8>>>);

impl io::Write for Log {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[tokio::test]
async fn the_key_is_told_to_nobody_else() {
    let log = Log::default();
    let writer = log.clone();
    let subscriber = tracing_subscriber::fmt()
        .with_max_level(tracing::Level::TRACE)
        .with_writer(move || writer.clone())
        .finish();
    let guard = tracing::subscriber::set_default(subscriber);
    let mut told = Vec::new();
    for kind in BOTH {
        let provider = provider(kind).await;
        let client = provider.client().with_timeout(Duration::from_millis(300));
        told.push(format!("{client:?}"));
        for status in [400, 401, 403, 404, 409, 422, 500] {
            let echo = format!("bad key {API_KEY}.");
            let body = json!({
                "message": echo,
                "code": API_KEY,
                "errors": [{"message": echo, "long_message": echo, "code": API_KEY}],
                "clerk_trace_id": API_KEY,
            });
            let headers = [("x-request-id", API_KEY)];
            let body = body.to_string().into_bytes();
            provider.bytes_next("GET", "/", status, &headers, &body);
            let error = client.find_user(DANA).await;
            told.extend(error.err().map(|error| tell(&error)));
        }
        provider.cut_next("GET", "/", 2);
        told.push(tell(&client.find_user(DANA).await.unwrap_err()));
        provider.stall_next("GET", "/", Duration::from_secs(30), 1);
        told.push(tell(&client.find_user(DANA).await.unwrap_err()));
        provider.bytes_next("GET", "/", 200, &[], API_KEY.as_bytes());
        told.push(tell(&client.find_user(DANA).await.unwrap_err()));
        provider.rate_limit_next("GET", "/", "1", 1);
        told.push(tell(&client.find_user(DANA).await.unwrap_err()));
    }
    let broken = SecretString::from(format!("{API_KEY}\u{7f}"));
    let error = Client::new(SourceKind::Workos, &broken, "").unwrap_err();
    told.push(tell(&error));
    drop(guard);
    let logged = String::from_utf8(log.0.lock().unwrap().clone()).unwrap();
    assert!(told.len() > 18, "{told:?}");
    for text in told.iter().chain([&logged]) {
        assert!(!text.contains(API_KEY), "{text}");
        assert!(!text.contains("0123456789"), "{text}");
    }
}

fn tell(error: &Error) -> String {
    format!("{error} {} {error:?}", causes::chain(error))
}

#[test]
fn settings_that_cannot_work_are_refused_at_once() {
    let key = SecretString::from(API_KEY);
    let error = Client::new(SourceKind::Standard, &key, "").unwrap_err();
    assert_eq!(error.code(), "provider_unsupported");
    for kind in BOTH {
        assert!(Client::new(kind, &key, "").is_ok());
        assert!(Client::new(kind, &key, "https://api.example/below/").is_ok());
        for url in ["api.example", "ftp://x", "https://u:p@x", "https://x/?a"] {
            let error = Client::new(kind, &key, url).unwrap_err();
            assert_eq!(error.code(), "provider_settings_invalid", "{url}");
            assert!(!error.is_retryable());
        }
        for key in ["", " \n", "sk_\u{1}", "sk_a\nsk_b"] {
            let error = Client::new(kind, &SecretString::from(key), "").unwrap_err();
            assert_eq!(error.code(), "provider_settings_invalid", "{key:?}");
        }
    }
}

#[test]
fn a_key_may_end_in_a_line_break() {
    let key = SecretString::from(format!("{API_KEY}\n"));
    assert!(Client::new(SourceKind::Workos, &key, "").is_ok());
}
