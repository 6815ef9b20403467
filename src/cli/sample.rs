//! Signed sample events, and the HTTP client that sends them.

use chrono::{DateTime, SecondsFormat, Utc};
use http_body_util::{BodyExt, Full};
use hyper::{Request, body::Bytes, client::conn::http1};
use hyper_util::rt::TokioIo;
use secrecy::SecretString;
use serde_json::{Value, json};

use super::{Exit, Failure};
use crate::{
    config::{Config, Source},
    webhooks::{self, SourceKind},
};

type Error = Box<dyn std::error::Error + Send + Sync>;

/// The types that `trigger` can send.
pub(super) const EVENT_TYPES: [&str; 5] = [
    "organization.created",
    "organization.updated",
    "organization.deleted",
    "user.created",
    "membership.created",
];

/// What a sample speaks of.
#[derive(Debug)]
pub(super) struct Subject {
    /// Id of the organization.
    pub organization: String,
    /// Name of the organization.
    pub name: String,
    /// Id of the user, in events that have one.
    pub user: String,
    /// The user's e-mail address.
    pub email: String,
}

/// An event as its sender would write it.
#[derive(Debug)]
pub(super) struct Sample {
    /// Id of the event.
    pub id: String,
    body: Value,
}

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

/// An id as WorkOS and Clerk make them.
pub(super) fn new_organization_id() -> String {
    format!("org_{}", uuid::Uuid::now_v7().simple())
}

/// An id of a delivery as Svix makes them.
pub(super) fn new_delivery_id() -> String {
    format!("msg_{}", uuid::Uuid::now_v7().simple())
}

/// An id as WorkOS and Clerk make them.
pub(super) fn new_user_id() -> String {
    format!("user_{}", uuid::Uuid::now_v7().simple())
}

/// An event as its sender would write it.
pub(super) fn event(kind: SourceKind, event_type: &str, subject: &Subject) -> Sample {
    let now = DateTime::<Utc>::from(std::time::SystemTime::now());
    match kind {
        SourceKind::Workos => of_workos(event_type, subject, now),
        SourceKind::Clerk => of_clerk(event_type, subject, now),
        SourceKind::Standard => of_standard(event_type, subject, now),
    }
}

/// Of a membership there is one a user and organization here, so that its id can be made of theirs.
fn membership_id(prefix: &str, subject: &Subject) -> String {
    let Subject {
        organization, user, ..
    } = subject;
    format!("{prefix}_{organization}_{user}")
}

fn text_of(now: DateTime<Utc>) -> String {
    now.to_rfc3339_opts(SecondsFormat::Millis, true)
}

fn of_workos(event_type: &str, subject: &Subject, now: DateTime<Utc>) -> Sample {
    let now = text_of(now);
    let id = format!("event_{}", uuid::Uuid::now_v7().simple());
    let (event_type, data) = match event_type {
        "user.created" => (
            event_type,
            json!({
                "object": "user", "id": subject.user, "email": subject.email, "email_verified": true,
                "first_name": null, "last_name": null, "external_id": null, "created_at": now, "updated_at": now,
            }),
        ),
        "membership.created" => (
            "organization_membership.created",
            json!({
                "object": "organization_membership", "id": membership_id("om", subject),
                "organization_id": subject.organization, "user_id": subject.user, "status": "active",
                "role": {"slug": "member"}, "created_at": now, "updated_at": now,
            }),
        ),
        _ => (
            event_type,
            json!({
                "object": "organization", "id": subject.organization, "name": subject.name, "domains": [],
                "metadata": {}, "external_id": null, "created_at": now, "updated_at": now,
            }),
        ),
    };
    let body = json!({
        "object": "event", "id": id, "event": event_type, "data": data, "created_at": now, "context": {},
    });
    Sample { id, body }
}

fn of_clerk(event_type: &str, subject: &Subject, now: DateTime<Utc>) -> Sample {
    let now = now.timestamp_millis();
    let organization = json!({
        "object": "organization", "id": subject.organization, "name": subject.name,
        "public_metadata": {}, "created_at": now, "updated_at": now,
    });
    let (event_type, data) = match event_type {
        "user.created" => (
            event_type,
            json!({
                "object": "user", "id": subject.user, "first_name": null, "last_name": null, "external_id": null,
                "primary_email_address_id": "idn_1",
                "email_addresses": [{"id": "idn_1", "email_address": subject.email}],
                "created_at": now, "updated_at": now,
            }),
        ),
        "membership.created" => (
            "organizationMembership.created",
            json!({
                "object": "organization_membership", "id": membership_id("orgmem", subject),
                "organization": organization, "role": "org:member",
                "public_user_data": {"user_id": subject.user, "identifier": subject.email},
                "created_at": now, "updated_at": now,
            }),
        ),
        "organization.deleted" => (
            event_type,
            json!({ "object": "organization", "id": subject.organization, "deleted": true }),
        ),
        _ => (event_type, organization),
    };
    let body = json!({ "object": "event", "type": event_type, "timestamp": now, "data": data });
    let id = new_delivery_id();
    Sample { id, body }
}

fn of_standard(event_type: &str, subject: &Subject, now: DateTime<Utc>) -> Sample {
    let now = text_of(now);
    let data = match event_type {
        "user.created" => json!({ "id": subject.user, "email": subject.email, "updated_at": now }),
        "membership.created" => json!({
            "organization_id": subject.organization, "user_id": subject.user, "email": subject.email,
            "role": "member", "updated_at": now,
        }),
        _ => json!({ "id": subject.organization, "name": subject.name, "updated_at": now }),
    };
    let body = json!({ "type": event_type, "timestamp": now, "data": data });
    let id = new_delivery_id();
    Sample { id, body }
}

/// The first secret that can sign; a public key only verifies.
pub(super) fn signing_secret(source: &Source) -> Option<&SecretString> {
    let signs = |secret: &&SecretString| {
        !webhooks::sign(source.kind, secret, "msg", DateTime::UNIX_EPOCH, b"").is_empty()
    };
    source.secrets.iter().find(signs)
}

/// Delivers an event as its sender would; returns status and body of the answer.
pub(super) async fn deliver(
    base: &url::Url,
    source: &str,
    kind: SourceKind,
    secret: &SecretString,
    event: &Sample,
) -> Result<(u16, String), Error> {
    let body = serde_json::to_vec(&event.body)?;
    let now = DateTime::from(std::time::SystemTime::now());
    let mut request =
        Request::post(format!("/webhooks/{source}")).header("content-type", "application/json");
    for (name, value) in webhooks::sign(kind, secret, &event.id, now, &body) {
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::webhooks::{IdentityEvent, Mapping, Meaning};

    #[test]
    fn every_sample_reads_as_what_it_is_called() {
        let subject = Subject {
            organization: new_organization_id(),
            name: "Acme".to_owned(),
            user: new_user_id(),
            email: "ada@acme.example".to_owned(),
        };
        for kind in SourceKind::ALL {
            for event_type in EVENT_TYPES {
                let sample = event(kind, event_type, &subject);
                let body = sample.body.to_string();
                let reading = webhooks::read(kind, &Mapping::default(), body.as_bytes());
                let Meaning::Events(events) = reading.meaning else {
                    panic!("{kind:?} {event_type}: {body}");
                };
                let name = events.last().map(IdentityEvent::name);
                let expected = event_type
                    .replace("created", "upserted")
                    .replace("updated", "upserted");
                assert_eq!(name, Some(expected.as_str()), "{kind:?}");
                if event_type != "user.created" {
                    assert_eq!(
                        reading.organization_id.as_ref(),
                        Some(&subject.organization)
                    );
                }
            }
        }
    }
}
