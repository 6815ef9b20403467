//! Step 2, `create_database`: one from the warm pool, or a clone of the sealed template, marked as this tenant's.
//!
//! Looks first: the tenant's own database, then the clone that a lost attempt left behind, then the pool,
//! where an earlier attempt may have claimed one; then it clones. A database of the tenant's name that does
//! not carry the tenant's mark is an error; it is neither adopted nor dropped. Undone when neither the
//! tenant's database nor such a clone or claim is left, nor the role that could not go before its database.

use std::sync::atomic::Ordering;

use sqlx::PgConnection;

use super::{
    Step, StepContext, StepError, UndoContext, create_role, is_marked,
    pool::{self, Taken},
    steps, template,
};
use crate::{
    tenant_db::{
        self, Cluster, Ident,
        databases::{self, Facts, Mark},
        spare,
    },
    tenants,
};

/// Where a test can make the undoing fail: between the tenant's database and a clone that was left.
pub(super) const DROPPED: &str = "undo.create_database.dropped";

/// How often a race with another session may make us look again.
const LOOKS: usize = 5;

pub(super) async fn run(cx: &StepContext<'_>) -> Result<(), StepError> {
    let cluster = cx.cluster().await?;
    let tenant = cx.tenant().await;
    let name = Ident::new(&tenant.database).map_err(tenant_db::Error::from)?;
    let unnamed = databases::unnamed(&cluster.prefix, tenant.id.0)?;
    let mut has_pool = cx.provisioner.pool.settings.is_on();
    for _ in 0..LOOKS {
        let names = [name.as_str(), unnamed.as_str()];
        let find = async |connection: &mut _| databases::find_all(connection, &names).await;
        let found = cluster.run(find).await?;
        let found = |name: &Ident| found.iter().find(|facts| facts.name == name.as_str());
        if let Some(facts) = found(&name) {
            match ours(facts, cx, &name).await? {
                Some(mark) => return record_template(cx, &mark.template).await,
                None => continue,
            }
        }
        match found(&unnamed) {
            None => {}
            // what a lost attempt left, of whichever template: the name holds the tenant's whole id,
            // and nobody was told of it
            Some(facts) if facts.owner == cluster.owner.as_str() => {
                drop_database(cx, &unnamed).await?;
                continue;
            }
            Some(facts) => return Err(foreign(&unnamed, facts)),
        }
        let origin = if has_pool {
            take_pooled(cx, cluster).await?
        } else {
            Origin::Clone
        };
        let (from, hash) = match origin {
            Origin::Pool(database, hash) => (database, hash),
            Origin::LookAgain => continue,
            // another session's, of whatever template: look again
            Origin::Clone => match clone(cx, cluster, &unnamed).await? {
                Some(hash) => (unnamed.clone(), hash),
                None => continue,
            },
        };
        let is_pooled = from != unnamed;
        match hand_over(cx, &from, &name, hash).await? {
            HandedOver::Recorded => {
                note_origin(cx, is_pooled);
                return Ok(());
            }
            // the pool's database is gone: its row goes, and this tenant's is cloned
            HandedOver::Gone if is_pooled => {
                forget_claim(cx).await?;
                has_pool = false;
            }
            HandedOver::Gone | HandedOver::Taken => {}
        }
    }
    Err(StepError::TimedOut {
        step: Step::CreateDatabase.name(),
        limit: cx.limit(Step::CreateDatabase),
    })
}

/// How a hand-over ended that did not fail.
enum HandedOver {
    /// The database is the tenant's, and on record.
    Recorded,
    /// The name was taken a moment ago.
    Taken,
    /// What was to be handed over is not there.
    Gone,
}

async fn hand_over(
    cx: &StepContext<'_>,
    from: &Ident,
    name: &Ident,
    template: String,
) -> Result<HandedOver, StepError> {
    let tenant = cx.id().await.0;
    let mark = Mark {
        tenant,
        like: Some(template.clone()),
        template,
    };
    let handed = cx
        .cluster()
        .await?
        .run_as(
            &cx.tag,
            || cx.lease.is_held(),
            async |connection| databases::hand_over(connection, from, name, &mark).await,
        )
        .await;
    match handed {
        Ok(()) => {
            record_template(cx, &mark.template).await?;
            Ok(HandedOver::Recorded)
        }
        Err(error) => match error.sqlstate().as_deref() {
            Some("42P04") => Ok(HandedOver::Taken),
            Some("3D000") => Ok(HandedOver::Gone),
            _ => Err(error.into()),
        },
    }
}

/// What becomes the tenant's database.
enum Origin {
    /// One of the pool, of the blueprint with this hash.
    Pool(Ident, String),
    /// None that fits any more: look again.
    LookAgain,
    /// There is none: it is cloned.
    Clone,
}

/// Claims a database of the pool, or finds the one that an earlier attempt claimed.
async fn take_pooled(cx: &StepContext<'_>, cluster: &Cluster) -> Result<Origin, StepError> {
    let (provisioner, id, hash) = (cx.provisioner, cx.id().await, cx.blueprint.hash());
    cx.check_lease()?;
    let claim = async |connection: &mut PgConnection| {
        pool::claim(connection, cx.claim, id, &cluster.name, &hash).await
    };
    let taken = provisioner.db.run(claim).await?;
    if let Taken::Claimed(_) | Taken::Empty = taken {
        // whoever fills it begins when this tenant is made
        provisioner.pool.call(&cluster.name);
    }
    Ok(match taken {
        Taken::Claimed(pooled) => {
            provisioner.faults.hit(pool::CLAIMED).await?;
            Origin::Pool(spare::pooled(&cluster.prefix, pooled)?, hash)
        }
        Taken::GivenBack => Origin::LookAgain,
        Taken::Empty => Origin::Clone,
    })
}

fn note_origin(cx: &StepContext<'_>, is_pooled: bool) {
    let metrics = &cx.provisioner.metrics;
    cx.from_pool.store(is_pooled, Ordering::Relaxed);
    if is_pooled {
        metrics.pool_hits.inc();
    } else if cx.provisioner.pool.settings.is_on() {
        metrics.pool_misses.inc();
    }
}

/// The claim led to nothing.
async fn forget_claim(cx: &StepContext<'_>) -> Result<(), StepError> {
    let id = cx.id().await;
    let forget = async |tx: &mut PgConnection| {
        crate::queue::assert_held(tx, cx.claim).await?;
        Ok::<_, StepError>(pool::forget_claim(tx, id).await?)
    };
    cx.provisioner.db.transaction(forget).await
}

/// Drops the tenant's database, and the clone or the claim that a lost attempt may have left.
pub(super) async fn undo(cx: &UndoContext<'_>) -> Result<(), StepError> {
    let Some(cluster) = cx.cluster()? else {
        return Ok(());
    };
    let (database, _) = cx.names()?;
    let is_ours = |facts: &Facts| is_marked(facts, cluster, &cx.tenant);
    drop_if(cx, cluster, &database, is_ours).await?;
    cx.provisioner.faults.hit(DROPPED).await?;
    let unnamed = databases::unnamed(&cluster.prefix, cx.tenant.id.0)?;
    // the name holds the tenant's whole id, and nobody was told of it
    let is_ours = |facts: &Facts| facts.owner == cluster.owner.as_str();
    drop_if(cx, cluster, &unnamed, is_ours).await?;
    drop_claimed(cx, cluster).await?;
    create_role::drop_role(cx, cluster).await
}

/// Drops the database that was claimed from the pool and not handed over, and forgets the claim.
async fn drop_claimed(cx: &UndoContext<'_>, cluster: &Cluster) -> Result<(), StepError> {
    let (db, id) = (&cx.provisioner.db, cx.tenant.id);
    let find = async |connection: &mut PgConnection| pool::find_claimed(connection, id).await;
    let Some(pooled) = db.run(find).await? else {
        return Ok(());
    };
    let pooled = spare::pooled(&cluster.prefix, pooled)?;
    // the name holds the pool's own id of it
    let is_ours = |facts: &Facts| facts.owner == cluster.owner.as_str();
    drop_if(cx, cluster, &pooled, is_ours).await?;
    let forget = async |tx: &mut PgConnection| {
        crate::queue::assert_held(tx, cx.claim).await?;
        Ok::<_, StepError>(pool::forget_claim(tx, id).await?)
    };
    db.transaction(forget).await
}

/// Drops a database that is ours; one that is not is left alone.
async fn drop_if(
    cx: &UndoContext<'_>,
    cluster: &Cluster,
    name: &Ident,
    is_ours: impl Fn(&Facts) -> bool,
) -> Result<(), StepError> {
    let drop = async |connection: &mut PgConnection| {
        let facts = databases::find(connection, name.as_str()).await?;
        match facts {
            Some(facts) if !is_ours(&facts) => return Ok(Some(facts.describe())),
            Some(_) => databases::drop_database(connection, name).await?,
            None => {}
        }
        Ok(None)
    };
    if let Some(found) = cx.run_on(cluster, drop).await? {
        cx.left_alone("database", name, &found);
    }
    Ok(())
}

/// The mark of a database that is this tenant's; `None` after one of ours that is of no use was dropped.
async fn ours(
    facts: &Facts,
    cx: &StepContext<'_>,
    name: &Ident,
) -> Result<Option<Mark>, StepError> {
    let tenant = cx.id().await;
    match facts.mark(&cx.cluster().await?.owner) {
        Some(mark) if mark.tenant == tenant.0 && facts.usable && !cx.is_outdated(&mark).await? => {
            Ok(Some(mark))
        }
        Some(mark) if mark.tenant == tenant.0 => {
            drop_database(cx, name).await?;
            Ok(None)
        }
        _ => Err(foreign(name, facts)),
    }
}

fn foreign(name: &Ident, facts: &Facts) -> StepError {
    tenant_db::Error::ForeignDatabase {
        name: name.as_str().to_owned(),
        found: facts.describe(),
    }
    .into()
}

/// Clones the template; its hash, or `None` when the name was taken a moment ago.
async fn clone(
    cx: &StepContext<'_>,
    cluster: &Cluster,
    name: &Ident,
) -> Result<Option<String>, StepError> {
    let template = template::ensure(cx.provisioner, cluster, &cx.blueprint).await?;
    let cloned = cluster
        .run_as(
            &cx.tag,
            || cx.lease.is_held(),
            async |connection| {
                databases::clone_template(connection, cluster, &template.database, name).await
            },
        )
        .await?;
    if !cloned {
        return Ok(None);
    }
    cx.provisioner.faults.hit("create_database.cloned").await?;
    Ok(Some(template.hash))
}

pub(super) async fn drop_database(cx: &StepContext<'_>, name: &Ident) -> Result<(), StepError> {
    cx.cluster()
        .await?
        .run_as(
            &cx.tag,
            || cx.lease.is_held(),
            async |connection| databases::drop_database(connection, name).await,
        )
        .await?;
    Ok(())
}

/// The tenant's row says from now on what its database was made from.
async fn record_template(cx: &StepContext<'_>, hash: &str) -> Result<(), StepError> {
    let id = cx.id().await;
    cx.provisioner
        .db
        .transaction(async |tx| {
            // the mark in the database itself says the same
            steps::do_not_wait_for_disk(tx).await?;
            crate::queue::assert_held(tx, cx.claim).await?;
            tenants::mark_cloned(tx, id, hash).await?;
            if cx.provisioner.pool.settings.is_on() {
                pool::forget_claim(tx, id).await?;
            }
            Ok::<_, StepError>(())
        })
        .await?;
    cx.tenant.lock().await.blueprint_hash = Some(hash.to_owned());
    Ok(())
}
