//! Roles: one owner and one application group per cluster, one login role per tenant.
//!
//! Guarantees: a tenant's role may log in, is a member of the application group (DML rights) and of
//! nothing else, owns nothing and creates nothing; DDL belongs to the owner role, which cannot log
//! in; a role that carries no mark of this very tenant is never changed or dropped; only the SCRAM
//! verifier of a password is sent.

use sqlx::{AssertSqlSafe, FromRow, PgConnection};
use uuid::Uuid;

use super::{Cluster, Error, Ident, databases::literal};

const SHARED_MARK: &str = "tenantry shared role";

#[derive(Debug, FromRow)]
struct Facts {
    comment: Option<String>,
    can_login: bool,
}

async fn find(connection: &mut PgConnection, name: &str) -> Result<Option<Facts>, Error> {
    sqlx::query_as(
        "select shobj_description(oid, 'pg_authid') as comment,
                rolcanlogin as can_login
         from pg_roles
         where rolname = $1",
    )
    .bind(name)
    .fetch_optional(connection)
    .await
    .map_err(Error::sql(format!("looking up role {name}")))
}

/// Makes sure that the cluster has the owner role and the application group.
pub async fn ensure_shared(connection: &mut PgConnection, cluster: &Cluster) -> Result<(), Error> {
    ensure_group(connection, &cluster.owner).await?;
    ensure_group(connection, &cluster.app).await?;
    // to create databases for it and to act as it; a member already: nothing happens
    grant_to_us(connection, &cluster.owner).await?;
    // to act with a tenant's rights and no more
    grant_to_us(connection, &cluster.app).await
}

async fn ensure_group(connection: &mut PgConnection, name: &Ident) -> Result<(), Error> {
    match find(connection, name.as_str()).await? {
        Some(facts) if !facts.can_login && facts.comment.as_deref() == Some(SHARED_MARK) => {
            return Ok(());
        }
        Some(facts) => {
            return Err(Error::ForeignRole {
                name: name.as_str().to_owned(),
                found: facts.comment.unwrap_or_else(|| "no comment".to_owned()),
            });
        }
        None => {}
    }
    let statements = format!(
        "create role {name} nologin; comment on role {name} is {}",
        literal(SHARED_MARK)
    );
    match sqlx::raw_sql(AssertSqlSafe(statements))
        .execute(&mut *connection)
        .await
    {
        Ok(_) => Ok(()),
        // another replica, in the same moment
        Err(error)
            if matches!(
                crate::db::sqlstate(&error).as_deref(),
                Some("42710" | "23505")
            ) =>
        {
            Ok(())
        }
        Err(error) => Err(Error::sql(format!("creating role {}", name.as_str()))(
            error,
        )),
    }
}

async fn grant_to_us(connection: &mut PgConnection, owner: &Ident) -> Result<(), Error> {
    let member: bool = sqlx::query_scalar(
        "select exists (
             select
             from pg_auth_members
             where roleid = to_regrole($1)::oid
               and member = (select oid from pg_roles where rolname = current_user)
         )
         or (select rolsuper from pg_roles where rolname = current_user)",
    )
    .bind(owner.as_str())
    .fetch_one(&mut *connection)
    .await
    .map_err(Error::sql("looking up our own memberships"))?;
    let version = super::databases::version(connection).await?;
    // from 16 on the creator is a member that may administer, but neither inherits nor becomes the role
    let options = if version >= 160_000 {
        " with inherit true, set true"
    } else {
        ""
    };
    if member && version < 160_000 {
        return Ok(());
    }
    let grant = format!("grant {owner} to current_user{options}");
    match sqlx::raw_sql(AssertSqlSafe(grant))
        .execute(connection)
        .await
    {
        Ok(_) => Ok(()),
        // two replicas at once: "tuple concurrently updated"
        Err(error)
            if matches!(
                crate::db::sqlstate(&error).as_deref(),
                Some("XX000" | "23505")
            ) =>
        {
            Ok(())
        }
        Err(error) => Err(Error::sql(format!(
            "becoming a member of {}",
            owner.as_str()
        ))(error)),
    }
}

/// The comment on the login role of a tenant.
pub(super) fn mark(tenant: Uuid) -> String {
    format!("tenantry tenant={tenant}")
}

/// The login role of a tenant.
#[derive(Debug)]
pub struct TenantRole<'a> {
    /// The tenant.
    pub tenant: Uuid,
    /// Its role.
    pub name: &'a Ident,
    /// Its database.
    pub database: &'a Ident,
    /// SCRAM-SHA-256 verifier of its password.
    pub verifier: &'a str,
    /// Connections it may hold; -1 for no limit.
    pub connection_limit: i32,
}

/// Makes sure that the role exists, has this password, and may connect to its database. One commit.
pub async fn ensure_tenant_role(
    connection: &mut PgConnection,
    cluster: &Cluster,
    role: &TenantRole<'_>,
) -> Result<(), Error> {
    let TenantRole {
        name,
        database,
        connection_limit,
        ..
    } = role;
    let mark = mark(role.tenant);
    let verb = match find(connection, name.as_str()).await? {
        None => "create",
        Some(facts) if facts.comment.as_deref() == Some(mark.as_str()) => "alter",
        Some(facts) => {
            return Err(Error::ForeignRole {
                name: name.as_str().to_owned(),
                found: facts.comment.unwrap_or_else(|| "no comment".to_owned()),
            });
        }
    };
    let statements = format!(
        "{verb} role {name} login password {} connection limit {connection_limit};
         comment on role {name} is {};
         grant {} to {name};
         grant connect on database {database} to {name}",
        literal(role.verifier),
        literal(&mark),
        cluster.app,
    );
    sqlx::raw_sql(AssertSqlSafe(statements))
        .execute(connection)
        .await
        .map_err(Error::sql(format!("creating role {}", name.as_str())))?;
    Ok(())
}
