//! The plan in reverse: what was made of a tenant that was abandoned before it was ready.
//!
//! ```text
//!  activate ─▶ verify ─▶ sync_members ─▶ seed ─▶ create_role ─▶ create_database ─▶ place ─▶ the row
//! ```
//!
//! Guarantees: every step looks at what is there, whatever is on record, and drops only what carries the
//! mark of this very tenant; each may be undone again; its record goes with it; the row goes last, in the
//! transaction that completes the job: no row, no database, no role. Nothing is undone of a tenant that
//! ever was ready, and nothing by an attempt that lost its claim.
//!
//! Does not: need the blueprint, which may be why the tenant failed; undo templates, which are everybody's.

use std::time::Duration;

use sqlx::PgConnection;

use super::{
    Failed, PLAN, Provisioner, Step, StepError, create_database, end_sessions, in_time, steps,
};
use crate::{
    queue::{self, Claim, worker::Lease},
    shutdown::Tasks,
    tenant_db::{self, Cluster, Ident, Tag},
    tenants::{self, Tenant, TenantId},
};

/// Before the tenant's row is taken back.
pub const FAULT_UNDO_ROW: &str = "undo.row.before";

/// Before that is committed.
pub const FAULT_UNDO_COMMITTING: &str = "undo.row.committing";

/// Where a test can make the undoing fail, beside `undo.<step>.` and each of the [`super::FAULT_POINTS`].
pub const UNDO_FAULT_POINTS: [&str; 3] = [
    create_database::DROPPED,
    FAULT_UNDO_ROW,
    FAULT_UNDO_COMMITTING,
];

/// How an attempt to undo ended.
#[derive(Debug)]
pub enum Undone {
    /// Nothing is left of any step; whoever asked deletes the row.
    Steps,
    /// There is no such tenant, or nobody abandoned it.
    NothingToDo,
    /// A shutdown came between two steps.
    Draining,
}

/// What the steps of one attempt share.
pub(super) struct UndoContext<'a> {
    pub(super) provisioner: &'a Provisioner,
    pub(super) claim: &'a Claim,
    pub(super) tenant: Tenant,
    lease: &'a Lease,
    pub(super) tag: Tag,
}

/// Takes back what was made of an abandoned tenant; its row is the caller's.
pub async fn undo(
    provisioner: &Provisioner,
    claim: &Claim,
    lease: &Lease,
    tasks: &Tasks,
    id: TenantId,
) -> Result<Undone, Failed> {
    let last = |error: StepError| Failed {
        step: Step::Activate,
        error,
    };
    let Some(tenant) = find_abandoned(provisioner, claim, id).await.map_err(last)? else {
        return Ok(Undone::NothingToDo);
    };
    let cx = UndoContext {
        provisioner,
        claim,
        lease,
        tag: Tag::new(id.0, claim.id.0, claim.attempt),
        tenant,
    };
    cx.end_stale_sessions().await.map_err(last)?;
    for step in PLAN.into_iter().rev() {
        if tasks.is_draining() {
            return Ok(Undone::Draining);
        }
        undo_step(&cx, step)
            .await
            .map_err(|error| Failed { step, error })?;
    }
    Ok(Undone::Steps)
}

/// The tenant, if it is to be undone.
async fn find_abandoned(
    provisioner: &Provisioner,
    claim: &Claim,
    id: TenantId,
) -> Result<Option<Tenant>, StepError> {
    let find = async |tx: &mut PgConnection| {
        queue::assert_held(tx, claim).await?;
        Ok::<_, StepError>(tenants::find(tx, id).await?.filter(Tenant::is_abandoned))
    };
    provisioner.db.transaction(find).await
}

async fn undo_step(cx: &UndoContext<'_>, step: Step) -> Result<(), StepError> {
    cx.check_lease()?;
    cx.fault(step, super::FAULT_BEFORE).await?;
    let undone = in_time(step, cx.limit(step), step.undo(cx)).await;
    if let (Err(StepError::TimedOut { .. }), Some(cluster)) = (&undone, cx.cluster()?) {
        end_sessions(cluster, &cx.tag).await;
    }
    undone?;
    cx.fault(step, super::FAULT_AFTER_EFFECT).await?;
    let forget = async |connection: &mut PgConnection| {
        steps::forget(connection, cx.claim, cx.tenant.id, step).await
    };
    cx.provisioner.db.run(forget).await?;
    cx.fault(step, super::FAULT_RECORDED).await
}

impl UndoContext<'_> {
    /// Its cluster; `None` for one that was never placed, or has no place any more.
    pub(super) fn cluster(&self) -> Result<Option<&Cluster>, StepError> {
        let name = self.tenant.cluster.as_deref();
        let clusters = &self.provisioner.clusters;
        Ok(name.map(|name| clusters.get(name)).transpose()?)
    }

    /// Runs `work` on the cluster's maintenance database as this attempt, if its claim is held still.
    pub(super) async fn run_on<T>(
        &self,
        cluster: &Cluster,
        work: impl AsyncFnOnce(&mut PgConnection) -> Result<T, tenant_db::Error>,
    ) -> Result<T, StepError> {
        let is_held = || self.lease.is_held();
        Ok(cluster.run_as(&self.tag, is_held, work).await?)
    }

    /// The names of its database and of its role.
    pub(super) fn names(&self) -> Result<(Ident, Ident), StepError> {
        let ident = |text: &str| Ident::new(text).map_err(tenant_db::Error::from);
        Ok((ident(&self.tenant.database)?, ident(&self.tenant.username)?))
    }

    /// Says that something of the tenant's name was left, because it is somebody else's.
    pub(super) fn left_alone(&self, what: &'static str, name: &Ident, found: &str) {
        tracing::warn!(
            tenant.id = %self.tenant.id,
            name = name.as_str(),
            found,
            "a {what} of an abandoned tenant's name is not the tenant's; it was left alone"
        );
    }

    async fn end_stale_sessions(&self) -> Result<(), StepError> {
        if let Some(cluster) = self.cluster()? {
            let is_held = || self.lease.is_held();
            cluster.end_stale_sessions(&self.tag, is_held).await?;
        }
        Ok(())
    }

    fn check_lease(&self) -> Result<(), StepError> {
        if self.lease.is_held() {
            Ok(())
        } else {
            Err(StepError::LostClaim)
        }
    }

    async fn fault(&self, step: Step, point: &str) -> Result<(), StepError> {
        let faults = &self.provisioner.faults;
        Ok(faults.hit(&format!("undo.{}.{point}", step.name())).await?)
    }

    fn limit(&self, step: Step) -> Duration {
        let timeouts = &self.provisioner.timeouts;
        match step {
            // twice, where a clone was left beside it
            Step::CreateDatabase => 2 * timeouts.clone_timeout(),
            Step::Place
            | Step::CreateRole
            | Step::Seed
            | Step::SyncMembers
            | Step::Verify
            | Step::Activate => timeouts.step_timeout(),
        }
    }
}
