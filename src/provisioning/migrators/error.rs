//! Why a database was not brought to its version: code, fix, and whether trying again can help.

use std::time::Duration;

use super::Blocker;

/// Why a database was not migrated.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Somebody else held a lock for too long.
    #[error("{doing} waited too long for a lock{}", held_by(blocker.as_ref()))]
    LockTimeout {
        /// The file, or what was to be done.
        doing: String,
        /// Who held it, where one was seen.
        blocker: Option<Blocker>,
        /// What the server said.
        source: Option<sqlx::Error>,
    },
    /// The structure is not the template's.
    #[error(
        "database {database} was migrated, and its structure ({found}) differs from its template's ({expected})"
    )]
    Drifted {
        /// The database.
        database: String,
        /// Beginning of its fingerprint.
        found: String,
        /// Beginning of the template's.
        expected: String,
    },
    /// There is no such database any more.
    #[error("database {database} is not there any more")]
    DatabaseGone {
        /// The database.
        database: String,
    },
    /// It took too long and was cut off.
    #[error("the migration of database {database} did not end within {} s", limit.as_secs_f64())]
    TimedOut {
        /// The database.
        database: String,
        /// `migrate_timeout_ms` of the blueprint.
        limit: Duration,
    },
}

fn held_by(blocker: Option<&Blocker>) -> String {
    blocker.map_or_else(String::new, |blocker| format!(", held by {blocker}"))
}

impl Error {
    /// Stable code; docs/errors.md has an entry for each.
    pub fn code(&self) -> &'static str {
        match self {
            Self::LockTimeout { .. } => "lock_timeout",
            Self::Drifted { .. } => "drifted",
            Self::DatabaseGone { .. } => "database_gone",
            Self::TimedOut { .. } => "migrator_timed_out",
        }
    }

    /// What to do.
    pub fn fix(&self) -> &'static str {
        match self {
            Self::LockTimeout { .. } => {
                "nothing, if it goes by: it is tried again by itself; else end the session that is named"
            }
            Self::Drifted { .. } => {
                "find what was changed by hand in that database and change it back, or put it into a migration"
            }
            Self::DatabaseGone { .. } => "restore the database, or archive the tenant whose it was",
            Self::TimedOut { .. } => {
                "raise migrate_timeout_ms in blueprint.toml, or find out what the migration waits for"
            }
        }
    }

    /// Whether the same attempt may succeed later without anybody doing anything.
    pub const fn is_retryable(&self) -> bool {
        match self {
            Self::LockTimeout { .. } | Self::TimedOut { .. } => true,
            Self::Drifted { .. } | Self::DatabaseGone { .. } => false,
        }
    }

    /// Who was in the way.
    pub const fn blocker(&self) -> Option<&Blocker> {
        match self {
            Self::LockTimeout { blocker, .. } => blocker.as_ref(),
            _ => None,
        }
    }
}
