//! What was decided here about a membership, for the job that tells the provider.
//!
//! Guarantees: a decision that the provider was told is cleared, one that was taken while the provider
//! was being told of another stays in force, and the provider's own later word ends both.

use sqlx::PgConnection;

use super::Organization;
use crate::audit;

/// What the provider is to be told of a membership.
#[derive(Debug, sqlx::FromRow)]
pub struct Wanted {
    /// The provider's organization id.
    pub org_id: String,
    /// The provider's user id.
    pub user_id: String,
    /// Slug of the role.
    pub role: Option<String>,
    /// Slug of the role, where it was decided here and the provider has not been told.
    pub role_set: Option<String>,
    /// Whether the member is to have access.
    pub is_active: bool,
    /// Whether a removal was taken back here: the provider may still have it out of force.
    pub is_restored: bool,
    /// Whether the provider ended the membership: then it can only be begun anew.
    pub is_deleted: bool,
}

impl Wanted {
    /// The role of which the provider has to be told. Who is removed, or ended, has none there.
    pub fn role_to_tell(&self) -> Option<&str> {
        let has_role = self.is_active && (self.is_restored || !self.is_deleted);
        self.role_set.as_deref().filter(|_| has_role)
    }
}

/// The desired state of a membership that was removed, restored or given a role here.
pub async fn wanted(
    connection: &mut PgConnection,
    source: &str,
    membership_id: &str,
) -> sqlx::Result<Option<Wanted>> {
    sqlx::query_as(
        "select org_id, user_id,
                coalesce(role_in_force(memberships), role) as role,
                role_in_force(memberships) as role_set,
                removed_at is null as is_active,
                restored_at is not null as is_restored,
                deleted_at is not null as is_deleted
         from memberships
         where source = $1
           and membership_id = $2
           and content is not null",
    )
    .bind(source)
    .bind(membership_id)
    .fetch_optional(connection)
    .await
}

/// From here on the provider may have this role: whoever names it only repeats us.
pub async fn note_telling(
    tx: &mut PgConnection,
    (source, membership_id): (&str, &str),
    role: &str,
) -> sqlx::Result<()> {
    sqlx::query(
        "update memberships
         set roles_told = array_append(array_remove(roles_told, $3), $3)
         where source = $1
           and membership_id = $2",
    )
    .bind(source)
    .bind(membership_id)
    .bind(role)
    .execute(tx)
    .await?;
    Ok(())
}

/// The provider answered: the role that it was told is decided here no longer. Before the answer is recorded.
///
/// `told` is `None` where it was told of no role. Another role that was decided meanwhile outlives the answer.
pub async fn settle_role(
    tx: &mut PgConnection,
    (source, membership_id): (&str, &str),
    told: Option<&str>,
) -> sqlx::Result<()> {
    audit::by_event(tx, None).await?;
    sqlx::query(
        "update memberships
         set role_set = lasting.role,
             -- the answer is recorded in this transaction, as of its beginning
             role_set_at = case when lasting.role is not null then greatest(now(), recorded_at) end,
             roles_told = case when lasting.role is not null then roles_told end
         from (
             select case when role_set is distinct from $3 then role_in_force(memberships) end as role
             from memberships
             where source = $1
               and membership_id = $2
             for update
         ) as lasting
         where source = $1
           and membership_id = $2
           and role_set is not null",
    )
    .bind(source)
    .bind(membership_id)
    .bind(told)
    .execute(tx)
    .await?;
    Ok(())
}

/// The memberships about which something was decided here, in the order in which their jobs are locked.
pub async fn list_decided(
    connection: &mut PgConnection,
    of: Organization<'_>,
) -> sqlx::Result<Vec<String>> {
    sqlx::query_scalar(
        "select membership_id
         from memberships
         where source = $1
           and org_id = $2
           and (removed_at is not null or restored_at is not null or role_set is not null)
         order by membership_id",
    )
    .bind(of.source)
    .bind(of.org_id)
    .fetch_all(connection)
    .await
}
