//! Roles that are given here.
//!
//! Guarantees: like removals they are decided one after the other, so that two administrators who
//! demote each other in the same instant do not leave the organization without one.

use sqlx::PgConnection;

use super::{
    Error, Organization, Status, find,
    remove::{is_last_admin, one_at_a_time, wrong_status},
};
use crate::audit::{self, Actor};

/// Gives an active member another role; false when the member has it already.
///
/// The caller runs it in a transaction, together with the jobs that bring tenant and provider to the same state.
pub async fn set_role(
    tx: &mut PgConnection,
    of: Organization<'_>,
    user_id: &str,
    role: &str,
    actor: &Actor,
) -> Result<bool, Error> {
    super::check_text(role, "role")?;
    one_at_a_time(tx, of).await?;
    let member = find(tx, of, user_id).await?;
    if *actor == Actor::User(user_id.to_owned()) {
        return Err(Error::Yourself(user_id.to_owned()));
    }
    if member.status != Status::Active {
        return Err(wrong_status(&member));
    }
    check_known(tx, of, role).await?;
    if member.role.as_deref() == Some(role) {
        return Ok(false);
    }
    if role != of.admin_role && is_last_admin(tx, of, &member).await? {
        return Err(Error::LastAdmin(user_id.to_owned()));
    }
    audit::by(tx, actor).await?;
    sqlx::query(
        "update memberships
         set role_set = $3,
             -- what was recorded while this transaction waited was said before it
             role_set_at = greatest(now(), recorded_at),
             -- a late description of what was so before is no answer to this
             roles_told = array_append(array_remove(roles_told, coalesce(role, $4)), coalesce(role, $4))
         where source = $1
           and membership_id = $2",
    )
    .bind(of.source)
    .bind(&member.membership_id)
    .bind(role)
    .bind(&member.role)
    .execute(tx)
    .await?;
    Ok(true)
}

/// Fails unless the provider has described the role for the organization, or none at all.
pub(super) async fn check_known(
    tx: &mut PgConnection,
    of: Organization<'_>,
    role: &str,
) -> Result<(), Error> {
    let is_known: bool = sqlx::query_scalar(
        "select coalesce(bool_or(slug = $3), true)
         from roles
         where source = $1
           and coalesce(org_id = $2, true)
           and content is not null
           and deleted_at is null
           and not is_gone",
    )
    .bind(of.source)
    .bind(of.org_id)
    .bind(role)
    .fetch_one(tx)
    .await?;
    is_known
        .then_some(())
        .ok_or_else(|| Error::RoleUnknown(role.to_owned()))
}
