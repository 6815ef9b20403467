//! Station 1 against recorded material: signature vectors, one body per event type, and properties of both.

use std::path::{Path, PathBuf};

use chrono::{DateTime, TimeDelta, Utc};
use proptest::prelude::*;
use secrecy::SecretString;
use serde_json::{Value, json};
use tenantry::webhooks::{
    Headers, IdentityEvent, Meaning, Organization, Said, SourceKind, VerifyError, read, sign,
    verify,
};

const WORKOS: SourceKind = SourceKind::Workos;
const TOLERANCE: TimeDelta = TimeDelta::seconds(300);

fn fixtures() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures")
}

fn text(path: &Path) -> String {
    std::fs::read_to_string(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

fn at_millis(millis: i64) -> DateTime<Utc> {
    DateTime::from_timestamp_millis(millis).expect("a date")
}

fn secrets(texts: &[&str]) -> Vec<SecretString> {
    texts.iter().copied().map(SecretString::from).collect()
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
    let [(_, value)] = sign(WORKOS, &SecretString::from(secret), now, body)
        .try_into()
        .expect("one header");
    value
}

/// Every `WorkOS` body: file name and text.
fn workos_bodies() -> Vec<(String, String)> {
    let folder = fixtures().join("webhooks/workos");
    let mut paths: Vec<_> = std::fs::read_dir(folder)
        .expect("the folder of bodies")
        .map(|entry| entry.expect("an entry").path())
        .collect();
    paths.sort();
    paths
        .iter()
        .map(|path| {
            (
                path.file_name().expect("a name").display().to_string(),
                text(path),
            )
        })
        .collect()
}

fn organization(meaning: Meaning) -> Said<Organization> {
    match meaning {
        Meaning::Events(events) => match &events[..] {
            [IdentityEvent::Organization(said)] => said.clone(),
            other => panic!("no organization: {other:?}"),
        },
        other => panic!("no organization: {other:?}"),
    }
}

#[test]
fn every_workos_vector_gets_its_verdict() {
    let file: Value =
        serde_json::from_str(&text(&fixtures().join("vectors.workos.json"))).expect("vectors");
    let vectors = file["vectors"].as_array().expect("a list");
    assert!(vectors.len() >= 39, "only {} vectors", vectors.len());
    for vector in vectors {
        let headers: Headers = vector["headers"]
            .as_object()
            .expect("headers")
            .iter()
            .map(|(name, value)| (name.as_str(), value.as_str().expect("text").as_bytes()))
            .collect();
        let keys: Vec<&str> = match &vector["secret"] {
            Value::Array(list) => list.iter().filter_map(Value::as_str).collect(),
            one => vec![one.as_str().expect("a secret")],
        };
        let verdict = verify(
            WORKOS,
            &headers,
            vector["body"].as_str().expect("a body").as_bytes(),
            &secrets(&keys),
            at_millis(vector["now_ms"].as_i64().expect("a clock")),
            TimeDelta::seconds(vector["tolerance_s"].as_i64().expect("a tolerance")),
        );
        match vector["expect"].as_str() {
            Some("accept") => assert_eq!(verdict, Ok(()), "{}", vector["id"]),
            Some("reject") => assert!(verdict.is_err(), "{} was accepted", vector["id"]),
            other => panic!("{} expects {other:?}", vector["id"]),
        }
    }
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
    let bodies = workos_bodies();
    assert!(bodies.len() >= 40, "only {} bodies", bodies.len());
    for (file, body) in bodies {
        let reading = read(WORKOS, body.as_bytes());
        let raw: Value = serde_json::from_str(&body).expect(&file);
        assert_eq!(reading.event_id.as_deref(), raw["id"].as_str(), "{file}");
        assert_eq!(
            Some(reading.event_type.as_str()),
            raw["event"].as_str(),
            "{file}"
        );
        assert!(reading.occurred_at.is_some(), "{file}");
        if reading.event_type.starts_with("organization_membership.") {
            assert_eq!(
                reading.organization_id.as_deref(),
                raw["data"]["organization_id"].as_str(),
                "{file}"
            );
        }
        let has_meaning = [
            "organization.created",
            "organization.updated",
            "organization.deleted",
        ]
        .contains(&reading.event_type.as_str());
        match reading.meaning {
            Meaning::Events(_) => assert!(has_meaning, "{file} has no meaning yet"),
            Meaning::Ignored => assert!(!has_meaning, "{file} was ignored"),
            Meaning::Unreadable(reason) => panic!("{file}: {reason}"),
        }
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
            "data": {"id": "org_1", "updated_at": "2026-11-16T09:00:00.000Z"},
        });
        let reading = read(WORKOS, body.to_string().as_bytes());
        assert_eq!(reading.event_type, event_type);
        assert!(
            !matches!(reading.meaning, Meaning::Unreadable(_)),
            "{event_type}"
        );
    }
}

#[test]
fn an_organization_is_read_whole() {
    let folder = fixtures().join("webhooks/workos");
    let updated = read(
        WORKOS,
        text(&folder.join("organization.updated.json")).as_bytes(),
    );
    assert_eq!(
        updated.organization_id.as_deref(),
        Some("org_01M7HSBBM0X1YB8Q05NMW9TP4G")
    );
    let updated = organization(updated.meaning);
    assert_eq!(updated.name, "Brightwater Freight");
    assert_eq!(updated.external_id.as_deref(), Some("brightwater"));
    assert_eq!(
        updated.metadata,
        json!({"plan": "growth", "region": "eu-west-1"})
    );
    assert_eq!(updated.domains[0].domain, "brightwater.example");
    assert_eq!(updated.domains[0].state.as_deref(), Some("verified"));
    assert_eq!(updated.updated_at.to_rfc3339(), "2026-11-16T09:33:20+00:00");

    let deleted = read(
        WORKOS,
        text(&folder.join("organization.deleted.json")).as_bytes(),
    );
    assert!(matches!(
        deleted.meaning,
        Meaning::Event(IdentityEvent::OrganizationDeleted(_))
    ));
    let deleted = organization(deleted.meaning);
    assert_eq!(
        deleted.updated_at.to_rfc3339(),
        "2026-11-16T11:30:00.012+00:00",
        "when it was deleted"
    );
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
        read(WORKOS, deep.as_bytes()).meaning,
        Meaning::Unreadable(_)
    ));
    assert_eq!(read(WORKOS, wide.as_bytes()).meaning, Meaning::Ignored);
    assert_eq!(
        organization(read(WORKOS, name.to_string().as_bytes()).meaning)
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
            matches!(read(WORKOS, bytes).meaning, Meaning::Unreadable(_)),
            "{bytes:?}"
        );
    }
}

/// Any JSON, with the keys that are read more often than others.
fn any_json() -> impl Strategy<Value = Value> {
    let key = prop_oneof![
        3 => prop::sample::select(vec!["id", "event", "data", "created_at", "updated_at", "name", "metadata", "domains", "domain", "state", "external_id"]).prop_map(str::to_owned),
        1 => any::<String>(),
    ];
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        any::<f64>().prop_map(Value::from),
        any::<String>().prop_map(Value::from),
        prop::sample::select(vec![
            "organization.created",
            "organization.deleted",
            "2026-11-16T09:00:00Z",
            "e\0",
            ""
        ])
        .prop_map(Value::from),
    ];
    leaf.prop_recursive(6, 64, 8, move |inner| {
        prop_oneof![
            1 => prop::collection::vec(inner.clone(), 0..8).prop_map(Value::from),
            4 => prop::collection::hash_map(key.clone(), inner, 0..8).prop_map(|map| Value::Object(map.into_iter().collect())),
        ]
    })
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
        let _ = read(WORKOS, &body);
    }

    #[test]
    fn any_json_has_a_reading(body in any_json()) {
        let reading = read(WORKOS, body.to_string().as_bytes());
        let ids = [reading.event_id, Some(reading.event_type), reading.organization_id];
        for id in ids.into_iter().flatten() {
            prop_assert!(id.len() <= 255 && !id.contains(char::is_control));
        }
    }

    #[test]
    fn any_organization_can_be_stored(name in "[a\0\n\u{202e}\u{1f680}]{0,9}", inside in any_json(), domains in any_json()) {
        let body = json!({
            "id": "e", "event": "organization.created", "created_at": "2026-11-16T09:00:00Z",
            "data": {"id": "o", "name": &name, "metadata": {"a\0": inside}, "domains": domains},
        });
        let it = organization(read(WORKOS, body.to_string().as_bytes()).meaning);
        prop_assert!(!it.name.contains(char::is_control));
        prop_assert_eq!(it.name.contains('\u{202e}'), name.contains('\u{202e}'));
        prop_assert!(it.metadata.as_object().is_some_and(|map| map.contains_key("a")));
        prop_assert!(!holds_nul(&it.metadata));
    }
}
