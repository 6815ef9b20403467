//! Lists in pages.
//!
//! Guarantees: a page begins after the sort key of the one before, so that whoever is there all the
//! time is listed exactly once, whatever comes and goes meanwhile. Keys are compared by the database
//! that made them: its lower case and its order of letters are its own.

use sqlx::PgConnection;

use super::{
    Assignment, Invitation, Member, Organization, Status, invitations::select_invitations,
    select_members,
};

/// Which members a list is about; everything that is given must be so.
#[derive(Debug, Clone, Default)]
pub struct MemberFilter {
    /// Of this status.
    pub status: Option<Status>,
    /// Of this role.
    pub role: Option<String>,
    /// With this in their name, e-mail address or user id, in whatever case.
    pub search: Option<String>,
}

/// Up to `limit` members after this sort name and user id, by name.
pub async fn list_page(
    connection: &mut PgConnection,
    of: Organization<'_>,
    filter: &MemberFilter,
    after: Option<(String, String)>,
    limit: i64,
) -> sqlx::Result<Vec<Member>> {
    let (after_name, after_user) = after.unzip();
    sqlx::query_as(select_members!(
        "where source = $2
           and org_id = $3
           and ($4::text is null or status = $4)
           and ($5::text is null or coalesce(role, case when is_creator then $1 end) = $5)
           -- a search for a text, not for a pattern
           and ($6::text is null
                or strpos(lower(display_name), lower($6)) > 0
                or strpos(lower(email), lower($6)) > 0
                or strpos(lower(user_id), lower($6)) > 0)
           and ($7::text is null or (lower(display_name), user_id) > ($7, $8))
         order by lower(display_name), user_id
         limit $9"
    ))
    .bind(of.admin_role)
    .bind(of.source)
    .bind(of.org_id)
    .bind(filter.status.map(Status::name))
    .bind(&filter.role)
    .bind(&filter.search)
    .bind(after_name)
    .bind(after_user)
    .bind(limit)
    .fetch_all(connection)
    .await
}

/// Up to `limit` invitations before this number, the latest known first; of this state where one is given.
pub async fn list_invitations_page(
    connection: &mut PgConnection,
    of: Organization<'_>,
    state: Option<&str>,
    before: Option<i64>,
    limit: i64,
) -> sqlx::Result<Vec<Invitation>> {
    sqlx::query_as(select_invitations!(
        "where source = $1
           and org_id = $2
           and ($3::text is null or coalesce(state, 'pending') = $3)
           and ($4::bigint is null or number < $4)
         order by number desc
         limit $5"
    ))
    .bind(of.source)
    .bind(of.org_id)
    .bind(state)
    .bind(before)
    .bind(limit)
    .fetch_all(connection)
    .await
}

/// Which assignments a list is about; everything that is given must be so.
#[derive(Debug, Clone, Default)]
pub struct AssignmentFilter {
    /// Of this user.
    pub user_id: Option<String>,
    /// To this customer.
    pub customer_id: Option<String>,
}

/// Up to `limit` assignments after this user id and customer id, by both.
pub async fn list_assignments_page(
    connection: &mut PgConnection,
    of: Organization<'_>,
    filter: &AssignmentFilter,
    after: Option<(String, String)>,
    limit: i64,
) -> sqlx::Result<Vec<Assignment>> {
    let (after_user, after_customer) = after.unzip();
    sqlx::query_as(
        "select user_id, customer_id, assigned_by, assigned_at
         from staff_assignments
         where source = $1
           and org_id = $2
           and ($3::text is null or user_id = $3)
           and ($4::text is null or customer_id = $4)
           and ($5::text is null or (user_id, customer_id) > ($5, $6))
         order by user_id, customer_id
         limit $7",
    )
    .bind(of.source)
    .bind(of.org_id)
    .bind(&filter.user_id)
    .bind(&filter.customer_id)
    .bind(after_user)
    .bind(after_customer)
    .bind(limit)
    .fetch_all(connection)
    .await
}
