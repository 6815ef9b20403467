//! One target: looked at, migrated, and what became of it.
//!
//! Guarantees: a database that does not carry the tenant's mark is not touched; what passes by itself is
//! tried again later, a few times, with nothing held meanwhile; of a run that goes on no more only what may
//! have been begun is brought to its end; a database with which process after process dies is left alone.

use std::{cmp::max, time::Instant};

use super::{
    held::{Held, Record},
    subjects::Subject,
    targets::TargetState,
    work::{Prepared, Slot},
};
use crate::{
    blueprint,
    causes::chain,
    provisioning::{
        Again, StepError,
        migrators::{Migrated, Migration, find_version, is_begun, migrate as migrate_database},
        template::{self, TemplateRecord},
    },
    queue::backoff,
    tenant_db::{self, Cluster, Ident, Tag},
    tenants::{self, Tenant, TenantState},
};

/// A database is not left alone before processes died with it this often, however few attempts are allowed.
const MIN_LOST_ATTEMPTS: u32 = 5;

/// Added to the attempt for the backoff where a cluster is out of reach: outages last minutes, locks seconds.
const OUTAGE_BACKOFF: i32 = 3;

/// Migrates the target's database; an error is one of this slot, not of the target.
///
/// `None` where nothing was begun and nothing is wanted any more.
pub(super) async fn migrate(
    slot: &Slot<'_>,
    prepared: &Prepared<'_>,
    held: &Held,
    subject: Option<Subject>,
) -> Result<Option<Record>, StepError> {
    let Some(subject) = subject else {
        return Ok(Some(skipped(held, "gone", "the tenant's row is gone")));
    };
    match subject.tenant.state {
        TenantState::Ready | TenantState::Suspended => {}
        // one that was begun while it was ready is brought to its end, so that its row is true
        TenantState::Archived if held.is_taken_over => {}
        state => {
            let why = format!("the tenant is {} now", state.name());
            return Ok(Some(skipped(held, "not_kept_up", &why)));
        }
    }
    let tenant = &subject.tenant;
    let stands = (tenant.blueprint_hash.as_deref(), &*tenant.alembic_version);
    if prepared.goal.is_passed_by(stands, prepared.version) {
        let why = format!("the tenant is on version {} by now", tenant.alembic_version);
        return Ok(Some(skipped(held, "ahead_of_version", &why)));
    }
    if !slot.lease.is_held() {
        return Err(StepError::LostClaim);
    }
    let before = Some((
        tenant.alembic_version.clone(),
        tenant.blueprint_hash.clone(),
    ));
    if is_known_to_be_there(prepared, held, &subject) {
        return Ok(Some(Record {
            to_version: Some(prepared.version.to_owned()),
            applied: Some(0),
            ..blank(held, TargetState::Done)
        }));
    }
    let started = Instant::now();
    let done = migrate_subject(slot, prepared, held, &subject).await;
    let duration_ms = Some(started.elapsed().as_secs_f64() * 1000.0);
    match done {
        Ok(None) => Ok(None),
        Ok(Some(Migrated { applied, .. })) => {
            tracing::debug!(
                fleet_run.id = %slot.run,
                tenant.id = %held.tenant,
                duration_ms,
                applied,
                "a tenant's database is migrated"
            );
            Ok(Some(Record {
                to_version: Some(prepared.version.to_owned()),
                applied: Some(applied),
                duration_ms,
                before,
                ..blank(held, TargetState::Done)
            }))
        }
        Err(error) if error.is_of_worker() => Err(error),
        // only its migrator could tell, or its ledger
        Err(error) if error.is_ahead() || is_further(prepared, tenant, &error) => {
            Ok(Some(skipped(held, "ahead_of_version", &chain(&error))))
        }
        Err(error) if error.is_database_gone() && !is_kept_up(slot, held).await? => {
            let why = "the tenant was given up meanwhile";
            Ok(Some(skipped(held, "gone", why)))
        }
        Err(error) => Ok(Some(Record {
            to_version: version_reached(slot, prepared, held, &subject, &error).await,
            before,
            ..failed(slot, held, &error, duration_ms)
        })),
    }
}

/// Whether nothing is to be done by all accounts: then nobody connects to the database. The versions of a program are
/// its own affair.
fn is_known_to_be_there(prepared: &Prepared<'_>, held: &Held, subject: &Subject) -> bool {
    prepared.goal.whole.project.is_none()
        && !held.is_taken_over
        && subject.tenant.alembic_version == prepared.version
        && is_on_record(prepared, subject)
}

/// Whether the database was compared when it was last looked into, and that is to be relied on: whoever names tenants
/// wants them looked into.
fn is_on_record(prepared: &Prepared<'_>, subject: &Subject) -> bool {
    prepared.run.selection.tenants.is_empty() && subject.is_on_record(&prepared.goal.hash)
}

/// Whether the database has a migration that the goal has not: one beyond the run's version, or, where its row says so
/// too, one of a newer blueprint that another replica has. Where a migration was taken away, the run could not be
/// prepared.
fn is_further(prepared: &Prepared<'_>, tenant: &Tenant, error: &StepError) -> bool {
    let StepError::Blueprint(blueprint::Error::MigrationRemoved { file: found }) = error else {
        return false;
    };
    let files = &prepared.goal.whole.migrations;
    files.iter().any(|file| file.name == *found)
        || files
            .iter()
            .all(|file| file.version() != tenant.alembic_version)
}

/// What the database is on after a failure: a file or a revision that went through before it stays.
async fn version_reached(
    slot: &Slot<'_>,
    prepared: &Prepared<'_>,
    held: &Held,
    subject: &Subject,
    error: &StepError,
) -> Option<String> {
    if !matches!(error, StepError::File { .. } | StepError::Migration(_)) {
        // nothing was begun, or there is nobody to ask
        return None;
    }
    let work = Work::new(slot, held, subject).ok()?;
    match find_version(&work.migration(slot, prepared, subject)).await {
        Ok(version) => version,
        Err(unknown) => {
            let tenant = held.tenant;
            tracing::debug!(tenant.id = %tenant, error = chain(&unknown), "the version is unknown");
            None
        }
    }
}

/// Whether the tenant is still to be migrated, as its row says now.
async fn is_kept_up(slot: &Slot<'_>, held: &Held) -> Result<bool, StepError> {
    let id = held.tenant;
    let tenant = slot
        .provisioner
        .db
        .run(async |connection| tenants::find(connection, id).await)
        .await?;
    let is_kept_up =
        |tenant: Tenant| matches!(tenant.state, TenantState::Ready | TenantState::Suspended);
    Ok(tenant.is_some_and(is_kept_up))
}

/// What was done; `None` where nothing was begun and nothing is wanted any more.
async fn migrate_subject(
    slot: &Slot<'_>,
    prepared: &Prepared<'_>,
    held: &Held,
    subject: &Subject,
) -> Result<Option<Migrated>, StepError> {
    let mut work = Work::new(slot, held, subject)?;
    subject.refuse_foreign()?;
    work.ensure_template(slot, prepared, subject).await?;
    if held.is_taken_over {
        let is_held = || slot.lease.is_held();
        work.cluster.end_stale_sessions(&work.tag, is_held).await?;
        let times = held.lost.unsigned_abs();
        if times >= max(slot.max_attempts, MIN_LOST_ATTEMPTS) {
            return Err(StepError::WorkersLost { times });
        }
    }
    let migration = work.migration(slot, prepared, subject);
    if !held.is_wanted && !is_begun(&migration, &held.from_version).await? {
        return Ok(None);
    }
    Ok(Some(migrate_database(&migration).await?))
}

/// Where a target is migrated, and in whose name.
struct Work<'a> {
    cluster: &'a Cluster,
    database: Ident,
    tag: Tag,
    late_template: Option<TemplateRecord>,
}

impl<'a> Work<'a> {
    fn new(slot: &Slot<'a>, held: &Held, subject: &Subject) -> Result<Self, StepError> {
        let tenant = &subject.tenant;
        let name = tenant.cluster.as_deref().ok_or(StepError::NotPlaced)?;
        Ok(Self {
            cluster: slot.provisioner.clusters.get(name)?,
            database: Ident::new(&tenant.database).map_err(tenant_db::Error::from)?,
            // named by the target, not by the tenant: jobs of the tenant end the sessions of their own kind only
            tag: Tag::new(held.id, slot.claim.id.0, slot.claim.attempt),
            late_template: None,
        })
    }

    /// Where the first tenant of a cluster came after the run was prepared, its template was not built then; where the
    /// server was upgraded since, it was built by another one.
    async fn ensure_template(
        &mut self,
        slot: &Slot<'a>,
        prepared: &Prepared<'_>,
        subject: &Subject,
    ) -> Result<(), StepError> {
        let (provisioner, cluster, goal) = (slot.provisioner, self.cluster, prepared.goal);
        let template = prepared.templates.get(&cluster.name);
        let is_fit = |template: &TemplateRecord| match subject.server_major() {
            Some(major) => template.server_major == Some(major),
            // nothing is compared with it
            None => true,
        };
        if template.is_some_and(is_fit) {
            return Ok(());
        }
        template::ensure_up_to(provisioner, cluster, (&goal.whole, &goal.cut)).await?;
        let find =
            async |connection: &mut _| template::find(connection, &cluster.name, &goal.hash).await;
        self.late_template = provisioner.db.run(find).await?;
        Ok(())
    }

    fn migration<'m>(
        &'m self,
        slot: &Slot<'m>,
        prepared: &'m Prepared<'m>,
        subject: &'m Subject,
    ) -> Migration<'m> {
        let tenant = &subject.tenant;
        let template = prepared.templates.get(&self.cluster.name);
        Migration {
            db: &slot.provisioner.db,
            cluster: self.cluster,
            keyring: &slot.provisioner.keyring,
            blueprint: &prepared.goal.cut,
            database: &self.database,
            tenant: Some((tenant.id, &tenant.name)),
            mark: subject.mark(),
            attempt: Some((&self.tag, slot.lease)),
            template: self.late_template.as_ref().or(template),
            is_on_record: is_on_record(prepared, subject),
            recorded_hash: tenant.blueprint_hash.as_deref(),
        }
    }
}

fn blank(held: &Held, state: TargetState) -> Record {
    Record {
        tenant: held.tenant,
        state,
        to_version: None,
        applied: None,
        duration_ms: None,
        error_code: None,
        error: None,
        fix: None,
        blocker: None,
        delay_s: 0.0,
        before: None,
    }
}

fn skipped(held: &Held, code: &'static str, why: &str) -> Record {
    Record {
        error_code: Some(code),
        error: Some(why.to_owned()),
        ..blank(held, TargetState::Skipped)
    }
}

/// Failed for good, or to be tried again after a while.
fn failed(slot: &Slot<'_>, held: &Held, error: &StepError, duration_ms: Option<f64>) -> Record {
    let attempt = held.attempt.unsigned_abs();
    let is_again = error.is_retryable() && attempt < slot.max_attempts;
    let (state, again) = if is_again {
        (TargetState::Pending, Again::ByItself)
    } else {
        let retry = format!("tenantry fleet retry --failed {}", slot.run);
        (TargetState::Failed, Again::With(retry))
    };
    tracing::warn!(
        fleet_run.id = %slot.run,
        tenant.id = %held.tenant,
        attempt,
        again = is_again,
        error.code = error.code(),
        error = chain(error),
        "a tenant's database was not migrated"
    );
    let delay_s = if is_again {
        let jitter: f64 = rand::random();
        let delay = if error.is_of_cluster() {
            // at least half of it: an outage is to be outlived, not only to be spread
            backoff::delay(held.attempt + OUTAGE_BACKOFF, f64::midpoint(1.0, jitter))
        } else {
            backoff::delay(held.attempt, jitter)
        };
        delay.as_secs_f64()
    } else {
        0.0
    };
    Record {
        duration_ms,
        error_code: Some(error.code()),
        error: Some(chain(error)),
        fix: Some(match (error, &again) {
            // a file that is changed makes another blueprint, which the run is not for
            (StepError::File { file, .. }, Again::With(retry)) => {
                format!("repair what {file} met in the database; then: {retry}")
            }
            (StepError::Migration(found), Again::With(_)) if found.is_of_blueprint() => {
                error.fix(&Again::With("tenantry fleet migrate".to_owned()))
            }
            _ => error.fix(&again),
        }),
        blocker: error.blocker().map(|blocker| {
            serde_json::json!({
                "pid": blocker.pid,
                "application": blocker.application,
                "state": blocker.state,
                "query_age_s": blocker.query_age_s,
                "transaction_age_s": blocker.transaction_age_s,
            })
        }),
        delay_s,
        ..blank(held, state)
    }
}
