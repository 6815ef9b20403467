//! `WorkOS`: the `WorkOS-Signature` header and the envelope of its events.
//!
//! Sources: [webhooks](https://workos.com/docs/events/data-syncing/webhooks), [events](https://workos.com/docs/events) and the
//! schemas in [openapi-spec](https://github.com/workos/openapi-spec). Where the documentation's samples and the schemas differ
//! (`object`, `context`, `metadata`), both are accepted. Two things differ from other schemes: the time is in *milliseconds*,
//! and the key is the secret *verbatim*, its `whsec_` included.

use aws_lc_rs::hmac::Tag;
use chrono::{DateTime, Utc};
use secrecy::{ExposeSecret, SecretString};
use serde_json::{Map, Value};

use super::event::{Meaning, Reading, UnreadableReason};
use super::object::Object;
use super::{Headers, VerifyError, age, hmac, json, workos_objects};

const HEADER: &str = "workos-signature";

/// `WorkOS` sends one; a sender that rotates its secret sends two.
const MAX_SIGNATURES: usize = 5;

/// Says when the body was signed, provided that one of `secrets` signed it.
pub(super) fn verify(
    headers: &Headers<'_>,
    body: &[u8],
    secrets: &[&SecretString],
) -> Result<DateTime<Utc>, VerifyError> {
    let header = SignatureHeader::parse(headers.text(HEADER)?)?;
    if secrets.is_empty() {
        return Err(VerifyError::NoSecret);
    }
    // Every secret meets every signature: returning at the first match would show in the time taken which secret it was.
    let mut matched = false;
    for secret in secrets {
        let expected = hex::encode(tag(secret, header.timestamp, body));
        for signature in &header.signatures {
            matched |= hmac::equal(&expected, signature);
        }
    }
    if matched {
        Ok(header.signed_at)
    } else {
        Err(VerifyError::SignatureMismatch {
            secrets: secrets.len(),
        })
    }
}

/// The header as `WorkOS` writes it.
pub(super) fn sign(
    secret: &SecretString,
    now: DateTime<Utc>,
    body: &[u8],
) -> Vec<(&'static str, String)> {
    let timestamp = now.timestamp_millis().to_string();
    let signature = hex::encode(tag(secret, &timestamp, body));
    vec![(HEADER, format!("t={timestamp}, v1={signature}"))]
}

/// The timestamp is signed as the text it came in, so that nothing is re-formatted on the way.
fn tag(secret: &SecretString, timestamp: &str, body: &[u8]) -> Tag {
    let key = secret.expose_secret().as_bytes();
    hmac::sha256(key, &[timestamp.as_bytes(), b".", body])
}

/// `t=<milliseconds>, v1=<64 lower-case hex digits>`, in any order, other keys ignored.
struct SignatureHeader<'a> {
    timestamp: &'a str,
    signed_at: DateTime<Utc>,
    signatures: Vec<&'a str>,
}

impl<'a> SignatureHeader<'a> {
    fn parse(text: &'a str) -> Result<Self, VerifyError> {
        let mut timestamps = Vec::new();
        let mut signatures = Vec::new();
        for part in text.split(',') {
            match part.trim_ascii().split_once('=') {
                Some(("t", value)) => timestamps.push(value),
                Some(("v1", value)) => signatures.push(value),
                _ => {}
            }
        }
        let name = HEADER;
        let timestamp = match timestamps[..] {
            [] => return Err(VerifyError::TimestampMissing { name }),
            [timestamp] => timestamp,
            [_, ..] => {
                let count = timestamps.len();
                return Err(VerifyError::TimestampRepeated { name, count });
            }
        };
        match signatures.len() {
            0 => Err(VerifyError::SignatureMissing { name }),
            count if count > MAX_SIGNATURES => Err(VerifyError::TooManySignatures {
                name,
                count,
                max: MAX_SIGNATURES,
            }),
            _ => Ok(Self {
                timestamp,
                signed_at: age::parse_millis(timestamp)?,
                signatures,
            }),
        }
    }
}

/// Reads the envelope `{id, event, data, created_at}`; the type is in `event`, not in `type`.
///
/// What has no time of its own counts as of `received_at`, if that is given.
pub(super) fn read(body: &[u8], received_at: Option<DateTime<Utc>>) -> Reading {
    Reading::of(body, |envelope, reading| {
        read_envelope(&envelope, received_at, reading)
    })
}

/// Fills in everything that can be read before the first reason to give up.
fn read_envelope(
    envelope: &Map<String, Value>,
    received_at: Option<DateTime<Utc>>,
    reading: &mut Reading,
) -> Result<Meaning, UnreadableReason> {
    reading.occurred_at = json::time(envelope, "created_at");
    let event_type = json::id(envelope, "event", "event type");
    if let Ok(event_type) = &event_type {
        reading.event_type.clone_from(event_type);
    }
    let data = json::required_object(envelope, "data", "event data");
    if let Ok(data) = data {
        reading.organization_id = organization_id(&reading.event_type, data);
    }
    reading.event_id = Some(json::id(envelope, "id", "event id")?);
    let event_type = event_type?;
    let Some((family, action)) = event_type.rsplit_once('.') else {
        return Ok(Meaning::Ignored);
    };
    let Some(reader) = workos_objects::reader(family, action) else {
        return Ok(Meaning::Ignored);
    };
    let object = Object {
        data: data?,
        action,
        occurred_at: reading.occurred_at,
        read_time: json::time,
    };
    object.read_with(reader, received_at).map(Meaning::Events)
}

/// The organization that an event of any type is about, as far as it says.
fn organization_id(event_type: &str, data: &Map<String, Value>) -> Option<String> {
    let key = match event_type {
        "organization.created" | "organization.updated" | "organization.deleted" => "id",
        _ => "organization_id",
    };
    // events of a group's users and of failed domains have it one level deeper
    let inside = ["organization_domain", "group", "user"]
        .iter()
        .filter_map(|key| data.get(*key)?.as_object())
        .find_map(|data| json::optional_slug(data, "organization_id"));
    json::optional_slug(data, key).or(inside)
}

#[cfg(test)]
mod tests {
    use super::super::event::{IdentityEvent, Organization, Said};
    use super::*;

    fn header(text: &str) -> Result<SignatureHeader<'_>, &'static str> {
        SignatureHeader::parse(text).map_err(|error| error.code())
    }

    fn reason(body: &str) -> String {
        match read(body.as_bytes(), None).meaning {
            Meaning::Unreadable(reason) => reason.to_string(),
            other => panic!("{body} reads as {other:?}"),
        }
    }

    fn organization(body: &str) -> Said<Organization> {
        match read(body.as_bytes(), None).meaning {
            Meaning::Events(events) => match &events[..] {
                [IdentityEvent::Organization(said)] => said.clone(),
                other => panic!("{body} reads as {other:?}"),
            },
            other => panic!("{body} reads as {other:?}"),
        }
    }

    #[test]
    fn parts_are_read_by_key_in_any_order() {
        for text in ["t=12,v1=ab", "v1=ab , t=12", "\tt=12, v1=ab, v2=cd,, x, ="] {
            let header = header(text).expect(text);
            assert_eq!(
                (header.timestamp, &header.signatures[..]),
                ("12", &["ab"][..])
            );
            assert_eq!(header.signed_at.timestamp_millis(), 12);
        }
        assert_eq!(
            header("t=1,v1=a,v1=,v1=a=b,v1=c,v1=d")
                .expect("five")
                .signatures
                .len(),
            5
        );
    }

    #[test]
    fn a_header_that_is_not_clear_is_malformed() {
        for (text, code) in [
            ("", "timestamp_missing"),
            ("v1=ab", "timestamp_missing"),
            ("T=12,v1=ab", "timestamp_missing"),
            ("t=12,t=12,v1=ab", "timestamp_repeated"),
            ("t=12", "signature_missing"),
            ("t=12,V1=ab", "signature_missing"),
            ("t=,v1=ab", "timestamp_invalid"),
            ("t= 12,v1=ab", "timestamp_invalid"),
            ("t=12,v1=a,v1=a,v1=a,v1=a,v1=a,v1=a", "too_many_signatures"),
        ] {
            assert_eq!(header(text).err(), Some(code), "{text}");
        }
    }

    #[test]
    fn reasons_name_the_field() {
        let event =
            |data: &str| format!(r#"{{"id":"e","event":"organization.created","data":{data}}}"#);
        for (body, expected) in [
            ("{}", "the event id is missing"),
            (r#"{"id":"e","type":"x"}"#, "the event type is missing"),
            (
                r#"{"id":"e","event":"organization.created"}"#,
                "the event data is missing",
            ),
            (&event("[]"), "the event data is an array, not an object"),
            (&event("{}"), "the organization id is missing"),
            (
                &event(r#"{"id":"o","name":5}"#),
                "the organization name is a number, not a string",
            ),
            (
                &event(r#"{"id":"o"}"#),
                "no time can be read: neither from the event nor from the organization in it",
            ),
        ] {
            assert_eq!(reason(body), expected);
        }
    }

    #[test]
    fn an_unreadable_body_still_says_what_it_can() {
        let body = r#"{"id":"","event":"organization.created","created_at":"2026-11-16T09:00:00Z","data":{"id":"org_1"}}"#;
        let reading = read(body.as_bytes(), None);
        assert!(matches!(reading.meaning, Meaning::Unreadable(_)));
        assert_eq!(reading.event_id, None);
        assert_eq!(reading.event_type, "organization.created");
        assert_eq!(reading.organization_id.as_deref(), Some("org_1"));
        assert!(reading.occurred_at.is_some());
    }

    #[test]
    fn times_fall_back_in_order() {
        let year = |kind: &str, data: &str, envelope: &str| {
            let time = |key, year: &str| {
                if year.is_empty() {
                    String::new()
                } else {
                    format!(r#","{key}":"{year}-01-01T00:00:00Z""#)
                }
            };
            let (updated, created) = data.split_once('/').expect("two years");
            let body = format!(
                r#"{{"id":"e","event":"organization.{kind}"{},"data":{{"id":"o"{}{}}}}}"#,
                time("created_at", envelope),
                time("updated_at", updated),
                time("created_at", created),
            );
            let said = organization(&body);
            let described = said.described.expect("a description").updated_at;
            said.deleted_at
                .unwrap_or(described)
                .format("%Y")
                .to_string()
        };
        assert_eq!(year("updated", "2021/2022", "2023"), "2021");
        assert_eq!(
            year("updated", "9999/2022", "2023"),
            "2023",
            "no date of this age"
        );
        assert_eq!(year("updated", "/2022", "2023"), "2023");
        assert_eq!(year("updated", "/2022", "2223"), "2022");
        assert_eq!(year("deleted", "2021/2022", "2023"), "2023");
        assert_eq!(year("deleted", "2021/2022", ""), "2021");
        assert_eq!(year("deleted", "/2022", ""), "2022");
    }

    #[test]
    fn nothing_that_postgres_refuses_gets_through() {
        let said = organization(concat!(
            r#"{"id":"e","event":"organization.created","created_at":"2026-11-16T09:00:00.123456789Z","data":{"id":"o","#,
            "\"name\":\"A\\u0000\\n\u{202e}\u{1f680}\",",
            r#""metadata":{"k\u0000":["\u0000v\n",{"x":"\u0000"}]},"external_id":""}}"#
        ));
        let described = said.described.expect("a description");
        let read = described.content;
        assert_eq!(read.name, "A\u{202e}\u{1f680}");
        assert_eq!(read.metadata, serde_json::json!({"k": ["v\n", {"x": ""}]}));
        assert_eq!(read.external_id, None);
        assert_eq!(described.updated_at.timestamp_subsec_nanos(), 123_456_000);
    }
}
