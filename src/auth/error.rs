//! Why a token is not accepted, and why an issuer's keys cannot be had.
//!
//! Guarantees that a message to whoever sent the token says its category only; the reason is for our own log, and is fixed text.

use std::path::PathBuf;

/// Why a token is not accepted.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TokenError {
    /// It is no signed token in the one form that is read.
    #[error("the token cannot be read")]
    Malformed(&'static str),
    /// Properly signed, and over.
    #[error("the token has expired")]
    Expired,
    /// Properly signed, and from the future.
    #[error("the token is not valid yet")]
    NotYetValid,
    /// Signature, algorithm, issuer, audience, authorized party, category: whatever is checked did not hold.
    #[error("the token is not accepted")]
    Refused(&'static str),
    /// Its issuer has no key of that name.
    #[error("the token names a key that its issuer does not have")]
    KeyUnknown,
    /// Its issuer's keys cannot be had, so nobody can say.
    #[error("the keys of the token's issuer cannot be had at the moment")]
    IssuerUnavailable {
        /// When the issuer is asked again, in seconds.
        retry_after_s: u32,
    },
    /// The user has signed in and not yet chosen an organization (Clerk's `sts: pending`).
    #[error("the session is pending: its user has to choose an organization first")]
    SessionPending,
}

impl TokenError {
    /// The stable code for responses and logs.
    pub const fn code(&self) -> &'static str {
        match self {
            Self::Malformed(_) => "token_malformed",
            Self::Expired => "token_expired",
            Self::NotYetValid => "token_not_yet_valid",
            Self::Refused(_) => "token_refused",
            Self::KeyUnknown => "token_key_unknown",
            Self::IssuerUnavailable { .. } => "issuer_unavailable",
            Self::SessionPending => "token_session_pending",
        }
    }

    /// Whether it is not the token's fault: 503 rather than 401.
    pub const fn is_unavailable(&self) -> bool {
        matches!(self, Self::IssuerUnavailable { .. })
    }

    /// After how many seconds it is worth another try; 0 where the same token will not do.
    pub const fn retry_after_s(&self) -> u32 {
        match self {
            Self::IssuerUnavailable { retry_after_s } => *retry_after_s,
            _ => 0,
        }
    }

    /// What exactly did not hold, for our own log: never for whoever sent the token.
    pub(super) const fn reason(&self) -> &'static str {
        match self {
            Self::Malformed(reason) | Self::Refused(reason) => reason,
            _ => "",
        }
    }
}

/// Why an issuer's keys were not taken.
#[derive(Debug, thiserror::Error)]
pub enum JwksError {
    /// Nobody answered, or not in time.
    #[error("its JWKS cannot be reached")]
    Unreachable(#[source] reqwest::Error),
    /// Another answer than 200; redirects are not followed.
    #[error("its JWKS is answered with status {0}")]
    Status(u16),
    /// Longer than any real one.
    #[error("its JWKS is larger than {0} bytes")]
    TooLarge(usize),
    /// Not the JSON of a JWKS, or with a field that is there twice.
    #[error("its JWKS is not {{\"keys\": […]}}")]
    NotJwks,
    /// More keys than any issuer rotates through.
    #[error("its JWKS has {found} keys; at most {max} are read")]
    TooManyKeys {
        /// How many there are.
        found: usize,
        /// How many are read.
        max: usize,
    },
    /// Two keys of one name: which one is meant is anyone's guess.
    #[error("its JWKS has two keys of the same kid")]
    RepeatedKid,
    /// None of the keys can verify a token of the configured algorithms.
    #[error("its JWKS has no key for the configured algorithms")]
    NoUsableKey,
}

/// Why issuers cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum IssuerError {
    /// The settings, where the configuration was not checked.
    #[error("issuers.{name} cannot be used: {problem}")]
    Settings {
        /// The issuer.
        name: String,
        /// What is wrong.
        problem: &'static str,
    },
    /// The file with its keys.
    #[error("cannot read {} named by issuers.{name}.jwks_file", file.display())]
    File {
        /// The issuer.
        name: String,
        /// The file.
        file: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// What is in the file.
    #[error("the keys of issuer {name} cannot be used")]
    Keys {
        /// The issuer.
        name: String,
        /// Why.
        source: JwksError,
    },
    /// The client that would fetch its keys.
    #[error("no client for the keys of issuer {name} can be made")]
    Client {
        /// The issuer.
        name: String,
        /// Why.
        source: reqwest::Error,
    },
}
