//! Members: who belongs to a tenant, in which role, and what may be done about it.
//!
//! Guarantees: a member's status, role and name are computed from what the provider said and what was
//! decided here (view `members`), never stored; a removal is soft, ends the member's staff
//! assignments in the same transaction, and neither it nor a change of role ever hits the acting user
//! or the last administrator; an invitation and the job that sends it are one transaction, and so are
//! a decision and the job that tells the provider.
//!
//! Does not: record what providers say. `identity` does.

mod decided;
mod invitations;
mod pages;
mod permissions;
mod remove;
mod revoke;
mod roles;
mod staff;
mod sync;

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use sqlx::{FromRow, PgConnection};
use uuid::Uuid;

pub use decided::{Wanted, list_decided, note_telling, settle_role, wanted};
pub use invitations::{
    Asked, Invitation, Invited, Promise, find_asked, invite, list_invitations, list_invited,
    mark_not_sent, mark_sent, mark_to_be_sent,
};
pub use pages::{
    AssignmentFilter, MemberFilter, list_assignments_page, list_invitations_page, list_page,
};
pub use permissions::{Permissions, permissions, replace_blueprint_permissions};
pub use remove::{remove, restore};
pub use revoke::{
    Open, find_invitation, find_open, is_being_revoked, is_unsent, mark_not_revoked, resend, revoke,
};
pub use roles::set_role;
pub use staff::{Assignment, assign, end_assignments, find_assignment, list_assignments, unassign};
pub use sync::{
    Terms, Told, Unsynced, forget_syncs, mark_synced, mark_unknown, note_failures, unsynced,
};

use crate::queue;

/// An organization as its members' operations see it.
#[derive(Debug, Clone, Copy)]
pub struct Organization<'a> {
    /// Name of the source.
    pub source: &'a str,
    /// The provider's id.
    pub org_id: &'a str,
    /// Slug of the role that administers an organization.
    pub admin_role: &'a str,
}

/// Whether a member may use the tenant.
#[derive(
    Debug,
    Clone,
    Copy,
    PartialEq,
    Eq,
    PartialOrd,
    Ord,
    Hash,
    sqlx::Type,
    Serialize,
    Deserialize,
    utoipa::ToSchema,
)]
#[sqlx(type_name = "text", rename_all = "lowercase")]
#[serde(rename_all = "lowercase")]
pub enum Status {
    /// Yes.
    Active,
    /// Not any more.
    Removed,
    /// Not yet.
    Invited,
}

impl Status {
    /// The word as it is stored and shown.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Active => "active",
            Self::Removed => "removed",
            Self::Invited => "invited",
        }
    }
}

/// A member of an organization.
#[derive(Debug, Clone, FromRow, Serialize, utoipa::ToSchema)]
pub struct Member {
    /// Name of the source.
    pub source: String,
    /// The provider's organization id.
    pub org_id: String,
    /// The provider's user id.
    pub user_id: String,
    /// The provider's id of the membership.
    pub membership_id: String,
    /// Whether the member may use the tenant.
    pub status: Status,
    /// Slug of the role; `None` where neither provider nor invitation named one.
    pub role: Option<String>,
    /// The application's customer that the member was invited for.
    pub customer_id: Option<String>,
    /// E-mail address; there may be none.
    pub email: Option<String>,
    /// Given name.
    pub first_name: Option<String>,
    /// Family name.
    pub last_name: Option<String>,
    /// Given and family name, else the e-mail address, else the user id.
    pub display_name: String,
    /// The application's own id of the user.
    pub external_id: Option<String>,
    /// When the member was removed here.
    pub removed_at: Option<DateTime<Utc>>,
    /// When such a removal was taken back.
    pub restored_at: Option<DateTime<Utc>>,
    /// The name as lists are sorted by it: the database's own lower case, which is not Rust's.
    #[serde(skip)]
    pub sort_name: String,
}

/// Why something cannot be done about a member.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The database does not answer, or refuses.
    #[error("the members cannot be read or written")]
    Sql(#[from] sqlx::Error),
    /// The queue does not take the job.
    #[error("the job cannot be enqueued")]
    Queue(#[from] queue::Error),
    /// There is no such member.
    #[error("user {user_id} is no member of organization {org_id}")]
    Unknown {
        /// The user.
        user_id: String,
        /// The organization.
        org_id: String,
    },
    /// The acting user is the member.
    #[error("user {0} cannot remove or restore themselves, or change their own role")]
    Yourself(String),
    /// Nobody would administer the organization any more.
    #[error("user {0} is the last active administrator")]
    LastAdmin(String),
    /// The member is not in the state that the operation needs.
    #[error("user {user_id} is {status}")]
    WrongStatus {
        /// The user.
        user_id: String,
        /// What the member is.
        status: &'static str,
    },
    /// The removal was not made here: taking it back is the provider's.
    #[error("user {0} was removed at the provider, not here")]
    RemovedElsewhere(String),
    /// The provider has described its roles, and this is none of them.
    #[error("role {0:?} is none of those that the provider has described")]
    RoleUnknown(String),
    /// There is no such invitation to the organization.
    #[error("there is no invitation {id} to organization {org_id}")]
    UnknownInvitation {
        /// Our id of it.
        id: Uuid,
        /// The organization.
        org_id: String,
    },
    /// The invitation is not in the state that the operation needs.
    #[error("invitation {id} is {state}")]
    WrongState {
        /// Our id of it.
        id: Uuid,
        /// What it is.
        state: String,
    },
    /// The provider's API cannot send an invitation again.
    #[error("the API of source {0} cannot send an invitation again")]
    CannotResend(String),
    /// A member or an open invitation has the e-mail address already.
    #[error("the e-mail address belongs to {0} already")]
    AlreadyThere(&'static str),
    /// A customer's id or a role's slug that cannot be one.
    #[error("the {0} must have 1 to 255 bytes, no control character, and be no key or token")]
    BadText(&'static str),
    /// The e-mail address is none.
    #[error("{0:?} is no e-mail address")]
    BadEmail(String),
    /// Nothing can be sent without the provider's API.
    #[error("source {0} has no api_key to call the provider with")]
    NoProviderApi(String),
}

impl Error {
    /// Stable code, explained in docs/errors.md.
    pub const fn code(&self) -> &'static str {
        match self {
            Self::Sql(_) | Self::Queue(_) => "control_database_unavailable",
            Self::Unknown { .. } => "member_unknown",
            Self::Yourself(_) => "member_is_yourself",
            Self::LastAdmin(_) => "member_is_last_admin",
            Self::WrongStatus { .. } => "member_wrong_status",
            Self::RemovedElsewhere(_) => "member_removed_elsewhere",
            Self::RoleUnknown(_) => "role_unknown",
            Self::UnknownInvitation { .. } => "invitation_unknown",
            Self::WrongState { .. } => "invitation_wrong_state",
            Self::CannotResend(_) => "provider_unsupported",
            Self::AlreadyThere(_) => "member_already_there",
            Self::BadText(_) => "member_text_invalid",
            Self::BadEmail(_) => "email_invalid",
            Self::NoProviderApi(_) => "provider_api_not_configured",
        }
    }
}

/// Texts that callers give us are shown and indexed.
fn check_text(text: &str, what: &'static str) -> Result<(), Error> {
    let is_usable = !text.trim().is_empty()
        && text.len() <= 255
        && !text.contains(|c: char| c.is_control())
        && !looks_like_credentials(text);
    is_usable.then_some(()).ok_or(Error::BadText(what))
}

/// An API key or a token in the wrong field: it must not get into the audit log.
fn looks_like_credentials(text: &str) -> bool {
    (text.starts_with("tnt_") && text.len() > 40)
        || (text.starts_with("eyJ") && text.matches('.').count() >= 2)
}

/// Every column of [`Member`]; a macro because statements are literals. `$1` is the slug of the
/// administrators' role, which the creator has where nobody named one.
macro_rules! select_members {
    ($rest:literal) => {
        concat!(
            "select source, org_id, user_id, membership_id, status,
                    coalesce(role, case when is_creator then $1 end) as role,
                    customer_id, email, first_name, last_name, display_name, external_id, removed_at, restored_at,
                    lower(display_name) as sort_name
             from members ",
            $rest
        )
    };
}

use select_members;

/// The members of an organization, by name.
pub async fn list(
    connection: &mut PgConnection,
    of: Organization<'_>,
) -> sqlx::Result<Vec<Member>> {
    sqlx::query_as(select_members!(
        "where source = $2 and org_id = $3
         order by lower(display_name), user_id"
    ))
    .bind(of.admin_role)
    .bind(of.source)
    .bind(of.org_id)
    .fetch_all(connection)
    .await
}

/// The host of a ready tenant to which whoever has this e-mail address belongs.
pub async fn find_ready_tenant(
    connection: &mut PgConnection,
    source: &str,
    email_key: &str,
) -> sqlx::Result<Option<String>> {
    sqlx::query_scalar(
        "select tenants.url
         from users
         -- offset: the view is asked about this user alone, and not computed for everybody to be joined
         cross join lateral (
             select org_id
             from members
             where members.source = users.source
               and members.user_id = users.user_id
               and members.status = 'active'
             offset 0
         ) as belonging
         join tenants
             on tenants.source = users.source
             and tenants.org_id = belonging.org_id
         where users.source = $1
           and lower(users.email) = $2
           and tenants.state = 'ready'
         order by tenants.ready_at
         limit 1",
    )
    .bind(source)
    .bind(email_key)
    .fetch_optional(connection)
    .await
}

/// One member.
pub async fn find(
    connection: &mut PgConnection,
    of: Organization<'_>,
    user_id: &str,
) -> Result<Member, Error> {
    let found = sqlx::query_as(select_members!(
        "where source = $2 and org_id = $3 and user_id = $4"
    ))
    .bind(of.admin_role)
    .bind(of.source)
    .bind(of.org_id)
    .bind(user_id)
    .fetch_optional(connection)
    .await?;
    found.ok_or_else(|| Error::Unknown {
        user_id: user_id.to_owned(),
        org_id: of.org_id.to_owned(),
    })
}

/// How many members there are of a kind.
#[derive(Debug, Clone, PartialEq, Eq, FromRow, Serialize, utoipa::ToSchema)]
pub struct Count {
    /// Whether they may use the tenant.
    pub status: Status,
    /// Their role; `None` where nobody named one.
    pub role: Option<String>,
    /// How many.
    pub members: i64,
}

/// Members by status and role; who is invited and known by e-mail address alone counts as invited.
pub async fn count(
    connection: &mut PgConnection,
    of: Organization<'_>,
) -> sqlx::Result<Vec<Count>> {
    sqlx::query_as(
        "with member as materialized (
             select status, coalesce(role, case when is_creator then $1 end) as role, lower(email) as email
             from members
             where source = $2
               and org_id = $3
         ), invited as (
             -- who was invited twice is one person
             select distinct on (lower(invitation.email)) invitation.role
             from standing_invitations invitation
             where invitation.source = $2
               and invitation.org_id = $3
               and invitation.state in ('requested', 'pending')
               and not exists (
                   select
                   from member
                   where member.email = lower(invitation.email)
                     and member.status in ('active', 'invited')
               )
             order by lower(invitation.email), invitation.updated_at desc, invitation.id
         )
         select status, role, count(*) as members
         from (
             select status, role from member
             union all
             select 'invited', role from invited
         ) as everybody
         group by status, role
         order by array_position(array['active', 'removed', 'invited'], status), role collate \"C\" nulls first",
    )
    .bind(of.admin_role)
    .bind(of.source)
    .bind(of.org_id)
    .fetch_all(connection)
    .await
}
