//! `tenantry webhook` by hand, for the kinds whose signature is three headers.

use std::fs;

use serde_json::Value;

use crate::{
    cli::outcome,
    support::{
        bodies::{fixtures, text},
        process::tenantry,
    },
};

const SECRET: &str = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw";
const OTHER: &str = "whsec_C2FVsBQIhrscChlQIMV+b5sSYspob7oD";
const NOW: &str = "2026-11-16T09:00:00Z";

/// Runs `webhook <verb>` on a body; exit code and standard output.
fn webhook(verb: &str, kind: &str, body: &str, more: &[&str]) -> (i32, String) {
    let file = tempfile::NamedTempFile::new().unwrap();
    fs::write(file.path(), body).unwrap();
    let mut command = tenantry();
    command
        .args(["webhook", verb, "--source", kind, "--now", NOW])
        .arg("--body-file")
        .arg(file.path())
        .args(more);
    let (code, stdout, _) = outcome(&mut command);
    (code, stdout)
}

fn verify(kind: &str, body: &str, headers: &str, secrets: &[&str]) -> i32 {
    let headers = headers.lines().flat_map(|line| ["--header", line]);
    let secrets = secrets.iter().flat_map(|secret| ["--secret", secret]);
    let more: Vec<_> = headers.chain(secrets).collect();
    webhook("verify", kind, body, &more).0
}

#[test]
fn the_headers_are_those_of_the_sender() {
    for (kind, prefix) in [("clerk", "svix"), ("standard", "webhook")] {
        let (code, headers) = webhook(
            "sign",
            kind,
            "{}",
            &["--secret", SECRET, "--secret", OTHER, "--id", "msg_1"],
        );
        assert_eq!(code, 0);
        assert_eq!(
            headers,
            format!(
                "{prefix}-id: msg_1\n{prefix}-timestamp: 1794819600\n\
                 {prefix}-signature: v1,XxzgaxbgNKyPjgo/vmMV1A97Ckqo4PsNKm+x7VZvHe0= v1,MfUsPgemmuXSEI4G0dbdGorFQw2FBGwPV/Jd4FdCUWY=\n"
            )
        );
        assert_eq!(verify(kind, "{}", &headers, &[SECRET]), 0);
        assert_eq!(verify(kind, "{}", &headers, &[OTHER]), 0);
        assert_eq!(verify(kind, "{ }", &headers, &[SECRET, OTHER]), 1);
        let (_, first) = webhook("sign", kind, "{}", &["--secret", SECRET]);
        let (_, second) = webhook("sign", kind, "{}", &["--secret", SECRET]);
        assert!(first.starts_with(&format!("{prefix}-id: msg_")), "{first}");
        assert_ne!(first, second, "each delivery has an id of its own");
        assert_eq!(verify(kind, "{}", &first, &[SECRET]), 0);
    }
}

#[test]
fn private_keys_sign_and_public_ones_verify() {
    let file = text(&fixtures().join("vectors.standard_webhooks.json"));
    let file: Value = serde_json::from_str(&file).unwrap();
    let mut vectors = file["vectors"].as_array().unwrap().iter();
    let vector = vectors
        .find(|vector| vector["private_key"].is_string())
        .unwrap();
    let private = vector["private_key"].as_str().unwrap();
    let public = vector["secret"].as_str().unwrap();
    let both = ["--secret", private, "--secret", SECRET];
    let (code, headers) = webhook("sign", "standard", "{}", &both);
    assert_eq!(code, 0);
    assert!(headers.contains(": v1a,") && headers.contains(" v1,"));
    for secret in [private, public, SECRET] {
        assert_eq!(verify("standard", "{}", &headers, &[secret]), 0, "{secret}");
    }
    assert_eq!(verify("standard", "{ }", &headers, &[public]), 1);
    for (kind, secret) in [
        ("standard", public),
        ("clerk", private),
        ("clerk", "whsec_!"),
    ] {
        let (code, _) = webhook("sign", kind, "{}", &["--secret", secret]);
        assert_eq!(code, 64, "{kind} {secret}");
    }
    let (code, _) = webhook(
        "sign",
        "workos",
        "{}",
        &["--secret", SECRET, "--secret", OTHER],
    );
    assert_eq!(code, 64, "WorkOS signs with one secret");
}
