//! Checks of the control database.

use chrono::{DateTime, Utc};
use secrecy::ExposeSecret;

use super::Check;
use crate::{
    causes::chain,
    config::Config,
    db::{Db, Error, Schema},
    tenants,
};

/// A clock this far off makes signatures look old or from the future (seconds).
const CLOCK_WARN_S: i64 = 60;

pub(super) async fn check(config: &Config) -> Vec<Check> {
    if config.database.url.expose_secret().is_empty() {
        return vec![Check::fail(
            "control database",
            "DATABASE_URL is not set",
            "set it, or start `tenantry dev`",
        )];
    }
    let db = match Db::new(&config.database.url, 4) {
        Ok(db) => db,
        Err(error) => {
            return vec![Check::fail(
                "control database",
                chain(&error),
                "postgresql://user:password@host:port/database",
            )];
        }
    };
    // one direct attempt first: a pool tries again and forgets the reason
    if let Err(error) = crate::db::reach(&config.database.url).await {
        let fix = "check DATABASE_URL and that Postgres runs";
        return vec![Check::fail("control database", chain(&error), fix)];
    }
    let mut checks = Vec::new();
    match db.server_clock().await {
        Ok(clock) => {
            checks.push(Check::pass("control database", "answers"));
            checks.push(clock_check(
                clock,
                DateTime::from(std::time::SystemTime::now()),
            ));
        }
        Err(error) => {
            return vec![Check::fail(
                "control database",
                chain(&error),
                "check DATABASE_URL and that Postgres runs",
            )];
        }
    }
    checks.push(schema(&db).await);
    if let Ok(false) = db.may_create_tables().await {
        let fix =
            "grant create on schema public to that user, or make it the owner of the database";
        checks.push(Check::fail(
            "control rights",
            "the user in DATABASE_URL may not create tables",
            fix,
        ));
    }
    checks.extend(clusters_of_tenants(&db, config).await);
    db.close().await;
    checks
}

/// Tenants on clusters that nobody configured are out of reach. Where the schema is not there, another check says so.
async fn clusters_of_tenants(db: &Db, config: &Config) -> Vec<Check> {
    let count = async |connection: &mut _| tenants::count_by_cluster(connection).await;
    let counts = db.run(count).await.unwrap_or_default();
    let configured = config.effective_clusters();
    let is_unknown = |name: &str| configured.iter().all(|cluster| cluster.name != name);
    let unknown = counts.into_iter().filter(|(name, _)| is_unknown(name));
    unknown
        .map(|(name, tenants)| {
            Check::fail(
                "clusters",
                format!("{tenants} tenants are on cluster {name}, which is not configured"),
                "add it to [[clusters]] under this name; the control database's own server is `main` only while there is no [[clusters]]",
            )
        })
        .collect()
}

async fn schema(db: &Db) -> Check {
    match db.schema().await {
        Ok(Schema::Usable) => Check::pass("control schema", "can be used by this version"),
        Ok(Schema::Behind) => Check::warn(
            "control schema",
            "is an older version's",
            "start `tenantry serve`: it migrates",
        ),
        Ok(Schema::TooNew(version)) => Check::fail(
            "control schema",
            format!("has migration {version}, with which this version cannot work"),
            "run the newer tenantry: docs/operations.md, \"Upgrade and rollback\"",
        ),
        Err(Error::Sql(error)) if crate::db::sqlstate(&error).as_deref() == Some("42P01") => {
            Check::warn(
                "control schema",
                "is not there yet",
                "start `tenantry serve`: it migrates",
            )
        }
        Err(error) => Check::fail(
            "control schema",
            chain(&error),
            "check the rights of the user in DATABASE_URL",
        ),
    }
}

fn clock_check(server: DateTime<Utc>, here: DateTime<Utc>) -> Check {
    let off = (server - here).num_seconds().abs();
    if off < CLOCK_WARN_S {
        Check::pass("clock", format!("{off} s from the database's"))
    } else {
        Check::warn(
            "clock",
            format!("{off} s from the database's"),
            "synchronise the clocks (NTP): signatures are checked against this one",
        )
    }
}
