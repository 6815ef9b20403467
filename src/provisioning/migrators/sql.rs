//! The migrator `sql`: numbered files, each once, each in a transaction with its line in the ledger.
//!
//! Guarantees: what was applied is what the blueprint has, by digest, or nothing is done; a file and its
//! line are one commit; a shared seed file that changed runs again, after the migrations; one round trip
//! a file. A file that is marked `-- tenantry: no transaction` runs statement by statement, and its line
//! follows: where it was interrupted it runs again from its beginning, without the invalid index that a
//! broken-off `create index concurrently` left.

use sqlx::{AssertSqlSafe, PgConnection};

use super::{Done, Migrated, Migration, blocker::Watch, failed, mark, name_blocker, state::State};
use crate::{
    blueprint::{Blueprint, SqlFile},
    provisioning::StepError,
};

/// Applies what is missing.
pub(super) async fn migrate(
    connection: &mut PgConnection,
    migration: &Migration<'_>,
    watch: &Watch<'_>,
) -> Result<Done, StepError> {
    let blueprint = migration.blueprint;
    let state = State::lock(connection, migration, watch).await?;
    let is_migration = |(name, _): &&(String, String)| !name.starts_with("seed/");
    let applied: Vec<_> = state.ledger.iter().filter(is_migration).cloned().collect();
    blueprint.check_history(&applied)?;
    let from = version(blueprint, &state);
    let pending: Vec<&SqlFile> = state.pending(&blueprint.migrations).collect();
    let migrated = Migrated {
        from,
        to: blueprint.version().unwrap_or_default(),
        applied: u32::try_from(pending.len()).unwrap_or(u32::MAX),
    };
    let pending = [pending, state.pending(&blueprint.shared_seed).collect()].concat();
    let changed = apply_all(connection, migration, watch, pending).await?;
    Ok(Done { migrated, changed })
}

/// Runs the shared seed files that are new or changed; whether there were any.
pub(super) async fn seed(
    connection: &mut PgConnection,
    migration: &Migration<'_>,
    watch: &Watch<'_>,
    state: &State,
) -> Result<bool, StepError> {
    let pending = state.pending(&migration.blueprint.shared_seed).collect();
    apply_all(connection, migration, watch, pending).await
}

/// The version of the last applied migration.
pub(super) fn version(blueprint: &Blueprint, state: &State) -> String {
    let is_applied = |file: &&SqlFile| state.ledger.iter().any(|(name, _)| *name == file.name);
    let last = blueprint.migrations.iter().rfind(is_applied);
    last.map_or_else(String::new, |file| file.version().to_owned())
}

/// Whether something was applied since the database was at this version, in whole or, where a file is no
/// transaction, in part.
pub(super) fn is_begun(blueprint: &Blueprint, state: &State, from: &str) -> bool {
    let mut files = blueprint.migrations.iter().chain(&blueprint.shared_seed);
    let next = files.find(|file| !state.has(file));
    version(blueprint, state) != from || next.is_none_or(|file| file.statements.is_some())
}

/// Whether there were any.
async fn apply_all(
    connection: &mut PgConnection,
    migration: &Migration<'_>,
    watch: &Watch<'_>,
    files: Vec<&SqlFile>,
) -> Result<bool, StepError> {
    if files.is_empty() {
        return Ok(false);
    }
    migration.check_lease()?;
    let taken_away = mark::take_away(connection, migration).await;
    taken_away.map_err(|error| name_blocker(error.into(), watch))?;
    for file in files {
        apply(connection, migration, watch, file).await?;
    }
    Ok(true)
}

async fn apply(
    connection: &mut PgConnection,
    migration: &Migration<'_>,
    watch: &Watch<'_>,
    file: &SqlFile,
) -> Result<(), StepError> {
    migration.check_lease()?;
    let done = match &file.statements {
        None => in_transaction(connection, migration, file).await,
        Some(statements) => one_by_one(connection, migration, file, statements).await,
    };
    done.map_err(|error| name_blocker(error, watch))
}

fn code_of(file: &SqlFile) -> &'static str {
    if file.name.starts_with("seed/") {
        "seed_failed"
    } else {
        "migration_failed"
    }
}

/// The line in the ledger. Names and digests of a blueprint have no character that a literal minds.
fn note(file: &SqlFile) -> String {
    format!(
        "insert into tenantry.migrations (name, sha256) values ('{}', '{}')
         on conflict (name) do update set sha256 = excluded.sha256, applied_at = now()",
        file.name, file.sha256
    )
}

/// One round trip: the file as the owner role, its line, the commit, and a session as it was.
async fn in_transaction(
    connection: &mut PgConnection,
    migration: &Migration<'_>,
    file: &SqlFile,
) -> Result<(), StepError> {
    let before = format!("begin; set local role {};\n", migration.cluster.owner);
    let sql = format!(
        "{before}{}\n;{}; commit; reset role; reset all",
        file.sql,
        note(file)
    );
    sqlx::raw_sql(AssertSqlSafe(sql))
        .execute(connection)
        .await
        .map_err(|source| StepError::file_after(code_of(file), file, source, before.len()))?;
    Ok(())
}

async fn one_by_one(
    connection: &mut PgConnection,
    migration: &Migration<'_>,
    file: &SqlFile,
    statements: &[String],
) -> Result<(), StepError> {
    let run = async |connection: &mut PgConnection, sql: String| {
        sqlx::raw_sql(AssertSqlSafe(sql))
            .execute(connection)
            .await
            .map_err(|source| StepError::file_unplaced(code_of(file), file, source))?;
        Ok::<_, StepError>(())
    };
    run(connection, format!("set role {}", migration.cluster.owner)).await?;
    for statement in statements {
        for left in invalid_indexes(connection, statement).await? {
            run(
                connection,
                format!("drop index concurrently if exists {left}"),
            )
            .await?;
        }
        run(connection, statement.clone()).await?;
    }
    run(connection, format!("{}; reset role; reset all", note(file))).await
}

/// The invalid indexes of the name that a `create index concurrently` is about to make, and that nobody
/// builds just now.
async fn invalid_indexes(
    connection: &mut PgConnection,
    statement: &str,
) -> Result<Vec<String>, StepError> {
    let Some(name) = crate::blueprint::concurrent_index(statement) else {
        return Ok(Vec::new());
    };
    sqlx::query_scalar(
        "select format('%I.%I', nspname, relname)
         from pg_index
         join pg_class on pg_class.oid = indexrelid
         join pg_namespace on pg_namespace.oid = relnamespace
         -- the server cuts longer names
         where relname = $1::name
           and not indisvalid
           and not exists (
               select
               from pg_stat_progress_create_index building
               where building.index_relid = indexrelid
                 and building.datname = current_database()
           )",
    )
    .bind(name)
    .fetch_all(connection)
    .await
    .map_err(failed("looking for an index that was not finished"))
}
