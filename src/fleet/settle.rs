//! When there is nothing to take: the run waits, goes on to its next wave, or ends.
//!
//! Guarantees: decided under the run's lock, by one count of what is committed: of several places that find
//! nothing at the same time the last one sees it all. A tenant that was cloned from an older template
//! and became ready meanwhile is migrated before the run ends.

use std::{collections::HashSet, time::Duration};

use super::{
    Run, RunFailure, RunState,
    goal::Goal,
    held::{self, Left, NewTarget},
    runs, targets,
    work::{NOT_DUE, Place},
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

/// What the place does now; `None`: it takes again.
pub(super) async fn settle(place: &Place<'_>, goal: &Goal) -> Result<Option<Outcome>, StepError> {
    let next = place
        .fenced(async |tx| {
            let Some(run) = lock_running_or_complete(tx, place).await? else {
                return Ok(Next::Completed);
            };
            let left = held::find_left(tx, run.id, run.current_wave).await?;
            let next = decide(tx, &run, &left, goal).await?;
            if matches!(next, Next::Completed) {
                queue::complete(tx, place.claim).await?;
            }
            Ok::<_, StepError>(next)
        })
        .await?;
    match next {
        Next::GoOn => Ok(None),
        Next::AllGoOn => {
            place.rouse_others().await?;
            Ok(None)
        }
        Next::Wait(wait) => {
            let error = "the next target is not due yet".to_owned();
            let failure = Failure::new(NOT_DUE, error);
            place.put_off(&failure, wait).await.map(Some)
        }
        Next::Completed => Ok(Some(Outcome::Settled(Settled::Completed))),
    }
}

/// Leaves a run that no longer goes on and has nothing under way. Nobody needs its blueprint for that.
pub(super) async fn leave(place: &Place<'_>) -> Result<Option<Outcome>, StepError> {
    let is_left = place
        .fenced(async |tx| Ok::<_, StepError>(lock_running_or_complete(tx, place).await?.is_none()))
        .await?;
    Ok(is_left.then_some(Outcome::Settled(Settled::Completed)))
}

/// The run under its lock; `None` where it no longer goes on, and then the job is completed.
async fn lock_running_or_complete(
    tx: &mut sqlx::PgConnection,
    place: &Place<'_>,
) -> Result<Option<Run>, StepError> {
    let run = runs::lock(tx, place.run).await?;
    if run
        .as_ref()
        .is_none_or(|run| run.state == RunState::Aborted)
    {
        // what was put back while the run was aborted, by whoever did not see that yet
        targets::skip_pending(tx, place.run).await?;
    }
    let running = run.filter(|run| run.state == RunState::Running);
    if running.is_none() {
        queue::complete(tx, place.claim).await?;
    }
    Ok(running)
}

async fn decide(
    tx: &mut sqlx::PgConnection,
    run: &Run,
    left: &Left,
    goal: &Goal,
) -> Result<Next, StepError> {
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
            let cause = format!("every target of wave {} failed", run.current_wave);
            return stop(tx, run, ("fleet_wave_failed", cause)).await;
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
    let known: HashSet<uuid::Uuid> = held::list_tenants(tx, run.id).await?.into_iter().collect();
    let fleet = tenants::list_migratable(tx, &run.selection).await?;
    let version = run.version.as_deref().unwrap_or_default();
    let is_missing = |tenant: &tenants::Standing| {
        !known.contains(&tenant.id.0)
            && tenant.blueprint_hash.as_deref() != Some(&goal.hash)
            && !goal.is_passed_by(tenant.stands(), version)
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
    if held::insert(tx, run.id, &late).await? > 0 {
        return Ok(Next::AllGoOn);
    }
    if is_any_coming {
        return Ok(Next::Wait(LOOK));
    }
    if left.failed > 0 {
        let cause = format!("{} of {} targets failed", left.failed, left.targets);
        return stop(tx, run, ("fleet_targets_failed", cause)).await;
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

/// The run stops here, failed.
async fn stop(
    tx: &mut sqlx::PgConnection,
    run: &Run,
    (code, cause): (&'static str, String),
) -> Result<Next, StepError> {
    tracing::error!(fleet_run.id = %run.id, error.code = code, error = cause, "a fleet run stopped");
    let fix = match code {
        "fleet_targets_failed" => format!(
            "see why: tenantry fleet targets {0} --state failed; repair it; then: tenantry fleet retry --failed {0}",
            run.id
        ),
        _ => format!(
            "see why: tenantry fleet targets {0} --state failed; repair it; then: tenantry fleet retry --failed {0}, or go on without them: tenantry fleet resume {0}",
            run.id
        ),
    };
    let failure = RunFailure {
        code: code.to_owned(),
        cause,
        fix,
    };
    runs::set_state(tx, run.id, RunState::Failed, Some(&failure)).await?;
    Ok(Next::Completed)
}

/// Stops the run where more have failed than is allowed; whether it is stopped now.
pub(super) async fn stop_by_policy(place: &Place<'_>) -> Result<bool, StepError> {
    place
        .fenced(async |tx| {
            let Some(run) = runs::lock(tx, place.run).await? else {
                return Ok(true);
            };
            let Some(limit) = run.max_failures.filter(|_| run.state == RunState::Running) else {
                return Ok(run.state != RunState::Running);
            };
            let allowed = limit.of(run.counts.total());
            let failed = run
                .counts
                .failed
                .saturating_sub(run.forgiven.unsigned_abs());
            if failed <= allowed {
                return Ok(false);
            }
            let cause = format!(
                "{failed} of {} targets failed, and no more than {allowed} may",
                run.counts.total()
            );
            stop(tx, &run, ("fleet_too_many_failed", cause)).await?;
            Ok::<_, StepError>(true)
        })
        .await
}
