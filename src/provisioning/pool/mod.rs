//! The warm pool: clones of the template that are ready before anybody asks for them.
//!
//! ```text
//!            created, marked           a tenant's job            renamed, the tenant's mark
//!  building ─────────────────▶ ready ─────────────────▶ claimed ─────────────────────────▶ a tenant's; the row goes
//!      │                         │                         │
//!      └── its builder died      └── another blueprint,    └── nobody needs it any more
//!                                    or too many
//!                         ─────────────▶ dropping ─▶ dropped; the row goes
//! ```
//!
//! Guarantees: a row is there before its database, and a database that lost its row is found by its mark;
//! one database is claimed by one tenant at most, under any crash; a tenant gets one of its own blueprint
//! only; one builder at a time per cluster, which begins and evicts no database while a tenant waits;
//! tenants' jobs create no pool databases, and drop only those they had claimed. An empty pool costs a clone, as if
//! there were none.
//!
//! Does not: build templates of its own accord, since a directory that is still being copied would give it one
//! after the other; count against the capacity of a cluster, which is for tenants.

mod build;
mod rows;

use std::{
    collections::BTreeMap,
    sync::Arc,
    time::{Duration, Instant},
};

use tokio::sync::Notify;

pub use build::{FAULT_POINTS, FillProgress, drain, fill};
pub use rows::{StateCount, count, count_by_state};
pub(super) use rows::{Taken, claim, discard, find_claimed, forget_claim};

use super::{Provisioner, StepError, template};
use crate::{causes::chain, config, shutdown::Tasks, tenant_db::Cluster};

/// Where a test can make a claim fail: claimed, and not handed over yet.
pub const CLAIMED: &str = "create_database.claimed";

/// How often a keeper looks when nobody calls.
const PAUSE: Duration = Duration::from_secs(10);

/// How often it also compares rows and databases.
const MENDING_PAUSE: Duration = Duration::from_mins(10);

/// The settings of the pool, and the way to call whoever fills it.
#[derive(Debug)]
pub struct Pool {
    /// How many databases there should be.
    pub settings: config::Pool,
    callers: BTreeMap<String, Notify>,
}

impl Pool {
    /// The pool of these clusters.
    pub fn new<'a>(settings: config::Pool, clusters: impl Iterator<Item = &'a Cluster>) -> Self {
        let caller = |cluster: &Cluster| (cluster.name.clone(), Notify::new());
        Self {
            settings,
            callers: clusters.map(caller).collect(),
        }
    }

    /// Something was taken, or was not there: the keeper of this process looks soon.
    pub(super) fn call(&self, cluster: &str) {
        if let Some(caller) = self.callers.get(cluster) {
            caller.notify_one();
        }
    }

    async fn called(&self, cluster: &str) {
        match self.callers.get(cluster) {
            Some(caller) => caller.notified().await,
            None => std::future::pending().await,
        }
    }
}

/// Keeps the pool of every cluster filled until the tasks drain. Any number of replicas may do so.
pub fn keep_filled(provisioner: &Arc<Provisioner>, tasks: &Tasks) {
    for cluster in provisioner.clusters.iter() {
        let (provisioner, keeping) = (Arc::clone(provisioner), tasks.clone());
        let name = cluster.name.clone();
        tasks.spawn(async move { keep(&provisioner, &name, &keeping).await });
    }
}

async fn keep(provisioner: &Provisioner, name: &str, tasks: &Tasks) {
    let Ok(cluster) = provisioner.clusters.get(name) else {
        return;
    };
    let mut mended: Option<Instant> = None;
    while !tasks.is_draining() {
        let is_mending = mended.is_none_or(|at| at.elapsed() >= MENDING_PAUSE);
        match look_after(provisioner, cluster, tasks, is_mending).await {
            Ok(has_mended) => mended = has_mended.then(Instant::now).or(mended),
            Err(error) => tracing::warn!(
                cluster = cluster.name,
                error.code = error.code(),
                error = chain(&error),
                "the pool was not filled; trying again"
            ),
        }
        tokio::select! {
            () = provisioner.pool.called(name) => {
                // whoever called is being made just now: not even a look is to cost them anything
                build::let_tenants_pass(provisioner, &|| !tasks.is_draining()).await;
            }
            () = tokio::time::sleep(PAUSE) => {}
            () = tasks.draining() => {}
        }
    }
}

/// One round: what was left is mended, what is stale goes, what is missing is made. True when rows and
/// databases were compared.
async fn look_after(
    provisioner: &Provisioner,
    cluster: &Cluster,
    tasks: &Tasks,
    must_mend: bool,
) -> Result<bool, StepError> {
    let settings = provisioner.pool.settings;
    let hash = provisioner.blueprint.load()?.hash();
    let (found, is_known) = provisioner
        .db
        .run(async |connection| {
            let found =
                rows::look(connection, &cluster.name, &hash, settings.evict_after_s).await?;
            let template = template::find(connection, &cluster.name, &hash).await?;
            Ok::<_, sqlx::Error>((found, template.is_some()))
        })
        .await?;
    let wanted = found.wanted(&settings);
    let is_mending = must_mend && (settings.is_on() || found.rows > 0);
    let is_right = found.ready == i64::from(wanted) && found.stale == 0;
    if !is_mending && found.unfinished == 0 && (is_right || !is_known) {
        return Ok(false);
    }
    let Some(mut builder) = build::Builder::try_new(provisioner, cluster).await? else {
        // another process is at it
        return Ok(false);
    };
    let may_go_on = || !tasks.is_draining();
    builder.mend().await?;
    // only what has a template, so that a directory that is being copied evicts nothing either
    let template = template::named(cluster, hash)?;
    // one that is being built anew is not to be cloned half done
    if is_known && template::is_sealed(provisioner, cluster, &template).await? {
        builder.evict(&template.hash, wanted, may_go_on).await?;
        let how = build::FillOptions {
            is_background: true,
            may_go_on: &may_go_on,
            on_progress: &|_| {},
        };
        builder.fill(&template, wanted, how).await?;
    }
    builder.close().await;
    Ok(true)
}
