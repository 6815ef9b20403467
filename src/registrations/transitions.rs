//! The arrows of a registration, each a guarded update.
//!
//! Guarantees: `false` means that the registration was not in a state from which the arrow leads; then
//! nothing was changed. The arrows that a tenant takes its registration along are triggers (migration 0010).

use sqlx::{PgConnection, types::Json};
use uuid::Uuid;

use super::State;
use crate::tenants::{TenantFailure, TenantId};

/// The provider's organization is known from now on, and whose tenant the registration follows.
pub async fn mark_linked(
    tx: &mut PgConnection,
    id: Uuid,
    org_id: &str,
    (tenant, is_tenant_ours): (TenantId, bool),
) -> sqlx::Result<()> {
    sqlx::query(
        "update registrations
         set org_id = $2,
             tenant_id = $3,
             is_tenant_ours = $4
         where id = $1",
    )
    .bind(id)
    .bind(org_id)
    .bind(tenant)
    .bind(is_tenant_ours)
    .execute(tx)
    .await?;
    Ok(())
}

/// Whoever signed up is a member, or invited.
pub async fn mark_user_added(tx: &mut PgConnection, id: Uuid) -> sqlx::Result<()> {
    sqlx::query("update registrations set waits_for_user = false where id = $1")
        .bind(id)
        .execute(tx)
        .await?;
    Ok(())
}

/// Its organization was deleted, and somebody registers it anew.
pub async fn mark_superseded(tx: &mut PgConnection, id: Uuid) -> sqlx::Result<()> {
    sqlx::query("update registrations set superseded_at = now() where id = $1")
        .bind(id)
        .execute(tx)
        .await?;
    Ok(())
}

/// Stays as it is, and says why it takes another attempt.
pub async fn note_failure(
    tx: &mut PgConnection,
    id: Uuid,
    failure: &TenantFailure,
) -> sqlx::Result<()> {
    sqlx::query(
        "update registrations
         set waits_for = $2
         where id = $1
           and state in ('accepted', 'provisioning')",
    )
    .bind(id)
    .bind(Json(failure))
    .execute(tx)
    .await?;
    Ok(())
}

/// accepted, provisioning → ready, for a tenant that was ready before.
pub async fn mark_ready(tx: &mut PgConnection, id: Uuid) -> sqlx::Result<bool> {
    leave(tx, id, State::Ready, None).await
}

/// accepted, provisioning → failed, with the reason.
pub async fn mark_failed(
    tx: &mut PgConnection,
    id: Uuid,
    failure: &TenantFailure,
) -> sqlx::Result<bool> {
    leave(tx, id, State::Failed, Some(failure)).await
}

async fn leave(
    tx: &mut PgConnection,
    id: Uuid,
    state: State,
    failure: Option<&TenantFailure>,
) -> sqlx::Result<bool> {
    let left = sqlx::query(
        "update registrations
         set state = $2,
             step = null,
             waits_for = $3,
             ended_at = now()
         where id = $1
           and state in ('accepted', 'provisioning')",
    );
    let left = left.bind(id).bind(state).bind(failure.map(Json));
    Ok(left.execute(tx).await?.rows_affected() == 1)
}

/// failed → accepted: it is tried again, and has as long as at first. One whose tenant failed follows that.
pub async fn mark_retried(tx: &mut PgConnection, id: Uuid) -> sqlx::Result<bool> {
    let retried = sqlx::query(
        "update registrations
         set state = 'accepted',
             waits_for = null,
             ended_at = null,
             delayed_at = null,
             deadline_at = now() + may_take
         where id = $1
           and state = 'failed'",
    );
    Ok(retried.bind(id).execute(tx).await?.rows_affected() == 1)
}

/// accepted, provisioning, failed → abandoning.
pub async fn mark_abandoning(tx: &mut PgConnection, id: Uuid) -> sqlx::Result<bool> {
    let marked = sqlx::query(
        "update registrations
         set state = 'abandoning',
             step = null,
             waits_for = null,
             ended_at = null
         where id = $1
           and state in ('accepted', 'provisioning', 'failed')",
    );
    Ok(marked.bind(id).execute(tx).await?.rows_affected() == 1)
}

/// abandoning → abandoned: nothing is left.
pub async fn mark_abandoned(tx: &mut PgConnection, id: Uuid) -> sqlx::Result<bool> {
    let marked = sqlx::query(
        "update registrations
         set state = 'abandoned',
             steps_done = 0,
             ended_at = now()
         where id = $1
           and state = 'abandoning'",
    );
    Ok(marked.bind(id).execute(tx).await?.rows_affected() == 1)
}
