//! Databases and roles on the clusters that hold tenants: all DDL but what is inside a tenant's database.
//!
//! Guarantees: every identifier is checked and quoted by [`Ident`]; no database with a tenant's name is adopted or
//! dropped that does not carry our mark for this very tenant (owner and comment, see [`databases`]), and no other one
//! that is not ours by name and owner; a tenant's database never exists under its own name without its mark and its
//! revoked PUBLIC rights, because all of it appears in one commit; sessions of an attempt that lost its claim are ended
//! before the next attempt begins, and those of one that was cut off before it is called failed, if the server lets them.
//!
//! Does not: decide when. `provisioning` does.

pub mod databases;
pub mod fingerprint;
mod ident;
mod maintenance;
pub mod probe;
pub mod roles;
pub mod sessions;
pub mod shape;
pub mod spare;
pub mod statements;
pub mod structure;
mod wording;

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    io::ErrorKind,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use futures_util::future::join_all;
use secrecy::{ExposeSecret, SecretString};
use sqlx::{
    Connection, PgConnection,
    postgres::{PgConnectOptions, PgSslMode},
};
use uuid::Uuid;

pub use ident::{Ident, InvalidIdent};
pub use maintenance::{IDLE_LIMIT, MaintenanceSession};

use crate::{
    config,
    db::{self, Db},
};

/// Connections to the maintenance database that one process may hold per cluster, beyond one a job.
const SPARE_MAINTENANCE_CONNECTIONS: u32 = 4;

/// A clone may take long; whoever waits for a connection waits for other clones.
const MAINTENANCE_ACQUIRE_TIMEOUT: Duration = Duration::from_mins(1);

/// What an error of getting a connection says before [`Cluster::run`] puts the cluster's name to it.
const USING_MAINTENANCE: &str = "using the cluster's maintenance database";

/// A cluster that does not answer within this time gets no new tenant, if another one does.
const ANSWER_WITHIN: Duration = Duration::from_secs(5);

/// Nor is it asked again for this long.
const UNANSWERED_TTL: Duration = Duration::from_secs(10);

/// How much more than the server allows a statement it may take by our own clock.
const MAINTENANCE_MARGIN: Duration = Duration::from_secs(10);

/// Why something on a cluster could not be done.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Postgres does not answer, or refuses.
    #[error("{doing} failed")]
    Sql {
        /// What was attempted, on which object.
        doing: String,
        /// Why.
        source: sqlx::Error,
    },
    /// The cluster's URL is not usable.
    #[error("the URL of cluster {cluster} cannot be read")]
    Url {
        /// The cluster.
        cluster: String,
        /// Why.
        source: db::Error,
    },
    /// A name that cannot be an identifier of ours.
    #[error(transparent)]
    Ident(#[from] InvalidIdent),
    /// A database of this name is there and is not this tenant's.
    #[error("database {name} exists and does not belong to this tenant ({found})")]
    ForeignDatabase {
        /// The database.
        name: String,
        /// What it says of itself.
        found: String,
    },
    /// A role of this name is there and is not this tenant's.
    #[error("role {name} exists and does not belong to this tenant ({found})")]
    ForeignRole {
        /// The role.
        name: String,
        /// What it says of itself.
        found: String,
    },
    /// Sessions of an attempt did not end.
    #[error("{count} sessions of an attempt on tenant {tenant} do not end")]
    StaleSessions {
        /// How many.
        count: i64,
        /// The tenant.
        tenant: Uuid,
    },
    /// The attempt lost its claim: nothing was begun.
    #[error("the claim on the job was lost")]
    LostClaim,
    /// The cluster did not answer when it was asked for several of its tenants together.
    #[error("cluster {cluster} could not be asked")]
    NotAsked {
        /// The cluster.
        cluster: String,
        /// Why.
        source: Arc<Error>,
    },
    /// A cluster that is not configured.
    #[error("cluster {0} is not configured")]
    UnknownCluster(String),
}

impl Error {
    /// The error of a statement, with what it was for.
    pub fn sql(doing: impl Into<String>) -> impl FnOnce(sqlx::Error) -> Self {
        let doing = doing.into();
        move |source| Self::Sql { doing, source }
    }

    /// Says which cluster's, where it was the way to its maintenance database.
    fn of_cluster(self, cluster: &str) -> Self {
        match self {
            Self::Sql { doing, source } if doing == USING_MAINTENANCE => Self::Sql {
                doing: format!("using the maintenance database of cluster {cluster}"),
                source,
            },
            other => other,
        }
    }

    /// What the server, or the way to it, said.
    pub fn told(&self) -> Option<&sqlx::Error> {
        match self {
            Self::Sql { source, .. } => Some(source),
            Self::NotAsked { source, .. } => source.told(),
            _ => None,
        }
    }

    /// Whether there was no answer at all.
    pub fn is_silence(&self) -> bool {
        let Some(sqlx::Error::Io(error)) = self.told() else {
            return false;
        };
        matches!(
            error.kind(),
            ErrorKind::TimedOut | ErrorKind::HostUnreachable | ErrorKind::NetworkUnreachable
        )
    }

    /// The SQLSTATE, where the server gave one.
    pub fn sqlstate(&self) -> Option<String> {
        self.told().and_then(db::sqlstate)
    }
}

/// For `Db::run`, whose own errors are those of getting a connection.
impl From<sqlx::Error> for Error {
    fn from(source: sqlx::Error) -> Self {
        Self::Sql {
            doing: USING_MAINTENANCE.to_owned(),
            source,
        }
    }
}

/// Who opens a session and for whom: shown as `application_name`, and what a later attempt ends it by.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tag {
    tenant: Uuid,
    text: String,
}

impl Tag {
    /// The tag of one attempt of one job on a tenant.
    pub fn new(tenant: Uuid, job: i64, attempt: i32) -> Self {
        Self {
            tenant,
            text: format!("tenantry {tenant} {job}.{attempt}"),
        }
    }

    /// The `application_name`.
    pub fn as_str(&self) -> &str {
        &self.text
    }
}

/// A Postgres cluster that holds tenant databases.
#[derive(Clone)]
pub struct Cluster {
    /// Name, kept with each tenant.
    pub name: String,
    /// How many tenants it may hold.
    pub capacity: u32,
    /// Role that owns all tenants' databases and objects and cannot log in.
    pub owner: Ident,
    /// Role that has DML rights in all tenants' databases and cannot log in; tenants' roles are members.
    pub app: Ident,
    /// Login role of the migrators that are programs of their own; a member of the owner role.
    pub migrator: Ident,
    /// Beginning of every name.
    pub prefix: String,
    maintenance: Db,
    statement_timeout: Duration,
    options: PgConnectOptions,
    /// How each template is cloned, as far as it is known.
    strategies: Arc<Mutex<HashMap<String, String>>>,
    /// Fingerprints, each with a shape that has it: true of this cluster, whatever happens.
    shapes: Arc<Mutex<HashSet<(String, String)>>>,
    /// When it was last asked and did not answer in time.
    unanswered: Arc<Mutex<Option<Instant>>>,
}

impl std::fmt::Debug for Cluster {
    /// Without the options, which hold the password.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Cluster")
            .field("name", &self.name)
            .field("prefix", &self.prefix)
            .finish_non_exhaustive()
    }
}

/// The configured clusters.
#[derive(Debug, Clone)]
pub struct Clusters(Arc<BTreeMap<String, Cluster>>);

impl Clusters {
    /// Pools for every cluster of the configuration; connects when first used.
    pub fn new(config: &config::Config) -> Result<Self, Error> {
        let jobs = u32::try_from(config.queue.concurrency).unwrap_or(u32::MAX);
        let connections = jobs.min(64) + SPARE_MAINTENANCE_CONNECTIONS;
        let cluster = |at: config::Cluster| {
            // cloning may take long on a slow disk; nothing else there does
            let limits = (connections, config.provisioning.clone_timeout());
            Cluster::new(&at, &config.tenants.prefix, limits).map(|cluster| (at.name, cluster))
        };
        Ok(Self(Arc::new(
            config
                .effective_clusters()
                .into_iter()
                .map(cluster)
                .collect::<Result<_, _>>()?,
        )))
    }

    /// A cluster by its name.
    pub fn get(&self, name: &str) -> Result<&Cluster, Error> {
        self.0
            .get(name)
            .ok_or_else(|| Error::UnknownCluster(name.to_owned()))
    }

    /// Names of those that answer just now, and soon. One that is alone is not asked.
    pub async fn answering(&self) -> HashSet<&str> {
        let asked = self.iter().map(async |cluster| {
            let answers = self.0.len() == 1 || cluster.answers().await;
            answers.then_some(cluster.name.as_str())
        });
        join_all(asked).await.into_iter().flatten().collect()
    }

    /// All of them, by name.
    pub fn iter(&self) -> impl Iterator<Item = &Cluster> {
        self.0.values()
    }

    /// Closes every connection.
    pub async fn close(&self) {
        for cluster in self.iter() {
            cluster.maintenance.close().await;
        }
    }
}

impl Cluster {
    fn new(
        cluster: &config::Cluster,
        prefix: &str,
        (connections, statement_timeout): (u32, Duration),
    ) -> Result<Self, Error> {
        let options = db::connect_options(&cluster.url)
            .map_err(|source| Error::Url {
                cluster: cluster.name.clone(),
                source,
            })?
            .statement_cache_capacity(32);
        let maintenance = options
            .clone()
            .options([("statement_timeout", milliseconds(statement_timeout))]);
        Ok(Self {
            name: cluster.name.clone(),
            capacity: cluster.capacity,
            owner: Ident::new(&format!("{prefix}owner"))?,
            app: Ident::new(&format!("{prefix}app"))?,
            migrator: Ident::new(&format!("{prefix}migrator"))?,
            prefix: prefix.to_owned(),
            maintenance: Db::with_options(
                maintenance,
                connections,
                MAINTENANCE_ACQUIRE_TIMEOUT,
                statement_timeout + MAINTENANCE_MARGIN,
            ),
            statement_timeout,
            options,
            strategies: Arc::default(),
            shapes: Arc::default(),
            unanswered: Arc::default(),
        })
    }

    fn strategies(&self) -> MutexGuard<'_, HashMap<String, String>> {
        self.strategies
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    /// Closes connections to the maintenance database that are not needed, again and again.
    pub fn keep_closing_idle(&self) -> impl Future<Output = ()> + Send + use<> {
        self.maintenance.keep_closing_idle()
    }

    /// Whether it answers soon. One that said nothing a moment ago is not asked.
    async fn answers(&self) -> bool {
        let unanswered = || {
            self.unanswered
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
        };
        if unanswered().is_some_and(|at| at.elapsed() < UNANSWERED_TTL) {
            return false;
        }
        let ping = async |connection: &mut PgConnection| Ok(connection.ping().await?);
        let asked = tokio::time::timeout(ANSWER_WITHIN, self.run(ping)).await;
        // a refusal comes at once, and is asked for again
        *unanswered() = asked.is_err().then(Instant::now);
        matches!(asked, Ok(Ok(())))
    }

    /// Runs `work` on the maintenance database, as nobody's attempt.
    pub async fn run<T>(
        &self,
        work: impl AsyncFnOnce(&mut PgConnection) -> Result<T, Error>,
    ) -> Result<T, Error> {
        let done = self.maintenance.run(work).await;
        done.map_err(|error| error.of_cluster(&self.name))
    }

    /// Runs `work` on the maintenance database in a session that carries `tag`, if `is_held` still.
    ///
    /// The tag comes first: a later attempt ends every session that has it, and one that got its tag
    /// after that finds its lease run out. In no order does a stopped process's effect slip through.
    pub async fn run_as<T>(
        &self,
        tag: &Tag,
        is_held: impl Fn() -> bool,
        work: impl AsyncFnOnce(&mut PgConnection) -> Result<T, Error>,
    ) -> Result<T, Error> {
        self.run(async |connection| {
            sessions::set_name(connection, &tag.text).await?;
            if !is_held() {
                return Err(Error::LostClaim);
            }
            let result = work(connection).await?;
            sessions::set_name(connection, "tenantry").await?;
            Ok(result)
        })
        .await
    }

    /// A session of our own role in a tenant's database (or a template under construction).
    pub async fn connect(
        &self,
        database: &Ident,
        tag: Option<&Tag>,
    ) -> Result<PgConnection, Error> {
        self.connect_with(database, tag, &[]).await
    }

    /// The same with settings of the server, which the session has from its beginning.
    pub async fn connect_with(
        &self,
        database: &Ident,
        tag: Option<&Tag>,
        settings: &[(&str, String)],
    ) -> Result<PgConnection, Error> {
        let name = tag.map_or("tenantry", |tag| tag.text.as_str());
        let options = self
            .options
            .clone()
            .database(database.as_str())
            .application_name(name)
            .options(settings.iter().map(|(name, value)| (*name, value.as_str())));
        connect(options).await.map_err(Error::sql(format!(
            "connecting to database {}",
            database.as_str()
        )))
    }

    /// A session of a tenant's role.
    pub async fn connect_as_tenant(
        &self,
        database: &str,
        role: &str,
        password: &SecretString,
        tag: &Tag,
    ) -> Result<PgConnection, Error> {
        let options = self
            .options
            .clone()
            .database(database)
            .application_name(&tag.text)
            .username(role)
            .password(password.expose_secret());
        connect(options).await.map_err(Error::sql(format!(
            "connecting to database {database} as {role}"
        )))
    }

    /// How a program that migrates a database reaches it, as libpq's own variables and as a URL.
    ///
    /// `tls` is what the server gave us: "prefer" is not known to every client.
    pub fn environment(
        &self,
        database: &Ident,
        password: &SecretString,
        tls: bool,
    ) -> Vec<(&'static str, String)> {
        let mode = match self.options.get_ssl_mode() {
            PgSslMode::Disable => "disable",
            PgSslMode::Allow | PgSslMode::Prefer if !tls => "disable",
            PgSslMode::Allow | PgSslMode::Prefer | PgSslMode::Require => "require",
            PgSslMode::VerifyCa => "verify-ca",
            PgSslMode::VerifyFull => "verify-full",
        };
        let (database, user) = (database.as_str(), self.migrator.as_str());
        let (password, port) = (password.expose_secret(), self.options.get_port());
        let socket = self
            .options
            .get_socket()
            .map(|path| path.display().to_string());
        let host = self.options.get_host();
        let authority = match &socket {
            Some(_) => "localhost".to_owned(),
            None if host.contains(':') => format!("[{host}]"),
            None => host.to_owned(),
        };
        let place = socket.as_ref().map(|path| format!("&host={path}"));
        let url = format!(
            "postgresql://{user}:{password}@{authority}:{port}/{database}?sslmode={mode}{}",
            place.unwrap_or_default()
        );
        vec![
            ("DATABASE_URL", url),
            ("PGHOST", socket.unwrap_or_else(|| host.to_owned())),
            ("PGPORT", port.to_string()),
            ("PGUSER", user.to_owned()),
            ("PGPASSWORD", password.to_owned()),
            ("PGDATABASE", database.to_owned()),
            ("PGSSLMODE", mode.to_owned()),
        ]
    }

    /// Host and port of the server, as a tenant's application reaches it.
    pub fn address(&self) -> (&str, u16) {
        (self.options.get_host(), self.options.get_port())
    }

    /// The URL with which a tenant's role connects.
    pub fn tenant_url(
        &self,
        database: &str,
        role: &str,
        password: Option<&SecretString>,
    ) -> String {
        let host = self.options.get_host();
        let host = if host.contains(':') {
            format!("[{host}]")
        } else {
            host.to_owned()
        };
        let password = password.map_or("***", ExposeSecret::expose_secret);
        let tls = match self.options.get_ssl_mode() {
            PgSslMode::Require => "?sslmode=require",
            PgSslMode::VerifyCa => "?sslmode=verify-ca",
            PgSslMode::VerifyFull => "?sslmode=verify-full",
            PgSslMode::Disable | PgSslMode::Allow | PgSslMode::Prefer => "",
        };
        format!(
            "postgresql://{role}:{password}@{host}:{}/{database}{tls}",
            self.options.get_port()
        )
    }
}

/// A duration as the server's settings take it.
fn milliseconds(duration: Duration) -> String {
    format!("{}ms", duration.as_millis())
}

async fn connect(options: PgConnectOptions) -> sqlx::Result<PgConnection> {
    match tokio::time::timeout(
        Duration::from_secs(10),
        PgConnection::connect_with(&options),
    )
    .await
    {
        Ok(connected) => connected,
        Err(_) => Err(sqlx::Error::Io(std::io::ErrorKind::TimedOut.into())),
    }
}
