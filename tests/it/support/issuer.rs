//! An issuer's JWKS on a local port, which answers as told and counts.

use std::{
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use serde_json::{Value, json};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    task::JoinSet,
    time::sleep,
};

/// How a request is answered.
#[derive(Clone)]
pub enum Mode {
    /// With this status, these lines of the head and this body.
    Answer(u16, String, Vec<u8>),
    /// With this body, after so long.
    Late(Duration, Vec<u8>),
    /// A byte at a time, for ever.
    Drip,
    /// Not at all.
    Cut,
}

/// An issuer under test; ends when dropped.
pub struct Issuer {
    url: String,
    mode: Arc<Mutex<Mode>>,
    fetches: Arc<AtomicUsize>,
    _tasks: JoinSet<()>,
}

impl Issuer {
    /// An issuer with these keys.
    pub async fn start(keys: &[Value]) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}/keys", listener.local_addr().unwrap());
        let mode = Arc::new(Mutex::new(Mode::Cut));
        let fetches = Arc::new(AtomicUsize::new(0));
        let mut tasks = JoinSet::new();
        tasks.spawn(serve(listener, Arc::clone(&mode), Arc::clone(&fetches)));
        let issuer = Self {
            url,
            mode,
            fetches,
            _tasks: tasks,
        };
        issuer.has_keys(keys);
        issuer
    }

    /// What `jwks_url` is set to.
    pub fn url(&self) -> &str {
        &self.url
    }

    /// From now on it has these keys and no others.
    pub fn has_keys(&self, keys: &[Value]) {
        self.answers(Mode::Answer(200, String::new(), jwks(keys)));
    }

    /// From now on it answers so.
    pub fn answers(&self, mode: Mode) {
        *self.mode.lock().unwrap() = mode;
    }

    /// How often somebody has asked.
    pub fn fetches(&self) -> usize {
        self.fetches.load(Ordering::SeqCst)
    }
}

/// The body of a JWKS.
pub fn jwks(keys: &[Value]) -> Vec<u8> {
    json!({ "keys": keys }).to_string().into_bytes()
}

async fn serve(listener: TcpListener, mode: Arc<Mutex<Mode>>, fetches: Arc<AtomicUsize>) {
    let mut connections = JoinSet::new();
    loop {
        let (stream, _) = listener.accept().await.unwrap();
        let mode = mode.lock().unwrap().clone();
        let fetches = Arc::clone(&fetches);
        connections.spawn(async move {
            // ends with an error where the client has had enough
            answer(stream, mode, &fetches).await.ok();
        });
    }
}

async fn answer(mut stream: TcpStream, mode: Mode, fetches: &AtomicUsize) -> std::io::Result<()> {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(stream.read_u8().await?);
    }
    fetches.fetch_add(1, Ordering::SeqCst);
    let (status, lines, body) = match mode {
        Mode::Answer(status, lines, body) => (status, lines, body),
        Mode::Late(how_long, body) => {
            sleep(how_long).await;
            (200, String::new(), body)
        }
        Mode::Drip => {
            let head = b"HTTP/1.1 200 OK\r\ncontent-length: 1000\r\n\r\n{";
            stream.write_all(head).await?;
            loop {
                sleep(Duration::from_millis(20)).await;
                stream.write_all(b" ").await?;
            }
        }
        Mode::Cut => return Ok(()),
    };
    let head = format!(
        "HTTP/1.1 {status} .\r\ncontent-length: {}\r\nconnection: close\r\n{lines}\r\n",
        body.len()
    );
    stream.write_all(head.as_bytes()).await?;
    stream.write_all(&body).await?;
    stream.shutdown().await
}
