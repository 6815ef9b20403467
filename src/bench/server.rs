//! The Postgres of a run: a private durable cluster, or databases of our own on a given server.
//!
//! Guarantees: everything carries a random prefix, and [`Server::remove`] leaves nothing of it.

use std::{
    path::{Path, PathBuf},
    str::FromStr,
    time::Duration,
};

use base64::{Engine, engine::general_purpose::STANDARD as BASE64};
use indicatif::ProgressBar;
use secrecy::SecretString;
use sqlx::{
    AssertSqlSafe, Connection, PgConnection,
    postgres::{PgConnectOptions, PgRow},
};

use super::{Environment, Error, Options, Setup, report::NOTE, sender::SECRET, visitors};
use crate::{
    blueprint::Blueprint,
    config::{self, Config},
    db::{self, Db},
    private_postgres::{self, PrivatePostgres},
    tenant_db::{Ident, databases},
};

/// Where the replicas of a run work.
#[derive(Debug)]
pub(super) struct Server {
    /// The program to start as a replica.
    pub program: PathBuf,
    /// Files of this run.
    pub scratch: PathBuf,
    /// What the replicas are configured with.
    pub variables: Vec<(&'static str, String)>,
    /// The same as the replicas read it.
    pub config: Config,
    /// What tenants are made of.
    pub blueprint: Blueprint,
    control: String,
    postgres: Option<PrivatePostgres>,
    maintenance: PgConnectOptions,
}

impl Server {
    /// Starts or connects, and prepares a migrated control database and the blueprint.
    pub(super) async fn start(
        options: &Options,
        setup: &Setup,
        progress: &ProgressBar,
    ) -> Result<Self, Error> {
        let run = format!("{:08x}", rand::random::<u32>());
        let (postgres, url) = if let Some(url) = &options.database_url {
            (None, url.clone())
        } else {
            let postgres = start_private(setup, progress).await?;
            let url = postgres.url("postgres");
            (Some(postgres), url)
        };
        let control = format!("tenantry_bench_control_{run}");
        let control_url = with_database(&url, &control)?;
        let scratch = setup.scratch.join(format!("tenantry-bench-{run}"));
        let mut variables = variables(&run, &control_url, &scratch);
        variables.extend(visitors::variables(&scratch));
        visitors::make_issuer(&scratch)?;
        let environment: config::Environment = variables
            .iter()
            .map(|(name, value)| ((*name).to_owned(), value.clone()))
            .collect();
        let server = Self {
            program: setup.program.clone(),
            config: Config::load(None, &environment)?,
            maintenance: db::connect_options(&SecretString::from(url))?,
            blueprint: Blueprint::bundled()?,
            scratch,
            variables,
            control,
            postgres,
        };
        if let Err(error) = server.prepare().await {
            server.remove().await?;
            return Err(error);
        }
        Ok(server)
    }

    async fn prepare(&self) -> Result<(), Error> {
        let blueprint = &self.config.blueprint.directory;
        std::fs::create_dir_all(blueprint).map_err(Error::io("making a directory"))?;
        Blueprint::write_bundled(blueprint)?;
        let create = format!("create database {}", self.control);
        execute(&mut self.maintenance().await?, create).await?;
        let control = Db::new(&self.config.database.url, 1)?;
        control.migrate().await?;
        control.close().await;
        Ok(())
    }

    /// A connection to the control database.
    pub(super) async fn control(&self) -> Result<PgConnection, Error> {
        connect(db::connect_options(&self.config.database.url)?).await
    }

    /// A connection from which databases are made.
    pub(super) async fn maintenance(&self) -> Result<PgConnection, Error> {
        connect(self.maintenance.clone()).await
    }

    /// How to connect to the server as its maintenance role.
    pub(super) fn maintenance_options(&self) -> PgConnectOptions {
        self.maintenance.clone()
    }

    /// Forgets every event and job.
    pub(super) async fn empty_inbox(&self) -> Result<(), Error> {
        let mut control = self.control().await?;
        execute(
            &mut control,
            "truncate webhook_events, jobs, job_attempts".to_owned(),
        )
        .await?;
        self.checkpoint().await
    }

    /// Forgets every registration, with organizations and tenants, and every event and job. No tenant has a database.
    pub(super) async fn empty_registrations(&self) -> Result<(), Error> {
        let tables =
            "truncate organizations, tenants, tenant_hosts, provisioning_steps, pool_databases,
                               registrations, registration_events, idempotency_keys";
        execute(&mut self.control().await?, tables.to_owned()).await?;
        self.empty_inbox().await
    }

    /// Forgets everything that providers said, and every registration, event and job. There are no tenants.
    pub(super) async fn empty_registers(&self) -> Result<(), Error> {
        let tables = "truncate users, memberships, invitations, roles";
        execute(&mut self.control().await?, tables.to_owned()).await?;
        self.empty_registrations().await
    }

    /// Drops every tenant, keeps the template.
    pub(super) async fn drop_tenants(&self) -> Result<(), Error> {
        self.set_fsync("off").await?;
        let dropped = self.drop_databases("not datistemplate").await;
        self.set_fsync("on").await?;
        dropped?;
        self.drop_roles("rolcanlogin").await?;
        self.empty_registrations().await
    }

    /// So that no phase pays for what the one before wrote.
    pub(super) async fn checkpoint(&self) -> Result<(), Error> {
        let mut maintenance = self.maintenance().await?;
        execute(&mut maintenance, "set statement_timeout = 0".to_owned()).await?;
        // needs a right that a managed server may not give: then it is only less exact
        let _ = execute(&mut maintenance, "checkpoint".to_owned()).await;
        Ok(())
    }

    /// Dropping a database waits for a checkpoint, and the disk of every file of every other one: on
    /// our own cluster that is not measured, so it need not be waited for.
    async fn set_fsync(&self, to: &'static str) -> Result<(), Error> {
        if self.postgres.is_none() {
            return Ok(());
        }
        let mut maintenance = self.maintenance().await?;
        execute(&mut maintenance, format!("alter system set fsync = {to}")).await?;
        execute(&mut maintenance, "select pg_reload_conf()".to_owned()).await?;
        let is_set = format!("select where current_setting('fsync') = '{to}'");
        while !has_row(&mut maintenance, &is_set).await? {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        Ok(())
    }

    async fn drop_databases(&self, which: &'static str) -> Result<(), Error> {
        let mut maintenance = self.maintenance().await?;
        execute(&mut maintenance, "set statement_timeout = 0".to_owned()).await?;
        let sql = format!(
            "select datname::text from pg_database where starts_with(datname, $1) and {which}"
        );
        for name in self.names(&mut maintenance, sql).await? {
            databases::drop_database(&mut maintenance, &name)
                .await
                .map_err(|error| Error::Sql {
                    doing: "dropping a database",
                    source: sqlx::Error::Configuration(error.into()),
                })?;
        }
        Ok(())
    }

    async fn drop_roles(&self, which: &'static str) -> Result<(), Error> {
        let mut maintenance = self.maintenance().await?;
        let sql = format!(
            "select rolname::text from pg_roles where starts_with(rolname, $1) and {which}"
        );
        for name in self.names(&mut maintenance, sql).await? {
            execute(&mut maintenance, format!("drop role {name}")).await?;
        }
        Ok(())
    }

    async fn names(
        &self,
        maintenance: &mut PgConnection,
        sql: String,
    ) -> Result<Vec<Ident>, Error> {
        let names: Vec<String> = sqlx::query_scalar(AssertSqlSafe(sql))
            .bind(&self.config.tenants.prefix)
            .fetch_all(maintenance)
            .await
            .map_err(Error::sql("listing what was made"))?;
        Ok(names
            .iter()
            .filter_map(|name| Ident::new(name).ok())
            .collect())
    }

    /// What was measured on.
    pub(super) async fn environment(&self) -> Result<Environment, Error> {
        let sql = "select current_setting('server_version'),
                          format('fsync %s, synchronous_commit %s', current_setting('fsync'), current_setting('synchronous_commit'))";
        let (postgres, durability) = sqlx::query_as(sql)
            .fetch_one(&mut self.control().await?)
            .await
            .map_err(Error::sql("asking for the server's version"))?;
        Ok(Environment {
            tenantry: env!("CARGO_PKG_VERSION"),
            optimized: !cfg!(debug_assertions),
            postgres,
            durability,
            processors: std::thread::available_parallelism().map_or(1, usize::from),
            note: NOTE,
        })
    }

    /// Removes everything that the run made. Replicas have ended.
    pub(super) async fn remove(mut self) -> Result<(), Error> {
        let removed = match self.postgres.take() {
            Some(postgres) => postgres.stop().await.map_err(Error::from),
            None => self.drop_everything().await,
        };
        let _ = std::fs::remove_dir_all(&self.scratch);
        removed
    }

    async fn drop_everything(&self) -> Result<(), Error> {
        self.drop_databases("true").await?;
        let drop = format!("drop database if exists {} with (force)", self.control);
        execute(&mut self.maintenance().await?, drop).await?;
        self.drop_roles("true").await
    }
}

/// Durable, so that commits cost what they cost.
async fn start_private(setup: &Setup, progress: &ProgressBar) -> Result<PrivatePostgres, Error> {
    let settings = private_postgres::Settings {
        durable: true,
        ..setup.postgres.clone()
    };
    let told = |text: &str| progress.set_message(text.to_owned());
    Ok(PrivatePostgres::start(&settings, told).await?)
}

/// The configuration of a replica: what it must have, and names of this run; the rest is default.
fn variables(run: &str, control_url: &str, scratch: &Path) -> Vec<(&'static str, String)> {
    vec![
        ("DATABASE_URL", control_url.to_owned()),
        ("WORKOS_WEBHOOK_SECRET", SECRET.to_owned()),
        // a clone for each tenant; what measures the pool has one
        ("TENANTRY__POOL__SIZE", "0".to_owned()),
        // one sender and one key stand for all of them
        ("TENANTRY__LIMITS__PER_PRINCIPAL_PER_MINUTE", "0".to_owned()),
        ("TENANTRY__LIMITS__PER_ADDRESS_PER_MINUTE", "0".to_owned()),
        ("TENANTRY__TENANTS__PREFIX", format!("b{run}_")),
        (
            "TENANTRY__BLUEPRINT__DIRECTORY",
            scratch.join("blueprint").display().to_string(),
        ),
        (
            "TENANTRY__SECRETS__KEYS",
            format!("bench:{}", BASE64.encode(rand::random::<[u8; 32]>())),
        ),
    ]
}

fn with_database(url: &str, database: &str) -> Result<String, Error> {
    PgConnectOptions::from_str(url).map_err(db::Error::Url)?;
    let mut parsed = url::Url::parse(url)
        .map_err(|error| db::Error::Url(sqlx::Error::Configuration(error.into())))?;
    parsed.set_path(database);
    Ok(parsed.to_string())
}

async fn connect(options: PgConnectOptions) -> Result<PgConnection, Error> {
    PgConnection::connect_with(&options)
        .await
        .map_err(Error::sql("connecting to the server"))
}

/// Runs statements whose every name is one of this run's.
pub(super) async fn execute(connection: &mut PgConnection, sql: String) -> Result<(), Error> {
    sqlx::raw_sql(AssertSqlSafe(sql))
        .execute(connection)
        .await
        .map_err(Error::sql("a statement of the bench"))?;
    Ok(())
}

/// Whether a query has a row.
pub(super) async fn has_row(connection: &mut PgConnection, sql: &str) -> Result<bool, Error> {
    let row: Option<PgRow> = sqlx::query(AssertSqlSafe(sql.to_owned()))
        .fetch_optional(connection)
        .await
        .map_err(Error::sql("a query of the bench"))?;
    Ok(row.is_some())
}
