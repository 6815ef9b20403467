//! Why the private cluster could not be had, and what to do about it.
//!
//! Every variant names what was attempted; [`Error::fix`] is the sentence to
//! print below it, [`Error::code`] the stable name to look up. Nothing here
//! contains the password of the cluster.

use std::path::PathBuf;

use super::cause::Cause;

/// A private cluster that could not be started or stopped.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// Neither an installed nor a fetched `PostgreSQL` is to be had.
    #[error("found no PostgreSQL 14 or newer on this machine ({tried})")]
    NotFound {
        /// What was looked at, and why fetching failed.
        tried: String,
    },
    /// The directory of binaries that was asked for cannot be used.
    #[error("cannot use the PostgreSQL binaries in {}: {reason}", .bin.display())]
    BadBinaries {
        /// The directory that was asked for.
        bin: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// The unprivileged user of the server cannot get at a path.
    #[error("user {user} cannot reach {}: {} is closed to it", .path.display(), .closed.display())]
    Unreachable {
        /// The user that the server would run as.
        user: String,
        /// What it needs to reach.
        path: PathBuf,
        /// The first component on the way that stops it.
        closed: PathBuf,
    },
    /// The directory belongs to somebody else.
    #[error("{} belongs to user id {owner}", .dir.display())]
    Foreign {
        /// The directory.
        dir: PathBuf,
        /// Its owner.
        owner: u32,
    },
    /// A directory of that name is not removed.
    #[error("will not remove {} after use: it is not named {}*", .dir.display(), super::directory::EPHEMERAL_PREFIX)]
    NotEphemeral {
        /// The directory.
        dir: PathBuf,
    },
    /// We are root, and the system refuses to give us another user.
    #[error("cannot run PostgreSQL as an unprivileged user: {reason}")]
    NoAccount {
        /// Why neither a user nor a user namespace is to be had.
        reason: String,
    },
    /// Another process runs a cluster in the directory.
    #[error("{} is in use by process {pid}", .dir.display())]
    InUse {
        /// The directory.
        dir: PathBuf,
        /// The process: another tenantry, or a server it left behind.
        pid: String,
    },
    /// The data was written by another major version.
    #[error("{} holds data of PostgreSQL {found}, and only {installed} is available", .dir.display())]
    DataVersion {
        /// The directory.
        dir: PathBuf,
        /// The major version that wrote the data.
        found: u32,
        /// The version that was found.
        installed: String,
    },
    /// `initdb` failed.
    #[error("cannot create a cluster in {} ({cause})\n{output}", .dir.display())]
    Initdb {
        /// The directory.
        dir: PathBuf,
        /// What the output points to.
        cause: Cause,
        /// The last lines it printed.
        output: String,
    },
    /// The server did not come up.
    #[error("PostgreSQL did not start in {} ({cause})\n{log}", .dir.display())]
    Start {
        /// The directory.
        dir: PathBuf,
        /// What the log points to.
        cause: Cause,
        /// The last lines of the server's log.
        log: String,
    },
    /// The server was told to stop and is still there.
    #[error("PostgreSQL in {} did not stop within {seconds} s", .dir.display())]
    Stop {
        /// The directory.
        dir: PathBuf,
        /// How long we waited.
        seconds: u64,
    },
    /// The new cluster does not answer queries.
    #[error("cannot prepare the new cluster")]
    Prepare(#[source] sqlx::Error),
    /// A file or a process could not be worked with.
    #[error("cannot {action}")]
    Io {
        /// What was attempted, on which path.
        action: String,
        /// What the system said.
        #[source]
        source: std::io::Error,
    },
}

impl Error {
    /// For `map_err`: an input/output error and what was attempted.
    pub(super) fn io(action: impl Into<String>) -> impl FnOnce(std::io::Error) -> Self {
        let action = action.into();
        move |source| Self::Io { action, source }
    }

    /// The stable name of the error.
    pub const fn code(&self) -> &'static str {
        match self {
            Self::NotFound { .. } => "postgres_not_found",
            Self::BadBinaries { .. } => "postgres_bad_binaries",
            Self::Unreachable { .. } => "postgres_unreachable_path",
            Self::Foreign { .. } => "postgres_foreign_directory",
            Self::NotEphemeral { .. } => "postgres_not_ephemeral",
            Self::NoAccount { .. } => "postgres_no_account",
            Self::InUse { .. } => "postgres_in_use",
            Self::DataVersion { .. } => "postgres_data_version",
            Self::Initdb { cause, .. } | Self::Start { cause, .. } => cause.code(),
            Self::Stop { .. } => "postgres_stop_timeout",
            Self::Prepare(_) => "postgres_prepare_failed",
            Self::Io { .. } => "postgres_io",
        }
    }

    /// What to do about it, in one sentence.
    pub fn fix(&self) -> String {
        match self {
            Self::NotFound { .. } => install_line().to_owned(),
            Self::BadBinaries { .. } => {
                "set TENANTRY_PG_BIN to a directory with `initdb` and `postgres` of version 14 or newer, or unset it".to_owned()
            }
            Self::Unreachable { user, closed, .. } => format!(
                "choose a directory that {user} can enter, such as one under /var/lib or /tmp, or run `chmod a+x {}`",
                closed.display()
            ),
            Self::Foreign { .. } => "choose another directory, or run as its owner".to_owned(),
            Self::NotEphemeral { .. } => "choose a directory of that name".to_owned(),
            Self::NoAccount { .. } => "run tenantry as an ordinary user instead of root".to_owned(),
            Self::InUse { pid, .. } => {
                format!("stop process {pid} (`kill {pid}`), or choose another directory")
            }
            Self::DataVersion { found, dir, .. } => format!(
                "install PostgreSQL {found}, or delete {} to start afresh",
                dir.display()
            ),
            Self::Initdb { cause, .. } | Self::Start { cause, .. } => cause.fix().to_owned(),
            Self::Stop { .. } => "look at the log in the directory; `kill -QUIT` the first number in data/postmaster.pid".to_owned(),
            Self::Prepare(_) => "look at the log in the directory, and try again".to_owned(),
            Self::Io { .. } => "make sure that the path exists and is open to this user".to_owned(),
        }
    }
}

/// The one line that installs `PostgreSQL` here.
fn install_line() -> &'static str {
    let has = |path: &str| std::path::Path::new(path).exists();
    if cfg!(target_os = "macos") {
        "install it: `brew install postgresql@17`"
    } else if has("/usr/bin/apt-get") {
        "install it: `sudo apt-get install -y postgresql`"
    } else if has("/usr/bin/dnf") {
        "install it: `sudo dnf install -y postgresql-server`"
    } else if has("/sbin/apk") {
        "install it: `apk add postgresql`"
    } else {
        "install PostgreSQL 14 or newer, or set TENANTRY_PG_BIN to the directory with `initdb` and `postgres`"
    }
}
