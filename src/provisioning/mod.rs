//! Station 5, PROVISIONED: the plan that makes a tenant ready.
//!
//! ```text
//!  place ─▶ create_database ─▶ create_role ─▶ seed ─▶ sync_members ─▶ verify ─▶ activate
//!             from the pool,     login, DML    this     its people      structure,  routed from
//!             or a clone         rights        tenant's                 data, login here on
//! ```
//!
//! Guarantees: each step looks first and does only what is missing; each is recorded when done; a retry resumes at
//! the first step that is not. An attempt that lost its claim writes nothing, and nothing is written for a tenant
//! nobody wants any more. `activate` is last and one transaction: nobody is routed to an unverified tenant. When a
//! step is cut off, its sessions are ended before it counts as failed; where the server refuses, the next attempt
//! ends them. [`undo`] takes an unfinished tenant back in reverse order until nothing is left.
//!
//! Does not: retry. The queue does.

mod activate;
mod context;
mod create_database;
mod create_role;
mod error;
pub mod migrators;
mod place;
pub mod pool;
pub mod rehearsal;
mod seed;
pub mod steps;
mod sync_members;
mod teller;
pub mod template;
mod undo;
mod verify;

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use context::{StepContext, is_marked};
use steps::Advanced;
use undo::UndoContext;

pub use error::{Again, StepError};
pub use sync_members::{Synced, sync_members};
pub use undo::{FAULT_UNDO_COMMITTING, FAULT_UNDO_ROW, UNDO_FAULT_POINTS, Undone, undo};
pub(crate) use verify::EXCESS_RIGHT;

use crate::{
    blueprint::Blueprint,
    causes::chain,
    config,
    db::Db,
    faults::Faults,
    metrics::Metrics,
    queue::{Claim, worker::Lease},
    secrets::Keyring,
    shutdown::Tasks,
    tenant_db::{Cluster, Clusters, Tag},
    tenants::{self, Tenant, TenantId},
};

/// One step of the plan.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Step {
    /// Choose the cluster.
    Place,
    /// Take a database from the pool, or clone the template, and hand it over under the tenant's name.
    CreateDatabase,
    /// Create the login role and let it connect.
    CreateRole,
    /// Load this tenant's own rows.
    Seed,
    /// Tell the database about the members.
    SyncMembers,
    /// Prove that the tenant is what it should be.
    Verify,
    /// Open the tenant.
    Activate,
}

/// The plan, in order. A tenant is ready when every step is done.
pub const PLAN: [Step; 7] = [
    Step::Place,
    Step::CreateDatabase,
    Step::CreateRole,
    Step::Seed,
    Step::SyncMembers,
    Step::Verify,
    Step::Activate,
];

const FAULT_BEFORE: &str = "before";
const FAULT_AFTER_EFFECT: &str = "after_effect";
const FAULT_RECORDED: &str = "recorded";

/// Where a test can make a step fail: before its effect, after it, after its record. Activation has
/// no point after its record: the job is completed by then, and its handler may be dropped at any moment.
pub const FAULT_POINTS: [&str; 3] = [FAULT_BEFORE, FAULT_AFTER_EFFECT, FAULT_RECORDED];

/// Points between the parts of a step.
pub const INNER_FAULT_POINTS: [&str; 5] = [
    "create_database.cloned",
    sync_members::TOLD,
    "template.created",
    "template.filled",
    "template.sealed",
];

impl Step {
    /// The name as it is stored, logged and counted.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Place => "place",
            Self::CreateDatabase => "create_database",
            Self::CreateRole => "create_role",
            Self::Seed => "seed",
            Self::SyncMembers => "sync_members",
            Self::Verify => "verify",
            Self::Activate => "activate",
        }
    }

    async fn run(self, cx: &StepContext<'_>) -> Result<(), StepError> {
        match self {
            Self::Place => place::run(cx).await,
            Self::CreateDatabase => create_database::run(cx).await,
            Self::CreateRole => create_role::run(cx).await,
            Self::Seed => seed::run(cx).await,
            Self::SyncMembers => sync_members::run(cx).await,
            Self::Verify => verify::run(cx).await,
            Self::Activate => activate::run(cx).await,
        }
    }

    /// Takes back what the step did, if it did anything.
    async fn undo(self, cx: &UndoContext<'_>) -> Result<(), StepError> {
        match self {
            Self::Place => place::undo(cx).await,
            Self::CreateDatabase => create_database::undo(cx).await,
            Self::CreateRole => create_role::undo(cx).await,
            Self::Seed => seed::undo(),
            Self::SyncMembers => sync_members::undo(cx).await,
            Self::Verify => verify::undo(),
            Self::Activate => activate::undo(cx).await,
        }
    }
}

/// What provisioning needs, the same for every tenant.
#[derive(Debug)]
pub struct Provisioner {
    /// Control database.
    pub db: Db,
    /// Where tenants live.
    pub clusters: Clusters,
    /// Opens passwords.
    pub keyring: Arc<Keyring>,
    /// Names and limits.
    pub names: config::Tenants,
    /// Time limits of what has none in the blueprint.
    pub timeouts: config::Provisioning,
    /// Slug of the administrators' role, which the creator has where nobody named one.
    pub admin_role: String,
    /// Attempts of a new job.
    pub max_attempts: i32,
    /// Where the blueprint is.
    pub blueprint: BlueprintSource,
    /// Databases that are ready before anybody asks.
    pub pool: pool::Pool,
    /// Counts.
    pub metrics: Metrics,
    /// Faults that a test injects.
    pub faults: Faults,
}

/// Where the blueprint comes from.
#[derive(Debug, Clone)]
pub enum BlueprintSource {
    /// A directory; read anew for each tenant, so that a repaired file counts at once.
    Directory(std::path::PathBuf),
    /// The example that is compiled in.
    Bundled,
}

impl BlueprintSource {
    /// Reads and checks the blueprint.
    pub fn load(&self) -> Result<Blueprint, StepError> {
        match self {
            Self::Directory(directory) => Ok(Blueprint::load(directory)?),
            Self::Bundled => Ok(Blueprint::bundled()?),
        }
    }
}

/// How an attempt ended.
#[derive(Debug)]
pub enum Ended {
    /// Every step is done; the job was completed with the last one.
    Ready,
    /// The tenant needs nothing, for instance because it was suspended or abandoned meanwhile.
    NothingToDo,
    /// A shutdown came between two steps.
    Draining,
}

/// An attempt that failed, and where.
#[derive(Debug)]
pub struct Failed {
    /// The step.
    pub step: Step,
    /// Why.
    pub error: StepError,
}

/// Runs what is missing of the plan.
pub async fn provision(
    provisioner: &Provisioner,
    claim: &Claim,
    lease: &Lease,
    tasks: &Tasks,
    id: TenantId,
) -> Result<Ended, Failed> {
    let first = |error: StepError| Failed {
        step: Step::Place,
        error,
    };
    let Some(tenant) = begin(provisioner, claim, id).await.map_err(first)? else {
        return Ok(Ended::NothingToDo);
    };
    let done = provisioner
        .db
        .run(async |connection| steps::done(connection, id).await)
        .await
        .map_err(|error| first(error.into()))?;
    let cx = StepContext::new(provisioner, (claim, lease), tenant).map_err(first)?;
    // also in the first attempt of a retry's new job: the stopped worker of the old one may hold sessions
    if done.contains(&Step::Place.name().to_owned()) {
        cx.cluster()
            .await
            .map_err(first)?
            .end_stale_sessions(&cx.tag, || cx.lease.is_held())
            .await
            .map_err(|error| first(error.into()))?;
    }
    let done = cx.still_done(done).await.map_err(first)?;
    let is_missing = |step: &Step| !done.iter().any(|name| name == step.name());
    let missing: Vec<Step> = PLAN.into_iter().filter(is_missing).collect();
    let mut is_begun = false;
    for (at, &step) in missing.iter().enumerate() {
        if !is_begun && tasks.is_draining() {
            return Ok(Ended::Draining);
        }
        let next = || {
            missing
                .get(at + 1)
                .copied()
                .filter(|_| !tasks.is_draining())
        };
        let went = run_step(&cx, step, is_begun, next).await;
        match went.map_err(|error| Failed { step, error })? {
            Went::On { is_next_begun } => is_begun = is_next_begun,
            Went::Nowhere => return Ok(Ended::NothingToDo),
        }
    }
    Ok(Ended::Ready)
}

/// The tenant, now `provisioning`; `None` when it needs nothing.
async fn begin(
    provisioner: &Provisioner,
    claim: &Claim,
    id: TenantId,
) -> Result<Option<Tenant>, StepError> {
    provisioner
        .db
        .transaction(async |tx| {
            steps::do_not_wait_for_disk(tx).await?;
            crate::queue::assert_held(tx, claim).await?;
            if !tenants::mark_provisioning(tx, id).await? {
                return Ok(None);
            }
            Ok(tenants::find(tx, id).await?)
        })
        .await
}

/// How a step went that did not fail.
enum Went {
    /// It is done, and recorded; the next one may be begun already.
    On { is_next_begun: bool },
    /// The tenant turned out to be wanted no longer.
    Nowhere,
}

/// Runs a step and records it, together with the beginning of the next one.
async fn run_step(
    cx: &StepContext<'_>,
    step: Step,
    is_begun: bool,
    next: impl Fn() -> Option<Step>,
) -> Result<Went, StepError> {
    let started = Instant::now();
    cx.check_lease()?;
    if !is_begun && advance(cx, None, Some(step)).await? == Advanced::Unwanted {
        return Ok(Went::Nowhere);
    }
    cx.fault(step, FAULT_BEFORE).await?;
    let limit = cx.limit(step);
    let result = in_time(step, limit, Box::pin(step.run(cx))).await;
    if let Err(StepError::TimedOut { .. }) = result {
        cx.end_sessions().await;
    }
    result?;
    let mut is_next_begun = false;
    // activation records itself, in the transaction that opens the tenant
    if step != Step::Activate {
        cx.fault(step, FAULT_AFTER_EFFECT).await?;
        let (done, next) = ((step, started.elapsed()), next());
        if advance(cx, Some(done), next).await? == Advanced::Unwanted {
            return Ok(Went::Nowhere);
        }
        is_next_begun = next.is_some();
        cx.fault(step, FAULT_RECORDED).await?;
    }
    cx.provisioner
        .metrics
        .step_done(step.name(), started.elapsed());
    Ok(Went::On { is_next_begun })
}

async fn advance(
    cx: &StepContext<'_>,
    done: Option<(Step, Duration)>,
    next: Option<Step>,
) -> Result<Advanced, StepError> {
    let id = cx.id().await;
    let record =
        async |connection: &mut _| steps::advance(connection, cx.claim, id, done, next).await;
    Ok(cx.provisioner.db.run(record).await?)
}

/// Cuts `work` off at the limit.
async fn in_time(
    step: Step,
    limit: Duration,
    work: impl Future<Output = Result<(), StepError>>,
) -> Result<(), StepError> {
    let cut_off = StepError::TimedOut {
        step: step.name(),
        limit,
    };
    tokio::time::timeout(limit, work)
        .await
        .unwrap_or(Err(cut_off))
}

/// Ends what the server may still do for a step that was cut off. The next attempt does so again, and fails if it
/// cannot.
async fn end_sessions(cluster: &Cluster, tag: &Tag) {
    if let Err(left) = cluster.end_own_sessions(tag).await {
        tracing::warn!(
            error = chain(&left),
            "sessions of a step that was cut off were left"
        );
    }
}
