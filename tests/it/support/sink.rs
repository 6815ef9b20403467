//! Somebody who is told: a server on a local port that remembers what came, and misbehaves when told to.

use std::{
    collections::VecDeque,
    convert::Infallible,
    net::SocketAddr,
    sync::{Arc, Mutex, MutexGuard},
    time::{Duration, Instant},
};

use chrono::TimeDelta;
use http_body_util::{BodyExt, Full};
use hyper::{body::Bytes, body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::rt::TokioIo;
use secrecy::SecretString;
use serde_json::Value;
use tenantry::webhooks::{self, Headers, SourceKind, VerifyError};
use tokio::{net::TcpListener, task::JoinSet};

use super::{
    Deployment,
    app::{now, wait_until},
};

/// What an endpoint signs with while its secret is rotated.
pub const SECRETS: [&str; 2] = [
    "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw",
    "whsec_C2FVsBQIhrscChlQIMV+b5sSYspob7oD",
];

/// How a request is answered.
#[derive(Debug, Clone)]
pub enum Answer {
    Status(u16),
    With(u16, Vec<(&'static str, String)>),
    /// Never.
    Hang,
}

/// A request as it arrived.
#[derive(Debug, Clone)]
pub struct Told {
    pub headers: Vec<(String, String)>,
    pub bytes: Vec<u8>,
    pub at: Instant,
    /// Whether it was answered with success.
    pub taken: bool,
}

impl Told {
    pub fn body(&self) -> Value {
        serde_json::from_slice(&self.bytes).unwrap()
    }

    pub fn kind(&self) -> String {
        self.body()["type"].as_str().unwrap().to_owned()
    }

    /// The id of the header, which is that of the body.
    pub fn id(&self) -> String {
        let id = self.header("webhook-id").to_owned();
        assert_eq!(self.body()["id"], id.as_str());
        id
    }

    pub fn tenant(&self) -> String {
        let body = self.body();
        body["data"]["tenant"]["id"].as_str().unwrap().to_owned()
    }

    pub fn header(&self, name: &str) -> &str {
        let found = self.headers.iter().find(|(known, _)| known == name);
        found.map_or("", |(_, value)| value)
    }

    /// What a receiver with this secret makes of it.
    pub fn verify(&self, secret: &str) -> Result<(), VerifyError> {
        let pairs = self.headers.iter();
        let headers: Headers<'_> = pairs
            .map(|(name, value)| (name.as_str(), value.as_bytes()))
            .collect();
        webhooks::verify(
            SourceKind::Standard,
            &headers,
            &self.bytes,
            &[SecretString::from(secret)],
            now(),
            TimeDelta::minutes(5),
        )
    }
}

#[derive(Default)]
struct State {
    told: Vec<Told>,
    connections: usize,
    planned: VecDeque<Answer>,
    otherwise: Option<Answer>,
    /// Of so many requests one fails.
    fails_one_in: Option<u32>,
}

/// A server that is told; it is dead when dropped.
pub struct Sink {
    pub address: SocketAddr,
    state: Arc<Mutex<State>>,
    tasks: Option<JoinSet<()>>,
}

impl Sink {
    pub async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let mut sink = Self {
            address: listener.local_addr().unwrap(),
            state: Arc::default(),
            tasks: None,
        };
        sink.serve(listener);
        sink
    }

    fn serve(&mut self, listener: TcpListener) {
        let (state, mut tasks) = (Arc::clone(&self.state), JoinSet::new());
        tasks.spawn(async move {
            let mut connections = JoinSet::new();
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                state.lock().unwrap().connections += 1;
                let state = Arc::clone(&state);
                connections.spawn(async move {
                    let service = service_fn(|request| answer(request, &state));
                    let _ = http1::Builder::new()
                        .serve_connection(TokioIo::new(stream), service)
                        .await;
                });
            }
        });
        self.tasks = Some(tasks);
    }

    /// It is gone, with every connection; what it was told is remembered.
    pub async fn dies(&mut self) {
        self.tasks.take().unwrap().shutdown().await;
    }

    /// It is back, on the same port.
    pub async fn comes_back(&mut self) {
        let listener = TcpListener::bind(self.address).await.unwrap();
        self.serve(listener);
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap()
    }

    /// The next requests are answered so, one each.
    pub fn answers(&self, answers: impl IntoIterator<Item = Answer>) {
        self.state().planned.extend(answers);
    }

    /// Every request is answered so from now on.
    pub fn always(&self, answer: Answer) {
        self.state().otherwise = Some(answer);
    }

    /// One of so many requests fails, at random.
    pub fn fails_one_in(&self, of: u32) {
        self.state().fails_one_in = Some(of).filter(|of| *of > 0);
    }

    /// Everything that came, in order.
    pub fn told(&self) -> Vec<Told> {
        self.state().told.clone()
    }

    /// What it took, in order, without repetitions.
    pub fn taken(&self) -> Vec<Told> {
        let mut seen = Vec::new();
        let is_new = |told: &Told| {
            let is_new = told.taken && !seen.contains(&told.id());
            seen.push(if is_new { told.id() } else { String::new() });
            is_new
        };
        self.told().into_iter().filter(is_new).collect()
    }

    pub fn kinds(&self) -> Vec<String> {
        self.taken().iter().map(Told::kind).collect()
    }

    pub fn connections(&self) -> usize {
        self.state().connections
    }

    /// Waits until it has taken so many.
    pub async fn has_taken(&self, count: usize) -> Vec<Told> {
        let what = format!("{count} notifications are taken");
        wait_until(&what, async || self.taken().len() >= count).await;
        let taken = self.taken();
        assert_eq!(taken.len(), count, "{:?}", self.kinds());
        taken
    }

    /// Waits until so many requests came.
    pub async fn was_told(&self, times: usize) -> Vec<Told> {
        let what = format!("{times} requests came");
        wait_until(&what, async || self.told().len() >= times).await;
        self.told()
    }

    pub fn url(&self) -> String {
        format!("http://{}/hooks/s3cr3t", self.address)
    }
}

async fn answer(
    request: hyper::Request<Incoming>,
    state: &Mutex<State>,
) -> Result<hyper::Response<Full<Bytes>>, Infallible> {
    let (parts, body) = request.into_parts();
    let Ok(body) = body.collect().await else {
        // the sender died in the middle of it
        return std::future::pending().await;
    };
    let answer = {
        let mut state = state.lock().unwrap();
        let fails = state
            .fails_one_in
            .is_some_and(|of| rand::random_range(0..of) == 0);
        let planned = state.planned.pop_front();
        let answer = planned
            .or_else(|| fails.then_some(Answer::Status(500)))
            .or_else(|| state.otherwise.clone())
            .unwrap_or(Answer::Status(204));
        let headers = parts.headers.iter();
        state.told.push(Told {
            headers: headers
                .map(|(name, value)| (name.to_string(), value.to_str().unwrap().to_owned()))
                .collect(),
            bytes: body.to_bytes().to_vec(),
            at: Instant::now(),
            taken: matches!(answer, Answer::Status(200..300)),
        });
        answer
    };
    let (status, headers) = match answer {
        Answer::Status(status) => (status, Vec::new()),
        Answer::With(status, headers) => (status, headers),
        Answer::Hang => return std::future::pending().await,
    };
    let text = if status < 300 { "" } else { "not\nnow" };
    let mut response = hyper::Response::builder().status(status);
    for (name, value) in headers {
        response = response.header(name, value);
    }
    Ok(response.body(Full::new(Bytes::from(text))).unwrap())
}

impl Deployment {
    /// A deployment that tells this sink, as the endpoint `app`, with these waits between attempts.
    pub async fn that_tells(sink: &Sink, schedule_s: &[u64]) -> Self {
        let mut this = Self::new().await;
        this.tells("APP", &sink.url(), schedule_s);
        this
    }

    /// One more endpoint, on this machine.
    pub fn tells(&mut self, name: &str, url: &str, schedule_s: &[u64]) {
        let mut set = |key: &str, value: &str| {
            self.set(&format!("TENANTRY__NOTIFICATIONS__{name}__{key}"), value);
        };
        set("URL", url);
        set("SECRETS", &SECRETS.join(","));
        set("ALLOW_PRIVATE_ADDRESSES", "true");
        set("TIMEOUT_S", "1");
        set("RETRY_SCHEDULE_S", &format!("{schedule_s:?}"));
    }
}

/// Long enough for a test to see that nothing comes before it: an hour.
pub const AN_HOUR: [u64; 1] = [3600];

/// How long a sink that hangs is borne.
pub const TIMEOUT: Duration = Duration::from_secs(1);
