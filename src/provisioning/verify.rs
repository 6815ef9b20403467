//! Step 6, verify: the tenant is what it should be, seen from outside and from inside.
//!
//! Checks: the structure equals the template's; each verify query of the blueprint returns no row;
//! PUBLIC has no right on the database; the tenant's role logs in with its password, is a member of
//! the application group only, cannot create tables, and can connect to no other tenant's database.

use sqlx::{AssertSqlSafe, Column, Executor, PgConnection, Row};

use super::{StepContext, StepError, seed, template};
use crate::{
    tenant_db::{self, fingerprint},
    tenants::Tenant,
};

pub(super) async fn run(cx: &StepContext<'_>) -> Result<(), StepError> {
    let tenant = cx.tenant().await;
    let inside = async {
        check_structure(cx, &tenant).await?;
        check_rows(cx, &tenant).await
    };
    let outside = async {
        check_rights(cx, &tenant).await?;
        check_login(cx, &tenant).await
    };
    // at once: either takes about as long, and neither sees the other
    let (inside, outside) = tokio::join!(inside, outside);
    inside.and(outside)
}

/// Nothing: to verify is to look.
#[expect(clippy::unnecessary_wraps, reason = "one shape for every step")]
pub(super) fn undo() -> Result<(), StepError> {
    Ok(())
}

fn not_verified(problem: impl Into<String>) -> StepError {
    StepError::NotVerified {
        problem: problem.into(),
    }
}

async fn check_structure(cx: &StepContext<'_>, tenant: &Tenant) -> Result<(), StepError> {
    let hash = tenant.blueprint_hash.clone().unwrap_or_default();
    let cluster = cx.cluster().await?;
    let expected = cx
        .provisioner
        .db
        .run(async |connection| template::find(connection, &cluster.name, &hash).await)
        .await?;
    let Some(expected) = expected else {
        return Err(StepError::TemplateUnknown { hash });
    };
    let db = &cx.provisioner.db;
    cx.in_tenant(async |connection| {
        let (expected, found) = match (&expected.fingerprint, &expected.older_fingerprint) {
            (Some(expected), _) if cluster.has_fingerprint(connection, expected).await? => {
                return Ok(());
            }
            (Some(expected), _) => (expected, fingerprint::of(connection).await?),
            // cloned before this version came, and its template is not the blueprint's any more
            (None, Some(expected)) => {
                let facts = fingerprint::facts(connection).await?;
                let older = fingerprint::older_lines(&facts);
                (expected, fingerprint::of_lines(&older))
            }
            (None, None) => return Err(StepError::TemplateUnknown { hash }),
        };
        if found == *expected {
            return Ok(());
        }
        let difference = template::tell_difference(db, &cluster.name, &hash, connection)
            .await
            .unwrap_or_else(|| template::fingerprints_differ(expected, &found));
        Err(not_verified(format!(
            "its structure differs from its template's: {difference}"
        )))
    })
    .await
}

async fn check_rows(cx: &StepContext<'_>, tenant: &Tenant) -> Result<(), StepError> {
    let owner = cx.cluster().await?.owner.to_string();
    let name = cx.organization_name().await?;
    cx.in_tenant(async |connection| {
        seed::begin_as_owner(connection, "begin read only", &owner).await?;
        seed::set_values(connection, tenant, name)
            .await
            .map_err(tenant_db::Error::sql("setting the tenant's values"))?;
        for file in &cx.blueprint.verify {
            let failed = |source| StepError::file("verify_query_failed", file, source);
            let query = sqlx::query(AssertSqlSafe(file.sql.clone()));
            if let Some(row) = query
                .fetch_optional(&mut *connection)
                .await
                .map_err(failed)?
            {
                let row = describe(&row);
                return Err(not_verified(format!("{} returned a row: {row}", file.name)));
            }
        }
        // `activate`, which is next and writes, ends the transaction: a round trip less
        Ok(())
    })
    .await
}

/// The row's text columns: what a verify query says is wrong.
fn describe(row: &sqlx::postgres::PgRow) -> String {
    let column = |column: &sqlx::postgres::PgColumn| {
        let value = row.try_get::<Option<String>, _>(column.ordinal()).ok()?;
        Some(format!(
            "{} = {}",
            column.name(),
            value.unwrap_or_else(|| "null".to_owned())
        ))
    };
    row.columns()
        .iter()
        .filter_map(column)
        .collect::<Vec<_>>()
        .join(", ")
}

async fn check_rights(cx: &StepContext<'_>, tenant: &Tenant) -> Result<(), StepError> {
    let facts = cx.cluster().await?.find_database(&tenant.database).await?;
    match facts {
        None => Err(not_verified(format!(
            "database {} is gone",
            tenant.database
        ))),
        Some(facts) if facts.is_public => Err(not_verified(format!(
            "PUBLIC has rights on database {}",
            tenant.database
        ))),
        Some(_) => Ok(()),
    }
}

async fn check_login(cx: &StepContext<'_>, tenant: &Tenant) -> Result<(), StepError> {
    let password = cx.password().await?;
    let cluster = cx.cluster().await?;
    let mut session = cluster
        .connect_as_tenant(&tenant.database, &tenant.username, password, &cx.tag)
        .await?;
    let doing = "checking the rights of the tenant's role";
    let excess = find_excess_right(&mut session, &cluster.prefix, cluster.app.as_str()).await;
    let problem = match excess.map_err(tenant_db::Error::sql(doing))? {
        // not this tenant's fault, and mended outside of it: every tenant waits until it is
        Some((Some(database), _)) => return Err(StepError::IsolationOpen { database }),
        Some((None, problem)) => Some(problem),
        None if may_create_tables(&mut session)
            .await
            .map_err(tenant_db::Error::sql(doing))? =>
        {
            Some("its role can create tables".to_owned())
        }
        None => None,
    };
    drop(session);
    problem.map_or(Ok(()), |problem| Err(not_verified(problem)))
}

/// Tries it, in a transaction that leaves nothing behind.
async fn may_create_tables(session: &mut PgConnection) -> sqlx::Result<bool> {
    let probe = "begin; create table public.tenantry_probe (); rollback";
    match session.execute(probe).await {
        Ok(_) => Ok(true),
        // no right, or no such schema
        Err(error)
            if matches!(
                crate::db::sqlstate(&error).as_deref(),
                Some("42501" | "3F000")
            ) =>
        {
            Ok(false)
        }
        Err(error) => Err(error),
    }
}

/// What a role has beyond what a tenant may; `$1` is the prefix of all names, `$2` the group.
pub(crate) const EXCESS_RIGHT: &str =
    "select null::text as open_database, 'its role has an attribute beyond login'
 from pg_roles
 where rolname = current_user
   and (rolsuper or rolcreatedb or rolcreaterole or rolreplication or rolbypassrls)
 union all
 select null, 'its role is a member of ' || roleid::regrole
 from pg_auth_members
 where member = (select oid from pg_roles where rolname = current_user)
   and roleid <> (select oid from pg_roles where rolname = $2)
 union all
 (
     select datname::text, 'its role can connect to database ' || datname
     from pg_database
     where starts_with(datname, $1)
       and datname <> current_database()
       and datallowconn
       and has_database_privilege(oid, 'connect')
     limit 1
 )
 limit 1";

/// What the role of this session may do beyond its own database, asked of the server as that role.
async fn find_excess_right(
    session: &mut PgConnection,
    prefix: &str,
    app: &str,
) -> sqlx::Result<Option<(Option<String>, String)>> {
    sqlx::query_as(EXCESS_RIGHT)
        .bind(prefix)
        .bind(app)
        .fetch_optional(session)
        .await
}
