//! What jobs there are: data only. `crate::jobs` knows what each means.

use std::time::Duration;

use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::NewJob;

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
    /// Take back what was made of a tenant that was abandoned before it was ready.
    UndoTenant {
        /// The tenant.
        tenant: Uuid,
    },
    /// Tell a tenant's database about its members.
    SyncMembers {
        /// The tenant.
        tenant: Uuid,
    },
    /// Ask the provider about an object that events name and nobody has described.
    FetchParent {
        /// Name of the source.
        source: String,
        /// The object, such as `user:user_1`.
        parent: String,
    },
    /// Send an invitation through the provider.
    SendInvitation {
        /// Our id of the invitation.
        invitation: Uuid,
    },
    /// Tell the provider of a removal, restoration or role that was decided here.
    PushMembership {
        /// Name of the source.
        source: String,
        /// The provider's id of the membership.
        membership: String,
    },
    /// Tell the provider that an invitation was taken back here.
    RevokeInvitation {
        /// Our id of the invitation.
        invitation: Uuid,
    },
    /// Have the provider send an invitation again.
    ResendInvitation {
        /// Our id of the invitation.
        invitation: Uuid,
    },
    /// Make the organization of a registration, and its first administrator, at the provider.
    RegisterOrganization {
        /// The registration.
        registration: Uuid,
    },
    /// Delete what has been kept for its time. Comes back by itself.
    Prune,
    /// Tell an endpoint what is outstanding of a tenant. Migration 0012 enqueues it.
    DeliverNotifications {
        /// Name of the endpoint.
        endpoint: String,
        /// The tenant.
        tenant: Uuid,
    },
    /// Migrate tenants of a fleet run, one after the other, in one of its slots.
    MigrateFleet {
        /// The run.
        run: Uuid,
        /// The slot, counted from 0.
        slot: u32,
    },
}

impl Job {
    /// Every kind that this version knows; a newer replica's jobs are left to newer replicas.
    pub const KINDS: [&'static str; 13] = [
        "process_event",
        "provision_tenant",
        "undo_tenant",
        "sync_members",
        "fetch_parent",
        "send_invitation",
        "push_membership",
        "revoke_invitation",
        "resend_invitation",
        "register_organization",
        "prune",
        "deliver_notifications",
        "migrate_fleet",
    ];

    /// The kinds that wait for somebody else's server: they run beside the others, and never in their place.
    pub const OUTGOING: [&'static str; 1] = ["deliver_notifications"];

    /// The kinds that migrate the fleet: they run beside the others, so that no new tenant waits for a run.
    pub const FLEET: [&'static str; 1] = ["migrate_fleet"];

    /// The kind as it is stored, logged and counted.
    pub const fn kind(&self) -> &'static str {
        match self {
            Self::ProcessEvent { .. } => "process_event",
            Self::ProvisionTenant { .. } => "provision_tenant",
            Self::UndoTenant { .. } => "undo_tenant",
            Self::SyncMembers { .. } => "sync_members",
            Self::FetchParent { .. } => "fetch_parent",
            Self::SendInvitation { .. } => "send_invitation",
            Self::PushMembership { .. } => "push_membership",
            Self::RevokeInvitation { .. } => "revoke_invitation",
            Self::ResendInvitation { .. } => "resend_invitation",
            Self::RegisterOrganization { .. } => "register_organization",
            Self::Prune => "prune",
            Self::DeliverNotifications { .. } => "deliver_notifications",
            Self::MigrateFleet { .. } => "migrate_fleet",
        }
    }
}

/// The concurrency key of jobs about an organization: they run one at a time.
///
/// [`StoredJob::organization`](super::StoredJob::organization) reads it. A name of a source has no colon.
pub fn organization_key((source, org_id): (&str, &str)) -> String {
    format!("{source}:{org_id}")
}

/// The unique key of the job that makes a tenant ready.
pub fn provision_key(tenant: Uuid) -> String {
    format!("provision:{tenant}")
}

/// The unique key of the job that makes the organization of a registration.
pub fn register_key(registration: Uuid) -> String {
    format!("register:{registration}")
}

/// The unique key of the job that sends an invitation.
pub fn invite_key(invitation: Uuid) -> String {
    format!("invite:{invitation}")
}

impl NewJob {
    /// Delete what has been kept for its time, so long from now.
    pub fn prune(delay: Duration, max_attempts: i32) -> Self {
        Self {
            job: Job::Prune,
            concurrency_key: None,
            unique_key: Some("prune".to_owned()),
            max_attempts,
            delay,
        }
    }

    /// Migrate tenants of a fleet run in this slot of it.
    pub fn migrate_fleet(run: Uuid, slot: u32) -> Self {
        // with leading zeros: callers with several keys take them in the order of the texts
        let key = format!("fleet:{run}:{slot:03}");
        Self {
            job: Job::MigrateFleet { run, slot },
            concurrency_key: None,
            unique_key: Some(key),
            // what fails has attempts of its own, of each target: the job goes on until the run has ended
            max_attempts: 1_000_000,
            delay: Duration::ZERO,
        }
    }

    /// Record what an event says, and do what follows; of no organization where none is known.
    pub fn process_event(
        event: i64,
        organization: Option<(&str, &str)>,
        max_attempts: i32,
    ) -> Self {
        Self {
            job: Job::ProcessEvent { event },
            concurrency_key: organization.map(organization_key),
            unique_key: None,
            max_attempts,
            delay: Duration::ZERO,
        }
    }

    /// Make a tenant ready.
    pub fn provision_tenant(tenant: Uuid, organization: (&str, &str), max_attempts: i32) -> Self {
        let job = Job::ProvisionTenant { tenant };
        Self::of_organization(job, provision_key(tenant), organization, max_attempts)
    }

    /// Take back what was made of a tenant, after the jobs of the concurrency key.
    pub fn undo_tenant(tenant: Uuid, concurrency_key: String, max_attempts: i32) -> Self {
        Self {
            job: Job::UndoTenant { tenant },
            concurrency_key: Some(concurrency_key),
            unique_key: Some(format!("undo:{tenant}")),
            max_attempts,
            delay: Duration::ZERO,
        }
    }

    /// Make the organization of a registration, and its administrator, at the provider.
    pub fn register_organization(
        registration: Uuid,
        organization: (&str, &str),
        max_attempts: i32,
    ) -> Self {
        let job = Job::RegisterOrganization { registration };
        Self::of_organization(job, register_key(registration), organization, max_attempts)
    }

    /// Tell the database of an organization's tenant about its members.
    pub fn sync_members(tenant: Uuid, organization: (&str, &str), max_attempts: i32) -> Self {
        let job = Job::SyncMembers { tenant };
        Self::of_organization(job, format!("sync:{tenant}"), organization, max_attempts)
    }

    /// Tell the provider what was decided about a membership.
    pub fn push_membership(
        membership: &str,
        organization: (&str, &str),
        max_attempts: i32,
    ) -> Self {
        let (source, _) = organization;
        let job = Job::PushMembership {
            source: source.to_owned(),
            membership: membership.to_owned(),
        };
        let unique_key = format!("push:{source}:{membership}");
        Self::of_organization(job, unique_key, organization, max_attempts)
    }

    /// Have an invitation sent.
    pub fn send_invitation(
        invitation: Uuid,
        organization: (&str, &str),
        max_attempts: i32,
    ) -> Self {
        let job = Job::SendInvitation { invitation };
        Self::of_organization(job, invite_key(invitation), organization, max_attempts)
    }

    /// Have an invitation sent again.
    pub fn resend_invitation(
        invitation: Uuid,
        organization: (&str, &str),
        max_attempts: i32,
    ) -> Self {
        let job = Job::ResendInvitation { invitation };
        Self::of_organization(
            job,
            format!("resend:{invitation}"),
            organization,
            max_attempts,
        )
    }

    /// Tell the provider that an invitation was taken back.
    pub fn revoke_invitation(
        invitation: Uuid,
        organization: (&str, &str),
        max_attempts: i32,
    ) -> Self {
        let job = Job::RevokeInvitation { invitation };
        Self::of_organization(
            job,
            format!("revoke:{invitation}"),
            organization,
            max_attempts,
        )
    }

    /// After what else is under way of the organization.
    fn of_organization(
        job: Job,
        unique_key: String,
        organization: (&str, &str),
        max_attempts: i32,
    ) -> Self {
        Self {
            job,
            concurrency_key: Some(organization_key(organization)),
            unique_key: Some(unique_key),
            max_attempts,
            delay: Duration::ZERO,
        }
    }
}
