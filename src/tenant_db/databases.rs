//! Databases: clone, mark, hand over, drop.
//!
//! `create database` cannot run in a transaction, so a clone is made under a name that holds the
//! tenant's whole id, closed to connections. One transaction then marks it, takes PUBLIC's rights
//! away, opens it and gives it its own name: under that name it never existed without them.
//!
//! The mark is a comment on the database together with its owner, our owner role. Databases that are nobody's
//! have marks of their own: [`super::spare`].

use std::time::Duration;

use sqlx::{AssertSqlSafe, FromRow, PgConnection};
use uuid::Uuid;

use super::{Cluster, Error, Ident, sessions};

/// What `pg_database` says of a database.
#[derive(Debug, Clone, FromRow)]
#[expect(
    clippy::struct_excessive_bools,
    reason = "four independent columns of pg_database"
)]
pub struct Facts {
    /// Its name.
    pub name: String,
    /// Role that owns it.
    pub owner: String,
    /// Its comment.
    pub comment: Option<String>,
    /// False after a crash in the middle of `drop database`: it can only be dropped again.
    pub usable: bool,
    /// Sealed as a template.
    pub is_template: bool,
    /// Open to connections.
    pub allows_connections: bool,
    /// PUBLIC has a right on it, by a grant or by the default of a database without any.
    pub is_public: bool,
    /// Major version of the server.
    pub server_major: i32,
}

/// Whose a database is, and what it is like, as its comment says.
///
/// It is the cluster's own word: whoever restores a cluster to an earlier moment restores this with the databases.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mark {
    /// The tenant.
    pub tenant: Uuid,
    /// Hash of the blueprint whose template it was cloned from.
    pub template: String,
    /// Hash of the blueprint whose template it was found to be like, when it was last looked into; `None` while that is
    /// not known, as in what an older tenantry wrote.
    pub like: Option<String>,
}

impl Mark {
    /// The comment.
    pub fn comment(&self) -> String {
        let (tenant, template) = (self.tenant, &self.template);
        let like = self.like.as_ref().map(|like| format!(" like={like}"));
        format!(
            "tenantry tenant={tenant} template={template}{}",
            like.unwrap_or_default()
        )
    }

    /// Reads a comment; `None` when it is not a mark.
    pub fn parse(comment: &str) -> Option<Self> {
        let rest = comment.strip_prefix("tenantry tenant=")?;
        let (tenant, template) = rest.split_once(" template=")?;
        let (template, like) = match template.split_once(" like=") {
            Some((template, like)) => (template, Some(like.to_owned())),
            None => (template, None),
        };
        Some(Self {
            tenant: tenant.parse().ok()?,
            template: template.to_owned(),
            like,
        })
    }
}

/// Looks a database up.
pub async fn find(connection: &mut PgConnection, name: &str) -> Result<Option<Facts>, Error> {
    Ok(find_all(connection, &[name]).await?.pop())
}

/// Looks databases up; those that are there, in no order.
pub async fn find_all(connection: &mut PgConnection, names: &[&str]) -> Result<Vec<Facts>, Error> {
    sqlx::query_as(
        "select datname::text as name,
                pg_get_userbyid(datdba)::text as owner,
                shobj_description(oid, 'pg_database') as comment,
                datconnlimit <> -2 as usable,
                datistemplate as is_template,
                datallowconn as allows_connections,
                -- without any grant the default holds, and that gives PUBLIC connect and temp
                datacl is null
                or exists (select from aclexplode(datacl) acl where acl.grantee = 0) as is_public,
                current_setting('server_version_num')::integer / 10000 as server_major
         from pg_database
         where datname = any($1::text[])",
    )
    .bind(names)
    .fetch_all(connection)
    .await
    .map_err(Error::sql(format!(
        "looking up database {}",
        names.join(", ")
    )))
}

impl Facts {
    /// The mark, if the database is owned as ours are.
    pub fn mark(&self, owner: &Ident) -> Option<Mark> {
        if self.owner != owner.as_str() {
            return None;
        }
        Mark::parse(self.comment.as_deref()?)
    }

    /// For the message about a foreign database.
    pub fn describe(&self) -> String {
        match &self.comment {
            Some(comment) => format!("owner {}, comment {comment:?}", self.owner),
            None => format!("owner {}, no comment", self.owner),
        }
    }
}

/// The name under which a tenant's database is cloned before it is handed over.
pub fn unnamed(prefix: &str, tenant: Uuid) -> Result<Ident, Error> {
    Ok(Ident::new(&format!("{prefix}new_{}", tenant.simple()))?)
}

/// Clones a sealed template under `name`, closed to connections.
///
/// False when another session created a database of that name in the same moment (42P04, 23505).
pub async fn clone_template(
    connection: &mut PgConnection,
    cluster: &Cluster,
    template: &Ident,
    name: &Ident,
) -> Result<bool, Error> {
    let strategy = clone_strategy(connection, cluster, template).await?;
    let cloned = copy(connection, cluster, template, name, &strategy).await;
    if let Err(error) = &cloned
        && error.sqlstate().as_deref() == Some("XX000")
    {
        unseal_outdated(connection, template).await?;
    }
    cloned
}

/// Takes the seal from a template whose texts are sorted otherwise by the system's libraries of today: the server
/// no longer clones it, and whoever looks next builds it anew.
async fn unseal_outdated(connection: &mut PgConnection, template: &Ident) -> Result<(), Error> {
    let is_outdated = sqlx::query_scalar(
        "select exists (
             select
             from pg_database
             where datname = $1
               and datcollversion is distinct from pg_database_collation_actual_version(oid)
         )",
    )
    .bind(template.as_str())
    .fetch_one(&mut *connection)
    .await;
    // before 15 the server neither knows nor minds
    if is_outdated.unwrap_or(false) {
        tracing::warn!(
            template = template.as_str(),
            "the system sorts texts otherwise since the template was built: it is built anew. Indexes of \
             tenants' databases need the same: reindex them"
        );
        unseal(connection, template)
            .await
            .map_err(Error::sql(format!("unsealing {}", template.as_str())))?;
    }
    Ok(())
}

/// Clones a tenant's database under `name`, closed to connections.
///
/// Nobody may be connected to it (55006), and nobody can connect to it meanwhile: it ends after `limit`
/// (57014), and then nothing is left of it.
pub async fn clone_tenant(
    connection: &mut PgConnection,
    cluster: &Cluster,
    source: &Ident,
    name: &Ident,
    limit: Duration,
) -> Result<bool, Error> {
    let strategy = find_strategy(connection, source).await?;
    sqlx::query("select set_config('statement_timeout', $1, false)")
        .bind(limit.as_millis().to_string())
        .execute(&mut *connection)
        .await
        .map_err(Error::sql("bounding the time of a clone"))?;
    let copied = copy(connection, cluster, source, name, &strategy).await;
    sqlx::query("reset statement_timeout")
        .execute(connection)
        .await
        .map_err(Error::sql("bounding the time of a clone no more"))?;
    copied
}

async fn copy(
    connection: &mut PgConnection,
    cluster: &Cluster,
    source: &Ident,
    name: &Ident,
    strategy: &str,
) -> Result<bool, Error> {
    let owner = &cluster.owner;
    let statement = format!(
        "create database {name} template {source} owner {owner} allow_connections false {strategy}"
    );
    let created = sqlx::raw_sql(AssertSqlSafe(statement))
        .execute(connection)
        .await;
    is_new(created).map_err(Error::sql(format!(
        "cloning {} as {}",
        source.as_str(),
        name.as_str()
    )))
}

/// How a template is cloned; asked for once, as its size is found by looking at every one of its files.
async fn clone_strategy(
    connection: &mut PgConnection,
    cluster: &Cluster,
    template: &Ident,
) -> Result<String, Error> {
    if let Some(known) = cluster.strategies().get(template.as_str()) {
        return Ok(known.clone());
    }
    let strategy = find_strategy(connection, template).await?;
    let known = (template.as_str().to_owned(), strategy.clone());
    cluster.strategies().extend([known]);
    Ok(strategy)
}

async fn find_strategy(connection: &mut PgConnection, source: &Ident) -> Result<String, Error> {
    let name = source.as_str();
    // WAL_LOG needs no checkpoint, FILE_COPY two; from about a gigabyte on the log costs more than
    // they do. Before 15 there is only the copy.
    sqlx::query_scalar(
        "select case
                    when current_setting('server_version_num')::integer < 150000 then ''
                    when pg_database_size($1::name) < 1::bigint << 30 then 'strategy wal_log'
                    else 'strategy file_copy'
                end",
    )
    .bind(name)
    .fetch_one(connection)
    .await
    .map_err(Error::sql(format!("looking at the size of {name}")))
}

/// Creates an empty database that belongs to the owner role and is open to nobody else.
pub async fn create_empty(
    connection: &mut PgConnection,
    cluster: &Cluster,
    name: &Ident,
) -> Result<bool, Error> {
    // template0: what somebody put into template1 must not come along
    let create = format!(
        "create database {name} template template0 owner {} encoding 'UTF8' allow_connections false",
        cluster.owner
    );
    // one commit: a new database lets PUBLIC in, so it is opened when that is taken away
    let open = format!(
        "revoke all on database {name} from public;
         alter database {name} allow_connections true"
    );
    let failed = || Error::sql(format!("creating database {}", name.as_str()));
    let created = sqlx::raw_sql(AssertSqlSafe(create))
        .execute(&mut *connection)
        .await;
    if !is_new(created).map_err(failed())? {
        return Ok(false);
    }
    sqlx::raw_sql(AssertSqlSafe(open))
        .execute(connection)
        .await
        .map_err(failed())?;
    Ok(true)
}

/// Creates a control database on a private cluster.
pub async fn create_control(connection: &mut PgConnection, name: &str) -> Result<(), Error> {
    let name = Ident::new(name)?;
    let statement = format!("create database {name} template template0 encoding 'UTF8'");
    let created = sqlx::raw_sql(AssertSqlSafe(statement))
        .execute(connection)
        .await;
    is_new(created).map_err(Error::sql(format!("creating database {}", name.as_str())))?;
    Ok(())
}

fn is_new<T>(created: sqlx::Result<T>) -> sqlx::Result<bool> {
    match created {
        Ok(_) => Ok(true),
        // the loser of a race gets a unique violation of pg_database_datname_index
        Err(error)
            if matches!(
                crate::db::sqlstate(&error).as_deref(),
                Some("42P04" | "23505")
            ) =>
        {
            Ok(false)
        }
        Err(error) => Err(error),
    }
}

/// One commit: marked, closed to PUBLIC, opened to connections, and under its own name.
pub async fn hand_over(
    connection: &mut PgConnection,
    from: &Ident,
    to: &Ident,
    mark: &Mark,
) -> Result<(), Error> {
    let comment = literal(&mark.comment());
    // several statements in one simple query are one transaction
    let statements = format!(
        "comment on database {from} is {comment};
         revoke all on database {from} from public;
         alter database {from} allow_connections true;
         alter database {from} rename to {to}"
    );
    sqlx::raw_sql(AssertSqlSafe(statements))
        .execute(connection)
        .await
        .map_err(Error::sql(format!(
            "handing over database {} as {}",
            from.as_str(),
            to.as_str()
        )))?;
    Ok(())
}

/// One commit, for which the disk is not waited: what a tenant's database says of itself.
pub async fn set_mark(
    connection: &mut PgConnection,
    cluster: &Cluster,
    name: &Ident,
    mark: &Mark,
) -> Result<(), Error> {
    let (owner, comment) = (&cluster.owner, literal(&mark.comment()));
    let statements = format!(
        "begin;
         set local role {owner};
         set local synchronous_commit = off;
         comment on database {name} is {comment};
         commit"
    );
    sqlx::raw_sql(AssertSqlSafe(statements))
        .execute(connection)
        .await
        .map_err(Error::sql(format!("marking database {}", name.as_str())))?;
    Ok(())
}

/// One commit: a template, complete and closed.
pub async fn seal(connection: &mut PgConnection, name: &Ident, hash: &str) -> Result<(), Error> {
    let comment = literal(&template_comment(hash));
    let statements = format!(
        "comment on database {name} is {comment};
         revoke all on database {name} from public;
         alter database {name} is_template true allow_connections false"
    );
    sqlx::raw_sql(AssertSqlSafe(statements))
        .execute(connection)
        .await
        .map_err(Error::sql(format!("sealing template {}", name.as_str())))?;
    Ok(())
}

/// The comment of a sealed template.
pub fn template_comment(hash: &str) -> String {
    format!("tenantry template={hash}")
}

/// Drops a database, ending its sessions. The caller has checked whose it is.
///
/// A session that we may not end, a superuser's, is in the way (55006).
pub async fn drop_database(connection: &mut PgConnection, name: &Ident) -> Result<(), Error> {
    let failed = || Error::sql(format!("dropping database {}", name.as_str()));
    unseal(connection, name).await.map_err(failed())?;
    let drop = format!("drop database if exists {name}");
    // outside a transaction, where it cannot run
    let forced = sqlx::raw_sql(AssertSqlSafe(format!("{drop} with (force)")))
        .execute(&mut *connection)
        .await;
    match forced {
        // autovacuum belongs to nobody: who may not end it ends nothing by force. Without force the server
        // sends it away on its own
        Err(refused) if crate::db::sqlstate(&refused).as_deref() == Some("42501") => {
            sessions::end_those_we_may(connection, name).await?;
            sqlx::raw_sql(AssertSqlSafe(drop)).execute(connection).await
        }
        forced => forced,
    }
    .map_err(failed())?;
    Ok(())
}

/// A template is none any more.
async fn unseal(connection: &mut PgConnection, name: &Ident) -> sqlx::Result<()> {
    // never of an unusable database: that is no template, and the server answers "alter database"
    // by ending the session (FATAL: cannot alter invalid database)
    let is_sealed: bool = sqlx::query_scalar(
        "select exists (
             select
             from pg_database
             where datname = $1
               and datistemplate
               and datconnlimit <> -2
         )",
    )
    .bind(name.as_str())
    .fetch_one(&mut *connection)
    .await?;
    if is_sealed {
        let unseal = format!("alter database {name} is_template false");
        sqlx::raw_sql(AssertSqlSafe(unseal))
            .execute(connection)
            .await?;
    }
    Ok(())
}

/// The server's version as a number: 150018 is 15.18.
pub async fn version(connection: &mut PgConnection) -> Result<i32, Error> {
    sqlx::query_scalar("select current_setting('server_version_num')::integer")
        .fetch_one(connection)
        .await
        .map_err(Error::sql("asking for the server's version"))
}

/// A text as an SQL literal. Ours hold no quote and no backslash; what could end the literal is left out all the same.
pub(super) fn literal(text: &str) -> String {
    let safe: String = text
        .chars()
        .filter(|c| !matches!(c, '\'' | '\\' | '\0'))
        .collect();
    format!("'{safe}'")
}

impl Cluster {
    /// Looks a database up. Without a tag: a look has no effect that a later attempt must end.
    pub async fn find_database(&self, name: &str) -> Result<Option<Facts>, Error> {
        self.run(async |connection| find(connection, name).await)
            .await
    }
}
