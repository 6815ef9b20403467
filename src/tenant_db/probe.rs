//! What a cluster allows us and its tenants; changes nothing.

use sqlx::{FromRow, PgConnection};

use super::Error;

/// What was found.
#[derive(Debug, Clone, FromRow)]
pub struct Findings {
    /// 150018 is 15.18.
    pub version: i32,
    /// Whom we are.
    pub user: String,
    /// May do everything.
    pub superuser: bool,
    /// May create databases.
    pub createdb: bool,
    /// May create roles.
    pub createrole: bool,
    /// Databases, other than tenants', to which PUBLIC may connect.
    pub public_databases: Vec<String>,
    /// Databases that an interrupted drop left unusable.
    pub unusable_databases: Vec<String>,
    /// Directories that a server crash inside `create database` left; 0 where we may not look.
    #[sqlx(default)]
    pub orphan_directories: i64,
    /// Our roles that our user may not administer: from 16 on it takes the right to, which it has of roles that it made
    /// there, and not of those that came from 15 or older.
    pub foreign_roles: i64,
    /// Templates that can be cloned.
    pub sealed_templates: i64,
    /// Templates that are being built, or were left half-built.
    pub unsealed_templates: i64,
    /// Connections there may be.
    pub max_connections: i32,
    /// Connections there are.
    pub connections: i32,
    /// Where the data is; only some users may know.
    pub data_directory: Option<String>,
}

impl Findings {
    /// The rights that our user lacks, and the statement that grants them.
    pub fn missing_rights(&self) -> Option<(String, String)> {
        let rights = [(self.createdb, "createdb"), (self.createrole, "createrole")];
        let lacks = rights
            .iter()
            .filter(|(has, _)| !self.superuser && !has)
            .map(|(_, right)| *right);
        let missing: Vec<&str> = lacks.collect();
        let grant = format!("alter role \"{}\" {};", self.user, missing.join(" "));
        (!missing.is_empty()).then(|| (missing.join(" and "), grant))
    }
}

/// Looks at the cluster.
pub async fn look(connection: &mut PgConnection, prefix: &str) -> Result<Findings, Error> {
    let mut findings: Findings = sqlx::query_as(
        "select current_setting('server_version_num')::integer as version,
                current_user::text as user,
                rolsuper as superuser,
                rolcreatedb as createdb,
                rolcreaterole as createrole,
                array(
                    select datname::text
                    from pg_database
                    where datallowconn
                      and (datacl is null
                           or exists (
                               select
                               from aclexplode(datacl) acl
                               where acl.grantee = 0
                                 and acl.privilege_type = 'CONNECT'
                           ))
                    order by datname
                ) as public_databases,
                array(
                    select datname::text from pg_database where datconnlimit = -2 order by datname
                ) as unusable_databases,
                (
                    select count(*)
                    from pg_roles role
                    where current_setting('server_version_num')::integer >= 160000
                      and starts_with(role.rolname, $1)
                      and shobj_description(role.oid, 'pg_authid') like 'tenantry %'
                      and not exists (
                          select
                          from pg_auth_members
                          where roleid = role.oid
                            and member = pg_roles.oid
                            and admin_option
                      )
                ) as foreign_roles,
                (select count(*) from pg_database where datname ~ ('^' || $1 || 'template_[0-9a-f]{16}$') and datistemplate) as sealed_templates,
                (select count(*) from pg_database where datname ~ ('^' || $1 || 'template_[0-9a-f]{16}$') and not datistemplate) as unsealed_templates,
                current_setting('max_connections')::integer as max_connections,
                (select coalesce(sum(numbackends), 0) from pg_stat_database)::integer as connections,
                case when pg_has_role('pg_read_all_settings', 'usage') and (inet_server_addr() is null or inet_server_addr() << '127.0.0.0/8' or inet_server_addr() = '::1')
                     then current_setting('data_directory') end as data_directory
         from pg_roles
         where rolname = current_user",
    )
    .bind(prefix)
    .fetch_one(&mut *connection)
    .await
    .map_err(Error::sql("looking at the cluster"))?;
    // a statement of its own: the right to call the function is asked for even where it is not called
    if findings.superuser {
        findings.orphan_directories = sqlx::query_scalar(
            "select count(*)
             from pg_ls_dir('base') directory
             where directory ~ '^[0-9]+$'
               and not exists (select from pg_database where oid::text = directory)",
        )
        .fetch_one(connection)
        .await
        .map_err(Error::sql("looking for directories of no database"))?;
    }
    Ok(findings)
}
