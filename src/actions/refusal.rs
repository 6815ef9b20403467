//! Why something that an operator asks for is not done.

use uuid::Uuid;

use crate::{
    queue::{self, JobId, Refused},
    tenants::{LabelInvalid, TenantId, TenantState},
};

/// Why something that an operator asks for is not done. Then nothing was changed.
#[derive(Debug, thiserror::Error)]
pub enum Refusal {
    /// The control database cannot be used.
    #[error("the control database cannot be used")]
    Queue(#[from] queue::Error),
    /// The job cannot be changed.
    #[error(transparent)]
    Job(#[from] Refused),
    /// A newer version made the job; this one does not know what would follow.
    #[error("job {0} is of a kind that this version does not know")]
    JobKindUnknown(JobId),
    /// The invitation has stood again since the job was given up: there is nothing left for it to do.
    #[error("job {0} was to revoke an invitation, and that was given up with it")]
    RevocationGivenUp(JobId),
    /// The tenant is not in a state from which this leads on.
    #[error("tenant {tenant} is {}, not {wanted}", state.name())]
    TenantWrongState {
        /// The tenant.
        tenant: TenantId,
        /// How it is.
        state: TenantState,
        /// How it would have to be.
        wanted: &'static str,
    },
    /// There is no tenant of this id any more.
    #[error("there is no tenant {0}")]
    TenantUnknown(TenantId),
    /// Something is no label.
    #[error(transparent)]
    Label(#[from] LabelInvalid),
    /// The tenant's organization was deleted at the provider.
    #[error("the organization of tenant {0} was deleted at the provider")]
    OrganizationDeleted(TenantId),
    /// The registration's tenant is ready: it is not given up any more.
    #[error("registration {0} is ready")]
    RegistrationReady(Uuid),
    /// The organization lives at the provider, which made it without tenantry.
    #[error("the organization of registration {0} was made at the provider, not here")]
    OrganizationLives(Uuid),
    /// There is none of this number.
    #[error("there is no event {0}")]
    EventUnknown(i64),
    /// The event is not settled.
    #[error("event {0} is not settled yet")]
    EventIsPending(i64),
    /// It is another body of an event that was there already.
    #[error("event {0} has the id of another event and another body")]
    EventInConflict(i64),
    /// What it says is not kept any more.
    #[error("the body of event {0} was pruned: there is nothing left to process")]
    EventBodyPruned(i64),
}

impl From<sqlx::Error> for Refusal {
    fn from(error: sqlx::Error) -> Self {
        Self::Queue(error.into())
    }
}

impl Refusal {
    /// Stable code, explained in docs/errors.md.
    pub const fn code(&self) -> &'static str {
        match self {
            Self::Queue(_) => "control_database_unavailable",
            Self::Job(refused) => refused.code(),
            Self::JobKindUnknown(_) => "job_kind_unknown",
            Self::RevocationGivenUp(_) => "revocation_given_up",
            Self::TenantWrongState { .. } => "tenant_wrong_state",
            Self::TenantUnknown(_) => "tenant_unknown",
            Self::Label(invalid) => invalid.code(),
            Self::OrganizationDeleted(_) => "organization_deleted",
            Self::RegistrationReady(_) => "registration_ready",
            Self::OrganizationLives(_) => "organization_lives",
            Self::EventUnknown(_) => "event_unknown",
            Self::EventIsPending(_) => "event_is_pending",
            Self::EventInConflict(_) => "event_in_conflict",
            Self::EventBodyPruned(_) => "event_body_pruned",
        }
    }

    /// What to do.
    pub const fn fix(&self) -> &'static str {
        match self {
            Self::Queue(_) | Self::Job(Refused::Sql(_)) => {
                "try again; `tenantry doctor` checks what tenantry needs"
            }
            Self::Job(Refused::Unknown(_)) => "list them: `tenantry jobs ls`, or GET /v1/jobs",
            Self::Job(Refused::Running(_)) => "wait until the attempt has ended",
            Self::Job(Refused::WrongState { .. }) => "look at it: `tenantry jobs get`",
            Self::Job(Refused::Superseded(_)) => "look at the other job: `tenantry jobs ls`",
            Self::JobKindUnknown(_) => "do it with the newer version of tenantry",
            Self::RevocationGivenUp(_) => "revoke the invitation again",
            Self::TenantWrongState { .. } => "look at it: `tenantry tenants get`",
            Self::TenantUnknown(_) => "list them: `tenantry tenants ls`, or GET /v1/tenants",
            Self::Label(_) => "give key=value, such as tier=free; key- takes a label away",
            Self::OrganizationDeleted(_) => "create the organization anew at the provider",
            Self::RegistrationReady(_) => "suspend the tenant: `tenantry tenants suspend`",
            Self::OrganizationLives(_) => "delete the organization at the provider",
            Self::EventUnknown(_) => "list them: `tenantry events ls`, or GET /v1/events",
            Self::EventIsPending(_) => "wait until it is settled: `tenantry events get`",
            Self::EventInConflict(_) => "look at both: `tenantry events get`",
            Self::EventBodyPruned(_) => {
                "change the object at the provider: a new event says how it is now"
            }
        }
    }
}
