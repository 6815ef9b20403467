//! The mark of a tenant's database while it is migrated: the comment that says whose it is and what it is like.
//!
//! Guarantees: before anything is changed the mark does not say any more what the database is like, and it says so again
//! when all of a blueprint is there and the structure was found to be its template's. So whatever was cut off, has failed
//! or differs does not; and a cluster that is restored to an earlier moment says what was so then.
//!
//! Neither waits for the disk: what is taken away is there before what is changed after it, and what is given only
//! saves the next run a look.

use sqlx::{AssertSqlSafe, PgConnection};

use super::{Migration, failed};
use crate::{causes::chain, provisioning::StepError, tenant_db::databases::Mark};

/// From here on nobody may rely on what the database is like.
pub(super) async fn take_away(
    connection: &mut PgConnection,
    migration: &Migration<'_>,
) -> Result<(), StepError> {
    write(connection, migration, None)
        .await
        .map_err(failed("changing the database's mark"))
}

/// It is like the template of the blueprint.
pub(super) async fn give(connection: &mut PgConnection, migration: &Migration<'_>) {
    let like = Some(migration.blueprint.hash());
    if let Err(error) = write(connection, migration, like).await {
        let database = migration.database.as_str();
        let error = chain(&error);
        tracing::warn!(
            database,
            error,
            "a database was not marked: the next run looks into it"
        );
    }
}

async fn write(
    connection: &mut PgConnection,
    migration: &Migration<'_>,
    like: Option<String>,
) -> sqlx::Result<()> {
    let Some(mark) = migration.mark.cloned() else {
        return Ok(());
    };
    let comment = Mark { like, ..mark }.comment().replace('\'', "''");
    let (database, owner) = (migration.database, &migration.cluster.owner);
    let sql = format!(
        "begin;
         set local role {owner};
         set local synchronous_commit = off;
         comment on database {database} is '{comment}';
         commit"
    );
    sqlx::raw_sql(AssertSqlSafe(sql))
        .execute(connection)
        .await?;
    Ok(())
}
