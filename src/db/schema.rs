//! The control schema: its migrations, and how a database stands to this binary's.
//!
//! Guarantees: migrations run once, whichever of several replicas starts first; a database with newer
//! migrations is used where all of them say that this binary can, and is refused otherwise.

use std::time::Duration;

use sqlx::{
    PgConnection,
    migrate::{MigrateError, Migration, MigrationType, Migrator},
};

use super::{Db, Error, is_unavailable};

/// Control migrations, in order; compiled in.
const MIGRATIONS: [(i64, &str, &str); 19] = [
    (1, "inbox", include_str!("../../migrations/0001_inbox.sql")),
    (2, "queue", include_str!("../../migrations/0002_queue.sql")),
    (
        3,
        "tenants",
        include_str!("../../migrations/0003_tenants.sql"),
    ),
    (
        4,
        "provisioning",
        include_str!("../../migrations/0004_provisioning.sql"),
    ),
    (
        5,
        "identity",
        include_str!("../../migrations/0005_identity.sql"),
    ),
    (6, "audit", include_str!("../../migrations/0006_audit.sql")),
    (
        7,
        "api_keys",
        include_str!("../../migrations/0007_api_keys.sql"),
    ),
    (
        8,
        "idempotency",
        include_str!("../../migrations/0008_idempotency.sql"),
    ),
    (
        9,
        "access",
        include_str!("../../migrations/0009_access.sql"),
    ),
    (
        10,
        "registrations",
        include_str!("../../migrations/0010_registrations.sql"),
    ),
    (
        11,
        "form_keys",
        include_str!("../../migrations/0011_form_keys.sql"),
    ),
    (
        12,
        "notifications",
        include_str!("../../migrations/0012_notifications.sql"),
    ),
    (
        13,
        "retention",
        include_str!("../../migrations/0013_retention.sql"),
    ),
    (14, "pool", include_str!("../../migrations/0014_pool.sql")),
    (15, "fleet", include_str!("../../migrations/0015_fleet.sql")),
    (
        16,
        "structure",
        include_str!("../../migrations/0016_structure.sql"),
    ),
    (
        17,
        "details",
        include_str!("../../migrations/0017_details.sql"),
    ),
    (
        18,
        "lost_targets",
        include_str!("../../migrations/0018_lost_targets.sql"),
    ),
    (
        19,
        "server_upgrade",
        include_str!("../../migrations/0019_server_upgrade.sql"),
    ),
];

/// Which older binaries a migration leaves working: those whose own newest migration is at least the
/// second number. One that only adds what they do not know serves them; one that takes something
/// away serves those that have ceased to use it. A migration that is not here serves nobody older.
const SERVES_SINCE: &[(i64, i64)] = &[
    (10, 9),
    (11, 9),
    (12, 9),
    (13, 9),
    (14, 9),
    (15, 9),
    (16, 9),
    (17, 9),
    (18, 9),
    // those before 17 compare a part of the structure, which is no longer written
    (19, 17),
];

/// What migrations say of older binaries. No migration of its own makes it: it is read and written
/// by binaries that know different migrations, before any of them runs.
const CONTROL_SCHEMA: &str = "
create table if not exists control_schema (
    version bigint primary key,
    serves_since bigint not null check (serves_since <= version)
);
comment on table control_schema is
    'Which older versions of tenantry go on working on this database. Written before a migration runs.';
comment on column control_schema.version is 'A migration: _sqlx_migrations.version.';
comment on column control_schema.serves_since is
    'A tenantry whose own newest migration is this one or a later one works with the migration.';
";

/// Advisory lock under which the control database is migrated: "tenantry" in ASCII.
const MIGRATION_LOCK: i64 = 0x7465_6e61_6e74_7279;

/// How the control schema stands to this binary.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Schema {
    /// It can be used: it is this binary's, or a newer one that serves it.
    Usable,
    /// A migration that this binary knows was not run yet.
    Behind,
    /// This migration is a newer binary's, and does not serve this one.
    TooNew(i64),
}

impl Db {
    /// Brings the control schema up to this binary's version.
    ///
    /// Waits its turn with a try-lock: a session that *waits* for an advisory lock holds a snapshot,
    /// against which `create index concurrently` of the other replica would deadlock.
    pub async fn migrate(&self) -> Result<(), Error> {
        // a large table may take long, and so may the other replica
        self.within(Duration::from_hours(24))
            .run(async |connection| {
                while !try_lock(connection).await? {
                    tokio::time::sleep(Duration::from_millis(50)).await;
                }
                let result = run_migrations(connection).await;
                unlock(connection).await?;
                result
            })
            .await
    }

    /// How the schema stands to this binary.
    pub async fn schema(&self) -> Result<Schema, Error> {
        self.run(async |connection| find_schema(connection).await)
            .await
    }
}

async fn try_lock(connection: &mut PgConnection) -> Result<bool, Error> {
    let lock = sqlx::query_scalar("select pg_try_advisory_lock($1)").bind(MIGRATION_LOCK);
    Ok(lock.fetch_one(connection).await?)
}

async fn unlock(connection: &mut PgConnection) -> Result<(), Error> {
    sqlx::query("select pg_advisory_unlock($1)")
        .bind(MIGRATION_LOCK)
        .execute(connection)
        .await?;
    Ok(())
}

async fn find_schema(connection: &mut PgConnection) -> Result<Schema, Error> {
    let known = MIGRATIONS.map(|(version, ..)| version).to_vec();
    let query = sqlx::query_as::<_, (bool, Option<i64>)>(
        "select
            count(*) filter (where version = any($1)) = cardinality($1),
            -- a migration that says nothing serves nobody older
            min(version) filter (where version <> all($1)
                and coalesce(serves_since, version) > (select max(own) from unnest($1) own))
        from _sqlx_migrations
        left join control_schema using (version)
        where success",
    );
    let (is_complete, unusable) = query.bind(known).fetch_one(connection).await?;
    Ok(match (unusable, is_complete) {
        (Some(version), _) => Schema::TooNew(version),
        (None, false) => Schema::Behind,
        (None, true) => Schema::Usable,
    })
}

/// Says which older binaries each migration serves: before it runs, so that no replica ever finds one
/// that has run and said nothing.
async fn declare_migrations(connection: &mut PgConnection) -> Result<(), Error> {
    sqlx::raw_sql(CONTROL_SCHEMA)
        .execute(&mut *connection)
        .await?;
    let serves = |version| SERVES_SINCE.iter().find(|(of, _)| *of == version);
    let versions = MIGRATIONS.map(|(version, ..)| version);
    let since = versions.map(|version| serves(version).map_or(version, |(_, since)| *since));
    let insert = "insert into control_schema (version, serves_since)
        select * from unnest($1::bigint[], $2::bigint[])
        on conflict do nothing";
    sqlx::query(insert)
        .bind(versions.to_vec())
        .bind(since.to_vec())
        .execute(connection)
        .await?;
    Ok(())
}

async fn run_migrations(connection: &mut PgConnection) -> Result<(), Error> {
    let migrations = MIGRATIONS.map(|(version, name, sql)| {
        Migration::new(
            version,
            name.into(),
            MigrationType::Simple,
            sqlx::SqlStr::from_static(sql),
            false,
        )
    });
    let mut migrator = Migrator::with_migrations(migrations.to_vec());
    migrator.set_locking(false);
    // a tenant's role must not reach the control database
    sqlx::raw_sql(
        "do $$ begin execute format('revoke all on database %I from public', current_database()); end $$",
    )
    .execute(&mut *connection)
    .await?;
    declare_migrations(connection).await?;
    // an index on what is kept for ever takes as long as it takes
    sqlx::query("set statement_timeout = 0")
        .execute(&mut *connection)
        .await?;
    let run = apply(&mut migrator, connection).await;
    sqlx::query("reset statement_timeout")
        .execute(connection)
        .await?;
    run
}

async fn apply(migrator: &mut Migrator, connection: &mut PgConnection) -> Result<(), Error> {
    match migrator.run_direct(None, &mut *connection, false).await {
        Err(MigrateError::VersionMissing(_)) => {
            if let Schema::TooNew(version) = find_schema(connection).await? {
                return Err(Error::Newer(version));
            }
            migrator.set_ignore_missing(true);
            let run = migrator.run_direct(None, connection, false).await;
            run.map_err(migration_failed)
        }
        run => run.map_err(migration_failed),
    }
}

fn migration_failed(error: MigrateError) -> Error {
    match error {
        MigrateError::Execute(error) | MigrateError::ExecuteMigration(error, _)
            if is_unavailable(&error) =>
        {
            Error::Sql(error)
        }
        other => Error::Migrate(other),
    }
}
