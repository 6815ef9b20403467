//! What a tenant's database is to be told of its members: desired minus actual.
//!
//! ```text
//!  view `members` ─┐
//!                  ├─▶ unsynced ─▶ mark_unknown ─▶ (scripts, in the tenant's database) ─▶ mark_synced
//!  `member_syncs` ─┘
//! ```
//!
//! Guarantees: whoever the database may know and should not is among the unsynced, also after a crash
//! at any point, because it is written down that nothing is known *before* anything is told; a member
//! whose digest is the same was told of exactly that, by exactly these scripts.
//!
//! Does not: tell. `provisioning` does.

use sqlx::{FromRow, PgConnection};

use super::Status;

/// What decides, beside the member itself, what a database is told.
#[derive(Debug, Clone, Copy)]
pub struct Terms<'a> {
    /// Slug of the administrators' role, which the creator has where nobody named one.
    pub admin_role: &'a str,
    /// Digest of the scripts: with other scripts everybody is told again.
    pub sync_hash: &'a str,
}

/// Somebody of whom the tenant's database does not know what it should.
#[derive(Debug, Clone, FromRow)]
pub struct Unsynced {
    /// The provider's user id.
    pub user_id: String,
    /// The provider's id of the membership; `None` where the user has none any more.
    pub membership_id: Option<String>,
    /// Active or removed.
    pub status: Status,
    /// Slug of the role, if somebody named one.
    pub role: Option<String>,
    /// The application's customer that the member was invited for.
    pub customer_id: Option<String>,
    /// E-mail address.
    pub email: Option<String>,
    /// Given name.
    pub first_name: Option<String>,
    /// Family name.
    pub last_name: Option<String>,
    /// Given and family name, else the e-mail address, else the user id.
    pub display_name: String,
    /// The application's own id of the user.
    pub external_id: Option<String>,
    /// Of all of this and of the terms.
    pub digest: String,
}

/// What a tenant's database was told of a member.
#[derive(Debug)]
pub struct Told<'a> {
    /// Of whom.
    pub member: &'a Unsynced,
    /// The role as it was told.
    pub role: &'a str,
    /// What was changed on the way.
    pub note: Option<String>,
}

/// Up to `limit` unsynced members after this user id, by user id.
///
/// Who was never told of and is not active is left out. Who was, and is invited again, or is not
/// known at all any more, counts as removed.
pub async fn unsynced(
    connection: &mut PgConnection,
    (source, org_id): (&str, &str),
    terms: Terms<'_>,
    after: &str,
    limit: i64,
) -> sqlx::Result<Vec<Unsynced>> {
    sqlx::query_as(
        "with member as (
             select user_id, membership_id, status,
                    coalesce(role, case when is_creator then $3 end) as role,
                    customer_id, email, first_name, last_name, display_name, external_id
             from members
             where source = $1
               and org_id = $2
               and user_id > $5
         ),
         synced as (
             select user_id, digest as known
             from member_syncs
             where source = $1
               and org_id = $2
               and user_id > $5
         ),
         desired as (
             select user_id, membership_id,
                    case when status = 'active' then 'active' else 'removed' end as status,
                    role, customer_id, email, first_name, last_name,
                    coalesce(display_name, user_id) as display_name,
                    external_id, known
             from member
             full join synced using (user_id)
             where status = 'active'
                or known is not null
         ),
         digested as (
             select *,
                    encode(sha256(convert_to(jsonb_build_array(
                        $4::text, user_id, membership_id, status, role, customer_id, email,
                        first_name, last_name, display_name, external_id
                    )::text, 'utf8')), 'hex') as digest
             from desired
         )
         select user_id, membership_id, status, role, customer_id, email, first_name, last_name,
                display_name, external_id, digest
         from digested
         where digest is distinct from known
         order by user_id
         limit $6",
    )
    .bind(source)
    .bind(org_id)
    .bind(terms.admin_role)
    .bind(terms.sync_hash)
    .bind(after)
    .bind(limit)
    .fetch_all(connection)
    .await
}

/// From here on nobody knows what the tenant's database has of these members: they are about to be told.
pub async fn mark_unknown(
    tx: &mut PgConnection,
    (source, org_id): (&str, &str),
    members: &[Unsynced],
) -> sqlx::Result<()> {
    let users: Vec<&str> = members.iter().map(|member| &*member.user_id).collect();
    sqlx::query(
        "insert into member_syncs (source, org_id, user_id, digest, status)
         select $1, $2, user_id, '', 'active'
         from unnest($3::text[]) as about (user_id)
         on conflict (source, org_id, user_id) do update
         set digest = ''",
    )
    .bind(source)
    .bind(org_id)
    .bind(users)
    .execute(tx)
    .await?;
    Ok(())
}

/// The tenant's database knows this of these members.
pub async fn mark_synced(
    tx: &mut PgConnection,
    (source, org_id): (&str, &str),
    told: &[Told<'_>],
) -> sqlx::Result<()> {
    let of = |value: fn(&Unsynced) -> &str| -> Vec<&str> {
        told.iter().map(|told| value(told.member)).collect()
    };
    sqlx::query(
        "update member_syncs
         set digest = told.digest,
             status = told.status,
             role = told.role,
             note = told.note,
             synced_at = now()
         from unnest($3::text[], $4::text[], $5::text[], $6::text[], $7::text[])
             as told (user_id, digest, status, role, note)
         where source = $1
           and org_id = $2
           and member_syncs.user_id = told.user_id",
    )
    .bind(source)
    .bind(org_id)
    .bind(of(|member| &member.user_id))
    .bind(of(|member| &member.digest))
    .bind(of(|member| member.status.name()))
    .bind(told.iter().map(|told| told.role).collect::<Vec<_>>())
    .bind(
        told.iter()
            .map(|told| told.note.as_deref())
            .collect::<Vec<_>>(),
    )
    .execute(tx)
    .await?;
    Ok(())
}

/// Why these users could not be told of; what the tenant's database has of them stays unknown.
pub async fn note_failures(
    tx: &mut PgConnection,
    (source, org_id): (&str, &str),
    (users, causes): (Vec<&str>, Vec<&str>),
) -> sqlx::Result<()> {
    sqlx::query(
        "update member_syncs
         set note = 'not synced: ' || failed.cause
         from unnest($3::text[], $4::text[]) as failed (user_id, cause)
         where source = $1
           and org_id = $2
           and member_syncs.user_id = failed.user_id",
    )
    .bind(source)
    .bind(org_id)
    .bind(users)
    .bind(causes)
    .execute(tx)
    .await?;
    Ok(())
}

/// The tenant's database is gone, and with it what it was told.
pub async fn forget_syncs(
    tx: &mut PgConnection,
    (source, org_id): (&str, &str),
) -> sqlx::Result<()> {
    sqlx::query("delete from member_syncs where source = $1 and org_id = $2")
        .bind(source)
        .bind(org_id)
        .execute(tx)
        .await?;
    Ok(())
}
