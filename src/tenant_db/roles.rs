//! Roles: one owner and one application group per cluster, one login role per tenant.
//!
//! Guarantees: a tenant's role may log in, is a member of the application group (DML rights) and of
//! nothing else, owns nothing and creates nothing; DDL belongs to the owner role, which cannot log
//! in; a role that carries no mark of this very tenant is never changed or dropped; only the SCRAM
//! verifier of a password is sent.

use std::time::{Duration, Instant};

use sqlx::{AssertSqlSafe, FromRow, PgConnection};
use uuid::Uuid;

use secrecy::{ExposeSecret, SecretString};

use super::{Cluster, Error, Ident, databases::literal};
use crate::secrets;

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

async fn grant_to_us(connection: &mut PgConnection, role: &Ident) -> Result<(), Error> {
    let member: bool = sqlx::query_scalar(
        "select exists (
             select
             from pg_auth_members
             where roleid = to_regrole($1)::oid
               and member = (select oid from pg_roles where rolname = current_user)
         )
         or (select rolsuper from pg_roles where rolname = current_user)",
    )
    .bind(role.as_str())
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
    let grant = format!("grant {role} to current_user{options}");
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
            role.as_str()
        ))(error)),
    }
}

#[derive(Debug, FromRow)]
struct MigratorFacts {
    comment: Option<String>,
    settings: Vec<String>,
    ready: bool,
}

/// How often another replica may get in between.
const LOOKS: usize = 5;

/// Makes sure the migrators' login role exists: a member of the owner role only, whose sessions begin as the owner
/// role, with lock and statement time-outs set.
///
/// Returns its password: the one it already has if that is among `passwords` (another replica may be about to use
/// it), else the first.
pub async fn ensure_migrator(
    connection: &mut PgConnection,
    cluster: &Cluster,
    passwords: &[SecretString],
    limits: (u32, u32),
) -> Result<SecretString, Error> {
    let mut look = 0;
    loop {
        look += 1;
        match try_ensure_migrator(connection, cluster, passwords, limits).await {
            // another replica, in the same moment
            Err(error)
                if look < LOOKS
                    && matches!(
                        error.sqlstate().as_deref(),
                        Some("42710" | "23505" | "XX000")
                    ) => {}
            made => return made,
        }
    }
}

/// The comment of a role that has this password: tells which one it is without revealing it.
fn migrator_mark(password: &SecretString) -> String {
    let digest =
        secrets::sha256(&[b"tenantry migrator ", password.expose_secret().as_bytes()].concat());
    format!("tenantry migrator {}", hex::encode(&digest[..8]))
}

async fn try_ensure_migrator(
    connection: &mut PgConnection,
    cluster: &Cluster,
    passwords: &[SecretString],
    (lock_ms, statement_ms): (u32, u32),
) -> Result<SecretString, Error> {
    let (name, owner) = (&cluster.migrator, &cluster.owner);
    let failed = || Error::sql(format!("making role {}", name.as_str()));
    let settings = [
        format!("role={}", owner.as_str()),
        format!("lock_timeout={lock_ms}ms"),
        format!("statement_timeout={statement_ms}ms"),
    ];
    let found = find_migrator(connection, cluster).await?;
    let comment = found.as_ref().and_then(|found| found.comment.as_deref());
    let is_its = |password: &&SecretString| comment == Some(&*migrator_mark(password));
    let its = passwords.iter().find(is_its);
    let no_key = || failed()(sqlx::Error::Configuration(secrets::Error::NoKey.into()));
    let password = its.or(passwords.first()).ok_or_else(no_key)?;
    let verb = match &found {
        Some(found)
            if found.ready
                && its.is_some()
                && settings
                    .iter()
                    .all(|setting| found.settings.contains(setting)) =>
        {
            return Ok(password.clone());
        }
        Some(MigratorFacts {
            comment: Some(comment),
            ..
        }) if comment.starts_with("tenantry migrator ") => "alter",
        Some(found) => {
            return Err(Error::ForeignRole {
                name: name.as_str().to_owned(),
                found: found
                    .comment
                    .clone()
                    .unwrap_or_else(|| "no comment".to_owned()),
            });
        }
        None => "create",
    };
    let verifier = secrets::scram_verifier(password).map_err(|_| {
        failed()(sqlx::Error::Configuration(
            "the system gives no randomness".into(),
        ))
    })?;
    let version = super::databases::version(connection).await?;
    let options = if version >= 160_000 {
        " with inherit true, set true"
    } else {
        ""
    };
    let statements = format!(
        "{verb} role {name} login inherit password {};
         comment on role {name} is {};
         grant {owner} to {name}{options};
         alter role {name} set role = {owner};
         alter role {name} set lock_timeout = '{lock_ms}ms';
         alter role {name} set statement_timeout = '{statement_ms}ms'",
        literal(&verifier),
        literal(&migrator_mark(password)),
    );
    sqlx::raw_sql(AssertSqlSafe(statements))
        .execute(&mut *connection)
        .await
        .map_err(failed())?;
    // who is no superuser ends only sessions of roles that it is a member of
    grant_to_us(connection, name).await?;
    Ok(password.clone())
}

async fn find_migrator(
    connection: &mut PgConnection,
    cluster: &Cluster,
) -> Result<Option<MigratorFacts>, Error> {
    sqlx::query_as(
        "select shobj_description(pg_roles.oid, 'pg_authid') as comment,
                coalesce(rolconfig, '{}') as settings,
                rolcanlogin
                and exists (
                    select
                    from pg_auth_members
                    where member = pg_roles.oid
                      and roleid = (select oid from pg_roles where rolname = $2)
                )
                -- and we may end its sessions
                and pg_has_role(pg_roles.oid, 'usage') as ready
         from pg_roles
         where rolname = $1",
    )
    .bind(cluster.migrator.as_str())
    .bind(cluster.owner.as_str())
    .fetch_optional(connection)
    .await
    .map_err(Error::sql("looking up the role of migrators"))
}

/// The comment on the login role of a tenant.
pub(super) fn mark(tenant: Uuid) -> String {
    format!("{MARK}{tenant}")
}

/// How the comment of every tenant's role begins.
pub(super) const MARK: &str = "tenantry tenant=";

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

/// What became of a role that is not wanted any more.
#[derive(Debug, PartialEq, Eq)]
pub enum RoleEnd {
    /// There is none of this name.
    Gone,
    /// There is one that is not this tenant's: it was left as it is. What it says of itself.
    Foreign(String),
}

/// How long the sessions of a tenant's role may take to end.
const PATIENCE: Duration = Duration::from_secs(10);

/// Drops the role if it is this tenant's: first nobody can log in any more, then its sessions end.
///
/// Where it has rights on something else than its database, the server refuses (2BP01): nothing of it
/// is lost, and nobody can use it. `database` is `None` where there is none of the tenant's.
pub async fn drop_tenant_role(
    connection: &mut PgConnection,
    tenant: Uuid,
    name: &Ident,
    database: Option<&Ident>,
) -> Result<RoleEnd, Error> {
    match find(connection, name.as_str()).await? {
        None => return Ok(RoleEnd::Gone),
        Some(facts) if facts.comment.as_deref() == Some(mark(tenant).as_str()) => {}
        Some(facts) => {
            let found = facts.comment.unwrap_or_else(|| "no comment".to_owned());
            return Ok(RoleEnd::Foreign(found));
        }
    }
    let failed = || Error::sql(format!("dropping role {}", name.as_str()));
    sqlx::raw_sql(AssertSqlSafe(format!("alter role {name} nologin")))
        .execute(&mut *connection)
        .await
        .map_err(failed())?;
    end_sessions_of(connection, name).await?;
    let revoke = database.map(|database| format!("revoke all on database {database} from {name};"));
    let drop = format!("{} drop role {name}", revoke.unwrap_or_default());
    sqlx::raw_sql(AssertSqlSafe(drop))
        .execute(connection)
        .await
        .map_err(failed())?;
    Ok(RoleEnd::Gone)
}

/// Ends every session of a role that cannot log in any more, and waits until they are gone.
async fn end_sessions_of(connection: &mut PgConnection, name: &Ident) -> Result<(), Error> {
    let failed = || Error::sql(format!("ending the sessions of role {}", name.as_str()));
    let sessions = async |connection: &mut PgConnection, sql: &'static str| {
        let count: i64 = sqlx::query_scalar(sql)
            .bind(name.as_str())
            .fetch_one(connection)
            .await
            .map_err(failed())?;
        Ok::<_, Error>(count)
    };
    let left = "select count(*) from pg_stat_activity where usename = $1";
    if sessions(connection, left).await? == 0 {
        return Ok(());
    }
    // who is no superuser ends only sessions of roles that it is a member of
    grant_to_us(connection, name).await?;
    let end = "select count(pg_terminate_backend(pid)) from pg_stat_activity where usename = $1";
    let started = Instant::now();
    while sessions(connection, end).await? > 0 {
        if started.elapsed() > PATIENCE {
            let timed_out = std::io::ErrorKind::TimedOut.into();
            return Err(failed()(sqlx::Error::Io(timed_out)));
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    Ok(())
}
