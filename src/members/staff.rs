//! Staff assignments: which member looks after which of the application's customers.

use chrono::{DateTime, Utc};
use serde::Serialize;
use sqlx::{FromRow, PgConnection};

use super::{Error, Organization, Status, find};
use crate::audit::{self, Actor};

/// A member and a customer that the member looks after.
#[derive(Debug, Clone, FromRow, Serialize, utoipa::ToSchema)]
pub struct Assignment {
    /// The provider's user id.
    pub user_id: String,
    /// The application's id of the customer.
    pub customer_id: String,
    /// Who assigned.
    pub assigned_by: String,
    /// When.
    pub assigned_at: DateTime<Utc>,
}

/// Assigns an active member; false when that was so already.
pub async fn assign(
    tx: &mut PgConnection,
    of: Organization<'_>,
    user_id: &str,
    customer_id: &str,
    actor: &Actor,
) -> Result<bool, Error> {
    super::check_text(customer_id, "customer's id")?;
    // a removal of the membership in the same instant, here or at the provider, sees the assignment or is seen
    super::remove::one_at_a_time(tx, of).await?;
    hold_memberships(tx, of, user_id).await?;
    let member = find(tx, of, user_id).await?;
    if member.status != Status::Active {
        let status = member.status.name();
        let user_id = member.user_id;
        return Err(Error::WrongStatus { user_id, status });
    }
    audit::by(tx, actor).await?;
    let assigned = sqlx::query(
        "insert into staff_assignments (source, org_id, user_id, customer_id, assigned_by)
         values ($1, $2, $3, $4, $5)
         on conflict do nothing",
    )
    .bind(of.source)
    .bind(of.org_id)
    .bind(user_id)
    .bind(customer_id)
    .bind(actor.name())
    .execute(tx)
    .await?;
    Ok(assigned.rows_affected() == 1)
}

/// What the memberships are now they stay until the transaction ends: an event that ends one waits.
async fn hold_memberships(
    tx: &mut PgConnection,
    of: Organization<'_>,
    user_id: &str,
) -> sqlx::Result<()> {
    sqlx::query(
        "select
         from memberships
         where source = $1
           and org_id = $2
           and user_id = $3
         order by membership_id
         for share",
    )
    .bind(of.source)
    .bind(of.org_id)
    .bind(user_id)
    .execute(tx)
    .await?;
    Ok(())
}

/// Ends an assignment; false when there was none.
pub async fn unassign(
    tx: &mut PgConnection,
    of: Organization<'_>,
    user_id: &str,
    customer_id: &str,
    actor: &Actor,
) -> Result<bool, Error> {
    audit::by(tx, actor).await?;
    let ended = sqlx::query(
        "delete from staff_assignments
         where source = $1
           and org_id = $2
           and user_id = $3
           and customer_id = $4",
    )
    .bind(of.source)
    .bind(of.org_id)
    .bind(user_id)
    .bind(customer_id)
    .execute(tx)
    .await?;
    Ok(ended.rows_affected() == 1)
}

/// Ends the assignments of everybody in these organizations who is no active member any more.
///
/// A removal at the provider ends them for good, like one that is made here.
pub async fn end_assignments(
    tx: &mut PgConnection,
    (sources, organizations): (Vec<&str>, Vec<&str>),
) -> sqlx::Result<()> {
    sqlx::query(
        "delete from staff_assignments assignment
         using unnest($1::text[], $2::text[]) as affected (source, org_id)
         where assignment.source = affected.source
           and assignment.org_id = affected.org_id
           and not exists (
               select
               from members
               where members.source = assignment.source
                 and members.org_id = assignment.org_id
                 and members.user_id = assignment.user_id
                 and members.status = 'active'
           )",
    )
    .bind(sources)
    .bind(organizations)
    .execute(tx)
    .await?;
    Ok(())
}

/// One assignment.
pub async fn find_assignment(
    connection: &mut PgConnection,
    of: Organization<'_>,
    user_id: &str,
    customer_id: &str,
) -> sqlx::Result<Option<Assignment>> {
    sqlx::query_as(
        "select user_id, customer_id, assigned_by, assigned_at
         from staff_assignments
         where source = $1
           and org_id = $2
           and user_id = $3
           and customer_id = $4",
    )
    .bind(of.source)
    .bind(of.org_id)
    .bind(user_id)
    .bind(customer_id)
    .fetch_optional(connection)
    .await
}

/// The assignments of an organization.
pub async fn list_assignments(
    connection: &mut PgConnection,
    of: Organization<'_>,
) -> sqlx::Result<Vec<Assignment>> {
    sqlx::query_as(
        "select user_id, customer_id, assigned_by, assigned_at
         from staff_assignments
         where source = $1
           and org_id = $2
         order by user_id, customer_id",
    )
    .bind(of.source)
    .bind(of.org_id)
    .fetch_all(connection)
    .await
}
