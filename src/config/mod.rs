//! Configuration: `tenantry.default.toml` < `tenantry.toml` < environment → [`Config`].
//!
//! Guarantees: the commented default file is compiled in and *is* the defaults; a key that it
//! does not name is refused with file, line and the nearest known key; a value of another type
//! likewise; every secret can come from a file; secrets never appear in `Debug` or in
//! [`Config::redacted`]. This module and its parts are the only ones that read the environment.
//!
//! Does not: connect to anything. `tenantry doctor` tells whether the values work.

mod issuers;
mod layers;
mod notifications;
mod pool;
mod redact;
mod retention;
mod secret_files;
mod server;
mod sources;

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt::Display,
    ops::RangeInclusive,
    path::PathBuf,
    time::Duration,
};

use secrecy::SecretString;
use serde::Deserialize;

use crate::faults::Faults;

pub use issuers::{Issuer, IssuerKeys, IssuerKind, is_loopback};
pub use layers::{Environment, Error};
pub use notifications::{Endpoint, NotificationType};
pub use pool::Pool;
pub use retention::{Retention, days};
pub use server::{Access, Limits, Server, is_origin};
pub use sources::Source;

/// The default file: every setting, explained.
pub const DEFAULT_TOML: &str = include_str!("../../tenantry.default.toml");

/// Name of the configuration file looked for in the working directory.
pub const FILE_NAME: &str = "tenantry.toml";

/// The effective configuration, as the program needs it.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// HTTP server.
    pub server: Server,
    /// How often somebody may ask.
    pub limits: Limits,
    /// Logs.
    pub log: Log,
    /// Control database.
    pub database: Database,
    /// Senders of webhooks, by the name in `POST /webhooks/{name}`.
    pub sources: BTreeMap<String, Source>,
    /// Whose tokens are believed, by a name of our own.
    pub issuers: BTreeMap<String, Issuer>,
    /// Who is told what happened, by a name of our own.
    pub notifications: BTreeMap<String, Endpoint>,
    /// What the providers say of organizations and people.
    pub identity: Identity,
    /// Who is let in, and how it is found out.
    pub access: Access,
    /// Where the blueprint is.
    pub blueprint: BlueprintLocation,
    /// How tenants are named and limited.
    pub tenants: Tenants,
    /// Sign-ups.
    pub registrations: Registrations,
    /// How long making a tenant may take.
    pub provisioning: Provisioning,
    /// Databases that are ready before anybody asks.
    pub pool: Pool,
    /// Job queue.
    pub queue: Queue,
    /// Migrating the fleet.
    pub fleet: Fleet,
    /// How long what is over is kept.
    pub retention: Retention,
    /// Keys for secrets at rest.
    pub secrets: Secrets,
    /// Postgres clusters that hold tenant databases.
    #[serde(default)]
    pub clusters: Vec<Cluster>,
    /// Points at which a test makes this process fail; empty outside debug builds.
    #[serde(skip)]
    pub faults: Faults,
    /// What the layers made together, without its secrets.
    #[serde(skip)]
    redacted: Vec<(String, String)>,
}

/// `[log]`
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Log {
    /// Text for people or JSON for machines.
    pub format: LogFormat,
    /// Level or `tracing` directives.
    pub level: String,
}

/// How a log line is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LogFormat {
    /// One readable line.
    Text,
    /// One JSON object a line.
    Json,
}

/// `[database]`
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Database {
    /// URL of the control database; empty when not configured.
    pub url: SecretString,
    url_file: PathBuf,
    /// Connections of one process.
    pub max_connections: u32,
}

/// `[identity]`
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Identity {
    /// How long an event waits for an object that it names before the provider is asked, in seconds.
    pub parent_wait_s: u64,
    /// Slug of the role that administers an organization.
    pub admin_role: String,
}

/// `[blueprint]`
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BlueprintLocation {
    /// Directory that holds `blueprint.toml`.
    pub directory: PathBuf,
}

/// `[tenants]`
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Tenants {
    /// Beginning of every database and role name.
    pub prefix: String,
    /// Whether names show the organization's name.
    pub names: NameStyle,
    /// A tenant's host is `<slug>.<base_domain>`.
    pub base_domain: String,
    /// Connections of one tenant's role; -1 for no limit.
    pub connection_limit: i32,
}

/// Whether database and role names can be read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum NameStyle {
    /// `tn_acme_corp_1f9k2m3p4q`
    Readable,
    /// `tn_1f9k2m3p4q7r8s9t0v`
    Opaque,
}

impl Tenants {
    /// Refuses what cannot work.
    fn check(&self) -> Result<(), Error> {
        let legal = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_';
        let prefix = &self.prefix;
        if prefix.is_empty()
            || prefix.len() > 12
            || !prefix.starts_with(|c: char| c.is_ascii_lowercase())
            || !prefix.chars().all(legal)
        {
            let expected = "1 to 12 characters of a-z, 0-9 and _, beginning with a letter";
            return Err(Error::value("tenants.prefix", prefix, expected));
        }
        if prefix.starts_with("pg_") {
            let expected = "a prefix that Postgres does not keep for itself, as it does pg_";
            return Err(Error::value("tenants.prefix", prefix, expected));
        }
        let domain = &self.base_domain;
        if domain.is_empty()
            || domain.len() > 150
            || domain.contains(|c: char| c.is_whitespace() || "/:@".contains(c))
        {
            let expected = "a host name such as app.example.com";
            return Err(Error::value("tenants.base_domain", domain, expected));
        }
        Ok(())
    }
}

/// `[registrations]`
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Registrations {
    /// How long a registration may take before it counts as delayed, in seconds.
    pub deadline_s: u64,
}

/// `[provisioning]`
#[derive(Debug, Clone, Copy, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Provisioning {
    /// How long a quick step, or taking a step back, may take, in seconds.
    pub step_timeout_s: u64,
    /// How long cloning or dropping a database may take, in seconds.
    pub clone_timeout_s: u64,
}

impl Provisioning {
    /// How long a quick step, or taking a step back, may take.
    pub const fn step_timeout(&self) -> Duration {
        Duration::from_secs(self.step_timeout_s)
    }

    /// How long cloning or dropping a database may take.
    pub const fn clone_timeout(&self) -> Duration {
        Duration::from_secs(self.clone_timeout_s)
    }

    /// Refuses what cannot work.
    fn check(&self) -> Result<(), Error> {
        // a step of more than a day is a mistake
        let (step, clone) = (self.step_timeout_s, self.clone_timeout_s);
        check_range("provisioning.step_timeout_s", step, 1..=86_400)?;
        check_range("provisioning.clone_timeout_s", clone, 1..=86_400)
    }
}

/// `[queue]`
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Queue {
    /// Jobs that this process runs at once.
    pub concurrency: usize,
    /// Notifications that this process sends at once, beside the jobs.
    pub notification_concurrency: usize,
    /// Lease in milliseconds.
    pub lease_ms: u64,
    /// Poll interval in milliseconds.
    pub poll_interval_ms: u64,
    /// Attempts before a job is dead.
    pub max_attempts: i32,
}

impl Queue {
    /// How long a claim lasts without a heartbeat.
    pub const fn lease(&self) -> Duration {
        Duration::from_millis(self.lease_ms)
    }

    /// Refuses what cannot work.
    fn check(&self) -> Result<(), Error> {
        let notifications = self.notification_concurrency;
        check_range("queue.concurrency", self.concurrency, 1..=256)?;
        check_range("queue.notification_concurrency", notifications, 1..=256)?;
        check_range("queue.lease_ms", self.lease_ms, 300..=600_000)?;
        check_least("queue.poll_interval_ms", self.poll_interval_ms, 1)?;
        check_least("queue.max_attempts", self.max_attempts, 1)
    }
}

/// `[fleet]`
#[derive(Debug, Clone, Copy, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Fleet {
    /// Databases that this process migrates at once in a fleet run.
    pub concurrency: usize,
    /// Attempts of a database before it counts as failed.
    pub max_attempts: u32,
}

impl Fleet {
    /// Refuses what cannot work.
    fn check(&self) -> Result<(), Error> {
        check_range("fleet.concurrency", self.concurrency, 1..=256)?;
        check_range("fleet.max_attempts", self.max_attempts, 1..=1000)
    }
}

/// `[secrets]`
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Secrets {
    /// `<key id>:<base64>`; the first one seals.
    pub keys: Vec<SecretString>,
    keys_file: PathBuf,
}

/// `[[clusters]]`
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Cluster {
    /// Name, kept with each tenant.
    pub name: String,
    /// URL of a maintenance database of the cluster.
    #[serde(default = "empty_secret")]
    pub url: SecretString,
    #[serde(default)]
    url_file: PathBuf,
    /// How many tenants it may hold.
    #[serde(default = "default_capacity")]
    pub capacity: u32,
}

/// Name of the cluster that is there when none is configured: the control database's own server.
pub const MAIN_CLUSTER: &str = "main";

const fn default_capacity() -> u32 {
    100_000
}

fn empty_secret() -> SecretString {
    SecretString::from("")
}

/// Whether a section can have this name: it is a label of metrics, and a part of addresses.
fn is_legal_name(name: &str) -> bool {
    let legal = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_' || c == '-';
    !name.is_empty() && name.len() <= 40 && name.chars().all(legal)
}

/// Refuses a number that is not one of these.
fn check_range<T: Copy + PartialOrd + Display>(
    key: &'static str,
    value: T,
    range: RangeInclusive<T>,
) -> Result<(), Error> {
    if range.contains(&value) {
        return Ok(());
    }
    let expected = format!("{} to {}", range.start(), range.end());
    Err(Error::value(key, &value.to_string(), expected))
}

/// Refuses a number that is less than this.
fn check_least<T: Copy + PartialOrd + Display>(
    key: &'static str,
    value: T,
    least: T,
) -> Result<(), Error> {
    if value >= least {
        return Ok(());
    }
    let expected = format!("at least {least}");
    Err(Error::value(key, &value.to_string(), expected))
}

impl Registrations {
    /// Refuses what cannot work.
    fn check(&self) -> Result<(), Error> {
        check_range("registrations.deadline_s", self.deadline_s, 1..=86_400)
    }
}

impl Secrets {
    /// Keys given directly.
    pub fn new(keys: Vec<SecretString>) -> Self {
        Self {
            keys,
            keys_file: PathBuf::new(),
        }
    }
}

impl Config {
    /// Reads all layers. `file` is required to exist when given, optional otherwise.
    pub fn load(file: Option<PathBuf>, environment: &Environment) -> Result<Self, Error> {
        let table = layers::merge(file, environment)?;
        let mut config: Self = table
            .clone()
            .try_into()
            .map_err(|told| Error::shape(&told))?;
        config.redacted = redact::lines(&table);
        config.faults = Faults::parse(environment.get("TENANTRY_FAULTS").unwrap_or_default());
        secret_files::resolve(&mut config)?;
        config.check()?;
        Ok(config)
    }

    /// The clusters that may hold tenants; never empty.
    pub fn effective_clusters(&self) -> Vec<Cluster> {
        if !self.clusters.is_empty() {
            return self.clusters.clone();
        }
        vec![Cluster {
            name: MAIN_CLUSTER.to_owned(),
            url: self.database.url.clone(),
            url_file: PathBuf::new(),
            capacity: default_capacity(),
        }]
    }

    /// The sources that are routed: those with a secret.
    pub fn routed_sources(&self) -> impl Iterator<Item = (&String, &Source)> {
        self.sources
            .iter()
            .filter(|(_, source)| !source.secrets.is_empty())
    }

    /// The effective values with every secret hidden, as `section.key` and value.
    pub fn redacted(&self) -> &[(String, String)] {
        &self.redacted
    }

    /// Tenants know their cluster by its name.
    fn check_clusters(&self) -> Result<(), Error> {
        let mut names = BTreeSet::new();
        for Cluster { name, .. } in &self.clusters {
            if name.is_empty() || !names.insert(name) {
                let expected = "a name that no other cluster has";
                return Err(Error::value("clusters.name", name, expected));
            }
        }
        Ok(())
    }

    /// Refuses what cannot work, before anything starts.
    fn check(&self) -> Result<(), Error> {
        self.tenants.check()?;
        self.server.check()?;
        self.limits.check()?;
        self.registrations.check()?;
        self.retention.check()?;
        self.queue.check()?;
        let connections = self.database.max_connections;
        check_least("database.max_connections", connections, 4)?;
        self.check_clusters()?;
        self.provisioning.check()?;
        self.pool.check()?;
        self.fleet.check()?;
        self.access.check()?;
        self.sources
            .iter()
            .try_for_each(|(name, source)| source.check(name))?;
        self.notifications
            .iter()
            .try_for_each(|(name, endpoint)| endpoint.check(name))?;
        issuers::check_all(&self.issuers, &self.sources)
    }
}
