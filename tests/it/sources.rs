//! Sources as they are configured, and deliveries of kinds whose id is in a header.

use secrecy::{ExposeSecret, SecretString};
use serde_json::{Value, json};
use tenantry::{
    config::{Config, Environment},
    webhooks::{self, Mapping, SourceKind},
};

use crate::support::{
    App, Deployment, TinyBlueprint,
    app::{Answer, new_org, now, post},
};

const SECRET: &str = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw";
const CLERK: SourceKind = SourceKind::Clerk;

/// What a file and an environment make together.
fn load(toml: &str, environment: &[(&str, &str)]) -> Result<Config, String> {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("tenantry.toml");
    std::fs::write(&file, toml).unwrap();
    let environment: Environment = environment.iter().copied().collect();
    Config::load(Some(file), &environment).map_err(|error| {
        let source = std::error::Error::source(&error).map(ToString::to_string);
        format!("{error}: {}", source.unwrap_or_default())
    })
}

#[test]
fn plain_variables_make_sources() {
    let config = load(
        "",
        &[
            ("WORKOS_API_KEY", "123456"),
            ("CLERK_WEBHOOK_SECRET", "whsec_a"),
            ("CLERK_SECRET_KEY", "sk_live_a"),
        ],
    )
    .unwrap();
    let workos = &config.sources["workos"];
    assert_eq!(workos.kind, SourceKind::Workos);
    assert_eq!(workos.api_key.expose_secret(), "123456");
    let clerk = &config.sources["clerk"];
    assert_eq!(clerk.kind, CLERK);
    assert_eq!(clerk.api_key.expose_secret(), "sk_live_a");
    assert_eq!(clerk.api_url, "");
    let routed: Vec<_> = config.routed_sources().map(|(name, _)| name).collect();
    assert_eq!(routed, ["clerk"], "a key alone routes nothing");
    let both = [
        ("CLERK_WEBHOOK_SECRET", "whsec_a"),
        ("CLERK_WEBHOOK_SIGNING_SECRET", "whsec_b,whsec_c"),
    ];
    let config = load("", &both).unwrap();
    let secrets = config.sources["clerk"].secrets.iter();
    let secrets: Vec<_> = secrets.map(ExposeSecret::expose_secret).collect();
    assert_eq!(secrets, ["whsec_b", "whsec_c"], "Clerk's own name wins");
}

#[test]
fn keys_come_from_files_and_are_never_shown() {
    let key = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(key.path(), "sk_hunter2\n").unwrap();
    let config = load(
        &format!(
            "[sources.clerk]\nkind = \"clerk\"\napi_key_file = {:?}\n[sources.eu]\nkind = \"workos\"\napi_key = \"hunter2\"\n\
             api_url = \"http://127.0.0.1:9/\"\n",
            key.path()
        ),
        &[("CLERK_SECRET_KEY", "hunter2")],
    )
    .unwrap();
    assert_eq!(
        config.sources["clerk"].api_key.expose_secret(),
        "sk_hunter2"
    );
    let shown = format!("{:?} {config:?}", config.redacted());
    assert!(!shown.contains("hunter2"), "{shown}");
    let line = |key: &str| {
        let lines = config.redacted().iter();
        lines.clone().find(|(it, _)| it == key).unwrap().1.clone()
    };
    assert_eq!(line("sources.eu.api_key"), "(set)");
    assert_eq!(line("sources.eu.api_url"), "http://127.0.0.1:9/");
}

#[test]
fn a_source_that_cannot_work_is_refused() {
    let mapping = |text: &str| format!("[sources.a]\nkind = \"standard\"\n{text}");
    for (toml, reason) in [
        (
            "[sources.a]\nkind = \"auth0\"\n".to_owned(),
            "unknown variant `auth0`, expected one of `workos`, `clerk`, `standard`",
        ),
        (
            "[sources.a]\nkind = \"clerk\"\n[sources.a.mapping]\ntype = \"/event\"\n".to_owned(),
            "sources = \"a\" cannot be used: it takes a mapping only where kind is \"standard\"",
        ),
        (
            "[sources.a]\nkind = \"clerk\"\napi_url = \"ftp://hunter2\"\n".to_owned(),
            "sources.api_url = \"…\" cannot be used: it takes http:// or https://",
        ),
        (
            "[sources.a]\nkind = \"clerk\"\napi_url = \"https://u:hunter2@h\"\n".to_owned(),
            "without a user",
        ),
        (
            mapping("[sources.a.mapping]\ntype = \"event\"\n"),
            "\"…\" is no JSON pointer",
        ),
        (
            mapping(
                "[sources.a.mapping.events.\"x.y\"]\nevent = \"organisation.upserted\"\nid = \"/id\"\n",
            ),
            "there is no event \"…\"; there are: organization.upserted",
        ),
        (
            mapping("[sources.a.mapping]\nevent = {}\n"),
            "unknown field `event`",
        ),
    ] {
        let error = load(&toml, &[]).expect_err(&toml);
        assert!(error.contains(reason), "{toml}: {error}");
        assert!(!error.contains("hunter2"), "{error}");
    }
    let config = load("[sources.a]\nkind = \"clerk\"\nmapping = {}\n", &[]).unwrap();
    assert_eq!(config.sources["a"].mapping, Mapping::default());
}

fn created(org: &str) -> Value {
    json!({
        "object": "event", "type": "organization.created", "timestamp": now().timestamp_millis(),
        "data": {"object": "organization", "id": org, "name": "Acme", "created_at": now().timestamp_millis()},
    })
}

async fn deliver(app: &App, path: &str, id: &str, body: &Value) -> Answer {
    let body = body.to_string().into_bytes();
    let headers = webhooks::sign(CLERK, &SecretString::from(SECRET), id, now(), &body);
    post(app.address, path, &headers, body).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_clerk_event_is_known_by_its_header_at_both_addresses() {
    let mut deployment = Deployment::new().await;
    deployment.set("CLERK_WEBHOOK_SIGNING_SECRET", SECRET);
    let blueprint = TinyBlueprint::new();
    let app = App::of(deployment, blueprint.source()).await;
    let (path, alias) = ("/webhooks/clerk", "/api/clerk/webhooks");
    let (org, other) = (new_org(), new_org());
    let event = created(&org);
    for (path, id, body, status) in [
        (path, "msg_1", &event, "accepted"),
        (path, "msg_1", &event, "duplicate"),
        (alias, "msg_1", &event, "duplicate"),
        (alias, "msg_1", &created(&other), "conflict"),
        (alias, "msg_2", &event, "accepted"),
    ] {
        let answer = deliver(&app, path, id, body).await;
        assert_eq!(
            (answer.status, &answer.body["status"]),
            (200, &status.into()),
            "{path} {id}"
        );
    }
    let answer = deliver(&app, path, "msg.1", &event).await;
    assert_eq!(
        (answer.status, &answer.body["code"]),
        (400, &"event_id_invalid".into())
    );
    app.is_idle().await;
    let ids: Vec<String> = app
        .ask("select array_agg(distinct event_id order by event_id) from webhook_events")
        .await;
    assert_eq!(ids, ["msg_1", "msg_2"]);
    let source: String = app
        .ask("select string_agg(distinct source, ',') from webhook_events")
        .await;
    assert_eq!(source, "clerk");
    app.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_alias_is_not_there_without_a_clerk_source() {
    let mut deployment = Deployment::new().await;
    deployment.set("CLERK_SECRET_KEY", "sk_live_a");
    let blueprint = TinyBlueprint::new();
    let app = App::of(deployment, blueprint.source()).await;
    let answer = deliver(&app, "/api/clerk/webhooks", "msg_1", &created("o")).await;
    assert_eq!(
        (answer.status, &answer.body["code"]),
        (404, &"not_found".into())
    );
    assert_eq!(app.get("/api/clerk/webhooks").await.status, 405);
    app.stop().await;
}
