//! A registration is given up before it is ready.
//!
//! Guarantees: what was made for it is undone by a job, until nothing is left; what others made is not;
//! jobs are locked before the tenant, and the tenant before the registration, as whoever makes it does.

use sqlx::PgConnection;
use uuid::Uuid;

use super::{Refusal, abandon_tenant};
use crate::{
    audit::{self, Actor},
    identity,
    queue::{self, NewJob},
    registrations::{self, State},
};

/// Gives a registration up before it is ready: what was made for it is undone by a job, until nothing is left.
///
/// One that is being given up, or was, stays so.
pub async fn abandon_registration(
    tx: &mut PgConnection,
    id: Uuid,
    max_attempts: i32,
    actor: &Actor,
) -> Result<(), Refusal> {
    audit::by(tx, actor).await?;
    // jobs first, then the tenant, then the registration: as whoever makes it locks them
    queue::call_off(tx, &queue::register_key(id)).await?;
    let seen = registrations::find_stored(tx, id).await?;
    if let Some(tenant) = seen.and_then(|seen| seen.tenant_id.filter(|_| seen.is_tenant_ours)) {
        queue::call_off(tx, &queue::provision_key(tenant.0)).await?;
    }
    let Some((registration, tenant)) = registrations::lock_with_tenant(tx, id).await? else {
        return Ok(());
    };
    match registration.state {
        State::Abandoned => return Ok(()),
        State::Abandoning => {
            if let Some(tenant) = tenant {
                let key = queue::organization_key(tenant.key());
                let undo = NewJob::undo_tenant(tenant.id.0, key, max_attempts);
                queue::revive(tx, &undo).await?;
            }
            return Ok(());
        }
        State::Ready => return Err(Refusal::RegistrationReady(id)),
        State::Accepted | State::Provisioning | State::Failed => {}
    }
    let is_linked = registration.org_id.is_some() && !registration.is_organization_ours();
    if registration.is_tenant_ours
        && is_linked
        && !identity::is_deleted(tx, registration.organization()).await?
    {
        return Err(Refusal::OrganizationLives(id));
    }
    match tenant {
        Some(tenant) if registration.is_tenant_ours => {
            abandon_tenant(tx, &tenant, max_attempts, actor).await?;
            registrations::mark_abandoning(tx, id).await?;
        }
        // the tenant is the organization's own, and stays
        _ => {
            registrations::mark_abandoning(tx, id).await?;
            registrations::mark_abandoned(tx, id).await?;
        }
    }
    Ok(())
}
