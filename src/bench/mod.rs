//! `tenantry bench`: each measure beside its floor, in one run.
//!
//! ```text
//! server ─▶ replica (api)          ─▶ accept_*  ack_at_1000_per_s
//!        ─▶ replica (api)          ─▶ auth_verify_*  tenants_resolve_*
//!        ─▶ replica (api)          ─▶ registrations_*  registration_status_*
//!        ─▶ replica (api)          ─▶ registration_streams_mib
//!        ─▶ replica (api, worker)  ─▶ start_to_ready_ms  rss_*  ready_serial*  ready_100_at_once  signups_100_at_once  people_jobs*
//!        ─▶ replica (api, worker)  ─▶ burst_1000_at_once  burst_*
//!        ─▶ replica (api, worker)  ─▶ fleet_*
//! ```
//!
//! A floor is the same effect by the plainest means: the same row inserted and committed one by
//! one, the same statements for a tenant, or for what events say of people, sent by hand. A ratio therefore says what tenantry costs
//! or gains, whatever the machine.
//!
//! Guarantees: ours and the floor take turns, so that a drift of the machine hits both, and
//! medians are reported; the replica is a process of its own, configured as by default but for limits of
//! requests and a pool, which it has none of where a measure is not about them; the
//! events of the accept measures are not processed meanwhile (no worker runs). Everything that was
//! made is removed, after an interruption as well.
//!
//! Does not: leave the machine to the replica. The load generator and Postgres run beside it, and
//! every figure includes them.

mod accept;
mod burst;
mod by_hand;
mod door;
mod fleet;
mod footprint;
mod mix;
mod pace;
mod people;
mod people_by_hand;
mod ready;
mod registrations;
mod replica;
mod report;
mod samples;
mod sender;
mod server;
mod signups;
mod signups_by_hand;
mod streams;
mod visitors;

use std::{path::PathBuf, time::Duration};

use indicatif::ProgressBar;

use crate::{blueprint, config, db, private_postgres, secrets, shutdown::Tasks};

pub use mix::Events;
pub use report::{Environment, Measure, Report};

/// Times ours and the floor take turns.
const ROUNDS: u32 = 3;

/// What to measure, and how long.
#[derive(Debug, Clone, clap::Args)]
pub struct Options {
    /// Print the results as JSON
    #[arg(long)]
    pub json: bool,
    /// A server on which databases and roles may be made; a private durable cluster without it
    #[arg(long, value_name = "URL", hide_env_values = true)]
    pub database_url: Option<String>,
    /// Only measures whose name begins with this; may be repeated
    #[arg(long, value_name = "PREFIX")]
    pub only: Vec<String>,
    /// What the accept measures send; `accept_mixed_c32` compares the two whatever is said here
    #[arg(long, value_enum, default_value_t, value_name = "EVENTS")]
    pub events: Events,
    /// Seconds of each accept measure, and as many of its floor
    #[arg(long, default_value_t = 6.0, value_name = "SECONDS")]
    pub accept_seconds: f64,
    /// Seconds at 1,000 events a second
    #[arg(long, default_value_t = 10.0, value_name = "SECONDS")]
    pub ack_seconds: f64,
    /// Seconds of each measure of the door, and as many of its floor
    #[arg(long, default_value_t = 6.0, value_name = "SECONDS")]
    pub door_seconds: f64,
    /// Seconds of each measure of registrations, and as many of its floor
    #[arg(long, default_value_t = 6.0, value_name = "SECONDS")]
    pub registration_seconds: f64,
    /// Clients that follow a registration each
    #[arg(long, default_value_t = 1_000, value_name = "COUNT")]
    pub streams: u32,
    /// Tenants made one at a time
    #[arg(long, default_value_t = 50, value_name = "COUNT")]
    pub tenants_serial: u32,
    /// Tenants asked for at once
    #[arg(long, default_value_t = 100, value_name = "COUNT")]
    pub tenants_at_once: u32,
    /// Events about people that wait when the worker begins
    #[arg(long, default_value_t = 10_000, value_name = "COUNT")]
    pub people_events: u32,
    /// Organizations of the burst; each database takes some 8 MiB for a while
    #[arg(long, default_value_t = 1_000, value_name = "COUNT")]
    pub tenants_burst: u32,
    /// Tenants of the fleet, and as many databases by hand
    #[arg(long, default_value_t = 500, value_name = "COUNT")]
    pub fleet_databases: u32,
}

/// What the caller knows of this machine.
#[derive(Debug, Clone)]
pub struct Setup {
    /// The tenantry to start as a replica: usually the running program itself.
    pub program: PathBuf,
    /// Where files of this run may be put.
    pub scratch: PathBuf,
    /// The private cluster, where no server is given; made durable whatever it says.
    pub postgres: private_postgres::Settings,
}

/// Why there are no results.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The private cluster.
    #[error(transparent)]
    PrivatePostgres(#[from] private_postgres::Error),
    /// The control database.
    #[error(transparent)]
    Db(#[from] db::Error),
    /// The server does not do what the bench needs.
    #[error("{doing} failed")]
    Sql {
        /// What was attempted.
        doing: &'static str,
        /// Why.
        source: sqlx::Error,
    },
    /// A file, a process or a socket.
    #[error("{doing} failed")]
    Io {
        /// What was attempted.
        doing: &'static str,
        /// Why.
        source: std::io::Error,
    },
    /// The configuration of the replica.
    #[error(transparent)]
    Config(#[from] config::Error),
    /// The worked blueprint.
    #[error(transparent)]
    Blueprint(#[from] blueprint::Error),
    /// The password of a tenant made by hand.
    #[error(transparent)]
    Secrets(#[from] secrets::Error),
    /// The replica ended or was not ready in time.
    #[error("the replica is not ready; the end of its log:\n{log}")]
    Replica {
        /// The end of its log.
        log: String,
    },
    /// The replica did not accept a delivery.
    #[error("a delivery was answered {status}")]
    Refused {
        /// The HTTP status.
        status: u16,
    },
    /// The answer is not one of tenantry's.
    #[error("the replica's answer cannot be read")]
    Answer,
    /// Tenants did not become ready.
    #[error("{missing} tenants were not ready within {} s", limit.as_secs())]
    NotReady {
        /// How many.
        missing: i64,
        /// How long they were waited for.
        limit: Duration,
    },
    /// Jobs are not completed.
    #[error("{missing} jobs were not completed within {} s", limit.as_secs())]
    NotCompleted {
        /// How many.
        missing: i64,
        /// How long they were waited for.
        limit: Duration,
    },
    /// A task of the load generator panicked.
    #[error("the load generator broke off")]
    Broken,
    /// A signal.
    #[error("interrupted; what was made has been removed")]
    Interrupted,
    /// No measure has such a name.
    #[error("no measure begins with {0:?}")]
    NothingToMeasure(String),
}

impl Error {
    fn sql(doing: &'static str) -> impl FnOnce(sqlx::Error) -> Self {
        move |source| Self::Sql { doing, source }
    }

    fn io(doing: &'static str) -> impl FnOnce(std::io::Error) -> Self {
        move |source| Self::Io { doing, source }
    }
}

impl Options {
    fn wants(&self, name: &str) -> bool {
        self.only.is_empty() || self.only.iter().any(|only| name.starts_with(only.as_str()))
    }

    fn wants_any(&self, names: &[&str]) -> bool {
        names.iter().any(|name| self.wants(name))
    }

    fn check(&self) -> Result<(), Error> {
        let all: Vec<&str> = report::NAMES.concat();
        let unknown = |only: &&String| !all.iter().any(|name| name.starts_with(only.as_str()));
        match self.only.iter().find(unknown) {
            Some(only) => Err(Error::NothingToMeasure(only.clone())),
            None => Ok(()),
        }
    }
}

/// Measures, and removes everything again; a signal ends it early.
pub async fn run(options: &Options, setup: &Setup) -> Result<Report, Error> {
    options.check()?;
    let progress = report::progress();
    let tasks = Tasks::new();
    progress.set_message("starting");
    let server = server::Server::start(options, setup, &progress).await?;
    let result = tokio::select! {
        result = measure(options, &server, &progress) => result,
        _ = tasks.wait_for_signal() => Err(Error::Interrupted),
    };
    progress.set_message("removing what was made");
    let removed = server.remove().await;
    tasks.stop_now();
    progress.finish_and_clear();
    let report = result?;
    removed?;
    Ok(report)
}

async fn measure(
    options: &Options,
    server: &server::Server,
    progress: &ProgressBar,
) -> Result<Report, Error> {
    let mut results = Vec::new();
    let mut rss_after: f64 = 0.0;
    let [
        accepts,
        doors,
        registers,
        streams,
        footprints,
        readies,
        peoples,
        bursts,
        fleets,
    ] = report::NAMES;
    if options.wants_any(accepts) {
        let replica = replica::Replica::start(server, "api").await?;
        results.extend(accept::measure(options, server, &replica, progress).await?);
        results.extend(pace::measure(options, server, &replica, progress).await?);
        rss_after = replica.rss_mib()?;
        replica.stop().await?;
        server.empty_inbox().await?;
    }
    if options.wants_any(doors) {
        let replica = replica::Replica::start(server, "api").await?;
        results.extend(door::measure(options, server, &replica, progress).await?);
        rss_after = rss_after.max(replica.rss_mib()?);
        replica.stop().await?;
    }
    if options.wants_any(registers) {
        let replica = replica::Replica::start(server, "api").await?;
        results.extend(registrations::measure(options, server, &replica, progress).await?);
        rss_after = rss_after.max(replica.rss_mib()?);
        replica.stop().await?;
    }
    if options.wants_any(streams) {
        // one that has done nothing yet
        let replica = replica::Replica::start(server, "api").await?;
        results.push(streams::measure(options, server, &replica, progress).await?);
        replica.stop().await?;
    }
    if [footprints, readies, peoples]
        .iter()
        .any(|names| options.wants_any(names))
    {
        results.extend(measure_work(options, server, progress, rss_after).await?);
    }
    if options.wants_any(bursts) {
        results.extend(burst::measure(options, server, progress).await?);
    }
    // the last one: it changes the blueprint
    if options.wants_any(fleets) {
        results.extend(fleet::measure(options, server, progress).await?);
    }
    let environment = server.environment().await?;
    Ok(Report {
        results,
        environment,
    })
}

/// By replicas that work; `rss_before` is the memory of those that accepted.
async fn measure_work(
    options: &Options,
    server: &server::Server,
    progress: &ProgressBar,
    rss_before: f64,
) -> Result<Vec<Measure>, Error> {
    let mut results = Vec::new();
    // the template is built now: no measure is to include that
    replica::Replica::start_with_template(server)
        .await?
        .stop()
        .await?;
    results.extend(footprint::start(options, server, progress).await?);
    let replica = replica::Replica::start_with_template(server).await?;
    results.extend(footprint::idle(options, &replica).await?);
    results.extend(ready::measure(options, server, &replica, progress).await?);
    results.extend(people::measure(options, server, &replica, progress).await?);
    let rss_mib = rss_before.max(replica.rss_mib()?);
    results.extend(footprint::after(options, rss_mib));
    replica.stop().await?;
    if options.wants("ready_serial_pool") {
        results.push(ready::measure_pool(options, server, progress).await?);
    }
    Ok(results)
}
