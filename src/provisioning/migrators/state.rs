//! What a database is on, and the lock under which that is changed.
//!
//! Guarantees: one round trip takes the lock (if nobody has it) and reads the ledger as it is under the
//! lock: each statement of a batch sees what was committed before it began.

use std::time::{Duration, Instant};

use futures_util::TryStreamExt;
use sqlx::{AssertSqlSafe, Either, PgConnection, Row, postgres::PgRow};

use super::{Error, Migration, blocker::Watch, failed};
use crate::{blueprint::SqlFile, provisioning::StepError};

/// The key of the advisory lock, the same in every database: such locks are a database's own.
const LOCK: i64 = 0x7465_6e61_6e74_7279;

/// How long until the lock is asked for again.
const PAUSE: Duration = Duration::from_millis(50);

/// What a database is on.
#[derive(Debug)]
pub(super) struct State {
    /// Whether this session has the lock.
    locked: bool,
    /// The server's process of this session.
    pid: i32,
    /// Name and digest of each file that was applied: migrations and shared seed.
    pub(super) ledger: Vec<(String, String)>,
}

impl State {
    /// Takes the lock and reads; waits for the lock as long as for any other.
    pub(super) async fn lock(
        connection: &mut PgConnection,
        migration: &Migration<'_>,
        watch: &Watch<'_>,
    ) -> Result<Self, StepError> {
        let patience = Duration::from_millis(migration.blueprint.settings.lock_timeout_ms.into());
        let started = Instant::now();
        loop {
            let state = read(connection).await?;
            watch.follow(state.pid);
            if state.locked {
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

    /// Whether the file was applied as it is.
    pub(super) fn has(&self, file: &SqlFile) -> bool {
        let is_same =
            |(name, sha256): &(String, String)| *name == file.name && *sha256 == file.sha256;
        self.ledger.iter().any(is_same)
    }
}

async fn read(connection: &mut PgConnection) -> Result<State, StepError> {
    let sql = format!(
        "select pg_try_advisory_lock({LOCK}), pg_backend_pid();
         select name, sha256 from tenantry.migrations"
    );
    let sets = batch(connection, sql)
        .await
        .map_err(failed("reading the ledger of migrations"))?;
    decode(&sets).map_err(failed("reading the ledger of migrations"))
}

fn decode(sets: &[Vec<PgRow>]) -> sqlx::Result<State> {
    let own = sets.first().and_then(|rows| rows.first());
    let own = own.ok_or(sqlx::Error::RowNotFound)?;
    let ledger = sets.get(1).map_or(&[][..], Vec::as_slice);
    let line = |row: &PgRow| Ok((row.try_get(0)?, row.try_get(1)?));
    Ok(State {
        locked: own.try_get(0)?,
        pid: own.try_get(1)?,
        ledger: ledger.iter().map(line).collect::<sqlx::Result<_>>()?,
    })
}

/// The rows of each statement of a batch, which is one round trip.
async fn batch(connection: &mut PgConnection, sql: String) -> sqlx::Result<Vec<Vec<PgRow>>> {
    let mut answers = sqlx::raw_sql(AssertSqlSafe(sql)).fetch_many(connection);
    let mut sets = vec![Vec::new()];
    while let Some(answer) = answers.try_next().await? {
        match answer {
            Either::Left(_) => sets.push(Vec::new()),
            Either::Right(row) => sets.last_mut().expect("begins with one").push(row),
        }
    }
    Ok(sets)
}
