//! Invitations that are taken back or sent again.
//!
//! ```text
//!  not begun to be sent ─▶ revoked, and that is all
//!  being sent, pending  ─▶ shown as revoked ─▶ job ─▶ revoked at the provider
//!                                               ├──▶ accepted there meanwhile: accepted
//!                                               └──▶ the provider cannot be told: shown as it is there
//! ```
//!
//! Guarantees: an invitation is not shown as revoked for good while it is open at the provider.

use sqlx::{FromRow, PgConnection};
use uuid::Uuid;

use super::{Error, Invitation, Organization, invitations::select_invitations, remove};
use crate::audit::{self, Actor};

/// An invitation of an organization by our id of it; another organization's is unknown.
pub async fn find_invitation(
    connection: &mut PgConnection,
    of: Organization<'_>,
    id: Uuid,
) -> Result<Invitation, Error> {
    let found = sqlx::query_as(select_invitations!(
        "where source = $1
           and org_id = $2
           and id = $3"
    ))
    .bind(of.source)
    .bind(of.org_id)
    .bind(id)
    .fetch_optional(connection)
    .await?;
    found.ok_or_else(|| Error::UnknownInvitation {
        id,
        org_id: of.org_id.to_owned(),
    })
}

/// Fails unless the invitation was asked for here and waits to be sent (true), or is open (false).
pub async fn is_unsent(
    connection: &mut PgConnection,
    of: Organization<'_>,
    id: Uuid,
) -> Result<bool, Error> {
    let invitation = find_invitation(connection, of, id).await?;
    match invitation.state.as_str() {
        "requested" => Ok(true),
        "pending" => Ok(false),
        _ => Err(wrong_state(invitation)),
    }
}

/// Takes an invitation back that is requested (true) or pending (false).
///
/// The caller runs it in a transaction, together with the end of the job that sends it, or the job that tells the provider.
pub async fn revoke(
    tx: &mut PgConnection,
    of: Organization<'_>,
    id: Uuid,
    actor: &Actor,
) -> Result<bool, Error> {
    remove::one_at_a_time(tx, of).await?;
    lock(tx, id).await?;
    let is_unsent = is_unsent(tx, of, id).await?;
    audit::by(tx, actor).await?;
    sqlx::query("update invitations set revoke_requested_at = now() where id = $1")
        .bind(id)
        .execute(tx)
        .await?;
    Ok(is_unsent)
}

/// Notes that an invitation that is pending or has expired is to be sent again.
///
/// The caller runs it in a transaction, together with the job that does it.
pub async fn resend(
    tx: &mut PgConnection,
    of: Organization<'_>,
    id: Uuid,
    actor: &Actor,
) -> Result<(), Error> {
    remove::one_at_a_time(tx, of).await?;
    lock(tx, id).await?;
    let invitation = find_invitation(tx, of, id).await?;
    if !matches!(invitation.state.as_str(), "pending" | "expired") {
        return Err(wrong_state(invitation));
    }
    audit::by(tx, actor).await?;
    sqlx::query("update invitations set resend_requested_at = now() where id = $1")
        .bind(id)
        .execute(tx)
        .await?;
    Ok(())
}

fn wrong_state(invitation: Invitation) -> Error {
    Error::WrongState {
        id: invitation.id,
        state: invitation.state,
    }
}

/// What it is now stays so until the transaction ends.
async fn lock(tx: &mut PgConnection, id: Uuid) -> sqlx::Result<()> {
    sqlx::query("select from invitations where id = $1 for update")
        .bind(id)
        .execute(tx)
        .await?;
    Ok(())
}

/// An invitation that may be open at the provider.
#[derive(Debug, Clone, FromRow)]
pub struct Open {
    /// Name of the source.
    pub source: String,
    /// The provider's organization id.
    pub org_id: String,
    /// The provider's id; `None` where nobody knows whether it was sent.
    pub invitation_id: Option<String>,
    /// Where it went, or was to go.
    pub email: Option<String>,
    /// Whether it was taken back here.
    pub is_revoked: bool,
}

/// An invitation that may be open at the provider; `None` when it is not, or not any more.
pub async fn find_open(connection: &mut PgConnection, id: Uuid) -> sqlx::Result<Option<Open>> {
    sqlx::query_as(
        "select source, org_id, invitation_id, email, revoke_requested_at is not null as is_revoked
         from invitations
         where id = $1
           and deleted_at is null
           -- one that was taken back may be open there although its sending failed
           and (failure is null or revoke_requested_at is not null)
           and state in ('requested', 'pending', 'expired')",
    )
    .bind(id)
    .fetch_optional(connection)
    .await
}

/// Whether the provider's invitation of this id was taken back here, and the provider may not know it yet.
pub async fn is_being_revoked(
    connection: &mut PgConnection,
    source: &str,
    invitation_id: &str,
) -> sqlx::Result<bool> {
    sqlx::query_scalar(
        "select exists (
             select
             from invitations
             where source = $1
               and invitation_id = $2
               and revoke_requested_at is not null
         )",
    )
    .bind(source)
    .bind(invitation_id)
    .fetch_one(connection)
    .await
}

/// The provider cannot be told: the invitation is shown as it is there.
pub async fn mark_not_revoked(tx: &mut PgConnection, id: Uuid, reason: &str) -> sqlx::Result<()> {
    sqlx::query(
        "update invitations
         set revoke_requested_at = null,
             -- whether it was ever sent cannot be found out
             failure = case when invitation_id is null then $2 end
         where id = $1
           and revoke_requested_at is not null",
    )
    .bind(id)
    .bind(reason)
    .execute(tx)
    .await?;
    Ok(())
}
