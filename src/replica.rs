//! One replica of tenantry: the stations wired together.
//!
//! Guarantees: the parts that answer requests work while the database is away (and say so); work
//! begins once the control database is migrated; any number of replicas share one database.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use crate::{
    actions::{MemberDesk, RegistrationDesk},
    api_keys::ApiKeys,
    auth::{self, Issuers, standing::Registry},
    causes::chain,
    config::{self, Config},
    db::{self, Db},
    fleet, http,
    inbox::Inbox,
    jobs::{self, JobContext},
    members,
    metrics::Metrics,
    notifications::{self, Sender},
    provider_api::{self, Client},
    provisioning::{BlueprintSource, Provisioner, StepError, pool, rehearsal, template},
    queue::{Waker, worker},
    registrations::{self, Watcher},
    retention::{self, Plan},
    secrets::{self, Keyring},
    shutdown::Tasks,
    tenant_db::{self, Clusters},
};

/// Pause between two looks for a database that is away.
const DATABASE_PAUSE: Duration = Duration::from_millis(250);

/// How long closing the connections may take.
const CLOSE_LIMIT: Duration = Duration::from_secs(2);

/// Why a replica cannot start.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The control database.
    #[error(transparent)]
    Db(#[from] db::Error),
    /// The clusters.
    #[error(transparent)]
    Clusters(#[from] tenant_db::Error),
    /// The keys.
    #[error("secrets.keys cannot be used")]
    Keys(#[from] secrets::Error),
    /// The blueprint, or the template made from it.
    #[error(transparent)]
    Blueprint(#[from] StepError),
    /// The API of a source's provider.
    #[error("the API of source {name} cannot be used")]
    Provider {
        /// The source.
        name: String,
        /// Why.
        source: Box<provider_api::Error>,
    },
    /// An endpoint of notifications.
    #[error("notifications.{name} cannot be used")]
    Endpoint {
        /// The endpoint.
        name: String,
        /// Why.
        source: notifications::SetupError,
    },
    /// The issuers of tokens.
    #[error(transparent)]
    Issuers(#[from] auth::IssuerError),
    /// The port.
    #[error("cannot listen on {address}")]
    Listen {
        /// The address.
        address: String,
        /// Why.
        source: std::io::Error,
    },
}

/// A client for each source whose provider can be called.
fn providers(config: &Config) -> Result<BTreeMap<String, Client>, Error> {
    let callable = config
        .sources
        .iter()
        .filter(|(_, source)| source.can_be_called());
    let client = |(name, source): (&String, &config::Source)| match Client::new(
        source.kind,
        &source.api_key,
        &source.api_url,
    ) {
        Ok(client) => Ok((name.clone(), client)),
        Err(error) => {
            let (name, source) = (name.clone(), Box::new(error));
            Err(Error::Provider { name, source })
        }
    };
    callable.map(client).collect()
}

fn requests_per_minute(limits: &config::Limits) -> http::RequestsPerMinute {
    http::RequestsPerMinute {
        principal: limits.per_principal_per_minute,
        address: limits.per_address_per_minute,
        form_address: limits.per_form_address_per_minute,
        form_key: limits.per_form_key_per_minute,
    }
}

/// The way to each endpoint of notifications.
fn senders(config: &Config) -> Result<BTreeMap<String, Sender>, Error> {
    let sender = |(name, endpoint): (&String, &config::Endpoint)| {
        let sender = Sender::new(endpoint).map_err(|source| Error::Endpoint {
            name: name.clone(),
            source,
        })?;
        Ok((name.clone(), sender))
    };
    config.notifications.iter().map(sender).collect()
}

/// What makes tenants ready, and fills the pool.
pub fn provisioner(
    config: &Config,
    blueprint: BlueprintSource,
    (db, clusters, metrics): (&Db, &Clusters, &Metrics),
) -> Result<Provisioner, Error> {
    Ok(Provisioner {
        db: db.clone(),
        clusters: clusters.clone(),
        keyring: Arc::new(Keyring::parse(&config.secrets.keys)?),
        names: config.tenants.clone(),
        timeouts: config.provisioning,
        admin_role: config.identity.admin_role.clone(),
        max_attempts: config.queue.max_attempts,
        blueprint,
        pool: pool::Pool::new(config.pool, clusters.iter()),
        metrics: metrics.clone(),
        faults: config.faults.clone(),
    })
}

/// How long the start may look at all members, when somebody begins to be told of them.
const SYNC_LIMIT: Duration = Duration::from_hours(1);

fn connection_limits(server: &config::Server) -> http::ConnectionLimits {
    http::ConnectionLimits {
        idle: Duration::from_secs(server.idle_timeout_s),
        head: Duration::from_secs(server.head_timeout_s),
        per_address: server.connections_per_address,
    }
}

/// Whether a process takes webhooks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sources {
    /// Every source that has a secret.
    Routed,
    /// None.
    None,
}

/// A replica, wired and not yet working.
#[derive(Debug, Clone)]
pub struct Replica {
    /// Control database.
    pub db: Db,
    /// Where tenants live.
    pub clusters: Clusters,
    /// The way into the inbox.
    pub inbox: Inbox,
    /// Wakes workers.
    pub waker: Waker,
    /// Counts.
    pub metrics: Metrics,
    /// Makes tenants ready.
    pub provisioner: Arc<Provisioner>,
    /// Everything that runs.
    pub tasks: Tasks,
    watcher: Watcher,
    config: Arc<Config>,
    providers: Arc<BTreeMap<String, Client>>,
    senders: Arc<BTreeMap<String, Sender>>,
    issuers: Issuers,
}

impl Replica {
    /// Wires the stations; connects to nothing yet.
    pub fn new(config: Config, blueprint: BlueprintSource) -> Result<Self, Error> {
        let tasks = Tasks::new();
        let shared = config.database.max_connections - db::LISTENERS;
        let db = Db::new(&config.database.url, shared)?;
        let clusters = Clusters::new(&config)?;
        let (waker, metrics) = (Waker::default(), Metrics::new());
        let issuers = Issuers::new(&config, &metrics)?;
        let inbox = Inbox::start(
            &db,
            &waker,
            &tasks,
            config.queue.max_attempts,
            &config.faults,
        );
        let provisioner = provisioner(&config, blueprint, (&db, &clusters, &metrics))?;
        waker.spawn_notifier(&tasks, db.clone());
        tasks.spawn_ground(db.keep_closing_idle());
        for cluster in clusters.iter() {
            tasks.spawn_ground(cluster.keep_closing_idle());
        }
        Ok(Self {
            db,
            clusters,
            inbox,
            waker,
            metrics,
            provisioner: Arc::new(provisioner),
            tasks,
            providers: Arc::new(providers(&config)?),
            senders: Arc::new(senders(&config)?),
            issuers,
            watcher: Watcher::default(),
            config: Arc::new(config),
        })
    }

    /// Listens and answers requests until the tasks drain; returns the address at once.
    ///
    /// A process that only works answers for its health and metrics, and routes no source. One that does not work
    /// has no `blueprint`: whoever works settles what a fleet run that is begun here is about.
    pub async fn serve_http(
        &self,
        sources: Sources,
        blueprint: Option<BlueprintSource>,
    ) -> Result<std::net::SocketAddr, Error> {
        let address = &self.config.server.listen;
        let failed = |source| Error::Listen {
            address: address.clone(),
            source,
        };
        let listener = tokio::net::TcpListener::bind(address)
            .await
            .map_err(failed)?;
        let local = listener.local_addr().map_err(failed)?;
        let routed = match sources {
            Sources::Routed => self
                .config
                .routed_sources()
                .map(|(name, source)| (name.clone(), source.clone()))
                .collect(),
            Sources::None => BTreeMap::new(),
        };
        let state = self.app_state(routed, blueprint);
        self.issuers.spawn_refresh(&self.tasks);
        let keys = state.api_keys.clone();
        let forget_key = move |id: Option<&str>| match id {
            Some(id) => keys.forget(id),
            None => keys.forget_all(),
        };
        state.registry.spawn_listener(&self.tasks, forget_key);
        let watch = self.watcher.clone().watch(self.db.clone());
        self.tasks.spawn_ground(watch);
        let serve = http::serve(listener, state, self.tasks.clone(), self.tasks.closing());
        self.tasks.spawn_ground(serve);
        Ok(local)
    }

    fn app_state(
        &self,
        routed: BTreeMap<String, config::Source>,
        blueprint: Option<BlueprintSource>,
    ) -> http::AppState {
        let (config, access) = (&self.config, &self.config.access);
        let admin_role = &config.identity.admin_role;
        let remember = Duration::from_secs(access.remember_s);
        let public = access.public_paths.iter();
        http::AppState {
            inbox: self.inbox.clone(),
            db: self.db.clone(),
            metrics: self.metrics.clone(),
            tasks: self.tasks.clone(),
            waker: self.waker.clone(),
            sources: Arc::new(routed),
            source_names: Arc::new(config.sources.keys().cloned().collect()),
            connections: connection_limits(&config.server),
            limits: Arc::new(http::Limits::new(requests_per_minute(&config.limits))),
            cors_origins: config.server.cors_origins.clone().into(),
            large_bodies: http::large_bodies(),
            member_reads: http::member_reads(),
            last_backlog: Arc::default(),
            api_keys: ApiKeys::new(&self.db, &self.tasks),
            issuers: self.issuers.clone(),
            registry: Registry::new(&self.db, admin_role, remember),
            admin_role: admin_role.as_str().into(),
            trusted_proxies: access.trusted_proxies.clone().into(),
            public_paths: public.map(|path| http::PublicPath::new(path)).collect(),
            session_cookies: access.session_cookies.clone().into(),
            desk: MemberDesk::new(config),
            registrations: Arc::new(RegistrationDesk::new(config, &self.provisioner.keyring)),
            watcher: self.watcher.clone(),
            clusters: self.clusters.clone(),
            blueprint,
            keyring: Arc::clone(&self.provisioner.keyring),
            max_attempts: config.queue.max_attempts,
            faults: config.faults.clone(),
        }
    }

    /// Waits for the control database, migrates it, and records who is to be told of what happens.
    pub async fn migrate(&self) -> Result<(), Error> {
        let mut told = false;
        loop {
            match self.db.migrate().await {
                Ok(()) => return self.sync_endpoints().await,
                Err(db::Error::Sql(error)) if db::is_unavailable(&error) => {
                    if !told {
                        tracing::warn!(
                            error = chain(&error),
                            "the control database is away; waiting for it"
                        );
                        told = true;
                    }
                    tokio::time::sleep(DATABASE_PAUSE).await;
                }
                Err(error) => return Err(error.into()),
            }
        }
    }

    async fn sync_endpoints(&self) -> Result<(), Error> {
        let configured = &self.config.notifications;
        let sync = async |tx: &mut _| notifications::sync_endpoints(tx, configured).await;
        let synced = self.db.within(SYNC_LIMIT).transaction(sync).await;
        Ok(synced.map_err(db::Error::Sql)?)
    }

    /// Records what the blueprint lets each role do, and builds the template of every cluster, so that
    /// the first tenant does not wait for it.
    ///
    /// An error is one of the blueprint itself. A cluster that is away, or a migration that fails,
    /// is logged: tenants say so when they are provisioned, and are retried.
    pub async fn build_templates(&self) -> Result<(), Error> {
        let blueprint = self.provisioner.blueprint.load()?;
        let roles = &blueprint.settings.roles;
        self.db
            .transaction(async |tx| members::replace_blueprint_permissions(tx, roles).await)
            .await
            .map_err(db::Error::Sql)?;
        for cluster in self.clusters.iter() {
            // a clone of a dry run whose process died, and whose run is over
            if let Err(error) = rehearsal::sweep(cluster).await {
                tracing::warn!(
                    cluster = cluster.name,
                    error = chain(&error),
                    "cannot look for clones that were left"
                );
            }
            match Box::pin(template::ensure(&self.provisioner, cluster, &blueprint)).await {
                Ok(_) => {}
                Err(error @ StepError::Blueprint(_)) => return Err(error.into()),
                Err(error) => {
                    tracing::error!(
                        cluster = cluster.name,
                        error.code = error.code(),
                        error = chain(&error),
                        "the template was not built"
                    );
                }
            }
        }
        Ok(())
    }

    /// What handlers of jobs need.
    pub fn job_context(&self) -> JobContext {
        JobContext {
            db: self.db.clone(),
            provisioner: Arc::clone(&self.provisioner),
            waker: self.waker.clone(),
            tasks: self.tasks.clone(),
            sources: Arc::new(self.config.sources.clone()),
            providers: Arc::clone(&self.providers),
            senders: Arc::clone(&self.senders),
            max_attempts: self.config.queue.max_attempts,
            parent_wait: Duration::from_secs(self.config.identity.parent_wait_s),
            retention: Arc::new(Plan::new(&self.config)),
            fleet_attempts: self.config.fleet.max_attempts,
            worker: worker::worker_name().into(),
        }
    }

    /// Marks registrations that are late, begins notifications and fleet runs that were left, and sees to it that what has
    /// been kept for its time is deleted, by whichever worker comes to it. The control database is migrated.
    pub fn tidy(&self) {
        let marking = registrations::keep_marking_delayed(self.db.clone(), self.metrics.clone());
        self.tasks.spawn_ground(marking);
        self.tasks
            .spawn_ground(notifications::keep_going(self.db.clone()));
        self.tasks
            .spawn_ground(fleet::keep_going(self.db.clone(), self.waker.clone()));
        let Some(pause) = Plan::new(&self.config).pause else {
            return;
        };
        let (db, max_attempts) = (self.db.clone(), self.config.queue.max_attempts);
        let kept = retention::keep_scheduled(db, pause, max_attempts);
        self.tasks.spawn_ground(kept);
    }

    /// Starts the worker, and keeps the pool filled.
    pub fn work(&self) {
        let queue = &self.config.queue;
        let settings = worker::Settings {
            concurrency: queue.concurrency,
            outgoing_concurrency: queue.notification_concurrency,
            fleet_concurrency: self.config.fleet.concurrency,
            lease: queue.lease(),
            poll_interval: Duration::from_millis(queue.poll_interval_ms),
            faults: self.config.faults.clone(),
        };
        let cx = self.job_context();
        let batches = cx.clone();
        let run = move |claim, lease| {
            let cx = cx.clone();
            async move { jobs::run(&cx, claim, lease).await }
        };
        let run_batch = move || {
            let cx = batches.clone();
            async move { jobs::process_batch(&cx).await }
        };
        let worker = worker::work(
            (self.db.clone(), self.waker.clone(), self.tasks.clone()),
            settings,
            self.metrics.clone(),
            run,
            run_batch,
        );
        self.tasks.spawn(worker);
        pool::keep_filled(&self.provisioner, &self.tasks);
    }

    /// Finishes what runs, at most for the drain time, and closes all connections.
    pub async fn finish(&self) {
        self.tasks.drain();
        if !self
            .tasks
            .finish(Duration::from_secs(self.config.server.drain_timeout_s))
            .await
        {
            tracing::warn!("cut off what did not finish in time; its leases run out");
        }
        // a server that is away must not hold up the end
        let close = async {
            self.clusters.close().await;
            self.db.close().await;
        };
        let _ = tokio::time::timeout(CLOSE_LIMIT, close).await;
    }
}
