//! What an operator may do about a tenant.
//!
//! Guarantees: the change, its audit rows and the jobs that follow from it are the caller's one transaction;
//! a tenant whose organization was deleted is never routed again.

use std::collections::BTreeMap;

use sqlx::PgConnection;

use super::Refusal;
use crate::{
    audit::{self, Actor},
    provisioning::steps,
    queue::{self, NewJob},
    registrations::{self, Stored},
    tenants::{self, LabelInvalid, Labels, Tenant},
};

/// Puts a failed tenant back to work; the plan goes on at the step that failed.
pub async fn retry_tenant(
    tx: &mut PgConnection,
    tenant: &Tenant,
    max_attempts: i32,
    actor: &Actor,
) -> Result<(), Refusal> {
    audit::by(tx, actor).await?;
    let job = making(tx, tenant, max_attempts).await?;
    // before the tenant: whoever has both locks the job first
    let revived = queue::revive(tx, &job).await?;
    if !tenants::mark_pending(tx, tenant.id).await? {
        return Err(why_not(tx, tenant, "failed").await?);
    }
    // the dead job goes on, with its history, also one that died just now; a new one only where it was pruned
    if !revived && !queue::revive(tx, &job).await? {
        queue::enqueue(tx, &job).await?;
    }
    Ok(())
}

/// The job that goes on with the making of a tenant: one whose organization is not made at the provider yet
/// begins there.
async fn making(
    tx: &mut PgConnection,
    tenant: &Tenant,
    max_attempts: i32,
) -> Result<NewJob, Refusal> {
    let is_begun = steps::is_done(tx, tenant.id, steps::INVITE_USER).await?;
    let registration = registrations::find_of_tenant(tx, tenant.id).await?;
    let at_provider = registration.filter(|registration: &Stored| registration.at_provider);
    Ok(match at_provider {
        Some(registration) if !is_begun => {
            NewJob::register_organization(registration.id, tenant.key(), max_attempts)
        }
        _ => NewJob::provision_tenant(tenant.id.0, tenant.key(), max_attempts),
    })
}

/// Gives a tenant up before it is ready: what was made of it is taken back by a job, until nothing is left.
///
/// A running attempt to make it stops at its next step; the job that undoes it runs after that.
pub async fn abandon_tenant(
    tx: &mut PgConnection,
    tenant: &Tenant,
    max_attempts: i32,
    actor: &Actor,
) -> Result<(), Refusal> {
    audit::by(tx, actor).await?;
    let provisioning = queue::provision_key(tenant.id.0);
    // before the tenant: whoever has both locks the job first
    queue::call_off(tx, &provisioning).await?;
    if !tenants::mark_abandoned(tx, tenant.id).await? {
        return Err(why_not(tx, tenant, "pending, provisioning or failed").await?);
    }
    // the running attempt's own key: the organization may have had another id when it was enqueued
    let key = queue::find_concurrency_key(tx, &provisioning).await?;
    let key = key.unwrap_or_else(|| queue::organization_key(tenant.key()));
    let undo = NewJob::undo_tenant(tenant.id.0, key, max_attempts);
    queue::enqueue(tx, &undo).await?;
    Ok(())
}

/// Takes a ready tenant out of the routing. Its database stays as it is.
pub async fn suspend_tenant(
    tx: &mut PgConnection,
    tenant: &Tenant,
    actor: &Actor,
) -> Result<(), Refusal> {
    audit::by(tx, actor).await?;
    if tenants::mark_suspended_by_operator(tx, tenant.id).await? {
        Ok(())
    } else {
        Err(why_not(tx, tenant, "ready").await?)
    }
}

/// Routes a suspended tenant again, and tells its database what became of its members meanwhile.
pub async fn resume_tenant(
    tx: &mut PgConnection,
    tenant: &Tenant,
    max_attempts: i32,
    actor: &Actor,
) -> Result<(), Refusal> {
    audit::by(tx, actor).await?;
    if !tenants::mark_resumed(tx, tenant.id).await? {
        return Err(
            if tenants::is_of_deleted_organization(tx, tenant.id).await? {
                Refusal::OrganizationDeleted(tenant.id)
            } else {
                why_not(tx, tenant, "suspended after it was ready").await?
            },
        );
    }
    let job = NewJob::sync_members(tenant.id.0, tenant.key(), max_attempts);
    Ok(queue::rouse(tx, &job).await?)
}

/// What becomes of a tenant's labels.
#[derive(Debug, Clone)]
pub enum Relabel {
    /// It has these and no others.
    Replace(Labels),
    /// Those with a value are given, those without are taken; the others stay.
    Merge(BTreeMap<String, Option<String>>),
}

/// Gives a tenant labels, or takes them; answers with the tenant as it is then. What is so already changes nothing.
pub async fn label_tenant(
    tx: &mut PgConnection,
    tenant: &Tenant,
    relabel: &Relabel,
    actor: &Actor,
) -> Result<Tenant, Refusal> {
    audit::by(tx, actor).await?;
    // locked: of two who merge neither loses what the other gave
    let gone = || Refusal::TenantUnknown(tenant.id);
    let now = tenants::lock(tx, tenant.id).await?.ok_or_else(gone)?;
    let labels = match relabel {
        Relabel::Replace(labels) => labels.clone(),
        Relabel::Merge(changes) => merge(now.labels, changes)?,
    };
    tenants::check_all(&labels)?;
    tenants::set_labels(tx, tenant.id, &labels).await?;
    tenants::find(tx, tenant.id).await?.ok_or_else(gone)
}

fn merge(
    mut labels: Labels,
    changes: &BTreeMap<String, Option<String>>,
) -> Result<Labels, LabelInvalid> {
    for (key, value) in changes {
        if let Some(value) = value {
            labels.insert(key.clone(), value.clone());
        } else {
            tenants::check_key(key)?;
            labels.remove(key);
        }
    }
    Ok(labels)
}

/// The tenant is not in the state that it would have to be in.
pub(super) async fn why_not(
    tx: &mut PgConnection,
    tenant: &Tenant,
    wanted: &'static str,
) -> sqlx::Result<Refusal> {
    // as it is now, not as the caller read it
    let now = tenants::find(tx, tenant.id).await?;
    Ok(Refusal::TenantWrongState {
        tenant: tenant.id,
        state: now.map_or(tenant.state, |now| now.state),
        wanted,
    })
}
