//! HMAC-SHA256 and comparison: what every signature scheme here is built from.
//!
//! Guarantees that comparing takes the same time wherever two texts of equal length differ. The *length* of a signature is
//! public, so it may show. Does not decode, choose or store keys: each scheme says how its secret becomes a key.

use aws_lc_rs::{constant_time, hmac};

/// The HMAC-SHA256 of the parts, read one after the other ([RFC 2104]).
///
/// [RFC 2104]: https://www.rfc-editor.org/rfc/rfc2104
pub(super) fn sha256(key: &[u8], parts: &[&[u8]]) -> hmac::Tag {
    let mut context = hmac::Context::with_key(&hmac::Key::new(hmac::HMAC_SHA256, key));
    for part in parts {
        context.update(part);
    }
    context.sign()
}

/// Compares in constant time; texts of different length differ.
pub(super) fn equal(expected: &str, candidate: &str) -> bool {
    constant_time::verify_slices_are_equal(expected.as_bytes(), candidate.as_bytes()).is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// RFC 4231, test case 2, cut at every place: the cut must not matter.
    #[test]
    fn agrees_with_rfc_4231() {
        let data = b"what do ya want for nothing?";
        for cut in 0..=data.len() {
            let tag = sha256(b"Jefe", &[&data[..cut], &data[cut..]]);
            assert_eq!(
                hex::encode(tag),
                "5bdcc146bf60754e6a042426089575c75a003f089d2739839dec58b964ec3843"
            );
        }
    }

    #[test]
    fn equal_means_every_byte() {
        assert!(equal("00ff", "00ff"));
        for other in ["00fe", "10ff", "00f", "00ff0", "00FF", ""] {
            assert!(!equal("00ff", other), "{other}");
        }
    }
}
