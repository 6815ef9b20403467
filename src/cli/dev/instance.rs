//! What an instance of `dev` keeps and leaves: its directory, its secrets, and how to reach it.

use std::{
    collections::BTreeMap,
    fs, io,
    os::unix::fs::DirBuilderExt,
    path::{Path, PathBuf},
};

use secrecy::{ExposeSecret, SecretString};
use sqlx::{Connection, PgConnection};

use super::super::{Exit, Failure, Globals, access, serve};
use crate::{
    causes::chain,
    config::Config,
    private_postgres::PrivatePostgres,
    provisioning::BlueprintSource,
    secrets::{self, Keyring},
    tenant_db::databases,
    webhooks::SourceKind,
};

const CONTROL_DATABASE: &str = "tenantry";
const SECRETS_FILE: &str = "secrets.json";
const OTHER_DIRECTORY: &str = "give another directory with --data-dir";

/// A configured instance.
pub(super) struct Instance {
    pub(super) config: Config,
    directory: PathBuf,
    /// What another command needs in its environment to reach this instance.
    variables: BTreeMap<String, String>,
}

/// Makes the directory: as root one that the server's own user can pass through.
pub(super) fn make_directory(directory: &Path) -> Result<(), Failure> {
    let mode = if rustix::process::geteuid().is_root() {
        0o755
    } else {
        0o700
    };
    fs::DirBuilder::new()
        .recursive(true)
        .mode(mode)
        .create(directory)
        .map_err(|error| failed(&format!("make {}", directory.display()), &error))
}

/// Removes the cluster and the secrets that belong to it, and only those.
pub(super) async fn discard(directory: &Path) -> Result<(), Failure> {
    PrivatePostgres::discard(&directory.join("postgres")).await?;
    let secrets = directory.join(SECRETS_FILE);
    match fs::remove_file(&secrets) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            Err(failed(&format!("remove {}", secrets.display()), &error))
        }
        _ => Ok(()),
    }
}

/// The blueprint, for people.
pub(super) fn describe(blueprint: &BlueprintSource) -> String {
    match blueprint {
        BlueprintSource::Bundled => "the built-in example (examples/crm)".to_owned(),
        BlueprintSource::Directory(directory) => directory.display().to_string(),
    }
}

fn failed(doing: &str, error: &io::Error) -> Failure {
    Failure::failed(format!("cannot {doing}: {error}"), OTHER_DIRECTORY)
}

impl Instance {
    /// The instance's secrets, control database and configuration.
    pub(super) async fn prepare(
        globals: &Globals,
        port: Option<u16>,
        directory: &Path,
        postgres: &PrivatePostgres,
    ) -> Result<Self, Failure> {
        ensure_control_database(postgres).await?;
        let mut variables = instance_secrets(&directory.join(SECRETS_FILE))
            .map_err(|error| failed("keep the secrets of this instance", &error))?;
        let url = postgres.url(CONTROL_DATABASE);
        let mut environment = globals.environment.with(variables.clone());
        // a private instance never works on a real database, whatever the environment says
        environment.set("DATABASE_URL", &url);
        variables.insert("DATABASE_URL".to_owned(), url);
        let mut config = Config::load(globals.config.clone(), &environment)?;
        config.clusters.clear();
        if let Some(port) = port {
            serve::set_port(&mut config, port);
        }
        Ok(Self {
            config,
            directory: directory.to_owned(),
            variables,
        })
    }

    /// Leaves word for commands in other terminals, until the answer is dropped.
    pub(super) fn announce(
        &self,
        blueprint: &BlueprintSource,
    ) -> Result<access::Announced, Failure> {
        let mut variables = self.variables.clone();
        let mut set = |name: &str, value: String| variables.insert(name.to_owned(), value);
        set(
            "TENANTRY__SERVER__LISTEN",
            self.config.server.listen.clone(),
        );
        set(access::DEV_PID, std::process::id().to_string());
        if let BlueprintSource::Directory(directory) = blueprint {
            let directory = std::path::absolute(directory).unwrap_or_else(|_| directory.clone());
            set(
                "TENANTRY__BLUEPRINT__DIRECTORY",
                directory.display().to_string(),
            );
        }
        access::announce(&self.directory, &variables)
            .map_err(|error| failed(&format!("write to {}", self.directory.display()), &error))
    }

    /// The first source that speaks as WorkOS does, and a secret of it.
    pub(super) fn signing_secret(&self) -> Result<(String, SecretString), Failure> {
        let mut sources = self.config.routed_sources();
        let workos = sources.find(|(_, source)| source.kind == SourceKind::Workos);
        let secret =
            workos.and_then(|(name, source)| Some((name.clone(), source.secrets.first()?.clone())));
        let hint = "remove the [sources] section, or give it a secret";
        secret
            .ok_or_else(|| Failure::new(Exit::Usage, "no source of kind workos has a secret", hint))
    }
}

async fn ensure_control_database(postgres: &PrivatePostgres) -> Result<(), Failure> {
    let mut connection = PgConnection::connect(&postgres.url("postgres")).await?;
    let exists = "select exists (select from pg_database where datname = $1)";
    let exists: bool = sqlx::query_scalar(exists)
        .bind(CONTROL_DATABASE)
        .fetch_one(&mut connection)
        .await?;
    if !exists {
        databases::create_control(&mut connection, CONTROL_DATABASE)
            .await
            .map_err(|error| {
                Failure::failed(chain(&error), "the log of the private Postgres says more")
            })?;
    }
    connection.close().await?;
    Ok(())
}

/// Key and webhook secret: made once, kept as long as the data that they belong to.
fn instance_secrets(path: &Path) -> io::Result<BTreeMap<String, String>> {
    match fs::read(path) {
        Ok(text) => return Ok(serde_json::from_slice(&text)?),
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        Err(_) => {}
    }
    let key = Keyring::generate("dev").map_err(io::Error::other)?;
    let secret = secrets::random_password().map_err(io::Error::other)?;
    let made = BTreeMap::from([
        (
            "TENANTRY__SECRETS__KEYS".to_owned(),
            key.expose_secret().to_owned(),
        ),
        (
            "WORKOS_WEBHOOK_SECRET".to_owned(),
            format!("whsec_{}", secret.expose_secret()),
        ),
    ]);
    access::write_private(path, &made)?;
    Ok(made)
}
