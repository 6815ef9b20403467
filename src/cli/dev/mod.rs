//! `tenantry dev`: everything on a private Postgres, and a first tenant to look at.
//!
//! Guarantees: nothing needs to be configured; nothing is left running afterwards, however it ends;
//! data is kept between runs unless `--fresh`; the first tenant goes the way of every other, over
//! real HTTP with a real signature.

mod instance;
mod screen;

use std::{
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use secrecy::ExposeSecret;

use super::{
    Failure, Globals,
    access::{self, Access},
    keys, sample, tenants, timeline,
};
use crate::{
    private_postgres::{BinarySource, PrivatePostgres, Settings},
    provisioning::BlueprintSource,
    replica::{Replica, Sources},
    telemetry,
    webhooks::SourceKind,
};
use instance::Instance;
use screen::Screen;

#[derive(Debug, clap::Args)]
#[expect(
    clippy::struct_excessive_bools,
    reason = "each is a flag of the command line"
)]
pub(super) struct Options {
    /// Port of the HTTP server [default: that of server.listen, 8420]
    #[arg(long)]
    port: Option<u16>,
    /// Where the private Postgres keeps its data
    #[arg(long, value_name = "DIR")]
    data_dir: Option<PathBuf>,
    /// Begin with empty data
    #[arg(long)]
    fresh: bool,
    /// Blueprint directory [default: the configured one if it is there, else the built-in example]
    #[arg(long, value_name = "DIR")]
    blueprint: Option<PathBuf>,
    /// Exit when the first tenant is ready
    #[arg(long)]
    once: bool,
    /// How long the first tenant may take, in seconds
    #[arg(long, default_value_t = 60, value_name = "SECONDS", value_parser = clap::value_parser!(u64).range(..=31_536_000))]
    timeout: u64,
    /// With --once: print the tenant and its steps as JSON
    #[arg(long, requires = "once")]
    json: bool,
    /// Use a packaged Postgres even where one is installed
    #[arg(long)]
    fetch_postgres: bool,
}

pub(super) async fn run(globals: &Globals, options: Options) -> Result<(), Failure> {
    let started = Instant::now();
    let directory = match &options.data_dir {
        Some(directory) => directory.clone(),
        None => access::dev_directory(&globals.environment),
    };
    instance::make_directory(&directory)?;
    if options.fresh {
        instance::discard(&directory).await?;
    }
    let printer = globals.printer;
    let settings = postgres_settings(globals, &options, &directory);
    let progress = |line: &str| printer.talk(format!("· {line}"));
    let mut postgres = PrivatePostgres::start(&settings, progress).await?;
    // whatever happens from here on, Postgres is stopped before the answer is given
    let result = with_postgres(globals, &options, &directory, &mut postgres, started).await;
    let stopped = postgres.stop().await;
    result?;
    Ok(stopped?)
}

fn postgres_settings(globals: &Globals, options: &Options, directory: &Path) -> Settings {
    let environment = &globals.environment;
    Settings {
        bin: environment.get("TENANTRY_PG_BIN").map(PathBuf::from),
        search_path: environment.get("PATH").map(Into::into),
        binaries: if options.fetch_postgres {
            BinarySource::Fetched
        } else {
            BinarySource::Any
        },
        // as durable as a crash of the process needs; only a power cut could lose what was tried out
        durable: false,
        ..Settings::kept(directory.join("postgres"), directory.join("cache"))
    }
}

async fn with_postgres(
    globals: &Globals,
    options: &Options,
    directory: &Path,
    postgres: &mut PrivatePostgres,
    started: Instant,
) -> Result<(), Failure> {
    let instance = Instance::prepare(globals, options.port, directory, postgres).await?;
    telemetry::init(&instance.config.log);
    let configured = instance.config.blueprint.directory.clone();
    let blueprint = match &options.blueprint {
        Some(directory) => BlueprintSource::Directory(directory.clone()),
        None if configured.join("blueprint.toml").exists() => {
            BlueprintSource::Directory(configured)
        }
        None => BlueprintSource::Bundled,
    };
    let replica = Replica::new(instance.config.clone(), blueprint)?;
    let result = tokio::select! {
        result = until_first_tenant(globals, options, &replica, instance) => result.map(Some),
        signal = replica.tasks.wait_for_signal() => signal.map(|()| None).map_err(|error| Failure::unexpected(&error)),
    };
    let result = match result {
        Ok(Some((screen, _announced))) => {
            show(globals, options, &screen, &replica, postgres, started).await
        }
        Ok(None) if options.once => Err(Failure::failed(
            "interrupted before the first tenant was ready",
            "",
        )),
        Ok(None) => Ok(()),
        Err(failure) => Err(failure),
    };
    replica.finish().await;
    result
}

/// The first screen; then serves until a signal, unless one tenant was enough.
async fn show(
    globals: &Globals,
    options: &Options,
    screen: &Screen,
    replica: &Replica,
    postgres: &mut PrivatePostgres,
    started: Instant,
) -> Result<(), Failure> {
    if options.json {
        return globals.printer.json(&screen.story);
    }
    screen.print(globals.printer, postgres, started.elapsed());
    if options.once {
        return Ok(());
    }
    tokio::select! {
        signal = replica.tasks.wait_for_signal() => signal.map_err(|error| Failure::unexpected(&error)),
        () = has_ended(postgres) => Err(Failure::failed(
            "the private Postgres has ended by itself",
            format!("its log is {}; start `tenantry dev` again: the data is kept", postgres.dir().join("server.log").display()),
        )),
    }
}

async fn has_ended(postgres: &mut PrivatePostgres) {
    while postgres.is_running() {
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
}

/// Migrates, builds the template, starts to work, and sends a first event over real HTTP.
async fn until_first_tenant(
    globals: &Globals,
    options: &Options,
    replica: &Replica,
    mut instance: Instance,
) -> Result<(Screen, access::Announced), Failure> {
    let address = replica
        .serve_http(Sources::Routed, Some(replica.provisioner.blueprint.clone()))
        .await?;
    instance.config.server.listen = address.to_string();
    replica.migrate().await?;
    globals
        .printer
        .talk("· building the template of the blueprint");
    replica.build_templates().await?;
    replica.work();
    replica.tidy();
    let announced = instance.announce(&replica.provisioner.blueprint)?;
    let base = sample::base_url(&instance.config)?;
    let (source, secret) = instance.signing_secret()?;
    let org = sample::new_organization_id();
    let subject = sample::Subject {
        organization: org.clone(),
        name: "Acme".to_owned(),
        user: sample::new_user_id(),
        email: "ada@acme.example".to_owned(),
    };
    let event = sample::event(SourceKind::Workos, "organization.created", &subject);
    let answer = sample::deliver(&base, &source, SourceKind::Workos, &secret, &event).await;
    match answer {
        Ok((200, _)) => {}
        Ok((status, body)) => {
            let message = format!("the first event was answered {status}: {body}");
            return Err(Failure::failed(message, "run `tenantry doctor`"));
        }
        Err(error) => {
            let message = format!("the first event was not delivered: {error}");
            return Err(Failure::failed(message, "run `tenantry doctor`"));
        }
    }
    let deadline = Instant::now() + Duration::from_secs(options.timeout);
    let tenant = timeline::find_by_org(&replica.db, &org, deadline).await?;
    let story = timeline::follow(&replica.db, tenant.id, deadline, |_| {}).await?;
    let access = Access {
        config: instance.config,
        db: replica.db.clone(),
    };
    let tenant_url = tenants::url(&access, &story.tenant).await?;
    // nobody would see it in JSON; and last, so that it is not made and then not shown
    let api_key = if options.json {
        None
    } else {
        keys::create_first(globals, &replica.db).await?
    };
    let screen = Screen {
        tenant_url,
        api_key,
        webhook_url: format!("{base}webhooks/{source}"),
        webhook_secret: secret.expose_secret().to_owned(),
        blueprint: instance::describe(&replica.provisioner.blueprint),
        story,
    };
    Ok((screen, announced))
}
