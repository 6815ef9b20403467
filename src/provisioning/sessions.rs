//! The sessions of an attempt in its tenant's database: ours, which several steps use, and one of the tenant's
//! own role, which shows that it can log in.
//!
//! Guarantees: the server takes its time to open a session, so that is done as soon as it can be, while the steps
//! before go on; one that cannot be had so is asked for again by whoever needs it, who says why; one that met an
//! error is not used again; what was not used ends with the attempt.

use std::{
    convert::Infallible,
    time::{Duration, Instant},
};

use sqlx::PgConnection;
use tokio::sync::{Mutex, Notify};

use super::{StepContext, StepError, end_sessions};
use crate::tenant_db::{self, Ident};

/// The role's session waits no longer than this for its use: the server may end what is idle.
const FRESH: Duration = Duration::from_secs(5);

/// A place for a session, locked while one is opened.
#[derive(Default)]
pub(super) struct Sessions {
    ours: Mutex<Option<PgConnection>>,
    ours_asked: Notify,
    login: Mutex<Option<(PgConnection, Instant)>>,
    login_asked: Notify,
}

impl StepContext<'_> {
    /// Opens what is asked for, beside the steps.
    pub(super) async fn open_early(&self) -> Infallible {
        let (never, _) = tokio::join!(self.open_ours_early(), self.open_login_early());
        never
    }

    /// The tenant's database can be connected to from now on.
    pub(super) fn ask_for_session(&self) {
        self.sessions.ours_asked.notify_one();
    }

    /// So can it by the tenant's role.
    pub(super) fn ask_for_login(&self) {
        self.sessions.login_asked.notify_one();
    }

    async fn open_ours_early(&self) -> Infallible {
        loop {
            self.sessions.ours_asked.notified().await;
            let mut ours = self.sessions.ours.lock().await;
            if ours.is_none() {
                *ours = self.connect().await.ok();
            }
        }
    }

    async fn open_login_early(&self) -> Infallible {
        loop {
            self.sessions.login_asked.notified().await;
            let mut login = self.sessions.login.lock().await;
            if let Ok(session) = self.connect_as_tenant().await {
                *login = Some((session, Instant::now()));
            }
        }
    }

    /// A session of our own, for this attempt.
    pub(super) async fn connect(&self) -> Result<PgConnection, StepError> {
        let database =
            Ident::new(&self.tenant.lock().await.database).map_err(tenant_db::Error::from)?;
        let cluster = self.cluster().await?;
        let timeouts = self.blueprint.settings.session_timeouts();
        let connected = cluster.connect_with(&database, Some(&self.tag), &timeouts);
        Ok(connected.await?)
    }

    async fn connect_as_tenant(&self) -> Result<PgConnection, StepError> {
        let (tenant, password) = (self.tenant().await, self.password().await?);
        let cluster = self.cluster().await?;
        let connected =
            cluster.connect_as_tenant(&tenant.database, &tenant.username, password, &self.tag);
        Ok(connected.await?)
    }

    /// A session of the tenant's role, with the password that it has.
    pub(super) async fn log_in(&self) -> Result<PgConnection, StepError> {
        match self.sessions.login.lock().await.take() {
            Some((session, opened_at)) if opened_at.elapsed() < FRESH => Ok(session),
            _ => self.connect_as_tenant().await,
        }
    }

    /// Runs `work` in the tenant's database, in a session that later steps use again.
    pub(super) async fn in_tenant<T>(
        &self,
        work: impl AsyncFnOnce(&mut PgConnection) -> Result<T, StepError>,
    ) -> Result<T, StepError> {
        let mut ours = self.sessions.ours.lock().await;
        let mut connection = match ours.take() {
            Some(connection) => connection,
            None => self.connect().await?,
        };
        let result = work(&mut connection).await?;
        // only after success: a failed one may be inside a transaction
        *ours = Some(connection);
        Ok(result)
    }

    /// After a step was cut off: whatever it has under way ends, before anybody hears of it.
    pub(super) async fn end_sessions(&self) {
        self.sessions.ours.lock().await.take();
        // one that is not placed has done nothing on any cluster
        if let Ok(cluster) = self.cluster().await {
            end_sessions(cluster, &self.tag).await;
        }
    }
}
