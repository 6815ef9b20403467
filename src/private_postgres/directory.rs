//! The directory of a cluster: one process holds it at a time.
//!
//! ```text
//! lock          held by the process that runs the cluster and by its supervisor; names the process
//! password      of the superuser, 0600
//! port          of the last start
//! prepared      there once the new cluster has been prepared
//! data/         the data directory of the server
//! server.log    of this start; server.log.old of the one before
//! ```
//!
//! The lock is a lock of the kernel, so it is free as soon as its holders are
//! gone, however they went; the files say nothing about who is alive.

use std::fs::{self, DirBuilder, File};
use std::io::{Read, Seek, SeekFrom, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rustix::fs::{FlockOperation, Mode, OFlags};
use rustix::process::Pid;
use secrecy::SecretString;

use super::error::Error;
use super::postmaster::PidFile;

/// Ephemeral clusters live in directories of this name and a random number.
pub(super) const EPHEMERAL_PREFIX: &str = "tenantry-postgres-";

/// How long a server that lost its parent may take to go away.
const HANDOVER_LIMIT: Duration = Duration::from_secs(30);
const POLL: Duration = Duration::from_millis(50);
const LOG_LINES: usize = 15;

/// A directory that we hold.
#[derive(Debug)]
pub(super) struct Directory {
    path: PathBuf,
    lock: File,
}

impl Directory {
    /// Creates the directory where it is missing, and takes it.
    pub(super) async fn claim(path: &Path) -> Result<Self, Error> {
        let deadline = Instant::now() + HANDOVER_LIMIT;
        loop {
            if let Some(claimed) = Self::try_claim(path)? {
                return Ok(claimed);
            }
            // The holder is gone and its server is still stopping, or a sweep looks at the directory.
            let holder = fs::read_to_string(path.join("lock")).unwrap_or_default();
            if holder_is_alive(&holder) || Instant::now() > deadline {
                return Err(Error::InUse {
                    dir: path.to_owned(),
                    pid: holder.trim().to_owned(),
                });
            }
            tokio::time::sleep(POLL).await;
        }
    }

    fn try_claim(path: &Path) -> Result<Option<Self>, Error> {
        let action = || format!("create {}", path.display());
        DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(path)
            .map_err(Error::io(action()))?;
        let Some(mut lock) =
            try_lock(path).map_err(Error::io(format!("lock {}", path.display())))?
        else {
            return Ok(None);
        };
        lock.set_len(0).map_err(Error::io(action()))?;
        writeln!(lock, "{}", std::process::id()).map_err(Error::io(action()))?;
        Ok(Some(Self {
            path: path.to_owned(),
            lock,
        }))
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    pub(super) fn data(&self) -> PathBuf {
        self.path.join("data")
    }

    /// Where `initdb` works, so that `data` is a whole cluster or not there.
    pub(super) fn unfinished_data(&self) -> PathBuf {
        self.path.join("data.unfinished")
    }

    pub(super) fn log(&self) -> PathBuf {
        self.path.join("server.log")
    }

    pub(super) fn password_file(&self) -> PathBuf {
        self.path.join("password")
    }

    /// Whether the new cluster has been prepared.
    pub(super) fn is_prepared(&self) -> bool {
        self.path.join("prepared").exists()
    }

    pub(super) fn mark_prepared(&self) -> Result<(), Error> {
        write_new(&self.path.join("prepared"), "yes")
            .map_err(Error::io(format!("write to {}", self.path.display())))
    }

    /// Removes the data and what belongs to it; the lock is held, so nothing runs on it.
    pub(super) fn clear(&self) -> Result<(), Error> {
        for name in ["data", "data.unfinished", "password", "prepared"] {
            let path = self.path.join(name);
            let removed = if path.is_dir() {
                fs::remove_dir_all(&path)
            } else {
                fs::remove_file(&path)
            };
            match removed {
                Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                    return Err(Error::io(format!("remove {}", path.display()))(error));
                }
                _ => {}
            }
        }
        Ok(())
    }

    /// The lock, to be held by a child as well.
    pub(super) fn share_lock(&self) -> Result<File, Error> {
        self.lock
            .try_clone()
            .map_err(Error::io("share the lock of the cluster"))
    }

    /// Lets the directory go, when nothing runs on it any more.
    ///
    /// To close the file alone would not do: a process that is just being started elsewhere in this program has a
    /// copy of it until it is another program.
    pub(super) fn release(&self) {
        let _ = rustix::fs::flock(&self.lock, FlockOperation::Unlock);
    }

    /// The major version that wrote the data, where there is data.
    pub(super) fn data_version(&self) -> Option<u32> {
        let text = fs::read_to_string(self.data().join("PG_VERSION")).ok()?;
        super::binaries::leading_number(text.trim())
    }

    /// A new password, in a file that only its owner can read.
    pub(super) fn write_password(&self) -> Result<(), Error> {
        let file = self.password_file();
        write_new(&file, &hex::encode(rand::random::<[u8; 24]>()))
            .map_err(Error::io(format!("write {}", file.display())))
    }

    pub(super) fn read_password(&self) -> Result<SecretString, Error> {
        let file = self.password_file();
        let text =
            fs::read_to_string(&file).map_err(Error::io(format!("read {}", file.display())))?;
        Ok(text.trim().into())
    }

    pub(super) fn last_port(&self) -> Option<u16> {
        fs::read_to_string(self.path.join("port"))
            .ok()?
            .trim()
            .parse()
            .ok()
    }

    /// Remembers the port; only a convenience, so failing does not matter.
    pub(super) fn remember_port(&self, port: u16) {
        let _ = write_new(&self.path.join("port"), &port.to_string());
    }

    /// Puts the log of the last start aside.
    pub(super) fn turn_log(&self) {
        let _ = fs::rename(self.log(), self.path.join("server.log.old"));
    }

    /// The last lines of the log.
    pub(super) fn log_tail(&self) -> String {
        let mut text = Vec::new();
        if let Ok(mut log) = File::open(self.log()) {
            let length = log.metadata().map_or(0, |found| found.len());
            let _ = log.seek(SeekFrom::Start(length.saturating_sub(16 * 1024)));
            let _ = log.take(16 * 1024).read_to_end(&mut text);
        }
        last_lines(&String::from_utf8_lossy(&text))
    }
}

/// Replaces a file. As root we write where the server's user could have put a
/// link to somewhere else: a file that we create ourselves is none.
fn write_new(file: &Path, line: &str) -> std::io::Result<()> {
    match fs::remove_file(file) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let mut options = fs::OpenOptions::new();
    writeln!(
        options
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(file)?,
        "{line}"
    )
}

/// The end of a text, short enough to be read in an error.
pub(super) fn last_lines(text: &str) -> String {
    let lines: Vec<&str> = text
        .lines()
        .filter(|line| !line.trim().is_empty())
        .collect();
    lines[lines.len().saturating_sub(LOG_LINES)..].join("\n")
}

/// Removes what crashed runs left in `parent`, and returns how much it was.
///
/// A directory goes when it has the name of an ephemeral cluster, nobody holds
/// its lock, and no server runs in it. Others, and those of other users, stay.
pub fn sweep(parent: &Path) -> usize {
    let entries = fs::read_dir(parent).into_iter().flatten().flatten();
    entries
        .filter(|entry| {
            entry
                .file_name()
                .to_string_lossy()
                .starts_with(EPHEMERAL_PREFIX)
        })
        .filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()))
        .filter(|entry| remove_if_left(&entry.path()))
        .count()
}

fn remove_if_left(dir: &Path) -> bool {
    let Ok(Some(_lock)) = try_lock(dir) else {
        return false;
    };
    let data = dir.join("data");
    let running = PidFile::read(&data).is_some_and(|found| found.is_running(&data));
    !running && fs::remove_dir_all(dir).is_ok()
}

/// Takes the lock of a directory, unless somebody has it or the directory goes
/// away meanwhile.
fn try_lock(dir: &Path) -> std::io::Result<Option<File>> {
    let path = dir.join("lock");
    // A link in a directory that others can write to must not make us write elsewhere.
    let flags = OFlags::RDWR | OFlags::CREATE | OFlags::CLOEXEC | OFlags::NOFOLLOW;
    let lock: File = match rustix::fs::open(&path, flags, Mode::from_raw_mode(0o600)) {
        Ok(lock) => lock.into(),
        Err(rustix::io::Errno::NOENT) => return Ok(None),
        Err(error) => return Err(error.into()),
    };
    match rustix::fs::flock(&lock, FlockOperation::NonBlockingLockExclusive) {
        Err(rustix::io::Errno::WOULDBLOCK) => return Ok(None),
        result => result?,
    }
    let ours = lock.metadata()?.ino();
    let there = fs::symlink_metadata(&path).is_ok_and(|found| found.ino() == ours);
    Ok(there.then_some(lock))
}

fn holder_is_alive(holder: &str) -> bool {
    holder
        .trim()
        .parse()
        .ok()
        .and_then(Pid::from_raw)
        .is_some_and(is_alive)
}

/// True when a process of that number exists, whoever owns it; one that has ended and waits for its
/// parent does not count.
pub(super) fn is_alive(pid: Pid) -> bool {
    let stat = fs::read_to_string(format!("/proc/{}/stat", pid.as_raw_nonzero()));
    let state = stat
        .ok()
        .and_then(|stat| stat.rsplit(") ").next()?.chars().next());
    if matches!(state, Some('Z' | 'X')) {
        return false;
    }
    !matches!(
        rustix::process::test_kill_process(pid),
        Err(rustix::io::Errno::SRCH)
    )
}
