//! Clerk's bodies: what each of them means.

use proptest::prelude::*;
use serde_json::{Value, json};
use tenantry::webhooks::{
    IdentityEvent, Mapping, Meaning, ObjectKind, Reading, SourceKind, read_object,
};

use crate::support::bodies::{
    any_json, bodies, check_reading, every_body_reads_as_recorded, lines, mutated, replaced,
};

const CLERK: SourceKind = SourceKind::Clerk;
const NOW: i64 = 1_794_819_600_000;

fn read(body: &[u8]) -> Reading {
    tenantry::webhooks::read(CLERK, &Mapping::default(), body)
}

fn event(event_type: &str, timestamp: &Value, data: &Value) -> String {
    let body = json!({"object": "event", "type": event_type, "timestamp": timestamp, "data": data});
    lines(&read(body.to_string().as_bytes()))
}

#[test]
fn every_clerk_body_reads_as_recorded() {
    assert!(bodies("clerk").len() >= 17);
    every_body_reads_as_recorded(CLERK);
}

#[test]
fn the_body_never_names_the_event() {
    for (file, body) in bodies("clerk") {
        let reading = read(body.as_bytes());
        let raw: Value = serde_json::from_str(&body).expect(&file);
        assert_eq!(reading.event_id, None, "{file}: that is the svix-id header");
        assert_eq!(Some(reading.event_type.as_str()), raw["type"].as_str());
        let millis = reading.occurred_at.map(|time| time.timestamp_millis());
        assert_eq!(millis, raw["timestamp"].as_i64(), "{file}");
    }
}

#[test]
fn what_is_missing_or_odd_has_a_clear_outcome() {
    let long = "x".repeat(10_000);
    for (event_type, data, expected) in [
        (
            "organization.created",
            json!({"id": 7}),
            "  unreadable: the organization id is a number, not a string\n",
        ),
        (
            "organization.created",
            json!({"id": long}),
            "  unreadable: the organization id is 10000 bytes long; at most 255 are accepted\n",
        ),
        (
            "organization.updated",
            json!({"id": "o", "name": "", "public_metadata": {"a\u{0}": 1}, "private_metadata": {"b": 2}, "created_by": 7}),
            "  organization.upserted o {\"created_by\":null,\"external_id\":null,\"metadata\":{\"a\":1},\"name\":\"\"} @11-16T09:00:00.000\n",
        ),
        (
            "organization.deleted",
            json!({"id": "o", "deleted": true}),
            "  organization.deleted o deleted @11-16T09:00:00.000\n",
        ),
        (
            "user.deleted",
            json!({"id": "u", "deleted": true, "external_id": "e"}),
            "  user.deleted u deleted @11-16T09:00:00.000\n",
        ),
        (
            "user.created",
            json!({"id": "u", "primary_email_address_id": "2", "email_addresses": [7, {"id": "1", "email_address": "a@b"}, {"id": "2", "email_address": "c@d"}]}),
            "  user.upserted u {\"email\":\"c@d\",\"external_id\":null,\"first_name\":null,\"last_name\":null} @11-16T09:00:00.000\n",
        ),
        (
            "user.created",
            json!({"id": "u", "primary_email_address_id": "3", "email_addresses": [{"id": "1", "email_address": "a@b"}]}),
            "  user.upserted u {\"email\":null,\"external_id\":null,\"first_name\":null,\"last_name\":null} @11-16T09:00:00.000\n",
        ),
    ] {
        assert_eq!(
            event(event_type, &json!(NOW), &data),
            expected,
            "{event_type} {data}"
        );
    }
}

#[test]
fn a_membership_is_read_as_far_as_it_goes() {
    let member = |organization: Value, user: Value| json!({"id": "m", "organization": organization, "public_user_data": user, "role": "org:admin"});
    for (event_type, data, expected) in [
        (
            "organizationMembership.created",
            member(json!({"id": "o"}), json!({})),
            "  unreadable: the user id is missing\n",
        ),
        (
            "organizationMembership.created",
            member(json!(null), json!({"user_id": "u"})),
            "  unreadable: the membership's organization is missing\n",
        ),
        (
            "organizationMembership.deleted",
            json!({"id": "m"}),
            "  membership.deleted m deleted @11-16T09:00:00.000\n",
        ),
        (
            "organizationMembership.updated",
            member(
                json!({"id": "o", "name": 7}),
                json!({"user_id": "u", "identifier": "+49123"}),
            ),
            "  membership.upserted m {\"email\":null,\"first_name\":null,\"last_name\":null,\"organization_id\":\"o\",\"role\":\"admin\",\"status\":\"active\",\"user_id\":\"u\"} @11-16T09:00:00.000\n",
        ),
        (
            "role.deleted",
            json!({"id": "role_1", "deleted": true}),
            "  role.upserted role_1 {\"description\":null,\"is_gone\":true,\"name\":null,\"organization_id\":null,\"permissions\":[],\"slug\":null} @11-16T09:00:00.000\n",
        ),
        (
            "permission.updated",
            json!({"id": "perm_1", "key": "org:jobs:read", "name": "Read"}),
            "  permission.upserted perm_1 {\"description\":null,\"name\":\"Read\",\"slug\":\"org:jobs:read\"} @11-16T09:00:00.000\n",
        ),
        (
            "organizationInvitation.expired",
            json!({"id": "i"}),
            "  ignored\n",
        ),
        ("session.created", json!([]), "  ignored\n"),
        ("created", json!(null), "  ignored\n"),
    ] {
        assert_eq!(
            event(event_type, &json!(NOW), &data),
            expected,
            "{event_type} {data}"
        );
    }
    assert!(
        event("user.created", &json!("1794819600000"), &json!({"id": "u"}))
            .starts_with("  unreadable: no time can be read"),
        "a number in a text is no time"
    );
}

#[test]
fn an_invitation_carries_the_customer() {
    let customer = |value: Value| {
        let data = json!({"id": "i", "organization_id": "o", "status": "pending", "public_metadata": {"customer_id": value}});
        event(
            "organizationInvitation.accepted",
            &json!(1_716_883_200),
            &data,
        )
    };
    let found = customer(json!("cust_1"));
    assert!(found.contains("\"customer_id\":\"cust_1\""), "{found}");
    assert!(found.contains("\"state\":\"accepted\""), "{found}");
    assert!(found.ends_with("@05-28T08:00:00.000\n"), "seconds: {found}");
    assert!(customer(json!(7)).contains("\"customer_id\":null"));
}

#[test]
fn answers_of_the_api_read_as_events_do() {
    let body = bodies("clerk")
        .into_iter()
        .find(|(file, _)| file == "organizationMembership.created.admin.json")
        .expect("a membership")
        .1;
    let body: Value = serde_json::from_str(&body).expect("JSON");
    let data = body["data"].as_object().expect("an object");
    let answered = read_object(CLERK, ObjectKind::Membership, data).expect("a membership");
    assert_eq!(
        Meaning::Events(answered.clone()),
        read(body.to_string().as_bytes()).meaning
    );
    let names: Vec<_> = answered.iter().map(IdentityEvent::name).collect();
    assert_eq!(names, ["organization.upserted", "membership.upserted"]);
    let user = json!({"id": "u", "updated_at": 1_794_819_600_000_i64});
    for (object, data) in [
        (ObjectKind::User, &user),
        (ObjectKind::Organization, &user),
        (ObjectKind::Invitation, &user),
    ] {
        let data = data.as_object().expect("an object");
        assert!(read_object(CLERK, object, data).is_ok(), "{object:?}");
    }
}

proptest! {
    #[test]
    fn any_body_has_a_reading(bytes in mutated("clerk"), value in replaced("clerk"), other in any_json()) {
        check_reading(&read(&bytes));
        check_reading(&read(value.to_string().as_bytes()));
        check_reading(&read(other.to_string().as_bytes()));
    }
}
