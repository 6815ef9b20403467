//! An application under test: a replica in this process, with its own control database and prefix.

use std::{
    net::SocketAddr,
    time::{Duration, Instant},
};

use chrono::{DateTime, Utc};
use secrecy::SecretString;
use serde_json::Value;
use sqlx::{Connection, PgConnection};
use tenantry::{
    actions,
    audit::Actor,
    provisioning::{BlueprintSource, steps},
    replica::{Replica, Sources},
    tenants::{self, Tenant, TenantFailure},
    webhooks::{self, SourceKind},
};
use uuid::Uuid;

use super::{Deployment, cluster::ask, events};

pub const SECRET: &str = "whsec_test_of_tenantry";

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

/// Writes that were refused because the job was another's by then.
pub const FENCED: &str = "tenantry_fenced_writes_total";

/// What a replica says of a metric, by its name with its labels; none where it says nothing of it.
pub async fn metric(address: SocketAddr, name: &str) -> Option<u64> {
    let metrics = get(address, "/metrics").await;
    let value = |line: &str| line.strip_prefix(name)?.trim().parse().ok();
    metrics.lines().find_map(value)
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

    /// The same deployment with nobody working on its jobs.
    pub async fn without_workers(self, blueprint: BlueprintSource) -> Self {
        let deployment = self.deployment.clone();
        self.stop().await;
        Self::listening(deployment, blueprint).await
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

    /// An organization is created, and its tenant is ready.
    pub async fn new_tenant(&self, name: &str) -> (String, Tenant) {
        let org = new_org();
        self.accepts(&[&events::created(&org, name)]).await;
        let tenant = self.tenant(&org).is_ready().await;
        (org, tenant)
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

    /// Everything that was accepted has been looked at; what follows from it may still be under way.
    pub async fn events_are_processed(&self) {
        let open = "select count(*) from webhook_events where state = 'received'";
        wait_until("no event is open", async || {
            self.ask::<i64>(open).await == 0
        })
        .await;
    }

    /// Waits until no event and no job is open.
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
        let retry = async |tx: &mut _| actions::retry_tenant(tx, &tenant, 25, &operator()).await;
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
