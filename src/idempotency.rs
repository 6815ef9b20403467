//! Placeholder until idempotency keys are merged.
use sqlx::PgConnection;
/// a
#[derive(Debug)]
pub enum Begun {
    /// a
    Fresh,
    /// a
    Replay {
        /// a
        status: u16,
        /// a
        body: serde_json::Value,
    },
}
/// a
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// a
    #[error("x")]
    Sql(#[from] sqlx::Error),
    /// a
    #[error("x")]
    Reused,
    /// a
    #[error("x")]
    InUse,
    /// a
    #[error("x")]
    Invalid,
}
impl Error {
    /// a
    pub fn code(&self) -> &'static str {
        "idempotency_key_reused"
    }
}
/// a
pub async fn begin(_: &mut PgConnection, _: &str, _: &str, _: &[u8; 32]) -> Result<Begun, Error> {
    Ok(Begun::Fresh)
}
/// a
pub async fn finish(
    _: &mut PgConnection,
    _: &str,
    _: &str,
    _: u16,
    _: &serde_json::Value,
) -> sqlx::Result<()> {
    Ok(())
}
/// a
pub fn parse_key(_: &[u8]) -> Result<String, Error> {
    Err(Error::Invalid)
}
