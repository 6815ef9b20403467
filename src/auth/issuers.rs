//! Placeholder until the verification of tokens is merged.
use super::EndUser;
use crate::{config::Config, metrics::Metrics, shutdown::Tasks};
use chrono::{DateTime, Utc};
use std::sync::Arc;
/// a
#[derive(Debug, Clone)]
pub struct Issuers;
/// a
#[derive(Debug, thiserror::Error)]
#[error("x")]
pub struct IssuerError;
/// a
#[derive(Debug, thiserror::Error)]
#[error("x")]
pub struct TokenError;
impl Issuers {
    /// a
    pub fn new(_: &Config, _: &Metrics) -> Result<Self, IssuerError> {
        Ok(Self)
    }
    /// a
    pub fn spawn_refresh(&self, _: &Tasks) {}
    /// a
    pub async fn authenticate(
        &self,
        _: &str,
        _: DateTime<Utc>,
    ) -> Result<Arc<EndUser>, TokenError> {
        Err(TokenError)
    }
}
impl TokenError {
    /// a
    pub fn code(&self) -> &'static str {
        "token_malformed"
    }
    /// a
    pub fn is_unavailable(&self) -> bool {
        false
    }
    /// a
    pub fn retry_after_s(&self) -> u32 {
        1
    }
}
