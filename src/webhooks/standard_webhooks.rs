//! The signature scheme of [Standard Webhooks] and of Svix, which Clerk sends with.
//!
//! Three headers: `…-id`, `…-timestamp` in *seconds*, and `…-signature`, a list with spaces between. Signed is
//! `<id>.<timestamp>.<raw body>`: `v1` is its HMAC-SHA256 under the secret that follows `whsec_` in base64, `v1a` its Ed25519
//! signature, checked with the public key that follows `whpk_`.
//!
//! Guarantees that the three values come from one set of headers, never from two. The headers are called `svix-*` or
//! `webhook-*`: the sender's own set counts when it is whole, else the other one. An id with a dot is refused, as the
//! specification does: what is signed could otherwise be cut in two ways, and one signature would serve two events. Does not
//! cap the signatures: the header's length does.
//!
//! [Standard Webhooks]: https://github.com/standard-webhooks/standard-webhooks/blob/main/spec/standard-webhooks.md

use aws_lc_rs::signature::{ED25519, Ed25519KeyPair, KeyPair, UnparsedPublicKey};
use base64::{Engine, prelude::BASE64_STANDARD};
use chrono::{DateTime, Utc};
use secrecy::{ExposeSecret, SecretString};

use super::{Headers, VerifyError, age, hmac, json::MAX_ID_BYTES};

/// What one set of headers is called.
struct Names {
    id: &'static str,
    timestamp: &'static str,
    signature: &'static str,
}

impl Names {
    fn all(&self) -> [&'static str; 3] {
        [self.id, self.timestamp, self.signature]
    }
}

const SVIX: Names = Names {
    id: "svix-id",
    timestamp: "svix-timestamp",
    signature: "svix-signature",
};

const WEBHOOK: Names = Names {
    id: "webhook-id",
    timestamp: "webhook-timestamp",
    signature: "webhook-signature",
};

/// The scheme as a sender uses it.
pub(super) struct Scheme {
    own: Names,
    other: Names,
    /// Whether it signs with private keys as well.
    asymmetric: bool,
}

/// As Clerk uses it.
pub(super) const CLERK: Scheme = Scheme {
    own: SVIX,
    other: WEBHOOK,
    asymmetric: false,
};

/// As the specification has it.
pub(super) const STANDARD: Scheme = Scheme {
    own: WEBHOOK,
    other: SVIX,
    asymmetric: true,
};

impl Scheme {
    /// The id of the event, where the headers have a usable one.
    pub(super) fn event_id(&self, headers: &Headers<'_>) -> Option<String> {
        event_id(headers, self.names(headers).id)
            .ok()
            .map(str::to_owned)
    }

    /// Says when the body was signed, provided that one of `secrets` signed it.
    pub(super) fn verify(
        &self,
        headers: &Headers<'_>,
        body: &[u8],
        secrets: &[&SecretString],
    ) -> Result<DateTime<Utc>, VerifyError> {
        let names = self.names(headers);
        let id = event_id(headers, names.id)?;
        let timestamp = headers.text(names.timestamp)?.trim_ascii();
        let signatures = self.signatures(headers.text(names.signature)?, names.signature)?;
        let signed_at = age::parse_seconds(timestamp)?;
        let keys: Vec<Key> = secrets
            .iter()
            .filter_map(|secret| Key::parse(secret, self.asymmetric))
            .collect();
        if keys.is_empty() {
            return Err(VerifyError::NoSecret);
        }
        let message = Message {
            head: format!("{id}.{timestamp}."),
            body,
        };
        // Every key meets every signature: returning at the first match would show in the time taken which key it was.
        let mut matched = false;
        for key in &keys {
            matched |= key.matches(&message, &signatures);
        }
        if matched {
            Ok(signed_at)
        } else {
            Err(VerifyError::SignatureMismatch {
                secrets: keys.len(),
            })
        }
    }

    /// Whether the secret stands for a key.
    pub(super) fn is_usable(&self, secret: &SecretString) -> bool {
        Key::parse(secret, self.asymmetric).is_some()
    }

    /// The headers as the sender writes them; none when the secret cannot sign.
    pub(super) fn sign(
        &self,
        secret: &SecretString,
        event_id: &str,
        now: DateTime<Utc>,
        body: &[u8],
    ) -> Vec<(&'static str, String)> {
        let timestamp = now.timestamp().to_string();
        let message = Message {
            head: format!("{event_id}.{timestamp}."),
            body,
        };
        let key = Key::parse(secret, self.asymmetric);
        let Some(signature) = key.and_then(|key| key.sign(&message)) else {
            return Vec::new();
        };
        vec![
            (self.own.id, event_id.to_owned()),
            (self.own.timestamp, timestamp),
            (self.own.signature, signature),
        ]
    }

    /// The set of headers that counts: the first that is whole, else the first of which there is anything.
    fn names(&self, headers: &Headers<'_>) -> &Names {
        let sets = [&self.own, &self.other];
        let whole = |set: &&&Names| set.all().iter().all(|name| headers.has(name));
        let begun = |set: &&&Names| set.all().iter().any(|name| headers.has(name));
        sets.iter()
            .find(whole)
            .or_else(|| sets.iter().find(begun))
            .unwrap_or(&&self.own)
    }

    fn signatures<'a>(
        &self,
        list: &'a str,
        name: &'static str,
    ) -> Result<Vec<Signature<'a>>, VerifyError> {
        let signatures: Vec<_> = list
            .split_ascii_whitespace()
            .filter_map(|part| match part.split_once(',')? {
                ("v1", text) => Some(Signature::Hmac(text)),
                ("v1a", text) if self.asymmetric => Some(Signature::Ed25519(text)),
                _ => None,
            })
            .collect();
        if signatures.is_empty() {
            return Err(VerifyError::SignatureMissing { name });
        }
        Ok(signatures)
    }
}

fn event_id<'a>(headers: &Headers<'a>, name: &'static str) -> Result<&'a str, VerifyError> {
    let id = headers.text(name)?.trim_ascii();
    let usable = (1..=MAX_ID_BYTES).contains(&id.len())
        && !id.trim().is_empty()
        && !id.contains(|c: char| c == '.' || c.is_control());
    usable.then_some(id).ok_or(VerifyError::EventIdInvalid {
        name,
        max_bytes: MAX_ID_BYTES,
    })
}

/// What is signed, in two parts: the body is not copied for an HMAC.
struct Message<'a> {
    head: String,
    body: &'a [u8],
}

enum Signature<'a> {
    Hmac(&'a str),
    Ed25519(&'a str),
}

enum Key {
    Symmetric(Vec<u8>),
    Public(Vec<u8>),
    Private(Box<Ed25519KeyPair>),
}

impl Key {
    /// The key that a secret stands for; `None` when it stands for none, or for the empty one, which anyone can sign with.
    fn parse(secret: &SecretString, asymmetric: bool) -> Option<Self> {
        let text = secret.expose_secret().trim();
        if let Some(text) = text.strip_prefix("whpk_").filter(|_| asymmetric) {
            let key = decode(text)?;
            return (key.len() == 32).then_some(Self::Public(key));
        }
        if let Some(text) = text.strip_prefix("whsk_").filter(|_| asymmetric) {
            let key = decode(text)?;
            // 64 bytes are the seed and its public key
            let pair = match key.split_at_checked(32)? {
                (seed, []) => Ed25519KeyPair::from_seed_unchecked(seed),
                (seed, public) => Ed25519KeyPair::from_seed_and_public_key(seed, public),
            };
            return Some(Self::Private(Box::new(pair.ok()?)));
        }
        decode(text.strip_prefix("whsec_").unwrap_or(text)).map(Self::Symmetric)
    }

    fn matches(&self, message: &Message<'_>, signatures: &[Signature<'_>]) -> bool {
        let public = match self {
            Self::Symmetric(key) => {
                let expected = hmac_text(key, message);
                let mut matched = false;
                for signature in signatures {
                    if let Signature::Hmac(text) = signature {
                        matched |= hmac::equal(&expected, text);
                    }
                }
                return matched;
            }
            Self::Public(public) => public,
            Self::Private(pair) => pair.public_key().as_ref(),
        };
        let whole = [message.head.as_bytes(), message.body].concat();
        let public = UnparsedPublicKey::new(&ED25519, public);
        signatures.iter().any(|signature| match signature {
            Signature::Hmac(_) => false,
            Signature::Ed25519(text) => BASE64_STANDARD
                .decode(text)
                .is_ok_and(|bytes| public.verify(&whole, &bytes).is_ok()),
        })
    }

    /// The signature with its version; a public key makes none.
    fn sign(&self, message: &Message<'_>) -> Option<String> {
        match self {
            Self::Symmetric(key) => Some(format!("v1,{}", hmac_text(key, message))),
            Self::Public(_) => None,
            Self::Private(pair) => {
                let whole = [message.head.as_bytes(), message.body].concat();
                let signature = BASE64_STANDARD.encode(pair.sign(&whole));
                Some(format!("v1a,{signature}"))
            }
        }
    }
}

fn hmac_text(key: &[u8], message: &Message<'_>) -> String {
    BASE64_STANDARD.encode(hmac::sha256(key, &[message.head.as_bytes(), message.body]))
}

fn decode(text: &str) -> Option<Vec<u8>> {
    BASE64_STANDARD
        .decode(text)
        .ok()
        .filter(|key| !key.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers<'a>(pairs: &[(&'a str, &'a str)]) -> Headers<'a> {
        pairs
            .iter()
            .map(|(name, value)| (*name, value.as_bytes()))
            .collect()
    }

    fn key(text: &str) -> Option<Key> {
        Key::parse(&SecretString::from(text), true)
    }

    #[test]
    fn a_secret_that_is_no_base64_is_no_key() {
        for text in [
            "",
            " ",
            "whsec_",
            "whsec_ ",
            "whsec_!",
            "whsec_YQ",
            "whpk_",
            "whpk_YWFh",
            "whsk_YWFh",
        ] {
            assert!(key(text).is_none(), "{text:?}");
        }
        assert!(matches!(key("whsec_YWFh"), Some(Key::Symmetric(key)) if key == b"aaa"));
        assert!(matches!(key(" YWFh\n"), Some(Key::Symmetric(key)) if key == b"aaa"));
        let public = SecretString::from(format!("whpk_{}", BASE64_STANDARD.encode([7; 32])));
        assert!(matches!(Key::parse(&public, true), Some(Key::Public(_))));
        assert!(
            Key::parse(&public, false).is_none(),
            "Clerk has no such keys"
        );
    }

    #[test]
    fn a_private_key_signs_what_its_public_half_verifies() {
        let seed = SecretString::from(format!("whsk_{}", BASE64_STANDARD.encode([7; 32])));
        let Some(Key::Private(pair)) = Key::parse(&seed, true) else {
            panic!("no private key");
        };
        let public = BASE64_STANDARD.encode(pair.public_key());
        let now = DateTime::from_timestamp(1_794_819_600, 0).expect("a date");
        let signed = STANDARD.sign(&seed, "msg_1", now, b"{}");
        let pairs: Vec<_> = signed
            .iter()
            .map(|(name, value)| (*name, value.as_str()))
            .collect();
        for secret in [format!("whpk_{public}"), seed.expose_secret().to_owned()] {
            let secret = SecretString::from(secret);
            assert_eq!(
                STANDARD.verify(&headers(&pairs), b"{}", &[&secret]),
                Ok(now)
            );
            assert!(
                STANDARD
                    .verify(&headers(&pairs), b"{ }", &[&secret])
                    .is_err()
            );
        }
        let public = SecretString::from(format!("whpk_{public}"));
        assert!(STANDARD.sign(&public, "msg_1", now, b"{}").is_empty());
    }

    #[test]
    fn one_set_of_headers_counts_and_the_own_one_first() {
        let both = [
            ("svix-id", "a"),
            ("svix-timestamp", "1"),
            ("svix-signature", "v1,"),
            ("webhook-id", "b"),
            ("webhook-timestamp", "1"),
            ("webhook-signature", "v1,"),
        ];
        let id = |scheme: &Scheme, pairs| scheme.event_id(&headers(pairs));
        assert_eq!(id(&CLERK, &both).as_deref(), Some("a"));
        assert_eq!(id(&STANDARD, &both).as_deref(), Some("b"));
        assert_eq!(
            id(&CLERK, &both[1..]).as_deref(),
            Some("b"),
            "the own set is not whole"
        );
        assert_eq!(id(&STANDARD, &both[..3]).as_deref(), Some("a"));
        assert_eq!(id(&STANDARD, &[]), None);
    }

    #[test]
    fn an_id_that_could_be_cut_in_two_ways_is_refused() {
        let long = "x".repeat(256);
        for id in ["", " ", "a.b", "a\u{1}b", "a\tb", "\u{a0}", &long] {
            let pairs = [
                ("svix-id", id),
                ("svix-timestamp", "1"),
                ("svix-signature", "v1,"),
            ];
            let refused = VerifyError::EventIdInvalid {
                name: "svix-id",
                max_bytes: 255,
            };
            assert_eq!(
                CLERK.verify(&headers(&pairs), b"", &[]),
                Err(refused),
                "{id:?}"
            );
            assert_eq!(CLERK.event_id(&headers(&pairs)), None);
        }
        let most = &long[1..];
        assert_eq!(
            CLERK.event_id(&headers(&[("svix-id", most)])).as_deref(),
            Some(most)
        );
    }
}
