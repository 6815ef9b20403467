//! What an end user may do where: the tenant, the membership, the permissions, as the control database has them.
//!
//! Guarantees: nobody stands higher than the control database says at most a moment ago: what is
//! remembered is forgotten when it changes, on every replica, and after a short time in any case. What a
//! token says of roles is not believed; of permissions only where the provider has not described the role.

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use sqlx::PgConnection;

use super::{EndUser, changes::Changes, recall::Recall};
use crate::{
    db::{self, Db},
    members::{self, Member, Organization, Permissions, Status},
    shutdown::Tasks,
    tenants::{self, Tenant, TenantState},
};

const CHANNEL: &str = "tenantry_changed";

const RECONNECT_DELAY: Duration = Duration::from_secs(1);

/// Why the standing cannot be told.
#[derive(Debug, thiserror::Error)]
#[error("the control database does not answer")]
pub struct Unavailable(#[source] Arc<sqlx::Error>);

/// A source and an organization of it.
pub type OrganizationKey = (String, String);

/// A member with what their role lets them do.
#[derive(Debug, Clone)]
pub struct Standing {
    /// The member.
    pub member: Member,
    /// What the role lets them do.
    pub granted: Permissions,
}

impl Standing {
    /// Everything that the user may do.
    pub fn permissions(&self, user: &EndUser) -> BTreeSet<String> {
        let mut all: BTreeSet<_> = self.granted.permissions.iter().cloned().collect();
        // a token of before a change of role must not carry the old role's permissions over
        let is_of_this_role = || plain_role(user.role.as_deref()) == self.member.role.as_deref();
        if !self.granted.is_described && is_of_this_role() {
            all.extend(user.permissions.iter().cloned());
        }
        all
    }
}

/// A role as the control database writes it: Clerk's tokens have `org:` in front.
fn plain_role(role: Option<&str>) -> Option<&str> {
    role.map(|role| role.strip_prefix("org:").unwrap_or(role))
}

/// Why a user is not let in to an organization's tenant.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refusal {
    /// The user is no member of the organization.
    NotAMember,
    /// The user was a member.
    Removed,
    /// The user is invited and has not accepted.
    Invited,
    /// The organization has no tenant yet, or it is being made.
    NotReady(TenantState),
    /// The tenant was suspended or archived.
    Closed(TenantState),
    /// The tenant is gone, or the organization is.
    Gone,
}

/// Who is let in: the tenant, if the user may use it now.
pub fn admit<'t>(
    tenant: Option<&'t Tenant>,
    standing: Option<&Standing>,
) -> Result<&'t Tenant, Refusal> {
    let state = tenant.map_or(TenantState::Pending, |tenant| tenant.state);
    match standing.map(|standing| standing.member.status) {
        Some(Status::Active) => {}
        Some(Status::Removed) => return Err(Refusal::Removed),
        Some(Status::Invited) => return Err(Refusal::Invited),
        // the events of a new organization may still be on their way: then it is "not yet", not "no"
        None => match state {
            TenantState::Pending | TenantState::Provisioning | TenantState::Failed => {
                return Err(Refusal::NotReady(state));
            }
            _ => return Err(Refusal::NotAMember),
        },
    }
    match (state, tenant) {
        (TenantState::Ready, Some(tenant)) => Ok(tenant),
        (TenantState::Suspended | TenantState::Archived, _) => Err(Refusal::Closed(state)),
        (TenantState::Deleted, _) => Err(Refusal::Gone),
        _ => Err(Refusal::NotReady(state)),
    }
}

/// Looks up tenants and people, and remembers them for a short time.
#[derive(Debug, Clone)]
pub struct Registry {
    db: Db,
    admin_role: Arc<str>,
    changes: Arc<Changes>,
    tenants: Recall<OrganizationKey, Option<Tenant>>,
    standings: Recall<(String, String, String), Option<Standing>>,
    hosts: Recall<String, Option<OrganizationKey>>,
}

impl Registry {
    /// Remembers answers for at most `keep`.
    pub fn new(db: &Db, admin_role: &str, keep: Duration) -> Self {
        let changes = Arc::new(Changes::default());
        Self {
            db: db.clone(),
            admin_role: admin_role.into(),
            tenants: Recall::new(keep, &changes),
            standings: Recall::new(keep, &changes),
            hosts: Recall::new(keep, &changes),
            changes,
        }
    }

    /// The tenant of an organization.
    pub async fn tenant(
        &self,
        source: &str,
        org_id: &str,
    ) -> Result<Arc<Option<Tenant>>, Unavailable> {
        let key = (source.to_owned(), org_id.to_owned());
        let changed = format!("organization:{source}:{org_id}");
        let read = || {
            let (db, (source, org_id)) = (self.db.clone(), key.clone());
            async move {
                db.run(async |connection| {
                    tenants::find_of_organization(connection, &source, &org_id).await
                })
                .await
            }
        };
        self.tenants
            .get(&key, &[&changed], read)
            .await
            .map_err(Unavailable)
    }

    /// How a user stands in an organization; `None` for somebody who never was a member.
    pub async fn standing(
        &self,
        source: &str,
        org_id: &str,
        user_id: &str,
    ) -> Result<Arc<Option<Standing>>, Unavailable> {
        let key = (source.to_owned(), org_id.to_owned(), user_id.to_owned());
        let subjects = [
            format!("organization:{source}:{org_id}"),
            format!("user:{source}:{user_id}"),
            format!("source:{source}"),
        ];
        let read = || {
            let (db, key) = (self.db.clone(), key.clone());
            let admin_role = Arc::clone(&self.admin_role);
            async move {
                db.run(async |connection| read_standing(connection, &key, &admin_role).await)
                    .await
            }
        };
        self.standings
            .get(&key, &[&subjects[0], &subjects[1], &subjects[2]], read)
            .await
            .map_err(Unavailable)
    }

    /// The organization whose tenant has a host, given as [`tenants::normalize_host`] writes it.
    pub async fn organization_at(
        &self,
        host: &str,
    ) -> Result<Arc<Option<OrganizationKey>>, Unavailable> {
        let changed = format!("host:{host}");
        let read = || {
            let (db, host) = (self.db.clone(), host.to_owned());
            async move {
                db.run(async |connection| {
                    let found = tenants::find_by_host(connection, &host).await?;
                    Ok(found.map(|tenant| (tenant.source, tenant.org_id)))
                })
                .await
            }
        };
        self.hosts
            .get(&host.to_owned(), &[&changed], read)
            .await
            .map_err(Unavailable)
    }

    /// Forgets what changes, as the database tells it, until the tasks drain.
    ///
    /// `key_changed` is called with the id of an API key that changed, and with `None` when any may have.
    pub fn spawn_listener(
        &self,
        tasks: &Tasks,
        key_changed: impl Fn(Option<&str>) + Send + Sync + 'static,
    ) {
        let (this, draining) = (self.clone(), tasks.clone());
        tasks.spawn(async move {
            while !draining.is_draining() {
                tokio::select! {
                    _ = this.listen(&key_changed) => {}
                    () = draining.draining() => return,
                }
                this.forget_all(&key_changed);
                tokio::select! {
                    () = tokio::time::sleep(RECONNECT_DELAY) => {}
                    () = draining.draining() => return,
                }
            }
        });
    }

    async fn listen(&self, key_changed: &impl Fn(Option<&str>)) -> Result<(), db::Error> {
        let mut listener = self.db.listen(CHANNEL).await?;
        // what changed before the listening began was not heard
        self.forget_all(key_changed);
        while let Some(word) = listener.try_recv().await? {
            match word.payload().split_once(':') {
                Some(("key", id)) => key_changed(Some(id)),
                Some(_) => self.changes.note(word.payload()),
                None => self.forget_all(key_changed),
            }
        }
        Ok(())
    }

    fn forget_all(&self, key_changed: &impl Fn(Option<&str>)) {
        self.changes.note_all();
        key_changed(None);
    }
}

/// How things stand as a transaction sees them, for a change that must not rest on what is remembered.
pub async fn read_now(
    tx: &mut PgConnection,
    of: Organization<'_>,
    user_id: &str,
) -> sqlx::Result<(Option<Tenant>, Option<Standing>)> {
    let tenant = tenants::find_of_organization(tx, of.source, of.org_id).await?;
    let key = (
        of.source.to_owned(),
        of.org_id.to_owned(),
        user_id.to_owned(),
    );
    let standing = read_standing(tx, &key, of.admin_role).await?;
    Ok((tenant, standing))
}

async fn read_standing(
    connection: &mut PgConnection,
    (source, org_id, user_id): &(String, String, String),
    admin_role: &str,
) -> sqlx::Result<Option<Standing>> {
    let of = Organization {
        source,
        org_id,
        admin_role,
    };
    let member = match members::find(connection, of, user_id).await {
        Ok(member) => member,
        Err(members::Error::Sql(error)) => return Err(error),
        Err(_) => return Ok(None),
    };
    let granted = match &member.role {
        Some(role) => members::permissions(connection, of, role).await?,
        None => Permissions::default(),
    };
    Ok(Some(Standing { member, granted }))
}
