//! Invitations that are asked for here, and all of them as they are shown.

use chrono::{DateTime, Utc};
use serde::Serialize;
use serde_json::json;
use sqlx::{FromRow, PgConnection, types::Json};
use uuid::Uuid;

use super::{Error, Organization};
use crate::{
    audit::{self, Actor},
    queue::{self, NewJob},
};

/// An invitation, as it is shown.
#[derive(Debug, Clone, FromRow, Serialize, utoipa::ToSchema)]
pub struct Invitation {
    /// Our id of it.
    pub id: Uuid,
    /// In the order in which invitations became known here.
    #[serde(skip)]
    pub number: i64,
    /// The provider's id; `None` until it was sent.
    pub invitation_id: Option<String>,
    /// Where it goes.
    pub email: Option<String>,
    /// `requested`, `pending`, `accepted`, `revoked`, `expired` or `failed`.
    pub state: String,
    /// Slug of the promised role.
    pub role: Option<String>,
    /// The application's customer that the person is invited for.
    pub customer_id: Option<String>,
    /// Why it could not be sent.
    pub failure: Option<String>,
    /// Who asked for it here; `None` where it was made at the provider.
    pub requested_by: Option<String>,
    /// Until when it can be accepted.
    pub expires_at: Option<DateTime<Utc>>,
    /// When the provider, or else we, changed it last.
    pub updated_at: Option<DateTime<Utc>>,
}

/// Every column of [`Invitation`]; a macro because statements are literals.
macro_rules! select_invitations {
    ($rest:literal) => {
        concat!(
            "select id, number, invitation_id, email, coalesce(state, 'pending') as state, role, customer_id, failure,
                    requested_by, expires_at, updated_at
             from standing_invitations ",
            $rest
        )
    };
}
pub(super) use select_invitations;

/// What an invitation promises.
#[derive(Debug, Clone, Copy)]
pub struct Promise<'a> {
    /// Who is invited.
    pub email: &'a str,
    /// Slug of the role.
    pub role: Option<&'a str>,
    /// The application's customer that the person is for.
    pub customer_id: Option<&'a str>,
}

/// An invitation that was asked for here, for the job that sends it.
#[derive(Debug, Clone, FromRow)]
pub struct Asked {
    /// Name of the source.
    pub source: String,
    /// The provider's organization id.
    pub org_id: String,
    /// Who is invited.
    pub email: String,
    /// Slug of the role.
    pub role: Option<String>,
    /// The application's customer.
    pub customer_id: Option<String>,
    /// The provider's user id of who invited, where a user did.
    pub inviter_user_id: Option<String>,
}

/// Asks for an invitation: `requested` until the job that `send` makes has sent it.
pub async fn invite(
    tx: &mut PgConnection,
    of: Organization<'_>,
    promise: Promise<'_>,
    actor: &Actor,
    send: impl FnOnce(Uuid) -> NewJob,
) -> Result<Uuid, Error> {
    let email = promise.email.trim();
    let is_address = email.len() <= 320
        && !email.contains(|c: char| {
            // white space, brackets of a display form, and marks that turn the direction of text
            c.is_whitespace()
                || c.is_control()
                || "<>()[],;:\"\\".contains(c)
                || ('\u{202a}'..='\u{2069}').contains(&c)
        })
        && matches!(email.split_once('@'), Some((who, at)) if !who.is_empty() && !at.is_empty() && !at.contains('@'));
    if !is_address {
        return Err(Error::BadEmail(email.to_owned()));
    }
    if let Some(role) = promise.role {
        super::check_text(role, "role")?;
        super::roles::check_known(tx, of, role).await?;
    }
    if let Some(customer_id) = promise.customer_id {
        super::check_text(customer_id, "customer's id")?;
    }
    // two requests for one address are decided one after the other
    super::remove::one_at_a_time(tx, of).await?;
    if let Some(holder) = holder(tx, of, email).await? {
        return Err(Error::AlreadyThere(holder));
    }
    audit::by(tx, actor).await?;
    let inviter = match actor {
        Actor::User(id) => Some(id),
        Actor::Operator(_) | Actor::Key(_) => None,
    };
    let content = json!({
        "organization_id": of.org_id,
        "email": email,
        "state": "requested",
        "inviter_user_id": inviter,
    });
    let id = sqlx::query_scalar(
        "insert into invitations (source, content, role, customer_id, requested_by, requested_at)
         values ($1, $2, $3, $4, $5, now())
         returning id",
    )
    .bind(of.source)
    .bind(Json(content))
    .bind(promise.role)
    .bind(promise.customer_id)
    .bind(actor.name())
    .fetch_one(&mut *tx)
    .await?;
    queue::enqueue(tx, &send(id)).await?;
    Ok(id)
}

async fn holder(
    tx: &mut PgConnection,
    of: Organization<'_>,
    email: &str,
) -> sqlx::Result<Option<&'static str>> {
    let (is_member, is_invited): (bool, bool) = sqlx::query_as(
        "select exists (
                    select
                    from members
                    where source = $1 and org_id = $2 and lower(email) = lower($3) and status in ('active', 'invited')
                ),
                exists (
                    select
                    from standing_invitations
                    where source = $1 and org_id = $2 and lower(email) = lower($3)
                      and state in ('requested', 'pending')
                )",
    )
    .bind(of.source)
    .bind(of.org_id)
    .bind(email)
    .fetch_one(tx)
    .await?;
    Ok(match (is_member, is_invited) {
        (true, _) => Some("a member"),
        (false, true) => Some("an open invitation"),
        (false, false) => None,
    })
}

/// An invitation that is still to be sent; `None` when it was sent, or taken back.
pub async fn find_asked(connection: &mut PgConnection, id: Uuid) -> sqlx::Result<Option<Asked>> {
    sqlx::query_as(
        "select source, org_id, email, role, customer_id, inviter_user_id
         from invitations
         where id = $1
           and invitation_id is null
           and revoke_requested_at is null
           and failure is null",
    )
    .bind(id)
    .fetch_optional(connection)
    .await
}

/// The provider has it under this id: what it says of the id belongs to this row.
///
/// Where the provider's event was faster and has a row already, that one gets what was promised and
/// decided here, and the id under which it was asked for.
pub async fn mark_sent(tx: &mut PgConnection, id: Uuid, invitation_id: &str) -> sqlx::Result<()> {
    let marked = sqlx::query(
        "update invitations
         set invitation_id = $2,
             failure = null
         where id = $1
           and invitation_id is null
           and not exists (
               select
               from invitations known
               where known.source = invitations.source
                 and known.invitation_id = $2
           )",
    )
    .bind(id)
    .bind(invitation_id)
    .execute(&mut *tx)
    .await?;
    if marked.rows_affected() == 1 {
        return Ok(());
    }
    sqlx::query(
        "with asked as (
             delete from invitations
             where id = $1
               and invitation_id is null
             returning id, source, role, customer_id, requested_by, requested_at, revoke_requested_at
         )
         update invitations known
         set id = asked.id,
             role = coalesce(known.role, asked.role),
             customer_id = coalesce(asked.customer_id, known.customer_id),
             requested_by = asked.requested_by,
             requested_at = asked.requested_at,
             revoke_requested_at = asked.revoke_requested_at
         from asked
         where known.source = asked.source
           and known.invitation_id = $2",
    )
    .bind(id)
    .bind(invitation_id)
    .execute(tx)
    .await?;
    Ok(())
}

/// It cannot be sent.
pub async fn mark_not_sent(tx: &mut PgConnection, id: Uuid, reason: &str) -> sqlx::Result<()> {
    sqlx::query(
        "update invitations
         set failure = $2
         where id = $1
           and invitation_id is null",
    )
    .bind(id)
    .bind(reason)
    .execute(tx)
    .await?;
    Ok(())
}

/// One that was not sent is to be sent after all.
pub async fn mark_to_be_sent(tx: &mut PgConnection, id: Uuid) -> sqlx::Result<()> {
    sqlx::query(
        "update invitations
         set failure = null
         where id = $1
           and invitation_id is null",
    )
    .bind(id)
    .execute(tx)
    .await?;
    Ok(())
}

/// Somebody who is invited and no member yet.
#[derive(Debug, Clone, FromRow, Serialize)]
pub struct Invited {
    /// Our id of the invitation.
    pub id: Uuid,
    /// Where it went.
    pub email: Option<String>,
    /// Slug of the promised role.
    pub role: Option<String>,
    /// The application's customer that the person is invited for.
    pub customer_id: Option<String>,
}

/// Who has an open invitation to an organization and is no member yet, by address.
pub async fn list_invited(
    connection: &mut PgConnection,
    of: Organization<'_>,
) -> sqlx::Result<Vec<Invited>> {
    sqlx::query_as(
        "with member as materialized (
             select lower(email) as email
             from members
             where source = $1
               and org_id = $2
               and status in ('active', 'invited')
         )
         -- who was invited twice is one person
         select distinct on (lower(invitation.email))
             invitation.id, invitation.email, invitation.role, invitation.customer_id
         from standing_invitations invitation
         where invitation.source = $1
           and invitation.org_id = $2
           and invitation.state in ('requested', 'pending')
           and not exists (select from member where member.email = lower(invitation.email))
         order by lower(invitation.email), invitation.updated_at desc, invitation.id",
    )
    .bind(of.source)
    .bind(of.org_id)
    .fetch_all(connection)
    .await
}

/// The invitations of an organization, newest first.
pub async fn list_invitations(
    connection: &mut PgConnection,
    of: Organization<'_>,
) -> sqlx::Result<Vec<Invitation>> {
    sqlx::query_as(select_invitations!(
        "where source = $1
           and org_id = $2
         order by updated_at desc, id"
    ))
    .bind(of.source)
    .bind(of.org_id)
    .fetch_all(connection)
    .await
}
