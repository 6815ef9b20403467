//! The mark of a tenant's database while it is migrated: the comment that says whose it is and what it is like.
//!
//! Guarantees: before anything is changed the mark does not say any more what the database is like, and it says so again
//! when all of a blueprint is there and the structure was found to be its template's. So whatever was cut off, has failed
//! or differs does not; and a cluster that is restored to an earlier moment says what was so then.
//!
//! Neither waits for the disk: what is taken away is there before what is changed after it, and what is given only
//! saves the next run a look.

use sqlx::PgConnection;

use super::Migration;
use crate::{
    causes::chain,
    tenant_db::{
        self,
        databases::{self, Mark},
    },
};

/// From here on nobody may rely on what the database is like.
pub(super) async fn take_away(
    connection: &mut PgConnection,
    migration: &Migration<'_>,
) -> Result<(), tenant_db::Error> {
    set(connection, migration, None).await
}

/// It is like the template of the blueprint.
pub(super) async fn give(connection: &mut PgConnection, migration: &Migration<'_>) {
    let like = Some(migration.blueprint.hash());
    if let Err(error) = set(connection, migration, like).await {
        let database = migration.database.as_str();
        let error = chain(&error);
        tracing::warn!(
            database,
            error,
            "a database was not marked: the next run looks into it"
        );
    }
}

async fn set(
    connection: &mut PgConnection,
    migration: &Migration<'_>,
    like: Option<String>,
) -> Result<(), tenant_db::Error> {
    let Some(mark) = migration.mark.cloned() else {
        return Ok(());
    };
    let mark = Mark { like, ..mark };
    databases::set_mark(connection, migration.cluster, migration.database, &mark).await
}
