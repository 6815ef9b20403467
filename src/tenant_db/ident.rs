//! Identifiers of databases and roles, which no statement can take as a parameter.
//!
//! Guarantees: what is displayed is quoted, and holds only `a-z 0-9 _`, at most 63 bytes. No quoting
//! rule is needed for such a name; the quotes keep keywords from being keywords.

use std::fmt;

/// A checked identifier; `Display` quotes it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ident(String);

/// A text that is not an identifier of ours.
#[derive(Debug, thiserror::Error)]
#[error("{0:?} is not a name that tenantry gives: 1 to 63 characters of a-z, 0-9 and _")]
pub struct InvalidIdent(String);

impl Ident {
    /// Checks the text.
    pub fn new(text: &str) -> Result<Self, InvalidIdent> {
        let legal = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_';
        let starts = text.starts_with(|c: char| c.is_ascii_lowercase() || c == '_');
        if (1..=63).contains(&text.len()) && starts && text.chars().all(legal) {
            Ok(Self(text.to_owned()))
        } else {
            Err(InvalidIdent(text.to_owned()))
        }
    }

    /// The name without quotes, for parameters.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Ident {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "\"{}\"", self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn no_text_leaves_its_quotes(text in any::<String>()) {
            if let Ok(ident) = Ident::new(&text) {
                prop_assert!(!ident.as_str().contains(['"', '\0', ' ', ';']));
                prop_assert_eq!(ident.to_string(), format!("\"{text}\""));
            }
        }
    }

    #[test]
    fn hostile_and_long_texts_are_refused() {
        for text in [
            "",
            "a\"b",
            "a;b",
            "A",
            "1a",
            "a b",
            "ä",
            "a\0",
            &"a".repeat(64),
        ] {
            assert!(Ident::new(text).is_err(), "{text:?}");
        }
        assert!(Ident::new(&"a".repeat(63)).is_ok());
    }
}
