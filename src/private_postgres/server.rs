//! The server process and the shell that watches over it.
//!
//! ```text
//! we ──pipe──▶ supervisor (/bin/sh, own process group) ──▶ postgres
//!                  └─ watcher: reads the pipe, signals postgres when it ends
//! ```
//!
//! The kernel closes the pipe when we end, however we end: no signal, no
//! terminal and no crash of ours leaves a server behind. When the server ends
//! by itself so do the shells, which is how we notice. A `kill -9` of both
//! shells is the one way to orphan a server; the next start finds it.

use std::io::PipeWriter;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, ChildStdin, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal};

use super::account::Account;
use super::cause::Cause;
use super::directory::Directory;
use super::error::Error;
use super::postmaster::{self, PidFile};

/// `$1` is the signal, `$2` the log, the rest the server and its arguments.
///
/// Background commands of a shell ignore SIGINT until the server installs its
/// handler, and read from /dev/null: hence the repetition and descriptor 3.
/// Descriptor 1 is the lock: `sleep` must not keep it. The last line ends the
/// process group, which is the shells and that `sleep`.
const SUPERVISOR: &str = r#"
signal=$1; log=$2; shift 2
exec 3<&0 </dev/null
"$@" >>"$log" 2>&1 3<&- &
server=$!
{
    read -r _ <&3
    tries=0
    while kill -s "$signal" "$server"; do
        tries=$((tries + 1))
        [ "$tries" -lt 20 ] || signal=QUIT
        sleep 1 >/dev/null 2>&1 3<&-
    done
} 2>/dev/null &
watcher=$!
exec 3<&-
wait "$server"
kill -s KILL "$watcher"
wait "$watcher"
kill -s KILL 0
"#;

const START_LIMIT: Duration = Duration::from_mins(1);
const STOP_LIMIT: Duration = Duration::from_secs(40);
const POLL: Duration = Duration::from_millis(5);

/// What a server is started with.
pub(super) struct Launch<'a> {
    pub(super) directory: &'a Directory,
    pub(super) account: &'a Account,
    pub(super) postgres: &'a Path,
    pub(super) port: u16,
    pub(super) max_connections: u16,
    pub(super) durable: bool,
    /// The signal that ends the server when we do.
    pub(super) last_signal: &'static str,
    /// Held until the supervisor is gone.
    pub(super) leash: Option<PipeWriter>,
}

/// A running server.
#[derive(Debug)]
pub(super) struct Server {
    supervisor: Child,
    lifeline: Option<ChildStdin>,
    pid: Pid,
}

impl Server {
    /// Starts a server and waits until it accepts connections.
    pub(super) async fn launch(launch: Launch<'_>) -> Result<Self, Error> {
        let directory = launch.directory;
        let port = launch.port;
        let stale = postmaster::settle(&directory.data()).await?;
        directory.turn_log();
        let mut supervisor = spawn(launch)?;
        let lifeline = supervisor.stdin.take();
        let pid = wait_until_ready(&mut supervisor, directory, port, stale.as_ref()).await?;
        Ok(Self {
            supervisor,
            lifeline,
            pid,
        })
    }

    /// False as soon as the server has ended, for whatever reason.
    pub(super) fn is_running(&mut self) -> bool {
        matches!(self.supervisor.try_wait(), Ok(None))
    }

    /// Ends the server by closing the pipe, and waits until it is gone.
    pub(super) async fn close(mut self, dir: &Path) -> Result<(), Error> {
        drop(self.lifeline.take());
        self.wait(dir).await
    }

    /// Ends the server by a signal, and waits until it is gone.
    pub(super) async fn signal(mut self, signal: Signal, dir: &Path) -> Result<(), Error> {
        if self.is_running() {
            // It may end by itself just now.
            let _ = rustix::process::kill_process(self.pid, signal);
        }
        self.wait(dir).await
    }

    async fn wait(&mut self, dir: &Path) -> Result<(), Error> {
        let deadline = Instant::now() + STOP_LIMIT;
        while self.is_running() {
            if Instant::now() > deadline {
                return Err(Error::Stop {
                    dir: dir.to_owned(),
                    seconds: STOP_LIMIT.as_secs(),
                });
            }
            tokio::time::sleep(POLL).await;
        }
        Ok(())
    }
}

fn spawn(launch: Launch<'_>) -> Result<Child, Error> {
    let stderr = launch.leash.map_or_else(Stdio::null, Stdio::from);
    let mut command = launch.account.command(Path::new("/bin/sh"));
    command
        .args(["-c", SUPERVISOR, "tenantry-postgres", launch.last_signal])
        .arg(launch.directory.log())
        .arg(launch.postgres)
        .arg("-D")
        .arg(launch.directory.data());
    for option in [
        &*format!("port={}", launch.port),
        &*format!("max_connections={}", launch.max_connections),
        "listen_addresses=127.0.0.1",
        // Without sockets no path can be too long for one.
        "unix_socket_directories=",
        "logging_collector=off",
        "log_destination=stderr",
    ] {
        command.args(["-c", option]);
    }
    if !launch.durable {
        // Commits still reach the kernel: with synchronous_commit=off a crash would lose the last ones.
        command.args(["-c", "fsync=off", "-c", "full_page_writes=off"]);
    }
    command
        .stdin(Stdio::piped())
        .stdout(launch.directory.share_lock()?)
        .stderr(stderr)
        .process_group(0)
        .spawn()
        .map_err(Error::io("start the supervisor of PostgreSQL"))
}

async fn wait_until_ready(
    supervisor: &mut Child,
    directory: &Directory,
    port: u16,
    stale: Option<&PidFile>,
) -> Result<Pid, Error> {
    let deadline = Instant::now() + START_LIMIT;
    loop {
        // Taken first: a server that ends between the two looks must not count as ready.
        let ended = supervisor
            .try_wait()
            .map_err(Error::io("wait for PostgreSQL"))?
            .is_some();
        let written = PidFile::read(&directory.data()).filter(|found| Some(found) != stale);
        let ready = written.and_then(|found| found.ready_on(port));
        let cause = match ready {
            Some(pid) if !ended => return Ok(pid),
            _ if ended => Cause::of(&directory.log_tail()),
            _ if Instant::now() > deadline => Cause::TooSlow,
            _ => {
                tokio::time::sleep(POLL).await;
                continue;
            }
        };
        let dir = directory.path().to_owned();
        return Err(Error::Start {
            dir,
            cause,
            log: directory.log_tail(),
        });
    }
}
