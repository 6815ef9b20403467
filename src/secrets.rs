//! Secrets at rest, random passwords, and the form in which Postgres gets them.
//!
//! Guarantees: sealed with AES-256-GCM, bound to the tenant it belongs to, so that a row copied to
//! another tenant does not open; the key's id lies in the row, so that keys rotate online; the
//! password itself is never sent to Postgres as SQL text, only its SCRAM-SHA-256 verifier
//! (RFC 5802; `pg_authid.rolpassword`), because a failing statement is written to the server's log.

use aws_lc_rs::{
    aead::{AES_256_GCM, Aad, Nonce, RandomizedNonceKey},
    digest, hmac, pbkdf2,
    rand::{SecureRandom, SystemRandom},
};
use base64::{
    Engine, engine::general_purpose::STANDARD as BASE64, engine::general_purpose::URL_SAFE_NO_PAD,
};
use secrecy::{ExposeSecret, SecretString};
use uuid::Uuid;

const VERSION: u8 = 1;
const NONCE_LEN: usize = 12;
const SCRAM_ITERATIONS: std::num::NonZeroU32 = std::num::NonZeroU32::new(4096).unwrap();

/// Why a secret cannot be sealed or opened.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// No key is configured.
    #[error("no encryption key is configured")]
    NoKey,
    /// A key is not `<id>:<32 bytes in base64>`.
    #[error("encryption key number {0} is not \"<key id>:<32 bytes in base64>\"")]
    BadKey(usize),
    /// The row names a key that is not configured.
    #[error("the secret was sealed with key {0:?}, which is not configured")]
    UnknownKey(String),
    /// The row is damaged, or belongs to another tenant.
    #[error("the sealed secret cannot be opened: it is damaged or belongs to another tenant")]
    Unopenable,
    /// The system gives no randomness, or the cipher refuses.
    #[error("the system's cryptography is not available")]
    Crypto,
}

/// The configured keys.
pub struct Keyring {
    /// Id and key; the first one seals.
    keys: Vec<(String, [u8; 32])>,
}

impl std::fmt::Debug for Keyring {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_list()
            .entries(self.keys.iter().map(|(id, _)| id))
            .finish()
    }
}

impl Keyring {
    /// Reads the keys of `secrets.keys`.
    pub fn parse(keys: &[SecretString]) -> Result<Self, Error> {
        let parse = |(at, text): (usize, &SecretString)| {
            let (id, key) = text
                .expose_secret()
                .split_once(':')
                .ok_or(Error::BadKey(at + 1))?;
            let key = BASE64
                .decode(key.trim())
                .ok()
                .and_then(|bytes| bytes.try_into().ok());
            match key {
                Some(key) if (1..=40).contains(&id.len()) => Ok((id.to_owned(), key)),
                _ => Err(Error::BadKey(at + 1)),
            }
        };
        let keys = keys
            .iter()
            .enumerate()
            .map(parse)
            .collect::<Result<Vec<_>, _>>()?;
        if keys.is_empty() {
            Err(Error::NoKey)
        } else {
            Ok(Self { keys })
        }
    }

    /// Makes a key in the form that `secrets.keys` takes.
    pub fn generate(id: &str) -> Result<SecretString, Error> {
        Ok(SecretString::from(format!(
            "{id}:{}",
            BASE64.encode(random::<32>()?)
        )))
    }

    /// Seals a tenant's password.
    pub fn seal(&self, tenant: Uuid, secret: &SecretString) -> Result<Vec<u8>, Error> {
        let (id, key) = self.keys.first().ok_or(Error::NoKey)?;
        let key = RandomizedNonceKey::new(&AES_256_GCM, key).map_err(|_| Error::Crypto)?;
        let mut sealed = secret.expose_secret().as_bytes().to_vec();
        let nonce = key
            .seal_in_place_append_tag(Aad::from(bound_to(tenant)), &mut sealed)
            .map_err(|_| Error::Crypto)?;
        let id_len = u8::try_from(id.len()).map_err(|_| Error::BadKey(1))?;
        let mut row = vec![VERSION, id_len];
        row.extend_from_slice(id.as_bytes());
        row.extend_from_slice(nonce.as_ref());
        row.append(&mut sealed);
        Ok(row)
    }

    /// Passwords that follow from a label and each of the keys, in their order: the same wherever a key is configured.
    pub fn derive(&self, label: &str) -> Vec<SecretString> {
        let text = format!("tenantry derived password: {label}");
        let derived = |(_, key): &(String, [u8; 32])| {
            let key = hmac::Key::new(hmac::HMAC_SHA256, key);
            let tag = hmac::sign(&key, text.as_bytes());
            SecretString::from(URL_SAFE_NO_PAD.encode(tag.as_ref()))
        };
        self.keys.iter().map(derived).collect()
    }

    /// Opens what [`Keyring::seal`] made for the same tenant.
    pub fn open(&self, tenant: Uuid, row: &[u8]) -> Result<SecretString, Error> {
        let (id, nonce, sealed) = split(row).ok_or(Error::Unopenable)?;
        let id = String::from_utf8_lossy(id).into_owned();
        let Some((_, key)) = self.keys.iter().find(|(known, _)| *known == id) else {
            return Err(Error::UnknownKey(id));
        };
        let key = RandomizedNonceKey::new(&AES_256_GCM, key).map_err(|_| Error::Crypto)?;
        let nonce = Nonce::try_assume_unique_for_key(nonce).map_err(|_| Error::Unopenable)?;
        let mut sealed = sealed.to_vec();
        let plain = key
            .open_in_place(nonce, Aad::from(bound_to(tenant)), &mut sealed)
            .map_err(|_| Error::Unopenable)?;
        let plain = String::from_utf8(plain.to_vec()).map_err(|_| Error::Unopenable)?;
        Ok(SecretString::from(plain))
    }
}

fn bound_to(tenant: Uuid) -> Vec<u8> {
    [b"tenants.credential:".as_slice(), tenant.as_bytes()].concat()
}

fn split(row: &[u8]) -> Option<(&[u8], &[u8], &[u8])> {
    let (&version, rest) = row.split_first()?;
    let (&id_len, rest) = rest.split_first()?;
    let (id, rest) = rest.split_at_checked(id_len.into())?;
    let (nonce, sealed) = rest.split_at_checked(NONCE_LEN)?;
    (version == VERSION).then_some((id, nonce, sealed))
}

/// Bytes of the system's randomness.
pub fn random<const N: usize>() -> Result<[u8; N], Error> {
    let mut bytes = [0; N];
    SystemRandom::new()
        .fill(&mut bytes)
        .map_err(|_| Error::Crypto)?;
    Ok(bytes)
}

/// A password of 256 random bits, safe in a URL.
pub fn random_password() -> Result<SecretString, Error> {
    Ok(SecretString::from(URL_SAFE_NO_PAD.encode(random::<32>()?)))
}

/// A text that nobody guesses: 256 random bits, as 43 characters of base64url.
pub fn random_token() -> Result<String, Error> {
    Ok(URL_SAFE_NO_PAD.encode(random::<32>()?))
}

/// SHA-256.
pub fn sha256(bytes: &[u8]) -> [u8; 32] {
    let mut hash = [0; 32];
    hash.copy_from_slice(digest::digest(&digest::SHA256, bytes).as_ref());
    hash
}

/// The SCRAM-SHA-256 verifier that Postgres stores instead of the password (RFC 5802 §3).
pub fn scram_verifier(password: &SecretString) -> Result<String, Error> {
    let salt = random::<16>()?;
    let mut salted = [0; 32];
    pbkdf2::derive(
        pbkdf2::PBKDF2_HMAC_SHA256,
        SCRAM_ITERATIONS,
        &salt,
        password.expose_secret().as_bytes(),
        &mut salted,
    );
    let key = hmac::Key::new(hmac::HMAC_SHA256, &salted);
    let stored_key = sha256(hmac::sign(&key, b"Client Key").as_ref());
    let server_key = hmac::sign(&key, b"Server Key");
    Ok(format!(
        "SCRAM-SHA-256${SCRAM_ITERATIONS}:{}${}:{}",
        BASE64.encode(salt),
        BASE64.encode(stored_key),
        BASE64.encode(server_key.as_ref()),
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ring(ids: &[&str]) -> (Keyring, Vec<SecretString>) {
        let keys: Vec<_> = ids
            .iter()
            .map(|id| Keyring::generate(id).unwrap())
            .collect();
        (Keyring::parse(&keys).unwrap(), keys)
    }

    #[test]
    fn a_sealed_password_opens_for_its_own_tenant_only() {
        let (ring, _) = ring(&["k1"]);
        let (tenant, other) = (Uuid::now_v7(), Uuid::now_v7());
        let row = ring.seal(tenant, &SecretString::from("s3cret")).unwrap();
        assert_eq!(ring.open(tenant, &row).unwrap().expose_secret(), "s3cret");
        assert!(matches!(ring.open(other, &row), Err(Error::Unopenable)));
    }

    #[test]
    fn a_new_key_seals_while_the_old_one_still_opens() {
        let (old, old_keys) = ring(&["old"]);
        let tenant = Uuid::now_v7();
        let row = old.seal(tenant, &SecretString::from("s3cret")).unwrap();
        let both = [vec![Keyring::generate("new").unwrap()], old_keys].concat();
        let both = Keyring::parse(&both).unwrap();
        assert_eq!(both.open(tenant, &row).unwrap().expose_secret(), "s3cret");
        let resealed = both.seal(tenant, &SecretString::from("s3cret")).unwrap();
        assert!(matches!(old.open(tenant, &resealed), Err(Error::UnknownKey(id)) if id == "new"));
    }

    #[test]
    fn a_damaged_row_does_not_open() {
        let (ring, _) = ring(&["k1"]);
        let tenant = Uuid::now_v7();
        let row = ring.seal(tenant, &SecretString::from("s3cret")).unwrap();
        for at in 0..row.len() {
            let mut damaged = row.clone();
            damaged[at] ^= 1;
            assert!(ring.open(tenant, &damaged).is_err(), "byte {at}");
            assert!(ring.open(tenant, &row[..at]).is_err(), "cut at {at}");
        }
    }

    #[test]
    fn bad_keys_are_refused_by_number() {
        let bad = |text: &str| {
            Keyring::parse(&[SecretString::from(text)])
                .unwrap_err()
                .to_string()
        };
        assert!(bad("no-colon").contains("number 1"));
        assert!(bad("id:c2hvcnQ=").contains("number 1"));
        assert!(matches!(Keyring::parse(&[]), Err(Error::NoKey)));
    }

    #[test]
    fn a_verifier_has_the_form_that_postgres_stores() {
        let verifier = scram_verifier(&random_password().unwrap()).unwrap();
        assert!(verifier.starts_with("SCRAM-SHA-256$4096:"), "{verifier}");
        assert_eq!(verifier.matches(['$', ':']).count(), 4);
    }
}
