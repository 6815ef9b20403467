//! Whether a database that was migrated has the structure of its template.
//!
//! Guarantees: it is the fingerprint that decides.

use sqlx::PgConnection;

use super::{Error, Migration, grant};
use crate::{provisioning::StepError, tenant_db::fingerprint};

/// The structure must be the template's. Grants are given once more where it is not: schemas that a
/// migration made have none yet.
pub(super) async fn with_template(
    connection: &mut PgConnection,
    migration: &Migration<'_>,
) -> Result<(), StepError> {
    let Some(expected) = migration.expected else {
        return Ok(());
    };
    let cluster = migration.cluster;
    if cluster.has_fingerprint(connection, expected).await? {
        return Ok(());
    }
    grant(connection, cluster).await?;
    let found = fingerprint::of(connection).await?;
    if found == expected {
        return Ok(());
    }
    let short = |fingerprint: &str| fingerprint.chars().take(12).collect();
    Err(Error::Drifted {
        database: migration.database.as_str().to_owned(),
        found: short(&found),
        expected: short(expected),
    }
    .into())
}
