//! Why a step failed: a stable code, the cause, what to do, and whether trying again can help.
//!
//! Guarantees: retry or not is decided here, by kind and SQLSTATE, never by message text.

use std::{borrow::Cow, time::Duration};

use sqlx::postgres::{PgDatabaseError, PgErrorPosition};

use super::migrators::{self, Blocker};
use crate::{
    blueprint::{self, SqlFile},
    db, faults, queue, secrets, tenant_db,
};

/// Why a step failed.
#[derive(Debug, thiserror::Error)]
pub enum StepError {
    /// The control database.
    #[error("the control database cannot be used")]
    Control(#[from] sqlx::Error),
    /// The tenant's cluster.
    #[error("an operation on the tenant's cluster failed")]
    Cluster(#[source] tenant_db::Error),
    /// The blueprint does not load.
    #[error("the blueprint cannot be used")]
    Blueprint(#[from] blueprint::Error),
    /// A file of the blueprint failed.
    #[error("{file} failed")]
    File {
        /// What the file is for: `migration_failed`, `seed_failed`, `verify_query_failed` and so on.
        code: &'static str,
        /// The file.
        file: String,
        /// Why.
        source: sqlx::Error,
    },
    /// A database was not brought to its version.
    #[error(transparent)]
    Migration(#[from] migrators::Error),
    /// Some members' own scripts failed; everybody else is synced.
    #[error("members are not synced: {failed}")]
    MembersNotSynced {
        /// Their user ids, and why.
        failed: String,
    },
    /// A check of the finished tenant did not hold.
    #[error("verification failed: {problem}")]
    NotVerified {
        /// What is wrong.
        problem: String,
    },
    /// Tenants' roles could create tables in schema public.
    #[error("PUBLIC may create in schema public, and our user may not revoke it")]
    PublicSchemaOpen,
    /// A database of our prefix lets every role in.
    #[error("its role can connect to database {database}")]
    IsolationOpen {
        /// The database.
        database: String,
    },
    /// Every cluster is full.
    #[error("no cluster has room for another tenant")]
    NoRoom,
    /// The tenant has no cluster yet.
    #[error("the tenant was not placed on a cluster")]
    NotPlaced,
    /// The template that the tenant was cloned from is not on record.
    #[error("template {hash} of the tenant is not on record")]
    TemplateUnknown {
        /// Its hash.
        hash: String,
    },
    /// A database that is to be dropped was opened to its users.
    #[error("database {database} was opened to its users, which is not on record")]
    InUse {
        /// The database.
        database: String,
    },
    /// The tenant's database was not copied, as that would have disturbed the tenant.
    #[error("database {database} was not copied: {why}")]
    NotCopied {
        /// The database.
        database: String,
        /// What was in the way.
        why: String,
    },
    /// The password cannot be opened.
    #[error("the tenant's password cannot be opened")]
    Secrets(#[from] secrets::Error),
    /// The step took too long and was cut off.
    #[error("step {step} did not finish within {} s", limit.as_secs())]
    TimedOut {
        /// The step.
        step: &'static str,
        /// How long it may take.
        limit: Duration,
    },
    /// Another worker has the job.
    #[error("the claim on the job was lost")]
    LostClaim,
    /// Processes die with it.
    #[error("the process that worked on it was lost {times} times")]
    WorkersLost {
        /// How often.
        times: u32,
    },
    /// A test's fault.
    #[error(transparent)]
    Injected(#[from] faults::Injected),
}

/// How what failed is tried again.
#[derive(Debug)]
pub enum Again {
    /// Automatically, after a while.
    ByItself,
    /// With this command.
    With(String),
}

impl From<tenant_db::Error> for StepError {
    fn from(error: tenant_db::Error) -> Self {
        match error {
            tenant_db::Error::LostClaim => Self::LostClaim,
            error => Self::Cluster(error),
        }
    }
}

impl From<queue::Error> for StepError {
    fn from(error: queue::Error) -> Self {
        match error {
            queue::Error::Sql(error) => Self::Control(error),
            queue::Error::LostClaim { .. } | queue::Error::Raced => Self::LostClaim,
        }
    }
}

impl StepError {
    /// The error of a file of the blueprint, with the line where the server tells one.
    pub(super) fn file(code: &'static str, file: &SqlFile, source: sqlx::Error) -> Self {
        Self::file_after(code, file, source, 0)
    }

    /// The same for a file that was sent after `before` ASCII characters of ours.
    pub(super) fn file_after(
        code: &'static str,
        file: &SqlFile,
        source: sqlx::Error,
        before: usize,
    ) -> Self {
        let position = match &source {
            sqlx::Error::Database(error) => error
                .try_downcast_ref::<PgDatabaseError>()
                .and_then(PgDatabaseError::position),
            _ => None,
        };
        let file = match position {
            // counted in characters from 1
            Some(PgErrorPosition::Original(at)) => {
                let at = at.saturating_sub(before);
                let line = file.sql.chars().take(at).filter(|c| *c == '\n').count() + 1;
                format!("{}:{line}", file.name)
            }
            _ => file.name.clone(),
        };
        Self::File { code, file, source }
    }

    /// The same where the position that the server tells is not one in the file.
    pub(super) fn file_unplaced(code: &'static str, file: &SqlFile, source: sqlx::Error) -> Self {
        let file = file.name.clone();
        Self::File { code, file, source }
    }

    /// Stable code; docs/errors.md has an entry for each.
    pub fn code(&self) -> &'static str {
        match self {
            Self::Control(_) => "control_database_unavailable",
            Self::Cluster(tenant_db::Error::ForeignDatabase { .. }) => "foreign_database",
            Self::Cluster(tenant_db::Error::ForeignRole { .. }) => "foreign_role",
            Self::Cluster(tenant_db::Error::UnknownCluster(_)) => "cluster_unknown",
            Self::Cluster(error) => match error.sqlstate().as_deref() {
                Some("42501") => "missing_privilege",
                Some("53100") => "disk_full",
                Some("53300") => "too_many_connections",
                Some("3D000") => "database_missing",
                Some("28P01" | "28000") => "login_refused",
                _ if self.is_retryable() => "cluster_unavailable",
                _ => "cluster_refused",
            },
            Self::Blueprint(error) => error.code(),
            Self::File { code, .. } => code,
            Self::Migration(error) => error.code(),
            Self::MembersNotSynced { .. } => "member_sync_failed",
            Self::NotVerified { .. } => "not_verified",
            Self::PublicSchemaOpen => "public_schema_open",
            Self::IsolationOpen { .. } => "isolation_open",
            Self::NoRoom => "no_room",
            Self::NotPlaced => "not_placed",
            Self::TemplateUnknown { .. } => "template_unknown",
            Self::InUse { .. } => "database_in_use",
            Self::NotCopied { .. } => "database_not_copied",
            Self::Secrets(_) => "credential_unreadable",
            Self::TimedOut { .. } => "step_timed_out",
            Self::LostClaim => "claim_lost",
            Self::WorkersLost { .. } => "worker_lost",
            Self::Injected(_) => "injected_fault",
        }
    }

    /// What to do, and how it goes on after that.
    pub fn fix(&self, again: &Again) -> String {
        match (self.repair(), again) {
            (None, Again::ByItself) => {
                "nothing: it is retried automatically; `tenantry doctor` checks the connection"
                    .to_owned()
            }
            (None, Again::With(command)) => {
                format!("run `tenantry doctor` to see what cannot be reached; then: {command}")
            }
            (Some(repair), Again::ByItself) => format!("{repair}; it is retried automatically"),
            (Some(repair), Again::With(command)) => format!("{repair}; then: {command}"),
        }
    }

    /// What to fix; `None` where what was away may have come back.
    fn repair(&self) -> Option<Cow<'static, str>> {
        let repair = match self {
            Self::Control(_) | Self::TimedOut { .. } | Self::LostClaim | Self::Injected(_) => {
                return None;
            }
            Self::Cluster(error) => return self.repair_of_cluster(error).map(Cow::Borrowed),
            Self::Blueprint(error) => error.fix(),
            Self::Migration(error) => error.fix(),
            Self::File { file, .. } => {
                return Some(
                    format!("fix {file} in the blueprint (or what it met in the database)").into(),
                );
            }
            Self::IsolationOpen { database } => {
                return Some(format!("revoke connect on database \"{database}\" from public, or from the role that gives it").into());
            }
            Self::MembersNotSynced { .. } => {
                "fix sync/ in the blueprint, or what it met in the database"
            }
            Self::NotVerified { .. } => "fix what the cause names (seed, verify query, or rights)",
            Self::PublicSchemaOpen => "use Postgres 15 or newer, or a superuser on 14",
            Self::NoRoom => "add a cluster to the configuration or raise a capacity",
            Self::NotPlaced | Self::TemplateUnknown { .. } => "fix what the cause names",
            Self::InUse { .. } => {
                "restore a later moment of the control database; or, if nobody wants what is in it, drop that database"
            }
            Self::NotCopied { .. } => {
                "disconnect its application for a moment (a dry run never ends sessions), or choose another tenant"
            }
            Self::Secrets(_) => "add the key that sealed it back to secrets.keys",
            Self::WorkersLost { .. } => {
                "find out why tenantry's processes die during this work (out of memory? grace period too short?)"
            }
        };
        Some(Cow::Borrowed(repair))
    }

    fn repair_of_cluster(&self, error: &tenant_db::Error) -> Option<&'static str> {
        Some(match error {
            tenant_db::Error::ForeignDatabase { .. } => {
                "rename or drop that database, if you know whose it is"
            }
            tenant_db::Error::ForeignRole { .. } => {
                "rename or drop that role, if you know whose it is"
            }
            tenant_db::Error::UnknownCluster(_) => "add the cluster back to [[clusters]]",
            error => match error.sqlstate().as_deref() {
                Some("42501") => {
                    "`tenantry doctor` prints the grant that is missing (or another deployment uses this tenants.prefix on the cluster)"
                }
                Some("53100") => "free or add disk space on the cluster",
                Some("53300") => "raise max_connections or lower queue.concurrency",
                _ if self.is_retryable() => return None,
                _ => "fix what the cause names",
            },
        })
    }

    /// Who was in the way of a migration.
    pub fn blocker(&self) -> Option<&Blocker> {
        match self {
            Self::Migration(error) => error.blocker(),
            _ => None,
        }
    }

    /// Whether it is one of this worker (its claim, the control database, an injected fault) and not of the database
    /// that it was at.
    pub fn is_of_worker(&self) -> bool {
        matches!(self, Self::LostClaim | Self::Control(_) | Self::Injected(_))
    }

    /// Whether the database is further than it was to be brought.
    pub fn is_ahead(&self) -> bool {
        matches!(self, Self::Migration(migrators::Error::Ahead { .. }))
    }

    /// Whether there is no such database.
    pub fn is_database_gone(&self) -> bool {
        matches!(self, Self::Migration(migrators::Error::DatabaseGone { .. }))
    }

    /// Whether the cluster is away, has nothing to spare, or is none of this configuration: nothing that a tenant or
    /// the blueprint could help.
    pub fn is_of_cluster(&self) -> bool {
        match self {
            Self::Cluster(tenant_db::Error::UnknownCluster(_)) => true,
            Self::Cluster(error) => error.told().is_some_and(db::is_unavailable),
            _ => false,
        }
    }

    /// Whether the same attempt may succeed later without anybody doing anything.
    pub fn is_retryable(&self) -> bool {
        match self {
            Self::Control(_)
            | Self::NoRoom
            | Self::IsolationOpen { .. }
            | Self::NotPlaced
            | Self::MembersNotSynced { .. }
            | Self::TimedOut { .. }
            | Self::LostClaim
            | Self::Injected(_)
            | Self::Cluster(tenant_db::Error::StaleSessions { .. })
            // a deployment that is copying its files just now
            | Self::Blueprint(
                blueprint::Error::Unreadable { .. }
                | blueprint::Error::DirectoryMissing { .. }
                | blueprint::Error::SettingsMissing { .. }
                | blueprint::Error::NoMigrations,
            ) => true,
            Self::Migration(error) => error.is_retryable(),
            // the file's own doing: a verify query runs in a read-only transaction
            Self::File {
                code: "verify_query_failed",
                source,
                ..
            } if db::sqlstate(source).as_deref() == Some("25006") => false,
            Self::File { source, .. } => is_transient(source),
            Self::Cluster(error) => error.told().is_some_and(is_transient),
            Self::PublicSchemaOpen
            | Self::Blueprint(_)
            | Self::NotVerified { .. }
            | Self::TemplateUnknown { .. }
            | Self::InUse { .. }
            | Self::NotCopied { .. }
            | Self::WorkersLost { .. }
            | Self::Secrets(_) => false,
        }
    }
}

/// An error of the moment: a server away, a lock not had, an object in use, a conflict with another transaction,
/// a password that is being changed.
fn is_transient(error: &sqlx::Error) -> bool {
    if db::is_unavailable(error) {
        return true;
    }
    match db::sqlstate(error) {
        Some(code) => {
            ["40", "55", "58", "XX"]
                .iter()
                .any(|class| code.starts_with(class))
                || ["3D000", "28P01", "28000"].contains(&code.as_str())
        }
        None => matches!(error, sqlx::Error::Io(_) | sqlx::Error::Tls(_)),
    }
}
