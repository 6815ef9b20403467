//! Sessions and the attempts they belong to.
//!
//! Guarantees: when [`Cluster::end_stale_sessions`] returns, no session of another attempt on the
//! tenant is left: not a stopped process's, and not the server's end of a `create database` whose
//! client was killed, which would otherwise finish seconds later. When [`Cluster::end_own_sessions`]
//! returns, the same is true of this attempt. Neither ends sessions of a tenant's role: an attempt only
//! looks with them, and whoever logs in so may call the session as they like. Sessions of others are ended
//! by whoever holds the claim, and by nobody who was stopped and has lost it.

use std::time::{Duration, Instant};

use sqlx::PgConnection;

use super::{Cluster, Error, Ident, Tag};

const PATIENCE: Duration = Duration::from_secs(10);

pub(super) async fn set_name(connection: &mut PgConnection, name: &str) -> Result<(), Error> {
    sqlx::query("select set_config('application_name', $1, false)")
        .bind(name)
        .execute(connection)
        .await
        .map_err(Error::sql("naming the session"))?;
    Ok(())
}

/// Whose sessions are ended.
#[derive(Clone, Copy, PartialEq)]
enum Whose {
    OtherAttempts,
    ThisAttempt,
}

impl Cluster {
    /// Ends every session of other attempts on the tag's tenant, and waits until they are gone.
    ///
    /// Those attempts may be newer than ours: sessions are ended only while `is_held`.
    pub async fn end_stale_sessions(
        &self,
        tag: &Tag,
        is_held: impl Fn() -> bool + Copy,
    ) -> Result<(), Error> {
        self.end_sessions(tag, Whose::OtherAttempts, is_held).await
    }

    /// Ends every session that carries the tag, and waits until they are gone: the server may be busy
    /// still with what its client was cut off from.
    pub async fn end_own_sessions(&self, tag: &Tag) -> Result<(), Error> {
        self.end_sessions(tag, Whose::ThisAttempt, || true).await
    }

    async fn end_sessions(
        &self,
        tag: &Tag,
        whose: Whose,
        is_held: impl Fn() -> bool + Copy,
    ) -> Result<(), Error> {
        let started = Instant::now();
        loop {
            let end = async |connection: &mut _| terminate(connection, tag, whose).await;
            let left = self.run_as(tag, is_held, end).await?;
            if left == 0 {
                return Ok(());
            }
            if started.elapsed() > PATIENCE {
                return Err(Error::StaleSessions {
                    count: left,
                    tenant: tag.tenant,
                });
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }
}

async fn terminate(connection: &mut PgConnection, tag: &Tag, whose: Whose) -> Result<i64, Error> {
    sqlx::query_scalar(
        "select count(pg_terminate_backend(pid))
         from pg_stat_activity
         where starts_with(application_name, $1)
           and (application_name = $2) = $4
           and pid <> pg_backend_pid()
           -- anybody may call a session so: a tenant's role only looks (verify), or is somebody who logs in
           and not starts_with(coalesce(shobj_description(usesysid, 'pg_authid'), ''), $3)
           -- and one of a role that we may not end is no attempt's
           and pg_has_role(usesysid, 'usage')",
    )
    .bind(format!("tenantry {} ", tag.tenant))
    .bind(&tag.text)
    .bind(super::roles::MARK)
    .bind(whose == Whose::ThisAttempt)
    .fetch_one(connection)
    .await
    .map_err(Error::sql(format!(
        "ending sessions of attempts on tenant {}",
        tag.tenant
    )))
}

/// Who is in a database: how many sessions of which application, in words; `None` when nobody is.
pub async fn describe_all(
    connection: &mut PgConnection,
    database: &Ident,
) -> Result<Option<String>, Error> {
    let found: Vec<(String, i64)> = sqlx::query_as(
        "select coalesce(application_name, '') as application, count(*) as sessions
         from pg_stat_activity
         where datname = $1
           -- the server ends these by itself when the database is wanted; of others' sessions we may not know
           and backend_type is distinct from 'autovacuum worker'
           and usesysid is not null
         group by 1
         union all
         select 'a prepared transaction', count(*)
         from pg_prepared_xacts
         where database = $1
         having count(*) > 0
         order by sessions desc, application",
    )
    .bind(database.as_str())
    .fetch_all(connection)
    .await
    .map_err(Error::sql(format!(
        "looking who is in database {}",
        database.as_str()
    )))?;
    let told = found.iter().map(|(application, sessions)| {
        let application = match application.as_str() {
            "" => "an application without a name",
            name => name,
        };
        match sessions {
            1 => format!("1 session of {application}"),
            _ => format!("{sessions} sessions of {application}"),
        }
    });
    Ok((!found.is_empty()).then(|| told.collect::<Vec<_>>().join(", ")))
}

/// Ends every session of a database that our role may end; does not wait until they are gone.
pub async fn end_those_we_may(
    connection: &mut PgConnection,
    database: &Ident,
) -> Result<(), Error> {
    sqlx::query(
        "select pg_terminate_backend(pid)
         from pg_stat_activity
         join pg_roles on pg_roles.oid = usesysid
         where datname = $1
           and pg_has_role(usesysid, 'usage')
           and not rolsuper",
    )
    .bind(database.as_str())
    .execute(connection)
    .await
    .map_err(Error::sql(format!(
        "ending sessions in database {}",
        database.as_str()
    )))?;
    Ok(())
}

/// Ends one session of a database, and waits until it is gone.
pub async fn end(connection: &mut PgConnection, database: &Ident, pid: i32) -> Result<(), Error> {
    end_all(connection, database, Some(pid), None).await
}

/// Ends every session of a role in a database, and waits until they are gone.
pub async fn end_of_role(
    connection: &mut PgConnection,
    database: &Ident,
    role: &Ident,
) -> Result<(), Error> {
    end_all(connection, database, None, Some(role.as_str())).await
}

async fn end_all(
    connection: &mut PgConnection,
    database: &Ident,
    pid: Option<i32>,
    role: Option<&str>,
) -> Result<(), Error> {
    let failed = || Error::sql(format!("ending sessions in database {}", database.as_str()));
    let started = Instant::now();
    loop {
        let left: i64 = sqlx::query_scalar(
            "select count(pg_terminate_backend(pid))
             from pg_stat_activity
             where datname = $1
               and (pid = $2 or usename = $3)",
        )
        .bind(database.as_str())
        .bind(pid)
        .bind(role)
        .fetch_one(&mut *connection)
        .await
        .map_err(failed())?;
        if left == 0 {
            return Ok(());
        }
        if started.elapsed() > PATIENCE {
            let timed_out = std::io::ErrorKind::TimedOut.into();
            return Err(failed()(sqlx::Error::Io(timed_out)));
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}
