//! Senders of Standard Webhooks: the built-in words, and two providers whose words are mapped by configuration.
//!
//! The mappings are read out of `docs/providers/standard.md`, so that what is printed there is what is tried here.

use chrono::{DateTime, Utc};
use proptest::prelude::*;
use serde_json::{Value, json};
use tenantry::webhooks::{
    IdentityEvent, Mapping, Meaning, ObjectKind, Reading, SourceKind, read, read_object,
    read_received,
};

use crate::support::bodies::{any_json, at_millis, check_reading, lines};

const STANDARD: SourceKind = SourceKind::Standard;

fn built_in(body: &Value) -> Reading {
    read(STANDARD, &Mapping::default(), body.to_string().as_bytes())
}

fn received_at() -> DateTime<Utc> {
    at_millis(1_794_819_600_000)
}

/// The mapping of a source in the document's examples.
fn documented(source: &str) -> Mapping {
    let document = std::fs::read_to_string("docs/providers/standard.md").expect("the document");
    let tables = document.split("```toml\n").skip(1);
    let mut examples = tables.filter_map(|rest| rest.split_once("```"));
    let example = examples
        .find(|(text, _)| text.contains(&format!("[sources.{source}]")))
        .unwrap_or_else(|| panic!("no example for {source}"));
    let table: toml::Table = example.0.parse().expect("TOML");
    table["sources"][source]["mapping"]
        .clone()
        .try_into()
        .expect("a mapping")
}

fn mapped(mapping: &Mapping, body: &Value) -> (String, Option<String>, String) {
    let body = body.to_string();
    let reading = read_received(STANDARD, mapping, body.as_bytes(), received_at());
    let text = lines(&reading);
    (reading.event_type, reading.organization_id, text)
}

/// What an event in our own words says.
fn our_event(event_type: &str, data: &Value) -> String {
    let reading =
        built_in(&json!({"type": event_type, "timestamp": "2026-11-16T10:00:00Z", "data": data}));
    assert_eq!(reading.event_id, None);
    assert_eq!(reading.event_type, event_type);
    assert!(reading.occurred_at.is_some());
    lines(&reading)
}

#[test]
fn our_own_words_need_no_mapping() {
    for (event_type, data, expected) in [
        (
            "organization.created",
            json!({"id": "o", "name": "Acme\u{0}", "external_id": "x", "metadata": {"a": 1}, "created_by": "u", "updated_at": 1_794_819_600}),
            "  organization.upserted o {\"created_by\":\"u\",\"external_id\":\"x\",\"metadata\":{\"a\":1},\"name\":\"Acme\"} @11-16T09:00:00.000\n",
        ),
        (
            "organization.deleted",
            json!({"id": "o"}),
            "  organization.deleted o deleted @11-16T10:00:00.000\n",
        ),
        (
            "organization.updated",
            json!({"id": 7}),
            "  unreadable: the organization id is a number, not a string\n",
        ),
        (
            "organization.updated",
            json!(null),
            "  unreadable: the organization id is missing\n",
        ),
        (
            "user.updated",
            json!({"id": "u", "email": "a@b", "first_name": ""}),
            "  user.upserted u {\"email\":\"a@b\",\"external_id\":null,\"first_name\":null,\"last_name\":null} @11-16T10:00:00.000\n",
        ),
        (
            "invitation.accepted",
            json!({"id": "i", "email": "a@b", "customer_id": "c", "accepted_user_id": "u", "expires_at": "2026-12-01T00:00:00Z"}),
            "  invitation.upserted i {\"accepted_user_id\":\"u\",\"customer_id\":\"c\",\"email\":\"a@b\",\"expires_at\":\"2026-12-01T00:00:00Z\",\"inviter_user_id\":null,\"organization_id\":null,\"role\":null,\"state\":\"accepted\"} @11-16T10:00:00.000\n",
        ),
        (
            "role.deleted",
            json!({"slug": "editor", "organization_id": "o", "permissions": ["b", 7, "a", "b"]}),
            "  role.upserted o/editor {\"description\":null,\"is_gone\":true,\"name\":null,\"organization_id\":\"o\",\"permissions\":[\"a\",\"b\"],\"slug\":\"editor\"} @11-16T10:00:00.000\n",
        ),
        ("user.accepted", json!({"id": "u"}), "  ignored\n"),
        ("invoice.paid", json!({"id": "u"}), "  ignored\n"),
        ("ping", json!([]), "  ignored\n"),
    ] {
        assert_eq!(
            our_event(event_type, &data),
            expected,
            "{event_type} {data}"
        );
    }
    let api = read_object(STANDARD, ObjectKind::User, &serde_json::Map::new());
    assert_eq!(api, Ok(Vec::new()), "there is no API");
}

#[test]
fn a_membership_without_an_id_may_begin_again() {
    let member = json!({"organization_id": "o", "user_id": "u", "role": "admin", "email": "a@b"});
    let with_id = json!({"id": "m", "organization_id": "o", "user_id": "u", "status": "invited"});
    for (event_type, data, expected) in [
        (
            "membership.created",
            member.clone(),
            "  membership.upserted o/u {\"email\":\"a@b\",\"first_name\":null,\"last_name\":null,\"organization_id\":\"o\",\"role\":\"admin\",\"status\":\"active\",\"user_id\":\"u\"} @11-16T10:00:00.000\n",
        ),
        (
            "membership.deleted",
            member,
            "  membership.upserted o/u {\"email\":\"a@b\",\"first_name\":null,\"last_name\":null,\"organization_id\":\"o\",\"role\":\"admin\",\"status\":\"gone\",\"user_id\":\"u\"} @11-16T10:00:00.000\n",
        ),
        (
            "membership.updated",
            with_id.clone(),
            "  membership.upserted m {\"email\":null,\"first_name\":null,\"last_name\":null,\"organization_id\":\"o\",\"role\":null,\"status\":\"pending\",\"user_id\":\"u\"} @11-16T10:00:00.000\n",
        ),
        (
            "membership.deleted",
            with_id,
            "  membership.deleted m deleted @11-16T10:00:00.000\n",
        ),
        (
            "membership.created",
            json!({"organization_id": "x".repeat(200), "user_id": "y".repeat(200)}),
            "  unreadable: the membership id is 401 bytes long; at most 255 are accepted\n",
        ),
    ] {
        assert_eq!(
            our_event(event_type, &data),
            expected,
            "{event_type} {data}"
        );
    }
}

#[test]
fn what_has_no_time_is_as_of_receipt() {
    let body = json!({"type": "user.created", "data": {"id": "u"}}).to_string();
    let timeless = read(STANDARD, &Mapping::default(), body.as_bytes());
    assert!(lines(&timeless).starts_with("  unreadable: no time can be read"));
    let received = read_received(
        STANDARD,
        &Mapping::default(),
        body.as_bytes(),
        received_at(),
    );
    assert!(lines(&received).ends_with("@11-16T09:00:00.000\n"));
    assert_eq!(received.occurred_at, None, "the sender did not say");
    // above all a deletion must not fail for want of a time
    let body = json!({"type": "user.deleted", "data": {"id": "u", "deleted": true}}).to_string();
    let clerk = read_received(
        SourceKind::Clerk,
        &Mapping::default(),
        body.as_bytes(),
        received_at(),
    );
    assert_eq!(clerk.occurred_at, None, "the sender did not say");
    let Meaning::Events(events) = clerk.meaning else {
        panic!("not read: {:?}", clerk.meaning);
    };
    let [IdentityEvent::User(said)] = &events[..] else {
        panic!("something else was read: {events:?}");
    };
    assert_eq!(said.deleted_at, Some(received_at()));
}

#[test]
fn stytch_is_mapped_as_documented() {
    let stytch = documented("stytch");
    let event = |object_type: &str, action: &str, object: &Value| {
        json!({
            "project_id": "project-live-1", "event_id": "event-live-1", "source": "DIRECT", "object_type": object_type,
            "action": action, "id": "object-1", "timestamp": "2026-11-16T09:00:00.123Z", object_type: object,
        })
    };
    let organization = json!({
        "organization_id": "organization-1", "organization_name": "Brightwater", "trusted_metadata": {"plan": "growth"},
        "organization_external_id": null, "updated_at": "2026-11-16T08:59:59Z",
    });
    let member = json!({
        "organization_id": "organization-1", "member_id": "member-1", "email_address": "dana@brightwater.example",
        "status": "invited", "roles": [{"role_id": "stytch_admin"}],
    });
    for (body, organization_id, expected) in [
        (
            event("organization", "CREATE", &organization),
            Some("organization-1"),
            "  organization.upserted organization-1 {\"created_by\":null,\"external_id\":null,\"metadata\":{\"plan\":\"growth\"},\"name\":\"Brightwater\"} @11-16T08:59:59.000\n",
        ),
        (
            event("organization", "DELETE", &json!(null)),
            Some("object-1"),
            "  organization.deleted object-1 deleted @11-16T09:00:00.123\n",
        ),
        (
            event("member", "UPDATE", &member),
            Some("organization-1"),
            "  membership.upserted member-1 {\"email\":\"dana@brightwater.example\",\"first_name\":null,\"last_name\":null,\"organization_id\":\"organization-1\",\"role\":\"stytch_admin\",\"status\":\"pending\",\"user_id\":\"member-1\"} @11-16T09:00:00.123\n",
        ),
        (
            event("member", "DELETE", &json!(null)),
            None,
            "  membership.deleted object-1 deleted @11-16T09:00:00.123\n",
        ),
        (event("session", "CREATE", &json!({})), None, "  ignored\n"),
    ] {
        let (event_type, found, text) = mapped(&stytch, &body);
        let expected_type = format!(
            "{}.{}",
            body["object_type"].as_str().expect("text"),
            body["action"].as_str().expect("text")
        );
        assert_eq!(event_type, expected_type);
        assert_eq!(found.as_deref(), organization_id);
        assert_eq!(text, expected);
    }
    let (_, _, text) = mapped(&stytch, &json!({"object_type": "member"}));
    assert_eq!(text, "  unreadable: the event type is missing\n");
    let (_, _, text) = mapped(&stytch, &json!({"object_type": "member", "action": 7}));
    assert_eq!(
        text,
        "  unreadable: the event type is a number, not a string\n"
    );
}

#[test]
fn propelauth_is_mapped_as_documented() {
    let propelauth = documented("propelauth");
    for (body, expected) in [
        (
            json!({"event_type": "org.created", "org_id": "o", "name": "Brightwater"}),
            "  organization.upserted o {\"created_by\":null,\"external_id\":null,\"metadata\":{},\"name\":\"Brightwater\"} @11-16T09:00:00.000\n",
        ),
        (
            json!({"event_type": "org.deleted", "org_id": "o"}),
            "  organization.deleted o deleted @11-16T09:00:00.000\n",
        ),
        (
            json!({"event_type": "user.added_to_org", "org_id": "o", "user_id": "u", "role": "Admin"}),
            "  membership.upserted o/u {\"email\":null,\"first_name\":null,\"last_name\":null,\"organization_id\":\"o\",\"role\":\"Admin\",\"status\":\"active\",\"user_id\":\"u\"} @11-16T09:00:00.000\n",
        ),
        (
            json!({"event_type": "user.removed_from_org", "org_id": "o", "user_id": "u"}),
            "  membership.upserted o/u {\"email\":null,\"first_name\":null,\"last_name\":null,\"organization_id\":\"o\",\"role\":null,\"status\":\"gone\",\"user_id\":\"u\"} @11-16T09:00:00.000\n",
        ),
        (json!({"event_type": "user.logged_in"}), "  ignored\n"),
    ] {
        let (event_type, _, text) = mapped(&propelauth, &body);
        assert_eq!(Some(event_type.as_str()), body["event_type"].as_str());
        assert_eq!(text, expected);
    }
}

proptest! {
    #[test]
    fn any_body_has_a_reading(data in any_json(), event_type in prop::sample::select(vec![
        "organization.created", "organization.deleted", "user.updated", "membership.created", "membership.deleted",
        "invitation.revoked", "role.deleted",
    ])) {
        check_reading(&built_in(&data));
        check_reading(&built_in(&json!({"type": event_type, "timestamp": 1_794_819_600, "data": data})));
        for mapping in [documented("stytch"), documented("propelauth")] {
            mapped(&mapping, &data);
        }
    }
}
