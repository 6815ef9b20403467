//! Recorded bodies and vectors of providers, and what is made of them.

use std::path::{Path, PathBuf};

use chrono::{DateTime, TimeDelta, Utc};
use proptest::prelude::*;
use secrecy::SecretString;
use serde_json::{Value, json};
use tenantry::webhooks::{
    Headers, IdentityEvent, Mapping, Meaning, Reading, Said, SourceKind, verify,
};

pub fn fixtures() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures")
}

pub fn text(path: &Path) -> String {
    std::fs::read_to_string(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

pub fn at_millis(millis: i64) -> DateTime<Utc> {
    DateTime::from_timestamp_millis(millis).expect("a date")
}

pub fn secrets(texts: &[&str]) -> Vec<SecretString> {
    texts.iter().copied().map(SecretString::from).collect()
}

/// Every body of a provider: file name and text.
pub fn bodies(provider: &str) -> Vec<(String, String)> {
    let folder = fixtures().join("webhooks").join(provider);
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

/// What a reading says, in one line an event.
pub fn lines(reading: &Reading) -> String {
    fn line<T: serde::Serialize>(event: &IdentityEvent, said: &Said<T>) -> String {
        let described = said.described.as_ref().map(|it| {
            format!(
                " {} @{}",
                json!(it.content),
                it.updated_at.format("%m-%dT%T%.3f")
            )
        });
        let deleted = said
            .deleted_at
            .map(|at| format!(" deleted @{}", at.format("%m-%dT%T%.3f")));
        format!(
            "  {} {}{}{}\n",
            event.name(),
            said.id,
            described.unwrap_or_default(),
            deleted.unwrap_or_default()
        )
    }
    match &reading.meaning {
        Meaning::Ignored => "  ignored\n".to_owned(),
        Meaning::Unreadable(reason) => format!("  unreadable: {reason}\n"),
        Meaning::Events(events) => events
            .iter()
            .map(|event| match event {
                IdentityEvent::Organization(said) => line(event, said),
                IdentityEvent::Domain(said) => line(event, said),
                IdentityEvent::User(said) => line(event, said),
                IdentityEvent::Membership(said) => line(event, said),
                IdentityEvent::Invitation(said) => line(event, said),
                IdentityEvent::Role(said) => line(event, said),
                IdentityEvent::Permission(said) => line(event, said),
                IdentityEvent::DirectoryUser(said) => line(event, said),
                IdentityEvent::DirectoryGroup(said) => line(event, said),
                IdentityEvent::GroupMember(said) => line(event, said),
            })
            .collect(),
    }
}

/// Holds each body of a provider against what it is recorded to mean.
pub fn every_body_reads_as_recorded(kind: SourceKind) {
    let recorded = text(&fixtures().join(format!("webhooks/readings.{}.txt", kind.name())));
    let mut found = String::new();
    for (file, body) in bodies(kind.name()) {
        let reading = tenantry::webhooks::read(kind, &Mapping::default(), body.as_bytes());
        let organization = reading.organization_id.as_deref().unwrap_or("none");
        let entry = format!("{file} of {organization}\n{}", lines(&reading));
        found.push_str(&entry);
    }
    for (expected, found) in recorded.lines().zip(found.lines()) {
        assert_eq!(expected, found);
    }
    assert_eq!(recorded, found);
}

/// Tries the vectors of a file that `kind` has to do with; says how many these were.
pub fn try_vectors(file: &str, kind: SourceKind, scheme: &str) -> usize {
    let file: Value = serde_json::from_str(&text(&fixtures().join(file))).expect("vectors");
    let all = file["vectors"].as_array().expect("a list").iter();
    let mut tried = 0;
    for vector in all.filter(|it| it["scheme"].as_str().unwrap_or("workos") == scheme) {
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
            kind,
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
        tried += 1;
    }
    tried
}

/// Bytes of bodies with some of them changed: nearer to the truth than any bytes.
pub fn mutated(provider: &str) -> impl Strategy<Value = Vec<u8>> {
    let bodies: Vec<Vec<u8>> = bodies(provider)
        .into_iter()
        .map(|(_, body)| body.into_bytes())
        .collect();
    let change = (any::<prop::sample::Index>(), any::<u8>());
    let changes = prop::collection::vec(change, 0..6);
    (prop::sample::select(bodies), changes).prop_map(|(mut body, changes)| {
        for (at, byte) in changes {
            let at = at.index(body.len());
            body[at] = byte;
        }
        body
    })
}

/// A body with one of its values, anywhere, replaced.
pub fn replaced(provider: &str) -> impl Strategy<Value = Value> {
    fn places(value: &Value, at: &str, found: &mut Vec<String>) {
        let below: Vec<(String, &Value)> = match value {
            Value::Object(map) => map
                .iter()
                .map(|(key, value)| (key.clone(), value))
                .collect(),
            Value::Array(items) => (0..).map(|at: usize| at.to_string()).zip(items).collect(),
            _ => Vec::new(),
        };
        for (key, value) in below {
            let at = format!("{at}/{key}");
            places(value, &at, found);
            found.push(at);
        }
    }
    let bodies: Vec<Value> = bodies(provider)
        .iter()
        .map(|(file, body)| serde_json::from_str(body).expect(file))
        .collect();
    let inputs = (
        prop::sample::select(bodies),
        any::<prop::sample::Index>(),
        any_json(),
    );
    inputs.prop_map(|(mut body, at, value)| {
        let mut found = Vec::new();
        places(&body, "", &mut found);
        let place: &String = at.get(&found);
        *body.pointer_mut(place).expect("a place") = value;
        body
    })
}

/// What every reading of any body keeps to.
pub fn check_reading(reading: &Reading) {
    let mut ids = vec![
        reading.event_id.clone(),
        Some(reading.event_type.clone()),
        reading.organization_id.clone(),
    ];
    if let Meaning::Events(events) = &reading.meaning {
        assert!(!events.is_empty());
        let text = lines(reading);
        assert!(!text.contains("\\u0000") && !text.contains('\0'), "{text}");
        ids.extend(events.iter().map(|event| match event {
            IdentityEvent::Organization(said) => Some(said.id.clone()),
            IdentityEvent::Membership(said) => Some(said.id.clone()),
            IdentityEvent::Role(said) => Some(said.id.clone()),
            IdentityEvent::GroupMember(said) => Some(said.id.clone()),
            _ => None,
        }));
    }
    for id in ids.into_iter().flatten() {
        assert!(id.len() <= 255 && !id.contains(char::is_control), "{id:?}");
    }
}

/// Any JSON, with the keys that are read more often than others.
pub fn any_json() -> impl Strategy<Value = Value> {
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
