//! Whoever makes and drops the databases of the pool: one at a time per cluster.
//!
//! Guarantees: the lock of the pool lives and dies with the session in which databases are created and
//! dropped, and so does a statement that outlives its client: who has the lock has nobody else's work under
//! way, and may take what is half done for lost. A process that was stopped loses its session, and what it
//! still writes changes no row. No database is begun or evicted while a tenant waits for its own.

use std::time::{Duration, Instant};

use uuid::Uuid;

use super::rows;
use crate::{
    blueprint::Blueprint,
    provisioning::{
        Provisioner, StepError,
        template::{self, Template},
    },
    queue,
    tenant_db::{self, Cluster, Ident, MaintenanceSession, databases, spare},
};

const FAULT_BEGUN: &str = "pool.begun";
const FAULT_CLONED: &str = "pool.cloned";
const FAULT_MARKED: &str = "pool.marked";
const FAULT_READY: &str = "pool.ready";
const FAULT_DROPPING: &str = "pool.dropping";
const FAULT_DROPPED: &str = "pool.dropped";

/// Where a test can make building and dropping fail.
pub const FAULT_POINTS: [&str; 6] = [
    FAULT_BEGUN,
    FAULT_CLONED,
    FAULT_MARKED,
    FAULT_READY,
    FAULT_DROPPING,
    FAULT_DROPPED,
];

/// Between two looks whether tenants still wait.
const LOOK: Duration = Duration::from_millis(100);

/// While tenants are being made and none of them waits, a database is still begun after this long.
const PATIENCE: Duration = Duration::from_secs(1);

/// How far filling has got.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FillProgress {
    /// Databases that were made.
    pub made: u32,
    /// Ready ones, of this blueprint.
    pub ready: u32,
    /// How many there should be.
    pub wanted: u32,
}

/// How to fill.
#[derive(Clone, Copy)]
pub(super) struct FillOptions<'a> {
    /// Rest as long as each clone took: nobody waits for it.
    pub(super) is_background: bool,
    pub(super) may_go_on: &'a (dyn Fn() -> bool + Sync),
    pub(super) on_progress: &'a (dyn Fn(FillProgress) + Sync),
}

/// Fills the pool of this blueprint on a cluster, now; builds the template if there is none.
///
/// Waits for whoever fills it just now, and whenever tenants wait; ends early when `may_go_on` says no.
/// `told` hears of every database.
pub async fn fill(
    provisioner: &Provisioner,
    cluster: &Cluster,
    blueprint: &Blueprint,
    may_go_on: impl Fn() -> bool + Sync,
    told: impl Fn(FillProgress) + Sync,
) -> Result<FillProgress, StepError> {
    let template = template::ensure(provisioner, cluster, blueprint).await?;
    let found = provisioner
        .db
        .run(async |connection| {
            let evict_after_s = provisioner.pool.settings.evict_after_s;
            rows::look(connection, &cluster.name, &template.hash, evict_after_s).await
        })
        .await?;
    let wanted = found.wanted(&provisioner.pool.settings);
    let so_far = FillProgress {
        made: 0,
        ready: u32::try_from(found.ready).unwrap_or(u32::MAX),
        wanted,
    };
    if wanted == 0 {
        return Ok(so_far);
    }
    let Some(mut builder) = Builder::wait_for(provisioner, cluster, &may_go_on).await? else {
        return Ok(so_far);
    };
    builder.mend().await?;
    let how = FillOptions {
        is_background: false,
        may_go_on: &may_go_on,
        on_progress: &told,
    };
    let filled = builder.fill(&template, wanted, how).await?;
    builder.close().await;
    Ok(filled)
}

/// Drops every database of a cluster's pool that nobody has claimed; how many. `told` hears of each.
pub async fn drain(
    provisioner: &Provisioner,
    cluster: &Cluster,
    told: impl Fn(u32),
) -> Result<u32, StepError> {
    let Some(mut builder) = Builder::wait_for(provisioner, cluster, &|| true).await? else {
        return Ok(0);
    };
    builder.mend().await?;
    let ready = provisioner
        .db
        .run(async |connection| rows::list_ready(connection, &cluster.name).await)
        .await?;
    let mut dropped = 0;
    for (id, database) in ready {
        if builder.drop_ready(id, &database).await? {
            dropped += 1;
            told(dropped);
        }
    }
    builder.close().await;
    Ok(dropped)
}

/// The one who makes and drops databases of a cluster's pool.
pub(super) struct Builder<'a> {
    provisioner: &'a Provisioner,
    cluster: &'a Cluster,
    session: MaintenanceSession,
}

impl<'a> Builder<'a> {
    /// `None` while another one is at it.
    pub(super) async fn try_new(
        provisioner: &'a Provisioner,
        cluster: &'a Cluster,
    ) -> Result<Option<Self>, StepError> {
        let mut session = cluster.connect_for_maintenance().await?;
        if !session.try_lock(&format!("{}pool", cluster.prefix)).await? {
            session.close().await;
            return Ok(None);
        }
        Ok(Some(Self {
            provisioner,
            cluster,
            session,
        }))
    }

    /// Waits until nobody else is at it; `None` when `may_go_on` says no before that.
    async fn wait_for(
        provisioner: &'a Provisioner,
        cluster: &'a Cluster,
        may_go_on: &(dyn Fn() -> bool + Sync),
    ) -> Result<Option<Self>, StepError> {
        loop {
            if let Some(builder) = Self::try_new(provisioner, cluster).await? {
                return Ok(Some(builder));
            }
            if !may_go_on() {
                return Ok(None);
            }
            tokio::time::sleep(LOOK).await;
        }
    }

    /// Gives the lock back.
    pub(super) async fn close(self) {
        self.session.close().await;
    }

    /// Drops what was left half done, and makes rows and databases agree.
    pub(super) async fn mend(&mut self) -> Result<(), StepError> {
        let (db, cluster) = (&self.provisioner.db, self.cluster);
        let lost = db
            .run(async |connection| rows::take_lost(connection, &cluster.name).await)
            .await?;
        for (id, database) in &lost {
            self.drop_database(database).await?;
            db.run(async |connection| rows::forget(connection, *id).await)
                .await?;
        }
        // the databases first: one that is claimed and handed over between the looks has no row and no
        // such name any more
        let now = async |connection: &mut _| rows::now(connection).await;
        let listed_at = db.run(now).await?;
        let there = self.list().await?;
        let clusters = self.provisioner.clusters.iter();
        let clusters: Vec<&str> = clusters.map(|cluster| &*cluster.name).collect();
        let (gone, astray) = db
            .run(async |connection| {
                let listed = (&*there, listed_at);
                let gone = rows::forget_missing(connection, &cluster.name, listed).await?;
                let astray = rows::without_row(connection, &clusters, &there).await?;
                Ok::<_, sqlx::Error>((gone, astray))
            })
            .await?;
        for database in &astray {
            self.drop_database(database).await?;
        }
        if !lost.is_empty() || !astray.is_empty() || gone > 0 {
            tracing::info!(
                cluster = cluster.name,
                half_done = lost.len(),
                without_row = astray.len(),
                without_database = gone,
                "mended the pool"
            );
        }
        Ok(())
    }

    /// Drops what is stale, and what is too many.
    pub(super) async fn evict(
        &mut self,
        hash: &str,
        wanted: u32,
        may_go_on: impl Fn() -> bool + Sync,
    ) -> Result<(), StepError> {
        let settings = self.provisioner.pool.settings;
        let evict_after_s = settings.evict_after_s;
        let name = &self.cluster.name;
        let to_evict = self
            .provisioner
            .db
            .run(async |connection| {
                rows::to_evict(connection, name, hash, evict_after_s, wanted).await
            })
            .await?;
        for (id, database) in to_evict {
            self.let_tenants_pass(&may_go_on).await?;
            if !may_go_on() {
                break;
            }
            let began = Instant::now();
            if self.drop_ready(id, &database).await? {
                tracing::info!(database, "dropped a database that the pool needs no more");
            }
            self.rest(began.elapsed()).await?;
        }
        Ok(())
    }

    /// Makes databases until there are enough.
    pub(super) async fn fill(
        &mut self,
        template: &Template,
        wanted: u32,
        how: FillOptions<'_>,
    ) -> Result<FillProgress, StepError> {
        let mut made = 0;
        loop {
            let (cluster, hash) = (&self.cluster.name, &template.hash);
            let count =
                async |connection: &mut _| rows::count_ready(connection, cluster, hash).await;
            let ready = self.provisioner.db.run(count).await?;
            let filled = FillProgress {
                made,
                ready: u32::try_from(ready).unwrap_or(u32::MAX),
                wanted,
            };
            (how.on_progress)(filled);
            if filled.ready >= wanted {
                return Ok(filled);
            }
            self.let_tenants_pass(how.may_go_on).await?;
            if !(how.may_go_on)() {
                return Ok(filled);
            }
            let began = Instant::now();
            self.build(template).await?;
            made += 1;
            if how.is_background {
                self.rest(began.elapsed()).await?;
            }
        }
    }

    async fn build(&mut self, template: &Template) -> Result<(), StepError> {
        let (db, faults) = (&self.provisioner.db, &self.provisioner.faults);
        let (cluster, hash) = (self.cluster, template.hash.as_str());
        let id = Uuid::now_v7();
        let name = spare::pooled(&cluster.prefix, id)?;
        db.run(async |connection| {
            rows::begin(connection, id, &cluster.name, hash, name.as_str()).await
        })
        .await?;
        faults.hit(FAULT_BEGUN).await?;
        let session = &mut self.session;
        let clone = async |connection: &mut _| {
            databases::clone_template(connection, cluster, &template.database, &name).await
        };
        if !session.run(clone).await? {
            let found = "it appeared while it was being made".to_owned();
            let name = name.as_str().to_owned();
            return Err(tenant_db::Error::ForeignDatabase { name, found }.into());
        }
        faults.hit(FAULT_CLONED).await?;
        let comment = spare::pool_comment(id, hash);
        let mark = async |connection: &mut _| spare::mark_pooled(connection, &name, &comment).await;
        session.run(mark).await?;
        faults.hit(FAULT_MARKED).await?;
        let is_ours = db
            .run(async |connection| rows::mark_ready(connection, id).await)
            .await?;
        if !is_ours {
            // stopped for so long that another one has the lock, and took this for lost
            return Err(StepError::LostClaim);
        }
        faults.hit(FAULT_READY).await?;
        Ok(())
    }

    /// False when a tenant was faster.
    async fn drop_ready(&mut self, id: Uuid, database: &str) -> Result<bool, StepError> {
        let (db, faults) = (&self.provisioner.db, &self.provisioner.faults);
        let is_ours = db
            .run(async |connection| rows::mark_dropping(connection, id).await)
            .await?;
        if !is_ours {
            return Ok(false);
        }
        faults.hit(FAULT_DROPPING).await?;
        self.drop_database(database).await?;
        faults.hit(FAULT_DROPPED).await?;
        db.run(async |connection| rows::forget(connection, id).await)
            .await?;
        Ok(true)
    }

    /// Drops a database of the pool, if it is one and there.
    async fn drop_database(&mut self, database: &str) -> Result<(), StepError> {
        let name = Ident::new(database).map_err(tenant_db::Error::from)?;
        if self.list().await?.iter().any(|there| there == database) {
            let drop = async |connection: &mut _| databases::drop_database(connection, &name).await;
            self.session.run(drop).await?;
        }
        Ok(())
    }

    /// The databases of the pool.
    async fn list(&mut self) -> Result<Vec<String>, StepError> {
        let cluster = self.cluster;
        let list = async |connection: &mut _| spare::list_pooled(connection, cluster).await;
        Ok(self.session.run(list).await?)
    }

    /// Waits while tenants wait for a worker; while some are only being made, a moment.
    async fn let_tenants_pass(
        &mut self,
        may_go_on: &(dyn Fn() -> bool + Sync),
    ) -> Result<(), StepError> {
        let began = Instant::now();
        while may_go_on() && is_busy(self.provisioner, began).await? {
            self.rest(LOOK).await?;
        }
        Ok(())
    }

    /// Rests, with signs of life: the server ends a session that shows none.
    async fn rest(&mut self, time: Duration) -> Result<(), StepError> {
        let until = Instant::now() + time;
        loop {
            let left = until.saturating_duration_since(Instant::now());
            tokio::time::sleep(left.min(tenant_db::IDLE_LIMIT / 4)).await;
            self.session.ping().await?;
            if Instant::now() >= until {
                return Ok(());
            }
        }
    }
}

/// The same before there is a session. A database that is away is told of by whoever goes on.
pub(super) async fn let_tenants_pass(
    provisioner: &Provisioner,
    may_go_on: &(dyn Fn() -> bool + Sync),
) {
    let began = Instant::now();
    loop {
        tokio::time::sleep(LOOK).await;
        if !may_go_on() || !matches!(is_busy(provisioner, began).await, Ok(true)) {
            return;
        }
    }
}

async fn is_busy(provisioner: &Provisioner, began: Instant) -> Result<bool, StepError> {
    let look = async |connection: &mut _| queue::traffic(connection, "provision_tenant").await;
    let traffic = provisioner.db.run(look).await?;
    Ok(traffic.waiting || (traffic.running && began.elapsed() < PATIENCE))
}
