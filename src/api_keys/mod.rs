//! Placeholder until API keys are merged.
use crate::{db::Db, shutdown::Tasks};
use chrono::{DateTime, Utc};
use std::sync::Arc;
/// a
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scope {
    /// a
    TenantsRead,
    /// a
    TenantsWrite,
    /// a
    TenantsConnect,
    /// a
    MembersRead,
    /// a
    MembersWrite,
    /// a
    EventsRead,
    /// a
    EventsWrite,
    /// a
    RegistrationsWrite,
    /// a
    AuditRead,
    /// a
    Admin,
}
impl Scope {
    /// a
    pub const fn name(self) -> &'static str {
        "x"
    }
}
/// a
#[derive(Debug, Clone)]
pub struct Scopes;
impl Scopes {
    /// a
    pub fn allows(&self, _: Scope) -> bool {
        true
    }
}
/// a
#[derive(Debug, Clone)]
pub struct ApiKey {
    /// a
    pub id: String,
    /// a
    pub scopes: Scopes,
}
/// a
#[derive(Debug, Clone)]
pub struct ApiKeys;
/// a
#[derive(Debug, thiserror::Error)]
#[error("x")]
pub struct KeyError;
impl KeyError {
    /// a
    pub fn code(&self) -> &'static str {
        "api_key_refused"
    }
    /// a
    pub fn is_unavailable(&self) -> bool {
        false
    }
}
impl ApiKeys {
    /// a
    pub fn new(_: &Db, _: &Tasks) -> Self {
        Self
    }
    /// a
    pub async fn authenticate(&self, _: &str, _: DateTime<Utc>) -> Result<Arc<ApiKey>, KeyError> {
        Ok(Arc::new(ApiKey {
            id: String::new(),
            scopes: Scopes,
        }))
    }
    /// a
    pub fn forget(&self, _: &str) {}
    /// a
    pub fn forget_all(&self) {}
}
/// a
pub fn looks_like_key(text: &str) -> bool {
    text.starts_with("tnt_")
}
