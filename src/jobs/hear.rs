//! What follows from what a provider said, whether by an event or by its API.
//!
//! Guarantees: an organization that is described and not deleted has a tenant, or the job that makes
//! it, and one that was registered here has the tenant of its registration; a deleted one's tenant is
//! suspended; whoever waited for an object is settled in the transaction that describes it; tenants whose
//! members changed are told, and so is whoever listens.

use std::collections::{BTreeMap, BTreeSet};

use chrono::{DateTime, Utc};
use sqlx::PgConnection;

use super::{JobContext, JobError, rouse_sync};
use crate::{
    audit,
    causes::chain,
    identity::{self, Changes, Heard, LiveOrganization, Parent, Parents},
    inbox::{self, Settled, State},
    members, notifications,
    queue::{self, Failure, Job, NewJob},
    registrations::{self, Stored as Registration},
    tenants::{self, NewTenant},
    webhooks::IdentityEvent,
};

/// What became of what was heard.
pub(super) struct Heeded {
    /// How the events are to be settled.
    pub(super) settled: Vec<Settled>,
    /// Whether there is something for the workers to do.
    pub(super) has_follow_up: bool,
}

/// Records it, and does what follows. The caller holds [`identity::lock`].
pub(super) async fn hear(
    cx: &JobContext,
    tx: &mut PgConnection,
    heard: &[Heard],
) -> Result<Heeded, JobError> {
    audit::by_event(tx, heard.first().and_then(|heard| heard.event)).await?;
    let changes = identity::record(tx, heard).await?;
    let mut has_follow_up = follow_organizations(cx, tx, heard, &changes).await?;
    settle_children(tx, &changes).await?;
    let parents = identity::find_parents(tx, heard).await?;
    let missing = parents.iter().flat_map(|parents| &parents.missing);
    ask_for_parents(cx, tx, missing).await?;
    let affected = identity::affected_tenants(tx, &changes).await?;
    let keys = affected
        .iter()
        .map(|tenant| (&*tenant.source, &*tenant.org_id));
    // which of a batch's events ended an assignment is not asked
    let only = heard.first().filter(|_| heard.len() == 1);
    audit::by_event(tx, only.and_then(|heard| heard.event)).await?;
    members::end_assignments(tx, keys.unzip()).await?;
    for tenant in affected {
        let key = (tenant.source.as_str(), tenant.org_id.as_str());
        let job = NewJob::sync_members(tenant.id, key, cx.max_attempts);
        queue::rouse(tx, &job).await?;
        has_follow_up = true;
    }
    // last: it locks what the commits of others wait for
    if notifications::are_members_told(tx).await? {
        let members = identity::affected_members(tx, &changes).await?;
        let admin_role = &cx.provisioner.admin_role;
        has_follow_up |= notifications::announce_members(tx, &members, admin_role).await? > 0;
    }
    let settled = heard.iter().zip(&parents).zip(&changes.is_news);
    let settled = settled.filter_map(|((heard, parents), is_news)| {
        Some(settle(heard.event?, heard, parents, *is_news))
    });
    Ok(Heeded {
        settled: settled.collect(),
        has_follow_up,
    })
}

fn settle(event: i64, heard: &Heard, parents: &Parents, is_news: bool) -> Settled {
    let missing = &parents.missing;
    let note = if heard.said.is_empty() {
        Some("no meaning for tenantry")
    } else if !missing.is_empty() {
        Some("recorded; it names an object that nobody has described yet")
    } else if parents.is_deleted {
        Some("its organization or user was deleted; a later event does not bring it back")
    } else if !is_news {
        Some("a newer description was there already")
    } else {
        None
    };
    Settled {
        event,
        state: if missing.is_empty() {
            State::Processed
        } else {
            State::Waiting
        },
        note,
        waiting_for: missing.iter().map(Parent::text).collect(),
    }
}

/// Tenants begin, follow their organization's name, and end with it.
async fn follow_organizations(
    cx: &JobContext,
    tx: &mut PgConnection,
    heard: &[Heard],
    changes: &Changes,
) -> Result<bool, JobError> {
    let mut has_follow_up = false;
    let live = identity::live_organizations(tx, changes).await?;
    let (linked, given_up) = link_registrations(tx, &live).await?;
    for organization in &linked {
        // whoever was said to be a member before that is one of this tenant from now on
        rouse_sync(tx, *organization, cx.max_attempts).await?;
        has_follow_up = true;
    }
    for organization in &live {
        let key = organization.key();
        if !organization.has_tenant && !linked.contains(&key) && !given_up.contains(&key) {
            let first = first_of(heard, &organization.source, &organization.org_id);
            audit::by_event(tx, first.and_then(|heard| heard.event)).await?;
            let now = std::time::SystemTime::now().into();
            let requested_at = first.map_or(now, |heard| heard.received_at);
            make_tenant(cx, tx, organization, requested_at).await?;
            has_follow_up = true;
        }
    }
    for (source, org_id) in changes.organizations() {
        let is_live = |live: &LiveOrganization| live.source == source && live.org_id == org_id;
        // a batch speaks of many: each tenant's change is that of its own event
        let first = first_of(heard, source, org_id);
        audit::by_event(tx, first.and_then(|heard| heard.event)).await?;
        if !live.iter().any(is_live) {
            tenants::mark_suspended(tx, source, org_id).await?;
        }
        tenants::follow_name(tx, source, org_id).await?;
    }
    Ok(has_follow_up)
}

/// The first event that speaks of the organization.
fn first_of<'a>(heard: &'a [Heard], source: &str, org_id: &str) -> Option<&'a Heard> {
    let speaks = |event: &IdentityEvent| matches!(event, IdentityEvent::Organization(said) if said.id == org_id);
    heard
        .iter()
        .find(|heard| heard.source == source && heard.said.iter().any(speaks))
}

/// Organizations that somebody registered here have their tenant already: it is theirs from now on.
///
/// Returns the source and id of those, and of those whose registration was given up: nobody wants their tenants.
async fn link_registrations<'a>(
    tx: &mut PgConnection,
    live: &'a [LiveOrganization],
) -> Result<(Keys<'a>, Keys<'a>), JobError> {
    let mut by_external_id = BTreeMap::new();
    for organization in live.iter().filter(|organization| !organization.has_tenant) {
        if let Some(external_id) = &organization.external_id {
            let key = (organization.source.as_str(), external_id.as_str());
            // of two organizations with one external id the first is the registered one
            by_external_id.entry(key).or_insert(organization);
        }
    }
    let (mut linked, mut given_up) = (Keys::new(), Keys::new());
    // in one order, and all of them before any host: as registrations take them
    for (source, external_id) in by_external_id.keys() {
        registrations::lock_external_id(tx, source, external_id).await?;
    }
    for ((source, external_id), organization) in by_external_id {
        let waiting = registrations::find_waiting_for(tx, source, external_id).await?;
        if let Some(registration) = waiting
            && link(tx, &registration, &organization.org_id).await?
        {
            linked.insert(organization.key());
        } else if registrations::is_given_up(tx, external_id).await? {
            given_up.insert(organization.key());
        }
    }
    Ok((linked, given_up))
}

/// Organizations by source and id.
type Keys<'a> = BTreeSet<(&'a str, &'a str)>;

/// The registration's tenant is from now on that of the provider's organization; false where it cannot be.
pub(super) async fn link(
    tx: &mut PgConnection,
    registration: &Registration,
    org_id: &str,
) -> Result<bool, JobError> {
    let locked = registrations::lock_with_tenant(tx, registration.id).await?;
    let Some((registration, Some(tenant))) = locked.filter(|(locked, _)| locked.is_waiting())
    else {
        // given up in this moment
        return Ok(false);
    };
    if !tenants::link(tx, tenant.id, (&registration.source, org_id)).await? {
        return Ok(false);
    }
    registrations::mark_linked(tx, registration.id, org_id, (tenant.id, true)).await?;
    let own = identity::own_organization(registration.id);
    identity::discard_own_organization(tx, (&registration.source, &own)).await?;
    Ok(true)
}

/// The organization got a tenant before it was known to be the registered one: that is the registration's tenant.
///
/// Nothing was made yet of the one that the registration came with; it goes.
pub(super) async fn join_known(
    tx: &mut PgConnection,
    registration: &Registration,
    org_id: &str,
) -> Result<(), JobError> {
    // it may become ready in this instant, and tells only the registrations that it sees
    let known = tenants::hold_of_organization(tx, &registration.source, org_id).await?;
    let Some(known) = known else {
        let error = format!("organization {org_id} has no tenant");
        return Err(JobError::Retry(Failure::new("tenant_not_recorded", error)));
    };
    registrations::mark_linked(tx, registration.id, org_id, (known.id, false)).await?;
    if let Some(own) = registration.tenant_id {
        tenants::discard_pending(tx, own).await?;
        let org_id = identity::own_organization(registration.id);
        identity::discard_own_organization(tx, (&registration.source, &org_id)).await?;
    }
    Ok(())
}

async fn make_tenant(
    cx: &JobContext,
    tx: &mut PgConnection,
    organization: &LiveOrganization,
    requested_at: DateTime<Utc>,
) -> Result<(), JobError> {
    let new = NewTenant {
        source: &organization.source,
        org_id: &organization.org_id,
        name: &organization.name,
        slug: None,
        requested_at,
    };
    let (names, keyring) = (&cx.provisioner.names, &cx.provisioner.keyring);
    let inserted = tenants::insert(tx, &new, names, keyring).await;
    let inserted = inserted.map_err(|error| match error {
        tenants::Error::Sql(error) => JobError::from(error),
        error => JobError::Retry(Failure::new("tenant_not_recorded", chain(&error))),
    })?;
    if let Some(tenant) = inserted {
        let key = (organization.source.as_str(), organization.org_id.as_str());
        queue::enqueue(
            tx,
            &NewJob::provision_tenant(tenant.0, key, cx.max_attempts),
        )
        .await?;
    }
    Ok(())
}

/// Events that waited for what is there now are complete.
async fn settle_children(tx: &mut PgConnection, changes: &Changes) -> Result<(), JobError> {
    let parents = changes.parents();
    if parents.is_empty() {
        return Ok(());
    }
    let sources: Vec<&str> = parents.iter().map(|parent| &*parent.source).collect();
    let texts: Vec<String> = parents.iter().map(Parent::text).collect();
    let settled = inbox::settle_waiting(tx, &sources, &texts).await?;
    if settled > 0 {
        let keys: Vec<String> = parents.iter().map(fetch_key).collect();
        queue::withdraw_all(tx, &keys).await?;
    }
    Ok(())
}

/// In time the provider is asked about what nobody has described.
async fn ask_for_parents(
    cx: &JobContext,
    tx: &mut PgConnection,
    missing: impl Iterator<Item = &Parent>,
) -> Result<(), JobError> {
    for parent in missing.collect::<BTreeSet<_>>() {
        let job = NewJob {
            job: Job::FetchParent {
                source: parent.source.clone(),
                parent: parent.text(),
            },
            concurrency_key: None,
            unique_key: Some(fetch_key(parent)),
            max_attempts: cx.max_attempts,
            delay: cx.parent_wait,
        };
        queue::enqueue(tx, &job).await?;
    }
    Ok(())
}

fn fetch_key(parent: &Parent) -> String {
    format!("fetch:{}:{}", parent.source, parent.text())
}
