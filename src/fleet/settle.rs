//! When there is nothing to take: the run waits, goes on to its next wave, or ends.
//!
//! Guarantees: decided under the run's lock, by one count of what is committed: of several slots that find
//! nothing at the same time the last one sees it all. A tenant that was cloned from an older template
//! and became ready meanwhile is migrated before the run ends.

use std::{collections::HashSet, time::Duration};

use super::{
    Run, RunFailure, RunId, RunState,
    goal::Goal,
    held, runs,
    targets::{self, Left, NewTarget},
    work::{NOT_DUE, Slot},
};
use crate::{
    provisioning::StepError,
    queue::{
        self, Failure, Job,
        worker::{Outcome, Settled},
    },
    tenants::{self, TenantId},
};

/// Between two looks while the last tenants of an older template are being made.
const LOOK: Duration = Duration::from_millis(500);

/// How long somebody with its blueprint may take to come for what was begun: since it was lost, since the run is over,
/// and since anything of the run was last begun or ended.
const LOST_AFTER: Duration = Duration::from_mins(10);

/// What is to be done.
enum Next {
    /// There is more to take.
    GoOn,
    /// There is more to take, for everybody.
    AllGoOn,
    /// Later.
    Wait(Duration),
    /// Nothing, here.
    Completed,
}

/// What the slot does now; `None`: it takes again.
pub(super) async fn settle(slot: &Slot<'_>, goal: &Goal) -> Result<Option<Outcome>, StepError> {
    let next = slot
        .fenced(async |tx| {
            let Some(run) = lock_running_or_complete(tx, slot).await? else {
                return Ok(Next::Completed);
            };
            let left = targets::find_left(tx, run.id, run.current_wave).await?;
            let next = decide(tx, &run, &left, goal).await?;
            if matches!(next, Next::Completed) {
                queue::complete(tx, slot.claim).await?;
            }
            Ok::<_, StepError>(next)
        })
        .await?;
    match next {
        Next::GoOn => Ok(None),
        Next::AllGoOn => {
            slot.rouse_others().await?;
            Ok(None)
        }
        Next::Wait(wait) => {
            let error = "the next target is not due yet".to_owned();
            let failure = Failure::new(NOT_DUE, error);
            slot.put_off(&failure, wait).await.map(Some)
        }
        Next::Completed => Ok(Some(Outcome::Settled(Settled::Completed))),
    }
}

/// What lost attempts of a run that is over had begun has failed, if no replica with its blueprint has come for long.
pub(super) async fn give_up_lost(slot: &Slot<'_>) -> Result<(), StepError> {
    let given_up = slot
        .fenced(async |tx| Ok::<_, StepError>(held::give_up_lost(tx, slot.run, LOST_AFTER).await?))
        .await?;
    if given_up > 0 {
        tracing::warn!(
            fleet_run.id = %slot.run,
            targets = given_up,
            "gave up what was begun: no replica has the run's blueprint"
        );
    }
    Ok(())
}

/// Leaves a run that no longer goes on and has nothing under way. Nobody needs its blueprint for that.
pub(super) async fn leave(slot: &Slot<'_>) -> Result<Option<Outcome>, StepError> {
    let is_left = slot
        .fenced(async |tx| Ok::<_, StepError>(lock_running_or_complete(tx, slot).await?.is_none()))
        .await?;
    Ok(is_left.then_some(Outcome::Settled(Settled::Completed)))
}

/// The run under its lock; `None` where it no longer goes on, and then the job is completed.
async fn lock_running_or_complete(
    tx: &mut sqlx::PgConnection,
    slot: &Slot<'_>,
) -> Result<Option<Run>, StepError> {
    let run = runs::lock(tx, slot.run).await?;
    if run
        .as_ref()
        .is_none_or(|run| run.state == RunState::Aborted)
    {
        // what was put back while the run was aborted, by whoever did not see that yet
        targets::give_up_rest(tx, slot.run).await?;
    }
    let running = run.filter(|run| run.state == RunState::Running);
    if running.is_none() {
        queue::complete(tx, slot.claim).await?;
    }
    Ok(running)
}

async fn decide(
    tx: &mut sqlx::PgConnection,
    run: &Run,
    left: &Left,
    goal: &Goal,
) -> Result<Next, StepError> {
    // whoever recorded the last failure may have been lost before it came to it
    if let Some(reason) = over_limit(run, left.failed, left.targets) {
        return stop(tx, run, &reason).await;
    }
    if left.pending > 0 {
        let wait = left.next_due_s.unwrap_or(0.0).clamp(0.0, 3600.0);
        return Ok(if wait > 0.0 {
            Next::Wait(Duration::from_secs_f64(wait))
        } else {
            Next::GoOn
        });
    }
    if left.running > 0 {
        // whoever ends last looks again
        return Ok(Next::Completed);
    }
    if run.current_wave < left.last_wave {
        // a canary that died is a warning, whatever else is allowed, until somebody says to go on without it
        let is_new = left.failed > i64::from(run.forgiven);
        if left.of_wave > 0 && left.failed_of_wave == left.of_wave && is_new {
            let wave = run.current_wave;
            return stop(tx, run, &StopReason::WholeWave { wave }).await;
        }
        runs::set_wave(tx, run.id, run.current_wave + 1).await?;
        tracing::info!(fleet_run.id = %run.id, wave = run.current_wave + 1, "the next wave begins");
        return Ok(Next::AllGoOn);
    }
    sweep_or_end(tx, run, left, goal).await
}

async fn sweep_or_end(
    tx: &mut sqlx::PgConnection,
    run: &Run,
    left: &Left,
    goal: &Goal,
) -> Result<Next, StepError> {
    // asked first: who becomes ready after this is in the list that follows, or is waited for
    let is_any_coming =
        !run.is_dry && goal.is_whole() && is_any_coming(tx, run, left, goal).await?;
    let known: HashSet<uuid::Uuid> = targets::list_tenants(tx, run.id)
        .await?
        .into_iter()
        .collect();
    let fleet = tenants::list_migratable(tx, &run.selection).await?;
    let version = run.version.as_deref().unwrap_or_default();
    let is_missing = |tenant: &tenants::RecordedVersion| {
        !known.contains(&tenant.id.0)
            && tenant.blueprint_hash.as_deref() != Some(&goal.hash)
            && !goal.is_passed_by(tenant.hash_and_version(), version)
    };
    let missing = fleet.into_iter().filter(is_missing);
    let late: Vec<NewTarget> = missing
        .map(|tenant| NewTarget {
            tenant: tenant.id,
            wave: run.current_wave,
            from_version: tenant.version,
            skipped: None,
        })
        .collect();
    if targets::insert(tx, run.id, &late).await? > 0 {
        return Ok(Next::AllGoOn);
    }
    if is_any_coming {
        return Ok(Next::Wait(LOOK));
    }
    if left.failed > 0 {
        let (failed, targets) = (left.failed, left.targets);
        return stop(tx, run, &StopReason::SomeTargets { failed, targets }).await;
    }
    runs::set_state(tx, run.id, RunState::Done, None).await?;
    tracing::info!(fleet_run.id = %run.id, targets = left.targets, "a fleet run is done");
    Ok(Next::Completed)
}

/// Whether a selected tenant is just being made from another blueprint, and will be ready with that.
///
/// An attempt that has no database yet may have read either blueprint. Those that began before the last target
/// ended are waited for and no others: there may always be one that is just beginning. One whose next attempt is
/// not due soon is not waited for.
async fn is_any_coming(
    tx: &mut sqlx::PgConnection,
    run: &Run,
    left: &Left,
    goal: &Goal,
) -> Result<bool, StepError> {
    let until = left.last_ended_at.or(run.prepared_at);
    let (mut being_made, mut blank) = (Vec::new(), Vec::new());
    for begun in queue::list_begun(tx, "provision_tenant").await? {
        if let Job::ProvisionTenant { tenant } = begun.payload {
            let may_have_read_either = begun.is_running && Some(begun.began_at) <= until;
            being_made.push(TenantId(tenant));
            blank.extend(may_have_read_either.then_some(TenantId(tenant)));
        }
    }
    let made = (being_made.as_slice(), blank.as_slice());
    Ok(tenants::is_any_of_other(tx, made, &run.selection, &goal.hash).await?)
}

/// Why a run stops as failed.
enum StopReason {
    /// More targets failed than are allowed to.
    FailureLimit {
        failed: i64,
        allowed: u32,
        targets: i64,
    },
    /// No target of a wave went through, and another wave would follow.
    WholeWave { wave: i32 },
    /// Everything was tried, and these failed.
    SomeTargets { failed: i64, targets: i64 },
}

impl StopReason {
    fn code(&self) -> &'static str {
        match self {
            Self::FailureLimit { .. } => "fleet_too_many_failed",
            Self::WholeWave { .. } => "fleet_wave_failed",
            Self::SomeTargets { .. } => "fleet_targets_failed",
        }
    }

    fn cause(&self) -> String {
        match self {
            Self::FailureLimit {
                failed,
                allowed,
                targets,
            } => format!("{failed} of {targets} targets failed, and no more than {allowed} may"),
            Self::WholeWave { wave } => format!("every target of wave {wave} failed"),
            Self::SomeTargets { failed, targets } => {
                format!("{failed} of {targets} targets failed")
            }
        }
    }

    fn fix(&self, run: RunId) -> String {
        let repair = format!(
            "see why: tenantry fleet targets {run} --state failed; repair it; then: tenantry fleet retry --failed {run}"
        );
        match self {
            Self::FailureLimit { .. } | Self::WholeWave { .. } => {
                format!("{repair}, or go on without them: tenantry fleet resume {run}")
            }
            // there is nothing else left to go on with
            Self::SomeTargets { .. } => repair,
        }
    }
}

/// The run stops here, failed.
async fn stop(
    tx: &mut sqlx::PgConnection,
    run: &Run,
    reason: &StopReason,
) -> Result<Next, StepError> {
    let failure = RunFailure {
        code: reason.code().to_owned(),
        cause: reason.cause(),
        fix: reason.fix(run.id),
    };
    tracing::error!(
        fleet_run.id = %run.id,
        error.code = failure.code,
        error = failure.cause,
        "a fleet run stopped"
    );
    runs::set_state(tx, run.id, RunState::Failed, Some(&failure)).await?;
    Ok(Next::Completed)
}

/// Stops the run where more have failed than is allowed; whether it is stopped now.
pub(super) async fn stop_by_policy(slot: &Slot<'_>) -> Result<bool, StepError> {
    slot.fenced(async |tx| {
        let Some(run) = runs::lock(tx, slot.run).await? else {
            return Ok(true);
        };
        if run.state != RunState::Running {
            return Ok(true);
        }
        let counts = run.counts;
        let Some(reason) = over_limit(&run, counts.failed.into(), counts.total().into()) else {
            return Ok(false);
        };
        stop(tx, &run, &reason).await?;
        Ok::<_, StepError>(true)
    })
    .await
}

/// Whether more targets have failed than may, without those that were forgiven.
fn over_limit(run: &Run, failed: i64, targets: i64) -> Option<StopReason> {
    let allowed = run
        .max_failures?
        .of(u32::try_from(targets).unwrap_or(u32::MAX));
    let failed = failed - i64::from(run.forgiven);
    (failed > i64::from(allowed)).then_some(StopReason::FailureLimit {
        failed,
        allowed,
        targets,
    })
}
