//! A replica: `tenantry serve` as a process of its own, configured through its environment.
//!
//! Guarantees: nothing of this process's environment reaches it; it does not outlive its value.

use std::{
    fs::File,
    net::{Ipv4Addr, SocketAddr, TcpListener},
    path::PathBuf,
    process::Stdio,
    time::{Duration, Instant},
};

use rustix::process::{Pid, Signal, kill_process};
use tokio::process::{Child, Command};

use super::{
    Error,
    sender::Sender,
    server::{Server, has_row},
};

/// A template of the worked blueprint takes a second or two.
const START_LIMIT: Duration = Duration::from_mins(1);
const FILL_LIMIT: Duration = Duration::from_mins(5);
const STOP_LIMIT: Duration = Duration::from_secs(30);
const POLL: Duration = Duration::from_millis(1);

/// A running replica.
#[derive(Debug)]
pub(super) struct Replica {
    /// Where it answers.
    pub address: SocketAddr,
    /// From its start until it said that it is ready.
    pub started_in: Duration,
    child: Child,
    log: PathBuf,
}

impl Replica {
    /// Starts one with these roles and waits until it is ready.
    pub(super) async fn start(server: &Server, roles: &str) -> Result<Self, Error> {
        Self::start_with(server, roles, &[]).await
    }

    /// Starts one that works, with a pool of so many databases, and waits until they are ready.
    pub(super) async fn start_with_pool(server: &Server, size: u32) -> Result<Self, Error> {
        let size_of_pool = [("TENANTRY__POOL__SIZE", size.to_string())];
        let replica = Self::start_with(server, "api,worker", &size_of_pool).await?;
        replica.wait_for_pool(server, size).await?;
        Ok(replica)
    }

    /// Waits until so many databases of the pool are ready.
    pub(super) async fn wait_for_pool(&self, server: &Server, size: u32) -> Result<(), Error> {
        let mut control = server.control().await?;
        let filled = format!(
            "select
             from pool_databases
             where cluster = 'main' and state = 'ready'
             having count(*) >= {size}"
        );
        let started = Instant::now();
        while !has_row(&mut control, &filled).await? {
            if started.elapsed() > FILL_LIMIT {
                return Err(self.not_ready());
            }
            tokio::time::sleep(POLL).await;
        }
        Ok(())
    }

    async fn start_with(
        server: &Server,
        roles: &str,
        more: &[(&'static str, String)],
    ) -> Result<Self, Error> {
        let address = free_address()?;
        let log = server.scratch.join("replica.log");
        let stderr = File::create(&log).map_err(Error::io("opening the replica's log"))?;
        let started = Instant::now();
        let child = command(server, &["serve", "--roles", roles], stderr)
            .envs(more.iter().map(|(name, value)| (name, value)))
            .env("TENANTRY__SERVER__LISTEN", address.to_string())
            .spawn()
            .map_err(Error::io("starting a replica"))?;
        let mut replica = Self {
            address,
            started_in: Duration::ZERO,
            child,
            log,
        };
        replica.wait_until_ready(started).await?;
        Ok(replica)
    }

    /// Starts one that works, and waits until tenants can be cloned.
    pub(super) async fn start_with_template(server: &Server) -> Result<Self, Error> {
        let replica = Self::start(server, "api,worker").await?;
        let mut maintenance = server.maintenance().await?;
        let sealed = format!(
            "select from pg_database where starts_with(datname, '{}') and datistemplate",
            server.config.tenants.prefix
        );
        let started = Instant::now();
        while !has_row(&mut maintenance, &sealed).await? {
            if started.elapsed() > START_LIMIT {
                return Err(replica.not_ready());
            }
            tokio::time::sleep(POLL).await;
        }
        Ok(replica)
    }

    async fn wait_until_ready(&mut self, started: Instant) -> Result<(), Error> {
        while !is_ready(self.address).await {
            let ended = self
                .child
                .try_wait()
                .map_err(Error::io("starting a replica"))?;
            if ended.is_some() || started.elapsed() > START_LIMIT {
                return Err(self.not_ready());
            }
            tokio::time::sleep(POLL).await;
        }
        self.started_in = started.elapsed();
        Ok(())
    }

    fn not_ready(&self) -> Error {
        let log = std::fs::read_to_string(&self.log).unwrap_or_default();
        let lines: Vec<&str> = log.lines().collect();
        let log = lines[lines.len().saturating_sub(15)..].join("\n");
        Error::Replica { log }
    }

    /// Its resident memory.
    pub(super) fn rss_mib(&self) -> Result<f64, Error> {
        self.memory_mib("VmRSS:")
    }

    /// The most that its resident memory has been.
    pub(super) fn most_rss_mib(&self) -> Result<f64, Error> {
        self.memory_mib("VmHWM:")
    }

    fn memory_mib(&self, line: &str) -> Result<f64, Error> {
        let doing = "reading the replica's memory";
        let path = format!("/proc/{}/status", self.child.id().unwrap_or_default());
        let status = std::fs::read_to_string(path).map_err(Error::io(doing))?;
        let kib = status
            .lines()
            .find_map(|text| text.strip_prefix(line))
            .and_then(|rest| rest.split_whitespace().next()?.parse::<f64>().ok());
        kib.map(|kib| kib / 1024.0)
            .ok_or_else(|| Error::io(doing)(std::io::ErrorKind::NotFound.into()))
    }

    /// Ends it in order.
    pub(super) async fn stop(mut self) -> Result<(), Error> {
        let pid = self
            .child
            .id()
            .and_then(|id| Pid::from_raw(id.cast_signed()));
        if let Some(pid) = pid {
            // it may have ended by itself
            let _ = kill_process(pid, Signal::TERM);
        }
        let doing = "ending a replica";
        match tokio::time::timeout(STOP_LIMIT, self.child.wait()).await {
            Ok(ended) => ended.map(|_| ()).map_err(Error::io(doing)),
            Err(_) => self.child.kill().await.map_err(Error::io(doing)),
        }
    }
}

/// Runs another command of the program, configured like a replica, to its end.
pub(super) async fn run_command(server: &Server, arguments: &[&str]) -> Result<(), Error> {
    let doing = "running a command";
    let log = server.scratch.join("command.log");
    let stderr = File::create(&log).map_err(Error::io(doing))?;
    let mut child = command(server, arguments, stderr)
        .spawn()
        .map_err(Error::io(doing))?;
    let ended = child.wait().await.map_err(Error::io(doing))?;
    if ended.success() {
        return Ok(());
    }
    let said = std::fs::read_to_string(log).map_err(Error::io(doing))?;
    Err(Error::io(doing)(std::io::Error::other(said)))
}

fn command(server: &Server, arguments: &[&str], stderr: File) -> Command {
    let mut command = Command::new(&server.program);
    command
        .args(arguments)
        .env_clear()
        .envs(server.variables.iter().map(|(name, value)| (name, value)))
        // where no tenantry.toml lies
        .current_dir(&server.scratch)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(stderr)
        .kill_on_drop(true);
    command
}

/// An address that is free now: a replica that takes any does not say which.
fn free_address() -> Result<SocketAddr, Error> {
    TcpListener::bind((Ipv4Addr::LOCALHOST, 0))
        .and_then(|listener| listener.local_addr())
        .map_err(Error::io("looking for a free port"))
}

async fn is_ready(address: SocketAddr) -> bool {
    match Sender::connect(address).await {
        Ok(mut sender) => sender.get("/readyz").await.is_ok(),
        Err(_) => false,
    }
}
