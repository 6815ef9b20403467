//! Databases that are no tenant's: those of the warm pool, and the throw-away clones of a dry run.
//!
//! Guarantees: PUBLIC gets into none of them at any moment; one of the pool is closed to connections until it is a
//! tenant's; what is listed or dropped has a name, an owner and a comment of ours.

use sqlx::{AssertSqlSafe, PgConnection};
use uuid::Uuid;

use super::{
    Cluster, Error, Ident,
    databases::{drop_database, literal},
};

/// The name of a database of the warm pool.
pub fn pooled(prefix: &str, id: Uuid) -> Result<Ident, Error> {
    Ok(Ident::new(&format!("{prefix}pool_{}", id.simple()))?)
}

/// The comment of a database of the warm pool.
pub fn pool_comment(id: Uuid, hash: &str) -> String {
    format!("tenantry pool={id} template={hash}")
}

/// One commit: a clone is a database of the pool. It stays closed to connections.
pub async fn mark_pooled(
    connection: &mut PgConnection,
    name: &Ident,
    comment: &str,
) -> Result<(), Error> {
    let statements = format!(
        "comment on database {name} is {};
         revoke all on database {name} from public",
        literal(comment)
    );
    sqlx::raw_sql(AssertSqlSafe(statements))
        .execute(connection)
        .await
        .map_err(Error::sql(format!(
            "marking database {} as the pool's",
            name.as_str()
        )))?;
    Ok(())
}

/// Databases of the cluster's pool: ours, of such a name, and of no tenant.
pub async fn list_pooled(
    connection: &mut PgConnection,
    cluster: &Cluster,
) -> Result<Vec<String>, Error> {
    sqlx::query_scalar(
        "select datname::text
         from pg_database
         where datname ~ ('^' || $1 || 'pool_[0-9a-f]{32}$')
           and pg_get_userbyid(datdba) = $2
           and coalesce(shobj_description(oid, 'pg_database'), '') !~ '^tenantry tenant='
         order by datname",
    )
    .bind(&cluster.prefix)
    .bind(cluster.owner.as_str())
    .fetch_all(connection)
    .await
    .map_err(Error::sql("listing the databases of the pool"))
}

/// The name of a throw-away clone of what is named so: hexadecimal digits, of which the first 16 count.
pub fn rehearsal(prefix: &str, of: &str) -> Result<Ident, Error> {
    let short: String = of.chars().take(16).collect();
    Ok(Ident::new(&format!("{prefix}rehearsal_{short}"))?)
}

/// One commit: a throw-away clone, marked as one, open to us and to nobody else.
pub async fn open_rehearsal(connection: &mut PgConnection, name: &Ident) -> Result<(), Error> {
    let statements = format!(
        "comment on database {name} is '{REHEARSAL}';
         revoke all on database {name} from public;
         alter database {name} allow_connections true"
    );
    sqlx::raw_sql(AssertSqlSafe(statements))
        .execute(connection)
        .await
        .map_err(Error::sql(format!(
            "opening the throw-away clone {}",
            name.as_str()
        )))?;
    Ok(())
}

/// The comment of a throw-away clone.
const REHEARSAL: &str = "tenantry rehearsal";

/// Drops the throw-away clones that are left on the cluster. Whoever calls this is the only one who makes any.
pub async fn drop_rehearsals(
    connection: &mut PgConnection,
    cluster: &Cluster,
) -> Result<(), Error> {
    let left: Vec<String> = sqlx::query_scalar(
        "select datname::text
         from pg_database
         where datname ~ ('^' || $1 || 'rehearsal_[0-9a-f]{16}$')
           and pg_get_userbyid(datdba) = $2
           -- one that was not opened yet has no comment
           and coalesce(shobj_description(oid, 'pg_database'), $3) = $3",
    )
    .bind(&cluster.prefix)
    .bind(cluster.owner.as_str())
    .bind(REHEARSAL)
    .fetch_all(&mut *connection)
    .await
    .map_err(Error::sql("listing throw-away clones"))?;
    for name in left {
        drop_database(connection, &Ident::new(&name)?).await?;
    }
    Ok(())
}
