//! A replica as a process of its own: what can be killed, stopped and continued.

use std::{
    io::{BufRead, BufReader},
    net::SocketAddr,
    os::unix::process::ExitStatusExt,
    process::{Child, Command, ExitStatus, Stdio},
    sync::{Arc, Mutex},
};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

use super::{
    Deployment,
    app::{get, wait_for, wait_until},
};

/// Where the program is: beside this binary, or where a copy of it was put.
pub fn program() -> std::path::PathBuf {
    let copied = std::env::var_os("TENANTRY_TEST_BINARY").map(std::path::PathBuf::from);
    copied.unwrap_or_else(|| env!("CARGO_BIN_EXE_tenantry").into())
}

/// The program under test.
pub fn tenantry() -> Command {
    let mut command = Command::new(program());
    // what the developer has configured must not decide a test, but for the version of Postgres
    for (name, _) in std::env::vars_os() {
        let name = name.to_string_lossy().into_owned();
        if ["TENANTRY", "DATABASE_URL", "WORKOS_", "CLERK_"]
            .iter()
            .any(|ours| name.starts_with(ours))
            && name != "TENANTRY_PG_BIN"
        {
            command.env_remove(name);
        }
    }
    command
}

/// `tenantry serve`, running; killed when dropped.
pub struct Process {
    child: Child,
    warnings: Arc<Mutex<Vec<Value>>>,
    log: Arc<Mutex<String>>,
    pub address: SocketAddr,
}

impl Process {
    /// Starts a replica that fails at the given points.
    pub async fn start(deployment: &Deployment, faults: &str) -> Self {
        Self::spawn(deployment, faults, "api,worker").await
    }

    /// Starts a replica that does only this.
    pub async fn with_roles(deployment: &Deployment, roles: &str) -> Self {
        Self::spawn(deployment, "", roles).await
    }

    async fn spawn(deployment: &Deployment, faults: &str, roles: &str) -> Self {
        let mut child = tenantry()
            .args(["serve", "--roles", roles])
            .env("TENANTRY__BLUEPRINT__DIRECTORY", "examples/crm")
            .envs(deployment.variables.iter().cloned())
            .env("TENANTRY__LOG__FORMAT", "json")
            .env("TENANTRY_FAULTS", faults)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let log = BufReader::new(child.stderr.take().unwrap());
        let warnings = Arc::<Mutex<Vec<Value>>>::default();
        let heard = Arc::clone(&warnings);
        let whole = Arc::<Mutex<String>>::default();
        let written = Arc::clone(&whole);
        let (tell, told) = tokio::sync::oneshot::channel();
        std::thread::spawn(move || {
            let mut tell = Some(tell);
            for line in log.lines().map_while(Result::ok) {
                written.lock().unwrap().push_str(&line);
                let entry: Value = serde_json::from_str(&line).unwrap_or_default();
                if entry["message"] == "listening" {
                    let address = entry["address"]
                        .as_str()
                        .unwrap()
                        .parse::<SocketAddr>()
                        .unwrap();
                    tell.take().unwrap().send(address).unwrap();
                }
                // shown only when the test fails
                if entry["level"] == "WARN" || entry["level"] == "ERROR" {
                    println!("{line}");
                    heard.lock().unwrap().push(entry);
                }
            }
        });
        // killed when dropped, also if it never says where it listens
        let mut process = Self {
            child,
            warnings,
            log: whole,
            address: SocketAddr::from(([127, 0, 0, 1], 0)),
        };
        process.address = told.await.expect("the replica listens");
        process
    }

    fn pid(&self) -> Pid {
        Pid::from_child(&self.child)
    }

    /// Waits until it says that it is ready.
    pub async fn is_ready(&self) {
        let ready = async || get(self.address, "/readyz").await.contains("200 OK");
        wait_until("the replica is ready", ready).await;
    }

    /// What it logged as a warning or an error.
    pub fn warnings(&self) -> Vec<Value> {
        self.warnings.lock().unwrap().clone()
    }

    /// Everything that it logged.
    pub fn log(&self) -> String {
        self.log.lock().unwrap().clone()
    }

    /// SIGKILL.
    pub fn kill(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    /// SIGTERM.
    pub fn terminate(&self) {
        kill_process(self.pid(), Signal::TERM).unwrap();
    }

    /// SIGSTOP.
    pub fn stop(&self) {
        kill_process(self.pid(), Signal::STOP).unwrap();
    }

    /// SIGCONT.
    pub fn resume(&self) {
        kill_process(self.pid(), Signal::CONT).unwrap();
    }

    /// Waits until it ended by itself.
    pub async fn has_ended(&mut self) -> ExitStatus {
        let child = std::sync::Mutex::new(&mut self.child);
        wait_for("the process ends", async || {
            child.lock().unwrap().try_wait().unwrap()
        })
        .await
    }

    /// Waits until it was ended by SIGKILL.
    pub async fn is_killed(&mut self) {
        assert_eq!(self.has_ended().await.signal(), Some(9));
    }

    /// Waits until it is stopped (SIGSTOP).
    pub async fn is_stopped(&self) {
        let stat = format!("/proc/{}/stat", self.child.id());
        let is_stopped = || {
            let text = std::fs::read_to_string(&stat).unwrap();
            text.rsplit(") ").next().unwrap().starts_with('T')
        };
        wait_until("the process is stopped", async || is_stopped()).await;
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
