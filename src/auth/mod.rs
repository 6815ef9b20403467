//! The door: who somebody is, in which tenant, and what they may do.
//!
//! Guarantees: a token is believed only with the algorithm and the keys of its issuer's configuration;
//! roles, memberships and tenants are those of the control database; what is remembered of them is
//! forgotten on every replica when it changes.

mod changes;
mod issuers;
mod recall;
pub mod standing;

use chrono::{DateTime, Utc};

pub use issuers::{IssuerError, Issuers, TokenError};

/// An end user, as a verified token names them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EndUser {
    /// Name of the issuer in the configuration.
    pub issuer: String,
    /// Name of the source whose user it is.
    pub source: String,
    /// The provider's user id.
    pub user_id: String,
    /// The provider's id of the organization that the session is in.
    pub org_id: Option<String>,
    /// Role, as the token writes it.
    pub role: Option<String>,
    /// Permissions, as the token says.
    pub permissions: Vec<String>,
    /// Session.
    pub session_id: Option<String>,
    /// Who acts as the user, where somebody does.
    pub actor: Option<String>,
    /// E-mail address, where the token has one.
    pub email: Option<String>,
    /// When the token ends.
    pub expires_at: DateTime<Utc>,
}
