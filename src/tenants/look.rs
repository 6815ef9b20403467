//! The tenants, a page at a time.

use chrono::{DateTime, Utc};
use sqlx::PgConnection;
use uuid::Uuid;

use super::{Tenant, TenantState};
use crate::page::{self, Asked, Page};

/// Name of this list, in its cursors.
const LIST: &str = "tenants";

/// Which tenants to list.
#[derive(Debug, Clone, Default)]
pub struct TenantFilter {
    /// Only tenants in this state.
    pub state: Option<TenantState>,
    /// Only tenants of this source.
    pub source: Option<String>,
    /// Only the tenant of this organization; of each source, where several have the id.
    pub org_id: Option<String>,
    /// Only tenants with this in their name, organization id, host or database; case does not matter.
    pub search: Option<String>,
}

/// A page of tenants, the newest first.
pub async fn list_page(
    connection: &mut PgConnection,
    filter: &TenantFilter,
    asked: &Asked,
) -> Result<Page<Tenant>, page::Error> {
    let after: Option<(DateTime<Utc>, Uuid)> = asked.after(LIST)?;
    let rows = sqlx::query_as(select_tenant!(
        "where ($1::text is null or state = $1)
           and ($2::text is null or source = $2)
           and ($3::text is null or org_id = $3)
           -- a substring, not a pattern: nothing in it has a meaning
           and ($4::text is null
                or strpos(lower(name), lower($4)) > 0
                or strpos(lower(org_id), lower($4)) > 0
                or strpos(lower(url), lower($4)) > 0
                or strpos(lower(database), lower($4)) > 0
                or exists (
                    select
                    from tenant_hosts
                    where tenant_hosts.tenant_id = tenants.id
                      and strpos(tenant_hosts.host, lower($4)) > 0
                ))
           and ($5::timestamptz is null or (created_at, id) < ($5, $6))
         order by created_at desc, id desc
         limit $7"
    ))
    .bind(filter.state.map(TenantState::name))
    .bind(&filter.source)
    .bind(&filter.org_id)
    .bind(&filter.search)
    .bind(after.map(|(created_at, _)| created_at))
    .bind(after.map(|(_, id)| id))
    .bind(asked.fetch_limit())
    .fetch_all(connection)
    .await?;
    Ok(asked.page(LIST, rows, |tenant: &Tenant| (tenant.created_at, tenant.id)))
}
