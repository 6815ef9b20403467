//! Form keys and status tokens at the door: what stands in a web page, and what a page gets for its visitor.

use std::time::Duration;

use serde_json::json;
use tenantry::{
    api_keys::{self, Scope},
    http::{self, Access},
    provisioning::BlueprintSource,
};

use crate::support::{
    Api, App, Deployment,
    app::{Answer, operator, wait_until},
    cluster::execute,
    tokens,
};

const PAGE: &str = "https://app.example.com";
const REGISTRATIONS: &str = "/v1/registrations";
const REGISTRATION: &str = "/v1/registrations/0190a0b0-0000-7000-8000-000000000000";
const EVENTS: &str = "/v1/registrations/0190a0b0-0000-7000-8000-000000000000/events";

/// A text that a registration could have given out.
fn status_token() -> String {
    format!("rst_{}", "aB3-_".repeat(9).split_at(43).0)
}

/// A replica with these settings and a migrated database, that runs no jobs.
async fn edge(settings: &[(&str, &str)]) -> App {
    let mut deployment = Deployment::new().await;
    deployment.trust_tokens();
    for (name, value) in settings {
        deployment.set(&format!("TENANTRY__{name}"), value);
    }
    let app = App::listening(deployment, BlueprintSource::Bundled).await;
    app.replica.migrate().await.unwrap();
    app
}

/// The page of an origin, with a form key in it.
fn page(app: &App, key: &str, origin: &str) -> Api {
    app.as_bearer(key).header("origin", origin)
}

/// A form that was let in, and has no idempotency key.
const LET_IN: u16 = 400;

/// A reader who was let in, to a registration that nobody made.
const LOOKED: u16 = 404;

/// Sends the form.
async fn submit(api: &Api) -> Answer {
    api.post(REGISTRATIONS, &json!({})).await
}

/// Everything that a header says, in one line.
fn lines(answer: &Answer, name: &str) -> String {
    let values = answer.headers.get_all(name).iter();
    let values: Vec<_> = values.map(|value| value.to_str().unwrap()).collect();
    values.join(", ")
}

#[tokio::test(flavor = "multi_thread")]
async fn a_form_is_accepted_from_pages_of_the_keys_origins_alone() {
    let app = edge(&[]).await;
    let key = app.form_key(&[PAGE, "http://localhost:3000"]).await;
    for origin in [PAGE, "http://localhost:3000"] {
        assert_eq!(submit(&page(&app, &key, origin)).await.status, LET_IN);
    }
    for origin in [
        "https://evil.example.com",
        "https://app.example.com.evil.com",
        "https://sub.app.example.com",
        "http://app.example.com",
        "https://app.example.com:8443",
        "https://app.example.com/",
        "https://APP.example.com",
        "https://app.example.com, https://app.example.com",
        "http://localhost",
        "null",
        "",
        "*",
    ] {
        let answer = submit(&page(&app, &key, origin)).await;
        assert_eq!(answer.refusal(), (403, "origin_not_allowed"), "{origin}");
        let told = answer.body.to_string();
        assert!(origin.len() < 5 || !told.contains(origin), "{told}");
    }
    // who is no browser, and what no browser sends
    let silent = submit(&app.as_bearer(&key)).await;
    assert_eq!(silent.refusal(), (403, "origin_not_allowed"));
    let twice = page(&app, &key, PAGE).header("origin", PAGE);
    let twice = submit(&twice).await;
    assert_eq!(twice.refusal(), (403, "origin_not_allowed"));
    // a referrer is no origin
    let referred = app.as_bearer(&key).header("referer", PAGE);
    let referred = submit(&referred).await;
    assert_eq!(referred.refusal(), (403, "origin_not_allowed"));
    app.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn operators_need_the_scope_and_no_origin_and_end_users_do_not_register() {
    let app = edge(&[]).await;
    let (writes, reads, other) = (
        app.key(&[Scope::RegistrationsWrite]).await,
        app.key(&[Scope::TenantsRead]).await,
        app.key(&[Scope::AuditRead]).await,
    );
    for origin in [None, Some(PAGE), Some("https://evil.example.com")] {
        let with = |api: Api| match origin {
            Some(origin) => api.header("origin", origin),
            None => api,
        };
        let told = async |key: &str| submit(&with(app.as_bearer(key))).await;
        assert_eq!(told(&writes).await.status, LET_IN);
        assert_eq!(told(&reads).await.refusal(), (403, "scope_missing"));
        let token = tokens::token("user_ada", "org_acme");
        assert_eq!(told(&token).await.refusal(), (403, "api_key_required"));
        let nobody = submit(&with(app.api())).await;
        assert_eq!(nobody.refusal(), (401, "credentials_missing"));
        let token = told(&status_token()).await;
        assert_eq!(token.refusal(), (401, "status_token_refused"));
    }
    for path in [REGISTRATION, EVENTS] {
        let told = async |text: &str| app.as_bearer(text).get(path).await;
        assert_eq!(told(&writes).await.status, LOOKED);
        assert_eq!(told(&reads).await.status, LOOKED);
        assert_eq!(told(&other).await.refusal(), (403, "scope_missing"));
        let token = tokens::token("user_ada", "org_acme");
        assert_eq!(told(&token).await.refusal(), (403, "api_key_required"));
        assert_eq!(told("made-up").await.refusal(), (401, "token_malformed"));
    }
    app.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_form_key_and_a_status_token_open_no_other_route() {
    let app = edge(&[("IDENTITY__ADMIN_ROLE", "admin")]).await;
    let key = app.form_key(&[PAGE]).await;
    let (form, holder) = (page(&app, &key, PAGE), app.as_bearer(&status_token()));
    let (mut closed, mut open) = (0, 0);
    for (method, path, access) in http::access_table() {
        let path = path
            .replace("{org}", "org_acme")
            .replace("{user}", "user_ada");
        let path = path
            .split('/')
            .map(|part| if part.starts_with('{') { "1" } else { part });
        let path = path.collect::<Vec<_>>().join("/");
        let by_form = form.call(method, &path, None).await;
        let by_token = holder.call(method, &path, None).await;
        let place = format!("{method} {path}");
        match access {
            // nobody's credentials are looked at
            Access::Public | Access::Visitor | Access::Signature => open += 1,
            // only end users' tokens are
            Access::ForwardAuth => {
                assert_eq!(by_form.refusal(), (401, "token_malformed"));
                assert_eq!(by_token.refusal(), (401, "token_malformed"));
                closed += 1;
            }
            Access::Registrant => {
                assert_eq!(by_form.status, LET_IN, "{place}");
                assert_eq!(by_token.refusal(), (401, "status_token_refused"));
                closed += 1;
            }
            Access::RegistrationReader => {
                assert_eq!(by_form.refusal(), (403, "form_key_refused"), "{place}");
                // there is none of the id "1", whoever asks
                assert_eq!(by_token.refusal(), (400, "parameter_invalid"), "{place}");
                closed += 1;
            }
            Access::Key(_) | Access::KeyOrUser(_) | Access::KeyOrAdmin(_) => {
                assert_eq!(by_form.refusal(), (403, "form_key_refused"), "{place}");
                assert_eq!(by_token.refusal(), (401, "status_token_refused"), "{place}");
                closed += 1;
            }
        }
    }
    assert!(closed > 30 && open > 5, "{closed} closed, {open} open");
    app.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_form_key_is_rotated_revoked_and_expires_as_every_key() {
    let app = edge(&[]).await;
    let first = app.form_key(&[PAGE]).await;
    let id = first[4..12].to_owned();
    let told = async |text: &str| submit(&page(&app, text, PAGE)).await;
    assert_eq!(told(&first).await.status, LET_IN);
    let hour = Duration::from_hours(1);
    let db = &app.replica.db;
    let rotated = db.transaction(async |tx| api_keys::rotate(tx, &id, hour, &operator()).await);
    let (key, second) = rotated.await.unwrap();
    assert_eq!(key.origins.as_deref(), Some(&[PAGE.to_owned()][..]));
    let second = secrecy::ExposeSecret::expose_secret(&second).to_owned();
    wait_until("the new text is heard of", async || {
        told(&second).await.status == LET_IN
    })
    .await;
    assert_eq!(told(&first).await.status, LET_IN, "during the overlap");

    let url = &app.deployment.control_url;
    let past = "update api_keys set expires_at = now() - interval '1 second'";
    execute(url, past).await;
    wait_until("the key has expired", async || {
        told(&second).await.refusal() == (401, "api_key_expired")
    })
    .await;
    execute(url, "update api_keys set expires_at = null").await;
    let revoked = db.transaction(async |tx| api_keys::revoke(tx, &id, &operator()).await);
    revoked.await.unwrap();
    wait_until("the key is revoked", async || {
        told(&second).await.refusal() == (401, "api_key_refused")
    })
    .await;
    assert_eq!(told(&first).await.refusal(), (401, "api_key_refused"));
    app.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn one_address_sends_a_form_ten_times_and_then_waits() {
    let app = edge(&[
        ("LIMITS__PER_FORM_ADDRESS_PER_MINUTE", "10"),
        ("LIMITS__PER_FORM_KEY_PER_MINUTE", "600"),
        ("ACCESS__TRUSTED_PROXIES", "127.0.0.1/32"),
    ])
    .await;
    let (key, other) = (
        app.form_key(&[PAGE]).await,
        app.form_key(&["https://b.example"]).await,
    );
    let from = async |client: &str, key: &str, origin: &str| {
        let page = page(&app, key, origin).header("x-forwarded-for", client);
        submit(&page).await
    };
    for left in (0..10).rev() {
        // with another key, or from another page: it is the same visitor
        let answer = match left % 3 {
            0 => from("192.0.2.1", &key, PAGE).await,
            1 => from("192.0.2.1", &other, "https://b.example").await,
            _ => from("192.0.2.1", &key, "https://evil.example").await,
        };
        assert_ne!(answer.status, 429, "{left}");
        let told = lines(&answer, "ratelimit");
        assert!(
            told.contains(&format!("\"form_address\";r={left};")),
            "{told}"
        );
        let is_accepted = answer.status == LET_IN;
        assert_eq!(told.contains("\"form_key\";r="), is_accepted, "{told}");
        let policy = lines(&answer, "ratelimit-policy");
        assert!(policy.starts_with("\"form_address\";q=10;w=60"), "{policy}");
    }
    let answer = from("192.0.2.1", &key, PAGE).await;
    assert_eq!(answer.refusal(), (429, "rate_limited"));
    let wait: u32 = answer.retry_after.clone().unwrap().parse().unwrap();
    assert!((1..=6).contains(&wait), "{wait}");
    let told = format!("\"form_address\";r=0;t={wait}");
    assert_eq!(answer.header("ratelimit"), Some(&*told));

    // nobody else waits: another address, an operator, somebody who polls
    assert_eq!(from("192.0.2.2", &key, PAGE).await.status, LET_IN);
    let operator = app.key(&[Scope::RegistrationsWrite]).await;
    assert_eq!(from("192.0.2.1", &operator, PAGE).await.status, LET_IN);
    let reader = app
        .as_bearer(&status_token())
        .header("x-forwarded-for", "192.0.2.1");
    assert_eq!(reader.get(REGISTRATION).await.status, LOOKED);
    app.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn all_who_use_a_key_share_its_limit_and_nobody_else_uses_it_up() {
    let app = edge(&[
        ("LIMITS__PER_FORM_ADDRESS_PER_MINUTE", "2"),
        ("LIMITS__PER_FORM_KEY_PER_MINUTE", "30"),
        ("ACCESS__TRUSTED_PROXIES", "127.0.0.1/32"),
    ])
    .await;
    let (key, other) = (app.form_key(&[PAGE]).await, app.form_key(&[PAGE]).await);
    let from = async |client: &str, key: &str, origin: &str| {
        let page = page(&app, key, origin).header("x-forwarded-for", client);
        submit(&page).await
    };
    // a tenth at once; what is refused before does not count
    for client in 1..=20 {
        let client = format!("192.0.2.{client}");
        let answer = from(&client, &key, "https://evil.example").await;
        assert_eq!(answer.status, 403);
    }
    assert_eq!(from("198.51.100.1", &key, PAGE).await.status, LET_IN);
    assert_eq!(from("198.51.100.1", &key, PAGE).await.status, LET_IN);
    for _ in 0..5 {
        let refused = from("198.51.100.1", &key, PAGE).await;
        let told = lines(&refused, "ratelimit");
        assert!(told.starts_with("\"form_address\";r=0;"), "{told}");
    }
    assert_eq!(from("198.51.100.2", &key, PAGE).await.status, LET_IN);
    let refused = from("198.51.100.3", &key, PAGE).await;
    assert_eq!(refused.refusal(), (429, "rate_limited"));
    let told = refused.header("ratelimit").unwrap();
    assert!(told.starts_with("\"form_key\";r=0;"), "{told}");
    assert!(refused.retry_after.is_some());
    assert_eq!(
        refused.header("ratelimit-policy"),
        Some("\"form_key\";q=30;w=60")
    );
    assert_eq!(from("198.51.100.4", &other, PAGE).await.status, LET_IN);
    app.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_visitor_says_of_their_address_counts_from_a_trusted_proxy_only() {
    let app = edge(&[("LIMITS__PER_FORM_ADDRESS_PER_MINUTE", "1")]).await;
    let key = app.form_key(&[PAGE]).await;
    let from = async |client: &str| {
        let page = page(&app, &key, PAGE).header("x-forwarded-for", client);
        submit(&page).await.status
    };
    assert_eq!(from("192.0.2.1").await, LET_IN);
    assert_eq!(from("192.0.2.2").await, 429);
    app.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn with_a_form_key_elsewhere_somebody_is_a_visitor_who_guesses() {
    let app = edge(&[
        ("LIMITS__PER_ADDRESS_PER_MINUTE", "20"),
        ("LIMITS__PER_PRINCIPAL_PER_MINUTE", "10"),
    ])
    .await;
    let key = app.form_key(&[PAGE]).await;
    let form = page(&app, &key, PAGE);
    for _ in 0..2 {
        let answer = form.get("/v1/tenants").await;
        assert_eq!(answer.refusal(), (403, "form_key_refused"));
        let told = answer.header("ratelimit").unwrap();
        assert!(told.starts_with("\"address\";"), "{told}");
    }
    assert_eq!(form.get("/v1/tenants").await.status, 429);
    app.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_limits_of_a_form_are_those_of_the_default_file() {
    let mut deployment = Deployment::new().await;
    deployment
        .variables
        .retain(|(name, _)| !name.starts_with("TENANTRY__LIMITS__"));
    let app = App::listening(deployment, BlueprintSource::Bundled).await;
    app.replica.migrate().await.unwrap();
    let key = app.form_key(&[PAGE]).await;
    let answer = submit(&page(&app, &key, PAGE)).await;
    let policies = "\"form_address\";q=10;w=60, \"form_key\";q=600;w=60";
    assert_eq!(lines(&answer, "ratelimit-policy"), policies);
    // a minute of a page that asks every second, in no time at all
    let reader = app.as_bearer(&status_token());
    for _ in 0..60 {
        assert_eq!(reader.get(REGISTRATION).await.status, LOOKED);
    }
    app.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_status_token_comes_in_a_header_or_in_the_query() {
    let app = edge(&[("LIMITS__PER_ADDRESS_PER_MINUTE", "600")]).await;
    let token = status_token();
    for path in [REGISTRATION, EVENTS] {
        let answer = app.as_bearer(&token).get(path).await;
        assert_eq!(answer.status, LOOKED);
        let told = answer.header("ratelimit").unwrap();
        assert!(told.starts_with("\"address\";"), "{told}");
        let in_query = format!("{path}?status_token={token}");
        assert_eq!(app.api().get(&in_query).await.status, LOOKED);
        // a header counts before the query
        let both = app.as_bearer("made-up").get(&in_query).await;
        assert_eq!(both.refusal(), (401, "token_malformed"));

        let twice = format!("{in_query}&status_token={token}");
        for query in [
            twice,
            format!("{path}?status_token="),
            format!("{path}?status_token={}", &token[4..]),
            format!("{path}?status_token={token}x"),
            format!("{path}?status_token={}+", &token[..46]),
        ] {
            let answer = app.api().get(&query).await;
            assert_eq!(answer.refusal(), (401, "status_token_malformed"), "{query}");
            let kept = answer.header("cache-control");
            assert_eq!(kept, Some("no-store"));
            assert_eq!(answer.header("referrer-policy"), Some("no-referrer"));
        }
        let short = app.as_bearer(&token[..20]).get(path).await;
        assert_eq!(short.refusal(), (401, "status_token_malformed"));
        let nothing = app.api().get(path).await;
        assert_eq!(nothing.refusal(), (401, "credentials_missing"));
        let basic = app.api().header("authorization", "Basic eDp5");
        let basic = basic.get(path).await;
        assert_eq!(basic.refusal(), (401, "credentials_malformed"));
    }
    app.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn whoever_guesses_status_tokens_does_so_only_so_often() {
    let app = edge(&[("LIMITS__PER_ADDRESS_PER_MINUTE", "20")]).await;
    let reader = app.as_bearer(&status_token());
    assert_eq!(reader.get(REGISTRATION).await.status, LOOKED);
    let malformed = app.as_bearer("rst_").get(REGISTRATION).await;
    assert_eq!(malformed.status, 401);
    assert_eq!(reader.get(REGISTRATION).await.status, 429);
    assert_eq!(app.as_bearer("rst_").get(REGISTRATION).await.status, 429);
    app.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn any_page_may_ask_about_registrations_and_read_every_answer() {
    // also where others are configured for the rest of the API
    for origins in ["", "https://console.example.com"] {
        let mut settings = vec![("LIMITS__PER_FORM_ADDRESS_PER_MINUTE", "1")];
        if !origins.is_empty() {
            settings.push(("SERVER__CORS_ORIGINS", origins));
        }
        let app = edge(&settings).await;
        let preflight = |origin: &str| {
            app.api()
                .header("origin", origin)
                .header("access-control-request-method", "POST")
                .header(
                    "access-control-request-headers",
                    "authorization,idempotency-key",
                )
        };
        for path in [REGISTRATIONS, REGISTRATION, EVENTS] {
            let answer = preflight(PAGE).call("OPTIONS", path, None).await;
            assert_eq!(answer.status, 200, "{path}");
            let told = |name: &str| answer.header(&format!("access-control-{name}"));
            assert_eq!(told("allow-origin"), Some("*"));
            assert_eq!(told("allow-methods"), Some("GET,HEAD,POST"));
            let takes = "authorization,content-type,idempotency-key,prefer,last-event-id";
            assert_eq!(told("allow-headers"), Some(takes));
            assert_eq!(told("max-age"), Some("600"));
            assert_eq!(told("allow-credentials"), None);
        }
        let key = app.form_key(&[PAGE]).await;
        let evil = submit(&page(&app, &key, "https://evil.example")).await;
        let limited = submit(&page(&app, &key, PAGE)).await;
        let reader = app.as_bearer(&status_token()).header("origin", PAGE);
        let read = reader.get(REGISTRATION).await;
        let nobody = app.api().get(EVENTS).await;
        let put = reader.call("PUT", REGISTRATION, None).await;
        let statuses = [&evil, &limited, &read, &nobody, &put].map(|answer| answer.status);
        assert_eq!(statuses, [403, 429, LOOKED, 401, 405]);
        let shown = "x-request-id,ratelimit,ratelimit-policy,retry-after,location,preference-applied,idempotency-replayed";
        for answer in [&evil, &limited, &read, &nobody, &put] {
            let told = |name: &str| answer.header(&format!("access-control-{name}"));
            assert_eq!(told("allow-origin"), Some("*"), "{}", answer.status);
            assert_eq!(told("expose-headers"), Some(shown));
            assert_eq!(told("allow-credentials"), None);
            // which a request of mode cors does not ask
            let policy = answer.header("cross-origin-resource-policy");
            assert_eq!(policy, Some("same-origin"));
        }
        // the rest of the API is as before
        let answer = preflight(PAGE).call("OPTIONS", "/v1/tenants", None).await;
        assert_eq!(answer.header("access-control-allow-origin"), None);
        let is_configured = !origins.is_empty();
        assert_eq!(answer.status, if is_configured { 200 } else { 405 });
        let console = app.api().header("origin", "https://console.example.com");
        let answer = console.get("/v1/tenants").await;
        let allowed = answer.header("access-control-allow-origin");
        assert_eq!(allowed, is_configured.then_some(origins));
        app.stop().await;
    }
}
