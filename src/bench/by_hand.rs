//! A tenant made by hand: the statements of the plan and nothing else.
//!
//! The same effect as provisioning has: clone, mark, rights, name, role, seed, fingerprint, verify
//! queries, login. Without: the event, the queue, the control database (but for the claim, where a database
//! of the pool is claimed), looking first, checkpoints.
//! The statements stand here once more, and not by calls of the product's functions, so that
//! whatever the product does in excess shows in the ratio.

use secrecy::{ExposeSecret, SecretString};
use sqlx::{
    AssertSqlSafe, Connection, Executor, PgConnection,
    postgres::{PgConnectOptions, PgRow},
};
use uuid::Uuid;

use super::{
    Error,
    server::{Server, execute},
};
use crate::{
    blueprint::Blueprint,
    provisioning::EXCESS_RIGHT,
    secrets,
    tenant_db::{fingerprint, shape},
};

/// Somebody at an open connection, with the statements ready.
pub(super) struct Hand {
    options: PgConnectOptions,
    maintenance: PgConnection,
    blueprint: Blueprint,
    prefix: String,
    connection_limit: i32,
    template: String,
    hash: String,
    fingerprint: String,
    /// What its clones have in common; known from the first one on.
    shape: Option<String>,
    strategy: &'static str,
}

impl Hand {
    pub(super) async fn new(server: &Server) -> Result<Self, Error> {
        let (template, hash, fingerprint) =
            sqlx::query_as("select database, hash, compared_fingerprint from templates")
                .fetch_one(&mut server.control().await?)
                .await
                .map_err(Error::sql("looking up the template"))?;
        let mut maintenance = server.maintenance().await?;
        let version = "select current_setting('server_version_num')::integer";
        let version: i32 = sqlx::query_scalar(version)
            .fetch_one(&mut maintenance)
            .await
            .map_err(Error::sql("asking for the server's version"))?;
        Ok(Self {
            options: server.maintenance_options(),
            maintenance,
            blueprint: server.blueprint.clone(),
            prefix: server.config.tenants.prefix.clone(),
            connection_limit: server.config.tenants.connection_limit,
            template,
            hash,
            fingerprint,
            shape: None,
            strategy: if version >= 150_000 {
                "strategy wal_log"
            } else {
                ""
            },
        })
    }

    /// Makes one tenant.
    pub(super) async fn make(&mut self) -> Result<(), Error> {
        let id = Uuid::now_v7();
        let name = format!("{}hand_{}", self.prefix, id.simple());
        let clone = format!("{name}_new");
        self.clone_template(&clone).await?;
        self.make_of(id, &clone, &name).await
    }

    /// Databases that wait for [`Hand::make_from_pool`], each with its row.
    pub(super) async fn fill_pool(
        &mut self,
        control: &mut PgConnection,
        count: u32,
    ) -> Result<(), Error> {
        for _ in 0..count {
            let id = Uuid::now_v7();
            let name = format!("{}hand_pool_{}", self.prefix, id.simple());
            self.clone_template(&name).await?;
            let row = "insert into pool_databases (id, cluster, hash, database, state, ready_at)
                values ($1, 'by hand', $2, $3, 'ready', now())";
            sqlx::query(row)
                .bind(id)
                .bind(&self.hash)
                .bind(&name)
                .execute(&mut *control)
                .await
                .map_err(Error::sql("filling the pool by hand"))?;
        }
        Ok(())
    }

    /// Makes one tenant of a database that waits: the claim's own statements in place of the clone.
    pub(super) async fn make_from_pool(&mut self, control: &mut PgConnection) -> Result<(), Error> {
        let id = Uuid::now_v7();
        let name = format!("{}hand_{}", self.prefix, id.simple());
        let claim = "update pool_databases
            set state = 'claimed', tenant_id = $1, claimed_at = now()
            where id = (
                select id
                from pool_databases
                where cluster = 'by hand' and hash = $2 and state = 'ready'
                order by ready_at, id
                limit 1
                for update skip locked
            )
            returning database";
        let pooled: String = sqlx::query_scalar(claim)
            .bind(id)
            .bind(&self.hash)
            .fetch_one(&mut *control)
            .await
            .map_err(Error::sql("claiming by hand"))?;
        self.make_of(id, &pooled, &name).await?;
        sqlx::query("delete from pool_databases where tenant_id = $1")
            .bind(id)
            .execute(control)
            .await
            .map_err(Error::sql("ending a claim by hand"))?;
        Ok(())
    }

    async fn make_of(&mut self, id: Uuid, from: &str, name: &str) -> Result<(), Error> {
        let name = name.to_owned();
        let password = secrets::random_password()?;
        self.hand_over(id, from, &name).await?;
        self.create_role(id, &name, &password).await?;
        let mut tenant = connect(self.options.clone().database(&name)).await?;
        self.seed(&mut tenant, id, &name).await?;
        self.verify(&mut tenant).await?;
        self.check_rights(&name).await?;
        let login = self
            .options
            .clone()
            .database(&name)
            .username(&name)
            .password(password.expose_secret());
        self.check_login(connect(login).await?).await
    }

    async fn clone_template(&mut self, name: &str) -> Result<(), Error> {
        let (prefix, template, strategy) = (&self.prefix, &self.template, self.strategy);
        let clone = format!(
            "create database {name} template {template} owner {prefix}owner allow_connections false {strategy}"
        );
        execute(&mut self.maintenance, clone).await
    }

    async fn hand_over(&mut self, id: Uuid, from: &str, name: &str) -> Result<(), Error> {
        let hand_over = format!(
            "comment on database {from} is 'tenantry tenant={id} template={}';
             revoke all on database {from} from public;
             alter database {from} allow_connections true;
             alter database {from} rename to {name}",
            self.hash
        );
        execute(&mut self.maintenance, hand_over).await
    }

    async fn create_role(
        &mut self,
        id: Uuid,
        name: &str,
        password: &SecretString,
    ) -> Result<(), Error> {
        let create = format!(
            "create role {name} login password '{}' connection limit {};
             comment on role {name} is 'tenantry tenant={id}';
             grant {}app to {name};
             grant connect on database {name} to {name}",
            secrets::scram_verifier(password)?,
            self.connection_limit,
            self.prefix,
        );
        execute(&mut self.maintenance, create).await
    }

    async fn seed(&self, tenant: &mut PgConnection, id: Uuid, name: &str) -> Result<(), Error> {
        let begin = format!(
            "begin;
             set local role {}owner;
             select set_config('tenantry.tenant_id', '{id}', true),
                    set_config('tenantry.tenant_url', '{name}.localhost', true),
                    set_config('tenantry.organization_id', 'org_{id}', true),
                    set_config('tenantry.organization_name', 'By hand', true),
                    set_config('tenantry.source', 'workos', true)",
            self.prefix
        );
        execute(tenant, begin).await?;
        for file in &self.blueprint.tenant_seed {
            execute(tenant, file.sql.clone()).await?;
        }
        let end = "insert into tenantry.seeds (name) values ('tenant'); commit";
        execute(tenant, end.to_owned()).await
    }

    async fn verify(&mut self, tenant: &mut PgConnection) -> Result<(), Error> {
        let doing = "verifying a tenant made by hand";
        let shape = shape::of(tenant).await.ok();
        if shape.is_none() || shape != self.shape {
            match fingerprint::of(tenant).await {
                Ok(taken) if taken == self.fingerprint => self.shape = shape,
                _ => return Err(Error::sql(doing)(sqlx::Error::RowNotFound)),
            }
        }
        let begin = format!("begin read only; set local role {}owner", self.prefix);
        execute(tenant, begin).await?;
        for file in &self.blueprint.verify {
            let row: Option<PgRow> = sqlx::query(AssertSqlSafe(file.sql.clone()))
                .fetch_optional(&mut *tenant)
                .await
                .map_err(Error::sql(doing))?;
            if row.is_some() {
                return Err(Error::sql(doing)(sqlx::Error::RowNotFound));
            }
        }
        execute(tenant, "rollback".to_owned()).await
    }

    async fn check_rights(&mut self, name: &str) -> Result<(), Error> {
        let is_public = "select exists (select from aclexplode(datacl) acl where acl.grantee = 0)
                         from pg_database
                         where datname = $1";
        sqlx::query(is_public)
            .bind(name)
            .fetch_one(&mut self.maintenance)
            .await
            .map_err(Error::sql("checking the rights on a database made by hand"))?;
        Ok(())
    }

    async fn check_login(&self, mut tenant: PgConnection) -> Result<(), Error> {
        let doing = "checking the rights of a role made by hand";
        sqlx::query(EXCESS_RIGHT)
            .bind(&self.prefix)
            .bind(format!("{}app", self.prefix))
            .fetch_optional(&mut tenant)
            .await
            .map_err(Error::sql(doing))?;
        match tenant
            .execute("create table public.tenantry_probe ()")
            .await
        {
            Err(_) => Ok(()),
            Ok(_) => Err(Error::sql(doing)(sqlx::Error::RowNotFound)),
        }
    }
}

async fn connect(options: PgConnectOptions) -> Result<PgConnection, Error> {
    PgConnection::connect_with(&options)
        .await
        .map_err(Error::sql("connecting to a tenant made by hand"))
}
