//! Before the first tenant is touched: template and pool of the new version, and who is to be migrated.
//!
//! Guarantees: a blueprint that does not build ends the run with its cause, and no tenant was touched; the
//! targets are set in the transaction from which on the run is running; a dry run ends here, after its
//! throw-away clones.

use std::collections::BTreeSet;

use super::{
    Run, RunFailure, RunState, dry_run,
    goal::Goal,
    portion::wave_ends,
    runs,
    targets::{self, NewTarget},
    work::{BLUEPRINT_UNKNOWN, NOT_DUE, Slot},
};
use crate::{
    causes::chain,
    provisioning::{Again, StepError, pool, template},
    queue::{
        self,
        worker::{Outcome, Settled},
    },
    tenants::{self, RecordedVersion},
};

/// After so many attempts that met one a passing error is one that stays.
const MAX_ATTEMPTS: i64 = 8;

/// Prepares the run; `None` when it is running now and the slot can go on.
pub(super) async fn prepare(slot: &Slot<'_>, run: &Run) -> Result<Option<Outcome>, StepError> {
    match try_prepare(slot, run).await {
        Err(StepError::LostClaim) => Err(StepError::LostClaim),
        Err(error) if may_pass(slot, &error).await? => Err(error),
        Err(error) => {
            let failure = RunFailure {
                code: error.code().to_owned(),
                cause: chain(&error),
                fix: error.fix(&Again::With(format!("tenantry fleet resume {}", slot.run))),
            };
            end(slot, RunState::Failed, Some(&failure)).await.map(Some)
        }
        prepared => prepared,
    }
}

/// Whether the error is one of the moment, and there were not too many of them.
///
/// Attempts of replicas that only left the run to others do not count.
pub(super) async fn may_pass(slot: &Slot<'_>, error: &StepError) -> Result<bool, StepError> {
    if !error.is_retryable() {
        return Ok(false);
    }
    let (db, job) = (&slot.provisioner.db, slot.claim.id);
    let count = async |connection: &mut _| {
        queue::count_errors(connection, job, &[BLUEPRINT_UNKNOWN, NOT_DUE]).await
    };
    Ok(db.run(count).await? + 1 < MAX_ATTEMPTS)
}

async fn try_prepare(slot: &Slot<'_>, run: &Run) -> Result<Option<Outcome>, StepError> {
    let provisioner = slot.provisioner;
    let Some(goal) = Goal::load(provisioner, run)? else {
        return slot.leave_to_others().await.map(Some);
    };
    let (selection, clones) = (&run.selection, &run.clones);
    let (fleet, clones) = provisioner
        .db
        .run(async |connection| {
            let fleet = tenants::list_migratable(&mut *connection, selection).await?;
            Ok::<_, sqlx::Error>((fleet, dry_run::list_clonable(connection, clones).await?))
        })
        .await?;
    let of_clones = clones.iter().filter_map(|tenant| tenant.cluster.as_deref());
    let clusters = fleet.iter().map(|tenant| &*tenant.cluster).chain(of_clones);
    let clusters: BTreeSet<&str> = clusters.collect();
    if build_all(slot, run, (&goal, &clusters)).await? == Built::NotYet {
        return Ok(Some(Outcome::Released));
    }
    provisioner.faults.hit(super::FAULT_PREPARED).await?;
    if run.is_dry {
        return dry_run::rehearse(slot, run, (&goal, &fleet, &clones))
            .await
            .map(Some);
    }
    begin(slot, &goal, &fleet).await
}

/// How far template and pool of each cluster are.
#[derive(Debug, PartialEq, Eq)]
enum Built {
    All,
    /// Somebody else goes on.
    NotYet,
}

/// Builds template and pool of each cluster.
///
/// A cluster that stays away is left out, if it is not the only one: its tenants fail by it, or have their template
/// when it is back, and the others need not wait.
async fn build_all(
    slot: &Slot<'_>,
    run: &Run,
    (goal, clusters): (&Goal, &BTreeSet<&str>),
) -> Result<Built, StepError> {
    let provisioner = slot.provisioner;
    let may_go_on = || slot.lease.is_held() && !slot.tasks.is_draining();
    let mut left_out = None;
    let mut prepared = 0;
    for name in clusters {
        if !may_go_on() {
            return Ok(Built::NotYet);
        }
        let build = async {
            let cluster = provisioner.clusters.get(name)?;
            template::ensure_up_to(provisioner, cluster, (&goal.whole, &goal.cut)).await?;
            // a pool of what no new tenant is made from would be evicted at once
            if goal.is_whole() && !run.is_dry {
                pool::fill(provisioner, cluster, &goal.cut, may_go_on, |_| {}).await?;
            }
            Ok::<_, StepError>(())
        };
        match build.await {
            Ok(()) => prepared += 1,
            Err(error) if error.is_of_cluster() && !may_pass(slot, &error).await? => {
                tracing::warn!(
                    fleet_run.id = %slot.run,
                    cluster = name,
                    error.code = error.code(),
                    error = chain(&error),
                    "a fleet run is prepared without this cluster"
                );
                left_out = Some(error);
            }
            Err(error) => return Err(error),
        }
    }
    match left_out {
        Some(error) if prepared == 0 => Err(error),
        // the last pool may not be full
        _ if !may_go_on() => Ok(Built::NotYet),
        _ => Ok(Built::All),
    }
}

/// The version of the goal: the template's, as only that knows it for every migrator.
pub(super) async fn version(slot: &Slot<'_>, goal: &Goal) -> Result<String, StepError> {
    let templates = goal.templates(slot.provisioner).await?;
    let built = templates.into_values().next().map(|record| record.version);
    Ok(built.or_else(|| goal.cut.version()).unwrap_or_default())
}

/// preparing → running, with its targets.
async fn begin(
    slot: &Slot<'_>,
    goal: &Goal,
    fleet: &[RecordedVersion],
) -> Result<Option<Outcome>, StepError> {
    let version = version(slot, goal).await?;
    let begun = slot
        .fenced(async |tx| {
            let run = runs::lock(tx, slot.run).await?;
            let Some(run) = run.filter(|run| run.state == RunState::Preparing) else {
                // paused or aborted meanwhile
                queue::complete(tx, slot.claim).await?;
                return Ok(None);
            };
            runs::set_prepared(tx, run.id, &goal.hash, &version).await?;
            targets::insert(tx, run.id, &plan_targets(&run, (goal, &version), fleet)).await?;
            Ok::<_, StepError>(Some(run))
        })
        .await?;
    let Some(run) = begun else {
        return Ok(Some(Outcome::Settled(Settled::Completed)));
    };
    tracing::info!(
        fleet_run.id = %run.id,
        version,
        targets = fleet.len(),
        "a fleet run is prepared"
    );
    slot.rouse_others().await?;
    Ok(None)
}

/// Every tenant in its wave, in the order of their ids; those that are further than the goal are skipped.
///
/// Waves are of those that need something, and those that do not are looked at in the last one: a canary that
/// has nothing to do proves nothing.
fn plan_targets(
    run: &Run,
    (goal, version): (&Goal, &str),
    fleet: &[RecordedVersion],
) -> Vec<NewTarget> {
    let is_ahead =
        |tenant: &&RecordedVersion| goal.is_passed_by(tenant.hash_and_version(), version);
    let (ahead, rest): (Vec<_>, Vec<_>) = fleet.iter().partition(is_ahead);
    let is_there = |tenant: &&RecordedVersion| tenant.blueprint_hash.as_ref() == Some(&goal.hash);
    let (there, behind): (Vec<_>, Vec<_>) = rest.into_iter().partition(is_there);
    let total = u32::try_from(behind.len()).unwrap_or(u32::MAX);
    let ends = wave_ends(&run.waves, total);
    let wave_of = |at: usize| {
        let before = ends.iter().filter(|end| **end as usize <= at).count();
        i32::try_from(before + 1).unwrap_or(i32::MAX)
    };
    let target = |(wave, tenant): (i32, &RecordedVersion), skipped| NewTarget {
        tenant: tenant.id,
        wave,
        from_version: tenant.version.clone(),
        skipped,
    };
    let last = i32::try_from(ends.len().max(1)).unwrap_or(i32::MAX);
    let behind = behind.into_iter().enumerate();
    behind
        .map(|(at, tenant)| target((wave_of(at), tenant), None))
        .chain(there.into_iter().map(|tenant| target((last, tenant), None)))
        .chain(
            ahead
                .into_iter()
                .map(|tenant| target((1, tenant), Some("ahead_of_version"))),
        )
        .collect()
}

/// The run ends before it was running, together with the job; unless somebody ended it meanwhile, or paused it, which
/// keeps it from being done and from nothing else.
pub(super) async fn end(
    slot: &Slot<'_>,
    state: RunState,
    failure: Option<&RunFailure>,
) -> Result<Outcome, StepError> {
    slot.fenced(async |tx| {
        let run = runs::lock(tx, slot.run).await?;
        let is_open = |run: Run| match run.state {
            RunState::Preparing => true,
            RunState::Paused => state == RunState::Failed,
            RunState::Running | RunState::Done | RunState::Failed | RunState::Aborted => false,
        };
        if run.is_some_and(is_open) {
            runs::set_state(tx, slot.run, state, failure).await?;
        }
        Ok::<_, StepError>(queue::complete(tx, slot.claim).await?)
    })
    .await?;
    if let Some(failure) = failure {
        tracing::error!(
            fleet_run.id = %slot.run,
            error.code = failure.code,
            error = failure.cause,
            "a fleet run failed before a tenant was touched"
        );
    }
    Ok(Outcome::Settled(Settled::Completed))
}
