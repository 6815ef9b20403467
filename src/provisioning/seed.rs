//! Step 4, seed: this tenant's own rows, once.
//!
//! Guarantees: all files in one transaction, together with the note that they were loaded, and which; a retry
//! finds the note and loads nothing. Values reach the files as settings (`current_setting('tenantry.…')`),
//! set as parameters, never pasted into SQL.

use sqlx::{AssertSqlSafe, PgConnection};

use super::{StepContext, StepError};
use crate::{blueprint::Blueprint, identity, tenant_db, tenants::Tenant};

pub(super) async fn run(cx: &StepContext<'_>) -> Result<(), StepError> {
    let tenant = cx.tenant().await;
    let name = cx.organization_name().await?;
    let owner = cx.cluster().await?.owner.clone();
    cx.check_lease()?;
    cx.in_tenant(async |connection| {
        if already_seeded(connection).await? {
            return Ok(());
        }
        begin_as_owner(connection, "begin", &owner.to_string()).await?;
        set_values(connection, &tenant, name)
            .await
            .map_err(note_failed)?;
        for file in &cx.blueprint.tenant_seed {
            let failed = |source| StepError::file("seed_failed", file, source);
            sqlx::raw_sql(AssertSqlSafe(file.sql.clone()))
                .execute(&mut *connection)
                .await
                .map_err(failed)?;
        }
        // checked once more as late as can be: after a long stop the commit must not happen
        cx.check_lease()?;
        // the key of the note: of two sessions that seed, one fails here, and nothing of it stays
        let note_and_commit = format!(
            "insert into tenantry.seeds (name) values ('tenant'), ('{}'); commit",
            note_of(&cx.blueprint)
        );
        sqlx::raw_sql(AssertSqlSafe(note_and_commit))
            .execute(&mut *connection)
            .await
            .map_err(note_failed)?;
        Ok(())
    })
    .await
}

/// Nothing: the rows go with the database.
#[expect(clippy::unnecessary_wraps, reason = "one shape for every step")]
pub(super) fn undo() -> Result<(), StepError> {
    Ok(())
}

fn note_failed(source: sqlx::Error) -> StepError {
    StepError::File {
        code: "seed_failed",
        file: "the note that the tenant was seeded".to_owned(),
        source,
    }
}

/// The note of which files were loaded. Digits of a digest need no quoting.
fn note_of(blueprint: &Blueprint) -> String {
    format!("tenant {}", blueprint.tenant_seed_hash())
}

/// The note that somebody may have used the database: it is never made anew.
const OPENED: &str = "opened";

/// What the notes say of a database.
#[derive(Debug, Clone, Copy, sqlx::FromRow)]
pub(super) struct Notes {
    /// It may have been opened to its users: it was, or an older version of tenantry seeded it.
    pub(super) maybe_opened: bool,
    /// It was seeded with other files than these.
    pub(super) is_of_other_files: bool,
}

pub(super) async fn read_notes(
    connection: &mut PgConnection,
    blueprint: &Blueprint,
) -> Result<Notes, StepError> {
    sqlx::query_as(
        "select coalesce(bool_or(name = $2), false)
                or (coalesce(bool_or(name = 'tenant'), false)
                    and not coalesce(bool_or(starts_with(name, 'tenant ')), false)) as maybe_opened,
                coalesce(bool_or(starts_with(name, 'tenant ') and name <> $1), false) as is_of_other_files
         from tenantry.seeds",
    )
    .bind(note_of(blueprint))
    .bind(OPENED)
    .fetch_one(connection)
    .await
    .map_err(|error| tenant_db::Error::sql("reading the notes of its seeds")(error).into())
}

/// Notes that the database is about to be opened.
///
/// The database says it, and not only the control database: that may be restored from a moment before.
pub(super) async fn note_opening(
    connection: &mut PgConnection,
    quoted_owner: &str,
) -> Result<(), StepError> {
    // verify may have left its transaction; a crash of the server that loses the note loses what follows as well
    let begin = "rollback; begin; set local synchronous_commit = off";
    let note = format!(
        "{begin}; set local role {quoted_owner};
         insert into tenantry.seeds (name) values ('{OPENED}') on conflict do nothing; commit"
    );
    sqlx::raw_sql(AssertSqlSafe(note))
        .execute(connection)
        .await
        .map_err(tenant_db::Error::sql("noting that it is opened"))?;
    Ok(())
}

/// Whether the database was opened, or was about to be.
pub(super) async fn is_opened(connection: &mut PgConnection) -> Result<bool, StepError> {
    sqlx::query_scalar("select exists (select from tenantry.seeds where name = $1)")
        .bind(OPENED)
        .fetch_one(connection)
        .await
        .map_err(|error| tenant_db::Error::sql("reading whether it was opened")(error).into())
}

/// It is not about to be opened any more.
pub(super) async fn forget_opening(connection: &mut PgConnection) -> Result<(), StepError> {
    sqlx::query("delete from tenantry.seeds where name = $1")
        .bind(OPENED)
        .execute(connection)
        .await
        .map_err(tenant_db::Error::sql("noting that it is not opened"))?;
    Ok(())
}

async fn already_seeded(connection: &mut PgConnection) -> Result<bool, StepError> {
    sqlx::query_scalar("select exists (select from tenantry.seeds where name = 'tenant')")
        .fetch_one(connection)
        .await
        .map_err(note_failed)
}

/// Begins a transaction as the owner role: rows and objects belong to it, and a file has its rights, not ours.
pub(super) async fn begin_as_owner(
    connection: &mut PgConnection,
    begin: &str,
    quoted_owner: &str,
) -> Result<(), StepError> {
    let statements = format!("{begin}; set local role {quoted_owner}");
    sqlx::raw_sql(AssertSqlSafe(statements))
        .execute(connection)
        .await
        .map_err(tenant_db::Error::sql("beginning as the owner role"))?;
    Ok(())
}

/// The organization's name in full; the tenant's row has 255 characters of it.
pub(super) async fn organization_name(
    cx: &StepContext<'_>,
    tenant: &Tenant,
) -> Result<String, StepError> {
    let find = async |connection: &mut PgConnection| {
        identity::find_organization_name(connection, &tenant.source, &tenant.org_id).await
    };
    let found = cx.provisioner.db.run(find).await?;
    Ok(found.unwrap_or_else(|| tenant.name.clone()))
}

/// What a seed file, a verify query or a script of members may ask for.
pub(super) async fn set_values(
    connection: &mut PgConnection,
    tenant: &Tenant,
    organization_name: &str,
) -> sqlx::Result<()> {
    sqlx::query(
        "select set_config('tenantry.tenant_id', $1, true),
                set_config('tenantry.tenant_url', $2, true),
                set_config('tenantry.organization_id', $3, true),
                set_config('tenantry.organization_name', $4, true),
                set_config('tenantry.source', $5, true)",
    )
    .bind(tenant.id.to_string())
    .bind(&tenant.url)
    .bind(tenant.seeded_as())
    .bind(organization_name)
    .bind(&tenant.source)
    .execute(connection)
    .await?;
    Ok(())
}
