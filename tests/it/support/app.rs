//! An application under test: a replica in this process, with its own control database and prefix.

use std::{
    net::SocketAddr,
    time::{Duration, Instant},
};

use base64::{Engine, engine::general_purpose::STANDARD};
use chrono::{DateTime, Utc};
use secrecy::SecretString;
use serde_json::Value;
use tenantry::{
    config::{Config, Environment},
    provisioning::{BlueprintSource, steps},
    replica::Replica,
    tenants::{self, Tenant},
    webhooks::{self, SourceKind},
};
use uuid::Uuid;

use super::cluster::{self, ask, execute};

pub const SECRET: &str = "whsec_test_of_tenantry";

/// The environment of one deployment: replicas that share it share everything.
#[derive(Clone)]
pub struct Deployment {
    pub control_url: String,
    pub prefix: String,
    pub variables: Vec<(String, String)>,
}

impl Deployment {
    /// A control database and a prefix of its own on the shared cluster.
    pub async fn new() -> Self {
        let shared = cluster::shared();
        Self::on(|database| shared.url(database)).await
    }

    /// The same on another cluster.
    pub async fn on(url: impl Fn(&str) -> String) -> Self {
        let id = format!("{:08x}", rand::random::<u32>());
        let database = format!("control_{id}");
        execute(&url("postgres"), &format!("create database {database}")).await;
        let mut this = Self {
            control_url: url(&database),
            prefix: format!("t{id}_"),
            variables: Vec::new(),
        };
        let key = format!("test:{}", STANDARD.encode([7; 32]));
        this.set("DATABASE_URL", &this.control_url.clone());
        this.set("WORKOS_WEBHOOK_SECRET", SECRET);
        this.set("TENANTRY__SERVER__LISTEN", "127.0.0.1:0");
        this.set("TENANTRY__TENANTS__PREFIX", &this.prefix.clone());
        this.set("TENANTRY__SECRETS__KEYS", &key);
        this.set("TENANTRY__QUEUE__LEASE_MS", "1500");
        this.set("TENANTRY__QUEUE__POLL_INTERVAL_MS", "200");
        this
    }

    pub fn set(&mut self, name: &str, value: &str) {
        self.variables.retain(|(known, _)| known != name);
        self.variables.push((name.to_owned(), value.to_owned()));
    }

    pub fn config(&self) -> Config {
        let environment: Environment = self.variables.iter().cloned().collect();
        Config::load(None, &environment).unwrap()
    }

    /// URL of another database of the same cluster.
    pub fn url(&self, database: &str) -> String {
        let (server, _) = self.control_url.rsplit_once('/').unwrap();
        format!("{server}/{database}")
    }

    /// How many databases carry the prefix, templates apart.
    pub async fn tenant_databases(&self) -> i64 {
        let sql = format!(
            "select count(*) from pg_database where starts_with(datname, '{0}') and not starts_with(datname, '{0}template_')",
            self.prefix
        );
        ask(&self.control_url, &sql).await
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

/// A running replica.
pub struct App {
    pub deployment: Deployment,
    pub replica: Replica,
    pub address: SocketAddr,
}

/// What a sender is answered.
#[derive(Debug)]
pub struct Answer {
    pub status: u16,
    pub retry_after: Option<String>,
    pub body: Value,
}

impl App {
    /// A replica of a new deployment, with the worked example as blueprint.
    pub async fn start() -> Self {
        Self::of(Deployment::new().await, BlueprintSource::Bundled).await
    }

    /// A replica of this deployment.
    pub async fn of(deployment: Deployment, blueprint: BlueprintSource) -> Self {
        let replica = Replica::new(deployment.config(), blueprint).unwrap();
        let address = replica.serve_http().await.unwrap();
        replica.migrate().await.unwrap();
        replica.build_templates().await.unwrap();
        replica.work();
        Self {
            deployment,
            replica,
            address,
        }
    }

    /// Delivers an event, signed as WorkOS signs.
    pub async fn deliver(&self, event: &Value) -> Answer {
        deliver(self.address, event).await
    }

    /// The tenant of an organization.
    pub fn tenant<'a>(&'a self, org: &'a str) -> TenantOf<'a> {
        TenantOf { app: self, org }
    }

    /// The single value of a query on the control database.
    pub async fn ask<T>(&self, sql: &str) -> T
    where
        T: for<'r> sqlx::Decode<'r, sqlx::Postgres> + sqlx::Type<sqlx::Postgres> + Send + Unpin,
    {
        ask(&self.deployment.control_url, sql).await
    }

    /// Waits until no event and no job is open.
    pub async fn is_idle(&self) {
        let open = "select (select count(*) from webhook_events where state = 'received')
                         + (select count(*) from jobs where state in ('available', 'running'))";
        wait_until("no event and no job is open", async || {
            self.ask::<i64>(open).await == 0
        })
        .await;
    }

    pub async fn stop(self) {
        self.replica.finish().await;
    }
}

/// Delivers an event to a replica, signed as WorkOS signs.
pub async fn deliver(address: SocketAddr, event: &Value) -> Answer {
    let body = serde_json::to_vec(event).unwrap();
    let now = DateTime::<Utc>::from(std::time::SystemTime::now());
    let headers = webhooks::sign(SourceKind::Workos, &SecretString::from(SECRET), now, &body);
    post(address, "/webhooks/workos", &headers, body).await
}

/// Posts bytes to a replica.
pub async fn post(
    address: SocketAddr,
    path: &str,
    headers: &[(&'static str, String)],
    body: Vec<u8>,
) -> Answer {
    try_post(address, path, headers, body).await.unwrap()
}

/// Posts bytes to a replica that may be dying.
pub async fn try_post(
    address: SocketAddr,
    path: &str,
    headers: &[(&'static str, String)],
    body: Vec<u8>,
) -> Result<Answer, Box<dyn std::error::Error + Send + Sync>> {
    use http_body_util::{BodyExt, Full};
    let stream = tokio::net::TcpStream::connect(address).await?;
    let io = hyper_util::rt::TokioIo::new(stream);
    let (mut sender, connection) = hyper::client::conn::http1::handshake(io).await?;
    let mut request = hyper::Request::post(path).header("host", "localhost");
    for (name, value) in headers {
        request = request.header(*name, value);
    }
    let request = request.body(Full::new(hyper::body::Bytes::from(body)))?;
    let exchange = async move {
        let response = sender.send_request(request).await?;
        let status = response.status().as_u16();
        let retry_after = response
            .headers()
            .get("retry-after")
            .map(|value| value.to_str().unwrap().to_owned());
        let bytes = response.into_body().collect().await?.to_bytes();
        let body = serde_json::from_slice(&bytes).unwrap_or(Value::Null);
        Ok(Answer {
            status,
            retry_after,
            body,
        })
    };
    tokio::select! {
        answer = exchange => answer,
        ended = connection => Err(format!("the connection ended: {ended:?}").into()),
    }
}

/// A tenant by its organization.
pub struct TenantOf<'a> {
    app: &'a App,
    org: &'a str,
}

impl TenantOf<'_> {
    /// Its row, if there is one.
    pub async fn find(&self) -> Option<Tenant> {
        let db = &self.app.replica.db;
        let found = db
            .run(async |connection| tenants::find_by_any(connection, self.org).await)
            .await
            .unwrap();
        found.into_iter().next()
    }

    /// Waits until it is ready.
    pub async fn is_ready(&self) -> Tenant {
        self.is_in("ready").await
    }

    /// Waits until it is in a state.
    pub async fn is_in(&self, state: &str) -> Tenant {
        let what = format!("tenant of {} is {state}", self.org);
        wait_for(&what, async || {
            self.find()
                .await
                .filter(|tenant| tenant.state.name() == state)
        })
        .await
    }

    /// Its steps that are done, in order.
    pub async fn steps(&self) -> Vec<String> {
        let tenant = self.find().await.unwrap();
        let db = &self.app.replica.db;
        let steps = db
            .run(async |connection| steps::list(connection, tenant.id).await)
            .await
            .unwrap();
        steps
            .into_iter()
            .filter(|step| step.state == "done")
            .map(|step| step.name)
            .collect()
    }

    /// URL of its database, as the tenant's own role.
    pub async fn url(&self) -> String {
        let tenant = self.find().await.unwrap();
        tenant_url(&self.app.replica, &tenant).await
    }
}

/// URL with which a tenant's role connects.
pub async fn tenant_url(replica: &Replica, tenant: &Tenant) -> String {
    let sealed = replica
        .db
        .run(async |connection| tenants::find_credential(connection, tenant.id).await)
        .await
        .unwrap();
    let password = replica
        .provisioner
        .keyring
        .open(tenant.id.0, &sealed.unwrap())
        .unwrap();
    let cluster = replica
        .clusters
        .get(tenant.cluster.as_deref().unwrap())
        .unwrap();
    cluster.tenant_url(&tenant.database, &tenant.username, Some(&password))
}

/// Waits for something that happens by itself.
pub async fn wait_for<T>(what: &str, look: impl AsyncFn() -> Option<T>) -> T {
    let deadline = Instant::now() + Duration::from_mins(1);
    loop {
        if let Some(found) = look().await {
            return found;
        }
        assert!(
            Instant::now() < deadline,
            "waited 60 s in vain until {what}"
        );
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// Waits until something is true.
pub async fn wait_until(what: &str, look: impl AsyncFn() -> bool) {
    wait_for(what, async || look().await.then_some(())).await;
}

/// A new organization id.
pub fn new_org() -> String {
    format!("org_{}", Uuid::now_v7().simple())
}
