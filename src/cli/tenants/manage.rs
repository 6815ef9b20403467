//! `tenantry tenants retry|suspend|resume`.

use super::{Access, Failure, Globals, Tenant};
use crate::jobs;

pub(super) async fn retry(
    globals: &Globals,
    access: &Access,
    tenant: &Tenant,
) -> Result<(), Failure> {
    let (actor, max_attempts) = (globals.operator(), access.config.queue.max_attempts);
    let retry = async |tx: &mut _| jobs::retry_tenant(tx, tenant, max_attempts, &actor).await;
    access.db.transaction(retry).await?;
    let told = format!(
        "tried again; follow it with: tenantry tenants watch {}",
        tenant.id
    );
    done(globals, tenant, &told);
    Ok(())
}

pub(super) async fn suspend(
    globals: &Globals,
    access: &Access,
    tenant: &Tenant,
) -> Result<(), Failure> {
    let actor = globals.operator();
    let suspend = async |tx: &mut _| jobs::suspend_tenant(tx, tenant, &actor).await;
    access.db.transaction(suspend).await?;
    done(
        globals,
        tenant,
        "suspended: nothing is routed to it, its database stays",
    );
    Ok(())
}

pub(super) async fn resume(
    globals: &Globals,
    access: &Access,
    tenant: &Tenant,
) -> Result<(), Failure> {
    let (actor, max_attempts) = (globals.operator(), access.config.queue.max_attempts);
    let resume = async |tx: &mut _| jobs::resume_tenant(tx, tenant, max_attempts, &actor).await;
    access.db.transaction(resume).await?;
    done(
        globals,
        tenant,
        "resumed: it is routed, and told what became of its members",
    );
    Ok(())
}

fn done(globals: &Globals, tenant: &Tenant, told: &str) {
    globals.printer.data(tenant.id.to_string());
    globals.printer.talk(told);
}
