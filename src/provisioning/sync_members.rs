//! Step 5, `sync_members`: the tenant's database is told of its members; and the job that does it ever after.
//!
//! Guarantees: a ready tenant has the people who were members when it became ready, except those whose
//! own script failed; each member is told in a transaction of its own, so that one who fails does not
//! keep the others out; scripts run with the rights of the application, so that none changes the
//! schema; values reach them as settings, set as parameters; what was told is recorded afterwards, and
//! that something is about to be told before: after a crash in between it is told again.
//!
//! Does not: take back what scripts did in a tenant's database that stays. They are written to bear being
//! run again.

use std::time::{Duration, Instant};

use sqlx::PgConnection;

use super::{Provisioner, StepContext, StepError, UndoContext, seed, teller::Teller};
use crate::{
    causes::chain,
    db::Db,
    members::{self, Unsynced},
    queue::{self, Claim, worker::Lease},
    shutdown::Tasks,
    tenants::{self, Tenant, TenantId, TenantState},
};

/// Members between two records: the most that are told again after a crash.
const PAGE: i64 = 100;

/// Failures that are named in an error; the rest is counted.
const NAMED: usize = 3;

/// Where a test can make the telling fail: after the scripts, before the record.
pub(super) const TOLD: &str = "sync_members.told";

/// How a job that ran to its end ended.
#[derive(Debug)]
pub enum Synced {
    /// Everybody is synced, or the tenant is not ready; the job was completed in the transaction that saw it.
    Completed,
    /// The tenant's blueprint tells nobody.
    NothingToDo,
    /// A shutdown came between two pages.
    Draining,
}

/// A member whose script failed.
pub(super) struct Failed {
    pub(super) user_id: String,
    /// Of what was to be told: another one may be told with success.
    pub(super) digest: String,
    pub(super) cause: String,
}

pub(super) async fn run(cx: &StepContext<'_>) -> Result<(), StepError> {
    let Some(hash) = cx.blueprint.sync_hash() else {
        return Ok(());
    };
    let failed = tell_all(cx, &hash, || false).await?;
    if !failed.is_empty() {
        // they do not keep the tenant from its other people: activation rouses the job, which has
        // attempts, backoff and a dead letter of its own
        let (tenant, error) = (cx.id().await, not_synced(&failed));
        tracing::warn!(
            tenant.id = %tenant,
            error.code = error.code(),
            error = chain(&error),
            "members are not synced yet; the tenant becomes ready without them"
        );
    }
    Ok(())
}

/// What the database was told goes with it; that it was told is forgotten.
pub(super) async fn undo(cx: &UndoContext<'_>) -> Result<(), StepError> {
    let forget = async |tx: &mut PgConnection| {
        queue::assert_held(tx, cx.claim).await?;
        Ok::<_, StepError>(members::forget_syncs(tx, cx.tenant.key()).await?)
    };
    cx.provisioner.db.transaction(forget).await
}

/// Tells a ready tenant's database of its members, and completes the job when there is nobody left.
pub async fn sync_members(
    provisioner: &Provisioner,
    (claim, lease): (&Claim, &Lease),
    tasks: &Tasks,
    id: TenantId,
) -> Result<Synced, StepError> {
    let Some(tenant) = find_ready(&provisioner.db, claim, id).await? else {
        return Ok(Synced::Completed);
    };
    let cx = StepContext::new(provisioner, (claim, lease), tenant)?;
    let Some(hash) = cx.blueprint.sync_hash() else {
        return Ok(Synced::NothingToDo);
    };
    let mut prepared = false;
    let mut failed = Vec::new();
    while !settle(&cx, &hash, &failed).await? {
        if !prepared {
            cx.refuse_foreign_database().await?;
            let is_held = || cx.lease.is_held();
            let cluster = cx.cluster().await?;
            cluster.end_stale_sessions(&cx.tag, is_held).await?;
            prepared = true;
        }
        failed = tell_all(&cx, &hash, || tasks.is_draining()).await?;
        if tasks.is_draining() {
            return Ok(Synced::Draining);
        }
    }
    Ok(Synced::Completed)
}

/// The tenant, if it is ready: one that is not yet is told by its plan, a suspended one when it is resumed.
///
/// If it is not, the job is completed in the transaction that saw it: whoever makes the tenant ready and
/// rouses the job after that rouses it after its end.
async fn find_ready(db: &Db, claim: &Claim, id: TenantId) -> Result<Option<Tenant>, StepError> {
    let is_ready = |tenant: &Tenant| tenant.state == TenantState::Ready;
    let find = async |tx: &mut PgConnection| {
        queue::assert_held(tx, claim).await?;
        let tenant = tenants::find(tx, id).await?.filter(is_ready);
        if tenant.is_none() {
            queue::complete(tx, claim).await?;
        }
        Ok::<_, StepError>(tenant)
    };
    db.transaction(find).await
}

/// Completes the job if everybody is synced; fails if only those are left who failed just now.
///
/// The job's row is locked first: whoever rouses the job after that rouses it after its end.
async fn settle(cx: &StepContext<'_>, hash: &str, failed: &[Failed]) -> Result<bool, StepError> {
    let id = cx.id().await;
    let limit = i64::try_from(failed.len()).unwrap_or(i64::MAX - 1) + 1;
    let look = async |tx: &mut PgConnection| {
        queue::assert_held(tx, cx.claim).await?;
        // as it is now: it may have been linked with the provider's organization meanwhile
        if let Some(now) = tenants::find(tx, id).await? {
            *cx.tenant.lock().await = now;
        }
        let tenant = cx.tenant().await;
        let left = members::unsynced(tx, tenant.key(), cx.terms(hash), "", limit).await?;
        if left.is_empty() {
            queue::complete(tx, cx.claim).await?;
        }
        Ok::<_, StepError>(left)
    };
    let left = cx.provisioner.db.transaction(look).await?;
    let has_failed = |member: &Unsynced| {
        failed
            .iter()
            .any(|failed| failed.user_id == member.user_id && failed.digest == member.digest)
    };
    match left.as_slice() {
        [] => Ok(true),
        left if left.iter().all(has_failed) => Err(not_synced(failed)),
        _ => Ok(false),
    }
}

fn not_synced(failed: &[Failed]) -> StepError {
    let name = |failed: &Failed| format!("{}: {}", failed.user_id, failed.cause);
    let mut named: Vec<String> = failed.iter().take(NAMED).map(name).collect();
    if failed.len() > NAMED {
        named.push(format!("and {} more", failed.len() - NAMED));
    }
    StepError::MembersNotSynced {
        failed: named.join("; "),
    }
}

/// Goes once through everybody who is unsynced; returns who could not be told of.
async fn tell_all(
    cx: &StepContext<'_>,
    hash: &str,
    is_to_stop: impl Fn() -> bool,
) -> Result<Vec<Failed>, StepError> {
    let tenant = cx.tenant().await;
    let (mut failed, mut after) = (Vec::new(), String::new());
    while !is_to_stop() {
        let look = async |connection: &mut PgConnection| {
            members::unsynced(connection, tenant.key(), cx.terms(hash), &after, PAGE).await
        };
        let page = cx.provisioner.db.run(look).await?;
        if page.is_empty() {
            break;
        }
        let (told, mut not_told) = tell_page(cx, &tenant, &page).await?;
        // a page whose time was over goes on where it ended
        if let Some(last) = page.get(..told + not_told.len()).and_then(<[_]>::last) {
            after.clone_from(&last.user_id);
        }
        failed.append(&mut not_told);
    }
    Ok(failed)
}

/// Tells of a page, as far as its time allows and of one member at least: how many were told of, and who could not be.
async fn tell_page(
    cx: &StepContext<'_>,
    tenant: &Tenant,
    page: &[Unsynced],
) -> Result<(usize, Vec<Failed>), StepError> {
    let Some(scripts) = &cx.blueprint.sync else {
        return Ok((page.len(), Vec::new()));
    };
    cx.check_lease()?;
    let db = &cx.provisioner.db;
    db.transaction(async |tx| {
        queue::assert_held(tx, cx.claim).await?;
        Ok::<_, StepError>(members::mark_unknown(tx, tenant.key(), page).await?)
    })
    .await?;
    let organization_name = seed::organization_name(cx, tenant).await?;
    let teller = Teller {
        cx,
        tenant,
        organization_name,
        app: cx.cluster().await?.app.to_string(),
        scripts,
    };
    let settings = &cx.blueprint.settings;
    let time = Duration::from_millis(settings.members.sync_timeout_ms.into());
    let until = Instant::now() + time;
    let telling = cx.in_tenant(async |connection| teller.tell_page(connection, page, until).await);
    // the last member's statements have limits of their own; this is for a server that does not answer
    let limit = time + 4 * Duration::from_millis(settings.statement_timeout_ms.into());
    let Ok(told) = tokio::time::timeout(limit, telling).await else {
        cx.end_sessions().await;
        let step = "sync_members";
        return Err(StepError::TimedOut { step, limit });
    };
    let (told, failed) = told?;
    cx.provisioner.faults.hit(TOLD).await?;
    db.transaction(async |tx| {
        queue::assert_held(tx, cx.claim).await?;
        members::mark_synced(tx, tenant.key(), &told).await?;
        let failures = failed.iter().map(|it| (&*it.user_id, &*it.cause)).unzip();
        Ok::<_, StepError>(members::note_failures(tx, tenant.key(), failures).await?)
    })
    .await?;
    Ok((told.len(), failed))
}
