//! Hosts of a tenant beside its `url`: the customer's own domain.
//!
//! Guarantees: a host stands for one tenant at most, whether as `url` or as a further host, also when
//! two are given it in the same instant; what is stored is lower-case, without port and trailing dot.
//!
//! Does not: ask whether the host leads here. Names and certificates are the operator's.

use chrono::{DateTime, Utc};
use serde::Serialize;
use sqlx::{FromRow, PgConnection};

use super::{Tenant, TenantId, naming};

const MAX_HOST: usize = 253;
const MAX_LABEL: usize = 63;

/// A further host of a tenant.
#[derive(Debug, Clone, PartialEq, Eq, FromRow, Serialize, utoipa::ToSchema)]
pub struct Host {
    /// The host, normalized.
    pub host: String,
    /// Since when.
    pub created_at: DateTime<Utc>,
}

/// Why a tenant does not get a host.
#[derive(Debug, thiserror::Error)]
pub enum HostError {
    /// The database does not answer, or refuses.
    #[error("the tenant's hosts cannot be used")]
    Sql(#[from] sqlx::Error),
    /// The text is no host name.
    #[error("{0:?} is no host name")]
    Invalid(String),
    /// Another tenant has it, or it is a tenant's `url`.
    #[error("host {0} is taken")]
    Taken(String),
}

impl HostError {
    /// Stable code, explained in docs/errors.md.
    pub const fn code(&self) -> &'static str {
        match self {
            Self::Sql(_) => "control_database_unavailable",
            Self::Invalid(_) => "host_invalid",
            Self::Taken(_) => "host_taken",
        }
    }
}

/// A host name as it is stored and compared; `None` for what is none.
///
/// `App.Example.com.:8443` is `app.example.com`. An address is no name, and a name in another script has
/// to come as browsers send it (`xn--…`).
pub fn normalize_host(text: &str) -> Option<String> {
    let name = match text.split_once(':') {
        Some((name, port)) => {
            let is_port = port.len() <= 5 && port.bytes().all(|byte| byte.is_ascii_digit());
            is_port.then_some(name)?
        }
        None => text,
    };
    let name = name.strip_suffix('.').unwrap_or(name);
    let mut labels = name.split('.');
    // the last label of an address is a number, that of a name never
    let is_address = name
        .rsplit('.')
        .next()
        .is_some_and(|label| label.bytes().all(|byte| byte.is_ascii_digit()));
    (name.len() <= MAX_HOST && !is_address && labels.all(is_label))
        .then(|| name.to_ascii_lowercase())
}

fn is_label(label: &str) -> bool {
    let is_legal = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_');
    (1..=MAX_LABEL).contains(&label.len())
        && label.bytes().all(is_legal)
        && !label.starts_with('-')
        && !label.ends_with('-')
}

/// Nobody else gives this host away until the transaction ends, nor one that looks like it.
///
/// A host is in one of two tables, so no constraint can say that it is there once.
pub(super) async fn lock_host(tx: &mut PgConnection, host: &str) -> sqlx::Result<()> {
    sqlx::query("select pg_advisory_xact_lock(hashtextextended('tenantry host ' || $1, 0))")
        .bind(naming::skeleton(host))
        .execute(tx)
        .await?;
    Ok(())
}

/// Those of these hosts that a tenant has, beside its `url` or as one that looks like it.
pub async fn find_taken(tx: &mut PgConnection, hosts: &[&str]) -> sqlx::Result<Vec<String>> {
    let skeletons: Vec<String> = hosts.iter().map(|host| naming::skeleton(host)).collect();
    sqlx::query_scalar(
        "select wanted.host
         from unnest($1::text[], $2::text[]) as wanted (host, skeleton)
         where exists (select from tenants where url = wanted.host)
            or exists (select from tenants where host_skeleton = wanted.skeleton)
            or exists (select from tenant_hosts where tenant_hosts.host = wanted.host)",
    )
    .bind(hosts)
    .bind(skeletons)
    .fetch_all(tx)
    .await
}

/// The tenant that a host of any spelling stands for.
pub async fn find_by_host(
    connection: &mut PgConnection,
    host: &str,
) -> sqlx::Result<Option<Tenant>> {
    let Some(host) = normalize_host(host) else {
        return Ok(None);
    };
    sqlx::query_as(select_tenant!(
        "where url = $1
            or id = (select tenant_id from tenant_hosts where host = $1)"
    ))
    .bind(host)
    .fetch_optional(connection)
    .await
}

/// The further hosts of a tenant.
pub async fn list_hosts(connection: &mut PgConnection, id: TenantId) -> sqlx::Result<Vec<Host>> {
    sqlx::query_as(
        "select host, created_at
         from tenant_hosts
         where tenant_id = $1
         order by host",
    )
    .bind(id)
    .fetch_all(connection)
    .await
}

/// Gives a tenant a further host; false when it has it already.
pub async fn add_host(tx: &mut PgConnection, id: TenantId, host: &str) -> Result<bool, HostError> {
    let host = normalize_host(host).ok_or_else(|| HostError::Invalid(host.to_owned()))?;
    lock_host(tx, &host).await?;
    if is_url(tx, &host).await? {
        return Err(HostError::Taken(host));
    }
    let added = sqlx::query(
        "insert into tenant_hosts (host, tenant_id)
         values ($1, $2)
         on conflict do nothing",
    )
    .bind(&host)
    .bind(id)
    .execute(&mut *tx)
    .await?;
    if added.rows_affected() == 1 {
        return Ok(true);
    }
    let is_own = list_hosts(tx, id).await?.iter().any(|own| own.host == host);
    if is_own {
        Ok(false)
    } else {
        Err(HostError::Taken(host))
    }
}

async fn is_url(tx: &mut PgConnection, host: &str) -> sqlx::Result<bool> {
    sqlx::query_scalar("select exists (select from tenants where url = $1)")
        .bind(host)
        .fetch_one(tx)
        .await
}

/// Takes a further host from a tenant; false when it does not have it.
pub async fn remove_host(tx: &mut PgConnection, id: TenantId, host: &str) -> sqlx::Result<bool> {
    let Some(host) = normalize_host(host) else {
        return Ok(false);
    };
    let removed = sqlx::query(
        "delete from tenant_hosts
         where host = $1
           and tenant_id = $2",
    );
    let removed = removed.bind(host).bind(id).execute(tx).await?;
    Ok(removed.rows_affected() == 1)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn case_port_and_trailing_dot_do_not_matter() {
        for text in [
            "app.example.com",
            "APP.Example.com",
            "app.example.com.",
            "app.example.com:8443",
            "app.example.com.:443",
            "app.example.com:",
        ] {
            assert_eq!(
                normalize_host(text).as_deref(),
                Some("app.example.com"),
                "{text}"
            );
        }
        assert_eq!(normalize_host("localhost").as_deref(), Some("localhost"));
    }

    #[test]
    fn what_is_no_host_name_is_refused() {
        let long_label = format!("{}.example.com", "a".repeat(MAX_LABEL + 1));
        let long = format!("{}com", "a.".repeat(126));
        for text in [
            "",
            ".",
            "..",
            ":80",
            "a..b",
            ".a",
            "-a.b",
            "a-.b",
            "a b",
            "a/b",
            "a@b",
            "https://a",
            "a:b",
            "a:1:2",
            "a:123456",
            "127.0.0.1",
            "127.0.0.1:80",
            "[::1]",
            "[::1]:80",
            "zoë.example",
            "a\0b",
            "*.example.com",
            &long_label,
            &long,
        ] {
            assert_eq!(normalize_host(text), None, "{text}");
        }
    }

    proptest! {
        #[test]
        fn normal_is_normal(text in ".{0,40}") {
            if let Some(host) = normalize_host(&text) {
                prop_assert_eq!(normalize_host(&host), Some(host.clone()));
                prop_assert_eq!(host.to_lowercase(), host);
            }
        }
    }
}
