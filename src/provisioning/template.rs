//! Templates: built once per cluster and blueprint hash, sealed, cloned for each tenant.
//!
//! Guarantees: one builder at a time, whichever replica comes first, under an advisory lock that
//! ends with its session; the seal (`is_template`, no connections, our comment) is the completion
//! mark; an unsealed one of ours is dropped and rebuilt; a database of that name that is not ours is
//! an error; a migration that was edited after it was applied is refused before anything is built.

use std::time::{Duration, Instant};

use sqlx::{AssertSqlSafe, Connection, FromRow, PgConnection, types::Json};

use super::{Provisioner, StepError, seed};
use crate::{
    blueprint::{Blueprint, SqlFile},
    causes::chain,
    db::Db,
    tenant_db::{self, Cluster, Ident, databases, fingerprint, roles},
};

/// A template that can be cloned.
#[derive(Debug, Clone)]
pub struct Template {
    /// Hash of the blueprint.
    pub hash: String,
    /// The sealed database.
    pub database: Ident,
}

/// What is on record of a template.
#[derive(Debug, Clone, FromRow)]
pub struct TemplateRecord {
    /// Schema version of its clones.
    pub version: String,
    /// Structure of its clones.
    pub fingerprint: String,
}

/// What every clone of a template looks like.
struct Structure {
    fingerprint: String,
    lines: Vec<String>,
}

/// The record of a sealed template.
pub async fn find(
    connection: &mut PgConnection,
    cluster: &str,
    hash: &str,
) -> sqlx::Result<Option<TemplateRecord>> {
    sqlx::query_as("select version, fingerprint from templates where cluster = $1 and hash = $2")
        .bind(cluster)
        .bind(hash)
        .fetch_optional(connection)
        .await
}

/// The structure of a sealed template, line by line; `None` where an older version of tenantry built it.
pub async fn find_structure(
    connection: &mut PgConnection,
    cluster: &str,
    hash: &str,
) -> sqlx::Result<Option<Vec<String>>> {
    let structure =
        sqlx::query_scalar("select structure from templates where cluster = $1 and hash = $2");
    let found: Option<Option<Vec<String>>> = structure
        .bind(cluster)
        .bind(hash)
        .fetch_optional(connection)
        .await?;
    Ok(found.flatten())
}

/// Makes sure that the blueprint's template is there.
pub async fn ensure(
    provisioner: &Provisioner,
    cluster: &Cluster,
    blueprint: &Blueprint,
) -> Result<Template, StepError> {
    let hash = blueprint.hash();
    let database = Ident::new(&format!("{}template_{}", cluster.prefix, &hash[..16]))
        .map_err(tenant_db::Error::from)?;
    let template = Template { hash, database };
    if is_sealed(provisioner, cluster, &template).await? {
        return Ok(template);
    }
    check_history(&provisioner.db, cluster, blueprint).await?;
    cluster
        .run(async |connection| roles::ensure_shared(connection, cluster).await)
        .await?;
    // its own session: the lock lives and dies with it, and a statement that outlives us with it
    let mut builder = cluster.connect_for_maintenance().await?;
    lock(&mut builder, &template.database).await?;
    let built = if is_sealed(provisioner, cluster, &template).await? {
        Ok(())
    } else {
        build(provisioner, cluster, blueprint, &template, &mut builder).await
    };
    // ends the session and with it the lock, whatever happened
    let _ = builder.close().await;
    built?;
    Ok(template)
}

/// Sealed, ours, and on record.
async fn is_sealed(
    provisioner: &Provisioner,
    cluster: &Cluster,
    template: &Template,
) -> Result<bool, StepError> {
    let name = template.database.as_str();
    let Some(facts) = cluster
        .run(async |connection| databases::find(connection, name).await)
        .await?
    else {
        return Ok(false);
    };
    if facts.owner != cluster.owner.as_str() {
        return Err(tenant_db::Error::ForeignDatabase {
            name: name.to_owned(),
            found: facts.describe(),
        }
        .into());
    }
    let sealed = facts.is_template
        && !facts.allows_connections
        && facts.comment == Some(databases::template_comment(&template.hash));
    let recorded = provisioner
        .db
        .run(async |connection| find(connection, &cluster.name, &template.hash).await)
        .await?;
    Ok(sealed && recorded.is_some())
}

/// Refuses a blueprint whose applied migrations were changed.
async fn check_history(db: &Db, cluster: &Cluster, blueprint: &Blueprint) -> Result<(), StepError> {
    let applied: Vec<Json<Vec<(String, String)>>> = db
        .run(async |connection| {
            sqlx::query_scalar(
                "select migrations from templates where cluster = $1 order by sealed_at desc",
            )
            .bind(&cluster.name)
            .fetch_all(connection)
            .await
        })
        .await?;
    for Json(applied) in applied {
        blueprint.check_history(&applied)?;
    }
    Ok(())
}

/// Waits its turn with a try-lock: a waiting one would hold a snapshot while the other builds.
async fn lock(session: &mut PgConnection, database: &Ident) -> Result<(), StepError> {
    loop {
        let locked: bool =
            sqlx::query_scalar("select pg_try_advisory_lock(hashtextextended($1, 0))")
                .bind(database.as_str())
                .fetch_one(&mut *session)
                .await
                .map_err(tenant_db::Error::sql("locking the template"))?;
        if locked {
            return Ok(());
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

async fn build(
    provisioner: &Provisioner,
    cluster: &Cluster,
    blueprint: &Blueprint,
    template: &Template,
    session: &mut PgConnection,
) -> Result<(), StepError> {
    let started = Instant::now();
    let name = &template.database;
    // what a lost builder left; the name is ours by its owner, and it is not sealed
    databases::drop_database(session, name).await?;
    if !databases::create_empty(session, cluster, name).await? {
        let found = "it appeared while the template was being built".to_owned();
        let name = name.as_str().to_owned();
        return Err(tenant_db::Error::ForeignDatabase { name, found }.into());
    }
    provisioner.faults.hit("template.created").await?;
    let mut connection = cluster.connect(name, None).await?;
    let limit = Duration::from_millis(blueprint.settings.migrate_timeout_ms.into());
    let built = tokio::select! {
        built = fill(&mut connection, cluster, blueprint) => built,
        lost = keep_alive(session) => Err(lost),
        () = tokio::time::sleep(limit) => Err(StepError::TimedOut { step: "template", limit }),
    };
    let _ = connection.close().await;
    let structure = match built {
        Ok(structure) => structure,
        Err(error) => {
            // a broken migration must not leave a half-built database behind; the next builder drops
            // it too, and the error that counts is the first one
            if let Err(left) = databases::drop_database(session, name).await {
                tracing::warn!(error = chain(&left), "a half-built template was left");
            }
            return Err(error);
        }
    };
    provisioner.faults.hit("template.filled").await?;
    tokio::select! {
        recorded = record(&provisioner.db, cluster, blueprint, template, &structure) => recorded?,
        lost = keep_alive(session) => return Err(lost),
    }
    databases::seal(session, name, &template.hash).await?;
    provisioner.faults.hit("template.sealed").await?;
    tracing::info!(
        template = name.as_str(),
        version = blueprint.version(),
        duration_ms = started.elapsed().as_millis(),
        "built the template"
    );
    Ok(())
}

/// Shows signs of life on the session that holds the lock; returns when it was lost.
async fn keep_alive(session: &mut PgConnection) -> StepError {
    loop {
        tokio::time::sleep(tenant_db::IDLE_LIMIT / 4).await;
        if let Err(lost) = session.ping().await {
            return tenant_db::Error::sql("holding the template's lock")(lost).into();
        }
    }
}

/// Migrations, shared seed and grants; returns the structure.
async fn fill(
    connection: &mut PgConnection,
    cluster: &Cluster,
    blueprint: &Blueprint,
) -> Result<Structure, StepError> {
    let (owner, app) = (&cluster.owner, &cluster.app);
    run_sql(
        connection,
        "the ledger",
        "migration_failed",
        &ledger(&owner.to_string()),
    )
    .await?;
    blueprint_timeouts(connection, blueprint).await?;
    for file in &blueprint.migrations {
        apply(connection, &owner.to_string(), file, "migration_failed").await?;
    }
    for file in &blueprint.shared_seed {
        apply(connection, &owner.to_string(), file, "seed_failed").await?;
    }
    run_sql(
        connection,
        "the grants",
        "migration_failed",
        &grants(&owner.to_string(), &app.to_string()),
    )
    .await?;
    // before Postgres 15 schema public belongs to the superuser, and only a warning says that the
    // grants changed nothing
    let may: bool = sqlx::query_scalar("select has_schema_privilege($1::name, 'public', 'create')")
        .bind(app.as_str())
        .fetch_one(&mut *connection)
        .await
        .map_err(tenant_db::Error::sql("looking at schema public"))?;
    if may {
        return Err(StepError::PublicSchemaOpen);
    }
    Ok(Structure {
        fingerprint: fingerprint::of(connection).await?,
        lines: fingerprint::structure(connection).await?,
    })
}

/// The session's statements are bounded as the blueprint says.
pub(super) async fn blueprint_timeouts(
    connection: &mut PgConnection,
    blueprint: &Blueprint,
) -> Result<(), StepError> {
    let settings = &blueprint.settings;
    sqlx::query(
        "select set_config('statement_timeout', $1, false), set_config('lock_timeout', $2, false)",
    )
    .bind(settings.statement_timeout_ms.to_string())
    .bind(settings.lock_timeout_ms.to_string())
    .execute(connection)
    .await
    .map_err(tenant_db::Error::sql("setting the blueprint's timeouts"))?;
    Ok(())
}

/// One file, one transaction, as the owner role, with its line in the ledger.
async fn apply(
    connection: &mut PgConnection,
    owner: &str,
    file: &SqlFile,
    code: &'static str,
) -> Result<(), StepError> {
    let failed = |source| StepError::file(code, file, source);
    sqlx::raw_sql("begin")
        .execute(&mut *connection)
        .await
        .map_err(failed)?;
    seed::run_as_owner(connection, owner).await?;
    sqlx::raw_sql(AssertSqlSafe(file.sql.clone()))
        .execute(&mut *connection)
        .await
        .map_err(failed)?;
    sqlx::query("insert into tenantry.migrations (name, sha256) values ($1, $2)")
        .bind(&file.name)
        .bind(&file.sha256)
        .execute(&mut *connection)
        .await
        .map_err(failed)?;
    sqlx::raw_sql("commit")
        .execute(&mut *connection)
        .await
        .map_err(failed)?;
    Ok(())
}

async fn run_sql(
    connection: &mut PgConnection,
    what: &str,
    code: &'static str,
    sql: &str,
) -> Result<(), StepError> {
    let failed = |source| StepError::File {
        code,
        file: what.to_owned(),
        source,
    };
    sqlx::raw_sql(AssertSqlSafe(sql.to_owned()))
        .execute(connection)
        .await
        .map_err(failed)?;
    Ok(())
}

/// Our own schema in every tenant's database: what was applied and what was seeded.
fn ledger(owner: &str) -> String {
    format!(
        "grant usage, create on schema public to {owner};
         create schema tenantry authorization {owner};
         set role {owner};
         create table tenantry.migrations (
             name text primary key,
             sha256 text not null,
             applied_at timestamptz not null default now()
         );
         create table tenantry.seeds (
             name text primary key,
             seeded_at timestamptz not null default now()
         );
         reset role"
    )
}

/// DML rights for the application group on everything there is and will be; nothing for PUBLIC.
fn grants(owner: &str, app: &str) -> String {
    format!(
        "revoke all on schema public from public;
         set role {owner};
         do $$
         declare
             target text;
         begin
             for target in
                 select quote_ident(nspname)
                 from pg_namespace
                 where nspname not in ('information_schema', 'tenantry')
                   and nspname !~ '^pg_'
             loop
                 execute 'grant usage on schema ' || target || ' to {app}';
                 execute 'grant select, insert, update, delete on all tables in schema ' || target || ' to {app}';
                 execute 'grant usage, select on all sequences in schema ' || target || ' to {app}';
                 execute 'alter default privileges in schema ' || target
                     || ' grant select, insert, update, delete on tables to {app}';
                 execute 'alter default privileges in schema ' || target
                     || ' grant usage, select on sequences to {app}';
             end loop;
         end
         $$;
         reset role"
    )
}

async fn record(
    db: &Db,
    cluster: &Cluster,
    blueprint: &Blueprint,
    template: &Template,
    structure: &Structure,
) -> Result<(), StepError> {
    let migrations: Vec<(&str, &str)> = blueprint
        .migrations
        .iter()
        .map(|file| (file.name.as_str(), file.sha256.as_str()))
        .collect();
    db.run(async |connection| {
        sqlx::query(
            "insert into templates (cluster, hash, database, version, migrations, fingerprint, structure)
             values ($1, $2, $3, $4, $5, $6, $7)
             on conflict (cluster, hash) do update
             set database = excluded.database,
                 fingerprint = excluded.fingerprint,
                 structure = excluded.structure,
                 sealed_at = now()",
        )
        .bind(&cluster.name)
        .bind(&template.hash)
        .bind(template.database.as_str())
        .bind(blueprint.version())
        .bind(Json(migrations))
        .bind(&structure.fingerprint)
        .bind(&structure.lines)
        .execute(connection)
        .await
    })
    .await?;
    Ok(())
}
