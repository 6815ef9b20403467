//! A real reverse proxy before a real tenantry, run from exactly the files in `examples/forward-auth`, and what
//! stands around it: an application that tells what it was sent, and a wire to tenantry that can be read and cut.

use std::{
    net::SocketAddr,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
};

use hyper::{
    Request, Response, StatusCode,
    body::{Bytes, Frame, Incoming},
    server::conn::http1,
    service::service_fn,
};
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    sync::Notify,
    task::JoinSet,
};

use super::app::{Body, bytes, wait_until};

/// The proxies that the examples are for and that can be run here.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    Nginx,
    Caddy,
}

impl Kind {
    const fn program(self) -> &'static str {
        match self {
            Self::Nginx => "nginx",
            Self::Caddy => "caddy",
        }
    }

    const fn package(self) -> &'static str {
        match self {
            Self::Nginx => "nginx-light",
            Self::Caddy => "caddy",
        }
    }

    /// Where it is installed.
    fn find(self) -> Option<PathBuf> {
        // sbin is not in everybody's path
        let path = std::env::var_os("PATH").unwrap_or_default();
        let sbin = ["/usr/sbin", "/usr/local/sbin"].map(PathBuf::from);
        std::env::split_paths(&path)
            .chain(sbin)
            .map(|directory| directory.join(self.program()))
            .find(|program| program.is_file())
    }

    /// Those that are installed. Where `TENANTRY_TEST_PROXIES` says `required`, all must be.
    pub fn installed() -> Vec<Self> {
        let required = std::env::var_os("TENANTRY_TEST_PROXIES").is_some_and(|it| it == "required");
        let mut installed = Vec::new();
        for kind in [Self::Nginx, Self::Caddy] {
            if kind.find().is_some() {
                installed.push(kind);
                continue;
            }
            let (program, package) = (kind.program(), kind.package());
            let missing = format!(
                "{program} is not installed: apt-get install --no-install-recommends {package}"
            );
            assert!(!required, "{missing}");
            println!("skipped: {missing}");
        }
        installed
    }
}

/// A running proxy; killed when dropped.
pub struct Proxy {
    pub kind: Kind,
    pub address: SocketAddr,
    child: Child,
    directory: TempDir,
}

impl Proxy {
    /// Starts it before this tenantry and this application.
    pub async fn start(kind: Kind, tenantry: SocketAddr, application: SocketAddr) -> Self {
        // another program may take the port before the proxy does
        for _ in 0..5 {
            let mut proxy = Self::spawn(kind, tenantry, application);
            let child = Mutex::new(&mut proxy.child);
            let address = proxy.address;
            wait_until("the proxy listens, or gives up", async || {
                TcpStream::connect(address).await.is_ok()
                    || child.lock().unwrap().try_wait().unwrap().is_some()
            })
            .await;
            if proxy.child.try_wait().unwrap().is_none() {
                return proxy;
            }
            println!("{kind:?} ended: {}", proxy.log());
        }
        panic!("{kind:?} does not start");
    }

    fn spawn(kind: Kind, tenantry: SocketAddr, application: SocketAddr) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let address = free_address();
        let at = directory.path();
        let log = std::fs::File::create(at.join("log")).unwrap();
        let mut command = Command::new(kind.find().unwrap());
        match kind {
            Kind::Nginx => {
                write_nginx(at, (address, tenantry, application));
                command
                    .arg("-p")
                    .arg(at)
                    .arg("-c")
                    .arg(at.join("main.conf"));
            }
            Kind::Caddy => {
                let file = examples().join("Caddyfile");
                command
                    .args(["run", "--adapter", "caddyfile", "--config"])
                    .arg(file);
                command
                    .env("SITE", format!("http://:{}", address.port()))
                    .env("TENANTRY", tenantry.to_string())
                    .env("APPLICATION", application.to_string())
                    .env("ADMIN", "off");
                for name in ["HOME", "XDG_DATA_HOME", "XDG_CONFIG_HOME"] {
                    command.env(name, at);
                }
            }
        }
        let child = command
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .unwrap();
        Self {
            kind,
            address,
            child,
            directory,
        }
    }

    /// What it said.
    pub fn log(&self) -> String {
        std::fs::read_to_string(self.directory.path().join("log")).unwrap_or_default()
    }

    /// Sends the head of a request as it is written, and a body, on a connection of their own.
    pub async fn send(&self, head: &str, body: &[u8]) -> Reply {
        send(self.address, head, body).await
    }

    /// Asks an application without asking a proxy.
    pub async fn past(application: SocketAddr, path: &str) -> Reply {
        send(
            application,
            &format!("GET {path} HTTP/1.1\nHost: app.test"),
            &[],
        )
        .await
    }

    /// Asks for a path of a host; further headers are lines.
    pub async fn get(&self, host: &str, path: &str, headers: &str) -> Reply {
        let head = format!("GET {path} HTTP/1.1\nHost: {host}\n{headers}");
        self.send(&head, &[]).await
    }
}

async fn send(to: SocketAddr, head: &str, body: &[u8]) -> Reply {
    let mut stream = TcpStream::connect(to).await.unwrap();
    let head = format!(
        "{}\r\nConnection: close\r\nContent-Length: {}\r\n\r\n",
        head.trim().replace('\n', "\r\n"),
        body.len()
    );
    stream.write_all(head.as_bytes()).await.unwrap();
    // it may refuse, and close, before it has read all
    let _ = stream.write_all(body).await;
    let mut answer = Vec::new();
    let _ = stream.read_to_end(&mut answer).await;
    Reply::parse(&answer)
}

impl Drop for Proxy {
    fn drop(&mut self) {
        if std::thread::panicking() {
            println!("{:?} said: {}", self.kind, self.log());
        }
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn examples() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("examples/forward-auth")
}

/// An address that nobody listens at.
pub fn free_address() -> SocketAddr {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    listener.local_addr().unwrap()
}

/// The example with other addresses, inside the smallest main file; one process, without rights.
fn write_nginx(at: &Path, (own, tenantry, application): (SocketAddr, SocketAddr, SocketAddr)) {
    let mut example = std::fs::read_to_string(examples().join("nginx.conf")).unwrap();
    for (written, here) in [
        ("server 127.0.0.1:8420;", format!("server {tenantry};")),
        ("server 127.0.0.1:8000;", format!("server {application};")),
        ("listen 8080;", format!("listen {own};")),
    ] {
        assert_eq!(example.matches(written).count(), 1, "{written}");
        example = example.replace(written, &here);
    }
    std::fs::write(at.join("site.conf"), example).unwrap();
    let temporary: Vec<_> = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"]
        .iter()
        .map(|kind| format!("{kind}_temp_path {kind};"))
        .collect();
    let main = format!(
        "daemon off; master_process off; pid pid; error_log stderr notice;\n\
         events {{}}\n\
         http {{ access_log off; {} include site.conf; }}\n",
        temporary.join(" ")
    );
    std::fs::write(at.join("main.conf"), main).unwrap();
}

/// An answer as it arrived.
#[derive(Debug)]
pub struct Reply {
    pub status: u16,
    pub headers: Vec<(String, String)>,
    pub text: String,
}

impl Reply {
    fn parse(bytes: &[u8]) -> Self {
        let text = String::from_utf8_lossy(bytes);
        let (head, body) = text.split_once("\r\n\r\n").unwrap_or((&text, ""));
        let mut lines = head.lines();
        let status = lines
            .next()
            .and_then(|line| line.split(' ').nth(1)?.parse().ok());
        let headers: Vec<_> = lines
            .filter_map(|line| line.split_once(':'))
            .map(|(name, value)| (name.to_lowercase(), value.trim().to_owned()))
            .collect();
        let chunked = ("transfer-encoding".to_owned(), "chunked".to_owned());
        let text = if headers.contains(&chunked) {
            unchunk(body)
        } else {
            body.to_owned()
        };
        Self {
            status: status.unwrap_or(0),
            headers,
            text,
        }
    }

    /// The value of a header that is there once.
    pub fn header(&self, name: &str) -> Option<&str> {
        let mut values = self.headers.iter().filter(|(known, _)| known == name);
        let value = values.next().map(|(_, value)| value.as_str());
        assert!(values.next().is_none(), "{name} is there twice: {self:?}");
        value
    }

    /// The body as JSON.
    pub fn body(&self) -> Value {
        serde_json::from_str(&self.text).unwrap_or_default()
    }

    /// The headers that the application was sent, by name, if it was asked.
    pub fn told(&self) -> Vec<(String, String)> {
        assert_eq!(self.status, 200, "{self:?}");
        serde_json::from_value(self.body()["headers"].clone()).unwrap()
    }
}

fn unchunk(mut rest: &str) -> String {
    let mut whole = String::new();
    while let Some((size, after)) = rest.split_once("\r\n") {
        let size = usize::from_str_radix(size.trim(), 16).unwrap_or(0);
        let Some(chunk) = after.get(..size).filter(|_| size > 0) else {
            break;
        };
        whole.push_str(chunk);
        rest = after[size..].trim_start_matches("\r\n");
    }
    whole
}

/// The application behind the proxy: it tells what it was sent, or does what the path's end says.
pub struct Application {
    pub address: SocketAddr,
    inside: Arc<Inside>,
    _tasks: JoinSet<()>,
}

#[derive(Default)]
struct Inside {
    go_on: Notify,
    sockets: Mutex<JoinSet<()>>,
}

impl Application {
    pub async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let inside = Arc::new(Inside::default());
        let mut tasks = JoinSet::new();
        let shared = Arc::clone(&inside);
        tasks.spawn(async move {
            let mut connections = JoinSet::new();
            while let Ok((stream, _)) = listener.accept().await {
                let inside = Arc::clone(&shared);
                let service = service_fn(move |request| respond(request, Arc::clone(&inside)));
                let connection =
                    http1::Builder::new().serve_connection(TokioIo::new(stream), service);
                connections.spawn(async move {
                    let _ = connection.with_upgrades().await;
                });
            }
        });
        Self {
            address,
            inside,
            _tasks: tasks,
        }
    }

    /// Lets an answer that has begun go on.
    pub fn go_on(&self) {
        self.inside.go_on.notify_one();
    }
}

async fn respond(
    request: Request<Incoming>,
    inside: Arc<Inside>,
) -> Result<Response<Body>, std::convert::Infallible> {
    let path = request.uri().path().to_owned();
    let response = match path.rsplit('/').next().unwrap_or_default() {
        "socket" if request.headers().contains_key("upgrade") => socket(request, &inside),
        "stream" => stream(inside),
        status if status.parse::<u16>().is_ok_and(|it| it >= 400) => {
            let mut response = Response::new(bytes(b"the application's own".to_vec()));
            *response.status_mut() = status.parse::<StatusCode>().unwrap();
            response
        }
        _ => echo(request).await,
    };
    Ok(response)
}

/// Takes whatever upgrade it is offered, and says everything back.
fn socket(request: Request<Incoming>, inside: &Inside) -> Response<Body> {
    let mut response = Response::new(bytes(Vec::new()));
    *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
    let upgrade = request.headers()["upgrade"].clone();
    let headers = response.headers_mut();
    headers.insert("upgrade", upgrade);
    headers.insert("connection", "upgrade".parse().unwrap());
    inside.sockets.lock().unwrap().spawn(async move {
        if let Ok(upgraded) = hyper::upgrade::on(request).await {
            let (mut from, mut to) = tokio::io::split(TokioIo::new(upgraded));
            let _ = tokio::io::copy(&mut from, &mut to).await;
        }
    });
    response
}

/// One piece now, and one when it is let go on.
fn stream(inside: Arc<Inside>) -> Response<Body> {
    use http_body_util::{BodyExt, StreamBody};
    let piece = |text: &'static str| Ok(Frame::data(Bytes::from_static(text.as_bytes())));
    let pieces = futures_util::stream::unfold(0, move |at| {
        let inside = Arc::clone(&inside);
        async move {
            if at == 1 {
                inside.go_on.notified().await;
            }
            ["first", "second"]
                .get(at)
                .map(|text| (piece(text), at + 1))
        }
    });
    Response::new(BodyExt::boxed(StreamBody::new(Box::pin(pieces))))
}

async fn echo(request: Request<Incoming>) -> Response<Body> {
    use http_body_util::BodyExt;
    let (head, body) = request.into_parts();
    let headers: Vec<_> = head
        .headers
        .iter()
        .map(|(name, value)| (name.as_str(), String::from_utf8_lossy(value.as_bytes())))
        .collect();
    let told = json!({
        "method": head.method.as_str(),
        "target": head.uri.to_string(),
        "headers": headers,
        "body_bytes": body.collect().await.map_or(0, |it| it.to_bytes().len()),
    });
    Response::new(bytes(told.to_string().into_bytes()))
}

/// The way from the proxy to tenantry: it can be read, cut and blocked.
pub struct Wire {
    pub address: SocketAddr,
    to: SocketAddr,
    log: Arc<WireLog>,
    tasks: Mutex<JoinSet<()>>,
}

#[derive(Default)]
struct WireLog {
    connections: AtomicUsize,
    sent: Mutex<Vec<u8>>,
}

impl Wire {
    pub async fn to(to: SocketAddr) -> Self {
        let this = Self {
            address: free_address(),
            to,
            log: Arc::default(),
            tasks: Mutex::default(),
        };
        this.mend().await;
        this
    }

    /// Connects it again.
    pub async fn mend(&self) {
        let listener = TcpListener::bind(self.address).await.unwrap();
        let (to, log) = (self.to, Arc::clone(&self.log));
        self.run(async move {
            let mut connections = JoinSet::new();
            while let Ok((stream, _)) = listener.accept().await {
                log.connections.fetch_add(1, Ordering::SeqCst);
                connections.spawn(carry(stream, to, Arc::clone(&log)));
            }
        });
    }

    /// Nobody listens any more.
    pub async fn cut(&self) {
        let mut tasks = std::mem::take(&mut *self.tasks.lock().unwrap());
        tasks.shutdown().await;
    }

    /// Somebody listens, and never answers.
    pub async fn block(&self) {
        self.cut().await;
        let listener = TcpListener::bind(self.address).await.unwrap();
        self.run(async move {
            let mut held = Vec::new();
            while let Ok((stream, _)) = listener.accept().await {
                held.push(stream);
            }
        });
    }

    fn run(&self, task: impl Future<Output = ()> + Send + 'static) {
        self.tasks.lock().unwrap().spawn(task);
    }

    /// What the proxy has sent since this was last asked, in lower case, and over how many new connections.
    pub fn heard(&self) -> (String, usize) {
        let sent = std::mem::take(&mut *self.log.sent.lock().unwrap());
        let connections = self.log.connections.swap(0, Ordering::SeqCst);
        (String::from_utf8_lossy(&sent).to_lowercase(), connections)
    }
}

async fn carry(stream: TcpStream, to: SocketAddr, log: Arc<WireLog>) {
    let Ok(there) = TcpStream::connect(to).await else {
        return;
    };
    let (mut from_proxy, mut to_proxy) = stream.into_split();
    let (mut from_tenantry, mut to_tenantry) = there.into_split();
    let asking = async {
        let mut buffer = vec![0; 16 << 10];
        while let Ok(read @ 1..) = from_proxy.read(&mut buffer).await {
            log.sent.lock().unwrap().extend_from_slice(&buffer[..read]);
            if to_tenantry.write_all(&buffer[..read]).await.is_err() {
                return;
            }
        }
    };
    tokio::select! {
        () = asking => {}
        _ = tokio::io::copy(&mut from_tenantry, &mut to_proxy) => {}
    }
}
