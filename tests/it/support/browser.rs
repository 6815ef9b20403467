//! A real browser: headless Chromium, driven through `ChromeDriver` (W3C `WebDriver`), and a page that stands at an
//! origin of its own with a strict Content-Security-Policy.

use std::{
    io::{BufRead, BufReader},
    net::SocketAddr,
    os::unix::process::CommandExt,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
};

use base64::{Engine, engine::general_purpose::STANDARD};
use hyper::{Request, Response, body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::rt::TokioIo;
use rustix::process::{Pid, Signal, kill_process_group};
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::{net::TcpListener, task::JoinSet};

use super::app::{Body, bytes, exchange, wait_for};

/// Keys as `WebDriver` writes them.
pub const TAB: &str = "\u{e004}";
pub const ENTER: &str = "\u{e007}";

/// A browser with one window; ended when dropped.
pub struct Browser {
    driver: Child,
    address: SocketAddr,
    session: String,
    _profile: TempDir,
}

/// Starts chromedriver; it and its port.
///
/// It takes any free port of IPv4 and then the same one of IPv6, and ends where that is in use: another one is
/// asked for then.
async fn start_driver(program: &Path) -> (Child, u16) {
    for _ in 0..5 {
        let mut driver = Command::new(program)
            .arg("--port=0")
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            // with the browser, which is ended with it
            .process_group(0)
            .spawn()
            .unwrap();
        let mut said = BufReader::new(driver.stdout.take().unwrap()).lines();
        let port = tokio::task::spawn_blocking(move || {
            let port = said.by_ref().map_while(Result::ok).find_map(|line| {
                let (_, port) = line.split_once("started successfully on port ")?;
                port.trim_end_matches('.').parse::<u16>().ok()
            });
            // whatever else it says must not block it
            std::thread::spawn(move || said.for_each(drop));
            port
        });
        if let Some(port) = port.await.unwrap() {
            return (driver, port);
        }
        driver.wait().unwrap();
    }
    panic!("chromedriver found no port five times");
}

impl Browser {
    /// Starts one; none where it is not installed, unless `TENANTRY_TEST_BROWSER` says `required`.
    pub async fn start() -> Option<Self> {
        let required = std::env::var_os("TENANTRY_TEST_BROWSER").is_some_and(|it| it == "required");
        let (Some(driver), Some(chromium)) = (find("chromedriver"), find("chromium")) else {
            let missing = "Chromium is not installed: apt-get install --no-install-recommends chromium chromium-driver";
            assert!(!required, "{missing}");
            println!("skipped: {missing}");
            return None;
        };
        let (driver, port) = start_driver(&driver).await;
        let profile = tempfile::tempdir().unwrap();
        let in_profile = format!("--user-data-dir={}", profile.path().display());
        let mut this = Self {
            driver,
            address: SocketAddr::from(([127, 0, 0, 1], port)),
            session: String::new(),
            _profile: profile,
        };
        let arguments = [
            "--headless",
            // of root and of containers
            "--no-sandbox",
            "--disable-dev-shm-usage",
            "--disable-gpu",
            "--disable-quic",
            "--no-first-run",
            "--disable-background-networking",
            "--disable-component-update",
            "--disable-sync",
            "--window-size=1000,900",
            &in_profile,
        ];
        let wanted = json!({"capabilities": {"alwaysMatch": {
            "browserName": "chrome",
            "goog:chromeOptions": {"binary": chromium, "args": arguments},
            "goog:loggingPrefs": {"browser": "ALL"},
        }}});
        let session = this.send("POST", "/session", &wanted).await;
        let id = session["sessionId"].as_str().unwrap();
        this.session = format!("/session/{id}");
        Some(this)
    }

    /// Opens a page.
    pub async fn open(&self, url: &str) {
        self.post("/url", &json!({"url": url})).await;
    }

    /// Loads the page again, as somebody who is impatient does.
    pub async fn reload(&self) {
        self.post("/refresh", &json!({})).await;
    }

    /// Types into what has the focus.
    pub async fn type_keys(&self, keys: &str) {
        let active = self.get("/element/active").await;
        let keyboard = format!("/element/{}/value", element(&active));
        self.post(&keyboard, &json!({"text": keys})).await;
    }

    /// Empties a field and writes into it.
    pub async fn fill_in(&self, field: &str, text: &str) {
        let found = self.find(field).await;
        self.post(&format!("/element/{found}/clear"), &json!({}))
            .await;
        let keyboard = format!("/element/{found}/value");
        self.post(&keyboard, &json!({"text": text})).await;
    }

    /// Clicks on what the selector finds first.
    pub async fn click(&self, selector: &str) {
        let found = self.find(selector).await;
        self.post(&format!("/element/{found}/click"), &json!({}))
            .await;
    }

    /// Clicks twice as fast as a mouse does.
    pub async fn double_click(&self, selector: &str) {
        let origin = json!({"element-6066-11e4-a52e-4f735466cecf": self.find(selector).await});
        let (down, up) = (
            json!({"type": "pointerDown", "button": 0}),
            json!({"type": "pointerUp", "button": 0}),
        );
        let there = json!({"type": "pointerMove", "origin": origin, "x": 0, "y": 0});
        let mouse =
            json!({"type": "pointer", "id": "mouse", "actions": [there, down, up, down, up]});
        self.post("/actions", &json!({"actions": [mouse]})).await;
    }

    async fn find(&self, selector: &str) -> String {
        let wanted = json!({"using": "css selector", "value": selector});
        element(&self.post("/element", &wanted).await)
    }

    /// What a script returns.
    pub async fn run(&self, script: &str) -> Value {
        let script = json!({"script": script, "args": []});
        self.post("/execute/sync", &script).await
    }

    /// What can be read on the page.
    pub async fn text(&self) -> String {
        let text = self.run("return document.body.innerText").await;
        text.as_str().unwrap_or_default().to_owned()
    }

    /// Waits until this can be read on the page.
    pub async fn shows(&self, what: &str) {
        let waits = format!("the page shows {what:?}");
        wait_for(&waits, async || {
            self.text().await.contains(what).then_some(())
        })
        .await;
    }

    /// A command of the `DevTools` protocol.
    pub async fn command(&self, name: &str, parameters: &Value) -> Value {
        let command = json!({"cmd": name, "params": parameters});
        self.post("/goog/cdp/execute", &command).await
    }

    /// What the console got since it was last asked, such as violations of the policy: where from, and what.
    pub async fn console(&self) -> Vec<(String, String)> {
        let log = self.post("/se/log", &json!({"type": "browser"})).await;
        let text = |entry: &Value, name: &str| entry[name].as_str().unwrap_or_default().to_owned();
        let entries = log.as_array().unwrap().iter();
        entries
            .map(|entry| (text(entry, "source"), text(entry, "message")))
            .collect()
    }

    /// Keeps a picture of the page where `TENANTRY_TEST_SCREENSHOTS` names a directory; wide, narrow and dark.
    pub async fn picture(&self, name: &str) {
        let Some(directory) = std::env::var_os("TENANTRY_TEST_SCREENSHOTS") else {
            return;
        };
        for (kind, width, height, scheme) in [
            ("wide", 900, 800, "light"),
            ("narrow", 375, 812, "light"),
            ("dark", 375, 812, "dark"),
        ] {
            let size =
                json!({"width": width, "height": height, "deviceScaleFactor": 1, "mobile": false});
            self.command("Emulation.setDeviceMetricsOverride", &size)
                .await;
            let scheme = json!({"features": [{"name": "prefers-color-scheme", "value": scheme}]});
            self.command("Emulation.setEmulatedMedia", &scheme).await;
            let picture = self.get("/screenshot").await;
            let picture = STANDARD.decode(picture.as_str().unwrap()).unwrap();
            let file = Path::new(&directory).join(format!("{name}-{kind}.png"));
            std::fs::write(file, picture).unwrap();
        }
        let none = json!({});
        self.command("Emulation.clearDeviceMetricsOverride", &none)
            .await;
        self.command("Emulation.setEmulatedMedia", &json!({"features": []}))
            .await;
    }

    /// Ends it; what it complained of is a failure.
    pub async fn close(self) {
        let complaints = self.console().await;
        assert!(complaints.is_empty(), "{complaints:?}");
        self.send("DELETE", &self.session, &Value::Null).await;
    }

    async fn get(&self, path: &str) -> Value {
        let path = format!("{}{path}", self.session);
        self.send("GET", &path, &Value::Null).await
    }

    async fn post(&self, path: &str, body: &Value) -> Value {
        let path = format!("{}{path}", self.session);
        self.send("POST", &path, body).await
    }

    async fn send(&self, method: &str, path: &str, body: &Value) -> Value {
        let sent = if body.is_null() {
            Vec::new()
        } else {
            serde_json::to_vec(body).unwrap()
        };
        let answer = exchange(self.address, method, path, &[], bytes(sent)).await;
        let answer = answer.unwrap();
        assert_eq!(
            answer.status, 200,
            "{method} {path} {body}: {}",
            answer.text
        );
        answer.body["value"].clone()
    }
}

impl Drop for Browser {
    fn drop(&mut self) {
        let _ = kill_process_group(Pid::from_child(&self.driver), Signal::KILL);
        let _ = self.driver.wait();
    }
}

/// Where a program is.
fn find(program: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path)
        .map(|directory| directory.join(program))
        .find(|found| found.is_file())
}

/// The id of an element in an answer.
fn element(answer: &Value) -> String {
    let id = answer["element-6066-11e4-a52e-4f735466cecf"].as_str();
    id.unwrap().to_owned()
}

/// The files of a directory at an origin of their own, under a policy that allows what they need and no more.
pub struct Site {
    pub origin: String,
    listener: Option<TcpListener>,
    tasks: JoinSet<()>,
}

impl Site {
    /// An origin, at which nothing stands yet.
    pub async fn new() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        Self {
            origin: format!("http://{}", listener.local_addr().unwrap()),
            listener: Some(listener),
            tasks: JoinSet::new(),
        }
    }

    /// Serves the files, with replacements in them, to pages that may connect to this address.
    pub fn serve(&mut self, directory: &str, replaced: &[(&str, &str)], api: &str) {
        let policy = format!(
            "default-src 'none'; script-src 'self'; style-src 'self'; img-src data:; connect-src {api}; \
             base-uri 'none'; form-action 'none'; frame-ancestors 'none'; require-trusted-types-for 'script'"
        );
        let mut files = Vec::new();
        for entry in std::fs::read_dir(directory).unwrap() {
            let path = entry.unwrap().path();
            let mut text = std::fs::read_to_string(&path).unwrap();
            if path.extension().is_some_and(|it| it == "html") {
                for (written, here) in replaced {
                    assert_eq!(text.matches(written).count(), 1, "{written}");
                    text = text.replace(written, here);
                }
            }
            let name = path.file_name().unwrap().to_str().unwrap();
            files.push((format!("/{name}"), text));
        }
        let listener = self.listener.take().unwrap();
        self.tasks.spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let service = service_fn(|request| {
                    let response = respond(&request, &files, &policy);
                    async { Ok::<_, std::convert::Infallible>(response) }
                });
                let connection = http1::Builder::new()
                    .keep_alive(false)
                    .serve_connection(TokioIo::new(stream), service);
                let _ = connection.await;
            }
        });
    }
}

fn respond(
    request: &Request<Incoming>,
    files: &[(String, String)],
    policy: &str,
) -> Response<Body> {
    let asked = match request.uri().path() {
        "/" => "/index.html",
        path => path,
    };
    let found = files.iter().find(|(name, _)| name == asked);
    let kind = match asked.rsplit('.').next() {
        Some("html") => "text/html; charset=utf-8",
        Some("js") => "text/javascript; charset=utf-8",
        Some("css") => "text/css; charset=utf-8",
        _ => "text/plain; charset=utf-8",
    };
    let text = found.map(|(_, text)| text.clone()).unwrap_or_default();
    Response::builder()
        .status(if found.is_some() { 200 } else { 404 })
        .header("content-type", kind)
        .header("content-security-policy", policy)
        .body(bytes(text.into_bytes()))
        .unwrap()
}
