//! An application under test: a replica in this process, with its own control database and prefix.

use std::{
    fmt::Write,
    net::SocketAddr,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use base64::{Engine, engine::general_purpose::STANDARD};
use chrono::{DateTime, Utc};
use futures_util::future::join_all;
use secrecy::SecretString;
use serde_json::Value;
use sqlx::{AssertSqlSafe, Connection, PgConnection};
use tenantry::{
    audit::Actor,
    config::{Config, Environment},
    db::Db,
    jobs,
    provisioning::{BlueprintSource, steps},
    replica::{Replica, Sources},
    tenants::{self, Tenant, TenantFailure},
    webhooks::{self, SourceKind},
};
use uuid::Uuid;

use super::cluster::{self, ask, execute};

pub const SECRET: &str = "whsec_test_of_tenantry";

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
    pub async fn abandon(&self, org: &str) -> Result<(), jobs::Refusal> {
        let db = Db::new(&self.config().database.url, 1).unwrap();
        let tenant = async |connection: &mut _| {
            tenants::find_of_organization(connection, "workos", org).await
        };
        let tenant = db.run(tenant).await.unwrap().unwrap();
        let abandon = async |tx: &mut _| jobs::abandon_tenant(tx, &tenant, 25, &operator()).await;
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

/// An ordinary user who may create databases and roles; the password is the name.
async fn create_operator(server: &str, user: &str) {
    let verifier = cluster::quick_verifier(user);
    let role = format!("create role {user} login createdb createrole password '{verifier}'");
    execute(server, &role).await;
}

fn as_operator(url: &str, user: &str) -> String {
    let mut url = url::Url::parse(url).unwrap();
    url.set_username(user).unwrap();
    url.set_password(Some(user)).unwrap();
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

/// What `GET` answers, as text.
pub async fn get(address: SocketAddr, path: &str) -> String {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    let mut stream = tokio::net::TcpStream::connect(address).await.unwrap();
    let request = format!("GET {path} HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    answer
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
    pub headers: hyper::HeaderMap,
    pub body: Value,
    /// The body to the byte.
    pub text: String,
}

impl Answer {
    /// Status and code: what a refusal is known by.
    pub fn refusal(&self) -> (u16, &str) {
        (self.status, self.body["code"].as_str().unwrap_or_default())
    }

    /// A header's text.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name)?.to_str().ok()
    }
}

impl App {
    /// A replica of a new deployment, with the worked example as blueprint.
    pub async fn start() -> Self {
        Self::of(Deployment::new().await, BlueprintSource::Bundled).await
    }

    /// A replica of this deployment.
    pub async fn of(deployment: Deployment, blueprint: BlueprintSource) -> Self {
        let app = Self::listening(deployment, blueprint).await;
        app.replica.migrate().await.unwrap();
        app.replica.build_templates().await.unwrap();
        app.replica.work();
        app
    }

    /// A replica that works without having built the template first.
    pub async fn without_template(deployment: Deployment, blueprint: BlueprintSource) -> Self {
        let app = Self::listening(deployment, blueprint).await;
        app.replica.migrate().await.unwrap();
        app.replica.work();
        app
    }

    /// A replica that answers requests and does nothing else yet.
    pub async fn listening(deployment: Deployment, blueprint: BlueprintSource) -> Self {
        let replica = Replica::new(deployment.config(), blueprint).unwrap();
        let address = replica
            .serve_http(Sources::Routed, Some(replica.provisioner.blueprint.clone()))
            .await
            .unwrap();
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

    /// Delivers events one after the other, each of which is accepted; again after a 503, as a sender does.
    pub async fn accepts(&self, events: &[&Value]) {
        for event in events {
            let answer = wait_for("the event is answered", async || {
                let answer = self.deliver(event).await;
                (answer.status != 503).then_some(answer)
            })
            .await;
            let status = answer.body["status"].as_str();
            assert_eq!((answer.status, status), (200, Some("accepted")), "{event}");
        }
    }

    /// Delivers any bytes, signed as WorkOS signs.
    pub async fn deliver_bytes(&self, body: &[u8]) -> Answer {
        let headers = signed(SECRET, now(), body);
        post(self.address, "/webhooks/workos", &headers, body.to_vec()).await
    }

    /// Delivers bytes to the source `clerk`, signed as Clerk signs.
    pub async fn deliver_clerk(&self, body: &[u8]) -> Answer {
        let config = self.deployment.config();
        let secret = &config.sources["clerk"].secrets[0];
        let id = format!("msg_{:016x}", rand::random::<u64>());
        let headers = webhooks::sign(SourceKind::Clerk, secret, &id, now(), body);
        post(self.address, "/webhooks/clerk", &headers, body.to_vec()).await
    }

    /// Asks for a page.
    pub async fn get(&self, path: &str) -> Answer {
        exchange(self.address, "GET", path, &[], bytes(Vec::new()))
            .await
            .unwrap()
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
    /// Everything that was accepted has been looked at; what follows from it may still be under way.
    pub async fn events_are_processed(&self) {
        let open = "select count(*) from webhook_events where state = 'received'";
        wait_until("no event is open", async || {
            self.ask::<i64>(open).await == 0
        })
        .await;
    }

    pub async fn is_idle(&self) {
        let open = "select (select count(*) from webhook_events where state = 'received')
                         + (select count(*) from jobs where state in ('available', 'running')
                               -- what is asked only if it does not come, and what comes back
                               -- by itself, is not waited for
                               and (kind not in ('fetch_parent', 'prune') or run_at <= now()))";
        wait_until("no event and no job is open", async || {
            self.ask::<i64>(open).await == 0
        })
        .await;
    }

    pub async fn stop(self) {
        self.replica.finish().await;
    }

    /// Ends the replica in the middle of whatever it does, as far as one process can do that to a
    /// part of itself: nothing is settled, nothing given back.
    pub async fn vanish(self) {
        self.replica.tasks.stop_now();
        self.replica.finish().await;
    }
}

/// Delivers an event to a replica, signed as WorkOS signs.
pub async fn deliver(address: SocketAddr, event: &Value) -> Answer {
    try_deliver(address, event).await.unwrap()
}

/// Delivers an event to a replica that may be dying.
pub async fn try_deliver(address: SocketAddr, event: &Value) -> Result<Answer, Broken> {
    let body = serde_json::to_vec(event).unwrap();
    let headers = signed(SECRET, now(), &body);
    try_post(address, "/webhooks/workos", &headers, body).await
}

/// Delivers an event as a sender does: again after a 503, which a replica answers until its database is
/// migrated, and on a machine that is busy with others. False when the replica died over it.
pub async fn is_delivered(address: SocketAddr, event: &Value) -> bool {
    wait_for("the event is accepted", async || {
        let answer = try_deliver(address, event).await;
        match answer.map(|answer| answer.status) {
            Ok(200) => Some(true),
            Ok(503) => None,
            Ok(status) => panic!("a delivery is answered {status}"),
            Err(_) => Some(false),
        }
    })
    .await
}

/// Somebody at the command line.
pub fn operator() -> Actor {
    Actor::Operator("ops".to_owned())
}

/// The present, for signatures.
pub fn now() -> DateTime<Utc> {
    DateTime::from(std::time::SystemTime::now())
}

/// The headers of a delivery that was signed at `at`.
pub fn signed(secret: &str, at: DateTime<Utc>, body: &[u8]) -> Vec<(&'static str, String)> {
    webhooks::sign(
        SourceKind::Workos,
        &SecretString::from(secret),
        "",
        at,
        body,
    )
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
) -> Result<Answer, Broken> {
    exchange(address, "POST", path, headers, bytes(body)).await
}

/// A connection that ended before its answer.
pub type Broken = Box<dyn std::error::Error + Send + Sync>;

/// A request's body, whole or in chunks.
pub type Body = http_body_util::combinators::BoxBody<hyper::body::Bytes, std::convert::Infallible>;

/// A body that is sent whole, with its length.
pub fn bytes(body: Vec<u8>) -> Body {
    use http_body_util::BodyExt;
    http_body_util::Full::new(hyper::body::Bytes::from(body)).boxed()
}

/// One request and its answer on a connection of their own.
pub async fn exchange(
    address: SocketAddr,
    method: &str,
    path: &str,
    headers: &[(&'static str, String)],
    body: Body,
) -> Result<Answer, Broken> {
    use http_body_util::BodyExt;
    let stream = tokio::net::TcpStream::connect(address).await?;
    let io = hyper_util::rt::TokioIo::new(stream);
    let (mut sender, connection) = hyper::client::conn::http1::handshake(io).await?;
    let mut request = hyper::Request::builder()
        .method(method)
        .uri(path)
        .header("host", "localhost");
    for (name, value) in headers {
        request = request.header(*name, value);
    }
    let request = request.body(body)?;
    let answer = async move {
        let response = sender.send_request(request).await?;
        let status = response.status().as_u16();
        let retry_after = response
            .headers()
            .get("retry-after")
            .map(|value| value.to_str().unwrap().to_owned());
        let headers = response.headers().clone();
        let bytes = response.into_body().collect().await?.to_bytes();
        let body = serde_json::from_slice(&bytes).unwrap_or(Value::Null);
        let text = String::from_utf8_lossy(&bytes).into_owned();
        Ok(Answer {
            status,
            retry_after,
            headers,
            body,
            text,
        })
    };
    tokio::pin!(answer);
    tokio::select! {
        answer = &mut answer => answer,
        // it may have ended after the answer
        ended = connection => answer.await.map_err(|error: Broken| format!("{error}; the connection: {ended:?}").into()),
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
        // not by the replica's pool: that may hold what a crashed server left behind
        let url = &self.app.deployment.control_url;
        let mut connection = PgConnection::connect(url).await.unwrap();
        let found = tenants::find_by_any(&mut connection, self.org)
            .await
            .unwrap();
        connection.close().await.unwrap();
        found.into_iter().next()
    }

    /// Waits until it is ready.
    pub async fn is_ready(&self) -> Tenant {
        let what = format!("tenant of {} is ready", self.org);
        wait_for(&what, async || {
            let tenant = self.find().await?;
            let state = tenant.state.name();
            // nobody but an operator gets it out of there
            assert_ne!(state, "failed", "{:?}", tenant.failure);
            (state == "ready").then_some(tenant)
        })
        .await
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

    /// Waits until it has failed; why.
    pub async fn fails(&self) -> TenantFailure {
        self.is_in("failed").await.failure.unwrap()
    }

    /// Retries it, as an operator does after a repair.
    pub async fn retry(&self) {
        let tenant = self.find().await.unwrap();
        let replica = &self.app.replica;
        let retry = async |tx: &mut _| jobs::retry_tenant(tx, &tenant, 25, &operator()).await;
        replica.db.transaction(retry).await.unwrap();
        replica.waker.wake();
    }

    /// The value of a query in its database, asked as superuser.
    pub async fn ask<T>(&self, sql: &str) -> T
    where
        T: for<'r> sqlx::Decode<'r, sqlx::Postgres> + sqlx::Type<sqlx::Postgres> + Send + Unpin,
    {
        let tenant = self.find().await.unwrap();
        ask(&self.app.deployment.url(&tenant.database), sql).await
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
    let deadline = Instant::now() + Duration::from_mins(2);
    loop {
        if let Some(found) = look().await {
            return found;
        }
        assert!(
            Instant::now() < deadline,
            "waited 2 minutes in vain until {what}"
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
