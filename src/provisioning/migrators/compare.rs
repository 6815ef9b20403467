//! Whether a database that was migrated has the structure of its template.
//!
//! Guarantees: it is the fingerprint that decides. A fleet's databases come out in the same shape, and of a shape
//! that had the fingerprint once the fingerprint is known: that costs half of taking it.

use std::{
    collections::BTreeSet,
    sync::{Mutex, MutexGuard, PoisonError},
};

use sqlx::PgConnection;

use super::{Error, Migration, grant};
use crate::{
    provisioning::{StepError, template},
    tenant_db::{fingerprint, shape},
};

/// Far more than there are versions under way at a time.
const MOST_KNOWN: usize = 1000;

/// Fingerprints, each with a shape that has it: true whatever happens, so that all of a process may know it.
static KNOWN: Mutex<BTreeSet<(String, String)>> = Mutex::new(BTreeSet::new());

fn known() -> MutexGuard<'static, BTreeSet<(String, String)>> {
    KNOWN.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The structure must be the template's. Grants are given once more where it is not: schemas that a
/// migration made have none yet.
pub(super) async fn with_template(
    connection: &mut PgConnection,
    migration: &Migration<'_>,
) -> Result<(), StepError> {
    let Some(expected) = migration.expected else {
        return Ok(());
    };
    let pair = (expected.to_owned(), shape::of(connection).await?);
    if known().contains(&pair) {
        return Ok(());
    }
    if fingerprint::of(connection).await? == expected {
        let mut known = known();
        if known.len() >= MOST_KNOWN {
            known.clear();
        }
        known.insert(pair);
        return Ok(());
    }
    grant(connection, migration.cluster).await?;
    let found = fingerprint::of(connection).await?;
    if found == expected {
        return Ok(());
    }
    Err(drifted(connection, migration, (expected, &found)).await)
}

/// Says what is different, by the template's structure as it is on record.
async fn drifted(
    connection: &mut PgConnection,
    migration: &Migration<'_>,
    (expected, found): (&str, &str),
) -> StepError {
    let hash = migration.blueprint.hash();
    let of = (&*migration.cluster.name, &*hash);
    Error::Drifted {
        database: migration.database.as_str().to_owned(),
        difference: template::tell_difference(migration.db, of, connection)
            .await
            .unwrap_or_else(|| template::fingerprints_differ(expected, found)),
    }
    .into()
}
