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

use std::{
    collections::{BTreeMap, BTreeSet},
    path::PathBuf,
    time::Duration,
};

use ipnet::IpNet;
use secrecy::{ExposeSecret, SecretString};
use serde::Deserialize;

use crate::{
    faults::Faults,
    webhooks::{Mapping, SourceKind},
};

pub use issuers::{Issuer, IssuerKeys, IssuerKind, is_loopback};
pub use layers::{Environment, Error};
pub use notifications::{Endpoint, NotificationType};
pub use pool::Pool;
pub use retention::{Retention, days};

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

/// `[server]`
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Server {
    /// Address and port to listen on.
    pub listen: String,
    /// How long a shutdown waits, in seconds.
    pub drain_timeout_s: u64,
    /// How long a connection may be idle between two requests, in seconds.
    pub idle_timeout_s: u64,
    /// How long the head of a request may take from its first byte, in seconds.
    pub head_timeout_s: u64,
    /// Connections that one address may have; 0 for any number.
    pub connections_per_address: u32,
    /// Origins whose pages may call the API from a browser.
    pub cors_origins: Vec<String>,
}

/// `[limits]`
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Limits {
    /// Requests a minute of one API key or end user; 0 for any number.
    pub per_principal_per_minute: u32,
    /// Requests a minute from one address without accepted credentials; 0 for any number.
    pub per_address_per_minute: u32,
    /// Requests a minute with form keys from one address; 0 for any number.
    pub per_form_address_per_minute: u32,
    /// Requests a minute with one form key; 0 for any number.
    pub per_form_key_per_minute: u32,
    /// How long an idempotency key and its answer are kept, in days.
    pub idempotency_keys_days: u32,
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

/// `[sources.<name>]`
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Source {
    /// Whose webhooks these are.
    pub kind: SourceKind,
    /// Signing secrets, any of which may have signed.
    #[serde(default)]
    pub secrets: Vec<SecretString>,
    #[serde(default)]
    secret_files: Vec<PathBuf>,
    /// How far a signature's time may be from ours, both ways, in seconds.
    #[serde(default = "default_tolerance_s")]
    pub tolerance_s: u32,
    /// Key for the provider's API; empty when not configured.
    #[serde(default = "empty_secret")]
    pub api_key: SecretString,
    #[serde(default)]
    api_key_file: PathBuf,
    /// Base URL of the provider's API; empty for the provider's own.
    #[serde(default)]
    pub api_url: String,
    /// What a sender of kind `standard` means.
    #[serde(default)]
    pub mapping: Mapping,
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

/// `[access]`
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Access {
    /// Networks of the proxies whose `X-Forwarded-*` headers count.
    pub trusted_proxies: Vec<IpNet>,
    /// Paths of the application that need no token; one that ends in `*` stands for all below it.
    pub public_paths: Vec<String>,
    /// Cookies that may carry an end user's token, in the order in which they are looked for.
    pub session_cookies: Vec<String>,
    /// How long a tenant's or member's standing may be remembered, in seconds.
    pub remember_s: u64,
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
        let timeouts = [
            ("provisioning.step_timeout_s", self.step_timeout_s),
            ("provisioning.clone_timeout_s", self.clone_timeout_s),
        ];
        // a step of more than a day is a mistake
        let wrong = |(_, value): &(&str, u64)| !(1..=86_400).contains(value);
        match timeouts.into_iter().find(wrong) {
            Some((key, value)) => Err(Error::value(key, &value.to_string(), "1 to 86400")),
            None => Ok(()),
        }
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
    fn check_concurrency(&self) -> Result<(), Error> {
        let counts = [
            ("queue.concurrency", self.concurrency),
            (
                "queue.notification_concurrency",
                self.notification_concurrency,
            ),
        ];
        let wrong = |(_, count): &(&str, usize)| !(1..=256).contains(count);
        match counts.into_iter().find(wrong) {
            Some((key, count)) => Err(Error::value(key, &count.to_string(), "1 to 256")),
            None => Ok(()),
        }
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
        if !(1..=256).contains(&self.concurrency) {
            let value = self.concurrency.to_string();
            return Err(Error::value("fleet.concurrency", &value, "1 to 256"));
        }
        if !(1..=1000).contains(&self.max_attempts) {
            let value = self.max_attempts.to_string();
            return Err(Error::value("fleet.max_attempts", &value, "1 to 1000"));
        }
        Ok(())
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

const fn default_tolerance_s() -> u32 {
    300
}

const fn default_capacity() -> u32 {
    100_000
}

fn empty_secret() -> SecretString {
    SecretString::from("")
}

/// Whether browsers write an origin so: lower-case, no path, no port that the scheme implies.
pub fn is_origin(text: &str) -> bool {
    url::Url::parse(text).is_ok_and(|url| {
        matches!(url.scheme(), "http" | "https")
            && url.origin().ascii_serialization() == text
            && !text.contains('*')
    })
}

/// Whether a section can have this name: it is a label of metrics, and a part of addresses.
fn is_legal_name(name: &str) -> bool {
    let legal = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_' || c == '-';
    !name.is_empty() && name.len() <= 40 && name.chars().all(legal)
}

impl Server {
    /// Refuses what cannot work.
    fn check(&self) -> Result<(), Error> {
        let timeouts = [
            ("server.idle_timeout_s", self.idle_timeout_s),
            ("server.head_timeout_s", self.head_timeout_s),
        ];
        // a timer of more than a day is a mistake, and one of centuries would overflow
        let wrong = |(_, value): &(&str, u64)| !(1..=86_400).contains(value);
        if let Some((key, value)) = timeouts.into_iter().find(wrong) {
            return Err(Error::value(key, &value.to_string(), "1 to 86400"));
        }
        if let Some(origin) = self.cors_origins.iter().find(|text| !is_origin(text)) {
            let expected =
                "origins such as https://app.example.com: scheme and host, no path, no *";
            return Err(Error::value("server.cors_origins", origin, expected));
        }
        Ok(())
    }
}

impl Registrations {
    /// Refuses what cannot work.
    fn check(&self) -> Result<(), Error> {
        if (1..=86_400).contains(&self.deadline_s) {
            return Ok(());
        }
        let value = self.deadline_s.to_string();
        Err(Error::value(
            "registrations.deadline_s",
            &value,
            "1 to 86400",
        ))
    }
}

impl Limits {
    /// Refuses what cannot work.
    fn check(&self) -> Result<(), Error> {
        // more than ten years is a mistake
        if !(1..=3_650).contains(&self.idempotency_keys_days) {
            let value = self.idempotency_keys_days.to_string();
            return Err(Error::value(
                "limits.idempotency_keys_days",
                &value,
                "1 to 3650",
            ));
        }
        Ok(())
    }
}

impl Source {
    /// Refuses what cannot work.
    fn check(&self, name: &str) -> Result<(), Error> {
        if !is_legal_name(name) {
            let expected = "names of 1 to 40 characters of a-z, 0-9, _ and -";
            return Err(Error::value("sources", name, expected));
        }
        if self.kind != SourceKind::Standard && self.mapping != Mapping::default() {
            let expected = "a mapping only where kind is \"standard\"";
            return Err(Error::value("sources", name, expected));
        }
        // a password has no place in it: it would be shown
        let works = |url: url::Url| {
            matches!(url.scheme(), "http" | "https")
                && url.username().is_empty()
                && url.password().is_none()
        };
        if !self.api_url.is_empty() && !url::Url::parse(&self.api_url).is_ok_and(works) {
            let expected =
                "http:// or https:// and a host, without a user, or nothing for the provider's own";
            return Err(Error::value("sources.api_url", "…", expected));
        }
        Ok(())
    }

    /// A source with these secrets and the default tolerance.
    pub fn new(kind: SourceKind, secrets: Vec<SecretString>) -> Self {
        Self {
            kind,
            secrets,
            secret_files: Vec::new(),
            tolerance_s: default_tolerance_s(),
            api_key: empty_secret(),
            api_key_file: PathBuf::new(),
            api_url: String::new(),
            mapping: Mapping::default(),
        }
    }

    /// Whether the provider's API can be called: it has one, and a key is configured.
    pub fn can_be_called(&self) -> bool {
        match self.kind {
            SourceKind::Workos | SourceKind::Clerk => !self.api_key.expose_secret().is_empty(),
            SourceKind::Standard => false,
        }
    }
}

impl Access {
    /// Refuses what cannot work.
    fn check(&self) -> Result<(), Error> {
        if self.remember_s > 60 {
            let value = self.remember_s.to_string();
            return Err(Error::value("access.remember_s", &value, "0 to 60"));
        }
        // "/a*" would be /admin as well
        let is_no_path = |path: &&String| {
            let exact = path.strip_suffix("/*").unwrap_or(path);
            !path.starts_with('/')
                || exact.contains('*')
                || exact.split('/').any(|part| part == "..")
        };
        if let Some(path) = self.public_paths.iter().find(is_no_path) {
            let expected = "paths that begin with /, with at most a /* at the end";
            return Err(Error::value("access.public_paths", path, expected));
        }
        Ok(())
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
        let prefix = &self.tenants.prefix;
        let legal = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_';
        if prefix.is_empty()
            || prefix.len() > 12
            || !prefix.starts_with(|c: char| c.is_ascii_lowercase())
            || !prefix.chars().all(legal)
        {
            return Err(Error::value(
                "tenants.prefix",
                prefix,
                "1 to 12 characters of a-z, 0-9 and _, beginning with a letter",
            ));
        }
        let domain = &self.tenants.base_domain;
        if domain.is_empty()
            || domain.len() > 150
            || domain.contains(|c: char| c.is_whitespace() || "/:@".contains(c))
        {
            return Err(Error::value(
                "tenants.base_domain",
                domain,
                "a host name such as app.example.com",
            ));
        }
        self.server.check()?;
        self.limits.check()?;
        self.registrations.check()?;
        self.retention.check()?;
        if prefix.starts_with("pg_") {
            let expected = "a prefix that Postgres does not keep for itself, as it does pg_";
            return Err(Error::value("tenants.prefix", prefix, expected));
        }
        self.queue.check_concurrency()?;
        if !(300..=600_000).contains(&self.queue.lease_ms) {
            return Err(Error::value(
                "queue.lease_ms",
                &self.queue.lease_ms.to_string(),
                "300 to 600000",
            ));
        }
        if self.queue.max_attempts < 1 || self.queue.poll_interval_ms == 0 {
            return Err(Error::value(
                "queue",
                "0",
                "max_attempts and poll_interval_ms of at least 1",
            ));
        }
        if self.database.max_connections < 4 {
            return Err(Error::value(
                "database.max_connections",
                &self.database.max_connections.to_string(),
                "at least 4",
            ));
        }
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
