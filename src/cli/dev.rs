//! `tenantry dev`: everything on a private Postgres, and a first tenant to look at.
//!
//! Guarantees: nothing needs to be configured; nothing is left running afterwards, however it ends;
//! data is kept between runs unless `--fresh`; the first tenant goes the way of every other, over
//! real HTTP with a real signature.

use std::{
    collections::BTreeMap,
    fs,
    os::unix::fs::DirBuilderExt,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use secrecy::{ExposeSecret, SecretString};
use sqlx::{Connection, PgConnection};

use super::{
    Exit, Failure, Globals,
    access::{self, Access},
    sample, tenants,
    timeline::{self, Story},
};
use crate::{
    config::Config,
    private_postgres::{BinarySource, PrivatePostgres, Settings},
    provisioning::BlueprintSource,
    replica::Replica,
    secrets::{self, Keyring},
    telemetry,
    webhooks::SourceKind,
};

const CONTROL_DATABASE: &str = "tenantry";
const KEYS_FILE: &str = "secrets.json";

#[derive(Debug, clap::Args)]
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
    /// Blueprint directory [default: ./blueprint if there is one, else the built-in example]
    #[arg(long, value_name = "DIR")]
    blueprint: Option<PathBuf>,
    /// Exit when the first tenant is ready
    #[arg(long)]
    once: bool,
    /// How long the first tenant may take, in seconds
    #[arg(long, default_value_t = 60, value_name = "SECONDS")]
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
    let directory = options
        .data_dir
        .clone()
        .unwrap_or_else(|| access::dev_directory(&globals.environment));
    let settings = postgres_settings(globals, &options, &directory);
    make(&directory)?;
    if options.fresh {
        discard(&directory).await?;
    }
    let printer = globals.printer;
    let postgres =
        PrivatePostgres::start(&settings, |progress| printer.talk(format!("· {progress}"))).await?;
    // whatever happens from here on, Postgres is stopped before the answer is given
    let result = with_postgres(globals, &options, &directory, &postgres, started).await;
    let stopped = postgres.stop().await;
    result?;
    stopped?;
    Ok(())
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
        ..Settings::kept(directory.join("postgres"), directory.join("cache"))
    }
}

/// Makes the directory: as root one that the server's own user can pass through.
fn make(directory: &Path) -> Result<(), Failure> {
    let mode = if rustix::process::geteuid().is_root() {
        0o755
    } else {
        0o700
    };
    fs::DirBuilder::new()
        .recursive(true)
        .mode(mode)
        .create(directory)
        .map_err(|error| {
            Failure::failed(
                format!("cannot make {}: {error}", directory.display()),
                "give another directory with --data-dir",
            )
        })
}

/// Removes the cluster and the secrets that belong to it, and only those.
async fn discard(directory: &Path) -> Result<(), Failure> {
    PrivatePostgres::discard(&directory.join("postgres")).await?;
    let keys = directory.join(KEYS_FILE);
    match fs::remove_file(&keys) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(Failure::failed(
            format!("cannot remove {}: {error}", keys.display()),
            "give another --data-dir",
        )),
        _ => Ok(()),
    }
}

async fn with_postgres(
    globals: &Globals,
    options: &Options,
    directory: &Path,
    postgres: &PrivatePostgres,
    started: Instant,
) -> Result<(), Failure> {
    ensure_control_database(postgres).await?;
    let (config, variables) = configure(globals, options, directory, postgres)?;
    telemetry::init(&config.log);
    let blueprint = blueprint(options, &config);
    let replica = Replica::new(config.clone(), blueprint)?;
    let address = replica.serve_http().await?;
    let signal = replica.tasks.clone();
    let work = first_tenant(
        globals, options, &replica, config, address, &variables, directory,
    );
    let result = tokio::select! {
        result = work => result,
        signal = signal.wait_for_signal() => signal.map(|()| None).map_err(|error| Failure::unexpected(&error)),
    };
    let result = match result {
        Ok(Some((shown, _announced))) if !options.once => {
            shown.print(globals, postgres, started);
            replica
                .tasks
                .wait_for_signal()
                .await
                .map_err(|error| Failure::unexpected(&error))
        }
        Ok(Some((shown, _))) if options.json => globals.printer.json(&shown.story),
        Ok(Some((shown, _))) => {
            shown.print(globals, postgres, started);
            Ok(())
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

async fn ensure_control_database(postgres: &PrivatePostgres) -> Result<(), Failure> {
    let mut connection = PgConnection::connect(&postgres.url("postgres")).await?;
    let exists: bool =
        sqlx::query_scalar("select exists (select from pg_database where datname = $1)")
            .bind(CONTROL_DATABASE)
            .fetch_one(&mut connection)
            .await?;
    if !exists {
        crate::tenant_db::databases::create_control(&mut connection, CONTROL_DATABASE)
            .await
            .map_err(|error| Failure::unexpected(&error))?;
    }
    connection.close().await?;
    Ok(())
}

/// The configuration of this instance, also as the variables with which other commands reach it.
fn configure(
    globals: &Globals,
    options: &Options,
    directory: &Path,
    postgres: &PrivatePostgres,
) -> Result<(Config, BTreeMap<String, String>), Failure> {
    let mut variables = dev_secrets(&directory.join(KEYS_FILE)).map_err(|error| {
        Failure::failed(
            format!("cannot keep the secrets of this instance: {error}"),
            "give another --data-dir",
        )
    })?;
    variables.insert("DATABASE_URL".to_owned(), postgres.url(CONTROL_DATABASE));
    let mut environment = globals.environment.with(variables.clone());
    // a private instance never works on somebody's real database or in somebody's real name
    environment.set("DATABASE_URL", &variables["DATABASE_URL"]);
    let mut config = Config::load(globals.config.clone(), &environment)?;
    config.clusters.clear();
    if let Some(port) = options.port {
        super::serve::set_port(&mut config, port);
    }
    Ok((config, variables))
}

/// Key and webhook secret: made once, kept as long as the data that they belong to.
fn dev_secrets(path: &Path) -> std::io::Result<BTreeMap<String, String>> {
    if let Ok(text) = fs::read(path) {
        return Ok(serde_json::from_slice(&text)?);
    }
    let key = Keyring::generate("dev").map_err(std::io::Error::other)?;
    let secret = secrets::random_password().map_err(std::io::Error::other)?;
    let made: BTreeMap<String, String> = [
        ("TENANTRY__SECRETS__KEYS", key.expose_secret().to_owned()),
        (
            "WORKOS_WEBHOOK_SECRET",
            format!("whsec_{}", secret.expose_secret()),
        ),
    ]
    .map(|(name, value)| (name.to_owned(), value))
    .into();
    access::write_private(path, &made)?;
    Ok(made)
}

fn blueprint(options: &Options, config: &Config) -> BlueprintSource {
    let configured = &config.blueprint.directory;
    match &options.blueprint {
        Some(directory) => BlueprintSource::Directory(directory.clone()),
        None if configured.join("blueprint.toml").exists() => {
            BlueprintSource::Directory(configured.clone())
        }
        None => BlueprintSource::Bundled,
    }
}

/// What the first screen shows.
struct Shown {
    story: Story,
    tenant_url: String,
    webhook_url: String,
    webhook_secret: String,
    blueprint: String,
}

/// Migrates, builds the template, starts to work, and sends a first event over real HTTP.
async fn first_tenant(
    globals: &Globals,
    options: &Options,
    replica: &Replica,
    mut config: Config,
    address: std::net::SocketAddr,
    variables: &BTreeMap<String, String>,
    directory: &Path,
) -> Result<Option<(Shown, access::Announced)>, Failure> {
    config.server.listen = address.to_string();
    replica.migrate().await?;
    globals
        .printer
        .talk("· building the template of the blueprint");
    replica.build_templates().await?;
    replica.work();
    let announced = announce(directory, variables, address)?;
    let base = sample::base_url(&config)?;
    let (source, secret) = signing_secret(&config)?;
    let org = format!("org_{}", uuid::Uuid::now_v7().simple());
    let event = sample::event(SourceKind::Workos, "organization.created", &org, "Acme");
    let answer = sample::deliver(&base, &source, SourceKind::Workos, &secret, &event).await;
    let (status, body) = answer.map_err(|error| {
        Failure::failed(
            format!("the first event was not delivered: {error}"),
            "run `tenantry doctor`",
        )
    })?;
    if status != 200 {
        return Err(Failure::failed(
            format!("the first event was answered {status}: {body}"),
            "run `tenantry doctor`",
        ));
    }
    let deadline = Instant::now() + Duration::from_secs(options.timeout);
    let tenant = timeline::find_by_org(&replica.db, &org, deadline).await?;
    let story = timeline::follow(&replica.db, tenant.id, deadline, |_| {}).await?;
    let access = Access {
        config: config.clone(),
        db: replica.db.clone(),
    };
    let shown = Shown {
        tenant_url: tenants::url(&access, &story.tenant).await?,
        webhook_url: format!("http://{address}/webhooks/{source}"),
        webhook_secret: secret.expose_secret().to_owned(),
        blueprint: match &replica.provisioner.blueprint {
            BlueprintSource::Bundled => "the built-in example (examples/crm)".to_owned(),
            BlueprintSource::Directory(directory) => directory.display().to_string(),
        },
        story,
    };
    Ok(Some((shown, announced)))
}

fn signing_secret(config: &Config) -> Result<(String, SecretString), Failure> {
    let workos = config
        .routed_sources()
        .find(|(_, source)| source.kind == SourceKind::Workos);
    let secret =
        workos.and_then(|(name, source)| Some((name.clone(), source.secrets.first()?.clone())));
    secret.ok_or_else(|| {
        Failure::new(
            Exit::Usage,
            "no source of kind workos has a secret",
            "remove the [sources] section, or give it a secret",
        )
    })
}

fn announce(
    directory: &Path,
    variables: &BTreeMap<String, String>,
    address: std::net::SocketAddr,
) -> Result<access::Announced, Failure> {
    let mut variables = variables.clone();
    variables.insert("TENANTRY__SERVER__LISTEN".to_owned(), address.to_string());
    variables.insert(
        "TENANTRY_DEV_PID".to_owned(),
        std::process::id().to_string(),
    );
    access::announce(directory, &variables).map_err(|error| {
        Failure::failed(
            format!("cannot write to {}: {error}", directory.display()),
            "give another --data-dir",
        )
    })
}

impl Shown {
    fn print(&self, globals: &Globals, postgres: &PrivatePostgres, started: Instant) {
        let printer = globals.printer;
        let Story {
            tenant,
            steps,
            total_ms,
        } = &self.story;
        printer.data(format!(
            "\ntenantry {} · Postgres {} on port {} · up in {:.1} s\n",
            env!("CARGO_PKG_VERSION"),
            postgres.version(),
            postgres.port(),
            started.elapsed().as_secs_f64(),
        ));
        printer.data(format!(
            "organization.created ─▶ tenant {} is ready after {total_ms:.1} ms",
            tenant.url
        ));
        for step in steps {
            printer.step(&step.name, step.duration_ms);
        }
        printer.data(format!(
            "\n  database   {} (schema {})\n  blueprint  {}\n  connect    psql '{}'",
            tenant.database, tenant.alembic_version, self.blueprint, self.tenant_url
        ));
        printer.data(format!(
            "\n  webhooks   {}\n  secret     {}",
            self.webhook_url, self.webhook_secret
        ));
        printer.data(
            "\nnext, from another terminal:\n  tenantry trigger organization.created --name \"Globex\"\n  tenantry tenants ls\n  tenantry events ls\n  tenantry init                  your own blueprint",
        );
    }
}
