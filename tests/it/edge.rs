//! The edge under bad conditions: silent servers, slow clients, strange requests, and the end.

use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
};

use secrecy::ExposeSecret;
use tenantry::provisioning::BlueprintSource;

use crate::support::{
    App, Deployment,
    app::{deliver, get, new_org, wait_until},
    events,
    process::Process,
};

/// A proxy in front of Postgres that can fall silent: it keeps connections and carries nothing.
struct Proxy {
    address: SocketAddr,
    silent: Arc<AtomicBool>,
}

impl Proxy {
    #[expect(
        clippy::disallowed_methods,
        reason = "the proxy lives as long as its test"
    )]
    async fn before(target: String) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let this = Self {
            address: listener.local_addr().unwrap(),
            silent: Arc::default(),
        };
        let silent = Arc::clone(&this.silent);
        tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                let server = TcpStream::connect(&target).await.unwrap();
                let (from_client, to_client) = client.into_split();
                let (from_server, to_server) = server.into_split();
                tokio::spawn(carry(from_client, to_server, Arc::clone(&silent)));
                tokio::spawn(carry(from_server, to_client, Arc::clone(&silent)));
            }
        });
        this
    }
}

async fn carry(
    mut from: impl AsyncReadExt + Unpin,
    mut to: impl AsyncWriteExt + Unpin,
    silent: Arc<AtomicBool>,
) {
    let mut buffer = vec![0; 64 * 1024];
    loop {
        let Ok(size @ 1..) = from.read(&mut buffer).await else {
            return;
        };
        while silent.load(Ordering::SeqCst) {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        if to.write_all(&buffer[..size]).await.is_err() {
            return;
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_falls_silent_is_answered_with_503_and_forgotten_when_it_speaks() {
    let mut deployment = Deployment::new().await;
    let url = url::Url::parse(deployment.config().database.url.expose_secret()).unwrap();
    let proxy = Proxy::before(format!("127.0.0.1:{}", url.port().unwrap())).await;
    let mut through = url.clone();
    through.set_port(Some(proxy.address.port())).unwrap();
    deployment.set("DATABASE_URL", through.as_str());
    let replica = Process::start(&deployment, "").await;
    let event = events::created(&new_org(), "Acme");
    wait_until("the replica is ready", async || {
        get(replica.address, "/readyz").await.contains("200 OK")
    })
    .await;
    // a migration that falls silent in the middle is waited for as long as one may take
    let sealed = format!(
        "select count(*) from pg_database where datistemplate and starts_with(datname, '{}')",
        deployment.prefix
    );
    let control = deployment.control_url.clone();
    wait_until("the template is sealed", async || {
        crate::support::cluster::ask::<i64>(&control, &sealed).await == 1
    })
    .await;

    proxy.silent.store(true, Ordering::SeqCst);
    let asked = Instant::now();
    let answer = deliver(replica.address, &event).await;
    assert_eq!(answer.status, 503);
    assert!(answer.retry_after.is_some());
    assert!(
        asked.elapsed() < Duration::from_secs(15),
        "the sender was kept for {:?}",
        asked.elapsed()
    );
    assert!(get(replica.address, "/livez").await.contains("200 OK"));

    proxy.silent.store(false, Ordering::SeqCst);
    wait_until("it is accepted", async || {
        deliver(replica.address, &event).await.status == 200
    })
    .await;
    let ready = "select count(*) from tenants where state = 'ready'";
    wait_until("the tenant is ready", async || {
        crate::support::cluster::ask::<i64>(&control, ready).await == 1
    })
    .await;
    drop(replica);
    deployment.discard().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_dribbles_its_head_is_cut_off() {
    let mut deployment = Deployment::new().await;
    deployment.set("TENANTRY__SERVER__HEAD_TIMEOUT_S", "1");
    let app = App::of(deployment, BlueprintSource::Bundled).await;
    let mut slow = TcpStream::connect(app.address).await.unwrap();
    slow.write_all(b"POST /webhooks/workos HTTP/1.1\r\nhost: x\r\nx-slow: ")
        .await
        .unwrap();
    let mut answer = Vec::new();
    let cut = tokio::time::timeout(Duration::from_secs(30), slow.read_to_end(&mut answer)).await;
    assert!(cut.is_ok(), "the connection is still open");
    app.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn no_client_makes_labels_of_its_own() {
    let app = App::start().await;
    for strange in ["AAAA", "BBBB"] {
        let mut client = TcpStream::connect(app.address).await.unwrap();
        let request =
            format!("{strange} /{strange} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n");
        client.write_all(request.as_bytes()).await.unwrap();
        let mut answer = String::new();
        client.read_to_string(&mut answer).await.unwrap();
        assert!(
            answer.starts_with("HTTP/1.1 404") && answer.contains("x-request-id"),
            "{answer}"
        );
    }
    let metrics = get(app.address, "/metrics").await;
    assert!(
        metrics.contains("method=\"other\",route=\"other\",status=\"404\""),
        "{metrics}"
    );
    assert!(!metrics.contains("AAAA") && !metrics.contains("BBBB"));
    app.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_draining_replica_says_so_and_still_takes_deliveries() {
    let deployment = Deployment::new().await;
    let mut replica = Process::start(&deployment, "create_role.before=stall:3000").await;
    replica.is_ready().await;
    let control = deployment.control_url.clone();
    let event = events::created(&new_org(), "Acme");
    wait_until("it is accepted", async || {
        deliver(replica.address, &event).await.status == 200
    })
    .await;
    let running = "select count(*) from provisioning_steps where step = 'create_role'";
    wait_until("the step runs", async || {
        crate::support::cluster::ask::<i64>(&control, running).await == 1
    })
    .await;

    replica.terminate();
    wait_until("it says that it drains", async || {
        get(replica.address, "/readyz").await.contains("draining")
    })
    .await;
    assert!(get(replica.address, "/livez").await.contains("200 OK"));
    let late = deliver(replica.address, &events::created(&new_org(), "Late")).await;
    assert_eq!(late.status, 200, "what still arrives is recorded");
    assert!(replica.has_ended().await.success());
    let kept: i64 =
        crate::support::cluster::ask(&control, "select count(*) from webhook_events").await;
    assert_eq!(kept, 2);
    deployment.discard().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_process_that_only_works_takes_no_webhooks() {
    let deployment = Deployment::new().await;
    let worker = Process::with_roles(&deployment, "worker").await;
    wait_until("it is ready", async || {
        get(worker.address, "/readyz").await.contains("200 OK")
    })
    .await;
    assert_eq!(
        deliver(worker.address, &events::created(&new_org(), "Acme"))
            .await
            .status,
        404
    );
    drop(worker);
    deployment.discard().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn debug_output_shows_no_secret() {
    let mut deployment = Deployment::new().await;
    deployment.set("WORKOS_WEBHOOK_SECRET", "whsec_canary");
    let config = deployment.config();
    let replica =
        tenantry::replica::Replica::new(config.clone(), BlueprintSource::Bundled).unwrap();
    let url = url::Url::parse(config.database.url.expose_secret()).unwrap();
    let environment: tenantry::config::Environment = deployment.variables.iter().cloned().collect();
    let shown = format!("{config:?} {replica:?} {environment:?}");
    for secret in ["whsec_canary", url.password().unwrap(), "BwcHBwcH"] {
        assert!(!shown.contains(secret), "{secret} in {shown}");
    }
    replica.finish().await;
    deployment.discard().await;
}
