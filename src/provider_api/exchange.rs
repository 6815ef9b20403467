//! One HTTP exchange with a provider: what is sent, within which bounds, and the pause after a 429.
//!
//! Guarantees: a call ends within its timeout; a body is read to 1 MiB and no further; redirects are not followed, so that the
//! key goes to no other host; ids are percent-encoded and can never name another path.

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use reqwest::{
    Method, Response,
    header::{AUTHORIZATION, HeaderMap, HeaderName, HeaderValue},
    redirect,
};
use secrecy::{ExposeSecret, SecretString};
use serde_json::Value;
use url::{Host, Url};

use super::{
    answer::{self, Answer, Arrived, Question},
    error::Error,
};

const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
const CALL_TIMEOUT: Duration = Duration::from_secs(15);
const MAX_BODY_BYTES: usize = 1024 * 1024;
const MAX_ID_BYTES: usize = 255;

/// One call, before it is sent.
pub(super) struct Call {
    /// What is attempted, on which id.
    pub(super) doing: String,
    method: Method,
    path: Vec<String>,
    query: Vec<(&'static str, String)>,
    body: Option<Value>,
    may_be_empty: bool,
}

impl Call {
    /// A call of a path below the API's base; `path` holds segments, not slashes.
    pub(super) fn new(doing: String, method: Method, path: &[&str]) -> Self {
        Self {
            doing,
            method,
            path: path.iter().map(|&segment| segment.to_owned()).collect(),
            query: Vec::new(),
            body: None,
            may_be_empty: false,
        }
    }

    /// The call under another name.
    pub(super) fn doing(mut self, doing: String) -> Self {
        self.doing = doing;
        self
    }

    /// The call with this pair in its query.
    pub(super) fn with(mut self, name: &'static str, value: impl Into<String>) -> Self {
        self.set(name, value.into());
        self
    }

    /// The call with this JSON as its body.
    pub(super) fn with_body(mut self, body: Value) -> Self {
        self.body = Some(body);
        self
    }

    /// The call, whose success may be answered with no body at all.
    pub(super) fn maybe_unanswered(mut self) -> Self {
        self.may_be_empty = true;
        self
    }

    /// Sets a pair of the query; a pair of that name is replaced.
    pub(super) fn set(&mut self, name: &'static str, value: String) {
        self.query.retain(|(known, _)| *known != name);
        self.query.push((name, value));
    }

    /// The URL; `None` when a segment cannot be an id.
    fn url(&self, base: &Url) -> Option<Url> {
        let mut url = base.clone();
        {
            let mut segments = url.path_segments_mut().ok()?;
            segments.pop_if_empty();
            for segment in &self.path {
                if !is_id(segment) {
                    return None;
                }
                segments.push(segment);
            }
        }
        if !self.query.is_empty() {
            url.query_pairs_mut().extend_pairs(&self.query);
        }
        Some(url)
    }
}

/// Whether a text can be an id; the URL parser would skip or resolve those that cannot, and so reach another path.
pub(super) fn is_id(text: &str) -> bool {
    !matches!(text, "" | "." | "..")
        && text.len() <= MAX_ID_BYTES
        && !text.contains(char::is_control)
}

/// An id in a message: one short line.
pub(super) fn shown(id: &str) -> String {
    answer::one_line(id, "", 80)
}

/// The way to one provider's API. Clones share connections and the pause after a 429.
#[derive(Clone)]
pub(super) struct Connection {
    http: reqwest::Client,
    base: Url,
    key: Arc<SecretString>,
    timeout: Duration,
    paused_until: Arc<Mutex<Option<Instant>>>,
}

impl Connection {
    /// Prepares connections; none is opened yet.
    pub(super) fn new(
        base: &str,
        key: &SecretString,
        extra: &[(HeaderName, &'static str)],
    ) -> Result<Self, Error> {
        let base = parse_base(base).map_err(Error::BadUrl)?;
        let key = key.expose_secret().trim();
        if key.is_empty() {
            return Err(Error::BadKey("is empty"));
        }
        let mut bearer = HeaderValue::try_from(format!("Bearer {key}"))
            .map_err(|_| Error::BadKey("has characters that no header can carry"))?;
        bearer.set_sensitive(true);
        let mut headers = HeaderMap::new();
        headers.insert(AUTHORIZATION, bearer);
        for (name, value) in extra {
            headers.insert(name, HeaderValue::from_static(value));
        }
        let mut builder = reqwest::Client::builder()
            .user_agent(concat!("tenantry/", env!("CARGO_PKG_VERSION")))
            .default_headers(headers)
            .connect_timeout(CONNECT_TIMEOUT)
            .redirect(redirect::Policy::none());
        if is_loopback(&base) {
            builder = builder.no_proxy();
        }
        Ok(Self {
            http: builder.build().map_err(Error::Setup)?,
            base,
            key: Arc::new(SecretString::from(key)),
            timeout: CALL_TIMEOUT,
            paused_until: Arc::default(),
        })
    }

    /// The same with another limit for a whole call.
    pub(super) fn with_timeout(mut self, timeout: Duration) -> Self {
        self.timeout = timeout;
        self
    }

    /// The API's base.
    pub(super) const fn base(&self) -> &Url {
        &self.base
    }

    /// Sends a call and reads its answer.
    pub(super) async fn exchange(&self, call: &Call) -> Result<Answer, Error> {
        let doing = || call.doing.clone();
        if let Some(retry_after) = self.pause() {
            return Err(Error::RateLimited {
                doing: doing(),
                retry_after,
            });
        }
        let url = call
            .url(&self.base)
            .ok_or_else(|| Error::BadId { doing: doing() })?;
        let mut request = self
            .http
            .request(call.method.clone(), url)
            .timeout(self.timeout);
        if let Some(body) = &call.body {
            request = request.json(body);
        }
        let mut response = request.send().await.map_err(|error| lost(call, error))?;
        let (status, headers) = (response.status(), response.headers().clone());
        let body = read_body(call, &mut response).await;
        let body = if status.is_success() {
            body?
        } else {
            // the status says enough
            body.unwrap_or_default()
        };
        let question = Question {
            doing: &call.doing,
            key: self.key.expose_secret(),
            may_be_empty: call.may_be_empty,
            // apart, so that not everybody comes back at once
            default_wait: Duration::from_millis(rand::random_range(1_000..=10_000)),
        };
        let arrived = Arrived {
            status,
            headers: &headers,
            body: &body,
        };
        let judged = answer::judge(&question, &arrived);
        if let Err(Error::RateLimited { retry_after, .. }) = &judged {
            self.pause_for(*retry_after);
        }
        judged
    }

    /// How long nothing may be sent yet.
    fn pause(&self) -> Option<Duration> {
        let until = *self.lock();
        until?
            .checked_duration_since(Instant::now())
            .filter(|left| !left.is_zero())
    }

    /// Sends nothing for so long; a longer pause stays.
    fn pause_for(&self, wait: Duration) {
        let until = Instant::now() + wait;
        let mut paused = self.lock();
        *paused = Some(paused.map_or(until, |known| known.max(until)));
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Option<Instant>> {
        self.paused_until
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }
}

/// The base URL, whose path is kept; without a way to smuggle in credentials or a query.
fn parse_base(text: &str) -> Result<Url, &'static str> {
    let url = Url::parse(text).map_err(|_| "is not a URL")?;
    if !matches!(url.scheme(), "https" | "http") {
        return Err("does not begin with https://");
    }
    if !url.username().is_empty() || url.password().is_some() {
        return Err("has a user name or password in it");
    }
    if url.query().is_some() || url.fragment().is_some() {
        return Err("has a query or fragment");
    }
    Ok(url)
}

/// A stub or emulator on this machine is not behind a proxy.
fn is_loopback(base: &Url) -> bool {
    match base.host() {
        Some(Host::Domain(name)) => name == "localhost",
        Some(Host::Ipv4(address)) => address.is_loopback(),
        Some(Host::Ipv6(address)) => address.is_loopback(),
        None => false,
    }
}

/// The body up to the limit.
async fn read_body(call: &Call, response: &mut Response) -> Result<Vec<u8>, Error> {
    let mut body = Vec::new();
    while let Some(chunk) = response.chunk().await.map_err(|error| lost(call, error))? {
        if body.len() + chunk.len() > MAX_BODY_BYTES {
            return Err(Error::Unreadable {
                doing: call.doing.clone(),
                problem: format!("it is larger than {MAX_BODY_BYTES} bytes"),
                request: String::new(),
            });
        }
        body.extend_from_slice(&chunk);
    }
    Ok(body)
}

/// The network's errors; the URL is taken out because its query may hold an e-mail address.
fn lost(call: &Call, error: reqwest::Error) -> Error {
    let problem = if error.is_timeout() {
        "no answer in time"
    } else if error.is_connect() {
        "no connection"
    } else {
        "the connection ended before the answer did"
    };
    Error::Unavailable {
        doing: call.doing.clone(),
        problem: problem.to_owned(),
        request: String::new(),
        source: Some(error.without_url()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn path(id: &str) -> Option<String> {
        let base = Url::parse("https://api.example/v1").unwrap();
        let call = Call::new(String::new(), Method::GET, &["organizations", id, "x"]);
        call.url(&base).map(|url| url.path().to_owned())
    }

    #[test]
    fn a_hostile_id_never_names_another_path() {
        for (id, encoded) in [
            ("org_1", "org_1"),
            ("../users", "..%2Fusers"),
            ("%2e%2e", "%252e%252e"),
            ("..\\..", "..%5C.."),
            ("a?b#c", "a%3Fb%23c"),
            ("ü b", "%C3%BC%20b"),
        ] {
            let expected = format!("/v1/organizations/{encoded}/x");
            assert_eq!(path(id).as_deref(), Some(expected.as_str()), "{id}");
        }
        for id in ["", ".", "..", ".\t.", "a\0b", "a\r\nb", &"x".repeat(256)] {
            assert_eq!(path(id), None, "{id:?}");
        }
    }

    #[test]
    fn a_base_is_a_plain_url() {
        assert!(parse_base("https://api.example/below/").is_ok());
        for bad in [
            "api.example",
            "ftp://api.example",
            "https://user@api.example",
            "https://:pw@api.example",
            "https://api.example?x=1",
            "https://api.example#x",
        ] {
            assert!(parse_base(bad).is_err(), "{bad}");
        }
    }
}
