//! A dry run: throw-away clones of the templates that tenants were made from, and of the databases of chosen
//! tenants, are migrated instead of tenants.
//!
//! Guarantees: no tenant is touched; what the run itself would skip is not tried; one clone that fails, or
//! cannot be made, keeps no other from being tried; of a chosen tenant it is said where it was given up meanwhile,
//! or is further.

use std::{collections::BTreeMap, time::Duration};

use sqlx::PgConnection;

use super::{
    Error, RehearsalResult, Run, RunFailure, RunState,
    goal::Goal,
    prepare, runs,
    work::{NOT_DUE, Slot},
};
use crate::{
    causes::chain,
    provisioning::{
        Again, StepError,
        migrators::{self, Migrated},
        rehearsal::{self, Source},
    },
    queue::{Failure, worker::Outcome},
    tenant_db::Tag,
    tenants::{self, RecordedVersion, Selection, Tenant, TenantId, TenantState},
};

/// Until it is looked again whether a clone of a run that is over is gone.
const SWEEP_PAUSE: Duration = Duration::from_secs(5);

/// The tenants of these that are kept up, and so have a database to clone.
pub(super) async fn list_clonable(
    connection: &mut PgConnection,
    clones: &[TenantId],
) -> sqlx::Result<Vec<Tenant>> {
    if clones.is_empty() {
        // a selection that names nobody is everybody
        return Ok(Vec::new());
    }
    let selection = Selection {
        tenants: clones.to_vec(),
        ..Selection::default()
    };
    let states = [TenantState::Ready, TenantState::Suspended];
    tenants::list_selected(connection, &selection, &states).await
}

/// A clone that is to be made.
struct Start<'a> {
    cluster: &'a str,
    source: Source<'a>,
    version: &'a str,
    tenants: u32,
}

impl Start<'_> {
    /// What there is to say of a chosen tenant that the run would skip: it is not even copied.
    fn ahead(&self, goal: &Goal, version: &str) -> Option<StepError> {
        let Source::Tenant(tenant) = self.source else {
            return None;
        };
        let stands = (tenant.blueprint_hash.as_deref(), &*tenant.alembic_version);
        let is_ahead = goal.is_passed_by(stands, version);
        is_ahead.then(|| {
            let error = migrators::Error::Ahead {
                database: tenant.database.clone(),
                version: tenant.alembic_version.clone(),
                target: version.to_owned(),
            };
            error.into()
        })
    }
}

/// The templates that these tenants come from, cluster by cluster, then the chosen tenants.
fn starts<'a>(
    fleet: impl Iterator<Item = &'a RecordedVersion>,
    clones: &'a [Tenant],
) -> Vec<Start<'a>> {
    let mut templates: BTreeMap<(&str, &str), (u32, &str)> = BTreeMap::new();
    for tenant in fleet {
        let hash = tenant.blueprint_hash.as_deref().unwrap_or_default();
        let (tenants, _) = templates
            .entry((&tenant.cluster, hash))
            .or_insert((0, &tenant.version));
        *tenants += 1;
    }
    let of_template = |((cluster, hash), (tenants, version))| Start {
        cluster,
        source: Source::Template(hash),
        version,
        tenants,
    };
    let of_tenant = |tenant: &'a Tenant| Start {
        cluster: tenant.cluster.as_deref().unwrap_or_default(),
        source: Source::Tenant(tenant),
        version: &tenant.alembic_version,
        tenants: 1,
    };
    let of_templates = templates.into_iter().map(of_template);
    of_templates.chain(clones.iter().map(of_tenant)).collect()
}

/// Tries them all; the run ends with what became of them.
pub(super) async fn rehearse(
    slot: &Slot<'_>,
    run: &Run,
    (goal, fleet, clones): (&Goal, &[RecordedVersion], &[Tenant]),
) -> Result<Outcome, StepError> {
    let db = &slot.provisioner.db;
    let version = prepare::version(slot, goal).await?;
    let fleet = fleet
        .iter()
        .filter(|tenant| !goal.is_passed_by(tenant.hash_and_version(), &version));
    let is_gone = |id: &&TenantId| clones.iter().all(|tenant| tenant.id != **id);
    let gone = run.clones.iter().filter(is_gone);
    let mut rehearsals: Vec<_> = gone.map(|id| RehearsalResult::not_tried(*id)).collect();
    for start in starts(fleet, clones) {
        if slot.tasks.is_draining() {
            return Ok(Outcome::Released);
        }
        // nobody's database is copied for a run that was paused or aborted
        let look = async |connection: &mut _| runs::find_progress(connection, slot.run).await;
        let progress = db.run(look).await?;
        if progress.is_none_or(|progress| progress.state != RunState::Preparing) {
            return Ok(Outcome::Done);
        }
        if !slot.lease.is_held() {
            return Err(StepError::LostClaim);
        }
        let done = match start.ahead(goal, &version) {
            Some(error) => Err(error),
            None => try_one(slot, goal, &start).await?,
        };
        if is_ahead(&start, &done) {
            continue;
        }
        rehearsals.push(RehearsalResult::of(run, &start, &done));
    }
    let failed = rehearsals.iter().find_map(|of| of.failure.clone());
    slot.fenced(async |tx| {
        runs::set_rehearsals(tx, slot.run, &goal.hash, &version, &rehearsals).await?;
        Ok::<_, StepError>(())
    })
    .await?;
    let state = match failed {
        Some(_) => RunState::Failed,
        None => RunState::Done,
    };
    prepare::end(slot, state, failed.as_ref()).await
}

/// What was done to a clone, and how long that took.
type Tried = Result<(Migrated, Duration), StepError>;

/// Whether its tenants are further than the version, as only the migrator could tell. A tenant that was chosen is told of.
fn is_ahead(start: &Start<'_>, tried: &Tried) -> bool {
    let error = tried.as_ref().err();
    matches!(start.source, Source::Template(_)) && error.is_some_and(StepError::is_ahead)
}

/// Tries one; an error of its own is one for which all are tried again, later. A tenant's database is copied once:
/// what fails there, even for a reason that passes, is told.
async fn try_one(slot: &Slot<'_>, goal: &Goal, start: &Start<'_>) -> Result<Tried, StepError> {
    let cluster = slot.provisioner.clusters.get(start.cluster)?;
    let tag = Tag::new(slot.run.0, slot.claim.id.0, slot.claim.attempt);
    let templates = goal.templates(slot.provisioner).await?;
    let of = rehearsal::Rehearsal {
        cluster,
        source: start.source,
        blueprint: &goal.cut,
        template: templates.get(&cluster.name),
        tag: &tag,
        lease: slot.lease,
    };
    let rehearse = async {
        let is_held = || slot.lease.is_held();
        cluster.end_stale_sessions(&tag, is_held).await?;
        rehearsal::rehearse(slot.provisioner, &of).await
    };
    match rehearse.await {
        Err(error) if error.is_of_worker() => Err(error),
        Err(error)
            if matches!(start.source, Source::Template(_))
                && prepare::may_pass(slot, &error).await? =>
        {
            Err(error)
        }
        tried => Ok(tried),
    }
}

/// Drops the clones of a run that is over and did not come to do so itself; the job comes back while one is
/// under way, whose process may be lost, and while a cluster is away.
pub(super) async fn sweep(slot: &Slot<'_>) -> Result<Outcome, StepError> {
    let mut left = None;
    for cluster in slot.provisioner.clusters.iter() {
        match rehearsal::sweep(cluster).await {
            Ok(true) => {}
            Ok(false) => left = Some("a clone of the run is still under way".to_owned()),
            Err(error) => left = Some(chain(&error)),
        }
    }
    match left {
        Some(error) => {
            let failure = Failure::new(NOT_DUE, error);
            slot.put_off(&failure, SWEEP_PAUSE).await
        }
        None => Ok(Outcome::Done),
    }
}

impl RehearsalResult {
    /// Of a tenant that was given up since it was chosen.
    fn not_tried(tenant: TenantId) -> Self {
        let error = Error::NotKeptUp(tenant);
        Self {
            cluster: String::new(),
            tenant: Some(tenant),
            blueprint_hash: String::new(),
            from_version: String::new(),
            tenants: 1,
            applied: 0,
            duration_ms: 0.0,
            failure: Some(RunFailure {
                code: error.code().to_owned(),
                cause: error.to_string(),
                fix: error.fix().to_owned(),
            }),
        }
    }

    fn of(run: &Run, start: &Start<'_>, tried: &Tried) -> Self {
        let again = Again::With(format!("tenantry fleet resume {}", run.id));
        let failure = tried.as_ref().err().map(|error| RunFailure {
            code: error.code().to_owned(),
            cause: chain(error),
            fix: error.fix(&again),
        });
        let (tenant, hash) = match start.source {
            Source::Template(hash) => (None, hash),
            Source::Tenant(tenant) => {
                let hash = tenant.blueprint_hash.as_deref();
                (Some(tenant.id), hash.unwrap_or_default())
            }
        };
        let migrated = tried.as_ref().ok();
        Self {
            cluster: start.cluster.to_owned(),
            tenant,
            blueprint_hash: hash.to_owned(),
            from_version: start.version.to_owned(),
            tenants: start.tenants,
            applied: migrated.map_or(0, |(migrated, _)| migrated.applied),
            duration_ms: migrated.map_or(0.0, |(_, took)| took.as_secs_f64() * 1000.0),
            failure,
        }
    }
}
