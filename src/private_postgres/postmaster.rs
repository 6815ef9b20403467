//! `postmaster.pid`: what the server says about itself.
//!
//! The file outlives a server that was killed, so what it says counts only
//! together with the process it names. A number that now belongs to another
//! program would make `PostgreSQL` refuse to start: such a file is removed. A
//! file whose process is gone is left to `PostgreSQL`, which also looks for
//! children that are still attached to the old shared memory.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use rustix::process::Pid;

use super::directory::is_alive;
use super::error::Error;

const LEAVE_LIMIT: Duration = Duration::from_secs(15);
const POLL: Duration = Duration::from_millis(50);

/// The contents of a `postmaster.pid`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct PidFile {
    text: String,
}

impl PidFile {
    pub(super) fn path(data: &Path) -> PathBuf {
        data.join("postmaster.pid")
    }

    pub(super) fn read(data: &Path) -> Option<Self> {
        fs::read_to_string(Self::path(data))
            .ok()
            .map(|text| Self { text })
    }

    fn line(&self, number: usize) -> &str {
        self.text.lines().nth(number - 1).unwrap_or_default().trim()
    }

    pub(super) fn pid(&self) -> Option<Pid> {
        self.line(1).parse().ok().and_then(Pid::from_raw)
    }

    /// The process, once it accepts connections on that port.
    pub(super) fn ready_on(&self, port: u16) -> Option<Pid> {
        let ready = self.line(8) == "ready" && self.line(4) == port.to_string();
        self.pid().filter(|pid| ready && is_alive(*pid))
    }

    /// True when the process it names is a server of that data directory.
    pub(super) fn is_running(&self, data: &Path) -> bool {
        self.pid()
            .is_some_and(|pid| is_alive(pid) && serves(pid, data))
    }
}

/// Makes sure that no earlier server is in the way, and returns what an
/// earlier one left, so that it is not mistaken for the new one.
pub(super) async fn settle(data: &Path) -> Result<Option<PidFile>, Error> {
    let deadline = Instant::now() + LEAVE_LIMIT;
    loop {
        let Some(found) = PidFile::read(data) else {
            return Ok(None);
        };
        let Some(pid) = found.pid().filter(|pid| is_alive(*pid)) else {
            return Ok(Some(found));
        };
        if !serves(pid, data) {
            let path = PidFile::path(data);
            tracing::info!(
                pid = pid.as_raw_nonzero().get(),
                "removing a postmaster.pid that names another program"
            );
            fs::remove_file(&path).map_err(Error::io(format!("remove {}", path.display())))?;
            return Ok(None);
        }
        if Instant::now() > deadline {
            let dir = data.parent().unwrap_or(data).to_owned();
            return Err(Error::InUse {
                dir,
                pid: pid.as_raw_nonzero().to_string(),
            });
        }
        tokio::time::sleep(POLL).await;
    }
}

/// True when the process is, or may be, a server of that data directory: in
/// doubt it is, because two servers on one directory destroy it.
fn serves(pid: Pid, data: &Path) -> bool {
    let number = pid.as_raw_nonzero().to_string();
    let process = Path::new("/proc").join(&number);
    let arguments = fs::read(process.join("cmdline")).ok().or_else(|| {
        let output = Command::new("ps")
            .args(["-ww", "-o", "args=", "-p", &number])
            .output();
        output.ok().map(|output| output.stdout)
    });
    let is_postgres = |found: Vec<u8>| {
        let found = String::from_utf8_lossy(&found);
        found.contains("postgres") || found.contains("postmaster")
    };
    // A server works in its data directory.
    let elsewhere = || matches!((fs::read_link(process.join("cwd")), data.canonicalize()), (Ok(cwd), Ok(data)) if cwd != data);
    arguments.is_none_or(is_postgres) && !elsewhere()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pid_file(status: &str) -> PidFile {
        let pid = std::process::id();
        PidFile {
            text: format!("{pid}\n/data\n1700000000\n5433\n\n127.0.0.1\n  1 2\n{status}\n"),
        }
    }

    #[test]
    fn only_a_ready_server_on_our_port_counts() {
        assert!(pid_file("ready   ").ready_on(5433).is_some());
        assert!(pid_file("ready   ").ready_on(5434).is_none());
        assert!(pid_file("starting").ready_on(5433).is_none());
        assert!(
            PidFile {
                text: String::new()
            }
            .ready_on(5433)
            .is_none()
        );
    }

    #[test]
    fn a_process_that_works_elsewhere_is_not_its_server() {
        let data = tempfile::tempdir().expect("a directory");
        assert!(!pid_file("ready").is_running(data.path()));
    }
}
