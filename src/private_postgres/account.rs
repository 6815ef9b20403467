//! The user that the server runs as: `PostgreSQL` refuses to run as root.
//!
//! An ordinary user runs it directly. Root gives it to the owner of existing
//! data, else to `postgres`, else to `nobody`; where root may not change the
//! user (a rootless container) it runs in a user namespace of its own.
//! Nothing here looks at access control lists: where a path is closed, the
//! probe finds out and the mode bits only name the culprit.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use super::error::Error;

const SHELL: &str = "/bin/sh";

/// Who runs the server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Account {
    /// We ourselves, an ordinary user.
    Caller { uid: u32 },
    /// An unprivileged user of the system; we are root.
    User { name: String, uid: u32, gid: u32 },
    /// We ourselves under another number; we are root in a container.
    Namespace,
}

impl Account {
    /// The user for a cluster whose data is, or will be, at `data`.
    pub(super) fn choose(data: &Path) -> Result<Self, Error> {
        let uid = rustix::process::geteuid().as_raw();
        let owner = fs::metadata(data).ok().map(|data| (data.uid(), data.gid()));
        match owner {
            _ if uid != 0 => Ok(Self::Caller { uid }),
            Some((0, _)) => Self::namespace(),
            Some((uid, gid)) => Ok(Self::User {
                name: uid.to_string(),
                uid,
                gid,
            }),
            None => Self::unprivileged(),
        }
    }

    fn unprivileged() -> Result<Self, Error> {
        let passwd = fs::read_to_string("/etc/passwd").unwrap_or_default();
        let found = ["postgres", "nobody"]
            .into_iter()
            .find_map(|name| user(&passwd, name));
        match found {
            Some(account) if account.works() => Ok(account),
            _ => Self::namespace(),
        }
    }

    fn namespace() -> Result<Self, Error> {
        if Self::Namespace.works() {
            return Ok(Self::Namespace);
        }
        let reason = "the system refuses both another user and a user namespace".to_owned();
        Err(Error::NoAccount { reason })
    }

    /// True when a process can be started this way at all.
    fn works(&self) -> bool {
        self.succeeds(":", &[])
    }

    fn succeeds(&self, script: &str, paths: &[&Path]) -> bool {
        self.command(Path::new(SHELL))
            .args(["-c", script, "sh"])
            .args(paths)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .status()
            .is_ok_and(|status| status.success())
    }

    /// A command that runs `program` as this user, from the root directory.
    pub(super) fn command(&self, program: &Path) -> Command {
        let mut command = match self {
            Self::Caller { .. } => Command::new(program),
            Self::User { uid, gid, .. } => {
                let mut command = Command::new(program);
                command.uid(*uid).gid(*gid);
                command
            }
            Self::Namespace => {
                let mut command = Command::new("unshare");
                command
                    .args(["--user", "--map-user=1000", "--map-group=1000", "--"])
                    .arg(program);
                command
            }
        };
        command.current_dir("/").env("LC_ALL", "C");
        command
    }

    /// Gives a file or directory of ours to this user; never what a link leads to.
    pub(super) fn give(&self, path: &Path) -> Result<(), Error> {
        match self {
            Self::User { uid, gid, .. } => std::os::unix::fs::lchown(path, Some(*uid), Some(*gid))
                .map_err(Error::io(format!(
                    "give {} to user id {uid}",
                    path.display()
                ))),
            Self::Caller { .. } | Self::Namespace => Ok(()),
        }
    }

    /// Refuses a directory that a third user owns, who could tamper with it.
    pub(super) fn check_owner(&self, dir: &Path) -> Result<(), Error> {
        let owner = fs::metadata(dir)
            .map_err(Error::io(format!("look at {}", dir.display())))?
            .uid();
        let ours = rustix::process::geteuid().as_raw();
        let theirs = match self {
            Self::Caller { uid } | Self::User { uid, .. } => *uid,
            Self::Namespace => ours,
        };
        if owner == ours || owner == theirs {
            return Ok(());
        }
        Err(Error::Foreign {
            dir: dir.to_owned(),
            owner,
        })
    }

    /// Checks that this user can enter `dir` and execute `program`.
    pub(super) fn check_reach(&self, dir: &Path, program: &Path) -> Result<(), Error> {
        for (script, path) in [
            ("cd \"$1\"", dir),
            ("test -r \"$1\" && test -x \"$1\"", program),
        ] {
            if !self.succeeds(script, &[path]) {
                return Err(Error::Unreachable {
                    user: self.name(),
                    path: path.to_owned(),
                    closed: self.first_closed(path),
                });
            }
        }
        Ok(())
    }

    /// The outermost component of the path that the mode bits close to us.
    fn first_closed(&self, path: &Path) -> PathBuf {
        let mut components: Vec<&Path> = path.ancestors().collect();
        components.reverse();
        components
            .into_iter()
            .find(|component| fs::metadata(component).map_or(true, |found| !self.may_enter(&found)))
            .unwrap_or(path)
            .to_owned()
    }

    fn may_enter(&self, found: &fs::Metadata) -> bool {
        let bit = match self {
            Self::User { uid, .. } | Self::Caller { uid } if *uid == found.uid() => 0o100,
            Self::User { gid, .. } if *gid == found.gid() => 0o010,
            Self::Namespace if found.uid() == 0 => 0o100,
            _ => 0o001,
        };
        found.mode() & bit != 0
    }

    fn name(&self) -> String {
        match self {
            Self::Caller { uid } => uid.to_string(),
            Self::User { name, .. } => name.clone(),
            Self::Namespace => "root without privileges".to_owned(),
        }
    }
}

/// The user of that name in the text of /etc/passwd.
fn user(passwd: &str, name: &str) -> Option<Account> {
    passwd.lines().find_map(|line| {
        let mut fields = line.split(':');
        let (found, _password) = (fields.next()?, fields.next()?);
        let (uid, gid) = (fields.next()?.parse().ok()?, fields.next()?.parse().ok()?);
        let usable = found == name && uid != 0;
        usable.then(|| Account::User {
            name: name.to_owned(),
            uid,
            gid,
        })
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn passwd_lines_are_read_and_root_is_never_chosen() {
        let passwd = "root:x:0:0::/root:/bin/sh\n\nbroken\nnobody:x:65534:65533::/:/bin/false\npostgres:x:0:0::/:/bin/sh\n";
        let nobody = Account::User {
            name: "nobody".to_owned(),
            uid: 65534,
            gid: 65533,
        };
        assert_eq!(user(passwd, "nobody"), Some(nobody));
        assert_eq!(user(passwd, "postgres"), None);
        assert_eq!(user(passwd, "mallory"), None);
    }
}
