//! Station 4, RUN: what each job means.
//!
//! Guarantees: a handler can be run again after any interruption; a job and the thing it is for fail
//! together: when a job is buried, its event or tenant says so in the same transaction; errors are
//! logged once, here.
//!
//! Does not: claim, retry or keep leases. The queue does.

mod process_event;
mod provision_tenant;
mod retry;

use std::{collections::BTreeMap, sync::Arc};

pub use retry::retry_tenant;

use crate::{
    causes::chain,
    config::Source,
    db::Db,
    faults::Injected,
    inbox,
    provisioning::Provisioner,
    queue::{
        self, Claim, Failure, Job, Waker,
        worker::{Lease, Outcome, Settled},
    },
    shutdown::Tasks,
    tenants::{self, TenantFailure, TenantId},
};

/// Where a test can make a job fail: before its work, before its commit, after it.
pub const FAULT_POINTS: [&str; 3] = [
    "process_event.before",
    "process_event.committing",
    "process_event.committed",
];

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
    /// Attempts of a new job.
    pub max_attempts: i32,
}

/// Why a handler failed.
#[derive(Debug)]
enum JobError {
    /// Another attempt may succeed.
    Retry(Failure),
    /// No attempt will; the tenant's row gets what is told.
    Discard(Failure, Option<TenantFailure>),
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
            error @ (queue::Error::Sql(_) | queue::Error::Raced) => Self::Retry(Failure {
                code: "control_database_unavailable",
                error: chain(&error),
            }),
        }
    }
}

impl From<Injected> for JobError {
    fn from(error: Injected) -> Self {
        Self::Retry(Failure {
            code: "injected_fault",
            error: error.to_string(),
        })
    }
}

/// Does what the job means.
pub async fn run(cx: &JobContext, claim: Claim, lease: Lease) -> Outcome {
    if claim.is_exhausted() {
        let error = "its worker was lost on the last attempt".to_owned();
        return give_up(
            cx,
            &claim,
            Failure {
                code: "worker_lost",
                error,
            },
            None,
        )
        .await;
    }
    let result = match claim.payload {
        Job::ProcessEvent { event } => process_event::run(cx, &claim, event).await,
        Job::ProvisionTenant { tenant } => {
            provision_tenant::run(cx, &claim, &lease, TenantId(tenant)).await
        }
    };
    match result {
        Ok(outcome) => outcome,
        Err(JobError::Lost) => Outcome::Lost,
        Err(JobError::Retry(failure)) if !claim.is_last_attempt() => {
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
    let subject = match claim.payload {
        Job::ProcessEvent { event } => format!("event {event}"),
        Job::ProvisionTenant { tenant } => format!("tenant {tenant}"),
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
    told: Option<TenantFailure>,
) -> Outcome {
    let settled = cx
        .db
        .transaction(async |tx| {
            queue::assert_held(tx, claim).await?;
            match claim.payload {
                Job::ProcessEvent { event } => {
                    let reason = format!("{}: {}", failure.code, failure.error);
                    inbox::mark_failed(tx, event, &reason).await?;
                }
                Job::ProvisionTenant { tenant } => {
                    let told = told.clone().unwrap_or_else(|| TenantFailure {
                        step: String::new(),
                        code: failure.code.to_owned(),
                        cause: failure.error.clone(),
                        fix: format!("tenantry tenants retry {tenant}"),
                    });
                    tenants::mark_failed(tx, TenantId(tenant), &told).await?;
                }
            }
            queue::bury(tx, claim, &failure).await
        })
        .await;
    match settled {
        Ok(()) => Outcome::Settled(Settled::Discarded),
        Err(queue::Error::LostClaim { .. }) => Outcome::Lost,
        // not recorded: another attempt comes here again
        Err(error @ (queue::Error::Sql(_) | queue::Error::Raced)) => Outcome::Retry(Failure {
            code: failure.code,
            error: chain(&error),
        }),
    }
}
