//! Step 2, `create_database`: a clone of the sealed template, marked as this tenant's.
//!
//! Looks first: the tenant's own database, then the clone that a lost attempt left behind, then it
//! clones. A database of the tenant's name that does not carry the tenant's mark is an error; it is
//! neither adopted nor dropped. Undone when neither the tenant's database nor such a clone is left, nor
//! the role that could not go before its database.

use super::{Step, StepContext, StepError, UndoContext, create_role, is_marked, steps, template};
use crate::{
    tenant_db::{
        self, Cluster, Ident,
        databases::{self, Facts, Mark},
    },
    tenants,
};

/// Where a test can make the undoing fail: between the tenant's database and a clone that was left.
pub(super) const DROPPED: &str = "undo.create_database.dropped";

/// A race with another session can make us look again, not more often than this.
const LOOKS: usize = 5;

pub(super) async fn run(cx: &StepContext<'_>) -> Result<(), StepError> {
    let cluster = cx.cluster().await?;
    let tenant = cx.tenant().await;
    let name = Ident::new(&tenant.database).map_err(tenant_db::Error::from)?;
    let unnamed = databases::unnamed(&cluster.prefix, tenant.id.0)?;
    for _ in 0..LOOKS {
        if let Some(facts) = cluster.find_database(name.as_str()).await? {
            match ours(&facts, cx, &name).await? {
                Some(mark) => return record_template(cx, &mark.template).await,
                None => continue,
            }
        }
        let template = template::ensure(cx.provisioner, cluster, &cx.blueprint).await?;
        let mark = Mark {
            tenant: tenant.id.0,
            template: template.hash.clone(),
        };
        match cluster.find_database(unnamed.as_str()).await? {
            // another session's, of whatever template: look again
            None if !clone(cx, &template.database, &unnamed).await? => continue,
            None => {}
            // what a lost attempt left, of whichever template: the name holds the tenant's whole id,
            // and nobody was told of it
            Some(facts) if facts.owner == cluster.owner.as_str() => {
                drop_database(cx, &unnamed).await?;
                continue;
            }
            Some(facts) => return Err(foreign(&unnamed, &facts)),
        }
        cx.provisioner.faults.hit("create_database.cloned").await?;
        let handed = cluster
            .run_as(
                &cx.tag,
                || cx.lease.is_held(),
                async |connection| databases::hand_over(connection, &unnamed, &name, &mark).await,
            )
            .await;
        match handed {
            Ok(()) => {
                return record_template(cx, &mark.template).await;
            }
            // the name was taken a moment ago, or the clone is gone: look again
            Err(error) if matches!(error.sqlstate().as_deref(), Some("42P04" | "3D000")) => {}
            Err(error) => return Err(error.into()),
        }
    }
    Err(StepError::TimedOut {
        step: Step::CreateDatabase.name(),
        limit: cx.limit(Step::CreateDatabase),
    })
}

/// Drops the tenant's database, and the clone that a lost attempt may have left.
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
    create_role::drop_role(cx, cluster).await
}

/// Drops a database that is ours; one that is not is left alone.
async fn drop_if(
    cx: &UndoContext<'_>,
    cluster: &Cluster,
    name: &Ident,
    is_ours: impl Fn(&Facts) -> bool,
) -> Result<(), StepError> {
    let drop = async |connection: &mut sqlx::PgConnection| {
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

/// The mark of a database that is this tenant's; `None` after an unusable one of ours was dropped.
async fn ours(
    facts: &Facts,
    cx: &StepContext<'_>,
    name: &Ident,
) -> Result<Option<Mark>, StepError> {
    let tenant = cx.id().await;
    match facts.mark(&cx.cluster().await?.owner) {
        Some(mark) if mark.tenant == tenant.0 && facts.usable => Ok(Some(mark)),
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

async fn clone(cx: &StepContext<'_>, template: &Ident, name: &Ident) -> Result<bool, StepError> {
    let cluster = cx.cluster().await?;
    let cloned = cluster
        .run_as(
            &cx.tag,
            || cx.lease.is_held(),
            async |connection| databases::clone_template(connection, cluster, template, name).await,
        )
        .await?;
    Ok(cloned)
}

async fn drop_database(cx: &StepContext<'_>, name: &Ident) -> Result<(), StepError> {
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
            Ok::<_, StepError>(())
        })
        .await?;
    cx.tenant.lock().await.blueprint_hash = Some(hash.to_owned());
    Ok(())
}
