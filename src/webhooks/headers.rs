//! The headers of a delivery, as pairs, so that this module needs no HTTP library.
//!
//! Guarantees that a header which decides anything is there once, short, and text. Does not interpret values.

use super::VerifyError;

/// Longest signature header that is read; real ones are under 200 bytes.
const MAX_BYTES: usize = 1024;

/// The headers of one delivery; names match in any case (RFC 9110 §5.1).
#[derive(Debug, Clone, Default)]
pub struct Headers<'a>(Vec<(&'a str, &'a [u8])>);

impl<'a> Headers<'a> {
    /// The one value of `name`, as text.
    ///
    /// A header sent twice is refused, not merged: two readers could pick different values (RFC 9110 §5.3).
    pub(super) fn text(&self, name: &'static str) -> Result<&'a str, VerifyError> {
        let mut values = self.values(name);
        let value = values.next().ok_or(VerifyError::HeaderMissing { name })?;
        if values.next().is_some() {
            return Err(VerifyError::HeaderRepeated { name });
        }
        if value.len() > MAX_BYTES {
            return Err(VerifyError::HeaderTooLong {
                name,
                size_bytes: value.len(),
                max_bytes: MAX_BYTES,
            });
        }
        std::str::from_utf8(value).map_err(|_| VerifyError::HeaderNotUtf8 { name })
    }

    /// Whether `name` came at all.
    pub(super) fn has(&self, name: &'static str) -> bool {
        self.values(name).next().is_some()
    }

    fn values(&self, name: &'static str) -> impl Iterator<Item = &'a [u8]> {
        self.0
            .iter()
            .filter(move |(key, _)| key.eq_ignore_ascii_case(name))
            .map(|(_, value)| *value)
    }
}

impl<'a> FromIterator<(&'a str, &'a [u8])> for Headers<'a> {
    fn from_iter<I: IntoIterator<Item = (&'a str, &'a [u8])>>(pairs: I) -> Self {
        Self(pairs.into_iter().collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NAME: &str = "workos-signature";

    fn text<'a>(pairs: &[(&'a str, &'a [u8])]) -> Result<&'a str, VerifyError> {
        pairs.iter().copied().collect::<Headers>().text(NAME)
    }

    #[test]
    fn names_match_in_any_case() {
        for name in ["WorkOS-Signature", "workos-signature", "WORKOS-SIGNATURE"] {
            assert_eq!(text(&[("host", b"x"), (name, b"t=1")]), Ok("t=1"));
        }
        let missing = Err(VerifyError::HeaderMissing { name: NAME });
        assert_eq!(text(&[("workos-signature-2", b"t=1")]), missing);
    }

    #[test]
    fn a_repeated_header_is_refused_even_when_equal() {
        let repeated = Err(VerifyError::HeaderRepeated { name: NAME });
        assert_eq!(
            text(&[(NAME, b"t=1"), ("WorkOS-Signature", b"t=1")]),
            repeated
        );
    }

    #[test]
    fn one_kib_is_the_limit() {
        let long = [b'a'; MAX_BYTES + 1];
        assert!(text(&[(NAME, &long[..MAX_BYTES])]).is_ok());
        let refused = text(&[(NAME, &long)]).expect_err("too long");
        assert_eq!(
            refused.to_string(),
            "the workos-signature header is 1025 bytes long; at most 1024 are accepted"
        );
    }

    #[test]
    fn bytes_that_are_not_text_are_refused() {
        let refused = Err(VerifyError::HeaderNotUtf8 { name: NAME });
        assert_eq!(text(&[(NAME, b"t=1\xff")]), refused);
    }
}
