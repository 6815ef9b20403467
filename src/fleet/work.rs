//! One slot of a run: takes targets, migrates them one after the other, records what became of them.
//!
//! Guarantees: what lost attempts had begun is finished first, after their sessions were ended, whatever became of
//! the run meanwhile; nothing is begun without the lease; a target and its tenant's row are recorded together: a
//! failure at once, other results in groups that take less than a second; a result that cannot be recorded counts
//! as a failure, so that every run ends; a pause is noticed after the migration under way.

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use sqlx::PgConnection;

use super::{
    Run, RunId, RunState, change, dry_run,
    goal::Goal,
    held::{self, Held},
    migrate, prepare,
    runs::{self, Progress},
    settle, subjects,
    targets::{self, TargetState},
};
use crate::{
    db,
    provisioning::{Provisioner, StepError, template::TemplateRecord},
    queue::{
        self, Claim, Failure, Waker,
        worker::{Lease, Outcome, Settled},
    },
    shutdown::Tasks,
    tenants::{self, TenantId},
};

/// Results wait no longer than this to be recorded, as far as can be foreseen.
const RECORD_WITHIN: Duration = Duration::from_secs(1);

/// Between two looks at whether the run goes on.
const RUN_STATE_TTL: Duration = Duration::from_millis(200);

/// How long what was read about a tenant and its database is relied on.
const SUBJECTS_TTL: Duration = Duration::from_secs(1);

/// How long a run of another blueprint is left to other replicas, one of which may have it.
const OTHER_BLUEPRINT_PAUSE: Duration = Duration::from_secs(3);

/// Why a slot is left: another replica has the run's blueprint.
pub(super) const BLUEPRINT_UNKNOWN: &str = "fleet_blueprint_unknown";

/// Why a slot is left for a while: what is next is not due.
pub(super) const NOT_DUE: &str = "fleet_target_not_due";

/// A slot of a run, as a job holds it.
#[derive(Debug, Clone, Copy)]
pub struct Slot<'a> {
    /// What migrations need.
    pub provisioner: &'a Provisioner,
    /// The job.
    pub claim: &'a Claim,
    /// The proof that the job is ours.
    pub lease: &'a Lease,
    /// Tells to stop between two targets.
    pub tasks: &'a Tasks,
    /// Wakes workers.
    pub waker: &'a Waker,
    /// Attempts of a target.
    pub max_attempts: u32,
    /// The run.
    pub run: RunId,
}

/// Works in a slot of a run until there is nothing to do in it.
pub async fn work(slot: &Slot<'_>) -> Result<Outcome, StepError> {
    let db = &slot.provisioner.db;
    let find = async || {
        db.run(async |connection| runs::find(connection, slot.run).await)
            .await
    };
    let Some(mut run) = find().await? else {
        return Ok(Outcome::Done);
    };
    if run.state == RunState::Preparing {
        if let Some(outcome) = prepare::prepare(slot, &run).await? {
            return Ok(outcome);
        }
        let Some(begun) = find().await? else {
            return Ok(Outcome::Done);
        };
        run = begun;
    }
    if run.prepared_at.is_none() {
        if run.is_dry {
            return dry_run::sweep(slot).await;
        }
        return Ok(Outcome::Done);
    }
    if run.state != RunState::Running
        && run.counts.running == 0
        && let Some(outcome) = settle::leave(slot).await?
    {
        return Ok(outcome);
    }
    let Some(goal) = load_goal(slot, &run).await? else {
        return slot.leave_to_others().await;
    };
    if run.counts.failed > 0 && run.max_failures.is_some() {
        // whoever recorded the last failure may not have come to it
        settle::stop_by_policy(slot).await?;
    }
    let templates = goal.templates(slot.provisioner).await?;
    let version = run.version.clone().unwrap_or_default();
    let prepared = Prepared {
        run: &run,
        goal: &goal,
        templates: &templates,
        version: &version,
    };
    let mut min_batch = 1;
    loop {
        if slot.tasks.is_draining() {
            return Ok(Outcome::Released);
        }
        if !slot.has_files(&prepared) {
            return slot.leave_to_others().await;
        }
        let taken = slot.take(min_batch).await?;
        let next = match u32::try_from(taken.len()).unwrap_or(u32::MAX) {
            0 => settle::settle(slot, &goal).await?,
            count => {
                let began = Instant::now();
                let next = slot.migrate_all(&prepared, &taken).await?;
                min_batch = held::min_batch(began.elapsed() / count);
                next
            }
        };
        if let Some(outcome) = next {
            return Ok(outcome);
        }
    }
}

/// The goal of the run; `None` where this replica does not have it. Then a run that is over does not wait for it for
/// ever.
async fn load_goal(slot: &Slot<'_>, run: &Run) -> Result<Option<Goal>, StepError> {
    let loaded = Goal::load(slot.provisioner, run);
    if !run.state.is_over() {
        return loaded;
    }
    let goal = match loaded {
        Err(StepError::Blueprint(_)) => None,
        loaded => loaded?,
    };
    if goal.is_none() {
        settle::give_up_lost(slot).await?;
    }
    Ok(goal)
}

/// What a run brings databases to: its goal, as it was prepared.
#[derive(Debug, Clone, Copy)]
pub(super) struct Prepared<'a> {
    pub(super) run: &'a Run,
    pub(super) goal: &'a Goal,
    pub(super) templates: &'a BTreeMap<String, TemplateRecord>,
    pub(super) version: &'a str,
}

impl Slot<'_> {
    /// Runs `work` in a transaction that commits only while this job's claim is held.
    pub(super) async fn fenced<T>(
        &self,
        work: impl AsyncFnOnce(&mut PgConnection) -> Result<T, StepError>,
    ) -> Result<T, StepError> {
        let db = &self.provisioner.db;
        db.transaction(async |tx| {
            queue::assert_held(tx, self.claim).await?;
            work(tx).await
        })
        .await
    }

    /// What was lost elsewhere, else what is due.
    async fn take(&self, min_batch: i64) -> Result<Vec<Held>, StepError> {
        let taken = self
            .fenced(async |tx| {
                let lost = held::take_over(tx, self.run, self.claim).await?;
                let progress = runs::find_progress(tx, self.run).await?;
                match progress {
                    Some(progress) if lost.is_empty() && progress.state == RunState::Running => {
                        Ok::<_, StepError>(
                            held::take(tx, self.run, &progress, self.claim, min_batch).await?,
                        )
                    }
                    _ => Ok(lost),
                }
            })
            .await?;
        self.provisioner.faults.hit(super::FAULT_TAKEN).await?;
        Ok(taken)
    }

    /// Migrates what was taken; `Some` when the slot is to stop.
    async fn migrate_all(
        &self,
        prepared: &Prepared<'_>,
        taken: &[Held],
    ) -> Result<Option<Outcome>, StepError> {
        let mut away = subjects::Away::new();
        let mut found = subjects::find(self, taken, &mut away).await?;
        let mut ended = Vec::new();
        let (mut recorded_at, mut looked_at) = (Instant::now(), Instant::now());
        let mut found_at = Instant::now();
        let mut is_going_on = true;
        for (at, held) in taken.iter().enumerate() {
            let rest = &taken[at..];
            if is_going_on && looked_at.elapsed() >= RUN_STATE_TTL {
                is_going_on = self.is_going_on().await?;
                looked_at = Instant::now();
            }
            let has_files = at == 0 || self.has_files(prepared);
            let is_stopping = self.tasks.is_draining() || !is_going_on || !has_files;
            if is_stopping && !held.is_taken_over {
                let rest: Vec<TenantId> = rest.iter().map(|held| held.tenant).collect();
                self.record(prepared, &mut ended).await?;
                self.give_back(&rest).await?;
                break;
            }
            if found_at.elapsed() >= SUBJECTS_TTL {
                // somebody may have archived one of them meanwhile
                found = subjects::find(self, rest, &mut away).await?;
                found_at = Instant::now();
            }
            let subject = found.remove(&held.tenant.0);
            let began = Instant::now();
            let Some(record) = migrate::migrate(self, prepared, held, subject).await? else {
                self.give_back(&[held.tenant]).await?;
                continue;
            };
            let is_failure = matches!(record.state, TargetState::Failed | TargetState::Pending);
            ended.push(record);
            // the next one may take as long
            if is_failure || recorded_at.elapsed() + began.elapsed() >= RECORD_WITHIN {
                is_going_on = self.record(prepared, &mut ended).await?;
                (recorded_at, looked_at) = (Instant::now(), Instant::now());
            }
        }
        self.record(prepared, &mut ended).await?;
        Ok(self.tasks.is_draining().then_some(Outcome::Released))
    }

    /// Whether the files are still those of the run: a program runs on them as they are, and they may have been
    /// changed or taken away. Reads all of them.
    fn has_files(&self, prepared: &Prepared<'_>) -> bool {
        let load = || Goal::load(self.provisioner, prepared.run);
        // the other work of this thread goes on elsewhere
        prepared.goal.whole.project.is_none()
            || matches!(tokio::task::block_in_place(load), Ok(Some(_)))
    }

    async fn is_going_on(&self) -> Result<bool, StepError> {
        let db = &self.provisioner.db;
        let find = async |connection: &mut _| runs::find_progress(connection, self.run).await;
        let progress = db.run(find).await?;
        Ok(progress.is_some_and(|progress| progress.state == RunState::Running))
    }

    /// Records results, each with its tenant's row; whether the run goes on.
    async fn record(
        &self,
        prepared: &Prepared<'_>,
        ended: &mut Vec<held::Record>,
    ) -> Result<bool, StepError> {
        if ended.is_empty() {
            return Ok(true);
        }
        self.provisioner.faults.hit(super::FAULT_RECORDING).await?;
        let records = std::mem::take(ended);
        let recorded = self.try_record(prepared, &records).await;
        let (progress, records) = match recorded {
            Err(StepError::Control(refused)) if !db::is_passing(&refused) => {
                self.record_one_by_one(prepared, records).await?
            }
            recorded => (recorded?, records),
        };
        self.provisioner.faults.hit(super::FAULT_RECORDED).await?;
        for record in &records {
            let outcome = match record.state {
                TargetState::Pending => "retried",
                state => state.name(),
            };
            self.provisioner.metrics.fleet_target_ended(outcome);
        }
        let has_failures = records
            .iter()
            .any(|record| record.state == TargetState::Failed);
        let is_running = progress.is_some_and(|progress| progress.state == RunState::Running);
        let is_limited = has_failures && prepared.run.max_failures.is_some();
        Ok(is_running && !(is_limited && settle::stop_by_policy(self).await?))
    }

    /// What is refused as it is would be tried for ever: it is a failure, and the others are recorded.
    async fn record_one_by_one(
        &self,
        prepared: &Prepared<'_>,
        mut records: Vec<held::Record>,
    ) -> Result<(Option<Progress>, Vec<held::Record>), StepError> {
        let mut progress = None;
        for record in &mut records {
            progress = match self
                .try_record(prepared, std::slice::from_ref(record))
                .await
            {
                Err(StepError::Control(refused)) if !db::is_passing(&refused) => {
                    record.refused(&refused, self.run);
                    self.try_record(prepared, std::slice::from_ref(record))
                        .await?
                }
                recorded => recorded?,
            };
        }
        Ok((progress, records))
    }

    async fn try_record(
        &self,
        prepared: &Prepared<'_>,
        records: &[held::Record],
    ) -> Result<Option<Progress>, StepError> {
        let reached = records.iter();
        let reached = reached.filter_map(|record| record.reached_version(prepared));
        let reached: Vec<_> = reached.collect();
        self.fenced(async |tx| {
            let progress = runs::hold_progress(tx, self.run).await?;
            let recorded = held::record(tx, self.run, self.claim, records).await?;
            if recorded != records.len() as u64 {
                return Err(StepError::LostClaim);
            }
            // a run that is over may have been followed by another one
            let is_latest = progress.is_some_and(|progress| !progress.state.is_over());
            tenants::mark_migrated(tx, &reached, is_latest).await?;
            self.give_up_rest_if_aborted(tx, progress).await?;
            Ok(progress)
        })
        .await
    }

    /// What waits again in a run that was aborted meanwhile does not wait for anything.
    async fn give_up_rest_if_aborted(
        &self,
        tx: &mut PgConnection,
        progress: Option<Progress>,
    ) -> Result<(), StepError> {
        if progress.is_some_and(|progress| progress.state == RunState::Aborted) {
            targets::give_up_rest(tx, self.run).await?;
        }
        Ok(())
    }

    async fn give_back(&self, tenants: &[TenantId]) -> Result<(), StepError> {
        self.fenced(async |tx| {
            let progress = runs::hold_progress(tx, self.run).await?;
            held::give_back(tx, self.run, self.claim, tenants).await?;
            self.give_up_rest_if_aborted(tx, progress).await
        })
        .await
    }

    /// This replica has another blueprint than the run: somebody else may have it.
    pub(super) async fn leave_to_others(&self) -> Result<Outcome, StepError> {
        let error = "this replica has another blueprint than the fleet run".to_owned();
        let failure = Failure::new(BLUEPRINT_UNKNOWN, error);
        self.put_off(&failure, OTHER_BLUEPRINT_PAUSE).await
    }

    /// The job comes back after a while.
    pub(super) async fn put_off(
        &self,
        failure: &Failure,
        wait: Duration,
    ) -> Result<Outcome, StepError> {
        self.fenced(async |tx| {
            Ok::<_, StepError>(queue::postpone(tx, self.claim, failure, wait).await?)
        })
        .await?;
        Ok(Outcome::Settled(Settled::Postponed))
    }

    /// There is more to do for all slots. In a transaction of its own: this one's job is locked by nobody now.
    pub(super) async fn rouse_others(&self) -> Result<(), StepError> {
        self.provisioner
            .db
            .transaction(async |tx| {
                let run = runs::find(tx, self.run).await?;
                match run.filter(|run| run.state == RunState::Running) {
                    Some(run) => Ok::<_, StepError>(change::rouse(tx, &run).await?),
                    None => Ok(()),
                }
            })
            .await?;
        self.waker.wake();
        Ok(())
    }
}
