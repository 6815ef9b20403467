//! API keys: which there are, what each may do, and whether a text is one of them.
//!
//! Guarantees: the text of a key is shown once, by whoever makes it, and kept nowhere: the table has
//! its SHA-256; a rotation keeps id, name and scopes, and the old text works exactly as long as the
//! overlap says; a revocation ends all texts of a key at once and for good; every change is in the
//! audit log and told to the other replicas; a *form key*, which is public because it stands in a web
//! page, is bound to the origins of such pages and has the one scope that no other key can have.
//!
//! Does not: decide what a scope is needed for. Whoever asks does.

mod ring;
mod scope;
mod text;

use std::time::Duration;

use chrono::{DateTime, Utc};
use secrecy::SecretString;
use serde::Serialize;
use sqlx::{FromRow, PgConnection};

pub use ring::{ApiKeys, KeyError};
pub use scope::{CHOICES, Scope, Scopes, UnknownScope};
pub use text::{ApiKeyText, looks_like_key};

use crate::{
    audit::{self, Actor},
    config, secrets,
};

/// A key, without anything that opens something.
#[derive(Debug, Clone, FromRow, Serialize)]
pub struct ApiKey {
    /// The part of the text that names it.
    pub id: String,
    /// What it is for.
    pub name: String,
    /// What it may do.
    #[sqlx(try_from = "Vec<String>")]
    pub scopes: Scopes,
    /// Of a form key: origins of the pages that may use it. `None` for every other key.
    pub origins: Option<Vec<String>>,
    /// Name or id of whoever made it.
    pub created_by: String,
    /// When it was made; a rotation leaves it.
    pub created_at: DateTime<Utc>,
    /// From when on it is refused.
    pub expires_at: Option<DateTime<Utc>>,
    /// Its last use, to about a minute.
    pub last_used_at: Option<DateTime<Utc>>,
    /// When it was revoked.
    pub revoked_at: Option<DateTime<Utc>>,
    /// Until when the text before the last rotation works, or worked.
    pub previous_until: Option<DateTime<Utc>>,
}

/// Whether a key opens anything.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Standing {
    /// Yes.
    Active,
    /// Not any more: its time is over.
    Expired,
    /// Not any more: somebody ended it.
    Revoked,
}

impl ApiKey {
    /// Whether it is public: anybody can read it in a page, and register with it from there.
    pub fn is_form(&self) -> bool {
        self.origins.is_some()
    }

    /// Whether a page of this origin may use it, as a browser writes it.
    pub fn is_for_pages_of(&self, origin: &[u8]) -> bool {
        let mut origins = self.origins.iter().flatten();
        origins.any(|known| known.as_bytes() == origin)
    }

    /// Whether it opens anything at `now`.
    pub fn standing(&self, now: DateTime<Utc>) -> Standing {
        if self.revoked_at.is_some() {
            Standing::Revoked
        } else if self.expires_at.is_some_and(|at| at <= now) {
            Standing::Expired
        } else {
            Standing::Active
        }
    }
}

/// What a new key is to be.
#[derive(Debug, Clone)]
pub struct NewKey {
    /// What it is for: 1 to 100 bytes.
    pub name: String,
    /// What it may do: at least one.
    pub scopes: Scopes,
    /// Of a form key: origins of the pages that may use it, as browsers write them. Empty for every other key.
    pub origins: Vec<String>,
    /// From when on it is refused; `None` for never.
    pub expires_at: Option<DateTime<Utc>>,
}

/// Why a key cannot be made or changed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The database does not answer, or refuses.
    #[error("the API keys cannot be read or written")]
    Sql(#[from] sqlx::Error),
    /// The system gives no randomness.
    #[error("no API key can be made")]
    NotMade(#[from] secrets::Error),
    /// There is no such key.
    #[error("no API key has the id {0:?}")]
    Unknown(String),
    /// A revoked key stays so.
    #[error("API key {0} is revoked")]
    Revoked(String),
    /// A new text of an expired key would be expired, too.
    #[error("API key {0} has expired")]
    Expired(String),
    /// The name is none.
    #[error("the name of an API key must have 1 to 100 bytes and no control character")]
    BadName,
    /// A key that may do nothing.
    #[error("an API key needs at least one scope")]
    NoScope,
    /// It would be expired from the start.
    #[error("an API key cannot expire in the past")]
    ExpiryPassed,
    /// A public key that any page could use.
    #[error("only a form key can have the scope registrations:submit, and it needs an origin")]
    OriginsMissing,
    /// No browser would ever send it.
    #[error("{0:?} is no origin as browsers write it")]
    OriginInvalid(String),
    /// A public key that could do more.
    #[error("a form key has the scope registrations:submit and no other")]
    FormScopes,
}

impl Error {
    /// Stable code, explained in docs/errors.md.
    pub const fn code(&self) -> &'static str {
        match self {
            Self::Sql(_) => "control_database_unavailable",
            Self::NotMade(_) => "api_key_not_made",
            Self::Unknown(_) => "api_key_unknown",
            Self::Revoked(_) => "api_key_revoked",
            Self::Expired(_) => "api_key_expired",
            Self::BadName => "api_key_name_invalid",
            Self::NoScope => "api_key_scopes_missing",
            Self::ExpiryPassed => "api_key_expiry_passed",
            Self::OriginsMissing => "api_key_origins_missing",
            Self::OriginInvalid(_) => "api_key_origin_invalid",
            Self::FormScopes => "api_key_form_scopes",
        }
    }
}

/// Every column of [`ApiKey`]; a macro because statements are literals.
macro_rules! with_columns {
    ($before:literal, $after:literal) => {
        concat!(
            $before,
            " id, name, scopes, origins, created_by, created_at, expires_at, last_used_at, revoked_at, previous_until ",
            $after
        )
    };
}
use with_columns;

/// Makes a key; the text is to be shown once and cannot be had again.
pub async fn create(
    tx: &mut PgConnection,
    new: &NewKey,
    actor: &Actor,
) -> Result<(ApiKey, SecretString), Error> {
    let name = new.name.trim();
    if name.is_empty() || name.len() > 100 || name.contains(char::is_control) {
        return Err(Error::BadName);
    }
    if new.scopes.is_empty() {
        return Err(Error::NoScope);
    }
    check_form(new)?;
    let text = ApiKeyText::generate()?;
    audit::by(tx, actor).await?;
    let created = sqlx::query_as(with_columns!(
        "insert into api_keys (id, name, scopes, hash, created_by, expires_at, origins)
         select $1, $2, $3, $4, $5, $6, $7
         where $6 is null or $6 > now()
         returning",
        ""
    ))
    .bind(text.id())
    .bind(name)
    .bind(new.scopes.names().collect::<Vec<_>>())
    .bind(text.hash())
    .bind(actor.name())
    .bind(new.expires_at)
    .bind((!new.origins.is_empty()).then_some(&*new.origins))
    .fetch_optional(tx)
    .await?;
    let created = created.ok_or(Error::ExpiryPassed)?;
    Ok((created, text.into_secret()))
}

/// A form key has origins and the scope for it; a key without origins does not have that scope.
fn check_form(new: &NewKey) -> Result<(), Error> {
    let submit = Scope::RegistrationsSubmit;
    if new.origins.is_empty() {
        let is_missing = new.scopes.contains(submit);
        return if is_missing {
            Err(Error::OriginsMissing)
        } else {
            Ok(())
        };
    }
    if new.scopes != Scopes::from_iter([submit]) {
        return Err(Error::FormScopes);
    }
    match new.origins.iter().find(|text| !config::is_origin(text)) {
        Some(wrong) => Err(Error::OriginInvalid(wrong.clone())),
        None => Ok(()),
    }
}

/// Every key, newest first, also what is revoked or expired.
pub async fn list(connection: &mut PgConnection) -> sqlx::Result<Vec<ApiKey>> {
    sqlx::query_as(with_columns!(
        "select",
        "from api_keys
         order by created_at desc, id"
    ))
    .fetch_all(connection)
    .await
}

async fn find(connection: &mut PgConnection, id: &str) -> Result<ApiKey, Error> {
    let found = sqlx::query_as(with_columns!("select", "from api_keys where id = $1"))
        .bind(id)
        .fetch_optional(connection)
        .await?;
    found.ok_or_else(|| Error::Unknown(id.to_owned()))
}

/// Gives a key a new text; the one before it works for `overlap`, and any older one no longer.
///
/// `overlap` counts whole seconds.
pub async fn rotate(
    tx: &mut PgConnection,
    id: &str,
    overlap: Duration,
    actor: &Actor,
) -> Result<(ApiKey, SecretString), Error> {
    // an id that is none would make a text that is none
    let found = find(tx, id).await?;
    let text = ApiKeyText::with_id(&found.id)?;
    audit::by(tx, actor).await?;
    let rotated = sqlx::query_as(with_columns!(
        "update api_keys
         set hash = $2,
             previous_hash = case when $3 > 0 then hash end,
             -- also without an overlap: it tells the audit log of the rotation
             previous_until = now() + make_interval(secs => $3)
         where id = $1
           and revoked_at is null
           and (expires_at is null or expires_at > now())
         returning",
        ""
    ))
    .bind(id)
    .bind(text.hash())
    .bind(overlap_s(overlap))
    .fetch_optional(&mut *tx)
    .await?;
    match rotated {
        Some(rotated) => Ok((rotated, text.into_secret())),
        None => Err(match find(tx, id).await?.revoked_at {
            Some(_) => Error::Revoked(id.to_owned()),
            None => Error::Expired(id.to_owned()),
        }),
    }
}

/// Seconds, at most a century: the database's calendar ends.
fn overlap_s(overlap: Duration) -> f64 {
    let century = 100 * 365 * 24 * 60 * 60;
    Duration::from_secs(overlap.as_secs().min(century)).as_secs_f64()
}

/// Ends a key and all its texts, at once and for good; a second time changes nothing.
pub async fn revoke(tx: &mut PgConnection, id: &str, actor: &Actor) -> Result<ApiKey, Error> {
    audit::by(tx, actor).await?;
    let revoked = sqlx::query_as(with_columns!(
        "update api_keys
         set revoked_at = coalesce(revoked_at, now())
         where id = $1
         returning",
        ""
    ))
    .bind(id)
    .fetch_optional(tx)
    .await?;
    revoked.ok_or_else(|| Error::Unknown(id.to_owned()))
}
