//! Forward-auth as it is deployed: a real nginx and a real Caddy with the examples' own files before a real replica.

use serde_json::json;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

use crate::support::{
    App, Deployment, TinyBlueprint,
    app::{new_org, wait_until},
    cluster::execute,
    events,
    people::{self, Belongs, new_id},
    proxy::{Application, Kind, Proxy, Reply, Wire},
    tokens,
};

/// Headers that an application believes.
const BELIEVED: [&str; 9] = [
    "x-tenant-id",
    "x-tenant-url",
    "x-tenant-database",
    "x-tenant-schema-version",
    "x-tenant-state",
    "x-user-id",
    "x-user-email",
    "x-user-role",
    "x-user-permissions",
];

/// What a client might try to be taken for, as each kind of server may read it.
const LIES: &str = "X-User-Id: mallory\n\
    x-user-id: mallory\n\
    X-USER-EMAIL: mallory\n\
    X-User-Role: mallory\n\
    X-User-Role: mallory\n\
    X_User_Id: mallory\n\
    x_user-role: mallory\n\
    X-User_Permissions: mallory\n\
    X-User-Actor: mallory\n\
    X-Tenant-Id: mallory\n\
    X_Tenant_Id: mallory\n\
    X-Tenant_Database: mallory\n\
    x_TENANT-url: mallory\n\
    X-Tenant-State: mallory\n\
    X-Tenant-Schema-Version: mallory";

/// An organization with a ready tenant and a member, an application, and the wire to tenantry.
struct Site {
    app: App,
    application: Application,
    wire: Wire,
    org: String,
    user: String,
    _blueprint: TinyBlueprint,
}

impl Site {
    async fn open() -> Self {
        let mut deployment = Deployment::new().await;
        deployment.trust_tokens();
        deployment.set("TENANTRY__ACCESS__TRUSTED_PROXIES", "127.0.0.1/32");
        deployment.set("TENANTRY__ACCESS__PUBLIC_PATHS", "/assets/*");
        let blueprint = TinyBlueprint::new();
        blueprint.write(
            "blueprint.toml",
            "[roles]\nclerk = [\"letters:read\", \"letters:write\"]\n",
        );
        let app = App::of(deployment, blueprint.source()).await;
        let this = Self {
            application: Application::start().await,
            wire: Wire::to(app.address).await,
            app,
            org: new_org(),
            user: new_id("user"),
            _blueprint: blueprint,
        };
        this.app
            .accepts(&[&events::created(&this.org, "Acme")])
            .await;
        this.app.tenant(&this.org).is_ready().await;
        let user = people::user("created", &this.user, "ada@example.com", ("Ada", "L"), 1);
        let belongs = Belongs {
            id: &new_id("om"),
            org: &this.org,
            user: &this.user,
            role: "clerk",
        };
        let membership = people::membership("created", belongs, "active", 1);
        this.app.accepts(&[&user, &membership]).await;
        this.app.is_idle().await;
        this
    }

    async fn proxy(&self, kind: Kind) -> Proxy {
        Proxy::start(kind, self.wire.address, self.application.address).await
    }

    /// The line of a header that shows who the member is.
    fn bearer(&self) -> String {
        format!(
            "Authorization: Bearer {}",
            tokens::token(&self.user, &self.org)
        )
    }

    async fn host(&self) -> String {
        self.app.tenant(&self.org).find().await.unwrap().url
    }

    async fn close(self) {
        self.app.stop().await;
    }
}

/// What the application was told in headers that it believes, however these are spelled; what is empty says nothing.
fn believed(reply: &Reply) -> Vec<(String, String)> {
    let told = reply.told().into_iter();
    let plain = |name: String| name.to_lowercase().replace('_', "-");
    let mut believed: Vec<_> = told
        .map(|(name, value)| (plain(name), value))
        .filter(|(name, value)| BELIEVED.contains(&name.as_str()) && !value.is_empty())
        .collect();
    believed.sort();
    believed
}

#[tokio::test(flavor = "multi_thread")]
async fn a_member_gets_to_the_application_which_is_told_who_and_where() {
    let site = Site::open().await;
    for kind in Kind::installed() {
        let proxy = site.proxy(kind).await;
        let host = site.host().await;
        let reply = proxy.get(&host, "/letters?page=2", &site.bearer()).await;
        let tenant = site.app.tenant(&site.org).find().await.unwrap();
        let mut expected: Vec<_> = [
            tenant.id.to_string(),
            tenant.url,
            tenant.database,
            tenant.alembic_version,
            "ready".to_owned(),
            site.user.clone(),
            "ada@example.com".to_owned(),
            "clerk".to_owned(),
            "letters:read,letters:write".to_owned(),
        ]
        .into_iter()
        .zip(BELIEVED)
        .map(|(value, name)| (name.to_owned(), value))
        .collect();
        expected.sort();
        assert_eq!(believed(&reply), expected, "{kind:?}");
        assert_eq!(reply.body()["target"], "/letters?page=2");
        // a browser has a cookie
        let token = tokens::token(&site.user, &site.org);
        let cookie = format!("Cookie: a=b\nCookie: __session={token}");
        assert_eq!(
            believed(&proxy.get(&host, "/", &cookie).await),
            expected,
            "{kind:?}"
        );
    }
    site.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_body_reaches_the_application_whole_and_tenantry_never() {
    let site = Site::open().await;
    for kind in Kind::installed() {
        let proxy = site.proxy(kind).await;
        site.wire.heard();
        let body = vec![b'z'; 5 << 20];
        let request = format!("POST /letters HTTP/1.1\nHost: app.test\n{}", site.bearer());
        let reply = proxy.send(&request, &body).await;
        assert_eq!(reply.status, 200, "{kind:?} {reply:?}");
        assert_eq!(reply.body()["method"], "POST");
        assert_eq!(reply.body()["body_bytes"], body.len());
        let (heard, _) = site.wire.heard();
        assert!(
            heard.starts_with("get /v1/auth/verify http/1.1\r\n"),
            "{kind:?} {heard}"
        );
        for line in [
            "x-forwarded-method: post",
            "x-forwarded-uri: /letters",
            "x-forwarded-host: app.test",
        ] {
            assert_eq!(heard.matches(line).count(), 1, "{kind:?} {heard}");
        }
        assert!(
            heard.ends_with("\r\n\r\n") && !heard.contains("transfer-encoding"),
            "{kind:?}"
        );
        assert!(!heard.contains("content-length: 5"), "{kind:?} {heard}");
    }
    site.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_client_says_of_itself_is_taken_away() {
    let site = Site::open().await;
    for kind in Kind::installed() {
        let proxy = site.proxy(kind).await;
        let honest = proxy.get("app.test", "/", &site.bearer()).await;
        let lies = format!("{LIES}\n{}", site.bearer());
        let lying = proxy.get("app.test", "/", &lies).await;
        assert_eq!(believed(&lying), believed(&honest), "{kind:?}");
        assert!(!lying.text.contains("mallory"), "{kind:?} {}", lying.text);
    }
    site.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn on_a_public_path_nobody_is_anybody() {
    let site = Site::open().await;
    for kind in Kind::installed() {
        let proxy = site.proxy(kind).await;
        for path in ["/assets/app.css", "/assets/x?/admin"] {
            let public = proxy.get("app.test", path, LIES).await;
            let told = public.told();
            assert!(!public.text.contains("mallory"), "{kind:?} {told:?}");
            // nothing empty either, that an application could take for something
            let is_believed = |name: &String| BELIEVED.contains(&name.as_str());
            assert!(
                !told.iter().any(|(name, _)| is_believed(name)),
                "{kind:?} {told:?}"
            );
        }
    }
    site.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn refusals_reach_the_browser_as_they_are() {
    let site = Site::open().await;
    for kind in Kind::installed() {
        let proxy = site.proxy(kind).await;
        let nobody = proxy.get("app.test", "/", "").await;
        assert_eq!(nobody.status, 401, "{kind:?} {nobody:?}");
        assert!(
            nobody
                .header("www-authenticate")
                .unwrap()
                .starts_with("Bearer")
        );
        assert!(nobody.header("x-request-id").is_some());
        assert_eq!(
            nobody.header("content-type"),
            Some("application/problem+json")
        );
        assert_eq!(nobody.body()["status"], 401);

        let stranger = format!(
            "Authorization: Bearer {}",
            tokens::token("user_x", &site.org)
        );
        let stranger = proxy.get("app.test", "/", &stranger).await;
        assert_eq!(stranger.status, 403, "{kind:?} {stranger:?}");
        assert_eq!(stranger.body()["status"], 403);

        let early = format!(
            "Authorization: Bearer {}",
            tokens::token("user_x", "org_new")
        );
        let early = proxy.get("app.test", "/", &early).await;
        assert_eq!(early.status, 503, "{kind:?} {early:?}");
        assert_eq!(early.header("retry-after"), Some("2"));
        assert_eq!(early.header("x-tenant-state"), Some("pending"));

        // Caddy passes the body on, nginx cannot
        let codes = [nobody, stranger, early].map(|reply| reply.body()["code"].clone());
        match kind {
            Kind::Caddy => assert_eq!(
                json!(codes),
                json!(["credentials_missing", "not_a_member", "tenant_not_ready"])
            ),
            Kind::Nginx => assert_eq!(json!(codes), json!([null, null, null])),
        }
    }
    site.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_closed_tenant_is_423_and_a_failed_one_says_when_to_come_again() {
    let site = Site::open().await;
    let control = &site.app.deployment.control_url;
    for kind in Kind::installed() {
        let proxy = site.proxy(kind).await;
        for (state, status, wait) in [
            ("suspended", 423, None),
            ("failed", 503, Some("30")),
            ("ready", 200, None),
        ] {
            execute(control, &format!("update tenants set state = '{state}'")).await;
            wait_until("the change counts", async || {
                proxy.get("app.test", "/", &site.bearer()).await.status == status
            })
            .await;
            let reply = proxy.get("app.test", "/", &site.bearer()).await;
            assert_eq!(reply.header("retry-after"), wait, "{kind:?} {state}");
            if status != 200 {
                assert_eq!(reply.header("x-tenant-state"), Some(state), "{kind:?}");
                assert_eq!(reply.body()["status"], status, "{kind:?}");
            }
        }
    }
    site.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_path_that_looks_public_is_not() {
    let site = Site::open().await;
    for kind in Kind::installed() {
        let proxy = site.proxy(kind).await;
        let public = proxy.get("app.test", "/assets/app.css?v=2", "").await;
        assert_eq!(
            public.body()["target"],
            "/assets/app.css?v=2",
            "{kind:?} {public:?}"
        );
        for path in [
            "/",
            "/assets",
            "/admin?/assets/app.css",
            "/assets/../admin",
            "/assets/./../admin",
            "/assets/%2e%2e/admin",
            "/assets/..%2fadmin",
            "/assets/..%5cadmin",
            "/assets/..;/admin",
            "//assets/app.css",
            "/assets//app.css",
            "/ASSETS/app.css",
            "/assets%2fapp.css",
            "/_tenantry/verify",
            "http://app.test/assets/../admin",
        ] {
            let reply = proxy.get("app.test", path, "").await;
            assert!(
                [400, 401, 404].contains(&reply.status),
                "{kind:?} {path} {reply:?}"
            );
        }
        // only the proxy says which path it is
        let forged = "X-Forwarded-Uri: /assets/app.css\nX_Forwarded_Uri: /assets/app.css\nX-Original-URL: /assets/app.css";
        assert_eq!(
            proxy.get("app.test", "/", forged).await.status,
            401,
            "{kind:?}"
        );
    }
    site.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn another_tenants_host_is_refused() {
    let site = Site::open().await;
    let other = new_org();
    site.app.accepts(&[&events::created(&other, "Other")]).await;
    let foreign = site.app.tenant(&other).is_ready().await.url;
    let own = site.host().await;
    for kind in Kind::installed() {
        let proxy = site.proxy(kind).await;
        let at = async |host: &str, path: &str, more: &str| {
            let headers = format!("{more}\n{}", site.bearer());
            proxy.get(host, path, headers.trim()).await.status
        };
        assert_eq!(at(&own, "/", "").await, 200, "{kind:?}");
        assert_eq!(at(&format!("{own}:8443"), "/", "").await, 200, "{kind:?}");
        assert_eq!(at(&foreign, "/", "").await, 403, "{kind:?}");
        assert_eq!(at(&foreign.to_uppercase(), "/", "").await, 403, "{kind:?}");
        assert_eq!(
            at(&format!("{foreign}:8443"), "/", "").await,
            403,
            "{kind:?}"
        );
        let forged = format!("X-Forwarded-Host: {own}");
        assert_eq!(at(&foreign, "/", &forged).await, 403, "{kind:?}");
        // what the application gets as host is what was judged
        let reply = proxy
            .get(&own, &format!("http://{foreign}/"), &site.bearer())
            .await;
        if reply.status == 200 {
            let host = reply.told().into_iter().find(|(name, _)| name == "host");
            assert_eq!(host.unwrap().1, own, "{kind:?}");
        } else {
            assert_eq!(reply.status, 403, "{kind:?}");
        }
    }
    site.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn without_tenantry_nobody_is_let_in() {
    let site = Site::open().await;
    for kind in Kind::installed() {
        let proxy = site.proxy(kind).await;
        let asks = async |path: &str| proxy.get("app.test", path, &site.bearer()).await;
        assert_eq!(asks("/assets/app.css").await.status, 200, "{kind:?}");
        site.wire.cut().await;
        for path in ["/", "/assets/app.css"] {
            let away = asks(path).await;
            assert_eq!(away.status, 503, "{kind:?} {away:?}");
            assert_eq!(away.header("retry-after"), Some("2"), "{kind:?}");
            assert_eq!(away.body()["status"], 503, "{kind:?}");
        }
        site.wire.block().await;
        let slow = asks("/assets/app.css").await;
        assert_eq!(slow.status, 503, "{kind:?} {slow:?}");
        site.wire.cut().await;
        site.wire.mend().await;
        assert_eq!(asks("/assets/app.css").await.status, 200, "{kind:?}");
    }
    site.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_applications_own_errors_are_not_touched() {
    let mut site = Site::open().await;
    for kind in Kind::installed() {
        let proxy = site.proxy(kind).await;
        for status in [400, 401, 403, 404, 423, 500, 502, 503, 504] {
            let reply = proxy
                .get("app.test", &format!("/assets/{status}"), "")
                .await;
            assert_eq!(reply.status, status, "{kind:?}");
            assert_eq!(reply.text, "the application's own", "{kind:?} {status}");
            assert_eq!(reply.header("retry-after"), None, "{kind:?} {status}");
        }
    }
    // an application that is away is no refusal of tenantry's
    let gone = std::mem::replace(&mut site.application, Application::start().await);
    let address = gone.address;
    drop(gone);
    for kind in Kind::installed() {
        let proxy = Proxy::start(kind, site.wire.address, address).await;
        let reply = proxy.get("app.test", "/assets/app.css", "").await;
        assert_eq!(reply.status, 502, "{kind:?}");
    }
    site.close().await;
}

/// Reads until a text has come.
async fn read_until(stream: &mut TcpStream, text: &str) -> String {
    let (mut read, mut buffer) = (Vec::new(), [0; 4096]);
    loop {
        let length = stream.read(&mut buffer).await.unwrap();
        read.extend_from_slice(&buffer[..length]);
        let so_far = String::from_utf8_lossy(&read).into_owned();
        if so_far.contains(text) || length == 0 {
            return so_far;
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_comes_in_pieces_as_it_is_made() {
    let site = Site::open().await;
    for kind in Kind::installed() {
        let proxy = site.proxy(kind).await;
        let mut stream = TcpStream::connect(proxy.address).await.unwrap();
        let request = "GET /assets/stream HTTP/1.1\r\nHost: app.test\r\n\r\n";
        stream.write_all(request.as_bytes()).await.unwrap();
        let begun = read_until(&mut stream, "first").await;
        assert!(
            begun.contains("first") && !begun.contains("second"),
            "{kind:?} {begun}"
        );
        site.application.go_on();
        let done = read_until(&mut stream, "second").await;
        assert!(done.contains("second"), "{kind:?} {done}");
    }
    site.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_websocket_passes_and_no_other_upgrade() {
    let site = Site::open().await;
    for kind in Kind::installed() {
        let proxy = site.proxy(kind).await;
        let asks = async |path: &str, upgrade: &str| {
            let mut stream = TcpStream::connect(proxy.address).await.unwrap();
            let request = format!(
                "GET {path} HTTP/1.1\r\nHost: app.test\r\nConnection: Upgrade, HTTP2-Settings\r\nUpgrade: {upgrade}\r\n\
                 Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\nHTTP2-Settings: AAMAAABkAAQAAP__\r\n\r\n"
            );
            stream.write_all(request.as_bytes()).await.unwrap();
            let answer = read_until(&mut stream, "\r\n\r\n").await;
            (stream, answer)
        };
        let (mut stream, answer) = asks("/assets/socket", "WebSocket").await;
        assert!(answer.starts_with("HTTP/1.1 101"), "{kind:?} {answer}");
        for word in ["hello", "again"] {
            stream.write_all(word.as_bytes()).await.unwrap();
            assert_eq!(read_until(&mut stream, word).await, word, "{kind:?}");
        }
        let (_, answer) = asks("/socket", "websocket").await;
        assert!(answer.starts_with("HTTP/1.1 401"), "{kind:?} {answer}");
        for other in ["h2c", "H2C", "h2c, websocket", "tls/1.2"] {
            let (_, answer) = asks("/assets/socket", other).await;
            assert!(
                !answer.starts_with("HTTP/1.1 101"),
                "{kind:?} {other} {answer}"
            );
        }
    }
    site.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn tenantry_is_asked_about_every_request_over_the_same_connections() {
    let site = Site::open().await;
    for kind in Kind::installed() {
        let proxy = site.proxy(kind).await;
        site.wire.heard();
        for _ in 0..30 {
            assert_eq!(
                proxy.get("app.test", "/assets/app.css", "").await.status,
                200
            );
        }
        let (heard, connections) = site.wire.heard();
        assert_eq!(
            heard.matches("get /v1/auth/verify ").count(),
            30,
            "{kind:?}"
        );
        assert!(connections <= 3, "{kind:?} made {connections} connections");
    }
    site.close().await;
}
