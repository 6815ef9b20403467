//! An issuer's keys: what each may verify, and which one a token means. Pure.
//!
//! Guarantees: a key verifies with algorithms of its own type only, and of its JWK's `alg` where it says one; a shared secret never
//! comes out of a JWKS; RSA keys have 2048 to 8192 bits and a sound exponent. A key that cannot be used is skipped, a set that
//! can be read in two ways is none.

use std::{collections::HashMap, sync::Arc};

use jsonwebtoken::{
    Algorithm, AlgorithmFamily, DecodingKey, DecodingKeyKind, crypto,
    jwk::{AlgorithmParameters, EllipticCurve, Jwk, KeyAlgorithm, KeyOperations, PublicKeyUse},
};
use serde_json::Value;

use super::{error::JwksError, json};

/// More keys than any issuer rotates through.
const MAX_KEYS: usize = 64;

const ALL: [Algorithm; 9] = [
    Algorithm::RS256,
    Algorithm::RS384,
    Algorithm::RS512,
    Algorithm::PS256,
    Algorithm::PS384,
    Algorithm::PS512,
    Algorithm::ES256,
    Algorithm::ES384,
    Algorithm::EdDSA,
];

/// A key that verifies.
#[derive(Debug)]
pub(super) struct Key {
    decoding: DecodingKey,
    algorithms: Vec<Algorithm>,
}

impl Key {
    /// A secret that is shared with the issuer.
    pub(super) fn of_secret(secret: &[u8], allowed: &[Algorithm]) -> Self {
        let by_secret = |algorithm: &Algorithm| algorithm.family() == AlgorithmFamily::Hmac;
        Self {
            decoding: DecodingKey::from_secret(secret),
            algorithms: allowed.iter().copied().filter(by_secret).collect(),
        }
    }

    /// A public key; `None` where it cannot verify any of the allowed algorithms.
    fn of_jwk(jwk: &Jwk, allowed: &[Algorithm]) -> Option<Self> {
        let is_to_verify = matches!(
            jwk.common.public_key_use,
            None | Some(PublicKeyUse::Signature)
        );
        let operations = jwk.common.key_operations.as_ref();
        if !is_to_verify || operations.is_some_and(|all| !all.contains(&KeyOperations::Verify)) {
            return None;
        }
        let decoding = DecodingKey::from_jwk(jwk).ok()?;
        let fits = |algorithm: &Algorithm| {
            fits_curve(jwk, *algorithm)
                && allowed.contains(algorithm)
                && jwk
                    .common
                    .key_algorithm
                    .is_none_or(|named| named == KeyAlgorithm::from(*algorithm))
        };
        let algorithms: Vec<Algorithm> = ALL.into_iter().filter(fits).collect();
        (is_sound(&decoding) && !algorithms.is_empty()).then_some(Self {
            decoding,
            algorithms,
        })
    }

    /// Whether it may verify what this algorithm signed.
    pub(super) fn fits(&self, algorithm: Algorithm) -> bool {
        self.algorithms.contains(&algorithm)
    }

    /// Whether it signed this; the signature as it stands in the token.
    pub(super) fn verifies(&self, algorithm: Algorithm, signed: &[u8], signature: &str) -> bool {
        crypto::verify(signature, signed, &self.decoding, algorithm).unwrap_or(false)
    }

    /// Whether the other one is the same key, for the same algorithms.
    pub(super) fn is(&self, other: &Self) -> bool {
        let material = match (self.decoding.kind(), other.decoding.kind()) {
            (DecodingKeyKind::SecretOrDer(ours), DecodingKeyKind::SecretOrDer(theirs)) => {
                ours == theirs
            }
            (
                DecodingKeyKind::RsaModulusExponent { n, e },
                DecodingKeyKind::RsaModulusExponent {
                    n: their_n,
                    e: their_e,
                },
            ) => n == their_n && e == their_e,
            _ => false,
        };
        material && self.algorithms == other.algorithms
    }
}

/// Whether a key of this type and curve can verify this algorithm.
fn fits_curve(jwk: &Jwk, algorithm: Algorithm) -> bool {
    match &jwk.algorithm {
        AlgorithmParameters::RSA(_) => algorithm.family() == AlgorithmFamily::Rsa,
        AlgorithmParameters::EllipticCurve(key) => match key.curve {
            EllipticCurve::P256 => algorithm == Algorithm::ES256,
            EllipticCurve::P384 => algorithm == Algorithm::ES384,
            _ => false,
        },
        AlgorithmParameters::OctetKeyPair(key) => {
            key.curve == EllipticCurve::Ed25519 && algorithm == Algorithm::EdDSA
        }
        // a set that everybody can read holds no secret
        _ => false,
    }
}

/// Whether the key is of a size that is neither weak nor a way to keep us busy.
fn is_sound(key: &DecodingKey) -> bool {
    match key.kind() {
        DecodingKeyKind::RsaModulusExponent { n, e } => {
            let leading = n.iter().take_while(|&&byte| byte == 0).count();
            let Some(first) = n.get(leading) else {
                return false;
            };
            let bits = (n.len() - leading) * 8 - first.leading_zeros() as usize;
            (2048..=8192).contains(&bits) && n.last().is_some_and(|last| last & 1 == 1) && {
                // larger exponents are refused by the library that verifies
                let exponent = e.iter().try_fold(0_u64, |sum, &byte| {
                    Some(sum.checked_mul(256)? + u64::from(byte))
                });
                exponent.is_some_and(|e| e >= 3 && e & 1 == 1 && e < 1 << 33)
            }
        }
        DecodingKeyKind::SecretOrDer(point) => match key.family() {
            AlgorithmFamily::Ec => matches!(point.len(), 65 | 97),
            AlgorithmFamily::Ed => point.len() == 32,
            AlgorithmFamily::Rsa | AlgorithmFamily::Hmac => false,
        },
    }
}

/// The keys of one issuer.
#[derive(Debug)]
pub(super) struct KeySet {
    named: HashMap<String, Arc<Key>>,
    sole: Option<Arc<Key>>,
}

impl KeySet {
    /// Reads a JWKS. Keys that cannot verify the allowed algorithms are skipped.
    pub(super) fn parse(jwks: &[u8], allowed: &[Algorithm]) -> Result<Self, JwksError> {
        let mut jwks = json::parse_object(jwks).ok_or(JwksError::NotJwks)?;
        let Some(Value::Array(keys)) = jwks.remove("keys") else {
            return Err(JwksError::NotJwks);
        };
        if keys.len() > MAX_KEYS {
            let (found, max) = (keys.len(), MAX_KEYS);
            return Err(JwksError::TooManyKeys { found, max });
        }
        let usable = |value: Value| {
            let jwk: Jwk = serde_json::from_value(value).ok()?;
            let key = Key::of_jwk(&jwk, allowed)?;
            Some((jwk.common.key_id, Arc::new(key)))
        };
        let keys: Vec<(Option<String>, Arc<Key>)> = keys.into_iter().filter_map(usable).collect();
        let sole = match keys.as_slice() {
            [] => return Err(JwksError::NoUsableKey),
            [(_, key)] => Some(Arc::clone(key)),
            _ => None,
        };
        let mut named: HashMap<String, Arc<Key>> = HashMap::new();
        for (kid, key) in keys {
            let Some(kid) = kid else { continue };
            if named.get(&kid).is_some_and(|known| !known.is(&key)) {
                return Err(JwksError::RepeatedKid);
            }
            named.insert(kid, key);
        }
        Ok(Self { named, sole })
    }

    /// The key of this name; without a name, the only one there is.
    pub(super) fn find(&self, kid: Option<&str>) -> Option<&Arc<Key>> {
        match kid {
            Some(kid) => self.named.get(kid),
            None => self.sole.as_ref(),
        }
    }

    /// How many keys can be named, or the one that need not be.
    pub(super) fn len(&self) -> usize {
        self.named.len().max(usize::from(self.sole.is_some()))
    }
}

#[cfg(test)]
mod tests {
    use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
    use serde_json::json;

    use super::*;

    fn of(keys: &Value) -> Result<KeySet, JwksError> {
        KeySet::parse(json!({"keys": keys}).to_string().as_bytes(), &ALL)
    }

    fn rsa(bytes: usize, e: &str) -> Value {
        let n = URL_SAFE_NO_PAD.encode(vec![0xff; bytes]);
        json!({"kty": "RSA", "kid": "k", "n": n, "e": e})
    }

    fn with(mut key: Value, field: &str, value: &str) -> Value {
        key[field] = json!(value);
        key
    }

    fn algorithms(key: &Value) -> Vec<Algorithm> {
        let set = of(&json!([key]));
        set.map_or_else(|_| Vec::new(), |set| set.sole.unwrap().algorithms.clone())
    }

    #[test]
    fn a_key_verifies_what_is_of_its_type() {
        assert_eq!(algorithms(&rsa(256, "AQAB")).len(), 6);
        let named = with(rsa(256, "AQAB"), "alg", "RS512");
        assert_eq!(algorithms(&named), [Algorithm::RS512]);
        let point = URL_SAFE_NO_PAD.encode([1; 32]);
        let ec = json!({"kty": "EC", "crv": "P-256", "x": point, "y": point});
        assert_eq!(algorithms(&ec), [Algorithm::ES256]);
        // 32 bytes are no coordinate of this curve
        assert_eq!(algorithms(&with(ec.clone(), "crv", "P-521")), []);
        let ed = json!({"kty": "OKP", "crv": "Ed25519", "x": point});
        assert_eq!(algorithms(&ed), [Algorithm::EdDSA]);
        for useless in [
            with(rsa(256, "AQAB"), "alg", "ES256"),
            with(rsa(256, "AQAB"), "alg", "RSA-OAEP"),
            with(rsa(256, "AQAB"), "alg", "HS256"),
            with(rsa(256, "AQAB"), "use", "enc"),
            with(ec, "alg", "RS256"),
            with(ed, "x", "AQAB"),
            json!({"kty": "oct", "kid": "k", "k": point, "alg": "HS256"}),
            json!({"kty": "quantum", "kid": "k"}),
            json!("no object"),
        ] {
            assert_eq!(algorithms(&useless), [], "{useless}");
        }
        let mut signs = rsa(256, "AQAB");
        signs["key_ops"] = json!(["sign"]);
        assert_eq!(algorithms(&signs), []);
    }

    #[test]
    fn an_rsa_key_is_of_sound_size() {
        assert_eq!(algorithms(&rsa(1024, "Aw")).len(), 6);
        for (bytes, e) in [
            (255, "AQAB"),
            (1025, "AQAB"),
            (256, "AQ"),
            (256, "Ag"),
            (256, "AA"),
            (256, ""),
            (256, "AQAAAAAAAAAB"),
            (0, "AQAB"),
        ] {
            assert_eq!(algorithms(&rsa(bytes, e)), [], "{bytes} bytes, e {e}");
        }
        let short = URL_SAFE_NO_PAD.encode([[0_u8; 2].as_slice(), &[0xff; 255]].concat());
        assert_eq!(algorithms(&with(rsa(256, "AQAB"), "n", &short)), []);
        let even = URL_SAFE_NO_PAD.encode([0xfe; 256]);
        assert_eq!(algorithms(&with(rsa(256, "AQAB"), "n", &even)), []);
    }

    #[test]
    fn a_set_is_small_and_names_each_key_once() {
        let unknown = json!({"kty": "quantum", "kid": "q"});
        let set = of(&json!([unknown, rsa(256, "AQAB")])).unwrap();
        assert!(set.find(Some("k")).is_some());
        assert!(set.find(None).is_some(), "the only one");
        assert!(set.find(Some("q")).is_none());
        let two = of(&json!([
            rsa(256, "AQAB"),
            with(rsa(256, "AQAB"), "kid", "l")
        ]))
        .unwrap();
        assert!(two.find(None).is_none());
        assert_eq!(two.len(), 2);
        let repeated = of(&json!([rsa(256, "AQAB"), rsa(257, "AQAB")]));
        assert!(matches!(repeated, Err(JwksError::RepeatedKid)));
        let many = of(&json!(vec![unknown; 65]));
        assert!(matches!(
            many,
            Err(JwksError::TooManyKeys { found: 65, .. })
        ));
        assert!(matches!(of(&json!([])), Err(JwksError::NoUsableKey)));
        for other in ["", "[]", "{}", r#"{"keys":{}}"#, r#"{"keys":[],"keys":[]}"#] {
            let parsed = KeySet::parse(other.as_bytes(), &ALL);
            assert!(matches!(parsed, Err(JwksError::NotJwks)), "{other}");
        }
    }
}
