//! Removes the directory of an ephemeral cluster, even if we are killed.
//!
//! A small shell waits for a pipe whose writing ends we and the supervisor
//! hold: it closes when both are gone, in whichever order. The shell runs as
//! we do, so it may remove what the unprivileged server may not. Where the
//! shell itself is killed, [`sweep`](super::sweep) is what remains.

use std::io::PipeWriter;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use super::error::Error;

/// An interrupted `initdb` may still be writing: hence the repetition.
const SCRIPT: &str = r#"
cat >/dev/null
for _ in 1 2 3 4 5 6 7 8 9 10; do
    rm -rf -- "$1" && break
    sleep 1
done
"#;

const LIMIT: Duration = Duration::from_secs(15);
const POLL: Duration = Duration::from_millis(5);

/// The shell that waits, and our end of the pipe it waits for.
#[derive(Debug)]
pub(super) struct Janitor {
    shell: Child,
    leash: PipeWriter,
}

impl Janitor {
    pub(super) fn hire(dir: &Path) -> Result<Self, Error> {
        let (end, leash) = std::io::pipe().map_err(Error::io("open a pipe"))?;
        let shell = Command::new("/bin/sh")
            .args(["-c", SCRIPT, "tenantry-postgres-janitor"])
            .arg(dir)
            .current_dir("/")
            .stdin(end)
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .process_group(0)
            .spawn()
            .map_err(Error::io("start the janitor of the ephemeral cluster"))?;
        Ok(Self { shell, leash })
    }

    /// A writing end for a process that must be gone first.
    pub(super) fn leash(&self) -> Result<PipeWriter, Error> {
        self.leash.try_clone().map_err(Error::io("share a pipe"))
    }

    /// Lets go, and waits until the directory is removed.
    pub(super) async fn dismiss(self) {
        let Self { mut shell, leash } = self;
        drop(leash);
        let deadline = Instant::now() + LIMIT;
        while matches!(shell.try_wait(), Ok(None)) && Instant::now() < deadline {
            tokio::time::sleep(POLL).await;
        }
    }
}
