//! The private `PostgreSQL` cluster that `dev`, `bench` and the tests run.
//!
//! ```text
//! claim the directory ─▶ find binaries ─▶ initdb (once) ─▶ supervisor ─▶ ready
//!                          └ fetch a build where there is none
//! ```
//!
//! Guarantees: one process at a time per directory; a server that listens on
//! 127.0.0.1 only, behind a random password; tenant roles reach no database
//! of the cluster itself; no server outlives the process that started it; an
//! ephemeral cluster leaves no directory. Works as root and as anybody else.
//!
//! It does not upgrade data between major versions, take backups, or survive
//! a power cut with `durable` off. It is never used where a database is
//! configured.

mod account;
mod binaries;
mod directory;
mod error;
mod fetch;
mod janitor;
mod postmaster;
mod server;

use std::ffi::OsString;
use std::fs;
use std::net::{Ipv4Addr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::Stdio;

use rustix::process::Signal;
use secrecy::{ExposeSecret, SecretString};
use sqlx::postgres::{PgConnectOptions, PgConnection, PgSslMode};
use sqlx::{ConnectOptions, Connection};

use self::account::Account;
use self::binaries::Binaries;
use self::directory::Directory;
use self::janitor::Janitor;
use self::server::{Launch, Server};

pub use self::directory::sweep;
pub use self::error::{Cause, Error};

/// The superuser of every private cluster.
pub const SUPERUSER: &str = "tenantry";

/// Below the range from which systems take ports for outgoing connections, so
/// that a halted server finds its port free again.
const PORTS: std::ops::Range<u16> = 20_000..32_000;
const PORT_TRIES: usize = 5;

/// Where binaries may come from, when no directory is given.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum BinarySource {
    /// Installed ones, else a fetched build.
    #[default]
    Any,
    /// Installed ones only: never use the network.
    Installed,
    /// A fetched build only, whatever is installed.
    Fetched,
}

/// What cluster to run, and where.
#[derive(Debug, Clone)]
pub struct Settings {
    /// The directory of the cluster; created where it is missing.
    pub dir: PathBuf,
    /// Where a fetched build is kept; open to the user that runs the server.
    pub cache_dir: PathBuf,
    /// The directory with `initdb` and `postgres`, if not to be searched for.
    pub bin: Option<PathBuf>,
    /// The value of PATH, to search after the usual places.
    pub search_path: Option<OsString>,
    /// Where binaries may come from.
    pub binaries: BinarySource,
    /// Whether data survives a power cut: with fsync, or faster without.
    pub durable: bool,
    /// Whether the directory goes away together with the cluster.
    pub ephemeral: bool,
    /// How many connections the server accepts.
    pub max_connections: u16,
}

impl Settings {
    /// A cluster that is kept between runs.
    pub fn kept(dir: impl Into<PathBuf>, cache_dir: impl Into<PathBuf>) -> Self {
        Self {
            dir: dir.into(),
            cache_dir: cache_dir.into(),
            bin: None,
            search_path: None,
            binaries: BinarySource::Any,
            durable: true,
            ephemeral: false,
            max_connections: 200,
        }
    }

    /// A fast cluster in a new directory in `parent`, gone when it ends.
    pub fn ephemeral(parent: impl AsRef<Path>, cache_dir: impl Into<PathBuf>) -> Self {
        let name = format!(
            "{}{:016x}",
            directory::EPHEMERAL_PREFIX,
            rand::random::<u64>()
        );
        let kept = Self::kept(parent.as_ref().join(name), cache_dir);
        Self {
            durable: false,
            ephemeral: true,
            ..kept
        }
    }

    fn absolute(&self) -> Result<Self, Error> {
        let absolute = |path: &Path| {
            std::path::absolute(path).map_err(Error::io(format!("find {}", path.display())))
        };
        let mut settings = self.clone();
        settings.dir = absolute(&self.dir)?;
        settings.cache_dir = absolute(&self.cache_dir)?;
        settings.bin = self.bin.as_deref().map(absolute).transpose()?;
        Ok(settings)
    }
}

/// A running private cluster. Dropping it ends the server without waiting.
#[derive(Debug)]
pub struct PrivatePostgres {
    // Dropped in this order: the server loses its parent before the directory is let go.
    server: Option<Server>,
    janitor: Option<Janitor>,
    directory: Directory,
    account: Account,
    binaries: Binaries,
    settings: Settings,
    password: SecretString,
    port: u16,
}

impl PrivatePostgres {
    /// Starts the cluster, creating it first where it does not exist yet.
    pub async fn start(
        settings: &Settings,
        progress: impl Fn(&str) + Send + Sync,
    ) -> Result<Self, Error> {
        let settings = settings.absolute()?;
        let directory = Directory::claim(&settings.dir).await?;
        let janitor = settings
            .ephemeral
            .then(|| Janitor::hire(&settings.dir))
            .transpose()?;
        let binaries = binaries::find(&settings, directory.data_version(), &progress).await?;
        let account = Account::choose(&directory.data())?;
        account.check_owner(&settings.dir)?;
        account.give(&settings.dir)?;
        account.check_reach(&settings.dir, &binaries.postgres())?;
        let mut cluster = Self {
            server: None,
            janitor,
            directory,
            account,
            binaries,
            settings,
            password: SecretString::default(),
            port: 0,
        };
        cluster.create_once(&progress).await?;
        cluster.password = cluster.directory.read_password()?;
        progress(&format!("starting PostgreSQL {}", cluster.version()));
        cluster.start_on_free_port().await?;
        cluster.prepare_once().await?;
        Ok(cluster)
    }

    /// The address of a database for the superuser; contains the password.
    pub fn url(&self, database: &str) -> String {
        let (password, port) = (self.password.expose_secret(), self.port);
        format!("postgresql://{SUPERUSER}:{password}@127.0.0.1:{port}/{database}")
    }

    /// The port on 127.0.0.1.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// The version of the server, like `17.2`.
    pub fn version(&self) -> &str {
        self.binaries.version()
    }

    /// The directory of the cluster.
    pub fn dir(&self) -> &Path {
        &self.settings.dir
    }

    /// False after the server ended, by us or by itself: [`Self::restart`] it.
    pub fn is_running(&mut self) -> bool {
        self.server.as_mut().is_some_and(Server::is_running)
    }

    /// Ends the server in order, and waits until nothing is left of it.
    pub async fn stop(mut self) -> Result<(), Error> {
        if let Some(server) = self.server.take() {
            server.close(&self.settings.dir).await?;
        }
        if let Some(janitor) = self.janitor.take() {
            janitor.dismiss().await;
        }
        Ok(())
    }

    /// Crashes the server: no checkpoint, no farewell. For tests.
    pub async fn crash(&mut self) -> Result<(), Error> {
        self.end(Signal::QUIT).await
    }

    /// Stops the server in order, keeping the directory. For tests.
    pub async fn halt(&mut self) -> Result<(), Error> {
        self.end(Signal::INT).await
    }

    /// Starts the server again on the same data and port.
    pub async fn restart(&mut self) -> Result<(), Error> {
        self.halt().await?;
        self.launch(self.port).await
    }

    async fn end(&mut self, signal: Signal) -> Result<(), Error> {
        match self.server.take() {
            Some(server) => server.signal(signal, &self.settings.dir).await,
            None => Ok(()),
        }
    }

    async fn launch(&mut self, port: u16) -> Result<(), Error> {
        let leash = self.janitor.as_ref().map(Janitor::leash).transpose()?;
        let launch = Launch {
            directory: &self.directory,
            account: &self.account,
            postgres: &self.binaries.postgres(),
            port,
            max_connections: self.settings.max_connections,
            durable: self.settings.durable,
            last_signal: if self.settings.ephemeral {
                "QUIT"
            } else {
                "INT"
            },
            leash,
        };
        self.server = Some(Server::launch(launch).await?);
        self.port = port;
        Ok(())
    }

    async fn start_on_free_port(&mut self) -> Result<(), Error> {
        let mut port = free_port(self.directory.last_port())?;
        for _ in 1..PORT_TRIES {
            match self.launch(port).await {
                // Somebody took it between our look and the server's.
                Err(Error::Start {
                    cause: Cause::PortTaken,
                    ..
                }) => port = free_port(None)?,
                Err(error) => return Err(error),
                Ok(()) => {
                    self.directory.remember_port(port);
                    return Ok(());
                }
            }
        }
        self.launch(port).await
    }

    async fn create_once(&self, progress: &(dyn Fn(&str) + Send + Sync)) -> Result<(), Error> {
        let data = self.directory.data();
        if data.exists() {
            return Ok(());
        }
        progress(&format!("creating a PostgreSQL {} cluster", self.version()));
        let unfinished = self.directory.unfinished_data();
        if unfinished.exists() {
            let action = format!("remove {}", unfinished.display());
            fs::remove_dir_all(&unfinished).map_err(Error::io(action))?;
        }
        self.directory.write_password()?;
        self.account.give(&self.directory.password_file())?;
        self.initdb(&unfinished).await?;
        fs::rename(&unfinished, &data).map_err(Error::io(format!("create {}", data.display())))
    }

    async fn initdb(&self, data: &Path) -> Result<(), Error> {
        let mut command = self.account.command(&self.binaries.initdb());
        command
            .arg("-D")
            .arg(data)
            .arg("--pwfile")
            .arg(self.directory.password_file())
            .args([
                "--username",
                SUPERUSER,
                "--encoding=UTF8",
                "--locale=C",
                "--auth=scram-sha-256",
                "--no-instructions",
            ]);
        if !self.settings.durable {
            command.arg("--no-sync");
        }
        // Should we be killed, the lock stays taken until initdb is done too.
        command
            .stdin(self.directory.share_lock()?)
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        let output = tokio::process::Command::from(command)
            .kill_on_drop(true)
            .output()
            .await
            .map_err(Error::io("run initdb"))?;
        if output.status.success() {
            return Ok(());
        }
        let output = String::from_utf8_lossy(&output.stderr).into_owned();
        Err(Error::Initdb {
            dir: self.settings.dir.clone(),
            cause: Cause::of(&output),
            output: directory::last_lines(&output),
        })
    }

    /// Closes the databases of the cluster itself to everybody but us.
    async fn prepare_once(&self) -> Result<(), Error> {
        let marker = self.settings.dir.join("prepared");
        if marker.exists() {
            return Ok(());
        }
        let options = PgConnectOptions::new_without_pgpass()
            .host(&Ipv4Addr::LOCALHOST.to_string())
            .port(self.port)
            .username(SUPERUSER)
            .password(self.password.expose_secret())
            .database("postgres")
            .ssl_mode(PgSslMode::Disable);
        let mut connection: PgConnection = options.connect().await.map_err(Error::Prepare)?;
        sqlx::query("revoke connect on database postgres, template1 from public")
            .execute(&mut connection)
            .await
            .map_err(Error::Prepare)?;
        connection.close().await.map_err(Error::Prepare)?;
        fs::write(&marker, "").map_err(Error::io(format!("write {}", marker.display())))
    }
}

/// The wanted port where it is free, else any.
fn free_port(wanted: Option<u16>) -> Result<u16, Error> {
    let random = (0..50).map(|_| rand::random_range(PORTS));
    wanted
        .into_iter()
        .chain(random)
        .find(|port| TcpListener::bind((Ipv4Addr::LOCALHOST, *port)).is_ok())
        .map_or_else(any_port, Ok)
}

fn any_port() -> Result<u16, Error> {
    TcpListener::bind((Ipv4Addr::LOCALHOST, 0))
        .and_then(|listener| listener.local_addr())
        .map(|address| address.port())
        .map_err(Error::io("find a free port"))
}
