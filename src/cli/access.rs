//! Which instance a command talks to: the configured one, else the running `tenantry dev`.
//!
//! A running `dev` leaves a file that says how to reach it, as the environment variables that would
//! configure the same; commands without a configuration of their own read it.

use std::{
    collections::BTreeMap,
    fs,
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
};

use secrecy::ExposeSecret;
use sqlx::PgConnection;

use super::{Exit, Failure, Globals};
use crate::{
    config::{Config, Environment},
    db::Db,
    queue::Waker,
    secrets::Keyring,
    tenant_db::Clusters,
};

const INSTANCE_FILE: &str = "instance.json";

/// Names the process of a running `dev`.
pub(super) const DEV_PID: &str = "TENANTRY_DEV_PID";

/// An open control database, and what belongs to it.
pub(super) struct Access {
    pub(super) config: Config,
    pub(super) db: Db,
}

impl Access {
    /// One transaction that may give workers something to do, and the call that lets them look at once.
    pub(super) async fn change<T, E: From<sqlx::Error>>(
        &self,
        work: impl AsyncFnOnce(&mut PgConnection) -> Result<T, E>,
    ) -> Result<T, E> {
        let done = self.db.transaction(work).await?;
        Waker::call(&self.db).await;
        Ok(done)
    }

    pub(super) fn keyring(&self) -> Result<Keyring, Failure> {
        Keyring::parse(&self.config.secrets.keys).map_err(|error| {
            Failure::new(
                Exit::Usage,
                error,
                "configure secrets.keys: the key that seals the tenants' passwords",
            )
        })
    }

    pub(super) fn clusters(&self) -> Result<Clusters, Failure> {
        Clusters::new(&self.config).map_err(|error| Failure::unexpected(&error))
    }
}

/// The configuration: as given, or that of the running `dev`.
pub(super) fn config(globals: &Globals) -> Result<Config, Failure> {
    let config = Config::load(globals.config.clone(), &globals.environment)?;
    if !config.database.url.expose_secret().is_empty() {
        return Ok(config);
    }
    match read_instance(globals) {
        Some(variables) => {
            let environment = globals.environment.with(variables);
            Ok(Config::load(globals.config.clone(), &environment)?)
        }
        None => Ok(config),
    }
}

/// Opens the control database.
pub(super) fn open(globals: &Globals) -> Result<Access, Failure> {
    let config = config(globals)?;
    if config.database.url.expose_secret().is_empty() {
        return Err(Failure::new(
            Exit::Usage,
            "no instance: DATABASE_URL is not set and no `tenantry dev` is running",
            "set DATABASE_URL, or start `tenantry dev` in another terminal",
        ));
    }
    let db = Db::new(&config.database.url, config.database.max_connections.min(4))?;
    Ok(Access { config, db })
}

/// Where `dev` keeps its data.
pub(super) fn dev_directory(environment: &Environment) -> PathBuf {
    if let Some(directory) = environment.get("TENANTRY_DEV_DIR") {
        return PathBuf::from(directory);
    }
    if rustix::process::geteuid().is_root() {
        // not below /root: the server runs as another user and must get there
        return PathBuf::from("/var/lib/tenantry/dev");
    }
    let state = environment.get("XDG_STATE_HOME").map(PathBuf::from);
    let home = environment
        .get("HOME")
        .map(|home| PathBuf::from(home).join(".local/state"));
    state
        .or(home)
        .unwrap_or_else(std::env::temp_dir)
        .join("tenantry/dev")
}

/// Leaves the file; the returned guard removes it.
pub(super) fn announce(
    directory: &Path,
    variables: &BTreeMap<String, String>,
) -> std::io::Result<Announced> {
    let path = directory.join(INSTANCE_FILE);
    write_private(&path, variables)?;
    Ok(Announced(path))
}

/// Writes a file that holds secrets: for this user only, also when it was there before.
pub(super) fn write_private(
    path: &Path,
    variables: &BTreeMap<String, String>,
) -> std::io::Result<()> {
    if let Err(error) = fs::remove_file(path)
        && error.kind() != std::io::ErrorKind::NotFound
    {
        return Err(error);
    }
    let file = fs::OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(path)?;
    Ok(serde_json::to_writer_pretty(file, variables)?)
}

/// Removes the file of an instance that ends.
pub(super) struct Announced(PathBuf);

impl Drop for Announced {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.0);
    }
}

/// Whether commands talk to a running `dev` that uses the built-in example: whatever else runs on this machine.
pub(super) fn uses_bundled_blueprint(globals: &Globals, config: &Config) -> bool {
    let url = config.database.url.expose_secret();
    read_instance(globals).is_some_and(|variables| {
        variables.get("DATABASE_URL").is_some_and(|of| of == url)
            && !variables.contains_key("TENANTRY__BLUEPRINT__DIRECTORY")
    })
}

fn read_instance(globals: &Globals) -> Option<BTreeMap<String, String>> {
    let path = dev_directory(&globals.environment).join(INSTANCE_FILE);
    let variables: BTreeMap<String, String> = serde_json::from_slice(&fs::read(path).ok()?).ok()?;
    // the file of an instance that was killed names a process that is gone
    let pid = variables
        .get(DEV_PID)?
        .parse()
        .ok()
        .and_then(rustix::process::Pid::from_raw)?;
    rustix::process::test_kill_process(pid).ok()?;
    Some(variables)
}
