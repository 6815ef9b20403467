//! `tenantry serve`: one replica against the configured databases, until a signal.
//!
//! Guarantees: the port answers before the database does; a database that is away is waited for;
//! one that was migrated by a newer tenantry, and a blueprint whose applied migrations were edited,
//! end the process with a reason; the first signal drains, the second ends at once.

use clap::ValueEnum;
use secrecy::ExposeSecret;

use super::{Exit, Failure, Globals};
use crate::{
    config::Config,
    provisioning::BlueprintSource,
    replica::{Replica, Sources},
    telemetry,
};

#[derive(Debug, clap::Args)]
pub(super) struct Options {
    /// What this process does
    #[arg(long, value_delimiter = ',', default_value = "api,worker")]
    roles: Vec<Role>,
    /// Listen on this port of the configured address
    #[arg(long)]
    port: Option<u16>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Role {
    /// Answer requests
    Api,
    /// Run jobs
    Worker,
}

pub(super) async fn run(globals: &Globals, options: Options) -> Result<(), Failure> {
    let mut config = Config::load(globals.config.clone(), &globals.environment)?;
    if config.database.url.expose_secret().is_empty() {
        return Err(Failure::new(
            Exit::Usage,
            "no control database is configured",
            "set DATABASE_URL=postgresql://user:password@host:5432/tenantry; to just try it: tenantry dev",
        ));
    }
    if let Some(port) = options.port {
        set_port(&mut config, port);
    }
    telemetry::init(&config.log);
    warn_of_gaps(&config);
    let works = options.roles.contains(&Role::Worker);
    let blueprint = BlueprintSource::Directory(config.blueprint.directory.clone());
    if works {
        blueprint.load().map_err(crate::replica::Error::from)?;
    }
    let replica = Replica::new(config, blueprint.clone())?;
    let address = {
        let takes = options.roles.contains(&Role::Api);
        let sources = if takes {
            Sources::Routed
        } else {
            Sources::None
        };
        let blueprint = works.then_some(blueprint);
        replica.serve_http(sources, blueprint).await?
    };
    tracing::info!(%address, "listening");
    let ended = tokio::select! {
        ended = prepare(&replica, works) => ended,
        signal = replica.tasks.wait_for_signal() => signal.map_err(|error| Failure::unexpected(&error)),
    };
    if ended.is_ok() && !replica.tasks.is_draining() {
        let signal = replica.tasks.wait_for_signal().await;
        signal.map_err(|error| Failure::unexpected(&error))?;
    }
    replica.finish().await;
    tracing::info!("stopped");
    ended
}

async fn prepare(replica: &Replica, works: bool) -> Result<(), Failure> {
    replica.migrate().await?;
    tracing::info!("the control database is migrated");
    replica.tidy();
    if works {
        replica.work();
        replica.build_templates().await?;
    }
    Ok(())
}

pub(super) fn set_port(config: &mut Config, port: u16) {
    let host = config
        .server
        .listen
        .rsplit_once(':')
        .map_or("127.0.0.1", |(host, _)| host);
    config.server.listen = format!("{host}:{port}");
}

fn warn_of_gaps(config: &Config) {
    for (name, source) in &config.sources {
        if source.secrets.is_empty() {
            tracing::warn!(
                source = name,
                "source has no secret: POST /webhooks/{name} is not routed"
            );
        }
    }
    if config.routed_sources().next().is_none() {
        tracing::warn!(
            "no source is configured: set WORKOS_WEBHOOK_SECRET or CLERK_WEBHOOK_SECRET, or a [sources.…] section"
        );
    }
}
