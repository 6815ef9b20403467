//! Whether a database that was migrated has the structure of its template.
//!
//! Guarantees: the fingerprint decides, or a shape that had this fingerprint before (see `tenant_db::shape`).

use sqlx::PgConnection;

use super::{Error, Migration, grant};
use crate::{
    provisioning::{StepError, template},
    tenant_db::fingerprint,
};

/// The structure must be the template's. Grants are given once more where it is not: schemas that a
/// migration made have none yet.
pub(super) async fn with_template(
    connection: &mut PgConnection,
    migration: &Migration<'_>,
) -> Result<(), StepError> {
    let template = migration.template;
    let Some(expected) = template.and_then(|template| template.fingerprint.as_deref()) else {
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
    Err(drifted(connection, migration, expected, &found).await)
}

/// Says what is different, by the template's structure as it is on record.
async fn drifted(
    connection: &mut PgConnection,
    migration: &Migration<'_>,
    expected: &str,
    found: &str,
) -> StepError {
    let hash = migration.blueprint.hash();
    let cluster = &migration.cluster.name;
    Error::Drifted {
        database: migration.database.as_str().to_owned(),
        difference: template::tell_difference(migration.db, cluster, &hash, connection)
            .await
            .unwrap_or_else(|| template::fingerprints_differ(expected, found)),
    }
    .into()
}
