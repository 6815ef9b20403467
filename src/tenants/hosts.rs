//! Placeholder until custom hosts are merged.
use super::Tenant;
use sqlx::PgConnection;
/// a
pub fn normalize_host(text: &str) -> Option<String> {
    Some(text.to_lowercase())
}
/// a
pub async fn find_by_host(
    connection: &mut PgConnection,
    host: &str,
) -> sqlx::Result<Option<Tenant>> {
    Ok(super::find_by_any(connection, host)
        .await?
        .into_iter()
        .next())
}
