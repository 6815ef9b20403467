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
mod cause;
mod create;
mod directory;
mod error;
mod fetch;
mod janitor;
mod package_client;
mod postmaster;
mod server;
mod settings;

use std::net::{Ipv4Addr, TcpListener};
use std::path::Path;

use rustix::process::Signal;
use secrecy::{ExposeSecret, SecretString};

use self::account::Account;
use self::binaries::Binaries;
use self::directory::Directory;
use self::janitor::Janitor;
use self::server::{Launch, Server};

pub use self::cause::Cause;
pub use self::directory::sweep;
pub use self::error::Error;
pub use self::settings::{BinarySource, Settings};

/// The superuser of every private cluster.
pub const SUPERUSER: &str = "tenantry";

/// Below the range from which systems take ports for outgoing connections, so
/// that a halted server finds its port free again.
const PORTS: std::ops::Range<u16> = 20_000..32_000;
const PORT_TRIES: usize = 5;

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
        let settings = settings.checked()?;
        let directory = Directory::claim(&settings.dir).await?;
        let account = Account::choose(&directory.data())?;
        account.check_owner(&settings.dir)?;
        let janitor = if settings.ephemeral {
            Some(Janitor::hire(&settings.dir)?)
        } else {
            None
        };
        let binaries = binaries::find(&settings, directory.data_version(), &progress).await?;
        let real_dir = settings.dir.canonicalize();
        account.give(&real_dir.map_err(Error::io("find the directory of the cluster"))?)?;
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
        cluster.create_where_missing(&progress).await?;
        cluster.password = cluster.directory.read_password()?;
        progress(&format!("starting PostgreSQL {}", cluster.version()));
        cluster.start_on_free_port().await?;
        create::prepare(&cluster.directory, cluster.port, &cluster.password).await?;
        Ok(cluster)
    }

    /// Removes the data of a cluster that does not run; the next start makes a new one.
    pub async fn discard(dir: &Path) -> Result<(), Error> {
        if !dir.join("data").exists() {
            return Ok(());
        }
        Directory::claim(dir).await?.clear()
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
        self.directory.release();
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

    async fn create_where_missing(&self, progress: impl Fn(&str)) -> Result<(), Error> {
        if self.directory.data().exists() {
            return Ok(());
        }
        progress(&format!("creating a PostgreSQL {} cluster", self.version()));
        let initdb = self.binaries.initdb();
        create::create(
            &self.directory,
            &self.account,
            &initdb,
            self.settings.durable,
        )
        .await
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
