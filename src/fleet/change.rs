//! What an operator may do about fleet runs.
//!
//! Guarantees: the change, its audit row and the jobs that follow from it are the caller's one
//! transaction. Locks are taken in one order: whoever begins or resumes a run, its jobs, the run, its
//! targets, tenants.

use serde_json::json;
use sqlx::PgConnection;
use uuid::Uuid;

use super::{
    Error, NewRun, Run, RunId, RunState, dry_run,
    runs::{self, RunFailure, find},
    targets,
};
use crate::{
    audit::{self, Actor},
    queue::{self, NewJob},
    tenants::TenantId,
};

/// Begins a run. Its template and pool are made first; replicas do it.
pub async fn create(tx: &mut PgConnection, new: &NewRun, actor: &Actor) -> Result<Run, Error> {
    audit::by(tx, actor).await?;
    one_at_a_time(tx).await?;
    if let Some(active) = runs::find_unfinished(tx).await? {
        return Err(Error::Active(active.id));
    }
    let id = RunId(Uuid::now_v7());
    note_clones(tx, id, &new.clones).await?;
    if !runs::insert(tx, id, new, actor.name()).await? {
        // by one who did not wait for the lock
        let active = runs::find_unfinished(tx).await?;
        return Err(Error::Active(active.map_or(id, |active| active.id)));
    }
    queue::enqueue(tx, &NewJob::migrate_fleet(id.0, 0)).await?;
    find(tx, id).await?.ok_or(Error::Unknown(id))
}

/// The audit log of each tenant whose data will be copied says so.
async fn note_clones(tx: &mut PgConnection, run: RunId, clones: &[TenantId]) -> Result<(), Error> {
    let found = dry_run::list_clonable(tx, clones).await?;
    let is_found = |id: &&TenantId| found.iter().any(|tenant| tenant.id == **id);
    if let Some(missing) = clones.iter().find(|id| !is_found(id)) {
        return Err(Error::NotKeptUp(*missing));
    }
    for tenant in &found {
        let act = audit::Act {
            action: "tenant.clone_wanted",
            target_kind: "tenant",
            target: &tenant.id.to_string(),
            organization: Some((&tenant.source, Some(&tenant.org_id))),
        };
        audit::note_with(tx, act, &json!({ "fleet_run": run })).await?;
    }
    Ok(())
}

/// Pauses a run: nothing new begins, migrations under way finish.
pub async fn pause(tx: &mut PgConnection, id: RunId, actor: &Actor) -> Result<Run, Error> {
    audit::by(tx, actor).await?;
    let run = lock(tx, id).await?;
    match run.state {
        RunState::Preparing | RunState::Running => {}
        _ => return Err(wrong_state(&run, "preparing or running")),
    }
    runs::set_state(tx, id, RunState::Paused, None).await?;
    find(tx, id).await?.ok_or(Error::Unknown(id))
}

/// Resumes a paused run, or one that was stopped by failures with what it left.
///
/// One that could not be prepared begins with the blueprint as it is now (`known_hash`), which may have been repaired;
/// whoever does not know that changes nothing. One that was only paused keeps its own: somebody may still be preparing it.
pub async fn resume(
    tx: &mut PgConnection,
    id: RunId,
    known_hash: Option<&str>,
    actor: &Actor,
) -> Result<Run, Error> {
    audit::by(tx, actor).await?;
    let run = hold(tx, id).await?;
    match run.state {
        RunState::Paused | RunState::Failed => {}
        _ => return Err(wrong_state(&run, "paused or failed")),
    }
    if let Some(hash) = known_hash
        && run.state == RunState::Failed
        && run.prepared_at.is_none()
    {
        runs::set_blueprint(tx, id, hash).await?;
    }
    go_on(tx, &run).await
}

/// The failed targets of a run are tried again, and no others.
pub async fn retry(tx: &mut PgConnection, id: RunId, actor: &Actor) -> Result<Run, Error> {
    audit::by(tx, actor).await?;
    let run = hold(tx, id).await?;
    let is_prepared = run.prepared_at.is_some();
    match run.state {
        RunState::Running | RunState::Paused | RunState::Failed if is_prepared => {}
        _ => {
            return Err(wrong_state(
                &run,
                "running, paused or failed after it began",
            ));
        }
    }
    targets::retry_failed(tx, id).await?;
    runs::forgive(tx, id, 0).await?;
    let run = find(tx, id).await?.ok_or(Error::Unknown(id))?;
    match run.state {
        RunState::Paused => Ok(run),
        _ => go_on(tx, &run).await,
    }
}

/// Ends the run: migrations under way finish, and what waits is skipped.
pub async fn abort(tx: &mut PgConnection, id: RunId, actor: &Actor) -> Result<Run, Error> {
    audit::by(tx, actor).await?;
    let run = lock(tx, id).await?;
    if matches!(run.state, RunState::Done | RunState::Aborted) {
        return Err(wrong_state(&run, "unfinished or failed"));
    }
    let resume = format!("tenantry fleet resume {id}");
    let begin = if run.is_dry {
        "tenantry fleet migrate --dry-run"
    } else {
        "tenantry fleet migrate"
    };
    let failure = run.failure.as_ref().map(|failure| RunFailure {
        fix: match run.prepared_at {
            Some(_) => format!(
                "see why: tenantry fleet targets {id} --state failed; repair it; then: {begin}"
            ),
            None => failure.fix.replace(&resume, begin),
        },
        ..failure.clone()
    });
    runs::set_state(tx, id, RunState::Aborted, failure.as_ref()).await?;
    runs::advise_of_rehearsals(tx, id, (&resume, begin)).await?;
    targets::give_up_rest(tx, id).await?;
    find(tx, id).await?.ok_or(Error::Unknown(id))
}

/// Moves a waiting tenant to the front of a run.
pub async fn put_first(
    tx: &mut PgConnection,
    id: RunId,
    tenant: TenantId,
    actor: &Actor,
) -> Result<(), Error> {
    audit::by(tx, actor).await?;
    let run = hold(tx, id).await?;
    if run.state.is_over() {
        return Err(wrong_state(&run, "unfinished"));
    }
    if !targets::put_first(tx, id, tenant).await? {
        return Err(Error::NotWaiting { run: id, tenant });
    }
    let act = audit::Act {
        action: "fleet_target.put_first",
        target_kind: "fleet_run",
        target: &id.to_string(),
        organization: None,
    };
    audit::note_with(tx, act, &json!({ "tenant": tenant })).await?;
    Ok(())
}

/// Locks the run that is to go on: nobody else begins or resumes one meanwhile. Its jobs are roused before its row is
/// locked, as those who run them lock in this order.
async fn hold(tx: &mut PgConnection, id: RunId) -> Result<Run, Error> {
    one_at_a_time(tx).await?;
    let run = find(tx, id).await?.ok_or(Error::Unknown(id))?;
    rouse(tx, &run).await?;
    lock(tx, id).await
}

async fn lock(tx: &mut PgConnection, id: RunId) -> Result<Run, Error> {
    runs::lock(tx, id).await?.ok_or(Error::Unknown(id))
}

async fn go_on(tx: &mut PgConnection, run: &Run) -> Result<Run, Error> {
    if let Some(active) = runs::find_unfinished(tx)
        .await?
        .filter(|active| active.id != run.id)
    {
        return Err(Error::Active(active.id));
    }
    // whoever resumes one that was only paused may not know of a failure: it stops the run as any other
    if run.state == RunState::Failed {
        runs::forgive(tx, run.id, run.counts.failed).await?;
    }
    let state = match run.prepared_at {
        Some(_) => RunState::Running,
        None => RunState::Preparing,
    };
    runs::set_state(tx, run.id, state, None).await?;
    find(tx, run.id).await?.ok_or(Error::Unknown(run.id))
}

/// Makes sure that a job for each slot of the run begins, or notices what the caller commits.
pub(super) async fn rouse(tx: &mut PgConnection, run: &Run) -> Result<(), queue::Error> {
    let slots = match run.prepared_at {
        Some(_) => run.concurrency.unsigned_abs(),
        None => 1,
    };
    for slot in 0..slots {
        queue::rouse(tx, &NewJob::migrate_fleet(run.id.0, slot)).await?;
    }
    Ok(())
}

/// Whoever begins or resumes a run does so alone: two would meet in the index that allows one.
async fn one_at_a_time(tx: &mut PgConnection) -> sqlx::Result<()> {
    sqlx::query("select pg_advisory_xact_lock(hashtextextended('fleet_runs', 0))")
        .execute(tx)
        .await?;
    Ok(())
}

fn wrong_state(run: &Run, wanted: &'static str) -> Error {
    Error::WrongState {
        run: run.id,
        state: run.state,
        wanted,
    }
}
