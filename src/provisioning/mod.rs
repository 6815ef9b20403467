//! Station 5, PROVISIONED: the plan that makes a tenant ready.
//!
//! ```text
//!  place ─▶ create_database ─▶ create_role ─▶ seed ─▶ sync_members ─▶ verify ─▶ activate
//!             from the pool,     login, DML    this     its people      structure,  routed from
//!             or a clone         rights        tenant's                 data, login here on
//! ```
//!
//! Guarantees: each step looks first and does only what is missing; each is recorded when done; a
//! retry begins with the first step that is not; nothing is written by an attempt that lost its
//! claim, or for a tenant that nobody wants any more; `activate` is last, and one transaction: nobody is
//! routed to a tenant that is not verified; a step that was cut off has no session left when it is called
//! failed; [`undo`] takes an unfinished tenant back, in reverse order, until nothing is left.
//!
//! Does not: retry. The queue does.

mod activate;
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
    sync::{Arc, atomic::AtomicBool},
    time::{Duration, Instant},
};

use secrecy::SecretString;
use sqlx::Connection;
use steps::Advanced;
use tokio::sync::{Mutex, OnceCell};
use undo::UndoContext;

pub use error::StepError;
pub use sync_members::{Synced, sync_members};
pub use undo::{UNDO_FAULT_POINTS, Undone, undo};
pub(crate) use verify::EXCESS_RIGHT;

use crate::{
    blueprint::Blueprint,
    causes::chain,
    config,
    db::Db,
    faults::Faults,
    members::{self, Terms},
    metrics::Metrics,
    queue::{Claim, worker::Lease},
    secrets::Keyring,
    shutdown::Tasks,
    tenant_db::{
        self, Cluster, Clusters, Ident, Tag,
        databases::{Facts, Mark},
    },
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
    /// Tell the database of the members.
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

/// Where a test can make a step fail: before its effect, after it, after its record. The last one of activation has
/// no such point after it: the job is completed by then, and its handler may be dropped at any moment.
pub const FAULT_POINTS: [&str; 3] = ["before", "after_effect", "recorded"];

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
            Self::Activate => activate::undo(),
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
    /// How long what has no limit in the blueprint may take.
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

/// What the steps of one attempt share.
pub struct StepContext<'a> {
    provisioner: &'a Provisioner,
    claim: &'a Claim,
    lease: &'a Lease,
    tag: Tag,
    blueprint: Blueprint,
    tenant: Mutex<Tenant>,
    /// Whether this attempt took the tenant's database from the pool.
    from_pool: AtomicBool,
    /// What the plan's steps ask for, once an attempt: its password, and its organization's name in full.
    password: OnceCell<SecretString>,
    organization_name: OnceCell<String>,
    /// Our session in the tenant's database: opened once, used by several steps.
    session: Mutex<Option<sqlx::PgConnection>>,
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
    cx.fault(step, FAULT_POINTS[0]).await?;
    let limit = cx.limit(step);
    let result = in_time(step, limit, Box::pin(step.run(cx))).await;
    if let Err(StepError::TimedOut { .. }) = result {
        cx.end_sessions().await;
    }
    result?;
    let mut is_next_begun = false;
    // activation records itself, in the transaction that opens the tenant
    if step != Step::Activate {
        cx.fault(step, FAULT_POINTS[1]).await?;
        let (done, next) = ((step, started.elapsed()), next());
        if advance(cx, Some(done), next).await? == Advanced::Unwanted {
            return Ok(Went::Nowhere);
        }
        is_next_begun = next.is_some();
        cx.fault(step, FAULT_POINTS[2]).await?;
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

/// Ends what the server may still do for a step that was cut off. The next attempt does it once more, and
/// has something to say when it cannot.
async fn end_sessions(cluster: &Cluster, tag: &Tag) {
    if let Err(left) = cluster.end_own_sessions(tag).await {
        tracing::warn!(
            error = chain(&left),
            "sessions of a step that was cut off were left"
        );
    }
}

impl<'a> StepContext<'a> {
    fn new(
        provisioner: &'a Provisioner,
        (claim, lease): (&'a Claim, &'a Lease),
        tenant: Tenant,
    ) -> Result<Self, StepError> {
        Ok(Self {
            provisioner,
            claim,
            lease,
            tag: Tag::new(tenant.id.0, claim.id.0, claim.attempt),
            blueprint: provisioner.blueprint.load()?,
            tenant: Mutex::new(tenant),
            from_pool: AtomicBool::new(false),
            password: OnceCell::new(),
            organization_name: OnceCell::new(),
            session: Mutex::new(None),
        })
    }
}

impl StepContext<'_> {
    async fn id(&self) -> TenantId {
        self.tenant.lock().await.id
    }

    async fn tenant(&self) -> Tenant {
        self.tenant.lock().await.clone()
    }

    /// The password that the tenant's row has had from the start.
    async fn password(&self) -> Result<&SecretString, StepError> {
        let open = async || {
            let id = self.id().await;
            let find = async |connection: &mut _| tenants::find_credential(connection, id).await;
            let sealed = self.provisioner.db.run(find).await?.unwrap_or_default();
            Ok(self.provisioner.keyring.open(id.0, &sealed)?)
        };
        self.password.get_or_try_init(open).await
    }

    /// The same for every step of the attempt: what was seeded is verified.
    async fn organization_name(&self) -> Result<&str, StepError> {
        let find = async || seed::organization_name(self, &self.tenant().await).await;
        Ok(self.organization_name.get_or_try_init(find).await?)
    }

    async fn cluster(&self) -> Result<&Cluster, StepError> {
        let name = self
            .tenant
            .lock()
            .await
            .cluster
            .clone()
            .ok_or(StepError::NotPlaced)?;
        Ok(self.provisioner.clusters.get(&name)?)
    }

    /// The records of steps that still hold: a tenant begins again where it was placed without its database,
    /// and where the blueprint was repaired since. Nobody has used what was never opened.
    async fn still_done(&self, done: Vec<String>) -> Result<Vec<String>, StepError> {
        if !done.iter().any(|name| name == Step::CreateDatabase.name()) {
            return Ok(done);
        }
        let tenant = self.tenant().await;
        let cluster = self.cluster().await?;
        let found = cluster.find_database(&tenant.database).await?;
        let is_ours = |facts: &Facts| facts.usable && is_marked(facts, cluster, &tenant);
        let found = found.filter(is_ours);
        if let Some(mark) = found.and_then(|facts| facts.mark(&cluster.owner)) {
            if !self.is_outdated(&mark).await? {
                return Ok(done);
            }
            let name = Ident::new(&tenant.database).map_err(tenant_db::Error::from)?;
            create_database::drop_database(self, &name).await?;
        }
        // gone or unusable: made again; somebody else's: create_database refuses it
        tracing::warn!(tenant.id = %tenant.id, database = tenant.database, "the database of an unfinished tenant is made once more: it is gone, or of another blueprint");
        let forget = async |tx: &mut sqlx::PgConnection| {
            crate::queue::assert_held(tx, self.claim).await?;
            members::forget_syncs(tx, tenant.key()).await?;
            Ok::<_, StepError>(steps::forget_database(tx, tenant.id).await?)
        };
        self.provisioner.db.transaction(forget).await?;
        Ok(vec![Step::Place.name().to_owned()])
    }

    /// Whether the tenant's database is of another blueprint, or seeded with other files, than there are now, and
    /// was never opened, as it says itself: then nothing is lost when it is made once more.
    async fn is_outdated(&self, mark: &Mark) -> Result<bool, StepError> {
        // not the session of later steps: it would end with the database
        let mut connection = self.connect().await?;
        let notes = seed::read_notes(&mut connection, &self.blueprint).await;
        let _ = connection.close().await;
        let notes = notes?;
        let is_of_other = mark.template != self.blueprint.hash();
        Ok(!notes.maybe_opened && (is_of_other || notes.is_of_other_files))
    }

    /// Fails when the tenant's database was exchanged for somebody else's: nothing may be written there.
    async fn refuse_foreign_database(&self) -> Result<(), StepError> {
        let (tenant, cluster) = (self.tenant().await, self.cluster().await?);
        match cluster.find_database(&tenant.database).await? {
            Some(facts) if !is_marked(&facts, cluster, &tenant) => {
                Err(StepError::Cluster(tenant_db::Error::ForeignDatabase {
                    name: tenant.database,
                    found: facts.describe(),
                }))
            }
            // one that is gone says so when it is connected to
            _ => Ok(()),
        }
    }

    /// What decides, beside the member, what the database is told.
    fn terms<'s>(&'s self, sync_hash: &'s str) -> Terms<'s> {
        Terms {
            admin_role: &self.provisioner.admin_role,
            sync_hash,
        }
    }

    /// Fails when this process was stopped for longer than its lease: then nothing may be begun.
    fn check_lease(&self) -> Result<(), StepError> {
        if self.lease.is_held() {
            Ok(())
        } else {
            Err(StepError::LostClaim)
        }
    }

    /// After a step was cut off: whatever it has under way ends, before anybody hears of it.
    async fn end_sessions(&self) {
        self.session.lock().await.take();
        // one that is not placed has done nothing on any cluster
        if let Ok(cluster) = self.cluster().await {
            end_sessions(cluster, &self.tag).await;
        }
    }

    async fn fault(&self, step: Step, point: &str) -> Result<(), StepError> {
        self.provisioner
            .faults
            .hit(&format!("{}.{point}", step.name()))
            .await?;
        Ok(())
    }

    fn limit(&self, step: Step) -> Duration {
        match step {
            // the first tenant of a blueprint builds the template in this step, or waits for its builder
            Step::CreateDatabase => {
                Duration::from_millis(self.blueprint.settings.migrate_timeout_ms.into())
                    + self.provisioner.timeouts.clone_timeout()
            }
            Step::Place | Step::CreateRole | Step::Activate => {
                self.provisioner.timeouts.step_timeout()
            }
            // bounded page by page: an organization may have any number of members
            Step::SyncMembers => Duration::from_hours(24),
            Step::Seed => Duration::from_millis(self.blueprint.settings.seed_timeout_ms.into()),
            Step::Verify => Duration::from_millis(self.blueprint.settings.verify_timeout_ms.into()),
        }
    }

    async fn connect(&self) -> Result<sqlx::PgConnection, StepError> {
        let database =
            Ident::new(&self.tenant.lock().await.database).map_err(tenant_db::Error::from)?;
        let cluster = self.cluster().await?;
        let timeouts = self.blueprint.settings.session_timeouts();
        let connected = cluster.connect_with(&database, Some(&self.tag), &timeouts);
        Ok(connected.await?)
    }

    /// Opens the session that later steps use, while something else goes on. One that cannot be had is
    /// asked for again by whoever needs it, and says why then.
    async fn open_early(&self) {
        let mut session = self.session.lock().await;
        if session.is_none() {
            *session = self.connect().await.ok();
        }
    }

    /// Runs `work` in the tenant's database, in a session that later steps use again.
    async fn in_tenant<T>(
        &self,
        work: impl AsyncFnOnce(&mut sqlx::PgConnection) -> Result<T, StepError>,
    ) -> Result<T, StepError> {
        let mut session = self.session.lock().await;
        let mut connection = match session.take() {
            Some(connection) => connection,
            None => self.connect().await?,
        };
        let result = work(&mut connection).await?;
        // only after success: a failed one may be inside a transaction
        *session = Some(connection);
        Ok(result)
    }
}

/// Whether a database carries the mark of this very tenant.
fn is_marked(facts: &Facts, cluster: &Cluster, tenant: &Tenant) -> bool {
    let mark = facts.mark(&cluster.owner);
    mark.is_some_and(|mark| mark.tenant == tenant.id.0)
}
