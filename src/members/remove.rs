//! Removal and restoration.
//!
//! Guarantees: removals of one organization are decided one after the other, so that two
//! administrators who remove each other in the same instant do not leave it without one.

use sqlx::PgConnection;

use super::{Error, Member, Organization, Status, find};
use crate::audit::{self, Actor};

/// Removes a member softly; returns how many staff assignments ended with it.
///
/// The caller runs it in a transaction, together with the jobs that bring tenant and provider to the same state.
pub async fn remove(
    tx: &mut PgConnection,
    of: Organization<'_>,
    user_id: &str,
    actor: &Actor,
) -> Result<u64, Error> {
    one_at_a_time(tx, of).await?;
    let member = find(tx, of, user_id).await?;
    if *actor == Actor::User(user_id.to_owned()) {
        return Err(Error::Yourself(user_id.to_owned()));
    }
    // who is only invited has nothing to be removed from: an invitation is revoked
    if member.status != Status::Active {
        return Err(wrong_status(&member));
    }
    if is_last_admin(tx, of, &member).await? {
        return Err(Error::LastAdmin(user_id.to_owned()));
    }
    audit::by(tx, actor).await?;
    sqlx::query(
        "update memberships
         set removed_at = now(),
             removed_by = $4,
             restored_at = null
         where source = $1
           and org_id = $2
           and user_id = $3
           and removed_at is null
           and deleted_at is null",
    )
    .bind(of.source)
    .bind(of.org_id)
    .bind(user_id)
    .bind(actor.name())
    .execute(&mut *tx)
    .await?;
    let ended = sqlx::query(
        "delete from staff_assignments where source = $1 and org_id = $2 and user_id = $3",
    )
    .bind(of.source)
    .bind(of.org_id)
    .bind(user_id)
    .execute(&mut *tx)
    .await?;
    Ok(ended.rows_affected())
}

/// Takes a removal back; staff assignments do not come back.
///
/// The caller runs it in a transaction, together with the jobs that bring tenant and provider to the same state.
pub async fn restore(
    tx: &mut PgConnection,
    of: Organization<'_>,
    user_id: &str,
    actor: &Actor,
) -> Result<(), Error> {
    one_at_a_time(tx, of).await?;
    let member = find(tx, of, user_id).await?;
    if *actor == Actor::User(user_id.to_owned()) {
        return Err(Error::Yourself(user_id.to_owned()));
    }
    if member.status != Status::Removed {
        return Err(wrong_status(&member));
    }
    // without a removal of ours there is nothing of ours to take back; once more may help the provider
    if member.removed_at.is_none() && member.restored_at.is_none() {
        return Err(Error::RemovedElsewhere(user_id.to_owned()));
    }
    audit::by(tx, actor).await?;
    sqlx::query(
        "update memberships
         set removed_at = null,
             removed_by = null,
             -- the provider may still call it inactive until it is told
             restored_at = now()
         where source = $1
           and org_id = $2
           and user_id = $3
           and (removed_at is not null or restored_at is not null)",
    )
    .bind(of.source)
    .bind(of.org_id)
    .bind(user_id)
    .execute(&mut *tx)
    .await?;
    Ok(())
}

pub(super) fn wrong_status(member: &Member) -> Error {
    Error::WrongStatus {
        user_id: member.user_id.clone(),
        status: member.status.name(),
    }
}

/// Decisions about the members of one organization are taken one after the other.
pub(super) async fn one_at_a_time(tx: &mut PgConnection, of: Organization<'_>) -> sqlx::Result<()> {
    sqlx::query("select pg_advisory_xact_lock(hashtextextended('members:' || $1 || ':' || $2, 0))")
        .bind(of.source)
        .bind(of.org_id)
        .execute(tx)
        .await?;
    Ok(())
}

pub(super) async fn is_last_admin(
    tx: &mut PgConnection,
    of: Organization<'_>,
    member: &Member,
) -> sqlx::Result<bool> {
    if member.status != Status::Active || member.role.as_deref() != Some(of.admin_role) {
        return Ok(false);
    }
    sqlx::query_scalar(
        "select not exists (
             select
             from members
             where source = $1
               and org_id = $2
               and user_id <> $3
               and status = 'active'
               and coalesce(role, case when is_creator then $4 end) = $4
         )",
    )
    .bind(of.source)
    .bind(of.org_id)
    .bind(&member.user_id)
    .bind(of.admin_role)
    .fetch_one(tx)
    .await
}
