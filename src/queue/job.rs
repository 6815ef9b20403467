//! What jobs there are: data only. `crate::jobs` knows what each means.

use serde::{Deserialize, Serialize};
use uuid::Uuid;

/// Number of a job.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, sqlx::Type, Serialize, Deserialize,
)]
#[sqlx(transparent)]
#[serde(transparent)]
pub struct JobId(pub i64);

impl std::fmt::Display for JobId {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.0.fmt(f)
    }
}

/// A job's kind and data. The JSON is stored: a variant or field may be added, never renamed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum Job {
    /// Do what a received event means.
    ProcessEvent {
        /// Number of the event in the inbox.
        event: i64,
    },
    /// Make a tenant ready.
    ProvisionTenant {
        /// The tenant.
        tenant: Uuid,
    },
}

impl Job {
    /// Every kind that this version knows; a newer replica's jobs are left to newer replicas.
    pub const KINDS: [&'static str; 2] = ["process_event", "provision_tenant"];

    /// The kind as it is stored, logged and counted.
    pub const fn kind(&self) -> &'static str {
        match self {
            Self::ProcessEvent { .. } => "process_event",
            Self::ProvisionTenant { .. } => "provision_tenant",
        }
    }
}
