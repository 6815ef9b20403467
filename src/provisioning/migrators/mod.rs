//! Migrators: bring one database to a blueprint's version.
//!
//! Guarantees: one migrator at a time in a database, under an advisory lock that lives and dies with our session;
//! never as a superuser: `sql` files run as the owner role, programs log in as a member of it; a database that is
//! already at its version costs a connection and one query; every wait is bounded, and the error about a lock names
//! who holds it, where that was seen; the sessions of a migration that was cut off are ended before it counts as
//! failed, if the server lets them; an attempt that lost its claim begins nothing; afterwards the structure is
//! compared with the template's, unless the database is already on record with this blueprint and nothing changed.
//!
//! Does not: retry, choose databases, or write anything into the control database.

mod alembic;
mod blocker;
pub mod child;
mod command;
mod compare;
mod error;
mod mark;
mod prepare;
mod program;
mod sql;
mod state;

use std::time::Duration;

use sqlx::{Connection, PgConnection};

pub use blocker::Blocker;
pub use error::Error;
pub(super) use prepare::{grant, prepare};

use self::blocker::Watch;
use super::{StepError, template::TemplateRecord};
use crate::{
    blueprint::Blueprint,
    causes::chain,
    db::{self, Db},
    queue::worker::Lease,
    secrets::Keyring,
    tenant_db::{self, Cluster, Ident, Tag, databases::Mark},
    tenants::TenantId,
};

/// One database that is to be brought to a blueprint's version.
#[derive(Debug, Clone, Copy)]
pub struct Migration<'a> {
    /// Where the structures of templates are on record.
    pub db: &'a Db,
    /// Where the database is.
    pub cluster: &'a Cluster,
    /// Gives the password of the migrators' login role.
    pub keyring: &'a Keyring,
    /// Cut off at the wanted version already.
    pub blueprint: &'a Blueprint,
    /// The database.
    pub database: &'a Ident,
    /// Id and organization's name; `None` for a template, and for a throw-away clone.
    pub tenant: Option<(TenantId, &'a str)>,
    /// What a tenant's database says of itself; kept up where it is known.
    pub mark: Option<&'a Mark>,
    /// Whose attempt it is, and the proof that its claim is still held; `None` for a template.
    pub attempt: Option<(&'a Tag, &'a Lease)>,
    /// The sealed template of this blueprint: a database at its version needs no program to run, and afterwards the
    /// database must have its fingerprint. `None` for a template itself.
    pub template: Option<&'a TemplateRecord>,
    /// Whether the tenant's row and the database's mark both name this blueprint, and that is to be relied on: compared
    /// already, if nothing changes now.
    pub is_on_record: bool,
    /// Hash of the blueprint that the database is on record with, whatever that is; `None` where it is being built.
    pub recorded_hash: Option<&'a str>,
}

/// What was done.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Migrated {
    /// The version before; empty where there was none.
    pub from: String,
    /// The version now.
    pub to: String,
    /// How many migrations were applied, as far as that is known; 0 where nothing was to do.
    pub applied: u32,
}

impl Migration<'_> {
    /// Version of the template.
    fn head(&self) -> Option<&str> {
        self.template.map(|template| template.version.as_str())
    }

    fn tag(&self) -> Option<&Tag> {
        self.attempt.map(|(tag, _)| tag)
    }

    /// Fails when this process was stopped for longer than its lease: somebody else may be at the database.
    fn check_lease(&self) -> Result<(), StepError> {
        match self.attempt {
            Some((_, lease)) if !lease.is_held() => Err(StepError::LostClaim),
            _ => Ok(()),
        }
    }

    /// Runs `work` on the maintenance database, if the claim is held still.
    async fn run_on_cluster<T>(
        &self,
        work: impl AsyncFnOnce(&mut PgConnection) -> Result<T, tenant_db::Error>,
    ) -> Result<T, tenant_db::Error> {
        match self.attempt {
            Some((tag, lease)) => self.cluster.run_as(tag, || lease.is_held(), work).await,
            None => self.cluster.run(work).await,
        }
    }
}

/// Brings the database to the blueprint's version, in one attempt: nothing is retried.
pub async fn migrate(migration: &Migration<'_>) -> Result<Migrated, StepError> {
    let settings = &migration.blueprint.settings;
    let limit = Duration::from_millis(settings.migrate_timeout_ms.into());
    let watch = Watch::new(migration);
    // on the heap: everything that a migrator may do is in this future, and callers nest deep
    let work = Box::pin(connect_and_run(migration, &watch));
    if let Ok(done) = tokio::time::timeout(limit, work).await {
        return done;
    }
    // the server does not notice that nobody listens any more
    if let Err(left) = watch.end_sessions().await {
        tracing::warn!(
            error = chain(&left),
            "sessions of a migration that was cut off were left"
        );
    }
    let database = migration.database.as_str().to_owned();
    Err(Error::TimedOut { database, limit }.into())
}

async fn connect_and_run(
    migration: &Migration<'_>,
    watch: &Watch<'_>,
) -> Result<Migrated, StepError> {
    let mut connection = connect(migration).await?;
    let done = watch.during(run(&mut connection, migration, watch)).await;
    // a session that met an error may be inside a transaction: ended either way
    let _ = connection.close().await;
    done
}

async fn connect(migration: &Migration<'_>) -> Result<PgConnection, StepError> {
    let timeouts = migration.blueprint.settings.session_timeouts();
    let connected = migration
        .cluster
        .connect_with(migration.database, migration.tag(), &timeouts);
    let connection = match connected.await {
        Err(error) if error.sqlstate().as_deref() == Some("3D000") => {
            let database = migration.database.as_str().to_owned();
            return Err(Error::DatabaseGone { database }.into());
        }
        connected => connected?,
    };
    // the session has its tag by now: a later attempt ends it, or this one finds its lease run out
    migration.check_lease()?;
    Ok(connection)
}

/// Whether a migration of the database that was at this version may have been begun. Nothing is changed.
pub async fn is_begun(migration: &Migration<'_>, from: &str) -> Result<bool, StepError> {
    if migration.blueprint.project.is_some() {
        // a program may write its version last
        return Ok(true);
    }
    let mut connection = connect(migration).await?;
    let state = state::State::try_lock(&mut connection, migration).await;
    let _ = connection.close().await;
    Ok(sql::is_begun(migration.blueprint, &state?, from))
}

/// The version that the database is on; `None` where it has none, or several. Nothing is changed.
pub async fn find_version(migration: &Migration<'_>) -> Result<Option<String>, StepError> {
    let mut connection = connect(migration).await?;
    let state = state::State::try_lock(&mut connection, migration).await;
    let _ = connection.close().await;
    let state = state?;
    let version = match &migration.blueprint.project {
        None => sql::version(migration.blueprint, &state),
        Some(_) => program::one_version(migration, &state).unwrap_or_default(),
    };
    Ok(Some(version).filter(|version| !version.is_empty()))
}

async fn run(
    connection: &mut PgConnection,
    migration: &Migration<'_>,
    watch: &Watch<'_>,
) -> Result<Migrated, StepError> {
    let done = match &migration.blueprint.project {
        None => sql::migrate(connection, migration, watch).await?,
        Some(project) => Box::pin(program::migrate(connection, migration, watch, project)).await?,
    };
    // also where an earlier attempt applied it all: it may not have come to the comparison, or failed by it
    if done.changed || !migration.is_on_record {
        let compared = compare::with_template(connection, migration).await;
        compared.map_err(|error| name_blocker(error, watch))?;
        mark::give(connection, migration).await;
    }
    Ok(done.migrated)
}

/// An error by a lock that somebody else had for too long names who that was.
fn name_blocker(error: StepError, watch: &Watch<'_>) -> StepError {
    let (doing, source) = match error {
        StepError::File { file, source, .. } if is_lock_timeout(&source) => (file, source),
        StepError::Cluster(tenant_db::Error::Sql { doing, source }) if is_lock_timeout(&source) => {
            (doing, source)
        }
        error => return error,
    };
    Error::LockTimeout {
        doing,
        blocker: watch.seen(),
        source: Some(source),
    }
    .into()
}

fn is_lock_timeout(error: &sqlx::Error) -> bool {
    db::sqlstate(error).as_deref() == Some("55P03")
}

/// What a migrator did to the database.
struct Done {
    migrated: Migrated,
    /// Whether anything was written.
    changed: bool,
}

/// The error of something that is not a file of the blueprint.
fn failed(what: &str) -> impl FnOnce(sqlx::Error) -> StepError {
    let doing = what.to_owned();
    move |source| tenant_db::Error::sql(doing)(source).into()
}
