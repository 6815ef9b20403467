//! What the edge lets a client do: how slowly, how much, how often, from where, and what it is told.

use std::{net::SocketAddr, time::Duration};

use tenantry::{api_keys::Scope, provisioning::BlueprintSource};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpSocket, TcpStream},
};

use crate::support::{
    App, Deployment,
    app::{get, new_org, wait_for, wait_until},
    events,
    process::Process,
};

/// Longer than anything here takes.
const PATIENCE: Duration = Duration::from_secs(30);

/// A replica with these settings, that answers and does nothing else.
async fn edge(settings: &[(&str, &str)]) -> App {
    let mut deployment = Deployment::new().await;
    for (name, value) in settings {
        deployment.set(&format!("TENANTRY__{name}"), value);
    }
    App::listening(deployment, BlueprintSource::Bundled).await
}

/// A connection from one of the machine's own addresses, 127.0.0.`last`.
async fn connect_from(last: u8, address: SocketAddr) -> TcpStream {
    let socket = TcpSocket::new_v4().unwrap();
    socket.bind(([127, 0, 0, last], 0).into()).unwrap();
    socket.connect(address).await.unwrap()
}

/// What is answered to these bytes, until the connection ends.
async fn send(mut connection: TcpStream, bytes: &str) -> String {
    // it may be answered before the end
    let _ = connection.write_all(bytes.as_bytes()).await;
    rest(&mut connection).await
}

/// What still comes until the connection ends.
async fn rest(connection: &mut TcpStream) -> String {
    let mut answer = Vec::new();
    let read = connection.read_to_end(&mut answer);
    // a connection that is reset ends too
    let _ = tokio::time::timeout(PATIENCE, read)
        .await
        .expect("the connection ends");
    String::from_utf8(answer).unwrap()
}

fn request(method: &str, path: &str, headers: &str) -> String {
    format!("{method} {path} HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n{headers}\r\n")
}

/// One request from 127.0.0.1.
async fn ask(app: &App, method: &str, path: &str, headers: &str) -> String {
    ask_from(1, app, path, (method, headers)).await
}

async fn ask_from(last: u8, app: &App, path: &str, (method, headers): (&str, &str)) -> String {
    let connection = connect_from(last, app.address).await;
    send(connection, &request(method, path, headers)).await
}

fn status(answer: &str) -> u16 {
    answer.split(' ').nth(1).unwrap().parse().unwrap()
}

fn header<'a>(answer: &'a str, name: &str) -> Option<&'a str> {
    let (head, _) = answer.split_once("\r\n\r\n")?;
    let mut lines = head.lines().filter_map(|line| line.split_once(": "));
    lines
        .find(|(known, _)| *known == name)
        .map(|(_, value)| value)
}

/// Reads one answer off a connection that stays open.
async fn one_answer(connection: &mut TcpStream) -> String {
    let mut answer = Vec::new();
    while !answer.ends_with(b"live\n") {
        let byte = tokio::time::timeout(PATIENCE, connection.read_u8()).await;
        answer.push(
            byte.expect("an answer comes")
                .expect("the connection is open"),
        );
    }
    String::from_utf8(answer).unwrap()
}

const LIVEZ: &str = "GET /livez HTTP/1.1\r\nhost: localhost\r\n\r\n";

#[tokio::test(flavor = "multi_thread")]
async fn a_head_has_so_long_but_a_pause_and_a_body_have_longer() {
    let app = edge(&[("SERVER__HEAD_TIMEOUT_S", "1")]).await;
    let beyond = Duration::from_millis(1500);

    // between requests, and with the head in two pieces
    let mut patient = TcpStream::connect(app.address).await.unwrap();
    for _ in 0..2 {
        let (first, second) = LIVEZ.split_at(20);
        patient.write_all(first.as_bytes()).await.unwrap();
        tokio::time::sleep(Duration::from_millis(100)).await;
        patient.write_all(second.as_bytes()).await.unwrap();
        assert_eq!(status(&one_answer(&mut patient).await), 200);
        tokio::time::sleep(beyond).await;
    }
    // pipelined, the last one in two pieces
    patient
        .write_all(format!("{LIVEZ}{LIVEZ}{}", &LIVEZ[..20]).as_bytes())
        .await
        .unwrap();
    one_answer(&mut patient).await;
    one_answer(&mut patient).await;
    patient.write_all(&LIVEZ.as_bytes()[20..]).await.unwrap();
    one_answer(&mut patient).await;

    // a body in pieces
    let mut slow = TcpStream::connect(app.address).await.unwrap();
    let head = request("POST", "/webhooks/workos", "content-length: 4\r\n");
    slow.write_all(head.as_bytes()).await.unwrap();
    for byte in [b"{", b" ", b" ", b"}"] {
        tokio::time::sleep(Duration::from_millis(500)).await;
        slow.write_all(byte).await.unwrap();
    }
    assert_eq!(status(&rest(&mut slow).await), 400, "no signature");

    // a head that never ends, though a byte comes now and then, also as the second of a connection
    for before in ["", LIVEZ] {
        let mut dribbling = TcpStream::connect(app.address).await.unwrap();
        dribbling.write_all(before.as_bytes()).await.unwrap();
        if !before.is_empty() {
            one_answer(&mut dribbling).await;
        }
        dribbling
            .write_all(b"GET /livez HTTP/1.1\r\nx-slow: ")
            .await
            .unwrap();
        let (mut from, mut to) = dribbling.into_split();
        let dribble = async {
            loop {
                tokio::time::sleep(Duration::from_millis(50)).await;
                if to.write_all(b"a").await.is_err() {
                    std::future::pending::<()>().await;
                }
            }
        };
        let mut answer = Vec::new();
        tokio::select! {
            _ = from.read_to_end(&mut answer) => assert!(answer.is_empty()),
            () = dribble => {}
            () = tokio::time::sleep(PATIENCE) => panic!("the connection is still open"),
        }
    }
    app.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_head_that_is_too_large_is_refused() {
    let app = edge(&[]).await;
    let large = |size| format!("x-large: {}\r\n", "a".repeat(size));
    assert_eq!(
        status(&ask(&app, "GET", "/livez", &large(30 << 10)).await),
        200
    );
    assert_eq!(
        status(&ask(&app, "GET", "/livez", &large(33 << 10)).await),
        431
    );
    let many = "x-many: a\r\n".repeat(101);
    assert_eq!(status(&ask(&app, "GET", "/livez", &many).await), 431);
    let long = format!("/livez?{}", "a".repeat(33 << 10));
    assert_eq!(status(&ask(&app, "GET", &long, "").await), 431);
    app.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn thousands_who_dribble_hold_up_nobody_else() {
    let app = edge(&[("SERVER__CONNECTIONS_PER_ADDRESS", "256")]).await;
    let mut dribbling = Vec::new();
    for number in 0..2_000_u16 {
        let last = u8::try_from(2 + number % 4).unwrap();
        let mut connection = connect_from(last, app.address).await;
        // one that was closed at once may say so here
        let _ = connection.write_all(b"GET / HTTP/1.1\r\nx-slow: ").await;
        dribbling.push(connection);
    }
    for _ in 0..100 {
        let asked = ask(&app, "GET", "/livez", "");
        let answer = tokio::time::timeout(PATIENCE, asked).await;
        assert_eq!(status(&answer.expect("others are answered")), 200);
    }
    let mut closed = 0;
    for connection in &mut dribbling {
        let read = tokio::time::timeout(Duration::from_millis(1), connection.read_u8()).await;
        closed += u16::from(read.is_ok());
    }
    assert!(closed >= 2_000 - 4 * 256, "only {closed} were closed");
    drop(dribbling);
    // whoever was at the limit comes in again
    wait_for("the address is let in again", async || {
        let mut connection = connect_from(2, app.address).await;
        connection.write_all(LIVEZ.as_bytes()).await.ok()?;
        connection.read_u8().await.ok()
    })
    .await;
    app.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn proxies_have_as_many_connections_as_they_like() {
    let app = edge(&[
        ("SERVER__CONNECTIONS_PER_ADDRESS", "2"),
        ("ACCESS__TRUSTED_PROXIES", "127.0.0.9/32"),
    ])
    .await;
    let mut open = Vec::new();
    for _ in 0..5 {
        let mut connection = connect_from(9, app.address).await;
        connection.write_all(LIVEZ.as_bytes()).await.unwrap();
        one_answer(&mut connection).await;
        open.push(connection);
    }
    for expected in [true, true, false] {
        let mut connection = connect_from(1, app.address).await;
        let _ = connection.write_all(LIVEZ.as_bytes()).await;
        assert_eq!(connection.read_u8().await.is_ok(), expected);
        open.push(connection);
    }
    app.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_unknown_caller_may_ask_so_often() {
    let app = edge(&[("LIMITS__PER_ADDRESS_PER_MINUTE", "20")]).await;
    let credentials = [
        ("/openapi.json", "", 200),
        ("/docs/", "", 200),
        ("/v1/tenants/resolve", "", 401),
        (
            "/v1/tenants/resolve",
            "authorization: Bearer nonsense\r\n",
            401,
        ),
        ("/v1/tenants/resolve", "authorization: Basic eDp5\r\n", 401),
    ];
    for (last, (path, headers, expected)) in (1..).zip(credentials) {
        for left in ["r=1;t=3", "r=0;t=6"] {
            let answer = ask_from(last, &app, path, ("GET", headers)).await;
            assert_eq!(status(&answer), expected, "{path} {answer}");
            assert_eq!(
                header(&answer, "ratelimit-policy"),
                Some("\"address\";q=20;w=60")
            );
            let told = header(&answer, "ratelimit").unwrap();
            // what has come back meanwhile is not counted here
            assert!(told == format!("\"address\";{left}") || told.starts_with("\"address\";r="));
        }
        let answer = ask_from(last, &app, path, ("GET", headers)).await;
        assert_eq!(status(&answer), 429, "{path} {answer}");
        assert!(answer.contains("\"code\":\"rate_limited\"") && answer.contains("request_id"));
        let wait: u32 = header(&answer, "retry-after").unwrap().parse().unwrap();
        assert!((1..=3).contains(&wait), "{wait}");
        let told = format!("\"address\";r=0;t={wait}");
        assert_eq!(header(&answer, "ratelimit"), Some(&*told));
    }
    let answer = ask_from(200, &app, "/openapi.json", ("GET", "")).await;
    assert_eq!(status(&answer), 200, "another address");
    app.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_known_caller_may_ask_so_often_whoever_else_is_at_the_address() {
    let app = edge(&[
        ("LIMITS__PER_ADDRESS_PER_MINUTE", "1"),
        ("LIMITS__PER_PRINCIPAL_PER_MINUTE", "20"),
    ])
    .await;
    app.replica.migrate().await.unwrap();
    let reader = app.key(&[Scope::TenantsRead]).await;
    let other = app.key(&[Scope::AuditRead]).await;
    let ask = async |credentials: &str| {
        let headers = format!("authorization: Bearer {credentials}\r\n");
        ask(&app, "GET", "/v1/tenants/resolve?host=a.example", &headers).await
    };
    assert_eq!(status(&ask("nonsense").await), 401);
    assert_eq!(
        status(&ask("nonsense").await),
        429,
        "guesses of the address"
    );
    // a key that may not do it has been recognised all the same
    for (key, expected) in [(&reader, 404), (&other, 403)] {
        for _ in 0..2 {
            let answer = ask(key).await;
            assert_eq!(status(&answer), expected, "{answer}");
            let policy = header(&answer, "ratelimit-policy");
            assert_eq!(policy, Some("\"principal\";q=20;w=60"));
            assert!(
                header(&answer, "ratelimit")
                    .unwrap()
                    .starts_with("\"principal\";r=")
            );
        }
        let answer = ask(key).await;
        assert_eq!(status(&answer), 429, "{answer}");
        assert!(header(&answer, "retry-after").is_some());
    }
    app.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_body_of_the_api_is_bounded_in_size_time_and_depth() {
    let app = App::without_template(Deployment::new().await, BlueprintSource::Bundled).await;
    let (org, key) = (
        new_org(),
        app.key(&[Scope::MembersRead, Scope::MembersWrite]).await,
    );
    app.accepts(&[&events::created(&org, "Acme")]).await;
    let path = format!("/v1/organizations/{org}/invitations");
    wait_until("the organization is known", async || {
        app.as_bearer(&key).get(&path).await.status == 200
    })
    .await;
    let post = async |content_type: &str, length: usize, body: &str| {
        let headers = format!(
            "authorization: Bearer {key}\r\ncontent-type: {content_type}\r\ncontent-length: {length}\r\n"
        );
        let connection = TcpStream::connect(app.address).await.unwrap();
        let answer = send(
            connection,
            &format!("{}{body}", request("POST", &path, &headers)),
        )
        .await;
        let (_, problem) = answer.split_once("\r\n\r\n").unwrap();
        let problem: serde_json::Value = serde_json::from_str(problem).unwrap();
        let text = |field: &str| problem[field].as_str().unwrap().to_owned();
        (status(&answer), text("code"), text("detail"))
    };
    let json = "application/json; charset=utf-8";
    let deep = format!("{}{}", "[".repeat(65), "]".repeat(65));
    let large = " ".repeat((256 << 10) + 1);
    let refused = [
        (json, 2, "{}", (400, "parameter_invalid", "email")),
        (
            json,
            deep.len(),
            &*deep,
            (400, "parameter_invalid", "nested"),
        ),
        ("text/plain", 2, "{}", (415, "media_type_unsupported", "")),
        (json, large.len(), &*large, (413, "body_too_large", "")),
        // the rest never comes
        (json, 100, "{", (400, "body_incomplete", "in time")),
    ];
    for (content_type, length, body, (expected, code, why)) in refused {
        let answer = post(content_type, length, body).await;
        assert_eq!((answer.0, &*answer.1), (expected, code), "{answer:?}");
        assert!(answer.2.contains(why), "{answer:?}");
    }
    app.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn senders_proxies_and_operations_are_never_limited() {
    let app = edge(&[
        ("LIMITS__PER_ADDRESS_PER_MINUTE", "1"),
        ("LIMITS__PER_PRINCIPAL_PER_MINUTE", "1"),
    ])
    .await;
    let asked = [
        ("POST", "/webhooks/workos"),
        ("GET", "/v1/auth/verify"),
        ("GET", "/livez"),
        ("GET", "/readyz"),
        ("GET", "/metrics"),
    ];
    for (method, path) in asked {
        for _ in 0..5 {
            let answer = ask(&app, method, path, "").await;
            assert_ne!(status(&answer), 429, "{path}");
            assert_eq!(header(&answer, "ratelimit"), None, "{path}");
        }
    }
    app.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn behind_a_trusted_proxy_the_client_counts() {
    let app = edge(&[
        ("LIMITS__PER_ADDRESS_PER_MINUTE", "1"),
        ("ACCESS__TRUSTED_PROXIES", "127.0.0.9/32"),
    ])
    .await;
    let ask = async |last, client: &str| {
        let headers = format!("x-forwarded-for: {client}\r\n");
        status(&ask_from(last, &app, "/openapi.json", ("GET", &headers)).await)
    };
    assert_eq!(ask(9, "192.0.2.1").await, 200);
    assert_eq!(ask(9, "192.0.2.1").await, 429);
    assert_eq!(ask(9, "192.0.2.2").await, 200);
    assert_eq!(
        ask(9, "192.0.2.3, 192.0.2.2").await,
        429,
        "what it wrote itself"
    );
    // from anybody else the header means nothing
    assert_eq!(ask(1, "192.0.2.4").await, 200);
    assert_eq!(ask(1, "192.0.2.5").await, 429);
    app.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn browsers_of_configured_origins_alone_may_call_the_api() {
    let app = edge(&[("SERVER__CORS_ORIGINS", "https://app.example.com")]).await;
    let preflight = "origin: https://app.example.com\r\naccess-control-request-method: POST\r\n";
    let answer = ask(&app, "OPTIONS", "/v1/tenants/resolve", preflight).await;
    assert_eq!(status(&answer), 200);
    let allowed = header(&answer, "access-control-allow-origin");
    assert_eq!(allowed, Some("https://app.example.com"));
    let takes = header(&answer, "access-control-allow-headers");
    assert_eq!(takes, Some("authorization,content-type,idempotency-key"));
    assert_eq!(header(&answer, "access-control-allow-credentials"), None);

    let ours = "origin: https://app.example.com\r\n";
    let answer = ask(&app, "GET", "/v1/tenants/resolve", ours).await;
    assert_eq!(status(&answer), 401);
    assert_eq!(header(&answer, "access-control-allow-origin"), allowed);
    let shown = header(&answer, "access-control-expose-headers");
    let all = "x-request-id,ratelimit,ratelimit-policy,retry-after,location";
    assert_eq!(shown, Some(all));

    for origin in [
        "https://evil.example.com",
        "https://app.example.com.evil.com",
        "null",
    ] {
        let theirs = format!("origin: {origin}\r\n");
        let answer = ask(&app, "GET", "/v1/tenants/resolve", &theirs).await;
        assert_eq!(
            header(&answer, "access-control-allow-origin"),
            None,
            "{origin}"
        );
    }
    let answer = ask(&app, "GET", "/livez", ours).await;
    assert_eq!(header(&answer, "access-control-allow-origin"), None);
    let answer = ask(&app, "OPTIONS", "/livez", preflight).await;
    assert_eq!(status(&answer), 405);
    app.stop().await;
}

#[test]
fn an_origin_that_no_browser_sends_is_refused() {
    let load = |origin: &str| {
        let variables = [("TENANTRY__SERVER__CORS_ORIGINS", origin)];
        let pairs = variables
            .iter()
            .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
        tenantry::config::Config::load(None, &pairs.collect())
    };
    for good in ["https://app.example.com", "http://localhost:3000"] {
        assert!(load(good).is_ok(), "{good}");
    }
    for bad in [
        "*",
        "null",
        "https://*.example.com",
        "https://app.example.com/",
        "https://app.example.com/path",
        "https://APP.example.com",
        "https://app.example.com:443",
        "https://user@app.example.com",
        "app.example.com",
        "file:///etc",
    ] {
        assert!(load(bad).is_err(), "{bad}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn every_answer_tells_a_browser_to_be_careful() {
    let app = edge(&[]).await;
    for path in [
        "/livez",
        "/nothing",
        "/v1/tenants/resolve",
        "/v1/nothing",
        "/docs/",
    ] {
        let answer = ask(&app, "GET", path, "").await;
        assert_eq!(
            header(&answer, "x-content-type-options"),
            Some("nosniff"),
            "{path}"
        );
        assert_eq!(
            header(&answer, "referrer-policy"),
            Some("no-referrer"),
            "{path}"
        );
        assert_eq!(
            header(&answer, "cross-origin-resource-policy"),
            Some("same-origin")
        );
        let policy = header(&answer, "content-security-policy").unwrap();
        assert!(policy.contains("frame-ancestors 'none'"), "{path}");
        // a page of its own has a policy of its own
        assert_eq!(policy.contains("script-src 'self'"), path == "/docs/");
        let kept = header(&answer, "cache-control");
        assert_eq!(
            kept,
            path.starts_with("/v1/").then_some("no-store"),
            "{path}"
        );
        assert_eq!(header(&answer, "access-control-allow-origin"), None);
    }
    app.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_method_that_a_route_does_not_take_is_told_which_it_does() {
    let app = edge(&[]).await;
    let answer = ask(&app, "HEAD", "/livez", "").await;
    assert_eq!(status(&answer), 200);
    assert!(answer.ends_with("\r\n\r\n"), "a body: {answer}");
    assert_eq!(header(&answer, "content-length"), Some("5"));
    for (method, path, allow) in [
        ("OPTIONS", "/v1/tenants/resolve", "GET,HEAD"),
        ("DELETE", "/livez", "GET,HEAD"),
        ("BREW", "/livez", "GET,HEAD"),
        ("GET", "/webhooks/workos", "POST"),
    ] {
        let answer = ask(&app, method, path, "").await;
        assert_eq!(status(&answer), 405, "{method} {path}");
        assert_eq!(header(&answer, "allow"), Some(allow), "{method} {path}");
        assert!(answer.contains("method_not_allowed"));
    }
    app.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_panic_is_answered_and_logged_once_with_its_request() {
    let deployment = Deployment::new().await;
    let replica = Process::start(&deployment, "http.handler=panic").await;
    let answer = get(replica.address, "/livez").await;
    assert_eq!(status(&answer), 500);
    let (_, body) = answer.split_once("\r\n\r\n").unwrap();
    let problem: serde_json::Value = serde_json::from_str(body).unwrap();
    assert_eq!(problem["code"], "internal_error");
    let id = header(&answer, "x-request-id").unwrap();
    assert_eq!(problem["request_id"], id);
    assert_eq!(status(&get(replica.address, "/livez").await), 200);

    let panics = wait_for("the panic is logged", async || {
        let mut log = replica.warnings();
        log.retain(|entry| entry["panic.message"].is_string());
        (!log.is_empty()).then_some(log)
    })
    .await;
    assert_eq!(panics.len(), 1, "{panics:?}");
    assert_eq!(panics[0]["request.id"], id);
    assert_eq!(panics[0]["panic.message"], "injected fault at http.handler");
    drop(replica);
    deployment.discard().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn who_connects_and_says_nothing_is_not_waited_for() {
    let app = edge(&[("SERVER__HEAD_TIMEOUT_S", "1")]).await;
    let mut silent = connect_from(2, app.address).await;
    let read = tokio::time::timeout(Duration::from_secs(20), silent.read_u8()).await;
    assert!(read.expect("closed long before the idle timeout").is_err());
    app.stop().await;
}
