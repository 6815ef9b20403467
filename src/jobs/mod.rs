//! Station 4, RUN: what each job means.
//!
//! Guarantees: a handler can be run again after any interruption; a job and the thing it is for fail
//! together: when a job is buried, its event or tenant says so in the same transaction; errors are
//! logged once, here.
//!
//! Does not: claim, retry or keep leases. The queue does.

mod deliver_notifications;
mod fetch_parent;
mod hear;
mod migrate_fleet;
mod process_event;
mod provision_tenant;
mod prune;
mod push_membership;
mod register_organization;
mod resend_invitation;
mod revoke_invitation;
mod send_invitation;
mod sync_members;
mod undo_tenant;

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use sqlx::PgConnection;

pub use process_event::process_batch;

use crate::{
    causes::chain,
    config::Source,
    db::{self, Db},
    faults::Injected,
    fleet::RunId,
    identity, inbox, members,
    notifications::Sender,
    provider_api::{self, Client},
    provisioning::Provisioner,
    queue::{
        self, Claim, Failure, Job, NewJob, Waker,
        worker::{Lease, Outcome, Settled},
    },
    registrations,
    retention::Plan,
    shutdown::Tasks,
    tenants::{self, TenantFailure, TenantId},
};

const FAULT_BEFORE: &str = "process_event.before";
const FAULT_COMMITTING: &str = "process_event.committing";
const FAULT_COMMITTED: &str = "process_event.committed";

/// Where a test can make a job fail: before its work, before its commit, after it.
pub const FAULT_POINTS: [&str; 3] = [FAULT_BEFORE, FAULT_COMMITTING, FAULT_COMMITTED];

/// What handlers need.
#[derive(Debug, Clone)]
pub struct JobContext {
    /// Control database.
    pub db: Db,
    /// Makes tenants ready.
    pub provisioner: Arc<Provisioner>,
    /// Wakes workers for jobs that a handler enqueued.
    pub waker: Waker,
    /// Tells a long job to stop between two steps.
    pub tasks: Tasks,
    /// How to read the events of each source.
    pub sources: Arc<BTreeMap<String, Source>>,
    /// The providers' APIs, by the name of the source.
    pub providers: Arc<BTreeMap<String, Client>>,
    /// The endpoints of notifications, by their names.
    pub senders: Arc<BTreeMap<String, Sender>>,
    /// Attempts of a new job.
    pub max_attempts: i32,
    /// How long events wait for an object that they name before the provider is asked.
    pub parent_wait: Duration,
    /// What goes when it is old.
    pub retention: Arc<Plan>,
    /// Attempts of a target of a fleet run.
    pub fleet_attempts: u32,
    /// Name of this process's worker, for the record of attempts.
    pub worker: Arc<str>,
}

/// Why a handler failed.
#[derive(Debug)]
enum JobError {
    /// Another attempt may succeed.
    Retry(Failure),
    /// No attempt will; the tenant's row gets what is told.
    Discard(Failure, Option<Box<TenantFailure>>),
    /// The claim was lost.
    Lost,
}

impl From<sqlx::Error> for JobError {
    fn from(error: sqlx::Error) -> Self {
        Self::from(queue::Error::Sql(error))
    }
}

impl From<queue::Error> for JobError {
    fn from(error: queue::Error) -> Self {
        match error {
            queue::Error::LostClaim { .. } => Self::Lost,
            queue::Error::Sql(error) if !db::is_passing(&error) => {
                Self::Retry(Failure::new("control_database_refused", chain(&error)))
            }
            error @ (queue::Error::Sql(_) | queue::Error::Raced) => {
                Self::Retry(Failure::new("control_database_unavailable", chain(&error)))
            }
        }
    }
}

/// A key that is not accepted is tried again as well: it can be replaced while the job waits.
impl From<provider_api::Error> for JobError {
    fn from(error: provider_api::Error) -> Self {
        let failure = Failure {
            code: error.code(),
            error: chain(&error),
            retry_after: error.retry_after(),
        };
        if error.is_retryable() || matches!(error, provider_api::Error::Unauthorized { .. }) {
            Self::Retry(failure)
        } else {
            Self::Discard(failure, None)
        }
    }
}

impl From<Injected> for JobError {
    fn from(error: Injected) -> Self {
        Self::Retry(Failure::new("injected_fault", error.to_string()))
    }
}

/// Does what the job means.
pub async fn run(cx: &JobContext, claim: Claim, lease: Lease) -> Outcome {
    if claim.is_exhausted() {
        let error = "its worker was lost on the last attempt".to_owned();
        return give_up(cx, &claim, Failure::new("worker_lost", error), None).await;
    }
    let result = match &claim.payload {
        Job::ProcessEvent { .. } => process_event::run(cx, &claim).await,
        Job::ProvisionTenant { tenant } => {
            provision_tenant::run(cx, &claim, &lease, TenantId(*tenant)).await
        }
        Job::UndoTenant { tenant } => undo_tenant::run(cx, &claim, &lease, TenantId(*tenant)).await,
        Job::SyncMembers { tenant } => {
            sync_members::run(cx, &claim, &lease, TenantId(*tenant)).await
        }
        Job::FetchParent { source, parent } => fetch_parent::run(cx, &claim, source, parent).await,
        Job::SendInvitation { invitation } => {
            send_invitation::run(cx, &claim, &lease, *invitation).await
        }
        Job::PushMembership { source, membership } => {
            push_membership::run(cx, &claim, &lease, (source, membership)).await
        }
        Job::RevokeInvitation { invitation } => {
            revoke_invitation::run(cx, &claim, &lease, *invitation).await
        }
        Job::ResendInvitation { invitation } => {
            resend_invitation::run(cx, &claim, &lease, *invitation).await
        }
        Job::RegisterOrganization { registration } => {
            register_organization::run(cx, &claim, &lease, *registration).await
        }
        Job::Prune => prune::run(cx, &claim, &lease).await,
        Job::DeliverNotifications { endpoint, tenant } => {
            deliver_notifications::run(cx, &claim, &lease, (endpoint, *tenant)).await
        }
        Job::MigrateFleet { run, .. } => migrate_fleet::run(cx, &claim, &lease, RunId(*run)).await,
    };
    match result {
        Ok(outcome) => outcome,
        Err(JobError::Lost) => Outcome::Lost,
        Err(JobError::Retry(failure))
            if !claim.is_last_attempt() || failure.retry_after.is_some() =>
        {
            log(&claim, &failure, "a job failed; it is tried again");
            Outcome::Retry(failure)
        }
        Err(JobError::Retry(failure)) => {
            log(&claim, &failure, "a job failed on its last attempt");
            give_up(cx, &claim, failure, None).await
        }
        Err(JobError::Discard(failure, told)) => {
            log(&claim, &failure, "a job failed for good");
            give_up(cx, &claim, failure, told).await
        }
    }
}

fn log(claim: &Claim, failure: &Failure, message: &'static str) {
    let subject = match &claim.payload {
        Job::ProcessEvent { event } => format!("event {event}"),
        Job::ProvisionTenant { tenant }
        | Job::UndoTenant { tenant }
        | Job::SyncMembers { tenant } => {
            format!("tenant {tenant}")
        }
        Job::FetchParent { source, parent } => format!("{parent} of {source}"),
        Job::SendInvitation { invitation }
        | Job::RevokeInvitation { invitation }
        | Job::ResendInvitation { invitation } => format!("invitation {invitation}"),
        Job::PushMembership { source, membership } => {
            format!("membership {membership} of {source}")
        }
        Job::RegisterOrganization { registration } => format!("registration {registration}"),
        Job::Prune => "what is old".to_owned(),
        Job::DeliverNotifications { endpoint, tenant } => {
            format!("tenant {tenant} for {endpoint}")
        }
        Job::MigrateFleet { run, slot } => format!("slot {slot} of fleet run {run}"),
    };
    tracing::warn!(
        job.id = %claim.id,
        job.kind = claim.payload.kind(),
        job.attempt = claim.attempt,
        job.subject = subject,
        error.code = failure.code,
        error = failure.error,
        "{message}"
    );
}

/// Buries the job together with what it was for.
async fn give_up(
    cx: &JobContext,
    claim: &Claim,
    failure: Failure,
    told: Option<Box<TenantFailure>>,
) -> Outcome {
    let settled = cx
        .db
        .transaction(async |tx| {
            if let Job::FetchParent { .. } = claim.payload {
                // an event that is just being recorded must not miss its last chance
                identity::lock(tx).await?;
            }
            queue::assert_held(tx, claim).await?;
            fail_subject(tx, &claim.payload, &failure, told.as_deref()).await?;
            queue::bury(tx, claim, &failure).await?;
            match (&claim.payload, cx.retention.pause) {
                // it comes back by itself, also after this
                (Job::Prune, Some(pause)) => {
                    let next = NewJob::prune(pause, cx.max_attempts);
                    queue::keep_scheduled(tx, &next).await
                }
                _ => Ok(()),
            }
        })
        .await;
    match settled {
        Ok(()) => Outcome::Settled(Settled::Discarded),
        Err(queue::Error::LostClaim { .. }) => Outcome::Lost,
        // not recorded: another attempt comes here again
        Err(error @ (queue::Error::Sql(_) | queue::Error::Raced)) => {
            Outcome::Retry(Failure::new(failure.code, chain(&error)))
        }
    }
}

/// The tenant of the organization, if it has one, is told of its members.
pub(crate) async fn rouse_sync(
    tx: &mut PgConnection,
    (source, org_id): (&str, &str),
    max_attempts: i32,
) -> Result<(), queue::Error> {
    let tenant = tenants::find_of_organization(tx, source, org_id).await?;
    if let Some(tenant) = tenant {
        let job = NewJob::sync_members(tenant.id.0, (source, org_id), max_attempts);
        queue::rouse(tx, &job).await?;
    }
    Ok(())
}

/// What a job is for fails with it.
pub(crate) async fn fail_subject(
    tx: &mut PgConnection,
    job: &Job,
    failure: &Failure,
    told: Option<&TenantFailure>,
) -> sqlx::Result<()> {
    let reason = format!("{}: {}", failure.code, failure.error);
    match job {
        Job::ProcessEvent { event } => inbox::mark_failed(tx, *event, &reason).await?,
        Job::FetchParent { source, parent } => {
            inbox::fail_waiting(tx, source, parent, &reason).await?;
        }
        // what is not told yet stays to be told: by the next change, or a retry
        Job::SyncMembers { .. } | Job::PushMembership { .. }
        // who wants it sent again asks again
        | Job::ResendInvitation { .. }
        // another job goes on, by itself (`keep_going` of both)
        | Job::DeliverNotifications { .. }
        | Job::MigrateFleet { .. }
        | Job::Prune => {}
        Job::RevokeInvitation { invitation } => {
            members::mark_not_revoked(tx, *invitation, &reason).await?;
        }
        Job::SendInvitation { invitation } => {
            members::mark_not_sent(tx, *invitation, &reason).await?;
        }
        Job::ProvisionTenant { tenant } => {
            let fix = format!("tenantry tenants retry {tenant}");
            let told = told.cloned().unwrap_or_else(|| by_itself(failure, fix));
            tenants::mark_failed(tx, TenantId(*tenant), &told).await?;
        }
        Job::RegisterOrganization { registration } => {
            let found = registrations::find_stored(tx, *registration).await?;
            if let Some(tenant) = found.and_then(|registration| registration.tenant_id) {
                let fix = format!("tenantry tenants retry {tenant}");
                let told = told.cloned().unwrap_or_else(|| by_itself(failure, fix));
                // the registration follows; one that joined a ready tenant fails alone
                tenants::mark_failed(tx, tenant, &told).await?;
                registrations::mark_failed(tx, *registration, &told).await?;
            }
        }
        Job::UndoTenant { tenant } => {
            let fix =
                format!("tenantry jobs ls --tenant {tenant} --kind undo_tenant, and retry it");
            let told = told.cloned().unwrap_or_else(|| by_itself(failure, fix));
            tenants::note_undo_failure(tx, TenantId(*tenant), &told).await?;
        }
    }
    Ok(())
}

/// What a tenant is told when no step of it failed, but the job as such.
fn by_itself(failure: &Failure, fix: String) -> TenantFailure {
    TenantFailure {
        step: String::new(),
        code: failure.code.to_owned(),
        cause: failure.error.clone(),
        fix,
    }
}
