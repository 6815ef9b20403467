//! Many tenants' databases, one look into each: so many at once, each in its time.
//!
//! Guarantees: one database that is gone, hangs or refuses costs its own time and nobody else's; a cluster that says
//! nothing several times is not waited for again; nothing is retried, and every tenant is in the outcome once.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use futures_util::StreamExt;
use serde::Serialize;
use sqlx::{Connection, PgConnection};

use crate::{
    causes::chain,
    db::Db,
    secrets,
    tenant_db::{self, Cluster, Clusters, Ident, statements},
    tenants::{Tenant, TenantId},
};

/// How long connecting and ending may take beyond the statements' own time.
const MARGIN: Duration = Duration::from_secs(15);

/// How the fleet is reached.
#[derive(Debug)]
pub struct Reach<'a> {
    /// Control database.
    pub db: &'a Db,
    /// Where tenants live.
    pub clusters: &'a Clusters,
    /// So many databases at once.
    pub concurrency: usize,
    /// So long a statement may take.
    pub timeout: Duration,
    /// By cluster, how often in a row no answer came, and what came instead.
    silences: Mutex<BTreeMap<String, (u32, Arc<tenant_db::Error>)>>,
}

/// A cluster that did not answer so often in a row is not asked for the rest of its tenants. A single database may
/// hang for reasons of its own.
const SILENT: u32 = 3;

/// A tenant, as people know it.
#[derive(Debug, Clone, Serialize)]
pub struct Named {
    /// Id.
    pub id: TenantId,
    /// The provider's organization id.
    pub org_id: String,
    /// Host.
    pub url: String,
    /// Cluster of the database.
    pub cluster: String,
    /// Database.
    pub database: String,
}

impl From<&Tenant> for Named {
    fn from(tenant: &Tenant) -> Self {
        Self {
            id: tenant.id,
            org_id: tenant.org_id.clone(),
            url: tenant.url.clone(),
            cluster: tenant.cluster.clone().unwrap_or_default(),
            database: tenant.database.clone(),
        }
    }
}

/// A tenant whose database was not reached, or did not do what was asked.
#[derive(Debug, Clone, Serialize)]
pub struct Unreached {
    /// The tenant.
    pub tenant: Named,
    /// Stable code, explained in docs/errors.md.
    pub code: &'static str,
    /// Why, with its chain of causes.
    pub error: String,
}

/// Why a database did not do what was asked.
#[derive(Debug, thiserror::Error)]
pub(super) enum Failed {
    /// The cluster or the database.
    #[error(transparent)]
    Database(#[from] tenant_db::Error),
    /// The control database.
    #[error("the control database cannot be used")]
    Control(#[from] sqlx::Error),
    /// It took too long.
    #[error("no answer within {0:?}")]
    TimedOut(Duration),
    /// The tenant's password cannot be opened.
    #[error("the tenant's password cannot be opened")]
    Secrets(#[from] secrets::Error),
    /// A command cannot be started.
    #[error("the command cannot be started")]
    NotStarted(#[source] std::io::Error),
    /// A command ended with another exit code than 0.
    #[error("the command ended with exit code {code}: {told}")]
    Command {
        /// The exit code; above 128 where a signal ended it.
        code: i32,
        /// The last that it said.
        told: String,
    },
    /// The tenant's template is not on record, or nothing that can be compared.
    #[error(
        "no template of its blueprint {0}, from this version of the server, is on record for its cluster"
    )]
    TemplateUnknown(String),
}

impl Failed {
    pub(super) fn of(&self, tenant: &Tenant) -> Unreached {
        Unreached {
            tenant: tenant.into(),
            code: self.code(),
            error: chain(self),
        }
    }

    fn code(&self) -> &'static str {
        match self {
            Self::Database(error) => match error.sqlstate().as_deref() {
                Some("3D000") => "database_gone",
                // query_canceled, lock_not_available
                // or the server's own limit of a transaction
                Some("57014" | "55P03" | "25P04") => "statement_timed_out",
                // no connection to spare, a session that was ended, connection exceptions, a server that starts or ends
                Some("53300" | "25P03") | None => "database_unreachable",
                Some(code) if code.starts_with("08") || code.starts_with("57P") => {
                    "database_unreachable"
                }
                Some(_) => "statement_failed",
            },
            Self::Control(_) => "control_database_unavailable",
            Self::TimedOut(_) => "statement_timed_out",
            Self::Secrets(_) => "credential_unreadable",
            Self::NotStarted(_) => "command_not_started",
            Self::Command { .. } => "command_failed",
            Self::TemplateUnknown(_) => "template_unknown",
        }
    }
}

impl<'a> Reach<'a> {
    /// Nobody was asked yet.
    pub fn new(db: &'a Db, clusters: &'a Clusters, concurrency: usize, timeout: Duration) -> Self {
        Self {
            db,
            clusters,
            concurrency,
            timeout,
            silences: Mutex::default(),
        }
    }

    /// Runs `work` for each tenant, in its database; `told` hears of each that is through.
    pub(super) async fn each<'t, T>(
        &self,
        tenants: &'t [Tenant],
        work: impl AsyncFn(&Tenant, &mut PgConnection) -> Result<T, Failed>,
        told: impl FnMut(&'t Tenant, Result<T, Unreached>),
    ) {
        let limit = self.timeout + MARGIN;
        let work = async |tenant: &'t Tenant| self.in_database(tenant, &work).await;
        self.each_within(limit, tenants, work, told).await;
    }

    /// The same, wherever it is.
    pub(super) async fn each_within<'t, T>(
        &self,
        limit: Duration,
        tenants: &'t [Tenant],
        work: impl AsyncFn(&'t Tenant) -> Result<T, Failed>,
        mut told: impl FnMut(&'t Tenant, Result<T, Unreached>),
    ) {
        let one = async |tenant: &'t Tenant| {
            let done = tokio::time::timeout(limit, work(tenant)).await;
            let done = done.unwrap_or(Err(Failed::TimedOut(limit)));
            (tenant, done.map_err(|failed| failed.of(tenant)))
        };
        let mut all = futures_util::stream::iter(tenants)
            .map(one)
            .buffer_unordered(self.concurrency.max(1));
        while let Some((tenant, done)) = all.next().await {
            told(tenant, done);
        }
    }

    pub(super) fn cluster_of(&self, tenant: &Tenant) -> Result<&Cluster, tenant_db::Error> {
        let name = tenant.cluster.as_deref();
        self.clusters.get(name.unwrap_or_default())
    }

    async fn connect(
        &self,
        cluster: &Cluster,
        database: &Ident,
    ) -> Result<PgConnection, tenant_db::Error> {
        let silences = || self.silences.lock().unwrap_or_else(PoisonError::into_inner);
        let not_asked = |source: &Arc<tenant_db::Error>| tenant_db::Error::NotAsked {
            cluster: cluster.name.clone(),
            source: Arc::clone(source),
        };
        if let Some((SILENT.., source)) = silences().get(&cluster.name) {
            return Err(not_asked(source));
        }
        match cluster.connect(database, None).await {
            Err(error) if error.is_silence() => {
                let source = Arc::new(error);
                let told = not_asked(&source);
                let mut silences = silences();
                let (times, last) = silences
                    .entry(cluster.name.clone())
                    .or_insert_with(|| (0, Arc::clone(&source)));
                (*times, *last) = (*times + 1, source);
                Err(told)
            }
            connected => {
                silences().remove(&cluster.name);
                connected
            }
        }
    }

    async fn in_database<T>(
        &self,
        tenant: &Tenant,
        work: &impl AsyncFn(&Tenant, &mut PgConnection) -> Result<T, Failed>,
    ) -> Result<T, Failed> {
        let cluster = self.cluster_of(tenant)?;
        let database = Ident::new(&tenant.database).map_err(tenant_db::Error::from)?;
        let mut connection = self.connect(cluster, &database).await?;
        statements::bound(&mut connection, self.timeout).await?;
        let done = work(tenant, &mut connection).await?;
        // whatever it was in the middle of ends with it
        let _ = connection.close().await;
        Ok(done)
    }
}
