//! Whoever signs tokens in tests, with throw-away keys, and the issuers that are told of them.

use std::fs;

use aws_lc_rs::{
    hmac,
    rand::SystemRandom,
    rsa::KeyPair as RsaKeyPair,
    signature::{KeyPair, RSA_PKCS1_SHA256},
};
use base64::{
    Engine,
    engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD},
};
use serde_json::{Value, json};
use tenantry::{
    auth::{Issuers, Pace},
    config::{Config, Environment},
    metrics::Metrics,
};

/// Where keys and vectors are.
pub const FIXTURES: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures/jwt");

/// A signer of RS256 tokens.
pub struct Signer {
    pair: RsaKeyPair,
    kid: String,
}

impl Signer {
    /// The signer whose key is in the fixtures' sets, under another name.
    pub fn first(kid: &str) -> Self {
        Self::from_file("test_rsa_private.pem", kid)
    }

    /// Another one.
    pub fn other(kid: &str) -> Self {
        Self::from_file("test_rsa_other_private.pem", kid)
    }

    fn from_file(file: &str, kid: &str) -> Self {
        let pem = fs::read_to_string(format!("{FIXTURES}/{file}")).unwrap();
        let base64: String = pem.lines().filter(|line| !line.starts_with('-')).collect();
        let pair = RsaKeyPair::from_pkcs8(&STANDARD.decode(base64).unwrap()).unwrap();
        let kid = kid.to_owned();
        Self { pair, kid }
    }

    /// The public key, as in a JWKS.
    pub fn jwk(&self) -> Value {
        let key = self.pair.public_key();
        let n = key.modulus().big_endian_without_leading_zero();
        let n = URL_SAFE_NO_PAD.encode(n);
        json!({"kty": "RSA", "use": "sig", "alg": "RS256", "kid": self.kid, "n": n, "e": "AQAB"})
    }

    /// A token with these claims.
    pub fn token(&self, claims: &Value) -> String {
        self.with_header(
            &json!({"alg": "RS256", "kid": self.kid, "typ": "JWT"}),
            claims,
        )
    }

    /// A token that says this of itself, and is signed with RS256 all the same.
    pub fn with_header(&self, header: &Value, claims: &Value) -> String {
        let signed = signed_part(header, claims);
        let mut signature = vec![0; self.pair.public_modulus_len()];
        let random = SystemRandom::new();
        self.pair
            .sign(
                &RSA_PKCS1_SHA256,
                &random,
                signed.as_bytes(),
                &mut signature,
            )
            .unwrap();
        format!("{signed}.{}", URL_SAFE_NO_PAD.encode(signature))
    }
}

/// A token signed with HS256, whatever its header says.
pub fn hs256(secret: &[u8], header: &Value, claims: &Value) -> String {
    by_secret(hmac::HMAC_SHA256, secret, header, claims)
}

/// A token signed with HS512, whatever its header says.
pub fn hs512(secret: &[u8], header: &Value, claims: &Value) -> String {
    by_secret(hmac::HMAC_SHA512, secret, header, claims)
}

fn by_secret(hash: hmac::Algorithm, secret: &[u8], header: &Value, claims: &Value) -> String {
    let signed = signed_part(header, claims);
    let key = hmac::Key::new(hash, secret);
    let tag = hmac::sign(&key, signed.as_bytes());
    format!("{signed}.{}", URL_SAFE_NO_PAD.encode(tag.as_ref()))
}

/// The header and the claims, as they are signed.
pub fn signed_part(header: &Value, claims: &Value) -> String {
    let part = |value: &Value| URL_SAFE_NO_PAD.encode(value.to_string());
    format!("{}.{}", part(header), part(claims))
}

/// A configuration with a source `main` and these lines.
pub fn config(lines: &str) -> Result<Config, tenantry::config::Error> {
    config_in(lines, &Environment::default())
}

/// The same with an environment.
pub fn config_in(
    lines: &str,
    environment: &Environment,
) -> Result<Config, tenantry::config::Error> {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("tenantry.toml");
    fs::write(&file, format!("[sources.main]\nkind = \"clerk\"\n{lines}")).unwrap();
    Config::load(Some(file), environment)
}

/// The issuers of these lines.
pub fn issuers(lines: &str) -> Issuers {
    Issuers::new(&config(lines).unwrap(), &Metrics::new()).unwrap()
}

/// The same at another pace, with their metrics.
pub fn issuers_at(pace: Pace, lines: &str) -> (Issuers, Metrics) {
    let metrics = Metrics::new();
    let issuers = Issuers::with_pace(&config(lines).unwrap(), &metrics, pace);
    (issuers.unwrap(), metrics)
}
