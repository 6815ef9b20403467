//! Members: who belongs to a tenant, in which role, and what may be done about it.
//!
//! Guarantees: a member's status, role and name are computed from what the provider said and what was
//! decided here (view `members`), never stored; a member is removed and restored softly; nobody
//! removes themselves, and nobody the last administrator.
//!
//! Does not: record what providers say. `identity` does.

mod sync;

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use sqlx::{FromRow, PgConnection};

pub use sync::{
    Terms, Told, Unsynced, forget_syncs, mark_synced, mark_unknown, note_failures, unsynced,
};

/// Whether a member may use the tenant.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, sqlx::Type, Serialize, Deserialize)]
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
#[derive(Debug, Clone, FromRow, Serialize)]
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
}

/// Every column of [`Member`]; a macro because statements are literals. `$1` is the slug of the
/// administrators' role, which the creator has where nobody named one.
macro_rules! select_members {
    ($rest:literal) => {
        concat!(
            "select source, org_id, user_id, membership_id, status,
                    coalesce(role, case when is_creator then $1 end) as role,
                    customer_id, email, first_name, last_name, display_name, external_id, removed_at
             from members ",
            $rest
        )
    };
}

/// The members of an organization, by name.
pub async fn list(
    connection: &mut PgConnection,
    (source, org_id): (&str, &str),
    admin_role: &str,
) -> sqlx::Result<Vec<Member>> {
    sqlx::query_as(select_members!(
        "where source = $2 and org_id = $3
         order by lower(display_name), user_id"
    ))
    .bind(admin_role)
    .bind(source)
    .bind(org_id)
    .fetch_all(connection)
    .await
}
