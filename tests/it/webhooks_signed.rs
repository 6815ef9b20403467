//! The signatures of Standard Webhooks and Svix: vectors, and properties of both kinds that use them.

use chrono::TimeDelta;
use proptest::prelude::*;
use secrecy::SecretString;
use tenantry::webhooks::{Headers, SourceKind, VerifyError, event_id, sign, verify};

use crate::support::bodies::{at_millis, secrets, try_vectors};

const VECTORS: &str = "vectors.standard_webhooks.json";
const KINDS: [SourceKind; 2] = [SourceKind::Clerk, SourceKind::Standard];
const TOLERANCE: TimeDelta = TimeDelta::seconds(300);
const NOW: i64 = 1_794_819_600_000;
const SECRET: &str = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw";
const OTHER: &str = "whsec_C2FVsBQIhrscChlQIMV+b5sSYspob7oD";

fn signed(kind: SourceKind, secret: &str, body: &[u8]) -> Vec<(&'static str, String)> {
    let headers = sign(
        kind,
        &SecretString::from(secret),
        "msg_1",
        at_millis(NOW),
        body,
    );
    assert_eq!(headers.len(), 3);
    headers
}

fn check(
    kind: SourceKind,
    headers: &[(&str, String)],
    body: &[u8],
    keys: &[&str],
) -> Result<(), VerifyError> {
    let headers: Headers = headers
        .iter()
        .map(|(name, value)| (*name, value.as_bytes()))
        .collect();
    verify(
        kind,
        &headers,
        body,
        &secrets(keys),
        at_millis(NOW),
        TOLERANCE,
    )
}

#[test]
fn every_vector_gets_its_verdict() {
    for kind in KINDS {
        let tried = try_vectors(VECTORS, kind, "svix");
        assert!(tried >= 28, "only {tried} vectors");
    }
    let tried = try_vectors(VECTORS, SourceKind::Standard, "standard-webhooks-ed25519");
    assert!(tried >= 5, "only {tried} vectors");
}

/// The vector that the Python library of Standard Webhooks publishes for Ed25519 is among the files; this is the other way
/// round: what is signed here must be what was signed there.
#[test]
fn a_private_key_makes_the_signature_of_the_vectors() {
    let file = crate::support::bodies::text(&crate::support::bodies::fixtures().join(VECTORS));
    let file: serde_json::Value = serde_json::from_str(&file).expect("vectors");
    let all = file["vectors"].as_array().expect("a list");
    let text = |value: &serde_json::Value| value.as_str().expect("text").to_owned();
    let vector = all
        .iter()
        .find(|it| it["id"] == "stdwh_ed25519.mixed_v1_and_v1a")
        .expect("a vector");
    let headers = sign(
        SourceKind::Standard,
        &SecretString::from(text(&vector["private_key"])),
        &text(&vector["headers"]["webhook-id"]),
        at_millis(NOW),
        text(&vector["body"]).as_bytes(),
    );
    let signature = &headers.last().expect("a signature").1;
    assert!(text(&vector["headers"]["webhook-signature"]).ends_with(signature));
    for clerk in [&vector["private_key"], &vector["secret"]] {
        let secret = SecretString::from(text(clerk));
        assert!(sign(SourceKind::Clerk, &secret, "m", at_millis(NOW), b"").is_empty());
    }
}

#[test]
fn the_reported_reason_is_the_right_one() {
    for kind in KINDS {
        let good = signed(kind, SECRET, b"{}");
        let code = |at: usize, value: &str| {
            let mut headers = good.clone();
            headers[at].1 = value.to_owned();
            let error = check(kind, &headers, b"{}", &[SECRET]).expect_err(value);
            (error.code(), error.is_malformed())
        };
        assert_eq!(check(kind, &good, b"{}", &[SECRET]), Ok(()));
        for at in 0..3 {
            let mut headers = good.clone();
            headers.remove(at);
            let error = check(kind, &headers, b"{}", &[SECRET]).expect_err("no header");
            let name = good[at].0;
            assert_eq!(error, VerifyError::HeaderMissing { name });
            headers.extend([good[at].clone(), good[at].clone()]);
            let error = check(kind, &headers, b"{}", &[SECRET]).expect_err("twice");
            assert_eq!(error, VerifyError::HeaderRepeated { name });
        }
        for id in ["", "msg.1", "msg\u{7}", &"x".repeat(256)] {
            assert_eq!(code(0, id), ("event_id_invalid", true), "{id:?}");
        }
        assert_eq!(code(0, "msg_2"), ("signature_mismatch", false));
        for time in ["", "1794819600000", "1794819600.0", "+1794819600", "1e9"] {
            assert_eq!(code(1, time), ("timestamp_invalid", true), "{time:?}");
        }
        assert_eq!(
            code(1, "1794819000"),
            ("signature_mismatch", false),
            "the age of a forged signature means nothing"
        );
        assert_eq!(
            code(1, "01794819600"),
            ("signature_mismatch", false),
            "the time is signed as the text that came"
        );
        assert_eq!(code(2, "v2,abc v1=abc"), ("signature_missing", true));
        assert_eq!(
            code(2, &"v1,a ".repeat(300)),
            ("signature_header_too_long", true)
        );
        for keys in [
            &[][..],
            &[""],
            &[" "],
            &["whsec_"],
            &["whsec_!"],
            &["", "\n"],
        ] {
            assert_eq!(
                check(kind, &good, b"{}", keys),
                Err(VerifyError::NoSecret),
                "{keys:?}"
            );
        }
    }
}

#[test]
fn a_delivery_is_named_by_the_headers_that_were_verified() {
    for (kind, own, other) in [
        (SourceKind::Clerk, "svix-id", "webhook-id"),
        (SourceKind::Standard, "webhook-id", "svix-id"),
    ] {
        let mut headers = signed(kind, SECRET, b"{}");
        assert_eq!(headers[0].0, own);
        headers.push((other, "msg_other".to_owned()));
        assert_eq!(check(kind, &headers, b"{}", &[SECRET]), Ok(()));
        let pairs: Headers = headers
            .iter()
            .map(|(name, value)| (*name, value.as_bytes()))
            .collect();
        assert_eq!(event_id(kind, &pairs).as_deref(), Some("msg_1"));
    }
}

#[test]
fn a_whole_set_of_the_other_names_counts_only_without_an_own_one() {
    let forged = signed(SourceKind::Clerk, OTHER, b"{}");
    let good = signed(SourceKind::Standard, SECRET, b"{}");
    let both = [forged, good].concat();
    assert!(check(SourceKind::Clerk, &both, b"{}", &[SECRET]).is_err());
    assert_eq!(check(SourceKind::Standard, &both, b"{}", &[SECRET]), Ok(()));
    assert_eq!(
        check(SourceKind::Clerk, &both[2..], b"{}", &[SECRET]),
        Ok(())
    );
}

proptest! {
    #[test]
    fn what_is_signed_verifies_and_nothing_else(
        mut body in prop::collection::vec(any::<u8>(), 1..200),
        asymmetric: bool,
        seed: [u8; 32],
        at: prop::sample::Index,
        flip in prop::sample::select(vec![1, 2, 4, 8, 16, 32, 64, 128_u8]),
    ) {
        use base64::{Engine, prelude::BASE64_STANDARD};
        let prefix = if asymmetric { "whsk_" } else { "whsec_" };
        let secret = format!("{prefix}{}", BASE64_STANDARD.encode(seed));
        for kind in KINDS.into_iter().filter(|kind| !asymmetric || *kind == SourceKind::Standard) {
            let good = signed(kind, &secret, &body);
            prop_assert_eq!(check(kind, &good, &body, &[OTHER, &secret]), Ok(()));
            prop_assert!(check(kind, &good, &body, &[OTHER]).is_err());
            for header in 0..3 {
                let mut value = good[header].1.clone().into_bytes();
                let place = at.index(value.len());
                value[place] ^= flip;
                let pairs: Headers = good
                    .iter()
                    .enumerate()
                    .map(|(n, (name, text))| (*name, if n == header { &value[..] } else { text.as_bytes() }))
                    .collect();
                let verdict = verify(kind, &pairs, &body, &secrets(&[&secret]), at_millis(NOW), TOLERANCE);
                prop_assert!(verdict.is_err(), "{:?}", String::from_utf8_lossy(&value));
            }
            let place = at.index(body.len());
            body[place] ^= flip;
            prop_assert!(check(kind, &good, &body, &[&secret]).is_err());
            body[place] ^= flip;
        }
    }

    #[test]
    fn the_tolerance_is_the_border(offset in prop_oneof![-303..-297_i64, 297..303_i64, -600..600_i64]) {
        for kind in KINDS {
            let then = at_millis(NOW + offset * 1000);
            let headers = sign(kind, &SecretString::from(SECRET), "msg_1", then, b"{}");
            let verdict = check(kind, &headers, b"{}", &[SECRET]);
            prop_assert_eq!(verdict.is_ok(), offset.abs() <= 300);
        }
    }
}
