//! Signed sample events, and the HTTP client that sends them.

use http_body_util::{BodyExt, Full};
use hyper::{Request, body::Bytes, client::conn::http1};
use hyper_util::rt::TokioIo;
use secrecy::SecretString;
use serde_json::{Value, json};

use super::{Exit, Failure};
use crate::{
    config::Config,
    webhooks::{self, SourceKind},
};

type Error = Box<dyn std::error::Error + Send + Sync>;

/// The types that `trigger` can send.
pub(super) const EVENT_TYPES: [&str; 3] = [
    "organization.created",
    "organization.updated",
    "organization.deleted",
];

/// Where the instance of this configuration answers, from this machine.
pub(super) fn base_url(config: &Config) -> Result<url::Url, Failure> {
    let listen = config
        .server
        .listen
        .replace("0.0.0.0:", "127.0.0.1:")
        .replace("[::]:", "[::1]:");
    format!("http://{listen}").parse().map_err(|error| {
        Failure::new(
            Exit::Usage,
            format!("server.listen = {listen:?} is no address: {error}"),
            "give host:port",
        )
    })
}

/// An id as WorkOS makes them.
pub(super) fn new_organization_id() -> String {
    format!("org_{}", uuid::Uuid::now_v7().simple())
}

/// An event as its sender would write it.
pub(super) fn event(kind: SourceKind, event_type: &str, org_id: &str, name: &str) -> Value {
    let now = chrono::DateTime::<chrono::Utc>::from(std::time::SystemTime::now());
    let now = now.to_rfc3339_opts(chrono::SecondsFormat::Millis, true);
    match kind {
        SourceKind::Workos | SourceKind::Clerk | SourceKind::Standard => json!({
            "object": "event",
            "id": format!("event_{}", uuid::Uuid::now_v7().simple()),
            "event": event_type,
            "data": {
                "object": "organization",
                "id": org_id,
                "name": name,
                "domains": [],
                "metadata": {},
                "external_id": null,
                "created_at": now,
                "updated_at": now,
            },
            "created_at": now,
            "context": {},
        }),
    }
}

/// Delivers an event as its sender would; returns status and body of the answer.
pub(super) async fn deliver(
    base: &url::Url,
    source: &str,
    kind: SourceKind,
    secret: &SecretString,
    event: &Value,
) -> Result<(u16, String), Error> {
    let body = serde_json::to_vec(event)?;
    let now = chrono::DateTime::from(std::time::SystemTime::now());
    let mut request =
        Request::post(format!("/webhooks/{source}")).header("content-type", "application/json");
    for (name, value) in webhooks::sign(kind, secret, "", now, &body) {
        request = request.header(name, value);
    }
    exchange(base, request, body).await
}

/// A GET request.
pub(super) async fn get(base: &url::Url, path: &str) -> Result<(u16, String), Error> {
    exchange(base, Request::get(path), Vec::new()).await
}

async fn exchange(
    base: &url::Url,
    request: hyper::http::request::Builder,
    body: Vec<u8>,
) -> Result<(u16, String), Error> {
    let host = base
        .host_str()
        .ok_or("the URL has no host")?
        .trim_matches(['[', ']']);
    let port = base.port_or_known_default().ok_or("the URL has no port")?;
    if base.scheme() != "http" {
        return Err("only http:// is spoken here: use the address behind the TLS proxy".into());
    }
    let stream = tokio::net::TcpStream::connect((host, port)).await?;
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
    let request = request
        .header("host", format!("{host}:{port}"))
        .body(Full::new(Bytes::from(body)))?;
    let exchange = async move {
        let response = sender.send_request(request).await?;
        let status = response.status().as_u16();
        let body = response.into_body().collect().await?.to_bytes();
        Ok((status, String::from_utf8_lossy(&body).into_owned()))
    };
    tokio::pin!(connection);
    tokio::pin!(exchange);
    tokio::select! {
        answer = &mut exchange => answer,
        ended = &mut connection => {
            // a short answer can end the connection before its last bytes are read
            ended?;
            exchange.await
        }
    }
}
