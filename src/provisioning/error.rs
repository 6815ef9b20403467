//! Why a step failed: a stable code, the cause, what to do, and whether trying again can help.
//!
//! Guarantees: retry or not is decided here, by kind and SQLSTATE, never by message text.

use std::time::Duration;

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
    #[error("the tenant's cluster cannot be used as needed")]
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
    #[error("the tenant is not what it should be: {problem}")]
    NotVerified {
        /// What is wrong.
        problem: String,
    },
    /// Tenants' roles could create tables in schema public.
    #[error("PUBLIC may create in schema public, and our user may not revoke it")]
    PublicSchemaOpen,
    /// A database of our prefix lets every role in.
    #[error("its role can connect to database {database}, because PUBLIC can")]
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
    #[error("step {step} did not end within {} s", limit.as_secs())]
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
    #[error(
        "it was tried {times} times, and the process that was at it last ended before it was done"
    )]
    WorkersLost {
        /// How often.
        times: i32,
    },
    /// A test's fault.
    #[error(transparent)]
    Injected(#[from] faults::Injected),
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

    /// The same where the file was sent behind so many ASCII characters of ours.
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
            Self::NotCopied { .. } => "database_not_copied",
            Self::Secrets(_) => "credential_unreadable",
            Self::TimedOut { .. } => "step_timed_out",
            Self::LostClaim => "claim_lost",
            Self::WorkersLost { .. } => "worker_lost",
            Self::Injected(_) => "injected_fault",
        }
    }

    /// What to do.
    pub fn fix(&self) -> String {
        match self {
            Self::Blueprint(error) => error.fix().to_owned(),
            Self::Migration(error) => error.fix().to_owned(),
            Self::File { file, .. } => {
                format!(
                    "repair {file} in the blueprint (or what it met in the database), then: tenantry tenants retry <tenant>"
                )
            }
            Self::IsolationOpen { database } => {
                format!(
                    "revoke connect on database \"{database}\" from public; then it goes on by itself"
                )
            }
            _ => self.fixed_text().to_owned(),
        }
    }

    /// What to do where what failed was not about a tenant: none is there to be tried again.
    pub fn fix_without_tenant(&self) -> String {
        let fix = self.fix();
        match fix.strip_suffix("then: tenantry tenants retry <tenant>") {
            Some(rest) => rest.trim_end_matches([' ', ',', ';']).to_owned(),
            None => fix,
        }
    }

    fn fixed_text(&self) -> &'static str {
        match self.code() {
            "control_database_unavailable"
            | "cluster_unavailable"
            | "step_timed_out"
            | "claim_lost"
            | "injected_fault" => {
                "nothing: it is tried again by itself; `tenantry doctor` checks the connection"
            }
            "worker_lost" => {
                "find out why tenantry's processes end while it is under way (memory? a short grace period?); then: tenantry tenants retry <tenant>"
            }
            "public_schema_open" => {
                "use Postgres 15 or newer, or a superuser on 14; then: tenantry tenants retry <tenant>"
            }
            "cluster_unknown" => {
                "configure the cluster in [[clusters]] again; then: tenantry tenants retry <tenant>"
            }
            "foreign_database" => {
                "rename or drop that database, if you know whose it is; then: tenantry tenants retry <tenant>"
            }
            "foreign_role" => {
                "rename or drop that role, if you know whose it is; then: tenantry tenants retry <tenant>"
            }
            "missing_privilege" => {
                "`tenantry doctor` prints the grant that is missing (or another deployment uses this tenants.prefix on the cluster); then: tenantry tenants retry <tenant>"
            }
            "disk_full" => "free or add disk space on the cluster; it is tried again by itself",
            "too_many_connections" => {
                "raise max_connections or lower queue.concurrency; it is tried again by itself"
            }
            "no_room" => {
                "add a cluster to the configuration or raise a capacity; it is tried again by itself"
            }
            "credential_unreadable" => {
                "configure the key that sealed it again in secrets.keys; then: tenantry tenants retry <tenant>"
            }
            "member_sync_failed" => {
                "repair sync/ in the blueprint, or what it met in the database; it is tried again by itself"
            }
            "database_not_copied" => {
                "keep its application away for a moment (nobody's session is ended for a dry run), or choose another tenant; then: tenantry fleet resume"
            }
            "not_verified" => {
                "repair what the cause names (seed, verify query, or rights), then: tenantry tenants retry <tenant>"
            }
            _ => "repair what the cause names, then: tenantry tenants retry <tenant>",
        }
    }

    /// Who was in the way of a migration.
    pub fn blocker(&self) -> Option<&Blocker> {
        match self {
            Self::Migration(error) => error.blocker(),
            _ => None,
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
            Self::Cluster(tenant_db::Error::Sql { source, .. }) | Self::File { source, .. } => {
                is_transient(source)
            }
            Self::Cluster(_)
            | Self::PublicSchemaOpen
            | Self::Blueprint(_)
            | Self::NotVerified { .. }
            | Self::TemplateUnknown { .. }
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
