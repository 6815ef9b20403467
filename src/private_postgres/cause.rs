//! What the last words of a failed `initdb` or `postgres` mean.
//!
//! Both run with the C locale, so the words are English. An output that shows
//! nothing known is passed on as it is.

/// What the output of a failed `postgres` or `initdb` points to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Cause {
    /// No space left on the device.
    DiskFull,
    /// Another program listens on the port.
    PortTaken,
    /// A server is still running in the directory.
    StillRunning,
    /// Data of another major version.
    OtherVersion,
    /// Shared memory or semaphores are not to be had.
    SharedMemory,
    /// A file is closed to the server, or owned by somebody else.
    Permission,
    /// The data is damaged, as after a power cut without fsync.
    Damaged,
    /// It neither became ready nor ended in time.
    TooSlow,
    /// Nothing we know.
    Unknown,
}

/// What `PostgreSQL` prints, and what it means. The first match counts.
const SYMPTOMS: [(&str, Cause); 17] = [
    ("No space left on device", Cause::DiskFull),
    ("could not bind", Cause::PortTaken),
    ("Address already in use", Cause::PortTaken),
    ("was initialized by PostgreSQL version", Cause::OtherVersion),
    ("incompatible with server", Cause::OtherVersion),
    ("pre-existing shared memory", Cause::StillRunning),
    ("postmaster.pid\" already exists", Cause::StillRunning),
    ("shared memory", Cause::SharedMemory),
    ("could not create semaphores", Cause::SharedMemory),
    ("Cannot allocate memory", Cause::SharedMemory),
    ("Permission denied", Cause::Permission),
    ("Operation not permitted", Cause::Permission),
    ("wrong ownership", Cause::Permission),
    ("invalid permissions", Cause::Permission),
    ("checkpoint record", Cause::Damaged),
    ("invalid data in file", Cause::Damaged),
    ("PANIC:", Cause::Damaged),
];

impl Cause {
    /// The first known cause that the text shows.
    pub(super) fn of(output: &str) -> Self {
        SYMPTOMS
            .iter()
            .find(|(symptom, _)| output.contains(symptom))
            .map_or(Self::Unknown, |(_, cause)| *cause)
    }

    /// What to do about it, in one sentence.
    pub(super) fn fix(self) -> &'static str {
        match self {
            Self::DiskFull => "free some disk space, or choose a directory on another disk",
            Self::PortTaken => {
                "stop the program that listens on the port, or try again for another port"
            }
            Self::StillRunning => {
                "stop the server that still runs in the directory, then try again"
            }
            Self::OtherVersion => {
                "point TENANTRY_PG_BIN at the major version that wrote the data, or delete the directory"
            }
            Self::SharedMemory => {
                "allow more shared memory (in a container: --shm-size=256m), or lower max_connections"
            }
            Self::Permission => {
                "give the directory back to the user that the server runs as, or delete it"
            }
            Self::Damaged => {
                "the data is damaged: delete the directory, a new cluster is created at the next start"
            }
            Self::TooSlow => {
                "look at the log in the directory, and try again when the machine is less busy"
            }
            Self::Unknown => {
                "the lines above are the end of the server's log: fix what they name, or delete the directory"
            }
        }
    }

    /// The stable name of the error that it makes.
    pub(super) const fn code(self) -> &'static str {
        match self {
            Self::DiskFull => "postgres_disk_full",
            Self::PortTaken => "postgres_port_taken",
            Self::StillRunning => "postgres_still_running",
            Self::OtherVersion => "postgres_data_version",
            Self::SharedMemory => "postgres_shared_memory",
            Self::Permission => "postgres_permission",
            Self::Damaged => "postgres_data_damaged",
            Self::TooSlow => "postgres_start_timeout",
            Self::Unknown => "postgres_start_failed",
        }
    }
}

impl std::fmt::Display for Cause {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::DiskFull => "the disk is full",
            Self::PortTaken => "the port is taken",
            Self::StillRunning => "a server still runs there",
            Self::OtherVersion => "the data is of another major version",
            Self::SharedMemory => "shared memory ran out",
            Self::Permission => "permission denied",
            Self::Damaged => "the data is damaged",
            Self::TooSlow => "it was not ready in time",
            Self::Unknown => "cause unknown",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn known_output_names_its_cause() {
        for (output, cause) in [
            (
                "FATAL:  could not write lock file: No space left on device",
                Cause::DiskFull,
            ),
            (
                "LOG:  could not bind IPv4 address \"127.0.0.1\"",
                Cause::PortTaken,
            ),
            (
                "FATAL:  lock file \"postmaster.pid\" already exists",
                Cause::StillRunning,
            ),
            (
                "FATAL:  pre-existing shared memory block (key 1) is still in use",
                Cause::StillRunning,
            ),
            (
                "FATAL:  could not map anonymous shared memory",
                Cause::SharedMemory,
            ),
            (
                "DETAIL:  The data directory was initialized by PostgreSQL version 13",
                Cause::OtherVersion,
            ),
            (
                "PANIC:  could not locate a valid checkpoint record",
                Cause::Damaged,
            ),
            ("all is well", Cause::Unknown),
        ] {
            assert_eq!(Cause::of(output), cause, "{output}");
        }
    }
}
