//! An identity provider's REST API on a local port, with a memory: it enforces what the real one enforces, answers with the
//! provider's own shapes, and misbehaves when told to.

mod clerk;
mod organizations;
mod workos;

use std::{
    sync::{Arc, Mutex, MutexGuard},
    time::Duration,
};

use chrono::{DateTime, TimeDelta, Utc};
use http_body_util::{BodyExt, Full};
use hyper::{body::Bytes, body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::rt::TokioIo;
use secrecy::SecretString;
use serde_json::{Value, json};
use tenantry::{provider_api::Client, webhooks::SourceKind};
use tokio::{net::TcpListener, task::JoinSet};
use url::Url;

/// The key that is accepted.
pub const API_KEY: &str = "sk_test_of_tenantry_0123456789";

/// A request as it arrived.
#[derive(Debug, Clone)]
pub struct Request {
    pub method: String,
    /// Without the query, still encoded.
    pub path: String,
    /// Decoded pairs.
    pub query: Vec<(String, String)>,
    pub headers: Vec<(String, String)>,
    pub body: Value,
}

impl Request {
    /// A header's value; empty without it.
    pub fn header(&self, name: &str) -> &str {
        let found = self.headers.iter().find(|(known, _)| known == name);
        found.map_or("", |(_, value)| value)
    }

    /// A pair of the query.
    pub fn query(&self, name: &str) -> Option<&str> {
        let found = self.query.iter().find(|(known, _)| known == name);
        found.map(|(_, value)| value.as_str())
    }

    /// `GET /path`.
    pub fn line(&self) -> String {
        format!("{} {}", self.method, self.path)
    }

    /// The path's segments, decoded.
    fn segments(&self) -> Vec<String> {
        let decode = |segment: &str| {
            let pair = format!("x={}", segment.replace('+', "%2B"));
            let decoded = url::form_urlencoded::parse(pair.as_bytes()).next();
            decoded.unwrap().1.into_owned()
        };
        self.path.split('/').skip(1).map(decode).collect()
    }
}

/// An answer: status, body, further headers.
pub struct Answer {
    pub status: u16,
    pub body: Value,
    pub headers: Vec<(&'static str, String)>,
}

impl Answer {
    fn new(status: u16, body: Value) -> Self {
        Self {
            status,
            body,
            headers: Vec::new(),
        }
    }
}

/// How a request is answered instead of properly.
#[derive(Debug, Clone)]
enum Fault {
    Answer(u16, Vec<(&'static str, String)>, Vec<u8>),
    Stall(Duration),
    Cut,
    /// The request is carried out, and then nobody hears of it.
    CutAfter,
}

struct Planned {
    method: String,
    prefix: String,
    fault: Fault,
    times: usize,
}

/// When an invitation expires: what that is compared with is the present, unlike all else here.
fn in_days(days: i64) -> DateTime<Utc> {
    DateTime::<Utc>::from(std::time::SystemTime::now()) + TimeDelta::days(days)
}

/// What the provider knows.
#[derive(Default)]
struct State {
    organizations: Vec<Value>,
    users: Vec<Value>,
    memberships: Vec<Value>,
    invitations: Vec<Value>,
    roles: Vec<String>,
    has_no_slugs: bool,
    requests: Vec<Request>,
    faults: Vec<Planned>,
    changes: i64,
}

impl State {
    /// The time of the next change: a minute after the one before.
    fn tick(&mut self) -> DateTime<Utc> {
        self.changes += 1;
        parse("2026-11-16T10:00:00Z") + TimeDelta::minutes(self.changes)
    }

    /// A new id with this prefix.
    fn new_id(&self, prefix: &str) -> String {
        format!("{prefix}_{:026}", self.changes)
    }

    /// Takes an organization away with everything in it; whether it was there.
    fn forget_organization(&mut self, id: &str) -> bool {
        let known = position(&self.organizations, id);
        self.organizations.retain(|object| object["id"] != id);
        self.memberships.retain(|object| org_of(object) != id);
        self.invitations
            .retain(|object| object["organization_id"] != id);
        known.is_some()
    }

    fn knows_role(&self, slug: &str) -> bool {
        ["admin", "member"].contains(&slug) || self.roles.iter().any(|known| known == slug)
    }

    /// The fault planned for this request, counted down.
    fn fault(&mut self, request: &Request) -> Option<Fault> {
        let at = self.faults.iter().position(|planned| {
            planned.method == request.method && request.path.starts_with(&planned.prefix)
        })?;
        let planned = &mut self.faults[at];
        let fault = planned.fault.clone();
        planned.times -= 1;
        if planned.times == 0 {
            self.faults.remove(at);
        }
        Some(fault)
    }
}

fn position(objects: &[Value], id: &str) -> Option<usize> {
    objects.iter().position(|object| object["id"] == id)
}

fn parse(text: &str) -> DateTime<Utc> {
    DateTime::parse_from_rfc3339(text).unwrap().to_utc()
}

/// A provider under test; ends when dropped.
pub struct Provider {
    kind: SourceKind,
    url: String,
    state: Arc<Mutex<State>>,
    _tasks: JoinSet<()>,
}

impl Provider {
    /// A provider of this kind that knows nobody yet.
    pub async fn start(kind: SourceKind) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let state = Arc::default();
        let mut tasks = JoinSet::new();
        tasks.spawn(serve(kind, listener, Arc::clone(&state)));
        Self {
            kind,
            url,
            state,
            _tasks: tasks,
        }
    }

    /// What `api_url` is set to.
    pub fn url(&self) -> &str {
        &self.url
    }

    /// A client with the right key.
    pub fn client(&self) -> Client {
        Client::new(self.kind, &SecretString::from(API_KEY), &self.url).unwrap()
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap()
    }

    fn is_clerk(&self) -> bool {
        self.kind == SourceKind::Clerk
    }

    /// An organization; the time as in RFC 3339. One of the same id is replaced.
    pub fn has_organization(&self, id: &str, name: &str, updated_at: &str) {
        let object = if self.is_clerk() {
            clerk::organization(id, name, parse(updated_at))
        } else {
            workos::organization(id, name, parse(updated_at))
        };
        put(&mut self.state().organizations, object);
    }

    /// Forgets an organization with everything in it.
    pub fn forgets_organization(&self, id: &str) {
        self.state().forget_organization(id);
    }

    /// A user. One of the same id is replaced.
    pub fn has_user(&self, id: &str, email: &str) {
        let mut state = self.state();
        let now = state.tick();
        let object = if self.is_clerk() {
            clerk::user(id, email, now)
        } else {
            workos::user(id, email, now)
        };
        put(&mut state.users, object);
    }

    /// A role beside `admin` and `member`.
    pub fn has_role(&self, slug: &str) {
        self.state().roles.push(slug.to_owned());
    }

    /// A membership of a known user in a known organization; answers its id. The status is ignored for Clerk.
    pub fn has_membership(&self, org: &str, user: &str, role: &str, status: &str) -> String {
        let mut state = self.state();
        let object = if self.is_clerk() {
            clerk::membership(&mut state, org, user, role)
        } else {
            workos::membership(&mut state, org, user, role, status)
        };
        let id = object["id"].as_str().unwrap().to_owned();
        put(&mut state.memberships, object);
        id
    }

    /// A user accepts an invitation and so becomes a member; answers the membership's id.
    pub fn accepts_invitation(&self, invitation: &str, user: &str) -> String {
        let (key, status) = if self.is_clerk() {
            ("status", "role")
        } else {
            ("state", "role_slug")
        };
        let (org, role) = {
            let mut state = self.state();
            let at = position(&state.invitations, invitation).unwrap();
            state.invitations[at][key] = json!("accepted");
            let now = state.tick();
            state.invitations[at]["updated_at"] = if self.is_clerk() {
                json!(now.timestamp_millis())
            } else {
                json!(now.to_rfc3339())
            };
            let text = |key: &str| state.invitations[at][key].as_str().unwrap_or("member");
            (text("organization_id").to_owned(), text(status).to_owned())
        };
        self.has_membership(&org, user, role.trim_start_matches("org:"), "active")
    }

    /// An invitation is not pending any more, in the provider's own word.
    pub fn has_settled(&self, invitation: &str, word: &str) {
        let key = if self.is_clerk() { "status" } else { "state" };
        let mut state = self.state();
        let at = position(&state.invitations, invitation).unwrap();
        state.invitations[at][key] = json!(word);
    }

    /// All invitations, in the provider's own shape.
    pub fn invitations(&self) -> Vec<Value> {
        self.state().invitations.clone()
    }

    /// All memberships, in the provider's own shape.
    pub fn memberships(&self) -> Vec<Value> {
        self.state().memberships.clone()
    }

    /// One membership, in the provider's own shape.
    pub fn membership(&self, id: &str) -> Value {
        let state = self.state();
        state.memberships[position(&state.memberships, id).unwrap()].clone()
    }

    /// The membership of a user in whatever organization, in the provider's own shape.
    pub fn membership_of(&self, user: &str) -> Value {
        let state = self.state();
        let found = state.memberships.iter().find(|object| {
            object["user_id"] == user || object["public_user_data"]["user_id"] == user
        });
        found.unwrap().clone()
    }

    /// Slug of the role that a user has in whatever organization, without prefix.
    pub fn role_of(&self, user: &str) -> String {
        let role = &self.membership_of(user)["role"];
        let slug = role.as_str().or(role["slug"].as_str()).unwrap();
        slug.trim_start_matches("org:").to_owned()
    }

    /// Somebody gives a user a role at `WorkOS` itself; answers the membership.
    pub fn changes_role(&self, user: &str, role: &str) -> Value {
        let mut state = self.state();
        // a word of this very moment
        let now = state.tick().max(std::time::SystemTime::now().into());
        let of_user = |object: &&mut Value| object["user_id"] == user;
        let object = state.memberships.iter_mut().find(of_user).unwrap();
        object["role"] = json!({ "slug": role });
        object["updated_at"] = json!(now.to_rfc3339());
        object.clone()
    }

    /// Every request so far.
    pub fn requests(&self) -> Vec<Request> {
        self.state().requests.clone()
    }

    /// `GET /path` of every request so far.
    pub fn lines(&self) -> Vec<String> {
        self.state().requests.iter().map(Request::line).collect()
    }

    fn plan(&self, method: &str, prefix: &str, fault: Fault, times: usize) {
        assert!(times > 0, "a fault that never happens");
        self.state().faults.push(Planned {
            method: method.to_owned(),
            prefix: prefix.to_owned(),
            fault,
            times,
        });
    }

    /// The next requests of this method and path are answered with this status and the provider's error.
    pub fn fail_next(&self, method: &str, prefix: &str, status: u16, times: usize) {
        let body = if self.is_clerk() {
            clerk::error(status, "test_failure", "failed as told").body
        } else {
            workos::error(status, Some("test_failure"), "failed as told").body
        };
        self.answer_next(method, prefix, status, &body, times);
    }

    /// The next requests are answered with this.
    pub fn answer_next(&self, method: &str, prefix: &str, status: u16, body: &Value, times: usize) {
        let body = body.to_string().into_bytes();
        self.plan(
            method,
            prefix,
            Fault::Answer(status, Vec::new(), body),
            times,
        );
    }

    /// The next request is answered with these headers and bytes.
    pub fn bytes_next(
        &self,
        method: &str,
        prefix: &str,
        status: u16,
        headers: &[(&'static str, &str)],
        body: &[u8],
    ) {
        let headers = headers
            .iter()
            .map(|(name, value)| (*name, (*value).to_owned()));
        let fault = Fault::Answer(status, headers.collect(), body.to_vec());
        self.plan(method, prefix, fault, 1);
    }

    /// The next requests are answered only after so long.
    pub fn stall_next(&self, method: &str, prefix: &str, how_long: Duration, times: usize) {
        self.plan(method, prefix, Fault::Stall(how_long), times);
    }

    /// The next requests are answered 429; `retry_after` in seconds or as a date.
    pub fn rate_limit_next(&self, method: &str, prefix: &str, retry_after: &str, times: usize) {
        let headers = vec![("retry-after", retry_after.to_owned())];
        let body = br#"{"message":"Too Many Requests"}"#.to_vec();
        self.plan(method, prefix, Fault::Answer(429, headers, body), times);
    }

    /// The next requests have no effect and no answer.
    pub fn cut_next(&self, method: &str, prefix: &str, times: usize) {
        self.plan(method, prefix, Fault::Cut, times);
    }

    /// The next requests have their effect and no answer.
    pub fn cut_after_next(&self, method: &str, prefix: &str, times: usize) {
        self.plan(method, prefix, Fault::CutAfter, times);
    }
}

fn put(objects: &mut Vec<Value>, object: Value) {
    objects.retain(|known| known["id"] != object["id"]);
    objects.push(object);
}

/// The organization that a membership is in, in either shape.
fn org_of(membership: &Value) -> &str {
    let id = membership["organization_id"].as_str();
    id.or(membership["organization"]["id"].as_str()).unwrap()
}

async fn serve(kind: SourceKind, listener: TcpListener, state: Arc<Mutex<State>>) {
    let mut connections = JoinSet::new();
    loop {
        let (stream, _) = listener.accept().await.unwrap();
        let state = Arc::clone(&state);
        let service = service_fn(move |request| answer(kind, request, Arc::clone(&state)));
        let connection = http1::Builder::new().serve_connection(TokioIo::new(stream), service);
        connections.spawn(async move {
            // ends with an error where a test cuts it
            connection.await.ok();
        });
    }
}

async fn answer(
    kind: SourceKind,
    request: hyper::Request<Incoming>,
    state: Arc<Mutex<State>>,
) -> Result<hyper::Response<Full<Bytes>>, &'static str> {
    let request = received(request).await;
    let fault = {
        let mut state = state.lock().unwrap();
        state.requests.push(request.clone());
        state.fault(&request)
    };
    match &fault {
        Some(Fault::Answer(status, headers, body)) => {
            return Ok(response(*status, headers, body.clone()));
        }
        Some(Fault::Stall(how_long)) => tokio::time::sleep(*how_long).await,
        Some(Fault::Cut) => return Err("cut"),
        Some(Fault::CutAfter) | None => {}
    }
    let answer = {
        let mut state = state.lock().unwrap();
        match kind {
            SourceKind::Clerk => clerk::answer(&mut state, &request),
            SourceKind::Workos => workos::answer(&mut state, &request),
            SourceKind::Standard => unreachable!("has no API"),
        }
    };
    if matches!(fault, Some(Fault::CutAfter)) {
        return Err("cut");
    }
    let body = match answer.body {
        Value::Null => Vec::new(),
        body => body.to_string().into_bytes(),
    };
    Ok(response(answer.status, &answer.headers, body))
}

fn response(
    status: u16,
    headers: &[(&'static str, String)],
    body: Vec<u8>,
) -> hyper::Response<Full<Bytes>> {
    let mut builder = hyper::Response::builder().status(status);
    for (name, value) in headers {
        builder = builder.header(*name, value);
    }
    builder.body(Full::new(Bytes::from(body))).unwrap()
}

async fn received(request: hyper::Request<Incoming>) -> Request {
    let uri = Url::parse("http://stub")
        .unwrap()
        .join(&request.uri().to_string());
    let query = uri.unwrap().query_pairs().into_owned().collect();
    let headers = request.headers().iter().map(|(name, value)| {
        let value = value.to_str().unwrap().to_owned();
        (name.as_str().to_owned(), value)
    });
    let headers = headers.collect();
    let (method, path) = (
        request.method().to_string(),
        request.uri().path().to_owned(),
    );
    let body = request.into_body().collect().await.unwrap().to_bytes();
    Request {
        method,
        path,
        query,
        headers,
        body: serde_json::from_slice(&body).unwrap_or(Value::Null),
    }
}

/// A body of `tests/fixtures/rest`.
fn fixture(text: &str) -> Value {
    serde_json::from_str(text).unwrap()
}
