//! The text of a key: `tnt_<id>_<secret><checksum>`.
//!
//! Guarantees: a text is from the system's randomness, each character as likely as any other; every
//! single wrong character is found without a look at the database, because CRC-32 sees any change of
//! up to 32 neighbouring bits; the text shows in no debug output.

use secrecy::{ExposeSecret, SecretString};

use crate::secrets::{self, random, sha256};

const PREFIX: &str = "tnt_";
const ID_LEN: usize = 8;
const SECRET_LEN: usize = 32;
/// 62^6 is more than 2^32.
const CHECKSUM_LEN: usize = 6;
const BODY_LEN: usize = PREFIX.len() + ID_LEN + 1 + SECRET_LEN;

const ALPHABET: &[u8; 62] = b"0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz";

/// Whether somebody means an API key, well formed or not.
pub fn looks_like_key(text: &str) -> bool {
    text.starts_with(PREFIX)
}

/// A well-formed key: right in shape and checksum. Whether it is known is another question.
#[derive(Debug, Clone)]
pub struct ApiKeyText(SecretString);

impl ApiKeyText {
    /// A new key with a new id.
    pub(super) fn generate() -> Result<Self, secrets::Error> {
        Self::with_id(&random_text(ID_LEN)?)
    }

    /// A new key with this id.
    pub(super) fn with_id(id: &str) -> Result<Self, secrets::Error> {
        let body = format!("{PREFIX}{id}_{}", random_text(SECRET_LEN)?);
        let checksum = checksum(&body);
        Ok(Self(SecretString::from(body + &checksum)))
    }

    /// Reads a key; `None` if it cannot be one.
    pub fn parse(text: &str) -> Option<Self> {
        let (body, given) = text.split_at_checked(BODY_LEN)?;
        let (id, secret) = body
            .strip_prefix(PREFIX)?
            .split_at_checked(ID_LEN)
            .and_then(|(id, rest)| Some((id, rest.strip_prefix('_')?)))?;
        let is_whole = is_base62(id) && is_base62(secret) && given == checksum(body);
        is_whole.then(|| Self(SecretString::from(text)))
    }

    /// The id, which is no secret.
    pub fn id(&self) -> &str {
        &self.0.expose_secret()[PREFIX.len()..PREFIX.len() + ID_LEN]
    }

    /// SHA-256 of the whole text.
    pub(super) fn hash(&self) -> [u8; 32] {
        sha256(self.0.expose_secret().as_bytes())
    }

    /// The text, to be shown once.
    pub(super) fn into_secret(self) -> SecretString {
        self.0
    }
}

fn is_base62(text: &str) -> bool {
    text.bytes().all(|byte| byte.is_ascii_alphanumeric())
}

fn checksum(body: &str) -> String {
    let mut rest = crc32fast::hash(body.as_bytes());
    let mut digits = [b'0'; CHECKSUM_LEN];
    for digit in digits.iter_mut().rev() {
        *digit = ALPHABET[(rest % 62) as usize];
        rest /= 62;
    }
    digits.map(char::from).iter().collect()
}

fn random_text(len: usize) -> Result<String, secrets::Error> {
    let mut text = String::with_capacity(len);
    while text.len() < len {
        let missing = len - text.len();
        let usable = random::<64>()?.into_iter().filter_map(letter);
        text.extend(usable.take(missing));
    }
    Ok(text)
}

/// The letter of a random byte; `None` for the last 8 values, which would make some letters likelier.
fn letter(byte: u8) -> Option<char> {
    (byte < 248).then(|| char::from(ALPHABET[usize::from(byte % 62)]))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn with_checksum(id: &str, secret: &str) -> String {
        let body = format!("tnt_{id}_{secret}");
        let checksum = checksum(&body);
        body + &checksum
    }

    proptest! {
        #[test]
        fn a_well_formed_text_is_read_back(id in "[0-9A-Za-z]{8}", secret in "[0-9A-Za-z]{32}") {
            let text = with_checksum(&id, &secret);
            let key = ApiKeyText::parse(&text).unwrap();
            prop_assert_eq!(key.id(), id);
            prop_assert_eq!(key.hash(), sha256(text.as_bytes()));
            prop_assert_eq!(key.0.expose_secret(), text);
        }

        #[test]
        fn every_single_wrong_character_is_found(
            id in "[0-9A-Za-z]{8}",
            secret in "[0-9A-Za-z]{32}",
            strange in any::<char>(),
        ) {
            let text = with_checksum(&id, &secret);
            let typed = ALPHABET.iter().copied().map(char::from);
            for wrong in typed.chain(['_', '-', ' ', strange]) {
                for (at, right) in text.char_indices().filter(|(_, right)| *right != wrong) {
                    let mut typo = text.clone();
                    typo.replace_range(at..at + right.len_utf8(), &wrong.to_string());
                    prop_assert!(ApiKeyText::parse(&typo).is_none(), "{} for {}", typo, text);
                }
            }
        }

        #[test]
        fn any_text_can_be_looked_at(text in any::<String>(), cut in 0_usize..60) {
            prop_assert!(ApiKeyText::parse(&text).is_none());
            let tail: String = text.chars().take(cut).collect();
            let text = format!("tnt_{tail}");
            prop_assert!(ApiKeyText::parse(&text).is_none());
        }
    }

    #[test]
    fn what_is_missing_too_much_or_swapped_is_found() {
        let key = ApiKeyText::generate().unwrap().into_secret();
        let text = key.expose_secret();
        assert_eq!(text.len(), 51);
        for at in 0..text.len() {
            let mut shorter = text.to_owned();
            shorter.remove(at);
            assert!(ApiKeyText::parse(&shorter).is_none(), "without {at}");
            assert!(ApiKeyText::parse(&text[..at]).is_none(), "cut at {at}");
        }
        for longer in [format!("{text}0"), format!(" {text}"), format!("{text}\n")] {
            assert!(ApiKeyText::parse(&longer).is_none());
        }
        let swapped = text.to_lowercase();
        assert!(swapped == text || ApiKeyText::parse(&swapped).is_none());
    }

    #[test]
    fn a_new_key_is_whole_and_its_debug_output_says_nothing() {
        let key = ApiKeyText::generate().unwrap();
        let shown = format!("{key:?}");
        let text = key.clone().into_secret();
        let again = ApiKeyText::parse(text.expose_secret()).unwrap();
        assert_eq!((again.id(), again.hash()), (key.id(), key.hash()));
        let secret = &text.expose_secret()[13..45];
        assert!(
            !shown.contains(secret) && !shown.contains(key.id()),
            "{shown}"
        );
        let rotated = ApiKeyText::with_id(key.id()).unwrap();
        assert_eq!(rotated.id(), key.id());
        assert_ne!(rotated.hash(), key.hash());
    }

    #[test]
    fn each_letter_is_as_likely_as_any_other() {
        let mut times = std::collections::BTreeMap::new();
        for letter in (0..=u8::MAX).filter_map(letter) {
            *times.entry(letter).or_insert(0) += 1;
        }
        assert_eq!(times.len(), 62);
        assert!(times.values().all(|times| *times == 4), "{times:?}");
    }

    #[test]
    fn the_checksum_is_that_of_the_documents() {
        // CRC-32 of "123456789" is 0xcbf43926, the check value of its catalogue: 3421780262
        assert_eq!(checksum("123456789"), "3jZRME");
    }
}
