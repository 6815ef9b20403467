//! Station 1 against recorded material: signature vectors, one body per event type, and properties of both.

use chrono::{DateTime, TimeDelta, Utc};
use proptest::prelude::*;
use secrecy::SecretString;
use serde_json::{Value, json};
use tenantry::webhooks::{
    Description, Headers, IdentityEvent, Mapping, Meaning, ObjectKind, Organization, Reading, Said,
    SourceKind, VerifyError, event_id, read_object, sign, verify,
};

use crate::support::bodies::{
    any_json, at_millis, bodies, check_reading, every_body_reads_as_recorded, fixtures, lines,
    mutated, replaced, secrets, text, try_vectors,
};

const WORKOS: SourceKind = SourceKind::Workos;
const TOLERANCE: TimeDelta = TimeDelta::seconds(300);

fn read(body: &[u8]) -> Reading {
    tenantry::webhooks::read(WORKOS, &Mapping::default(), body)
}

/// Verifies `body` under one `WorkOS` header with this value.
fn verify_header(
    value: &[u8],
    body: &[u8],
    secrets: &[SecretString],
    now: DateTime<Utc>,
) -> Result<(), VerifyError> {
    let headers: Headers = [("WorkOS-Signature", value)].into_iter().collect();
    verify(WORKOS, &headers, body, secrets, now, TOLERANCE)
}

fn signature(secret: &str, now: DateTime<Utc>, body: &[u8]) -> String {
    let [(_, value)] = sign(WORKOS, &SecretString::from(secret), "", now, body)
        .try_into()
        .expect("one header");
    value
}

fn organization(meaning: Meaning) -> Said<Organization> {
    match meaning {
        Meaning::Events(mut events) => match events.pop() {
            Some(IdentityEvent::Organization(said)) => said,
            other => panic!("no organization: {other:?}"),
        },
        other => panic!("no organization: {other:?}"),
    }
}

fn described(meaning: Meaning) -> Description<Organization> {
    organization(meaning).described.expect("a description")
}

#[test]
fn every_workos_vector_gets_its_verdict() {
    let tried = try_vectors("vectors.workos.json", WORKOS, "workos");
    assert!(tried >= 39, "only {tried} vectors");
}

#[test]
fn the_reported_reason_is_the_right_one() {
    let now = at_millis(1_794_819_601_000);
    let good = signature("whsec_1", now, b"{}");
    let key = secrets(&["whsec_1"]);
    let code = |value: &str, now, secrets: &[SecretString]| {
        let error = verify_header(value.as_bytes(), b"{}", secrets, now).expect_err(value);
        (error.code(), error.is_malformed())
    };
    let later = now + TimeDelta::seconds(301);
    assert_eq!(code(&good, later, &key), ("timestamp_too_old", false));
    assert_eq!(
        code(&good, now - TimeDelta::seconds(301), &key),
        ("timestamp_in_future", false)
    );
    assert_eq!(
        code(&good, later, &secrets(&["whsec_2"])),
        ("signature_mismatch", false),
        "the age of a forged signature means nothing"
    );
    assert_eq!(
        code(
            &good.to_uppercase().replace("T=", "t=").replace("V1", "v1"),
            now,
            &key
        ),
        ("signature_mismatch", false)
    );
    assert_eq!(code("", now, &key), ("timestamp_missing", true));
    assert_eq!(
        code(&format!("{good},{}", "x".repeat(1024)), now, &key),
        ("signature_header_too_long", true)
    );
    let none: Headers = std::iter::empty().collect();
    let error = verify(WORKOS, &none, b"{}", &key, now, TOLERANCE).expect_err("no header");
    assert_eq!(
        (error.code(), error.is_malformed()),
        ("signature_header_missing", true)
    );
}

#[test]
fn nothing_verifies_without_a_secret() {
    let now = at_millis(1_794_819_601_000);
    let forged = signature("", now, b"{}");
    for keys in [&[][..], &[""], &[" "], &["", "\n"]] {
        let verdict = verify_header(forged.as_bytes(), b"{}", &secrets(keys), now);
        assert_eq!(verdict, Err(VerifyError::NoSecret), "{keys:?}");
    }
    let mixed = verify_header(forged.as_bytes(), b"{}", &secrets(&["", "whsec_1"]), now);
    assert_eq!(mixed, Err(VerifyError::SignatureMismatch { secrets: 1 }));
}

#[test]
fn any_of_several_secrets_verifies() {
    let now = at_millis(1_794_819_601_000);
    let keys = ["whsec_old", "whsec_new", "whsec_next"];
    for key in keys {
        let value = signature(key, now, b"{}");
        assert_eq!(
            verify_header(value.as_bytes(), b"{}", &secrets(&keys), now),
            Ok(()),
            "{key}"
        );
    }
    let stranger = signature("whsec_other", now, b"{}");
    assert!(verify_header(stranger.as_bytes(), b"{}", &secrets(&keys), now).is_err());
}

#[test]
fn every_workos_body_is_a_proper_event() {
    let bodies = bodies("workos");
    assert!(bodies.len() >= 40, "only {} bodies", bodies.len());
    for (file, body) in bodies {
        let reading = read(body.as_bytes());
        let raw: Value = serde_json::from_str(&body).expect(&file);
        assert_eq!(reading.event_id.as_deref(), raw["id"].as_str(), "{file}");
        assert_eq!(
            Some(reading.event_type.as_str()),
            raw["event"].as_str(),
            "{file}"
        );
        assert!(reading.occurred_at.is_some(), "{file}");
    }
    assert_eq!(event_id(WORKOS, &Headers::default()), None);
}

#[test]
fn every_workos_body_reads_as_recorded() {
    every_body_reads_as_recorded(WORKOS);
}

/// Thin samples, other times, another's word: what the recorded bodies do not show.
#[test]
fn what_is_missing_or_odd_has_a_clear_outcome() {
    let event = |event_type: &str, data: &Value| {
        let body = json!({"id": "e", "event": event_type, "created_at": "2026-11-16T10:00:00Z", "data": data});
        lines(&read(body.to_string().as_bytes()))
    };
    let long = "x".repeat(10_000);
    for (event_type, data, expected) in [
        (
            "user.created",
            json!({"id": 7}),
            "  unreadable: the user id is a number, not a string\n",
        ),
        (
            "user.created",
            json!({"id": long}),
            "  unreadable: the user id is 10000 bytes long; at most 255 are accepted\n",
        ),
        (
            "user.deleted",
            json!({"id": "u"}),
            "  user.deleted u deleted @11-16T10:00:00.000\n",
        ),
        (
            "user.updated",
            json!({"id": "u", "email": "", "first_name": 7, "last_name": "A\u{0}\n", "external_id": long}),
            "  user.upserted u {\"email\":null,\"external_id\":null,\"first_name\":null,\"last_name\":\"A\"} @11-16T10:00:00.000\n",
        ),
        (
            "organization_membership.created",
            json!({"id": "m", "organization_id": "o"}),
            "  unreadable: the user id is missing\n",
        ),
        (
            "organization_membership.deleted",
            json!({"id": "m"}),
            "  membership.deleted m deleted @11-16T10:00:00.000\n",
        ),
        (
            "invitation.created",
            json!({"id": "i", "organization_id": 7}),
            "  unreadable: the organization id is a number, not a string\n",
        ),
        (
            "organization_role.created",
            json!({"slug": "s"}),
            "  unreadable: the organization id is missing\n",
        ),
        (
            "dsync.group.user_added",
            json!({"group": {"id": "g"}}),
            "  unreadable: the directory user is missing\n",
        ),
        (
            "dsync.group.user_added",
            json!({"group": {"id": "g"}, "user": []}),
            "  unreadable: the directory user is an array, not an object\n",
        ),
        (
            "organization_domain.verification_failed",
            json!({"id": "d"}),
            "  unreadable: the organization_domain is missing\n",
        ),
        (
            "organization.created",
            json!({"id": "o", "domains": [7, {"id": "d", "domain": "a.example"}, {"id": 7, "updated_at": "2026-11-16T10:00:00Z"}]}),
            "  organization.upserted o {\"created_by\":null,\"external_id\":null,\"metadata\":{},\"name\":\"\"} @11-16T10:00:00.000\n",
        ),
        ("vault.created", json!([]), "  ignored\n"),
    ] {
        assert_eq!(event(event_type, &data), expected, "{event_type} {data}");
    }
}

#[test]
fn answers_of_the_api_read_as_events_do() {
    let user = json!({"id": "u", "email": "a@b.example", "updated_at": "2026-11-16T09:00:00Z"});
    let membership = json!({
        "id": "om", "organization_id": "o", "user_id": "u", "status": "inactive", "role": {"slug": "admin"},
        "updated_at": "2026-11-16T09:00:01Z", "user": user,
    });
    let read = |object, data: &Value| {
        let data = data.as_object().expect("an object");
        let meaning = read_object(WORKOS, object, data).map(Meaning::Events);
        meaning.map_err(|reason| reason.to_string())
    };
    let Ok(Meaning::Events(events)) = read(ObjectKind::Membership, &membership) else {
        panic!("no membership");
    };
    let names: Vec<_> = events.iter().map(IdentityEvent::name).collect();
    assert_eq!(names, ["user.upserted", "membership.upserted"]);
    for (object, data) in [
        (ObjectKind::User, user.clone()),
        (
            ObjectKind::Organization,
            json!({"id": "o", "created_at": "2026-11-16T09:00:00Z"}),
        ),
        (
            ObjectKind::Invitation,
            json!({"id": "i", "state": "expired", "updated_at": "2026-11-16T09:00:00Z"}),
        ),
    ] {
        assert!(read(object, &data).is_ok(), "{data}");
        let timeless = json!({"id": "x"});
        assert!(
            read(object, &timeless).is_err_and(|reason| reason.starts_with("no time can be read"))
        );
    }
}

/// The list is that of `WorkOS`' `openapi-spec` at 7fd8359 (2026-08-07).
#[test]
fn every_workos_event_type_is_a_proper_event() {
    let types = text(&fixtures().join("webhooks/workos_event_types.txt"));
    assert_eq!(types.lines().count(), 111);
    for event_type in types.lines().chain(["organization.merged"]) {
        let body = json!({
            "id": "event_1", "event": event_type, "created_at": "2026-11-16T09:00:00.000Z",
            "data": {
                "id": "org_1", "updated_at": "2026-11-16T09:00:00.000Z", "organization_id": "org_1", "user_id": "user_1",
                "slug": "admin", "domain": "a.example", "group": {"id": "g"}, "user": {"id": "u"},
                "organization_domain": {"id": "d", "organization_id": "org_1", "domain": "a.example"},
            },
        });
        let reading = read(body.to_string().as_bytes());
        assert_eq!(reading.event_type, event_type);
        assert!(
            !matches!(reading.meaning, Meaning::Unreadable(_)),
            "{event_type}"
        );
    }
}

#[test]
fn large_and_deep_bodies_have_an_answer() {
    let deep = format!(
        r#"{{"id":"e","data":{}1{}}}"#,
        "[".repeat(100_000),
        "]".repeat(100_000)
    );
    let wide = format!(
        r#"{{"id":"e","event":"x","data":[{}0]}}"#,
        "0,".repeat(500_000)
    );
    let name = json!({"id": "e", "event": "organization.created", "created_at": "2026-11-16T09:00:00Z",
        "data": {"id": "o", "name": "x".repeat(1 << 20)}});
    assert!(matches!(
        read(deep.as_bytes()).meaning,
        Meaning::Unreadable(_)
    ));
    assert_eq!(read(wide.as_bytes()).meaning, Meaning::Ignored);
    assert_eq!(
        described(read(name.to_string().as_bytes()).meaning)
            .content
            .name
            .len(),
        1 << 20
    );
    for bytes in [
        &b"\xff"[..],
        b"{\"id\":\"\xc3\"}",
        b"\xef\xbb\xbf{}",
        b"null",
        b"\"x\"",
        b"{}{}",
    ] {
        assert!(
            matches!(read(bytes).meaning, Meaning::Unreadable(_)),
            "{bytes:?}"
        );
    }
}

fn holds_nul(value: &Value) -> bool {
    match value {
        Value::String(text) => text.contains('\0'),
        Value::Array(items) => items.iter().any(holds_nul),
        Value::Object(map) => map
            .iter()
            .any(|(key, value)| key.contains('\0') || holds_nul(value)),
        Value::Null | Value::Bool(_) | Value::Number(_) => false,
    }
}

proptest! {
    #[test]
    fn any_header_has_a_verdict(value in prop::collection::vec(any::<u8>(), 0..1200), text in "[tv1=, 0-9a-f]{0,80}") {
        let now = at_millis(1_794_819_601_000);
        let key = secrets(&["whsec_1"]);
        for value in [&value[..], text.as_bytes()] {
            let verdict = verify_header(value, b"", &key, now);
            prop_assert!(verdict.is_err());
        }
    }

    #[test]
    fn what_is_signed_verifies(secret in "[^\\s]{1,80}", millis in 0..=999_999_999_999_999_i64, body: Vec<u8>) {
        let now = at_millis(millis);
        let value = signature(&secret, now, &body);
        prop_assert_eq!(verify_header(value.as_bytes(), &body, &secrets(&["other", &secret]), now), Ok(()));
    }

    #[test]
    fn any_change_is_refused(mut body in prop::collection::vec(any::<u8>(), 1..200), at: prop::sample::Index, flip in prop::sample::select(vec![1, 2, 4, 8, 16, 32, 64, 128_u8])) {
        let now = at_millis(1_794_819_601_000);
        let key = secrets(&["whsec_1"]);
        let value = signature("whsec_1", now, &body);
        let mut changed = value.clone().into_bytes();
        // Not the `, ` between the parts: white space there is trimmed, so a tab would be as good.
        let places: Vec<usize> = (0..changed.len()).filter(|&place| changed[place] != b' ').collect();
        changed[*at.get(&places)] ^= flip;
        prop_assert!(verify_header(&changed, &body, &key, now).is_err());
        let place = at.index(body.len());
        body[place] ^= flip;
        prop_assert!(verify_header(value.as_bytes(), &body, &key, now).is_err());
    }

    #[test]
    fn the_tolerance_is_the_border(offset_ms in prop_oneof![-300_003..-299_997_i64, 299_998..300_004_i64, -600_000..600_000_i64]) {
        let now = at_millis(1_794_819_601_000);
        let value = signature("whsec_1", now + TimeDelta::milliseconds(offset_ms), b"{}");
        let verdict = verify_header(value.as_bytes(), b"{}", &secrets(&["whsec_1"]), now);
        prop_assert_eq!(verdict.is_ok(), offset_ms.abs() <= TOLERANCE.num_milliseconds());
    }

    #[test]
    fn any_bytes_have_a_reading(body: Vec<u8>) {
        check_reading(&read(&body));
    }

    #[test]
    fn any_json_has_a_reading(body in any_json()) {
        check_reading(&read(body.to_string().as_bytes()));
    }

    #[test]
    fn any_mutated_body_has_a_reading(bytes in mutated("workos"), value in replaced("workos")) {
        check_reading(&read(&bytes));
        check_reading(&read(value.to_string().as_bytes()));
    }

    #[test]
    fn any_organization_can_be_stored(name in "[a\0\n\u{202e}\u{1f680}]{0,9}", inside in any_json(), domains in any_json()) {
        let body = json!({
            "id": "e", "event": "organization.created", "created_at": "2026-11-16T09:00:00Z",
            "data": {"id": "o", "name": &name, "metadata": {"a\0": inside}, "domains": domains},
        });
        let it = described(read(body.to_string().as_bytes()).meaning).content;
        prop_assert!(!it.name.contains(char::is_control));
        prop_assert_eq!(it.name.contains('\u{202e}'), name.contains('\u{202e}'));
        prop_assert!(it.metadata.as_object().is_some_and(|map| map.contains_key("a")));
        prop_assert!(!holds_nul(&it.metadata));
    }
}
