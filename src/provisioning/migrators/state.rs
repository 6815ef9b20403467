//! What a database is on, and the lock under which that is changed.
//!
//! Guarantees: one round trip takes the lock (if nobody has it) and reads the ledger as it is under the
//! lock: each statement of a batch sees what was committed before it began.

use std::time::{Duration, Instant};

use futures_util::TryStreamExt;
use sqlx::{AssertSqlSafe, Either, PgConnection, Row, postgres::PgRow};

use super::{Error, Migration, alembic, blocker::Watch, command, failed};
use crate::{
    blueprint::{Migrator, SqlFile},
    db,
    provisioning::StepError,
};

/// The key of the advisory lock, the same in every database: such locks are a database's own.
const LOCK: i64 = 0x7465_6e61_6e74_7279;

/// How long until the lock is asked for again.
const PAUSE: Duration = Duration::from_millis(50);

/// How many versions are read. One is right, or those of a few branches; but the tenant's own role may write more.
pub(super) const MOST_VERSIONS: usize = 9;

/// What a database is on.
#[derive(Debug)]
pub(super) struct State {
    /// Whether this session has the lock.
    has_lock: bool,
    /// The server's process of this session.
    pid: i32,
    /// Name and digest of each file that was applied: migrations and shared seed.
    pub(super) ledger: Vec<(String, String)>,
    /// Whether the session is encrypted; a program's session is to be as well.
    pub(super) tls: bool,
    /// What a migrator of its own says the version is; empty where it has no table yet.
    pub(super) versions: Vec<String>,
}

impl State {
    /// Takes the lock, waiting `lock_timeout_ms` at most, and reads the state under it.
    pub(super) async fn lock(
        connection: &mut PgConnection,
        migration: &Migration<'_>,
        watch: &Watch<'_>,
    ) -> Result<Self, StepError> {
        let patience = Duration::from_millis(migration.blueprint.settings.lock_timeout_ms.into());
        let started = Instant::now();
        loop {
            let state = Self::try_lock(connection, migration).await?;
            watch.follow(state.pid);
            if state.has_lock {
                return Ok(state);
            }
            if started.elapsed() >= patience {
                return Err(Error::LockTimeout {
                    doing: format!("the migration of database {}", migration.database.as_str()),
                    blocker: watch.holder_of(LOCK).await,
                    source: None,
                }
                .into());
            }
            tokio::time::sleep(PAUSE).await;
        }
    }

    /// Takes the lock if it is free (`has_lock`), and reads the state either way.
    pub(super) async fn try_lock(
        connection: &mut PgConnection,
        migration: &Migration<'_>,
    ) -> Result<Self, StepError> {
        // only programs ask, and it is dear
        let tls = match &migration.blueprint.project {
            None => "false",
            Some(_) => {
                "coalesce((select ssl from pg_stat_ssl where pid = pg_backend_pid()), false)"
            }
        };
        let mut sql = format!(
            "select pg_try_advisory_lock({LOCK}), pg_backend_pid(), {tls};
             select name, sha256 from tenantry.migrations"
        );
        let version_sql = version_sql(migration);
        if let Some(version_sql) = &version_sql {
            let owner = &migration.cluster.owner;
            // the user's query has the owner's rights and changes nothing
            let version =
                format!("; begin read only; set local role {owner}; {version_sql}\n; rollback");
            sql.push_str(&version);
        }
        let (sets, ended) = batch(&mut *connection, sql).await;
        match ended {
            Ok(()) => {}
            // no table of versions yet
            Err(error)
                if version_sql.is_some()
                    && sets.len() > VERSIONS
                    && matches!(db::sqlstate(&error).as_deref(), Some("42P01" | "3F000")) =>
            {
                sqlx::raw_sql("rollback")
                    .execute(connection)
                    .await
                    .map_err(failed("reading the version"))?;
            }
            Err(error) if sets.len() > VERSIONS => {
                return Err(failed("reading the version")(error));
            }
            Err(error) => return Err(failed("reading the ledger of migrations")(error)),
        }
        decode(&sets).map_err(failed("reading the ledger of migrations"))
    }

    /// Those of these files that were not applied as they are.
    pub(super) fn pending<'f>(&self, files: &'f [SqlFile]) -> impl Iterator<Item = &'f SqlFile> {
        files.iter().filter(|file| !self.has(file))
    }

    /// Whether the file was applied as it is.
    pub(super) fn has(&self, file: &SqlFile) -> bool {
        let is_same =
            |(name, sha256): &(String, String)| *name == file.name && *sha256 == file.sha256;
        self.ledger.iter().any(is_same)
    }
}

/// The query of the version that a migrator of its own keeps.
fn version_sql(migration: &Migration<'_>) -> Option<String> {
    let settings = &migration.blueprint.settings;
    match settings.migrator {
        Migrator::Sql => None,
        Migrator::Alembic => Some(alembic::version_sql(&settings.alembic)),
        Migrator::Command => command::version_sql(settings.command.as_ref()).map(str::to_owned),
    }
}

/// Which statement of the batch returns the versions.
const VERSIONS: usize = 4;

fn decode(sets: &[Vec<PgRow>]) -> sqlx::Result<State> {
    let own = sets.first().and_then(|rows| rows.first());
    let own = own.ok_or(sqlx::Error::RowNotFound)?;
    let ledger = sets.get(1).map_or(&[][..], Vec::as_slice);
    let line = |row: &PgRow| Ok((row.try_get(0)?, row.try_get(1)?));
    let versions = sets.get(VERSIONS).map_or(&[][..], Vec::as_slice);
    // sent as text, whatever its type is; max() of no row is null
    let version = |row: &PgRow| row.try_get_unchecked::<Option<String>, _>(0).ok().flatten();
    Ok(State {
        has_lock: own.try_get(0)?,
        pid: own.try_get(1)?,
        tls: own.try_get(2)?,
        ledger: ledger.iter().map(line).collect::<sqlx::Result<_>>()?,
        versions: versions.iter().filter_map(version).collect(),
    })
}

/// The rows of each statement of a batch, which is one round trip, as far as it went.
async fn batch(connection: &mut PgConnection, sql: String) -> (Vec<Vec<PgRow>>, sqlx::Result<()>) {
    let mut answers = sqlx::raw_sql(AssertSqlSafe(sql)).fetch_many(connection);
    let mut sets = vec![Vec::new()];
    loop {
        match answers.try_next().await {
            Ok(Some(Either::Left(_))) => sets.push(Vec::new()),
            // read to its end, as the next statement's rows come after these
            Ok(Some(Either::Right(_)))
                if sets.len() > VERSIONS && sets[VERSIONS].len() == MOST_VERSIONS => {}
            Ok(Some(Either::Right(row))) => sets.last_mut().expect("begins with one").push(row),
            Ok(None) => return (sets, Ok(())),
            Err(error) => return (sets, Err(error)),
        }
    }
}
