//! End users' tokens of an issuer of our own, with a shared secret.

use chrono::TimeDelta;
use jsonwebtoken::{Algorithm, EncodingKey, Header};
use serde_json::{Value, json};

use super::{Deployment, app::now};

pub const ISSUER: &str = "https://app.example.com";
const TOKEN_SECRET: &str = "a secret of at least thirty-two bytes";

impl Deployment {
    /// Users of the source `workos` come with tokens that [`token`] makes.
    pub fn trust_tokens(&mut self) {
        self.set("TENANTRY__ISSUERS__APP__KIND", "custom");
        self.set("TENANTRY__ISSUERS__APP__SOURCE", "workos");
        self.set("TENANTRY__ISSUERS__APP__ISSUER", ISSUER);
        self.set("TENANTRY__ISSUERS__APP__SECRET", TOKEN_SECRET);
    }
}

/// The token of a user whose session is in an organization.
pub fn token(user: &str, org: &str) -> String {
    sign(&json!({ "sub": user, "org_id": org }))
}

/// A token with these claims, an issuer and five minutes to live unless they say otherwise.
pub fn sign(claims: &Value) -> String {
    let (now, mut all) = (now(), json!({}));
    all["iss"] = json!(ISSUER);
    all["iat"] = json!(now.timestamp());
    all["exp"] = json!((now + TimeDelta::minutes(5)).timestamp());
    for (name, value) in claims.as_object().unwrap() {
        all[name] = value.clone();
    }
    let key = EncodingKey::from_secret(TOKEN_SECRET.as_bytes());
    jsonwebtoken::encode(&Header::new(Algorithm::HS256), &all, &key).unwrap()
}
