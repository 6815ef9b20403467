//! What the steps of one attempt share.
//!
//! Guarantees: the tenant's password and the organization's name are the same for every step of an attempt; a
//! session in the tenant's database is reused only after its work succeeded; a database that is not this tenant's
//! is refused.

use std::{sync::atomic::AtomicBool, time::Duration};

use secrecy::SecretString;
use sqlx::Connection;
use tokio::sync::{Mutex, OnceCell};

use super::{Provisioner, Step, StepError, create_database, seed, steps};
use crate::{
    blueprint::Blueprint,
    members::{self, Terms},
    queue::{Claim, worker::Lease},
    tenant_db::{
        self, Cluster, Ident, Tag,
        databases::{Facts, Mark},
    },
    tenants::{self, Tenant, TenantId},
};

/// What the steps of one attempt share.
pub(super) struct StepContext<'a> {
    pub(super) provisioner: &'a Provisioner,
    pub(super) claim: &'a Claim,
    pub(super) lease: &'a Lease,
    pub(super) tag: Tag,
    pub(super) blueprint: Blueprint,
    pub(super) tenant: Mutex<Tenant>,
    /// Whether this attempt took the tenant's database from the pool.
    pub(super) from_pool: AtomicBool,
    /// What the plan's steps ask for, once an attempt: its password, and its organization's name in full.
    password: OnceCell<SecretString>,
    organization_name: OnceCell<String>,
    /// Our session in the tenant's database: opened once, used by several steps.
    pub(super) session: Mutex<Option<sqlx::PgConnection>>,
}

impl<'a> StepContext<'a> {
    pub(super) fn new(
        provisioner: &'a Provisioner,
        (claim, lease): (&'a Claim, &'a Lease),
        tenant: Tenant,
    ) -> Result<Self, StepError> {
        Ok(Self {
            provisioner,
            claim,
            lease,
            tag: Tag::new(tenant.id.0, claim.id.0, claim.attempt),
            blueprint: provisioner.blueprint.load()?,
            tenant: Mutex::new(tenant),
            from_pool: AtomicBool::new(false),
            password: OnceCell::new(),
            organization_name: OnceCell::new(),
            session: Mutex::new(None),
        })
    }
}

impl StepContext<'_> {
    pub(super) async fn id(&self) -> TenantId {
        self.tenant.lock().await.id
    }

    pub(super) async fn tenant(&self) -> Tenant {
        self.tenant.lock().await.clone()
    }

    /// The password that the tenant's row has had from the start.
    pub(super) async fn password(&self) -> Result<&SecretString, StepError> {
        let open = async || {
            let id = self.id().await;
            let find = async |connection: &mut _| tenants::find_credential(connection, id).await;
            let sealed = self.provisioner.db.run(find).await?.unwrap_or_default();
            Ok(self.provisioner.keyring.open(id.0, &sealed)?)
        };
        self.password.get_or_try_init(open).await
    }

    /// The same for every step of the attempt: what was seeded is verified.
    pub(super) async fn organization_name(&self) -> Result<&str, StepError> {
        let find = async || seed::organization_name(self, &self.tenant().await).await;
        Ok(self.organization_name.get_or_try_init(find).await?)
    }

    pub(super) async fn cluster(&self) -> Result<&Cluster, StepError> {
        let name = self
            .tenant
            .lock()
            .await
            .cluster
            .clone()
            .ok_or(StepError::NotPlaced)?;
        Ok(self.provisioner.clusters.get(&name)?)
    }

    /// The records of steps that still hold: all of them, or that of `place` alone where the database is gone,
    /// unusable or outdated (see `is_outdated`). Nobody has used what was never opened.
    pub(super) async fn still_done(&self, done: Vec<String>) -> Result<Vec<String>, StepError> {
        if !done.iter().any(|name| name == Step::CreateDatabase.name()) {
            return Ok(done);
        }
        let tenant = self.tenant().await;
        let cluster = self.cluster().await?;
        let found = cluster.find_database(&tenant.database).await?;
        let is_ours = |facts: &Facts| facts.usable && is_marked(facts, cluster, &tenant);
        let found = found.filter(is_ours);
        if let Some(mark) = found.and_then(|facts| facts.mark(&cluster.owner)) {
            if !self.is_outdated(&mark).await? {
                return Ok(done);
            }
            let name = Ident::new(&tenant.database).map_err(tenant_db::Error::from)?;
            create_database::drop_database(self, &name).await?;
        }
        // gone or unusable: made again; somebody else's: create_database refuses it
        tracing::warn!(tenant.id = %tenant.id, database = tenant.database, "the database of an unfinished tenant is made once more: it is gone, or of another blueprint");
        let forget = async |tx: &mut sqlx::PgConnection| {
            crate::queue::assert_held(tx, self.claim).await?;
            members::forget_syncs(tx, tenant.key()).await?;
            Ok::<_, StepError>(steps::forget_database(tx, tenant.id).await?)
        };
        self.provisioner.db.transaction(forget).await?;
        Ok(vec![Step::Place.name().to_owned()])
    }

    /// Whether the tenant's database is of another blueprint than the present one, or seeded with other files, and
    /// was never opened by its own notes: then nothing is lost when it is made anew.
    pub(super) async fn is_outdated(&self, mark: &Mark) -> Result<bool, StepError> {
        // not the session of later steps: it would end with the database
        let mut connection = self.connect().await?;
        let notes = seed::read_notes(&mut connection, &self.blueprint).await;
        let _ = connection.close().await;
        let notes = notes?;
        let is_of_other = mark.template != self.blueprint.hash();
        Ok(!notes.maybe_opened && (is_of_other || notes.is_of_other_files))
    }

    /// Fails when the tenant's database was exchanged for somebody else's: nothing may be written there.
    pub(super) async fn refuse_foreign_database(&self) -> Result<(), StepError> {
        let (tenant, cluster) = (self.tenant().await, self.cluster().await?);
        match cluster.find_database(&tenant.database).await? {
            Some(facts) if !is_marked(&facts, cluster, &tenant) => {
                Err(StepError::Cluster(tenant_db::Error::ForeignDatabase {
                    name: tenant.database,
                    found: facts.describe(),
                }))
            }
            // one that is gone says so when it is connected to
            _ => Ok(()),
        }
    }

    /// What, besides the member, decides what the database is told.
    pub(super) fn terms<'s>(&'s self, sync_hash: &'s str) -> Terms<'s> {
        Terms {
            admin_role: &self.provisioner.admin_role,
            sync_hash,
        }
    }

    /// Fails when this process was stopped for longer than its lease: then nothing may be begun.
    pub(super) fn check_lease(&self) -> Result<(), StepError> {
        if self.lease.is_held() {
            Ok(())
        } else {
            Err(StepError::LostClaim)
        }
    }

    /// After a step was cut off: ends whatever it has under way, before the failure is reported.
    pub(super) async fn end_sessions(&self) {
        self.session.lock().await.take();
        // one that is not placed has done nothing on any cluster
        if let Ok(cluster) = self.cluster().await {
            super::end_sessions(cluster, &self.tag).await;
        }
    }

    pub(super) async fn fault(&self, step: Step, point: &str) -> Result<(), StepError> {
        self.provisioner
            .faults
            .hit(&format!("{}.{point}", step.name()))
            .await?;
        Ok(())
    }

    pub(super) fn limit(&self, step: Step) -> Duration {
        match step {
            // the first tenant of a blueprint builds the template in this step, or waits for its builder
            Step::CreateDatabase => {
                Duration::from_millis(self.blueprint.settings.migrate_timeout_ms.into())
                    + self.provisioner.timeouts.clone_timeout()
            }
            Step::Place | Step::CreateRole | Step::Activate => {
                self.provisioner.timeouts.step_timeout()
            }
            // bounded page by page: an organization may have any number of members
            Step::SyncMembers => Duration::from_hours(24),
            Step::Seed => Duration::from_millis(self.blueprint.settings.seed_timeout_ms.into()),
            Step::Verify => Duration::from_millis(self.blueprint.settings.verify_timeout_ms.into()),
        }
    }

    pub(super) async fn connect(&self) -> Result<sqlx::PgConnection, StepError> {
        let database =
            Ident::new(&self.tenant.lock().await.database).map_err(tenant_db::Error::from)?;
        let cluster = self.cluster().await?;
        let timeouts = self.blueprint.settings.session_timeouts();
        let connected = cluster.connect_with(&database, Some(&self.tag), &timeouts);
        Ok(connected.await?)
    }

    /// Opens the session that later steps use, while something else goes on. Where that fails, the step that needs
    /// the session opens it and reports why it cannot.
    pub(super) async fn open_early(&self) {
        let mut session = self.session.lock().await;
        if session.is_none() {
            *session = self.connect().await.ok();
        }
    }

    /// Runs `work` in the tenant's database, in a session that later steps reuse.
    ///
    /// After `verify` the session is inside a read-only transaction: whoever comes next begins with `rollback` (see
    /// `seed::note_opening`). A session whose work failed is dropped, never reused.
    pub(super) async fn in_tenant<T>(
        &self,
        work: impl AsyncFnOnce(&mut sqlx::PgConnection) -> Result<T, StepError>,
    ) -> Result<T, StepError> {
        let mut session = self.session.lock().await;
        let mut connection = match session.take() {
            Some(connection) => connection,
            None => self.connect().await?,
        };
        let result = work(&mut connection).await?;
        // only after success: a failed one may be inside a transaction
        *session = Some(connection);
        Ok(result)
    }
}

/// Whether a database carries the mark of this very tenant.
pub(super) fn is_marked(facts: &Facts, cluster: &Cluster, tenant: &Tenant) -> bool {
    let mark = facts.mark(&cluster.owner);
    mark.is_some_and(|mark| mark.tenant == tenant.id.0)
}
