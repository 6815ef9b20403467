//! Step 1, place: choose the cluster that is emptiest of those that answer and have room; undone when the place is
//! free again.

use std::collections::HashMap;

use super::{StepContext, StepError, UndoContext};
use crate::tenants;

pub(super) async fn run(cx: &StepContext<'_>) -> Result<(), StepError> {
    let id = cx.id().await;
    if cx.tenant().await.cluster.is_some() {
        return Ok(());
    }
    let clusters = &cx.provisioner.clusters;
    let answering = clusters.answering().await;
    let placed = cx
        .provisioner
        .db
        .transaction(async |tx| {
            // two at once must not both take the last place
            sqlx::query("select pg_advisory_xact_lock(hashtextextended('tenantry place', 0))")
                .execute(&mut *tx)
                .await?;
            let held: HashMap<String, i64> =
                tenants::count_by_cluster(tx).await?.into_iter().collect();
            let fullness = |name: &str, capacity: u32| {
                let held = u32::try_from(held.get(name).copied().unwrap_or(0)).unwrap_or(u32::MAX);
                (held < capacity).then(|| f64::from(held) / f64::from(capacity))
            };
            let candidates = clusters.iter().filter_map(|cluster| {
                let fullness = fullness(&cluster.name, cluster.capacity)?;
                // the others are better than none: they may be back in a moment
                let is_away = !answering.contains(&*cluster.name);
                Some((is_away, fullness, &cluster.name))
            });
            let emptiest = candidates.min_by(|a, b| a.0.cmp(&b.0).then(a.1.total_cmp(&b.1)));
            let Some((_, _, name)) = emptiest else {
                return Err(StepError::NoRoom);
            };
            crate::queue::assert_held(tx, cx.claim).await?;
            tenants::mark_placed(tx, id, name).await?;
            Ok(name.clone())
        })
        .await?;
    cx.tenant.lock().await.cluster = Some(placed);
    Ok(())
}

/// Somebody else may have the place.
pub(super) async fn undo(cx: &UndoContext<'_>) -> Result<(), StepError> {
    let give_back = async |tx: &mut sqlx::PgConnection| {
        crate::queue::assert_held(tx, cx.claim).await?;
        tenants::mark_unplaced(tx, cx.tenant.id).await?;
        Ok::<_, StepError>(())
    };
    cx.provisioner.db.transaction(give_back).await
}
