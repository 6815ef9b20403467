//! One attempt: signed, posted, judged.
//!
//! Guarantees: an attempt ends within the endpoint's timeout; every secret signs; redirects are not
//! followed; nothing is connected to that is not public, unless the configuration allows it; no proxy stands
//! between, because the address that is judged would be the proxy's; of an answer's body at most the
//! beginning is read and kept.

use std::{
    fmt,
    net::IpAddr,
    sync::Arc,
    time::{Duration, Instant},
};

use chrono::{DateTime, SecondsFormat, Utc};
use reqwest::{
    Response,
    dns::{Name, Resolve},
    header, redirect,
};
use secrecy::SecretString;
use serde::Serialize;
use url::{Host, Url};

use super::{
    line::Outgoing,
    resolver::{NotPublic, Resolver},
    schedule,
};
use crate::{
    addresses,
    causes::chain,
    config,
    webhooks::{self, SourceKind},
};

const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// How much of an answer's body is read.
const MAX_ANSWER_BYTES: usize = 1024;

/// How much of it is kept, in characters.
const MAX_ANSWER_CHARS: usize = 200;

/// Why an endpoint cannot be used at all.
#[derive(Debug, thiserror::Error)]
pub enum SetupError {
    /// Its URL.
    #[error("{0}")]
    Url(String),
    /// The HTTP client.
    #[error("the HTTP client cannot be set up")]
    Client(#[source] reqwest::Error),
}

/// Why an attempt failed.
#[derive(Debug, thiserror::Error)]
pub enum AttemptError {
    /// Answered with another status than 2xx.
    #[error("the endpoint answered {0}")]
    Refused(u16),
    /// Answered with a redirect.
    #[error("the endpoint answered {0}, and redirects are not followed")]
    Redirected(u16),
    /// Answered 410.
    #[error("the endpoint answered 410: it is told nothing more until it is enabled")]
    Gone,
    /// No answer in time.
    #[error("the endpoint did not answer in time")]
    Timeout,
    /// Its address is not public.
    #[error("{0} has no public address, and allow_private_addresses is not set")]
    AddressRefused(String),
    /// No connection, or one that broke.
    #[error("the endpoint cannot be reached: {0}")]
    Unreachable(String),
}

impl AttemptError {
    /// Stable code, explained in docs/errors.md.
    pub const fn code(&self) -> &'static str {
        match self {
            Self::Refused(_) => "notification_refused",
            Self::Redirected(_) => "notification_redirected",
            Self::Gone => "notification_endpoint_gone",
            Self::Timeout => "notification_timeout",
            Self::AddressRefused(_) => "notification_address_refused",
            Self::Unreachable(_) => "notification_unreachable",
        }
    }
}

/// How an attempt went.
#[derive(Debug)]
pub struct Tried {
    /// How long it took.
    pub took: Duration,
    /// Status, where there was an answer.
    pub status: Option<u16>,
    /// Why it failed, if it did.
    pub failure: Option<AttemptError>,
    /// Beginning of the body of an answer that is no success.
    pub answer: Option<String>,
    /// When a busy endpoint wants to be asked again.
    pub retry_after: Option<Duration>,
}

/// What is sent. The same bytes on every attempt.
#[derive(Serialize)]
struct Envelope<'a> {
    id: String,
    #[serde(rename = "type")]
    kind: &'a str,
    timestamp: String,
    data: &'a serde_json::Value,
}

/// The way to one endpoint.
#[derive(Clone)]
pub struct Sender {
    http: reqwest::Client,
    url: Url,
    secrets: Vec<SecretString>,
    schedule: Vec<Duration>,
    /// A host that is an address already, and not a public one.
    refused_host: Option<IpAddr>,
    resolver: Resolver,
}

impl fmt::Debug for Sender {
    /// Without the path, which may be a token.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Sender")
            .field("origin", &self.url.origin().ascii_serialization())
            .finish_non_exhaustive()
    }
}

impl Sender {
    /// Prepares connections; none is opened yet.
    pub fn new(endpoint: &config::Endpoint) -> Result<Self, SetupError> {
        let allow_private = endpoint.allow_private_addresses;
        let resolver = Resolver { allow_private };
        let url = endpoint.parsed_url().map_err(SetupError::Url)?;
        let timeout = Duration::from_secs(endpoint.timeout_s);
        let http = reqwest::Client::builder()
            .user_agent(concat!("tenantry/", env!("CARGO_PKG_VERSION")))
            .timeout(timeout)
            .connect_timeout(CONNECT_TIMEOUT.min(timeout))
            .redirect(redirect::Policy::none())
            .no_proxy()
            .dns_resolver(Arc::new(resolver))
            .build()
            .map_err(SetupError::Client)?;
        let address = match url.host() {
            Some(Host::Ipv4(address)) => Some(IpAddr::V4(address)),
            Some(Host::Ipv6(address)) => Some(IpAddr::V6(address)),
            Some(Host::Domain(_)) | None => None,
        };
        Ok(Self {
            http,
            refused_host: address
                .filter(|address| !allow_private && !addresses::is_public(*address)),
            url,
            secrets: endpoint.secrets.clone(),
            schedule: endpoint.schedule(),
            resolver,
        })
    }

    /// Waits between attempts.
    pub fn schedule(&self) -> &[Duration] {
        &self.schedule
    }

    /// Whether the host has an address that may be connected to.
    pub async fn check_host(&self) -> Result<(), AttemptError> {
        if let Some(address) = self.refused_host {
            return Err(AttemptError::AddressRefused(address.to_string()));
        }
        let Some(Host::Domain(host)) = self.url.host() else {
            return Ok(());
        };
        let unreachable = |error: String| AttemptError::Unreachable(error);
        let name = host.parse::<Name>();
        let name = name.map_err(|error| unreachable(error.to_string()))?;
        match self.resolver.resolve(name).await {
            Ok(_) => Ok(()),
            Err(error) if error.is::<NotPublic>() => {
                Err(AttemptError::AddressRefused(host.to_owned()))
            }
            Err(error) => Err(unreachable(format!("{host}: {error}"))),
        }
    }

    /// Makes one attempt.
    pub async fn send(&self, outgoing: &Outgoing, now: DateTime<Utc>) -> Tried {
        let began = Instant::now();
        let mut tried = match self.post(outgoing, now).await {
            Ok(response) => read(response).await,
            Err(failure) => Tried {
                took: Duration::ZERO,
                status: None,
                failure: Some(failure),
                answer: None,
                retry_after: None,
            },
        };
        tried.took = began.elapsed();
        tried
    }

    async fn post(
        &self,
        outgoing: &Outgoing,
        now: DateTime<Utc>,
    ) -> Result<Response, AttemptError> {
        if let Some(address) = self.refused_host {
            return Err(AttemptError::AddressRefused(address.to_string()));
        }
        let envelope = Envelope {
            id: outgoing.id.to_string(),
            kind: &outgoing.kind,
            timestamp: outgoing
                .created_at
                .to_rfc3339_opts(SecondsFormat::Micros, true),
            data: &outgoing.data,
        };
        let body = serde_json::to_vec(&envelope)
            .map_err(|error| AttemptError::Unreachable(error.to_string()))?;
        let mut request = self
            .http
            .post(self.url.clone())
            .header(header::CONTENT_TYPE, "application/json");
        for (name, value) in self.sign(&envelope.id, now, &body) {
            request = request.header(name, value);
        }
        request
            .body(body)
            .send()
            .await
            .map_err(|error| lost(&error))
    }

    /// The headers, with a signature of each secret.
    fn sign(&self, id: &str, now: DateTime<Utc>, body: &[u8]) -> Vec<(&'static str, String)> {
        let mut signed: Vec<(&'static str, String)> = Vec::new();
        for secret in &self.secrets {
            let headers = webhooks::sign(SourceKind::Standard, secret, id, now, body);
            match (signed.last_mut(), headers.last()) {
                (Some((_, signatures)), Some((_, another))) => {
                    signatures.push(' ');
                    signatures.push_str(another);
                }
                _ => signed = headers,
            }
        }
        signed
    }
}

/// What an answer says.
async fn read(mut response: Response) -> Tried {
    let status = response.status().as_u16();
    let failure = match status {
        200..=299 => None,
        300..=399 => Some(AttemptError::Redirected(status)),
        410 => Some(AttemptError::Gone),
        _ => Some(AttemptError::Refused(status)),
    };
    let retry_after = if matches!(status, 429 | 503) {
        schedule::retry_after(response.headers())
    } else {
        None
    };
    let answer = match failure {
        // nobody asks what a success says
        None => None,
        Some(_) => Some(beginning(&mut response).await).filter(|text| !text.is_empty()),
    };
    Tried {
        took: Duration::ZERO,
        status: Some(status),
        failure,
        answer,
        retry_after,
    }
}

/// The beginning of a body, as one line.
async fn beginning(response: &mut Response) -> String {
    let mut bytes = Vec::new();
    while bytes.len() < MAX_ANSWER_BYTES
        && let Ok(Some(chunk)) = response.chunk().await
    {
        bytes.extend_from_slice(&chunk);
    }
    bytes.truncate(MAX_ANSWER_BYTES);
    let text = String::from_utf8_lossy(&bytes);
    let words: Vec<&str> = text
        .split(|c: char| c.is_whitespace() || c.is_control())
        .filter(|word| !word.is_empty())
        .collect();
    words.join(" ").chars().take(MAX_ANSWER_CHARS).collect()
}

/// The network's errors, without the URL.
fn lost(error: &reqwest::Error) -> AttemptError {
    let mut cause = std::error::Error::source(error);
    while let Some(error) = cause {
        if let Some(NotPublic(host)) = error.downcast_ref() {
            return AttemptError::AddressRefused(host.clone());
        }
        cause = error.source();
    }
    if error.is_timeout() {
        return AttemptError::Timeout;
    }
    let cause = std::error::Error::source(error);
    AttemptError::Unreachable(cause.map_or_else(|| "no connection".to_owned(), chain))
}
