//! What members became, in the transaction that changed it.
//!
//! Guarantees: a member is compared with what was last told of them under the tenant's lock, so that of
//! two transactions that change the same member the later one sees what the earlier one told; who was a
//! member before anybody listened is not told as added.
//!
//! Does not: see tenants; triggers of migration 0012 do. The lock is the last one that a transaction takes.

use sqlx::PgConnection;

use crate::{config::NotificationType, identity::MemberKey};

/// The types that tell of members.
pub(super) const OF_MEMBERS: [&str; 3] = [
    NotificationType::MemberAdded.name(),
    NotificationType::MemberRemoved.name(),
    NotificationType::MemberRestored.name(),
];

/// Whether anybody is told of members: one look-up, so that nobody else pays for it.
pub async fn are_members_told(connection: &mut PgConnection) -> sqlx::Result<bool> {
    sqlx::query_scalar(
        "select exists (
             select
             from notification_endpoints
             where removed_at is null
               and (types is null or types && $1)
         )",
    )
    .bind(OF_MEMBERS)
    .fetch_one(connection)
    .await
}

/// Tells of those members who are not what was last told of them; returns of how many.
///
/// Members of organizations that have no tenant yet are told of together with it.
pub async fn announce_members(
    tx: &mut PgConnection,
    members: &[MemberKey],
    admin_role: &str,
) -> sqlx::Result<usize> {
    if members.is_empty() {
        return Ok(0);
    }
    let of = |value: fn(&MemberKey) -> &str| members.iter().map(value).collect::<Vec<_>>();
    let (sources, orgs) = (of(|it| &it.source), of(|it| &it.org_id));
    lock_lines(tx, (&sources, &orgs)).await?;
    // a statement of its own: it sees what was committed while the locks were waited for
    let told = sqlx::query(ANNOUNCE)
        .bind(&sources)
        .bind(&orgs)
        .bind(of(|it| &it.user_id))
        .bind(admin_role)
        .bind(NotificationType::MemberAdded.name())
        .bind(NotificationType::MemberRemoved.name())
        .bind(NotificationType::MemberRestored.name())
        .fetch_all(tx)
        .await?;
    Ok(told.len())
}

/// The tenants of these organizations tell nothing else until the transaction ends.
async fn lock_lines(
    tx: &mut PgConnection,
    (sources, orgs): (&[&str], &[&str]),
) -> sqlx::Result<()> {
    sqlx::query(
        "select lock_notifications(id)
         from (
             select distinct tenant.id
             from tenants tenant
             join unnest($1::text[], $2::text[]) as about (source, org_id) using (source, org_id)
             order by tenant.id
         ) as affected",
    )
    .bind(sources)
    .bind(orgs)
    .execute(tx)
    .await?;
    Ok(())
}

/// Compares with what was last told, writes down what is told now, and tells it.
///
/// `$1` to `$3`: source, organization and user of each member; `$4`: the administrators' role; `$5` to `$7`: the
/// types of who is added, removed, restored.
const ANNOUNCE: &str = "with about as (
     select distinct source, org_id, user_id
     from unnest($1::text[], $2::text[], $3::text[]) as about (source, org_id, user_id)
 ),
 changed as (
     select tenant.id as tenant_id, about.source, about.org_id, about.user_id, known.status as known, standing.status,
            jsonb_build_object(
                'member', jsonb_build_object(
                    'user_id', about.user_id,
                    'email', member.email,
                    'role', coalesce(member.role, case when member.is_creator then $4 end),
                    'status', standing.status,
                    'organization', jsonb_build_object('source', about.source, 'org_id', about.org_id)
                ),
                'tenant', told_of_tenant(tenant)
            ) as told
     from about
     join tenants tenant using (source, org_id)
     left join lateral (
         select member.status, member.role, member.is_creator, member.email
         from members member
         where member.source = about.source
           and member.org_id = about.org_id
           and member.user_id = about.user_id
     ) as member on true
     left join announced_members known using (source, org_id, user_id)
     -- who is invited once more, or not known any more, is no member
     cross join lateral (
         select case when member.status = 'active' then 'active' else 'removed' end as status
     ) as standing
     -- of whom nothing was told there is nothing to take back
     where standing.status <> coalesce(known.status, 'removed')
 ),
 announced as (
     insert into announced_members (source, org_id, user_id, status)
     select source, org_id, user_id, status
     from changed
     on conflict (source, org_id, user_id) do update
     set status = excluded.status,
         announced_at = now()
 )
 select notify_endpoints(
     case
         when status = 'removed' then $6
         when known is null then $5
         else $7
     end,
     tenant_id,
     told
 )
 from (select * from changed order by tenant_id, user_id) as changed";
