//! What a registration asks of a provider: every call again after whatever went wrong, and never more than one of anything.

use std::time::Duration;

use serde_json::{Value, json};
use tenantry::{
    provider_api::{Client, Error, NewMember, NewOrganization, Refusal},
    webhooks::{
        self, IdentityEvent, Mapping, Meaning, MembershipStatus, ObjectKind, Organization, Said,
        SourceKind,
    },
};

use crate::support::Provider;

const BOTH: [SourceKind; 2] = [SourceKind::Workos, SourceKind::Clerk];
const EXTERNAL: &str = "customer_7";
const ACME: NewOrganization<'static> = NewOrganization {
    name: "Acme",
    external_id: EXTERNAL,
    domain: None,
};
const DANA: &str = "user_dana";
const ORG: &str = "org_1";

/// The providers, and Clerk once more with slugs switched off.
async fn providers() -> Vec<Provider> {
    let without_slugs = Provider::start(SourceKind::Clerk).await;
    without_slugs.has_no_slugs();
    vec![
        Provider::start(SourceKind::Workos).await,
        Provider::start(SourceKind::Clerk).await,
        without_slugs,
    ]
}

/// A provider with an organization and a user.
async fn team(kind: SourceKind) -> Provider {
    let provider = Provider::start(kind).await;
    provider.has_organization(ORG, "Brightwater", "2026-11-16T09:00:00Z");
    provider.has_user(DANA, "dana@brightwater.example");
    provider
}

fn organization(events: &[IdentityEvent]) -> &Said<Organization> {
    match events.last() {
        Some(IdentityEvent::Organization(said)) => said,
        other => panic!("no organization: {other:?}"),
    }
}

fn content(events: &[IdentityEvent]) -> &Organization {
    &organization(events).described.as_ref().unwrap().content
}

/// The membership's id, role and status.
fn member(events: &[IdentityEvent]) -> (String, String, MembershipStatus) {
    match events.last() {
        Some(IdentityEvent::Membership(said)) => {
            let content = &said.described.as_ref().unwrap().content;
            let role = content.role.clone().unwrap();
            (said.id.clone(), role, content.status)
        }
        other => panic!("no membership: {other:?}"),
    }
}

fn admin(user_id: &str) -> NewMember<'_> {
    NewMember {
        org_id: ORG,
        user_id,
        role: "admin",
    }
}

fn user_id(events: Option<Vec<IdentityEvent>>) -> Option<String> {
    match &events?[..] {
        [IdentityEvent::User(said)] => Some(said.id.clone()),
        other => panic!("not one user: {other:?}"),
    }
}

fn posts(provider: &Provider) -> usize {
    let lines = provider.lines();
    lines.iter().filter(|line| line.starts_with("POST")).count()
}

#[tokio::test]
async fn an_organization_is_created_once_and_found_again() {
    for provider in providers().await {
        let client = provider.client();
        let none = client.find_organization_by_external_id(EXTERNAL).await;
        assert_eq!(none.unwrap(), None);
        let made = client.create_organization(&ACME).await.unwrap();
        assert_eq!(content(&made).name, "Acme");
        assert_eq!(content(&made).external_id.as_deref(), Some(EXTERNAL));
        for _ in 0..2 {
            let again = client.create_organization(&ACME).await.unwrap();
            assert_eq!(again, made);
        }
        assert_eq!(provider.organizations().len(), 1);
        let found = client.find_organization_by_external_id(EXTERNAL).await;
        assert_eq!(found.unwrap(), Some(made));
    }
}

#[tokio::test]
async fn the_answer_says_what_the_webhook_will_say() {
    for provider in providers().await {
        let made = provider.client().create_organization(&ACME).await.unwrap();
        let event = provider.created_event(&organization(&made).id);
        let kind = provider.client().kind();
        let body = event.to_string();
        let reading = webhooks::read(kind, &Mapping::default(), body.as_bytes());
        assert_eq!(reading.meaning, Meaning::Events(made));
    }
}

#[tokio::test]
async fn an_organization_whose_answer_was_lost_is_not_made_twice() {
    for provider in providers().await {
        let client = provider.client();
        provider.cut_after_next("POST", "/", 1);
        if provider.has_slugs() {
            let lost = client.create_organization(&ACME).await.unwrap_err();
            assert_eq!(lost.code(), "provider_unavailable");
        } else {
            // the first is refused for its slug, and nobody hears of it; the second is made
            client.create_organization(&ACME).await.unwrap_err();
            provider.answer_next("POST", "/", 403, &slugs_disabled(), 1);
            provider.cut_after_next("POST", "/", 1);
            let lost = client.create_organization(&ACME).await.unwrap_err();
            assert_eq!(lost.code(), "provider_unavailable");
        }
        assert_eq!(provider.organizations().len(), 1);
        let sent = posts(&provider);
        let again = client.create_organization(&ACME).await.unwrap();
        assert_eq!(provider.organizations()[0]["id"], organization(&again).id);
        assert_eq!(provider.organizations().len(), 1);
        assert_eq!(posts(&provider), sent, "it was looked for first");
    }
}

fn slugs_disabled() -> Value {
    json!({"errors": [{"message": "off", "code": "organization_slugs_disabled"}]})
}

/// Two workers looked, found nothing, and both create; the provider has to decide.
#[tokio::test]
async fn two_creations_at_once_make_one_organization() {
    for kind in BOTH {
        let provider = Provider::start(kind).await;
        let client = provider.client();
        // what the slower one saw before the faster one came
        let (prefix, unknown) = match kind {
            SourceKind::Clerk => ("/v1/organizations", json!({"data": [], "total_count": 0})),
            _ => ("/organizations/external_id", json!({"message": "none"})),
        };
        let made = client.create_organization(&ACME).await.unwrap();
        if kind == SourceKind::Clerk {
            let none = json!({"errors": [{"message": "none", "code": "resource_not_found"}]});
            provider.answer_next("GET", prefix, 404, &none, 1);
            provider.answer_next("GET", prefix, 200, &unknown, 1);
        } else {
            provider.answer_next("GET", prefix, 404, &unknown, 1);
        }
        let slower = client.create_organization(&ACME).await.unwrap();
        assert_eq!(slower, made);
        assert_eq!(posts(&provider), 2, "it was sent, and refused");
        assert_eq!(provider.organizations().len(), 1);
    }
}

#[tokio::test]
async fn a_new_name_at_the_provider_changes_nothing() {
    for provider in providers().await {
        let client = provider.client();
        let made = client.create_organization(&ACME).await.unwrap();
        let id = &organization(&made).id;
        provider.renames_organization(id, "Acme Freight");
        let found = client.find_organization_by_external_id(EXTERNAL).await;
        let found = found.unwrap().unwrap();
        assert_eq!(&organization(&found).id, id);
        assert_eq!(content(&found).name, "Acme Freight");
    }
}

#[tokio::test]
async fn a_name_is_nobodys_own() {
    for provider in providers().await {
        let client = provider.client();
        let first = client.create_organization(&ACME).await.unwrap();
        let other = NewOrganization {
            external_id: "customer_8",
            ..ACME
        };
        let second = client.create_organization(&other).await.unwrap();
        assert_ne!(organization(&first).id, organization(&second).id);
        assert_eq!(content(&second).external_id.as_deref(), Some("customer_8"));
        // an id that differs in case is another id
        let upper = NewOrganization {
            external_id: "CUSTOMER_7",
            ..ACME
        };
        let third = client.create_organization(&upper).await.unwrap();
        assert_ne!(organization(&first).id, organization(&third).id);
        assert_eq!(provider.organizations().len(), 3);
    }
}

#[tokio::test]
async fn without_slugs_one_of_hundreds_is_found() {
    let provider = Provider::start(SourceKind::Clerk).await;
    provider.has_no_slugs();
    let client = provider.client();
    let made = client.create_organization(&ACME).await.unwrap();
    for at in 0..120 {
        let id = format!("org_other_{at}");
        provider.has_organization(&id, "Acme", "2026-11-16T09:00:00Z");
    }
    let found = client.find_organization_by_external_id(EXTERNAL).await;
    assert_eq!(found.unwrap().as_ref(), Some(&made));
    assert_eq!(client.create_organization(&ACME).await.unwrap(), made);
    assert_eq!(provider.organizations().len(), 121);
}

#[tokio::test]
async fn workos_is_told_of_a_domain_that_is_still_to_be_verified() {
    let provider = Provider::start(SourceKind::Workos).await;
    let client = provider.client();
    let new = NewOrganization {
        domain: Some("acme.example"),
        ..ACME
    };
    let events = client.create_organization(&new).await.unwrap();
    let sent = &provider.requests().pop().unwrap().body;
    let domain = json!([{"domain": "acme.example", "state": "pending"}]);
    assert_eq!(sent["domain_data"], domain);
    let [IdentityEvent::Domain(said), IdentityEvent::Organization(_)] = &events[..] else {
        panic!("{events:?}");
    };
    let domain = &said.described.as_ref().unwrap().content;
    assert_eq!(domain.domain, "acme.example");
    assert_eq!(domain.state.as_deref(), Some("pending"));
}

#[tokio::test]
async fn clerk_keeps_the_external_id_where_only_a_backend_writes() {
    let provider = Provider::start(SourceKind::Clerk).await;
    let new = NewOrganization {
        domain: Some("acme.example"),
        ..ACME
    };
    provider.client().create_organization(&new).await.unwrap();
    let sent = provider.requests().pop().unwrap().body;
    let slug = sent["slug"].as_str().unwrap();
    assert_eq!(
        sent,
        json!({"name": "Acme", "slug": slug, "public_metadata": {"external_id": EXTERNAL}})
    );
    let is_plain = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
    assert!(slug.len() == 34 && slug.chars().all(is_plain), "{slug}");
}

#[tokio::test]
async fn an_organization_of_that_slug_which_is_not_ours_is_left_alone() {
    let provider = Provider::start(SourceKind::Clerk).await;
    let client = provider.client();
    client.create_organization(&ACME).await.unwrap();
    // its metadata was removed
    let mut theirs = provider.organizations().remove(0);
    theirs["public_metadata"] = json!({});
    provider.replaces_organization(theirs);
    let found = client.find_organization_by_external_id(EXTERNAL).await;
    assert_eq!(found.unwrap(), None);
    let error = client.create_organization(&ACME).await.unwrap_err();
    assert_eq!(error.reason(), Some(Refusal::NameTaken), "{error}");
    assert_eq!(error.code(), "organization_name_taken");
    assert!(!error.is_retryable());
}

#[test]
fn metadata_that_end_users_write_is_not_believed() {
    let external_id = |more: Value| {
        let mut data = json!({"id": ORG, "name": "Acme", "updated_at": 1_794_819_600_000_i64});
        data.as_object_mut()
            .unwrap()
            .extend(more.as_object().unwrap().clone());
        let events = webhooks::read_object(
            SourceKind::Clerk,
            ObjectKind::Organization,
            data.as_object().unwrap(),
        );
        content(&events.unwrap()).external_id.clone()
    };
    for (data, expected) in [
        (json!({}), None),
        (json!({"unsafe_metadata": {"external_id": "mine"}}), None),
        (json!({"metadata": {"external_id": "mine"}}), None),
        (json!({"public_metadata": {"external_id": "a"}}), Some("a")),
        (json!({"private_metadata": {"external_id": "b"}}), Some("b")),
        (
            json!({"public_metadata": {"external_id": "a"}, "private_metadata": {"external_id": "b"}}),
            Some("a"),
        ),
        (
            json!({"external_id": "own", "public_metadata": {"external_id": "a"}}),
            Some("own"),
        ),
        (
            json!({"external_id": null, "public_metadata": {"external_id": "a"}}),
            Some("a"),
        ),
        (json!({"public_metadata": {"external_id": 7}}), None),
        (json!({"public_metadata": {"external_id": "a\u{0}"}}), None),
        (json!({"public_metadata": {"external_id": " "}}), None),
        (json!({"public_metadata": ["external_id"]}), None),
    ] {
        assert_eq!(external_id(data.clone()).as_deref(), expected, "{data}");
    }
}

#[tokio::test]
async fn a_membership_tells_the_external_id_of_its_organization() {
    let provider = Provider::start(SourceKind::Clerk).await;
    provider.has_user(DANA, "dana@acme.example");
    let client = provider.client();
    let made = client.create_organization(&ACME).await.unwrap();
    let new = NewMember {
        org_id: &organization(&made).id,
        ..admin(DANA)
    };
    let events = client.add_member(&new).await.unwrap();
    assert_eq!(content(&events[..1]).external_id.as_deref(), Some(EXTERNAL));
}

#[tokio::test]
async fn what_is_refused_of_an_organization_has_a_reason() {
    let named = |name| NewOrganization { name, ..ACME };
    let at = |domain| NewOrganization {
        domain: Some(domain),
        external_id: "customer_8",
        ..ACME
    };
    let long = "x".repeat(129);
    let too_long = NewOrganization {
        external_id: &long,
        ..ACME
    };
    let workos = Provider::start(SourceKind::Workos).await;
    let taken = NewOrganization {
        domain: Some("taken.example"),
        ..ACME
    };
    workos.client().create_organization(&taken).await.unwrap();
    let clerk = Provider::start(SourceKind::Clerk).await;
    let unnamed = NewOrganization {
        external_id: "customer_8",
        ..named("")
    };
    for (provider, new, reason, code) in [
        (
            &workos,
            unnamed,
            Refusal::NameRefused,
            "organization_name_refused",
        ),
        (
            &workos,
            at("taken.example"),
            Refusal::DomainTaken,
            "domain_taken",
        ),
        (
            &workos,
            at("nonsense"),
            Refusal::DomainRefused,
            "domain_refused",
        ),
        (
            &workos,
            too_long,
            Refusal::ExternalIdRefused,
            "external_id_refused",
        ),
        (
            &clerk,
            unnamed,
            Refusal::NameRefused,
            "organization_name_refused",
        ),
        (
            &clerk,
            named("see http://x"),
            Refusal::NameRefused,
            "organization_name_refused",
        ),
    ] {
        let error = provider.client().create_organization(&new).await;
        let error = error.unwrap_err();
        assert_eq!(error.reason(), Some(reason), "{error}");
        assert_eq!(error.code(), code);
        assert!(!error.is_retryable());
        let text = error.to_string();
        assert!(text.starts_with("creating the organization of "), "{text}");
    }
    assert_eq!(workos.organizations().len(), 1);
    assert_eq!(clerk.organizations().len(), 0);
}

#[tokio::test]
async fn a_providers_own_limits_are_told_apart_from_a_bad_key() {
    let provider = Provider::start(SourceKind::Clerk).await;
    let client = provider.client();
    for (code, reason) in [
        ("organization_quota_exceeded", Refusal::OrganizationLimit),
        (
            "organization_not_enabled_in_instance",
            Refusal::OrganizationsDisabled,
        ),
        ("organization_domain_blocked", Refusal::DomainRefused),
    ] {
        let body = json!({"errors": [{"message": "no", "code": code}]});
        provider.answer_next("POST", "/v1/organizations", 403, &body, 1);
        let error = client.create_organization(&ACME).await.unwrap_err();
        assert_eq!(error.reason(), Some(reason), "{error}");
    }
    // a provider that claims the id is used, and has nobody of it
    let workos = Provider::start(SourceKind::Workos).await;
    let body = json!({"message": "no", "code": "external_id_already_used"});
    workos.answer_next("POST", "/organizations", 400, &body, 1);
    let error = workos.client().create_organization(&ACME).await;
    assert_eq!(error.unwrap_err().reason(), Some(Refusal::ExternalIdTaken));
}

#[tokio::test]
async fn an_organization_is_deleted_once() {
    for provider in providers().await {
        let client = provider.client();
        let made = client.create_organization(&ACME).await.unwrap();
        let id = organization(&made).id.clone();
        provider.cut_after_next("DELETE", "/", 1);
        let lost = client.delete_organization(&id).await.unwrap_err();
        assert_eq!(lost.code(), "provider_unavailable");
        for _ in 0..2 {
            client.delete_organization(&id).await.unwrap();
        }
        assert_eq!(client.find_organization(&id).await.unwrap(), None);
        let found = client.find_organization_by_external_id(EXTERNAL).await;
        assert_eq!(found.unwrap(), None);
        // the id is free for another
        let anew = client.create_organization(&ACME).await.unwrap();
        client
            .delete_organization(&organization(&anew).id)
            .await
            .unwrap();
        assert_eq!(provider.organizations(), Vec::<Value>::new());
    }
}

#[tokio::test]
async fn a_deletion_is_believed_of_the_provider_alone() {
    for kind in BOTH {
        let provider = team(kind).await;
        let client = provider.client();
        provider.bytes_next("DELETE", "/", 404, &[], b"<html>Not Found</html>");
        provider.bytes_next("DELETE", "/", 200, &[], b"<html>maintenance</html>");
        for _ in 0..2 {
            let error = client.delete_organization(ORG).await.unwrap_err();
            assert_eq!(error.code(), "provider_unreadable", "{error}");
        }
        // nothing at all is no answer to a question
        provider.bytes_next("GET", "/", 200, &[], b"");
        let error = client.find_organization(ORG).await.unwrap_err();
        assert_eq!(error.code(), "provider_unreadable", "{error}");
        assert_eq!(provider.organizations().len(), 1);
    }
}

#[tokio::test]
async fn a_user_is_found_by_the_address_in_whatever_case() {
    for kind in BOTH {
        let provider = team(kind).await;
        let client = provider.client();
        for email in ["dana@brightwater.example", "Dana@Brightwater.Example"] {
            let found = client.find_user_by_email(email).await.unwrap();
            assert_eq!(user_id(found).as_deref(), Some(DANA), "{kind:?} {email}");
        }
        let sent = provider.requests().len();
        for email in ["", "dana"] {
            let found = client.find_user_by_email(email).await.unwrap();
            assert_eq!(found, None, "{email}");
        }
        assert_eq!(provider.requests().len(), sent, "nobody has no address");
        for email in [
            "nobody@brightwater.example",
            "dana@brightwater.example.evil.example",
        ] {
            assert_eq!(client.find_user_by_email(email).await.unwrap(), None);
        }
    }
}

#[tokio::test]
async fn who_has_not_verified_an_address_is_not_its_owner() {
    for kind in BOTH {
        let provider = Provider::start(kind).await;
        let client = provider.client();
        let email = "victim@acme.example";
        // more of them than a page holds
        for at in 0..120 {
            provider.has_unverified_user(&format!("user_squatter_{at}"), email);
        }
        assert_eq!(client.find_user_by_email(email).await.unwrap(), None);
        provider.has_user("user_victim", email);
        provider.has_user("user_later", email);
        let found = client.find_user_by_email(email).await.unwrap();
        assert_eq!(user_id(found).as_deref(), Some("user_victim"), "{kind:?}");
    }
}

#[tokio::test]
async fn a_provider_that_does_not_filter_users_is_filtered_here() {
    for kind in BOTH {
        let provider = team(kind).await;
        let client = provider.client();
        provider.has_user("user_other", "other@brightwater.example");
        let users = provider.users();
        let (prefix, all) = match kind {
            SourceKind::Clerk => ("/v1/users", json!(users)),
            _ => (
                "/user_management/users",
                json!({"data": users, "list_metadata": {}}),
            ),
        };
        provider.answer_next("GET", prefix, 200, &all, 1);
        let found = client.find_user_by_email("other@brightwater.example").await;
        assert_eq!(user_id(found.unwrap()).as_deref(), Some("user_other"));
    }
}

#[tokio::test]
async fn a_member_is_added_once_with_the_role() {
    for kind in BOTH {
        let provider = team(kind).await;
        let client = provider.client();
        provider.cut_after_next("POST", "/", 1);
        let lost = client.add_member(&admin(DANA)).await.unwrap_err();
        assert_eq!(lost.code(), "provider_unavailable");
        let first = client.add_member(&admin(DANA)).await.unwrap();
        let (id, role, status) = member(&first);
        assert_eq!((role.as_str(), status), ("admin", MembershipStatus::Active));
        let again = client.add_member(&admin(DANA)).await.unwrap();
        assert_eq!(member(&again).0, id);
        assert_eq!(provider.memberships().len(), 1, "{kind:?}");
        let changes = |line: &String| line.starts_with("PUT") || line.starts_with("PATCH");
        assert!(!provider.lines().iter().any(changes), "it had the role");
    }
}

#[tokio::test]
async fn a_member_with_another_role_is_given_this_one() {
    for kind in BOTH {
        let provider = team(kind).await;
        provider.has_user("user_other", "other@brightwater.example");
        provider.has_membership(ORG, DANA, "member", "active");
        provider.has_membership(ORG, "user_other", "member", "active");
        let events = provider.client().add_member(&admin(DANA)).await.unwrap();
        assert_eq!(member(&events).1, "admin");
        assert_eq!(provider.role_of(DANA), "admin");
        assert_eq!(provider.role_of("user_other"), "member", "{kind:?}");
        assert_eq!(provider.memberships().len(), 2);
    }
}

/// A list that ignores whom it was asked for must not give the role to somebody else.
#[tokio::test]
async fn nobody_else_is_given_the_role() {
    for kind in BOTH {
        let provider = team(kind).await;
        provider.has_user("user_other", "other@brightwater.example");
        provider.has_membership(ORG, DANA, "member", "active");
        provider.has_membership(ORG, "user_other", "member", "active");
        let (prefix, all) = match kind {
            SourceKind::Clerk => (
                "/v1/organizations",
                json!({"data": provider.memberships(), "total_count": 2}),
            ),
            _ => (
                "/user_management/organization_memberships",
                json!({"data": provider.memberships(), "list_metadata": {}}),
            ),
        };
        provider.answer_next("GET", prefix, 200, &all, 1);
        provider.client().add_member(&admin(DANA)).await.unwrap();
        assert_eq!(provider.role_of(DANA), "admin");
        assert_eq!(provider.role_of("user_other"), "member", "{kind:?}");
    }
}

#[tokio::test]
async fn who_was_deactivated_comes_back_with_the_role_that_is_asked_for() {
    let provider = team(SourceKind::Workos).await;
    provider.has_membership(ORG, DANA, "member", "inactive");
    let events = provider.client().add_member(&admin(DANA)).await.unwrap();
    let (_, role, status) = member(&events);
    assert_eq!((role.as_str(), status), ("admin", MembershipStatus::Active));
}

#[tokio::test]
async fn a_member_of_nothing_or_with_no_role_is_refused() {
    for kind in BOTH {
        let provider = team(kind).await;
        let client = provider.client();
        let pirate = NewMember {
            role: "pirate",
            ..admin(DANA)
        };
        let elsewhere = NewMember {
            org_id: "org_none",
            ..admin(DANA)
        };
        for (new, reason) in [
            (pirate, Refusal::InvalidRole),
            (elsewhere, Refusal::NotFound),
            (admin("user_none"), Refusal::NotFound),
        ] {
            let error = client.add_member(&new).await.unwrap_err();
            assert_eq!(error.reason(), Some(reason), "{kind:?}: {error}");
        }
        assert_eq!(provider.memberships(), Vec::<Value>::new());
    }
}

/// Each call's outcome, as far as it is an error.
async fn every_call(client: &Client) -> Vec<Option<Error>> {
    vec![
        client
            .find_organization_by_external_id(EXTERNAL)
            .await
            .err(),
        client.create_organization(&ACME).await.err(),
        client.delete_organization("org_none").await.err(),
        client
            .find_user_by_email("dana@brightwater.example")
            .await
            .err(),
        client.add_member(&admin(DANA)).await.err(),
    ]
}

#[tokio::test]
async fn no_call_is_sent_while_the_rate_is_limited() {
    for kind in BOTH {
        let provider = team(kind).await;
        let client = provider.client();
        provider.rate_limit_next("GET", "/", "30", 1);
        for error in every_call(&client).await {
            let error = error.unwrap();
            assert_eq!(error.code(), "provider_rate_limited");
            assert!(error.retry_after().unwrap() <= Duration::from_secs(30));
            assert!(error.is_retryable());
        }
        assert_eq!(provider.requests().len(), 1);
    }
}

#[tokio::test]
async fn a_500_is_for_another_time_and_then_everything_works() {
    let workos = [
        ("GET", "/organizations/external_id"),
        ("POST", "/organizations"),
        ("DELETE", "/organizations"),
        ("GET", "/user_management/users"),
        ("POST", "/user_management/organization_memberships"),
    ];
    let clerk = [
        ("GET", "/v1/organizations"),
        ("POST", "/v1/organizations"),
        ("DELETE", "/v1/organizations"),
        ("GET", "/v1/users"),
        ("POST", "/v1/organizations/org_1/memberships"),
    ];
    for (kind, routes) in [(SourceKind::Workos, workos), (SourceKind::Clerk, clerk)] {
        for (at, (method, prefix)) in routes.into_iter().enumerate() {
            let provider = team(kind).await;
            let client = provider.client();
            provider.fail_next(method, prefix, 500, 1);
            let error = every_call(&client).await.remove(at).unwrap();
            assert_eq!(error.code(), "provider_unavailable", "{kind:?} {at}");
            assert!(error.is_retryable());
            for outcome in every_call(&client).await {
                assert!(outcome.is_none(), "{kind:?}: {outcome:?}");
            }
            assert_eq!(provider.memberships().len(), 1);
            assert_eq!(provider.organizations().len(), 2);
        }
    }
}

#[tokio::test]
async fn a_hostile_external_id_is_data() {
    let hostile = "../../users/x?a=b#c %2e%2e/'; DROP DATABASE x; --";
    for provider in providers().await {
        let client = provider.client();
        let new = NewOrganization {
            external_id: hostile,
            name: "../x?a=b&query=",
            domain: None,
        };
        let made = client.create_organization(&new).await.unwrap();
        assert_eq!(content(&made).external_id.as_deref(), Some(hostile));
        let found = client.find_organization_by_external_id(hostile).await;
        assert_eq!(found.unwrap(), Some(made));
        for line in provider.lines() {
            let (_, path) = line.split_once(' ').unwrap();
            let path = path.trim_start_matches("/v1");
            assert!(path.starts_with("/organizations"), "{path}");
            assert!(path.split('/').count() <= 4, "{path}");
        }
        let sent = provider.requests().len();
        for id in ["", " ", ".", "..", "a\nb", &"x".repeat(256)] {
            let bad = NewOrganization {
                external_id: id,
                ..ACME
            };
            let error = client.create_organization(&bad).await.unwrap_err();
            assert_eq!(error.code(), "provider_id_invalid", "{id:?}");
            let error = client.find_organization_by_external_id(id).await;
            assert_eq!(error.unwrap_err().code(), "provider_id_invalid");
        }
        let error = client.delete_organization("..").await.unwrap_err();
        assert_eq!(error.code(), "provider_id_invalid");
        assert_eq!(provider.requests().len(), sent, "nothing was sent");
        client.delete_organization("../users").await.unwrap();
        assert_eq!(provider.organizations().len(), 1);
    }
}

#[tokio::test]
async fn an_address_is_in_no_error() {
    for kind in BOTH {
        let provider = team(kind).await;
        provider.fail_next("GET", "/", 500, 1);
        let error = provider.client().find_user_by_email("dana@x.example").await;
        let told = format!("{0} {0:?}", error.unwrap_err());
        assert!(!told.contains("dana"), "{told}");
    }
}
