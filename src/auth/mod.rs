//! Who asks: from a bearer token to a verified end user.
//!
//! ```text
//! token ─▶ token ───▶ issuers ─────▶ jwks ────▶ token ─────▶ claims ──▶ EndUser
//!          read       by exact iss   its key    signature    meaning
//! ```
//!
//! Guarantees: nothing in a token decides how it is checked. Algorithms and keys come from the configuration of the issuer that
//! its `iss` names; an issuer's keys verify its own tokens only; a refusal tells whoever sent the token its category and no more.
//!
//! [`standing`] says what the user may do: roles, memberships and tenants are those of the control database, and what is remembered
//! of them is forgotten on every replica when it changes.
//!
//! Does not: read a clock (`now` is handed in), or know HTTP.

mod changes;
mod claims;
mod error;
mod issuers;
mod json;
mod jwks;
mod keys;
mod recall;
pub mod standing;
mod token;

pub use claims::EndUser;
pub use error::{IssuerError, JwksError, TokenError};
pub use issuers::{Issuers, Probe};
pub use jwks::Pace;
