//! Why a database was not brought to its version: code, fix, and whether trying again can help.

use std::time::Duration;

use super::Blocker;
use crate::blueprint::Migrator;

/// Why a database was not migrated.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Somebody else held a lock for too long.
    #[error("{doing} waited too long for a lock{}", held_by(blocker.as_deref()))]
    LockTimeout {
        /// The file, or what was to be done.
        doing: String,
        /// Who held it, where one was seen.
        blocker: Option<Box<Blocker>>,
        /// What the server said.
        source: Option<sqlx::Error>,
    },
    /// The structure is not the template's.
    #[error(
        "database {database} was migrated, and its structure differs from its template's: {difference}"
    )]
    Drifted {
        /// The database.
        database: String,
        /// The most telling difference, in words.
        difference: String,
    },
    /// There is no such database any more.
    #[error("database {database} is not there any more")]
    DatabaseGone {
        /// The database.
        database: String,
    },
    /// The program could not be started at all.
    #[error("the migrator could not be started")]
    NotStarted {
        /// What the operating system said.
        source: std::io::Error,
    },
    /// The program says that it failed.
    #[error("the migrator ended with exit code {code}{}: {told}", left_at(reached.as_deref()))]
    Failed {
        /// Its exit code.
        code: i32,
        /// The version that the database is at now, where that is another one than before.
        reached: Option<String>,
        /// The last lines of its standard error.
        told: String,
        /// Whether trying again can help.
        passing: bool,
    },
    /// The program failed, and the database is between two versions.
    #[error(
        "database {database} is between version {version:?} and the next one: {how}; the migrator said: {told}"
    )]
    HalfApplied {
        /// The database.
        database: String,
        /// The version before and after.
        version: String,
        /// How that is known.
        how: String,
        /// The last lines of its standard error.
        told: String,
    },
    /// It is not clear which head to go to.
    #[error("alembic has several heads: {what}")]
    SeveralHeads {
        /// What was found.
        what: String,
    },
    /// A revision that the project does not have.
    #[error("alembic does not know a revision, asked for or in database {database}: {told}")]
    RevisionUnknown {
        /// The database.
        database: String,
        /// What Alembic said.
        told: String,
    },
    /// The version is not one, or not the wanted one.
    #[error("the version cannot be determined: {what}")]
    VersionUnreadable {
        /// What was found.
        what: String,
        /// Whose version it is.
        migrator: Migrator,
    },
    /// The database is beyond the version that was asked for.
    #[error("database {database} is already at version {version:?}, beyond {target:?}")]
    Ahead {
        /// The database.
        database: String,
        /// The version that it is at.
        version: String,
        /// The version that was asked for.
        target: String,
    },
    /// The program did not stop at the version that it was to stop at, or did not come to it.
    #[error(
        "the migrator succeeded, but database {database} is at version {version:?} instead of {target:?} (TENANTRY_TARGET)"
    )]
    TargetMissed {
        /// The database.
        database: String,
        /// The version that it is at.
        version: String,
        /// The version that was asked for.
        target: String,
    },
    /// It took too long and was cut off.
    #[error("the migration of database {database} did not finish within {} s", limit.as_secs_f64())]
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

fn left_at(reached: Option<&str>) -> String {
    let say = |version| {
        format!(
            "; the database is now at version {version:?}, and the next migration may be half applied if it does not run in a transaction"
        )
    };
    reached.map_or_else(String::new, say)
}

impl Error {
    /// Stable code; docs/errors.md has an entry for each.
    pub fn code(&self) -> &'static str {
        match self {
            Self::LockTimeout { .. } => "lock_timeout",
            Self::Drifted { .. } => "drifted",
            Self::DatabaseGone { .. } => "database_gone",
            Self::TimedOut { .. } => "migrator_timed_out",
            Self::NotStarted { .. } | Self::Failed { .. } => "migrator_failed",
            Self::HalfApplied { .. } => "migration_half_applied",
            Self::SeveralHeads { .. } => "alembic_several_heads",
            Self::RevisionUnknown { .. } => "alembic_revision_unknown",
            Self::VersionUnreadable { .. } => "migrator_version_unreadable",
            Self::Ahead { .. } => "ahead_of_version",
            Self::TargetMissed { .. } => "migrator_target_missed",
        }
    }

    /// What to do.
    pub fn fix(&self) -> &'static str {
        match self {
            Self::LockTimeout { .. } => "end the session named above if it does not go away",
            Self::Drifted { .. } => {
                "revert the named difference in that database (or make it a migration, for a new run)"
            }
            Self::DatabaseGone { .. } => {
                "restore the database (docs/operations.md, \"Restore one tenant\")"
            }
            Self::Failed {
                reached: Some(_), ..
            } => {
                "fix what the migrator reports; if the migration after the version reached does not run in a transaction, undo by hand whatever it left"
            }
            Self::NotStarted { .. } | Self::Failed { .. } => {
                "fix what the migrator reports; it runs in the blueprint's directory with the environment that docs/migrators.md lists"
            }
            Self::HalfApplied { .. } => {
                "bring the database by hand to its current version or the next one (a revision outside a transaction should do one thing), or fix what else the migrator reports"
            }
            Self::SeveralHeads { .. } => {
                "merge the heads (alembic merge heads), or take out of the database the revisions that it is not on"
            }
            Self::RevisionUnknown { .. } => {
                "bring the blueprint's project up to date, or ask for a revision that it has; after revisions were squashed, write the new one into alembic_version of each database that has their schema (tenantry fleet exec --write --sql)"
            }
            Self::VersionUnreadable {
                migrator: Migrator::Alembic,
                ..
            } => {
                "see with alembic current and alembic history where the revision of that database lies; env.py has to migrate the database in DATABASE_URL to the revision that the template has"
            }
            Self::VersionUnreadable { .. } => {
                "correct version_query in blueprint.toml: it must return the version as one row with one column"
            }
            Self::Ahead { .. } => {
                "leave that tenant out, or choose a later version: a migration goes forward only"
            }
            Self::TargetMissed { .. } => {
                "make the program stop at TENANTRY_TARGET (spelled as version_query returns it); a program that cannot stop can only migrate without --to"
            }
            Self::TimedOut { .. } => {
                "raise migrate_timeout_ms in blueprint.toml, or find out what the migration waits for"
            }
        }
    }

    /// Whether only another blueprint helps, which a run that is under way is not for.
    pub fn is_of_blueprint(&self) -> bool {
        match self {
            Self::SeveralHeads { .. }
            | Self::RevisionUnknown { .. }
            | Self::TargetMissed { .. }
            | Self::VersionUnreadable {
                migrator: Migrator::Command,
                ..
            } => true,
            Self::LockTimeout { .. }
            | Self::Drifted { .. }
            | Self::DatabaseGone { .. }
            | Self::TimedOut { .. }
            | Self::NotStarted { .. }
            | Self::Failed { .. }
            | Self::HalfApplied { .. }
            | Self::VersionUnreadable { .. }
            | Self::Ahead { .. } => false,
        }
    }

    /// Whether the same attempt may succeed later without anybody doing anything.
    pub const fn is_retryable(&self) -> bool {
        match self {
            Self::LockTimeout { .. } | Self::TimedOut { .. } => true,
            Self::Failed { passing, .. } => *passing,
            Self::Drifted { .. }
            | Self::DatabaseGone { .. }
            | Self::NotStarted { .. }
            | Self::HalfApplied { .. }
            | Self::SeveralHeads { .. }
            | Self::RevisionUnknown { .. }
            | Self::VersionUnreadable { .. }
            | Self::Ahead { .. }
            | Self::TargetMissed { .. } => false,
        }
    }

    /// Who was in the way.
    pub fn blocker(&self) -> Option<&Blocker> {
        match self {
            Self::LockTimeout { blocker, .. } => blocker.as_deref(),
            _ => None,
        }
    }
}
