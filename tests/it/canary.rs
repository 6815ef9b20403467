//! Secrets in every input, wanted and in the wrong place: none of them comes out again anywhere.

use serde_json::json;
use tenantry::{api_keys::Scope, http};

use crate::support::{
    App, Deployment, TinyBlueprint,
    app::{Body, bytes, exchange, new_org},
    events,
    people::{self, Belongs, new_id},
    process::Process,
    tokens,
};

/// Origin of a page with a sign-up form.
const PAGE: &str = "https://app.example.com";

/// Credentials that work, and texts that look like some.
struct Planted(Vec<String>);

impl Planted {
    fn assert_absent(&self, place: &str, text: &str) {
        for secret in &self.0 {
            // whole, or the part that nobody could guess
            let part = &secret[secret.len() / 2..];
            assert!(!text.contains(part), "{place} tells {part}: {text}");
        }
    }
}

fn body_of(method: &str, secret: &str) -> Body {
    let texts = json!({
        "email": secret, "role": secret, "customer_id": secret, "user_id": secret, secret: secret,
    });
    match method {
        "GET" | "DELETE" => bytes(Vec::new()),
        _ => bytes(texts.to_string().into_bytes()),
    }
}

/// Puts every secret into every input of a route, whoever asks.
async fn plant(
    (method, path): (&'static str, &'static str),
    org: &str,
    replica: &Process,
    (key, token): (&String, &String),
    planted: &Planted,
) {
    for secret in &planted.0 {
        let inside = path
            .replace("{org}", org)
            .replace("{source}", "workos")
            .replace("{*file}", secret);
        let inside = fill(&inside, secret);
        let target = format!(
            "{inside}?host={secret}&require={secret}&status_token={secret}&{secret}={secret}"
        );
        for credentials in [key, token, secret].map(Some).into_iter().chain([None]) {
            let mut headers = vec![
                ("cookie", format!("__session={secret}; {secret}={secret}")),
                ("content-type", "application/json".to_owned()),
                ("x-forwarded-host", secret.clone()),
                ("x-request-id", secret.clone()),
                ("workos-signature", format!("t={secret}, v1={secret}")),
                ("origin", PAGE.to_owned()),
                ("last-event-id", secret.clone()),
                ("prefer", secret.clone()),
            ];
            // without any, what the query says counts
            headers.extend(credentials.map(|text| ("authorization", format!("Bearer {text}"))));
            for target in [&target, &inside] {
                let body = if target == &inside {
                    body_of(method, secret)
                } else {
                    bytes(Vec::new())
                };
                let answer = exchange(replica.address, method, target, &headers, body)
                    .await
                    .unwrap();
                let place = format!("{method} {path}");
                planted.assert_absent(&place, &answer.body.to_string());
                planted.assert_absent(&place, &format!("{:?}", answer.headers));
                assert!(answer.status < 500, "{place}: {:?}", answer.body);
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_planted_in_any_input_comes_out_nowhere() {
    let mut deployment = Deployment::new().await;
    deployment.trust_tokens();
    deployment.set("TENANTRY__LOG__LEVEL", "debug");
    let blueprint = TinyBlueprint::new();
    let app = App::of(deployment.clone(), blueprint.source()).await;
    let (org, admin) = (new_org(), new_id("user"));
    let belongs = Belongs {
        id: &new_id("om"),
        org: &org,
        user: &admin,
        role: "admin",
    };
    app.accepts(&[
        &events::created(&org, "Acme"),
        &people::user("created", &admin, "a@example.com", ("A", "B"), 1),
        &people::membership("created", belongs, "active", 1),
    ])
    .await;
    app.tenant(&org).is_ready().await;
    app.is_idle().await;
    let key = app.key(&[Scope::Admin]).await;
    let token = tokens::token(&admin, &org);
    // public, and yet nobody's business in a log; the second looks like what only its registration knows
    let form_key = app.form_key(&[PAGE]).await;
    let status_token = format!(
        "rst_{}",
        &format!("{:x}{0:x}", rand::random::<u128>())[..43]
    );
    let (made_up, password) = (
        format!("{}x", &key[..key.len() - 1]),
        format!("canary-password-{:032x}", rand::random::<u128>()),
    );
    let planted = Planted(vec![
        key.clone(),
        token.clone(),
        made_up,
        password,
        form_key,
        status_token,
    ]);

    // the log is that of a process of its own
    let replica = Process::with_roles(&deployment, "api").await;
    replica.is_ready().await;
    for (method, path, _) in http::access_table() {
        plant((method, path), &org, &replica, (&key, &token), &planted).await;
    }
    planted.assert_absent("the log", &replica.log());
    assert!(replica.log().len() > 10_000, "the log is not read");
    let metrics = crate::support::app::get(replica.address, "/metrics").await;
    planted.assert_absent("/metrics", &metrics);
    for table in [
        "audit_log",
        "idempotency_keys",
        "jobs",
        "job_attempts",
        "api_keys",
        "webhook_events",
    ] {
        let sql = format!("select coalesce(string_agg({table}::text, '|'), '') from {table}");
        planted.assert_absent(table, &app.ask::<String>(&sql).await);
    }
    app.stop().await;
}

/// The path with a secret for every parameter that is left.
fn fill(path: &str, secret: &str) -> String {
    let mut parts: Vec<&str> = path.split('/').collect();
    for part in &mut parts {
        if part.starts_with('{') {
            *part = secret;
        }
    }
    parts.join("/")
}
