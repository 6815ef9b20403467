//! A deployment under test: a control database and a prefix of its own, which replicas share.

use std::{
    fmt::Write,
    path::{Path, PathBuf},
};

use base64::{Engine, engine::general_purpose::STANDARD};
use futures_util::future::join_all;
use sqlx::{AssertSqlSafe, Connection, PgConnection};
use tenantry::{
    actions,
    config::{Config, Environment},
    db::Db,
    tenants,
};

use super::{
    app::{SECRET, operator},
    cluster::{self, ask, execute},
};

/// So many databases are dropped at once.
const DISCARDING_SESSIONS: usize = 4;

/// The environment of one deployment: replicas that share it share everything.
#[derive(Clone)]
pub struct Deployment {
    pub control_url: String,
    pub prefix: String,
    pub variables: Vec<(String, String)>,
    /// The configuration's file, for what can be given in a file only.
    pub file: Option<PathBuf>,
}

impl Deployment {
    /// A control database and a prefix of its own on the shared cluster.
    pub async fn new() -> Self {
        let shared = cluster::shared();
        Self::on(|database| shared.url(database)).await
    }

    /// The same on another cluster.
    ///
    /// The product works as an ordinary user who may create databases and roles; only the test itself
    /// is a superuser (`control_url`).
    pub async fn on(url: impl Fn(&str) -> String) -> Self {
        let id = format!("{:08x}", rand::random::<u32>());
        let (database, user) = (format!("control_{id}"), format!("operator_{id}"));
        let server = url("postgres");
        create_operator(&server, &user).await;
        execute(&server, &format!("create database {database} owner {user}")).await;
        let mut this = Self {
            control_url: url(&database),
            prefix: format!("t{id}_"),
            variables: Vec::new(),
            file: None,
        };
        let key = format!("test:{}", STANDARD.encode([7; 32]));
        this.set("DATABASE_URL", &as_operator(&this.control_url, &user));
        this.set("WORKOS_WEBHOOK_SECRET", SECRET);
        this.set("TENANTRY__SERVER__LISTEN", "127.0.0.1:0");
        this.set("TENANTRY__TENANTS__PREFIX", &this.prefix.clone());
        this.set("TENANTRY__SECRETS__KEYS", &key);
        // tests ask faster than anybody should; those about limits set their own
        this.set("TENANTRY__LIMITS__PER_PRINCIPAL_PER_MINUTE", "0");
        this.set("TENANTRY__LIMITS__PER_ADDRESS_PER_MINUTE", "0");
        this.set("TENANTRY__LIMITS__PER_FORM_ADDRESS_PER_MINUTE", "0");
        this.set("TENANTRY__LIMITS__PER_FORM_KEY_PER_MINUTE", "0");
        // most tests count databases; those about the pool have one
        this.set("TENANTRY__POOL__SIZE", "0");
        this.set("TENANTRY__QUEUE__LEASE_MS", "1500");
        this.set("TENANTRY__QUEUE__POLL_INTERVAL_MS", "200");
        this
    }

    pub fn set(&mut self, name: &str, value: &str) {
        self.variables.retain(|(known, _)| known != name);
        self.variables.push((name.to_owned(), value.to_owned()));
    }

    /// Replicas in processes of their own make tenants of this blueprint.
    pub fn set_blueprint(&mut self, directory: &Path) {
        self.set(
            "TENANTRY__BLUEPRINT__DIRECTORY",
            directory.to_str().unwrap(),
        );
    }

    pub fn config(&self) -> Config {
        let environment: Environment = self.variables.iter().cloned().collect();
        Config::load(self.file.clone(), &environment).unwrap()
    }

    /// Tenants live on these clusters, each with its name and the URL of its `postgres` database as superuser; the
    /// file of the configuration is written into `directory`.
    pub async fn live_on(&mut self, directory: &Path, clusters: &[(&str, String)]) {
        let mut text = String::new();
        for (name, server) in clusters {
            let user = format!("operator_{}{name}", self.prefix);
            create_operator(server, &user).await;
            execute(
                server,
                &format!("grant connect on database postgres to {user}"),
            )
            .await;
            let url = as_operator(server, &user);
            writeln!(text, "[[clusters]]\nname = \"{name}\"\nurl = \"{url}\"").unwrap();
        }
        self.configure(directory, &text);
    }

    /// The control database's server is a cluster under each of these names.
    pub fn live_under(&mut self, directory: &Path, names: &[&str]) {
        let is_url = |(name, _): &&(String, String)| name == "DATABASE_URL";
        let (_, url) = self.variables.iter().find(is_url).unwrap();
        let cluster = |name| format!("[[clusters]]\nname = \"{name}\"\nurl = \"{url}\"\n");
        let text: String = names.iter().map(cluster).collect();
        self.configure(directory, &text);
    }

    fn configure(&mut self, directory: &Path, text: &str) {
        let file = directory.join("tenantry.toml");
        std::fs::write(&file, text).unwrap();
        self.file = Some(file);
    }

    /// URL of another database of the same cluster, as the product connects to it.
    pub fn operator_url(&self, database: &str) -> String {
        let (_, url) = self
            .variables
            .iter()
            .find(|(name, _)| name == "DATABASE_URL")
            .unwrap();
        let (server, _) = url.rsplit_once('/').unwrap();
        format!("{server}/{database}")
    }

    /// URL of another database of the same cluster.
    pub fn url(&self, database: &str) -> String {
        let (server, _) = self.control_url.rsplit_once('/').unwrap();
        format!("{server}/{database}")
    }

    /// How many databases carry the prefix, templates apart.
    pub async fn tenant_databases(&self) -> i64 {
        let sql = format!(
            "select count(*) from pg_database where starts_with(datname, '{0}') and datname !~ '^{0}template_[0-9a-f]{{16}}$'",
            self.prefix
        );
        ask(&self.control_url, &sql).await
    }

    /// Drops everything that carries the prefix, and the control database: in a few sessions, there may be thousands.
    pub async fn discard(&self) {
        let server = self.url("postgres");
        let mut session = PgConnection::connect(&server).await.unwrap();
        let (_, control) = self.control_url.rsplit_once('/').unwrap();
        let ours =
            "select datname::text from pg_database where starts_with(datname, $1) or datname = $2";
        let names: Vec<String> = sqlx::query_scalar(ours)
            .bind(&self.prefix)
            .bind(control)
            .fetch_all(&mut session)
            .await
            .unwrap();
        session.close().await.unwrap();
        let parts = names.chunks(names.len().div_ceil(DISCARDING_SESSIONS).max(1));
        join_all(parts.map(|names| drop_databases(&server, names))).await;
    }

    /// A replica's environment with this fault in it.
    pub fn with_fault(&self, plan: &str) -> Self {
        let mut this = self.clone();
        this.set("TENANTRY_FAULTS", plan);
        this
    }

    /// Gives the organization's tenant up before it is ready, as whoever asked for it does.
    pub async fn abandon(&self, org: &str) -> Result<(), actions::Refusal> {
        let db = Db::new(&self.config().database.url, 1).unwrap();
        let tenant = async |connection: &mut _| {
            tenants::find_of_organization(connection, "workos", org).await
        };
        let tenant = db.run(tenant).await.unwrap().unwrap();
        let abandon =
            async |tx: &mut _| actions::abandon_tenant(tx, &tenant, 25, &operator()).await;
        let abandoned = db.transaction(abandon).await;
        db.close().await;
        abandoned
    }

    /// How many login roles carry the prefix.
    pub async fn tenant_roles(&self) -> i64 {
        let sql = format!(
            "select count(*) from pg_roles where starts_with(rolname, '{}') and rolcanlogin",
            self.prefix
        );
        ask(&self.control_url, &sql).await
    }
}

/// An ordinary user who may create databases and roles.
async fn create_operator(server: &str, user: &str) {
    let verifier = cluster::quick_verifier(&password_of(user));
    let role = format!("create role {user} login createdb createrole password '{verifier}'");
    execute(server, &role).await;
    // before 15 nobody else may take schema public from everybody
    let is_old = "select current_setting('server_version_num')::integer < 150000";
    if ask::<bool>(server, is_old).await {
        execute(server, &format!("alter role {user} superuser")).await;
    }
}

/// Not the name alone: that may be shown.
fn password_of(user: &str) -> String {
    format!("pw_{user}")
}

fn as_operator(url: &str, user: &str) -> String {
    let mut url = url::Url::parse(url).unwrap();
    url.set_username(user).unwrap();
    url.set_password(Some(&password_of(user))).unwrap();
    url.into()
}

async fn drop_databases(server: &str, names: &[String]) {
    let mut session = PgConnection::connect(server).await.unwrap();
    for name in names {
        for sql in [
            format!("alter database {name} is_template false"),
            format!("drop database {name} with (force)"),
        ] {
            sqlx::raw_sql(AssertSqlSafe(sql))
                .execute(&mut session)
                .await
                .unwrap();
        }
    }
    session.close().await.unwrap();
}
