//! A session of its own in a cluster's maintenance database, for what must end with the session: a lock, and a
//! statement that would outlive its client.
//!
//! Guarantees: the server ends it when it is idle for [`IDLE_LIMIT`], so that a process that was stopped holds no
//! lock for longer; what is done in it ends in time also when the server's host is gone without a word.

use std::time::Duration;

use sqlx::{Connection, PgConnection};

use super::{Cluster, Error, MAINTENANCE_MARGIN, connect, milliseconds};

/// How long a session that holds an advisory lock may be idle.
pub const IDLE_LIMIT: Duration = Duration::from_secs(12);

/// The session.
#[derive(Debug)]
pub struct MaintenanceSession {
    connection: PgConnection,
    /// How long one piece of work in it may take.
    limit: Duration,
}

impl Cluster {
    /// Opens one. Its user must show a sign of life, see [`MaintenanceSession::ping`].
    pub async fn connect_for_maintenance(&self) -> Result<MaintenanceSession, Error> {
        let options = self.options.clone().options([
            ("statement_timeout", milliseconds(self.statement_timeout)),
            ("idle_session_timeout", milliseconds(IDLE_LIMIT)),
        ]);
        let doing = format!(
            "connecting to the maintenance database of cluster {}",
            self.name
        );
        let connection = connect(options).await.map_err(Error::sql(doing))?;
        Ok(MaintenanceSession {
            connection,
            limit: self.statement_timeout + MAINTENANCE_MARGIN,
        })
    }
}

impl MaintenanceSession {
    /// Does `work` in the session: one long statement, and some that look.
    pub async fn run<T>(
        &mut self,
        work: impl AsyncFnOnce(&mut PgConnection) -> Result<T, Error>,
    ) -> Result<T, Error> {
        match tokio::time::timeout(self.limit, work(&mut self.connection)).await {
            Ok(done) => done,
            Err(_) => Err(Error::sql("waiting for the maintenance database")(
                sqlx::Error::Io(std::io::ErrorKind::TimedOut.into()),
            )),
        }
    }

    /// A sign of life; an error when the session, and with it its lock, was lost.
    pub async fn ping(&mut self) -> Result<(), Error> {
        self.run(async |connection| {
            let alive = connection.ping().await;
            alive.map_err(Error::sql("holding a lock in the maintenance database"))
        })
        .await
    }

    /// Tries to take the advisory lock of this name, which ends with the session.
    pub async fn try_lock(&mut self, name: &str) -> Result<bool, Error> {
        self.run(async |connection| {
            sqlx::query_scalar("select pg_try_advisory_lock(hashtextextended($1, 0))")
                .bind(name)
                .fetch_one(connection)
                .await
                .map_err(Error::sql(format!("locking {name}")))
        })
        .await
    }

    /// Ends it, and with it its lock. Dropped, it would end as well, a moment later.
    pub async fn close(self) {
        let _ = tokio::time::timeout(self.limit, self.connection.close()).await;
    }
}
